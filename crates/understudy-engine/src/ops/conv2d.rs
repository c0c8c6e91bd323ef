//! Convolutions over pictures whose channels lie together.

use std::sync::Arc;

use burn::tensor::module;
use burn::tensor::ops::ConvOptions;
use burn::tensor::{Tensor, TensorData};
use understudy_kernels as kernels;
use understudy_kernels::{Conv2dShape, ConvWeight};

use crate::cpu::{Array, CpuOp, Kept, Primitive, apply};
use crate::ops::{elsewhere, precision};

/// Stride and zero padding of a convolution, the same on both axes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Conv2dOptions {
    /// Between positions of the output.
    pub stride: usize,
    /// On each side of the input.
    pub padding: usize,
}

/// The weight of a convolution, `(outputs, inputs, rows, columns)`.
#[allow(clippy::large_enum_variant)] // There is one a convolution.
#[derive(Clone, Debug)]
pub enum Conv2dWeight {
    /// A tensor of any device, which may be trained.
    Dense(Tensor<4>),
    /// A frozen one of the CPU engine, laid out once for all products with it, in 16 bits where these hold
    /// every number.
    Packed(Arc<ConvWeight>),
}

impl Conv2dWeight {
    /// `tensor`, packed if it is a frozen one of the CPU engine.
    pub fn new(tensor: Tensor<4>) -> Self {
        let [outputs, inputs, rows, columns] = tensor.dims();
        match Array::frozen(&tensor) {
            Some(array) => {
                let packed = ConvWeight::narrow(array.data(), [outputs, inputs], [rows, columns]);
                Self::Packed(Arc::new(packed))
            }
            None => Self::Dense(elsewhere::kept(tensor)),
        }
    }

    /// Rows and columns of the kernel.
    pub fn kernel(&self) -> [usize; 2] {
        match self {
            Self::Dense(weight) => [weight.dims()[2], weight.dims()[3]],
            Self::Packed(weight) => weight.kernel(),
        }
    }

    /// `x (batch, rows, columns, inputs)` convolved with this weight, plus `bias (1 or batch, outputs)`;
    /// gives `(batch, rows', columns', outputs)`.
    pub fn conv2d(&self, x: Tensor<4>, bias: Tensor<2>, options: Conv2dOptions) -> Tensor<4> {
        let weight = match self {
            Self::Dense(weight) => return conv2d(x, weight.clone(), bias, options),
            Self::Packed(weight) => weight,
        };
        match (Primitive::of(&x), Primitive::of(&bias)) {
            (Some(x), Some(bias)) => {
                apply(PackedConv2d { weight: weight.clone(), options }, [x, bias]).into_tensor()
            }
            _ => {
                let shape = [weight.outputs(), weight.inputs(), weight.kernel()[0], weight.kernel()[1]];
                let dense = Tensor::from_data(TensorData::new(weight.unpacked(), shape), &x.device());
                composed(x, dense, bias, options)
            }
        }
    }
}

/// `x (batch, rows, columns, inputs)` convolved with `weight (outputs, inputs, rows, columns)`, plus `bias (1
/// or batch, outputs)`; gives `(batch, rows', columns', outputs)`.
pub fn conv2d(x: Tensor<4>, weight: Tensor<4>, bias: Tensor<2>, options: Conv2dOptions) -> Tensor<4> {
    match (Primitive::of(&x), Primitive::of(&weight), Primitive::of(&bias)) {
        (Some(x), Some(weight), Some(bias)) => apply(Conv2d(options), [x, weight, bias]).into_tensor(),
        _ => composed(x, weight, bias, options),
    }
}

fn composed(x: Tensor<4>, weight: Tensor<4>, bias: Tensor<2>, options: Conv2dOptions) -> Tensor<4> {
    let both = |value| [value; 2];
    let options = ConvOptions::new(both(options.stride), both(options.padding), [1, 1], 1);
    let (x, weight) = (elsewhere::operand(x.permute([0, 3, 1, 2])), elsewhere::operand(weight));
    let y = elsewhere::widened(module::conv2d(x, weight, None, options)).permute([0, 2, 3, 1]);
    let [items, outputs] = bias.dims();
    y + bias.reshape([items, 1, 1, outputs])
}

impl Conv2dOptions {
    fn shape(&self, x: &[usize], weight: &[usize]) -> Conv2dShape {
        Conv2dShape {
            batch: x[0],
            inputs: x[3],
            outputs: weight[0],
            extent: [x[1], x[2]],
            kernel: [weight[2], weight[3]],
            stride: self.stride,
            padding: self.padding,
        }
    }
}

fn forward(x: &Array, weight: &ConvWeight, bias: &Array, shape: &Conv2dShape) -> (Array, Vec<Array>) {
    let y = kernels::conv2d_forward(x.data(), weight, bias.data(), shape, precision());
    let [rows, columns] = shape.output();
    (Array::new(y, [shape.batch, rows, columns, shape.outputs]), Vec::new())
}

/// The gradient of a bias of this `shape` (1 or batch, outputs): sums over positions, added in order.
fn bias_gradient(grad: &Array, shape: &[usize]) -> Array {
    let [items, outputs] = [shape[0], shape[1]];
    let mut sums = vec![0.0; items * outputs];
    for (sums, grad) in sums.chunks_exact_mut(outputs).zip(grad.data().chunks_exact(grad.len() / items)) {
        for grad in grad.chunks_exact(outputs) {
            sums.iter_mut().zip(grad).for_each(|(sum, grad)| *sum += grad);
        }
    }
    Array::new(sums, shape)
}

#[derive(Clone, Debug)]
struct Conv2d(Conv2dOptions);

impl CpuOp<3> for Conv2d {
    fn forward(&self, [x, weight, bias]: [&Array; 3]) -> (Array, Vec<Array>) {
        let shape = self.0.shape(&x.shape(), &weight.shape());
        let weight = ConvWeight::plain(weight.data(), [shape.outputs, shape.inputs], shape.kernel);
        forward(x, &weight, bias, &shape)
    }

    fn keeps(&self, wanted: [bool; 3]) -> ([bool; 3], bool) {
        ([wanted[1], wanted[0], false], false)
    }

    fn backward(&self, kept: &Kept<3>, grad: &Array, wanted: [bool; 3]) -> [Option<Array>; 3] {
        let shape = self.0.shape(kept.shape(0), kept.shape(1));
        let dx = || kernels::conv2d_backward_data(grad.data(), kept.input(1), &shape, precision());
        let dw = || kernels::conv2d_backward_weight(kept.input(0), grad.data(), &shape, precision());
        [
            wanted[0].then(|| Array::new(dx(), kept.shape(0))),
            wanted[1].then(|| Array::new(dw(), kept.shape(1))),
            wanted[2].then(|| bias_gradient(grad, kept.shape(2))),
        ]
    }
}

/// [`Conv2d`] with a weight packed before, which gets no gradient.
#[derive(Clone, Debug)]
struct PackedConv2d {
    weight: Arc<ConvWeight>,
    options: Conv2dOptions,
}

impl PackedConv2d {
    fn shape(&self, x: &[usize]) -> Conv2dShape {
        let [rows, columns] = self.weight.kernel();
        self.options.shape(x, &[self.weight.outputs(), self.weight.inputs(), rows, columns])
    }
}

impl CpuOp<2> for PackedConv2d {
    fn forward(&self, [x, bias]: [&Array; 2]) -> (Array, Vec<Array>) {
        forward(x, &self.weight, bias, &self.shape(&x.shape()))
    }

    fn keeps(&self, _: [bool; 2]) -> ([bool; 2], bool) {
        ([false; 2], false)
    }

    fn backward(&self, kept: &Kept<2>, grad: &Array, wanted: [bool; 2]) -> [Option<Array>; 2] {
        let shape = self.shape(kept.shape(0));
        let dx = || kernels::conv2d_backward_data(grad.data(), &self.weight.unpacked(), &shape, precision());
        [
            wanted[0].then(|| Array::new(dx(), kept.shape(0))),
            wanted[1].then(|| bias_gradient(grad, kept.shape(1))),
        ]
    }
}

#[cfg(test)]
mod tests {
    use burn::tensor::Device;

    use super::*;
    use crate::ops::testing::{check, random};

    #[test]
    fn kernels_agree_with_the_composed_form() {
        let x = random([2, 6, 9, 16], 1);
        for (side, options) in [
            (3, Conv2dOptions { stride: 1, padding: 1 }),
            (3, Conv2dOptions { stride: 2, padding: 1 }),
            (1, Conv2dOptions { stride: 1, padding: 0 }),
        ] {
            let weight = random([5, 16, side, side], 2);
            let frozen: Tensor<4> =
                crate::random::Random::new(8, 0).normal_tensor([5, 16, side, side], &Device::flex());
            for bias in [random([1, 5], 3), random([2, 5], 4)] {
                check(
                    &[&x, &weight, &bias],
                    |t| conv2d(t.get(0), t.get(1), t.get(2), options),
                    |t| composed(t.get(0), t.get(1), t.get(2), options),
                );
                let packed = Conv2dWeight::new(frozen.clone());
                assert!(matches!(packed, Conv2dWeight::Packed(_)));
                check(
                    &[&x, &bias],
                    |t| packed.conv2d(t.get(0), t.get(1), options),
                    |t| composed(t.get(0), frozen.clone(), t.get(1), options),
                );
            }
        }
    }

    #[test]
    fn what_is_trained_or_not_there_is_not_packed() {
        let dense = |weight: Tensor<4>| matches!(Conv2dWeight::new(weight), Conv2dWeight::Dense(_));
        let device = Device::flex();
        assert!(dense(Tensor::<4>::ones([4, 4, 3, 3], &device).autodiff().require_grad()));
        assert!(dense(Tensor::<4>::zeros([1; 4], &device).expand([1 << 10, 1 << 10, 3, 3])));
    }
}
