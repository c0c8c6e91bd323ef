//! Moves between memory layouts.

use crate::par::CHUNK;
use rayon::prelude::*;

/// Copies `x` (batch, rows, cols, dim) to `out` (batch, cols, rows, dim): (batch, tokens, heads, dim) to
/// (batch, heads, tokens, dim) and, with the counts exchanged, back.
///
/// # Panics
///
/// If a length is not `batch * rows * cols * dim`.
pub fn transpose_heads(x: &[f32], batch: usize, rows: usize, cols: usize, dim: usize, out: &mut [f32]) {
    let size = batch * rows * cols * dim;
    assert!(x.len() == size && out.len() == size, "transpose_heads: lengths");
    if size == 0 {
        return;
    }
    // Each task fills whole runs of `dim`, so writes stream and reads step by the row length.
    let runs = (CHUNK / dim).max(1);
    out.par_chunks_mut(runs * dim).enumerate().for_each(|(chunk, out)| {
        let run = chunk * runs;
        let (mut b, mut c, mut r) = (run / (rows * cols), run / rows % cols, run % rows);
        for out in out.chunks_exact_mut(dim) {
            let from = ((b * rows + r) * cols + c) * dim;
            out.copy_from_slice(&x[from..from + dim]);
            r += 1;
            if r == rows {
                r = 0;
                c += 1;
                if c == cols {
                    c = 0;
                    b += 1;
                }
            }
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::random;

    #[test]
    fn goes_there_and_back() {
        for (b, t, h, d) in [(1, 1, 1, 1), (2, 5, 3, 4), (3, 700, 2, 17), (1, 3, 1000, 1)] {
            let x = random(1, b * t * h * d);
            let (mut y, mut z) = (vec![0.0; x.len()], vec![0.0; x.len()]);
            transpose_heads(&x, b, t, h, d, &mut y);
            for (i, &y) in y.iter().enumerate() {
                let (bi, hi, ti, di) = (i / (h * t * d), i / (t * d) % h, i / d % t, i % d);
                assert_eq!(y, x[((bi * t + ti) * h + hi) * d + di]);
            }
            transpose_heads(&y, b, h, t, d, &mut z);
            assert_eq!(x, z);
        }
    }
}
