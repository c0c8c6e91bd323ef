//! AdamW with f32 state, and moving averages of parameters.

mod on_device;
mod on_host;

use std::collections::BTreeMap;

use crate::cpu::Primitive;
use crate::parameters::{NamedGradients, Parameters};
use burn::tensor::{Device, Tensor, TensorData};

/// Settings of [`AdamW`] (Loshchilov and Hutter, "Decoupled Weight Decay Regularization", 2019).
#[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AdamWConfig {
    /// Decay rates of the two moments.
    pub betas: (f32, f32),
    /// Added to the root of the second moment.
    pub eps: f32,
    /// Decoupled decay of matrices and kernels; vectors are never decayed.
    pub weight_decay: f32,
    /// Gradients longer than this, all taken together, are scaled down to it; 0 turns it off.
    pub clip: f32,
    /// Moves matrices and kernels by Muon instead.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub muon: Option<MuonConfig>,
}

/// Muon for matrices (Jordan et al., "Muon: an optimizer for hidden layers in neural networks", 2024): they
/// move by their momentum, orthogonalized, and scaled so that the learning rate of AdamW fits (Liu et al.,
/// "Muon is scalable for LLM training", 2025). Kernels are matrices with a row for each output; vectors stay
/// with AdamW.
#[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MuonConfig {
    /// Decay of the momentum.
    pub momentum: f32,
    /// Parts of names that stay with AdamW: embeddings and heads.
    #[serde(default)]
    pub except: Vec<String>,
}

impl Default for AdamWConfig {
    fn default() -> Self {
        Self { betas: (0.9, 0.99), eps: 1e-8, weight_decay: 0.01, clip: 1.0, muon: None }
    }
}

/// Both moments of a parameter; of one that Muon moves, the momentum and a placeholder.
type Moments = [Tensor<1>; 2];

/// The root mean square of AdamW's steps relative to the learning rate, which Muon's are given too.
const USUAL: f32 = 0.2;

/// One parameter's step.
#[derive(Clone, Copy, Debug)]
struct Step {
    /// Learning rate.
    rate: f32,
    /// Weight decay.
    decay: f32,
    /// The gradient is multiplied by this.
    scale: f32,
    /// Which step it is, from 1.
    number: u64,
    /// Momentum, and rows and columns, if Muon moves it.
    muon: Option<(f32, [usize; 2])>,
}

impl Step {
    /// How far Muon moves along an orthogonal matrix.
    fn muon_size(&self, [rows, columns]: [usize; 2]) -> f32 {
        self.rate * USUAL * (rows.max(columns) as f32).sqrt()
    }
}

/// The optimizer's state.
#[derive(Clone, Debug, Default)]
pub struct AdamW {
    config: AdamWConfig,
    moments: BTreeMap<String, Moments>,
    step: u64,
}

impl AdamW {
    /// A fresh state.
    pub fn new(config: AdamWConfig) -> Self {
        Self { config, ..Self::default() }
    }

    /// Steps taken.
    pub fn steps(&self) -> u64 {
        self.step
    }

    /// Moves every parameter that has a gradient; `rate` gives its learning rate by name. Returns the length
    /// of the whole gradient before clipping; when it is not finite nothing is changed.
    ///
    /// On the CPU engine kernels work in place; elsewhere nothing but that length leaves the device.
    pub fn step(
        &mut self,
        parameters: &mut Parameters,
        gradients: NamedGradients,
        rate: impl Fn(&str) -> f32,
    ) -> f32 {
        if gradients.values().all(|gradient| Primitive::of(gradient).is_some()) {
            let on_host = |(name, gradient): (String, Tensor<1>)| (name, gradient.into_data());
            let gradients = gradients.into_iter().map(on_host).collect();
            self.run(parameters, gradients, rate, on_host::length, on_host::moved)
        } else {
            self.run(parameters, gradients, rate, on_device::length, on_device::moved)
        }
    }

    /// [`AdamW::step`] with gradients as `G`: their length by `length`, and one parameter's step by `moved`.
    fn run<G>(
        &mut self,
        parameters: &mut Parameters,
        mut gradients: BTreeMap<String, G>,
        rate: impl Fn(&str) -> f32,
        length: impl Fn(&BTreeMap<String, G>) -> f32,
        moved: impl Fn(&AdamWConfig, Step, Tensor<1>, Option<Moments>, G) -> (Tensor<1>, Moments),
    ) -> f32 {
        let norm = length(&gradients);
        if !norm.is_finite() {
            return norm;
        }
        self.step += 1;
        let clip = self.config.clip;
        let scale = if clip > 0.0 && norm > clip { clip / norm } else { 1.0 };
        for (name, parameter) in parameters.iter_mut() {
            let Some(gradient) = gradients.remove(name) else { continue };
            let step = Step {
                rate: rate(name),
                decay: self.config.decay(&parameter.shape),
                scale,
                number: self.step,
                muon: self.config.muon_matrix(name, &parameter.shape),
            };
            let none = Tensor::zeros([1], &parameter.value.device());
            let value = std::mem::replace(&mut parameter.value, none);
            let moments = self.moments.remove(name);
            let (value, moments) = moved(&self.config, step, value, moments, gradient);
            parameter.value = value;
            self.moments.insert(name.clone(), moments);
        }
        norm
    }

    /// The moments as parameters, to be stored.
    pub fn moments(&self) -> [Parameters; 2] {
        [0, 1].map(|index| {
            let mut stored = Parameters::new();
            for (name, moments) in &self.moments {
                stored.insert_tensor(name.clone(), moments[index].clone());
            }
            stored
        })
    }

    /// The state of a run that was stored after `step` steps.
    pub fn restore(config: AdamWConfig, step: u64, [first, second]: [Parameters; 2]) -> Self {
        let pair = |(name, m): (&String, &crate::parameters::Parameter)| {
            second.get(name).map(|v| (name.clone(), [m.value.clone(), v.value.clone()]))
        };
        Self { config, moments: first.iter().filter_map(pair).collect(), step }
    }
}

/// The smallest side of a matrix that Muon moves: below, orthogonalizing says nothing.
const LEAST_SIDE: usize = 4;

impl AdamWConfig {
    /// The weight decay of a parameter: vectors, and what is one but for its shape, have none.
    fn decay(&self, shape: &[usize]) -> f32 {
        match shape.iter().filter(|&&extent| extent > 1).count() {
            0 | 1 => 0.0,
            _ => self.weight_decay,
        }
    }

    /// The momentum and `[rows, columns]` of a parameter that Muon moves.
    fn muon_matrix(&self, name: &str, shape: &[usize]) -> Option<(f32, [usize; 2])> {
        let muon = self.muon.as_ref()?;
        let rows = shape.first().copied()?;
        let columns = shape[1..].iter().product::<usize>();
        let own = shape.len() > 1 && rows.min(columns) >= LEAST_SIDE;
        let excepted = muon.except.iter().any(|part| name.contains(part.as_str()));
        (own && !excepted).then_some((muon.momentum, [rows, columns]))
    }
}

/// Moves every average in `ema` toward `parameters`: `ema = decay * ema + (1 - decay) * parameter`.
pub fn ema_step(ema: &mut Parameters, parameters: &Parameters, decay: f32) {
    for (name, average) in ema.iter_mut() {
        let Some(parameter) = parameters.get(name) else { continue };
        let none = Tensor::zeros([1], &average.value.device());
        let value = std::mem::replace(&mut average.value, none);
        average.value = if Primitive::of(&value).is_some() {
            on_host::blend(value, parameter.value.clone(), decay)
        } else {
            on_device::blend(value, parameter.value.clone(), decay)
        };
    }
}

fn to_tensor(values: Vec<f32>, device: &Device) -> Tensor<1> {
    let count = values.len();
    Tensor::from_data(TensorData::new(values, [count]), device)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::host::values;
    use crate::random::Random;

    #[test]
    fn muon_moves_matrices_and_adamw_the_rest() {
        let device = Device::flex();
        let mut parameters = Parameters::new();
        let names = ["block.weight", "block.bias", "shared.weight"];
        let shapes: [&[usize]; 3] = [&[8, 4, 3], &[96], &[8, 12]];
        let values_of =
            |scale: f32| (0..96).map(|i| scale * ((i * 37 % 96) as f32 - 47.5)).collect::<Vec<f32>>();
        for (name, shape) in names.into_iter().zip(shapes) {
            parameters.insert(name, shape, vec![0.0; 96], &device);
        }
        let muon = MuonConfig { momentum: 0.95, except: vec!["shared".into()] };
        let config = AdamWConfig { weight_decay: 0.0, muon: Some(muon), ..AdamWConfig::default() };
        let gradients = |scale| names.map(|name| (name.to_owned(), to_tensor(values_of(scale), &device)));
        let mut optimizer = AdamW::new(config.clone());
        optimizer.step(&mut parameters, gradients(0.1).into_iter().collect(), |_| 0.1);

        let moved = |name: &str, parameters: &Parameters| values(parameters.get(name).unwrap().value.clone());
        // AdamW's first step is the learning rate, whatever the gradient.
        assert!(moved("block.bias", &parameters).iter().all(|value| (value.abs() - 0.1).abs() < 1e-3));
        assert_eq!(moved("block.bias", &parameters), moved("shared.weight", &parameters));
        let muon = moved("block.weight", &parameters);
        let size = (muon.iter().map(|value| value * value).sum::<f32>() / 96.0).sqrt();
        assert!((0.012..0.028).contains(&size), "{size}");
        assert_ne!(muon, moved("shared.weight", &parameters));

        // A restored optimizer goes on as the one that was stored.
        let mut other = parameters.clone();
        let mut restored = AdamW::restore(config, optimizer.steps(), optimizer.moments());
        optimizer.step(&mut parameters, gradients(0.3).into_iter().collect(), |_| 0.1);
        restored.step(&mut other, gradients(0.3).into_iter().collect(), |_| 0.1);
        for name in names {
            assert_eq!(moved(name, &parameters), moved(name, &other));
        }
    }

    #[test]
    fn both_ways_agree() {
        let device = Device::flex();
        let numbers = |seed: u64| Random::new(seed, 0).normals(96);
        for muon in [None, Some(MuonConfig { momentum: 0.9, except: Vec::new() })] {
            let config = AdamWConfig { muon, ..AdamWConfig::default() };
            let mut start = Parameters::new();
            start.insert("w", &[8, 12], numbers(1), &device);
            start.insert("b", &[96], numbers(2), &device);
            let run = |host: bool| {
                let (mut optimizer, mut parameters) = (AdamW::new(config.clone()), start.clone());
                let mut lengths = Vec::new();
                for round in 0..3 {
                    let tensors =
                        ["w", "b"].map(|name| (name.to_owned(), to_tensor(numbers(10 + round), &device)));
                    let rate = |_: &str| 0.1;
                    lengths.push(if host {
                        let gradients = tensors.map(|(name, gradient)| (name, gradient.into_data()));
                        let gradients = gradients.into_iter().collect();
                        optimizer.run(&mut parameters, gradients, rate, on_host::length, on_host::moved)
                    } else {
                        let gradients = tensors.into_iter().collect();
                        optimizer.run(&mut parameters, gradients, rate, on_device::length, on_device::moved)
                    });
                }
                (lengths, ["w", "b"].map(|name| values(parameters.get(name).unwrap().value.clone())))
            };
            let ((lengths, host), (other, found)) = (run(true), run(false));
            assert!(lengths.iter().zip(&other).all(|(a, b)| (a - b).abs() < 1e-4));
            // Muon's products are rounded to bf16 on the CPU.
            let tolerance = if config.muon.is_some() { 1e-2 } else { 1e-5 };
            for (a, b) in host.concat().iter().zip(found.concat()) {
                assert!((a - b).abs() < tolerance, "{a} {b}");
            }
        }
        let average = to_tensor(numbers(1), &device);
        let host = values(on_host::blend(average.clone(), to_tensor(numbers(2), &device), 0.9));
        let found = values(on_device::blend(average, to_tensor(numbers(2), &device), 0.9));
        assert!(host.iter().zip(found).all(|(a, b)| (a - b).abs() < 1e-6));
    }
}
