//! Nonlinearities.

use burn::tensor::{Tensor, activation};
use understudy_kernels as kernels;
use understudy_kernels::{Activation as Kind, Floats};

use crate::cpu::{Array, CpuOp, Kept, Primitive, apply};

/// The GELU by its tanh approximation.
pub fn gelu_tanh<const D: usize>(x: Tensor<D>) -> Tensor<D> {
    match Primitive::of(&x) {
        Some(x) => apply(Activation(Kind::GeluTanh), [x]).into_tensor(),
        None => activation::gelu_approximate(x),
    }
}

/// The exact GELU.
pub fn gelu<const D: usize>(x: Tensor<D>) -> Tensor<D> {
    match Primitive::of(&x) {
        Some(x) => apply(Activation(Kind::GeluErf), [x]).into_tensor(),
        None => activation::gelu(x),
    }
}

/// `x * sigmoid(x)`.
pub fn silu<const D: usize>(x: Tensor<D>) -> Tensor<D> {
    match Primitive::of(&x) {
        Some(x) => apply(Activation(Kind::Silu), [x]).into_tensor(),
        None => activation::silu(x),
    }
}

#[derive(Clone, Debug)]
struct Activation(Kind);

impl CpuOp<1> for Activation {
    fn forward(&self, [x]: [&Array; 1]) -> (Array, Vec<Array>) {
        let mut y = Floats::unspecified(x.len());
        kernels::activation_forward(self.0, x.data(), &mut y);
        (Array::new(y, x.shape()), Vec::new())
    }

    fn keeps(&self, _: [bool; 1]) -> ([bool; 1], bool) {
        ([true], false)
    }

    fn backward(&self, kept: &Kept<1>, grad: &Array, _: [bool; 1]) -> [Option<Array>; 1] {
        let mut dx = Floats::unspecified(grad.len());
        kernels::activation_backward(self.0, kept.input(0), grad.data(), &mut dx);
        [Some(Array::new(dx, kept.shape(0)))]
    }
}
