//! The matrix a gather multiplies: one row for each input channel and tap, one column for each output
//! position.

use super::gather::Gather;

/// Rows of positions (runs along the width) `first..first + rows` of the gather's grid, of batch item `x`
/// (channels, d, h, w). `out` is (channels * taps, rows * width), width the grid's last extent.
pub(super) fn fill(gather: &Gather, x: &[f32], first: usize, rows: usize, out: &mut [f32]) {
    let [_, height, width] = gather.count;
    let [d, h, w] = gather.from.extent;
    let columns = rows * width;
    let taps = gather.offsets.len();
    for (index, out) in out.chunks_exact_mut(columns).enumerate() {
        let (channel, offset) = (index / taps, gather.offsets[index % taps]);
        let x = &x[channel * d * h * w..(channel + 1) * d * h * w];
        for (row, out) in out.chunks_exact_mut(width).enumerate() {
            let (z, y) = ((first + row) / height, (first + row) % height);
            let z = (z * gather.step_from[0]) as isize + offset[0];
            let y = (y * gather.step_from[1]) as isize + offset[1];
            if z < 0 || y < 0 || z >= d as isize || y >= h as isize {
                out.fill(0.0);
            } else {
                let from = (z as usize * h + y as usize) * w;
                fill_run(&x[from..from + w], offset[2], gather.step_from[2], out);
            }
        }
    }
}

/// `out[i] = x[i * step + offset]`, zero outside.
fn fill_run(x: &[f32], offset: isize, step: usize, out: &mut [f32]) {
    let (n, w) = (out.len(), x.len() as isize);
    // The first position at or after 0 and the first at or after the end.
    let clamp = |bound: isize| ((bound - offset).max(0) as usize).div_ceil(step).min(n);
    let (start, end) = (clamp(0), clamp(w));
    out[..start].fill(0.0);
    out[end..].fill(0.0);
    if start >= end {
        return;
    }
    let from = ((start * step) as isize + offset) as usize;
    if step == 1 {
        out[start..end].copy_from_slice(&x[from..from + end - start]);
    } else {
        for (out, x) in out[start..end].iter_mut().zip(x[from..].iter().step_by(step)) {
            *out = *x;
        }
    }
}
