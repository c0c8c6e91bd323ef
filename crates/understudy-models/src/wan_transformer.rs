//! Wan's denoiser: a diffusion transformer over video latents with full 3-D attention.
//!
//! Published as `WanTransformer3DModel` (Wan: "Open and Advanced Large-Scale Video Generative Models",
//! 2025). Modules, their order and their names follow the checkpoint.

use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

use burn::tensor::{Device, Tensor, TensorData};
use serde::{Deserialize, Serialize};
use understudy_engine::attach::Attachments;
use understudy_engine::ops::{self, Activation};
use understudy_engine::sites::Role;
use understudy_engine::stack::Stack;
use understudy_engine::weights::{Init, Weights};

use crate::layers::{LayerNorm, Linear, RmsNorm, hooked_heads};
use crate::reuse::BlockReuse;
use crate::text_context::{BlockText, TextContext};
use crate::timestep::timestep_embedding;

/// The published `config.json` of a Wan transformer (text-to-video).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct WanTransformerConfig {
    /// Latent frames, rows and columns that make one token.
    pub patch_size: [usize; 3],
    /// Attention heads.
    pub num_attention_heads: usize,
    /// Channels of one head.
    pub attention_head_dim: usize,
    /// Latent channels in.
    pub in_channels: usize,
    /// Latent channels out.
    pub out_channels: usize,
    /// Channels of the text embedding.
    pub text_dim: usize,
    /// Channels of the sinusoidal time embedding.
    pub freq_dim: usize,
    /// Hidden channels of the feed-forward layers.
    pub ffn_dim: usize,
    /// Transformer blocks.
    pub num_layers: usize,
    /// Whether the input of cross-attention is normalized.
    pub cross_attn_norm: bool,
    /// How queries and keys are normalized; only `rms_norm_across_heads` is published.
    #[serde(default)]
    pub qk_norm: Option<String>,
    /// Epsilon of every normalization.
    pub eps: f32,
    /// Channels of the image embedding; image-to-video checkpoints only.
    #[serde(default)]
    pub image_dim: Option<usize>,
    /// Channels of the added image keys and values; image-to-video checkpoints only.
    #[serde(default)]
    pub added_kv_proj_dim: Option<usize>,
    /// Longest side, in tokens, that has a rotary embedding.
    #[serde(default = "default_rope_max_seq_len")]
    pub rope_max_seq_len: usize,
}

fn default_rope_max_seq_len() -> usize {
    1024
}

impl WanTransformerConfig {
    /// Channels of the hidden state.
    pub fn inner_dim(&self) -> usize {
        self.num_attention_heads * self.attention_head_dim
    }

    /// What in this configuration is not implemented, if anything.
    pub fn unsupported(&self) -> Option<String> {
        if self.image_dim.is_some() || self.added_kv_proj_dim.is_some() {
            return Some(
                "image_dim / added_kv_proj_dim: image-to-video checkpoints are not supported".into(),
            );
        }
        match self.qk_norm.as_deref() {
            None | Some("rms_norm_across_heads") => None,
            Some(other) => Some(format!("qk_norm: {other:?} is not known")),
        }
    }
}

/// Cosines and sines of the rotary embedding, `(tokens, head_dim / 2)` each.
#[derive(Clone, Debug)]
pub struct Rotary {
    cos: Tensor<2>,
    sin: Tensor<2>,
}

impl Rotary {
    /// For a grid of `[frames, height, width]` tokens: of every head's channels, a third each turns with the
    /// row and the column (rounded down to pairs), and the rest with the frame.
    pub fn new(head_dim: usize, grid: [usize; 3], device: &Device) -> Self {
        let spatial = 2 * (head_dim / 6);
        let dims = [head_dim - 2 * spatial, spatial, spatial];
        let [frames, height, width] = grid;
        let mut cos = Vec::with_capacity(frames * height * width * head_dim / 2);
        let mut sin = Vec::with_capacity(cos.capacity());
        for frame in 0..frames {
            for row in 0..height {
                for column in 0..width {
                    for (position, dim) in [frame, row, column].into_iter().zip(dims) {
                        for pair in 0..dim / 2 {
                            let frequency = 10_000_f64.powf(-2.0 * pair as f64 / dim as f64);
                            let angle = position as f64 * frequency;
                            cos.push(angle.cos() as f32);
                            sin.push(angle.sin() as f32);
                        }
                    }
                }
            }
        }
        let shape = [frames * height * width, head_dim / 2];
        Self {
            cos: Tensor::from_data(TensorData::new(cos, shape), device),
            sin: Tensor::from_data(TensorData::new(sin, shape), device),
        }
    }

    /// Turns every head of `x (batch, tokens, heads * dim)`.
    pub fn apply(&self, x: Tensor<3>) -> Tensor<3> {
        ops::rope_heads(x, self.cos.clone(), self.sin.clone())
    }
}

/// Self- or cross-attention with normalized queries and keys.
#[derive(Clone, Debug)]
pub struct WanAttention {
    site: String,
    heads: usize,
    to_q: Linear,
    to_k: Linear,
    to_v: Linear,
    to_out: Linear,
    norm_q: RmsNorm,
    norm_k: RmsNorm,
}

impl WanAttention {
    fn new(weights: &Weights, config: &WanTransformerConfig) -> Self {
        let dim = config.inner_dim();
        let linear = |name: &str| Linear::new(&weights.at(name), dim, dim, true);
        weights.attention_site();
        Self {
            site: weights.path(""),
            heads: config.num_attention_heads,
            to_q: linear("to_q"),
            to_k: linear("to_k"),
            to_v: linear("to_v"),
            to_out: linear("to_out.0"),
            norm_q: RmsNorm::new(&weights.at("norm_q"), dim, config.eps),
            norm_k: RmsNorm::new(&weights.at("norm_k"), dim, config.eps),
        }
    }

    /// `hidden (batch, tokens, channels)` attends to `context`, or to itself with `rotary` positions.
    fn forward(
        &self,
        hidden: Tensor<3>,
        context: Option<BlockText>,
        rotary: Option<&Rotary>,
        attachments: &Attachments,
    ) -> Tensor<3> {
        let hooks = attachments.hooks_attention(&self.site);
        let ([key, value], repeats) = match context {
            None => (self.project(hidden.clone(), attachments), 1),
            Some(text) if hooks => (self.project(text.context.whole(), attachments), 1),
            Some(BlockText { context, projected: Some(known) }) => (known.clone(), context.repeats),
            Some(BlockText { context, projected: None }) => {
                (self.project(context.words.clone(), attachments), context.repeats)
            }
        };
        let query = self.norm_q.forward(self.to_q.forward(hidden, attachments));
        let [mut query, mut key, value] = if hooks {
            hooked_heads(&self.site, self.heads, [query, key, value], attachments)
        } else {
            [query, key, value]
        };
        if let Some(rotary) = rotary {
            query = rotary.apply(query);
            key = rotary.apply(key);
        }
        let output = ops::multi_head_attention(query, key, value, self.heads, repeats);
        self.to_out.forward(output, attachments)
    }

    /// Keys and values of `context (batch, tokens, channels)`.
    fn project(&self, context: Tensor<3>, attachments: &Attachments) -> [Tensor<3>; 2] {
        let key = self.norm_k.forward(self.to_k.forward(context.clone(), attachments));
        [key, self.to_v.forward(context, attachments)]
    }
}

/// One transformer block. Hidden states can be hooked behind it and, at the path of its attention to text,
/// between that and the feed-forward layers.
#[derive(Clone, Debug)]
pub struct WanBlock {
    site: String,
    eps: f32,
    attn1: WanAttention,
    norm2: Option<LayerNorm>,
    attn2: WanAttention,
    ffn_in: Linear,
    ffn_out: Linear,
    scale_shift_table: Tensor<3>,
}

impl WanBlock {
    fn new(weights: &Weights, config: &WanTransformerConfig) -> Self {
        let dim = config.inner_dim();
        let spread = Init::Normal((dim as f32).powf(-0.5));
        let text = weights.at("attn2").serving(Role::CrossAttention);
        let feed_forward = weights.at("ffn.net").serving(Role::FeedForward);
        text.state_site(dim);
        weights.state_site(dim);
        Self {
            site: weights.path(""),
            eps: config.eps,
            attn1: WanAttention::new(&weights.at("attn1").serving(Role::SelfAttention), config),
            norm2: config.cross_attn_norm.then(|| LayerNorm::affine(&weights.at("norm2"), dim, config.eps)),
            attn2: WanAttention::new(&text, config),
            ffn_in: Linear::new(&feed_forward.at("0.proj"), dim, config.ffn_dim, true),
            ffn_out: Linear::new(&feed_forward.at("2"), config.ffn_dim, dim, true),
            scale_shift_table: weights.tensor("scale_shift_table", [1, 6, dim], spread),
        }
    }

    /// `hidden (batch, tokens, channels)`, `time (batch, 6, channels)`.
    pub fn forward(
        &self,
        hidden: Tensor<3>,
        context: BlockText,
        time: &Tensor<3>,
        rotary: &Rotary,
        attachments: &Attachments,
    ) -> Tensor<3> {
        let modulation = self.scale_shift_table.clone() + time.clone();
        let part = |index: usize| modulation.clone().narrow(1, index, 1).squeeze_dim::<2>(1);
        let [shift, scale, gate] = [part(0), part(1), part(2)];
        let [ff_shift, ff_scale, ff_gate] = [part(3), part(4), part(5)];

        let normed = ops::layer_norm_modulate(hidden.clone(), scale, shift, self.eps);
        let attended = self.attn1.forward(normed, None, Some(rotary), attachments);
        let hidden = ops::gated_add(hidden, attended, gate);

        let normed = match &self.norm2 {
            Some(norm) => norm.forward(hidden.clone()),
            None => hidden.clone(),
        };
        let hidden = hidden + self.attn2.forward(normed, Some(context), None, attachments);
        let hidden = attachments.after(&self.attn2.site, hidden);

        let normed = ops::layer_norm_modulate(hidden.clone(), ff_scale, ff_shift, self.eps);
        let inner = self.ffn_in.forward_then(normed, attachments, Activation::GeluTanh);
        let hidden = ops::gated_add(hidden, self.ffn_out.forward(inner, attachments), ff_gate);
        attachments.after(&self.site, hidden)
    }
}

/// What the blocks share during one step.
#[derive(Clone, Debug)]
pub struct WanConditions {
    /// Time embedding `(batch, 1, channels)`, for the output layer.
    pub time: Tensor<3>,
    /// Its projection `(batch, 6, channels)`, for the blocks.
    pub modulation: Tensor<3>,
    /// Text context.
    pub context: TextContext,
}

/// The whole denoiser.
#[derive(Clone, Debug)]
pub struct WanTransformer {
    config: WanTransformerConfig,
    patch_embedding: Linear,
    time_in: Linear,
    time_out: Linear,
    time_proj: Linear,
    text_in: Linear,
    text_out: Linear,
    blocks: Stack<WanBlock>,
    proj_out: Linear,
    scale_shift_table: Tensor<3>,
    /// The last rotary embedding that was asked for: every step of a sampling loop asks for the same.
    rotary: Arc<Mutex<Option<(Place, Rotary)>>>,
}

/// What a rotary embedding is made for.
type Place = ([usize; 3], Device);

impl WanTransformer {
    /// Builds the network from `weights`.
    pub fn new(weights: &Weights, config: &WanTransformerConfig) -> Self {
        let dim = config.inner_dim();
        let [pt, ph, pw] = config.patch_size;
        let patch = pt * ph * pw;
        let condition = weights.at("condition_embedder").serving(Role::Embedding);
        let blocks = Stack::new(&weights.at("blocks"), config.num_layers, {
            let config = config.clone();
            move |weights| WanBlock::new(weights, &config)
        });
        Self {
            config: config.clone(),
            patch_embedding: Linear::of_patches(
                &weights.at("patch_embedding").serving(Role::Embedding),
                [dim, config.in_channels, pt, ph, pw],
            ),
            time_in: Linear::new(&condition.at("time_embedder.linear_1"), config.freq_dim, dim, true),
            time_out: Linear::new(&condition.at("time_embedder.linear_2"), dim, dim, true),
            time_proj: Linear::new(&condition.at("time_proj"), dim, 6 * dim, true),
            text_in: Linear::new(&condition.at("text_embedder.linear_1"), config.text_dim, dim, true),
            text_out: Linear::new(&condition.at("text_embedder.linear_2"), dim, dim, true),
            blocks,
            proj_out: Linear::new(&weights.at("proj_out"), dim, config.out_channels * patch, true),
            scale_shift_table: weights.tensor(
                "scale_shift_table",
                [1, 2, dim],
                Init::Normal((dim as f32).powf(-0.5)),
            ),
            rotary: Arc::default(),
        }
    }

    /// The configuration it was built with.
    pub fn config(&self) -> &WanTransformerConfig {
        &self.config
    }

    /// How many blocks there are.
    pub fn depth(&self) -> usize {
        self.blocks.len()
    }

    /// The text context of text-encoder states `(batch, words, text_dim)`. It does not change from step to
    /// step.
    pub fn context(&self, text: Tensor<3>, attachments: &Attachments) -> TextContext {
        let (text, repeats) = TextContext::distinct(text);
        self.context_of(text, repeats, attachments)
    }

    /// The same of states that [`TextContext::distinct`] gave.
    pub fn context_of(&self, text: Tensor<3>, repeats: usize, attachments: &Attachments) -> TextContext {
        let inner = self.text_in.forward_then(text, attachments, Activation::GeluTanh);
        TextContext::new(self.text_out.forward(inner, attachments), repeats)
    }

    /// `context` with the keys and values that the blocks make of it, unless they are different at other
    /// steps, blocks are not at hand, or the text is so long that computing them again is better than keeping
    /// them.
    pub fn projected(&self, context: TextContext, attachments: &Attachments) -> TextContext {
        const MOST_NUMBERS: usize = 64 << 20;
        let depth = self.blocks.len();
        let sites = ["attn2.to_k", "attn2.to_v"];
        let steady =
            |index: usize| sites.iter().all(|site| attachments.is_steady(&format!("blocks.{index}.{site}")));
        let numbers = 2 * depth * context.words.dims().iter().product::<usize>();
        if numbers > MOST_NUMBERS || self.blocks.held() < depth || !(0..depth).all(steady) {
            return context;
        }
        let of_block =
            |index: usize| self.blocks.get(index).attn2.project(context.words.clone(), attachments);
        let projected = (0..depth).map(of_block).collect();
        context.with_projected(projected)
    }

    /// Time conditions for `timesteps` (one per sample, in `[0, 1000]`) beside a text context.
    pub fn conditions(
        &self,
        timesteps: &[f32],
        context: TextContext,
        attachments: &Attachments,
    ) -> WanConditions {
        let [batch, dim] = [timesteps.len(), self.config.inner_dim()];
        let sinusoid =
            timestep_embedding(timesteps, self.config.freq_dim, true, 0.0, &context.words.device());
        let time = self.time_in.forward(sinusoid, attachments);
        let time = self.time_out.forward(ops::silu(time), attachments);
        let modulation = self.time_proj.forward(ops::silu(time.clone()), attachments);
        WanConditions {
            time: time.reshape([batch, 1, dim]),
            modulation: modulation.reshape([batch, 6, dim]),
            context,
        }
    }

    /// `latents (batch, channels, frames, height, width)` as tokens `(batch, tokens, channels)`.
    pub fn patchify(&self, latents: Tensor<5>, attachments: &Attachments) -> Tensor<3> {
        let [batch, channels, ..] = latents.dims();
        let [pt, ph, pw] = self.config.patch_size;
        let [frames, height, width] = self.grid(latents.dims());
        let tokens = latents
            .reshape([batch, channels, frames, pt, height, ph, width, pw])
            .permute([0, 2, 4, 6, 1, 3, 5, 7])
            .reshape([batch, frames * height * width, channels * pt * ph * pw]);
        self.patch_embedding.forward(tokens, attachments)
    }

    /// Tokens along frames, rows and columns for latents of shape `dims`.
    pub fn grid(&self, dims: [usize; 5]) -> [usize; 3] {
        let [pt, ph, pw] = self.config.patch_size;
        [dims[2] / pt, dims[3] / ph, dims[4] / pw]
    }

    /// The rotary embedding for latents of shape `dims`.
    pub fn rotary(&self, dims: [usize; 5], device: &Device) -> Rotary {
        let place = (self.grid(dims), device.clone());
        let mut last = self.rotary.lock().unwrap_or_else(PoisonError::into_inner);
        match &*last {
            Some((own, rotary)) if *own == place => rotary.clone(),
            _ => {
                let rotary = Rotary::new(self.config.attention_head_dim, place.0, device);
                *last = Some((place, rotary.clone()));
                rotary
            }
        }
    }

    /// Block `index`.
    pub fn block(
        &self,
        index: usize,
        hidden: Tensor<3>,
        conditions: &WanConditions,
        rotary: &Rotary,
        attachments: &Attachments,
    ) -> Tensor<3> {
        let WanConditions { context, modulation, .. } = conditions;
        self.blocks.get(index).forward(hidden, context.of_block(index), modulation, rotary, attachments)
    }

    /// The output layer: tokens to a prediction of the latents' shape `dims`.
    pub fn finish(
        &self,
        hidden: Tensor<3>,
        time: &Tensor<3>,
        dims: [usize; 5],
        attachments: &Attachments,
    ) -> Tensor<5> {
        let modulation = self.scale_shift_table.clone() + time.clone();
        let part = |index: usize| modulation.clone().narrow(1, index, 1).squeeze_dim::<2>(1);
        let hidden = ops::layer_norm_modulate(hidden, part(1), part(0), self.config.eps);
        let tokens = self.proj_out.forward(hidden, attachments);

        let [pt, ph, pw] = self.config.patch_size;
        let [frames, height, width] = self.grid(dims);
        let channels = self.config.out_channels;
        tokens
            .reshape([dims[0], frames, height, width, pt, ph, pw, channels])
            .permute([0, 7, 1, 4, 2, 5, 3, 6])
            .reshape([dims[0], channels, frames * pt, height * ph, width * pw])
    }

    /// The prediction for `latents (batch, channels, frames, height, width)` at `timesteps` given a text
    /// context from [`WanTransformer::context`].
    pub fn forward(
        &self,
        latents: Tensor<5>,
        timesteps: &[f32],
        context: TextContext,
        attachments: &Attachments,
    ) -> Tensor<5> {
        self.forward_reusing(latents, timesteps, context, attachments, None)
    }

    /// The same, with blocks skipped in steps that `reuse` finds like earlier ones.
    pub fn forward_reusing(
        &self,
        latents: Tensor<5>,
        timesteps: &[f32],
        context: TextContext,
        attachments: &Attachments,
        reuse: Option<&mut BlockReuse>,
    ) -> Tensor<5> {
        let dims = latents.dims();
        let rotary = self.rotary(dims, &latents.device().without_autodiff());
        let conditions = self.conditions(timesteps, context, attachments);
        let start = self.patchify(latents, attachments);
        let through = |blocks: Range<usize>, hidden: Tensor<3>| {
            blocks.fold(hidden, |hidden, index| self.block(index, hidden, &conditions, &rotary, attachments))
        };
        let depth = self.blocks.len();
        let hidden = match reuse {
            None => through(0..depth, start),
            Some(reuse) => {
                let after = through(0..depth.min(1), start.clone());
                reuse.through(start, after, |after| through(depth.min(1)..depth, after))
            }
        };
        self.finish(hidden, &conditions.time, dims, attachments)
    }
}
