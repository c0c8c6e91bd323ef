//! Replay of blocks: training a deep stack with the memory of one block.
//!
//! burn keeps every matrix product's output until the backward pass, also under its own checkpointing when
//! weights are frozen. Here the forward pass runs without a graph and keeps only what enters each block; the
//! backward sweep replays one block at a time on a graph of its own. burn's `backward` takes no cotangent,
//! so a block's output is contracted with it: the gradient of `sum(y * g)` is the one wanted.

use burn::tensor::Tensor;

use crate::parameters::{Leaves, NamedGradients};

/// What goes from block to block.
#[derive(Clone, Debug)]
pub struct State {
    /// The hidden state.
    pub hidden: Tensor<3>,
    /// Earlier hidden states that later blocks take up again, the last one first: a UNet's skips. A block
    /// adds to their end or takes from it, never both.
    pub skips: Vec<Tensor<3>>,
}

impl From<Tensor<3>> for State {
    fn from(hidden: Tensor<3>) -> Self {
        Self { hidden, skips: Vec::new() }
    }
}

impl State {
    /// The same outside any graph.
    fn without_autodiff(self) -> Self {
        let skips = self.skips.into_iter().map(Tensor::without_autodiff).collect();
        Self { hidden: self.hidden.without_autodiff(), skips }
    }

    /// The sum of its products with `other`; of its skips those from the one of index `first` on.
    fn dot(&self, other: &Self, first: usize) -> Tensor<1> {
        let product = |a: &Tensor<3>, b: &Tensor<3>| (a.clone() * b.clone().autodiff()).sum();
        let skips = self.skips.iter().zip(&other.skips).skip(first);
        let hidden = product(&self.hidden, &other.hidden);
        skips.fold(hidden, |sum, (own, other)| sum + product(own, other))
    }
}

/// A network that is a stack of blocks over one state, between a beginning and an end.
///
/// The *shared* tensors are made at the beginning and read by every block: a time embedding, a text context,
/// what is attached and trained along.
pub trait BlockStack {
    /// How many blocks there are.
    fn depth(&self) -> usize;

    /// Everything before the first block: the state and the shared tensors.
    fn begin(&self) -> (State, Vec<Tensor<3>>);

    /// Block `index`.
    fn block(&self, index: usize, state: State, shared: &[Tensor<3>]) -> State;

    /// What block `index` gives, outside any graph. Where trained tensors take part this must be computed
    /// with their values alone: burn keeps a graph until the next backward pass, also that of a result that
    /// was taken out of it.
    fn block_value(&self, index: usize, state: State, shared: &[Tensor<3>]) -> State {
        self.block(index, state, shared).without_autodiff()
    }

    /// Everything after the last block, down to the scalar loss.
    fn loss(&self, state: State, shared: &[Tensor<3>]) -> Tensor<1>;
}

/// The loss of `stack` and the gradients of `leaves`: with `replayed` blocks, of which only the inputs are
/// kept, or keeping every activation.
pub fn backward(stack: &dyn BlockStack, leaves: &Leaves, replayed: bool) -> (Tensor<1>, NamedGradients) {
    if replayed { backward_replayed(stack, leaves) } else { backward_whole(stack, leaves) }
}

fn backward_whole(stack: &dyn BlockStack, leaves: &Leaves) -> (Tensor<1>, NamedGradients) {
    let (mut state, shared) = stack.begin();
    for index in 0..stack.depth() {
        state = stack.block(index, state, &shared);
    }
    let loss = stack.loss(state, &shared);
    let mut gradients = NamedGradients::new();
    leaves.collect(&mut loss.backward(), &mut gradients);
    (loss.without_autodiff(), gradients)
}

fn backward_replayed(stack: &dyn BlockStack, leaves: &Leaves) -> (Tensor<1>, NamedGradients) {
    let (first, shared) = stack.begin();
    // What no trained tensor had a part in needs no gradient in any block.
    let tracked: Vec<bool> = shared.iter().map(Tensor::is_tracked).collect();
    let frozen: Vec<Tensor<3>> = shared.iter().cloned().map(Tensor::without_autodiff).collect();
    let mut inputs = vec![first.clone().without_autodiff()];
    for index in 0..stack.depth() {
        let input = inputs[index].clone();
        inputs.push(stack.block_value(index, input, &frozen));
    }

    let mut gradients = NamedGradients::new();
    let mut shared_gradients = vec![None; shared.len()];
    let last = inputs.pop().unwrap_or_else(|| first.clone().without_autodiff());
    let mut sweep =
        Sweep { leaves, tracked: &tracked, gradients: &mut gradients, shared: &mut shared_gradients };
    let (loss, mut cotangent) = sweep.replay(last, 0, &frozen, |state, shared| stack.loss(state, shared));
    for (index, input) in inputs.into_iter().enumerate().rev() {
        // The skips that the block passes on as they are have the gradients they had after it.
        let passed = input.skips.len().min(cotangent.skips.len());
        let (_, State { hidden, skips }) = sweep.replay(input, passed, &frozen, |state, shared| {
            stack.block(index, state, shared).dot(&cotangent, passed)
        });
        cotangent.hidden = hidden;
        cotangent.skips.truncate(passed);
        cotangent.skips.extend(skips);
    }

    let mut beginning = first.dot(&cotangent, 0);
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

struct Sweep<'a> {
    leaves: &'a Leaves,
    /// Which of the shared tensors need a gradient.
    tracked: &'a [bool],
    gradients: &'a mut NamedGradients,
    shared: &'a mut [Option<Tensor<3>>],
}

impl Sweep<'_> {
    /// Runs `part` from fresh leaves, adds up the gradients it gives, and returns its value and the gradients
    /// of the hidden state and of the skips from the one of index `passed` on.
    fn replay(
        &mut self,
        state: State,
        passed: usize,
        shared: &[Tensor<3>],
        part: impl FnOnce(State, &[Tensor<3>]) -> Tensor<1>,
    ) -> (Tensor<1>, State) {
        let State { hidden, mut skips } = state;
        let hidden = hidden.autodiff().require_grad();
        for skip in skips.iter_mut().skip(passed) {
            *skip = skip.clone().autodiff().require_grad();
        }
        let leaf = |(tensor, tracked): (&Tensor<3>, &bool)| {
            let own = tensor.clone().autodiff();
            if *tracked { own.require_grad() } else { own }
        };
        let shared: Vec<Tensor<3>> = shared.iter().zip(self.tracked).map(leaf).collect();
        let value = part(State { hidden: hidden.clone(), skips: skips.clone() }, &shared);
        let mut found = value.backward();
        self.leaves.collect(&mut found, self.gradients);
        let wanted = self.shared.iter_mut().zip(&shared).zip(self.tracked).filter(|(_, tracked)| **tracked);
        for ((slot, tensor), _) in wanted {
            if let Some(gradient) = tensor.grad_remove(&mut found) {
                *slot = Some(match slot.take() {
                    Some(sum) => sum + gradient,
                    None => gradient,
                });
            }
        }
        let mut gradient = |tensor: &Tensor<3>| {
            tensor.grad_remove(&mut found).unwrap_or_else(|| tensor.zeros_like().without_autodiff())
        };
        let cotangent = State {
            hidden: gradient(&hidden),
            skips: skips.iter().skip(passed).map(&mut gradient).collect(),
        };
        (value.without_autodiff(), cotangent)
    }
}
