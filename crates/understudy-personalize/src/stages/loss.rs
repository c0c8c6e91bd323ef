//! The loss of a frozen denoiser with attachments on noisy samples, and its gradients.

use burn::tensor::Tensor;
use understudy_engine::attach::Attached;
use understudy_engine::parameters::{Leaves, NamedGradients};
use understudy_engine::random::Random;
use understudy_engine::replay::backward;
use understudy_pipeline::{Denoiser, Level, Step, Texts, mixed};
use understudy_train::noise::{logit_normal, shifted};

use super::settings::NoiseLevels;

/// Noised samples and what the denoiser should say of them.
#[derive(Clone, Debug)]
pub struct NoisyBatch {
    /// Clean latents `(batch, channels, frames, height, width)`.
    pub latents: Tensor<5>,
    /// Noise of the same shape.
    pub noise: Tensor<5>,
    /// Noise level of each sample.
    pub levels: Vec<Level>,
    /// Weight of every place `(batch, 1, frames, height, width)`; all the same if `None`.
    pub weights: Option<Tensor<5>>,
}

impl NoisyBatch {
    /// What the denoiser sees.
    pub fn noised(&self) -> Tensor<5> {
        mixed(&self.latents, &self.noise, &self.levels)
    }

    /// The mean square of `predicted` less what is to be predicted, weighted.
    pub fn loss(&self, denoiser: &dyn Denoiser, predicted: Tensor<5>) -> Tensor<1> {
        let target = denoiser.noise().target(&self.latents, &self.noise, &self.levels);
        let square = (predicted - target).powi_scalar(2);
        match &self.weights {
            None => square.mean(),
            Some(weights) => {
                let channels = square.dims()[1] as f32;
                // Where a batch shows nothing of the subject and nothing else counts, there is nothing to
                // learn.
                let total = weights.clone().sum().clamp_min(1e-6) * channels;
                (square * weights.clone()).sum() / total
            }
        }
    }

    /// The loss under `texts`, times `scale`, and the gradients of `leaves`; with `replayed` blocks or
    /// keeping all. Attachments are those of `progress`.
    pub fn gradients(
        &self,
        denoiser: &dyn Denoiser,
        (texts, attached, progress): (&Texts, &Attached, f32),
        (leaves, replayed): (&Leaves, bool),
        scale: f32,
    ) -> (f32, NamedGradients) {
        let timesteps: Vec<f32> = self.levels.iter().map(|level| level.timestep).collect();
        let step = Step { latents: self.noised(), timesteps: &timesteps, progress, attached: None };
        let end = Box::new(|predicted| self.loss(denoiser, predicted) * scale);
        let stack = denoiser.stack(texts, step, attached, end);
        let (loss, gradients) = backward(stack.as_ref(), leaves, replayed);
        (loss.into_scalar::<f32>(), gradients)
    }
}

/// A noise level in (0, 1): logit-normal, within the steps of a window `[start, end]` of denoising progress,
/// shifted towards noise.
pub fn draw_sigma(random: &mut Random, noise: &NoiseLevels, shift: f64, [start, end]: [f32; 2]) -> f32 {
    const TRIES: usize = 64;
    let [low, high] = [1.0 - f64::from(end), 1.0 - f64::from(start)];
    let draw = |_| logit_normal(random, noise.mean, noise.deviation);
    let inside = (0..TRIES).map(draw).find(|level| (low..=high).contains(level));
    // A window far out in the tails is drawn from evenly.
    let level = inside.unwrap_or_else(|| low + (high - low) * random.uniform());
    shifted(level, shift)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn noise_levels_stay_in_their_window() {
        let noise = NoiseLevels { mean: 0.0, deviation: 1.0, shift: None };
        let mut random = Random::new(1, 1);
        for window in [[0.0, 1.0], [0.75, 1.0], [0.0, 0.01]] {
            for _ in 0..200 {
                let sigma = f64::from(draw_sigma(&mut random, &noise, 3.0, window));
                let level = sigma / (3.0 - 2.0 * sigma);
                let progress = 1.0 - level;
                let [start, end] = window.map(f64::from);
                assert!(progress >= start - 1e-5 && progress <= end + 1e-5, "{progress} {window:?}");
            }
        }
    }
}
