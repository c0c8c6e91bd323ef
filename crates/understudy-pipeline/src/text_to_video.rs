//! Text to video, from a request to frames.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::{Duration, Instant};

use burn::tensor::{Device, Tensor};
use understudy_engine::attach::{Attachments, Window};
use understudy_engine::memory;
use understudy_engine::random::Random;
use understudy_models::tiling::Tiles;
use understudy_models::wan_vae::WanVae;

use crate::base::{Base, BaseConfig};
use crate::companion::{Companion, Moment};
use crate::denoiser::Denoiser;
use crate::error::{Error, Result};
use crate::prompt::{PromptOptions, TokenEmbeddings, encode_prompt};
use crate::sampler::Sampler;
use crate::scheduler::Scheduler;
use crate::video::{decode_video, latent_shape};

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
    /// Skip blocks in steps in which what the first one adds has changed by less than this part since all of them ran; see
    /// [`BlockReuse`](understudy_models::reuse::BlockReuse).
    pub block_reuse: Option<f32>,
    /// The sampler, if not the base's own.
    pub sampler: Option<Sampler>,
    /// The shift of the noise levels, if not the base's own.
    pub shift: Option<f64>,
    /// Decides the noise: prompt `i` gets that of seed `seed + i`, so that it can be made again alone.
    pub seed: u64,
    /// Noise `(prompts, channels, frames, height, width)` of latents to use in place of the seed's.
    pub initial_noise: Option<Tensor<5>>,
    /// What is attached to the denoiser and the text encoder.
    pub attachments: Attachments,
    /// What runs beside it, step by step.
    pub companions: Vec<Arc<dyn Companion>>,
    /// Embeddings of subject tokens in the prompts.
    pub token_embeddings: Option<TokenEmbeddings>,
    /// Tokens of a prompt, padding included, if not the base's own.
    pub max_sequence_length: Option<usize>,
    /// Whether `(word:1.2)` in a prompt weighs the word.
    pub prompt_weights: bool,
    /// Decode in square tiles of so many pixels a side, for the memory of one tile.
    pub vae_tile: Option<usize>,
}

impl Request {
    /// One prompt with Wan 2.1's own settings: 81 frames of 480 by 832, 50 steps, guidance 5.
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
            attachments: Attachments::none(),
            companions: Vec::new(),
            token_embeddings: None,
            max_sequence_length: None,
            prompt_weights: false,
            vae_tile: None,
        }
    }

    /// The latents' shape `(prompts, channels, frames, height, width)` on a base of this configuration.
    ///
    /// # Errors
    /// When any field is out of its range; nothing has been computed yet.
    pub fn check(&self, config: &BaseConfig) -> Result<[usize; 5]> {
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
                "does not go with V-Warper, which looks into all blocks; leave one out",
            );
        }
        let tile = 4 * config.vae.spatial_factor();
        if self.vae_tile.is_some_and(|side| side == 0 || !side.is_multiple_of(tile)) {
            return fault("vae-tile", &format!("must be a multiple of {tile}"));
        }
        if self.max_sequence_length == Some(0) {
            return fault("max_sequence_length", "must be at least 1");
        }
        let [channels, frames, height, width] = latent_shape(config, [self.frames, self.height, self.width])?;
        let shape = [self.prompts.len(), channels, frames, height, width];
        match self.initial_noise.as_ref().map(Tensor::dims).filter(|dims| *dims != shape) {
            None => Ok(shape),
            Some(found) => Err(Error::Noise { found, needed: shape }),
        }
    }

    /// The sampler and shift to use: the request's, else the base's.
    pub fn scheduler(&self, config: &BaseConfig) -> Scheduler {
        let own = config.scheduler;
        Scheduler { sampler: self.sampler.unwrap_or(own.sampler), shift: self.shift.unwrap_or(own.shift) }
    }

    /// The noise to start from: given, or the seed's.
    fn noise(&self, [prompts, channels, frames, height, width]: [usize; 5], base: &Base) -> Tensor<5> {
        if let Some(noise) = &self.initial_noise {
            return noise.clone();
        }
        let shape = [1, channels, frames, height, width];
        let draw = |index: usize| {
            let seed = self.seed.wrapping_add(index as u64);
            Random::stream(seed, "noise", 0).normal_tensor(shape, &base.device)
        };
        Tensor::cat((0..prompts).map(draw).collect(), 0)
    }

    /// A denoiser for the prompts, and for the negative one where there is guidance.
    fn denoiser<'a>(&'a self, base: &'a Base) -> Result<Denoiser<'a>> {
        let options = PromptOptions {
            max_sequence_length: self.max_sequence_length,
            attachments: Some(&self.attachments),
            token_embeddings: self.token_embeddings.as_ref(),
            weighted: self.prompt_weights,
        };
        let prompts: Vec<&str> = self.prompts.iter().map(String::as_str).collect();
        let text = encode_prompt(base, &prompts, options)?;
        let negative = match self.guidance > 1.0 {
            true => Some((encode_prompt(base, &[&self.negative_prompt], options)?, self.guidance)),
            false => None,
        };
        Ok(Denoiser::new(base, text, negative, &self.attachments)
            .guided_in(self.guidance_window)
            .reusing(self.block_reuse))
    }
}

/// What happens on the way; each is sent when it is over.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Event {
    /// The prompts are encoded.
    Encoded {
        /// How long it took.
        elapsed: Duration,
    },
    /// The denoiser has run for a step.
    Step {
        /// Which step, from 0.
        index: usize,
        /// How many there are.
        total: usize,
        /// The noise level it started from, in `[0, 1]`.
        sigma: f32,
        /// How many steps so far went through the first block alone.
        skipped: usize,
        /// How long it took.
        elapsed: Duration,
    },
    /// The frames are decoded.
    Decoded {
        /// How long it took.
        elapsed: Duration,
    },
}

/// A finished run.
#[derive(Clone, Debug)]
pub struct Output {
    /// Normalized latents `(prompts, channels, frames, height, width)`, the result before the autoencoder.
    pub latents: Tensor<5>,
    /// Videos `(prompts, 3, frames, height, width)` in [0, 1].
    pub frames: Tensor<5>,
}

/// Generates one video for each prompt of `request`. The same request on the same device gives the same
/// numbers.
///
/// `on_event` hears of every phase and step; once it answers [`ControlFlow::Break`], the run ends.
///
/// # Errors
/// When the request does not fit the base (before anything is computed), the base cannot be read any more, or the run was
/// stopped.
pub fn generate(
    base: &Base,
    request: &Request,
    on_event: &mut dyn FnMut(Event) -> ControlFlow<()>,
) -> Result<Output> {
    decode(&base.vae, request, denoise(base, request, on_event)?, on_event)
}

/// The first part of [`generate`]: normalized latents `(prompts, channels, frames, height, width)`. What follows needs the
/// autoencoder alone, and as much memory as the base took: who has one video to make drops the base between the two.
///
/// # Errors
/// As [`generate`].
pub fn denoise(
    base: &Base,
    request: &Request,
    on_event: &mut dyn FnMut(Event) -> ControlFlow<()>,
) -> Result<Tensor<5>> {
    let shape = request.check(&base.config)?;
    let total = request.steps;
    let mut report = |event, done| match on_event(event) {
        ControlFlow::Continue(()) => Ok(()),
        ControlFlow::Break(()) => Err(Error::Interrupted { done, total }),
    };

    let start = Instant::now();
    let mut denoiser = request.denoiser(base)?;
    report(Event::Encoded { elapsed: since(start, &base.device) }, 0)?;

    let Scheduler { sampler, shift } = request.scheduler(&base.config);
    let schedule = sampler.schedule(shift, total);
    sampler.sample(request.noise(shape, base), &schedule, |index, latents| {
        let start = Instant::now();
        let progress = index as f32 / total as f32;
        let (sigma, timestep) = (schedule.sigmas()[index], schedule.timesteps()[index]);
        for companion in &request.companions {
            companion.clone().step(base, Moment { sigma, timestep, progress });
        }
        let velocity = denoiser.velocity(latents, timestep, progress);
        let skipped = denoiser.skipped();
        let elapsed = since(start, &base.device);
        base.check_read()?;
        report(Event::Step { index, total, sigma, skipped, elapsed }, index + 1)?;
        Ok::<_, Error>(velocity)
    })
}

/// How long it is since `start`, when everything the device was asked for is done: a GPU computes while the program goes on. What
/// fails there shows in the values that are read.
fn since(start: Instant, device: &Device) -> Duration {
    let _ = device.sync();
    start.elapsed()
}

/// The second part of [`generate`].
///
/// # Errors
/// When the decoder cannot be read any more.
pub fn decode(
    vae: &WanVae,
    request: &Request,
    latents: Tensor<5>,
    on_event: &mut dyn FnMut(Event) -> ControlFlow<()>,
) -> Result<Output> {
    let start = Instant::now();
    memory::release();
    let frames = decode_video(vae, latents.clone(), request.vae_tile.map(Tiles::square));
    if let Some(reason) = vae.lost() {
        return Err(Error::Lost(reason.to_owned()));
    }
    // All is done: an answer to stop comes too late to lose it.
    let _ = on_event(Event::Decoded { elapsed: since(start, &frames.device()) });
    Ok(Output { latents, frames })
}
