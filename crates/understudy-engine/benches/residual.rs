//! Times a frozen map with a low-rank residual, and a step through it: `cargo bench -p understudy-engine`.
//! Elements are floating-point operations.
#![allow(missing_docs)]

use std::time::Duration;

use burn::tensor::{Device, Tensor};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use understudy_engine::ops::{Products, Weight};
use understudy_engine::random::Random;

const RANK: usize = 16;

fn residuals(criterion: &mut Criterion) {
    let device = Device::flex();
    let normal = |shape: [usize; 2], seed| Random::new(seed, 0).normal_tensor::<2>(shape, &device);
    for [rows, inputs, outputs] in [[5120, 256, 1024], [1280, 1536, 1536]] {
        for (bf16, name) in [(false, "f32"), (true, "bf16")] {
            let _products = Products::rounded(bf16).scope();
            let [x, down, up] = [([rows, inputs], 1), ([RANK, inputs], 2), ([outputs, RANK], 3)]
                .map(|(shape, seed)| normal(shape, seed));
            // As the weights of published files are: bf16 holds them.
            let held = (normal([outputs, inputs], 4).clamp(-3.9, 3.9) * 64.0).round() / 64.0;
            let weight = Weight::new(held);
            assert!(matches!(weight, Weight::Packed(_)));
            let flop = 2.0 * (rows * (inputs * outputs + RANK * (inputs + outputs))) as f64;
            let mut group = criterion.benchmark_group("residual");
            group.throughput(Throughput::Elements(flop as u64));
            group.bench_function(format!("residual {rows}x{inputs}x{outputs} {name} forward"), |bencher| {
                bencher.iter(|| weight.adapted(x.clone(), None, (down.clone(), up.clone(), 0.5)).into_data())
            });
            let leaf = |tensor: &Tensor<2>| tensor.clone().autodiff().require_grad();
            group.throughput(Throughput::Elements(3 * flop as u64));
            group.bench_function(format!("residual {rows}x{inputs}x{outputs} {name} step"), |bencher| {
                bencher.iter(|| {
                    let leaves = [&x, &down, &up].map(leaf);
                    let [x, down, up] = leaves.clone();
                    let gradients = weight.adapted(x, None, (down, up, 0.5)).sum().backward();
                    leaves.map(|leaf| leaf.grad(&gradients).map(Tensor::into_data))
                })
            });
        }
    }
}

criterion_group! {
    name = operations;
    config = Criterion::default()
        .sample_size(20)
        .warm_up_time(Duration::from_millis(200))
        .measurement_time(Duration::from_millis(800));
    targets = residuals
}
criterion_main!(operations);
