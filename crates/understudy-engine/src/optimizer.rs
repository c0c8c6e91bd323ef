//! AdamW with f32 state, and moving averages of parameters.

use std::collections::BTreeMap;

use burn::tensor::{Device, Tensor, TensorData};
use understudy_kernels as kernels;

use crate::parameters::{NamedGradients, Parameters};

/// Settings of [`AdamW`] (Loshchilov and Hutter, "Decoupled Weight Decay Regularization", 2019).
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AdamWConfig {
    /// Decay rates of the two moments.
    pub betas: (f32, f32),
    /// Added to the root of the second moment.
    pub eps: f32,
    /// Decoupled decay of matrices and kernels; vectors are never decayed.
    pub weight_decay: f32,
    /// Gradients longer than this, all taken together, are scaled down to it; 0 turns it off.
    pub clip: f32,
}

impl Default for AdamWConfig {
    fn default() -> Self {
        Self { betas: (0.9, 0.99), eps: 1e-8, weight_decay: 0.01, clip: 1.0 }
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
            gradients.into_iter().map(|(name, gradient)| (name, to_vec(gradient))).collect();
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
            let count = gradient.len();
            let [m, v] = match self.moments.remove(name) {
                Some(moments) => moments.map(to_vec),
                None => [vec![0.0; count], vec![0.0; count]],
            };
            let [mut m, mut v] = [m, v];
            let value = std::mem::replace(&mut parameter.value, Tensor::zeros([1], &device));
            let mut value = to_vec(value);
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

/// Moves every average in `ema` toward `parameters`: `ema = decay * ema + (1 - decay) * parameter`.
pub fn ema_step(ema: &mut Parameters, parameters: &Parameters, decay: f32) {
    for (name, average) in ema.iter_mut() {
        let Some(parameter) = parameters.get(name) else { continue };
        let device = average.value.device();
        let value = std::mem::replace(&mut average.value, Tensor::zeros([1], &device));
        let mut value = to_vec(value);
        kernels::ema_step(&mut value, &to_vec(parameter.value.clone()), decay);
        average.value = to_tensor(value, &device);
    }
}

fn to_vec(tensor: Tensor<1>) -> Vec<f32> {
    // Masters, moments and gradients are f32 by construction, so the conversion cannot fail.
    tensor.into_data().try_into_vec().unwrap_or_default()
}

fn to_tensor(values: Vec<f32>, device: &Device) -> Tensor<1> {
    let count = values.len();
    Tensor::from_data(TensorData::new(values, [count]), device)
}
