//! Parts of clips: what is hard to draw is around characters, and what a step costs grows with what it sees.

use burn::tensor::Tensor;
use understudy_engine::random::Random;

use crate::pretrain::clips::ClipBatch;

/// A rectangle of pixels, the same in every frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Window {
    /// First row and column.
    first: [usize; 2],
    /// Rows and columns.
    side: [usize; 2],
}

/// Of how many windows one lies anywhere and not around a character.
const ANYWHERE: u64 = 5;

impl Window {
    /// One of `side` in `clip` of `batch`, mostly so that its middle shows a character in some frame, as far
    /// as it is within the picture.
    pub(crate) fn drawn(batch: &ClipBatch, clip: usize, side: [usize; 2], random: &mut Random) -> Self {
        let [_, frames, rows, columns] = batch.dims;
        let each = frames * rows * columns;
        let mask = &batch.masks[clip * each..(clip + 1) * each];
        let anywhere = random.below(ANYWHERE) == 0;
        let inside: Vec<usize> =
            if anywhere { Vec::new() } else { (0..each).filter(|&at| mask[at] > 0.0).collect() };
        let middle = match inside.len() {
            0 => random.below((rows * columns) as u64) as usize,
            count => inside[random.below(count as u64) as usize] % (rows * columns),
        };
        let first = |middle: usize, side: usize, extent: usize| {
            middle.saturating_sub(side / 2).min(extent - side.min(extent))
        };
        let [row, column] = [middle / columns, middle % columns];
        Self { first: [first(row, side[0], rows), first(column, side[1], columns)], side }
    }

    /// The window of `video (clips, channels, frames, rows, columns)`.
    pub(crate) fn of(self, video: Tensor<5>) -> Tensor<5> {
        let Self { first, side } = self;
        video.narrow(3, first[0], side[0]).narrow(4, first[1], side[1])
    }

    /// `video` with `part` in this window.
    pub(crate) fn pasted(self, part: Tensor<5>, video: Tensor<5>) -> Tensor<5> {
        let Self { first, side } = self;
        let rows = video.clone().narrow(3, first[0], side[0]);
        framed(framed(part, rows, 4, first[1]), video, 3, first[0])
    }
}

/// `whole` with `part` along `axis` from `first` on.
fn framed(part: Tensor<5>, whole: Tensor<5>, axis: usize, first: usize) -> Tensor<5> {
    let [extent, own] = [whole.dims()[axis], part.dims()[axis]];
    let rest = |from: usize, to: usize| (to > from).then(|| whole.clone().narrow(axis, from, to - from));
    let parts = [rest(0, first), Some(part), rest(first + own, extent)];
    Tensor::cat(parts.into_iter().flatten().collect(), axis)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use burn::tensor::{Device, Int};
    use understudy_engine::host::values;

    /// A clip of 3 frames of 8 x 8 whose character is the pixel in row 6, column 1 of the last frame.
    fn batch() -> ClipBatch {
        let mut masks = vec![0.0; 3 * 64];
        masks[2 * 64 + 6 * 8 + 1] = 1.0;
        ClipBatch { dims: [1, 3, 8, 8], pixels: Vec::new(), masks, captions: Vec::new() }
    }

    #[test]
    fn windows_lie_around_characters() {
        let mut random = Random::new(1, 0);
        let windows: Vec<Window> =
            (0..100).map(|_| Window::drawn(&batch(), 0, [4, 2], &mut random)).collect();
        assert!(windows.iter().all(|own| own.first[0] <= 4 && own.first[1] <= 6 && own.side == [4, 2]));
        let around = windows.iter().filter(|own| own.first == [4, 0]).count();
        assert!((70..95).contains(&around), "{around}");
        let whole = Window::drawn(&batch(), 0, [8, 8], &mut random);
        assert_eq!(whole.first, [0, 0]);
    }

    #[test]
    fn what_is_cut_out_can_be_put_back() {
        let device = Device::flex();
        let video = Tensor::<1, Int>::arange(0..128, &device).float().reshape([1, 2, 1, 8, 8]);
        for (first, side) in [([4, 0], [4, 2]), ([1, 3], [5, 4]), ([0, 0], [8, 8])] {
            let window = Window { first, side };
            let part = window.of(video.clone());
            assert_eq!(part.dims(), [1, 2, 1, side[0], side[1]]);
            assert_eq!(values(window.pasted(part.clone(), video.clone())), values(video.clone()));
            let other = values(window.pasted(part * 0.0 - 1.0, video.clone()));
            assert_eq!(other.iter().filter(|value| **value < 0.0).count(), 2 * side[0] * side[1]);
        }
    }
}
