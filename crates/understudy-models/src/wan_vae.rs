//! Wan's causal video autoencoder.
//!
//! Published as `AutoencoderKLWan`. The first frame stands alone; every further latent frame holds four
//! frames (with two temporal downsamplings). Convolutions over time look only back, so a video can be coded
//! whole, as in training, or streamed chunk by chunk with a [`Stream`] that remembers the last frames each
//! convolution saw; both give the same numbers.

use burn::tensor::Tensor;
use serde::{Deserialize, Serialize};
use understudy_engine::late::Late;
use understudy_engine::ops::{self, AttentionOptions, Conv3dOptions};
use understudy_engine::weights::{Init, Lost, Weights};

use crate::layers::Conv;

/// The published `config.json` of a Wan autoencoder.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct WanVaeConfig {
    /// Channels at full resolution.
    pub base_dim: usize,
    /// Channels of the decoder at full resolution, where they differ.
    #[serde(default)]
    pub decoder_base_dim: Option<usize>,
    /// Latent channels.
    pub z_dim: usize,
    /// Channel multiplier of each level.
    pub dim_mult: Vec<usize>,
    /// Residual blocks a level.
    pub num_res_blocks: usize,
    /// Scales with attention; empty in every published checkpoint.
    #[serde(default)]
    pub attn_scales: Vec<f32>,
    /// Which downsamplings also halve the frames.
    pub temperal_downsample: Vec<bool>,
    /// Means of the latent channels.
    pub latents_mean: Vec<f32>,
    /// Standard deviations of the latent channels.
    pub latents_std: Vec<f32>,
    /// Wan 2.2's residual variant.
    #[serde(default)]
    pub is_residual: bool,
    /// Wan 2.2's pixel patches.
    #[serde(default)]
    pub patch_size: Option<usize>,
}

impl WanVaeConfig {
    /// Pixels along a side of one latent.
    pub fn spatial_factor(&self) -> usize {
        1 << self.temperal_downsample.len()
    }

    /// Frames of one latent frame after the first.
    pub fn temporal_factor(&self) -> usize {
        1 << self.temperal_downsample.iter().filter(|&&down| down).count()
    }

    /// What in this configuration is not implemented, if anything.
    pub fn unsupported(&self) -> Option<String> {
        if self.is_residual || self.patch_size.is_some() {
            return Some("is_residual / patch_size: Wan 2.2's autoencoder".into());
        }
        if !self.attn_scales.is_empty() {
            return Some("attn_scales: attention inside levels".into());
        }
        if self.dim_mult.len() != self.temperal_downsample.len() + 1 {
            return Some("temperal_downsample must be one shorter than dim_mult".into());
        }
        if self.latents_mean.len() != self.z_dim || self.latents_std.len() != self.z_dim {
            return Some("latents_mean and latents_std must have z_dim entries".into());
        }
        None
    }
}

/// What causal convolutions remember between the chunks of one video.
#[derive(Debug)]
pub struct Stream {
    chunked: bool,
    first: bool,
    slots: Vec<Option<Tensor<5>>>,
    next: usize,
}

impl Stream {
    /// For coding a video whole: nothing is remembered.
    pub fn whole() -> Self {
        Self { chunked: false, first: true, slots: Vec::new(), next: 0 }
    }

    /// For coding a video chunk by chunk.
    pub fn chunked() -> Self {
        Self { chunked: true, ..Self::whole() }
    }

    fn end_chunk(&mut self) {
        self.first = false;
        self.next = 0;
    }

    /// The frames before `x` that the next convolution, in order of use, remembers, joined to `x`; then
    /// remembers the last `count` of these. Also says how many frames came from memory.
    fn join(&mut self, x: Tensor<5>, count: usize) -> (Tensor<5>, usize) {
        let slot = self.next;
        self.next += 1;
        if !self.chunked {
            return (x, 0);
        }
        if self.slots.len() <= slot {
            self.slots.resize_with(slot + 1, || None);
        }
        let (joined, remembered) = match self.slots[slot].take() {
            Some(past) => {
                let frames = past.dims()[2];
                (Tensor::cat(vec![past, x], 2), frames)
            }
            None => (x, 0),
        };
        let frames = joined.dims()[2];
        let kept = count.min(frames);
        // Multiplied, so that it is memory of its own: a view would keep all of `joined`.
        self.slots[slot] = Some(joined.clone().narrow(2, frames - kept, kept) * 1.0);
        (joined, remembered)
    }

    /// Passes over a convolution that has no frames to work on in this chunk.
    fn skip(&mut self) {
        self.next += 1;
    }
}

/// A convolution that sees no later frame. Zeros stand before the first.
#[derive(Clone, Debug)]
struct CausalConv {
    conv: Conv,
    back: usize,
}

impl CausalConv {
    fn new(weights: &Weights, channels: [usize; 2], kernel: [usize; 3]) -> Self {
        let side = |k: usize| (k / 2, k / 2);
        let padding = [(kernel[0] - 1, 0), side(kernel[1]), side(kernel[2])];
        let options = Conv3dOptions { stride: [1, 1, 1], padding };
        Self { conv: Conv::new_3d(weights, channels, kernel, true, options), back: kernel[0] - 1 }
    }

    /// One that starts at zero: the residual branch it ends then starts as nothing.
    fn zero(weights: &Weights, channels: usize) -> Self {
        let padding = [(2, 0), (1, 1), (1, 1)];
        let options = Conv3dOptions { stride: [1, 1, 1], padding };
        let shape = [channels, channels, 3, 3, 3];
        Self { conv: Conv::with_init_3d(weights, shape, true, options, Init::Zeros), back: 2 }
    }

    fn forward(&self, x: Tensor<5>, stream: &mut Stream) -> Tensor<5> {
        let (x, remembered) = match self.back {
            0 => (x, 0),
            back => stream.join(x, back),
        };
        self.conv.forward_padded(x, (self.back - remembered, 0))
    }
}

/// Each position's channels scaled to the length `sqrt(channels)`, times `gamma`.
#[derive(Clone, Debug)]
struct ChannelNorm {
    gamma: Tensor<1>,
}

impl ChannelNorm {
    /// `images` tells the published shape of gamma: `(c, 1, 1)` or `(c, 1, 1, 1)`.
    fn new(weights: &Weights, channels: usize, images: bool) -> Self {
        let gamma = if images {
            weights.tensor("gamma", [channels, 1, 1], Init::Ones).reshape([channels])
        } else {
            weights.tensor("gamma", [channels, 1, 1, 1], Init::Ones).reshape([channels])
        };
        Self { gamma }
    }

    fn forward(&self, x: Tensor<5>) -> Tensor<5> {
        ops::channel_rms_norm(x, self.gamma.clone())
    }
}

/// Two normalized convolutions beside a shortcut.
#[derive(Clone, Debug)]
struct ResidualBlock {
    norm1: ChannelNorm,
    conv1: CausalConv,
    norm2: ChannelNorm,
    conv2: CausalConv,
    shortcut: Option<CausalConv>,
}

impl ResidualBlock {
    fn new(weights: &Weights, inputs: usize, outputs: usize) -> Self {
        let shortcut = || CausalConv::new(&weights.at("conv_shortcut"), [inputs, outputs], [1, 1, 1]);
        Self {
            norm1: ChannelNorm::new(&weights.at("norm1"), inputs, false),
            conv1: CausalConv::new(&weights.at("conv1"), [inputs, outputs], [3, 3, 3]),
            norm2: ChannelNorm::new(&weights.at("norm2"), outputs, false),
            conv2: CausalConv::zero(&weights.at("conv2"), outputs),
            shortcut: (inputs != outputs).then(shortcut),
        }
    }

    fn forward(&self, x: Tensor<5>, stream: &mut Stream) -> Tensor<5> {
        let shortcut = match &self.shortcut {
            Some(conv) => conv.forward(x.clone(), stream),
            None => x.clone(),
        };
        let hidden = self.conv1.forward(ops::silu(self.norm1.forward(x)), stream);
        let hidden = self.conv2.forward(ops::silu(self.norm2.forward(hidden)), stream);
        hidden + shortcut
    }
}

/// Self-attention among the positions of one frame, with a single head.
#[derive(Clone, Debug)]
struct AttentionBlock {
    norm: ChannelNorm,
    to_qkv: Conv,
    proj: Conv,
}

impl AttentionBlock {
    fn new(weights: &Weights, channels: usize) -> Self {
        let point = Conv3dOptions { stride: [1, 1, 1], padding: [(0, 0); 3] };
        Self {
            norm: ChannelNorm::new(&weights.at("norm"), channels, true),
            to_qkv: Conv::new_2d(&weights.at("to_qkv"), [channels, 3 * channels], 1, true, point),
            proj: Conv::new_2d(&weights.at("proj"), [channels, channels], 1, true, point),
        }
    }

    fn forward(&self, x: Tensor<5>) -> Tensor<5> {
        let [batch, channels, frames, height, width] = x.dims();
        let qkv = self.to_qkv.forward(self.norm.forward(x.clone()));
        // (batch, 3c, frames, h, w) -> (batch * frames, 1, h * w, 3c)
        let qkv = qkv.permute([0, 2, 3, 4, 1]).reshape([batch * frames, 1, height * width, 3 * channels]);
        let part = |index: usize| qkv.clone().narrow(3, index * channels, channels);
        let attended = ops::attention(part(0), part(1), part(2), AttentionOptions::default());
        let attended = attended.reshape([batch, frames, height, width, channels]).permute([0, 4, 1, 2, 3]);
        x + self.proj.forward(attended)
    }
}

/// Residual, attention, residual.
#[derive(Clone, Debug)]
struct MidBlock {
    first: ResidualBlock,
    attention: AttentionBlock,
    second: ResidualBlock,
}

impl MidBlock {
    fn new(weights: &Weights, channels: usize) -> Self {
        Self {
            first: ResidualBlock::new(&weights.at("resnets.0"), channels, channels),
            attention: AttentionBlock::new(&weights.at("attentions.0"), channels),
            second: ResidualBlock::new(&weights.at("resnets.1"), channels, channels),
        }
    }

    fn forward(&self, x: Tensor<5>, stream: &mut Stream) -> Tensor<5> {
        let x = self.first.forward(x, stream);
        self.second.forward(self.attention.forward(x), stream)
    }
}

/// Halves height and width, and the frames after the first where `time_conv` is there.
#[derive(Clone, Debug)]
struct Downsample {
    resample: Conv,
    time_conv: Option<Conv>,
}

impl Downsample {
    fn new(weights: &Weights, channels: usize, temporal: bool) -> Self {
        let square = Conv3dOptions { stride: [1, 2, 2], padding: [(0, 0), (0, 1), (0, 1)] };
        let in_time = Conv3dOptions { stride: [2, 1, 1], padding: [(0, 0); 3] };
        let both = [channels, channels];
        let time_conv = || Conv::new_3d(&weights.at("time_conv"), both, [3, 1, 1], true, in_time);
        Self {
            resample: Conv::new_2d(&weights.at("resample.1"), both, 3, true, square),
            time_conv: temporal.then(time_conv),
        }
    }

    fn forward(&self, x: Tensor<5>, stream: &mut Stream) -> Tensor<5> {
        let x = self.resample.forward(x);
        let Some(time_conv) = &self.time_conv else { return x };
        // The first frame passes; then windows of three, two apart, each sharing a frame with the last.
        let head = stream.first.then(|| x.clone().narrow(2, 0, 1));
        let (joined, _) = stream.join(x, 1);
        let tail = (joined.dims()[2] >= 3).then(|| time_conv.forward(joined));
        join_parts(head, tail)
    }
}

/// Doubles height and width, and the frames after the first where `time_conv` is there.
#[derive(Clone, Debug)]
struct Upsample {
    resample: Conv,
    time_conv: Option<CausalConv>,
}

impl Upsample {
    fn new(weights: &Weights, channels: usize, temporal: bool) -> Self {
        let same = Conv3dOptions { stride: [1, 1, 1], padding: [(0, 0), (1, 1), (1, 1)] };
        let double = [channels, 2 * channels];
        let time_conv = || CausalConv::new(&weights.at("time_conv"), double, [3, 1, 1]);
        let halved = [channels, channels / 2];
        Self {
            resample: Conv::new_2d(&weights.at("resample.1"), halved, 3, true, same),
            time_conv: temporal.then(time_conv),
        }
    }

    fn forward(&self, x: Tensor<5>, stream: &mut Stream) -> Tensor<5> {
        let x = match &self.time_conv {
            Some(time_conv) => double_frames(time_conv, x, stream),
            None => x,
        };
        self.resample.forward(ops::upsample_nearest_2x(x))
    }
}

/// Makes two frames of each but a video's first, which the convolution never sees.
fn double_frames(time_conv: &CausalConv, x: Tensor<5>, stream: &mut Stream) -> Tensor<5> {
    let frames = x.dims()[2];
    let skipped = usize::from(stream.first);
    let head = stream.first.then(|| x.clone().narrow(2, 0, 1));
    if frames == skipped {
        stream.skip();
        return join_parts(head, None);
    }
    let pairs = time_conv.forward(x.narrow(2, skipped, frames - skipped), stream);
    let [batch, channels, frames, height, width] = pairs.dims();
    let tail = pairs
        .reshape([batch, 2, channels / 2, frames, height, width])
        .permute([0, 2, 3, 1, 4, 5])
        .reshape([batch, channels / 2, frames * 2, height, width]);
    join_parts(head, Some(tail))
}

/// The parts that are there, one after the other in time. A chunk always yields one of them.
fn join_parts(head: Option<Tensor<5>>, tail: Option<Tensor<5>>) -> Tensor<5> {
    Tensor::cat(head.into_iter().chain(tail).collect(), 2)
}

#[derive(Clone, Debug)]
enum DownLayer {
    Residual(Box<ResidualBlock>),
    Downsample(Box<Downsample>),
}

/// Pixels to latent statistics.
#[derive(Clone, Debug)]
struct Encoder {
    conv_in: CausalConv,
    down_blocks: Vec<DownLayer>,
    mid_block: MidBlock,
    norm_out: ChannelNorm,
    conv_out: CausalConv,
}

impl Encoder {
    fn new(weights: &Weights, config: &WanVaeConfig) -> Self {
        let mut channels = config.base_dim;
        let conv_in = CausalConv::new(&weights.at("conv_in"), [3, channels], [3, 3, 3]);
        let mut down_blocks = Vec::new();
        for (level, multiplier) in config.dim_mult.iter().enumerate() {
            let outputs = config.base_dim * multiplier;
            for _ in 0..config.num_res_blocks {
                let at = weights.at("down_blocks").at(down_blocks.len());
                let block = ResidualBlock::new(&at, channels, outputs);
                down_blocks.push(DownLayer::Residual(Box::new(block)));
                channels = outputs;
            }
            if let Some(&temporal) = config.temperal_downsample.get(level) {
                let at = weights.at("down_blocks").at(down_blocks.len());
                let block = Downsample::new(&at, channels, temporal);
                down_blocks.push(DownLayer::Downsample(Box::new(block)));
            }
        }
        Self {
            conv_in,
            down_blocks,
            mid_block: MidBlock::new(&weights.at("mid_block"), channels),
            norm_out: ChannelNorm::new(&weights.at("norm_out"), channels, false),
            conv_out: CausalConv::new(&weights.at("conv_out"), [channels, 2 * config.z_dim], [3, 3, 3]),
        }
    }

    fn forward(&self, video: Tensor<5>, stream: &mut Stream) -> Tensor<5> {
        let mut x = self.conv_in.forward(video, stream);
        for layer in &self.down_blocks {
            x = match layer {
                DownLayer::Residual(block) => block.forward(x, stream),
                DownLayer::Downsample(block) => block.forward(x, stream),
            };
        }
        let x = self.mid_block.forward(x, stream);
        let x = self.conv_out.forward(ops::silu(self.norm_out.forward(x)), stream);
        stream.end_chunk();
        x
    }
}

#[derive(Clone, Debug)]
struct UpBlock {
    resnets: Vec<ResidualBlock>,
    upsampler: Option<Upsample>,
}

/// Latents to pixels.
#[derive(Clone, Debug)]
struct Decoder {
    conv_in: CausalConv,
    mid_block: MidBlock,
    up_blocks: Vec<UpBlock>,
    norm_out: ChannelNorm,
    conv_out: CausalConv,
}

impl Decoder {
    fn new(weights: &Weights, config: &WanVaeConfig) -> Self {
        let base = config.decoder_base_dim.unwrap_or(config.base_dim);
        let widths: Vec<usize> = config.dim_mult.iter().rev().map(|m| m * base).collect();
        let mut channels = widths[0];
        let conv_in = CausalConv::new(&weights.at("conv_in"), [config.z_dim, channels], [3, 3, 3]);
        let mid_block = MidBlock::new(&weights.at("mid_block"), channels);
        let mut up_blocks = Vec::new();
        for (level, &outputs) in widths.iter().enumerate() {
            let at = weights.at("up_blocks").at(level);
            let mut resnets = Vec::new();
            for index in 0..=config.num_res_blocks {
                resnets.push(ResidualBlock::new(&at.at("resnets").at(index), channels, outputs));
                channels = outputs;
            }
            let temporal = config.temperal_downsample.iter().rev().nth(level);
            let upsampler =
                temporal.map(|&temporal| Upsample::new(&at.at("upsamplers.0"), outputs, temporal));
            if upsampler.is_some() {
                channels = outputs / 2;
            }
            up_blocks.push(UpBlock { resnets, upsampler });
        }
        Self {
            conv_in,
            mid_block,
            up_blocks,
            norm_out: ChannelNorm::new(&weights.at("norm_out"), channels, false),
            conv_out: CausalConv::new(&weights.at("conv_out"), [channels, 3], [3, 3, 3]),
        }
    }

    fn forward(&self, latents: Tensor<5>, stream: &mut Stream) -> Tensor<5> {
        let x = self.conv_in.forward(latents, stream);
        let mut x = self.mid_block.forward(x, stream);
        for block in &self.up_blocks {
            for resnet in &block.resnets {
                x = resnet.forward(x, stream);
            }
            if let Some(upsampler) = &block.upsampler {
                x = upsampler.forward(x, stream);
            }
        }
        let x = self.conv_out.forward(ops::silu(self.norm_out.forward(x)), stream);
        stream.end_chunk();
        x
    }
}

/// The Gaussian an encoder gives for a video: mean and log-variance, `(batch, z, frames, h, w)` each.
#[derive(Clone, Debug)]
pub struct Posterior {
    /// Mean; also the mode, which is what is used for training denoisers.
    pub mean: Tensor<5>,
    /// Log-variance, in [-30, 20].
    pub log_variance: Tensor<5>,
}

/// The whole autoencoder. Of a base that is opened from files, either half is read when it is first used:
/// videos are generated without the encoder, and subjects learned without the decoder.
#[derive(Clone, Debug)]
pub struct WanVae {
    config: WanVaeConfig,
    encoder: Late<Encoder>,
    quant_conv: CausalConv,
    post_quant_conv: CausalConv,
    decoder: Late<Decoder>,
}

/// How a half is built of weights.
fn half<H: 'static>(
    build: fn(&Weights, &WanVaeConfig) -> H,
    config: &WanVaeConfig,
) -> impl Fn(&Weights) -> H + Send + Sync + 'static {
    let config = config.clone();
    move |weights| build(weights, &config)
}

impl WanVae {
    /// Builds the network from `weights`.
    pub fn new(weights: &Weights, config: &WanVaeConfig) -> Self {
        let z = config.z_dim;
        Self {
            config: config.clone(),
            encoder: Late::new(&weights.at("encoder"), half(Encoder::new, config)),
            quant_conv: CausalConv::new(&weights.at("quant_conv"), [2 * z, 2 * z], [1, 1, 1]),
            post_quant_conv: CausalConv::new(&weights.at("post_quant_conv"), [z, z], [1, 1, 1]),
            decoder: Late::new(&weights.at("decoder"), half(Decoder::new, config)),
        }
    }

    /// The configuration it was built with.
    pub fn config(&self) -> &WanVaeConfig {
        &self.config
    }

    /// Why a half of it could not be read when it was needed, if that happened: what it gave then means
    /// nothing.
    pub fn lost(&self) -> Option<&str> {
        // Both halves note it in one place.
        self.encoder.lost().and_then(Lost::reason)
    }

    /// Encodes `video (batch, 3, frames, height, width)` in [-1, 1] whole; frames are `1 + 4 k` for two
    /// temporal downsamplings.
    pub fn encode(&self, video: Tensor<5>) -> Posterior {
        let x = self.encoder.get().forward(video, &mut Stream::whole());
        self.posterior(self.quant_conv.forward(x, &mut Stream::whole()))
    }

    /// The same, one latent frame at a time: the memory of a few frames.
    pub fn encode_streamed(&self, video: Tensor<5>) -> Posterior {
        self.posterior(self.moments_streamed(video))
    }

    /// Means and log-variances `(batch, 2 z, frames, h, w)`, one latent frame at a time.
    pub(crate) fn moments_streamed(&self, video: Tensor<5>) -> Tensor<5> {
        let frames = video.dims()[2];
        let step = self.config.temporal_factor();
        let mut stream = Stream::chunked();
        let mut parts = vec![self.encoder.get().forward(video.clone().narrow(2, 0, 1), &mut stream)];
        for start in (1..frames).step_by(step) {
            let count = step.min(frames - start);
            parts.push(self.encoder.get().forward(video.clone().narrow(2, start, count), &mut stream));
        }
        self.quant_conv.forward(Tensor::cat(parts, 2), &mut Stream::whole())
    }

    /// Means and log-variances taken apart.
    pub(crate) fn posterior(&self, moments: Tensor<5>) -> Posterior {
        let z = self.config.z_dim;
        let log_variance = moments.clone().narrow(1, z, z).clamp(-30.0, 20.0);
        Posterior { mean: moments.narrow(1, 0, z), log_variance }
    }

    /// Decodes `latents (batch, z, frames, h, w)` whole; the result is not clamped.
    pub fn decode(&self, latents: Tensor<5>) -> Tensor<5> {
        let x = self.post_quant_conv.forward(latents, &mut Stream::whole());
        self.decoder.get().forward(x, &mut Stream::whole())
    }

    /// The same, one latent frame at a time.
    pub fn decode_streamed(&self, latents: Tensor<5>) -> Tensor<5> {
        let x = self.post_quant_conv.forward(latents, &mut Stream::whole());
        let mut stream = Stream::chunked();
        let frames = x.dims()[2];
        let decode = |index| self.decoder.get().forward(x.clone().narrow(2, index, 1), &mut stream);
        Tensor::cat((0..frames).map(decode).collect(), 2)
    }

    /// Latents as the denoiser wants them: zero mean, unit variance.
    pub fn normalize(&self, latents: Tensor<5>) -> Tensor<5> {
        let [mean, deviation] = self.statistics(&latents);
        (latents - mean) / deviation
    }

    /// The inverse of [`WanVae::normalize`].
    pub fn denormalize(&self, latents: Tensor<5>) -> Tensor<5> {
        let [mean, deviation] = self.statistics(&latents);
        latents * deviation + mean
    }

    fn statistics(&self, like: &Tensor<5>) -> [Tensor<5>; 2] {
        let device = like.device().without_autodiff();
        [&self.config.latents_mean, &self.config.latents_std].map(|values| {
            Tensor::<1>::from_floats(values.as_slice(), &device).reshape([1, values.len(), 1, 1, 1])
        })
    }
}
