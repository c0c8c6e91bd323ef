//! Packed panels of a right operand as those of its transpose, and as f32.

use super::{LANES, TILE};
use crate::cpu::Isa;
use crate::simd::multiversion;

/// Elements of the half of a tile that two panels give to one tile of the transpose.
const HALF: usize = TILE / 2;

/// A tile of the transpose of a right operand: its lanes are the 16 depths of `half` (0 or 1) of a tile, its
/// 32 depths the lanes of two neighbouring panels, whose tiles at that depth are `sources`; a missing panel
/// is zeros.
pub(crate) fn transpose_panels(isa: Isa, sources: [Option<&[u16]>; 2], half: usize, tile: &mut [u16]) {
    for (source, out) in sources.into_iter().zip(tile.chunks_exact_mut(HALF)) {
        match (source, isa) {
            (None, _) => out.fill(0),
            // SAFETY: this `Isa` exists only on machines that have the features.
            #[cfg(target_arch = "x86_64")]
            (Some(source), Isa::Avx512) => unsafe {
                transpose_half_avx512(&source[half * HALF..][..HALF], out)
            },
            (Some(source), _) => transpose_half(isa, &source[half * HALF..][..HALF], out),
        }
    }
}

multiversion! {
    /// Eight rows of 16 lanes in pairs of depths become eight rows of 16 depths in pairs of lanes.
    fn transpose_half(source: &[u16], out: &mut [u16]) {
        let source = &source[..HALF];
        for (pair, out) in out.chunks_exact_mut(2 * LANES).enumerate() {
            for depth in 0..LANES {
                let at = depth / 2 * 2 * LANES + 4 * pair + depth % 2;
                out[2 * depth] = source[at];
                out[2 * depth + 1] = source[at + 2];
            }
        }
    }
}

/// [`transpose_half`]: two lanes by two depths are 64 bits; each such block is transposed, then the blocks
/// as a matrix of eight by eight.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw")]
fn transpose_half_avx512(source: &[u16], out: &mut [u16]) {
    use std::arch::x86_64::*;
    const INNER: i32 = 0b11_01_10_00;
    assert!(source.len() == HALF && out.len() == HALF, "half a tile");
    let mut rows: [__m512i; 8] = std::array::from_fn(|row| {
        // SAFETY: row `row` is 64 bytes of the source, read without alignment.
        let row = unsafe { _mm512_loadu_si512(source.as_ptr().add(row * 2 * LANES).cast()) };
        _mm512_shufflehi_epi16::<INNER>(_mm512_shufflelo_epi16::<INNER>(row))
    });
    for block in [4, 2, 1] {
        let upper: [i64; 8] = std::array::from_fn(|l| if l & block == 0 { l } else { 8 + l - block } as i64);
        let lower: [i64; 8] = std::array::from_fn(|l| if l & block == 0 { l + block } else { 8 + l } as i64);
        // SAFETY: both arrays are 64 bytes.
        let (upper, lower) =
            unsafe { (_mm512_loadu_si512(upper.as_ptr().cast()), _mm512_loadu_si512(lower.as_ptr().cast())) };
        for i in (0..8).filter(|i| i & block == 0) {
            let (a, b) = (rows[i], rows[i + block]);
            rows[i] = _mm512_permutex2var_epi64(a, upper, b);
            rows[i + block] = _mm512_permutex2var_epi64(a, lower, b);
        }
    }
    for (row, out) in rows.into_iter().zip(out.chunks_exact_mut(2 * LANES)) {
        // SAFETY: a row is 64 bytes, written without alignment.
        unsafe { _mm512_storeu_si512(out.as_mut_ptr().cast(), row) };
    }
}

multiversion! {
    /// A right tile as f32: lane `l` at depth `d` goes to `out[d * stride + l]`; `depth` depths are wanted.
    pub(crate) fn widen_tile(tile: &[u16], depth: usize, out: &mut [f32], stride: usize) {
        let wide = |bits: u16| f32::from_bits(u32::from(bits) << 16);
        for (pair, row) in tile.chunks_exact(2 * LANES).enumerate() {
            for odd in 0..2 {
                let at = 2 * pair + odd;
                if at < depth {
                    let out = &mut out[at * stride..][..LANES];
                    for lane in 0..LANES {
                        out[lane] = wide(row[2 * lane + odd]);
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::DEPTH;
    use super::*;

    /// The element of a right tile.
    fn at(lane: usize, depth: usize) -> usize {
        depth / 2 * 2 * LANES + 2 * lane + depth % 2
    }

    #[test]
    fn tiles_are_transposed_and_widened_alike_on_every_path() {
        let panels: [Vec<u16>; 2] =
            [3, 5].map(|factor| (0..TILE).map(|i| (factor * i * 37 % 65521) as u16).collect());
        for isa in Isa::available() {
            for half in 0..2 {
                let mut tile = vec![7; TILE];
                transpose_panels(isa, [Some(&panels[0]), Some(&panels[1])], half, &mut tile);
                for (lane, depth) in (0..LANES).flat_map(|l| (0..DEPTH).map(move |d| (l, d))) {
                    let want = panels[depth / LANES][at(depth % LANES, half * LANES + lane)];
                    assert_eq!(tile[at(lane, depth)], want, "{isa:?} {half} {lane} {depth}");
                }
                transpose_panels(isa, [Some(&panels[0]), None], half, &mut tile);
                assert!(tile[HALF..].iter().all(|&bits| bits == 0));
            }
            let mut wide = vec![f32::NAN; 29 * 20];
            widen_tile(isa, &panels[0], 29, &mut wide, 20);
            for (lane, depth) in (0..LANES).flat_map(|l| (0..29).map(move |d| (l, d))) {
                let want = u32::from(panels[0][at(lane, depth)]) << 16;
                assert_eq!(wide[depth * 20 + lane].to_bits(), want, "{isa:?}");
            }
        }
    }
}
