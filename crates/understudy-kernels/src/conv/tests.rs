use super::*;
use crate::cpu::Bf16Path;
use crate::testing::{bits, close, random, same_for_any_thread_count, sizes};

/// Values bf16 holds exactly, so that both precisions have the same reference.
fn exact(seed: u64, len: usize) -> Vec<f32> {
    random(seed, len).iter().map(|x| half::bf16::from_f32(*x).to_f32()).collect()
}

/// Calls `f(x index, weight index, y index)` for every product of the convolution.
fn for_each_product(s: &Conv3dShape, mut f: impl FnMut(usize, usize, usize)) {
    let ([od, oh, ow], [d, h, w], [kd, kh, kw]) = (s.output(), s.input, s.kernel);
    let mut y = 0;
    for n in 0..s.batch {
        for o in 0..s.out_channels {
            for at in 0..od * oh * ow {
                let at = [at / (oh * ow), at / ow % oh, at % ow];
                for i in 0..s.in_channels {
                    for t in 0..kd * kh * kw {
                        let tap = [t / (kh * kw), t / kw % kh, t % kw];
                        let p: [isize; 3] = std::array::from_fn(|a| {
                            (at[a] * s.stride[a] + tap[a]) as isize - s.pad_front[a] as isize
                        });
                        if (0..3).all(|a| p[a] >= 0 && p[a] < s.input[a] as isize) {
                            let p = p.map(|p| p as usize);
                            let x = (((n * s.in_channels + i) * d + p[0]) * h + p[1]) * w + p[2];
                            f(x, (o * s.in_channels + i) * kd * kh * kw + t, y);
                        }
                    }
                }
                y += 1;
            }
        }
    }
}

fn shapes() -> Vec<Conv3dShape> {
    let base = Conv3dShape {
        batch: 2,
        in_channels: 3,
        out_channels: 5,
        input: [4, 6, 7],
        kernel: [3, 3, 3],
        stride: [1, 1, 1],
        pad_front: [2, 1, 1],
        pad_back: [0, 1, 1],
    };
    let random = |[batch, inputs, outputs, d, h, w, kd, kh, kw, stride]: [usize; 10]| Conv3dShape {
        batch,
        in_channels: inputs,
        out_channels: outputs,
        input: [d, h, w],
        kernel: [kd, kh, kw],
        stride: [1, stride, stride],
        pad_front: [kd - 1, kh / 2, kw / 2],
        pad_back: [0, kh / 2, kw / 2],
    };
    let random = sizes(7, 12, [2, 40, 40, 4, 12, 20, 3, 3, 3, 2]).into_iter().map(random);
    let chosen = [
        base,
        Conv3dShape { in_channels: 16, out_channels: 16, input: [3, 9, 33], ..base },
        Conv3dShape { in_channels: 33, out_channels: 18, input: [2, 8, 16], ..base },
        Conv3dShape {
            in_channels: 32,
            out_channels: 48,
            batch: 1,
            input: [2, 5, 8],
            pad_front: [1; 3],
            pad_back: [1; 3],
            ..base
        },
        Conv3dShape { stride: [2, 2, 2], ..base },
        Conv3dShape {
            stride: [1, 2, 3],
            kernel: [1, 3, 2],
            pad_front: [0, 0, 1],
            pad_back: [0, 1, 0],
            ..base
        },
        Conv3dShape { kernel: [1, 1, 1], pad_front: [0; 3], pad_back: [0; 3], in_channels: 20, ..base },
        Conv3dShape { kernel: [1, 1, 1], stride: [1, 2, 2], pad_front: [0; 3], pad_back: [0; 3], ..base },
        Conv3dShape { kernel: [3, 1, 1], pad_front: [2, 0, 0], pad_back: [0; 3], in_channels: 17, ..base },
        Conv3dShape {
            input: [1, 13, 40],
            kernel: [1, 3, 3],
            pad_front: [0, 1, 1],
            pad_back: [0, 1, 1],
            in_channels: 8,
            ..base
        },
        Conv3dShape {
            input: [1, 12, 12],
            kernel: [1, 3, 3],
            stride: [1, 2, 2],
            pad_front: [0; 3],
            pad_back: [0, 1, 1],
            ..base
        },
        Conv3dShape {
            input: [1, 1, 1],
            kernel: [1, 2, 4],
            pad_front: [0, 3, 5],
            pad_back: [0, 1, 4],
            ..base
        },
        Conv3dShape {
            input: [1, 20, 50],
            kernel: [1, 7, 7],
            pad_front: [0, 3, 3],
            pad_back: [0, 3, 3],
            ..base
        },
        Conv3dShape {
            batch: 1,
            in_channels: 1,
            out_channels: 1,
            input: [1; 3],
            kernel: [1; 3],
            stride: [1; 3],
            pad_front: [0; 3],
            pad_back: [0; 3],
        },
    ];
    chosen.into_iter().chain(random).collect()
}

#[test]
fn forward_and_gradients_agree_with_the_sums() {
    for s in shapes() {
        let (x, w) = (exact(1, s.input_len()), exact(2, s.weight_len()));
        let (bias, dy) = (random(3, s.out_channels), exact(4, s.output_len()));
        let positions: usize = s.output().iter().product();
        let mut want_y: Vec<f64> =
            (0..dy.len()).map(|i| bias[i / positions % s.out_channels] as f64).collect();
        let (mut want_dx, mut want_dw) = (vec![0.0; x.len()], vec![0.0; w.len()]);
        for_each_product(&s, |xi, wi, yi| {
            want_y[yi] += x[xi] as f64 * w[wi] as f64;
            want_dx[xi] += dy[yi] as f64 * w[wi] as f64;
            want_dw[wi] += dy[yi] as f64 * x[xi] as f64;
        });
        let mut want_db = vec![0.0; s.out_channels];
        dy.iter().enumerate().for_each(|(i, g)| want_db[i / positions % s.out_channels] += *g as f64);
        for precision in [Precision::F32, Precision::Bf16] {
            close(&conv3d_forward(&x, &w, Some(&bias), &s, precision), &want_y, 1e-5);
            close(&conv3d_backward_data(&dy, &w, &s, precision), &want_dx, 1e-5);
            let (dw, db) = conv3d_backward_weight(&x, &dy, &s, precision);
            close(&dw, &want_dw, 2e-5);
            close(&db, &want_db, 2e-5);
        }
    }
}

#[test]
fn thread_count_does_not_matter() {
    let s = Conv3dShape {
        batch: 2,
        in_channels: 20,
        out_channels: 24,
        input: [5, 30, 31],
        kernel: [3, 3, 3],
        stride: [1, 1, 1],
        pad_front: [2, 1, 1],
        pad_back: [0, 1, 1],
    };
    for s in [s, Conv3dShape { stride: [1, 2, 2], ..s }] {
        let (x, w, dy) = (random(1, s.input_len()), random(2, s.weight_len()), random(3, s.output_len()));
        for precision in [Precision::F32, Precision::Bf16] {
            same_for_any_thread_count(
                || {
                    let (dw, db) = conv3d_backward_weight(&x, &dy, &s, precision);
                    let y = conv3d_forward(&x, &w, None, &s, precision);
                    [&y[..], &conv3d_backward_data(&dy, &w, &s, precision), &dw, &db].concat()
                },
                |v| bits(v),
            );
        }
    }
}

#[test]
#[should_panic(expected = "length of weight")]
fn wrong_lengths_panic() {
    let s = shapes()[0];
    conv3d_forward(&vec![0.0; s.input_len()], &[0.0], None, &s, Precision::F32);
}

#[test]
fn every_bf16_path_agrees() {
    for s in shapes().into_iter().filter(|s| s.stride == [1; 3]) {
        let (x, w, dy) = (exact(1, s.input_len()), exact(2, s.weight_len()), exact(4, s.output_len()));
        let (mut want_y, mut want_dw) = (vec![0.0; dy.len()], vec![0.0; w.len()]);
        for_each_product(&s, |xi, wi, yi| {
            want_y[yi] += x[xi] as f64 * w[wi] as f64;
            want_dw[wi] += dy[yi] as f64 * x[xi] as f64;
        });
        for path in Bf16Path::available() {
            let (mut y, mut dw) = (vec![0.0; dy.len()], vec![0.0; w.len()]);
            direct::run(path, &s.forward_gather(), &x, &w, None, &mut y);
            close(&y, &want_y, 1e-5);
            direct_weight::run(path, &s.forward_gather(), &x, &dy, 1 << 20, &mut dw);
            close(&dw, &want_dw, 2e-5);
        }
    }
}
