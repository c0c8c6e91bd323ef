//! The UMT5 text encoder.
//!
//! Published as `UMT5EncoderModel`: T5 1.1 with a relative position bias of its own in every layer, scores
//! that are not scaled, and a gated GELU.

use burn::tensor::activation::softmax;
use burn::tensor::{Int, Tensor, TensorData};
use serde::{Deserialize, Serialize};
use understudy_engine::attach::Attachments;
use understudy_engine::ops::Activation;
use understudy_engine::sites::Role;
use understudy_engine::stack::Stack;
use understudy_engine::weights::{Init, Weights};

use crate::layers::{Embedding, Linear, RmsNorm, join_heads, split_heads};

/// The published `config.json` of a UMT5 encoder.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Umt5Config {
    /// Rows of the token embedding.
    pub vocab_size: usize,
    /// Channels of the hidden state.
    pub d_model: usize,
    /// Channels of one head's queries, keys and values.
    pub d_kv: usize,
    /// Channels of the feed-forward layers.
    pub d_ff: usize,
    /// Layers.
    pub num_layers: usize,
    /// Attention heads.
    pub num_heads: usize,
    /// Buckets of relative positions.
    pub relative_attention_num_buckets: usize,
    /// Distance from which on all positions share a bucket.
    pub relative_attention_max_distance: usize,
    /// Epsilon of every normalization.
    pub layer_norm_epsilon: f32,
    /// The kind of feed-forward layer; only `gated-gelu` is published.
    #[serde(default = "gated_gelu")]
    pub feed_forward_proj: String,
}

fn gated_gelu() -> String {
    "gated-gelu".into()
}

impl Umt5Config {
    /// What in this configuration is not implemented, if anything.
    pub fn unsupported(&self) -> Option<String> {
        (self.feed_forward_proj != "gated-gelu")
            .then(|| format!("feed_forward_proj: {:?} is not known", self.feed_forward_proj))
    }
}

#[derive(Clone, Debug)]
struct SelfAttention {
    heads: usize,
    buckets: usize,
    max_distance: usize,
    q: Linear,
    k: Linear,
    v: Linear,
    o: Linear,
    relative_attention_bias: Embedding,
}

impl SelfAttention {
    fn new(weights: &Weights, config: &Umt5Config) -> Self {
        let inner = config.num_heads * config.d_kv;
        let linear = |name: &str, inputs, outputs, init| {
            Linear::with_init(&weights.at(name), inputs, outputs, false, Init::Normal(init))
        };
        // T5's own starts: unscaled scores want small queries.
        let [d, kv] = [config.d_model as f32, config.d_kv as f32];
        Self {
            heads: config.num_heads,
            buckets: config.relative_attention_num_buckets,
            max_distance: config.relative_attention_max_distance,
            q: linear("q", config.d_model, inner, (d * kv).powf(-0.5)),
            k: linear("k", config.d_model, inner, d.powf(-0.5)),
            v: linear("v", config.d_model, inner, d.powf(-0.5)),
            o: linear("o", inner, config.d_model, (inner as f32).powf(-0.5)),
            relative_attention_bias: Embedding::new(
                &weights.at("relative_attention_bias"),
                config.relative_attention_num_buckets,
                config.num_heads,
                d.powf(-0.5),
            ),
        }
    }

    /// `x (batch, tokens, d_model)`; `mask (batch, 1, 1, tokens)` is added to the scores.
    fn forward(&self, x: Tensor<3>, mask: &Tensor<4>, attachments: &Attachments) -> Tensor<3> {
        let tokens = x.dims()[1];
        let query = split_heads(self.q.forward(x.clone(), attachments), self.heads);
        let key = split_heads(self.k.forward(x.clone(), attachments), self.heads);
        let value = split_heads(self.v.forward(x, attachments), self.heads);
        let scores = query.matmul(key.swap_dims(2, 3)) + self.position_bias(tokens) + mask.clone();
        self.o.forward(join_heads(softmax(scores, 3).matmul(value)), attachments)
    }

    /// `(1, heads, tokens, tokens)`.
    fn position_bias(&self, tokens: usize) -> Tensor<4> {
        let bucket = |from: usize, to: usize| {
            relative_bucket(to as i64 - from as i64, self.buckets, self.max_distance) as i32
        };
        let buckets: Vec<i32> =
            (0..tokens).flat_map(|from| (0..tokens).map(move |to| bucket(from, to))).collect();
        let device = self.relative_attention_bias.device().without_autodiff();
        let indices = Tensor::<2, Int>::from_data(TensorData::new(buckets, [tokens, tokens]), &device);
        self.relative_attention_bias.forward(indices).permute([2, 0, 1]).unsqueeze_dim(0)
    }
}

/// The bucket of a relative position: half of the buckets look back and half ahead; of each half, half are
/// exact distances and the rest grow logarithmically up to `max_distance`.
fn relative_bucket(relative: i64, buckets: usize, max_distance: usize) -> usize {
    let half = buckets / 2;
    let ahead = if relative > 0 { half } else { 0 };
    let distance = relative.unsigned_abs() as usize;
    let exact = half / 2;
    if distance < exact {
        return ahead + distance;
    }
    let ratio = (distance as f32 / exact as f32).ln() / (max_distance as f64 / exact as f64).ln() as f32;
    let grown = exact + (ratio * (half - exact) as f32) as usize;
    ahead + grown.min(half - 1)
}

#[derive(Clone, Debug)]
struct Block {
    attention_norm: RmsNorm,
    attention: SelfAttention,
    feed_forward_norm: RmsNorm,
    wi_0: Linear,
    wi_1: Linear,
    wo: Linear,
}

impl Block {
    fn new(weights: &Weights, config: &Umt5Config) -> Self {
        let attention = weights.at("layer.0").serving(Role::SelfAttention);
        let feed_forward = weights.at("layer.1").serving(Role::FeedForward);
        let dense = feed_forward.at("DenseReluDense");
        let [d, ff] = [config.d_model, config.d_ff];
        let norm = |at: &Weights| RmsNorm::new(&at.at("layer_norm"), d, config.layer_norm_epsilon);
        Self {
            attention_norm: norm(&attention),
            attention: SelfAttention::new(&attention.at("SelfAttention"), config),
            feed_forward_norm: norm(&feed_forward),
            wi_0: Linear::new(&dense.at("wi_0"), d, ff, false),
            wi_1: Linear::new(&dense.at("wi_1"), d, ff, false),
            wo: Linear::new(&dense.at("wo"), ff, d, false),
        }
    }

    fn forward(&self, x: Tensor<3>, mask: &Tensor<4>, attachments: &Attachments) -> Tensor<3> {
        let normed = self.attention_norm.forward(x.clone());
        let x = x + self.attention.forward(normed, mask, attachments);
        let normed = self.feed_forward_norm.forward(x.clone());
        let gate = self.wi_0.forward_then(normed.clone(), attachments, Activation::GeluTanh);
        let inner = gate * self.wi_1.forward(normed, attachments);
        x + self.wo.forward(inner, attachments)
    }
}

/// The whole encoder.
#[derive(Clone, Debug)]
pub struct Umt5Encoder {
    config: Umt5Config,
    shared: Embedding,
    blocks: Stack<Block>,
    final_layer_norm: RmsNorm,
}

impl Umt5Encoder {
    /// Builds the network from `weights`. The token embedding is published once as `shared`; files that
    /// repeat it as `encoder.embed_tokens` are read too.
    pub fn new(weights: &Weights, config: &Umt5Config) -> Self {
        let encoder = weights.at("encoder");
        if encoder.has("embed_tokens.weight") {
            Embedding::new(&encoder.at("embed_tokens").headers(), config.vocab_size, config.d_model, 1.0);
        }
        Self {
            config: config.clone(),
            shared: Embedding::large(&weights.at("shared"), config.vocab_size, config.d_model, 1.0),
            blocks: Stack::new(&encoder.at("block"), config.num_layers, {
                let config = config.clone();
                move |weights| Block::new(weights, &config)
            }),
            final_layer_norm: RmsNorm::new(
                &encoder.at("final_layer_norm"),
                config.d_model,
                config.layer_norm_epsilon,
            ),
        }
    }

    /// The configuration it was built with.
    pub fn config(&self) -> &Umt5Config {
        &self.config
    }

    /// The embeddings of `tokens (batch, tokens)`, `(batch, tokens, d_model)`.
    pub fn embed(&self, tokens: Tensor<2, Int>) -> Tensor<3> {
        self.shared.forward(tokens)
    }

    /// The last hidden states `(batch, tokens, d_model)` of `embeddings`, of which each sample's first
    /// `lengths` tokens are real. States of padding are computed but mean nothing.
    pub fn forward(&self, embeddings: Tensor<3>, lengths: &[usize], attachments: &Attachments) -> Tensor<3> {
        let [batch, tokens, _] = embeddings.dims();
        let added = |&length: &usize| (0..tokens).map(move |t| if t < length { 0.0 } else { f32::MIN });
        let mask: Vec<f32> = lengths.iter().flat_map(added).collect();
        let device = embeddings.device().without_autodiff();
        let mask = Tensor::from_data(TensorData::new(mask, [batch, 1, 1, tokens]), &device);
        let block = |x, index| self.blocks.get(index).forward(x, &mask, attachments);
        let hidden = (0..self.blocks.len()).fold(embeddings, block);
        self.final_layer_norm.forward(hidden)
    }
}
