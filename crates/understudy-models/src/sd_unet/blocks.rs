//! What a UNet is made of: residual blocks, transformers, and the blocks that go down, through and up.

use burn::tensor::Tensor;
use understudy_engine::attach::Attachments;
use understudy_engine::ops::{self, Conv2dOptions};
use understudy_engine::sites::Role;
use understudy_engine::weights::Weights;

use super::config::SdUnetConfig;
use crate::layers::{Conv2d, GroupNorm, LayerNorm, Linear, hooked_heads};

/// Epsilon of the transformers' normalizations, which no configuration gives.
const TRANSFORMER_GROUP_EPS: f32 = 1e-6;
const TRANSFORMER_EPS: f32 = 1e-5;

/// `hidden` after `site`, with what is attached there.
pub(super) fn after(site: &str, hidden: Tensor<4>, attachments: &Attachments) -> Tensor<4> {
    let dims @ [batch, rows, columns, channels] = hidden.dims();
    attachments.after(site, hidden.reshape([batch, rows * columns, channels])).reshape(dims)
}

/// A residual block that time moves.
#[derive(Clone, Debug)]
struct ResnetBlock {
    norm1: GroupNorm,
    conv1: Conv2d,
    time_emb_proj: Linear,
    norm2: GroupNorm,
    conv2: Conv2d,
    conv_shortcut: Option<Linear>,
}

impl ResnetBlock {
    fn new(weights: &Weights, config: &SdUnetConfig, [inputs, outputs]: [usize; 2]) -> Self {
        let norm = |name: &str, channels| {
            GroupNorm::new(&weights.at(name), channels, config.norm_num_groups, config.norm_eps)
        };
        Self {
            norm1: norm("norm1", inputs),
            conv1: Conv2d::new(&weights.at("conv1"), [inputs, outputs], 3, 1),
            time_emb_proj: Linear::new(&weights.at("time_emb_proj"), config.time_dim(), outputs, true),
            norm2: norm("norm2", outputs),
            conv2: Conv2d::new(&weights.at("conv2"), [outputs, outputs], 3, 1),
            conv_shortcut: (inputs != outputs)
                .then(|| Linear::of_patches(&weights.at("conv_shortcut"), [outputs, inputs, 1, 1])),
        }
    }

    /// `hidden (batch, rows, columns, inputs)`, `time (batch, channels)`.
    fn forward(&self, hidden: Tensor<4>, time: &Tensor<2>, attachments: &Attachments) -> Tensor<4> {
        let time = self.time_emb_proj.forward(time.clone(), attachments);
        let inner = self.conv1.forward_moved(self.norm1.forward_silu(hidden.clone()), time);
        let inner = self.conv2.forward(self.norm2.forward_silu(inner));
        let shortcut = match &self.conv_shortcut {
            Some(shortcut) => shortcut.forward(hidden, attachments),
            None => hidden,
        };
        shortcut + inner
    }
}

/// Self- or cross-attention.
#[derive(Clone, Debug)]
struct Attention {
    site: String,
    heads: usize,
    to_q: Linear,
    to_k: Linear,
    to_v: Linear,
    to_out: Linear,
}

impl Attention {
    fn new(weights: &Weights, channels: usize, context: usize, heads: usize) -> Self {
        let linear = |name: &str, inputs| Linear::new(&weights.at(name), inputs, channels, false);
        weights.attention_site();
        Self {
            site: weights.path(""),
            heads,
            to_q: linear("to_q", channels),
            to_k: linear("to_k", context),
            to_v: linear("to_v", context),
            to_out: Linear::new(&weights.at("to_out.0"), channels, channels, true),
        }
    }

    /// `hidden (batch, tokens, channels)` attends to `context (batch, words, channels)`.
    fn forward(&self, hidden: Tensor<3>, context: Tensor<3>, attachments: &Attachments) -> Tensor<3> {
        let mut query = self.to_q.forward(hidden, attachments);
        let mut key = self.to_k.forward(context.clone(), attachments);
        let mut value = self.to_v.forward(context, attachments);
        if attachments.hooks_attention(&self.site) {
            [query, key, value] = hooked_heads(&self.site, self.heads, [query, key, value], attachments);
        }
        let output = ops::multi_head_attention(query, key, value, self.heads, 1);
        self.to_out.forward(output, attachments)
    }
}

/// One transformer block.
#[derive(Clone, Debug)]
struct TransformerBlock {
    norm1: LayerNorm,
    attn1: Attention,
    norm2: LayerNorm,
    attn2: Attention,
    norm3: LayerNorm,
    ff_in: Linear,
    ff_out: Linear,
}

impl TransformerBlock {
    fn new(weights: &Weights, channels: usize, context: usize, heads: usize) -> Self {
        let norm = |name: &str| LayerNorm::affine(&weights.at(name), channels, TRANSFORMER_EPS);
        let inner = 4 * channels;
        let text = weights.at("attn2").serving(Role::CrossAttention);
        let feed_forward = weights.at("ff.net").serving(Role::FeedForward);
        text.state_site(channels);
        Self {
            norm1: norm("norm1"),
            attn1: Attention::new(
                &weights.at("attn1").serving(Role::SelfAttention),
                channels,
                channels,
                heads,
            ),
            norm2: norm("norm2"),
            attn2: Attention::new(&text, channels, context, heads),
            norm3: norm("norm3"),
            ff_in: Linear::new(&feed_forward.at("0.proj"), channels, 2 * inner, true),
            ff_out: Linear::new(&feed_forward.at("2"), inner, channels, true),
        }
    }

    fn forward(&self, hidden: Tensor<3>, text: &Tensor<3>, attachments: &Attachments) -> Tensor<3> {
        let normed = self.norm1.forward(hidden.clone());
        let hidden = hidden + self.attn1.forward(normed.clone(), normed, attachments);
        let normed = self.norm2.forward(hidden.clone());
        let hidden = hidden + self.attn2.forward(normed, text.clone(), attachments);
        let hidden = attachments.after(&self.attn2.site, hidden);
        let inner = self.ff_in.forward(self.norm3.forward(hidden.clone()), attachments);
        hidden + self.ff_out.forward(ops::geglu(inner), attachments)
    }
}

/// Transformer blocks over the pixels of a picture.
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

/// A residual block and, where there is one, the transformer after it.
#[derive(Clone, Debug)]
struct Layer {
    site: String,
    resnet: ResnetBlock,
    attention: Option<Transformer>,
}

impl Layer {
    fn new(
        weights: &Weights,
        config: &SdUnetConfig,
        index: usize,
        channels: [usize; 2],
        attention: Option<usize>,
    ) -> Self {
        let resnet = weights.at("resnets").at(index);
        resnet.state_site(channels[1]);
        let transformer = |level| Transformer::new(&weights.at("attentions").at(index), config, level);
        Self {
            site: resnet.path(""),
            resnet: ResnetBlock::new(&resnet, config, channels),
            attention: attention.map(transformer),
        }
    }

    fn forward(
        &self,
        hidden: Tensor<4>,
        time: &Tensor<2>,
        text: &Tensor<3>,
        attachments: &Attachments,
    ) -> Tensor<4> {
        let hidden = self.resnet.forward(hidden, time, attachments);
        match &self.attention {
            Some(attention) => attention.forward(hidden, text, attachments),
            None => hidden,
        }
    }
}

/// A level on the way down.
#[derive(Clone, Debug)]
pub struct DownBlock {
    layers: Vec<Layer>,
    downsampler: Option<(String, Conv2d)>,
}

impl DownBlock {
    pub(super) fn new(weights: &Weights, config: &SdUnetConfig, level: usize) -> Self {
        let weights = weights.at("down_blocks").at(level);
        let outputs = config.channels(level);
        let inputs = config.channels(level.saturating_sub(1));
        let attention = config.down_block_types[level].starts_with("CrossAttn").then_some(level);
        let layer = |index| {
            let from = if index == 0 { inputs } else { outputs };
            Layer::new(&weights, config, index, [from, outputs], attention)
        };
        let downsampler = || {
            let weights = weights.at("downsamplers.0");
            let options = Conv2dOptions { stride: 2, padding: config.downsample_padding };
            let conv = Conv2d::with_options(&weights.at("conv"), [outputs; 2], 3, options);
            weights.state_site(outputs);
            (weights.path(""), conv)
        };
        Self {
            layers: (0..config.layers(level)).map(layer).collect(),
            downsampler: (level + 1 < config.depth()).then(downsampler),
        }
    }

    /// Leaves what each layer gives, with what is attached to it, on `skips`.
    pub(super) fn forward(
        &self,
        mut hidden: Tensor<4>,
        time: &Tensor<2>,
        text: &Tensor<3>,
        skips: &mut Vec<Tensor<4>>,
        attachments: &Attachments,
    ) -> Tensor<4> {
        for layer in &self.layers {
            hidden = layer.forward(hidden, time, text, attachments);
            skips.push(after(&layer.site, hidden.clone(), attachments));
        }
        if let Some((site, downsampler)) = &self.downsampler {
            hidden = downsampler.forward(hidden);
            skips.push(after(site, hidden.clone(), attachments));
        }
        hidden
    }
}

/// The middle.
#[derive(Clone, Debug)]
pub struct MidBlock {
    site: String,
    first: Layer,
    last: Layer,
}

impl MidBlock {
    pub(super) fn new(weights: &Weights, config: &SdUnetConfig) -> Self {
        let level = config.depth().saturating_sub(1);
        let channels = [config.channels(level); 2];
        Self {
            site: weights.path(""),
            first: Layer::new(weights, config, 0, channels, Some(level)),
            last: Layer::new(weights, config, 1, channels, None),
        }
    }

    pub(super) fn forward(
        &self,
        hidden: Tensor<4>,
        time: &Tensor<2>,
        text: &Tensor<3>,
        attachments: &Attachments,
    ) -> Tensor<4> {
        let hidden = self.first.forward(hidden, time, text, attachments);
        after(&self.site, self.last.forward(hidden, time, text, attachments), attachments)
    }
}

/// A level on the way up.
#[derive(Clone, Debug)]
pub struct UpBlock {
    layers: Vec<Layer>,
    upsampler: Option<Conv2d>,
}

impl UpBlock {
    /// Up block `index`, from the deepest.
    pub(super) fn new(weights: &Weights, config: &SdUnetConfig, index: usize) -> Self {
        let weights = weights.at("up_blocks").at(index);
        let deepest = config.depth() - 1;
        let level = deepest - index;
        let outputs = config.channels(level);
        let below = config.channels((level + 1).min(deepest));
        // The last layer meets what came down into this level.
        let above = config.channels(level.saturating_sub(1));
        let attention = config.up_block_types[index].starts_with("CrossAttn").then_some(level);
        let count = config.layers(level) + 1;
        let layer = |layer| {
            let from = if layer == 0 { below } else { outputs };
            let skip = if layer + 1 == count { above } else { outputs };
            Layer::new(&weights, config, layer, [from + skip, outputs], attention)
        };
        let upsampler = || Conv2d::new(&weights.at("upsamplers.0.conv"), [outputs; 2], 3, 1);
        Self { layers: (0..count).map(layer).collect(), upsampler: (level > 0).then(upsampler) }
    }

    /// Takes from `skips` what its layers meet.
    pub(super) fn forward(
        &self,
        mut hidden: Tensor<4>,
        time: &Tensor<2>,
        text: &Tensor<3>,
        skips: &mut Vec<Tensor<4>>,
        attachments: &Attachments,
    ) -> Tensor<4> {
        for layer in &self.layers {
            let met = std::iter::once(hidden).chain(skips.pop()).collect();
            hidden = layer.forward(Tensor::cat(met, 3), time, text, attachments);
        }
        let Some(upsampler) = &self.upsampler else { return hidden };
        let [_, rows, columns, _] = skips.last().map_or(hidden.dims(), Tensor::dims);
        upsampler.forward(upsampled(hidden, [rows, columns]))
    }
}

/// Every pixel of `x (batch, rows, columns, channels)` four times, cut to `extent`, which is at most one less
/// than twice: odd sides were halved upwards.
fn upsampled(x: Tensor<4>, [rows, columns]: [usize; 2]) -> Tensor<4> {
    let [batch, height, width, channels] = x.dims();
    let twice = x
        .reshape([batch, height, 1, width, 1, channels])
        .expand([batch, height, 2, width, 2, channels])
        .reshape([batch, 2 * height, 2 * width, channels]);
    twice.narrow(1, 0, rows).narrow(2, 0, columns)
}
