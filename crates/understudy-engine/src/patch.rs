//! Adding to a network's weights as they are loaded: what merges an adapter into a base.

use std::collections::BTreeMap;

use burn::tensor::{Tensor, TensorData};

use crate::attach::LowRank;
use crate::error::WeightError;
use crate::weights::{Init, WeightSource};

/// What is added to one tensor.
#[derive(Clone, Debug)]
pub enum Addition {
    /// `scale * values`, row by row.
    Dense {
        /// As many as the tensor has.
        values: Vec<f32>,
        /// Multiplies them.
        scale: f32,
    },
    /// `scale * up · down` of a residual, whatever its window.
    LowRank(Box<LowRank>),
}

impl Addition {
    fn numbers(&self) -> usize {
        match self {
            Self::Dense { values, .. } => values.len(),
            Self::LowRank(residual) => residual.up.dims()[0] * residual.down.dims()[1],
        }
    }

    /// `weight`, flattened, and this.
    fn add(&self, weight: Tensor<1>) -> Tensor<1> {
        match self {
            Self::Dense { values, scale } => {
                let data = TensorData::new(values.clone(), [values.len()]);
                let values = Tensor::<1>::from_data(data, &weight.device());
                weight + values * *scale
            }
            Self::LowRank(residual) => {
                let LowRank { down, up, scale, .. } = residual.as_ref().clone();
                weight + up.matmul(down).reshape([-1]) * scale
            }
        }
    }
}

/// What is added to which tensor.
#[derive(Clone, Debug, Default)]
pub struct Additions {
    by_name: BTreeMap<String, Vec<Addition>>,
}

impl Additions {
    /// Adds to tensor `name`.
    pub fn add(&mut self, name: impl Into<String>, addition: Addition) {
        self.by_name.entry(name.into()).or_default().push(addition);
    }

    /// Takes in everything of `other`.
    pub fn extend(&mut self, other: Self) {
        for (name, additions) in other.by_name {
            self.by_name.entry(name).or_default().extend(additions);
        }
    }

    /// Whether nothing is added.
    pub fn is_empty(&self) -> bool {
        self.by_name.is_empty()
    }
}

/// A source of weights with additions to some of them.
pub struct Patched<S> {
    source: S,
    additions: Additions,
}

impl<S: WeightSource> Patched<S> {
    /// `source` with `additions`.
    ///
    /// # Errors
    /// When something is added to a tensor that `source` does not have.
    pub fn new(source: S, additions: Additions) -> Result<Self, WeightError> {
        let names = source.names();
        match additions.by_name.keys().find(|name| !names.contains(name)) {
            None => Ok(Self { source, additions }),
            Some(name) => {
                let reason = format!("an adapter adds to it, and it is not in {}", source.describe());
                Err(WeightError::Tensor { name: name.clone(), reason })
            }
        }
    }

    fn of(&self, name: &str, count: usize) -> Result<&[Addition], WeightError> {
        let additions = self.additions.by_name.get(name).map(Vec::as_slice).unwrap_or_default();
        match additions.iter().find(|addition| addition.numbers() != count) {
            None => Ok(additions),
            Some(wrong) => {
                let reason = format!("an adapter adds {} numbers to its {count}", wrong.numbers());
                Err(WeightError::Tensor { name: name.to_owned(), reason })
            }
        }
    }
}

impl<S: WeightSource> WeightSource for Patched<S> {
    fn get(&self, name: &str, shape: &[usize], init: Init) -> Result<Option<Tensor<1>>, WeightError> {
        let Some(weight) = self.source.get(name, shape, init)? else { return Ok(None) };
        let additions = self.of(name, weight.dims()[0])?;
        Ok(Some(additions.iter().fold(weight, |weight, addition| addition.add(weight))))
    }

    fn holds(&self, name: &str, shape: &[usize]) -> Result<bool, WeightError> {
        self.of(name, shape.iter().product())?;
        self.source.holds(name, shape)
    }

    fn names(&self) -> Vec<String> {
        self.source.names()
    }

    fn describe(&self) -> String {
        self.source.describe()
    }
}
