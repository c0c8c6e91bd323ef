//! What rounding operands to bf16 costs. A test of its own: the switch is the whole process's.
#![allow(missing_docs, clippy::unwrap_used)]

use burn::tensor::{Device, Tensor};
use understudy_engine::host::values;
use understudy_engine::ops::{self, Activation, Conv3dOptions, Products, Weight};
use understudy_engine::random::Random;

/// bf16 has 8 bits: a product of rounded operands is off by some 2^-9, and sums of such products by no more.
const TOLERANCE: f64 = 1e-2;

fn normal<const D: usize>(shape: [usize; D], seed: u64) -> Tensor<D> {
    Random::new(seed, 0).normal_tensor(shape, &Device::flex())
}

/// The value of `function` and the gradients of `inputs`, all of them flat.
fn results<const D: usize>(
    inputs: &[Tensor<D>],
    function: &dyn Fn(&[Tensor<D>]) -> Tensor<D>,
) -> Vec<Vec<f32>> {
    let leaves: Vec<Tensor<D>> = inputs.iter().map(|own| own.clone().autodiff().require_grad()).collect();
    let output = function(&leaves);
    let cotangent = normal(output.dims(), 99).autodiff();
    let gradients = (output.clone() * cotangent).sum().backward();
    let leaves = leaves.iter().map(|leaf| values(leaf.grad(&gradients).unwrap()));
    std::iter::once(values(output.without_autodiff())).chain(leaves).collect()
}

fn check<const D: usize>(what: &str, inputs: &[Tensor<D>], function: impl Fn(&[Tensor<D>]) -> Tensor<D>) {
    let [whole, rounded] = [false, true].map(|on| {
        let _products = Products::rounded(on).scope();
        results(inputs, &function)
    });
    for (index, (a, b)) in whole.iter().zip(&rounded).enumerate() {
        let length = |x: &mut dyn Iterator<Item = f32>| x.map(|x| f64::from(x).powi(2)).sum::<f64>().sqrt();
        let difference = length(&mut a.iter().zip(b).map(|(a, b)| a - b)) / length(&mut a.iter().copied());
        assert!(difference < TOLERANCE, "{what}, result {index}: {difference}");
        assert!(difference > 0.0, "{what}, result {index}: nothing is rounded");
    }
}

#[test]
fn values_and_gradients_stay_near_those_of_f32() {
    // Neither bf16 nor packed.
    let weight = Weight::new(normal([96, 64], 1) * 1.001);
    check("map", &[normal([200, 64], 2)], |t| {
        weight.linear_then(t[0].clone(), None, Some(Activation::GeluTanh))
    });
    check("residual", &[normal([200, 64], 2), normal([8, 64], 3), normal([96, 8], 4)], |t| {
        weight.adapted(t[0].clone(), None, (t[1].clone(), t[2].clone(), 0.5))
    });
    check("attention", &[normal([2, 70, 64], 5), normal([2, 90, 64], 6), normal([2, 90, 64], 7)], |t| {
        ops::multi_head_attention(t[0].clone() * 0.5, t[1].clone() * 0.5, t[2].clone(), 2, 1)
    });
    check("convolution", &[normal([1, 16, 4, 9, 9], 8), normal([24, 16, 3, 3, 3], 9)], |t| {
        let options = Conv3dOptions { stride: [1; 3], padding: [(2, 0), (1, 1), (1, 1)] };
        ops::conv3d(t[0].clone(), t[1].clone(), None, options)
    });
}
