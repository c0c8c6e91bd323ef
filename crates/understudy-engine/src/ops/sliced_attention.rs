//! Attention on devices other than the CPU engine, with memory linear in tokens.
//!
//! The device's own kernel is tried first, which stores no scores; but where it declines a shape it becomes
//! the form that stores all of them, without a word. And burn's graph has no other form for the gradient. So
//! queries go through in slices, of which even the stored scores are few, and the gradient makes the scores
//! of a slice again.

use std::fmt::Debug;

use burn::backend::tensor::FloatTensor;
use burn::backend::{Backend, DispatchKindConversion, DispatchTensor};
use burn::tensor::Tensor;
use burn::tensor::activation::softmax;
use burn::tensor::module::attention as device_attention;
use burn::tensor::ops::AttentionModuleOptions;
use burn_autodiff::Autodiff;
use burn_autodiff::checkpoint::base::Checkpointer;
use burn_autodiff::checkpoint::strategy::NoCheckpointing;
use burn_autodiff::grads::Gradients;
use burn_autodiff::ops::{Backward, Ops, OpsKind};

use super::elsewhere::{operand, widened};

/// Queries the fast kernels take at a time; of keys any number will do.
const TILE: usize = 128;
/// Scores of a slice: 4 GB where they are stored.
const SCORES: usize = 1 << 30;
/// The same where the gradient makes them: 1 GB, and as much again for each thing it makes of them.
const SCORES_AGAIN: usize = 1 << 28;

/// Softmax attention of `query (batch, heads, queries, dim)` to `key` and `value (batch, heads, keys, dim)`,
/// every key seen.
pub(super) fn sliced_attention(query: Tensor<4>, key: Tensor<4>, value: Tensor<4>) -> Tensor<4> {
    let inputs = [query, key, value];
    #[cfg(feature = "gpu")]
    if let Some(output) = tracked::<burn::backend::Cube>(&inputs) {
        return output;
    }
    forward(inputs, SCORES)
}

/// The attention as one node of the graph that some input belongs to; nothing where none does, or on another
/// backend.
#[cfg_attr(not(any(feature = "gpu", test)), allow(dead_code))]
fn tracked<B>(inputs: &[Tensor<4>; 3]) -> Option<Tensor<4>>
where
    B: Backend,
    DispatchTensor: DispatchKindConversion<B> + DispatchKindConversion<Autodiff<B>>,
{
    if !inputs.iter().any(Tensor::is_autodiff) {
        return None;
    }
    let [query, key, value] = inputs.each_ref().map(in_graph::<B>);
    let inputs = [query?, key?, value?];
    let nodes = inputs.each_ref().map(|input| input.node());
    let plain = inputs.map(|input| Tensor::from_primitive::<B>(input.into_primitive()));
    let output = forward(plain.clone(), SCORES);
    let primitive = output.clone().try_into_primitive::<B>().ok()?;
    let output = match Sliced.prepare::<NoCheckpointing>(nodes).compute_bound().stateful() {
        OpsKind::Tracked(prepared) => prepared.finish((plain, output), primitive),
        OpsKind::UnTracked(prepared) => prepared.finish(primitive),
    };
    Some(Tensor::from_primitive::<Autodiff<B>>(output))
}

fn in_graph<B>(tensor: &Tensor<4>) -> Option<FloatTensor<Autodiff<B>>>
where
    B: Backend,
    DispatchTensor: DispatchKindConversion<B> + DispatchKindConversion<Autodiff<B>>,
{
    if tensor.is_autodiff() {
        tensor.clone().try_into_primitive::<Autodiff<B>>().ok()
    } else {
        tensor.clone().try_into_primitive::<B>().ok().map(FloatTensor::<Autodiff<B>>::new)
    }
}

#[derive(Debug)]
struct Sliced;

impl<B> Backward<B, 3> for Sliced
where
    B: Backend,
    DispatchTensor: DispatchKindConversion<B>,
{
    /// Queries, keys and values, and the output.
    type State = ([Tensor<4>; 3], Tensor<4>);

    fn backward(self, ops: Ops<Self::State, 3>, grads: &mut Gradients, _: &mut Checkpointer) {
        let (inputs, output) = ops.state;
        let gradient = Tensor::from_primitive::<B>(grads.consume::<B>(&ops.node));
        let wanted = ops.parents.each_ref().map(Option::is_some);
        let found = gradients(inputs, output, gradient, wanted, SCORES_AGAIN);
        for (parent, found) in ops.parents.into_iter().zip(found) {
            let found = found.and_then(|found| found.try_into_primitive::<B>().ok());
            if let (Some(parent), Some(found)) = (parent, found) {
                grads.register::<B>(parent.id, found);
            }
        }
    }
}

/// How many queries make at most that many scores, in whole tiles.
fn rows(query: &Tensor<4>, key: &Tensor<4>, scores: usize) -> usize {
    let [batch, heads, ..] = query.dims();
    let row = batch * heads * key.dims()[2];
    (scores / row.max(1) / TILE * TILE).max(TILE)
}

/// First and number of the queries of every slice.
fn slices(queries: usize, rows: usize) -> impl Iterator<Item = (usize, usize)> {
    (0..queries).step_by(rows).map(move |first| (first, rows.min(queries - first)))
}

fn forward([query, key, value]: [Tensor<4>; 3], scores: usize) -> Tensor<4> {
    let rows = rows(&query, &key, scores);
    let [key, value] = [key, value].map(operand);
    let slice = |(first, count)| {
        let query = operand(query.clone().narrow(2, first, count));
        widened(by_device(query, key.clone(), value.clone()))
    };
    Tensor::cat(slices(query.dims()[2], rows).map(slice).collect(), 2)
}

/// Attention by the device's kernel. The fast ones decline queries that are not whole tiles, so these are
/// padded, and cut again.
fn by_device(query: Tensor<4>, key: Tensor<4>, value: Tensor<4>) -> Tensor<4> {
    let [batch, heads, queries, dim] = query.dims();
    let query = match queries.next_multiple_of(TILE) - queries {
        0 => query,
        rest => {
            let padding = Tensor::zeros([batch, heads, rest, dim], (&query.device(), query.dtype()));
            Tensor::cat(vec![query, padding], 2)
        }
    };
    device_attention(query, key, value, None, None, AttentionModuleOptions::default()).narrow(2, 0, queries)
}

/// `a b` with operands as products take them now.
fn product(a: Tensor<4>, b: Tensor<4>) -> Tensor<4> {
    widened(operand(a).matmul(operand(b)))
}

/// The gradients of queries, keys and values that are wanted, from that of the output. Scores are products of
/// f32: what they are rounded by, weights would be multiplied by.
fn gradients(
    [query, key, value]: [Tensor<4>; 3],
    output: Tensor<4>,
    gradient: Tensor<4>,
    wanted: [bool; 3],
    scores: usize,
) -> [Option<Tensor<4>>; 3] {
    let scale = (query.dims()[3] as f32).powf(-0.5);
    let rows = rows(&query, &key, scores);
    // What the softmax takes off every row.
    let shared = (gradient.clone() * output).sum_dim(3);
    let mut d_query = Vec::new();
    let sum = |wanted: bool, x: &Tensor<4>| wanted.then(|| Tensor::zeros(x.dims(), &x.device()));
    let (mut d_key, mut d_value) = (sum(wanted[1], &key), sum(wanted[2], &value));
    for (first, count) in slices(query.dims()[2], rows) {
        let [query, gradient, shared] =
            [&query, &gradient, &shared].map(|x| x.clone().narrow(2, first, count));
        let query = query * scale;
        let weights = softmax(query.clone().matmul(key.clone().transpose()), 3);
        d_value = d_value.map(|sum| sum + product(weights.clone().transpose(), gradient.clone()));
        if !wanted[0] && !wanted[1] {
            continue;
        }
        let d_scores = weights * (product(gradient, value.clone().transpose()) - shared);
        if wanted[0] {
            d_query.push(product(d_scores.clone(), key.clone()) * scale);
        }
        d_key = d_key.map(|sum| sum + product(d_scores.transpose(), query));
    }
    [wanted[0].then(|| Tensor::cat(d_query, 2)), d_key, d_value]
}

#[cfg(test)]
mod tests {
    use burn_flex::Flex;

    use super::*;
    use crate::ops::attention::{AttentionOptions, composed};
    use crate::ops::testing::{check, random};
    use crate::random::Random;

    /// Queries in two slices, the second not a whole tile, of as many heads and keys.
    const QUERIES: usize = 2 * TILE + 50;

    #[test]
    fn slices_are_the_whole() {
        let mut random = Random::new(7, 0);
        let mut tensor = |tokens| random.normal_tensor([2, 3, tokens, 8], &burn::tensor::Device::flex());
        let inputs: [Tensor<4>; 3] = [tensor(QUERIES), tensor(11), tensor(11)];
        let [query, key, value] = inputs.clone();
        let expected = composed(query, key, value, &AttentionOptions::default());
        for scores in [1, 2 * 3 * 11 * 2 * TILE, usize::MAX] {
            let found = forward(inputs.clone(), scores);
            assert_eq!(found.dims(), expected.dims());
            let difference = (found - expected.clone()).abs().max().into_scalar::<f32>();
            assert!(difference < 1e-5, "{difference}");
        }
    }

    #[test]
    fn a_node_of_the_graph_gives_the_gradients() {
        let inputs = [random([2, 3, QUERIES, 8], 1), random([2, 3, 11, 8], 2), random([2, 3, 11, 8], 3)];
        check(
            &inputs.each_ref(),
            |t| tracked::<Flex>(&[t.get(0), t.get(1), t.get(2)]).unwrap(),
            |t| composed(t.get(0), t.get(1), t.get(2), &AttentionOptions::default()),
        );
        // Keys and values of a text that nothing is learned of.
        let text = |seed| Random::new(seed, 0).normal_tensor([2, 3, 11, 8], &burn::tensor::Device::flex());
        check(
            &[&inputs[0]],
            |t| tracked::<Flex>(&[t.get(0), text(4), text(5)]).unwrap(),
            |t| composed(t.get(0), text(4), text(5), &AttentionOptions::default()),
        );
    }

    #[test]
    fn gradients_by_slices_are_those_of_the_whole() {
        let mut random = Random::new(8, 0);
        let mut tensor = |tokens| random.normal_tensor([2, 3, tokens, 8], &burn::tensor::Device::flex());
        let inputs: [Tensor<4>; 3] = [tensor(QUERIES), tensor(11), tensor(11)];
        let gradient = tensor(QUERIES);
        let output = forward(inputs.clone(), usize::MAX);
        let by = |wanted, scores| gradients(inputs.clone(), output.clone(), gradient.clone(), wanted, scores);
        let whole = by([true; 3], usize::MAX);
        for wanted in [[true; 3], [true, false, false], [false, true, false], [false, false, true]] {
            for ((found, expected), wanted) in by(wanted, 1).into_iter().zip(&whole).zip(wanted) {
                assert_eq!(found.is_some(), wanted);
                let Some(found) = found else { continue };
                let difference = (found - expected.clone().unwrap()).abs().max().into_scalar::<f32>();
                assert!(difference < 1e-4, "{difference}");
            }
        }
    }
}
