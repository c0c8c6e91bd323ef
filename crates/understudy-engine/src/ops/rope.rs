//! The rotary position embedding.

use burn::tensor::Tensor;
use understudy_kernels as kernels;
use understudy_kernels::{Floats, HeadLayout};

use crate::cpu::{Array, CpuOp, Kept, Primitive, apply};

/// Turns each pair of neighbouring channels of every head of `x (batch, tokens, heads * dim)` by its token's
/// angle, given as `cos` and `sin (tokens, dim / 2)`, which are constants.
pub fn rope_heads(x: Tensor<3>, cos: Tensor<2>, sin: Tensor<2>) -> Tensor<3> {
    let [_, tokens, channels] = x.dims();
    let heads = channels / (2 * cos.dims()[1]);
    match (Primitive::of(&x), Primitive::of(&cos), Primitive::of(&sin)) {
        (Some(x), Some(cos), Some(sin)) => apply(Rope { heads, tokens }, [x, cos, sin]).into_tensor(),
        _ => composed(x, cos, sin),
    }
}

fn composed(x: Tensor<3>, cos: Tensor<2>, sin: Tensor<2>) -> Tensor<3> {
    let [batch, tokens, channels] = x.dims();
    let half = cos.dims()[1];
    let pairs = x.reshape([batch, tokens, channels / (2 * half), half, 2]);
    let part = |index: usize| pairs.clone().narrow(4, index, 1);
    let table = |t: Tensor<2>| t.reshape([1, tokens, 1, half, 1]);
    let [cos, sin] = [table(cos), table(sin)];
    let first = part(0) * cos.clone() - part(1) * sin.clone();
    let second = part(0) * sin + part(1) * cos;
    Tensor::cat(vec![first, second], 4).reshape([batch, tokens, channels])
}

#[derive(Clone, Debug)]
struct Rope {
    heads: usize,
    tokens: usize,
}

impl Rope {
    fn turn(&self, x: &[f32], cos: &[f32], sin: &[f32], back: bool) -> Floats {
        let mut y = Floats::unspecified(x.len());
        kernels::rope(x, HeadLayout::TokensFirst, self.heads, self.tokens, (cos, sin), back, &mut y);
        y
    }
}

impl CpuOp<3> for Rope {
    fn forward(&self, [x, cos, sin]: [&Array; 3]) -> (Array, Vec<Array>) {
        (Array::new(self.turn(x.data(), cos.data(), sin.data(), false), x.shape()), Vec::new())
    }

    fn keeps(&self, _: [bool; 3]) -> ([bool; 3], bool) {
        ([false, true, true], false)
    }

    fn backward(&self, kept: &Kept<3>, grad: &Array, _: [bool; 3]) -> [Option<Array>; 3] {
        let dx = self.turn(grad.data(), kept.input(1), kept.input(2), true);
        [Some(Array::new(dx, kept.shape(0))), None, None]
    }
}

#[cfg(test)]
mod tests {
    use burn::tensor::Device;

    use super::*;
    use crate::ops::testing::{check, random};
    use crate::random::Random;

    #[test]
    fn kernel_agrees_with_the_composed_form() {
        let angles: Tensor<2> = Random::new(3, 0).normal_tensor([5, 4], &Device::flex());
        let [cos, sin] = [angles.clone().cos(), angles.sin()];
        check(
            &[&random([2, 5, 24], 1)],
            |t| rope_heads(t.get(0), cos.clone(), sin.clone()),
            |t| composed(t.get(0), cos.clone(), sin.clone()),
        );
    }
}
