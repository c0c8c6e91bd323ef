//! Training a judge of parts: from a frame to what of a character every pixel shows.

use std::path::{Path, PathBuf};

use burn::tensor::activation::log_softmax;
use burn::tensor::{Device, Tensor, TensorData};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use understudy_engine::host;
use understudy_engine::parameters::{Initializer, NamedGradients, Parameters};
use understudy_engine::random::Random;
use understudy_engine::weights::Weights;
use understudy_models::segmenter::{Segmenter, SegmenterConfig};
use understudy_puppet::{Scenario, Size, Split, World};

use crate::error::TrainError;
use crate::pretrain::autoencoder::device_of;
use crate::pretrain::clips::Clips;
use crate::pretrain::export::append_score;
use crate::pretrain::identity::{batch_of, planes};
use crate::pretrain::reader::{FRAMES, worsened};
use crate::pretrain::recipe::key;
use crate::pretrain::truth::{KINDS, kind};
use crate::trainer::{Objective, StepResult, TrainConfig};

/// How a judge of parts is trained.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PartsRecipe {
    /// Seed of everything random.
    pub seed: u64,
    /// Frames a batch.
    pub batch: usize,
    /// Standard deviation of noise added to the pixels, at most.
    pub noise: f32,
    /// How often pixels are averaged with their neighbours, at most: what is generated is less sharp than the
    /// world.
    pub blur: u64,
    /// The network; it tells nothing from each part and feature.
    pub model: SegmenterConfig,
    /// The loop.
    pub training: TrainConfig,
}

impl PartsRecipe {
    /// What is told apart: nothing, and the parts and features of characters.
    pub(crate) const CLASSES: usize = 1 + KINDS;
}

/// The objective of a judge of parts.
pub struct PartsReader {
    recipe: PartsRecipe,
    world: World,
}

/// Frames `(batch, 3, size, size)` in [-1, 1] and what each of their pixels shows.
pub struct Labelled {
    pixels: Vec<f32>,
    labels: Vec<u8>,
}

impl PartsReader {
    /// Prepares `recipe`.
    ///
    /// # Errors
    /// When the world cannot render its size.
    pub fn new(recipe: PartsRecipe) -> Result<Self, TrainError> {
        let side = recipe.model.size;
        let world = World::new(Size::new(FRAMES, side, side))
            .map_err(|error| TrainError::Other(error.to_string()))?;
        Ok(Self { recipe, world })
    }

    fn build(&self, weights: &Weights) -> Result<Segmenter, TrainError> {
        let network = Segmenter::new(weights, &self.recipe.model);
        weights.finish()?;
        Ok(network)
    }

    /// One frame of `scenario`, planar, and the labels of its pixels.
    fn frame(&self, scenario: &Scenario, random: &mut Random) -> (Vec<f32>, Vec<u8>) {
        let frame = random.below(FRAMES as u64) as usize;
        let shown = self.world.shown(scenario, frame).into_iter();
        let labels = shown.map(|own| own.map_or(0, |own| 1 + kind(own.part, own.feature) as u8)).collect();
        (planes(&self.world.render_frame(scenario, frame)), labels)
    }

    /// The intersection over union of each class on frames of held-out scenarios.
    fn overlaps(&self, parameters: &Parameters, frames: u64) -> Result<Vec<f64>, TrainError> {
        let device = device_of(parameters);
        let network = self.build(&Weights::new(parameters, &device))?;
        let made: Vec<_> = (0..frames)
            .into_par_iter()
            .map(|index| self.frame(&Scenario::from_index(Split::HeldOut, index), &mut Random::new(index, 2)))
            .collect();
        let mut counts = [[0_u32; 2]; PartsRecipe::CLASSES];
        for chunk in made.chunks(32) {
            let pixels = chunk.iter().flat_map(|(pixels, _)| pixels.clone()).collect();
            let read = network.forward(batch_of(pixels, self.recipe.model.size, &device)).argmax(1);
            let read = host::values(read.float());
            let labels = chunk.iter().flat_map(|(_, labels)| labels);
            for (read, label) in read.into_iter().zip(labels) {
                let (read, label) = (read as usize, usize::from(*label));
                counts[label][1] += 1;
                if read == label { counts[label][0] += 1 } else { counts[read][1] += 1 }
            }
        }
        Ok(counts.iter().map(|[both, either]| f64::from(*both) / f64::from((*either).max(1))).collect())
    }
}

/// How much pixels of each class count: features are few pixels.
fn weight(label: u8) -> f32 {
    match usize::from(label) {
        0 => 1.0,
        label if label <= understudy_puppet::Part::ALL.len() => 2.0,
        _ => 6.0,
    }
}

impl Objective for PartsReader {
    type Batch = Labelled;

    fn name(&self) -> String {
        format!("judge of parts {}", key(&self.recipe))
    }

    fn initialize(&self, device: &Device) -> Result<Parameters, TrainError> {
        let source = Initializer::new(self.recipe.seed, device);
        self.build(&Weights::new(&source, device))?;
        Ok(source.into_parameters())
    }

    fn batch(&self, step: u64) -> Result<Labelled, TrainError> {
        let mut random = Random::stream(self.recipe.seed, "parts batch", step);
        let seeds: Vec<u64> = (0..self.recipe.batch).map(|_| random.next_u64() >> 20).collect();
        let make = |&seed: &u64| {
            let (pixels, labels) = self.frame(&Clips::training(seed), &mut Random::new(seed, 0));
            let worse = (self.recipe.blur, self.recipe.noise);
            (worsened(pixels, self.recipe.model.size, worse, seed), labels)
        };
        let made: Vec<_> = seeds.par_iter().map(make).collect();
        let (pixels, labels): (Vec<_>, Vec<_>) = made.into_iter().unzip();
        Ok(Labelled { pixels: pixels.concat(), labels: labels.concat() })
    }

    fn step(&self, parameters: &Parameters, batch: Labelled, _: u64) -> Result<StepResult, TrainError> {
        let leaves = parameters.leaves();
        let device = device_of(parameters);
        let network = self.build(&Weights::new(&leaves, &device))?;
        let read = network.forward(batch_of(batch.pixels, self.recipe.model.size, &device));
        let [count, classes, rows, columns] = read.dims();
        let each = rows * columns;
        let all: f32 = batch.labels.iter().map(|label| weight(*label)).sum();
        let mut chosen = vec![0.0; count * classes * each];
        for (at, label) in batch.labels.iter().enumerate() {
            chosen[(at / each * classes + usize::from(*label)) * each + at % each] = -weight(*label) / all;
        }
        let chosen =
            Tensor::<4>::from_data(TensorData::new(chosen, [count, classes, rows, columns]), &device);
        let loss = (log_softmax(read, 1) * chosen).sum();
        let mut gradients = NamedGradients::new();
        leaves.collect(&mut loss.backward(), &mut gradients);
        let loss = loss.without_autodiff().into_scalar();
        Ok(StepResult { loss, gradients, buffers: Vec::new(), metrics: Vec::new() })
    }

    /// The mean intersection over union on held-out frames, and that of eyes, appended to `overlap.txt` and
    /// `eyes.txt`.
    fn sample(&self, ema: &Parameters, step: u64, folder: &Path) -> Result<Option<PathBuf>, TrainError> {
        let path = folder.join("overlap.txt");
        let found = self.overlaps(ema, 256)?;
        append_score(&path, step, found.iter().sum::<f64>() / found.len() as f64)?;
        let eye = 1 + kind(understudy_puppet::Part::Head, Some(understudy_puppet::Feature::Eye));
        append_score(&folder.join("eyes.txt"), step, found[eye])?;
        Ok(Some(path))
    }
}
