//! Times the kernels on the shapes that training uses: `cargo bench -p understudy-kernels [-- NAME]` for
//! those whose name contains NAME. Of products, elements are floating-point operations.
#![allow(missing_docs)]

use std::time::Duration;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use understudy_kernels::*;

fn random(len: usize) -> Vec<f32> {
    let mut state = 1u64;
    (0..len)
        .map(|_| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            ((state >> 40) as f32 / (1 << 23) as f32) - 1.0
        })
        .collect()
}

/// Times `f`, which does so much work, under `name`, whose first word is its group.
fn time(criterion: &mut Criterion, name: &str, work: Throughput, mut f: impl FnMut()) {
    let mut group = criterion.benchmark_group(name.split(' ').next().unwrap_or(name));
    group.throughput(work);
    group.bench_function(name, |bencher| bencher.iter(&mut f));
}

/// Floating-point operations, shown as elements.
fn flops(count: f64) -> Throughput {
    Throughput::Elements(count as u64)
}

/// Bytes read and written.
fn moved(count: f64) -> Throughput {
    Throughput::Bytes(count as u64)
}

const BOTH: [(Precision, &str); 2] = [(Precision::F32, "f32"), (Precision::Bf16, "bf16")];

fn matrices(criterion: &mut Criterion) {
    for (m, k, n) in [
        (5120, 256, 1024),
        (5120, 1024, 256),
        (256, 5120, 1024),
        (1280, 256, 256),
        (320, 256, 256),
        (80, 256, 256),
        (1280, 1536, 1536),
        (2048, 1536, 8960),
    ] {
        let (a, b) = (random(m * k), random(k * n));
        let mut c = vec![0.0; m * n];
        let flop = 2.0 * (m * k * n) as f64;
        for (precision, name) in BOTH {
            // The deep product is a weight gradient: its left operand is stored transposed.
            let left = if k == 5120 { MatRef::new(&a, k, m).t() } else { MatRef::new(&a, m, k) };
            let right = MatRef::new(&b, k, n);
            time(criterion, &format!("matmul {m}x{k}x{n} {name}"), flops(flop), || {
                matmul(left, right, &mut c, false, precision);
            });
            if k != 5120 {
                let right = MatRef::new(&b, n, k).t();
                time(criterion, &format!("matmul {m}x{k}x{n} {name} b^T"), flops(flop), || {
                    matmul(left, right, &mut c, false, precision);
                });
            }
        }
        if k != 5120 {
            let packed = PackedB::new(MatRef::new(&b, k, n));
            let twice = PackedB::new(MatRef::new(&b, n, k));
            for (precision, name) in BOTH {
                for (right, way) in [(packed.view(), "packed"), (twice.t(), "packed b^T")] {
                    time(criterion, &format!("matmul {m}x{k}x{n} {name} {way}"), flops(flop), || {
                        matmul_packed(MatRef::new(&a, m, k), right, &mut c, false, precision);
                    });
                }
            }
        }
    }
}

/// A frozen map with its bias and activation, as feed-forward layers have it.
fn epilogues(criterion: &mut Criterion) {
    for (m, k, n) in [(5120, 256, 1024), (1280, 1536, 8960)] {
        let (a, b, bias) = (random(m * k), random(k * n), random(n));
        let packed = PackedB::new(MatRef::new(&b, k, n));
        let mut c = vec![0.0; m * n];
        let epilogue = Epilogue { bias: Some(&bias), activation: Some(Activation::GeluTanh) };
        for (precision, name) in BOTH {
            time(criterion, &format!("map {m}x{k}x{n} {name} gelu"), flops(2.0 * (m * k * n) as f64), || {
                matmul_packed_then(MatRef::new(&a, m, k), packed.view(), &mut c, epilogue, precision);
            });
        }
    }
}

fn attention(criterion: &mut Criterion) {
    for (batch, heads, tokens, dim) in
        [(4, 8, 1280, 32), (4, 4, 512, 96), (1, 12, 2048, 128), (20, 8, 64, 32)]
    {
        let shape =
            AttentionShape { batch, heads, q_tokens: tokens, k_tokens: tokens, dim, heads_inside: false };
        let n = batch * heads * tokens * dim;
        let (q, k, v, g) = (random(n), random(n), random(n), random(n));
        let flop = 4.0 * (n * tokens) as f64;
        for (precision, name) in BOTH {
            let label = |pass: &str| format!("attention {batch}x{heads}x{tokens}x{dim} {name} {pass}");
            time(criterion, &label("forward"), flops(flop), || {
                attention_forward(&q, &k, &v, shape, 0.1, None, None, precision);
            });
            let (out, lse) = attention_forward(&q, &k, &v, shape, 0.1, None, None, precision);
            time(criterion, &label("backward"), flops(2.5 * flop), || {
                attention_backward(&q, &k, &v, &out, &lse, &g, shape, 0.1, None, None, precision);
            });
        }
    }
}

fn convolutions(criterion: &mut Criterion) {
    let cube = |batch, channels, input, first| Conv3dShape {
        batch,
        in_channels: channels,
        out_channels: channels,
        input,
        kernel: [first, 3, 3],
        stride: [1; 3],
        pad_front: [first - 1, 1, 1],
        pad_back: [0, 1, 1],
    };
    for shape in [
        cube(4, 16, [17, 64, 64], 3),
        cube(4, 32, [9, 32, 32], 3),
        cube(8, 64, [5, 16, 16], 3),
        cube(1, 96, [8, 64, 64], 3),
        cube(2, 320, [1, 64, 64], 1),
    ] {
        let [d, h, w] = shape.input;
        let (ci, taps) = (shape.in_channels, shape.kernel.iter().product::<usize>());
        let (x, weight) = (random(shape.batch * ci * d * h * w), random(ci * ci * taps));
        let flop = 2.0 * (x.len() * ci * taps) as f64;
        for (precision, name) in BOTH {
            let label = |pass: &str| format!("conv3d {}x{ci}x{d}x{h}x{w} {name} {pass}", shape.batch);
            time(criterion, &label("forward"), flops(flop), || {
                conv3d_forward(&x, &weight, None, &shape, precision);
            });
            time(criterion, &label("backward-data"), flops(flop), || {
                conv3d_backward_data(&x, &weight, &shape, precision);
            });
            time(criterion, &label("backward-weight"), flops(flop), || {
                conv3d_backward_weight(&x, &x, &shape, precision);
            });
        }
    }
}

/// Convolutions and normalization of pictures whose channels lie together, as Stable Diffusion's UNet has
/// them.
fn pictures(criterion: &mut Criterion) {
    for (c, side) in [(320, 64), (640, 32), (1280, 8)] {
        let shape = Conv2dShape {
            batch: 2,
            inputs: c,
            outputs: c,
            extent: [side; 2],
            kernel: [3; 2],
            stride: 1,
            padding: 1,
        };
        let n = shape.batch * c * side * side;
        let (x, weight, bias) = (random(n), random(9 * c * c), random(c));
        let laid = ConvWeight::plain(&weight, [c; 2], [3; 2]);
        let flop = flops(18.0 * (n * c) as f64);
        let label = |pass: &str| format!("conv2d 2x{c}x{side}x{side} f32 {pass}");
        time(criterion, &label("forward"), flop.clone(), || {
            conv2d_forward(&x, &laid, &bias, &shape, Precision::F32);
        });
        time(criterion, &label("backward-data"), flop, || {
            conv2d_backward_data(&x, &weight, &shape, Precision::F32);
        });
        let scale = random(c);
        let params =
            GroupNormParams { batch: 2, groups: 32, weight: &scale, bias: &bias, eps: 1e-5, silu: true };
        let bytes = 4.0 * n as f64;
        time(criterion, &format!("group norm 2x{c}x{side}x{side} forward"), moved(2.0 * bytes), || {
            group_norm_forward(&x, &params);
        });
        let (_, [mean, rstd]) = group_norm_forward(&x, &params);
        time(criterion, &format!("group norm 2x{c}x{side}x{side} backward"), moved(3.0 * bytes), || {
            group_norm_backward(&x, &params, [&mean, &rstd], &x);
        });
    }
    let (rows, width) = (8192, 1280);
    let x = random(2 * rows * width);
    let mut y = vec![0.0; rows * width];
    let bytes = 4.0 * x.len() as f64;
    time(criterion, "geglu 8192x1280 forward", moved(1.5 * bytes), || geglu_forward(&x, width, &mut y));
}

fn elementwise(criterion: &mut Criterion) {
    let n = 18 << 20;
    let (x, g) = (random(n), random(n));
    let mut out = vec![0.0; n];
    let bytes = 4.0 * n as f64;
    for (kind, name) in
        [(Activation::GeluTanh, "gelu tanh"), (Activation::GeluErf, "gelu erf"), (Activation::Silu, "silu")]
    {
        time(criterion, &format!("{name} 18M forward"), moved(2.0 * bytes), || {
            activation_forward(kind, &x, &mut out)
        });
        time(criterion, &format!("{name} 18M backward"), moved(3.0 * bytes), || {
            activation_backward(kind, &x, &g, &mut out)
        });
    }
    let mut other = vec![0.0; n];
    time(criterion, "gated gelu 18M forward", moved(3.0 * bytes), || gated_gelu_forward(&x, &g, &mut out));
    time(criterion, "gated gelu 18M backward", moved(5.0 * bytes), || {
        gated_gelu_backward(&x, &g, &x, &mut out, &mut other)
    });
    time(criterion, "softmax 18M forward", moved(2.0 * bytes), || softmax_forward(&x, 1024, &mut out));
    time(criterion, "softmax 18M backward", moved(3.0 * bytes), || softmax_backward(&x, &g, 1024, &mut out));
    let (mut m, mut v) = (vec![0.0; n], vec![0.0; n]);
    let options =
        AdamW { lr: 1e-4, beta1: 0.9, beta2: 0.99, eps: 1e-8, weight_decay: 0.0, step: 1, grad_scale: 1.0 };
    time(criterion, "adamw 18M", moved(7.0 * bytes), || adamw_step(&options, &mut out, &mut m, &mut v, &g));
    time(criterion, "ema 18M", moved(3.0 * bytes), || ema_step(&mut m, &g, 0.99));
    time(criterion, "sum of squares 18M", moved(bytes), || {
        sum_squares(&x);
    });
    let mut narrow = vec![half::bf16::ZERO; n];
    time(criterion, "f32 to bf16 18M", moved(1.5 * bytes), || f32_to_bf16(&x, &mut narrow));
    time(criterion, "bf16 to f32 18M", moved(1.5 * bytes), || bf16_to_f32(&narrow, &mut out));
}

fn rows(criterion: &mut Criterion) {
    let (batch, tokens, c) = (4, 1280, 256);
    let n = batch * tokens * c;
    let bytes = 4.0 * n as f64;
    let (x, g, scale, weight) = (random(n), random(n), random(batch * c), random(c));
    let params = LayerNormParams {
        channels: c,
        rows_per_batch: tokens,
        scale: Some(&scale),
        shift: Some(&scale),
        weight: None,
        bias: None,
        eps: 1e-6,
    };
    let size = "4x1280x256";
    time(criterion, &format!("layer norm {size} forward"), moved(2.0 * bytes), || {
        layer_norm_modulate_forward(&x, &params);
    });
    let out = layer_norm_modulate_forward(&x, &params);
    time(criterion, &format!("layer norm {size} backward"), moved(3.0 * bytes), || {
        layer_norm_modulate_backward(&x, &params, &out.mean, &out.rstd, &g);
    });
    time(criterion, &format!("rms norm {size} forward"), moved(2.0 * bytes), || {
        rms_norm_forward(&x, &weight, 1e-6);
    });
    time(criterion, &format!("rms norm {size} backward"), moved(3.0 * bytes), || {
        rms_norm_backward(&x, &weight, 1e-6, &g);
    });
    let mut y = vec![0.0; n];
    time(criterion, &format!("gated add {size} forward"), moved(3.0 * bytes), || {
        gated_add_forward(&x, &g, &scale, batch, &mut y);
    });
    time(criterion, &format!("gated add {size} backward"), moved(3.0 * bytes), || {
        gated_add_backward(&x, &scale, batch, &g);
    });
    time(criterion, &format!("transpose heads {size} (8 heads)"), moved(2.0 * bytes), || {
        transpose_heads(&x, batch, tokens, 8, 32, &mut y);
    });
    let table = random(tokens * 16);
    for layout in [HeadLayout::HeadsFirst, HeadLayout::TokensFirst] {
        time(criterion, &format!("rope {size} {layout:?}"), moved(2.0 * bytes), || {
            rope(&x, layout, 8, tokens, (&table, &table), false, &mut y);
        });
    }
    let (n, c, spatial) = (4, 16, 17 * 64 * 64);
    let (x, g, gamma) = (random(n * c * spatial), random(n * c * spatial), random(c));
    let bytes = 4.0 * x.len() as f64;
    time(criterion, "channel rms norm 4x16x17x64x64 forward", moved(2.0 * bytes), || {
        channel_rms_norm_forward(&x, n, &gamma);
    });
    time(criterion, "channel rms norm 4x16x17x64x64 backward", moved(3.0 * bytes), || {
        channel_rms_norm_backward(&x, n, &gamma, &g);
    });
}

fn short() -> Criterion {
    Criterion::default()
        .sample_size(20)
        .warm_up_time(Duration::from_millis(200))
        .measurement_time(Duration::from_millis(800))
}

criterion_group! {
    name = operations;
    config = short();
    targets = matrices, epilogues, attention, convolutions, pictures, rows, elementwise
}
criterion_main!(operations);
