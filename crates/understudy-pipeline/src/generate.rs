//! Text to video, from a request to frames.

use std::ops::ControlFlow;
use std::time::{Duration, Instant};

use burn::tensor::{Device, Tensor};
use understudy_engine::memory;
use understudy_engine::random::Random;

use crate::base::Base;
use crate::companion::Moment;
use crate::error::{Error, Result};
use crate::network::{Autoencoder, Texts};
use crate::prompt::{PromptOptions, encode_prompt};
use crate::request::Request;
use crate::sampling::{Branch, Guided};

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
/// When the request does not fit the base (before anything is computed), the base cannot be read any more, or
/// the run was stopped.
pub fn generate(
    base: &Base,
    request: &Request,
    on_event: &mut dyn FnMut(Event) -> ControlFlow<()>,
) -> Result<Output> {
    decode(base.networks.vae.as_ref(), request, denoise(base, request, on_event)?, on_event)
}

/// The first part of [`generate`]: normalized latents `(prompts, channels, frames, height, width)`. What
/// follows needs the autoencoder alone, and as much memory as the base took: who has one video to make drops
/// the base between the two.
///
/// # Errors
/// As [`generate`].
pub fn denoise(
    base: &Base,
    request: &Request,
    on_event: &mut dyn FnMut(Event) -> ControlFlow<()>,
) -> Result<Tensor<5>> {
    let shape = request.check(&base.about)?;
    let scheduler = request.scheduler(&base.about)?;
    let schedule = scheduler.schedule(request.steps)?;
    let total = schedule.steps();
    let mut report = |event, done| match on_event(event) {
        ControlFlow::Continue(()) => Ok(()),
        ControlFlow::Break(()) => Err(Error::Interrupted { done, total }),
    };

    let start = Instant::now();
    let texts = request.texts(base)?;
    let denoiser = base.networks.denoiser.as_ref();
    let branches =
        texts.into_iter().map(|(texts, weight)| Branch { texts, attached: &request.attached, weight });
    let mut guided =
        Guided::new(denoiser, branches.collect(), shape[0], request.guidance_window, request.block_reuse)
            .controlled(&request.controls)
            .windowed(request.context);
    report(Event::Encoded { elapsed: since(start, &base.device) }, 0)?;

    let denoised = |index: usize, latents: &Tensor<5>| {
        let start = Instant::now();
        let (level, progress) = (schedule.level(index), index as f32 / total as f32);
        let moment = Moment { level, progress };
        request.companions.iter().try_for_each(|companion| companion.clone().step(base, moment))?;
        let prediction = guided.predict(latents, level.timestep, [index, total]);
        let skipped = guided.skipped();
        let elapsed = since(start, &base.device);
        base.check_read()?;
        report(Event::Step { index, total, sigma: level.sigma, skipped, elapsed }, index + 1)?;
        Ok(denoiser.noise().data(latents, prediction, level))
    };
    let mut fresh = |step| request.fresh_noise(step, shape, base);
    scheduler.sample(request.noise(shape, base), &schedule, denoised, &mut fresh)
}

impl Request {
    /// The noise to start from: given, or the seed's.
    fn noise(&self, shape: [usize; 5], base: &Base) -> Tensor<5> {
        match &self.initial_noise {
            Some(noise) => noise.clone(),
            None => self.drawn("noise", 0, shape, base),
        }
    }

    /// The noise that a sampler adds in a step: given, or the seed's.
    fn fresh_noise(&self, step: usize, shape: [usize; 5], base: &Base) -> Tensor<5> {
        match self.step_noise.get(&step) {
            Some(noise) => noise.clone(),
            None => self.drawn("step noise", step as u64, shape, base),
        }
    }

    /// Unit noise of the seeds, each prompt's own.
    fn drawn(&self, purpose: &str, step: u64, shape: [usize; 5], base: &Base) -> Tensor<5> {
        let [prompts, channels, frames, height, width] = shape;
        let draw = |index: usize| {
            let seed = self.seed.wrapping_add(index as u64);
            let mut random = Random::stream(seed, purpose, step);
            random.normal_tensor([1, channels, frames, height, width], &base.device)
        };
        Tensor::cat((0..prompts).map(draw).collect(), 0)
    }

    /// What the denoiser reads of the prompts and, where there is guidance, of the negative one, each with
    /// its weight.
    fn texts(&self, base: &Base) -> Result<Vec<(Texts, f32)>> {
        let options = PromptOptions {
            max_sequence_length: self.max_sequence_length,
            attached: Some(&self.attached),
            token_embeddings: self.token_embeddings.as_ref(),
            weighted: self.prompt_weights,
            skip: self.clip_skip,
        };
        let prompts: Vec<&str> = self.prompts.iter().map(String::as_str).collect();
        let own = encode_prompt(base, &prompts, options)?;
        if self.guidance <= 1.0 {
            return Ok(vec![(own, 1.0)]);
        }
        let negative = encode_prompt(base, &[&self.negative_prompt], options)?;
        Ok(vec![(own, self.guidance), (negative, 1.0 - self.guidance)])
    }
}

/// How long it is since `start`, when everything the device was asked for is done: a GPU computes while the
/// program goes on. What fails there shows in the values that are read.
fn since(start: Instant, device: &Device) -> Duration {
    let _ = device.sync();
    start.elapsed()
}

/// The second part of [`generate`].
///
/// # Errors
/// When the decoder cannot be read any more.
pub fn decode(
    vae: &dyn Autoencoder,
    request: &Request,
    latents: Tensor<5>,
    on_event: &mut dyn FnMut(Event) -> ControlFlow<()>,
) -> Result<Output> {
    let start = Instant::now();
    memory::release();
    let frames = vae.decode(latents.clone(), request.vae_tile);
    if let Some(reason) = vae.lost() {
        return Err(Error::Lost(reason.to_owned()));
    }
    // All is done: an answer to stop comes too late to lose it.
    let _ = on_event(Event::Decoded { elapsed: since(start, &frames.device()) });
    Ok(Output { latents, frames })
}
