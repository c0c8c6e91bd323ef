use super::*;
use crate::testing::{bits, close, random, same_for_any_thread_count, to_f64};

fn shapes() -> Vec<Conv2dShape> {
    let base = Conv2dShape {
        batch: 2,
        inputs: 3,
        outputs: 5,
        extent: [6, 7],
        kernel: [3, 3],
        stride: 1,
        padding: 1,
    };
    vec![
        base,
        Conv2dShape { stride: 2, ..base },
        Conv2dShape { inputs: 16, outputs: 33, extent: [9, 14], ..base },
        Conv2dShape { inputs: 32, outputs: 64, extent: [8, 8], ..base },
        Conv2dShape { inputs: 48, outputs: 20, extent: [17, 5], batch: 3, ..base },
        Conv2dShape { inputs: 160, outputs: 40, extent: [5, 11], batch: 1, ..base },
        Conv2dShape { inputs: 160, outputs: 40, extent: [16, 18], batch: 1, ..base },
        Conv2dShape { inputs: 16, outputs: 32, extent: [33, 40], ..base },
        Conv2dShape { inputs: 16, extent: [1, 1], ..base },
        Conv2dShape { kernel: [1, 1], padding: 0, ..base },
        Conv2dShape { kernel: [2, 3], padding: 0, stride: 3, ..base },
    ]
}

/// The convolution in f64, (batch, positions, outputs).
fn reference(x: &[f64], weight: &[f64], bias: &[f64], s: &Conv2dShape) -> Vec<f64> {
    let ([rows, columns], [h, w], [kh, kw]) = (s.output(), s.extent, s.kernel);
    let mut y = Vec::with_capacity(s.output_len());
    for at in 0..s.batch * rows * columns {
        let (item, row, column) = (at / (rows * columns), at / columns % rows, at % columns);
        for o in 0..s.outputs {
            let mut sum = bias[(item * s.outputs + o) % bias.len()];
            for tap in 0..kh * kw {
                let (r, c) = (row * s.stride + tap / kw, column * s.stride + tap % kw);
                if r < s.padding || c < s.padding || r >= h + s.padding || c >= w + s.padding {
                    continue;
                }
                let from = ((item * h + r - s.padding) * w + c - s.padding) * s.inputs;
                let products = |i: usize| x[from + i] * weight[(o * s.inputs + i) * kh * kw + tap];
                sum += (0..s.inputs).map(products).sum::<f64>();
            }
            y.push(sum);
        }
    }
    y
}

fn exact(seed: u64, len: usize) -> Vec<f32> {
    random(seed, len).iter().map(|x| half::bf16::from_f32(*x).to_f32()).collect()
}

#[test]
fn forward_agrees_with_the_sums_in_every_type() {
    for s in shapes() {
        let x = exact(1, s.input_len());
        let w = exact(2, s.outputs * s.inputs * s.kernel[0] * s.kernel[1]);
        for bias in [random(3, s.outputs), random(4, s.batch * s.outputs)] {
            let want = reference(&to_f64(&x), &to_f64(&w), &to_f64(&bias), &s);
            let channels = [s.outputs, s.inputs];
            for weight in
                [ConvWeight::plain(&w, channels, s.kernel), ConvWeight::narrow(&w, channels, s.kernel)]
            {
                // Minimal filtering loses a digit.
                close(&conv2d_forward(&x, &weight, &bias, &s, Precision::F32), &want, 3e-5);
                close(&conv2d_forward(&x, &weight, &bias, &s, Precision::Bf16), &want, 1e-5);
            }
        }
    }
}

#[test]
fn gradients_are_those_of_the_sums() {
    for s in shapes() {
        let (x, dy) = (exact(1, s.input_len()), exact(2, s.output_len()));
        let w = exact(3, s.outputs * s.inputs * s.kernel[0] * s.kernel[1]);
        let bias = vec![0.0; s.outputs];
        // The sums are linear in both operands: a gradient is what a unit there adds to the product with `dy`.
        let value = |x: &[f32], w: &[f32]| -> f64 {
            reference(&to_f64(x), &to_f64(w), &bias, &s).iter().zip(&dy).map(|(y, &g)| y * g as f64).sum()
        };
        let dx = conv2d_backward_data(&dy, &w, &s, Precision::F32);
        let dw = conv2d_backward_weight(&x, &dy, &s, Precision::F32);
        for at in [0, x.len() / 2, x.len() - 1] {
            let mut unit = vec![0.0; x.len()];
            unit[at] = 1.0;
            assert!((dx[at] as f64 - value(&unit, &w)).abs() < 1e-4);
        }
        for at in [0, w.len() / 2, w.len() - 1] {
            let mut unit = vec![0.0; w.len()];
            unit[at] = 1.0;
            assert!((dw[at] as f64 - value(&x, &unit)).abs() < 1e-4);
        }
    }
}

#[test]
fn thread_count_does_not_matter() {
    for s in shapes() {
        let (x, bias) = (random(1, s.input_len()), random(3, s.outputs));
        let w = random(2, s.outputs * s.inputs * s.kernel[0] * s.kernel[1]);
        let weight = ConvWeight::plain(&w, [s.outputs, s.inputs], s.kernel);
        same_for_any_thread_count(|| conv2d_forward(&x, &weight, &bias, &s, Precision::F32), |y| bits(y));
    }
}
