//! The flow-matching loss of a frozen denoiser with attachments, and its gradients.

use burn::tensor::Tensor;
use understudy_engine::attach::Attachments;
use understudy_engine::checkpoint::{BlockStack, backward_checkpointed, backward_plain};
use understudy_engine::parameters::{Leaves, NamedGradients};
use understudy_engine::random::Random;
use understudy_models::text_context::TextContext;
use understudy_models::wan_transformer::{Rotary, WanConditions, WanTransformer};
use understudy_train::noise::{logit_normal, shifted};

use crate::config::Noise;

/// Noised samples and what the denoiser should say of them.
#[derive(Clone, Debug)]
pub struct FlowBatch {
    /// Clean latents `(batch, channels, frames, height, width)`.
    pub latents: Tensor<5>,
    /// Noise of the same shape.
    pub noise: Tensor<5>,
    /// Noise level of each sample, in `(0, 1)`.
    pub sigmas: Vec<f32>,
    /// Weight of every place `(batch, 1, frames, height, width)`; all the same if `None`.
    pub weights: Option<Tensor<5>>,
}

impl FlowBatch {
    /// `(1 - sigma) * latents + sigma * noise`, what the denoiser sees.
    pub fn noised(&self) -> Tensor<5> {
        let device = self.latents.device();
        let sigma = Tensor::<1>::from_floats(self.sigmas.as_slice(), &device).reshape([-1, 1, 1, 1, 1]);
        self.latents.clone() * (-sigma.clone() + 1.0) + self.noise.clone() * sigma
    }

    /// The mean square of `predicted - (noise - latents)`, weighted.
    pub fn loss(&self, predicted: Tensor<5>) -> Tensor<1> {
        let target = self.noise.clone() - self.latents.clone();
        let square = (predicted - target).powi_scalar(2);
        match &self.weights {
            None => square.mean(),
            Some(weights) => {
                let channels = square.dims()[1] as f32;
                // Where a batch shows nothing of the subject and nothing else counts, there is nothing to learn.
                let total = weights.clone().sum().clamp_min(1e-6) * channels;
                (square * weights.clone()).sum() / total
            }
        }
    }
}

/// A denoiser as the stack of its blocks, with the flow-matching loss at its end.
pub struct FlowStack<'a> {
    /// The denoiser.
    pub transformer: &'a WanTransformer,
    /// What is attached to it.
    pub attachments: &'a Attachments,
    /// Text states `(batch, words, text_dim)`.
    pub text: Tensor<3>,
    /// The samples.
    pub batch: &'a FlowBatch,
    /// The loss is multiplied by this.
    pub scale: f32,
    rotary: Rotary,
    /// The values of `attachments`.
    values: Attachments,
    /// Of the last word of the text; see [`TextContext`].
    repeats: usize,
}

impl<'a> FlowStack<'a> {
    /// The loss of `batch` under `text`, with `attachments`.
    pub fn new(
        transformer: &'a WanTransformer,
        attachments: &'a Attachments,
        text: Tensor<3>,
        batch: &'a FlowBatch,
        scale: f32,
    ) -> Self {
        let rotary = transformer.rotary(batch.latents.dims(), &batch.latents.device());
        let (text, repeats) = TextContext::distinct(text);
        let values = attachments.without_autodiff();
        Self { transformer, attachments, text, batch, scale, rotary, values, repeats }
    }

    fn block_with(
        &self,
        index: usize,
        hidden: Tensor<3>,
        shared: &[Tensor<3>; 3],
        attachments: &Attachments,
    ) -> Tensor<3> {
        let [time, modulation, words] = shared.clone();
        let context = TextContext::new(words, self.repeats);
        let conditions = WanConditions { time, modulation, context };
        self.transformer.block(index, hidden, &conditions, &self.rotary, attachments)
    }

    /// The loss, times the scale, and the gradients of `leaves`; `checkpointed` keeps only block inputs.
    pub fn gradients(&self, leaves: &Leaves, checkpointed: bool) -> (f32, NamedGradients) {
        let (loss, gradients) =
            if checkpointed { backward_checkpointed(self, leaves) } else { backward_plain(self, leaves) };
        (loss.into_scalar::<f32>(), gradients)
    }
}

impl BlockStack<3> for FlowStack<'_> {
    fn depth(&self) -> usize {
        self.transformer.depth()
    }

    fn begin(&self) -> (Tensor<3>, [Tensor<3>; 3]) {
        let hidden = self.transformer.patchify(self.batch.noised(), self.attachments);
        let context = self.transformer.context_of(self.text.clone(), self.repeats, self.attachments);
        let timesteps: Vec<f32> = self.batch.sigmas.iter().map(|sigma| sigma * 1000.0).collect();
        let WanConditions { time, modulation, context } =
            self.transformer.conditions(&timesteps, context, self.attachments);
        (hidden, [time, modulation, context.words])
    }

    fn block(&self, index: usize, hidden: Tensor<3>, shared: &[Tensor<3>; 3]) -> Tensor<3> {
        self.block_with(index, hidden, shared, self.attachments)
    }

    fn block_value(&self, index: usize, hidden: Tensor<3>, shared: &[Tensor<3>; 3]) -> Tensor<3> {
        self.block_with(index, hidden, shared, &self.values)
    }

    fn loss(&self, hidden: Tensor<3>, shared: &[Tensor<3>; 3]) -> Tensor<1> {
        let dims = self.batch.latents.dims();
        let predicted = self.transformer.finish(hidden, &shared[0], dims, self.attachments);
        self.batch.loss(predicted) * self.scale
    }
}

/// A noise level in (0, 1): logit-normal, within the steps of a window `[start, end]` of denoising progress,
/// shifted towards noise.
pub fn draw_sigma(random: &mut Random, noise: &Noise, shift: f64, [start, end]: [f32; 2]) -> f32 {
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
        let noise = Noise { mean: 0.0, deviation: 1.0, shift: None };
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
