//! What a base's networks are asked for, whatever family they are of.

use std::fmt::Debug;
use std::sync::Arc;

use burn::tensor::Tensor;
use understudy_engine::attach::{Attached, Attachments, Window};
use understudy_engine::replay::BlockStack;

use crate::noise::Noise;
use crate::tokenize::{Tokenizer, Tokens};

/// What a denoiser reads of texts.
#[derive(Clone, Debug)]
pub struct Texts {
    /// States `(texts, words, channels)`.
    pub words: Tensor<3>,
    /// One state `(texts, channels)` for the whole of each text, where the family has such.
    pub pooled: Option<Tensor<2>>,
}

impl Texts {
    /// Several after one another.
    pub fn cat(all: Vec<Self>) -> Self {
        let pooled: Option<Vec<_>> = all.iter().map(|own| own.pooled.clone()).collect();
        Self {
            words: Tensor::cat(all.into_iter().map(|own| own.words).collect(), 0),
            pooled: pooled.filter(|own| !own.is_empty()).map(|own| Tensor::cat(own, 0)),
        }
    }

    /// All of them so many times.
    pub fn repeat(self, times: usize) -> Self {
        Self {
            words: self.words.repeat_dim(0, times),
            pooled: self.pooled.map(|own| own.repeat_dim(0, times)),
        }
    }
}

/// Texts to what a denoiser reads.
pub trait TextEncoder: Debug + Send + Sync {
    /// Texts to ids.
    fn tokenizer(&self) -> &Tokenizer;

    /// Rows of the embedding table and their length.
    fn table(&self) -> [usize; 2];

    /// The rows of `tokens`, `(texts, positions, channels)`, as many positions as are computed.
    fn embed(&self, tokens: &Tokens) -> Tensor<3>;

    /// The states of what [`TextEncoder::embed`] gave for `tokens`, some of whose rows may be others; without
    /// the last `skip` layers, where the family's can be left out (see `Description::text_layers`).
    fn encode(&self, embedded: Tensor<3>, tokens: &Tokens, skip: usize, attachments: &Attachments) -> Texts;

    /// Why a part of it could not be read any more, if that happened.
    fn lost(&self) -> Option<&str> {
        None
    }
}

/// Noisy latents and what is known of them.
#[derive(Clone, Debug)]
pub struct Step<'a> {
    /// `(samples, channels, frames, height, width)`.
    pub latents: Tensor<5>,
    /// What the denoiser is told of the noise of each sample, in `[0, 1000]`.
    pub timesteps: &'a [f32],
    /// How far denoising is, in `[0, 1]`: which attachments are active.
    pub progress: f32,
    /// What is attached to the denoiser in this step alone.
    pub attached: Option<&'a Attachments>,
}

impl Step<'_> {
    /// `attachments` at this step, with what is attached in it alone.
    pub fn with(&self, attachments: &Attachments) -> Attachments {
        let mut all = attachments.at(self.progress);
        if let Some(own) = self.attached {
            all.extend(own.clone());
        }
        all
    }
}

/// A network that tells a denoiser what to show where, by pictures: ControlNet.
pub trait ControlNetwork: Debug + Send + Sync {
    /// What it adds to the denoiser's hidden states at `step`, whose samples have these `texts`, looking at
    /// `pictures (1, 3, frames, height, width)` in [0, 1]: so many times, and to the first `guessed` samples
    /// alone, where it guesses what they are to show (see [`Control::guess`]).
    fn attachments(
        &self,
        step: &Step<'_>,
        texts: &Texts,
        pictures: &Tensor<5>,
        weight: f32,
        guessed: Option<usize>,
    ) -> Attachments;

    /// Why a part of it could not be read any more, if that happened.
    fn lost(&self) -> Option<&str> {
        None
    }
}

/// A network that controls a generation, and what it looks at.
#[derive(Clone, Debug)]
pub struct Control {
    /// The network.
    pub network: Arc<dyn ControlNetwork>,
    /// What it looks at: `(1, 3, frames, height, width)` in [0, 1].
    pub pictures: Tensor<5>,
    /// How strongly it counts.
    pub weight: f32,
    /// The steps in which it does: those that lie in it whole.
    pub window: Window,
    /// Whether the pictures shall say what is shown, whatever the prompt says: it looks for the prompt's
    /// prediction alone, and counts less at fine detail (ControlNet's guess mode).
    pub guess: bool,
}

impl Control {
    /// Whether it counts in step `index` of `total`.
    pub fn is_active(&self, index: usize, total: usize) -> bool {
        let at = |index: usize| index as f32 / total.max(1) as f32;
        at(index) >= self.window.start && at(index + 1) <= self.window.end
    }
}

/// What a denoiser makes of a prediction, down to a scalar.
pub type End<'a> = Box<dyn Fn(Tensor<5>) -> Tensor<1> + 'a>;

/// A frozen network that says what is noise in latents.
pub trait Denoiser: Debug + Send + Sync {
    /// Its name as its folder is called, by which things are attached to it: `transformer`, `unet`.
    fn name(&self) -> &'static str;

    /// What its predictions mean.
    fn noise(&self) -> &Noise;

    /// How many blocks a [`Denoiser::stack`] has.
    fn depth(&self) -> usize;

    /// For sampling under `texts`: what does not change from step to step is computed once. Steps whose first
    /// block hardly changes may go without the others, by `reuse` (see
    /// [`BlockReuse`](understudy_models::reuse::BlockReuse)).
    fn with_texts<'a>(
        &'a self,
        texts: Texts,
        attached: &'a Attached,
        reuse: Option<f32>,
    ) -> Box<dyn Conditioned + 'a>;

    /// For training and for looking inside: block by block, down to any end. Attachments are those of the
    /// step's progress.
    fn stack<'a>(
        &'a self,
        texts: &Texts,
        step: Step<'_>,
        attached: &'a Attached,
        end: End<'a>,
    ) -> Box<dyn BlockStack + 'a>;

    /// Queries or keys `(samples, places, heads * channels)` turned as attention turns them for latents of
    /// these extents; the same where places are not told apart so.
    fn turned(&self, latents: [usize; 5], states: Tensor<3>) -> Tensor<3> {
        let _ = latents;
        states
    }

    /// Why a part of it could not be read any more, if that happened.
    fn lost(&self) -> Option<&str> {
        None
    }
}

/// A denoiser for given texts.
pub trait Conditioned {
    /// The prediction at `step`, whose samples are the texts' or, where they are fewer, the first of them.
    fn predict(&mut self, step: Step<'_>) -> Tensor<5>;

    /// How many steps went without most blocks.
    fn skipped(&self) -> usize {
        0
    }
}

/// Videos to latents and back.
pub trait Autoencoder: Debug + Send + Sync {
    /// The normalized latents `(videos, channels, frames, height, width)` of `videos (videos, 3, frames,
    /// height, width)` in
    /// [-1, 1]: the mean, encoded a few frames at a time.
    fn encode(&self, videos: Tensor<5>) -> Tensor<5>;

    /// The videos in [0, 1] of normalized latents, in square tiles of `tile` pixels a side where they are
    /// larger.
    fn decode(&self, latents: Tensor<5>, tile: Option<usize>) -> Tensor<5>;

    /// Frame `frame` of the videos, `(videos, 3, height, width)` in [0, 1], with gradients to the latents.
    fn decode_frame(&self, latents: Tensor<5>, frame: usize) -> Tensor<4>;

    /// Why a part of it could not be read any more, if that happened.
    fn lost(&self) -> Option<&str> {
        None
    }
}
