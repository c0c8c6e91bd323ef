//! Rotary position embedding of interleaved pairs (Su et al., RoFormer).

use crate::cpu::Isa;
use crate::par::CHUNK;
use crate::simd::{fma, multiversion};
use rayon::prelude::*;

/// Order of the middle dimensions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum HeadLayout {
    /// (batch, heads, tokens, dim)
    HeadsFirst,
    /// (batch, tokens, heads, dim)
    TokensFirst,
}

multiversion! {
    /// Rotates `x` (one token and head, or several tokens with their angles one after another).
    fn rotate(x: &[f32], cos: &[f32], sin: &[f32], sign: f32, out: &mut [f32]) {
        let n = cos.len();
        let (x, out, sin) = (&x[..2 * n], &mut out[..2 * n], &sin[..n]);
        for i in 0..n {
            let (a, b) = (x[2 * i], x[2 * i + 1]);
            let (c, s) = (cos[i], sin[i] * sign);
            out[2 * i] = fma::<FMA>(a, c, -(b * s));
            out[2 * i + 1] = fma::<FMA>(a, s, b * c);
        }
    }
}

/// Rotates pair `i` of every token by that token's angle `i`:
/// `(y[2i], y[2i+1]) = (x[2i] cos - x[2i+1] sin, x[2i] sin + x[2i+1] cos)`.
///
/// `x` and `out` are laid out as `layout` says with `dim = 2 * cos.len() / tokens`; `cos` and `sin` are
/// (tokens, dim / 2). With `conjugate` the angles are negated, which is both the inverse and the gradient.
///
/// # Panics
///
/// If the lengths do not fit.
pub fn rope(
    x: &[f32],
    layout: HeadLayout,
    heads: usize,
    tokens: usize,
    (cos, sin): (&[f32], &[f32]),
    conjugate: bool,
    out: &mut [f32],
) {
    assert_eq!(x.len(), out.len(), "rope: length of out");
    assert_eq!(cos.len(), sin.len(), "rope: lengths of cos and sin");
    if x.is_empty() {
        return;
    }
    assert!(tokens > 0 && cos.len().is_multiple_of(tokens), "rope: cos is (tokens, dim / 2)");
    let half = cos.len() / tokens;
    let dim = 2 * half;
    assert!(dim > 0 && x.len().is_multiple_of(heads * tokens * dim), "rope: length of x");
    let isa = Isa::best();
    let sign = if conjugate { -1.0 } else { 1.0 };
    let runs = (CHUNK / dim).max(1);
    let chunk = runs * dim;
    out.par_chunks_mut(chunk).zip(x.par_chunks(chunk)).enumerate().for_each(|(i, (out, x))| {
        let mut run = i * runs;
        let end = run + out.len() / dim;
        let start = run;
        while run < end {
            // Runs that can be rotated by one stretch of the table: consecutive tokens, or one token's head.
            let (token, count) = match layout {
                HeadLayout::HeadsFirst => (run % tokens, (end - run).min(tokens - run % tokens)),
                HeadLayout::TokensFirst => (run / heads % tokens, 1),
            };
            let (from, to) = ((run - start) * dim, (run - start + count) * dim);
            let table = token * half..(token + count) * half;
            rotate(isa, &x[from..to], &cos[table.clone()], &sin[table], sign, &mut out[from..to]);
            run += count;
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{bits, close, random, same_for_any_thread_count};

    #[test]
    fn rotates_both_layouts_and_back() {
        for (batch, heads, tokens, dim) in [(1, 1, 1, 2), (2, 3, 7, 10), (1, 4, 600, 64), (2, 2, 5, 36)] {
            let angles = random(1, tokens * dim / 2);
            let cos: Vec<f32> = angles.iter().map(|a| (3.0 * a).cos()).collect();
            let sin: Vec<f32> = angles.iter().map(|a| (3.0 * a).sin()).collect();
            let x = random(2, batch * heads * tokens * dim);
            for layout in [HeadLayout::HeadsFirst, HeadLayout::TokensFirst] {
                let mut want = vec![0.0; x.len()];
                for i in 0..x.len() / 2 {
                    let run = i / (dim / 2);
                    let token = match layout {
                        HeadLayout::HeadsFirst => run % tokens,
                        HeadLayout::TokensFirst => run / heads % tokens,
                    };
                    let at = token * dim / 2 + i % (dim / 2);
                    let (a, b, c, s) = (x[2 * i] as f64, x[2 * i + 1] as f64, cos[at] as f64, sin[at] as f64);
                    want[2 * i] = a * c - b * s;
                    want[2 * i + 1] = a * s + b * c;
                }
                let (mut y, mut z) = (vec![0.0; x.len()], vec![0.0; x.len()]);
                rope(&x, layout, heads, tokens, (&cos, &sin), false, &mut y);
                close(&y, &want, 1e-6);
                rope(&y, layout, heads, tokens, (&cos, &sin), true, &mut z);
                close(&z, &crate::testing::to_f64(&x), 1e-6);
            }
        }
    }

    #[test]
    fn paths_and_threads() {
        let (x, cos, sin) = (random(1, 86), random(2, 43), random(3, 43));
        let mut first = vec![0.0; 86];
        rotate(Isa::Scalar, &x, &cos, &sin, 1.0, &mut first);
        for isa in Isa::available() {
            let mut out = vec![0.0; 86];
            rotate(isa, &x, &cos, &sin, 1.0, &mut out);
            close(&out, &crate::testing::to_f64(&first), 1e-6);
        }
        let (x, cos, sin) = (random(1, 4 * 500 * 32), random(2, 500 * 16), random(3, 500 * 16));
        same_for_any_thread_count(
            || {
                let mut out = vec![0.0; x.len()];
                rope(&x, HeadLayout::TokensFirst, 4, 500, (&cos, &sin), false, &mut out);
                out
            },
            |y| bits(y),
        );
    }
}
