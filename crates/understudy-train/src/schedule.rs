//! Learning-rate schedules.

use serde::{Deserialize, Serialize};

/// A linear warm-up to the learning rate, then a cosine down to a fraction of it at the last step.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Schedule {
    /// The highest learning rate.
    pub learning_rate: f32,
    /// Steps of warm-up.
    #[serde(default)]
    pub warmup: u64,
    /// The fraction of the learning rate that is left at the end; 1 keeps it constant.
    #[serde(default = "one")]
    pub end: f32,
}

fn one() -> f32 {
    1.0
}

impl Schedule {
    /// The learning rate of `step` (from 0) of `total`.
    pub fn rate(&self, step: u64, total: u64) -> f32 {
        if step < self.warmup {
            return self.learning_rate * (step + 1) as f32 / self.warmup as f32;
        }
        let span = total.saturating_sub(self.warmup).max(1);
        let progress = ((step - self.warmup) as f32 / span as f32).min(1.0);
        let cosine = 0.5 * (1.0 + (std::f32::consts::PI * progress).cos());
        self.learning_rate * (self.end + (1.0 - self.end) * cosine)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn warms_up_and_decays() {
        let schedule = Schedule { learning_rate: 1.0, warmup: 4, end: 0.1 };
        assert_eq!(schedule.rate(0, 100), 0.25);
        assert_eq!(schedule.rate(4, 100), 1.0);
        assert!((schedule.rate(100, 100) - 0.1).abs() < 1e-6);
        let constant = Schedule { learning_rate: 0.5, warmup: 0, end: 1.0 };
        assert_eq!(constant.rate(77, 100), 0.5);
    }
}
