//! What is known of a base of Wan's without its values.

use std::collections::BTreeMap;

use burn::tensor::Device;
use understudy_engine::weights::Probe;
use understudy_models::umt5::{Umt5Config, Umt5Encoder};
use understudy_models::wan_transformer::{WanTransformer, WanTransformerConfig};
use understudy_models::wan_vae::{WanVae, WanVaeConfig};

use super::config::WanConfig;
use super::files::{TEXT_ENCODER, TRANSFORMER};
use super::original::NAMING;
use crate::cost::{Costs, Halved, absent, bytes};
use crate::family::{Description, Usual};
use crate::geometry::Geometry;

/// What Wan 2.1's videos usually are.
const USUAL: Usual =
    Usual { size: [81, 480, 832], steps: 50, guidance: 5.0, fps: 16.0, enlarged: 1, small: false };

/// What is known of a base of this configuration, whose matrices take half where it says so; embedding a
/// prompt takes so many bytes for a moment.
pub fn describe(config: &WanConfig, halved: Halved, embedding: u64) -> Description {
    let device = Device::flex();
    let (denoiser, sites) = Probe::look(&device, |w| WanTransformer::new(w, &config.transformer));
    let (text, text_sites) = Probe::look(&device, |w| Umt5Encoder::new(w, &config.text_encoder));
    let (transformer, vae) = (&config.transformer, &config.vae);
    Description {
        family: "wan",
        identity: config.identity(),
        model: published(transformer.inner_dim(), transformer.num_layers, transformer.image_dim.is_some()),
        naming: &NAMING,
        denoiser: TRANSFORMER.folder,
        sites: BTreeMap::from([(TRANSFORMER.folder, sites), (TEXT_ENCODER.folder, text_sites)]),
        tensors: denoiser.clone(),
        blocks: transformer.num_layers,
        scheduler: config.scheduler.clone(),
        text_limit: config.max_sequence_length,
        text_table: [config.text_encoder.vocab_size, config.text_encoder.d_model],
        text_layers: 0,
        geometry: Geometry {
            channels: vae.z_dim,
            factors: [vae.temporal_factor(), vae.spatial_factor()],
            patch: transformer.patch_size,
            positions: [transformer.rope_max_seq_len; 3],
        },
        costs: costs(config, halved, (&denoiser, &text), embedding),
        usual: config.usual.unwrap_or(USUAL),
    }
}

/// The published denoiser of so many channels and blocks; `image` of those that start from a picture.
pub(super) fn published(dim: usize, depth: usize, image: bool) -> Option<&'static str> {
    Some(match (dim, depth, image) {
        (1536, 30, false) => "Wan 2.1 T2V 1.3B",
        (5120, 40, false) => "Wan 2.1 T2V 14B, or a half of Wan 2.2 A14B",
        (5120, 40, true) => "Wan 2.1 I2V 14B",
        (3072, 30, _) => "Wan 2.2 TI2V 5B",
        _ => return None,
    })
}

/// The shapes of a network's tensors.
type Shapes = BTreeMap<String, Vec<usize>>;

fn costs(config: &WanConfig, halved: Halved, (denoiser, text): (&Shapes, &Shapes), embedding: u64) -> Costs {
    let WanConfig { text_encoder, transformer, vae, .. } = config;
    let of_text = |part| bytes(text, part, halved.text_encoder, is_matrix);
    let text_absent = if text_stays(text_encoder) {
        let layers = text_encoder.num_layers;
        of_text("shared.") + absent(of_text("encoder.block."), layers, layers)
    } else {
        0
    };
    let of_denoiser = |part| bytes(denoiser, part, halved.denoiser, is_matrix);
    let halves = Probe::shapes(&Device::flex(), |w| WanVae::new(w, vae));
    let [dim, ffn] = [transformer.inner_dim(), transformer.ffn_dim];
    Costs {
        halved,
        text_encoder: of_text("") - text_absent,
        denoiser: of_denoiser(""),
        blocks: (of_denoiser("blocks."), transformer.num_layers),
        autoencoder: ["encoder.", "decoder."].map(|half| bytes(&halves, half, false, is_matrix)),
        embedding,
        word: text_weights(text_encoder) as f64,
        place: [denoiser_weights(transformer) as f64, (2 * dim * transformer.num_layers) as f64],
        hidden: dim,
        // Inputs, outputs and normed copies of both attentions, and the middle of the feed-forward.
        block: 20 * dim + 3 * ffn,
        // Queries, keys and values, turned, beside what they come from and what comes of them; or the middle
        // of the feed-forward before and after its activation.
        denoising: (8 * dim).max(3 * dim + 2 * ffn),
        decoding: decoded_numbers(vae),
        pixel: decode_work(vae),
        matrix: [ffn, dim],
    }
}

/// Whether a tensor is the weight of a linear map.
pub(super) fn is_matrix(name: &str, shape: &[usize]) -> bool {
    const TABLES: [&str; 2] = ["shared.weight", "relative_attention_bias.weight"];
    let map = shape.len() == 2 || name == "patch_embedding.weight";
    map && name.ends_with("weight") && !TABLES.iter().any(|table| name.ends_with(table))
}

/// Whether a text encoder stays in its file: it is used once for a video, and the published one would take 22
/// GB.
pub(super) fn text_stays(config: &Umt5Config) -> bool {
    const LARGE: usize = 1 << 29;
    text_weights(config) + config.vocab_size * config.d_model > LARGE
}

/// Weights of the text encoder's layers, without its embedding table.
fn text_weights(config: &Umt5Config) -> usize {
    config.num_layers * config.d_model * (4 * config.num_heads * config.d_kv + 3 * config.d_ff)
}

/// Weights of the denoiser's linear maps.
fn denoiser_weights(config: &WanTransformerConfig) -> usize {
    let [dim, ffn] = [config.inner_dim(), config.ffn_dim];
    let block = 8 * dim * dim + 2 * dim * ffn;
    let patch = config.patch_size.iter().product::<usize>();
    let around = dim * (config.freq_dim + config.text_dim + 8 * dim + config.out_channels * patch);
    config.num_layers * block + around
}

/// Numbers the decoder holds for each pixel: a latent frame at a time becomes frames of all channels, a few
/// copies of them, beside the two frames before that each convolution remembers.
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

/// Multiplications of decoding a pixel: the blocks of the finest level, and as many again for all others.
fn decode_work(config: &WanVaeConfig) -> f64 {
    const TAPS: usize = 27;
    let width = config.decoder_base_dim.unwrap_or(config.base_dim);
    let convolutions = 2 * (config.num_res_blocks + 1);
    2.0 * (convolutions * TAPS * width * width) as f64
}
