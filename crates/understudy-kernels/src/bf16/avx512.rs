//! Tile products by the AVX512-BF16 dot-product instruction.

use super::{Block, LANES, TILE};
use std::arch::x86_64::*;

/// Rows whose sums are held at once. A pair of the left is broadcast for two right panels: processors that
/// split 512 bits broadcast no faster than they multiply, so that one panel alone would wait for them.
const ROWS: usize = 8;

/// # Safety
///
/// The processor must have AVX512-BF16, the panels must hold `block.tiles` tiles, and the output must be
/// valid and unique.
#[target_feature(enable = "avx512f,avx512bf16")]
pub(super) unsafe fn block(block: &Block) {
    for first in (0..block.rows).step_by(ROWS) {
        let a = block.a[first / LANES].wrapping_add(first % LANES * 2 * LANES);
        let rows = (block.rows - first).min(ROWS);
        let c = block.c.wrapping_add(first * block.ld);
        // SAFETY: the caller's promise, for some rows of the block.
        unsafe {
            if block.cols > LANES { strip::<2>(block, a, c, rows) } else { strip::<1>(block, a, c, rows) }
        }
    }
}

/// `rows` rows of the block, from lane `a` on, by `PANELS` right panels.
///
/// # Safety
///
/// As for [`block`]; `a` must be the first of [`ROWS`] lanes of a left panel, and `c` where their sums go.
#[target_feature(enable = "avx512f,avx512bf16")]
unsafe fn strip<const PANELS: usize>(block: &Block, a: *const u16, c: *mut f32, rows: usize) {
    let mut sums = [[_mm512_setzero_ps(); PANELS]; ROWS];
    for t in 0..block.tiles {
        for pair in 0..LANES {
            // SAFETY: inside tile `t` of the panels.
            unsafe {
                let right: [__m512bh; PANELS] = std::array::from_fn(|j| {
                    let at = block.b[j].add(t * TILE + pair * 2 * LANES);
                    // The intrinsic's operand types are 512 bits of bf16 each.
                    std::mem::transmute::<__m512i, __m512bh>(_mm512_loadu_si512(at.cast()))
                });
                for (r, sums) in sums.iter_mut().enumerate() {
                    let at = a.add(t * TILE + r * 2 * LANES + pair * 2).cast::<i32>();
                    let left = _mm512_set1_epi32(at.read_unaligned());
                    let left = std::mem::transmute::<__m512i, __m512bh>(left);
                    for (sum, right) in sums.iter_mut().zip(right) {
                        *sum = _mm512_dpbf16_ps(*sum, left, right);
                    }
                }
            }
        }
    }
    for (r, sums) in sums.iter().enumerate().take(rows) {
        for (j, sum) in sums.iter().enumerate() {
            let cols = (block.cols - j * LANES).min(LANES);
            let mask: __mmask16 = ((1u32 << cols) - 1) as u16;
            // SAFETY: row `r` and the masked columns lie inside the output.
            unsafe {
                let at = c.add(r * block.ld + j * LANES);
                let old =
                    if block.accumulate { _mm512_maskz_loadu_ps(mask, at) } else { _mm512_setzero_ps() };
                _mm512_mask_storeu_ps(at, mask, _mm512_add_ps(old, *sum));
            }
        }
    }
}
