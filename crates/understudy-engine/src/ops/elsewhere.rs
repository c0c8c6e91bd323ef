//! Matrix products on devices other than the CPU engine.
//!
//! They round as those of the CPU engine do (see [`Products`](super::Products)): operands become bf16,
//! everything else stays f32. Their sums are rounded once more, since there the result of a product has the
//! type of its operands.

use burn::tensor::{DType, Tensor};

use super::bf16_products;
use crate::cpu::Primitive;

/// `x` as products take it now.
pub(super) fn operand<const D: usize>(x: Tensor<D>) -> Tensor<D> {
    rounded(x, bf16_products())
}

fn rounded<const D: usize>(x: Tensor<D>, bf16: bool) -> Tensor<D> {
    x.cast(if bf16 { DType::BF16 } else { DType::F32 })
}

/// The result of a product as everything else takes it.
pub(super) fn widened<const D: usize>(x: Tensor<D>) -> Tensor<D> {
    x.cast(DType::F32)
}

/// A frozen `weight` of another device as products take it now, so that it is rounded once; anything else as
/// it is.
pub(super) fn kept<const D: usize>(weight: Tensor<D>) -> Tensor<D> {
    if weight.is_autodiff() || Primitive::of(&weight).is_some() { weight } else { operand(weight) }
}

/// `x (..., inputs)` times the transpose of `weight (outputs, inputs)`, plus `bias (outputs)`.
pub(super) fn linear<const D: usize>(
    x: Tensor<D>,
    weight: Tensor<2>,
    bias: Option<Tensor<1>>,
    bf16: bool,
) -> Tensor<D> {
    let (x, weight) = (rounded(x, bf16), rounded(weight, bf16).transpose());
    let y = widened(burn::tensor::module::linear(x, weight, None));
    match bias {
        Some(bias) => y + bias.unsqueeze(),
        None => y,
    }
}

#[cfg(test)]
mod tests {
    use burn::tensor::Device;

    use super::*;
    use crate::ops::testing::{check_to, random};
    use crate::random::Random;

    #[test]
    fn masters_of_rounded_products_are_f32() {
        let [x, weight, bias] = [random([2, 5, 40], 1), random([9, 40], 2), random([9], 3)];
        let by = |bf16| {
            move |t: &crate::ops::testing::Leaves| linear::<3>(t.get(0), t.get(1), Some(t.get(2)), bf16)
        };
        check_to(2e-2, &[&x, &weight, &bias], by(true), by(false));
        let tensor = Random::new(4, 0).normal_tensor([3, 40], &Device::flex());
        let weight = Random::new(5, 0).normal_tensor::<2>([9, 40], &Device::flex());
        let plain = |weight, bf16| linear::<2>(tensor.clone(), weight, None, bf16);
        assert_eq!(plain(weight.clone(), true).dtype(), DType::F32);
        // A weight that was rounded before serves both.
        let kept = rounded(weight.clone(), true);
        let same = plain(kept.clone(), true) - plain(weight, true);
        assert_eq!(same.abs().max().into_scalar::<f32>(), 0.0);
        assert_eq!(plain(kept, false).dtype(), DType::F32);
    }
}
