//! Steps of the CPU engine, by kernels on slices.

use std::collections::BTreeMap;

use burn::tensor::{Tensor, TensorData};
use understudy_kernels as kernels;

use super::{AdamWConfig, Moments, Step, to_tensor};
use crate::host::values;

/// The length of all gradients together.
pub(super) fn length(gradients: &BTreeMap<String, TensorData>) -> f32 {
    gradients.values().map(|gradient| kernels::sum_squares(numbers(gradient))).sum::<f64>().sqrt() as f32
}

/// The numbers of a gradient where they lie: to make a vector of them would copy them.
fn numbers(gradient: &TensorData) -> &[f32] {
    match gradient.as_slice() {
        Ok(numbers) => numbers,
        Err(error) => panic!("a gradient of the CPU engine is not f32: {error:?}"),
    }
}

/// The parameter and its moments after a step.
pub(super) fn moved(
    config: &AdamWConfig,
    step: Step,
    value: Tensor<1>,
    moments: Option<Moments>,
    gradient: TensorData,
) -> (Tensor<1>, Moments) {
    let (device, gradient) = (value.device(), numbers(&gradient));
    let (mut value, count) = (values(value), gradient.len());
    let [m, v] = moments.map_or([None, None], |moments| moments.map(Some));
    let mut m = m.map_or_else(|| vec![0.0; count], values);
    if let Some((momentum, shape)) = step.muon {
        muon(&mut value, &mut m, gradient, &step, momentum, shape);
        return (to_tensor(value, &device), [to_tensor(m, &device), Tensor::zeros([1], &device)]);
    }
    let mut v = v.map_or_else(|| vec![0.0; count], values);
    let options = kernels::AdamW {
        lr: step.rate,
        beta1: config.betas.0,
        beta2: config.betas.1,
        eps: config.eps,
        weight_decay: step.decay,
        step: step.number,
        grad_scale: step.scale,
    };
    kernels::adamw_step(&options, &mut value, &mut m, &mut v, gradient);
    (to_tensor(value, &device), [to_tensor(m, &device), to_tensor(v, &device)])
}

fn muon(value: &mut [f32], m: &mut [f32], gradient: &[f32], step: &Step, momentum: f32, shape: [usize; 2]) {
    // Nesterov's look ahead.
    let ahead: Vec<f32> = (m.iter_mut().zip(gradient))
        .map(|(m, g)| {
            *m = momentum * *m + g * step.scale;
            momentum * *m + g * step.scale
        })
        .collect();
    let direction = kernels::orthogonalize(&ahead, shape[0], shape[1]);
    let size = step.muon_size(shape);
    for (value, direction) in value.iter_mut().zip(&direction) {
        *value -= step.rate * step.decay * *value + size * direction;
    }
}

/// `decay * average + (1 - decay) * value`.
pub(super) fn blend(average: Tensor<1>, value: Tensor<1>, decay: f32) -> Tensor<1> {
    let device = average.device();
    let mut average = values(average);
    kernels::ema_step(&mut average, &values(value), decay);
    to_tensor(average, &device)
}
