//! Adding to a network's weights as they are loaded: what merges an adapter into a base.

use std::collections::BTreeMap;

use burn::tensor::{Tensor, TensorData};

use crate::attach::LowRank;
use crate::error::WeightError;
use crate::weights::{Init, WeightSource};

/// Two factors of a matrix, `up (outputs, rank)` and `down (rank, inputs)`.
#[derive(Clone, Debug)]
pub struct Factors {
    /// The left one.
    pub up: Tensor<2>,
    /// The right one.
    pub down: Tensor<2>,
}

impl Factors {
    /// `[outputs, inputs]` of their product.
    pub fn dims(&self) -> [usize; 2] {
        [self.up.dims()[0], self.down.dims()[1]]
    }

    fn product(&self) -> Tensor<2> {
        self.up.clone().matmul(self.down.clone())
    }

    fn numbers(&self) -> usize {
        [&self.up, &self.down].map(|half| half.dims().iter().product::<usize>()).iter().sum()
    }
}

/// A matrix by what it is made of.
#[derive(Clone, Debug)]
#[expect(
    clippy::large_enum_variant,
    reason = "handles of tensors, one a matrix, and none is moved in a loop"
)]
pub enum Delta {
    /// The product of two factors (LoRA).
    LowRank(Factors),
    /// Two such products, multiplied element by element (LoHa; Hyeon-Woo, Ye-Bin and Oh, "FedPara", 2022).
    Hadamard([Factors; 2]),
    /// The Kronecker product of two matrices (LoKr; Yeh et al., "Navigating Text-To-Image Customization",
    /// 2024). Of a convolution the right one has the kernel within its inputs.
    Kronecker([Tensor<2>; 2]),
}

impl Delta {
    /// `[outputs, inputs]`.
    pub fn dims(&self) -> [usize; 2] {
        match self {
            Self::LowRank(factors) | Self::Hadamard([factors, _]) => factors.dims(),
            Self::Kronecker([left, right]) => {
                let [[a, b], [c, d]] = [left.dims(), right.dims()];
                [a * c, b * d]
            }
        }
    }

    /// How many numbers it is made of.
    fn numbers(&self) -> usize {
        match self {
            Self::LowRank(factors) => factors.numbers(),
            Self::Hadamard(pair) => pair.iter().map(Factors::numbers).sum(),
            Self::Kronecker(pair) => pair.iter().map(|own| own.dims().iter().product::<usize>()).sum(),
        }
    }

    fn dense(&self) -> Tensor<2> {
        match self {
            Self::LowRank(factors) => factors.product(),
            Self::Hadamard([one, other]) => one.product() * other.product(),
            Self::Kronecker([left, right]) => {
                let [[a, b], [c, d]] = [left.dims(), right.dims()];
                let [left, right] = [left.clone().reshape([a, 1, b, 1]), right.clone().reshape([1, c, 1, d])];
                (left * right).reshape([a * c, b * d])
            }
        }
    }
}

/// The lengths that the rows or columns of a changed weight are given (Liu et al., "DoRA", 2024).
#[derive(Clone, Debug)]
pub enum Magnitude {
    /// One an output: its row of the weight gets that norm.
    Outputs(Tensor<1>),
    /// One an input, with its kernel: its column gets that norm.
    Inputs(Tensor<1>),
}

/// A change of a weight matrix that depends on the weight, or is no plain residual.
#[derive(Clone, Debug)]
pub struct Change {
    /// What is added.
    pub delta: Delta,
    /// Multiplies it.
    pub scale: f32,
    /// The norms that rows or columns of the sum then get.
    pub magnitude: Option<Magnitude>,
}

impl Change {
    /// How many numbers it is made of.
    pub fn numbers(&self) -> usize {
        let magnitude = self.magnitude.as_ref().map_or(0, |own| match own {
            Magnitude::Outputs(norms) | Magnitude::Inputs(norms) => norms.dims()[0],
        });
        self.delta.numbers() + magnitude
    }

    /// What it adds to `weight (outputs, inputs)` in full.
    fn of(&self, weight: Tensor<2>) -> Tensor<2> {
        let delta = self.delta.dense() * self.scale;
        let Some(magnitude) = &self.magnitude else { return delta };
        let changed = weight.clone() + delta;
        let [outputs, inputs] = changed.dims();
        let scaled = match magnitude {
            Magnitude::Outputs(norms) => {
                let length = changed.clone().square().sum_dim(1).sqrt() + f32::EPSILON;
                changed * (norms.clone().reshape([outputs, 1]) / length)
            }
            Magnitude::Inputs(norms) => {
                let channels = norms.dims()[0];
                let by_channel = changed.reshape([outputs, channels, inputs / channels.max(1)]);
                let length = by_channel.clone().square().sum_dim(0).sum_dim(2).sqrt() + f32::EPSILON;
                (by_channel * (norms.clone().reshape([1, channels, 1]) / length)).reshape([outputs, inputs])
            }
        };
        scaled - weight
    }
}

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
    /// `strength` times what a change adds to the tensor as its source has it.
    Change {
        /// The change.
        change: Box<Change>,
        /// Multiplies what it adds: 0 leaves the weight as it is, 1 gives what was trained.
        strength: f32,
    },
}

impl Addition {
    fn numbers(&self) -> usize {
        match self {
            Self::Dense { values, .. } => values.len(),
            Self::LowRank(residual) => residual.up.dims()[0] * residual.down.dims()[1],
            Self::Change { change, .. } => change.delta.dims().iter().product(),
        }
    }

    /// `sum` and what this adds to `weight`, both flattened.
    fn add(&self, sum: Tensor<1>, weight: &Tensor<1>) -> Tensor<1> {
        match self {
            Self::Dense { values, scale } => {
                let data = TensorData::new(values.clone(), [values.len()]);
                let values = Tensor::<1>::from_data(data, &sum.device());
                sum + values * *scale
            }
            Self::LowRank(residual) => {
                let LowRank { down, up, scale, .. } = residual.as_ref().clone();
                sum + up.matmul(down).reshape([-1]) * scale
            }
            Self::Change { change, strength } => {
                let weight = weight.clone().reshape(change.delta.dims());
                sum + change.of(weight).reshape([-1]) * *strength
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

    /// Those to tensors of names that are `chosen`, and the others.
    pub fn divided(self, chosen: impl Fn(&str) -> bool) -> [Self; 2] {
        let (own, others) = self.by_name.into_iter().partition(|(name, _)| chosen(name));
        [Self { by_name: own }, Self { by_name: others }]
    }

    /// The same under other names.
    pub fn renamed(self, rename: impl Fn(&str) -> String) -> Self {
        let renamed = self.by_name.into_iter().map(|(name, additions)| (rename(&name), additions));
        Self { by_name: renamed.collect() }
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
        Ok(Some(additions.iter().fold(weight.clone(), |sum, addition| addition.add(sum, &weight))))
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
