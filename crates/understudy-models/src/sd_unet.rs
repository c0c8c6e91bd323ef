//! Stable Diffusion's denoiser: a UNet over picture latents with cross-attention to text.
//!
//! Published as `UNet2DConditionModel` (Rombach et al., "High-Resolution Image Synthesis with Latent
//! Diffusion Models", 2022). Modules, their order and their names follow the checkpoint. Inside, channels lie
//! together, so that a picture is a sequence of tokens without a copy: `(batch, rows, columns, channels)`.

mod blocks;
mod config;

use burn::tensor::{Device, Tensor};
use understudy_engine::attach::Attachments;
use understudy_engine::ops::Activation;
use understudy_engine::sites::Role;
use understudy_engine::weights::Weights;

pub use blocks::{DownBlock, MidBlock, UpBlock};
pub use config::SdUnetConfig;

use crate::layers::{Conv2d, GroupNorm, Linear};
use crate::timestep::timestep_embedding;

/// The whole denoiser.
#[derive(Clone, Debug)]
pub struct SdUnet {
    config: SdUnetConfig,
    conv_in: Conv2d,
    time_in: Linear,
    time_out: Linear,
    down_blocks: Vec<DownBlock>,
    mid_block: MidBlock,
    up_blocks: Vec<UpBlock>,
    conv_norm_out: GroupNorm,
    conv_out: Conv2d,
}

impl SdUnet {
    /// Builds the network from `weights`.
    pub fn new(weights: &Weights, config: &SdUnetConfig) -> Self {
        let first = config.channels(0);
        let (time, blocks) = (config.time_dim(), 0..config.depth());
        let embedding = weights.at("time_embedding").serving(Role::Embedding);
        let (groups, eps) = (config.norm_num_groups, config.norm_eps);
        weights.at("conv_in").state_site(first);
        weights.at("mid_block").state_site(config.channels(config.depth().saturating_sub(1)));
        Self {
            config: config.clone(),
            conv_in: Conv2d::new(&weights.at("conv_in"), [config.in_channels, first], 3, 1),
            time_in: Linear::new(&embedding.at("linear_1"), first, time, true),
            time_out: Linear::new(&embedding.at("linear_2"), time, time, true),
            down_blocks: blocks.clone().map(|index| DownBlock::new(weights, config, index)).collect(),
            mid_block: MidBlock::new(&weights.at("mid_block"), config),
            up_blocks: blocks.map(|index| UpBlock::new(weights, config, index)).collect(),
            conv_norm_out: GroupNorm::new(&weights.at("conv_norm_out"), first, groups, eps),
            conv_out: Conv2d::new(&weights.at("conv_out"), [first, config.out_channels], 3, 1),
        }
    }

    /// The configuration it was built with.
    pub fn config(&self) -> &SdUnetConfig {
        &self.config
    }

    /// The time embedding of `timesteps`, one for each sample: `(batch, 4 * first channels)`, already through
    /// the activation that every block begins with.
    pub fn time(&self, timesteps: &[f32], device: &Device, attachments: &Attachments) -> Tensor<2> {
        let config = &self.config;
        let order = config.flip_sin_to_cos;
        let sinusoid = timestep_embedding(timesteps, config.channels(0), order, config.freq_shift, device);
        let hidden = self.time_in.forward_then(sinusoid, attachments, Activation::Silu);
        self.time_out.forward_then(hidden, attachments, Activation::Silu)
    }

    /// The prediction, shaped as `latents (batch, channels, height, width)` but for its channels, at
    /// `timesteps` (one for each sample, in `[0, 1000]`) given `text (batch, words, channels)`.
    ///
    /// Hidden states can be hooked behind `down_blocks.I.resnets.J` (after its attention, if there is one),
    /// `down_blocks.I.downsamplers.0`, `conv_in` and `mid_block`: where ControlNet adds; and behind `attn2`
    /// of every transformer block.
    pub fn forward(
        &self,
        latents: Tensor<4>,
        timesteps: &[f32],
        text: Tensor<3>,
        attachments: &Attachments,
    ) -> Tensor<4> {
        let time = self.time(timesteps, &latents.device(), attachments);
        let mut hidden = self.conv_in.forward(latents.permute([0, 2, 3, 1]));
        let mut skips = vec![blocks::after("conv_in", hidden.clone(), attachments)];
        for block in &self.down_blocks {
            hidden = block.forward(hidden, &time, &text, &mut skips, attachments);
        }
        hidden = self.mid_block.forward(hidden, &time, &text, attachments);
        for block in &self.up_blocks {
            hidden = block.forward(hidden, &time, &text, &mut skips, attachments);
        }
        self.conv_out.forward(self.conv_norm_out.forward_silu(hidden)).permute([0, 3, 1, 2])
    }
}
