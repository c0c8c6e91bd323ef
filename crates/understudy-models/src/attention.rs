//! Attention and the layers around it, as the transformers of diffusion networks have them.

use burn::tensor::Tensor;
use understudy_engine::attach::Attachments;
use understudy_engine::ops;
use understudy_engine::sites::Role;
use understudy_engine::weights::Weights;

use crate::layers::{Linear, hooked_heads};

/// Self- or cross-attention.
///
/// `Attention` of <https://github.com/huggingface/diffusers/blob/v0.42.1/src/diffusers/models/attention_processor.py>.
#[derive(Clone, Debug)]
pub(crate) struct Attention {
    site: String,
    heads: usize,
    to_q: Linear,
    to_k: Linear,
    to_v: Linear,
    to_out: Linear,
}

impl Attention {
    /// Of `channels` to `context` channels, without biases but for that of what comes out.
    pub fn new(weights: &Weights, [channels, context]: [usize; 2], heads: usize) -> Self {
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

    /// One head with biases everywhere, as autoencoders have it; `names` are those of queries, keys, values
    /// and what comes out.
    pub fn single(weights: &Weights, channels: usize, names: [&str; 4]) -> Self {
        let [to_q, to_k, to_v, to_out] =
            names.map(|name| Linear::new(&weights.at(name), channels, channels, true));
        Self { site: weights.path(""), heads: 1, to_q, to_k, to_v, to_out }
    }

    /// The published path.
    pub fn site(&self) -> &str {
        &self.site
    }

    /// `hidden (batch, tokens, channels)` attends to `context (batch, words, channels)`.
    pub fn forward(&self, hidden: Tensor<3>, context: Tensor<3>, attachments: &Attachments) -> Tensor<3> {
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

/// The feed-forward layers of a transformer block, gated by GELU.
///
/// `FeedForward` of <https://github.com/huggingface/diffusers/blob/v0.42.1/src/diffusers/models/attention.py>.
#[derive(Clone, Debug)]
pub(crate) struct FeedForward {
    proj: Linear,
    out: Linear,
}

impl FeedForward {
    /// Four times as wide inside.
    pub fn new(weights: &Weights, channels: usize) -> Self {
        let net = weights.at("net").serving(Role::FeedForward);
        let inner = 4 * channels;
        Self {
            proj: Linear::new(&net.at("0.proj"), channels, 2 * inner, true),
            out: Linear::new(&net.at("2"), inner, channels, true),
        }
    }

    /// `hidden (batch, tokens, channels)`, and so what it gives.
    pub fn forward(&self, hidden: Tensor<3>, attachments: &Attachments) -> Tensor<3> {
        self.out.forward(ops::geglu(self.proj.forward(hidden, attachments)), attachments)
    }
}
