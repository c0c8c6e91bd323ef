//! Linear maps and gated sums.

use std::sync::Arc;

use burn::tensor::Tensor;
use rayon::prelude::*;
use understudy_kernels as kernels;
use understudy_kernels::{Floats, MatRef, PackedB};

use crate::cpu::{Array, CpuOp, Kept, Primitive, apply};
use crate::ops::{elsewhere, precision};

/// The weight of a linear map, `(outputs, inputs)`.
#[allow(clippy::large_enum_variant)] // There is one a map.
#[derive(Clone, Debug)]
pub enum Weight {
    /// A tensor of any device, which may be trained.
    Dense(Tensor<2>),
    /// A frozen matrix of the CPU engine in bf16, half as large, and packed once for all products with it.
    Packed(Arc<PackedB>),
}

impl Weight {
    /// `tensor`, packed if it is a frozen one of the CPU engine and bf16 holds every number of it, or if
    /// products round to bf16 anyway (see [`Products`](super::Products)); then frozen ones of other devices
    /// are bf16, too.
    pub fn new(tensor: Tensor<2>) -> Self {
        match Array::frozen(&tensor).and_then(|array| packed(&array)) {
            Some(packed) => Self::Packed(Arc::new(packed)),
            None => Self::Dense(elsewhere::kept(tensor)),
        }
    }
}

fn packed(weight: &Array) -> Option<PackedB> {
    let shape = weight.shape();
    let right = MatRef::new(weight.data(), shape[0], shape[1]).t();
    if super::bf16_products() { Some(PackedB::new(right)) } else { PackedB::exact(right) }
}

/// `x (..., inputs)` times the transpose of `weight (outputs, inputs)`, plus `bias (outputs)`.
pub fn linear<const D: usize>(x: Tensor<D>, weight: Tensor<2>, bias: Option<Tensor<1>>) -> Tensor<D> {
    let primitives = (Primitive::of(&x), Primitive::of(&weight), bias.as_ref().map(Primitive::of));
    match primitives {
        (Some(x), Some(weight), None) => apply(Linear, [x, weight]).into_tensor(),
        (Some(x), Some(weight), Some(Some(bias))) => apply(Linear, [x, weight, bias]).into_tensor(),
        _ => composed_linear(x, weight, bias),
    }
}

fn composed_linear<const D: usize>(x: Tensor<D>, weight: Tensor<2>, bias: Option<Tensor<1>>) -> Tensor<D> {
    elsewhere::linear(x, weight, bias, super::bf16_products())
}

#[derive(Clone, Debug)]
struct Linear;

/// `x W^T` of a dense weight, plus `bias` in every row.
pub(super) fn product(x: MatRef, weight: MatRef, bias: Option<&[f32]>) -> Floats {
    let mut y = Floats::unspecified(x.rows * weight.rows);
    if let Some(bias) = bias {
        y.par_chunks_mut(weight.rows).with_min_len(64).for_each(|row| row.copy_from_slice(bias));
    }
    kernels::matmul(x, weight.t(), &mut y, bias.is_some(), precision());
    y
}

/// `g W` of a dense weight.
pub(super) fn input_gradient(gradient: MatRef, weight: MatRef) -> Floats {
    let mut dx = Floats::unspecified(gradient.rows * weight.cols);
    kernels::matmul(gradient, weight, &mut dx, false, precision());
    dx
}

/// `y` in the shape of `x` but for the last dimension.
pub(super) fn with_last(x: &Array, y: Floats, outputs: usize) -> Array {
    let mut shape = x.shape();
    *shape.last_mut().unwrap_or(&mut 0) = outputs;
    Array::new(y, shape)
}

/// Rows, inputs and outputs of the product.
pub(super) fn extents(x: &[usize], weight: &[usize]) -> [usize; 3] {
    let [outputs, inputs] = [weight[0], weight[1]];
    [x.iter().product::<usize>() / inputs, inputs, outputs]
}

impl Linear {
    fn run(x: &Array, weight: &Array, bias: Option<&Array>) -> (Array, Vec<Array>) {
        let [rows, inputs, outputs] = extents(&x.shape(), &weight.shape());
        let weight = MatRef::new(weight.data(), outputs, inputs);
        let y = product(MatRef::new(x.data(), rows, inputs), weight, bias.map(Array::data));
        (with_last(x, y, outputs), Vec::new())
    }

    fn gradients<const N: usize>(kept: &Kept<N>, grad: &Array, wanted: [bool; N]) -> [Option<Array>; N] {
        let [rows, inputs, outputs] = extents(kept.shape(0), kept.shape(1));
        let mut result = [const { None }; N];
        if wanted[0] {
            let weight = MatRef::new(kept.input(1), outputs, inputs);
            let dx = input_gradient(MatRef::new(grad.data(), rows, outputs), weight);
            result[0] = Some(Array::new(dx, kept.shape(0)));
        }
        if wanted[1] {
            let mut dw = Floats::unspecified(outputs * inputs);
            let gradient = MatRef::new(grad.data(), rows, outputs).t();
            kernels::matmul(gradient, MatRef::new(kept.input(0), rows, inputs), &mut dw, false, precision());
            result[1] = Some(Array::new(dw, kept.shape(1)));
        }
        if N == 3 && wanted[2] {
            result[2] = Some(Array::new(column_sums(grad.data(), outputs), [outputs]));
        }
        result
    }
}

/// The sum of each column of a row-major matrix, added in order of rows whatever the number of threads.
fn column_sums(values: &[f32], columns: usize) -> Vec<f32> {
    const WIDTH: usize = 64;
    let mut sums = vec![0.0; columns];
    sums.par_chunks_mut(WIDTH).enumerate().for_each(|(block, sums)| {
        let first = block * WIDTH;
        for row in values.chunks_exact(columns) {
            for (sum, value) in sums.iter_mut().zip(&row[first..]) {
                *sum += value;
            }
        }
    });
    sums
}

impl CpuOp<2> for Linear {
    fn forward(&self, [x, weight]: [&Array; 2]) -> (Array, Vec<Array>) {
        Self::run(x, weight, None)
    }

    fn keeps(&self, wanted: [bool; 2]) -> ([bool; 2], bool) {
        ([wanted[1], wanted[0]], false)
    }

    fn backward(&self, kept: &Kept<2>, grad: &Array, wanted: [bool; 2]) -> [Option<Array>; 2] {
        Self::gradients(kept, grad, wanted)
    }
}

impl CpuOp<3> for Linear {
    fn forward(&self, [x, weight, bias]: [&Array; 3]) -> (Array, Vec<Array>) {
        Self::run(x, weight, Some(bias))
    }

    fn keeps(&self, wanted: [bool; 3]) -> ([bool; 3], bool) {
        ([wanted[1], wanted[0], false], false)
    }

    fn backward(&self, kept: &Kept<3>, grad: &Array, wanted: [bool; 3]) -> [Option<Array>; 3] {
        Self::gradients(kept, grad, wanted)
    }
}

/// `x + y * gate`, with `x` and `y (batch, tokens, channels)` and `gate (batch, channels)`.
pub fn gated_add(x: Tensor<3>, y: Tensor<3>, gate: Tensor<2>) -> Tensor<3> {
    match (Primitive::of(&x), Primitive::of(&y), Primitive::of(&gate)) {
        (Some(x), Some(y), Some(gate)) => apply(GatedAdd, [x, y, gate]).into_tensor(),
        _ => composed_gated_add(x, y, gate),
    }
}

fn composed_gated_add(x: Tensor<3>, y: Tensor<3>, gate: Tensor<2>) -> Tensor<3> {
    x + y * gate.unsqueeze_dim(1)
}

#[derive(Clone, Debug)]
struct GatedAdd;

impl CpuOp<3> for GatedAdd {
    fn forward(&self, [x, y, gate]: [&Array; 3]) -> (Array, Vec<Array>) {
        let mut out = Floats::unspecified(x.len());
        kernels::gated_add_forward(x.data(), y.data(), gate.data(), gate.shape()[0], &mut out);
        (Array::new(out, x.shape()), Vec::new())
    }

    fn keeps(&self, _: [bool; 3]) -> ([bool; 3], bool) {
        ([false, true, true], false)
    }

    fn backward(&self, kept: &Kept<3>, grad: &Array, wanted: [bool; 3]) -> [Option<Array>; 3] {
        let batch = kept.shape(2)[0];
        let found = kernels::gated_add_backward(kept.input(1), kept.input(2), batch, grad.data());
        [
            wanted[0].then(|| grad.clone()),
            wanted[1].then(|| Array::new(found.dy, kept.shape(1))),
            wanted[2].then(|| Array::new(found.dgate, kept.shape(2))),
        ]
    }
}

#[cfg(test)]
mod tests {
    use burn::tensor::Device;

    use super::*;
    use crate::ops::testing::{check, random};

    #[test]
    fn what_is_trained_or_not_there_or_not_bf16_is_not_packed() {
        let dense = |weight: Tensor<2>| matches!(Weight::new(weight), Weight::Dense(_));
        let device = Device::flex();
        let ones = Tensor::<2>::ones([64, 32], &device);
        assert!(!dense(ones.clone()));
        assert!(dense(ones.clone().autodiff().require_grad()));
        assert!(dense(ones * 1.001));
        // A placeholder of any size takes no memory.
        assert!(dense(Tensor::<2>::zeros([1, 1], &device).expand([1 << 20, 1 << 20])));
    }

    #[test]
    fn kernels_agree_with_the_composed_forms() {
        let [x, weight, bias] = [random([2, 5, 7], 1), random([9, 7], 2), random([9], 3)];
        check(
            &[&x, &weight, &bias],
            |t| linear::<3>(t.get(0), t.get(1), Some(t.get(2))),
            |t| composed_linear(t.get(0), t.get(1), Some(t.get(2))),
        );
        check(
            &[&x, &weight],
            |t| linear::<3>(t.get(0), t.get(1), None),
            |t| composed_linear(t.get(0), t.get(1), None),
        );
        let [y, gate] = [random([2, 5, 7], 4), random([2, 7], 5)];
        check(
            &[&x, &y, &gate],
            |t| gated_add(t.get(0), t.get(1), t.get(2)),
            |t| composed_gated_add(t.get(0), t.get(1), t.get(2)),
        );
    }
}
