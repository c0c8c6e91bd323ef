use super::*;
use crate::cpu::{Bf16Path, Isa};
use crate::floats::Floats;
use crate::matmul::Precision;
use crate::testing::{bits, close, dot, finite_difference, random, same_for_any_thread_count, sizes, to_f64};

#[derive(Clone)]
struct Case {
    shape: AttentionShape,
    q: Vec<f32>,
    k: Vec<f32>,
    v: Vec<f32>,
    dout: Vec<f32>,
    mask: Option<Vec<bool>>,
    bias: Option<Vec<f32>>,
    scale: f32,
}

/// Inputs that bf16 holds exactly.
fn exact(seed: u64, len: usize) -> Vec<f32> {
    random(seed, len).iter().map(|x| half::bf16::from_f32(*x).to_f32()).collect()
}

fn case(
    (batch, heads, q_tokens, k_tokens, dim): (usize, usize, usize, usize, usize),
    mask: u8,
    bias: u8,
) -> Case {
    let shape = AttentionShape { batch, heads, q_tokens, k_tokens, dim, heads_inside: false };
    let coin = random(9, batch * k_tokens);
    Case {
        shape,
        q: exact(1, shape.q_len()),
        k: exact(2, shape.k_len()),
        v: exact(3, shape.k_len()),
        dout: exact(4, shape.q_len()),
        // 1: some keys left out; 2: the first item has no key at all.
        mask: (mask > 0)
            .then(|| (0..coin.len()).map(|i| coin[i] > -0.3 && !(mask == 2 && i < k_tokens)).collect()),
        bias: (bias > 0).then(|| {
            let tables = [heads, batch * heads][usize::from(bias == 2)];
            // 3: the same for all queries of all heads.
            random(5, if bias == 3 { k_tokens } else { tables * q_tokens * k_tokens })
        }),
        scale: 1.7 / (dim as f32).sqrt(),
    }
}

impl Case {
    fn reference(&self, q: &[f64], k: &[f64], v: &[f64]) -> (Vec<f64>, Vec<f64>) {
        let s = self.shape;
        let (mut out, mut lse) = (vec![0.0; q.len()], vec![]);
        for head in 0..s.batch * s.heads {
            let mask = s.mask(self.mask.as_deref(), head);
            let bias = s.bias(self.bias.as_deref(), head);
            for i in 0..s.q_tokens {
                let qi = (head * s.q_tokens + i) * s.dim;
                let score = |j: usize| {
                    let kj = (head * s.k_tokens + j) * s.dim;
                    let dot: f64 = (0..s.dim).map(|d| q[qi + d] * k[kj + d]).sum();
                    let masked = mask.is_some_and(|m| !m[j]);
                    if masked {
                        f64::NEG_INFINITY
                    } else {
                        dot * self.scale as f64 + bias.map_or(0.0, |b| b.row(i, j, 1)[0] as f64)
                    }
                };
                let weights: Vec<f64> = (0..s.k_tokens).map(|j| score(j).exp()).collect();
                let sum: f64 = weights.iter().sum();
                lse.push(sum.ln());
                for (j, w) in weights.iter().enumerate() {
                    let vj = (head * s.k_tokens + j) * s.dim;
                    for d in 0..s.dim {
                        out[qi + d] += if sum > 0.0 { w / sum * v[vj + d] } else { 0.0 };
                    }
                }
            }
        }
        (out, lse)
    }

    fn forward(&self, precision: Precision) -> (Floats, Vec<f32>) {
        let (mask, bias) = (self.mask.as_deref(), self.bias.as_deref());
        attention_forward(&self.q, &self.k, &self.v, self.shape, self.scale, mask, bias, precision)
    }

    fn backward(&self, precision: Precision) -> (Floats, Floats, Floats) {
        let (out, lse) = self.forward(precision);
        let (mask, bias) = (self.mask.as_deref(), self.bias.as_deref());
        attention_backward(
            &self.q, &self.k, &self.v, &out, &lse, &self.dout, self.shape, self.scale, mask, bias, precision,
        )
    }
}

const PRECISIONS: [(Precision, f64); 2] = [(Precision::F32, 1e-5), (Precision::Bf16, 1.5e-2)];

#[test]
fn forward_agrees_with_the_formula() {
    let shapes =
        [(1, 1, 1, 1, 1), (2, 3, 5, 7, 4), (1, 2, 130, 33, 20), (2, 1, 70, 1100, 33), (1, 2, 260, 515, 64)];
    let random = sizes(7, 10, [2, 3, 80, 90, 40]).into_iter().map(|[b, h, q, k, d]| (b, h, q, k, d));
    for shape in shapes.into_iter().chain(random) {
        for (mask, bias) in [(0, 0), (1, 0), (2, 1), (0, 2), (1, 2), (0, 3)] {
            let case = case(shape, mask, bias);
            let (want, want_lse) = case.reference(&to_f64(&case.q), &to_f64(&case.k), &to_f64(&case.v));
            for (precision, tolerance) in PRECISIONS {
                let (out, lse) = case.forward(precision);
                close(&out, &want, tolerance);
                for (&got, &want) in lse.iter().zip(&want_lse) {
                    assert!(got as f64 == want || (got as f64 - want).abs() < tolerance * (1.0 + want.abs()));
                }
            }
        }
    }
}

#[test]
fn backward_agrees_with_differences() {
    let shapes = [(1, 1, 1, 2, 1), (2, 2, 3, 5, 4), (1, 1, 17, 19, 3)];
    let random = sizes(8, 6, [2, 2, 9, 12, 7]).into_iter().map(|[b, h, q, k, d]| (b, h, q, k, d));
    for shape in shapes.into_iter().chain(random) {
        for (mask, bias) in [(0, 0), (1, 1), (2, 2), (0, 3)] {
            let case = case(shape, mask, bias);
            let (q, k, v) = (to_f64(&case.q), to_f64(&case.k), to_f64(&case.v));
            let loss = |q: &[f64], k: &[f64], v: &[f64]| dot(&case.reference(q, k, v).0, &case.dout);
            let want = [
                finite_difference(&q, |q| loss(q, &k, &v)),
                finite_difference(&k, |k| loss(&q, k, &v)),
                finite_difference(&v, |v| loss(&q, &k, v)),
            ];
            for (precision, tolerance) in PRECISIONS {
                let (dq, dk, dv) = case.backward(precision);
                close(&dq, &want[0], 2.0 * tolerance);
                close(&dk, &want[1], 2.0 * tolerance);
                close(&dv, &want[2], 2.0 * tolerance);
            }
        }
    }
}

/// Gradients by the closed form in f64, for sizes where differences would take too long.
fn closed_form(case: &Case) -> [Vec<f64>; 3] {
    let s = case.shape;
    let (q, k, v) = (to_f64(&case.q), to_f64(&case.k), to_f64(&case.v));
    let (out, lse) = case.reference(&q, &k, &v);
    let (mut dq, mut dk, mut dv) = (vec![0.0; q.len()], vec![0.0; k.len()], vec![0.0; k.len()]);
    for head in 0..s.batch * s.heads {
        let mask = s.mask(case.mask.as_deref(), head);
        let bias = s.bias(case.bias.as_deref(), head);
        for i in 0..s.q_tokens {
            let qi = (head * s.q_tokens + i) * s.dim;
            let g = &case.dout[qi..qi + s.dim];
            let delta = dot(&out[qi..qi + s.dim], g);
            for j in 0..s.k_tokens {
                if mask.is_some_and(|m| !m[j]) {
                    continue;
                }
                let kj = (head * s.k_tokens + j) * s.dim;
                let product: f64 = (0..s.dim).map(|d| q[qi + d] * k[kj + d]).sum();
                let bias = bias.map_or(0.0, |b| b.row(i, j, 1)[0] as f64);
                let p = (product * case.scale as f64 + bias - lse[head * s.q_tokens + i]).exp();
                let ds = p * (dot(&v[kj..kj + s.dim], g) - delta) * case.scale as f64;
                for d in 0..s.dim {
                    dq[qi + d] += ds * k[kj + d];
                    dk[kj + d] += ds * q[qi + d];
                    dv[kj + d] += p * g[d] as f64;
                }
            }
        }
    }
    [dq, dk, dv]
}

#[test]
fn backward_over_several_blocks() {
    for (shape, mask, bias) in
        [((1, 2, 300, 530, 40), 0, 3), ((2, 1, 140, 1050, 32), 2, 1), ((1, 1, 257, 33, 64), 1, 2)]
    {
        let case = case(shape, mask, bias);
        let want = closed_form(&case);
        for (precision, tolerance) in PRECISIONS {
            let (dq, dk, dv) = case.backward(precision);
            close(&dq, &want[0], 2.0 * tolerance);
            close(&dk, &want[1], 2.0 * tolerance);
            close(&dv, &want[2], 2.0 * tolerance);
        }
    }
}

#[test]
fn large_scores_do_not_overflow() {
    let mut case = case((1, 1, 40, 600, 8), 0, 0);
    case.scale = 300.0;
    let (want, _) = case.reference(&to_f64(&case.q), &to_f64(&case.k), &to_f64(&case.v));
    if want.iter().all(|w| w.is_finite()) {
        close(&case.forward(Precision::F32).0, &want, 1e-3);
    }
    case.scale = 1e4;
    let (out, lse) = case.forward(Precision::F32);
    assert!(out.iter().chain(&lse).all(|v| v.is_finite()));
    let (dq, dk, dv) = case.backward(Precision::Bf16);
    assert!(dq.iter().chain(&dk[..]).chain(&dv[..]).all(|v| v.is_finite()));
}

#[test]
fn heads_may_lie_inside_tokens() {
    let case = case((2, 3, 70, 130, 16), 1, 1);
    let s = case.shape;
    let inside = |x: &[f32], tokens: usize| {
        let mut out = vec![0.0; x.len()];
        crate::transpose_heads(x, s.batch, s.heads, tokens, s.dim, &mut out);
        out
    };
    let other = Case {
        shape: AttentionShape { heads_inside: true, ..s },
        q: inside(&case.q, s.q_tokens),
        k: inside(&case.k, s.k_tokens),
        v: inside(&case.v, s.k_tokens),
        dout: inside(&case.dout, s.q_tokens),
        ..case.clone()
    };
    for (precision, _) in PRECISIONS {
        let ((out, lse), (out_inside, lse_inside)) = (case.forward(precision), other.forward(precision));
        assert_eq!(inside(&out, s.q_tokens), &out_inside[..]);
        assert_eq!(lse, lse_inside);
        let ((dq, dk, dv), found) = (case.backward(precision), other.backward(precision));
        assert_eq!(inside(&dq, s.q_tokens), &found.0[..]);
        assert_eq!(inside(&dk, s.k_tokens), &found.1[..]);
        assert_eq!(inside(&dv, s.k_tokens), &found.2[..]);
    }
}

#[test]
fn thread_count_does_not_matter() {
    for shape in [(1, 3, 300, 700, 24), (2, 2, 150, 150, 32)] {
        let case = case(shape, 1, 1);
        for (precision, _) in PRECISIONS {
            same_for_any_thread_count(
                || {
                    let (out, lse) = case.forward(precision);
                    let (dq, dk, dv) = case.backward(precision);
                    [&out[..], &lse, &dq, &dk, &dv].concat()
                },
                |x| bits(x),
            );
        }
    }
}

#[test]
fn every_path_agrees_in_bf16() {
    let case = case((1, 2, 150, 200, 40), 1, 1);
    let s = case.shape;
    let run = |isa, path| {
        let inputs = bf16::Inputs {
            isa,
            path,
            q: &case.q,
            k: &case.k,
            v: &case.v,
            shape: s,
            scale: case.scale,
            mask: case.mask.as_deref(),
            bias: case.bias.as_deref(),
        };
        let (mut out, mut lse) = (vec![0.0; s.q_len()], vec![0.0; 2 * s.q_tokens]);
        bf16::forward(&inputs, &mut out, &mut lse);
        let (mut dq, mut dk, mut dv) = (vec![0.0; s.q_len()], vec![0.0; s.k_len()], vec![0.0; s.k_len()]);
        for head in 0..2 {
            let (q, k) = (head * s.q_tokens * s.dim, head * s.k_tokens * s.dim);
            let q = q..q + s.q_tokens * s.dim;
            let k = k..k + s.k_tokens * s.dim;
            let dout = &case.dout[q.clone()];
            let delta: Vec<f32> = out[q.clone()]
                .chunks(s.dim)
                .zip(dout.chunks(s.dim))
                .map(|(a, b)| a.iter().zip(b).map(|(a, b)| a * b).sum())
                .collect();
            let lse = &lse[head * s.q_tokens..(head + 1) * s.q_tokens];
            let (dk, dv) = (&mut dk[k.clone()], &mut dv[k]);
            bf16::backward_head(&inputs, head, (&case.dout, lse, &delta), &mut dq[q], dk, dv);
        }
        [out, lse, dq, dk, dv].concat()
    };
    let want = to_f64(&run(Isa::Scalar, Bf16Path::Portable));
    for isa in Isa::available() {
        for path in Bf16Path::available() {
            // Weights next to a rounding border may round either way.
            close(&run(isa, path), &want, 4e-3);
        }
    }
}

#[test]
fn every_path_agrees_in_f32() {
    let (p, dp, mask, bias) = (random(1, 77), random(2, 77), vec![true; 77], random(3, 77));
    let run = |isa| {
        let (mut row, mut weights, mut slopes, mut dot) = (p.clone(), p.clone(), dp.clone(), [0.0]);
        let (mut top, mut sum) = (-1.0, 2.0);
        let shrink = forward::weigh(isa, &mut row, 0.5, Some(&bias), Some(&mask), &mut top, &mut sum);
        backward::slopes(isa, &mut weights, &mut slopes, 0.5, Some(&bias), Some(&mask), 1.2, 0.3);
        backward::row_dots(isa, &p, &dp, 77, 77, &mut dot);
        [row, weights, slopes, vec![top, sum, shrink, dot[0]]].concat()
    };
    let want = to_f64(&run(Isa::Scalar));
    Isa::available().into_iter().for_each(|isa| close(&run(isa), &want, 2e-6));
}
