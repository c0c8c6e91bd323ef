//! Rounding to bf16 and packing into tiles.

use super::{DEPTH, LANES, PARTS, TILE};
use crate::cpu::Isa;
use crate::simd::multiversion;

/// Which operand a tile belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Side {
    Left,
    Right,
}

/// Bits of the nearest bf16, ties to even; NaN stays NaN.
#[inline(always)]
pub(crate) fn round(x: f32) -> u32 {
    let bits = x.to_bits();
    let rounded = bits.wrapping_add(0x7fff + ((bits >> 16) & 1)) >> 16;
    if x.is_nan() { (bits >> 16) | 0x40 } else { rounded }
}

/// Bits of the nearest bf16 for numbers that arithmetic produced: as [`round`], but a NaN only the kind that
/// arithmetic gives.
#[inline(always)]
pub(crate) fn round_quiet(x: f32) -> u16 {
    let bits = x.to_bits();
    (bits.wrapping_add(0x7fff + ((bits >> 16) & 1)) >> 16) as u16
}

/// Packs `lanes` by `depth` elements, element `(l, k)` at `src[l * strides.0 + k * strides.1]`, zeros to fill
/// the tile.
pub(crate) fn pack_tile(
    isa: Isa,
    side: Side,
    src: &[f32],
    strides: (usize, usize),
    lanes: usize,
    depth: usize,
    tile: &mut [u16],
) {
    assert!(lanes <= LANES && depth <= DEPTH && tile.len() == TILE, "tile shape");
    // Packing by lanes gives a left tile, by depth a right tile; transposing the 16 by 16 pairs gives the
    // other.
    let by_depth = strides.0 == 1 && strides.1 != 1;
    if by_depth {
        match isa {
            // SAFETY: this `Isa` exists only on machines that have the features.
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 if lanes == LANES && depth == DEPTH => unsafe {
                pack_by_depth_avx512(src, strides.1, tile)
            },
            _ => pack_by_depth(isa, src, strides.1, lanes, depth, tile),
        }
    } else {
        pack_by_lane(isa, src, strides, lanes, depth, tile);
    }
    if by_depth == (side == Side::Left) {
        match isa {
            // SAFETY: this `Isa` exists only on machines that have the features.
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 => unsafe { transpose_pairs_avx512(tile) },
            _ => transpose_pairs(tile),
        }
    }
}

/// Packs the three parts of each element, as [`pack_tile`] packs one: three bf16 whose sum is the element,
/// each holding the next eight bits of it. Of what is not finite the first part is all.
pub(crate) fn pack_parts(
    isa: Isa,
    side: Side,
    src: &[f32],
    strides: (usize, usize),
    lanes: usize,
    depth: usize,
    tiles: [&mut [u16]; PARTS],
) {
    assert!(lanes <= LANES && depth <= DEPTH && tiles.iter().all(|tile| tile.len() == TILE), "tile shape");
    #[cfg(target_arch = "x86_64")]
    if isa == Isa::Avx512 && lanes == LANES && depth == DEPTH && (strides.0 == 1 || strides.1 == 1) {
        let by_depth = strides.0 == 1 && strides.1 != 1;
        let [first, second, third] = tiles;
        // SAFETY: this `Isa` exists only on machines that have the features.
        unsafe {
            if by_depth {
                parts_by_depth_avx512(src, strides.1, [&mut *first, &mut *second, &mut *third])
            } else {
                parts_by_lane_avx512(src, strides.0, [&mut *first, &mut *second, &mut *third])
            }
            if by_depth == (side == Side::Left) {
                for tile in [first, second, third] {
                    transpose_pairs_avx512(tile);
                }
            }
        }
        return;
    }
    let mut parts = [[0.0; TILE]; PARTS];
    for lane in 0..lanes {
        for k in 0..depth {
            let own = parts_of(src[lane * strides.0 + k * strides.1]);
            for (all, part) in parts.iter_mut().zip(own) {
                all[lane * DEPTH + k] = part;
            }
        }
    }
    for (part, tile) in parts.iter().zip(tiles) {
        pack_tile(isa, side, part, (DEPTH, 1), lanes, depth, tile);
    }
}

/// The parts of a number, largest first; each is a bf16.
#[inline(always)]
fn parts_of(x: f32) -> [f32; PARTS] {
    let cut = |x: f32| f32::from_bits(x.to_bits() & 0xffff_0000);
    if !x.is_finite() {
        return [x, 0.0, 0.0];
    }
    let first = cut(x);
    let rest = x - first;
    let second = f32::from_bits(round(rest) << 16);
    [first, second, cut(rest - second)]
}

/// [`round_quiet`] of sixteen numbers, given by their bits: the rounded number is in the upper half of each
/// lane, what is below it unspecified.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f")]
fn nearest_avx512(bits: std::arch::x86_64::__m512i) -> std::arch::x86_64::__m512i {
    use std::arch::x86_64::*;
    let odd = _mm512_and_si512(_mm512_srli_epi32::<16>(bits), _mm512_set1_epi32(1));
    _mm512_add_epi32(_mm512_add_epi32(bits, _mm512_set1_epi32(0x7fff)), odd)
}

/// The upper halves of all lanes in pairs, those of `even` first.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f")]
fn paired_avx512(
    even: std::arch::x86_64::__m512i,
    odd: std::arch::x86_64::__m512i,
) -> std::arch::x86_64::__m512i {
    use std::arch::x86_64::*;
    _mm512_or_si512(_mm512_srli_epi32::<16>(even), _mm512_and_si512(odd, _mm512_set1_epi32(-65536)))
}

/// [`parts_of`] sixteen numbers, each part in the upper half of its lane; what is below is unspecified in the
/// last.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f")]
fn parts_of_avx512(x: std::arch::x86_64::__m512) -> [std::arch::x86_64::__m512i; PARTS] {
    use std::arch::x86_64::*;
    let upper = _mm512_set1_epi32(-65536);
    let bits = _mm512_castps_si512(x);
    let nan = _mm512_cmp_ps_mask::<_CMP_UNORD_Q>(x, x);
    let first = _mm512_and_si512(bits, upper);
    let first = _mm512_mask_or_epi32(first, nan, first, _mm512_set1_epi32(0x40_0000));
    let size = _mm512_and_si512(bits, _mm512_set1_epi32(0x7fff_ffff));
    let finite = _mm512_cmplt_epi32_mask(size, _mm512_set1_epi32(0x7f80_0000));
    let rest = _mm512_maskz_sub_ps(finite, x, _mm512_castsi512_ps(first));
    let second = _mm512_and_si512(nearest_avx512(_mm512_castps_si512(rest)), upper);
    [first, second, _mm512_castps_si512(_mm512_sub_ps(rest, _mm512_castsi512_ps(second)))]
}

/// [`pack_parts`] of a whole tile whose lanes lie side by side.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f")]
fn parts_by_depth_avx512(src: &[f32], stride: usize, tiles: [&mut [u16]; PARTS]) {
    use std::arch::x86_64::*;
    assert!(tiles.iter().all(|tile| tile.len() == TILE) && src.len() >= (DEPTH - 1) * stride + LANES);
    let at = tiles.map(|tile| tile.as_mut_ptr());
    for pair in 0..LANES {
        // SAFETY: both rows of the source have 16 elements by the assertion.
        let [even, odd] =
            [0, 1].map(|row| unsafe { _mm512_loadu_ps(src.as_ptr().add((2 * pair + row) * stride)) });
        let (even, odd) = (parts_of_avx512(even), parts_of_avx512(odd));
        for part in 0..PARTS {
            let pairs = paired_avx512(even[part], odd[part]);
            // SAFETY: row `pair` of the tile is 64 bytes, written without alignment.
            unsafe { _mm512_storeu_si512(at[part].add(pair * 2 * LANES).cast(), pairs) };
        }
    }
}

/// [`pack_parts`] of a whole tile whose lanes are rows.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f")]
fn parts_by_lane_avx512(src: &[f32], stride: usize, tiles: [&mut [u16]; PARTS]) {
    use std::arch::x86_64::*;
    assert!(tiles.iter().all(|tile| tile.len() == TILE) && src.len() >= (LANES - 1) * stride + DEPTH);
    let at = tiles.map(|tile| tile.as_mut_ptr());
    for lane in 0..LANES {
        for half in 0..2 {
            // SAFETY: the lane has 32 elements by the assertion.
            let x = unsafe { _mm512_loadu_ps(src.as_ptr().add(lane * stride + half * LANES)) };
            for (part, bits) in parts_of_avx512(x).into_iter().enumerate() {
                let packed = _mm512_cvtepi32_epi16(_mm512_srli_epi32::<16>(bits));
                // SAFETY: a lane of the tile is 64 bytes, of which this writes a half without alignment.
                unsafe { _mm256_storeu_si256(at[part].add(lane * DEPTH + half * LANES).cast(), packed) };
            }
        }
    }
}

/// [`pack_by_depth`] of a whole tile.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f")]
fn pack_by_depth_avx512(src: &[f32], stride: usize, tile: &mut [u16]) {
    use std::arch::x86_64::*;
    assert!(tile.len() == TILE && src.len() >= (DEPTH - 1) * stride + LANES);
    // The rounded number in the upper half of each lane; see `round`.
    let rounded = |row: usize| {
        // SAFETY: row `row` of the source has 16 elements by the assertion.
        let x = unsafe { _mm512_loadu_ps(src.as_ptr().add(row * stride)) };
        let bits = _mm512_castps_si512(x);
        let nan = _mm512_cmp_ps_mask::<_CMP_UNORD_Q>(x, x);
        _mm512_mask_or_epi32(nearest_avx512(bits), nan, bits, _mm512_set1_epi32(0x40_0000))
    };
    for pair in 0..LANES {
        let pairs = paired_avx512(rounded(2 * pair), rounded(2 * pair + 1));
        // SAFETY: row `pair` of the tile is 64 bytes, written without alignment.
        unsafe { _mm512_storeu_si512(tile.as_mut_ptr().add(pair * 2 * LANES).cast(), pairs) };
    }
}

/// Transposes a tile as a 16 by 16 matrix of pairs, by exchanging blocks of 8, 4, 2 and 1.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f")]
fn transpose_pairs_avx512(tile: &mut [u16]) {
    use std::arch::x86_64::*;
    assert_eq!(tile.len(), TILE);
    let at = tile.as_mut_ptr().cast::<__m512i>();
    // SAFETY: a tile is 16 rows of 64 bytes, read and written without alignment.
    let mut rows: [__m512i; 16] = std::array::from_fn(|i| unsafe { _mm512_loadu_si512(at.add(i)) });
    for block in [8, 4, 2, 1] {
        // Lane `l` of the upper row comes from the upper row, or from the lower one moved up by `block`.
        let upper: [i32; 16] =
            std::array::from_fn(|l| if l & block == 0 { l } else { 16 + l - block } as i32);
        let lower: [i32; 16] =
            std::array::from_fn(|l| if l & block == 0 { l + block } else { 16 + l } as i32);
        // SAFETY: both arrays are 64 bytes.
        let (upper, lower) =
            unsafe { (_mm512_loadu_si512(upper.as_ptr().cast()), _mm512_loadu_si512(lower.as_ptr().cast())) };
        for i in (0..16).filter(|i| i & block == 0) {
            let (a, b) = (rows[i], rows[i + block]);
            rows[i] = _mm512_permutex2var_epi32(a, upper, b);
            rows[i + block] = _mm512_permutex2var_epi32(a, lower, b);
        }
    }
    for (i, row) in rows.into_iter().enumerate() {
        // SAFETY: as above.
        unsafe { _mm512_storeu_si512(at.add(i), row) };
    }
}

multiversion! {
    fn pack_by_lane(src: &[f32], strides: (usize, usize), lanes: usize, depth: usize, tile: &mut [u16]) {
        if lanes < LANES || depth < DEPTH {
            tile.fill(0);
        }
        for (l, row) in tile.chunks_exact_mut(DEPTH).enumerate().take(lanes) {
            let src = &src[l * strides.0..];
            if strides.1 == 1 && depth == DEPTH {
                let src = &src[..DEPTH];
                for i in 0..DEPTH {
                    row[i] = round(src[i]) as u16;
                }
            } else {
                for (i, out) in row.iter_mut().enumerate().take(depth) {
                    *out = round(src[i * strides.1]) as u16;
                }
            }
        }
    }
}

multiversion! {
    fn pack_by_depth(src: &[f32], stride: usize, lanes: usize, depth: usize, tile: &mut [u16]) {
        if lanes < LANES || depth < DEPTH {
            tile.fill(0);
        }
        for (p, row) in tile.chunks_exact_mut(2 * LANES).enumerate().take(depth.div_ceil(2)) {
            let even = &src[2 * p * stride..];
            if lanes == LANES && 2 * p + 1 < depth {
                let (even, odd) = (&even[..LANES], &even[stride..stride + LANES]);
                let mut pairs = [0u32; LANES];
                for l in 0..LANES {
                    pairs[l] = round(even[l]) | (round(odd[l]) << 16);
                }
                for l in 0..LANES {
                    row[2 * l] = pairs[l] as u16;
                    row[2 * l + 1] = (pairs[l] >> 16) as u16;
                }
            } else {
                for l in 0..lanes {
                    row[2 * l] = round(even[l]) as u16;
                    if 2 * p + 1 < depth {
                        row[2 * l + 1] = round(even[stride + l]) as u16;
                    }
                }
            }
        }
    }
}

/// Transposes a tile as a 16 by 16 matrix of pairs.
fn transpose_pairs(tile: &mut [u16]) {
    let mut pairs = [[0u32; LANES]; LANES];
    for (i, row) in tile.chunks_exact(2 * LANES).enumerate() {
        for j in 0..LANES {
            pairs[j][i] = row[2 * j] as u32 | ((row[2 * j + 1] as u32) << 16);
        }
    }
    for (row, pairs) in tile.chunks_exact_mut(2 * LANES).zip(&pairs) {
        for j in 0..LANES {
            row[2 * j] = pairs[j] as u16;
            row[2 * j + 1] = (pairs[j] >> 16) as u16;
        }
    }
}
