//! Layer normalization with an affine map, a modulation, or both.

use super::rows_per_task;
use crate::cpu::Isa;
use crate::floats::Floats;
use crate::par::{self, Shared};
use crate::simd::{fma, multiversion, sum1, sum2};

/// What follows the normalization: `y = (LN(x) * weight + bias) * (1 + scale) + shift`, a part left out being
/// neutral.
#[derive(Clone, Copy, Debug)]
pub struct LayerNormParams<'a> {
    /// Channels of a row.
    pub channels: usize,
    /// Consecutive rows that share a row of `scale` and `shift`.
    pub rows_per_batch: usize,
    /// (batch, channels)
    pub scale: Option<&'a [f32]>,
    /// (batch, channels)
    pub shift: Option<&'a [f32]>,
    /// (channels)
    pub weight: Option<&'a [f32]>,
    /// (channels)
    pub bias: Option<&'a [f32]>,
    /// Added to the variance.
    pub eps: f32,
}

impl LayerNormParams<'_> {
    /// Checks the lengths; gives the number of batch items.
    fn batch(&self, elements: usize) -> usize {
        let (c, rows) = (self.channels, self.rows_per_batch);
        assert!(c > 0 && rows > 0 && elements.is_multiple_of(rows * c), "layer_norm: x is (batch, rows, c)");
        let batch = elements / (rows * c);
        for (name, part, len) in [
            ("scale", self.scale, batch * c),
            ("shift", self.shift, batch * c),
            ("weight", self.weight, c),
            ("bias", self.bias, c),
        ] {
            assert!(part.is_none_or(|p| p.len() == len), "layer_norm: length of {name}");
        }
        batch
    }

    /// Gain and offset of batch item `b`: `y = LN(x) * gain + offset`.
    fn affine(&self, b: usize, gain: &mut [f32], offset: &mut [f32]) {
        let c = self.channels;
        let at = |part: Option<&[f32]>, i: usize, otherwise: f32| part.map_or(otherwise, |p| p[i]);
        for i in 0..c {
            let scale = 1.0 + at(self.scale, b * c + i, 0.0);
            gain[i] = at(self.weight, i, 1.0) * scale;
            offset[i] = at(self.bias, i, 0.0) * scale + at(self.shift, b * c + i, 0.0);
        }
    }
}

/// Result of [`layer_norm_modulate_forward`].
#[derive(Clone, Debug, PartialEq)]
pub struct LayerNormOutput {
    /// (rows, channels)
    pub y: Floats,
    /// (rows)
    pub mean: Vec<f32>,
    /// Reciprocal standard deviations, (rows).
    pub rstd: Vec<f32>,
}

/// Gradients of [`layer_norm_modulate_forward`]; an absent input has none.
#[derive(Clone, Debug, PartialEq)]
pub struct LayerNormGradients {
    /// (rows, channels)
    pub dx: Floats,
    /// (batch, channels)
    pub dscale: Option<Vec<f32>>,
    /// (batch, channels)
    pub dshift: Option<Vec<f32>>,
    /// (channels)
    pub dweight: Option<Vec<f32>>,
    /// (channels)
    pub dbias: Option<Vec<f32>>,
}

multiversion! {
    fn forward(x: &[f32], gain: &[f32], offset: &[f32], eps: f32, y: &mut [f32], mean: &mut [f32], rstd: &mut [f32]) {
        let c = gain.len();
        let offset = &offset[..c];
        let rows = x.chunks_exact(c).zip(y.chunks_exact_mut(c));
        for ((x, y), (mean, rstd)) in rows.zip(mean.iter_mut().zip(rstd)) {
            let mu = sum1(x, |v| v) / c as f32;
            let variance = sum1(x, |v| (v - mu) * (v - mu)) / c as f32;
            let r = 1.0 / (variance + eps).sqrt();
            for i in 0..c {
                y[i] = fma::<FMA>((x[i] - mu) * r, gain[i], offset[i]);
            }
            *mean = mu;
            *rstd = r;
        }
    }
}

multiversion! {
    /// `sums`: sums over the rows of `dy * xhat` and then of `dy`, each (c).
    fn backward(
        x: &[f32], dy: &[f32], gain: &[f32], mean: &[f32], rstd: &[f32], dx: &mut [f32], sums: &mut [f32],
    ) {
        let c = gain.len();
        let (along, plain) = sums.split_at_mut(c);
        let plain = &mut plain[..c];
        let rows = x.chunks_exact(c).zip(dy.chunks_exact(c)).zip(dx.chunks_exact_mut(c));
        for (((x, g), dx), (&mu, &r)) in rows.zip(mean.iter().zip(rstd)) {
            for i in 0..c {
                let xhat = (x[i] - mu) * r;
                along[i] = fma::<FMA>(g[i], xhat, along[i]);
                plain[i] += g[i];
                dx[i] = g[i] * gain[i];
            }
            let a = sum1(dx, |v| v) / c as f32;
            let b = sum2(dx, x, |d, x| d * (x - mu)) * r / c as f32;
            for i in 0..c {
                dx[i] = r * (dx[i] - a - (x[i] - mu) * r * b);
            }
        }
    }
}

/// Layer normalization of rows and what follows it, in one pass; `x` (batch * rows_per_batch, channels).
///
/// # Panics
///
/// If a length does not fit.
pub fn layer_norm_modulate_forward(x: &[f32], params: &LayerNormParams) -> LayerNormOutput {
    let c = params.channels;
    params.batch(x.len());
    let rows = x.len() / c;
    let mut y = Floats::unspecified(x.len());
    let (mut mean, mut rstd) = (vec![0.0; rows], vec![0.0; rows]);
    let (y_out, mean_out, rstd_out) = (Shared::new(&mut y), Shared::new(&mut mean), Shared::new(&mut rstd));
    let isa = Isa::best();
    for_each_chunk(x.len(), params, |_, b, start, len| {
        let mut affine = vec![0.0; 2 * c];
        let (gain, offset) = affine.split_at_mut(c);
        params.affine(b, gain, offset);
        // SAFETY: each task writes its own rows.
        let (y, mean, rstd) = unsafe {
            (y_out.slice(start * c, len * c), mean_out.slice(start, len), rstd_out.slice(start, len))
        };
        forward(isa, &x[start * c..(start + len) * c], gain, offset, params.eps, y, mean, rstd);
    });
    LayerNormOutput { y, mean, rstd }
}

/// Runs `f(task, batch item, first row, rows)` over chunks of rows that lie within one batch item.
fn for_each_chunk(
    elements: usize,
    params: &LayerNormParams,
    f: impl Fn(usize, usize, usize, usize) + Send + Sync,
) {
    let per_batch = params.rows_per_batch;
    let step = rows_per_task(per_batch, params.channels).min(per_batch);
    let chunks = per_batch.div_ceil(step);
    let batch = elements / (per_batch * params.channels);
    par::for_each(batch * chunks, |task| {
        let (b, first) = (task / chunks, task % chunks * step);
        f(task, b, b * per_batch + first, step.min(per_batch - first));
    });
}

/// Backward of [`layer_norm_modulate_forward`] from its input and saved `mean` and `rstd`; `dy` shaped as
/// `x`.
///
/// # Panics
///
/// If a length does not fit.
pub fn layer_norm_modulate_backward(
    x: &[f32],
    params: &LayerNormParams,
    mean: &[f32],
    rstd: &[f32],
    dy: &[f32],
) -> LayerNormGradients {
    let c = params.channels;
    let batch = params.batch(x.len());
    let rows = x.len() / c;
    assert!(mean.len() == rows && rstd.len() == rows, "layer_norm: lengths of mean and rstd");
    assert_eq!(dy.len(), x.len(), "layer_norm: length of dy");
    let step = rows_per_task(params.rows_per_batch, c).min(params.rows_per_batch);
    let chunks = params.rows_per_batch.div_ceil(step);
    let mut dx = Floats::unspecified(x.len());
    let mut parts = vec![0.0; batch * chunks * 2 * c];
    let (dx_out, parts_out) = (Shared::new(&mut dx), Shared::new(&mut parts));
    let isa = Isa::best();
    for_each_chunk(x.len(), params, |task, b, start, len| {
        let mut affine = vec![0.0; 2 * c];
        let (gain, offset) = affine.split_at_mut(c);
        params.affine(b, gain, offset);
        let at = start * c..(start + len) * c;
        // SAFETY: each task writes its own rows and its own partial sum.
        let (dx, sums) = unsafe { (dx_out.slice(start * c, len * c), parts_out.slice(task * 2 * c, 2 * c)) };
        let (mean, rstd) = (&mean[start..start + len], &rstd[start..start + len]);
        backward(isa, &x[at.clone()], &dy[at], gain, mean, rstd, dx, sums);
    });
    let mut sums = vec![0.0; batch * 2 * c];
    for (sums, parts) in sums.chunks_exact_mut(2 * c).zip(parts.chunks_exact(chunks * 2 * c)) {
        par::sum_parts(parts, sums);
    }
    parameter_gradients(params, &sums, dx)
}

/// Turns the per-item sums of `dy * xhat` and `dy` into the gradients of what is present.
fn parameter_gradients(params: &LayerNormParams, sums: &[f32], dx: Floats) -> LayerNormGradients {
    let c = params.channels;
    let one_plus_scale = |b: usize, i: usize| 1.0 + params.scale.map_or(0.0, |s| s[b * c + i]);
    let weight = |i: usize| params.weight.map_or(1.0, |w| w[i]);
    let bias = |i: usize| params.bias.map_or(0.0, |w| w[i]);
    let per_item = |f: &dyn Fn(usize, f32, f32) -> f32| -> Vec<f32> {
        sums.chunks_exact(2 * c).flat_map(|s| (0..c).map(move |i| f(i, s[i], s[c + i]))).collect()
    };
    let per_channel = |offset: usize| -> Vec<f32> {
        let mut out = vec![0.0; c];
        for (b, s) in sums.chunks_exact(2 * c).enumerate() {
            for (i, out) in out.iter_mut().enumerate() {
                *out += one_plus_scale(b, i) * s[offset + i];
            }
        }
        out
    };
    LayerNormGradients {
        dx,
        dscale: params.scale.map(|_| per_item(&|i, along, plain| along * weight(i) + plain * bias(i))),
        dshift: params.shift.map(|_| per_item(&|_, _, plain| plain)),
        dweight: params.weight.map(|_| per_channel(0)),
        dbias: params.bias.map(|_| per_channel(c)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{bits, close, dot, finite_difference, random, same_for_any_thread_count, to_f64};

    /// Inputs x, scale, shift, weight, bias in f64.
    fn reference(v: &[Vec<f64>; 5], rows_per_batch: usize, c: usize) -> Vec<f64> {
        let [x, scale, shift, weight, bias] = v;
        x.chunks_exact(c)
            .enumerate()
            .flat_map(|(row, x)| {
                let mu = x.iter().sum::<f64>() / c as f64;
                let var = x.iter().map(|v| (v - mu).powi(2)).sum::<f64>() / c as f64;
                let b = row / rows_per_batch * c;
                (0..c)
                    .map(|i| {
                        let n = (x[i] - mu) / (var + 1e-3).sqrt();
                        (n * weight[i] + bias[i]) * (1.0 + scale[b + i]) + shift[b + i]
                    })
                    .collect::<Vec<_>>()
            })
            .collect()
    }

    #[test]
    fn agrees_with_the_formula_and_its_differences() {
        for (batch, rows, c) in [(1, 1, 2), (2, 3, 5), (3, 2, 33)] {
            let n = batch * rows * c;
            let x = random(1, n);
            let parts = [random(2, batch * c), random(3, batch * c), random(4, c), random(5, c)];
            let dy = random(6, n);
            for present in 0..16 {
                let has = |i: usize| present >> i & 1 == 1;
                let part = |i: usize| has(i).then_some(&parts[i][..]);
                let params = LayerNormParams {
                    channels: c,
                    rows_per_batch: rows,
                    scale: part(0),
                    shift: part(1),
                    weight: part(2),
                    bias: part(3),
                    eps: 1e-3,
                };
                let mut inputs = [to_f64(&x), vec![], vec![], vec![], vec![]];
                for i in 0..4 {
                    let neutral = if i == 2 { 1.0 } else { 0.0 };
                    inputs[i + 1] = if has(i) { to_f64(&parts[i]) } else { vec![neutral; parts[i].len()] };
                }
                let out = layer_norm_modulate_forward(&x, &params);
                close(&out.y, &reference(&inputs, rows, c), 5e-6);
                let grads = layer_norm_modulate_backward(&x, &params, &out.mean, &out.rstd, &dy);
                let slope = |which: usize| {
                    finite_difference(&inputs[which], |v| {
                        let mut inputs = inputs.clone();
                        inputs[which] = v.to_vec();
                        dot(&reference(&inputs, rows, c), &dy)
                    })
                };
                close(&grads.dx, &slope(0), 5e-5);
                let all = [&grads.dscale, &grads.dshift, &grads.dweight, &grads.dbias];
                for (i, got) in all.into_iter().enumerate() {
                    assert_eq!(got.is_some(), has(i));
                    if let Some(got) = got {
                        close(got, &slope(i + 1), 2e-5);
                    }
                }
            }
        }
    }

    #[test]
    fn paths_and_threads() {
        let (batch, rows, c) = (2, 1500, 40);
        let x = random(1, batch * rows * c);
        let (scale, weight) = (random(2, batch * c), random(3, c));
        let dy = random(4, x.len());
        let params = LayerNormParams {
            channels: c,
            rows_per_batch: rows,
            scale: Some(&scale),
            shift: Some(&scale),
            weight: Some(&weight),
            bias: None,
            eps: 1e-5,
        };
        same_for_any_thread_count(
            || {
                let out = layer_norm_modulate_forward(&x, &params);
                let grads = layer_norm_modulate_backward(&x, &params, &out.mean, &out.rstd, &dy);
                let (scale, weight) = (grads.dscale.unwrap_or_default(), grads.dweight.unwrap_or_default());
                [&out.y[..], &grads.dx, &scale, &weight].concat()
            },
            |v| bits(v),
        );
        let run = |isa| {
            let (mut y, mut m, mut r) = (vec![0.0; 3 * c], vec![0.0; 3], vec![0.0; 3]);
            forward(isa, &x[..3 * c], &weight, &weight, 1e-5, &mut y, &mut m, &mut r);
            let (mut dx, mut sums) = (vec![0.0; 3 * c], vec![0.0; 2 * c]);
            backward(isa, &x[..3 * c], &dy[..3 * c], &weight, &m, &r, &mut dx, &mut sums);
            [y, m, r, dx, sums].concat()
        };
        let want = to_f64(&run(Isa::Scalar));
        Isa::available().into_iter().for_each(|isa| close(&run(isa), &want, 5e-6));
    }
}
