//! Nonlinearities.

use burn::tensor::{Tensor, activation};
use understudy_kernels as kernels;
use understudy_kernels::{Activation as Kind, Floats};

use crate::cpu::{Array, CpuOp, Kept, Primitive, apply};

/// `kind` of every number.
pub fn activated<const D: usize>(x: Tensor<D>, kind: Kind) -> Tensor<D> {
    match (Primitive::of(&x), kind) {
        (Some(x), kind) => apply(Activation(kind), [x]).into_tensor(),
        (None, Kind::GeluTanh) => activation::gelu_approximate(x),
        (None, Kind::GeluErf) => activation::gelu(x),
        (None, Kind::Silu) => activation::silu(x),
        (None, Kind::Sigmoid) => activation::sigmoid(x),
        (None, Kind::Tanh) => activation::tanh(x),
    }
}

/// The GELU by its tanh approximation.
pub fn gelu_tanh<const D: usize>(x: Tensor<D>) -> Tensor<D> {
    activated(x, Kind::GeluTanh)
}

/// The exact GELU.
pub fn gelu<const D: usize>(x: Tensor<D>) -> Tensor<D> {
    activated(x, Kind::GeluErf)
}

/// `x * sigmoid(x)`.
pub fn silu<const D: usize>(x: Tensor<D>) -> Tensor<D> {
    activated(x, Kind::Silu)
}

/// The gated unit of diffusers: of `x (..., 2 * width)` the first half times the exact GELU of the second,
/// `(..., width)`.
pub fn geglu<const D: usize>(x: Tensor<D>) -> Tensor<D> {
    match Primitive::of(&x) {
        Some(x) => apply(Geglu, [x]).into_tensor(),
        None => composed_geglu(x),
    }
}

fn composed_geglu<const D: usize>(x: Tensor<D>) -> Tensor<D> {
    let width = x.dims()[D - 1] / 2;
    let value = x.clone().narrow(D - 1, 0, width);
    value * activation::gelu(x.narrow(D - 1, width, width))
}

/// `kind` of every number of `x`.
pub(super) fn values(kind: Kind, x: &[f32]) -> Floats {
    let mut y = Floats::unspecified(x.len());
    kernels::activation_forward(kind, x, &mut y);
    y
}

/// The gradient of `x` from that of [`values`].
pub(super) fn gradient(kind: Kind, x: &[f32], grad: &[f32]) -> Floats {
    let mut dx = Floats::unspecified(grad.len());
    kernels::activation_backward(kind, x, grad, &mut dx);
    dx
}

#[derive(Clone, Debug)]
struct Activation(Kind);

impl CpuOp<1> for Activation {
    fn forward(&self, [x]: [&Array; 1]) -> (Array, Vec<Array>) {
        (Array::new(values(self.0, x.data()), x.shape()), Vec::new())
    }

    fn keeps(&self, _: [bool; 1]) -> ([bool; 1], bool) {
        ([true], false)
    }

    fn backward(&self, kept: &Kept<1>, grad: &Array, _: [bool; 1]) -> [Option<Array>; 1] {
        [Some(Array::new(gradient(self.0, kept.input(0), grad.data()), kept.shape(0)))]
    }
}

#[derive(Clone, Debug)]
struct Geglu;

/// Half of the last extent.
fn half(shape: &[usize]) -> usize {
    shape.last().copied().unwrap_or(0) / 2
}

impl CpuOp<1> for Geglu {
    fn forward(&self, [x]: [&Array; 1]) -> (Array, Vec<Array>) {
        let mut shape = x.shape();
        let width = half(&shape);
        let mut y = Floats::unspecified(x.len() / 2);
        kernels::geglu_forward(x.data(), width, &mut y);
        if let Some(last) = shape.last_mut() {
            *last = width;
        }
        (Array::new(y, shape), Vec::new())
    }

    fn keeps(&self, _: [bool; 1]) -> ([bool; 1], bool) {
        ([true], false)
    }

    fn backward(&self, kept: &Kept<1>, grad: &Array, _: [bool; 1]) -> [Option<Array>; 1] {
        let mut dx = Floats::unspecified(2 * grad.len());
        kernels::geglu_backward(kept.input(0), half(kept.shape(0)), grad.data(), &mut dx);
        [Some(Array::new(dx, kept.shape(0)))]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::testing::{check, random};

    #[test]
    fn kernel_agrees_with_the_composed_form() {
        let x = random([2, 5, 14], 1);
        check(&[&x], |t| geglu::<3>(t.get(0)), |t| composed_geglu(t.get(0)));
    }
}
