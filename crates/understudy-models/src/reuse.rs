//! Denoising steps that go through the first block alone.

use burn::tensor::Tensor;
use understudy_engine::host;

/// What the blocks added to their tokens when all of them last ran.
///
/// From step to step it changes little, and what the first block adds tells how much: while that has changed
/// by less than a threshold the other blocks are skipped, and what they added is added again (the idea of
/// TeaCache, Liu and others, "Timestep Embedding Tells: It's Time to Cache for Video Diffusion Model", 2024,
/// with the first block in place of the embedding of time, which needs coefficients for every model).
#[derive(Clone, Debug)]
pub struct BlockReuse {
    threshold: f32,
    kept: Option<Kept>,
    skipped: usize,
}

#[derive(Clone, Debug)]
struct Kept {
    /// What the first block added.
    first: Tensor<3>,
    /// What all others added.
    rest: Tensor<3>,
}

impl BlockReuse {
    /// Skips while the first block's addition has changed by less than this part of itself, on average.
    pub fn new(threshold: f32) -> Self {
        Self { threshold, kept: None, skipped: 0 }
    }

    /// How many steps were skipped.
    pub fn skipped(&self) -> usize {
        self.skipped
    }

    /// Tokens `(batch, tokens, channels)` after all blocks: `start` before and `after` behind the first,
    /// `rest` the others.
    pub fn through(
        &mut self,
        start: Tensor<3>,
        after: Tensor<3>,
        rest: impl FnOnce(Tensor<3>) -> Tensor<3>,
    ) -> Tensor<3> {
        let first = after.clone() - start;
        if let Some(kept) = self.kept.as_ref().filter(|kept| kept.first.dims() == first.dims())
            && change(&first, &kept.first) < self.threshold
        {
            self.skipped += 1;
            return after + kept.rest.clone();
        }
        let end = rest(after.clone());
        self.kept = Some(Kept { first, rest: end.clone() - after });
        end
    }
}

/// The mean distance of numbers, in parts of their mean size before.
fn change(now: &Tensor<3>, before: &Tensor<3>) -> f32 {
    let sizes =
        Tensor::cat(vec![(now.clone() - before.clone()).abs().mean(), before.clone().abs().mean()], 0);
    match host::values(sizes)[..] {
        [distance, size] if size > 0.0 => distance / size,
        _ => f32::INFINITY,
    }
}

#[cfg(test)]
mod tests {
    use burn::tensor::Device;

    use super::*;

    #[test]
    fn blocks_run_again_once_the_first_has_changed_enough() {
        let tokens = |value: f32| Tensor::<3>::full([1, 2, 4], value, &Device::flex());
        let mut reuse = BlockReuse::new(0.1);
        let mut step = |first: f32| {
            let mut ran = false;
            let end = reuse.through(tokens(0.0), tokens(first), |x| {
                ran = true;
                x * 3.0
            });
            (end.max().into_scalar::<f32>(), ran)
        };
        assert_eq!(step(1.0), (3.0, true));
        assert_eq!(step(1.05), (3.05, false));
        // The comparison is with the step in which all ran, so small changes add up.
        assert_eq!(step(1.11), (3.33, true));
        assert_eq!(reuse.skipped(), 1);
        // Another batch is another matter.
        let twice = |x: f32| Tensor::<3>::full([2, 2, 4], x, &Device::flex());
        reuse.through(twice(0.0), twice(1.11), |x| x * 2.0);
        assert_eq!(reuse.skipped(), 1);
    }
}
