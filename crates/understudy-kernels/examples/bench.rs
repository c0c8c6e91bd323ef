//! Times the kernels on the shapes that training uses: `cargo run --release -p understudy-kernels --example bench
//! [NAME]` prints medians in milliseconds, and GFLOP/s or GB/s, for the lines whose name contains NAME.

use std::time::Instant;
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

fn wanted(name: &str) -> bool {
    std::env::args().nth(1).is_none_or(|wanted| name.contains(&wanted))
}

/// Prints the median and the least time of `f`, and `amount` (in 1e9 of `unit`) over the median.
fn time(name: &str, amount: f64, unit: &str, mut f: impl FnMut()) {
    if !wanted(name) {
        return;
    }
    f();
    let start = Instant::now();
    let mut times = Vec::new();
    while times.len() < 5 || (start.elapsed().as_secs_f64() < 0.4 && times.len() < 200) {
        let start = Instant::now();
        f();
        times.push(start.elapsed().as_secs_f64());
    }
    times.sort_by(f64::total_cmp);
    let median = times[times.len() / 2];
    let (ms, least) = (median * 1e3, times[0] * 1e3);
    println!("{name:<52} {ms:9.3} ms  (least {least:8.3})  {:9.1} {unit}", amount / median / 1e9);
}

const BOTH: [(Precision, &str); 2] = [(Precision::F32, "f32"), (Precision::Bf16, "bf16")];

fn matrices() {
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
            time(&format!("matmul {m}x{k}x{n} {name}"), flop, "GFLOP/s", || {
                matmul(left, right, &mut c, false, precision);
            });
            if k != 5120 {
                let right = MatRef::new(&b, n, k).t();
                time(&format!("matmul {m}x{k}x{n} {name} b^T"), flop, "GFLOP/s", || {
                    matmul(left, right, &mut c, false, precision);
                });
            }
        }
        if k != 5120 {
            let packed = PackedB::new(MatRef::new(&b, k, n));
            time(&format!("matmul {m}x{k}x{n} packed"), flop, "GFLOP/s", || {
                matmul_packed(MatRef::new(&a, m, k), &packed, &mut c, false);
            });
        }
    }
}

fn attention() {
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
            time(&label("forward"), flop, "GFLOP/s", || {
                attention_forward(&q, &k, &v, shape, 0.1, None, None, precision);
            });
            if !wanted(&label("backward")) {
                continue;
            }
            let (out, lse) = attention_forward(&q, &k, &v, shape, 0.1, None, None, precision);
            time(&label("backward"), 2.5 * flop, "GFLOP/s", || {
                attention_backward(&q, &k, &v, &out, &lse, &g, shape, 0.1, None, None, precision);
            });
        }
    }
}

fn convolutions() {
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
            time(&label("forward"), flop, "GFLOP/s", || {
                conv3d_forward(&x, &weight, None, &shape, precision);
            });
            time(&label("backward-data"), flop, "GFLOP/s", || {
                conv3d_backward_data(&x, &weight, &shape, precision);
            });
            time(&label("backward-weight"), flop, "GFLOP/s", || {
                conv3d_backward_weight(&x, &x, &shape, precision);
            });
        }
    }
}

fn elementwise() {
    let n = 18 << 20;
    let (x, g) = (random(n), random(n));
    let mut out = vec![0.0; n];
    let bytes = 4.0 * n as f64;
    for (kind, name) in
        [(Activation::GeluTanh, "gelu tanh"), (Activation::GeluErf, "gelu erf"), (Activation::Silu, "silu")]
    {
        time(&format!("{name} 18M forward"), 2.0 * bytes, "GB/s", || activation_forward(kind, &x, &mut out));
        time(&format!("{name} 18M backward"), 3.0 * bytes, "GB/s", || {
            activation_backward(kind, &x, &g, &mut out)
        });
    }
    let mut other = vec![0.0; n];
    time("gated gelu 18M forward", 3.0 * bytes, "GB/s", || gated_gelu_forward(&x, &g, &mut out));
    time("gated gelu 18M backward", 5.0 * bytes, "GB/s", || {
        gated_gelu_backward(&x, &g, &x, &mut out, &mut other)
    });
    time("softmax 18M forward", 2.0 * bytes, "GB/s", || softmax_forward(&x, 1024, &mut out));
    time("softmax 18M backward", 3.0 * bytes, "GB/s", || softmax_backward(&x, &g, 1024, &mut out));
    let (mut m, mut v) = (vec![0.0; n], vec![0.0; n]);
    let options =
        AdamW { lr: 1e-4, beta1: 0.9, beta2: 0.99, eps: 1e-8, weight_decay: 0.0, step: 1, grad_scale: 1.0 };
    time("adamw 18M", 7.0 * bytes, "GB/s", || adamw_step(&options, &mut out, &mut m, &mut v, &g));
    time("ema 18M", 3.0 * bytes, "GB/s", || ema_step(&mut m, &g, 0.99));
    time("sum of squares 18M", bytes, "GB/s", || {
        sum_squares(&x);
    });
    let mut narrow = vec![half::bf16::ZERO; n];
    time("f32 to bf16 18M", 1.5 * bytes, "GB/s", || f32_to_bf16(&x, &mut narrow));
    time("bf16 to f32 18M", 1.5 * bytes, "GB/s", || bf16_to_f32(&narrow, &mut out));
}

fn rows() {
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
    time(&format!("layer norm {size} forward"), 2.0 * bytes, "GB/s", || {
        layer_norm_modulate_forward(&x, &params);
    });
    let out = layer_norm_modulate_forward(&x, &params);
    time(&format!("layer norm {size} backward"), 3.0 * bytes, "GB/s", || {
        layer_norm_modulate_backward(&x, &params, &out.mean, &out.rstd, &g);
    });
    time(&format!("rms norm {size} forward"), 2.0 * bytes, "GB/s", || {
        rms_norm_forward(&x, &weight, 1e-6);
    });
    time(&format!("rms norm {size} backward"), 3.0 * bytes, "GB/s", || {
        rms_norm_backward(&x, &weight, 1e-6, &g);
    });
    let mut y = vec![0.0; n];
    time(&format!("gated add {size} forward"), 3.0 * bytes, "GB/s", || {
        gated_add_forward(&x, &g, &scale, batch, &mut y);
    });
    time(&format!("gated add {size} backward"), 3.0 * bytes, "GB/s", || {
        gated_add_backward(&x, &scale, batch, &g);
    });
    time(&format!("transpose heads {size} (8 heads)"), 2.0 * bytes, "GB/s", || {
        transpose_heads(&x, batch, tokens, 8, 32, &mut y);
    });
    let table = random(tokens * 16);
    for layout in [HeadLayout::HeadsFirst, HeadLayout::TokensFirst] {
        time(&format!("rope {size} {layout:?}"), 2.0 * bytes, "GB/s", || {
            rope(&x, layout, 8, tokens, (&table, &table), false, &mut y);
        });
    }
    let (n, c, spatial) = (4, 16, 17 * 64 * 64);
    let (x, g, gamma) = (random(n * c * spatial), random(n * c * spatial), random(c));
    let bytes = 4.0 * x.len() as f64;
    time("channel rms norm 4x16x17x64x64 forward", 2.0 * bytes, "GB/s", || {
        channel_rms_norm_forward(&x, n, &gamma);
    });
    time("channel rms norm 4x16x17x64x64 backward", 3.0 * bytes, "GB/s", || {
        channel_rms_norm_backward(&x, n, &gamma, &g);
    });
}

fn main() {
    matrices();
    attention();
    convolutions();
    rows();
    elementwise();
}
