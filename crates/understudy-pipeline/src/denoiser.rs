//! The denoiser as samplers see it: latents to a velocity, with text, guidance and attachments inside.

use burn::tensor::Tensor;
use understudy_engine::attach::{Attachments, Window};
use understudy_models::reuse::BlockReuse;
use understudy_models::text_context::TextContext;

use crate::base::Base;

/// Sites of the text context, which is computed once unless something is attached there.
const TEXT_SITES: &str = "condition_embedder.text_embedder.";

/// A base's denoiser for given texts.
///
/// With guidance both branches run as one batch: first all prompts, then as many negative ones. Attachments
/// that look into a batch see it in that order.
#[derive(Clone, Debug)]
pub struct Denoiser<'a> {
    base: &'a Base,
    attachments: &'a Attachments,
    text: Tensor<3>,
    /// The text context, if it is the same at every step.
    context: Option<TextContext>,
    guidance: Option<f32>,
    /// The part of denoising that guidance is active in.
    window: Window,
    reuse: Option<BlockReuse>,
}

impl<'a> Denoiser<'a> {
    /// For `text (prompts, words, channels)` from [`encode_prompt`](crate::encode_prompt). With
    /// `negative`, a text `(1, words, channels)` and a scale `g`, the velocity is
    /// `negative + g * (prompt - negative)` (Ho and Salimans, "Classifier-Free Diffusion Guidance", 2022).
    pub fn new(
        base: &'a Base,
        text: Tensor<3>,
        negative: Option<(Tensor<3>, f32)>,
        attachments: &'a Attachments,
    ) -> Self {
        let prompts = text.dims()[0];
        let (text, guidance) = match negative {
            Some((negative, scale)) => {
                (Tensor::cat(vec![text, negative.repeat_dim(0, prompts)], 0), Some(scale))
            }
            None => (text, None),
        };
        let of_text = |site: &str| site.starts_with(TEXT_SITES) && !attachments.is_steady(site);
        let varies = attachments.sites().any(of_text);
        let known =
            || base.transformer.projected(base.transformer.context(text.clone(), attachments), attachments);
        let context = (!varies).then(known);
        Self { base, attachments, text, context, guidance, window: Window::ALWAYS, reuse: None }
    }

    /// The same with guidance active in `window` only; steps outside of it cost half (Kynkäänniemi and others,
    /// "Applying Guidance in a Limited Interval", 2024).
    pub fn guided_in(self, window: Window) -> Self {
        Self { window, ..self }
    }

    /// The same with blocks skipped where the first changes by less than `threshold`; see [`BlockReuse`].
    pub fn reusing(self, threshold: Option<f32>) -> Self {
        Self { reuse: threshold.map(BlockReuse::new), ..self }
    }

    /// How many steps were skipped; see [`Denoiser::reusing`].
    pub fn skipped(&self) -> usize {
        self.reuse.as_ref().map_or(0, BlockReuse::skipped)
    }

    /// The velocity `noise - data` at `latents (prompts, channels, frames, height, width)`. `timestep` is in
    /// `[0, 1000]`; `progress` in `[0, 1]` says which attachments are active.
    pub fn velocity(&mut self, latents: &Tensor<5>, timestep: f32, progress: f32) -> Tensor<5> {
        let prompts = latents.dims()[0];
        let attachments = self.attachments.at(progress);
        let context = match &self.context {
            Some(context) => context.clone(),
            None => self.base.transformer.context(self.text.clone(), &attachments),
        };
        let Some(scale) = self.guidance.filter(|_| self.window.contains(progress)) else {
            let timesteps = vec![timestep; prompts];
            let context = context.narrow(0, prompts);
            return self.predict(latents.clone(), &timesteps, context, &attachments);
        };
        let twice = Tensor::cat(vec![latents.clone(), latents.clone()], 0);
        let timesteps = vec![timestep; 2 * prompts];
        let both = self.predict(twice, &timesteps, context, &attachments);
        let prompt = both.clone().narrow(0, 0, prompts);
        let negative = both.narrow(0, prompts, prompts);
        negative.clone() + (prompt - negative) * scale
    }

    fn predict(
        &mut self,
        latents: Tensor<5>,
        timesteps: &[f32],
        context: TextContext,
        attachments: &Attachments,
    ) -> Tensor<5> {
        let reuse = self.reuse.as_mut();
        self.base.transformer.forward_reusing(latents, timesteps, context, attachments, reuse)
    }
}
