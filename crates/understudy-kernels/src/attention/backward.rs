//! Attention backward: scores are computed again block by block.

use super::bf16::{self, Inputs};
use super::{AttentionShape, KEYS, KeyMask, QUERIES, scores};
use crate::cpu::{Bf16Path, Isa};
use crate::floats::Floats;
use crate::math::exp;
use crate::matmul::{MatRef, Precision, Threads, matmul_with};
use crate::par::{self, Buffer, Shared};
use crate::simd::{self, multiversion};

multiversion! {
    /// One query: turns products into weights `p`, and `dp` into the gradient of the products.
    pub(super) fn slopes(
        p: &mut [f32], dp: &mut [f32], scale: f32, bias: Option<&[f32]>, mask: Option<&[bool]>, lse: f32, delta: f32,
    ) {
        if lse == f32::NEG_INFINITY {
            p.fill(0.0);
            dp.fill(0.0);
            return;
        }
        scores(p, scale, bias, mask);
        for (p, dp) in p.iter_mut().zip(dp) {
            *p = exp::<FMA>(*p - lse);
            *dp = *p * (*dp - delta) * scale;
        }
    }
}

multiversion! {
    /// Dot products of rows `stride` apart.
    pub(super) fn row_dots(a: &[f32], b: &[f32], dim: usize, stride: usize, out: &mut [f32]) {
        for ((a, b), out) in a.chunks(stride).zip(b.chunks(stride)).zip(out) {
            *out = simd::sum2(&a[..dim], &b[..dim], |a, b| a * b);
        }
    }
}

/// Gradients `(dq, dk, dv)` of [`attention_forward`](super::attention_forward) from its inputs, its results
/// `out` and `lse`, and `dout`, shaped as `out`. Queries without any key give zeros. Memory is linear in the
/// tokens.
///
/// # Panics
///
/// If a length does not fit `shape`.
#[allow(clippy::too_many_arguments)]
pub fn attention_backward(
    q: &[f32],
    k: &[f32],
    v: &[f32],
    out: &[f32],
    lse: &[f32],
    dout: &[f32],
    shape: AttentionShape,
    scale: f32,
    mask: Option<KeyMask>,
    bias: Option<&[f32]>,
    precision: Precision,
) -> (Floats, Floats, Floats) {
    shape.check(q, k, v, mask, bias);
    assert_eq!(out.len(), q.len(), "attention: length of out");
    assert_eq!(dout.len(), q.len(), "attention: length of dout");
    let heads = shape.batch * shape.heads;
    assert_eq!(lse.len(), heads * shape.q_tokens, "attention: length of lse");
    let AttentionShape { q_tokens, k_tokens, dim, .. } = shape;
    if q.is_empty() || k.is_empty() {
        return (Floats::zeroed(q.len()), Floats::zeroed(k.len()), Floats::zeroed(k.len()));
    }
    let [mut dq, mut dk, mut dv] = [q, k, v].map(|x| Floats::unspecified(x.len()));
    let isa = Isa::best();
    let (dq_all, dk_all, dv_all) = (Shared::new(&mut dq), Shared::new(&mut dk), Shared::new(&mut dv));
    par::for_each(heads, |head| {
        let [mut dq, mut dk, mut dv] =
            [q_tokens, k_tokens, k_tokens].map(|tokens| Buffer::<f32>::new(tokens * dim));
        // SAFETY: each task writes its own head.
        let store = |dq: &[f32], dk: &[f32], dv: &[f32]| unsafe {
            shape.store(dq, &dq_all, head, 0, q_tokens);
            shape.store(dk, &dk_all, head, 0, k_tokens);
            shape.store(dv, &dv_all, head, 0, k_tokens);
        };
        let mut delta = Buffer::<f32>::new(q_tokens);
        let from = shape.at(head, 0, q_tokens);
        row_dots(isa, &out[from..], &dout[from..], dim, shape.stride(), &mut delta);
        if precision == Precision::Bf16 {
            let path = Bf16Path::best();
            let inputs = Inputs { isa, path, q, k, v, shape, scale, mask, bias };
            let lse = &lse[head * q_tokens..(head + 1) * q_tokens];
            bf16::backward_head(&inputs, head, (dout, lse, &delta), &mut dq, &mut dk, &mut dv);
            return store(&dq, &dk, &dv);
        }
        let (mask, bias) = (shape.mask(mask, head), shape.bias(bias, head));
        let block = QUERIES.min(q_tokens) * KEYS.min(k_tokens);
        let (mut p, mut dp) = (Buffer::<f32>::new(block), Buffer::<f32>::new(block));
        for key in (0..k_tokens).step_by(KEYS) {
            let cols = KEYS.min(k_tokens - key);
            let [k, v] = [k, v].map(|x| shape.rows(x, head, (key, cols), k_tokens));
            let (dk, dv) = (&mut dk[key * dim..][..cols * dim], &mut dv[key * dim..][..cols * dim]);
            for first in (0..q_tokens).step_by(QUERIES) {
                let rows = QUERIES.min(q_tokens - first);
                let [q, g] = [q, dout].map(|x| shape.rows(x, head, (first, rows), q_tokens));
                let (p, dp) = (&mut p[..rows * cols], &mut dp[..rows * cols]);
                let times = |a, b, c: &mut [f32], add| matmul_with(a, b, c, add, precision, Threads::One);
                times(q, k.t(), p, false);
                times(g, v.t(), dp, false);
                for (r, (p, dp)) in p.chunks_exact_mut(cols).zip(dp.chunks_exact_mut(cols)).enumerate() {
                    let bias = bias.map(|b| b.row(first + r, key, cols));
                    let mask = mask.map(|m| &m[key..key + cols]);
                    let lse = lse[head * q_tokens + first + r];
                    slopes(isa, p, dp, scale, bias, mask, lse, delta[first + r]);
                }
                let (p, dp) = (MatRef::new(p, rows, cols), MatRef::new(dp, rows, cols));
                times(p.t(), g, dv, first > 0);
                times(dp.t(), q, dk, first > 0);
                times(dp, k, &mut dq[first * dim..][..rows * dim], key > 0);
            }
        }
        store(&dq, &dk, &dv);
    });
    (dq, dk, dv)
}
