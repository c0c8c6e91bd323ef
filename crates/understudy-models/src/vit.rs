//! The vision transformers of DINO and DINOv2.
//!
//! Published as `ViTModel` (Caron et al., "Emerging Properties in Self-Supervised Vision Transformers", 2021)
//! and `Dinov2Model` (Oquab et al., "DINOv2: Learning Robust Visual Features without Supervision", 2023).

use burn::tensor::Tensor;
use burn::tensor::activation::silu;
use serde::{Deserialize, Serialize};
use understudy_engine::attach::Attachments;
use understudy_engine::ops::{self, Activation, AttentionOptions, Conv3dOptions};
use understudy_engine::weights::{Init, Weights};
use understudy_kernels::resample::Torch;

use crate::layers::{Conv, LayerNorm, Linear, join_heads, resampling, split_heads};

/// Which of the two families.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum VitKind {
    /// `ViTModel`.
    Vit,
    /// `Dinov2Model`: branches are scaled by channel.
    Dinov2,
}

/// The published `config.json`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct VitConfig {
    /// The family.
    pub model_type: VitKind,
    /// Channels.
    pub hidden_size: usize,
    /// Layers.
    pub num_hidden_layers: usize,
    /// Attention heads.
    pub num_attention_heads: usize,
    /// Side of the pictures the positions were trained for.
    pub image_size: usize,
    /// Side of a patch.
    pub patch_size: usize,
    /// Nonlinearity of the feed-forward layers; `gelu` is all there is.
    #[serde(default = "gelu")]
    pub hidden_act: String,
    /// Channels of the feed-forward layers of `ViTModel`.
    #[serde(default)]
    pub intermediate_size: Option<usize>,
    /// The same of `Dinov2Model`, as a multiple of the channels.
    #[serde(default)]
    pub mlp_ratio: Option<usize>,
    /// Whether `Dinov2Model` gates its feed-forward layers.
    #[serde(default)]
    pub use_swiglu_ffn: bool,
    /// Whether queries, keys and values have a bias.
    #[serde(default = "yes")]
    pub qkv_bias: bool,
    /// Epsilon of every normalization.
    #[serde(default = "default_eps")]
    pub layer_norm_eps: f32,
}

fn gelu() -> String {
    "gelu".into()
}

fn yes() -> bool {
    true
}

fn default_eps() -> f32 {
    1e-6
}

impl VitConfig {
    /// What in this configuration is not implemented, or does not fit together, if anything.
    pub fn unsupported(&self) -> Option<String> {
        let Self { hidden_size, num_attention_heads, image_size, patch_size, .. } = *self;
        if self.hidden_act != "gelu" {
            return Some(format!("hidden_act {:?}", self.hidden_act));
        }
        if num_attention_heads == 0 || !hidden_size.is_multiple_of(num_attention_heads) {
            return Some(format!("{num_attention_heads} heads of {hidden_size} channels"));
        }
        if patch_size == 0 || image_size < patch_size {
            return Some(format!("patches of {patch_size} in pictures of {image_size}"));
        }
        match (self.model_type, self.intermediate_size, self.mlp_ratio) {
            (VitKind::Vit, None, _) => Some("intermediate_size is missing".into()),
            (VitKind::Dinov2, _, None) => Some("mlp_ratio is missing".into()),
            _ => None,
        }
    }

    /// Channels of the feed-forward layers.
    fn inner(&self) -> usize {
        match self.model_type {
            VitKind::Vit => self.intermediate_size.unwrap_or(4 * self.hidden_size),
            VitKind::Dinov2 => self.mlp_ratio.unwrap_or(4) * self.hidden_size,
        }
    }
}

/// A feed-forward layer.
#[derive(Clone, Debug)]
enum FeedForward {
    Gelu(Linear, Linear),
    /// One half gates the other.
    Gated(Linear, Linear),
}

impl FeedForward {
    fn new(weights: &Weights, config: &VitConfig) -> Self {
        let (channels, inner) = (config.hidden_size, config.inner());
        let pair = |one: &str, two: &str| {
            let first = Linear::new(&weights.at(one), channels, inner, true);
            (first, Linear::new(&weights.at(two), inner, channels, true))
        };
        match (config.model_type, config.use_swiglu_ffn) {
            (VitKind::Vit, _) => {
                let (first, second) = pair("intermediate.dense", "output.dense");
                Self::Gelu(first, second)
            }
            (VitKind::Dinov2, false) => {
                let (first, second) = pair("mlp.fc1", "mlp.fc2");
                Self::Gelu(first, second)
            }
            (VitKind::Dinov2, true) => {
                // Two thirds of the channels, in eights, so that both halves cost what one would.
                let inner = (inner * 2 / 3).next_multiple_of(8);
                let first = Linear::new(&weights.at("mlp.weights_in"), channels, 2 * inner, true);
                Self::Gated(first, Linear::new(&weights.at("mlp.weights_out"), inner, channels, true))
            }
        }
    }

    fn forward(&self, x: Tensor<3>) -> Tensor<3> {
        let none = Attachments::none();
        match self {
            Self::Gelu(first, second) => {
                second.forward(first.forward_then(x, &none, Activation::GeluErf), &none)
            }
            Self::Gated(first, second) => {
                let both = first.forward(x, &none);
                let inner = both.dims()[2] / 2;
                let gate = silu(both.clone().narrow(2, 0, inner));
                second.forward(gate * both.narrow(2, inner, inner), &none)
            }
        }
    }
}

#[derive(Clone, Debug)]
struct Layer {
    heads: usize,
    norm1: LayerNorm,
    q: Linear,
    k: Linear,
    v: Linear,
    out: Linear,
    norm2: LayerNorm,
    feed_forward: FeedForward,
    /// What the branches are scaled by.
    scales: Option<[Tensor<1>; 2]>,
}

impl Layer {
    fn new(weights: &Weights, config: &VitConfig) -> Self {
        let c = config.hidden_size;
        let names = match config.model_type {
            VitKind::Vit => ["layernorm_before", "layernorm_after"],
            VitKind::Dinov2 => ["norm1", "norm2"],
        };
        let [norm1, norm2] = names.map(|name| LayerNorm::affine(&weights.at(name), c, config.layer_norm_eps));
        let attention = weights.at("attention.attention");
        let project = |name: &str| Linear::new(&attention.at(name), c, c, config.qkv_bias);
        let scale = |name: &str| weights.at(name).tensor("lambda1", [c], Init::Ones);
        Self {
            heads: config.num_attention_heads,
            norm1,
            q: project("query"),
            k: project("key"),
            v: project("value"),
            out: Linear::new(&weights.at("attention.output.dense"), c, c, true),
            norm2,
            feed_forward: FeedForward::new(weights, config),
            scales: (config.model_type == VitKind::Dinov2)
                .then(|| ["layer_scale1", "layer_scale2"].map(scale)),
        }
    }

    fn forward(&self, x: Tensor<3>) -> Tensor<3> {
        let none = Attachments::none();
        let normed = self.norm1.forward(x.clone());
        let part = |linear: &Linear| split_heads(linear.forward(normed.clone(), &none), self.heads);
        let attended =
            ops::attention(part(&self.q), part(&self.k), part(&self.v), AttentionOptions::default());
        let attended = self.out.forward(join_heads(attended), &none);
        let x = x + self.scaled(attended, 0);
        let inner = self.feed_forward.forward(self.norm2.forward(x.clone()));
        x + self.scaled(inner, 1)
    }

    fn scaled(&self, branch: Tensor<3>, index: usize) -> Tensor<3> {
        match &self.scales {
            Some(scales) => branch * scales[index].clone().reshape([1, 1, -1]),
            None => branch,
        }
    }
}

/// The whole encoder.
#[derive(Clone, Debug)]
pub struct Vit {
    config: VitConfig,
    class_token: Tensor<3>,
    patch_embedding: Conv,
    /// `(1, 1 + patches, channels)`.
    positions: Tensor<3>,
    layers: Vec<Layer>,
    norm: LayerNorm,
}

impl Vit {
    /// Builds it from `weights`.
    pub fn new(weights: &Weights, config: &VitConfig) -> Self {
        let c = config.hidden_size;
        let embeddings = weights.at("embeddings");
        let side = config.image_size / config.patch_size;
        let patch = Conv3dOptions { stride: [1, config.patch_size, config.patch_size], padding: [(0, 0); 3] };
        // Of training only, or of another head.
        embeddings.ignore("mask_token");
        for name in ["pooler.dense.weight", "pooler.dense.bias"] {
            weights.ignore(name);
        }
        Self {
            config: config.clone(),
            class_token: embeddings.tensor("cls_token", [1, 1, c], Init::Normal(0.02)),
            patch_embedding: Conv::new_2d(
                &embeddings.at("patch_embeddings.projection"),
                [3, c],
                config.patch_size,
                true,
                patch,
            ),
            positions: embeddings.tensor("position_embeddings", [1, side * side + 1, c], Init::Normal(0.02)),
            layers: (0..config.num_hidden_layers)
                .map(|index| Layer::new(&weights.at("encoder.layer").at(index), config))
                .collect(),
            norm: LayerNorm::affine(&weights.at("layernorm"), c, config.layer_norm_eps),
        }
    }

    /// The configuration it was built with.
    pub fn config(&self) -> &VitConfig {
        &self.config
    }

    /// The normalized states `(batch, 1 + patches, channels)` of `pixels (batch, 3, height, width)`, which
    /// are already normalized as the checkpoint wants; the class token is the first.
    pub fn states(&self, pixels: Tensor<4>) -> Tensor<3> {
        self.states_with(pixels, 0.0)
    }

    /// The same with the positions of a grid resized as if it were larger by `excess` of a patch: DINO's own
    /// code adds a tenth.
    pub fn states_with(&self, pixels: Tensor<4>, excess: f64) -> Tensor<3> {
        let patches = self.patch_embedding.forward(pixels.unsqueeze_dim(2));
        let [batch, channels, _, rows, columns] = patches.dims();
        let patches = patches.reshape([batch, channels, rows * columns]).swap_dims(1, 2);
        let class = self.class_token.clone().expand([batch, 1, channels]);
        let x = Tensor::cat(vec![class, patches], 1) + self.positions([rows, columns], excess);
        let x = self.layers.iter().fold(x, |x, layer| layer.forward(x));
        self.norm.forward(x)
    }

    /// The normalized class token of each picture, `(batch, channels)`.
    pub fn class_token(&self, pixels: Tensor<4>) -> Tensor<2> {
        self.states(pixels).narrow(1, 0, 1).squeeze_dim(1)
    }

    /// Positions of a grid: those of the checkpoint, resized where it was trained for another.
    fn positions(&self, [rows, columns]: [usize; 2], excess: f64) -> Tensor<3> {
        let side = self.config.image_size / self.config.patch_size;
        if [rows, columns] == [side; 2] {
            return self.positions.clone();
        }
        let [_, count, channels] = self.positions.dims();
        let device = self.positions.device();
        let across = |to: usize| {
            let scale = (side as f64 / (to as f64 + excess)) as f32;
            resampling(&Torch::Bicubic.taps_at(side, to, scale), side, &device)
        };
        let grid = self.positions.clone().narrow(1, 1, count - 1);
        // (side, side * channels), then (rows, side, channels).
        let tall = across(rows).matmul(grid.reshape([side, side * channels]));
        let tall = tall.reshape([rows, side, channels]);
        let wide = across(columns).unsqueeze_dim::<3>(0).expand([rows, columns, side]).matmul(tall);
        let class = self.positions.clone().narrow(1, 0, 1);
        Tensor::cat(vec![class, wide.reshape([1, rows * columns, channels])], 1)
    }
}
