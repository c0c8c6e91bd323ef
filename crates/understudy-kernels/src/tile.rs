//! Products of rows that lie anywhere with a panel of columns: what convolutions over channels-last pictures
//! are made of.

use crate::cpu::Isa;
use crate::simd::multiversion;

/// Rows of a tile.
pub(crate) const ROWS: usize = 12;
/// Columns of a tile, and of a panel: two AVX-512 registers.
pub(crate) const COLUMNS: usize = 32;

/// The running sums of a tile.
pub(crate) type Sums = [[f32; COLUMNS]; ROWS];

/// No sum yet.
pub(crate) const ZERO: Sums = [[0.0; COLUMNS]; ROWS];

/// `sums[r][c] += sum over k of rows[starts[r] + k] * panel[k * COLUMNS + c]`, in order of `k`.
///
/// # Panics
///
/// If a row does not lie in `rows`.
pub(crate) fn multiply_tile(isa: Isa, rows: &[f32], starts: &[usize; ROWS], panel: &[f32], sums: &mut Sums) {
    let depth = panel.len() / COLUMNS;
    let last = starts.iter().max().copied().unwrap_or(0);
    assert!(last + depth <= rows.len(), "tile: a row out of range");
    #[cfg(target_arch = "x86_64")]
    if isa == Isa::Avx512 {
        // SAFETY: this `Isa` exists only on machines that have AVX-512, and every row is in range by the
        // assertion.
        return unsafe { avx512::multiply(rows, starts, panel, sums) };
    }
    plain(isa, rows, starts, panel, sums);
}

multiversion! {
    fn plain(rows: &[f32], starts: &[usize; ROWS], panel: &[f32], sums: &mut Sums) {
        let depth = panel.len() / COLUMNS;
        for (&start, sums) in starts.iter().zip(sums) {
            let mut acc = *sums;
            for (&x, panel) in rows[start..start + depth].iter().zip(panel.chunks_exact(COLUMNS)) {
                for (acc, &w) in acc.iter_mut().zip(panel) {
                    *acc = crate::simd::fma::<FMA>(x, w, *acc);
                }
            }
            *sums = acc;
        }
    }
}

#[cfg(target_arch = "x86_64")]
mod avx512 {
    use super::{COLUMNS, ROWS, Sums};
    use std::arch::x86_64::*;

    /// # Safety
    ///
    /// The processor must have AVX-512, and `panel.len() / COLUMNS` numbers must follow every start in
    /// `rows`.
    #[target_feature(enable = "avx512f")]
    pub(super) unsafe fn multiply(rows: &[f32], starts: &[usize; ROWS], panel: &[f32], sums: &mut Sums) {
        let mut acc = [[_mm512_setzero_ps(); 2]; ROWS];
        for (acc, sums) in acc.iter_mut().zip(sums.iter()) {
            // SAFETY: two halves of a row of sums.
            *acc = unsafe { [_mm512_loadu_ps(sums.as_ptr()), _mm512_loadu_ps(sums.as_ptr().add(16))] };
        }
        let at = starts.map(|start| rows.as_ptr().wrapping_add(start));
        for k in 0..panel.len() / COLUMNS {
            // SAFETY: by the caller's promise.
            unsafe {
                let right = panel.as_ptr().add(k * COLUMNS);
                let right = [_mm512_loadu_ps(right), _mm512_loadu_ps(right.add(16))];
                for (acc, at) in acc.iter_mut().zip(at) {
                    let left = _mm512_set1_ps(*at.add(k));
                    acc[0] = _mm512_fmadd_ps(left, right[0], acc[0]);
                    acc[1] = _mm512_fmadd_ps(left, right[1], acc[1]);
                }
            }
        }
        for (acc, sums) in acc.iter().zip(sums.iter_mut()) {
            // SAFETY: two halves of a row of sums.
            unsafe {
                _mm512_storeu_ps(sums.as_mut_ptr(), acc[0]);
                _mm512_storeu_ps(sums.as_mut_ptr().add(16), acc[1]);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{close, random};

    #[test]
    fn every_instruction_set_gives_the_sums() {
        for depth in [0, 1, 7, 40] {
            let (rows, panel) = (random(1, 200), random(2, depth * COLUMNS));
            let starts: [usize; ROWS] = std::array::from_fn(|r| r * 37 % 160);
            let mut want = vec![0.5; ROWS * COLUMNS];
            for (r, want) in want.chunks_exact_mut(COLUMNS).enumerate() {
                for (c, want) in want.iter_mut().enumerate() {
                    let product = |k: usize| rows[starts[r] + k] as f64 * panel[k * COLUMNS + c] as f64;
                    *want += (0..depth).map(product).sum::<f64>();
                }
            }
            for isa in Isa::available() {
                let mut sums = [[0.5; COLUMNS]; ROWS];
                multiply_tile(isa, &rows, &starts, &panel, &mut sums);
                close(sums.as_flattened(), &want, 1e-6);
            }
        }
    }

    #[test]
    #[should_panic(expected = "out of range")]
    fn rows_out_of_range_panic() {
        multiply_tile(Isa::best(), &[0.0; 20], &[18; ROWS], &[0.0; 3 * COLUMNS], &mut ZERO.clone());
    }
}
