//! What is known of an AnimateDiff base without its values.

use std::collections::BTreeMap;

use burn::tensor::Device;
use understudy_engine::weights::{Probe, Weights};
use understudy_models::clip::{ClipText, ClipTextConfig};
use understudy_models::motion_module::MotionConfig;
use understudy_models::sd_unet::{SdUnet, SdUnetConfig};
use understudy_models::sd_vae::{SdVae, SdVaeConfig};

use super::config::PictureConfig;
use super::names::{NAMING, UNET};
use crate::base::TEXT_ENCODER;
use crate::cost::{Costs, Halved, bytes};
use crate::family::{Description, Usual};
use crate::geometry::Geometry;

/// What AnimateDiff's videos usually are.
const USUAL: Usual =
    Usual { size: [16, 512, 512], steps: 25, guidance: 7.5, fps: 8.0, enlarged: 1, small: false };
/// Channels of the first level of Stable Diffusion 1.5.
const PUBLISHED: usize = 320;

/// The shapes of a network's tensors.
type Shapes = BTreeMap<String, Vec<usize>>;

/// What is known of a base of these configurations, whose matrices take half where it says so.
pub(super) fn describe(config: &PictureConfig, motion: &MotionConfig, halved: Halved) -> Description {
    let device = Device::flex();
    // The UNet's sites and tensors, and those of its motion modules, are one network's.
    let (unet, sites) = Probe::look(&device, |w| unet(w, &config.unet, motion));
    let (text, text_sites) = Probe::look(&device, |w| ClipText::new(w, &config.text));
    let mut tensors = unet.clone();
    tensors.extend(text.iter().map(|(name, shape)| (format!("{TEXT_ENCODER}/{name}"), shape.clone())));
    Description {
        family: "animatediff",
        identity: identity(config, motion),
        model: (config.unet.channels(0) == PUBLISHED && config.text.hidden_size == 768)
            .then_some("Stable Diffusion 1.5 with AnimateDiff"),
        naming: &NAMING,
        denoiser: UNET,
        sites: BTreeMap::from([(UNET, sites), (TEXT_ENCODER, text_sites)]),
        tensors,
        blocks: 0,
        scheduler: config.scheduler.clone(),
        text_limit: config.text.max_position_embeddings,
        text_table: [config.text.vocab_size, config.text.hidden_size],
        text_layers: config.text.num_hidden_layers,
        geometry: Geometry {
            channels: config.unet.in_channels,
            factors: [1, config.vae.spatial_factor()],
            patch: [1; 3],
            positions: [motion.motion_max_seq_length, usize::MAX >> 8, usize::MAX >> 8],
        },
        costs: costs(config, halved, (&unet, &text)),
        usual: USUAL,
    }
}

/// The UNet with its motion modules, of one source.
pub(super) fn unet(weights: &Weights, config: &SdUnetConfig, motion: &MotionConfig) -> SdUnet {
    SdUnet::with_motion(weights, config, weights, motion)
}

/// The same for every base that adapters can be exchanged with: motion modules are exchanged as well.
fn identity(config: &PictureConfig, motion: &MotionConfig) -> String {
    let SdUnetConfig { block_out_channels, .. } = &config.unet;
    let channels: Vec<String> = block_out_channels.iter().map(usize::to_string).collect();
    let middle = if motion.use_motion_mid_block { "-mid" } else { "" };
    format!("animatediff-{}-text{}{middle}", channels.join("x"), config.text.hidden_size)
}

fn costs(config: &PictureConfig, halved: Halved, (unet, text): (&Shapes, &Shapes)) -> Costs {
    let halves = Probe::shapes(&Device::flex(), |w| SdVae::new(w, &config.vae));
    let (first, deepest) = (config.unet.channels(0), config.unet.depth().saturating_sub(1));
    let of_vae = |half| bytes(&halves, half, false, is_matrix);
    Costs {
        halved,
        text_encoder: bytes(text, "", halved.text_encoder, is_matrix),
        denoiser: bytes(unet, "", halved.denoiser, is_matrix),
        blocks: (0, 0),
        autoencoder: ["encoder.", "decoder."].map(of_vae),
        embedding: 0,
        word: text_weights(&config.text) as f64,
        place: [
            unet.iter().map(|(name, shape)| work(name, shape, deepest)).sum(),
            // Each frame attends to itself alone.
            (4 * first) as f64 / 16.0,
        ],
        hidden: first,
        block: 40 * first,
        denoising: skips(&config.unet) + 16 * first,
        decoding: 8 * config.vae.block_out_channels.first().copied().unwrap_or(1),
        pixel: halves.iter().map(|(name, shape)| decoder_work(name, shape, &config.vae)).sum(),
        matrix: [4 * first, first],
    }
}

/// Numbers that are kept on the way down, for each place.
fn skips(config: &SdUnetConfig) -> usize {
    let level = |level: usize| (config.channels(level) * (config.layers(level) + 1)) >> (2 * level);
    (0..config.depth()).map(level).sum()
}

/// Multiplications by a tensor of the UNet, for each place of its latents: a level has a quarter of the
/// places of the one above it.
fn work(name: &str, shape: &[usize], deepest: usize) -> f64 {
    if shape.len() < 2 || name.starts_with("time_embedding") || name.contains("attn2.to_k") {
        return 0.0;
    }
    let number = |start: &str| name.strip_prefix(start)?.split('.').next()?.parse::<usize>().ok();
    let level = match (number("down_blocks."), number("up_blocks.")) {
        (Some(down), _) => down,
        (_, Some(up)) => deepest.saturating_sub(up),
        _ if name.starts_with("mid_block") => deepest,
        _ => 0,
    };
    shape.iter().product::<usize>() as f64 / (1_u64 << (2 * level)) as f64
}

/// Multiplications by a tensor of the decoder, for each pixel.
fn decoder_work(name: &str, shape: &[usize], config: &SdVaeConfig) -> f64 {
    if shape.len() < 2 || !name.starts_with("decoder.") {
        return 0.0;
    }
    let deepest = config.block_out_channels.len().saturating_sub(1);
    let up = name.strip_prefix("decoder.up_blocks.").and_then(|rest| rest.split('.').next()?.parse().ok());
    let level = match up {
        Some(up) => deepest.saturating_sub(up),
        None if name.contains("conv_out") => 0,
        None => deepest,
    };
    shape.iter().product::<usize>() as f64 / (1_u64 << (2 * level)) as f64
}

/// Weights of the text encoder's layers.
fn text_weights(config: &ClipTextConfig) -> usize {
    config.num_hidden_layers * config.hidden_size * (4 * config.hidden_size + 2 * config.intermediate_size)
}

/// Whether a tensor is the weight of a linear map or a convolution of one pixel.
pub(super) fn is_matrix(name: &str, shape: &[usize]) -> bool {
    let map = match shape {
        [_, _] => !name.ends_with("embedding.weight"),
        [_, _, 1, 1] => true,
        _ => false,
    };
    map && name.ends_with("weight")
}
