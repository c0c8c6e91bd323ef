//! Stable Diffusion's denoiser: a UNet over picture latents with cross-attention to text, and with motion
//! modules AnimateDiff's over those of videos.
//!
//! Published as `UNet2DConditionModel` (Rombach et al., "High-Resolution Image Synthesis with Latent
//! Diffusion Models", 2022) and `UNetMotionModel`. Modules, their order and their names follow the
//! checkpoint. Inside, channels lie together, so that a picture is a sequence of tokens without a copy:
//! `(pictures, rows, columns, channels)`. The frames of a video are pictures that lie one after the other.

mod blocks;
mod config;
mod down;

use burn::tensor::{Device, Tensor};
use understudy_engine::attach::Attachments;
use understudy_engine::weights::Weights;

pub use config::SdUnetConfig;
pub(crate) use down::DownHalf;

use crate::layers::{Conv2d, GroupNorm};
use crate::motion_module::{MotionConfig, MotionShape};
use blocks::{UpLayer, after};

/// What goes from block to block.
#[derive(Clone, Debug)]
pub struct State {
    /// `(samples * frames, rows, columns, channels)`.
    pub hidden: Tensor<4>,
    /// What was left on the way down for the way up, the last on top, each shaped as the hidden state was.
    pub skips: Vec<Tensor<4>>,
}

/// What every block is told.
#[derive(Clone, Debug)]
pub struct Conditions {
    /// The time embedding, `(samples, channels)`.
    pub time: Tensor<2>,
    /// The text, `(samples, words, channels)`.
    pub text: Tensor<3>,
    /// Frames of a sample.
    pub frames: usize,
}

/// Motion modules while they are built.
#[derive(Clone, Copy)]
pub(crate) struct Motion<'a> {
    weights: &'a Weights<'a>,
    config: &'a MotionConfig,
}

impl Motion<'_> {
    fn shape(&self, unet: &SdUnetConfig, level: usize) -> MotionShape {
        self.config.shape(level, unet.norm_num_groups)
    }
}

/// The whole denoiser.
///
/// `UNet2DConditionModel` of <https://github.com/huggingface/diffusers/blob/v0.42.1/src/diffusers/models/unets/unet_2d_condition.py>
/// and `UNetMotionModel` of <https://github.com/huggingface/diffusers/blob/v0.42.1/src/diffusers/models/unets/unet_motion_model.py>.
#[derive(Clone, Debug)]
pub struct SdUnet {
    config: SdUnetConfig,
    motion: Option<MotionConfig>,
    down: DownHalf,
    up: Vec<UpLayer>,
    conv_norm_out: GroupNorm,
    conv_out: Conv2d,
}

impl SdUnet {
    /// Builds the network from `weights`; `config` is a supported one.
    pub fn new(weights: &Weights, config: &SdUnetConfig) -> Self {
        Self::build(weights, config, None)
    }

    /// The same with the motion modules in `motion`, whose configuration suits the UNet's by
    /// [`SdUnetConfig::unsupported_motion`]. Their sites are noted by `motion`: where both are in one file,
    /// give it twice.
    pub fn with_motion<'a>(
        weights: &Weights,
        config: &SdUnetConfig,
        motion: &'a Weights<'a>,
        motion_config: &'a MotionConfig,
    ) -> Self {
        Self::build(weights, config, Some(Motion { weights: motion, config: motion_config }))
    }

    fn build(weights: &Weights, config: &SdUnetConfig, motion: Option<Motion>) -> Self {
        let (first, groups) = (config.channels(0), config.norm_num_groups);
        let level = |block| UpLayer::level(weights, config, motion, block);
        Self {
            config: config.clone(),
            motion: motion.map(|own| own.config.clone()),
            down: DownHalf::new(weights, config, motion),
            up: (0..config.depth()).flat_map(level).collect(),
            conv_norm_out: GroupNorm::new(&weights.at("conv_norm_out"), first, groups, config.norm_eps),
            conv_out: Conv2d::new(&weights.at("conv_out"), [first, config.out_channels], 3, 1),
        }
    }

    /// The configuration it was built with.
    pub fn config(&self) -> &SdUnetConfig {
        &self.config
    }

    /// The configuration of its motion modules, if it has any.
    pub fn motion(&self) -> Option<&MotionConfig> {
        self.motion.as_ref()
    }

    /// Frames of the longest video that its motion modules know positions for; without them a frame knows of
    /// no other.
    pub fn max_frames(&self) -> Option<usize> {
        self.motion.as_ref().map(|motion| motion.motion_max_seq_length)
    }

    /// The time embedding of `timesteps`, one for each sample: `(samples, 4 * first channels)`, already
    /// through the activation that every block begins with.
    pub fn time(&self, timesteps: &[f32], device: &Device, attachments: &Attachments) -> Tensor<2> {
        self.down.time(timesteps, device, attachments)
    }

    /// What every block is told of `timesteps`, one for each sample, and `text (samples, words, channels)`.
    pub fn conditions(
        &self,
        timesteps: &[f32],
        text: Tensor<3>,
        frames: usize,
        attachments: &Attachments,
    ) -> Conditions {
        Conditions { time: self.time(timesteps, &text.device(), attachments), text, frames }
    }

    /// What the first block is given for `latents (samples * frames, channels, height, width)`.
    pub fn begin(&self, latents: Tensor<4>, attachments: &Attachments) -> State {
        let hidden = self.down.first(latents, attachments);
        let skips = vec![after(down::FIRST, hidden.clone(), attachments)];
        State { hidden, skips }
    }

    /// Blocks: layers on the way down, the middle, layers on the way up. A layer is a residual block and,
    /// where they are, its transformer, its motion module, and what halves or doubles the picture after it.
    pub fn depth(&self) -> usize {
        self.down.layers().len() + 1 + self.up.len()
    }

    /// What block `index` makes of the `state` that the one before it gave.
    ///
    /// # Panics
    /// If there is no such block, or its motion module has no positions for so many frames.
    pub fn block(
        &self,
        index: usize,
        state: State,
        conditions: &Conditions,
        attachments: &Attachments,
    ) -> State {
        let down = self.down.layers();
        if let Some(layer) = down.get(index) {
            layer.forward(state, conditions, attachments)
        } else if index == down.len() {
            self.down.middle(state, conditions, attachments)
        } else {
            self.up[index - down.len() - 1].forward(state, conditions, attachments)
        }
    }

    /// The prediction `(samples * frames, channels, height, width)` from what the last block gave.
    pub fn end(&self, state: State, attachments: &Attachments) -> Tensor<4> {
        let hidden = self.conv_norm_out.forward_silu(state.hidden);
        self.conv_out.forward(hidden, attachments).permute([0, 3, 1, 2])
    }

    /// The prediction, shaped as `latents (samples * frames, channels, height, width)` but for its channels,
    /// at `timesteps` (one for each sample, in `[0, 1000]`) given `text (samples, words, channels)`. There
    /// are as many frames as latents to a timestep.
    ///
    /// Hidden states `(samples * frames, places, channels)` can be hooked behind `down_blocks.I.resnets.J`
    /// (after its attention and motion module, where they are), `down_blocks.I.downsamplers.0`, `conv_in` and
    /// `mid_block`: where ControlNet adds; and behind `attn2` of every transformer block. An attention to
    /// text that is hooked sees the queries of all frames of a sample in one row, one of a motion module the
    /// frames of a place.
    ///
    /// # Panics
    /// As [`SdUnet::block`].
    pub fn forward(
        &self,
        latents: Tensor<4>,
        timesteps: &[f32],
        text: Tensor<3>,
        attachments: &Attachments,
    ) -> Tensor<4> {
        let frames = latents.dims()[0] / timesteps.len().max(1);
        let conditions = self.conditions(timesteps, text, frames, attachments);
        let block = |state, index| self.block(index, state, &conditions, attachments);
        let state = (0..self.depth()).fold(self.begin(latents, attachments), block);
        self.end(state, attachments)
    }
}
