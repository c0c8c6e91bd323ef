//! Comparing an operation with its composed form: the value, and the gradient of every input.

use burn::tensor::{Device, Tensor, TensorData};

use crate::random::Random;

/// A random input: shape and values.
pub(crate) struct Input {
    shape: Vec<usize>,
    values: Vec<f32>,
}

pub(crate) fn random<const D: usize>(shape: [usize; D], seed: u64) -> Input {
    Input { shape: shape.into(), values: Random::new(seed, 0).normals(shape.iter().product()) }
}

/// Flat tracked leaves, handed to an operation in the shapes it wants.
pub(crate) struct Leaves {
    flat: Vec<Tensor<1>>,
    shapes: Vec<Vec<usize>>,
}

impl Leaves {
    fn new(inputs: &[&Input]) -> Self {
        let leaf = |input: &&Input| {
            let data = TensorData::new(input.values.clone(), [input.values.len()]);
            Tensor::<1>::from_data(data, &Device::flex()).autodiff().require_grad()
        };
        Self {
            flat: inputs.iter().map(leaf).collect(),
            shapes: inputs.iter().map(|input| input.shape.clone()).collect(),
        }
    }

    pub(crate) fn get<const D: usize>(&self, index: usize) -> Tensor<D> {
        let shape: [usize; D] = self.shapes[index].clone().try_into().unwrap();
        self.flat[index].clone().reshape(shape)
    }
}

/// Asserts that both functions give the same value and the same gradients of all inputs.
pub(crate) fn check<const D: usize>(
    inputs: &[&Input],
    kernel: impl Fn(&Leaves) -> Tensor<D>,
    reference: impl Fn(&Leaves) -> Tensor<D>,
) {
    check_to(2e-5, inputs, kernel, reference);
}

/// The same to that part of the largest number.
pub(crate) fn check_to<const D: usize>(
    tolerance: f32,
    inputs: &[&Input],
    kernel: impl Fn(&Leaves) -> Tensor<D>,
    reference: impl Fn(&Leaves) -> Tensor<D>,
) {
    let run = |function: &dyn Fn(&Leaves) -> Tensor<D>| {
        let leaves = Leaves::new(inputs);
        let output = function(&leaves);
        let cotangent = Random::new(99, 1).normal_tensor(output.dims(), &Device::flex()).autodiff();
        let gradients = (output.clone() * cotangent).sum().backward();
        let mut values = vec![to_vec(output.without_autodiff().reshape([-1]))];
        values.extend(leaves.flat.iter().map(|leaf| to_vec(leaf.grad(&gradients).unwrap())));
        values
    };
    for (index, (found, expected)) in run(&kernel).into_iter().zip(run(&reference)).enumerate() {
        let scale = expected.iter().fold(1e-6_f32, |m, x| m.max(x.abs()));
        for (a, b) in found.iter().zip(&expected) {
            assert!((a - b).abs() <= tolerance * scale, "result {index}: {a} and {b}");
        }
    }
}

fn to_vec(tensor: Tensor<1>) -> Vec<f32> {
    tensor.into_data().try_into_vec().unwrap()
}
