//! Sums of weighted inputs at fixed offsets: the common form of forward and backward-data.

use super::{columns, direct};
use crate::cpu::Bf16Path;
use crate::matmul::{MatRef, Output, Precision, Threads, matmul_into};
use crate::par::{self, Buffer, Shared};

/// Elements of the column matrix a task builds at once: 1 MiB.
pub(super) const COLUMNS: usize = 1 << 18;

/// A clip: channels and extent (d, h, w).
#[derive(Clone, Copy, Debug)]
pub(super) struct Grid {
    pub(super) channels: usize,
    pub(super) extent: [usize; 3],
}

impl Grid {
    pub(super) fn positions(&self) -> usize {
        self.extent.iter().product()
    }

    pub(super) fn len(&self) -> usize {
        self.channels * self.positions()
    }
}

/// `to[first_to + step_to * j] = sum over channels and offsets of weight * from[step_from * j + offset]` for
/// every position `j` below `count`, inputs outside being zero.
#[derive(Clone, Debug)]
pub(super) struct Gather {
    pub(super) batch: usize,
    pub(super) from: Grid,
    pub(super) to: Grid,
    pub(super) count: [usize; 3],
    pub(super) step_from: [usize; 3],
    pub(super) step_to: [usize; 3],
    pub(super) first_to: [usize; 3],
    pub(super) offsets: Vec<[isize; 3]>,
}

impl Gather {
    /// Taps on each axis: the offsets are a box, in row-major ascending order.
    pub(super) fn tap_extent(&self) -> [usize; 3] {
        let (first, last) = (self.offsets[0], self.offsets[self.offsets.len() - 1]);
        std::array::from_fn(|i| (last[i] - first[i]) as usize + 1)
    }

    /// Rows of positions, that is runs along the width.
    pub(super) fn rows(&self) -> usize {
        self.count[0] * self.count[1]
    }

    /// Rows of positions a task handles, for a column matrix of `depth` rows.
    pub(super) fn rows_per_task(&self, depth: usize) -> usize {
        (COLUMNS / (depth * self.count[2]).max(1)).clamp(1, self.rows().max(1))
    }

    /// Runs the gather; `weight` is (to.channels, from.channels, offsets).
    pub(super) fn run(
        &self,
        x: &[f32],
        weight: &[f32],
        bias: Option<&[f32]>,
        y: &mut [f32],
        precision: Precision,
    ) {
        let depth = self.from.channels * self.offsets.len();
        if self.rows() * self.count[2] * self.to.channels * self.batch == 0 {
            return;
        }
        if precision == Precision::Bf16 && self.step_from == [1; 3] {
            return direct::run(Bf16Path::best(), self, x, weight, bias, y);
        }
        let step = self.rows_per_task(depth);
        let chunks = self.rows().div_ceil(step);
        let width = self.count[2];
        let weight = MatRef::new(weight, self.to.channels, depth);
        let out = Shared::new(y);
        par::for_each(self.batch * chunks, |task| {
            let (item, first) = (task / chunks, task % chunks * step);
            let rows = step.min(self.rows() - first);
            let positions = rows * width;
            let mut matrix = Buffer::<f32>::new(depth * positions);
            let x = &x[item * self.from.len()..(item + 1) * self.from.len()];
            columns::fill(self, x, first, rows, &mut matrix);
            let matrix = MatRef::new(&matrix, depth, positions);
            let mut sums = Buffer::<f32>::new(self.to.channels * positions);
            let all = Output::new(&mut sums, positions, false);
            matmul_into(weight, matrix, &all, precision, Threads::One);
            for (channel, sums) in sums.chunks_exact(positions).enumerate() {
                let bias = bias.map_or(0.0, |b| b[channel]);
                for (row, sums) in sums.chunks_exact(width).enumerate() {
                    let at = self.target(item, channel, first + row);
                    let step = self.step_to[2];
                    // SAFETY: each task writes its own rows of positions, and phases run one after another.
                    let y = unsafe { out.slice(at, (width - 1) * step + 1) };
                    for (y, s) in y.iter_mut().step_by(step).zip(sums) {
                        *y = s + bias;
                    }
                }
            }
        });
    }

    /// Index in the output of the first position of a row.
    pub(super) fn target(&self, item: usize, channel: usize, row: usize) -> usize {
        let [_, h, w] = self.to.extent;
        let z = self.first_to[0] + row / self.count[1] * self.step_to[0];
        let y = self.first_to[1] + row % self.count[1] * self.step_to[1];
        item * self.to.len() + channel * self.to.positions() + (z * h + y) * w + self.first_to[2]
    }
}
