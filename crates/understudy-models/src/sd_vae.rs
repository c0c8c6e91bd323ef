//! Stable Diffusion's autoencoder of pictures.
//!
//! Published as `AutoencoderKL` (Rombach et al., "High-Resolution Image Synthesis with Latent Diffusion
//! Models", 2022). Inside, channels lie together: `(batch, rows, columns, channels)`.

use burn::tensor::Tensor;
use serde::{Deserialize, Serialize};
use understudy_engine::attach::Attachments;
use understudy_engine::late::Late;
use understudy_engine::weights::{Lost, Weights};

use crate::attention::Attention;
use crate::layers::{Conv2d, GroupNorm, Linear};
use crate::resnet::{Downsampler, ResnetBlock, ResnetShape, Upsampler};

/// Epsilon of every normalization, which no configuration gives.
const EPS: f32 = 1e-6;

/// The published `config.json` of an autoencoder of pictures, as far as it is read; what is absent has
/// diffusers' own values.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct SdVaeConfig {
    /// Channels of a picture that is encoded.
    pub in_channels: usize,
    /// Channels of a picture that is decoded.
    pub out_channels: usize,
    /// The kind of each down block.
    pub down_block_types: Vec<String>,
    /// The kind of each up block.
    pub up_block_types: Vec<String>,
    /// Channels of each level; from each to the next a picture is halved.
    pub block_out_channels: Vec<usize>,
    /// Residual blocks of a down block; an up block has one more.
    pub layers_per_block: usize,
    /// Nonlinearity.
    pub act_fn: String,
    /// Latent channels.
    pub latent_channels: usize,
    /// Groups of every normalization.
    pub norm_num_groups: usize,
    /// What latents are multiplied by for the denoiser: one by their standard deviation.
    pub scaling_factor: f32,
    /// What is taken from latents before that.
    pub shift_factor: Option<f32>,
    /// Whether a convolution of one pixel follows the encoder.
    pub use_quant_conv: bool,
    /// Whether a convolution of one pixel precedes the decoder.
    pub use_post_quant_conv: bool,
    /// Whether the middles attend.
    pub mid_block_add_attention: bool,
    /// Means of latent channels, which nothing published for pictures has.
    pub latents_mean: Option<Vec<f32>>,
    /// Standard deviations of latent channels, which nothing published for pictures has.
    pub latents_std: Option<Vec<f32>>,
}

impl Default for SdVaeConfig {
    fn default() -> Self {
        Self {
            in_channels: 3,
            out_channels: 3,
            down_block_types: vec![DOWN.to_owned()],
            up_block_types: vec![UP.to_owned()],
            block_out_channels: vec![64],
            layers_per_block: 1,
            act_fn: "silu".to_owned(),
            latent_channels: 4,
            norm_num_groups: 32,
            scaling_factor: 0.18215,
            shift_factor: None,
            use_quant_conv: true,
            use_post_quant_conv: true,
            mid_block_add_attention: true,
            latents_mean: None,
            latents_std: None,
        }
    }
}

const DOWN: &str = "DownEncoderBlock2D";
const UP: &str = "UpDecoderBlock2D";

impl SdVaeConfig {
    /// Pixels along a side of one latent.
    pub fn spatial_factor(&self) -> usize {
        1 << self.block_out_channels.len().saturating_sub(1)
    }

    /// What in this configuration is not implemented, if anything.
    pub fn unsupported(&self) -> Option<String> {
        let depth = self.block_out_channels.len();
        if depth == 0 || self.down_block_types.len() != depth || self.up_block_types.len() != depth {
            return Some(
                "block_out_channels, down_block_types and up_block_types must be of one length".into(),
            );
        }
        let down = self.down_block_types.iter().find(|name| *name != DOWN);
        if let Some(name) = down.or(self.up_block_types.iter().find(|name| *name != UP)) {
            return Some(format!("block type {name:?} is not known"));
        }
        if !["silu", "swish"].contains(&self.act_fn.as_str()) {
            return Some(format!("act_fn: {:?} is not known", self.act_fn));
        }
        let groups = self.norm_num_groups;
        let divides = |channels: &usize| groups > 0 && *channels > 0 && channels.is_multiple_of(groups);
        if let Some(channels) = self.block_out_channels.iter().find(|channels| !divides(channels)) {
            return Some(format!("{channels} channels in {groups} groups"));
        }
        if self.layers_per_block == 0 || self.latent_channels == 0 || self.scaling_factor == 0.0 {
            return Some("layers_per_block, latent_channels and scaling_factor must not be zero".into());
        }
        let own = self.latents_mean.is_some() || self.latents_std.is_some();
        own.then(|| "latents_mean and latents_std are not supported".into())
    }

    fn level(&self, level: usize) -> usize {
        self.block_out_channels.get(level).copied().unwrap_or(1)
    }

    fn resnet(&self, weights: &Weights, channels: [usize; 2]) -> ResnetBlock {
        let shape = ResnetShape { channels, groups: self.norm_num_groups, eps: EPS, time: None };
        ResnetBlock::new(weights, shape)
    }

    fn norm(&self, weights: &Weights, channels: usize) -> GroupNorm {
        GroupNorm::new(weights, channels, self.norm_num_groups, EPS)
    }
}

/// Attention of all places of a picture to one another, in one head.
#[derive(Clone, Debug)]
struct MidAttention {
    group_norm: GroupNorm,
    attention: Attention,
}

impl MidAttention {
    fn new(weights: &Weights, config: &SdVaeConfig, channels: usize) -> Self {
        // Files from before 2023 have other names.
        let names = if weights.has("query.weight") {
            ["query", "key", "value", "proj_attn"]
        } else {
            ["to_q", "to_k", "to_v", "to_out.0"]
        };
        Self {
            group_norm: config.norm(&weights.at("group_norm"), channels),
            attention: Attention::single(weights, channels, names),
        }
    }

    fn forward(&self, hidden: Tensor<4>, attachments: &Attachments) -> Tensor<4> {
        let dims @ [batch, rows, columns, channels] = hidden.dims();
        let tokens = self.group_norm.forward(hidden.clone()).reshape([batch, rows * columns, channels]);
        hidden + self.attention.forward(tokens.clone(), tokens, attachments).reshape(dims)
    }
}

/// The middle of either half.
///
/// `UNetMidBlock2D` of <https://github.com/huggingface/diffusers/blob/v0.42.1/src/diffusers/models/unets/unet_2d_blocks.py>.
#[derive(Clone, Debug)]
struct MidBlock {
    first: ResnetBlock,
    attention: Option<MidAttention>,
    last: ResnetBlock,
}

impl MidBlock {
    fn new(weights: &Weights, config: &SdVaeConfig) -> Self {
        let channels = config.level(config.block_out_channels.len() - 1);
        let resnet = |index: usize| config.resnet(&weights.at("resnets").at(index), [channels; 2]);
        Self {
            first: resnet(0),
            attention: config
                .mid_block_add_attention
                .then(|| MidAttention::new(&weights.at("attentions.0"), config, channels)),
            last: resnet(1),
        }
    }

    fn forward(&self, hidden: Tensor<4>, attachments: &Attachments) -> Tensor<4> {
        let hidden = self.first.forward(hidden, None, attachments);
        let hidden = match &self.attention {
            Some(attention) => attention.forward(hidden, attachments),
            None => hidden,
        };
        self.last.forward(hidden, None, attachments)
    }
}

/// Residual blocks of a level and what leads to the next.
#[derive(Clone, Debug)]
struct Level<S> {
    resnets: Vec<ResnetBlock>,
    sampler: Option<S>,
}

impl<S> Level<S> {
    fn new(
        weights: &Weights,
        config: &SdVaeConfig,
        [inputs, outputs]: [usize; 2],
        count: usize,
        sampler: Option<S>,
    ) -> Self {
        let resnet = |index: usize| {
            let channels = [if index == 0 { inputs } else { outputs }, outputs];
            config.resnet(&weights.at("resnets").at(index), channels)
        };
        Self { resnets: (0..count).map(resnet).collect(), sampler }
    }

    fn residual(&self, hidden: Tensor<4>, attachments: &Attachments) -> Tensor<4> {
        self.resnets.iter().fold(hidden, |hidden, resnet| resnet.forward(hidden, None, attachments))
    }
}

/// Pictures to latent statistics.
///
/// `Encoder` of <https://github.com/huggingface/diffusers/blob/v0.42.1/src/diffusers/models/autoencoders/vae.py>.
#[derive(Clone, Debug)]
struct Encoder {
    conv_in: Conv2d,
    down_blocks: Vec<Level<Downsampler>>,
    mid_block: MidBlock,
    conv_norm_out: GroupNorm,
    conv_out: Conv2d,
}

impl Encoder {
    fn new(weights: &Weights, config: &SdVaeConfig) -> Self {
        let deepest = config.block_out_channels.len() - 1;
        let last = config.level(deepest);
        let block = |level: usize| {
            let weights = weights.at("down_blocks").at(level);
            let channels = [config.level(level.saturating_sub(1)), config.level(level)];
            let halve = || Downsampler::new(&weights.at("downsamplers.0"), channels[1], 0);
            let sampler = (level < deepest).then(halve);
            Level::new(&weights, config, channels, config.layers_per_block, sampler)
        };
        Self {
            conv_in: Conv2d::new(&weights.at("conv_in"), [config.in_channels, config.level(0)], 3, 1),
            down_blocks: (0..=deepest).map(block).collect(),
            mid_block: MidBlock::new(&weights.at("mid_block"), config),
            conv_norm_out: config.norm(&weights.at("conv_norm_out"), last),
            conv_out: Conv2d::new(&weights.at("conv_out"), [last, 2 * config.latent_channels], 3, 1),
        }
    }

    fn forward(&self, pictures: Tensor<4>) -> Tensor<4> {
        let none = &Attachments::none();
        let mut hidden = self.conv_in.forward(pictures, none);
        for level in &self.down_blocks {
            hidden = level.residual(hidden, none);
            if let Some(sampler) = &level.sampler {
                hidden = sampler.forward(hidden, none);
            }
        }
        let hidden = self.mid_block.forward(hidden, none);
        self.conv_out.forward(self.conv_norm_out.forward_silu(hidden), none)
    }
}

/// Latents to pictures.
///
/// `Decoder` of <https://github.com/huggingface/diffusers/blob/v0.42.1/src/diffusers/models/autoencoders/vae.py>.
#[derive(Clone, Debug)]
struct Decoder {
    conv_in: Conv2d,
    mid_block: MidBlock,
    up_blocks: Vec<Level<Upsampler>>,
    conv_norm_out: GroupNorm,
    conv_out: Conv2d,
}

impl Decoder {
    fn new(weights: &Weights, config: &SdVaeConfig) -> Self {
        let deepest = config.block_out_channels.len() - 1;
        let block = |index: usize| {
            let weights = weights.at("up_blocks").at(index);
            let level = deepest - index;
            let channels = [config.level((level + 1).min(deepest)), config.level(level)];
            let double = || Upsampler::new(&weights.at("upsamplers.0"), channels[1]);
            let sampler = (level > 0).then(double);
            Level::new(&weights, config, channels, config.layers_per_block + 1, sampler)
        };
        let (first, last) = (config.level(deepest), config.level(0));
        Self {
            conv_in: Conv2d::new(&weights.at("conv_in"), [config.latent_channels, first], 3, 1),
            mid_block: MidBlock::new(&weights.at("mid_block"), config),
            up_blocks: (0..=deepest).map(block).collect(),
            conv_norm_out: config.norm(&weights.at("conv_norm_out"), last),
            conv_out: Conv2d::new(&weights.at("conv_out"), [last, config.out_channels], 3, 1),
        }
    }

    fn forward(&self, latents: Tensor<4>) -> Tensor<4> {
        let none = &Attachments::none();
        let mut hidden = self.mid_block.forward(self.conv_in.forward(latents, none), none);
        for level in &self.up_blocks {
            hidden = level.residual(hidden, none);
            if let Some(sampler) = &level.sampler {
                let [_, rows, columns, _] = hidden.dims();
                hidden = sampler.forward(hidden, [2 * rows, 2 * columns], none);
            }
        }
        self.conv_out.forward(self.conv_norm_out.forward_silu(hidden), none)
    }
}

/// The Gaussian an encoder gives for a picture: mean and log-variance, `(batch, channels, h, w)` each.
#[derive(Clone, Debug)]
pub struct Posterior {
    /// Mean; also the mode.
    pub mean: Tensor<4>,
    /// Log-variance, in [-30, 20].
    pub log_variance: Tensor<4>,
}

/// The whole autoencoder. Of a base that is opened from files, either half is read when it is first used.
///
/// `AutoencoderKL` of <https://github.com/huggingface/diffusers/blob/v0.42.1/src/diffusers/models/autoencoders/autoencoder_kl.py>.
#[derive(Clone, Debug)]
pub struct SdVae {
    config: SdVaeConfig,
    encoder: Late<Encoder>,
    quant_conv: Option<Linear>,
    post_quant_conv: Option<Linear>,
    decoder: Late<Decoder>,
}

/// How a half is built of weights.
fn half<H: 'static>(
    build: fn(&Weights, &SdVaeConfig) -> H,
    config: &SdVaeConfig,
) -> impl Fn(&Weights) -> H + Send + Sync + 'static {
    let config = config.clone();
    move |weights| build(weights, &config)
}

impl SdVae {
    /// Builds the network from `weights`; `config` is a supported one.
    pub fn new(weights: &Weights, config: &SdVaeConfig) -> Self {
        let pixel = |name: &str, channels| Linear::of_patches(&weights.at(name), [channels, channels, 1, 1]);
        let z = config.latent_channels;
        Self {
            config: config.clone(),
            encoder: Late::new(&weights.at("encoder"), half(Encoder::new, config)),
            quant_conv: config.use_quant_conv.then(|| pixel("quant_conv", 2 * z)),
            post_quant_conv: config.use_post_quant_conv.then(|| pixel("post_quant_conv", z)),
            decoder: Late::new(&weights.at("decoder"), half(Decoder::new, config)),
        }
    }

    /// The configuration it was built with.
    pub fn config(&self) -> &SdVaeConfig {
        &self.config
    }

    /// Why a half of it could not be read when it was needed, if that happened: what it gave then means
    /// nothing.
    pub fn lost(&self) -> Option<&str> {
        // Both halves note it in one place.
        self.encoder.lost().and_then(Lost::reason)
    }

    /// Encodes `pictures (batch, 3, height, width)` in [-1, 1]; sides that cannot be halved lose their last
    /// pixel.
    pub fn encode(&self, pictures: Tensor<4>) -> Posterior {
        self.posterior(self.moments(pictures))
    }

    /// The same, one picture at a time: the memory of one.
    pub fn encode_streamed(&self, pictures: Tensor<4>) -> Posterior {
        self.posterior(self.moments_streamed(pictures))
    }

    /// Means and log-variances `(batch, 2 channels, h, w)`, one picture at a time.
    pub(crate) fn moments_streamed(&self, pictures: Tensor<4>) -> Tensor<4> {
        one_by_one(pictures, |picture| self.moments(picture))
    }

    /// Means and log-variances `(batch, 2 channels, h, w)`.
    fn moments(&self, pictures: Tensor<4>) -> Tensor<4> {
        let hidden = self.encoder.get().forward(pictures.permute([0, 2, 3, 1]));
        at_each_pixel(self.quant_conv.as_ref(), hidden).permute([0, 3, 1, 2])
    }

    /// Means and log-variances taken apart.
    pub(crate) fn posterior(&self, moments: Tensor<4>) -> Posterior {
        let z = self.config.latent_channels;
        let log_variance = moments.clone().narrow(1, z, z).clamp(-30.0, 20.0);
        Posterior { mean: moments.narrow(1, 0, z), log_variance }
    }

    /// Decodes `latents (batch, channels, h, w)` to pictures `(batch, 3, factor * h, factor * w)`, which are
    /// not clamped to [-1, 1].
    pub fn decode(&self, latents: Tensor<4>) -> Tensor<4> {
        let latents = at_each_pixel(self.post_quant_conv.as_ref(), latents.permute([0, 2, 3, 1]));
        self.decoder.get().forward(latents).permute([0, 3, 1, 2])
    }

    /// The same, one picture at a time: the memory of one.
    pub fn decode_streamed(&self, latents: Tensor<4>) -> Tensor<4> {
        one_by_one(latents, |latent| self.decode(latent))
    }

    /// Latents of any shape as the denoiser wants them: less the shift factor, times the scaling factor.
    pub fn normalize<const D: usize>(&self, latents: Tensor<D>) -> Tensor<D> {
        (latents - self.config.shift_factor.unwrap_or(0.0)) * self.config.scaling_factor
    }

    /// The inverse of [`SdVae::normalize`].
    pub fn denormalize<const D: usize>(&self, latents: Tensor<D>) -> Tensor<D> {
        latents / self.config.scaling_factor + self.config.shift_factor.unwrap_or(0.0)
    }
}

/// A convolution of one pixel, if there is one, of `x (batch, rows, columns, channels)`.
fn at_each_pixel(map: Option<&Linear>, x: Tensor<4>) -> Tensor<4> {
    match map {
        Some(map) => map.forward(x, &Attachments::none()),
        None => x,
    }
}

/// `run` of each item of `x` alone.
fn one_by_one(x: Tensor<4>, run: impl Fn(Tensor<4>) -> Tensor<4>) -> Tensor<4> {
    Tensor::cat((0..x.dims()[0]).map(|item| run(x.clone().narrow(0, item, 1))).collect(), 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_implemented_is_named() {
        assert_eq!(SdVaeConfig::default().unsupported(), None);
        for (json, named) in [
            (r#"{"down_block_types": ["AttnDownEncoderBlock2D"]}"#, "AttnDownEncoderBlock2D"),
            (r#"{"block_out_channels": [64, 64]}"#, "one length"),
            (r#"{"norm_num_groups": 7}"#, "7 groups"),
            (r#"{"act_fn": "gelu"}"#, "act_fn"),
            (r#"{"latents_mean": [0.0]}"#, "latents_mean"),
        ] {
            let config: SdVaeConfig = serde_json::from_str(json).expect("a configuration");
            let reason = config.unsupported().unwrap_or_default();
            assert!(reason.contains(named), "{json}: {reason:?}");
        }
    }
}
