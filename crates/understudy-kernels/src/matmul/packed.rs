//! Right-hand sides packed once for many products: frozen weights.

use std::fmt;

use rayon::prelude::*;

use super::{MatRef, Output, Threads, matmul_f32, pack_lanes, panels_len};
use crate::bf16::{DEPTH, LANES, Panels, Side, TILE, widen_tile};
use crate::cpu::Isa;
use crate::par::{self, Buffer, CHUNK, Shared};

/// A cache line of bf16, where tiles begin.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
struct Line([u16; LINE]);

const LINE: usize = 32;

/// Lanes of one task of [`matmul_widened`].
const WIDENED: usize = 8 * LANES;

/// A right-hand side (k, n) in bf16, packed once for products with it and with its transpose.
#[derive(Clone)]
pub struct PackedB {
    lines: Vec<Line>,
    rows: usize,
    cols: usize,
}

/// A packed matrix or its transpose.
#[derive(Clone, Copy, Debug)]
pub struct PackedRef<'a> {
    pub(super) matrix: &'a PackedB,
    pub(super) transposed: bool,
}

impl PackedB {
    /// Packs `b` (k, n), rounded to bf16; takes `2 * k * n` bytes, sides rounded up to 32 and 16.
    pub fn new(b: MatRef) -> Self {
        b.check();
        let mut packed = Self {
            lines: vec![Line([0; LINE]); panels_len(b.cols, b.rows) / LINE],
            rows: b.rows,
            cols: b.cols,
        };
        let stride = panels_len(1, b.rows);
        let out = Shared::new(packed.data_mut());
        par::for_each(b.cols.div_ceil(LANES), |panel| {
            // SAFETY: each task writes its own panel.
            let out = unsafe { out.slice(panel * stride, stride) };
            pack_lanes(Side::Right, b.t(), panel * LANES, 0, b.rows, out);
        });
        packed
    }

    /// Packs `b` if bf16 holds every number of it, so that products with it lose nothing.
    pub fn exact(b: MatRef) -> Option<Self> {
        b.check();
        let holds = |x: &f32| x.to_bits() & 0xffff == 0;
        let whole = [(b.cols, 1), (1, b.rows)].contains(&(b.row_stride, b.col_stride));
        let all = if whole {
            b.data[..b.rows * b.cols].par_chunks(CHUNK).all(|part| part.iter().all(holds))
        } else {
            (0..b.rows * b.cols)
                .all(|at| holds(&b.data[at / b.cols * b.row_stride + at % b.cols * b.col_stride]))
        };
        all.then(|| Self::new(b))
    }

    /// The matrix.
    pub fn view(&self) -> PackedRef<'_> {
        PackedRef { matrix: self, transposed: false }
    }

    /// Its transpose.
    pub fn t(&self) -> PackedRef<'_> {
        PackedRef { matrix: self, transposed: true }
    }

    /// Rows of the matrix, k.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Columns of the matrix, n.
    pub fn cols(&self) -> usize {
        self.cols
    }

    /// The transpose (n, k) in f32, row-major.
    pub fn unpacked_transpose(&self) -> Vec<f32> {
        let mut out = vec![0.0; self.cols * self.rows];
        let mut wide = vec![0.0; self.rows * LANES];
        for (panel, out) in out.chunks_mut(LANES * self.rows.max(1)).enumerate() {
            self.widen(panel..panel + 1, 0..self.rows, &mut wide);
            for (lane, out) in out.chunks_exact_mut(self.rows.max(1)).enumerate() {
                for (depth, out) in out.iter_mut().enumerate() {
                    *out = wide[depth * LANES + lane];
                }
            }
        }
        out
    }

    fn data(&self) -> &[u16] {
        // SAFETY: lines are arrays of `u16` without gaps.
        unsafe { std::slice::from_raw_parts(self.lines.as_ptr().cast(), self.lines.len() * LINE) }
    }

    fn data_mut(&mut self) -> &mut [u16] {
        // SAFETY: as above, and borrowed mutably.
        unsafe { std::slice::from_raw_parts_mut(self.lines.as_mut_ptr().cast(), self.lines.len() * LINE) }
    }

    pub(super) fn panels(&self) -> Panels<'_> {
        Panels { data: self.data(), stride: panels_len(1, self.rows) }
    }

    /// Tile `tile` of panel `panel`, if there is such a panel.
    pub(super) fn tile(&self, panel: usize, tile: usize) -> Option<&[u16]> {
        let panels = self.panels();
        panels.data.get(panel * panels.stride + tile * TILE..)?.get(..TILE)
    }

    /// `panels` over `depths`, which begin with a tile, as f32 rows of all their lanes.
    fn widen(&self, panels: std::ops::Range<usize>, depths: std::ops::Range<usize>, out: &mut [f32]) {
        let (isa, width) = (Isa::best(), panels.len() * LANES);
        for (at, panel) in panels.enumerate() {
            for depth in depths.clone().step_by(DEPTH) {
                let Some(tile) = self.tile(panel, depth / DEPTH) else { continue };
                let out = &mut out[(depth - depths.start) * width + at * LANES..];
                widen_tile(isa, tile, DEPTH.min(depths.end - depth), out, width);
            }
        }
    }
}

impl fmt::Debug for PackedB {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "PackedB({}x{})", self.rows, self.cols)
    }
}

impl PackedRef<'_> {
    /// Rows of the matrix, or of its transpose.
    pub fn rows(&self) -> usize {
        if self.transposed { self.matrix.cols } else { self.matrix.rows }
    }

    /// Columns of the matrix, or of its transpose.
    pub fn cols(&self) -> usize {
        if self.transposed { self.matrix.rows } else { self.matrix.cols }
    }
}

/// The product in f32 without AMX: some columns of the right-hand side at a time are widened and stay in the
/// cache. Columns are cut at fixed places and never the inner dimension, so the result does not depend on the
/// number of threads.
pub(super) fn matmul_widened(a: MatRef, b: PackedRef, out: &Output) {
    let (k, n, matrix) = (b.rows(), b.cols(), b.matrix);
    // The last element written, which `at` checks.
    out.c.at((a.rows - 1) * out.ld + n);
    par::for_each(n.div_ceil(WIDENED), |task| {
        let first = task * WIDENED;
        let width = WIDENED.min(n - first);
        let panels =
            if b.transposed { 0..k.div_ceil(LANES) } else { first / LANES..(first + width).div_ceil(LANES) };
        let depths = if b.transposed { first..first + width } else { 0..k };
        let lanes = panels.len() * LANES;
        let mut wide = Buffer::<f32>::new(depths.len() * lanes);
        matrix.widen(panels, depths, &mut wide);
        let (row_stride, col_stride) = if b.transposed { (1, lanes) } else { (lanes, 1) };
        let right = MatRef { data: &wide, rows: k, cols: width, row_stride, col_stride };
        matmul_f32(a, right, &out.columns(first), Threads::One);
        // SAFETY: each task computes its own columns.
        unsafe { out.finish(0..a.rows, first..first + width) };
    });
}
