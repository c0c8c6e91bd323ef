//! The convolution as it is written: for every tap a product of pixels and weights.

use super::{Conv2dShape, ConvWeight, Padded, item_bias};
use crate::cpu::Isa;
use crate::par::{self, Buffer, Shared};
use crate::tile::{COLUMNS, ROWS, ZERO, multiply_tile};

/// Positions a task handles: a multiple of a tile's rows.
const POSITIONS: usize = 43 * ROWS;

pub(super) fn run(x: &[f32], weight: &ConvWeight, bias: &[f32], shape: &Conv2dShape, y: &mut [f32]) {
    let isa = Isa::best();
    let extent = shape.extent.map(|side| side + 2 * shape.padding);
    let padded = Padded::new(x, shape, shape.padding, extent);
    let [rows, columns] = shape.output();
    let positions = shape.batch * rows * columns;
    let chunks = positions.div_ceil(POSITIONS);
    let depth = shape.inputs * COLUMNS;
    // Where the taps of an output position begin in the padded picture.
    let pixel = |position: usize| {
        let (item, row, column) =
            (position / (rows * columns), position / columns % rows, position % columns);
        let line = (item * extent[0] + row * shape.stride) * extent[1] + column * shape.stride;
        line * shape.inputs
    };
    let taps = shape.kernel[0] * shape.kernel[1];
    let shift = |tap: usize| (tap / shape.kernel[1] * extent[1] + tap % shape.kernel[1]) * shape.inputs;
    let out = Shared::new(y);
    par::for_each(shape.outputs.div_ceil(COLUMNS) * chunks, |task| {
        let (panel, first) = (task / chunks, task % chunks * POSITIONS);
        let mut space = Buffer::<f32>::new(weight.panel_len());
        let numbers = weight.numbers(isa, panel, 0, weight.panel_len(), &mut space);
        let end = positions.min(first + POSITIONS);
        let lanes = COLUMNS.min(shape.outputs - panel * COLUMNS);
        for block in (first..end).step_by(ROWS) {
            let starts: [usize; ROWS] = std::array::from_fn(|r| pixel((block + r).min(end - 1)));
            let mut sums = ZERO;
            for (tap, numbers) in numbers.chunks_exact(depth).enumerate().take(taps) {
                let starts = starts.map(|start| start + shift(tap));
                multiply_tile(isa, &padded.data, &starts, numbers, &mut sums);
            }
            for (position, sums) in (block..end).zip(&sums) {
                let bias = &item_bias(bias, position / (rows * columns), shape.outputs)[panel * COLUMNS..];
                // SAFETY: each task writes its own positions of its own panel.
                let y = unsafe { out.slice(position * shape.outputs + panel * COLUMNS, lanes) };
                y.iter_mut().zip(sums).zip(bias).for_each(|((y, sum), bias)| *y = sum + bias);
            }
        }
    });
}
