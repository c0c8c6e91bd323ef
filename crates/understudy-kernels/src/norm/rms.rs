//! RMS normalization (Zhang and Sennrich).

use super::rows_per_task;
use crate::cpu::Isa;
use crate::floats::Floats;
use crate::par::{self, Shared};
use crate::simd::{multiversion, sum1, sum2};

multiversion! {
    fn forward(x: &[f32], weight: &[f32], eps: f32, y: &mut [f32]) {
        let c = weight.len();
        for (x, y) in x.chunks_exact(c).zip(y.chunks_exact_mut(c)) {
            let r = inverse_rms(x, eps);
            for i in 0..c {
                y[i] = x[i] * r * weight[i];
            }
        }
    }
}

#[inline(always)]
fn inverse_rms(x: &[f32], eps: f32) -> f32 {
    1.0 / (sum1(x, |v| v * v) / x.len() as f32 + eps).sqrt()
}

multiversion! {
    fn backward(x: &[f32], weight: &[f32], eps: f32, dy: &[f32], dx: &mut [f32], dweight: &mut [f32]) {
        let c = weight.len();
        let dweight = &mut dweight[..c];
        for ((x, g), dx) in x.chunks_exact(c).zip(dy.chunks_exact(c)).zip(dx.chunks_exact_mut(c)) {
            let r = inverse_rms(x, eps);
            for i in 0..c {
                dx[i] = g[i] * weight[i];
            }
            let k = sum2(dx, x, |a, b| a * b) * r * r / c as f32;
            for i in 0..c {
                dweight[i] += g[i] * x[i] * r;
                dx[i] = r * (dx[i] - x[i] * k);
            }
        }
    }
}

/// `y = x / sqrt(mean(x^2) + eps) * weight` over rows of `weight.len()`; gives `y`, shaped as `x` (rows, c).
///
/// # Panics
///
/// If `x` is no multiple of `weight`.
pub fn rms_norm_forward(x: &[f32], weight: &[f32], eps: f32) -> Floats {
    let c = weight.len();
    assert!(c > 0 && x.len().is_multiple_of(c), "rms_norm: x is (rows, c)");
    let mut y = Floats::unspecified(x.len());
    let chunk = rows_per_task(x.len() / c, c) * c;
    let isa = Isa::best();
    let out = Shared::new(&mut y);
    par::for_each(x.len().div_ceil(chunk), |task| {
        let (start, len) = (task * chunk, chunk.min(x.len() - task * chunk));
        // SAFETY: each task writes its own rows.
        forward(isa, &x[start..start + len], weight, eps, unsafe { out.slice(start, len) });
    });
    y
}

/// Backward of [`rms_norm_forward`]: `dx` (rows, c) and `dweight` (c).
///
/// # Panics
///
/// If the lengths do not fit.
pub fn rms_norm_backward(x: &[f32], weight: &[f32], eps: f32, dy: &[f32]) -> (Floats, Vec<f32>) {
    let c = weight.len();
    assert!(c > 0 && x.len().is_multiple_of(c), "rms_norm: x is (rows, c)");
    assert_eq!(x.len(), dy.len(), "rms_norm: length of dy");
    let chunk = rows_per_task(x.len() / c, c) * c;
    let tasks = x.len().div_ceil(chunk);
    let mut dx = Floats::unspecified(x.len());
    let (mut dweight, mut parts) = (vec![0.0; c], vec![0.0; tasks * c]);
    let isa = Isa::best();
    let (out, parts_out) = (Shared::new(&mut dx), Shared::new(&mut parts));
    par::for_each(tasks, |task| {
        let (start, len) = (task * chunk, chunk.min(x.len() - task * chunk));
        // SAFETY: each task writes its own rows and its own partial sum.
        let (dx, part) = unsafe { (out.slice(start, len), parts_out.slice(task * c, c)) };
        backward(isa, &x[start..start + len], weight, eps, &dy[start..start + len], dx, part);
    });
    par::sum_parts(&parts, &mut dweight);
    (dx, dweight)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{bits, close, dot, finite_difference, random, same_for_any_thread_count, to_f64};

    fn reference(x: &[f64], w: &[f64], eps: f64) -> Vec<f64> {
        let c = w.len();
        x.chunks_exact(c)
            .flat_map(|row| {
                let r = 1.0 / (row.iter().map(|v| v * v).sum::<f64>() / c as f64 + eps).sqrt();
                (0..c).map(move |i| row[i] * r * w[i]).collect::<Vec<_>>()
            })
            .collect()
    }

    #[test]
    fn agrees_with_the_formula_and_its_differences() {
        for (rows, c) in [(1, 1), (3, 5), (2, 64), (5, 77)] {
            let (x, w, g) = (random(1, rows * c), random(2, c), random(3, rows * c));
            let (xd, wd) = (to_f64(&x), to_f64(&w));
            close(&rms_norm_forward(&x, &w, 1e-3), &reference(&xd, &wd, 1e-3), 2e-6);
            let (dx, dw) = rms_norm_backward(&x, &w, 1e-3, &g);
            close(&dx, &finite_difference(&xd, |x| dot(&reference(x, &wd, 1e-3), &g)), 2e-5);
            close(&dw, &finite_difference(&wd, |w| dot(&reference(&xd, w, 1e-3), &g)), 2e-5);
        }
    }

    #[test]
    fn paths_and_threads() {
        let (rows, c) = (2000, 70);
        let (x, w, g) = (random(1, rows * c), random(2, c), random(3, rows * c));
        same_for_any_thread_count(
            || {
                let (dx, dw) = rms_norm_backward(&x, &w, 1e-6, &g);
                [&rms_norm_forward(&x, &w, 1e-6)[..], &dx, &dw].concat()
            },
            |v| bits(v),
        );
        let run = |isa| {
            let (mut y, mut dx, mut dw) = (vec![0.0; 350], vec![0.0; 350], vec![0.0; 70]);
            forward(isa, &x[..350], &w, 1e-6, &mut y);
            backward(isa, &x[..350], &w, 1e-6, &g[..350], &mut dx, &mut dw);
            [y, dx, dw].concat()
        };
        let want = to_f64(&run(Isa::Scalar));
        Isa::available().into_iter().for_each(|isa| close(&run(isa), &want, 5e-6));
    }
}
