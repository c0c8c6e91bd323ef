//! AnimateDiff's motion modules: attention over the frames of a video, put into a UNet of pictures.
//!
//! Published as `MotionAdapter` (Guo et al., "AnimateDiff: Animate Your Personalized Text-to-Image Diffusion
//! Models without Specific Tuning", 2024). The frames of a video lie one after the other in the batch:
//! `(samples * frames, rows, columns, channels)`.

use burn::tensor::{Device, Tensor, TensorData};
use serde::{Deserialize, Serialize};
use understudy_engine::attach::Attachments;
use understudy_engine::sites::Role;
use understudy_engine::weights::{Init, Weights};

use crate::attention::{Attention, FeedForward};
use crate::layers::{GroupNorm, LayerNorm, Linear};
use crate::per_block::PerBlock;

/// Epsilons of the normalizations, which no configuration gives.
const GROUP_EPS: f32 = 1e-6;
const LAYER_EPS: f32 = 1e-5;

/// The published `config.json` of motion modules; what is absent has diffusers' own values.
///
/// `MotionAdapter` of <https://github.com/huggingface/diffusers/blob/v0.42.1/src/diffusers/models/unets/unet_motion_model.py>.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct MotionConfig {
    /// Channels of each level of the UNet.
    pub block_out_channels: Vec<usize>,
    /// Motion modules of a down block; an up block has one more.
    pub motion_layers_per_block: PerBlock,
    /// Transformer blocks of a motion module.
    pub motion_transformer_layers_per_block: PerBlock,
    /// Motion modules in the middle.
    pub motion_mid_block_layers_per_block: usize,
    /// Transformer blocks of the middle's.
    pub motion_transformer_layers_per_mid_block: PerBlock,
    /// Attention heads.
    pub motion_num_attention_heads: PerBlock,
    /// Groups of the normalizations when the modules were trained; in a UNet they have its own.
    pub motion_norm_num_groups: usize,
    /// Frames of the longest video.
    pub motion_max_seq_length: usize,
    /// Whether the middle has a motion module; the first release's has none.
    pub use_motion_mid_block: bool,
    /// Latent channels in, where these modules bring further ones of a first convolution with them.
    pub conv_in_channels: Option<usize>,
}

impl Default for MotionConfig {
    fn default() -> Self {
        Self {
            block_out_channels: vec![320, 640, 1280, 1280],
            motion_layers_per_block: PerBlock::One(2),
            motion_transformer_layers_per_block: PerBlock::One(1),
            motion_mid_block_layers_per_block: 1,
            motion_transformer_layers_per_mid_block: PerBlock::One(1),
            motion_num_attention_heads: PerBlock::One(8),
            motion_norm_num_groups: 32,
            motion_max_seq_length: 32,
            use_motion_mid_block: true,
            conv_in_channels: None,
        }
    }
}

impl MotionConfig {
    pub(crate) fn layers(&self, level: usize) -> usize {
        self.motion_layers_per_block.of(level)
    }

    /// The module of level `level`, in a UNet whose normalizations have so many `groups`.
    pub(crate) fn shape(&self, level: usize, groups: usize) -> MotionShape {
        MotionShape {
            channels: self.block_out_channels.get(level).copied().unwrap_or(1),
            heads: self.motion_num_attention_heads.of(level),
            groups,
            layers: self.motion_transformer_layers_per_block.of(level),
            frames: self.motion_max_seq_length,
        }
    }

    /// The module of the middle, if it has one.
    pub(crate) fn middle(&self, groups: usize) -> Option<MotionShape> {
        let deepest = self.block_out_channels.len().saturating_sub(1);
        let layers = self.motion_transformer_layers_per_mid_block.of(0);
        self.use_motion_mid_block.then(|| MotionShape { layers, ..self.shape(deepest, groups) })
    }

    /// What in this configuration is not implemented, if anything.
    pub fn unsupported(&self) -> Option<String> {
        let depth = self.block_out_channels.len();
        let lists = [
            ("motion_layers_per_block", &self.motion_layers_per_block, depth),
            ("motion_transformer_layers_per_block", &self.motion_transformer_layers_per_block, depth),
            ("motion_num_attention_heads", &self.motion_num_attention_heads, depth),
            ("motion_transformer_layers_per_mid_block", &self.motion_transformer_layers_per_mid_block, 1),
        ];
        if let Some((name, ..)) = lists.iter().find(|(_, list, blocks)| !list.fits(*blocks)) {
            return Some(format!("{name} must be one positive number, or one for each block"));
        }
        let heads = |level: usize| self.motion_num_attention_heads.of(level);
        // Positions have as many sines as cosines.
        let fits = |(level, channels): (usize, &usize)| {
            *channels > 0 && channels.is_multiple_of(2) && channels.is_multiple_of(heads(level))
        };
        if let Some(wrong) = self.block_out_channels.iter().enumerate().position(|own| !fits(own)) {
            return Some(format!("{} heads of {} channels", heads(wrong), self.block_out_channels[wrong]));
        }
        if self.motion_max_seq_length == 0 {
            return Some("motion_max_seq_length: 0".into());
        }
        let count = self.motion_mid_block_layers_per_block;
        (count != 1).then(|| format!("motion_mid_block_layers_per_block: {count} is not supported"))
    }
}

/// What a motion module is built for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct MotionShape {
    channels: usize,
    heads: usize,
    groups: usize,
    layers: usize,
    frames: usize,
}

/// The table of positions, which is never trained. Files of diffusers hold it, rounded as their numbers are,
/// and count then; others do not, and in full precision that is the same to the bit.
fn table(weights: &Weights, frames: usize, channels: usize) -> Tensor<2> {
    const ROUNDING: f32 = 1e-6;
    let own = positions(frames, channels, weights.device());
    if !weights.has("pe") {
        return own;
    }
    let stored = weights.tensor("pe", [1, frames, channels], Init::Zeros);
    let stored = stored.without_autodiff().reshape([frames, channels]);
    let off = (stored.clone() - own.clone()).abs().max().into_scalar::<f32>();
    if off <= ROUNDING { own } else { stored }
}

/// Sinusoids of the positions of frames, `(frames, channels)`: sines in even channels and cosines in odd
/// ones.
///
/// `SinusoidalPositionalEmbedding` of <https://github.com/huggingface/diffusers/blob/v0.42.1/src/diffusers/models/embeddings.py>.
fn positions(frames: usize, channels: usize, device: &Device) -> Tensor<2> {
    let step = -(10_000_f64.ln()) / channels as f64;
    let value = |frame: usize, channel: usize| {
        let angle = frame as f32 * ((channel / 2 * 2) as f32 * step as f32).exp();
        if channel.is_multiple_of(2) { angle.sin() } else { angle.cos() }
    };
    let values: Vec<f32> =
        (0..frames).flat_map(|frame| (0..channels).map(move |channel| value(frame, channel))).collect();
    Tensor::from_data(TensorData::new(values, [frames, channels]), &device.clone().without_autodiff())
}

/// Two attentions over frames and the feed-forward layers after them.
///
/// `BasicTransformerBlock` with `double_self_attention` of <https://github.com/huggingface/diffusers/blob/v0.42.1/src/diffusers/models/attention.py>.
#[derive(Clone, Debug)]
struct TransformerBlock {
    /// Positions of frames, `(frames, channels)`.
    positions: Tensor<2>,
    norm1: LayerNorm,
    attn1: Attention,
    norm2: LayerNorm,
    attn2: Attention,
    norm3: LayerNorm,
    ff: FeedForward,
}

impl TransformerBlock {
    fn new(weights: &Weights, shape: MotionShape) -> Self {
        let MotionShape { channels, heads, frames, .. } = shape;
        let norm = |name: &str| LayerNorm::affine(&weights.at(name), channels, LAYER_EPS);
        let attention = |name: &str| {
            let weights = weights.at(name).serving(Role::TemporalAttention);
            Attention::new(&weights, [channels; 2], heads)
        };
        Self {
            positions: table(&weights.at("pos_embed"), frames, channels),
            norm1: norm("norm1"),
            attn1: attention("attn1"),
            norm2: norm("norm2"),
            attn2: attention("attn2"),
            norm3: norm("norm3"),
            ff: FeedForward::new(&weights.at("ff"), channels),
        }
    }

    /// `hidden (sequences, frames, channels)`.
    fn forward(&self, hidden: Tensor<3>, attachments: &Attachments) -> Tensor<3> {
        let positions = self.positions.clone().narrow(0, 0, hidden.dims()[1]).unsqueeze_dim::<3>(0);
        let normed = self.norm1.forward(hidden.clone()) + positions.clone();
        let hidden = hidden + self.attn1.forward(normed.clone(), normed, attachments);
        let normed = self.norm2.forward(hidden.clone()) + positions;
        let hidden = hidden + self.attn2.forward(normed.clone(), normed, attachments);
        let normed = self.norm3.forward(hidden.clone());
        hidden + self.ff.forward(normed, attachments)
    }
}

/// One motion module.
///
/// `AnimateDiffTransformer3D` of <https://github.com/huggingface/diffusers/blob/v0.42.1/src/diffusers/models/unets/unet_motion_model.py>.
#[derive(Clone, Debug)]
pub(crate) struct MotionModule {
    norm: GroupNorm,
    proj_in: Linear,
    transformer_blocks: Vec<TransformerBlock>,
    proj_out: Linear,
}

impl MotionModule {
    pub fn new(weights: &Weights, shape: MotionShape) -> Self {
        let channels = shape.channels;
        let block = |index| TransformerBlock::new(&weights.at("transformer_blocks").at(index), shape);
        Self {
            norm: GroupNorm::new(&weights.at("norm"), channels, shape.groups, GROUP_EPS),
            proj_in: Linear::new(&weights.at("proj_in"), channels, channels, true),
            transformer_blocks: (0..shape.layers).map(block).collect(),
            proj_out: Linear::new(&weights.at("proj_out"), channels, channels, true),
        }
    }

    /// `hidden (samples * frames, rows, columns, channels)`: every place attends to itself in all frames of
    /// its video. All frames are normalized together.
    pub fn forward(&self, hidden: Tensor<4>, frames: usize, attachments: &Attachments) -> Tensor<4> {
        let dims @ [pictures, rows, columns, channels] = hidden.dims();
        let (samples, places) = (pictures / frames, rows * columns);
        let videos = self.norm.forward(hidden.clone().reshape([samples, frames, places, channels]));
        let sequences = videos.swap_dims(1, 2).reshape([samples * places, frames, channels]);
        let sequences = self.proj_in.forward(sequences, attachments);
        let through = |sequences, block: &TransformerBlock| block.forward(sequences, attachments);
        let sequences = self.transformer_blocks.iter().fold(sequences, through);
        let videos = self.proj_out.forward(sequences, attachments);
        let videos = videos.reshape([samples, places, frames, channels]).swap_dims(1, 2);
        hidden + videos.reshape(dims)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_implemented_is_named() {
        assert_eq!(MotionConfig::default().unsupported(), None);
        for (json, named) in [
            (r#"{"motion_num_attention_heads": [8, 8]}"#, "motion_num_attention_heads"),
            (r#"{"motion_num_attention_heads": 7}"#, "7 heads"),
            (r#"{"motion_max_seq_length": 0}"#, "motion_max_seq_length"),
            (r#"{"motion_mid_block_layers_per_block": 2}"#, "motion_mid_block_layers_per_block"),
        ] {
            let config: MotionConfig = serde_json::from_str(json).expect("a configuration");
            let reason = config.unsupported().unwrap_or_default();
            assert!(reason.contains(named), "{json}: {reason:?}");
        }
    }
}
