//! What a denoiser's blocks read of texts.

use std::sync::Arc;

use burn::tensor::Tensor;
use understudy_engine::{host, ops};

/// What the blocks read of texts. Wan attends to padding too, all of which is alike: it is computed once.
#[derive(Clone, Debug)]
pub struct TextContext {
    /// `(batch, words, channels)`.
    pub words: Tensor<3>,
    /// The last word stands for so many like it.
    pub repeats: usize,
    /// Keys and values of each block's cross-attention, if they are the same at every step.
    projected: Option<Arc<Vec<[Tensor<3>; 2]>>>,
}

/// A block's part of it.
#[derive(Clone, Copy, Debug)]
pub struct BlockText<'a> {
    /// The whole.
    pub context: &'a TextContext,
    /// Keys and values `(batch, words, channels)`, if they are known.
    pub projected: Option<&'a [Tensor<3>; 2]>,
}

impl TextContext {
    /// Of `words (batch, words, channels)`, the last of which stands for `repeats` like it.
    pub fn new(words: Tensor<3>, repeats: usize) -> Self {
        Self { words, repeats, projected: None }
    }

    /// Text-encoder states `(batch, words, text_dim)` up to the first word that is zero in all of them and in
    /// all that follow, and how many of these there are; 1 where there are none.
    pub fn distinct(states: Tensor<3>) -> (Tensor<3>, usize) {
        let [_, words, channels] = states.dims();
        let values = host::values(states.clone().without_autodiff());
        let used =
            |text: &[f32]| text.iter().rposition(|value| *value != 0.0).map_or(0, |at| at / channels + 1);
        let longest = values.chunks(words * channels).map(used).max().unwrap_or(words);
        match words - longest {
            0 | 1 => (states, 1),
            repeats => (states.narrow(1, 0, longest + 1), repeats),
        }
    }

    /// The same with the keys and values of each block.
    pub(crate) fn with_projected(self, projected: Vec<[Tensor<3>; 2]>) -> Self {
        Self { projected: Some(Arc::new(projected)), ..self }
    }

    /// What block `index` reads.
    pub(crate) fn of_block(&self, index: usize) -> BlockText<'_> {
        BlockText { context: self, projected: self.projected.as_ref().and_then(|all| all.get(index)) }
    }

    /// So many texts from `first` on.
    pub fn narrow(&self, first: usize, count: usize) -> Self {
        self.mapped(|words| words.narrow(0, first, count))
    }

    /// All texts so many times.
    pub fn repeat(&self, times: usize) -> Self {
        self.mapped(|words| words.repeat_dim(0, times))
    }

    fn mapped(&self, of: impl Fn(Tensor<3>) -> Tensor<3>) -> Self {
        let both = |pair: &[Tensor<3>; 2]| pair.clone().map(&of);
        let projected = self.projected.as_ref().map(|all| Arc::new(all.iter().map(both).collect()));
        Self { words: of(self.words.clone()), repeats: self.repeats, projected }
    }

    /// All words, repeated ones too, `(batch, words, channels)`.
    pub fn whole(&self) -> Tensor<3> {
        ops::repeat_last(self.words.clone(), self.repeats)
    }
}
