//! Tile products in plain f32 arithmetic, for processors without bf16 instructions.

use super::{Block, LANES, TILE};
use crate::cpu::Isa;
use crate::simd::{fma, multiversion};

/// # Safety
///
/// The panels must hold `block.tiles` tiles and the output must be valid and unique.
pub(super) unsafe fn block(block: &Block) {
    let isa = Isa::best();
    for (i, &a) in block.a.iter().enumerate() {
        for (j, &b) in block.b.iter().enumerate() {
            let rows = block.rows.saturating_sub(i * LANES).min(LANES);
            let cols = block.cols.saturating_sub(j * LANES).min(LANES);
            if rows == 0 || cols == 0 {
                continue;
            }
            // SAFETY: the caller's promise.
            let (a, b) = unsafe {
                (
                    std::slice::from_raw_parts(a, block.tiles * TILE),
                    std::slice::from_raw_parts(b, block.tiles * TILE),
                )
            };
            let mut sums = [[0f32; LANES]; LANES];
            tile(isa, a, b, &mut sums);
            for (r, sums) in sums.iter().enumerate().take(rows) {
                // SAFETY: the caller's promise; row and columns lie inside the block.
                let c = unsafe {
                    std::slice::from_raw_parts_mut(block.c.add((i * LANES + r) * block.ld + j * LANES), cols)
                };
                for (c, s) in c.iter_mut().zip(sums) {
                    *c = if block.accumulate { *c + s } else { *s };
                }
            }
        }
    }
}

#[inline(always)]
fn widen(bits: u16) -> f32 {
    f32::from_bits((bits as u32) << 16)
}

multiversion! {
    fn tile(a: &[u16], b: &[u16], sums: &mut [[f32; LANES]; LANES]) {
        for (a, b) in a.chunks_exact(TILE).zip(b.chunks_exact(TILE)) {
            for (pair, b) in b.chunks_exact(2 * LANES).enumerate() {
                let mut even = [0f32; LANES];
                let mut odd = [0f32; LANES];
                for l in 0..LANES {
                    even[l] = widen(b[2 * l]);
                    odd[l] = widen(b[2 * l + 1]);
                }
                for (r, sums) in sums.iter_mut().enumerate() {
                    let (a0, a1) = (widen(a[r * 32 + 2 * pair]), widen(a[r * 32 + 2 * pair + 1]));
                    for l in 0..LANES {
                        sums[l] = fma::<FMA>(a1, odd[l], fma::<FMA>(a0, even[l], sums[l]));
                    }
                }
            }
        }
    }
}
