use super::*;
use crate::testing::{bits, close, random, same_for_any_thread_count, to_f64};

const ALL: [Activation; 5] =
    [Activation::GeluTanh, Activation::GeluErf, Activation::Silu, Activation::Sigmoid, Activation::Tanh];

/// Standard normal distribution function by series near 0 and continued fraction in the tail.
fn cdf(x: f64) -> f64 {
    let z = x.abs();
    let density = (-0.5 * z * z).exp() / std::f64::consts::TAU.sqrt();
    let upper = if z < 3.0 {
        let (mut term, mut sum) = (z, z);
        for k in 1..200 {
            term *= z * z / (2 * k + 1) as f64;
            sum += term;
        }
        0.5 - density * sum
    } else {
        let mut f = 0.0;
        for k in (1..300).rev() {
            f = k as f64 / (z + f);
        }
        density / (z + f)
    };
    if x < 0.0 { upper } else { 1.0 - upper }
}

fn reference(kind: Activation, x: f64) -> f64 {
    match kind {
        Activation::GeluTanh => {
            let u = (8.0 / std::f64::consts::PI).sqrt() * (x + 0.044715 * x * x * x);
            x / (1.0 + (-u).exp())
        }
        Activation::GeluErf => x * cdf(x),
        Activation::Silu => x / (1.0 + (-x).exp()),
        Activation::Sigmoid => 1.0 / (1.0 + (-x).exp()),
        Activation::Tanh => x.tanh(),
    }
}

/// Points from tiny to large, both signs, an odd number of them.
fn points() -> Vec<f32> {
    let mut x: Vec<f32> = (-500..=500).map(|i| i as f32 * 0.0101).collect();
    x.extend(random(1, 2000).iter().map(|v| 0.2 * v));
    x.extend([0.0, 1e-6, -1e-6, 1e-20, 8.0, 20.0, 60.0, 100.0, 1e4, -20.0, -60.0, -100.0, -1e4]);
    x
}

#[test]
fn relative_error_is_below_two_millionths() {
    let x = points();
    for kind in ALL {
        for isa in Isa::available() {
            let mut y = vec![0.0; x.len()];
            forward(isa, kind, &x, &mut y);
            for (&x, &y) in x.iter().zip(&y) {
                let want = reference(kind, x as f64);
                // Far in the tail the rounding of the exponent itself is larger; the values there are tiny.
                let bound = 2e-6 * want.abs().max(1e-4 * x.abs().min(1.0) as f64) + 1e-37;
                assert!((y as f64 - want).abs() <= bound, "{kind:?} {isa:?} at {x}: {y}, want {want}");
            }
        }
    }
}

#[test]
fn gradients_agree_with_differences() {
    let x = points();
    let g = random(2, x.len());
    for kind in ALL {
        for isa in Isa::available() {
            let mut dx = vec![0.0; x.len()];
            backward(isa, kind, &x, &g, &mut dx);
            for ((&x, &g), &d) in x.iter().zip(&g).zip(&dx) {
                let h = 1e-5;
                let slope = (reference(kind, x as f64 + h) - reference(kind, x as f64 - h)) / (2.0 * h);
                let want = slope * g as f64;
                let bound = 2e-6 * want.abs() + 1e-6 * g.abs() as f64;
                assert!((d as f64 - want).abs() <= bound, "{kind:?} {isa:?} at {x}: {d}, want {want}");
            }
        }
    }
}

#[test]
fn nan_stays() {
    for kind in ALL {
        let mut y = [0.0; 2];
        activation_forward(kind, &[f32::NAN, 1.0], &mut y);
        assert!(y[0].is_nan() && y[1].is_finite(), "{kind:?}");
    }
}

#[test]
fn gated_gelu_both_ways() {
    let n = 1003;
    let (a, b, g) = (random(1, n), random(2, n), random(3, n));
    let (mut out, mut da, mut db) = (vec![0.0; n], vec![0.0; n], vec![0.0; n]);
    gated_gelu_forward(&a, &b, &mut out);
    gated_gelu_backward(&a, &b, &g, &mut da, &mut db);
    let gelu = |x: f64| reference(Activation::GeluTanh, x);
    let want = |f: &dyn Fn(f64, f64, f64) -> f64| -> Vec<f64> {
        (0..n).map(|i| f(a[i] as f64, b[i] as f64, g[i] as f64)).collect()
    };
    close(&out, &want(&|a, b, _| gelu(a) * b), 2e-6);
    close(&da, &want(&|a, b, g| (gelu(a + 1e-5) - gelu(a - 1e-5)) / 2e-5 * b * g), 2e-6);
    close(&db, &want(&|a, _, g| gelu(a) * g), 2e-6);
    let run = |isa| {
        let (mut out, mut da, mut db) = (vec![0.0; n], vec![0.0; n], vec![0.0; n]);
        gated_forward(isa, &a, &b, &mut out);
        gated_backward(isa, &a, &b, &g, &mut da, &mut db);
        [out, da, db].concat()
    };
    let want = to_f64(&run(Isa::Scalar));
    Isa::available().into_iter().for_each(|isa| close(&run(isa), &want, 2e-6));
}

fn softmax_reference(x: &[f64], cols: usize) -> Vec<f64> {
    x.chunks_exact(cols)
        .flat_map(|row| {
            let sum: f64 = row.iter().map(|v| v.exp()).sum();
            row.iter().map(move |v| v.exp() / sum).collect::<Vec<_>>()
        })
        .collect()
}

#[test]
fn softmax_both_ways() {
    for (rows, cols) in [(1, 1), (3, 5), (2, 32), (4, 77), (1, 1000)] {
        let x: Vec<f32> = random(1, rows * cols).iter().map(|v| 5.0 * v).collect();
        let g = random(2, rows * cols);
        let want = softmax_reference(&to_f64(&x), cols);
        for isa in Isa::available() {
            let (mut y, mut dx) = (vec![0.0; x.len()], vec![0.0; x.len()]);
            softmax_rows(isa, &x, cols, &mut y);
            close(&y, &want, 2e-6);
            softmax_rows_backward(isa, &y, &g, cols, &mut dx);
            let slope: Vec<f64> = (0..x.len())
                .map(|i| {
                    let row = i / cols * cols..(i / cols + 1) * cols;
                    let dot: f64 = row.map(|j| want[j] * g[j] as f64).sum();
                    want[i] * (g[i] as f64 - dot)
                })
                .collect();
            close(&dx, &slope, 1e-5);
        }
    }
    let mut y = [1.0; 3];
    softmax_forward(&[f32::NEG_INFINITY; 3], 3, &mut y);
    assert_eq!(y, [0.0; 3]);
}

#[test]
fn thread_count_does_not_matter() {
    let (x, g) = (random(1, 100_000), random(2, 100_000));
    same_for_any_thread_count(
        || {
            let (mut y, mut dx, mut s) = (vec![0.0; x.len()], vec![0.0; x.len()], vec![0.0; x.len()]);
            activation_forward(Activation::GeluTanh, &x, &mut y);
            activation_backward(Activation::GeluErf, &x, &g, &mut dx);
            softmax_forward(&x, 1000, &mut s);
            let mut t = vec![0.0; x.len()];
            softmax_backward(&s, &g, 1000, &mut t);
            [y, dx, s, t].concat()
        },
        |y| bits(y),
    );
}

#[test]
fn geglu_both_ways() {
    let (width, rows) = (37, 500);
    let (x, g) = (random(1, rows * 2 * width), random(2, rows * width));
    let x: Vec<f32> = x.iter().map(|x| 3.0 * x).collect();
    let (mut want, mut want_dx) = (vec![0.0; g.len()], vec![0.0; x.len()]);
    for at in 0..g.len() {
        let first = at / width * 2 * width + at % width;
        let (value, gate) = (x[first] as f64, x[first + width] as f64);
        let density = (-0.5 * gate * gate).exp() / std::f64::consts::TAU.sqrt();
        want[at] = value * gate * cdf(gate);
        want_dx[first] = g[at] as f64 * gate * cdf(gate);
        want_dx[first + width] = g[at] as f64 * value * (cdf(gate) + gate * density);
    }
    let (mut out, mut dx) = (vec![0.0; g.len()], vec![0.0; x.len()]);
    geglu_forward(&x, width, &mut out);
    geglu_backward(&x, width, &g, &mut dx);
    close(&out, &want, 2e-6);
    close(&dx, &want_dx, 2e-6);
    for isa in Isa::available() {
        geglu_rows(isa, &x, width, &mut out);
        geglu_rows_backward(isa, &x, &g, width, &mut dx);
        close(&out, &want, 2e-6);
        close(&dx, &want_dx, 2e-6);
    }
}
