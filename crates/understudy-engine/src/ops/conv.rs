//! Convolutions over video.

use burn::tensor::Tensor;
use burn::tensor::module;
use burn::tensor::ops::ConvOptions;
use rayon::prelude::*;
use understudy_kernels as kernels;
use understudy_kernels::{Conv3dShape, Floats};

use crate::cpu::{Array, CpuOp, Kept, Primitive, apply};
use crate::ops::{elsewhere, precision};

/// Stride and zero padding of a convolution; padding is (before, after) on each axis, so that causal ones
/// need no copy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Conv3dOptions {
    /// Along frames, rows, columns.
    pub stride: [usize; 3],
    /// Along frames, rows, columns.
    pub padding: [(usize, usize); 3],
}

/// `x (batch, inputs, frames, rows, columns)` convolved with `weight (outputs, inputs, kt, kh, kw)`.
pub fn conv3d(x: Tensor<5>, weight: Tensor<5>, bias: Option<Tensor<1>>, options: Conv3dOptions) -> Tensor<5> {
    let op = Conv3d(options);
    match (Primitive::of(&x), Primitive::of(&weight), bias.as_ref().map(Primitive::of)) {
        (Some(x), Some(weight), None) => apply(op, [x, weight]).into_tensor(),
        (Some(x), Some(weight), Some(Some(bias))) => apply(op, [x, weight, bias]).into_tensor(),
        _ => composed(x, weight, bias, options),
    }
}

fn composed(x: Tensor<5>, weight: Tensor<5>, bias: Option<Tensor<1>>, options: Conv3dOptions) -> Tensor<5> {
    let (x, weight) = (elsewhere::operand(pad(x, options.padding)), elsewhere::operand(weight));
    let options = ConvOptions::new(options.stride, [0, 0, 0], [1, 1, 1], 1);
    let y = elsewhere::widened(module::conv3d(x, weight, None, options));
    match bias {
        Some(bias) => y + bias.reshape([1, -1, 1, 1, 1]),
        None => y,
    }
}

fn pad(x: Tensor<5>, padding: [(usize, usize); 3]) -> Tensor<5> {
    padding.into_iter().enumerate().fold(x, |x, (axis, (before, after))| {
        let zeros = |count: usize| {
            let mut dims = x.dims();
            dims[axis + 2] = count;
            (count > 0).then(|| Tensor::zeros(dims, &x.device()))
        };
        let [before, after] = [zeros(before), zeros(after)];
        match (&before, &after) {
            (None, None) => x,
            _ => Tensor::cat(before.into_iter().chain([x]).chain(after).collect(), axis + 2),
        }
    })
}

#[derive(Clone, Debug)]
struct Conv3d(Conv3dOptions);

impl Conv3d {
    fn shape(&self, x: &[usize], weight: &[usize]) -> Conv3dShape {
        let last = |dims: &[usize]| [dims[2], dims[3], dims[4]];
        Conv3dShape {
            batch: x[0],
            in_channels: x[1],
            out_channels: weight[0],
            input: last(x),
            kernel: last(weight),
            stride: self.0.stride,
            pad_front: self.0.padding.map(|(before, _)| before),
            pad_back: self.0.padding.map(|(_, after)| after),
        }
    }

    fn run(&self, x: &Array, weight: &Array, bias: Option<&Array>) -> (Array, Vec<Array>) {
        let shape = self.shape(&x.shape(), &weight.shape());
        let y = kernels::conv3d_forward(x.data(), weight.data(), bias.map(Array::data), &shape, precision());
        let [frames, rows, columns] = shape.output();
        (Array::new(y, [shape.batch, shape.out_channels, frames, rows, columns]), Vec::new())
    }

    fn gradients<const N: usize>(
        &self,
        kept: &Kept<N>,
        grad: &Array,
        wanted: [bool; N],
    ) -> [Option<Array>; N] {
        let shape = self.shape(kept.shape(0), kept.shape(1));
        let mut result = [const { None }; N];
        if wanted[0] {
            let dx = kernels::conv3d_backward_data(grad.data(), kept.input(1), &shape, precision());
            result[0] = Some(Array::new(dx, kept.shape(0)));
        }
        if wanted[1] {
            let (dw, db) = kernels::conv3d_backward_weight(kept.input(0), grad.data(), &shape, precision());
            result[1] = Some(Array::new(dw, kept.shape(1)));
            if N == 3 {
                result[2] = Some(Array::new(db, kept.shape(2)));
            }
        } else if N == 3 && wanted[2] {
            result[2] = Some(Array::new(
                channel_sums(grad.data(), shape.out_channels, shape.output().iter().product()),
                kept.shape(2),
            ));
        }
        result
    }
}

/// The sum of each channel of `values (batch, channels, positions)`, added in order of batch items.
fn channel_sums(values: &[f32], channels: usize, positions: usize) -> Vec<f32> {
    let mut sums = vec![0.0; channels];
    for item in values.chunks_exact(channels * positions) {
        for (sum, plane) in sums.iter_mut().zip(item.chunks_exact(positions)) {
            *sum += plane.iter().sum::<f32>();
        }
    }
    sums
}

impl CpuOp<2> for Conv3d {
    fn forward(&self, [x, weight]: [&Array; 2]) -> (Array, Vec<Array>) {
        self.run(x, weight, None)
    }

    fn keeps(&self, wanted: [bool; 2]) -> ([bool; 2], bool) {
        ([wanted[1], wanted[0]], false)
    }

    fn backward(&self, kept: &Kept<2>, grad: &Array, wanted: [bool; 2]) -> [Option<Array>; 2] {
        self.gradients(kept, grad, wanted)
    }
}

impl CpuOp<3> for Conv3d {
    fn forward(&self, [x, weight, bias]: [&Array; 3]) -> (Array, Vec<Array>) {
        self.run(x, weight, Some(bias))
    }

    fn keeps(&self, wanted: [bool; 3]) -> ([bool; 3], bool) {
        ([wanted[1], wanted[0], false], false)
    }

    fn backward(&self, kept: &Kept<3>, grad: &Array, wanted: [bool; 3]) -> [Option<Array>; 3] {
        self.gradients(kept, grad, wanted)
    }
}

/// Every position of `x (batch, channels, frames, rows, columns)` repeated twice along rows and columns.
pub fn upsample_nearest_2x(x: Tensor<5>) -> Tensor<5> {
    match Primitive::of(&x) {
        Some(x) => apply(Upsample, [x]).into_tensor(),
        None => composed_upsample(x),
    }
}

fn composed_upsample(x: Tensor<5>) -> Tensor<5> {
    let [batch, channels, frames, rows, columns] = x.dims();
    let outer = batch * channels * frames;
    x.reshape([outer, rows, 1, columns, 1]).expand([outer, rows, 2, columns, 2]).reshape([
        batch,
        channels,
        frames,
        2 * rows,
        2 * columns,
    ])
}

#[derive(Clone, Debug)]
struct Upsample;

impl CpuOp<1> for Upsample {
    fn forward(&self, [x]: [&Array; 1]) -> (Array, Vec<Array>) {
        let mut shape = x.shape();
        let columns = shape[4];
        let mut y = Floats::unspecified(4 * x.len());
        y.par_chunks_mut(4 * columns).zip(x.data().par_chunks(columns)).for_each(|(pair, row)| {
            let (first, second) = pair.split_at_mut(2 * columns);
            for (two, &value) in first.chunks_exact_mut(2).zip(row) {
                two.fill(value);
            }
            second.copy_from_slice(first);
        });
        shape[3] *= 2;
        shape[4] *= 2;
        (Array::new(y, shape), Vec::new())
    }

    fn keeps(&self, _: [bool; 1]) -> ([bool; 1], bool) {
        ([false], false)
    }

    fn backward(&self, kept: &Kept<1>, grad: &Array, _: [bool; 1]) -> [Option<Array>; 1] {
        let columns = kept.shape(0)[4];
        let mut dx = Floats::unspecified(grad.len() / 4);
        dx.par_chunks_mut(columns).zip(grad.data().par_chunks(4 * columns)).for_each(|(row, pair)| {
            let (first, second) = pair.split_at(2 * columns);
            let corners = first.chunks_exact(2).zip(second.chunks_exact(2));
            for (sum, (above, below)) in row.iter_mut().zip(corners) {
                *sum = above[0] + above[1] + below[0] + below[1];
            }
        });
        [Some(Array::new(dx, kept.shape(0)))]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::testing::{check, random};

    fn fixed() -> Tensor<5> {
        crate::random::Random::new(9, 0).normal_tensor([2, 3, 4, 6, 8], &burn::tensor::Device::flex())
    }

    #[test]
    fn kernels_agree_with_the_composed_forms() {
        let causal = Conv3dOptions { stride: [1, 1, 1], padding: [(2, 0), (1, 1), (1, 1)] };
        let down = Conv3dOptions { stride: [1, 2, 2], padding: [(0, 0), (0, 1), (0, 1)] };
        let [x, bias] = [random([2, 3, 4, 6, 8], 1), random([5], 2)];
        for (kernel, options) in [([3, 3, 3], causal), ([1, 3, 3], down)] {
            let weight = random([5, 3, kernel[0], kernel[1], kernel[2]], 3);
            check(
                &[&x, &weight, &bias],
                |t| conv3d(t.get(0), t.get(1), Some(t.get(2)), options),
                |t| composed(t.get(0), t.get(1), Some(t.get(2)), options),
            );
            check(
                &[&x, &weight],
                |t| conv3d(t.get(0), t.get(1), None, options),
                |t| composed(t.get(0), t.get(1), None, options),
            );
        }
        // A trained bias beside a frozen weight.
        let frozen: Tensor<5> =
            crate::random::Random::new(8, 0).normal_tensor([5, 3, 1, 3, 3], &burn::tensor::Device::flex());
        check(
            &[&bias],
            |t| conv3d(fixed(), frozen.clone(), Some(t.get(0)), down),
            |t| composed(fixed(), frozen.clone(), Some(t.get(0)), down),
        );
        check(&[&x], |t| upsample_nearest_2x(t.get(0)), |t| composed_upsample(t.get(0)));
    }
}
