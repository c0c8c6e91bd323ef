//! Batches of puppet clips, a function of their indices.

use burn::tensor::{Device, Tensor, TensorData};
use rayon::prelude::*;
use understudy_puppet::{Clip, Scenario, Size, Split, World};

use crate::error::TrainError;
use crate::pretrain::truth::still;

/// Renders clips of one size.
#[derive(Clone, Copy, Debug)]
pub struct Clips {
    world: World,
    size: Size,
}

/// Pixels of several clips, each `(frames, height, width)`, one after the other.
#[derive(Clone, Debug)]
pub struct ClipBatch {
    /// Clips, frames, rows, columns.
    pub dims: [usize; 4],
    /// Planar pixels in [-1, 1]: `(clips, 3, frames, rows, columns)`.
    pub pixels: Vec<f32>,
    /// 1 where a character is, `(clips, frames, rows, columns)`.
    pub masks: Vec<f32>,
    /// A caption for each.
    pub captions: Vec<String>,
}

impl Clips {
    /// Clips of `[frames, height, width]`.
    ///
    /// # Errors
    /// When the world cannot render that size.
    pub fn new([frames, height, width]: [usize; 3]) -> Result<Self, TrainError> {
        let size = Size::new(frames, height, width);
        let world = World::new(size).map_err(|error| TrainError::Other(error.to_string()))?;
        Ok(Self { world, size })
    }

    /// The scenario `index` of a split.
    pub fn scenario(&self, split: Split, index: u64) -> Scenario {
        self.world.scenario(split, index)
    }

    /// The training scenario `index`, two characters in a fifth of them: of those that the world gives one,
    /// every seventeenth gets another.
    pub(crate) fn training(index: u64) -> Scenario {
        const PAIRED: u64 = 17;
        match index % PAIRED {
            0 => Scenario::duo(Split::Train, index),
            _ => Scenario::from_index(Split::Train, index),
        }
    }

    /// Renders one scenario.
    pub fn render(&self, scenario: &Scenario) -> Clip {
        self.world.render(scenario)
    }

    /// Renders `scenarios` and keeps `frames` of each from `start` on.
    pub fn batch(&self, scenarios: &[Scenario], start: usize, frames: usize) -> ClipBatch {
        self.kept(scenarios, frames, |_| start)
    }

    /// Renders `scenarios`, whose indices begin at `first`, and keeps one frame of each, anywhere in it but
    /// the same every time.
    pub fn stills(&self, scenarios: &[Scenario], first: u64) -> ClipBatch {
        self.kept(scenarios, 1, |at| still(first + at as u64, self.size.frames))
    }

    /// Renders `scenarios` and keeps `frames` of each, from where `start` says for its place on.
    fn kept(&self, scenarios: &[Scenario], frames: usize, start: impl Fn(usize) -> usize) -> ClipBatch {
        let clips: Vec<Clip> = scenarios.par_iter().map(|scenario| self.world.render(scenario)).collect();
        let plane = self.size.height * self.size.width;
        let mut batch = ClipBatch {
            dims: [clips.len(), frames, self.size.height, self.size.width],
            pixels: Vec::with_capacity(clips.len() * 3 * frames * plane),
            masks: Vec::with_capacity(clips.len() * frames * plane),
            captions: clips.iter().map(|clip| clip.caption.clone()).collect(),
        };
        for (at, clip) in clips.iter().enumerate() {
            let start = start(at);
            let pixels = &clip.frames[start * plane * 3..(start + frames) * plane * 3];
            for channel in 0..3 {
                batch.pixels.extend(pixels.iter().skip(channel).step_by(3).map(|&p| to_signed(p)));
            }
            let inside = |at: usize| clip.masks.iter().any(|mask| mask[at] > 127);
            let range = start * plane..(start + frames) * plane;
            batch.masks.extend(range.map(|at| f32::from(u8::from(inside(at)))));
        }
        batch
    }
}

/// A byte as a value in [-1, 1].
fn to_signed(byte: u8) -> f32 {
    f32::from(byte) / 127.5 - 1.0
}

impl ClipBatch {
    /// The pixels as `(clips, 3, frames, rows, columns)`.
    pub fn video(&self, device: &Device) -> Tensor<5> {
        let [clips, frames, rows, columns] = self.dims;
        Tensor::from_data(TensorData::new(self.pixels.clone(), [clips, 3, frames, rows, columns]), device)
    }

    /// The masks as `(clips, 1, frames, rows, columns)`.
    pub fn mask(&self, device: &Device) -> Tensor<5> {
        let [clips, frames, rows, columns] = self.dims;
        Tensor::from_data(TensorData::new(self.masks.clone(), [clips, 1, frames, rows, columns]), device)
    }
}
