//! What only an NVIDIA GPU can show: `cargo test --release -p understudy-engine --features cuda --
//! --ignored`.

#![cfg(feature = "cuda")]
#![allow(missing_docs)]

use burn::backend::ops::{AttentionModuleOptions, FloatTensorOps};
use burn::tensor::{Device, Tensor, TensorData};
use burn_cubecl::kernel::attention::flash_attention;
use burn_cubecl::{CubeBackend, CubeDevice};
use cubek::attention::forward::launch::{BlueprintStrategy, Strategy};
use cubek::attention::forward::routines::blackbox_accelerated::BlackboxAcceleratedStrategy;
use understudy_engine::ops::{self, Products};
use understudy_engine::random::Random;

/// Heads of a batch, their width, queries of a slice and keys: Wan 2.1 1.3B at 480x832 with 81 frames, alone
/// and with guidance, and its text; `nano`; and Stable Diffusion 1.5 at 512x512 where its heads are whole
/// tiles.
const SHAPES: [[usize; 4]; 6] = [
    [12, 128, 2688, 32_760],
    [24, 128, 1280, 32_760],
    [12, 128, 2688, 512],
    [8, 64, 384, 320],
    [16, 80, 1024, 1024],
    [16, 160, 256, 256],
];

#[test]
#[ignore = "needs an NVIDIA GPU"]
fn the_fast_attention_kernel_takes_the_shapes_of_the_bases() {
    let device = CubeDevice::from(burn::backend::cuda::CudaDevice::default());
    for [heads, dim, queries, keys] in SHAPES {
        let tensor = |tokens: usize| {
            let values = Random::new(tokens as u64, 0).normals(heads * tokens * dim);
            CubeBackend::float_from_data(TensorData::new(values, [1, heads, tokens, dim]), &device)
        };
        let launched = |num_planes| {
            let strategy = BlackboxAcceleratedStrategy { num_planes, seq_q: 1, seq_kv: 1 };
            let strategy = Strategy::BlackboxAccelerated(BlueprintStrategy::Inferred(strategy));
            let options = AttentionModuleOptions::default();
            flash_attention(tensor(queries), tensor(keys), tensor(keys), None, None, options, strategy)
        };
        let found = [2, 4, 8].map(launched);
        let taken = found.iter().any(Result::is_ok);
        assert!(
            taken,
            "{heads} heads of {dim}, {queries} queries, {keys} keys: {:?}",
            found[0].as_ref().err()
        );
    }
}

/// The value of `function` and the gradients of its inputs, all of them flat.
fn results<const D: usize>(
    inputs: &[[usize; D]],
    device: &Device,
    function: impl Fn(&[Tensor<D>]) -> Tensor<D>,
) -> Vec<Vec<f32>> {
    let leaf = |(index, shape): (usize, &[usize; D])| {
        Random::new(index as u64, 0).normal_tensor(*shape, device).autodiff().require_grad()
    };
    let leaves: Vec<Tensor<D>> = inputs.iter().enumerate().map(leaf).collect();
    let output = function(&leaves);
    let cotangent = Random::new(99, 1).normal_tensor(output.dims(), device).autodiff();
    let gradients = (output.clone() * cotangent).sum().backward();
    let values = |tensor: Tensor<D>| tensor.into_data().try_into_vec::<f32>().expect("f32");
    let leaves = leaves.iter().map(|leaf| values(leaf.grad(&gradients).expect("a gradient")));
    std::iter::once(values(output.without_autodiff())).chain(leaves).collect()
}

fn assert_near<const D: usize>(inputs: &[[usize; D]], function: impl Fn(&[Tensor<D>]) -> Tensor<D>) {
    let [here, there] = [Device::flex(), Device::cuda(0)].map(|device| results(inputs, &device, &function));
    for (index, (a, b)) in here.into_iter().zip(there).enumerate() {
        let [dot, aa, bb] = [(&a, &b), (&a, &a), (&b, &b)]
            .map(|(a, b)| a.iter().zip(b).map(|(x, y)| f64::from(*x) * f64::from(*y)).sum::<f64>());
        let cosine = dot / (aa * bb).sqrt();
        assert!(cosine > 0.999, "result {index}: cosine {cosine}");
    }
}

/// Values far from one another stay finite: the kernel's operands have 16 bits, of which the range is short.
#[test]
#[ignore = "needs an NVIDIA GPU"]
fn attention_of_large_numbers_is_finite() {
    let device = Device::cuda(0);
    let tensor = |seed, size| Random::new(seed, 0).normal_tensor::<3>([1, 512, 256], &device) * size;
    // Large values; and scores beyond what 16 bits hold.
    for [of_scores, of_values] in [[1.0, 1e4], [1e3, 1.0]] {
        let [q, k] = [1, 2].map(|seed| tensor(seed, of_scores));
        let output = ops::multi_head_attention(q, k, tensor(3, of_values), 2, 1);
        let values = output.into_data().try_into_vec::<f32>().expect("f32");
        assert!(values.iter().all(|value| value.is_finite()), "scores {of_scores}, values {of_values}");
    }
}

/// In f32, where the GPU's products have 10 bits, and with operands in bf16.
#[test]
#[ignore = "needs an NVIDIA GPU"]
fn products_and_attention_agree_with_the_cpu() {
    for bf16 in [false, true] {
        let _products = Products::rounded(bf16).scope();
        assert_near(&[[1, 300, 256], [1, 70, 256], [1, 70, 256]], |t| {
            ops::multi_head_attention(t[0].clone(), t[1].clone(), t[2].clone(), 2, 1)
        });
        assert_near(&[[300, 256], [512, 256]], |t| ops::linear(t[0].clone(), t[1].clone(), None));
    }
}
