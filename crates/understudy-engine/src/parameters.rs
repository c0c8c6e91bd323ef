//! Named trainable tensors.
//!
//! Masters are f32 and flat, one leaf each. A network under training is built from them like from any other
//! [`WeightSource`]; its tensors are reshaped views of the leaves, so gradients come back by name.

use std::borrow::Cow;
use std::cell::RefCell;
use std::collections::BTreeMap;

use burn::tensor::{Device, Gradients, Tensor, TensorData};

use crate::error::WeightError;
use crate::host::values;
use crate::random::Random;
use crate::safetensors::{Checkpoint, LazyValues, NamedValues};
use crate::weights::{Init, WeightSource};

/// One trainable tensor.
#[derive(Clone, Debug)]
pub struct Parameter {
    /// Dimensions as the network sees them.
    pub shape: Vec<usize>,
    /// Row-major values, f32, outside any graph.
    pub value: Tensor<1>,
}

/// Named trainable tensors, in order of name.
#[derive(Clone, Debug, Default)]
pub struct Parameters {
    entries: BTreeMap<String, Parameter>,
}

/// Gradients by parameter name, flat, outside any graph.
pub type NamedGradients = BTreeMap<String, Tensor<1>>;

impl Parameters {
    /// No parameters.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds or replaces `name`.
    pub fn insert(&mut self, name: impl Into<String>, shape: &[usize], values: Vec<f32>, device: &Device) {
        let count = values.len();
        let value = Tensor::from_data(TensorData::new(values, [count]), device);
        self.entries.insert(name.into(), Parameter { shape: shape.to_vec(), value });
    }

    /// Adds or replaces `name` by a vector.
    pub fn insert_tensor(&mut self, name: impl Into<String>, value: Tensor<1>) {
        self.entries.insert(name.into(), Parameter { shape: value.dims().to_vec(), value });
    }

    /// Replaces the values of `name`, keeping its shape. Unknown names are ignored.
    pub fn update(&mut self, name: &str, value: Tensor<1>) {
        if let Some(parameter) = self.entries.get_mut(name) {
            parameter.value = value;
        }
    }

    /// Everything in `checkpoint` whose name starts with `prefix`, which is cut off.
    ///
    /// # Errors
    /// When a tensor is not of a float type or not finite.
    pub fn from_checkpoint(checkpoint: &Checkpoint, prefix: &str) -> Result<Self, WeightError> {
        let mut parameters = Self::new();
        for info in checkpoint.infos() {
            if let Some(name) = info.name.strip_prefix(prefix) {
                let (values, shape) = checkpoint.values(&info.name)?;
                parameters.insert(name, &shape, values, checkpoint.device());
            }
        }
        Ok(parameters)
    }

    /// Adds all of `others`, each under `prefix` and its own name.
    pub fn extend_below(&mut self, prefix: &str, others: Self) {
        self.entries.extend(others.entries.into_iter().map(|(name, own)| (format!("{prefix}{name}"), own)));
    }

    /// The parameters `rename` gives a name to, under that name.
    pub fn filtered(&self, rename: impl Fn(&str) -> Option<String>) -> Self {
        let keep = |(name, p): (&String, &Parameter)| Some((rename(name)?, p.clone()));
        Self { entries: self.entries.iter().filter_map(keep).collect() }
    }

    /// Takes in every parameter of `other`.
    pub fn extend(&mut self, other: Parameters) {
        self.entries.extend(other.entries);
    }

    /// The parameters in order of name.
    pub fn iter(&self) -> impl Iterator<Item = (&String, &Parameter)> {
        self.entries.iter()
    }

    /// The parameters in order of name, to be changed in place.
    pub fn iter_mut(&mut self) -> impl Iterator<Item = (&String, &mut Parameter)> {
        self.entries.iter_mut()
    }

    /// The parameter `name`.
    pub fn get(&self, name: &str) -> Option<&Parameter> {
        self.entries.get(name)
    }

    /// How many numbers there are in all.
    pub fn count(&self) -> usize {
        self.entries.values().map(|p| p.shape.iter().product::<usize>()).sum()
    }

    /// The leaves of a new graph, to build a network from and to read gradients off.
    pub fn leaves(&self) -> Leaves {
        let leaf = |(name, p): (&String, &Parameter)| {
            let tracked = p.value.clone().autodiff().require_grad();
            (name.clone(), (p.shape.clone(), tracked))
        };
        Leaves { entries: self.entries.iter().map(leaf).collect() }
    }

    /// The values, to be written to a file one after the other, each under `prefix` and its name.
    pub fn lazy_values(&self, prefix: &str) -> Vec<LazyValues<'static>> {
        let lazy = |(name, p): (&String, &Parameter)| {
            let value = p.value.clone();
            LazyValues {
                name: format!("{prefix}{name}"),
                shape: p.shape.clone(),
                values: Box::new(move || Cow::Owned(values(value.clone()))),
            }
        };
        self.entries.iter().map(lazy).collect()
    }

    /// The values, to be written to a file.
    pub fn to_named_values(&self) -> Vec<NamedValues> {
        let values = |(name, p): (&String, &Parameter)| NamedValues {
            name: name.clone(),
            shape: p.shape.clone(),
            values: values(p.value.clone()),
        };
        self.entries.iter().map(values).collect()
    }
}

/// Finds `name` with the shape the network expects.
fn lookup(
    found: Option<(&Vec<usize>, &Tensor<1>)>,
    name: &str,
    shape: &[usize],
) -> Result<Option<Tensor<1>>, WeightError> {
    match found {
        None => Ok(None),
        Some((own, value)) if own == shape => Ok(Some(value.clone())),
        Some((own, _)) => Err(WeightError::Tensor {
            name: name.to_owned(),
            reason: format!("has shape {own:?}, the network needs {shape:?}"),
        }),
    }
}

impl WeightSource for Parameters {
    fn get(&self, name: &str, shape: &[usize], _: Init) -> Result<Option<Tensor<1>>, WeightError> {
        lookup(self.entries.get(name).map(|p| (&p.shape, &p.value)), name, shape)
    }

    fn names(&self) -> Vec<String> {
        self.entries.keys().cloned().collect()
    }

    fn describe(&self) -> String {
        "the trained parameters".to_owned()
    }
}

/// Parameters as tracked leaves of one graph.
pub struct Leaves {
    entries: BTreeMap<String, (Vec<usize>, Tensor<1>)>,
}

impl Leaves {
    /// The tracked leaf `name`, reshaped.
    pub fn tensor<const D: usize>(&self, name: &str, shape: [usize; D]) -> Option<Tensor<D>> {
        self.entries.get(name).map(|(_, leaf)| leaf.clone().reshape(shape))
    }

    /// Adds what `gradients` holds for these leaves to `into`. Leaves it has nothing for are left alone.
    pub fn collect(&self, gradients: &mut Gradients, into: &mut NamedGradients) {
        for (name, (_, leaf)) in &self.entries {
            let Some(gradient) = leaf.grad_remove(gradients) else { continue };
            let sum = match into.remove(name) {
                Some(previous) => previous + gradient,
                None => gradient,
            };
            into.insert(name.clone(), sum);
        }
    }
}

impl WeightSource for Leaves {
    fn get(&self, name: &str, shape: &[usize], _: Init) -> Result<Option<Tensor<1>>, WeightError> {
        lookup(self.entries.get(name).map(|(own, leaf)| (own, leaf)), name, shape)
    }

    fn names(&self) -> Vec<String> {
        self.entries.keys().cloned().collect()
    }

    fn describe(&self) -> String {
        "the trained parameters".to_owned()
    }
}

/// A source that makes every tensor it is asked for, each from its own random stream, and remembers them.
pub struct Initializer {
    seed: u64,
    device: Device,
    made: RefCell<Parameters>,
}

impl Initializer {
    /// A source of fresh parameters, a function of `seed` alone.
    pub fn new(seed: u64, device: &Device) -> Self {
        Self { seed, device: device.clone(), made: RefCell::default() }
    }

    /// Everything that was asked for.
    pub fn into_parameters(self) -> Parameters {
        self.made.into_inner()
    }
}

impl WeightSource for Initializer {
    fn get(&self, name: &str, shape: &[usize], init: Init) -> Result<Option<Tensor<1>>, WeightError> {
        let count = shape.iter().product();
        let mut random = Random::stream(self.seed, name, 0);
        let values = match init {
            Init::Zeros => vec![0.0; count],
            Init::Ones => vec![1.0; count],
            Init::Constant(value) => vec![value; count],
            Init::Normal(deviation) => random.normals(count).into_iter().map(|x| x * deviation).collect(),
            Init::Uniform(bound) => {
                (0..count).map(|_| (random.uniform() as f32 * 2.0 - 1.0) * bound).collect()
            }
        };
        let mut made = self.made.borrow_mut();
        made.insert(name, shape, values, &self.device);
        Ok(made.get(name).map(|p| p.value.clone()))
    }

    fn names(&self) -> Vec<String> {
        Vec::new()
    }

    fn describe(&self) -> String {
        "random initialization".to_owned()
    }
}
