//! Correlations of every pixel of a picture with every pixel of another, looked up around where a flow leads:
//! what RAFT and AMT refine a flow by.

use burn::tensor::{Device, Tensor, TensorData};
use understudy_engine::host;

/// Levels of the pyramid.
pub(crate) const LEVELS: usize = 4;
/// Features are at an eighth of a picture's size.
pub(crate) const FACTOR: usize = 8;
/// The smallest side of a picture: the coarsest level of the pyramid must have two pixels.
pub const SMALLEST: usize = FACTOR << LEVELS;

/// Correlations around a pixel, `radius` to each side, on all levels.
pub(crate) fn around(radius: usize) -> usize {
    LEVELS * (2 * radius + 1).pow(2)
}

/// Every pixel's correlation with every other, at falling sizes.
pub(crate) struct Pyramid {
    /// How far around a pixel correlations are looked up.
    radius: usize,
    /// Pixels of the picture that is left.
    size: [usize; 2],
    pairs: usize,
    /// For each level its size, and `(pairs, pixels, rows, columns)` values.
    levels: Vec<([usize; 2], Vec<f32>)>,
}

impl Pyramid {
    /// Of `features (2 pairs, channels, 1, rows, columns)`, those that are left first.
    pub(crate) fn new(features: Tensor<5>, radius: usize) -> Self {
        let [both, channels, _, rows, columns] = features.dims();
        let (pairs, pixels) = (both / 2, rows * columns);
        let flat = features.reshape([2 * pairs, channels, pixels]);
        let (from, to) = (flat.clone().narrow(0, 0, pairs), flat.narrow(0, pairs, pairs));
        let all = from.swap_dims(1, 2).matmul(to) / (channels as f32).sqrt();
        let mut levels = vec![([rows, columns], host::values(all))];
        while let (true, Some((size, values))) = (levels.len() < LEVELS, levels.last()) {
            levels.push(halved(*size, values));
        }
        Self { radius, size: [rows, columns], pairs, levels }
    }

    /// The correlations around where `flow (pairs, 2, 1, rows, columns)` leads, `(pairs, around(radius), 1,
    /// rows, columns)`. In a window rows come slower than columns in the name only: the first offset is the
    /// column's.
    pub(crate) fn around(&self, flow: &Tensor<5>, device: &Device) -> Tensor<5> {
        let side = 2 * self.radius + 1;
        let [rows, columns] = self.size;
        let pixels = rows * columns;
        let flow = host::values(flow.clone());
        let channels = around(self.radius);
        let mut out = vec![0.0; self.pairs * channels * pixels];
        for (at, place) in (0..self.pairs * pixels).map(|at| (at, at % pixels)) {
            let pair = at / pixels;
            let moved = |axis: usize| flow[(pair * 2 + axis) * pixels + place];
            let (x, y) = ((place % columns) as f32 + moved(0), (place / columns) as f32 + moved(1));
            for (level, (size, values)) in self.levels.iter().enumerate() {
                let map = &values[at * size[0] * size[1]..][..size[0] * size[1]];
                let scale = (1 << level) as f32;
                for offset in 0..side * side {
                    let shift = |index: usize| index as f32 - self.radius as f32;
                    let (column, row) = (x / scale + shift(offset / side), y / scale + shift(offset % side));
                    let channel = level * side * side + offset;
                    out[(pair * channels + channel) * pixels + place] = bilinear(map, *size, [row, column]);
                }
            }
        }
        Tensor::from_data(TensorData::new(out, [self.pairs, channels, 1, rows, columns]), device)
    }
}

/// Maps of `size` at half of it, each value the mean of four; an odd last row or column is left out.
fn halved([rows, columns]: [usize; 2], values: &[f32]) -> ([usize; 2], Vec<f32>) {
    let half = [rows / 2, columns / 2];
    let mut out = Vec::with_capacity(values.len() / 4);
    for map in values.chunks_exact((rows * columns).max(1)) {
        for row in 0..half[0] {
            for column in 0..half[1] {
                let at = 2 * row * columns + 2 * column;
                out.push((map[at] + map[at + 1] + map[at + columns] + map[at + columns + 1]) / 4.0);
            }
        }
    }
    (half, out)
}

/// The value of a map between its pixels; zero beyond them.
fn bilinear(map: &[f32], [rows, columns]: [usize; 2], [row, column]: [f32; 2]) -> f32 {
    let (top, left) = (row.floor(), column.floor());
    let (down, right) = (row - top, column - left);
    let value = |row: f32, column: f32| {
        let inside = row >= 0.0 && column >= 0.0 && row < rows as f32 && column < columns as f32;
        if inside { map[row as usize * columns + column as usize] } else { 0.0 }
    };
    (1.0 - down) * ((1.0 - right) * value(top, left) + right * value(top, left + 1.0))
        + down * ((1.0 - right) * value(top + 1.0, left) + right * value(top + 1.0, left + 1.0))
}
