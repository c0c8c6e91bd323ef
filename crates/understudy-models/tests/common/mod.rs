//! Reading the oracle's cases: tiny random checkpoints and what PyTorch computed with them.
#![allow(dead_code, clippy::unwrap_used)]

use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use burn::tensor::{Device, Tensor, TensorData};
use serde::de::DeserializeOwned;
use understudy_engine::device::DeviceName;
use understudy_engine::parameters::{NamedGradients, Parameters};
use understudy_engine::safetensors::Checkpoint;

/// The CPU, or the device that `UNDERSTUDY_TEST_DEVICE` names.
pub fn device() -> Device {
    static DEVICE: OnceLock<Device> = OnceLock::new();
    let named = |name: String| name.parse::<DeviceName>().unwrap().open().unwrap();
    let open = || std::env::var("UNDERSTUDY_TEST_DEVICE").map_or_else(|_| Device::flex(), named);
    DEVICE.get_or_init(open).clone()
}

/// What tolerances are multiplied by: of f32 the products of a GPU have 10 bits.
fn slack() -> f32 {
    if device() == Device::flex() { 1.0 } else { 30.0 }
}

pub struct Case {
    folder: PathBuf,
    io: Option<Checkpoint>,
}

impl Case {
    pub fn open(name: &str) -> Self {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../oracle/golden").join(name);
        let io = Checkpoint::open(&folder.join("io.safetensors"), &device()).unwrap();
        Self { folder, io: Some(io) }
    }

    /// One of several networks of a case, in a `folder` of its own.
    pub fn part(name: &str, folder: &str) -> Self {
        Self { folder: Self::open(name).folder.join(folder), io: None }
    }

    fn io(&self) -> &Checkpoint {
        self.io.as_ref().unwrap()
    }

    /// The tensors whose names start with `prefix`, without it: names, values and shapes.
    pub fn all(&self, prefix: &str) -> Vec<(String, Vec<f32>, Vec<usize>)> {
        let own = |name: String| {
            let (values, shape) = self.io().values(&name).unwrap();
            name.strip_prefix(prefix).map(|rest| (rest.to_owned(), values, shape))
        };
        let names = self.io().infos().into_iter().map(|info| info.name);
        names.filter(|name| name.starts_with(prefix)).filter_map(own).collect()
    }

    pub fn config<C: DeserializeOwned>(&self) -> C {
        self.json("config.json")
    }

    pub fn json<C: DeserializeOwned>(&self, name: &str) -> C {
        serde_json::from_str(&std::fs::read_to_string(self.folder.join(name)).unwrap()).unwrap()
    }

    pub fn checkpoint(&self) -> Checkpoint {
        let names = [
            "diffusion_pytorch_model.safetensors.index.json",
            "diffusion_pytorch_model.safetensors",
            "model.safetensors",
        ];
        let path = names.iter().map(|name| self.folder.join(name)).find(|path| path.exists()).unwrap();
        Checkpoint::open(&path, &device()).unwrap()
    }

    /// The checkpoint's float tensors as trainable parameters.
    pub fn parameters(&self) -> Parameters {
        let checkpoint = self.checkpoint();
        let mut parameters = Parameters::new();
        for info in checkpoint.infos() {
            if let Ok((values, shape)) = checkpoint.values(&info.name) {
                parameters.insert(info.name, &shape, values, &device());
            }
        }
        parameters
    }

    pub fn has(&self, name: &str) -> bool {
        self.io().infos().iter().any(|info| info.name == name)
    }

    pub fn values(&self, name: &str) -> Vec<f32> {
        self.io().values(name).unwrap().0
    }

    pub fn integers(&self, name: &str) -> (Vec<i64>, Vec<usize>) {
        self.io().integers(name).unwrap()
    }

    pub fn tensor<const D: usize>(&self, name: &str) -> Tensor<D> {
        let (values, shape) = self.io().values(name).unwrap();
        Tensor::from_data(TensorData::new(values, shape), &device())
    }

    /// Asserts that `found` is the oracle's tensor `name` to `tolerance`, relative to its largest value.
    pub fn check<const D: usize>(&self, name: &str, found: Tensor<D>, tolerance: f32) {
        let (expected, shape) = self.io().values(name).unwrap();
        assert_eq!(found.dims().to_vec(), shape, "{name}: shape");
        let found = found.without_autodiff().into_data().try_into_vec::<f32>().unwrap();
        let (error, tolerance) = (relative_error(&found, &expected), tolerance * slack());
        assert!(error < tolerance, "{name}: relative error {error:e}, allowed {tolerance:e}");
    }

    /// Asserts every gradient the oracle has under `prefix`, and that no other is there.
    pub fn check_gradients(&self, prefix: &str, found: &NamedGradients, only: &str, tolerance: f32) {
        let mut checked = 0;
        for info in self.io().infos() {
            let Some(name) = info.name.strip_prefix(prefix) else { continue };
            if !name.starts_with(only) || name.contains("running_") {
                continue;
            }
            let expected = self.values(&info.name);
            let gradient = found.get(name).unwrap_or_else(|| panic!("no gradient for {name}"));
            let gradient = gradient.clone().into_data().try_into_vec::<f32>().unwrap();
            assert!(gradient.iter().all(|g| g.is_finite()), "{name}: gradient is not finite");
            let (error, tolerance) = (relative_error(&gradient, &expected), tolerance * slack());
            assert!(error < tolerance, "{name}: gradient error {error:e}, allowed {tolerance:e}");
            checked += 1;
        }
        assert!(checked > 0, "no gradients under {prefix}{only}");
    }
}

/// The largest difference, relative to the largest expected magnitude.
pub fn relative_error(found: &[f32], expected: &[f32]) -> f32 {
    assert_eq!(found.len(), expected.len());
    let scale = expected.iter().fold(0.0_f32, |m, x| m.max(x.abs())).max(1e-12);
    let difference = found.iter().zip(expected).fold(0.0_f32, |m, (a, b)| {
        let d = (a - b).abs();
        if d.is_nan() { f32::INFINITY } else { m.max(d) }
    });
    difference / scale
}
