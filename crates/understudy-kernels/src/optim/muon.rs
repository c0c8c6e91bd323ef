//! The step of Muon (Jordan et al., 2024): momentum whose singular values are all made about one.

use crate::matmul::{MatRef, Precision, matmul};
use crate::optim::sum_squares;

/// Iterations of [`orthogonalize`].
pub const NEWTON_SCHULZ_ITERATIONS: usize = 5;
/// Coefficients of the odd polynomial that [`orthogonalize`] iterates, of degree 1, 3 and 5: it drives
/// singular values from almost anywhere in (0, 1] quickly to between 0.7 and 1.2, and no closer to 1, which
/// does not matter to training.
pub const NEWTON_SCHULZ: [f32; 3] = [3.4445, -4.7750, 2.0315];

/// `matrix` (rows, cols) with its singular values replaced by values near 1 and its singular vectors kept.
///
/// # Panics
///
/// If the length is not `rows * cols`.
pub fn orthogonalize(matrix: &[f32], rows: usize, cols: usize) -> Vec<f32> {
    assert_eq!(matrix.len(), rows * cols, "orthogonalize: length");
    // Products are of the smaller side.
    if rows > cols {
        return transposed(&orthogonalize(&transposed(matrix, rows, cols), cols, rows), cols, rows);
    }
    let scale = 1.0 / (sum_squares(matrix).sqrt() as f32 + 1e-7);
    let mut x: Vec<f32> = matrix.iter().map(|value| value * scale).collect();
    let mut gram = vec![0.0; rows * rows];
    let mut polynomial = vec![0.0; rows * rows];
    let mut product = vec![0.0; rows * cols];
    let [a, b, c] = NEWTON_SCHULZ;
    for _ in 0..NEWTON_SCHULZ_ITERATIONS {
        let view = MatRef::new(&x, rows, cols);
        matmul(view, view.t(), &mut gram, false, Precision::Bf16);
        let square = MatRef::new(&gram, rows, rows);
        matmul(square, square, &mut polynomial, false, Precision::Bf16);
        for (p, g) in polynomial.iter_mut().zip(&gram) {
            *p = b * g + c * *p;
        }
        matmul(MatRef::new(&polynomial, rows, rows), view, &mut product, false, Precision::Bf16);
        for (x, p) in x.iter_mut().zip(&product) {
            *x = a * *x + p;
        }
    }
    x
}

fn transposed(matrix: &[f32], rows: usize, cols: usize) -> Vec<f32> {
    let mut out = Vec::with_capacity(matrix.len());
    for col in 0..cols {
        out.extend((0..rows).map(|row| matrix[row * cols + col]));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::random;

    #[test]
    fn singular_values_are_near_one() {
        for (rows, cols) in [(8, 8), (12, 40), (40, 12)] {
            let (tall, wide) = (rows.max(cols), rows.min(cols));
            let x = orthogonalize(&random(3, rows * cols), rows, cols);
            let x = if rows > cols { x } else { transposed(&x, rows, cols) };
            // Of the Gram matrix (wide, wide): eigenvalues are the squares.
            let mut gram = vec![0.0_f64; wide * wide];
            for row in x.chunks_exact(wide) {
                for i in 0..wide {
                    for j in 0..wide {
                        gram[i * wide + j] += f64::from(row[i]) * f64::from(row[j]);
                    }
                }
            }
            assert_eq!(x.len(), tall * wide);
            let trace: f64 = (0..wide).map(|i| gram[i * wide + i]).sum();
            let squares: f64 = gram.iter().map(|value| value * value).sum();
            let (mean, spread) = (trace / wide as f64, squares / wide as f64 - (trace / wide as f64).powi(2));
            assert!((0.4..1.4).contains(&mean) && spread < 0.15, "{rows}x{cols}: {mean} {spread}");
        }
    }

    #[test]
    fn the_direction_is_kept() {
        let x = random(5, 6 * 30);
        let y = orthogonalize(&x, 6, 30);
        let dot: f32 = x.iter().zip(&y).map(|(a, b)| a * b).sum();
        assert!(dot > 0.0);
        assert!(orthogonalize(&[0.0; 12], 3, 4).iter().all(|&value| value == 0.0));
    }
}
