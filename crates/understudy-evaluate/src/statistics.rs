//! How sure a mean is.

use serde::{Deserialize, Serialize};
use understudy_engine::random::Random;

use crate::error::{Result, at_least};

/// A mean with the interval it lies in.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Interval {
    /// The mean of the values.
    pub mean: f64,
    /// The interval's lower end.
    pub low: f64,
    /// The interval's upper end.
    pub high: f64,
}

/// Resamples of the bootstrap.
const RESAMPLES: usize = 2000;

/// The mean of `values` and its bootstrap percentile interval (Efron 1979) that holds `confidence`, e.g.
/// 0.95, of the means of samples drawn from them with replacement. The same seed gives the same interval.
///
/// # Errors
/// When there is no value.
pub fn bootstrap(values: &[f64], confidence: f64, seed: u64) -> Result<Interval> {
    at_least(1, values.len(), "values")?;
    let count = values.len();
    let mut random = Random::stream(seed, "bootstrap", 0);
    let mut resample =
        || (0..count).map(|_| values[random.below(count as u64) as usize]).sum::<f64>() / count as f64;
    let mut means: Vec<f64> = (0..RESAMPLES).map(|_| resample()).collect();
    means.sort_by(f64::total_cmp);
    let tail = ((1.0 - confidence.clamp(0.0, 1.0)) / 2.0 * RESAMPLES as f64) as usize;
    let tail = tail.min(RESAMPLES / 2);
    Ok(Interval {
        mean: values.iter().sum::<f64>() / count as f64,
        low: means[tail],
        high: means[RESAMPLES - 1 - tail],
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_interval_of_normal_values_is_as_wide_as_theory_says() {
        let values: Vec<f64> = Random::new(3, 0).normals(400).into_iter().map(f64::from).collect();
        let interval = bootstrap(&values, 0.95, 1).unwrap();
        // 1.96 standard errors to each side.
        let half = 1.96 / 20.0;
        assert!(interval.low < interval.mean && interval.mean < interval.high);
        assert!(((interval.high - interval.low) / (2.0 * half) - 1.0).abs() < 0.15, "{interval:?}");
        assert_eq!(interval, bootstrap(&values, 0.95, 1).unwrap());
    }

    #[test]
    fn one_value_is_its_own_interval() {
        assert_eq!(bootstrap(&[2.0], 0.95, 0).unwrap(), Interval { mean: 2.0, low: 2.0, high: 2.0 });
        assert!(bootstrap(&[], 0.95, 0).is_err());
    }
}
