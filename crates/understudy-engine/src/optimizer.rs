//! AdamW with f32 state, and moving averages of parameters.

use std::collections::BTreeMap;

use burn::tensor::{Device, Tensor, TensorData};
use understudy_kernels as kernels;

use crate::host::values;
use crate::parameters::{NamedGradients, Parameters};

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

/// Muon for matrices (Jordan et al., "Muon: an optimizer for hidden layers in neural networks", 2024): they move by
/// their momentum, orthogonalized, and scaled so that the learning rate of AdamW fits (Liu et al., "Muon is scalable
/// for LLM training", 2025). Kernels are matrices with a row for each output; vectors stay with AdamW.
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

/// The optimizer's state.
#[derive(Clone, Debug, Default)]
pub struct AdamW {
    config: AdamWConfig,
    moments: BTreeMap<String, [Tensor<1>; 2]>,
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
    pub fn step(
        &mut self,
        parameters: &mut Parameters,
        gradients: NamedGradients,
        rate: impl Fn(&str) -> f32,
    ) -> f32 {
        let gradients: BTreeMap<String, Vec<f32>> =
            gradients.into_iter().map(|(name, gradient)| (name, values(gradient))).collect();
        let norm = gradients.values().map(|g| kernels::sum_squares(g)).sum::<f64>().sqrt() as f32;
        if !norm.is_finite() {
            return norm;
        }
        self.step += 1;
        let clip = self.config.clip;
        let grad_scale = if clip > 0.0 && norm > clip { clip / norm } else { 1.0 };
        for (name, parameter) in parameters.iter_mut() {
            let Some(gradient) = gradients.get(name) else { continue };
            let device = parameter.value.device();
            if let Some((momentum, shape)) = self.config.muon_matrix(name, &parameter.shape) {
                let m = self.moments.remove(name).map(|[m, _]| values(m));
                let mut m = m.unwrap_or_else(|| vec![0.0; gradient.len()]);
                let mut value = values(std::mem::replace(&mut parameter.value, Tensor::zeros([1], &device)));
                let rates = [rate(name), self.config.weight_decay, momentum, grad_scale];
                muon_step(&mut value, &mut m, gradient, shape, rates);
                parameter.value = to_tensor(value, &device);
                self.moments.insert(name.clone(), [to_tensor(m, &device), Tensor::zeros([1], &device)]);
                continue;
            }
            let count = gradient.len();
            let [m, v] = match self.moments.remove(name) {
                Some(moments) => moments.map(values),
                None => [vec![0.0; count], vec![0.0; count]],
            };
            let [mut m, mut v] = [m, v];
            let value = std::mem::replace(&mut parameter.value, Tensor::zeros([1], &device));
            let mut value = values(value);
            let options = kernels::AdamW {
                lr: rate(name),
                beta1: self.config.betas.0,
                beta2: self.config.betas.1,
                eps: self.config.eps,
                weight_decay: if parameter.shape.iter().filter(|&&extent| extent > 1).count() > 1 {
                    self.config.weight_decay
                } else {
                    0.0
                },
                step: self.step,
                grad_scale,
            };
            kernels::adamw_step(&options, &mut value, &mut m, &mut v, gradient);
            parameter.value = to_tensor(value, &device);
            self.moments.insert(name.clone(), [to_tensor(m, &device), to_tensor(v, &device)]);
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

/// One step of Muon in place. `rates`: learning rate, weight decay, decay of the momentum, factor on the gradient.
fn muon_step(
    value: &mut [f32],
    m: &mut [f32],
    gradient: &[f32],
    [rows, columns]: [usize; 2],
    rates: [f32; 4],
) {
    // The root mean square of AdamW's steps, relative to the learning rate.
    const USUAL: f32 = 0.2;
    let [rate, decay, momentum, scale] = rates;
    // Nesterov's look ahead.
    let ahead: Vec<f32> = (m.iter_mut().zip(gradient))
        .map(|(m, g)| {
            *m = momentum * *m + g * scale;
            momentum * *m + g * scale
        })
        .collect();
    let direction = kernels::orthogonalize(&ahead, rows, columns);
    let size = rate * USUAL * (rows.max(columns) as f32).sqrt();
    for (value, direction) in value.iter_mut().zip(&direction) {
        *value -= rate * decay * *value + size * direction;
    }
}

/// Moves every average in `ema` toward `parameters`: `ema = decay * ema + (1 - decay) * parameter`.
pub fn ema_step(ema: &mut Parameters, parameters: &Parameters, decay: f32) {
    for (name, average) in ema.iter_mut() {
        let Some(parameter) = parameters.get(name) else { continue };
        let device = average.value.device();
        let value = std::mem::replace(&mut average.value, Tensor::zeros([1], &device));
        let mut value = values(value);
        kernels::ema_step(&mut value, &values(parameter.value.clone()), decay);
        average.value = to_tensor(value, &device);
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
}
