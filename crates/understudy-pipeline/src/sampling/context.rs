//! Windows over the frames of a video that is longer than a denoiser knows positions for: it sees a window at
//! a time, and what it predicts where windows overlap is weighed.
//!
//! As ComfyUI-AnimateDiff-Evolved has them (`context.py`): windows start elsewhere in every step, so that
//! seams average out, and a frame counts the more the further it is from its window's ends, as in FreeNoise
//! (Qiu et al., "FreeNoise: Tuning-Free Longer Video Diffusion via Noise Rescheduling", 2024).

use serde::{Deserialize, Serialize};

/// How windows are laid.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Context {
    /// Frames of a window.
    pub length: usize,
    /// Frames that neighbours have in common.
    pub overlap: usize,
    /// Up to which power of two frames are skipped: at 1 none are, at 2 there are windows of every second
    /// frame too.
    pub stride: usize,
    /// Whether windows go on from the last frame to the first, for videos that are played in a loop.
    pub looped: bool,
}

impl Context {
    /// What is usual.
    pub const USUAL: Self = Self { length: 16, overlap: 4, stride: 1, looped: false };

    /// The windows over so many `frames` in step `step`, each by its frames.
    pub fn windows(&self, frames: usize, step: usize) -> Vec<Vec<usize>> {
        if frames <= self.length {
            return vec![(0..frames).collect()];
        }
        let uniform = self.uniform(frames, step);
        let windows = if self.looped { uniform } else { straightened(uniform, frames, self.length) };
        covered(windows, frames, self.length)
    }

    /// Windows that may go on from the end to the beginning.
    fn uniform(&self, frames: usize, step: usize) -> Vec<Vec<usize>> {
        let doublings = (frames as f64 / self.length as f64).log2().ceil() as usize + 1;
        let halved = ordered_halving(step);
        // Half a frame is rounded to an even number of them.
        let pad = (frames as f64 * halved).round_ties_even() as usize;
        let mut windows = Vec::new();
        for doubling in 0..self.stride.clamp(1, doublings) {
            let skip = 1 << doubling;
            let first = (halved * skip as f64) as usize + pad;
            let end = (frames + pad).saturating_sub(if self.looped { 0 } else { self.overlap });
            let hop = (self.length * skip).saturating_sub(self.overlap).max(1);
            for start in (first..end).step_by(hop) {
                let window = (0..self.length).map(|index| (start + index * skip) % frames);
                windows.push(window.collect());
            }
        }
        windows
    }
}

/// `windows` without such as go on from the end to the beginning, which are moved to the end.
fn straightened(mut windows: Vec<Vec<usize>>, frames: usize, length: usize) -> Vec<Vec<usize>> {
    let mut index = 0;
    while index < windows.len() {
        let rolls = windows[index].windows(2).position(|pair| pair[1] < pair[0]);
        if let Some(at) = rolls {
            let wrapped = windows[index][at + 1];
            let first = windows[index][0];
            let mut moved: Vec<usize> =
                windows[index].iter().map(|frame| (frame + frames - first) % frames).collect();
            let rest = (frames - 1).saturating_sub(moved.last().copied().unwrap_or(0));
            moved.iter_mut().for_each(|frame| *frame += rest);
            windows[index] = moved;
            let next = (index + 1) % windows.len();
            if !windows[next].contains(&wrapped) && wrapped + length <= frames {
                windows.insert(index + 1, (wrapped..wrapped + length).collect());
            }
        }
        index += 1;
    }
    windows
}

/// Those of `windows` that hold every frame once, each once, and further ones for frames that are in none.
/// (The program these are of leaves some frames out, of which nothing is predicted then.)
fn covered(windows: Vec<Vec<usize>>, frames: usize, length: usize) -> Vec<Vec<usize>> {
    let mut kept: Vec<Vec<usize>> = Vec::new();
    for window in windows {
        let mut seen = vec![false; frames];
        let once = window.iter().all(|&frame| frame < frames && !std::mem::replace(&mut seen[frame], true));
        if once && !kept.contains(&window) {
            kept.push(window);
        }
    }
    for frame in 0..frames {
        if !kept.iter().any(|window| window.contains(&frame)) {
            let start = frame.min(frames - length);
            kept.push((start..start + length).collect());
        }
    }
    kept
}

/// How much each frame of a window of so many counts.
pub fn pyramid(length: usize) -> Vec<f32> {
    (0..length).map(|index| (index.min(length - 1 - index) + 1) as f32).collect()
}

/// The bits of `value` in the opposite order, as a fraction: 0, 1/2, 1/4, 3/4, 1/8, ...
fn ordered_halving(value: usize) -> f64 {
    (value as u64).reverse_bits() as f64 / 2_f64.powi(64)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every frame is in a window, and windows hold what they may.
    fn check(context: Context, frames: usize) {
        for step in 0..12 {
            let windows = context.windows(frames, step);
            for window in &windows {
                assert!(window.len() == context.length.min(frames), "{window:?}");
                assert!(window.iter().all(|frame| *frame < frames), "{window:?}");
                let straight = window.windows(2).all(|pair| pair[0] < pair[1]);
                assert!(straight || context.looped, "{context:?} {window:?}");
            }
            let missing = (0..frames).find(|frame| !windows.iter().any(|window| window.contains(frame)));
            assert_eq!(missing, None, "frame in step {step} of {frames}: {windows:?}");
        }
    }

    #[test]
    fn every_frame_is_seen_in_every_step() {
        for frames in [5, 16, 17, 24, 33, 48, 61, 100] {
            for overlap in [0, 4, 8] {
                for stride in [1, 2, 3] {
                    for looped in [false, true] {
                        check(Context { overlap, stride, looped, ..Context::USUAL }, frames);
                    }
                }
            }
        }
    }

    #[test]
    fn windows_are_those_of_animatediff_evolved() {
        let short = Context { length: 4, overlap: 2, stride: 1, looped: false };
        let first = short.windows(8, 0);
        assert_eq!(first, [vec![0, 1, 2, 3], vec![2, 3, 4, 5], vec![4, 5, 6, 7]]);
        // By half a video in the second step: what goes on from the end is moved there.
        assert_eq!(short.windows(8, 1), [vec![4, 5, 6, 7], vec![0, 1, 2, 3]]);
        assert_eq!(short.windows(8, 2), [vec![2, 3, 4, 5], vec![4, 5, 6, 7], vec![0, 1, 2, 3]]);
        let looped = Context { looped: true, ..short }.windows(8, 1);
        assert_eq!(looped, [vec![4, 5, 6, 7], vec![6, 7, 0, 1], vec![0, 1, 2, 3], vec![2, 3, 4, 5]]);
        assert_eq!(pyramid(4), [1.0, 2.0, 2.0, 1.0]);
        assert_eq!(pyramid(5), [1.0, 2.0, 3.0, 2.0, 1.0]);
    }
}
