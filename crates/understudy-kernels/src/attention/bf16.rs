//! Attention with bf16 products: operands are packed once per head, and weights are written straight into the
//! layout the next product wants.

use super::AttentionShape;
use crate::bf16::{DEPTH, LANES, Panels, Side, TILE, multiply, round_quiet};
use crate::cpu::{Bf16Path, Isa};
use crate::matmul::{MatRef, pack_lanes, panels_len};
use crate::par::{self, Buffer, Shared};
use crate::simd::{self, fma, multiversion};

/// Queries and keys of a forward block.
const FORWARD: (usize, usize) = (64, 512);
/// Queries and keys of a backward block.
const BACKWARD: (usize, usize) = (256, 128);

/// `2^t`, relative error below 3e-6, enough for what is rounded to bf16 next; 0 below -126.
#[inline(always)]
fn exp2<const FMA: bool>(t: f32) -> f32 {
    const MAGIC: f32 = 12_582_912.0;
    let top = if t > 126.0 { 126.0 } else { t };
    let n = top + MAGIC;
    let f = top - (n - MAGIC);
    // Taylor's series: powers of ln 2 over factorials.
    let mut p = 1.333_355_8e-3;
    p = fma::<FMA>(p, f, 9.618_129e-3);
    p = fma::<FMA>(p, f, 5.550_411e-2);
    p = fma::<FMA>(p, f, 2.402_265e-1);
    p = fma::<FMA>(p, f, std::f32::consts::LN_2);
    p = fma::<FMA>(p, f, 1.0);
    let y = f32::from_bits(p.to_bits().wrapping_add(n.to_bits() << 23));
    if t < -126.0 { 0.0 } else { y }
}

multiversion! {
    /// Largest product of a row, and for that the row itself with bias and mask applied, if there are any.
    fn row_max(row: &mut [f32], scale: f32, bias: Option<&[f32]>, mask: Option<&[bool]>) -> f32 {
        if bias.is_some() || mask.is_some() {
            super::scores(row, scale, bias, mask);
            simd::max(row)
        } else if scale >= 0.0 {
            simd::max(row) * scale
        } else {
            row.iter().fold(f32::NEG_INFINITY, |m, &v| if v * scale > m { v * scale } else { m })
        }
    }
}

multiversion! {
    /// Writes `2^(s * factor - top)` of a row into lane `lane` of a left panel, zeros to fill it; gives the
    /// sum.
    fn row_weights(row: &[f32], factor: f32, top: f32, lane: usize, panel: &mut [u16]) -> f32 {
        let mut acc = [0f32; DEPTH];
        for (tile, s) in panel.chunks_exact_mut(TILE).zip(row.chunks(DEPTH)) {
            let out = &mut tile[lane * DEPTH..(lane + 1) * DEPTH];
            if let Some(s) = s.first_chunk::<DEPTH>() {
                for l in 0..DEPTH {
                    let w = exp2::<FMA>(fma::<FMA>(s[l], factor, -top));
                    acc[l] += w;
                    out[l] = round_quiet(w);
                }
            } else {
                out.fill(0);
                for ((s, out), acc) in s.iter().zip(out).zip(&mut acc) {
                    let w = exp2::<FMA>(fma::<FMA>(*s, factor, -top));
                    *acc += w;
                    *out = round_quiet(w);
                }
            }
        }
        simd::sum1(&acc, |v| v)
    }
}

/// Packs all lanes (rows) of `m` over its whole depth (columns).
fn pack_all(side: Side, m: MatRef, out: &mut [u16]) {
    for (panel, out) in out.chunks_exact_mut(panels_len(1, m.cols)).enumerate() {
        pack_lanes(side, m, panel * LANES, 0, m.cols, out);
    }
}

/// Inputs of one call, and the instructions to use.
#[derive(Clone, Copy)]
pub(super) struct Inputs<'a> {
    pub(super) isa: Isa,
    pub(super) path: Bf16Path,
    pub(super) q: &'a [f32],
    pub(super) k: &'a [f32],
    pub(super) v: &'a [f32],
    pub(super) shape: AttentionShape,
    pub(super) scale: f32,
    pub(super) mask: Option<&'a [bool]>,
    pub(super) bias: Option<&'a [f32]>,
}

/// See [`super::attention_forward`]; lengths are checked and nothing is empty.
pub(super) fn forward(x: &Inputs, out: &mut [f32], lse: &mut [f32]) {
    let (isa, path) = (x.isa, x.path);
    let AttentionShape { q_tokens, k_tokens, dim, .. } = x.shape;
    let heads = x.shape.batch * x.shape.heads;
    let (keys_len, values_len) = (panels_len(k_tokens, dim), panels_len(dim, k_tokens));
    let mut keys = Buffer::<u16>::new(heads * keys_len);
    let mut values = Buffer::<u16>::new(heads * values_len);
    {
        let (keys, values) = (Shared::new(&mut keys), Shared::new(&mut values));
        par::for_each(heads, |head| {
            // SAFETY: each task packs its own head.
            let (keys, values) = unsafe {
                (keys.slice(head * keys_len, keys_len), values.slice(head * values_len, values_len))
            };
            let [k, v] = [x.k, x.v].map(|part| x.shape.rows(part, head, (0, k_tokens), k_tokens));
            pack_all(Side::Right, k, keys);
            pack_all(Side::Right, v.t(), values);
        });
    }
    let (queries, block) = FORWARD;
    let chunks = q_tokens.div_ceil(queries);
    let (out_all, lse_all) = (Shared::new(out), Shared::new(lse));
    // With bias or mask the scores are already scaled when they are exponentiated.
    let plain = x.bias.is_none() && x.mask.is_none();
    let factor = std::f32::consts::LOG2_E * if plain { x.scale } else { 1.0 };
    par::for_each(heads * chunks, |task| {
        let (head, first) = (task / chunks, task % chunks * queries);
        let rows = queries.min(q_tokens - first);
        let at = head * q_tokens + first;
        // SAFETY: each task writes its own queries.
        let lse = unsafe { lse_all.slice(at, rows) };
        let mut out = Buffer::<f32>::new(rows * dim);
        let (mask, bias) = (x.shape.mask(x.mask, head), x.shape.bias(x.bias, head));
        let mut query = Buffer::<u16>::new(panels_len(rows, dim));
        pack_all(Side::Left, x.shape.rows(x.q, head, (first, rows), q_tokens), &mut query);
        let query = Panels { data: &query, stride: panels_len(1, dim) };
        let keys = Panels { data: &keys[head * keys_len..(head + 1) * keys_len], stride: panels_len(1, dim) };
        let values = Panels {
            data: &values[head * values_len..(head + 1) * values_len],
            stride: panels_len(1, k_tokens),
        };
        let (mut top, mut sum) = ([f32::NEG_INFINITY; FORWARD.0], [0f32; FORWARD.0]);
        let width = block.min(k_tokens.next_multiple_of(2 * LANES));
        let mut products = Buffer::<f32>::new(queries * width);
        let mut weights = Buffer::<u16>::new(panels_len(queries, width));
        for key in (0..k_tokens).step_by(block) {
            let cols = block.min(k_tokens - key);
            let stride = panels_len(1, cols);
            // SAFETY: `products` has room for `rows` rows of `width`.
            unsafe {
                let keys = keys.skip(key / LANES, 0);
                multiply(
                    path,
                    query,
                    keys,
                    dim.div_ceil(DEPTH),
                    products.as_mut_ptr(),
                    width,
                    (rows, cols),
                    false,
                );
            }
            for r in 0..rows {
                let row = &mut products[r * width..r * width + cols];
                let bias = bias.map(|b| b.row(first + r, key, cols));
                let mask = mask.map(|m| &m[key..key + cols]);
                let highest = row_max(isa, row, x.scale, bias, mask);
                let new = if highest > top[r] { highest } else { top[r] };
                // A row without any key so far: an offset of infinity makes every weight 0.
                let offset =
                    if new == f32::NEG_INFINITY { f32::INFINITY } else { new * std::f32::consts::LOG2_E };
                let panel = &mut weights[r / LANES * stride..][..stride];
                let added = row_weights(isa, row, factor, offset, r % LANES, panel);
                if key > 0 && new > top[r] {
                    let shrink = (top[r] - new).exp();
                    sum[r] *= shrink;
                    out[r * dim..(r + 1) * dim].iter_mut().for_each(|o| *o *= shrink);
                }
                sum[r] += added;
                top[r] = new;
            }
            let weights = Panels { data: &weights, stride };
            // SAFETY: `out` has `rows` rows of `dim`.
            unsafe {
                let values = values.skip(0, key / DEPTH);
                multiply(
                    path,
                    weights,
                    values,
                    cols.div_ceil(DEPTH),
                    out.as_mut_ptr(),
                    dim,
                    (rows, dim),
                    key > 0,
                );
            }
        }
        for (r, out) in out.chunks_exact_mut(dim).enumerate() {
            let inverse = if sum[r] > 0.0 { 1.0 / sum[r] } else { 0.0 };
            out.iter_mut().for_each(|o| *o *= inverse);
            lse[r] = top[r] + sum[r].ln();
        }
        // SAFETY: each task writes its own queries.
        unsafe { x.shape.store(&out, &out_all, head, first, q_tokens) };
    });
}

/// What the elementwise step of the backward pass knows of its queries.
#[derive(Clone, Copy)]
struct Rows<'a> {
    factor: f32,
    scale: f32,
    /// Log-sum-exp in powers of two, infinite for a query without keys.
    lse2: &'a [f32],
    delta: &'a [f32],
}

multiversion! {
    /// Two keys by all queries of a block: from products `s` and `dp` (two rows each), the weights and the
    /// slopes of the products, in left panels (lane: key, depth: query) and the slopes also in right panels
    /// (lane: query, depth: key). `wanted` says which of the keys count.
    fn slopes(
        s: [&[f32]; 2], dp: [&[f32]; 2], rows: Rows, wanted: [bool; 2], pair: usize,
        weights: &mut [u16], left: &mut [u16], right: &mut [u16], right_stride: usize,
    ) {
        let lane = 2 * pair % LANES;
        for tile in 0..s[0].len() / DEPTH {
            let at = tile * DEPTH;
            let mut slope = [[0u16; DEPTH]; 2];
            for i in 0..2 {
                let s = &s[i][at..at + DEPTH];
                let dp = &dp[i][at..at + DEPTH];
                let (lse2, delta) = (&rows.lse2[at..at + DEPTH], &rows.delta[at..at + DEPTH]);
                let row = tile * TILE + (lane + i) * DEPTH;
                let weights = &mut weights[row..row + DEPTH];
                let slope = &mut slope[i];
                let keep = if wanted[i] { 1.0 } else { 0.0 };
                for l in 0..DEPTH {
                    let p = keep * exp2::<FMA>(fma::<FMA>(s[l], rows.factor, -lse2[l]));
                    weights[l] = round_quiet(p);
                    slope[l] = round_quiet(p * (dp[l] - delta[l]) * rows.scale);
                }
                left[row..row + DEPTH].copy_from_slice(slope);
            }
            for half in 0..2 {
                let panel = (2 * tile + half) * right_stride + pair / LANES * TILE + pair % LANES * 2 * LANES;
                let right = &mut right[panel..panel + 2 * LANES];
                let (even, odd) = (&slope[0][half * LANES..][..LANES], &slope[1][half * LANES..][..LANES]);
                for l in 0..LANES {
                    right[2 * l] = even[l];
                    right[2 * l + 1] = odd[l];
                }
            }
        }
    }
}

/// See [`super::attention_backward`] for one head: `dout` is that of all heads, `lse`, the gradients and
/// `delta` are its own; `delta` is the dot product of each query's output and output gradient.
pub(super) fn backward_head(
    x: &Inputs,
    head: usize,
    (dout, lse, delta): (&[f32], &[f32], &[f32]),
    dq: &mut [f32],
    dk: &mut [f32],
    dv: &mut [f32],
) {
    let (isa, path) = (x.isa, x.path);
    let AttentionShape { q_tokens, k_tokens, dim, .. } = x.shape;
    let [q, g] = [x.q, dout].map(|part| x.shape.rows(part, head, (0, q_tokens), q_tokens));
    let [k, v] = [x.k, x.v].map(|part| x.shape.rows(part, head, (0, k_tokens), k_tokens));
    let (mask, bias) = (x.shape.mask(x.mask, head), x.shape.bias(x.bias, head));
    let packed = |side, m: MatRef| {
        let mut data = Buffer::<u16>::new(panels_len(m.rows, m.cols));
        pack_all(side, m, &mut data);
        (data, panels_len(1, m.cols))
    };
    fn view(packed: &(Buffer<u16>, usize)) -> Panels<'_> {
        Panels { data: &packed.0, stride: packed.1 }
    }
    let (keys, values) = (packed(Side::Left, k), packed(Side::Left, v));
    let (queries, slopes_out) = (packed(Side::Right, q), packed(Side::Right, g));
    let (queries_t, slopes_out_t) = (packed(Side::Right, q.t()), packed(Side::Right, g.t()));
    let keys_t = packed(Side::Left, k.t());

    // Queries padded to whole tiles have an infinite log-sum-exp, and so no weight.
    let padded = q_tokens.next_multiple_of(DEPTH);
    let (mut lse2, mut delta_padded) = (Buffer::<f32>::new(padded), Buffer::<f32>::new(padded));
    lse2.fill(f32::INFINITY);
    delta_padded.fill(0.0);
    delta_padded[..q_tokens].copy_from_slice(delta);
    for (l2, &l) in lse2.iter_mut().zip(lse) {
        *l2 = if l == f32::NEG_INFINITY { f32::INFINITY } else { l * std::f32::consts::LOG2_E };
    }

    let (wide, tall) = (BACKWARD.0.min(padded), BACKWARD.1.min(k_tokens.next_multiple_of(DEPTH)));
    let mut s = Buffer::<f32>::new(tall * wide);
    let mut dp = Buffer::<f32>::new(tall * wide);
    let (mut weights, mut left) = (Buffer::<u16>::new(tall * wide), Buffer::<u16>::new(tall * wide));
    let mut right = Buffer::<u16>::new(tall * wide);
    let mut dq_t = Buffer::<f32>::new(dim * padded);
    let depth = dim.div_ceil(DEPTH);
    let factor = std::f32::consts::LOG2_E * if bias.is_some() { 1.0 } else { x.scale };
    for key in (0..k_tokens).step_by(tall) {
        let keys_here = tall.min(k_tokens - key);
        let tall = keys_here.next_multiple_of(DEPTH);
        for first in (0..q_tokens).step_by(wide) {
            let wide = wide.min(padded - first);
            let rows = wide.min(q_tokens - first);
            // SAFETY: `s` and `dp` hold `tall` rows of `wide`.
            unsafe {
                let (a, b) = (view(&keys).skip(key / LANES, 0), view(&queries).skip(first / LANES, 0));
                multiply(path, a, b, depth, s.as_mut_ptr(), wide, (keys_here, rows), false);
                let (a, b) = (view(&values).skip(key / LANES, 0), view(&slopes_out).skip(first / LANES, 0));
                multiply(path, a, b, depth, dp.as_mut_ptr(), wide, (keys_here, rows), false);
            }
            clear_padding(&mut s, (keys_here, tall), (rows, wide));
            clear_padding(&mut dp, (keys_here, tall), (rows, wide));
            if let Some(bias) = bias {
                for i in 0..rows {
                    for (s, b) in s.chunks_exact_mut(wide).zip(bias.row(first + i, key, keys_here)) {
                        s[i] = s[i] * x.scale + b;
                    }
                }
            }
            let rows_here = Rows {
                factor,
                scale: x.scale,
                lse2: &lse2[first..first + wide],
                delta: &delta_padded[first..first + wide],
            };
            let (left_stride, right_stride) = (panels_len(1, wide), panels_len(1, tall));
            for pair in 0..tall / 2 {
                let at = |i: usize| (2 * pair + i) * wide..(2 * pair + i + 1) * wide;
                let wanted =
                    [0, 1].map(|i| 2 * pair + i < keys_here && mask.is_none_or(|m| m[key + 2 * pair + i]));
                let panel = 2 * pair / LANES * left_stride;
                slopes(
                    isa,
                    [&s[at(0)], &s[at(1)]],
                    [&dp[at(0)], &dp[at(1)]],
                    rows_here,
                    wanted,
                    pair,
                    &mut weights[panel..panel + left_stride],
                    &mut left[panel..panel + left_stride],
                    &mut right,
                    right_stride,
                );
            }
            let tiles = wide / DEPTH;
            let (weights, left) =
                (Panels { data: &weights, stride: left_stride }, Panels { data: &left, stride: left_stride });
            let right = Panels { data: &right, stride: right_stride };
            // SAFETY: `dv` and `dk` hold `keys_here` rows of `dim` from here, `dq_t` `dim` rows of `padded`.
            unsafe {
                let c = dv[key * dim..(key + keys_here) * dim].as_mut_ptr();
                let b = view(&slopes_out_t).skip(0, first / DEPTH);
                multiply(path, weights, b, tiles, c, dim, (keys_here, dim), first > 0);
                let c = dk[key * dim..(key + keys_here) * dim].as_mut_ptr();
                let b = view(&queries_t).skip(0, first / DEPTH);
                multiply(path, left, b, tiles, c, dim, (keys_here, dim), first > 0);
                let c = dq_t[first..].as_mut_ptr();
                let a = view(&keys_t).skip(0, key / DEPTH);
                multiply(path, a, right, tall / DEPTH, c, padded, (dim, wide), key > 0);
            }
        }
    }
    for (i, dq) in dq.chunks_exact_mut(dim).enumerate() {
        for (d, dq) in dq.iter_mut().enumerate() {
            *dq = dq_t[d * padded + i];
        }
    }
}

/// Zeros what lies beyond `(rows, cols)` in a block of `(tall, wide)`, so that no old scratch is read as a
/// number.
fn clear_padding(m: &mut [f32], (rows, tall): (usize, usize), (cols, wide): (usize, usize)) {
    if cols < wide {
        m.chunks_exact_mut(wide).take(rows).for_each(|row| row[cols..].fill(0.0));
    }
    m[rows * wide..tall * wide].fill(0.0);
}
