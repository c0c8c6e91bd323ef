//! Steps on devices other than the CPU engine, by tensor operations: nothing travels to the host.

use std::collections::BTreeMap;

use burn::tensor::Tensor;
use understudy_kernels::{NEWTON_SCHULZ, NEWTON_SCHULZ_ITERATIONS};

use super::{AdamWConfig, Moments, Step};

/// The length of all gradients together, with one read for all.
pub(super) fn length(gradients: &BTreeMap<String, Tensor<1>>) -> f32 {
    let squares: Vec<Tensor<1>> =
        gradients.values().map(|gradient| gradient.clone().powi_scalar(2).sum()).collect();
    if squares.is_empty() {
        return 0.0;
    }
    Tensor::cat(squares, 0).sum().sqrt().into_scalar()
}

/// The parameter and its moments after a step.
pub(super) fn moved(
    config: &AdamWConfig,
    step: Step,
    value: Tensor<1>,
    moments: Option<Moments>,
    gradient: Tensor<1>,
) -> (Tensor<1>, Moments) {
    let device = value.device();
    let gradient = gradient * step.scale;
    let [m, v] = moments.unwrap_or_else(|| [gradient.zeros_like(), gradient.zeros_like()]);
    let kept = value * (1.0 - step.rate * step.decay);
    if let Some((momentum, shape)) = step.muon {
        let m = m * momentum + gradient.clone();
        let ahead = m.clone() * momentum + gradient;
        let direction = orthogonalize(ahead.reshape(shape)).reshape([-1]);
        return (kept - direction * step.muon_size(shape), [m, Tensor::zeros([1], &device)]);
    }
    let (b1, b2) = config.betas;
    let m = m * b1 + gradient.clone() * (1.0 - b1);
    let v = v * b2 + gradient.powi_scalar(2) * (1.0 - b2);
    let correction = |beta: f32| 1.0 - f64::from(beta).powf(step.number as f64);
    let root = (1.0 / correction(b2).sqrt()) as f32;
    let size = (f64::from(step.rate) / correction(b1)) as f32;
    let value = kept - m.clone() * size / (v.clone().sqrt() * root + config.eps);
    (value, [m, v])
}

/// `understudy_kernels::orthogonalize` by tensor operations.
fn orthogonalize(matrix: Tensor<2>) -> Tensor<2> {
    let [rows, columns] = matrix.dims();
    if rows > columns {
        return orthogonalize(matrix.transpose()).transpose();
    }
    let norm = matrix.clone().powi_scalar(2).sum().sqrt() + 1e-7;
    let mut x = matrix / norm.reshape([1, 1]);
    let [a, b, c] = NEWTON_SCHULZ;
    for _ in 0..NEWTON_SCHULZ_ITERATIONS {
        let gram = x.clone().matmul(x.clone().transpose());
        let polynomial = gram.clone() * b + gram.clone().matmul(gram) * c;
        x = x.clone() * a + polynomial.matmul(x);
    }
    x
}

/// `decay * average + (1 - decay) * value`.
pub(super) fn blend(average: Tensor<1>, value: Tensor<1>, decay: f32) -> Tensor<1> {
    average * decay + value * (1.0 - decay)
}
