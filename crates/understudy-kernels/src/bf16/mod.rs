//! Products of bf16 tiles: the packed layout and the kernels on it.
//!
//! An operand is cut into *panels* of 16 *lanes* (rows of the left, columns of the right operand), and a
//! panel into *tiles* 32 deep along the inner dimension. A tile is 16 by 16 pairs of bf16, 1 KiB. In a left
//! tile the pairs of one lane lie together; in a right tile those of one depth do. That is what AMX loads,
//! and what the AVX-512 dot-product instruction wants.

#[cfg(target_arch = "x86_64")]
mod amx;
#[cfg(target_arch = "x86_64")]
mod avx512;
mod pack;
mod portable;
mod repack;
#[cfg(test)]
mod tests;

use crate::cpu::Bf16Path;
pub(crate) use pack::{Side, pack_parts, pack_tile, round, round_quiet};
pub(crate) use repack::{transpose_panels, widen_tile};

/// Lanes of a panel.
pub(crate) const LANES: usize = 16;
/// Depth of a tile.
pub(crate) const DEPTH: usize = 32;
/// How many bf16 hold an f32.
pub(crate) const PARTS: usize = 3;
/// Elements of a tile.
pub(crate) const TILE: usize = LANES * DEPTH;

/// Panels `stride` elements apart, each a run of tiles.
#[derive(Clone, Copy)]
pub(crate) struct Panels<'a> {
    pub(crate) data: &'a [u16],
    pub(crate) stride: usize,
}

impl<'a> Panels<'a> {
    /// From panel `panel` and tile `tile` of each panel on.
    pub(crate) fn skip(self, panel: usize, tile: usize) -> Self {
        Panels { data: &self.data[panel * self.stride + tile * TILE..], ..self }
    }

    /// Asserts that `lanes` lanes of `tiles` tiles are there.
    fn check(&self, lanes: usize, tiles: usize) {
        self.check_from(0, lanes, tiles);
    }

    /// The same of those `offset` elements on.
    fn check_from(&self, offset: usize, lanes: usize, tiles: usize) {
        let last = offset + (lanes.div_ceil(LANES) - 1) * self.stride + tiles * TILE;
        assert!(last <= self.data.len(), "panels too short");
    }
}

/// One block of at most 32 by 32 outputs: two panels a side.
#[derive(Clone, Copy)]
struct Block {
    a: [*const u16; 2],
    b: [*const u16; 2],
    tiles: usize,
    c: *mut f32,
    ld: usize,
    rows: usize,
    cols: usize,
    accumulate: bool,
}

/// `c = a b` or `c += a b` for `(rows, cols)` outputs with rows `ld` apart, over `tiles` tiles of depth.
///
/// The order of the sums depends on `tiles` alone.
///
/// # Safety
///
/// Rows `c + i * ld .. + cols` for `i < rows` must be valid and used by nobody else during the call.
#[allow(clippy::too_many_arguments)]
pub(crate) unsafe fn multiply(
    path: Bf16Path,
    a: Panels,
    b: Panels,
    tiles: usize,
    c: *mut f32,
    ld: usize,
    (rows, cols): (usize, usize),
    accumulate: bool,
) {
    if rows == 0 || cols == 0 {
        return;
    }
    a.check(rows, tiles);
    b.check(cols, tiles);
    let blocks = || blocks(a, b, tiles, (c, ld), (rows, cols), accumulate);
    match path {
        // SAFETY: `check` covers the panels, the caller the output.
        Bf16Path::Portable => blocks().for_each(|block| unsafe { portable::block(&block) }),
        // SAFETY: as above; this path exists only where the instructions do.
        #[cfg(target_arch = "x86_64")]
        Bf16Path::Avx512 => blocks().for_each(|block| unsafe { avx512::block(&block) }),
        #[cfg(target_arch = "x86_64")]
        Bf16Path::Amx => {
            let tiles = amx::Tiles::configure();
            // SAFETY: as above; the tile registers are configured while `tiles` lives.
            blocks().for_each(|block| unsafe { tiles.block(&block) });
        }
        #[cfg(not(target_arch = "x86_64"))]
        _ => unreachable!("this path does not exist on this processor"),
    }
}

/// The blocks of a product, right panels slowest.
fn blocks<'a>(
    a: Panels<'a>,
    b: Panels<'a>,
    tiles: usize,
    (c, ld): (*mut f32, usize),
    (rows, cols): (usize, usize),
    accumulate: bool,
) -> impl Iterator<Item = Block> + 'a {
    (0..cols).step_by(2 * LANES).flat_map(move |j| {
        (0..rows).step_by(2 * LANES).map(move |i| {
            // A missing second panel repeats the first; its outputs are not stored.
            let panel = |p: Panels, lane: usize, lanes: usize| {
                let first = p.data[lane / LANES * p.stride..].as_ptr();
                let second = if lanes - lane > LANES {
                    p.data[(lane / LANES + 1) * p.stride..].as_ptr()
                } else {
                    first
                };
                [first, second]
            };
            Block {
                a: panel(a, i, rows),
                b: panel(b, j, cols),
                tiles,
                c: c.wrapping_add(i * ld + j),
                ld,
                rows: (rows - i).min(2 * LANES),
                cols: (cols - j).min(2 * LANES),
                accumulate,
            }
        })
    })
}

/// [`multiply`] of operands in [`PARTS`], each the next plane of so many elements on (without a plane the
/// right one is exact in bf16), by AMX: what f32 products give, but for the last bit or two (Henry, Tang and
/// Heinecke, "Leveraging the bfloat16 Artificial Intelligence Datatype For Higher-Precision Computations",
/// 2019). Of the nine products of parts the three smallest are left out: they are below what f32 resolves.
/// Where an operand is infinite the result is no number.
///
/// # Safety
///
/// As [`multiply`]; and AMX must be there.
#[cfg(target_arch = "x86_64")]
#[allow(clippy::too_many_arguments)]
pub(crate) unsafe fn multiply_parts(
    a: Panels,
    b: Panels,
    planes: (usize, Option<usize>),
    tiles: usize,
    (c, ld): (*mut f32, usize),
    (rows, cols): (usize, usize),
    accumulate: bool,
) {
    if rows == 0 || cols == 0 {
        return;
    }
    a.check_from((PARTS - 1) * planes.0, rows, tiles);
    b.check_from((PARTS - 1) * planes.1.unwrap_or(0), cols, tiles);
    let registers = amx::Tiles::configure();
    for block in blocks(a, b, tiles, (c, ld), (rows, cols), accumulate) {
        // SAFETY: the checks cover the panels, the caller the output; the tile registers are configured.
        unsafe { registers.parts(&block, planes) };
    }
}

/// 32 by 32 products of left panels and right tiles that are gathered from memory: pair row `r` of tile `t`
/// of column group `g` is the 32 elements from `right[starts[g] + offsets[t] + r * stride]` on.
///
/// `lanes` (at most 32) says how many rows of `sums`, 32 wide, matter.
#[allow(clippy::too_many_arguments)]
pub(crate) fn multiply_gathered(
    path: Bf16Path,
    left: Panels,
    lanes: usize,
    right: &[u16],
    starts: [usize; 2],
    stride: usize,
    offsets: &[usize],
    sums: &mut [f32; 4 * LANES * LANES],
) {
    left.check(lanes, offsets.len());
    let reach = offsets.iter().max().map_or(0, |o| o + (LANES - 1) * stride + 2 * LANES);
    assert!(starts.iter().all(|s| s + reach <= right.len()), "gathered tiles out of range");
    let second = if lanes > LANES { left.stride } else { 0 };
    match path {
        #[cfg(target_arch = "x86_64")]
        Bf16Path::Amx => {
            let a = [left.data.as_ptr(), left.data[second..].as_ptr()];
            let b = starts.map(|s| right[s..].as_ptr());
            // SAFETY: the panels and every gathered row are in range by the assertions.
            unsafe { amx::Tiles::configure().gathered(a, b, stride, offsets, sums) };
        }
        _ => {
            let len = offsets.len() * TILE;
            let mut packed = crate::par::Buffer::<u16>::new(2 * len);
            for (start, packed) in starts.iter().zip(packed.chunks_exact_mut(len)) {
                for (offset, tile) in offsets.iter().zip(packed.chunks_exact_mut(TILE)) {
                    for (r, row) in tile.chunks_exact_mut(2 * LANES).enumerate() {
                        row.copy_from_slice(&right[start + offset + r * stride..][..2 * LANES]);
                    }
                }
            }
            let packed = Panels { data: &packed, stride: len };
            // SAFETY: `sums` holds 32 rows of 32.
            unsafe {
                let c = sums.as_mut_ptr();
                multiply(path, left, packed, offsets.len(), c, 2 * LANES, (lanes, 2 * LANES), false);
            }
        }
    }
}

/// 32 by 32 products of left rows as they lie in memory and right panels: row `r` is `left.0[r * left.1..]`,
/// of which `left.2` rows (at most 32, a multiple of 16) exist; `cols` right lanes do.
///
/// Writes or adds to 32 rows of 32, `ld` apart; what belongs to missing rows and lanes is unspecified.
///
/// # Panics
///
/// If an operand or `c` is too short.
#[allow(clippy::too_many_arguments)]
pub(crate) fn multiply_shifted(
    path: Bf16Path,
    left: (&[u16], usize, usize),
    right: Panels,
    cols: usize,
    tiles: usize,
    c: &mut [f32],
    ld: usize,
    accumulate: bool,
) {
    let (data, stride, rows) = left;
    assert!((rows - 1) * stride + tiles * DEPTH <= data.len(), "left rows too short");
    assert!((2 * LANES - 1) * ld + 2 * LANES <= c.len(), "block of c too short");
    right.check(cols.min(2 * LANES), tiles);
    let low = if rows > LANES { LANES * stride } else { 0 };
    let second = if cols > LANES { right.stride } else { 0 };
    match path {
        #[cfg(target_arch = "x86_64")]
        Bf16Path::Amx => {
            let block = Block {
                a: [data.as_ptr(), data[low..].as_ptr()],
                b: [right.data.as_ptr(), right.data[second..].as_ptr()],
                tiles,
                c: c.as_mut_ptr(),
                ld,
                rows: 2 * LANES,
                cols: 2 * LANES,
                accumulate,
            };
            // SAFETY: the assertions cover every row of both operands and of `c`.
            unsafe { amx::Tiles::configure().shifted(&block, stride) };
        }
        _ => {
            let len = tiles * TILE;
            let mut packed = crate::par::Buffer::<u16>::new(2 * len);
            for (start, packed) in [0, low].into_iter().zip(packed.chunks_exact_mut(len)) {
                for (t, tile) in packed.chunks_exact_mut(TILE).enumerate() {
                    for (r, row) in tile.chunks_exact_mut(DEPTH).enumerate() {
                        row.copy_from_slice(&data[start + r * stride + t * DEPTH..][..DEPTH]);
                    }
                }
            }
            let packed = Panels { data: &packed, stride: len };
            // SAFETY: `c` holds the block.
            unsafe {
                let cols = cols.min(2 * LANES);
                multiply(path, packed, right, tiles, c.as_mut_ptr(), ld, (2 * LANES, cols), accumulate);
            }
        }
    }
}
