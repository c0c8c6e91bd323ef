//! Optimizer steps over one flat parameter.

mod muon;

use crate::cpu::Isa;
use crate::par::{self, CHUNK, Shared};
use crate::simd::{fma, multiversion};
pub use muon::{NEWTON_SCHULZ, NEWTON_SCHULZ_ITERATIONS, orthogonalize};
use rayon::prelude::*;

/// Settings of [`adamw_step`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AdamW {
    /// Learning rate.
    pub lr: f32,
    /// Decay of the first moment.
    pub beta1: f32,
    /// Decay of the second moment.
    pub beta2: f32,
    /// Added to the root of the second moment.
    pub eps: f32,
    /// Decoupled weight decay, multiplied by `lr`.
    pub weight_decay: f32,
    /// Number of this step, from 1.
    pub step: u64,
    /// The gradient is multiplied by this first: for clipping and loss scaling.
    pub grad_scale: f32,
}

multiversion! {
    /// `rates`: decay factor, step size, 1 / sqrt(bias correction of the second moment).
    fn step(o: &AdamW, rates: [f32; 3], param: &mut [f32], m: &mut [f32], v: &mut [f32], grad: &[f32]) {
        let [decay, size, root] = rates;
        let (b1, b2, eps, scale) = (o.beta1, o.beta2, o.eps, o.grad_scale);
        for (((p, m), v), &g) in param.iter_mut().zip(m).zip(v).zip(grad) {
            let g = g * scale;
            *m = fma::<FMA>(b1, *m, (1.0 - b1) * g);
            *v = fma::<FMA>(b2, *v, (1.0 - b2) * g * g);
            let denominator = fma::<FMA>(v.sqrt(), root, eps);
            *p = fma::<FMA>(*p, decay, -(size * *m / denominator));
        }
    }
}

/// One step of AdamW (Loshchilov and Hutter) in place: `param`, `m`, `v`, `grad` of one length, `m` and `v`
/// zero before step 1. The arithmetic is that of `torch.optim.AdamW`.
///
/// # Panics
///
/// If the lengths differ or `step` is 0.
pub fn adamw_step(options: &AdamW, param: &mut [f32], m: &mut [f32], v: &mut [f32], grad: &[f32]) {
    let n = param.len();
    assert!(m.len() == n && v.len() == n && grad.len() == n, "adamw: lengths");
    assert!(options.step > 0, "adamw: steps count from 1");
    let power = |beta: f32| 1.0 - (beta as f64).powf(options.step as f64);
    let rates = [
        (1.0 - options.lr as f64 * options.weight_decay as f64) as f32,
        (options.lr as f64 / power(options.beta1)) as f32,
        (1.0 / power(options.beta2).sqrt()) as f32,
    ];
    let isa = Isa::best();
    param
        .par_chunks_mut(CHUNK)
        .zip(m.par_chunks_mut(CHUNK))
        .zip(v.par_chunks_mut(CHUNK))
        .zip(grad.par_chunks(CHUNK))
        .for_each(|(((p, m), v), g)| step(isa, options, rates, p, m, v, g));
}

multiversion! {
    fn blend(ema: &mut [f32], param: &[f32], weight: f32) {
        for (e, &p) in ema.iter_mut().zip(param) {
            *e = fma::<FMA>(weight, p - *e, *e);
        }
    }
}

/// `ema = decay * ema + (1 - decay) * param`, in place.
///
/// # Panics
///
/// If the lengths differ.
pub fn ema_step(ema: &mut [f32], param: &[f32], decay: f32) {
    assert_eq!(ema.len(), param.len(), "ema: lengths");
    let isa = Isa::best();
    ema.par_chunks_mut(CHUNK).zip(param.par_chunks(CHUNK)).for_each(|(e, p)| blend(isa, e, p, 1.0 - decay));
}

multiversion! {
    fn squares(x: &[f32]) -> f64 {
        let mut acc = [0f64; 16];
        let mut blocks = x.chunks_exact(16);
        for block in &mut blocks {
            for l in 0..16 {
                let v = block[l] as f64;
                acc[l] += v * v;
            }
        }
        for (a, &v) in acc.iter_mut().zip(blocks.remainder()) {
            *a += v as f64 * v as f64;
        }
        acc.iter().sum()
    }
}

/// Sum of squares in f64, for gradient norms.
pub fn sum_squares(x: &[f32]) -> f64 {
    let isa = Isa::best();
    let mut parts = vec![0f64; x.len().div_ceil(CHUNK)];
    let out = Shared::new(&mut parts);
    par::for_each(x.len().div_ceil(CHUNK), |i| {
        let part = squares(isa, &x[i * CHUNK..x.len().min((i + 1) * CHUNK)]);
        // SAFETY: each task writes its own element.
        unsafe { out.slice(i, 1)[0] = part };
    });
    parts.iter().sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{bits, close, random, same_for_any_thread_count, to_f64};

    const OPTIONS: AdamW =
        AdamW { lr: 3e-3, beta1: 0.9, beta2: 0.99, eps: 1e-8, weight_decay: 0.1, step: 1, grad_scale: 0.5 };

    #[test]
    fn adamw_follows_the_formula() {
        let n = 1001;
        let mut p = random(1, n);
        let (mut m, mut v) = (vec![0.0; n], vec![0.0; n]);
        let (mut pd, mut md, mut vd) = (to_f64(&p), vec![0.0; n], vec![0.0; n]);
        for t in 1..=20 {
            let g = random(t + 5, n);
            adamw_step(&AdamW { step: t, ..OPTIONS }, &mut p, &mut m, &mut v, &g);
            for i in 0..n {
                let g = g[i] as f64 * 0.5;
                md[i] = 0.9f32 as f64 * md[i] + (1.0 - 0.9f32 as f64) * g;
                vd[i] = 0.99f32 as f64 * vd[i] + (1.0 - 0.99f32 as f64) * g * g;
                let mh = md[i] / (1.0 - (0.9f32 as f64).powf(t as f64));
                let vh = vd[i] / (1.0 - (0.99f32 as f64).powf(t as f64));
                pd[i] = pd[i] * (1.0 - 3e-3 * 0.1) - 3e-3 * mh / (vh.sqrt() + 1e-8);
            }
        }
        close(&p, &pd, 1e-5);
        close(&m, &md, 1e-5);
        close(&v, &vd, 1e-5);
    }

    #[test]
    fn ema_and_squares() {
        let (mut e, p) = (random(1, 777), random(2, 777));
        let want: Vec<f64> = e.iter().zip(&p).map(|(&e, &p)| 0.9 * e as f64 + 0.1 * p as f64).collect();
        ema_step(&mut e, &p, 0.9);
        close(&e, &want, 1e-6);
        let x = random(3, 100_003);
        let want: f64 = x.iter().map(|&v| v as f64 * v as f64).sum();
        assert!((sum_squares(&x) - want).abs() < 1e-9 * want);
        assert_eq!(sum_squares(&[]), 0.0);
        same_for_any_thread_count(
            || sum_squares(&x),
            |s| vec![s.to_bits() as u32, (s.to_bits() >> 32) as u32],
        );
    }

    #[test]
    fn paths_agree() {
        let g = random(4, 333);
        let run = |isa| {
            let (mut p, mut m, mut v) = (random(1, 333), random(2, 333), vec![0.3; 333]);
            step(isa, &OPTIONS, [0.99, 0.1, 1.5], &mut p, &mut m, &mut v, &g);
            blend(isa, &mut m, &p, 0.3);
            v.push(squares(isa, &p) as f32);
            [p, m, v].concat()
        };
        let want = to_f64(&run(Isa::Scalar));
        Isa::available().into_iter().for_each(|isa| close(&run(isa), &want, 2e-6));
        assert_eq!(bits(&run(Isa::Scalar)), bits(&run(Isa::Scalar)));
    }
}
