//! What a request is going to cost, before it starts.

use std::time::Instant;

use burn::tensor::Tensor;
use understudy_engine::ops;
use understudy_models::umt5::Umt5Config;
use understudy_models::wan_transformer::WanTransformerConfig;

use crate::base::Base;
use crate::error::Result;
use crate::text_to_video::Request;

/// Everything takes this much longer than its matrix products alone.
pub const OVERHEAD: f64 = 2.0;
/// Bytes of a number.
const FLOAT: usize = 4;

/// Memory and time, roughly.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Estimate {
    /// Bytes at the peak, the base included.
    pub memory: u64,
    /// Seconds.
    pub seconds: f32,
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

/// How many multiplications the device does a second, measured on a feed-forward layer of this base.
pub fn products_per_second(base: &Base) -> f64 {
    const TOKENS: usize = 256;
    const ENOUGH: f64 = 0.05;
    let [dim, ffn] = [base.config.transformer.inner_dim(), base.config.transformer.ffn_dim];
    let x = Tensor::<2>::ones([TOKENS, dim], &base.device);
    let weight = Tensor::<2>::ones([ffn, dim], &base.device);
    let run = || ops::linear(x.clone(), weight.clone(), None).slice([0..1, 0..1]).into_scalar::<f32>();
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
    /// What this request is going to cost on `base`.
    ///
    /// # Errors
    /// When it does not fit the base.
    pub fn estimate(&self, base: &Base) -> Result<Estimate> {
        let [prompts, _, frames, rows, columns] = self.check(&base.config)?;
        let config = &base.config.transformer;
        let longest = frames * rows * columns / config.patch_size.iter().product::<usize>();
        let tokens = prompts * longest;
        let passes = if self.guidance > 1.0 { 2 } else { 1 };
        let decoded = prompts * self.height * self.width;
        let vae = &base.config.vae;
        let width = vae.decoder_base_dim.unwrap_or(vae.base_dim);
        // One latent frame at a time becomes frames of all channels, a few copies of each, beside the kept past.
        let decoding = decoded * vae.temporal_factor() * width * 8 + 3 * decoded * self.frames * 2;
        let denoising = tokens * (block_numbers(config) + 4 * config.inner_dim());
        let work = (passes * self.steps) as f64 * denoiser_work(config, tokens, longest)
            + decode_work(base, prompts * self.frames * self.height * self.width);
        Ok(Estimate {
            memory: base.weight_bytes + (FLOAT * denoising.max(decoding)) as u64,
            seconds: (work / products_per_second(base) * OVERHEAD) as f32,
        })
    }
}

/// Multiplications of decoding so many pixels: the blocks of the finest level, and as many again for all others.
fn decode_work(base: &Base, pixels: usize) -> f64 {
    const TAPS: usize = 27;
    let vae = &base.config.vae;
    let width = vae.decoder_base_dim.unwrap_or(vae.base_dim);
    let convolutions = 2 * (vae.num_res_blocks + 1);
    2.0 * (convolutions * TAPS * width * width) as f64 * pixels as f64
}
