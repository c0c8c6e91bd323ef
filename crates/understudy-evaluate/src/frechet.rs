//! The Frechet distance between two sets of features.

use nalgebra::{DMatrix, DVector, SymmetricEigen};

use crate::error::{Error, Result, at_least, equal};

/// What a sum of squares is divided by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Covariance {
    /// By one less than there are vectors: what estimates the covariance of the distribution they come from.
    Unbiased,
    /// By how many vectors there are, as StyleGAN-V does.
    Biased,
}

/// The squared Frechet distance between the normal distributions fitted to two sets of feature vectors:
/// `|m1 - m2|^2 + tr(C1 + C2 - 2 (C1^1/2 C2 C1^1/2)^1/2)`, with unbiased covariances (Dowson and Landau 1982;
/// as FID and FVD use it).
///
/// The trace is that of `(C1 C2)^1/2`, but both roots here are of symmetric positive matrices, so they are
/// exact and exist when a covariance is singular, as it is with fewer vectors than dimensions: eigenvalues
/// that rounding made negative count as zero, and nothing has to be added to the diagonals.
///
/// # Errors
/// When a set has fewer than two vectors, their lengths differ, or a value is not finite.
pub fn frechet_distance(a: &[Vec<f32>], b: &[Vec<f32>]) -> Result<f64> {
    frechet_distance_with(a, b, Covariance::Unbiased)
}

/// The same with either covariance.
///
/// # Errors
/// As [`frechet_distance`].
pub fn frechet_distance_with(a: &[Vec<f32>], b: &[Vec<f32>], kind: Covariance) -> Result<f64> {
    let ((mean_a, covariance_a), (mean_b, covariance_b)) = (moments(a, kind)?, moments(b, kind)?);
    equal(mean_a.len(), mean_b.len(), "lengths of feature vectors")?;
    let root = square_root(covariance_a.clone());
    let product = symmetric(&root * &covariance_b * &root);
    let trace_of_root: f64 = eigenvalues(product).map(f64::sqrt).sum();
    let distance =
        (mean_a - mean_b).norm_squared() + covariance_a.trace() + covariance_b.trace() - 2.0 * trace_of_root;
    Ok(distance.max(0.0))
}

/// The mean and the covariance of the rows.
fn moments(rows: &[Vec<f32>], kind: Covariance) -> Result<(DVector<f64>, DMatrix<f64>)> {
    at_least(2, rows.len(), "feature vectors")?;
    let dim = rows[0].len();
    for row in rows {
        equal(dim, row.len(), "lengths of feature vectors")?;
    }
    if rows.iter().flatten().any(|value| !value.is_finite()) {
        return Err(Error::NotFinite { what: "feature vectors" });
    }
    let mut matrix = DMatrix::from_fn(rows.len(), dim, |row, column| f64::from(rows[row][column]));
    let mean = matrix.row_mean();
    for mut row in matrix.row_iter_mut() {
        row -= &mean;
    }
    let count = match kind {
        Covariance::Unbiased => rows.len() - 1,
        Covariance::Biased => rows.len(),
    };
    let covariance = matrix.tr_mul(&matrix) / count as f64;
    Ok((mean.transpose(), covariance))
}

/// The symmetric square root of a symmetric positive matrix.
fn square_root(matrix: DMatrix<f64>) -> DMatrix<f64> {
    let SymmetricEigen { eigenvectors, eigenvalues } = SymmetricEigen::new(symmetric(matrix));
    let roots = eigenvalues.map(|value| value.max(0.0).sqrt());
    &eigenvectors * DMatrix::from_diagonal(&roots) * eigenvectors.transpose()
}

fn eigenvalues(matrix: DMatrix<f64>) -> impl Iterator<Item = f64> {
    let values = matrix.symmetric_eigenvalues();
    (0..values.len()).map(move |index| values[index].max(0.0))
}

/// The symmetric part: what rounding made asymmetric is taken back.
fn symmetric(matrix: DMatrix<f64>) -> DMatrix<f64> {
    (&matrix + matrix.transpose()) * 0.5
}

#[cfg(test)]
mod tests {
    use super::*;
    use understudy_engine::random::Random;

    /// Vectors whose sample mean and covariance are exactly `mean` and the diagonal of `deviations` squared.
    fn exact(mean: &[f64], deviations: &[f64]) -> Vec<Vec<f32>> {
        let count = 2 * mean.len();
        // Two points to each side on every axis: the sample variance is 2 d^2 s^2 / (n - 1).
        let spread = ((count - 1) as f64 / 2.0).sqrt();
        let mut rows = Vec::new();
        for axis in 0..mean.len() {
            for side in [-1.0, 1.0] {
                let mut row: Vec<f32> = mean.iter().map(|&m| m as f32).collect();
                row[axis] += (side * deviations[axis] * spread) as f32;
                rows.push(row);
            }
        }
        rows
    }

    #[test]
    fn diagonal_normals_have_the_known_distance() {
        let a = exact(&[0.0, 1.0, 2.0], &[1.0, 2.0, 0.5]);
        let b = exact(&[3.0, 1.0, 0.0], &[2.0, 2.0, 1.5]);
        // |m1 - m2|^2 plus the squared differences of the deviations.
        let expected = (9.0 + 4.0) + (1.0 + 0.0 + 1.0);
        assert!((frechet_distance(&a, &b).unwrap() - expected).abs() < 1e-5);
    }

    #[test]
    fn it_does_not_depend_on_the_axes() {
        // A rotation by 0.7 in the plane of the first two axes leaves the distance alone.
        let rotate = |rows: Vec<Vec<f32>>| -> Vec<Vec<f32>> {
            let (sine, cosine) = 0.7_f32.sin_cos();
            let turn = |r: Vec<f32>| vec![cosine * r[0] - sine * r[1], sine * r[0] + cosine * r[1], r[2]];
            rows.into_iter().map(turn).collect()
        };
        let a = exact(&[0.0, 1.0, 2.0], &[1.0, 2.0, 0.5]);
        let b = exact(&[3.0, 1.0, 0.0], &[2.0, 0.1, 1.5]);
        let plain = frechet_distance(&a, &b).unwrap();
        let turned = frechet_distance(&rotate(a), &rotate(b)).unwrap();
        assert!((plain - turned).abs() < 1e-4, "{plain} {turned}");
    }

    #[test]
    fn correlated_normals_agree_with_the_trace_of_the_unsymmetric_root() {
        // For 2x2 matrices tr sqrt(M) = sqrt(tr M + 2 sqrt(det M)).
        let sample = |seed: u64, mix: [f32; 2]| -> Vec<Vec<f32>> {
            let values = Random::new(seed, 0).normals(400);
            values.chunks(2).map(|v| vec![v[0] + mix[0] * v[1], mix[1] * v[0] + v[1]]).collect()
        };
        let (a, b) = (sample(1, [0.8, 0.1]), sample(2, [-0.3, 0.6]));
        let ((mean_a, cov_a), (mean_b, cov_b)) =
            [&a, &b].map(|rows| moments(rows, Covariance::Unbiased).unwrap()).into();
        let product = &cov_a * &cov_b;
        let root = (product.trace() + 2.0 * product.determinant().sqrt()).sqrt();
        let expected = (mean_a - mean_b).norm_squared() + cov_a.trace() + cov_b.trace() - 2.0 * root;
        assert!((frechet_distance(&a, &b).unwrap() - expected).abs() < 1e-9);
    }

    #[test]
    fn singular_covariances_and_equal_sets_are_fine() {
        // Four vectors in sixteen dimensions.
        let rows: Vec<Vec<f32>> = Random::new(5, 0).normals(64).chunks(16).map(<[f32]>::to_vec).collect();
        assert!(frechet_distance(&rows, &rows).unwrap() < 1e-6);
        let moved: Vec<Vec<f32>> = rows.iter().map(|row| row.iter().map(|x| x + 0.5).collect()).collect();
        assert!((frechet_distance(&rows, &moved).unwrap() - 4.0).abs() < 1e-4);
    }

    #[test]
    fn what_cannot_be_compared_is_an_error() {
        let rows = vec![vec![0.0, 1.0]; 3];
        assert!(frechet_distance(&rows[..1], &rows).is_err());
        assert!(frechet_distance(&rows, &[vec![0.0], vec![1.0]]).is_err());
        assert!(frechet_distance(&rows, &[vec![0.0, f32::NAN], vec![1.0, 0.0]]).is_err());
    }
}
