//! Optical flow, and how much of a video moves.

use std::path::Path;

use burn::tensor::{Device, Tensor, TensorData};
use understudy_engine::host;
use understudy_engine::safetensors::Checkpoint;
use understudy_media::{Image, Range};
use understudy_models::raft::{Raft, RaftConfig, SMALLEST};

use crate::error::{Error, Result};
use crate::networks::{built, config_of};

/// What VBench refines a flow by.
const UPDATES: usize = 20;
/// Frames a second that are looked at.
const RATE: f64 = 8.0;
/// Sides of padded pictures are multiples of this.
const MULTIPLE: usize = 8;

/// A RAFT.
#[derive(Debug)]
pub struct FlowJudge {
    network: Raft,
    device: Device,
}

impl FlowJudge {
    /// Opens the original release's file, `raft-things.pth` or another of the large network.
    ///
    /// # Errors
    /// When it cannot be read or is none.
    pub fn open(path: &Path, device: &Device) -> Result<Self> {
        let checkpoint = Checkpoint::open(path, device)?.part("module.");
        let config = config_of(path, &checkpoint, |shape| RaftConfig::of_shapes(shape))?;
        let network = built(&checkpoint, device, |weights| Raft::new(weights, &config))?;
        Ok(Self { network, device: device.clone() })
    }

    /// The flow from one frame to another of the same size, columns and then rows, in pixels: planes and
    /// their height and width, which are those of the frames with their edges repeated up to multiples of 8.
    ///
    /// # Errors
    /// When the frames differ in size or are smaller than the network takes.
    pub fn flow(&self, from: &Image, to: &Image, updates: usize) -> Result<(Vec<f32>, [usize; 2])> {
        let size = [from.height, from.width];
        let padded = size.map(|side| side.next_multiple_of(MULTIPLE));
        if [to.height, to.width] != size || padded.into_iter().any(|side| side < SMALLEST) {
            return Err(Error::Frames {
                reason: format!(
                    "frames of {}x{} and {}x{}; the flow needs two of one size, at least {SMALLEST} on each side",
                    from.width, from.height, to.width, to.height
                ),
            });
        }
        let pixels = |frame: &Image| {
            let planes = repeated_edges(&frame.to_planar(Range::Signed), size, padded);
            Tensor::from_data(TensorData::new(planes, [1, 3, padded[0], padded[1]]), &self.device)
        };
        Ok((host::values(self.network.flow(pixels(from), pixels(to), updates)), padded))
    }

    /// VBench's speed of a pair of frames: the mean length of the fastest twentieth of the flow, pixels.
    ///
    /// # Errors
    /// As [`FlowJudge::flow`].
    pub fn speed(&self, from: &Image, to: &Image) -> Result<f64> {
        let (flow, [height, width]) = self.flow(from, to, UPDATES)?;
        let (columns, rows) = flow.split_at(height * width);
        let length = |(x, y): (&f32, &f32)| (f64::from(*x).powi(2) + f64::from(*y).powi(2)).sqrt();
        let mut lengths: Vec<f64> = columns.iter().zip(rows).map(length).collect();
        lengths.sort_by(|a, b| b.total_cmp(a));
        let fastest = &lengths[..(lengths.len() as f64 * 0.05) as usize];
        Ok(fastest.iter().sum::<f64>() / fastest.len().max(1) as f64)
    }

    /// VBench's dynamic degree of a video: whether enough of its frames move. About eight frames a second are
    /// looked at.
    ///
    /// # Errors
    /// As [`FlowJudge::flow`].
    pub fn is_dynamic(&self, frames: &[Image], rate: f64) -> Result<bool> {
        let every = ((rate / RATE).round_ties_even() as usize).max(1);
        Ok(self.is_dynamic_every(frames, every)?.unwrap_or(false))
    }

    /// The same looking at every so many frames; `None` for 0.
    ///
    /// # Errors
    /// As [`FlowJudge::flow`].
    pub fn is_dynamic_every(&self, frames: &[Image], every: usize) -> Result<Option<bool>> {
        if every == 0 {
            return Ok(None);
        }
        let seen: Vec<&Image> = frames.iter().step_by(every).collect();
        let Some(first) = seen.first() else { return Ok(Some(false)) };
        let mut speeds = Vec::new();
        for pair in seen.windows(2) {
            speeds.push(self.speed(pair[0], pair[1])?);
        }
        Ok(Some(moves(&speeds, seen.len(), first.height.min(first.width))))
    }
}

/// VBench's vote: a quarter of `frames` frames must be faster than 6 pixels of a picture whose shorter side
/// is 256.
pub fn moves(speeds: &[f64], frames: usize, side: usize) -> bool {
    let threshold = 6.0 * side as f64 / 256.0;
    let needed = (4.0 * (frames as f64 / 16.0)).round_ties_even() as usize;
    // The votes are counted after each pair: without one there is none to reach anything.
    !speeds.is_empty() && speeds.iter().filter(|speed| **speed > threshold).count() >= needed
}

/// Planes of size `from` in the middle of larger ones, their edges repeated; where it is uneven there is more
/// after.
pub(crate) fn repeated_edges(planes: &[f32], from: [usize; 2], to: [usize; 2]) -> Vec<f32> {
    let source = |at: usize, axis: usize| {
        let before = (to[axis] - from[axis]) / 2;
        at.saturating_sub(before).min(from[axis] - 1)
    };
    let mut out = Vec::with_capacity(planes.len() / (from[0] * from[1]) * to[0] * to[1]);
    for plane in planes.chunks_exact(from[0] * from[1]) {
        for row in 0..to[0] {
            let line = &plane[source(row, 0) * from[1]..][..from[1]];
            out.extend((0..to[1]).map(|column| line[source(column, 1)]));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn votes_are_counted_as_vbench_does() {
        // 16 frames of 256 pixels: 4 of 15 pairs must exceed 6 pixels.
        let speeds = |fast: usize| (0..15).map(|at| if at < fast { 6.1 } else { 6.0 }).collect::<Vec<_>>();
        assert!(moves(&speeds(4), 16, 256) && !moves(&speeds(3), 16, 256));
        // Half the size, half the threshold.
        assert!(moves(&[3.1; 15], 16, 128) && !moves(&[2.9; 15], 16, 128));
        // 41 frames need 10 votes, 10 and 6 need 2 (ties to even), two frames none, one never moves.
        let some = |votes: usize| vec![9.0; votes];
        assert!(moves(&some(10), 41, 256) && !moves(&some(9), 41, 256));
        assert!(moves(&some(2), 10, 256) && !moves(&some(1), 6, 256));
        assert!(moves(&[0.0], 2, 256) && !moves(&[], 1, 256));
    }

    #[test]
    fn edges_are_repeated_evenly() {
        let planes = [1.0, 2.0, 3.0, 4.0];
        let expected = [1.0, 2.0, 2.0, 1.0, 2.0, 2.0, 3.0, 4.0, 4.0, 3.0, 4.0, 4.0];
        assert_eq!(repeated_edges(&planes, [2, 2], [4, 3]), expected);
    }
}
