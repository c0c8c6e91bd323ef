//! What is asked of a base: prompts, sizes, and how to sample.

use std::collections::BTreeMap;
use std::sync::Arc;

use burn::tensor::Tensor;
use understudy_engine::attach::{Attached, Window};

use crate::companion::Companion;
use crate::error::{Error, Result};
use crate::family::Description;
use crate::network::Control;
use crate::prompt::TokenEmbeddings;
use crate::sampling::{Context, Sampler};
use crate::scheduler::Scheduler;

/// What to generate.
#[derive(Clone, Debug)]
pub struct Request {
    /// One video is made for each.
    pub prompts: Vec<String>,
    /// What guidance leads away from.
    pub negative_prompt: String,
    /// Frames of a video.
    pub frames: usize,
    /// Rows of pixels.
    pub height: usize,
    /// Columns of pixels.
    pub width: usize,
    /// Denoising steps.
    pub steps: usize,
    /// Guidance scale; at 1 or less there is none, and a step costs half.
    pub guidance: f32,
    /// The part of denoising that guidance is active in; the other steps cost half.
    pub guidance_window: Window,
    /// Skip blocks in steps in which what the first one adds has changed by less than this part since all of
    /// them ran; see [`BlockReuse`](understudy_models::reuse::BlockReuse).
    pub block_reuse: Option<f32>,
    /// The sampler, if not the base's own.
    pub sampler: Option<Sampler>,
    /// The shift of the noise levels, if not the base's own, of a base that matches flows.
    pub shift: Option<f64>,
    /// Decides the noise: prompt `i` gets that of seed `seed + i`, so that it can be made again alone.
    pub seed: u64,
    /// Noise `(prompts, channels, frames, height, width)` of latents to use in place of the seed's.
    pub initial_noise: Option<Tensor<5>>,
    /// Noise of the same shape to use in place of what the sampler would draw in these steps.
    pub step_noise: BTreeMap<usize, Tensor<5>>,
    /// What is attached to the networks.
    pub attached: Attached,
    /// Windows over the frames, for more of them than the base has positions for.
    pub context: Option<Context>,
    /// What tells it what to show where, by pictures.
    pub controls: Vec<Control>,
    /// What runs beside it, step by step.
    pub companions: Vec<Arc<dyn Companion>>,
    /// Embeddings of subject tokens in the prompts.
    pub token_embeddings: Option<TokenEmbeddings>,
    /// Tokens of a prompt, padding included, if not the base's own.
    pub max_sequence_length: Option<usize>,
    /// Whether `(word:1.2)` in a prompt weighs the word.
    pub prompt_weights: bool,
    /// How many of the text encoder's last layers are left out.
    pub clip_skip: usize,
    /// Decode in square tiles of so many pixels a side, for the memory of one tile.
    pub vae_tile: Option<usize>,
}

impl Request {
    /// One prompt with 81 frames of 480 by 832, 50 steps and guidance 5; what a base's videos usually are
    /// says its [`Description::usual`].
    pub fn new(prompt: impl Into<String>) -> Self {
        Self {
            prompts: vec![prompt.into()],
            negative_prompt: String::new(),
            frames: 81,
            height: 480,
            width: 832,
            steps: 50,
            guidance: 5.0,
            guidance_window: Window::ALWAYS,
            block_reuse: None,
            sampler: None,
            shift: None,
            seed: 0,
            initial_noise: None,
            step_noise: BTreeMap::new(),
            attached: Attached::none(),
            context: None,
            controls: Vec::new(),
            companions: Vec::new(),
            token_embeddings: None,
            max_sequence_length: None,
            prompt_weights: false,
            clip_skip: 0,
            vae_tile: None,
        }
    }

    /// The latents' shape `(prompts, channels, frames, height, width)` on such a base.
    ///
    /// # Errors
    /// When any field is out of its range; nothing has been computed yet.
    pub fn check(&self, about: &Description) -> Result<[usize; 5]> {
        let fault = |field, reason: &str| Err(Error::Request { field, reason: reason.to_owned() });
        if self.prompts.is_empty() {
            return fault("prompts", "are empty; give one");
        }
        if !(1..=1000).contains(&self.steps) {
            return fault("steps", "must be between 1 and 1000");
        }
        if self.guidance.is_nan() || self.guidance.abs() > 1000.0 {
            return fault("guidance", "must be a number between -1000 and 1000");
        }
        if !self.shift.is_none_or(|shift| shift > 0.0 && shift <= 1000.0) {
            return fault("shift", "must be a positive number up to 1000");
        }
        let Window { start, end } = self.guidance_window;
        if !(0.0..=1.0).contains(&start) || !(start..=1.0).contains(&end) {
            return fault("guidance-start and guidance-end", "must be a part of 0 to 1");
        }
        if self.block_reuse.is_some_and(|threshold| !(threshold > 0.0 && threshold <= 1.0)) {
            return fault("block-reuse", "must be above 0 and at most 1");
        }
        if self.block_reuse.is_some() && !self.companions.is_empty() {
            return fault(
                "block-reuse",
                "does not go with an adapter that looks into all blocks; leave one out",
            );
        }
        let tile = 4 * about.geometry.factors[1];
        if self.vae_tile.is_some_and(|side| side == 0 || !side.is_multiple_of(tile)) {
            return fault("vae-tile", &format!("must be a multiple of {tile}"));
        }
        if self.clip_skip > 0 && self.clip_skip >= about.text_layers {
            let reason = match about.text_layers {
                0 => "is for bases whose text encoder is CLIP's; leave it out".to_owned(),
                layers => format!("must be below {layers}, the layers of the text encoder"),
            };
            return fault("clip-skip", &reason);
        }
        if self.max_sequence_length == Some(0) {
            return fault("max_sequence_length", "must be at least 1");
        }
        let video = [self.frames, self.height, self.width];
        for control in &self.controls {
            let [_, _, frames, height, width] = control.pictures.dims();
            if [frames, height, width] != video {
                let reason = format!("are {frames} frames of {width}x{height}, and the video's are not");
                return fault("control pictures", &reason);
            }
        }
        let [channels, frames, height, width] = self.latents(about, video)?;
        let shape = [self.prompts.len(), channels, frames, height, width];
        let noises = self.initial_noise.iter().chain(self.step_noise.values());
        if let Some(found) = noises.map(Tensor::dims).find(|dims| *dims != shape) {
            return Err(Error::Noise { found, needed: shape });
        }
        self.scheduler(about)?.schedule(self.steps)?;
        Ok(shape)
    }

    /// The latents of a video, which may have more frames than there are positions for where it is made in
    /// windows.
    fn latents(&self, about: &Description, [frames, height, width]: [usize; 3]) -> Result<[usize; 4]> {
        let Some(context) = self.context else { return about.geometry.latents([frames, height, width]) };
        let fault = |reason: &str| Err(Error::Request { field: "context", reason: reason.to_owned() });
        if about.geometry.factors[0] != 1 {
            return fault("is for bases whose frames are pictures; leave it out");
        }
        if context.length == 0 || context.overlap >= context.length || context.stride == 0 {
            return fault("needs at least a frame in a window, and more than windows have in common");
        }
        if !self.companions.is_empty() {
            return fault("does not go with an adapter that looks into all frames; leave one out");
        }
        let window = frames.min(context.length);
        let [channels, _, rows, columns] = about.geometry.latents([window, height, width])?;
        Ok([channels, frames, rows, columns])
    }

    /// The sampler to use: the base's, by the request's name and shift.
    ///
    /// # Errors
    /// When these are for other bases.
    pub fn scheduler(&self, about: &Description) -> Result<Scheduler> {
        about.scheduler.with(self.sampler, self.shift)
    }
}
