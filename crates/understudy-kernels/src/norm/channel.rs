//! RMS normalization over the channels of an image or clip, as the Wan VAE has it.

use crate::cpu::Isa;
use crate::floats::Floats;
use crate::par::{self, Shared};
use crate::simd::multiversion;

/// Positions a task handles.
const SPAN: usize = 512;
/// The floor of the norm in `torch.nn.functional.normalize`.
const FLOOR: f32 = 1e-12;

multiversion! {
    /// `inverse[s] = 1 / max(norm over c, FLOOR)`; element (c, s) at `x[c * stride + s]`.
    fn inverse_norms(x: &[f32], c: usize, stride: usize, inverse: &mut [f32]) {
        inverse.fill(0.0);
        let n = inverse.len();
        for i in 0..c {
            let x = &x[i * stride..i * stride + n];
            for (s, &x) in inverse.iter_mut().zip(x) {
                *s += x * x;
            }
        }
        for s in inverse.iter_mut() {
            let norm = s.sqrt();
            *s = 1.0 / if norm < FLOOR { FLOOR } else { norm };
        }
    }
}

multiversion! {
    fn scale_rows(x: &[f32], inverse: &[f32], gain: f32, y: &mut [f32]) {
        for ((y, &x), &r) in y.iter_mut().zip(x).zip(inverse) {
            *y = x * r * gain;
        }
    }
}

multiversion! {
    /// Adds `gain * dy * x * inverse` to `along` and returns the sum of `dy * x * inverse`.
    fn project(x: &[f32], dy: &[f32], inverse: &[f32], gain: f32, along: &mut [f32]) -> f32 {
        let mut acc = [0f32; 32];
        let n = along.len();
        let (x, dy, inverse) = (&x[..n], &dy[..n], &inverse[..n]);
        for ((a, x), (g, r)) in along.chunks_mut(32).zip(x.chunks(32)).zip(dy.chunks(32).zip(inverse.chunks(32))) {
            for ((((acc, a), &x), &g), &r) in acc.iter_mut().zip(a).zip(x).zip(g).zip(r) {
                let p = g * x * r;
                *a += gain * p;
                *acc += p;
            }
        }
        acc.iter().sum()
    }
}

multiversion! {
    fn gradient_row(x: &[f32], dy: &[f32], inverse: &[f32], along: &[f32], gain: f32, dx: &mut [f32]) {
        for ((((dx, &x), &g), &r), &a) in dx.iter_mut().zip(x).zip(dy).zip(inverse).zip(along) {
            // Below the floor the norm is a constant.
            let a = if r >= 1.0 / FLOOR { 0.0 } else { a };
            *dx = r * (gain * g - x * r * a);
        }
    }
}

fn shape(x: &[f32], n: usize, gamma: &[f32]) -> (usize, usize) {
    let c = gamma.len();
    assert!(n > 0 && c > 0 && x.len().is_multiple_of(n * c), "channel_rms_norm: x is (n, c, spatial)");
    (c, x.len() / (n * c))
}

/// `y = x / max(norm of x over c, 1e-12) * sqrt(c) * gamma[c]`; `x` and the result (n, c, spatial), `gamma`
/// (c).
///
/// # Panics
///
/// If the lengths do not fit.
pub fn channel_rms_norm_forward(x: &[f32], n: usize, gamma: &[f32]) -> Floats {
    let (c, spatial) = shape(x, n, gamma);
    let isa = Isa::best();
    let root = (c as f32).sqrt();
    let mut y = Floats::unspecified(x.len());
    let out = Shared::new(&mut y);
    let spans = spatial.div_ceil(SPAN);
    par::for_each(n * spans, |task| {
        let (item, start) = (task / spans, task % spans * SPAN);
        let len = SPAN.min(spatial - start);
        let base = item * c * spatial + start;
        let mut inverse = [0f32; SPAN];
        let inverse = &mut inverse[..len];
        inverse_norms(isa, &x[base..], c, spatial, inverse);
        for (i, &gamma) in gamma.iter().enumerate() {
            let at = base + i * spatial;
            // SAFETY: each task writes its own positions.
            let y = unsafe { out.slice(at, len) };
            scale_rows(isa, &x[at..at + len], inverse, root * gamma, y);
        }
    });
    y
}

/// Backward of [`channel_rms_norm_forward`]: `dx` (n, c, spatial) and `dgamma` (c).
///
/// # Panics
///
/// If the lengths do not fit.
pub fn channel_rms_norm_backward(x: &[f32], n: usize, gamma: &[f32], dy: &[f32]) -> (Floats, Vec<f32>) {
    let (c, spatial) = shape(x, n, gamma);
    assert_eq!(x.len(), dy.len(), "channel_rms_norm: length of dy");
    let isa = Isa::best();
    let root = (c as f32).sqrt();
    let spans = spatial.div_ceil(SPAN);
    let (mut dx, mut parts) = (Floats::unspecified(x.len()), Floats::unspecified(n * spans * c));
    let mut dgamma = vec![0.0; c];
    let (out, parts_out) = (Shared::new(&mut dx), Shared::new(&mut parts));
    par::for_each(n * spans, |task| {
        let (item, start) = (task / spans, task % spans * SPAN);
        let len = SPAN.min(spatial - start);
        let base = item * c * spatial + start;
        let (mut inverse, mut along) = ([0f32; SPAN], [0f32; SPAN]);
        let (inverse, along) = (&mut inverse[..len], &mut along[..len]);
        inverse_norms(isa, &x[base..], c, spatial, inverse);
        // SAFETY: each task writes its own partial sum.
        let part = unsafe { parts_out.slice(task * c, c) };
        for (i, part) in part.iter_mut().enumerate() {
            let at = base + i * spatial;
            *part = root * project(isa, &x[at..at + len], &dy[at..at + len], inverse, root * gamma[i], along);
        }
        for (i, &gamma) in gamma.iter().enumerate() {
            let at = base + i * spatial;
            // SAFETY: each task writes its own positions.
            let dx = unsafe { out.slice(at, len) };
            gradient_row(isa, &x[at..at + len], &dy[at..at + len], inverse, along, root * gamma, dx);
        }
    });
    par::sum_parts(&parts, &mut dgamma);
    (dx, dgamma)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{bits, close, dot, finite_difference, random, same_for_any_thread_count, to_f64};

    fn reference(x: &[f64], n: usize, gamma: &[f64]) -> Vec<f64> {
        let c = gamma.len();
        let s = x.len() / (n * c);
        (0..x.len())
            .map(|i| {
                let (item, ch, at) = (i / (c * s), i / s % c, i % s);
                let norm = (0..c).map(|k| x[(item * c + k) * s + at].powi(2)).sum::<f64>().sqrt();
                x[i] / norm.max(1e-12) * (c as f64).sqrt() * gamma[ch]
            })
            .collect()
    }

    #[test]
    fn agrees_with_the_formula_and_its_differences() {
        for (n, c, s) in [(1, 1, 1), (2, 3, 7), (1, 5, 40)] {
            let (x, gamma, g) = (random(1, n * c * s), random(2, c), random(3, n * c * s));
            let (xd, gd) = (to_f64(&x), to_f64(&gamma));
            close(&channel_rms_norm_forward(&x, n, &gamma), &reference(&xd, n, &gd), 2e-6);
            let (dx, dgamma) = channel_rms_norm_backward(&x, n, &gamma, &g);
            if c > 1 {
                close(&dx, &finite_difference(&xd, |x| dot(&reference(x, n, &gd), &g)), 5e-5);
            }
            close(&dgamma, &finite_difference(&gd, |w| dot(&reference(&xd, n, w), &g)), 2e-5);
        }
    }

    #[test]
    fn zero_vectors_stay_finite() {
        let (x, g) = (vec![0.0; 12], vec![1.0; 12]);
        assert!(channel_rms_norm_forward(&x, 1, &[1.0; 3]).iter().all(|&v| v == 0.0));
        let (dx, _) = channel_rms_norm_backward(&x, 1, &[1.0; 3], &g);
        assert!(dx.iter().all(|v| v.is_finite()));
    }

    #[test]
    fn paths_and_threads() {
        let (n, c, s) = (2, 6, 5000);
        let (x, gamma, g) = (random(1, n * c * s), random(2, c), random(3, n * c * s));
        same_for_any_thread_count(
            || {
                let (dx, dg) = channel_rms_norm_backward(&x, n, &gamma, &g);
                [&channel_rms_norm_forward(&x, n, &gamma)[..], &dx, &dg].concat()
            },
            |v| bits(v),
        );
        let run = |isa| {
            let (mut inverse, mut along, mut y, mut dx) =
                (vec![0.0; 77], vec![0.0; 77], vec![0.0; 77], vec![0.0; 77]);
            inverse_norms(isa, &x, c, 80, &mut inverse);
            let sum = project(isa, &x[..77], &g[..77], &inverse, 0.7, &mut along);
            scale_rows(isa, &x[..77], &inverse, 0.3, &mut y);
            gradient_row(isa, &x[..77], &g[..77], &inverse, &along, 0.2, &mut dx);
            [inverse, along, y, dx, vec![sum]].concat()
        };
        let want = to_f64(&run(Isa::Scalar));
        Isa::available().into_iter().for_each(|isa| close(&run(isa), &want, 5e-6));
    }
}
