//! CLIP's image and text towers, and the text tower alone as Stable Diffusion's text encoder.
//!
//! Published as `CLIPModel` and `CLIPTextModel` (Radford et al., "Learning Transferable Visual Models From
//! Natural Language Supervision", 2021).

use burn::tensor::activation::sigmoid;
use burn::tensor::{Device, Int, Tensor, TensorData};
use serde::{Deserialize, Serialize};
use understudy_engine::attach::Attachments;
use understudy_engine::ops::{self, Activation, AttentionOptions, Conv3dOptions};
use understudy_engine::sites::Role;
use understudy_engine::weights::{Init, Weights};

use crate::layers::{Conv, Embedding, LayerNorm, Linear, join_heads, split_heads};

/// The published `config.json` of a CLIP model.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ClipConfig {
    /// Channels of the common space.
    pub projection_dim: usize,
    /// Where the logit scale starts when trained from scratch.
    #[serde(default = "default_logit_scale")]
    pub logit_scale_init_value: f32,
    /// The text tower.
    pub text_config: ClipTextConfig,
    /// The image tower.
    pub vision_config: ClipVisionConfig,
}

fn default_logit_scale() -> f32 {
    2.6592
}

impl ClipConfig {
    /// What in this configuration does not fit together, if anything.
    pub fn unsupported(&self) -> Option<String> {
        let Self { text_config: text, vision_config: vision, .. } = self;
        if let Some(reason) = text.unsupported() {
            return Some(format!("text_config: {reason}"));
        }
        if !are_heads(vision.num_attention_heads, vision.hidden_size) {
            let (heads, channels) = (vision.num_attention_heads, vision.hidden_size);
            return Some(format!("vision_config: {heads} heads of {channels} channels"));
        }
        let patches = vision.patch_size > 0 && vision.image_size >= vision.patch_size;
        (!patches).then(|| format!("patches of {} in pictures of {}", vision.patch_size, vision.image_size))
    }
}

/// Whether so many heads share these channels evenly.
fn are_heads(heads: usize, channels: usize) -> bool {
    heads > 0 && channels.is_multiple_of(heads)
}

/// The nonlinearity of a tower.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ClipActivation {
    /// `x * sigmoid(1.702 x)`.
    QuickGelu,
    /// The exact GELU.
    Gelu,
}

/// The text tower's part of the configuration, and the whole of a text encoder's.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ClipTextConfig {
    /// Rows of the token embedding.
    pub vocab_size: usize,
    /// Channels.
    pub hidden_size: usize,
    /// Channels of the feed-forward layers.
    pub intermediate_size: usize,
    /// Layers.
    pub num_hidden_layers: usize,
    /// Attention heads.
    pub num_attention_heads: usize,
    /// Longest text in tokens.
    pub max_position_embeddings: usize,
    /// Nonlinearity.
    pub hidden_act: ClipActivation,
    /// Epsilon of every normalization.
    #[serde(default = "default_eps")]
    pub layer_norm_eps: f32,
    /// The token whose state stands for the text. The published value 2 is a mistake kept for compatibility:
    /// it means the token with the highest id.
    #[serde(default = "default_eos")]
    pub eos_token_id: i64,
}

impl ClipTextConfig {
    /// What in this configuration does not fit together, if anything.
    pub fn unsupported(&self) -> Option<String> {
        let (heads, channels) = (self.num_attention_heads, self.hidden_size);
        (!are_heads(heads, channels)).then(|| format!("{heads} heads of {channels} channels"))
    }
}

/// The image tower's part of the configuration.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ClipVisionConfig {
    /// Channels.
    pub hidden_size: usize,
    /// Channels of the feed-forward layers.
    pub intermediate_size: usize,
    /// Layers.
    pub num_hidden_layers: usize,
    /// Attention heads.
    pub num_attention_heads: usize,
    /// Side of the picture.
    pub image_size: usize,
    /// Side of a patch.
    pub patch_size: usize,
    /// Nonlinearity.
    pub hidden_act: ClipActivation,
    /// Epsilon of every normalization.
    #[serde(default = "default_eps")]
    pub layer_norm_eps: f32,
}

fn default_eps() -> f32 {
    1e-5
}

fn default_eos() -> i64 {
    49407
}

/// The legacy end-of-text id that stands for "the highest id in the text".
const LEGACY_EOS: i64 = 2;

#[derive(Clone, Debug)]
struct Layer {
    heads: usize,
    activation: ClipActivation,
    layer_norm1: LayerNorm,
    q: Linear,
    k: Linear,
    v: Linear,
    out: Linear,
    layer_norm2: LayerNorm,
    fc1: Linear,
    fc2: Linear,
}

struct LayerShape {
    channels: usize,
    inner: usize,
    heads: usize,
    eps: f32,
    activation: ClipActivation,
}

impl Layer {
    fn new(weights: &Weights, shape: &LayerShape) -> Self {
        let attention = weights.at("self_attn").serving(Role::SelfAttention);
        let mlp = weights.at("mlp").serving(Role::FeedForward);
        let c = shape.channels;
        let project = |name: &str| Linear::new(&attention.at(name), c, c, true);
        Self {
            heads: shape.heads,
            activation: shape.activation,
            layer_norm1: LayerNorm::affine(&weights.at("layer_norm1"), c, shape.eps),
            q: project("q_proj"),
            k: project("k_proj"),
            v: project("v_proj"),
            out: project("out_proj"),
            layer_norm2: LayerNorm::affine(&weights.at("layer_norm2"), c, shape.eps),
            fc1: Linear::new(&mlp.at("fc1"), c, shape.inner, true),
            fc2: Linear::new(&mlp.at("fc2"), shape.inner, c, true),
        }
    }

    fn forward(&self, x: Tensor<3>, causal: bool, attachments: &Attachments) -> Tensor<3> {
        let normed = self.layer_norm1.forward(x.clone());
        let part = |linear: &Linear| split_heads(linear.forward(normed.clone(), attachments), self.heads);
        let options = AttentionOptions { causal, ..AttentionOptions::default() };
        let attended = ops::attention(part(&self.q), part(&self.k), part(&self.v), options);
        let x = x + self.out.forward(join_heads(attended), attachments);
        let normed = self.layer_norm2.forward(x.clone());
        let inner = match self.activation {
            ClipActivation::QuickGelu => {
                let inner = self.fc1.forward(normed, attachments);
                inner.clone() * sigmoid(inner * 1.702)
            }
            ClipActivation::Gelu => self.fc1.forward_then(normed, attachments, Activation::GeluErf),
        };
        x + self.fc2.forward(inner, attachments)
    }
}

/// So many layers below `at`.
fn stack(at: &Weights, count: usize, shape: &LayerShape) -> Vec<Layer> {
    (0..count).map(|index| Layer::new(&at.at(index), shape)).collect()
}

/// The text tower, and a text encoder for denoisers.
///
/// `CLIPTextModel` of <https://github.com/huggingface/transformers/blob/main/src/transformers/models/clip/modeling_clip.py>.
#[derive(Clone, Debug)]
pub struct ClipText {
    config: ClipTextConfig,
    token_embedding: Embedding,
    positions: Tensor<2>,
    layers: Vec<Layer>,
    final_layer_norm: LayerNorm,
}

impl ClipText {
    /// Builds the tower from `weights`, where everything lies below `text_model`. Newer libraries write files
    /// that leave this out: rename their tensors first.
    pub fn new(weights: &Weights, config: &ClipTextConfig) -> Self {
        let text = weights.at("text_model");
        let words = text.at("embeddings");
        let (rows, channels) = (config.max_position_embeddings, config.hidden_size);
        let shape = LayerShape {
            channels,
            inner: config.intermediate_size,
            heads: config.num_attention_heads,
            eps: config.layer_norm_eps,
            activation: config.hidden_act,
        };
        words.ignore("position_ids");
        Self {
            config: config.clone(),
            token_embedding: Embedding::new(&words.at("token_embedding"), config.vocab_size, channels, 0.02),
            positions: words.at("position_embedding").tensor("weight", [rows, channels], Init::Normal(0.01)),
            layers: stack(&text.at("encoder.layers"), config.num_hidden_layers, &shape),
            final_layer_norm: LayerNorm::affine(&text.at("final_layer_norm"), channels, shape.eps),
        }
    }

    /// The configuration it was built with.
    pub fn config(&self) -> &ClipTextConfig {
        &self.config
    }

    /// The rows of the table for `ids (texts, tokens)`, `(texts, tokens, channels)`: some of them may be
    /// replaced before they are encoded.
    pub fn embed(&self, ids: Tensor<2, Int>) -> Tensor<3> {
        self.token_embedding.forward(ids)
    }

    /// The states of the tokens whose embeddings are `rows (texts, tokens, channels)`, of the same shape,
    /// without the last `skip` layers (clip skip; none are left where there are fewer). Every token sees
    /// those before it, padding among them.
    ///
    /// # Panics
    /// If there are more tokens than positions.
    pub fn encode(&self, rows: Tensor<3>, skip: usize, attachments: &Attachments) -> Tensor<3> {
        let positions = self.positions.clone().narrow(0, 0, rows.dims()[1]).unsqueeze_dim(0);
        let kept = &self.layers[..self.layers.len().saturating_sub(skip)];
        let through = |x, layer: &Layer| layer.forward(x, true, attachments);
        self.final_layer_norm.forward(kept.iter().fold(rows + positions, through))
    }
}

/// Both towers and their projections into the common space.
#[derive(Clone, Debug)]
pub struct Clip {
    config: ClipConfig,
    class_embedding: Tensor<1>,
    patch_embedding: Conv,
    vision_positions: Tensor<2>,
    pre_layernorm: LayerNorm,
    vision_layers: Vec<Layer>,
    post_layernorm: LayerNorm,
    visual_projection: Linear,
    text: ClipText,
    text_projection: Linear,
    logit_scale: Tensor<1>,
}

impl Clip {
    /// Builds both towers from `weights`.
    pub fn new(weights: &Weights, config: &ClipConfig) -> Self {
        let ClipConfig { vision_config: v, text_config: t, projection_dim, .. } = config;
        let vision = weights.at("vision_model");
        let image = vision.at("embeddings");
        let patches = (v.image_size / v.patch_size).pow(2);
        let spread = |channels: usize| Init::Normal((channels as f32).powf(-0.5));
        let patch = Conv3dOptions { stride: [1, v.patch_size, v.patch_size], padding: [(0, 0); 3] };
        let vision_shape = LayerShape {
            channels: v.hidden_size,
            inner: v.intermediate_size,
            heads: v.num_attention_heads,
            eps: v.layer_norm_eps,
            activation: v.hidden_act,
        };
        image.ignore("position_ids");
        let norm = |at: Weights, shape: &LayerShape| LayerNorm::affine(&at, shape.channels, shape.eps);
        Self {
            config: config.clone(),
            class_embedding: image.tensor("class_embedding", [v.hidden_size], spread(v.hidden_size)),
            patch_embedding: Conv::new_2d(
                &image.at("patch_embedding"),
                [3, v.hidden_size],
                v.patch_size,
                false,
                patch,
            ),
            vision_positions: image.at("position_embedding").tensor(
                "weight",
                [patches + 1, v.hidden_size],
                spread(v.hidden_size),
            ),
            pre_layernorm: norm(vision.at("pre_layrnorm"), &vision_shape),
            vision_layers: stack(&vision.at("encoder.layers"), v.num_hidden_layers, &vision_shape),
            post_layernorm: norm(vision.at("post_layernorm"), &vision_shape),
            visual_projection: Linear::new(
                &weights.at("visual_projection"),
                v.hidden_size,
                *projection_dim,
                false,
            ),
            text: ClipText::new(weights, t),
            text_projection: Linear::new(
                &weights.at("text_projection"),
                t.hidden_size,
                *projection_dim,
                false,
            ),
            logit_scale: weights.scalar("logit_scale", Init::Constant(config.logit_scale_init_value)),
        }
    }

    /// The configuration it was built with.
    pub fn config(&self) -> &ClipConfig {
        &self.config
    }

    /// The logarithm of the scale of similarities, `(1)`.
    pub fn logit_scale(&self) -> Tensor<1> {
        self.logit_scale.clone()
    }

    /// Embeds `pixels (batch, 3, side, side)`, already normalized as the checkpoint wants; `(batch, dim)`,
    /// not normalized.
    pub fn image(&self, pixels: Tensor<4>) -> Tensor<2> {
        let none = Attachments::none();
        let patches = self.patch_embedding.forward(pixels.unsqueeze_dim(2));
        let [batch, channels, _, rows, columns] = patches.dims();
        let patches = patches.reshape([batch, channels, rows * columns]).swap_dims(1, 2);
        let class = self.class_embedding.clone().reshape([1, 1, channels]).expand([batch, 1, channels]);
        let x = Tensor::cat(vec![class, patches], 1) + self.vision_positions.clone().unsqueeze_dim(0);
        let x = self.pre_layernorm.forward(x);
        let x = self.vision_layers.iter().fold(x, |x, layer| layer.forward(x, false, &none));
        let class = x.narrow(1, 0, 1).squeeze_dim::<2>(1);
        self.visual_projection.forward(self.post_layernorm.forward(class), &none)
    }

    /// Embeds texts, given as token ids padded to one length; `(batch, dim)`, not normalized.
    pub fn text(&self, ids: &[Vec<i64>], device: &Device) -> Tensor<2> {
        let none = Attachments::none();
        let [batch, tokens] = [ids.len(), ids.first().map_or(0, Vec::len)];
        let flat: Vec<i64> = ids.iter().flatten().copied().collect();
        let indices = Tensor::<2, Int>::from_data(TensorData::new(flat, [batch, tokens]), device);
        let x = self.text.encode(self.text.embed(indices), 0, &none);
        let channels = x.dims()[2];
        let x = x.reshape([batch * tokens, channels]);
        let ends: Vec<i64> = ids
            .iter()
            .enumerate()
            .map(|(row, ids)| (row * tokens + end_of_text(ids, self.config.text_config.eos_token_id)) as i64)
            .collect();
        let ends = Tensor::<1, Int>::from_data(TensorData::new(ends, [batch]), device);
        self.text_projection.forward(x.select(0, ends), &none)
    }
}

/// Where the text ends: at the first end token, or at the first highest id for legacy checkpoints.
fn end_of_text(ids: &[i64], eos: i64) -> usize {
    let wanted = match eos {
        LEGACY_EOS => ids.iter().copied().max().unwrap_or(0),
        eos => eos,
    };
    ids.iter().position(|&id| id == wanted).unwrap_or(0)
}
