//! Attention that trains without storing its score matrix.

use burn::tensor::activation::softmax;
use burn::tensor::{Bool, Tensor, TensorData};
use understudy_kernels as kernels;
use understudy_kernels::AttentionShape;

use crate::cpu::{Array, CpuOp, Kept, Primitive, apply};
use crate::ops::precision;
use crate::ops::sliced_attention::sliced_attention;

/// How an attention weighs and hides keys.
#[derive(Clone, Debug, Default)]
pub struct AttentionOptions {
    /// Multiplies the scores; `1 / sqrt(dim)` when absent.
    pub scale: Option<f32>,
    /// For every sample, how many of the keys, from the first, are seen; all when absent.
    pub key_lengths: Option<Vec<usize>>,
    /// Whether a query sees no key after its own position.
    pub causal: bool,
}

/// Softmax attention. `query (batch, heads, queries, dim)`, `key` and `value (batch, heads, keys, dim)`;
/// the result is shaped like `query`.
///
/// Memory is linear in tokens, forward and backward: scores are made block by block and, for the gradient,
/// made again. Causal attention, which only short texts use, is composed and stores them; so is hiding keys
/// on devices other than the CPU engine.
pub fn attention(query: Tensor<4>, key: Tensor<4>, value: Tensor<4>, options: AttentionOptions) -> Tensor<4> {
    let [batch, heads, q_tokens, dim] = query.dims();
    let k_tokens = key.dims()[2];
    if !options.causal
        && let (Some(q), Some(k), Some(v)) =
            (Primitive::of(&query), Primitive::of(&key), Primitive::of(&value))
    {
        let seen = |&length: &usize| (0..k_tokens).map(move |k| k < length);
        let op = Attention {
            shape: AttentionShape { batch, heads, q_tokens, k_tokens, dim, heads_inside: false },
            scale: options.scale.unwrap_or((dim as f32).powf(-0.5)),
            mask: options.key_lengths.as_ref().map(|lengths| lengths.iter().flat_map(seen).collect()),
            bias: None,
        };
        return apply(op, [q, k, v]).into_tensor();
    }
    elsewhere(query, key, value, &options)
}

/// [`attention`] over `heads` heads that lie one after the other in the channels: `query (batch, queries,
/// channels)`, `key` and `value (batch, keys, channels)`; the result is shaped like `query`. The last key
/// stands for `repeats` keys like it.
pub fn multi_head_attention(
    query: Tensor<3>,
    key: Tensor<3>,
    value: Tensor<3>,
    heads: usize,
    repeats: usize,
) -> Tensor<3> {
    let [batch, q_tokens, channels] = query.dims();
    let k_tokens = key.dims()[1];
    let dim = channels / heads;
    if let (Some(q), Some(k), Some(v)) = (Primitive::of(&query), Primitive::of(&key), Primitive::of(&value)) {
        let shape = AttentionShape { batch, heads, q_tokens, k_tokens, dim, heads_inside: true };
        let bias = (repeats > 1).then(|| repeated(k_tokens, repeats));
        let op = Attention { shape, scale: (dim as f32).powf(-0.5), mask: None, bias };
        return apply(op, [q, k, v]).into_tensor();
    }
    let split = |x: Tensor<3>, tokens| x.reshape([batch, tokens, heads, dim]).swap_dims(1, 2);
    let [key, value] = [key, value].map(|x| repeat_last(x, repeats));
    let options = AttentionOptions::default();
    let keys = key.dims()[1];
    let output = elsewhere(split(query, q_tokens), split(key, keys), split(value, keys), &options);
    output.swap_dims(1, 2).reshape([batch, q_tokens, channels])
}

/// `x (batch, tokens, channels)` with its last token `repeats` times.
pub fn repeat_last(x: Tensor<3>, repeats: usize) -> Tensor<3> {
    if repeats <= 1 {
        return x;
    }
    let last = x.clone().narrow(1, x.dims()[1] - 1, 1);
    Tensor::cat(vec![x, last.repeat_dim(1, repeats - 1)], 1)
}

/// What to add to scores so that the last of `keys` counts `repeats` times.
fn repeated(keys: usize, repeats: usize) -> Vec<f32> {
    let mut bias = vec![0.0; keys];
    if let Some(last) = bias.last_mut() {
        *last = (repeats as f32).ln();
    }
    bias
}

/// Attention on devices other than the CPU engine. Hidden keys and scales of one's own, which only texts
/// have, are composed.
fn elsewhere(query: Tensor<4>, key: Tensor<4>, value: Tensor<4>, options: &AttentionOptions) -> Tensor<4> {
    if options.scale.is_none() && options.key_lengths.is_none() && !options.causal {
        sliced_attention(query, key, value)
    } else {
        composed(query, key, value, options)
    }
}

pub(super) fn composed(
    query: Tensor<4>,
    key: Tensor<4>,
    value: Tensor<4>,
    options: &AttentionOptions,
) -> Tensor<4> {
    let [batch, _, queries, dim] = query.dims();
    let keys = key.dims()[2];
    let scale = options.scale.unwrap_or((dim as f32).powf(-0.5));
    let device = query.device().without_autodiff();
    let mut scores = (query * scale).matmul(key.swap_dims(2, 3));
    let mut hide = |hidden: Vec<bool>, shape: [usize; 4]| {
        let hidden = Tensor::<4, Bool>::from_data(TensorData::new(hidden, shape), &device);
        scores = scores.clone().mask_fill(hidden.expand(scores.dims()), f32::MIN);
    };
    if options.causal {
        let later = (0..queries).flat_map(|q| (0..keys).map(move |k| k > q)).collect();
        hide(later, [1, 1, queries, keys]);
    }
    if let Some(lengths) = &options.key_lengths {
        let beyond = lengths.iter().flat_map(|&n| (0..keys).map(move |k| k >= n)).collect();
        hide(beyond, [batch, 1, 1, keys]);
    }
    softmax(scores, 3).matmul(value)
}

#[derive(Clone, Debug)]
struct Attention {
    shape: AttentionShape,
    scale: f32,
    mask: Option<Vec<bool>>,
    bias: Option<Vec<f32>>,
}

impl CpuOp<3> for Attention {
    fn forward(&self, [q, k, v]: [&Array; 3]) -> (Array, Vec<Array>) {
        let mask = self.mask.as_deref();
        let (out, lse) = kernels::attention_forward(
            q.data(),
            k.data(),
            v.data(),
            self.shape,
            self.scale,
            mask,
            self.bias.as_deref(),
            precision(),
        );
        let rows = lse.len();
        (Array::new(out, q.shape()), vec![Array::new(lse, [rows])])
    }

    fn keeps(&self, _: [bool; 3]) -> ([bool; 3], bool) {
        ([true, true, true], true)
    }

    fn backward(&self, kept: &Kept<3>, grad: &Array, wanted: [bool; 3]) -> [Option<Array>; 3] {
        let (dq, dk, dv) = kernels::attention_backward(
            kept.input(0),
            kept.input(1),
            kept.input(2),
            kept.output(),
            kept.extra(0),
            grad.data(),
            self.shape,
            self.scale,
            self.mask.as_deref(),
            self.bias.as_deref(),
            precision(),
        );
        let mut index = 0;
        [dq, dk, dv].map(|values| {
            index += 1;
            wanted[index - 1].then(|| Array::new(values, kept.shape(index - 1)))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::testing::{check, random};

    #[test]
    fn kernel_agrees_with_the_composed_form() {
        let cross = [random([2, 3, 70, 8], 1), random([2, 3, 11, 8], 2), random([2, 3, 11, 8], 3)];
        let cases = [
            AttentionOptions::default(),
            AttentionOptions { scale: Some(0.7), key_lengths: Some(vec![4, 11]), causal: false },
        ];
        for options in cases {
            check(
                &cross.each_ref(),
                |t| attention(t.get(0), t.get(1), t.get(2), options.clone()),
                |t| composed(t.get(0), t.get(1), t.get(2), &options),
            );
        }
    }

    #[test]
    fn heads_in_channels_are_the_same_attention() {
        let inputs = [random([2, 7, 24], 4), random([2, 5, 24], 5), random([2, 5, 24], 6)];
        let split = |x: Tensor<3>| {
            let tokens = x.dims()[1];
            x.reshape([2, tokens, 3, 8]).swap_dims(1, 2)
        };
        for repeats in [1, 6] {
            let whole = |x: Tensor<3>| {
                let last = x.clone().narrow(1, 4, 1);
                Tensor::cat(std::iter::once(x).chain((1..repeats).map(|_| last.clone())).collect(), 1)
            };
            check(
                &inputs.each_ref(),
                |t| multi_head_attention(t.get(0), t.get(1), t.get(2), 3, repeats),
                |t| {
                    let [q, k, v] = [t.get(0), whole(t.get(1)), whole(t.get(2))].map(split);
                    composed(q, k, v, &AttentionOptions::default()).swap_dims(1, 2).reshape([2, 7, 24])
                },
            );
        }
    }
}
