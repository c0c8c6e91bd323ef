//! Tile products by the AVX512-BF16 dot-product instruction.

use super::{Block, LANES, TILE};
use std::arch::x86_64::*;

/// # Safety
///
/// The processor must have AVX512-BF16, the panels must hold `block.tiles` tiles, and the output must be valid and
/// unique.
#[target_feature(enable = "avx512f,avx512bf16")]
pub(super) unsafe fn block(block: &Block) {
    for (i, &a) in block.a.iter().enumerate() {
        for (j, &b) in block.b.iter().enumerate() {
            let rows = block.rows.saturating_sub(i * LANES).min(LANES);
            let cols = block.cols.saturating_sub(j * LANES).min(LANES);
            if rows == 0 || cols == 0 {
                continue;
            }
            let c = block.c.wrapping_add(i * LANES * block.ld + j * LANES);
            // SAFETY: the caller's promise, for one tile of the block.
            unsafe { tile(a, b, block.tiles, c, block.ld, (rows, cols), block.accumulate) };
        }
    }
}

/// # Safety
///
/// As for [`block`], for one tile.
#[target_feature(enable = "avx512f,avx512bf16")]
unsafe fn tile(
    a: *const u16,
    b: *const u16,
    tiles: usize,
    c: *mut f32,
    ld: usize,
    (rows, cols): (usize, usize),
    accumulate: bool,
) {
    let mask: __mmask16 = ((1u32 << cols) - 1) as u16;
    let mut sums = [_mm512_setzero_ps(); LANES];
    for t in 0..tiles {
        for pair in 0..LANES {
            // SAFETY: inside tile `t` of both panels.
            unsafe {
                let at = b.add(t * TILE + pair * 2 * LANES);
                let right = _mm512_loadu_si512(at.cast());
                for (r, sum) in sums.iter_mut().enumerate() {
                    let at = a.add(t * TILE + r * 32 + pair * 2).cast::<i32>();
                    let left = _mm512_set1_epi32(at.read_unaligned());
                    // The intrinsic's operand types are 512 bits of bf16 each.
                    *sum = _mm512_dpbf16_ps(
                        *sum,
                        std::mem::transmute::<__m512i, __m512bh>(left),
                        std::mem::transmute::<__m512i, __m512bh>(right),
                    );
                }
            }
        }
    }
    for (r, sum) in sums.iter().enumerate().take(rows) {
        // SAFETY: row `r` and the masked columns lie inside the output.
        unsafe {
            let at = c.add(r * ld);
            let old = if accumulate { _mm512_maskz_loadu_ps(mask, at) } else { _mm512_setzero_ps() };
            _mm512_mask_storeu_ps(at, mask, _mm512_add_ps(old, *sum));
        }
    }
}
