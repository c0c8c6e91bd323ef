//! What the reference branch saw at every step, in a file: it is the same for every seed and every prompt.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use burn::tensor::{Device, Tensor, TensorData};
use understudy_engine::hash::Fnv;
use understudy_engine::host::values;
use understudy_engine::safetensors::{self, CHECKSUM, Checkpoint, LazyValues, NamedValues, Precision};

use crate::error::Result;

/// The key of the metadata that says what the file depends on.
const KEY: &str = "understudy.warp";

/// What the reference branch saw at one step.
#[derive(Clone, Debug, Default)]
pub(super) struct Seen {
    /// What the references are compared by, for each kind of frame `(references * places, channels)`.
    pub(super) descriptors: Option<Vec<Tensor<2>>>,
    /// Keys, where they are replaced, and values of the references by site, all kinds after one another,
    /// `(kinds * references * places, channels)`.
    pub(super) values: BTreeMap<String, (Option<Tensor<2>>, Tensor<2>)>,
    /// Attention of the references' places to the subject's words.
    pub(super) shown: Vec<f32>,
}

/// The steps of a run, by the timestep's bits.
#[derive(Debug)]
pub(super) struct Cache {
    path: PathBuf,
    key: String,
    steps: BTreeMap<u32, Seen>,
    /// Whether there is more in it than in the file.
    grown: bool,
}

impl Cache {
    /// That at `path`, if it is of the same `key`; an empty one otherwise.
    pub(super) fn open(path: &Path, key: String, device: &Device) -> Self {
        let steps = read(path, &key, device).unwrap_or_default();
        Self { path: path.to_owned(), key, steps, grown: false }
    }

    pub(super) fn get(&self, timestep: f32) -> Option<Seen> {
        self.steps.get(&timestep.to_bits()).cloned()
    }

    pub(super) fn insert(&mut self, timestep: f32, seen: Seen) {
        self.steps.insert(timestep.to_bits(), seen);
        self.grown = true;
    }

    /// Writes it, whole or not at all, if there is more in it than in the file.
    pub(super) fn write(&self) -> Result<()> {
        if !self.grown {
            return Ok(());
        }
        let tensors: Vec<NamedValues> =
            self.steps.iter().flat_map(|(step, seen)| seen.named(*step)).collect();
        let metadata = BTreeMap::from([(KEY.to_owned(), self.key.clone())]);
        let lazy = tensors.iter().map(|tensor| LazyValues {
            name: tensor.name.clone(),
            shape: tensor.shape.clone(),
            values: Box::new(|| Cow::Borrowed(&tensor.values)),
        });
        Ok(safetensors::write_sealed(&self.path, &lazy.collect::<Vec<_>>(), metadata, Precision::F32)?)
    }
}

impl Seen {
    fn named(&self, step: u32) -> Vec<NamedValues> {
        let matrix = |name: String, tensor: &Tensor<2>| NamedValues {
            name: format!("{step}/{name}"),
            shape: tensor.dims().to_vec(),
            values: values(tensor.clone()),
        };
        let kinds = self.descriptors.iter().flatten().enumerate();
        let descriptors = kinds.map(|(kind, own)| matrix(format!("descriptors/{kind}"), own));
        let halves = self.values.iter().flat_map(|(site, (key, value))| {
            let key = key.as_ref().map(|key| matrix(format!("keys/{site}"), key));
            key.into_iter().chain([matrix(format!("values/{site}"), value)])
        });
        let mut named: Vec<NamedValues> = descriptors.chain(halves).collect();
        if !self.shown.is_empty() {
            let (name, shape) = (format!("{step}/shown"), vec![self.shown.len()]);
            named.push(NamedValues { name, shape, values: self.shown.clone() });
        }
        named
    }
}

/// The steps in the file at `path`; none where it is not there, is of another key, is damaged or cannot be
/// understood.
fn read(path: &Path, key: &str, device: &Device) -> Option<BTreeMap<u32, Seen>> {
    let checkpoint = Checkpoint::open_sealed(path, device).ok()?.whole()?;
    if checkpoint.metadata().get(KEY).map(String::as_str) != Some(key) {
        return None;
    }
    let matrix = |name: &str| -> Option<Tensor<2>> {
        let (values, shape) = checkpoint.values(name).ok()?;
        let shape: [usize; 2] = shape.try_into().ok()?;
        Some(Tensor::from_data(TensorData::new(values, shape), device))
    };
    let mut steps: BTreeMap<u32, Seen> = BTreeMap::new();
    // In the order of names, so that kinds come one after another; there are fewer than ten.
    for info in checkpoint.infos().into_iter().filter(|info| info.name != CHECKSUM) {
        let (step, name) = info.name.split_once('/')?;
        let seen = steps.entry(step.parse().ok()?).or_default();
        match name.split_once('/') {
            Some(("descriptors", _)) => {
                seen.descriptors.get_or_insert_default().push(matrix(&info.name)?);
            }
            Some(("values", site)) => {
                let key = matrix(&format!("{step}/keys/{site}"));
                seen.values.insert(site.to_owned(), (key, matrix(&info.name)?));
            }
            Some(_) => {}
            None => seen.shown = checkpoint.values(&info.name).ok()?.0,
        }
    }
    Some(steps)
}

/// A hash of what the file depends on: settings as text, and numbers.
pub(super) fn key(settings: &str, numbers: impl IntoIterator<Item = Vec<f32>>) -> String {
    let mut hash = Fnv::default();
    hash.add(settings.bytes());
    for values in numbers {
        hash.add((values.len() as u64).to_le_bytes());
        hash.add(values.iter().flat_map(|value| value.to_le_bytes()));
    }
    format!("{:016x}", hash.finish())
}
