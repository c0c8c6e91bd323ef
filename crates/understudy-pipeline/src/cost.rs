//! What a request is going to cost, before it starts.

use std::collections::BTreeMap;
use std::time::Instant;

use burn::tensor::{Device, Tensor};
use understudy_engine::ops::{self, Weight};
use understudy_engine::safetensors::Checkpoint;
use understudy_engine::weights::Probe;
use understudy_models::umt5::{Umt5Config, Umt5Encoder};
use understudy_models::wan_transformer::{WanTransformer, WanTransformerConfig};
use understudy_models::wan_vae::{WanVae, WanVaeConfig};

use crate::base::{BaseConfig, text_stays};
use crate::error::Result;
use crate::text_to_video::Request;

/// Everything takes this much longer than its matrix products alone.
pub const OVERHEAD: f64 = 2.0;
/// Bytes of a number.
const FLOAT: usize = 4;
/// Bytes of freed memory that the allocator keeps for the next to ask, at most; of little it keeps three quarters.
const KEPT: usize = 90 << 20;
/// Bytes of the program itself, with its tables.
const PROGRAM: u64 = 110 << 20;

/// Memory and time, roughly.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Estimate {
    /// Bytes of weights in memory.
    pub weights: u64,
    /// Bytes of what is computed, where it is most.
    pub activations: u64,
    /// Seconds of a denoising step with guidance.
    pub step_seconds: f32,
    /// Seconds in all.
    pub seconds: f32,
}

impl Estimate {
    /// Bytes at the peak.
    pub fn peak(&self) -> u64 {
        self.weights + self.activations
    }
}

/// Weights of the denoiser's linear maps.
pub fn denoiser_weights(config: &WanTransformerConfig) -> usize {
    let [dim, ffn] = [config.inner_dim(), config.ffn_dim];
    let block = 8 * dim * dim + 2 * dim * ffn;
    let patch = config.patch_size.iter().product::<usize>();
    let around = dim * (config.freq_dim + config.text_dim + 8 * dim + config.out_channels * patch);
    config.num_layers * block + around
}

/// Weights of the text encoder's layers, without its embedding table.
pub fn text_weights(config: &Umt5Config) -> usize {
    config.num_layers * config.d_model * (4 * config.num_heads * config.d_kv + 3 * config.d_ff)
}

/// Multiplications of the denoiser on `tokens` in all, `longest` in a sample. The gradients of its inputs take as
/// many, and so does replaying it.
pub fn denoiser_work(config: &WanTransformerConfig, tokens: usize, longest: usize) -> f64 {
    let attention = 2 * longest * config.inner_dim() * config.num_layers;
    tokens as f64 * (denoiser_weights(config) + attention) as f64
}

/// Numbers a block of the denoiser holds for each token: inputs, outputs and normed copies of both attentions, and
/// the middle of the feed-forward.
pub fn block_numbers(config: &WanTransformerConfig) -> usize {
    20 * config.inner_dim() + 3 * config.ffn_dim
}

/// Whose matrices are held in two bytes a number (see [`ops::Weight`]): all where products round to bf16, and on the CPU
/// engine those of files in bf16.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Halved {
    /// The text encoder's.
    pub text_encoder: bool,
    /// The denoiser's.
    pub transformer: bool,
}

impl Halved {
    pub(crate) fn of(text_encoder: &Checkpoint, transformer: &Checkpoint) -> Self {
        let halved = |file: &Checkpoint| {
            let mut matrices = file.infos().into_iter().filter(|info| is_matrix(&info.name, &info.shape));
            let packs = *file.device() == Device::flex();
            ops::bf16_products() || packs && matrices.all(|info| info.dtype == "BF16")
        };
        Self { text_encoder: halved(text_encoder), transformer: halved(transformer) }
    }
}

/// Whether a tensor is the weight of a linear map.
fn is_matrix(name: &str, shape: &[usize]) -> bool {
    const TABLES: [&str; 2] = ["shared.weight", "relative_attention_bias.weight"];
    let map = shape.len() == 2 || name == "patch_embedding.weight";
    map && name.ends_with("weight") && !TABLES.iter().any(|table| name.ends_with(table))
}

/// Bytes of the program and of what a base's text encoder and denoiser hold in memory. Of blocks that stay in their file two are in memory at a time: one
/// computes, one is being read.
pub fn weight_bytes(config: &BaseConfig, halved: Halved, blocks_on_host: usize) -> u64 {
    let device = Device::flex();
    let text = Probe::shapes(&device, |w| Umt5Encoder::new(w, &config.text_encoder));
    let denoiser = Probe::shapes(&device, |w| WanTransformer::new(w, &config.transformer));
    let bytes = |(shapes, halved): (&BTreeMap<String, Vec<usize>>, bool), part: &str| -> u64 {
        let part = shapes.iter().filter(|(name, _)| name.starts_with(part));
        part.map(|(name, shape)| held_bytes(shape, halved && is_matrix(name, shape))).sum()
    };
    let (text, denoiser) = ((&text, halved.text_encoder), (&denoiser, halved.transformer));
    let absent = |blocks: u64, depth: usize, on_host: usize| {
        blocks * on_host.min(depth).saturating_sub(2) as u64 / depth.max(1) as u64
    };
    let layers = config.text_encoder.num_layers;
    let text_absent = match text_stays(&config.text_encoder) {
        true => bytes(text, "shared.") + absent(bytes(text, "encoder.block."), layers, layers),
        false => 0,
    };
    let blocks_absent = absent(bytes(denoiser, "blocks."), config.transformer.num_layers, blocks_on_host);
    let all = bytes(text, "") + bytes(denoiser, "");
    PROGRAM + all - text_absent - blocks_absent
}

/// Bytes of the autoencoder's halves, the encoder and the decoder, each of which is read when it is first used.
pub fn autoencoder_bytes(config: &BaseConfig) -> [u64; 2] {
    let shapes = Probe::shapes(&Device::flex(), |w| WanVae::new(w, &config.vae));
    ["encoder.", "decoder."].map(|half| {
        let part = shapes.iter().filter(|(name, _)| name.starts_with(half));
        part.map(|(_, shape)| held_bytes(shape, false)).sum()
    })
}

/// Bytes a tensor of this shape takes: a large one gets whole huge pages from the system.
fn held_bytes(shape: &[usize], halved: bool) -> u64 {
    const HUGE: u64 = 2 << 20;
    let number = if halved { FLOAT / 2 } else { FLOAT };
    let bytes = (number * shape.iter().product::<usize>()) as u64;
    if bytes < HUGE { bytes } else { bytes.next_multiple_of(HUGE) }
}

/// How many multiplications the device does a second, measured on a feed-forward layer of this denoiser, `halved` or not.
pub fn products_per_second(config: &WanTransformerConfig, halved: bool, device: &Device) -> f64 {
    const TOKENS: usize = 256;
    const ENOUGH: f64 = 0.05;
    let [dim, ffn] = [config.inner_dim(), config.ffn_dim];
    let x = Tensor::<2>::ones([TOKENS, dim], device);
    let weight = Tensor::<2>::ones([ffn, dim], device);
    let weight = if halved { Weight::new(weight) } else { Weight::Dense(weight) };
    let run = || weight.linear(x.clone(), None).slice([0..1, 0..1]).into_scalar::<f32>();
    run();
    let start = Instant::now();
    let mut runs = 0.0;
    while start.elapsed().as_secs_f64() < ENOUGH {
        run();
        runs += 1.0;
    }
    runs * (TOKENS * dim * ffn) as f64 / start.elapsed().as_secs_f64()
}

impl Request {
    /// What this request is going to cost on a base of this configuration, held like this, of which so many blocks stay on
    /// the host; made for so many videos one after another, between which the base stays in memory.
    ///
    /// # Errors
    /// When it does not fit the base.
    pub fn estimate(
        &self,
        config: &BaseConfig,
        halved: Halved,
        (blocks_on_host, videos): (usize, usize),
        device: &Device,
    ) -> Result<Estimate> {
        let [prompts, _, frames, rows, columns] = self.check(config)?;
        let transformer = &config.transformer;
        let longest = frames * rows * columns / transformer.patch_size.iter().product::<usize>();
        let tokens = prompts * longest;
        let passes = if self.guidance > 1.0 { 2 } else { 1 };
        let decoded = prompts * self.height * self.width;
        let side = |pixels: usize| self.vae_tile.map_or(pixels, |tile| tile.min(pixels));
        let at_once = prompts * side(self.height) * side(self.width);
        let decoding = at_once * decoded_numbers(&config.vae) + 3 * decoded * self.frames * 2;
        let denoising = passes * tokens * denoised_numbers(transformer);
        let weights = weight_bytes(config, halved, blocks_on_host);
        let [_, decoder] = autoencoder_bytes(config);
        let decoding = decoding + decoder as usize / FLOAT;
        // What encoded and denoised is gone when the autoencoder decodes the last.
        let gone = if videos > 1 { 0 } else { weights.saturating_sub(PROGRAM) as usize };
        let used = (FLOAT * denoising).max((FLOAT * decoding).saturating_sub(gone));
        let step = passes as f64 * denoiser_work(transformer, tokens, longest);
        let decode = decode_work(config, decoded * self.frames);
        let rate = products_per_second(transformer, halved.transformer, device) / OVERHEAD;
        Ok(Estimate {
            weights,
            activations: (used + KEPT.min(used / 4 * 3)) as u64,
            step_seconds: (step / rate) as f32,
            seconds: (videos as f64 * (self.steps as f64 * step + decode) / rate) as f32,
        })
    }
}

/// Numbers the denoiser holds for each token at one time: queries, keys and values, turned, beside what they come
/// from and what comes of them; or the middle of the feed-forward before and after its activation.
fn denoised_numbers(config: &WanTransformerConfig) -> usize {
    let [dim, ffn] = [config.inner_dim(), config.ffn_dim];
    (8 * dim).max(3 * dim + 2 * ffn)
}

/// Numbers the decoder holds for each pixel: a latent frame at a time becomes frames of all channels, a few copies
/// of them, beside the two frames before that each convolution remembers.
fn decoded_numbers(config: &WanVaeConfig) -> usize {
    const COPIES: usize = 8;
    const REMEMBERED: usize = 2;
    let width = config.decoder_base_dim.unwrap_or(config.base_dim);
    let convolutions = 2 * (config.num_res_blocks + 1);
    let levels = config.dim_mult.iter().enumerate();
    let past: usize =
        levels.map(|(level, factor)| (convolutions * REMEMBERED * width * factor) >> (2 * level)).sum();
    past + COPIES * config.temporal_factor() * width
}

/// Multiplications of decoding so many pixels: the blocks of the finest level, and as many again for all others.
fn decode_work(config: &BaseConfig, pixels: usize) -> f64 {
    const TAPS: usize = 27;
    let vae = &config.vae;
    let width = vae.decoder_base_dim.unwrap_or(vae.base_dim);
    let convolutions = 2 * (vae.num_res_blocks + 1);
    2.0 * (convolutions * TAPS * width * width) as f64 * pixels as f64
}
