//! Noise levels that flow matching is trained on.

use understudy_engine::random::Random;

/// A level in (0, 1) whose logit is normal.
pub fn logit_normal(random: &mut Random, mean: f32, deviation: f32) -> f64 {
    let logit = random.normal() * f64::from(deviation) + f64::from(mean);
    1.0 / (1.0 + (-logit).exp())
}

/// A level shifted toward noise, as samplers shift theirs.
pub fn shifted(level: f64, shift: f64) -> f32 {
    (shift * level / (1.0 + (shift - 1.0) * level)) as f32
}
