//! Frozen linear maps: with an activation, and with a low-rank residual, in one operation each.

use std::sync::Arc;

use burn::tensor::{Tensor, TensorData};
use understudy_kernels as kernels;
use understudy_kernels::{Activation, Epilogue, Floats, MatRef, PackedB};

use super::activation::{activated, gradient, values};
use super::linear::{Weight, extents, input_gradient, linear, product, with_last};
use crate::cpu::{Array, CpuOp, Kept, Primitive, apply};
use crate::ops::precision;

impl Weight {
    /// `x (..., inputs)` times the transpose of this weight, plus `bias (outputs)`.
    pub fn linear<const D: usize>(&self, x: Tensor<D>, bias: Option<Tensor<1>>) -> Tensor<D> {
        self.linear_then(x, bias, None)
    }

    /// The same, and `activation` of it. What bias and activation make of a packed weight's product the CPU
    /// engine computes part by part, while it is in the cache.
    pub fn linear_then<const D: usize>(
        &self,
        x: Tensor<D>,
        bias: Option<Tensor<1>>,
        activation: Option<Activation>,
    ) -> Tensor<D> {
        match (Frozen::new(self, bias.as_ref()), Primitive::of(&x)) {
            (Some(map), Some(x)) => apply(FrozenLinear { map, activation }, [x]).into_tensor(),
            _ => {
                let output = self.unfused(x, bias);
                activation.into_iter().fold(output, activated)
            }
        }
    }

    /// [`Weight::linear`] where something is trained or lies on another device.
    fn unfused<const D: usize>(&self, x: Tensor<D>, bias: Option<Tensor<1>>) -> Tensor<D> {
        match (self, bias) {
            (Self::Dense(weight), bias) => linear(x, weight.clone(), bias),
            (Self::Packed(_), Some(bias)) if Primitive::of(&x).is_some() => {
                self.linear(x, None) + bias.unsqueeze()
            }
            (Self::Packed(weight), bias) => {
                let dense = TensorData::new(weight.unpacked_transpose(), [weight.cols(), weight.rows()]);
                let weight = Tensor::from_data(dense, &x.device());
                linear(x, weight, bias)
            }
        }
    }

    /// [`Weight::linear`], plus `scale * (x A^T) B^T` with A `down (rank, inputs)` and B `up (outputs,
    /// rank)`.
    ///
    /// Where the weight and the bias are frozen, as they are when a LoRA is fitted or used, the CPU engine
    /// adds the residual into the product, and its gradient into the other's, instead of making and adding
    /// either.
    pub fn adapted<const D: usize>(
        &self,
        x: Tensor<D>,
        bias: Option<Tensor<1>>,
        (down, up, scale): (Tensor<2>, Tensor<2>, f32),
    ) -> Tensor<D> {
        let primitives = (Primitive::of(&x), Primitive::of(&down), Primitive::of(&up));
        match (Frozen::new(self, bias.as_ref()), primitives) {
            (Some(map), (Some(x), Some(down), Some(up))) => {
                apply(Adapted { map, scale }, [x, down, up]).into_tensor()
            }
            _ => self.linear(x.clone(), bias) + residual(x, down, up, scale),
        }
    }
}

/// `scale * (x A^T) B^T`, the scale taken where the numbers are fewest.
pub(crate) fn residual<const D: usize>(
    x: Tensor<D>,
    down: Tensor<2>,
    up: Tensor<2>,
    scale: f32,
) -> Tensor<D> {
    let hidden = linear(x, down, None);
    linear(if scale == 1.0 { hidden } else { hidden * scale }, up, None)
}

/// A weight `(outputs, inputs)` and a bias that get no gradient.
#[derive(Clone, Debug)]
struct Frozen {
    weight: Matrix,
    bias: Option<Array>,
}

#[derive(Clone, Debug)]
enum Matrix {
    Dense(Array),
    Packed(Arc<PackedB>),
}

impl Frozen {
    /// Nothing where the weight or the bias is trained or of another device.
    fn new(weight: &Weight, bias: Option<&Tensor<1>>) -> Option<Self> {
        let weight = match weight {
            Weight::Dense(weight) => Matrix::Dense(Array::frozen(weight)?),
            Weight::Packed(weight) => Matrix::Packed(weight.clone()),
        };
        match bias {
            None => Some(Self { weight, bias: None }),
            Some(bias) => Some(Self { weight, bias: Some(Array::frozen(bias)?) }),
        }
    }

    fn shape(&self) -> [usize; 2] {
        match &self.weight {
            Matrix::Dense(weight) => [weight.shape()[0], weight.shape()[1]],
            Matrix::Packed(weight) => [weight.cols(), weight.rows()],
        }
    }

    /// `f(x W^T + b)`.
    fn forward(&self, x: MatRef, activation: Option<Activation>) -> Floats {
        let [outputs, inputs] = self.shape();
        let bias = self.bias.as_ref().map(Array::data);
        match &self.weight {
            Matrix::Dense(weight) => {
                let y = product(x, MatRef::new(weight.data(), outputs, inputs), bias);
                activation.into_iter().fold(y, |inner, kind| values(kind, &inner))
            }
            Matrix::Packed(weight) => {
                let mut y = Floats::unspecified(x.rows * outputs);
                let then = Epilogue { bias, activation };
                kernels::matmul_packed_then(x, weight.view(), &mut y, then, precision());
                y
            }
        }
    }

    /// `g W`.
    fn backward(&self, gradient: MatRef) -> Floats {
        let [outputs, inputs] = self.shape();
        match &self.weight {
            Matrix::Dense(weight) => input_gradient(gradient, MatRef::new(weight.data(), outputs, inputs)),
            Matrix::Packed(weight) => {
                let mut dx = Floats::unspecified(gradient.rows * inputs);
                kernels::matmul_packed(gradient, weight.t(), &mut dx, false, precision());
                dx
            }
        }
    }
}

/// `f(x W^T + b)` of x.
#[derive(Clone, Debug)]
struct FrozenLinear {
    map: Frozen,
    activation: Option<Activation>,
}

impl FrozenLinear {
    fn run(&self, x: &Array, activation: Option<Activation>) -> Array {
        let [rows, inputs, outputs] = extents(&x.shape(), &self.map.shape());
        with_last(x, self.map.forward(MatRef::new(x.data(), rows, inputs), activation), outputs)
    }
}

impl CpuOp<1> for FrozenLinear {
    fn forward(&self, [x]: [&Array; 1]) -> (Array, Vec<Array>) {
        // The slope is taken from what the activation saw.
        let inner = self.run(x, None);
        match self.activation {
            None => (inner, Vec::new()),
            Some(kind) => (Array::new(values(kind, inner.data()), inner.shape()), vec![inner]),
        }
    }

    fn infer(&self, [x]: [&Array; 1]) -> (Array, Vec<Array>) {
        (self.run(x, self.activation), Vec::new())
    }

    fn keeps(&self, _: [bool; 1]) -> ([bool; 1], bool) {
        ([false], false)
    }

    fn backward(&self, kept: &Kept<1>, grad: &Array, _: [bool; 1]) -> [Option<Array>; 1] {
        let [rows, _, outputs] = extents(kept.shape(0), &self.map.shape());
        let inner = self.activation.map(|kind| gradient(kind, kept.extra(0), grad.data()));
        let inner = inner.as_deref().unwrap_or(grad.data());
        let dx = self.map.backward(MatRef::new(inner, rows, outputs));
        [Some(Array::new(dx, kept.shape(0)))]
    }
}

/// `x W^T + b + scale (x A^T) B^T` of x, A and B.
#[derive(Clone, Debug)]
struct Adapted {
    map: Frozen,
    scale: f32,
}

impl Adapted {
    /// The product of two matrices, times the scale: what is as wide as the rank.
    fn scaled(&self, left: MatRef, right: MatRef, [rows, rank]: [usize; 2]) -> Array {
        let mut hidden = Floats::unspecified(rows * rank);
        kernels::matmul(left, right, &mut hidden, false, precision());
        if self.scale != 1.0 {
            hidden.iter_mut().for_each(|value| *value *= self.scale);
        }
        Array::new(hidden, [rows, rank])
    }
}

impl CpuOp<3> for Adapted {
    fn forward(&self, [x, down, up]: [&Array; 3]) -> (Array, Vec<Array>) {
        let [rows, inputs, outputs] = extents(&x.shape(), &self.map.shape());
        let rank = down.shape()[0];
        let left = MatRef::new(x.data(), rows, inputs);
        let mut y = self.map.forward(left, None);
        let hidden = self.scaled(left, MatRef::new(down.data(), rank, inputs).t(), [rows, rank]);
        let up = MatRef::new(up.data(), outputs, rank).t();
        kernels::matmul(MatRef::new(hidden.data(), rows, rank), up, &mut y, true, precision());
        (with_last(x, y, outputs), vec![hidden])
    }

    fn keeps(&self, [x, down, _]: [bool; 3]) -> ([bool; 3], bool) {
        ([down, x, x || down], false)
    }

    fn backward(&self, kept: &Kept<3>, grad: &Array, wanted: [bool; 3]) -> [Option<Array>; 3] {
        let [rows, inputs, outputs] = extents(kept.shape(0), &self.map.shape());
        let rank = kept.shape(1)[0];
        let gradient = MatRef::new(grad.data(), rows, outputs);
        let mut found = [const { None }; 3];
        if wanted[2] {
            let mut d_up = Floats::unspecified(outputs * rank);
            let hidden = MatRef::new(kept.extra(0), rows, rank);
            kernels::matmul(gradient.t(), hidden, &mut d_up, false, precision());
            found[2] = Some(Array::new(d_up, [outputs, rank]));
        }
        if !wanted[0] && !wanted[1] {
            return found;
        }
        let d_hidden = self.scaled(gradient, MatRef::new(kept.input(2), outputs, rank), [rows, rank]);
        let d_hidden = MatRef::new(d_hidden.data(), rows, rank);
        if wanted[1] {
            let mut d_down = Floats::unspecified(rank * inputs);
            let x = MatRef::new(kept.input(0), rows, inputs);
            kernels::matmul(d_hidden.t(), x, &mut d_down, false, precision());
            found[1] = Some(Array::new(d_down, [rank, inputs]));
        }
        if wanted[0] {
            let mut dx = self.map.backward(gradient);
            let down = MatRef::new(kept.input(1), rank, inputs);
            kernels::matmul(d_hidden, down, &mut dx, true, precision());
            found[0] = Some(Array::new(dx, kept.shape(0)));
        }
        found
    }
}

#[cfg(test)]
mod tests {
    use burn::tensor::Device;

    use super::*;
    use crate::ops::testing::{check, random};
    use crate::random::Random;

    fn plain(values: Vec<f32>, shape: [usize; 2]) -> Tensor<2> {
        Tensor::from_data(TensorData::new(values, shape), &Device::flex())
    }

    /// A packed weight and one that bf16 does not hold, both `(90, 70)`, and a bias.
    fn maps() -> ([Weight; 2], Tensor<1>) {
        let exact = (0..90 * 70).map(|index| (index * 37 % 255) as f32 / 64.0 - 2.0).collect();
        let exact = plain(exact, [90, 70]);
        let bias = plain((0..90).map(|index| index as f32 / 50.0 - 1.0).collect(), [1, 90]);
        let maps = [Weight::new(exact.clone()), Weight::new(exact * 1.001)];
        assert!(matches!(&maps, [Weight::Packed(_), Weight::Dense(_)]));
        (maps, bias.squeeze_dim::<1>(0))
    }

    /// The same weight as a tensor.
    fn dense(weight: &Weight) -> Tensor<2> {
        match weight {
            Weight::Dense(weight) => weight.clone(),
            Weight::Packed(weight) => plain(weight.unpacked_transpose(), [90, 70]),
        }
    }

    #[test]
    fn a_map_and_its_activation_agree_with_the_composed_form() {
        let (maps, bias) = maps();
        let x = random([2, 5, 70], 1);
        for weight in &maps {
            for (activation, bias) in [
                (None, Some(&bias)),
                (None, None),
                (Some(Activation::GeluTanh), Some(&bias)),
                (Some(Activation::GeluErf), None),
                (Some(Activation::Silu), Some(&bias)),
            ] {
                let composed = |x: Tensor<3>| {
                    let output = burn::tensor::module::linear(x, dense(weight).transpose(), bias.cloned());
                    activation.into_iter().fold(output, activated)
                };
                check(
                    &[&x],
                    |t| weight.linear_then::<3>(t.get(0), bias.cloned(), activation),
                    |t| composed(t.get(0)),
                );
                // Outside a graph the activation is part of the product.
                let flat = Random::new(5, 0).normal_tensor([3, 5, 70], &Device::flex());
                let difference =
                    weight.linear_then::<3>(flat.clone(), bias.cloned(), activation) - composed(flat);
                assert!(difference.abs().max().into_scalar::<f32>() < 2e-4);
            }
        }
    }

    #[test]
    fn a_trained_bias_of_a_packed_weight_gets_its_gradient() {
        let [x, bias] = [random([2, 5, 70], 1), random([90], 3)];
        let ([packed, _], _) = maps();
        check(
            &[&x, &bias],
            |t| packed.linear::<3>(t.get(0), Some(t.get(1))),
            |t| linear(t.get(0), dense(&packed), Some(t.get(1))),
        );
    }

    #[test]
    fn one_operation_agrees_with_the_map_and_its_residual() {
        let [x, down, up] = [random([2, 5, 70], 1), random([6, 70], 2), random([90, 6], 3)];
        let ([packed, dense], bias) = maps();
        for (weight, bias, scale) in [
            (&packed, Some(&bias), 0.7),
            (&packed, None, 1.0),
            (&dense, Some(&bias), -2.0),
            (&dense, None, 0.0),
        ] {
            check(
                &[&x, &down, &up],
                |t| weight.adapted::<3>(t.get(0), bias.cloned(), (t.get(1), t.get(2), scale)),
                |t| {
                    let output = linear::<3>(t.get(0), self::dense(weight), bias.cloned());
                    output + linear(linear(t.get(0), t.get(1), None), t.get(2), None) * scale
                },
            );
        }
    }

    #[test]
    fn a_trained_map_gets_its_gradient() {
        let [x, down, up] = [random([5, 7], 1), random([2, 7], 2), random([9, 2], 3)];
        let [weight, bias] = [random([9, 7], 4), random([9], 5)];
        check(
            &[&x, &down, &up, &weight, &bias],
            |t| {
                let residual = (t.get(1), t.get(2), 0.5);
                Weight::Dense(t.get(3)).adapted::<2>(t.get(0), Some(t.get(4)), residual)
            },
            |t| {
                let output = linear::<2>(t.get(0), t.get(3), Some(t.get(4)));
                output + linear(linear(t.get(0), t.get(1), None), t.get(2), None) * 0.5
            },
        );
    }
}
