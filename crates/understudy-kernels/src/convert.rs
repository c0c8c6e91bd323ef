//! Conversion between `f32` and the 16-bit formats, to nearest even, NaN kept.

use crate::bf16::round;
use crate::cpu::Isa;
use crate::par::CHUNK;
use crate::simd::multiversion;
use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};
use rayon::prelude::*;

multiversion! {
    fn to_bf16(x: &[f32], out: &mut [bf16]) {
        for (o, &x) in out.iter_mut().zip(x) {
            *o = bf16::from_bits(round(x) as u16);
        }
    }
}

multiversion! {
    fn from_bf16(x: &[bf16], out: &mut [f32]) {
        for (o, &x) in out.iter_mut().zip(x) {
            *o = f32::from_bits((x.to_bits() as u32) << 16);
        }
    }
}

/// Rounds `x` to bf16.
///
/// # Panics
///
/// If the lengths differ.
pub fn f32_to_bf16(x: &[f32], out: &mut [bf16]) {
    assert_eq!(x.len(), out.len(), "convert: lengths");
    let isa = Isa::best();
    out.par_chunks_mut(CHUNK).zip(x.par_chunks(CHUNK)).for_each(|(out, x)| to_bf16(isa, x, out));
}

/// Widens bf16, exactly.
///
/// # Panics
///
/// If the lengths differ.
pub fn bf16_to_f32(x: &[bf16], out: &mut [f32]) {
    assert_eq!(x.len(), out.len(), "convert: lengths");
    let isa = Isa::best();
    out.par_chunks_mut(CHUNK).zip(x.par_chunks(CHUNK)).for_each(|(out, x)| from_bf16(isa, x, out));
}

/// Rounds `x` to f16; values beyond its range become infinite.
///
/// # Panics
///
/// If the lengths differ.
pub fn f32_to_f16(x: &[f32], out: &mut [f16]) {
    assert_eq!(x.len(), out.len(), "convert: lengths");
    out.par_chunks_mut(CHUNK).zip(x.par_chunks(CHUNK)).for_each(|(out, x)| out.convert_from_f32_slice(x));
}

/// Widens f16, exactly.
///
/// # Panics
///
/// If the lengths differ.
pub fn f16_to_f32(x: &[f16], out: &mut [f32]) {
    assert_eq!(x.len(), out.len(), "convert: lengths");
    out.par_chunks_mut(CHUNK).zip(x.par_chunks(CHUNK)).for_each(|(out, x)| x.convert_to_f32_slice(out));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::random;

    fn samples() -> Vec<f32> {
        let mut x = random(1, 1003);
        x.extend([
            0.0,
            -0.0,
            f32::NAN,
            -f32::NAN,
            f32::INFINITY,
            f32::NEG_INFINITY,
            f32::MAX,
            65_520.0,
            65_519.0,
        ]);
        x.extend([1e-40, 6e-8, 1.0 + 1.0 / 256.0, 1.0 + 3.0 / 256.0, 1.0 + 1.0 / 2048.0]);
        x
    }

    #[test]
    fn bf16_agrees_with_the_reference_on_every_path() {
        let x = samples();
        for isa in Isa::available() {
            let mut narrow = vec![bf16::ZERO; x.len()];
            to_bf16(isa, &x, &mut narrow);
            let mut wide = vec![0.0; x.len()];
            from_bf16(isa, &narrow, &mut wide);
            for ((&x, n), w) in x.iter().zip(&narrow).zip(&wide) {
                let want = bf16::from_f32(x);
                assert!(*n == want || n.is_nan() && want.is_nan(), "{x}");
                assert!(*w == want.to_f32() || w.is_nan() && want.is_nan(), "{x}");
            }
        }
    }

    #[test]
    fn slices_convert_both_ways() {
        let x = samples();
        let mut narrow = vec![f16::ZERO; x.len()];
        f32_to_f16(&x, &mut narrow);
        let mut wide = vec![0.0; x.len()];
        f16_to_f32(&narrow, &mut wide);
        for (&x, w) in x.iter().zip(&wide) {
            let want = f16::from_f32(x).to_f32();
            assert!(*w == want || w.is_nan() && want.is_nan(), "{x}: {w} {want}");
        }
        let mut narrow = vec![bf16::ZERO; x.len()];
        f32_to_bf16(&x, &mut narrow);
        bf16_to_f32(&narrow, &mut wide);
        for (&x, w) in x.iter().zip(&wide) {
            let want = bf16::from_f32(x).to_f32();
            assert!(*w == want || w.is_nan() && want.is_nan(), "{x}: {w} {want}");
        }
    }
}
