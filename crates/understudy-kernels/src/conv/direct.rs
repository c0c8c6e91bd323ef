//! The gather with unit steps in bf16, without a column matrix.
//!
//! The input is kept as *pair rows*: for every image row and every pair of channels one run of positions,
//! each a pair of bf16. Sixteen pair rows are a right tile as it lies in memory, and a shift by a tap is
//! another address. Where the channels do not fill tiles, the taps along the width count as channels too.

use super::gather::Gather;
use crate::bf16::{DEPTH, LANES, Panels, Side, multiply_gathered, round};
use crate::cpu::{Bf16Path, Isa};
use crate::matmul::{MatRef, pack_lanes, panels_len};
use crate::par::{self, Buffer, Shared};
use crate::simd::multiversion;

/// Column tiles a task handles at least, so that tasks are not too small.
const TILES_PER_TASK: usize = 16;

/// How a gather's input is packed.
struct Plan {
    /// Extent of the packed input: output positions plus the reach of the taps.
    planes: usize,
    rows: usize,
    /// Positions of a packed row.
    width: usize,
    /// Taps on each axis.
    taps: [usize; 3],
    /// Whether the taps along the width are unrolled into channels.
    unrolled: bool,
    /// Pair rows of an image row, a multiple of 16.
    pairs: usize,
}

impl Plan {
    fn new(gather: &Gather) -> Self {
        let taps = gather.tap_extent();
        let channels = gather.from.channels;
        let unrolled = !channels.is_multiple_of(DEPTH) && taps[2] > 1;
        let depth = if unrolled { channels * taps[2] } else { channels };
        Plan {
            planes: gather.count[0] + taps[0] - 1,
            rows: gather.count[1] + taps[1] - 1,
            width: gather.count[2].next_multiple_of(LANES) + if unrolled { 0 } else { taps[2] - 1 },
            taps,
            unrolled,
            pairs: depth.div_ceil(DEPTH) * LANES,
        }
    }

    /// Elements of a packed plane.
    fn plane_len(&self) -> usize {
        self.rows * self.pairs * self.width * 2
    }

    /// For every tile along the inner dimension: the offset of its rows in the packed input, in elements, and
    /// which tap (all of a row's where they are unrolled) and first channel it begins with.
    fn steps(&self) -> Vec<(usize, usize, usize)> {
        let across = if self.unrolled { 1 } else { self.taps[2] };
        let mut steps = Vec::new();
        for z in 0..self.taps[0] {
            for y in 0..self.taps[1] {
                for x in 0..across {
                    for block in 0..self.pairs / LANES {
                        let row = (z * self.rows + y) * self.pairs + block * LANES;
                        let tap = (z * self.taps[1] + y) * self.taps[2] + x;
                        steps.push(((row * self.width + x) * 2, tap, block * DEPTH));
                    }
                }
            }
        }
        steps
    }

    /// The weight (outputs, channels, taps) as left panels, its inner dimension in the order of `steps`.
    fn pack_weight(
        &self,
        weight: &[f32],
        outputs: usize,
        channels: usize,
        steps: &[(usize, usize, usize)],
    ) -> Vec<u16> {
        let taps: usize = self.taps.iter().product();
        let depth = steps.len() * DEPTH;
        let mut ordered = vec![0.0; outputs * depth];
        for (o, row) in ordered.chunks_exact_mut(depth).enumerate() {
            for (&(_, tap, first), out) in steps.iter().zip(row.chunks_exact_mut(DEPTH)) {
                for (i, out) in out.iter_mut().enumerate() {
                    let index = first + i;
                    let (tap, channel) =
                        if self.unrolled { (tap + index / channels, index % channels) } else { (tap, index) };
                    if channel < channels && (!self.unrolled || index / channels < self.taps[2]) {
                        *out = weight[(o * channels + channel) * taps + tap];
                    }
                }
            }
        }
        let stride = panels_len(1, depth);
        let mut packed = vec![0; panels_len(outputs, depth)];
        for (panel, out) in packed.chunks_exact_mut(stride).enumerate() {
            pack_lanes(Side::Left, MatRef::new(&ordered, outputs, depth), panel * LANES, 0, depth, out);
        }
        packed
    }
}

multiversion! {
    /// Interleaves two rows as pairs: `out[2 i] = even[i]`, `out[2 i + 1] = odd[i]`.
    fn interleave(even: &[f32], odd: &[f32], out: &mut [u16]) {
        let n = even.len().min(odd.len()).min(out.len() / 2);
        let (even, odd, out) = (&even[..n], &odd[..n], &mut out[..2 * n]);
        for i in 0..n {
            out[2 * i] = round(even[i]) as u16;
            out[2 * i + 1] = round(odd[i]) as u16;
        }
    }
}

/// Packs plane `z` of the extended input: image rows, pair rows, positions.
fn pack_plane(isa: Isa, gather: &Gather, plan: &Plan, x: &[f32], z: usize, out: &mut [u16]) {
    let [d, h, w] = gather.from.extent;
    let low = gather.offsets[0];
    let channels = gather.from.channels;
    let depth = if plan.unrolled { channels * plan.taps[2] } else { channels };
    let zeros = vec![0f32; plan.width];
    let (mut even, mut odd) = (vec![0f32; plan.width], vec![0f32; plan.width]);
    let from_z = z as isize + low[0];
    for (y, out) in out.chunks_exact_mut(plan.pairs * plan.width * 2).enumerate() {
        let from_y = y as isize + low[1];
        if from_z < 0 || from_z >= d as isize || from_y < 0 || from_y >= h as isize {
            out.fill(0);
            continue;
        }
        let row = (from_z as usize * h + from_y as usize) * w;
        // Row `index` of the inner dimension, shifted and cut to the packed width.
        let fill = |index: usize, line: &mut [f32]| {
            if index >= depth {
                return line.fill(0.0);
            }
            let (channel, shift) =
                if plan.unrolled { (index % channels, (index / channels) as isize) } else { (index, 0) };
            let offset = low[2] + shift;
            let x = &x[channel * d * h * w + row..][..w];
            let start = (-offset).clamp(0, plan.width as isize) as usize;
            let end = (w as isize - offset).clamp(start as isize, plan.width as isize) as usize;
            line[..start].fill(0.0);
            let from = (start as isize + offset) as usize;
            line[start..end].copy_from_slice(&x[from.min(w)..][..end - start]);
            line[end..].fill(0.0);
        };
        for (pair, out) in out.chunks_exact_mut(plan.width * 2).enumerate() {
            if 2 * pair >= depth {
                interleave(isa, &zeros, &zeros, out);
                continue;
            }
            fill(2 * pair, &mut even);
            fill(2 * pair + 1, &mut odd);
            interleave(isa, &even, &odd, out);
        }
    }
}

/// Runs a gather whose input step is 1 on every axis.
pub(super) fn run(
    path: Bf16Path,
    gather: &Gather,
    x: &[f32],
    weight: &[f32],
    bias: Option<&[f32]>,
    y: &mut [f32],
) {
    let plan = Plan::new(gather);
    let isa = Isa::best();
    let (outputs, channels) = (gather.to.channels, gather.from.channels);
    let steps = plan.steps();
    let weight = plan.pack_weight(weight, outputs, channels, &steps);
    let weight = Panels { data: &weight, stride: panels_len(1, steps.len() * DEPTH) };
    let offsets: Vec<usize> = steps.iter().map(|s| s.0).collect();
    let plane = plan.plane_len();
    let mut input = Buffer::<u16>::new(plan.planes * plane);
    let [count_z, count_y, count_x] = gather.count;
    let across = count_x.div_ceil(LANES);
    let rows = TILES_PER_TASK.div_ceil(across).min(count_y);
    let chunks = count_y.div_ceil(rows);
    for item in 0..gather.batch {
        let x = &x[item * gather.from.len()..(item + 1) * gather.from.len()];
        {
            let input = Shared::new(&mut input);
            par::for_each(plan.planes, |z| {
                // SAFETY: each task packs its own plane.
                pack_plane(isa, gather, &plan, x, z, unsafe { input.slice(z * plane, plane) });
            });
        }
        let out = Shared::new(y);
        par::for_each(count_z * chunks, |task| {
            let (z, first) = (task / chunks, task % chunks * rows);
            let tiles: Vec<(usize, usize)> = (first..count_y.min(first + rows))
                .flat_map(|row| (0..across).map(move |x| (row, x * LANES)))
                .collect();
            let mut sums = [0f32; 4 * LANES * LANES];
            for pair in tiles.chunks(2) {
                let [left, right] = [pair[0], pair[pair.len() - 1]]
                    .map(|(row, x)| (z * plan.rows + row) * plan.pairs * plan.width * 2 + 2 * x);
                for o in (0..outputs).step_by(2 * LANES) {
                    let count = (outputs - o).min(2 * LANES);
                    let weight = weight.skip(o / LANES, 0);
                    multiply_gathered(
                        path,
                        weight,
                        count,
                        &input,
                        [left, right],
                        2 * plan.width,
                        &offsets,
                        &mut sums,
                    );
                    for (t, &(row, x)) in pair.iter().enumerate() {
                        let width = LANES.min(count_x - x);
                        for c in 0..count {
                            let bias = bias.map_or(0.0, |b| b[o + c]);
                            let step = gather.step_to[2];
                            let at = gather.target(item, o + c, z * count_y + row) + x * step;
                            // SAFETY: each task writes its own rows of positions, and phases run one after
                            // another.
                            let y = unsafe { out.slice(at, (width - 1) * step + 1) };
                            let sums = &sums[c * 2 * LANES + t * LANES..][..width];
                            if step == 1 {
                                y.iter_mut().zip(sums).for_each(|(y, s)| *y = s + bias);
                            } else {
                                y.iter_mut().step_by(step).zip(sums).for_each(|(y, s)| *y = s + bias);
                            }
                        }
                    }
                }
            }
        });
    }
}
