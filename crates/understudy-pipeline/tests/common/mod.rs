//! Reading the oracle's cases.
#![allow(dead_code, clippy::unwrap_used)]

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use burn::tensor::{Device, Tensor, TensorData};
use serde_json::{Map, Value};
use understudy_engine::device::DeviceName;
use understudy_engine::safetensors::Checkpoint;
use understudy_pipeline::{Base, Event, Files, Request};

/// The CPU, or the device that `UNDERSTUDY_TEST_DEVICE` names.
pub fn device() -> Device {
    static DEVICE: OnceLock<Device> = OnceLock::new();
    let named = |name: String| name.parse::<DeviceName>().unwrap().open().unwrap();
    let open = || std::env::var("UNDERSTUDY_TEST_DEVICE").map_or_else(|_| Device::flex(), named);
    DEVICE.get_or_init(open).clone()
}

/// What tolerances are multiplied by: of f32 the products of a GPU have 10 bits.
fn slack() -> f64 {
    if device() == Device::flex() { 1.0 } else { 30.0 }
}

pub fn folder(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../oracle/golden").join(name)
}

/// Copies a folder with all that is below it.
pub fn copy_folder(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap().map(Result::unwrap) {
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy_folder(&entry.path(), &target)
        } else {
            std::fs::copy(entry.path(), target).unwrap();
        }
    }
}

pub fn base(name: &str) -> Base {
    Base::load(&Files::folder(folder(name)), &device()).unwrap()
}

pub fn go(_: Event) -> ControlFlow<()> {
    ControlFlow::Continue(())
}

pub struct Case {
    io: Checkpoint,
    json: Map<String, Value>,
}

impl Case {
    pub fn open(name: &str) -> Self {
        let folder = folder(name);
        let io = Checkpoint::open(&folder.join("io.safetensors"), &device()).unwrap();
        let json = Files::folder(folder).object("case.json").unwrap();
        Self { io, json }
    }

    pub fn object(&self, name: &str) -> Map<String, Value> {
        self.json[name].as_object().unwrap().clone()
    }

    pub fn has(&self, name: &str) -> bool {
        self.io.infos().iter().any(|info| info.name == name)
    }

    pub fn values(&self, name: &str) -> Vec<f32> {
        self.io.values(name).unwrap().0
    }

    pub fn integers(&self, name: &str) -> Vec<i64> {
        self.io.integers(name).unwrap().0
    }

    pub fn tensor<const D: usize>(&self, name: &str) -> Tensor<D> {
        let (values, shape) = self.io.values(name).unwrap();
        Tensor::from_data(TensorData::new(values, shape), &device())
    }

    /// The call the oracle made, on its own noise.
    pub fn request(&self) -> Request {
        let number = |name: &str| self.json[name].as_u64().unwrap() as usize;
        Request {
            negative_prompt: self.json["negative_prompt"].as_str().unwrap().to_owned(),
            frames: number("num_frames"),
            height: number("height"),
            width: number("width"),
            steps: number("num_inference_steps"),
            guidance: self.json["guidance_scale"].as_f64().unwrap() as f32,
            initial_noise: Some(self.tensor("latents_in")),
            max_sequence_length: Some(number("max_sequence_length")),
            ..Request::new(self.json["prompt"].as_str().unwrap())
        }
    }
}

pub fn values<const D: usize>(tensor: Tensor<D>) -> Vec<f32> {
    tensor.without_autodiff().into_data().try_into_vec().unwrap()
}

/// `|found - expected| / |expected|`, 2-norms.
pub fn error(found: &[f32], expected: &[f32]) -> f64 {
    assert_eq!(found.len(), expected.len());
    let norm = |values: &mut dyn Iterator<Item = f64>| values.map(|x| x * x).sum::<f64>().sqrt();
    let difference = norm(&mut found.iter().zip(expected).map(|(a, b)| f64::from(a - b)));
    difference / norm(&mut expected.iter().map(|&b| f64::from(b)))
}

/// Asserts that `found` is `expected` to `tolerance`, in the 2-norm.
pub fn check(what: &str, found: &[f32], expected: &[f32], tolerance: f64) {
    let (error, tolerance) = (error(found, expected), tolerance * slack());
    println!("{what}: {error:.2e}");
    assert!(error < tolerance, "{what}: relative error {error:e}, allowed {tolerance:e}");
}
