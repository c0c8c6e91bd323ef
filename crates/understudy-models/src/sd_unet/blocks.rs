//! What a UNet is made of: layers of residual blocks, transformers and motion modules, on the way down, in
//! the middle and on the way up.

use burn::tensor::Tensor;
use understudy_engine::attach::Attachments;
use understudy_engine::sites::Role;
use understudy_engine::weights::Weights;

use super::config::SdUnetConfig;
use super::{Conditions, Motion, State};
use crate::attention::{Attention, FeedForward};
use crate::layers::{GroupNorm, LayerNorm, Linear};
use crate::motion_module::{MotionModule, MotionShape};
use crate::resnet::{Downsampler, ResnetBlock, ResnetShape, Upsampler};

/// Epsilon of the transformers' normalizations, which no configuration gives.
const TRANSFORMER_GROUP_EPS: f32 = 1e-6;
const TRANSFORMER_EPS: f32 = 1e-5;

/// `hidden` after `site`, with what is attached there.
pub(super) fn after(site: &str, hidden: Tensor<4>, attachments: &Attachments) -> Tensor<4> {
    let dims @ [batch, rows, columns, channels] = hidden.dims();
    attachments.after(site, hidden.reshape([batch, rows * columns, channels])).reshape(dims)
}

/// One transformer block.
///
/// `BasicTransformerBlock` of <https://github.com/huggingface/diffusers/blob/v0.42.1/src/diffusers/models/attention.py>.
#[derive(Clone, Debug)]
struct TransformerBlock {
    norm1: LayerNorm,
    attn1: Attention,
    norm2: LayerNorm,
    attn2: Attention,
    norm3: LayerNorm,
    ff: FeedForward,
}

impl TransformerBlock {
    fn new(weights: &Weights, channels: usize, context: usize, heads: usize) -> Self {
        let norm = |name: &str| LayerNorm::affine(&weights.at(name), channels, TRANSFORMER_EPS);
        let own = weights.at("attn1").serving(Role::SelfAttention);
        let text = weights.at("attn2").serving(Role::CrossAttention);
        text.state_site(channels);
        Self {
            norm1: norm("norm1"),
            attn1: Attention::new(&own, [channels; 2], heads),
            norm2: norm("norm2"),
            attn2: Attention::new(&text, [channels, context], heads),
            norm3: norm("norm3"),
            ff: FeedForward::new(&weights.at("ff"), channels),
        }
    }

    /// `hidden (samples * frames, places, channels)`, `text (samples, words, channels)`.
    fn forward(&self, hidden: Tensor<3>, text: &Tensor<3>, attachments: &Attachments) -> Tensor<3> {
        let dims @ [pictures, places, channels] = hidden.dims();
        let normed = self.norm1.forward(hidden.clone());
        let hidden = hidden + self.attn1.forward(normed.clone(), normed, attachments);
        let normed = self.norm2.forward(hidden.clone());
        // The places of all frames of a video ask the same words, which are projected once.
        let samples = text.dims()[0];
        let videos = normed.reshape([samples, pictures / samples * places, channels]);
        let hidden = hidden + self.attn2.forward(videos, text.clone(), attachments).reshape(dims);
        let hidden = attachments.after(self.attn2.site(), hidden);
        let normed = self.norm3.forward(hidden.clone());
        hidden + self.ff.forward(normed, attachments)
    }
}

/// Transformer blocks over the pixels of a picture.
///
/// `Transformer2DModel` of <https://github.com/huggingface/diffusers/blob/v0.42.1/src/diffusers/models/transformers/transformer_2d.py>.
#[derive(Clone, Debug)]
struct Transformer {
    norm: GroupNorm,
    proj_in: Linear,
    transformer_blocks: Vec<TransformerBlock>,
    proj_out: Linear,
}

impl Transformer {
    fn new(weights: &Weights, config: &SdUnetConfig, level: usize) -> Self {
        let channels = config.channels(level);
        let project = |name: &str| {
            if config.use_linear_projection {
                Linear::new(&weights.at(name), channels, channels, true)
            } else {
                Linear::of_patches(&weights.at(name), [channels, channels, 1, 1])
            }
        };
        let block = |index: usize| {
            let weights = weights.at("transformer_blocks").at(index);
            TransformerBlock::new(&weights, channels, config.text_dim(level), config.heads(level))
        };
        Self {
            norm: GroupNorm::new(
                &weights.at("norm"),
                channels,
                config.norm_num_groups,
                TRANSFORMER_GROUP_EPS,
            ),
            proj_in: project("proj_in"),
            transformer_blocks: (0..config.transformer_layers(level)).map(block).collect(),
            proj_out: project("proj_out"),
        }
    }

    fn forward(&self, hidden: Tensor<4>, text: &Tensor<3>, attachments: &Attachments) -> Tensor<4> {
        let dims @ [batch, rows, columns, channels] = hidden.dims();
        let tokens = self.norm.forward(hidden.clone()).reshape([batch, rows * columns, channels]);
        let tokens = self.proj_in.forward(tokens, attachments);
        let through = |tokens, block: &TransformerBlock| block.forward(tokens, text, attachments);
        let tokens = self.transformer_blocks.iter().fold(tokens, through);
        hidden + self.proj_out.forward(tokens, attachments).reshape(dims)
    }
}

/// A residual block and, where they are, the transformer and the motion module after it.
#[derive(Clone, Debug)]
struct Layer {
    site: String,
    resnet: ResnetBlock,
    attention: Option<Transformer>,
    motion: Option<MotionModule>,
}

/// What a layer is built for.
struct LayerShape {
    /// Which of its block.
    index: usize,
    /// Channels in and out.
    channels: [usize; 2],
    /// The level of its transformer, if it has one.
    attention: Option<usize>,
}

impl Layer {
    fn new(
        weights: &Weights,
        config: &SdUnetConfig,
        shape: LayerShape,
        motion: Option<(&Weights, MotionShape)>,
    ) -> Self {
        let LayerShape { index, channels, attention } = shape;
        let at = |name: &str| weights.at(name).at(index);
        let resnet = at("resnets");
        resnet.state_site(channels[1]);
        let shape = ResnetShape {
            channels,
            groups: config.norm_num_groups,
            eps: config.norm_eps,
            time: Some(config.time_dim()),
        };
        Self {
            site: resnet.path(""),
            resnet: ResnetBlock::new(&resnet, shape),
            attention: attention.map(|level| Transformer::new(&at("attentions"), config, level)),
            motion: motion
                .map(|(weights, shape)| MotionModule::new(&weights.at("motion_modules").at(index), shape)),
        }
    }

    fn forward(&self, hidden: Tensor<4>, given: &Conditions, attachments: &Attachments) -> Tensor<4> {
        let mut hidden = self.resnet.forward(hidden, Some(&given.time), attachments);
        if let Some(attention) = &self.attention {
            hidden = attention.forward(hidden, &given.text, attachments);
        }
        match &self.motion {
            Some(motion) => motion.forward(hidden, given.frames, attachments),
            None => hidden,
        }
    }
}

/// A layer on the way down, and what halves the picture after the last of its level.
#[derive(Clone, Debug)]
pub(super) struct DownLayer {
    layer: Layer,
    downsampler: Option<Downsampler>,
}

impl DownLayer {
    /// All of down block `level`.
    pub fn level(
        weights: &Weights,
        config: &SdUnetConfig,
        motion: Option<Motion>,
        level: usize,
    ) -> Vec<Self> {
        let weights = weights.at("down_blocks").at(level);
        let motion = motion.map(|own| (own.weights.at("down_blocks").at(level), own.shape(config, level)));
        let outputs = config.channels(level);
        let inputs = config.channels(level.saturating_sub(1));
        let attention = config.down_block_types[level].starts_with("CrossAttn").then_some(level);
        let count = config.layers(level);
        let layer = |index| {
            let channels = [if index == 0 { inputs } else { outputs }, outputs];
            let motion = motion.as_ref().map(|(weights, shape)| (weights, *shape));
            let layer = Layer::new(&weights, config, LayerShape { index, channels, attention }, motion);
            let halved = index + 1 == count && level + 1 < config.depth();
            let downsampler = halved.then(|| {
                let weights = weights.at("downsamplers.0");
                weights.state_site(outputs);
                Downsampler::new(&weights, outputs, config.downsample_padding)
            });
            Self { layer, downsampler }
        };
        (0..count).map(layer).collect()
    }

    /// The sites behind which it leaves something for the way up.
    pub fn sites(&self) -> impl Iterator<Item = &str> {
        let halved = self.downsampler.as_ref().map(Downsampler::site);
        std::iter::once(self.layer.site.as_str()).chain(halved)
    }

    /// Leaves what it gives, with what is attached to it, for the way up.
    pub fn forward(&self, state: State, given: &Conditions, attachments: &Attachments) -> State {
        let State { mut hidden, mut skips } = state;
        hidden = self.layer.forward(hidden, given, attachments);
        skips.push(after(&self.layer.site, hidden.clone(), attachments));
        if let Some(downsampler) = &self.downsampler {
            hidden = downsampler.forward(hidden, attachments);
            skips.push(after(downsampler.site(), hidden.clone(), attachments));
        }
        State { hidden, skips }
    }
}

/// The middle.
///
/// `UNetMidBlock2DCrossAttn` of <https://github.com/huggingface/diffusers/blob/v0.42.1/src/diffusers/models/unets/unet_2d_blocks.py>,
/// and with motion `UNetMidBlockCrossAttnMotion` of <https://github.com/huggingface/diffusers/blob/v0.42.1/src/diffusers/models/unets/unet_motion_model.py>.
#[derive(Clone, Debug)]
pub(super) struct MidBlock {
    site: String,
    first: Layer,
    last: Layer,
}

impl MidBlock {
    pub fn new(weights: &Weights, config: &SdUnetConfig, motion: Option<Motion>) -> Self {
        let weights = weights.at("mid_block");
        let level = config.depth().saturating_sub(1);
        let channels = [config.channels(level); 2];
        let motion = motion
            .and_then(|own| Some((own.weights.at("mid_block"), own.config.middle(config.norm_num_groups)?)));
        let motion = motion.as_ref().map(|(weights, shape)| (weights, *shape));
        let first = LayerShape { index: 0, channels, attention: Some(level) };
        let last = LayerShape { index: 1, channels, attention: None };
        weights.state_site(channels[1]);
        Self {
            site: weights.path(""),
            first: Layer::new(&weights, config, first, motion),
            last: Layer::new(&weights, config, last, None),
        }
    }

    /// The published path.
    pub fn site(&self) -> &str {
        &self.site
    }

    pub fn forward(&self, hidden: Tensor<4>, given: &Conditions, attachments: &Attachments) -> Tensor<4> {
        let hidden = self.first.forward(hidden, given, attachments);
        after(&self.site, self.last.forward(hidden, given, attachments), attachments)
    }
}

/// A layer on the way up, and what doubles the picture after the last of its level.
#[derive(Clone, Debug)]
pub(super) struct UpLayer {
    layer: Layer,
    upsampler: Option<Upsampler>,
}

impl UpLayer {
    /// All of up block `block`, from the deepest.
    pub fn level(
        weights: &Weights,
        config: &SdUnetConfig,
        motion: Option<Motion>,
        block: usize,
    ) -> Vec<Self> {
        let weights = weights.at("up_blocks").at(block);
        let deepest = config.depth() - 1;
        let level = deepest - block;
        let motion = motion.map(|own| (own.weights.at("up_blocks").at(block), own.shape(config, level)));
        let outputs = config.channels(level);
        let below = config.channels((level + 1).min(deepest));
        // The last layer meets what came down into this level.
        let above = config.channels(level.saturating_sub(1));
        let attention = config.up_block_types[block].starts_with("CrossAttn").then_some(level);
        let count = config.layers(level) + 1;
        let layer = |index| {
            let is_last = index + 1 == count;
            let from = if index == 0 { below } else { outputs };
            let skip = if is_last { above } else { outputs };
            let shape = LayerShape { index, channels: [from + skip, outputs], attention };
            let motion = motion.as_ref().map(|(weights, shape)| (weights, *shape));
            let layer = Layer::new(&weights, config, shape, motion);
            let upsampler =
                (is_last && level > 0).then(|| Upsampler::new(&weights.at("upsamplers.0"), outputs));
            Self { layer, upsampler }
        };
        (0..count).map(layer).collect()
    }

    /// Takes what it meets from what was left on the way down.
    pub fn forward(&self, state: State, given: &Conditions, attachments: &Attachments) -> State {
        let State { hidden, mut skips } = state;
        let met = std::iter::once(hidden).chain(skips.pop()).collect();
        let mut hidden = self.layer.forward(Tensor::cat(met, 3), given, attachments);
        if let Some(upsampler) = &self.upsampler {
            let [_, rows, columns, _] = skips.last().map_or(hidden.dims(), Tensor::dims);
            hidden = upsampler.forward(hidden, [rows, columns], attachments);
        }
        State { hidden, skips }
    }
}
