//! Convolutions of 3 by 3 taps with a fraction of the products.
//!
//! Winograd's minimal filtering (Lavin and Gray, "Fast Algorithms for Convolutional Neural Networks", 2016):
//! tiles of `M x M` outputs, their inputs of `(M + 2) x (M + 2)` pixels and the weights are each taken to `(M
//! + 2)^2` points, where a convolution is one product for each point. Of the 9 products an output takes, 4
//! are left for `M = 2` and 2.25 for `M = 4`.

use super::{Conv2dShape, ConvWeight, Padded, item_bias};
use crate::cpu::Isa;
use crate::par::{self, Buffer, Shared};
use crate::simd::multiversion;
use crate::tile::{COLUMNS, ROWS, multiply_tile};

/// Channels transformed at once: a register of AVX-512.
const LANES: usize = 16;
/// Elements of transformed inputs held at once: 32 MiB.
const HELD: usize = 8 << 20;
/// Elements of transformed weights of a panel held at once: half a MiB, which the L2 cache holds.
const WEIGHTS: usize = 1 << 17;
/// Fewest tiles that are worth the transform of the weights.
const LEAST: usize = 16;

type Lane = [f32; LANES];

/// Whether the minimal filtering of tiles of `side` outputs pays for this convolution.
fn pays(shape: &Conv2dShape, side: usize) -> bool {
    let tiles = shape.batch * shape.extent.map(|extent| extent.div_ceil(side)).iter().product::<usize>();
    tiles >= LEAST
}

/// Runs the convolution if it is one that this file is for; whether it did.
pub(super) fn run(x: &[f32], weight: &ConvWeight, bias: &[f32], shape: &Conv2dShape, y: &mut [f32]) -> bool {
    let fits = shape.kernel == [3, 3] && shape.stride == 1 && shape.padding == 1;
    if !fits || !shape.inputs.is_multiple_of(LANES) || shape.outputs < COLUMNS {
        return false;
    }
    if pays(shape, 4) {
        Filtering::<4, 6, 36>::new(Isa::best(), x, weight, bias, shape).run(y);
    } else if pays(shape, 2) {
        Filtering::<2, 4, 16>::new(Isa::best(), x, weight, bias, shape).run(y);
    } else {
        return false;
    }
    true
}

/// One transform along one axis of tiles whose points are `P` along an axis.
trait Transforms<const M: usize, const P: usize> {
    /// Of inputs: `B^T`.
    fn input(x: [Lane; P]) -> [Lane; P];
    /// Of weights: `G`.
    fn weight(w: [Lane; 3]) -> [Lane; P];
    /// Of sums: `A^T`.
    fn output(s: [Lane; P]) -> [Lane; M];
}

/// `sum of factor * term` of lanes.
#[inline(always)]
fn sum<const N: usize>(terms: [(f32, Lane); N]) -> Lane {
    let mut out = [0.0; LANES];
    for (factor, term) in terms {
        for (out, term) in out.iter_mut().zip(term) {
            *out += factor * term;
        }
    }
    out
}

struct Points;

/// Points 0, 1, -1 and infinity.
impl Transforms<2, 4> for Points {
    #[inline(always)]
    fn input([a, b, c, d]: [Lane; 4]) -> [Lane; 4] {
        [
            sum([(1.0, a), (-1.0, c)]),
            sum([(1.0, b), (1.0, c)]),
            sum([(1.0, c), (-1.0, b)]),
            sum([(1.0, b), (-1.0, d)]),
        ]
    }

    #[inline(always)]
    fn weight([a, b, c]: [Lane; 3]) -> [Lane; 4] {
        let outer = sum([(0.5, a), (0.5, c)]);
        [a, sum([(1.0, outer), (0.5, b)]), sum([(1.0, outer), (-0.5, b)]), c]
    }

    #[inline(always)]
    fn output([a, b, c, d]: [Lane; 4]) -> [Lane; 2] {
        [sum([(1.0, a), (1.0, b), (1.0, c)]), sum([(1.0, b), (-1.0, c), (-1.0, d)])]
    }
}

/// The inner points of `M = 4`, whose squares are 1/2 and 2: of a third of the rounding error that 1 and 2
/// have.
const NEAR: f32 = std::f32::consts::FRAC_1_SQRT_2;
const FAR: f32 = std::f32::consts::SQRT_2;

/// Points 0, plus and minus [`NEAR`], plus and minus [`FAR`], and infinity.
impl Transforms<4, 6> for Points {
    #[inline(always)]
    fn input([a, b, c, d, e, f]: [Lane; 6]) -> [Lane; 6] {
        let near = [sum([(1.0, e), (-2.0, c)]), sum([(NEAR, d), (-2.0 * NEAR, b)])];
        let far = [sum([(1.0, e), (-0.5, c)]), sum([(FAR, d), (-0.5 * FAR, b)])];
        [
            sum([(1.0, a), (-2.5, c), (1.0, e)]),
            sum([(1.0, near[0]), (1.0, near[1])]),
            sum([(1.0, near[0]), (-1.0, near[1])]),
            sum([(1.0, far[0]), (1.0, far[1])]),
            sum([(1.0, far[0]), (-1.0, far[1])]),
            sum([(1.0, b), (-2.5, d), (1.0, f)]),
        ]
    }

    #[inline(always)]
    fn weight([a, b, c]: [Lane; 3]) -> [Lane; 6] {
        let near = sum([(-2.0 / 3.0, a), (-1.0 / 3.0, c)]);
        let far = sum([(1.0 / 6.0, a), (1.0 / 3.0, c)]);
        [
            a,
            sum([(1.0, near), (-2.0 / 3.0 * NEAR, b)]),
            sum([(1.0, near), (2.0 / 3.0 * NEAR, b)]),
            sum([(1.0, far), (1.0 / 6.0 * FAR, b)]),
            sum([(1.0, far), (-1.0 / 6.0 * FAR, b)]),
            c,
        ]
    }

    #[inline(always)]
    fn output([a, b, c, d, e, f]: [Lane; 6]) -> [Lane; 4] {
        let (near, far) = (sum([(1.0, b), (1.0, c)]), sum([(1.0, d), (1.0, e)]));
        let (near_odd, far_odd) = (sum([(NEAR, b), (-NEAR, c)]), sum([(FAR, d), (-FAR, e)]));
        [
            sum([(1.0, a), (1.0, near), (1.0, far)]),
            sum([(1.0, near_odd), (1.0, far_odd)]),
            sum([(0.5, near), (2.0, far)]),
            sum([(0.5, near_odd), (2.0, far_odd), (1.0, f)]),
        ]
    }
}

#[inline(always)]
fn load(x: &[f32], at: usize) -> Lane {
    let mut lane = [0.0; LANES];
    lane.copy_from_slice(&x[at..at + LANES]);
    lane
}

/// The columns of a matrix of lanes as rows.
#[inline(always)]
fn turned<const A: usize, const B: usize>(x: [[Lane; A]; B]) -> [[Lane; B]; A] {
    std::array::from_fn(|a| std::array::from_fn(|b| x[b][a]))
}

/// The points of a tile of inputs that begins at `at`: `out[(point * between) + channel]`.
#[inline(always)]
fn input_points<const M: usize, const P: usize>(
    x: &[f32],
    at: usize,
    (line, channels): (usize, usize),
    out: &Shared<f32>,
    (first, between): (usize, usize),
) where
    Points: Transforms<M, P>,
{
    for channel in (0..channels).step_by(LANES) {
        let rows: [[Lane; P]; P] = std::array::from_fn(|r| {
            <Points as Transforms<M, P>>::input(std::array::from_fn(|c| {
                load(x, at + r * line + c * channels + channel)
            }))
        });
        for (c, column) in turned(rows).into_iter().enumerate() {
            for (r, lane) in <Points as Transforms<M, P>>::input(column).into_iter().enumerate() {
                // SAFETY: a task writes the points of its own tiles.
                let out = unsafe { out.slice(first + (r * P + c) * between + channel, LANES) };
                out.copy_from_slice(&lane);
            }
        }
    }
}

/// The points of the weights (taps, so many inputs, 32): `out[point * between + input * 32 + lane]`.
#[inline(always)]
fn weight_points<const M: usize, const P: usize>(taps: [&[f32]; 9], between: usize, out: &mut [f32])
where
    Points: Transforms<M, P>,
{
    for at in (0..taps[0].len()).step_by(LANES) {
        let rows: [[Lane; P]; 3] = std::array::from_fn(|r| {
            <Points as Transforms<M, P>>::weight(std::array::from_fn(|c| load(taps[3 * r + c], at)))
        });
        for (c, column) in turned(rows).into_iter().enumerate() {
            for (r, lane) in <Points as Transforms<M, P>>::weight(column).into_iter().enumerate() {
                out[(r * P + c) * between + at..][..LANES].copy_from_slice(&lane);
            }
        }
    }
}

/// The outputs of a tile from its sums `sums[point * between + lane]`.
#[inline(always)]
fn outputs<const M: usize, const P: usize>(sums: &[f32], between: usize, out: &mut Tile<M>)
where
    Points: Transforms<M, P>,
{
    for half in (0..COLUMNS).step_by(LANES) {
        let rows: [[Lane; M]; P] = std::array::from_fn(|r| {
            <Points as Transforms<M, P>>::output(std::array::from_fn(|c| {
                load(sums, (r * P + c) * between + half)
            }))
        });
        for (c, column) in turned(rows).into_iter().enumerate() {
            for (r, lane) in <Points as Transforms<M, P>>::output(column).into_iter().enumerate() {
                out[r][c][half..half + LANES].copy_from_slice(&lane);
            }
        }
    }
}

multiversion! {
    fn input_points_2(x: &[f32], at: usize, from: (usize, usize), out: &Shared<f32>, to: (usize, usize)) {
        input_points::<2, 4>(x, at, from, out, to);
    }
}

multiversion! {
    fn input_points_4(x: &[f32], at: usize, from: (usize, usize), out: &Shared<f32>, to: (usize, usize)) {
        input_points::<4, 6>(x, at, from, out, to);
    }
}

multiversion! {
    fn weight_points_2(taps: [&[f32]; 9], between: usize, out: &mut [f32]) {
        weight_points::<2, 4>(taps, between, out);
    }
}

multiversion! {
    fn weight_points_4(taps: [&[f32]; 9], between: usize, out: &mut [f32]) {
        weight_points::<4, 6>(taps, between, out);
    }
}

multiversion! {
    fn outputs_2(sums: &[f32], between: usize, out: &mut Tile<2>) {
        outputs::<2, 4>(sums, between, out);
    }
}

multiversion! {
    fn outputs_4(sums: &[f32], between: usize, out: &mut Tile<4>) {
        outputs::<4, 6>(sums, between, out);
    }
}

/// The outputs of a tile.
type Tile<const M: usize> = [[[f32; COLUMNS]; M]; M];

/// The transforms compiled for every instruction set.
trait Side<const M: usize> {
    fn to_points(isa: Isa, x: &[f32], at: usize, from: (usize, usize), out: &Shared<f32>, to: (usize, usize));
    fn weight_to_points(isa: Isa, taps: [&[f32]; 9], between: usize, out: &mut [f32]);
    fn to_outputs(isa: Isa, sums: &[f32], between: usize, out: &mut Tile<M>);
}

impl Side<2> for Points {
    fn to_points(
        isa: Isa,
        x: &[f32],
        at: usize,
        from: (usize, usize),
        out: &Shared<f32>,
        to: (usize, usize),
    ) {
        input_points_2(isa, x, at, from, out, to);
    }

    fn weight_to_points(isa: Isa, taps: [&[f32]; 9], between: usize, out: &mut [f32]) {
        weight_points_2(isa, taps, between, out);
    }

    fn to_outputs(isa: Isa, sums: &[f32], between: usize, out: &mut Tile<2>) {
        outputs_2(isa, sums, between, out);
    }
}

impl Side<4> for Points {
    fn to_points(
        isa: Isa,
        x: &[f32],
        at: usize,
        from: (usize, usize),
        out: &Shared<f32>,
        to: (usize, usize),
    ) {
        input_points_4(isa, x, at, from, out, to);
    }

    fn weight_to_points(isa: Isa, taps: [&[f32]; 9], between: usize, out: &mut [f32]) {
        weight_points_4(isa, taps, between, out);
    }

    fn to_outputs(isa: Isa, sums: &[f32], between: usize, out: &mut Tile<4>) {
        outputs_4(isa, sums, between, out);
    }
}

/// A convolution cut into tiles of `M x M` outputs, of `P x P = ALL` points.
struct Filtering<'a, const M: usize, const P: usize, const ALL: usize> {
    isa: Isa,
    shape: &'a Conv2dShape,
    weight: &'a ConvWeight,
    bias: &'a [f32],
    padded: Padded,
    /// Tiles along rows and columns.
    grid: [usize; 2],
}

impl<'a, const M: usize, const P: usize, const ALL: usize> Filtering<'a, M, P, ALL>
where
    Points: Side<M>,
{
    fn new(isa: Isa, x: &[f32], weight: &'a ConvWeight, bias: &'a [f32], shape: &'a Conv2dShape) -> Self {
        let grid = shape.extent.map(|extent| extent.div_ceil(M));
        let padded = Padded::new(x, shape, 1, grid.map(|tiles| tiles * M + 2));
        Self { isa, shape, weight, bias, padded, grid }
    }

    fn tiles(&self) -> usize {
        self.shape.batch * self.grid[0] * self.grid[1]
    }

    /// Item, row and column of a tile.
    fn place(&self, tile: usize) -> [usize; 3] {
        let [rows, columns] = self.grid;
        [tile / (rows * columns), tile / columns % rows, tile % columns]
    }

    fn run(&self, y: &mut [f32]) {
        let inputs = self.shape.inputs;
        // As many tiles at once as fit, in whole blocks of rows.
        let held = (HELD / (ALL * inputs) / ROWS).max(1) * ROWS;
        let held = held.min(self.tiles().next_multiple_of(ROWS));
        let mut points = Buffer::<f32>::new(ALL * held * inputs);
        for first in (0..self.tiles()).step_by(held) {
            let count = held.min(self.tiles() - first);
            self.transform_inputs(first, count, &mut points);
            self.multiply(first, count, &points, y);
        }
    }

    /// So many tiles from `first` on as (points, tiles, inputs).
    fn transform_inputs(&self, first: usize, count: usize, points: &mut [f32]) {
        let inputs = self.shape.inputs;
        let [height, width] = self.padded.extent;
        let out = Shared::new(points);
        par::for_each(count.div_ceil(ROWS), |task| {
            for at in task * ROWS..count.min((task + 1) * ROWS) {
                let [item, row, column] = self.place(first + at);
                let from = ((item * height + row * M) * width + column * M) * inputs;
                let strides = (width * inputs, inputs);
                Points::to_points(
                    self.isa,
                    &self.padded.data,
                    from,
                    strides,
                    &out,
                    (at * inputs, count * inputs),
                );
            }
        });
    }

    /// The outputs of these tiles: every panel of output channels is one task.
    fn multiply(&self, first: usize, count: usize, points: &[f32], y: &mut [f32]) {
        let inputs = self.shape.inputs;
        // Input channels whose transformed weights are held at once.
        let depth = (WEIGHTS / (ALL * COLUMNS) / LANES).max(1) * LANES;
        let out = Shared::new(y);
        par::for_each(self.shape.outputs.div_ceil(COLUMNS), |panel| {
            let mut space = Buffer::<f32>::new(9 * depth * COLUMNS);
            let mut weights = Buffer::<f32>::new(ALL * depth * COLUMNS);
            let rows = count.next_multiple_of(ROWS);
            let mut sums = Buffer::<f32>::new(ALL * rows * COLUMNS);
            sums.fill(0.0);
            for channel in (0..inputs).step_by(depth) {
                let len = depth.min(inputs - channel) * COLUMNS;
                self.transform_weights(panel, channel, len, &mut space, &mut weights);
                for (point, sums) in sums.chunks_exact_mut(rows * COLUMNS).enumerate() {
                    let (weights, points) =
                        (&weights[point * len..][..len], &points[point * count * inputs..]);
                    let (sums, _) = sums.as_chunks_mut::<COLUMNS>();
                    let (blocks, _) = sums.as_chunks_mut::<ROWS>();
                    for (block, sums) in blocks.iter_mut().enumerate() {
                        let row = |r: usize| (block * ROWS + r).min(count - 1) * inputs + channel;
                        multiply_tile(self.isa, points, &std::array::from_fn(row), weights, sums);
                    }
                }
            }
            self.finish(panel, first, count, &sums, rows * COLUMNS, &out);
        });
    }

    /// The points of `len / 32` input channels from `channel` on of a panel of weights.
    fn transform_weights(
        &self,
        panel: usize,
        channel: usize,
        len: usize,
        space: &mut [f32],
        out: &mut [f32],
    ) {
        let mut parts = space.chunks_exact_mut(len);
        let taps: [&[f32]; 9] = std::array::from_fn(|tap| {
            let start = (tap * self.shape.inputs + channel) * COLUMNS;
            let part = parts.next().unwrap_or_default();
            self.weight.numbers(self.isa, panel, start, len, part)
        });
        Points::weight_to_points(self.isa, taps, len, out);
    }

    /// Writes the outputs of a panel of channels.
    fn finish(
        &self,
        panel: usize,
        first: usize,
        count: usize,
        sums: &[f32],
        between: usize,
        y: &Shared<f32>,
    ) {
        let ([height, width], outputs) = (self.shape.extent, self.shape.outputs);
        let lanes = COLUMNS.min(outputs - panel * COLUMNS);
        let mut tile: Tile<M> = [[[0.0; COLUMNS]; M]; M];
        for at in 0..count {
            let [item, row, column] = self.place(first + at);
            Points::to_outputs(self.isa, &sums[at * COLUMNS..], between, &mut tile);
            let bias = &item_bias(self.bias, item, outputs)[panel * COLUMNS..][..lanes];
            for (r, tile) in tile.iter().enumerate().take(height - row * M) {
                for (c, tile) in tile.iter().enumerate().take(width - column * M) {
                    let pixel = (item * height + row * M + r) * width + column * M + c;
                    // SAFETY: each task writes its own panel of channels.
                    let y = unsafe { y.slice(pixel * outputs + panel * COLUMNS, lanes) };
                    y.iter_mut().zip(tile).zip(bias).for_each(|((y, sum), bias)| *y = sum + bias);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::conv2d::direct;
    use crate::testing::{close, random, to_f64};

    #[test]
    fn every_instruction_set_and_side_agrees_with_the_direct_sums() {
        for (inputs, extent) in [(16, [4, 4]), (160, [9, 14]), (48, [1, 3])] {
            let shape =
                Conv2dShape { batch: 2, inputs, outputs: 40, extent, kernel: [3, 3], stride: 1, padding: 1 };
            let (x, bias) = (random(1, shape.input_len()), random(3, 40));
            let weight = ConvWeight::plain(&random(2, 40 * inputs * 9), [40, inputs], [3, 3]);
            let mut want = vec![0.0; shape.output_len()];
            direct::run(&x, &weight, &bias, &shape, &mut want);
            let want = to_f64(&want);
            for isa in Isa::available() {
                let mut y = vec![0.0; want.len()];
                Filtering::<2, 4, 16>::new(isa, &x, &weight, &bias, &shape).run(&mut y);
                close(&y, &want, 1e-5);
                Filtering::<4, 6, 36>::new(isa, &x, &weight, &bias, &shape).run(&mut y);
                close(&y, &want, 3e-5);
            }
        }
    }
}
