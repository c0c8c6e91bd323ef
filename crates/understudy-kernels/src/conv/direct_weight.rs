//! The weight gradient of a gather with unit steps in bf16, without a column matrix.
//!
//! For one tap it is the product, over positions, of the shifted input and the output gradient. Both are kept
//! as whole planes in which an image row is followed by the width's padding, so positions form one long run:
//! a tap is a shift of that run, and the gradient is zero where the run passes through padding.

use super::gather::Gather;
use crate::bf16::{DEPTH, LANES, Panels, Side, multiply_shifted, round};
use crate::cpu::{Bf16Path, Isa};
use crate::matmul::{MatRef, pack_lanes, panels_len};
use crate::par::{self, Buffer, Shared};
use crate::simd::multiversion;

/// Tiles of positions a product runs over: what is read for one pair of channel blocks stays in the L2 cache.
const RUN: usize = 64;
/// Side of a block of the gradient.
const BLOCK: usize = 2 * LANES;

struct Plan {
    taps: [usize; 3],
    /// Positions of an image row with padding, and tiles of a plane's run.
    width: usize,
    tiles: usize,
    /// Elements of one channel of a packed input plane: the run and the reach of the taps.
    line: usize,
    /// Channels rounded to whole panels.
    lanes: usize,
}

impl Plan {
    fn new(gather: &Gather) -> Self {
        let taps = gather.tap_extent();
        let width = gather.count[2] + taps[2] - 1;
        let tiles = (gather.count[1] * width).div_ceil(DEPTH);
        let line = (tiles * DEPTH + (taps[1] - 1) * width + taps[2] - 1).next_multiple_of(DEPTH);
        Plan { taps, width, tiles, line, lanes: gather.from.channels.next_multiple_of(LANES) }
    }
}

multiversion! {
    fn round_row(x: &[f32], out: &mut [u16]) {
        for (o, &x) in out.iter_mut().zip(x) {
            *o = round(x) as u16;
        }
    }
}

/// Plane `z` of the extended input: channels, then the run of positions.
fn pack_input(isa: Isa, gather: &Gather, plan: &Plan, x: &[f32], z: usize, out: &mut [u16]) {
    let [d, h, w] = gather.from.extent;
    let low = gather.offsets[0];
    out.fill(0);
    let from_z = z as isize + low[0];
    if from_z < 0 || from_z >= d as isize {
        return;
    }
    let start = (-low[2]).clamp(0, plan.width as isize) as usize;
    let end = (w as isize - low[2]).clamp(start as isize, plan.width as isize) as usize;
    let from = ((start as isize + low[2]) as usize).min(w);
    for (channel, out) in out.chunks_exact_mut(plan.line).enumerate().take(gather.from.channels) {
        for y in 0..gather.count[1] + plan.taps[1] - 1 {
            let from_y = y as isize + low[1];
            if from_y >= 0 && from_y < h as isize {
                let row = ((channel * d + from_z as usize) * h + from_y as usize) * w + from;
                let at = y * plan.width;
                round_row(isa, &x[row..row + end - start], &mut out[at + start..at + end]);
            }
        }
    }
}

/// One panel of output channels of plane `z` of the gradient, along the run of positions.
fn pack_gradient(gather: &Gather, plan: &Plan, dy: &[f32], z: usize, panel: usize, out: &mut [u16]) {
    let [_, height, width] = gather.count;
    let run = plan.tiles * DEPTH;
    let mut padded = Buffer::<f32>::new(LANES * run);
    padded.fill(0.0);
    let lanes = LANES.min(gather.to.channels - panel * LANES);
    for (lane, line) in padded.chunks_exact_mut(run).enumerate().take(lanes) {
        let from = ((panel * LANES + lane) * gather.count[0] + z) * height * width;
        for y in 0..height {
            line[y * plan.width..][..width].copy_from_slice(&dy[from + y * width..][..width]);
        }
    }
    pack_lanes(Side::Right, MatRef::new(&padded, LANES, run), 0, 0, run, out);
}

/// Sum over positions and batch of input times gradient, (to.channels, from.channels, taps). At most
/// `partial` elements of partial sums.
pub(super) fn run(
    path: Bf16Path,
    gather: &Gather,
    x: &[f32],
    dy: &[f32],
    partial: usize,
    dweight: &mut [f32],
) {
    let plan = Plan::new(gather);
    let isa = Isa::best();
    let (ci, co) = (gather.from.channels, gather.to.channels);
    let (rows, cols) = (ci.next_multiple_of(BLOCK), co.next_multiple_of(BLOCK));
    let taps: usize = plan.taps.iter().product();
    let size = taps * rows * cols;
    let count_z = gather.count[0];
    let runs = plan.tiles.div_ceil(RUN);
    let units = count_z * runs;
    let groups = (partial / size).clamp(1, 16).min(units);

    let planes = count_z + plan.taps[0] - 1;
    let plane = plan.lanes * plan.line;
    let (panels, stride) = (co.div_ceil(LANES), panels_len(1, plan.tiles * DEPTH));
    let mut input = Buffer::<u16>::new(planes * plane);
    let mut gradient = Buffer::<u16>::new(count_z * panels * stride);
    let mut parts = Buffer::<f32>::new(groups * size);
    for item in 0..gather.batch {
        let x = &x[item * gather.from.len()..(item + 1) * gather.from.len()];
        let dy = &dy[item * gather.to.len()..(item + 1) * gather.to.len()];
        {
            let (input, gradient) = (Shared::new(&mut input), Shared::new(&mut gradient));
            par::for_each(planes + count_z * panels, |task| {
                // SAFETY: each task packs its own plane or panel.
                unsafe {
                    match task.checked_sub(planes) {
                        None => pack_input(isa, gather, &plan, x, task, input.slice(task * plane, plane)),
                        Some(i) => {
                            let out = gradient.slice(i * stride, stride);
                            pack_gradient(gather, &plan, dy, i / panels, i % panels, out);
                        }
                    }
                }
            });
        }
        let out = Shared::new(&mut parts);
        let blocks = rows / BLOCK;
        par::for_each(groups * blocks, |task| {
            let (group, row) = (task / blocks, task % blocks * BLOCK);
            let lanes = (plan.lanes - row).min(BLOCK);
            let units = group * units / groups..(group + 1) * units / groups;
            for (n, unit) in units.enumerate() {
                let (z, tile) = (unit / runs, unit % runs * RUN);
                let tiles = RUN.min(plan.tiles - tile);
                let gradient = Panels { data: &gradient[z * panels * stride..], stride };
                for col in (0..cols).step_by(BLOCK) {
                    let right = gradient.skip(col / LANES, tile);
                    for tap in 0..taps {
                        let [_, th, tw] = plan.taps;
                        let (tz, ty, tx) = (tap / (th * tw), tap / tw % th, tap % tw);
                        let shift = ty * plan.width + tx + tile * DEPTH;
                        let left = &input[(z + tz) * plane + row * plan.line + shift..];
                        let at = group * size + (tap * rows + row) * cols + col;
                        // SAFETY: the block belongs to this task alone.
                        let c = unsafe { out.slice(at, (BLOCK - 1) * cols + BLOCK) };
                        let more = item > 0 || n > 0;
                        multiply_shifted(
                            path,
                            (left, plan.line, lanes),
                            right,
                            co - col,
                            tiles,
                            c,
                            cols,
                            more,
                        );
                    }
                }
            }
        });
    }
    let mut total = vec![0.0; size];
    par::sum_parts(&parts, &mut total);
    for (o, dweight) in dweight.chunks_exact_mut(ci * taps).enumerate() {
        for (i, dweight) in dweight.iter_mut().enumerate() {
            *dweight = total[(i % taps * rows + i / taps) * cols + o];
        }
    }
}
