use super::*;
use crate::testing::{bits, close, random, same_for_any_thread_count, sizes};

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
    let random = |[batch, inputs, outputs, h, w, kh, kw, stride]: [usize; 8]| Conv2dShape {
        batch,
        inputs,
        outputs,
        extent: [h, w],
        kernel: [kh, kw],
        stride,
        padding: kh.max(kw) / 2,
    };
    let random = sizes(7, 12, [2, 40, 40, 18, 20, 3, 3, 2]).into_iter().map(random);
    let chosen = [
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
    ];
    chosen.into_iter().chain(random).collect()
}

/// Calls `f(x index, weight index, y index)` for every product of the convolution.
fn for_each_product(s: &Conv2dShape, mut f: impl FnMut(usize, usize, usize)) {
    let ([rows, columns], [h, w], [kh, kw]) = (s.output(), s.extent, s.kernel);
    for at in 0..s.batch * rows * columns {
        let (item, row, column) = (at / (rows * columns), at / columns % rows, at % columns);
        for tap in 0..kh * kw {
            let (r, c) = (row * s.stride + tap / kw, column * s.stride + tap % kw);
            if r < s.padding || c < s.padding || r >= h + s.padding || c >= w + s.padding {
                continue;
            }
            let from = ((item * h + r - s.padding) * w + c - s.padding) * s.inputs;
            for (o, i) in (0..s.outputs).flat_map(|o| (0..s.inputs).map(move |i| (o, i))) {
                f(from + i, (o * s.inputs + i) * kh * kw + tap, at * s.outputs + o);
            }
        }
    }
}

/// The convolution in f64, (batch, positions, outputs).
fn reference(x: &[f32], weight: &[f32], bias: &[f32], s: &Conv2dShape) -> Vec<f64> {
    let each: usize = s.output().iter().product::<usize>() * s.outputs;
    let bias_of = |at: usize| bias[(at / each * s.outputs + at % s.outputs) % bias.len()] as f64;
    let mut y: Vec<f64> = (0..s.output_len()).map(bias_of).collect();
    for_each_product(s, |xi, wi, yi| y[yi] += x[xi] as f64 * weight[wi] as f64);
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
            let want = reference(&x, &w, &bias, &s);
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
        let (mut want_dx, mut want_dw) = (vec![0.0; x.len()], vec![0.0; w.len()]);
        for_each_product(&s, |xi, wi, yi| {
            want_dx[xi] += dy[yi] as f64 * w[wi] as f64;
            want_dw[wi] += dy[yi] as f64 * x[xi] as f64;
        });
        for precision in [Precision::F32, Precision::Bf16] {
            close(&conv2d_backward_data(&dy, &w, &s, precision), &want_dx, 2e-5);
            close(&conv2d_backward_weight(&x, &dy, &s, precision), &want_dw, 2e-5);
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
        let dy = random(4, s.output_len());
        same_for_any_thread_count(|| conv2d_backward_data(&dy, &w, &s, Precision::F32), |dx| bits(dx));
        same_for_any_thread_count(|| conv2d_backward_weight(&x, &dy, &s, Precision::F32), |dw| bits(dw));
    }
}
