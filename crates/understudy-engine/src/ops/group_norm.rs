//! Group normalization of pictures whose channels lie together.

use burn::tensor::{Tensor, activation};
use understudy_kernels as kernels;
use understudy_kernels::GroupNormParams;

use crate::cpu::{Array, CpuOp, Kept, Primitive, apply};

/// What a group normalization does beside its weight and bias.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct GroupNormOptions {
    /// Groups the channels are cut into.
    pub groups: usize,
    /// Added to the variance.
    pub eps: f32,
    /// Whether `z * sigmoid(z)` follows.
    pub silu: bool,
}

/// `x (batch, ..., channels)`, every group of an item's channels with zero mean and unit variance over all
/// positions, times `weight (channels)`, plus `bias (channels)`, and what follows.
pub fn group_norm<const D: usize>(
    x: Tensor<D>,
    weight: Tensor<1>,
    bias: Tensor<1>,
    options: GroupNormOptions,
) -> Tensor<D> {
    match (Primitive::of(&x), Primitive::of(&weight), Primitive::of(&bias)) {
        (Some(x), Some(weight), Some(bias)) => apply(GroupNorm(options), [x, weight, bias]).into_tensor(),
        _ => composed(x, weight, bias, options),
    }
}

fn composed<const D: usize>(
    x: Tensor<D>,
    weight: Tensor<1>,
    bias: Tensor<1>,
    options: GroupNormOptions,
) -> Tensor<D> {
    let dims = x.dims();
    let [batch, channels] = [dims[0], dims[D - 1]];
    let positions = dims[1..D - 1].iter().product::<usize>();
    let width = channels / options.groups;
    let grouped = x.reshape([batch, positions, options.groups, width]);
    let mean = |x: Tensor<4>| x.mean_dim(1).mean_dim(3);
    let centred = grouped.clone() - mean(grouped);
    let variance = mean(centred.clone().powi_scalar(2));
    let normed = (centred / (variance + options.eps).sqrt()).reshape([batch, positions, channels]);
    let y = (normed * weight.unsqueeze() + bias.unsqueeze()).reshape(dims);
    if options.silu { activation::silu(y) } else { y }
}

#[derive(Clone, Debug)]
struct GroupNorm(GroupNormOptions);

impl GroupNorm {
    fn params<'a>(&self, batch: usize, weight: &'a [f32], bias: &'a [f32]) -> GroupNormParams<'a> {
        let GroupNormOptions { groups, eps, silu } = self.0;
        GroupNormParams { batch, groups, weight, bias, eps, silu }
    }
}

impl CpuOp<3> for GroupNorm {
    fn forward(&self, [x, weight, bias]: [&Array; 3]) -> (Array, Vec<Array>) {
        let shape = x.shape();
        let params = self.params(shape[0], weight.data(), bias.data());
        let (y, statistics) = kernels::group_norm_forward(x.data(), &params);
        let statistics = statistics.map(|values| {
            let count = values.len();
            Array::new(values, [count])
        });
        (Array::new(y, shape), statistics.into())
    }

    fn keeps(&self, _: [bool; 3]) -> ([bool; 3], bool) {
        ([true, true, true], false)
    }

    fn backward(&self, kept: &Kept<3>, grad: &Array, wanted: [bool; 3]) -> [Option<Array>; 3] {
        let params = self.params(kept.shape(0)[0], kept.input(1), kept.input(2));
        let statistics = [kept.extra(0), kept.extra(1)];
        let found = kernels::group_norm_backward(kept.input(0), &params, statistics, grad.data());
        [
            wanted[0].then(|| Array::new(found.dx, kept.shape(0))),
            wanted[1].then(|| Array::new(found.dweight, kept.shape(1))),
            wanted[2].then(|| Array::new(found.dbias, kept.shape(2))),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::testing::{check, random};

    #[test]
    fn kernel_agrees_with_the_composed_form() {
        let [x, weight, bias] = [random([2, 5, 7, 12], 1), random([12], 2), random([12], 3)];
        for silu in [false, true] {
            let options = GroupNormOptions { groups: 3, eps: 1e-5, silu };
            check(
                &[&x, &weight, &bias],
                |t| group_norm::<4>(t.get(0), t.get(1), t.get(2), options),
                |t| composed::<4>(t.get(0), t.get(1), t.get(2), options),
            );
        }
    }
}
