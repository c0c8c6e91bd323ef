//! Training a judge of markings: from a frame to the pattern and the emblem of the character's body.

use std::path::{Path, PathBuf};

use burn::tensor::activation::log_softmax;
use burn::tensor::{Device, Tensor, TensorData};
use serde::{Deserialize, Serialize};
use understudy_engine::parameters::Parameters;
use understudy_models::iresnet::IResNetConfig;
use understudy_puppet::{MARKINGS, Scenario, markings};

use crate::error::TrainError;
use crate::pretrain::export::append_score;
use crate::pretrain::reader::FrameReader;
use crate::pretrain::recipe::key;
use crate::trainer::{Objective, StepResult, TrainConfig};

/// How a judge of markings is trained.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MarkingsRecipe {
    /// Seed of everything random.
    pub seed: u64,
    /// Frames a batch.
    pub batch: usize,
    /// Standard deviation of noise added to the pixels, at most.
    pub noise: f32,
    /// How often pixels are averaged with their neighbours, at most: what is generated is less sharp than the
    /// world.
    pub blur: u64,
    /// The network; its embedding has a number for every value of every marking.
    pub model: IResNetConfig,
    /// The loop.
    pub training: TrainConfig,
}

impl MarkingsRecipe {
    /// Values of all markings together.
    pub(crate) fn values() -> usize {
        markings().iter().map(|marking| marking.values.len()).sum()
    }
}

/// The objective of a judge of markings.
pub struct MarkingsReader {
    recipe: MarkingsRecipe,
    frames: FrameReader,
}

/// Frames `(batch, 3, size, size)` in [-1, 1] and the markings of their characters.
pub struct Marked {
    pixels: Vec<f32>,
    markings: Vec<[Option<usize>; MARKINGS]>,
}

/// What stands beside the weights.
#[derive(Serialize)]
pub(crate) struct Described<'a> {
    #[serde(flatten)]
    pub(crate) model: &'a IResNetConfig,
    pub(crate) markings: Vec<Named>,
}

/// A marking in the description: its name, its values, and how often it is read rightly from held-out
/// characters.
#[derive(Serialize)]
pub(crate) struct Named {
    name: &'static str,
    values: Vec<&'static str>,
    accuracy: f32,
}

impl MarkingsReader {
    /// Prepares `recipe`.
    ///
    /// # Errors
    /// When the world cannot render its size.
    pub fn new(recipe: MarkingsRecipe) -> Result<Self, TrainError> {
        let MarkingsRecipe { seed, batch, noise, blur, ref model, .. } = recipe;
        let frames = FrameReader::new(seed, batch, (blur, noise), model)?;
        Ok(Self { recipe, frames })
    }

    /// Of frames of held-out characters that have each marking, the share in which it is read rightly.
    fn accuracies(&self, parameters: &Parameters, frames: u64) -> Result<[f32; MARKINGS], TrainError> {
        let (read, truth) = self.frames.read_held_out(parameters, frames, shown)?;
        let known = markings();
        let mut counts = [[0_u32; 2]; MARKINGS];
        for (read, truth) in read.chunks_exact(MarkingsRecipe::values()).zip(truth) {
            let mut first = 0;
            for ((marking, value), count) in known.iter().zip(truth).zip(&mut counts) {
                let own = &read[first..][..marking.values.len()];
                first += own.len();
                let Some(value) = value else { continue };
                let best = own.iter().enumerate().max_by(|a, b| a.1.total_cmp(b.1)).map(|(at, _)| at);
                count[0] += 1;
                count[1] += u32::from(best == Some(value));
            }
        }
        Ok(counts.map(|[all, right]| right as f32 / all.max(1) as f32))
    }

    /// The markings, with how well they are read.
    ///
    /// # Errors
    /// When `parameters` are not the recipe's.
    pub(crate) fn named(&self, parameters: &Parameters) -> Result<Vec<Named>, TrainError> {
        let accuracies = self.accuracies(parameters, 1024)?;
        let named = markings().into_iter().zip(accuracies);
        Ok(named.map(|(own, accuracy)| Named { name: own.name, values: own.values, accuracy }).collect())
    }
}

/// The markings of a scenario's character.
fn shown(scenario: &Scenario, _: usize) -> [Option<usize>; MARKINGS] {
    scenario.actors[0].identity.markings()
}

/// The mean cross-entropy of `read (frames, values)`: the negative logarithm of what each marking's true
/// value is given.
fn cross_entropy(read: Tensor<2>, truth: &[[Option<usize>; MARKINGS]]) -> Tensor<1> {
    let device = read.device().without_autodiff();
    let count = truth.len();
    let mut first = 0;
    let mut total = Tensor::<1>::zeros([1], &device);
    for (index, marking) in markings().iter().enumerate() {
        let values = marking.values.len();
        let own = log_softmax(read.clone().narrow(1, first, values), 1);
        first += values;
        let mut chosen = vec![0.0; count * values];
        let known = truth.iter().filter(|own| own[index].is_some()).count();
        for (row, own) in truth.iter().enumerate() {
            if let Some(value) = own[index] {
                chosen[row * values + value] = -1.0 / known as f32;
            }
        }
        total = total + (own * Tensor::from_data(TensorData::new(chosen, [count, values]), &device)).sum();
    }
    total / MARKINGS as f32
}

impl Objective for MarkingsReader {
    type Batch = Marked;

    fn name(&self) -> String {
        format!("judge of markings {}", key(&self.recipe))
    }

    fn initialize(&self, device: &Device) -> Result<Parameters, TrainError> {
        self.frames.initialize(device)
    }

    fn batch(&self, step: u64) -> Result<Marked, TrainError> {
        let (pixels, markings) = self.frames.batch("markings batch", step, shown);
        Ok(Marked { pixels, markings })
    }

    fn step(&self, parameters: &Parameters, batch: Marked, _: u64) -> Result<StepResult, TrainError> {
        let Marked { pixels, markings } = batch;
        self.frames.step(parameters, pixels, |read, _| cross_entropy(read, &markings))
    }

    /// The mean accuracy on held-out characters, appended to `accuracy.txt`.
    fn sample(&self, ema: &Parameters, step: u64, folder: &Path) -> Result<Option<PathBuf>, TrainError> {
        let path = folder.join("accuracy.txt");
        let found = self.accuracies(ema, 256)?;
        append_score(&path, step, f64::from(found.iter().sum::<f32>()) / MARKINGS as f64)?;
        Ok(Some(path))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn the_loss_is_the_surprise_at_what_is_there() {
        let values = MarkingsRecipe::values();
        let device = Device::flex();
        // Nothing is known: every value is as likely as the others.
        let blank = cross_entropy(Tensor::zeros([2, values], &device), &[[Some(1); MARKINGS]; 2]);
        let mean = markings().iter().map(|own| (own.values.len() as f32).ln()).sum::<f32>() / MARKINGS as f32;
        assert!((blank.into_scalar::<f32>() - mean).abs() < 1e-5);
        // What a character does not have does not count, and what is certain is no surprise.
        let mut sure = vec![0.0; values];
        sure[2] = 50.0;
        let read = Tensor::from_data(TensorData::new(sure, [1, values]), &device);
        let own = cross_entropy(read, &[[Some(2), None, None, None]]);
        assert!(own.into_scalar::<f32>().abs() < 1e-5);
    }
}
