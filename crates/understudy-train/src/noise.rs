//! Noise levels that flow matching is trained on.

use understudy_engine::random::Random;

/// A level in (0, 1) whose logit is normal.
pub fn logit_normal(random: &mut Random, mean: f32, deviation: f32) -> f64 {
    let logit = random.normal() * f64::from(deviation) + f64::from(mean);
    1.0 / (1.0 + (-logit).exp())
}

/// `count` levels whose logits are normal, shifted toward noise: one from every `count`-th of the
/// distribution, in a drawn order, so that the loss of a batch does not depend on which levels it happens to
/// have.
pub fn levels(random: &mut Random, count: usize, shift: f64) -> Vec<f32> {
    let mut order: Vec<usize> = (0..count).collect();
    for at in 0..count {
        order.swap(at, at + random.below((count - at) as u64) as usize);
    }
    let mut level = |stratum: usize| {
        let quantile = (stratum as f64 + random.uniform().clamp(1e-6, 1.0 - 1e-6)) / count as f64;
        shifted(1.0 / (1.0 + (-normal_quantile(quantile)).exp()), shift)
    };
    order.into_iter().map(&mut level).collect()
}

/// The value that a normal number is below with probability `p` in (0, 1), to 5e-4 (Abramowitz and Stegun,
/// 26.2.23).
fn normal_quantile(p: f64) -> f64 {
    let tail = p.min(1.0 - p);
    let t = (-2.0 * tail.ln()).sqrt();
    let above = t
        - (2.515_517 + t * (0.802_853 + t * 0.010_328))
            / (1.0 + t * (1.432_788 + t * (0.189_269 + t * 0.001_308)));
    if p < 0.5 { -above } else { above }
}

/// A level shifted toward noise, as samplers shift theirs.
pub fn shifted(level: f64, shift: f64) -> f32 {
    (shift * level / (1.0 + (shift - 1.0) * level)) as f32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_are_balanced() {
        let mut random = Random::new(3, 0);
        for count in [1, 2, 16, 64] {
            let mut found = levels(&mut random, count, 1.0);
            found.sort_by(f32::total_cmp);
            assert!(found.iter().all(|level| (0.0..1.0).contains(level)));
            // Half of them are below the middle of the distribution.
            let below = found.iter().filter(|level| **level < 0.5).count();
            assert!(count == 1 || below == count / 2, "{count}: {below}");
        }
        let mean = |shift| levels(&mut Random::new(1, 0), 64, shift).iter().sum::<f32>() / 64.0;
        assert!((mean(1.0) - 0.5).abs() < 0.02);
        assert!(mean(3.0) > 0.65);
    }

    #[test]
    fn quantiles_are_those_of_the_normal_distribution() {
        for (p, expected) in [(0.5, 0.0), (0.841_345, 1.0), (0.022_750, -2.0), (0.998_650, 3.0)] {
            assert!((normal_quantile(p) - expected).abs() < 1e-3, "{p}");
        }
    }
}
