//! Block checkpointing: training a deep stack with the memory of one block.
//!
//! burn keeps every matrix product's output until the backward pass, also under its own checkpointing when
//! weights are frozen. Here the forward pass runs without a graph and keeps only what enters each block; the
//! backward sweep replays one block at a time on a graph of its own. burn's `backward` takes no cotangent,
//! so a block's output is contracted with it: the gradient of `sum(y * g)` is the one wanted.

use burn::tensor::Tensor;

use crate::parameters::{Leaves, NamedGradients};

/// A network that is a stack of blocks over one hidden state, between a beginning and an end.
///
/// `S` tensors, the *shared* state, are made at the beginning and read by every block (a time embedding,
/// a text context).
pub trait BlockStack<const S: usize> {
    /// How many blocks there are.
    fn depth(&self) -> usize;

    /// Everything before the first block: the hidden state and the shared state.
    fn begin(&self) -> (Tensor<3>, [Tensor<3>; S]);

    /// Block `index`.
    fn block(&self, index: usize, hidden: Tensor<3>, shared: &[Tensor<3>; S]) -> Tensor<3>;

    /// What block `index` gives, outside any graph. Where trained tensors take part this must be computed with their values
    /// alone: burn keeps a graph until the next backward pass, also that of a result that was taken out of it.
    fn block_value(&self, index: usize, hidden: Tensor<3>, shared: &[Tensor<3>; S]) -> Tensor<3> {
        self.block(index, hidden, shared).without_autodiff()
    }

    /// Everything after the last block, down to the scalar loss.
    fn loss(&self, hidden: Tensor<3>, shared: &[Tensor<3>; S]) -> Tensor<1>;
}

/// The loss of `stack` and the gradients of `leaves`, keeping every activation (the plain graph).
pub fn backward_plain<const S: usize>(
    stack: &impl BlockStack<S>,
    leaves: &Leaves,
) -> (Tensor<1>, NamedGradients) {
    let (mut hidden, shared) = stack.begin();
    for index in 0..stack.depth() {
        hidden = stack.block(index, hidden, &shared);
    }
    let loss = stack.loss(hidden, &shared);
    let mut gradients = NamedGradients::new();
    leaves.collect(&mut loss.backward(), &mut gradients);
    (loss.without_autodiff(), gradients)
}

/// The same as [`backward_plain`], keeping only block inputs and replaying one block at a time.
pub fn backward_checkpointed<const S: usize>(
    stack: &impl BlockStack<S>,
    leaves: &Leaves,
) -> (Tensor<1>, NamedGradients) {
    let (first, shared) = stack.begin();
    // What no trained tensor had a part in needs no gradient in any block.
    let tracked = shared.each_ref().map(Tensor::is_tracked);
    let frozen = shared.clone().map(Tensor::without_autodiff);
    let mut inputs = vec![first.clone().without_autodiff()];
    for index in 0..stack.depth() {
        let input = inputs[index].clone();
        inputs.push(stack.block_value(index, input, &frozen));
    }

    let mut gradients = NamedGradients::new();
    let mut shared_gradients: [Option<Tensor<3>>; S] = [const { None }; S];
    let last = inputs.pop().unwrap_or_else(|| first.clone().without_autodiff());
    let mut sweep = Sweep { leaves, tracked, gradients: &mut gradients, shared: &mut shared_gradients };
    let (loss, mut cotangent) = sweep.replay(last, &frozen, |hidden, shared| stack.loss(hidden, shared));
    for (index, input) in inputs.into_iter().enumerate().rev() {
        (_, cotangent) = sweep.replay(input, &frozen, |hidden, shared| {
            (stack.block(index, hidden, shared) * cotangent.clone().autodiff()).sum()
        });
    }

    let mut beginning = (first * cotangent.autodiff()).sum();
    for (tensor, gradient) in shared.into_iter().zip(shared_gradients) {
        if let Some(gradient) = gradient {
            beginning = beginning + (tensor * gradient.autodiff()).sum();
        }
    }
    if beginning.is_tracked() {
        leaves.collect(&mut beginning.backward(), &mut gradients);
    }
    (loss, gradients)
}

struct Sweep<'a, const S: usize> {
    leaves: &'a Leaves,
    /// Which of the shared tensors need a gradient.
    tracked: [bool; S],
    gradients: &'a mut NamedGradients,
    shared: &'a mut [Option<Tensor<3>>; S],
}

impl<const S: usize> Sweep<'_, S> {
    /// Runs `part` from fresh leaves, adds up the gradients it gives, and returns its value and the gradient
    /// of its hidden input.
    fn replay(
        &mut self,
        hidden: Tensor<3>,
        shared: &[Tensor<3>; S],
        part: impl FnOnce(Tensor<3>, &[Tensor<3>; S]) -> Tensor<1>,
    ) -> (Tensor<1>, Tensor<3>) {
        let hidden = hidden.autodiff().require_grad();
        let shared: [Tensor<3>; S] = std::array::from_fn(|index| match self.tracked[index] {
            true => shared[index].clone().autodiff().require_grad(),
            false => shared[index].clone().autodiff(),
        });
        let value = part(hidden.clone(), &shared);
        let mut found = value.backward();
        self.leaves.collect(&mut found, self.gradients);
        let wanted = self.shared.iter_mut().zip(&shared).zip(self.tracked).filter(|(_, tracked)| *tracked);
        for ((slot, tensor), _) in wanted {
            if let Some(gradient) = tensor.grad_remove(&mut found) {
                *slot = Some(match slot.take() {
                    Some(sum) => sum + gradient,
                    None => gradient,
                });
            }
        }
        let cotangent =
            hidden.grad_remove(&mut found).unwrap_or_else(|| hidden.zeros_like().without_autodiff());
        (value.without_autodiff(), cotangent)
    }
}
