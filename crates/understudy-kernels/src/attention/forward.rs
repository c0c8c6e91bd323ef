//! Attention forward.

use super::bf16::{self, Inputs};
use super::{AttentionShape, KEYS, KeyMask, QUERIES, scores};
use crate::cpu::{Bf16Path, Isa};
use crate::floats::Floats;
use crate::math::exp;
use crate::matmul::{MatRef, Precision, Threads, matmul_with};
use crate::par::{self, Buffer, Shared};
use crate::simd::{self, multiversion};

multiversion! {
    /// One block of keys for one query: turns products into weights relative to the running maximum `top`;
    /// gives the factor by which what was summed before shrinks.
    pub(super) fn weigh(
        row: &mut [f32], scale: f32, bias: Option<&[f32]>, mask: Option<&[bool]>, top: &mut f32, sum: &mut f32,
    ) -> f32 {
        scores(row, scale, bias, mask);
        let new = simd::max(row);
        let new = if new > *top { new } else { *top };
        if new == f32::NEG_INFINITY {
            row.fill(0.0);
            return 1.0;
        }
        let shrink = exp::<FMA>(*top - new);
        for s in row.iter_mut() {
            *s = exp::<FMA>(*s - new);
        }
        *sum = *sum * shrink + simd::sum1(row, |v| v);
        *top = new;
        shrink
    }
}

/// `out = softmax(scale q k^T + bias) v` for every head; keys that `mask` excludes get no weight, and a query
/// without any key gives zeros.
///
/// `q` (batch, heads, q_tokens, dim), `k` and `v` (batch, heads, k_tokens, dim), `bias` (k_tokens), the same
/// for all queries, (heads, q_tokens, k_tokens), the same for the whole batch, or (batch * heads, q_tokens,
/// k_tokens). [`AttentionShape`] says where heads lie. Gives `out`, shaped as `q`, and the log-sum-exp of the
/// scores (batch, heads, q_tokens), minus infinity where there is no key. Memory beyond the outputs is linear
/// in the tokens.
///
/// # Panics
///
/// If a length does not fit `shape`.
#[allow(clippy::too_many_arguments)]
pub fn attention_forward(
    q: &[f32],
    k: &[f32],
    v: &[f32],
    shape: AttentionShape,
    scale: f32,
    mask: Option<KeyMask>,
    bias: Option<&[f32]>,
    precision: Precision,
) -> (Floats, Vec<f32>) {
    shape.check(q, k, v, mask, bias);
    let AttentionShape { q_tokens, k_tokens, dim, .. } = shape;
    let heads = shape.batch * shape.heads;
    let mut lse = vec![f32::NEG_INFINITY; heads * q_tokens];
    if q.is_empty() || k_tokens == 0 {
        return (Floats::zeroed(q.len()), lse);
    }
    let mut out = Floats::unspecified(q.len());
    let isa = Isa::best();
    if precision == Precision::Bf16 {
        let path = Bf16Path::best();
        bf16::forward(&Inputs { isa, path, q, k, v, shape, scale, mask, bias }, &mut out, &mut lse);
        return (out, lse);
    }
    let chunks = q_tokens.div_ceil(QUERIES);
    let (out_all, lse_all) = (Shared::new(&mut out), Shared::new(&mut lse));
    par::for_each(heads * chunks, |task| {
        let (head, first) = (task / chunks, task % chunks * QUERIES);
        let rows = QUERIES.min(q_tokens - first);
        let at = head * q_tokens + first;
        // SAFETY: each task writes its own queries.
        let lse = unsafe { lse_all.slice(at, rows) };
        let mut out = Buffer::<f32>::new(rows * dim);
        let q = shape.rows(q, head, (first, rows), q_tokens);
        let (mask, bias) = (shape.mask(mask, head), shape.bias(bias, head));
        let (mut top, mut sum) = (vec![f32::NEG_INFINITY; rows], vec![0.0; rows]);
        let mut weights = Buffer::<f32>::new(rows * KEYS.min(k_tokens));
        for key in (0..k_tokens).step_by(KEYS) {
            let cols = KEYS.min(k_tokens - key);
            let weights = &mut weights[..rows * cols];
            let [k, v] = [k, v].map(|x| shape.rows(x, head, (key, cols), k_tokens));
            matmul_with(q, k.t(), weights, false, precision, Threads::One);
            for (r, row) in weights.chunks_exact_mut(cols).enumerate() {
                let bias = bias.map(|b| b.row(first + r, key, cols));
                let mask = mask.map(|m| &m[key..key + cols]);
                let shrink = weigh(isa, row, scale, bias, mask, &mut top[r], &mut sum[r]);
                if key > 0 {
                    out[r * dim..(r + 1) * dim].iter_mut().for_each(|o| *o *= shrink);
                }
            }
            matmul_with(MatRef::new(weights, rows, cols), v, &mut out, key > 0, precision, Threads::One);
        }
        for (r, out) in out.chunks_exact_mut(dim).enumerate() {
            let inverse = if sum[r] > 0.0 { 1.0 / sum[r] } else { 0.0 };
            out.iter_mut().for_each(|o| *o *= inverse);
            lse[r] = top[r] + sum[r].ln();
        }
        // SAFETY: each task writes its own queries.
        unsafe { shape.store(&out, &out_all, head, first, q_tokens) };
    });
    (out, lse)
}
