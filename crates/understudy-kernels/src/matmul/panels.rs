//! Driver of products on tiles: packs both operands, each number as one bf16 or in parts, and cuts the output
//! into blocks.

use super::{MatRef, Output, PackedB, PackedRef, Threads};
use crate::bf16::{self, DEPTH, LANES, PARTS, Panels, Side, TILE, multiply};
use crate::cpu::{Bf16Path, Isa};
use crate::par::{self, Buffer, Shared};
use std::ops::Range;

#[cfg(target_arch = "x86_64")]
use crate::bf16::multiply_parts;

/// Inner dimension packed at once; bounds the scratch for very deep products.
const SUPER_DEPTH: usize = 4096;
/// The same of numbers in parts, which take three times the room.
const SUPER_DEPTH_IN_PARTS: usize = 1024;
/// Elements of the left operand packed at once.
const SUPER_LEFT: usize = 16 << 20;
/// Tiles along the inner dimension per pass over an output block: 512 deep, so a panel pair stays in the L1
/// cache.
const PASS: usize = 16;

/// Panels and depth a packing task handles.
const PACK_PANELS: usize = 8;
const PACK_DEPTH: usize = 512;

/// Length in `u16` of `lanes` rows (or columns) packed `depth` deep.
pub(crate) fn panels_len(lanes: usize, depth: usize) -> usize {
    lanes.div_ceil(LANES) * depth.div_ceil(DEPTH) * TILE
}

/// Packs one panel: lanes `lane0..lane0 + 16` of `m` (rows are lanes, columns the inner dimension), columns
/// `depth0..depth0 + depth`, zeros beyond the edges. `out` holds `panels_len(1, depth)`.
pub(crate) fn pack_lanes(side: Side, m: MatRef, lane0: usize, depth0: usize, depth: usize, out: &mut [u16]) {
    let isa = Isa::best();
    let lanes = LANES.min(m.rows - lane0);
    for (tile, (k0, ks)) in out.chunks_exact_mut(TILE).zip(tiles_of(depth0, depth)) {
        let src = &m.data[lane0 * m.row_stride + k0 * m.col_stride..];
        bf16::pack_tile(isa, side, src, (m.row_stride, m.col_stride), lanes, ks, tile);
    }
}

/// The same in parts, each in an `out` of its own.
fn pack_lanes_in_parts(
    side: Side,
    m: MatRef,
    lane0: usize,
    (depth0, depth): (usize, usize),
    [first, second, third]: [&mut [u16]; PARTS],
) {
    let isa = Isa::best();
    let lanes = LANES.min(m.rows - lane0);
    let tiles =
        first.chunks_exact_mut(TILE).zip(second.chunks_exact_mut(TILE)).zip(third.chunks_exact_mut(TILE));
    for (((first, second), third), (k0, ks)) in tiles.zip(tiles_of(depth0, depth)) {
        let src = &m.data[lane0 * m.row_stride + k0 * m.col_stride..];
        bf16::pack_parts(isa, side, src, (m.row_stride, m.col_stride), lanes, ks, [first, second, third]);
    }
}

/// Where each tile starts along the inner dimension, and how deep it is.
fn tiles_of(depth0: usize, depth: usize) -> impl Iterator<Item = (usize, usize)> {
    (0..depth).step_by(DEPTH).map(move |k| (depth0 + k, DEPTH.min(depth - k)))
}

/// How packed panels lie: `stride` elements apart, the parts of each `plane` elements apart, of which there
/// are `parts`.
#[derive(Clone, Copy)]
struct Layout {
    parts: usize,
    plane: usize,
    stride: usize,
}

impl Layout {
    fn new(parts: usize, depth: usize) -> Self {
        let plane = panels_len(1, depth);
        Layout { parts, plane, stride: parts * plane }
    }
}

/// Packs `panels` over the depths `part.0..part.0 + part.1`, all counted from `origin` in `m`, into `out`.
fn pack_part(
    side: Side,
    m: MatRef,
    origin: (usize, usize),
    panels: Range<usize>,
    part: (usize, usize),
    out: &Shared<u16>,
    layout: Layout,
) {
    let pack = |panel: usize, first: usize, depth: usize| {
        let plane = |plane: usize| {
            let at = panel * layout.stride + plane * layout.plane + first / DEPTH * TILE;
            // SAFETY: each task packs its own panels and depths.
            unsafe { out.slice(at, panels_len(1, depth)) }
        };
        let (lane0, depth0) = (origin.0 + panel * LANES, origin.1 + first);
        match layout.parts {
            1 => pack_lanes(side, m, lane0, depth0, depth, plane(0)),
            _ => pack_lanes_in_parts(side, m, lane0, (depth0, depth), [plane(0), plane(1), plane(2)]),
        }
    };
    let (first, depth) = part;
    if m.row_stride < m.col_stride {
        // Neighbouring panels share the lines of memory that a tile reads, so they are packed together.
        for tile in (first..first + depth).step_by(DEPTH) {
            panels.clone().for_each(|panel| pack(panel, tile, DEPTH.min(first + depth - tile)));
        }
    } else {
        panels.for_each(|panel| pack(panel, first, depth));
    }
}

/// Packs `panels` of the transpose of what is packed, over the tiles of depths `part.0..part.0 + part.1` from
/// `depth0` on.
fn repack_part(
    b: &PackedB,
    depth0: usize,
    panels: Range<usize>,
    part: (usize, usize),
    out: &Shared<u16>,
    layout: Layout,
) {
    let isa = Isa::best();
    let (first, depth) = part;
    for at in (first..first + depth).step_by(DEPTH) {
        for panel in panels.clone() {
            // SAFETY: each task packs its own panels and depths.
            let tile = unsafe { out.slice(panel * layout.stride + at / DEPTH * TILE, TILE) };
            let sources = [0, 1].map(|next| b.tile((depth0 + at) / LANES + next, panel / 2));
            bf16::transpose_panels(isa, sources, panel % 2, tile);
        }
    }
}

/// The right operand of a product.
#[derive(Clone, Copy)]
pub(super) enum Right<'a> {
    Plain(MatRef<'a>),
    Packed(PackedRef<'a>),
}

impl Right<'_> {
    fn shape(&self) -> (usize, usize) {
        match self {
            Right::Plain(b) => (b.rows, b.cols),
            Right::Packed(b) => (b.rows(), b.cols()),
        }
    }
}

/// What a product on tiles makes of the numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Numbers {
    /// Rounded to bf16.
    Rounded,
    /// Each in parts that add up to it, but for what is packed, which is exact: by AMX alone.
    InParts,
}

/// The product with both operands rounded to bf16; shapes are checked by the caller.
pub(super) fn matmul_bf16(path: Bf16Path, a: MatRef, b: Right, out: &Output, threads: Threads) {
    matmul_tiles(path, Numbers::Rounded, a, b, out, threads);
}

/// The product on tiles; shapes are checked by the caller.
pub(super) fn matmul_tiles(
    path: Bf16Path,
    numbers: Numbers,
    a: MatRef,
    b: Right,
    out: &Output,
    threads: Threads,
) {
    let (parts, deepest) = match numbers {
        Numbers::Rounded => (1, SUPER_DEPTH),
        Numbers::InParts => (PARTS, SUPER_DEPTH_IN_PARTS),
    };
    let b_parts = if matches!(b, Right::Plain(_)) { parts } else { 1 };
    let (k, n) = b.shape();
    let m = a.rows;
    let run = |tasks: usize, f: &(dyn Fn(usize) + Send + Sync)| match threads {
        Threads::One => (0..tasks).for_each(f),
        Threads::Pool => par::for_each(tasks, f),
    };
    let deep = deepest.min(k);
    let tall = (SUPER_LEFT / parts / deep).next_multiple_of(LANES).min(m);
    let b_len = match b {
        Right::Packed(b) if !b.transposed => 0,
        _ => b_parts * panels_len(n, deep),
    };
    let mut a_packed = Buffer::<u16>::new(parts * panels_len(tall, deep));
    let mut b_packed = Buffer::<u16>::new(b_len);
    for k0 in (0..k).step_by(deep) {
        let depth = deep.min(k - k0);
        let (layout, b_layout) = (Layout::new(parts, depth), Layout::new(b_parts, depth));
        for m0 in (0..m).step_by(tall) {
            let rows = tall.min(m - m0);
            let a_panels = rows.div_ceil(LANES);
            let b_panels = if b_len > 0 && m0 == 0 { n.div_ceil(LANES) } else { 0 };
            let a_out = Shared::new(&mut a_packed);
            let b_out = Shared::new(&mut b_packed);
            let depths = depth.div_ceil(PACK_DEPTH);
            let a_groups = a_panels.div_ceil(PACK_PANELS);
            run((a_groups + b_panels.div_ceil(PACK_PANELS)) * depths, &|task| {
                let (group, first_k) = (task / depths, task % depths * PACK_DEPTH);
                let part = (first_k, PACK_DEPTH.min(depth - first_k));
                let panels =
                    |group: usize, all: usize| group * PACK_PANELS..all.min((group + 1) * PACK_PANELS);
                match (group.checked_sub(a_groups), &b) {
                    (None, _) => {
                        let panels = panels(group, a_panels);
                        pack_part(Side::Left, a, (m0, k0), panels, part, &a_out, layout);
                    }
                    (Some(group), Right::Plain(b)) => {
                        let panels = panels(group, b_panels);
                        pack_part(Side::Right, b.t(), (0, k0), panels, part, &b_out, b_layout);
                    }
                    (Some(group), Right::Packed(b)) => {
                        repack_part(b.matrix, k0, panels(group, b_panels), part, &b_out, b_layout);
                    }
                }
            });
            let left = Panels { data: &a_packed, stride: layout.stride };
            let right = match b {
                Right::Packed(b) if !b.transposed => b.matrix.panels().skip(0, k0 / DEPTH),
                _ => Panels { data: &b_packed, stride: b_layout.stride },
            };
            let planes = (layout.plane, (b_parts > 1).then_some(b_layout.plane));
            let accumulate = out.accumulate || k0 > 0;
            let (mb, nb) = block_size(rows, n);
            let across = n.div_ceil(nb);
            run(rows.div_ceil(mb) * across, &|task| {
                let (i, j) = (task / across * mb, task % across * nb);
                let (h, w) = (mb.min(rows - i), nb.min(n - j));
                let blocks = depth.div_ceil(DEPTH);
                for p in (0..blocks).step_by(PASS) {
                    let left = left.skip(i / LANES, p);
                    let right = right.skip(j / LANES, p);
                    let c = out.c.at((m0 + i) * out.ld + j);
                    let more = accumulate || p > 0;
                    let tiles = PASS.min(blocks - p);
                    // SAFETY: the block lies inside the output and belongs to this task alone; numbers are in
                    // parts only where there is AMX.
                    unsafe {
                        match numbers {
                            Numbers::Rounded => multiply(path, left, right, tiles, c, out.ld, (h, w), more),
                            #[cfg(target_arch = "x86_64")]
                            Numbers::InParts => {
                                multiply_parts(left, right, planes, tiles, (c, out.ld), (h, w), more);
                            }
                            #[cfg(not(target_arch = "x86_64"))]
                            Numbers::InParts => unreachable!("there is no AMX on this processor"),
                        }
                    }
                }
                if k0 + depth == k {
                    // SAFETY: the block belongs to this task alone.
                    unsafe { out.finish(m0 + i..m0 + i + h, j..j + w) };
                }
            });
        }
    }
}

/// Rows and columns of an output block: large enough to reuse packed panels, small enough to give every core
/// some.
fn block_size(m: usize, n: usize) -> (usize, usize) {
    let (mut mb, mut nb) = (256, 512);
    while m.div_ceil(mb) * n.div_ceil(nb) < 16 && mb * nb > 64 * 64 {
        if nb > mb { nb /= 2 } else { mb /= 2 }
    }
    (mb, nb)
}
