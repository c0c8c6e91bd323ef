//! Training a judge of motion: from a frame to the numbers of the character's posture.

use std::path::{Path, PathBuf};

use burn::tensor::{Device, Tensor, TensorData};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use understudy_engine::host;
use understudy_engine::parameters::{Initializer, NamedGradients, Parameters};
use understudy_engine::random::Random;
use understudy_engine::weights::Weights;
use understudy_models::iresnet::{IResNet, IResNetConfig};
use understudy_puppet::{Identity, Motion, POSTURE, Posture, Scenario, Size, Split, World};

use crate::error::TrainError;
use crate::pretrain::autoencoder::device_of;
use crate::pretrain::export::append_score;
use crate::pretrain::identity::{add_noise, batch_of, planes, updated_statistics};
use crate::pretrain::recipe::key;
use crate::trainer::{Objective, StepResult, TrainConfig};

/// How a judge of motion is trained.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PostureRecipe {
    /// Seed of everything random.
    pub seed: u64,
    /// Frames a batch.
    pub batch: usize,
    /// Standard deviation of noise added to the pixels, at most.
    pub noise: f32,
    /// How often pixels are averaged with their neighbours, at most: what is generated is less sharp than the world.
    pub blur: u64,
    /// The network; its embedding is the posture.
    pub model: IResNetConfig,
    /// The loop.
    pub training: TrainConfig,
}

/// The objective of a judge of motion.
pub struct PostureReader {
    recipe: PostureRecipe,
    world: World,
}

/// Frames `(batch, 3, size, size)` in [-1, 1] and the postures they show.
pub struct Postures {
    pixels: Vec<f32>,
    postures: Vec<f32>,
}

/// The length of the clips that frames are taken of.
pub(crate) const FRAMES: usize = 17;

impl PostureReader {
    /// Prepares `recipe`.
    ///
    /// # Errors
    /// When the world cannot render its size.
    pub fn new(recipe: PostureRecipe) -> Result<Self, TrainError> {
        let side = recipe.model.size;
        let world = World::new(Size::new(FRAMES, side, side))
            .map_err(|error| TrainError::Other(error.to_string()))?;
        Ok(Self { recipe, world })
    }

    fn build(&self, weights: &Weights) -> Result<IResNet, TrainError> {
        let network = IResNet::new(weights, &self.recipe.model);
        weights.finish()?;
        Ok(network)
    }

    fn frame(&self, split: Split, seed: u64) -> (Vec<f32>, Posture) {
        let (pixels, scenario, frame) = moving_frame(&self.world, split, seed);
        (pixels, scenario.actors[0].posture(frame, FRAMES))
    }
}

/// One frame of one character of `split`, planar in [-1, 1], the scenario it is of, and which frame it is: every second
/// character moves in a way of its own.
pub(crate) fn moving_frame(world: &World, split: Split, seed: u64) -> (Vec<f32>, Scenario, usize) {
    let mut random = Random::new(seed, 0);
    let identity = Identity::from_index(split, random.next_u64() >> 20);
    let index = random.next_u64() >> 20;
    let motion = match seed % 2 {
        0 => Motion::from_index(split, index),
        _ => Motion::idiosyncratic(index),
    };
    let scenario = Scenario::performance(identity, motion, random.next_u64() >> 20);
    let frame = random.below(FRAMES as u64) as usize;
    (planes(&world.render_frame(&scenario, frame)), scenario, frame)
}

/// `pixels` blurred up to so often and with noise of a deviation up to so much, by the `seed`.
pub(crate) fn worsened(mut pixels: Vec<f32>, side: usize, (blur, noise): (u64, f32), seed: u64) -> Vec<f32> {
    let mut random = Random::new(seed, 1);
    for _ in 0..random.below(blur + 1) {
        pixels = blurred(&pixels, side);
    }
    add_noise(&mut pixels, noise, &mut random);
    pixels
}

impl PostureReader {
    /// The mean squared error of each number of the posture on held-out characters, and its variance there.
    fn errors(&self, parameters: &Parameters, frames: u64) -> Result<Vec<[f64; 2]>, TrainError> {
        let device = device_of(parameters);
        let network = self.build(&Weights::new(parameters, &device))?;
        let made: Vec<(Vec<f32>, Posture)> =
            (0..frames).into_par_iter().map(|seed| self.frame(Split::HeldOut, seed)).collect();
        let (pixels, truth): (Vec<_>, Vec<_>) = made.into_iter().unzip();
        let read = host::values(network.forward(batch_of(pixels.concat(), self.recipe.model.size, &device)));
        let mean = |values: &mut dyn Iterator<Item = f64>| values.sum::<f64>() / frames as f64;
        let number = |index: usize| {
            let column = || truth.iter().map(move |own| f64::from(own[index]));
            let centre = mean(&mut column());
            let read = read.iter().skip(index).step_by(POSTURE).map(|value| f64::from(*value));
            let error = mean(&mut read.zip(column()).map(|(read, truth)| (read - truth).powi(2)));
            [error, mean(&mut column().map(|value| (value - centre).powi(2)))]
        };
        Ok((0..POSTURE).map(number).collect())
    }

    /// The share of each number's variance on held-out characters that the judge sees, which is how much it counts.
    ///
    /// # Errors
    /// When `parameters` are not the recipe's.
    pub fn reliability(&self, parameters: &Parameters) -> Result<Vec<f32>, TrainError> {
        let seen = |[error, variance]: &[f64; 2]| (1.0 - error / variance.max(1e-6)).max(0.0) as f32;
        Ok(self.errors(parameters, 1024)?.iter().map(seen).collect())
    }
}

/// What stands beside the weights of a judge of motion.
#[derive(Serialize)]
pub(crate) struct Described<'a> {
    #[serde(flatten)]
    pub(crate) model: &'a IResNetConfig,
    pub(crate) reliability: Vec<f32>,
}

/// `planes` of `side * side` pixels, each pixel the mean of itself, weighed double, and its four neighbours.
fn blurred(planes: &[f32], side: usize) -> Vec<f32> {
    let blur = |plane: &[f32]| -> Vec<f32> {
        let at = |row: usize, column: usize| plane[row.min(side - 1) * side + column.min(side - 1)];
        (0..side * side)
            .map(|place| {
                let (row, column) = (place / side, place % side);
                let beside = at(row, column.saturating_sub(1)) + at(row, column + 1);
                let above = at(row.saturating_sub(1), column) + at(row + 1, column);
                (2.0 * plane[place] + beside + above) / 6.0
            })
            .collect()
    };
    planes.chunks_exact(side * side).flat_map(blur).collect()
}

impl Objective for PostureReader {
    type Batch = Postures;

    fn name(&self) -> String {
        format!("judge of motion {}", key(&self.recipe))
    }

    fn initialize(&self, device: &Device) -> Result<Parameters, TrainError> {
        let source = Initializer::new(self.recipe.seed, device);
        self.build(&Weights::new(&source, device))?;
        Ok(source.into_parameters())
    }

    fn batch(&self, step: u64) -> Result<Postures, TrainError> {
        let mut random = Random::stream(self.recipe.seed, "posture batch", step);
        let seeds: Vec<u64> = (0..self.recipe.batch).map(|_| random.next_u64() >> 20).collect();
        let make = |&seed: &u64| {
            let (pixels, posture) = self.frame(Split::Train, seed);
            (worsened(pixels, self.recipe.model.size, (self.recipe.blur, self.recipe.noise), seed), posture)
        };
        let made: Vec<(Vec<f32>, Posture)> = seeds.par_iter().map(make).collect();
        let (pixels, postures): (Vec<_>, Vec<_>) = made.into_iter().unzip();
        Ok(Postures { pixels: pixels.concat(), postures: postures.concat() })
    }

    fn step(&self, parameters: &Parameters, batch: Postures, _: u64) -> Result<StepResult, TrainError> {
        let leaves = parameters.leaves();
        let device = device_of(parameters);
        let network = self.build(&Weights::new(&leaves, &device))?;
        let count = batch.postures.len() / POSTURE;
        let truth = Tensor::<2>::from_data(TensorData::new(batch.postures, [count, POSTURE]), &device);
        let (read, statistics) =
            network.forward_train(batch_of(batch.pixels, self.recipe.model.size, &device));
        let loss = (read - truth).square().mean();
        let mut gradients = NamedGradients::new();
        leaves.collect(&mut loss.backward(), &mut gradients);
        Ok(StepResult {
            loss: loss.without_autodiff().into_scalar(),
            gradients,
            buffers: updated_statistics(parameters, statistics),
            metrics: Vec::new(),
        })
    }

    /// The mean squared error on held-out characters, appended to `error.txt`.
    fn sample(&self, ema: &Parameters, step: u64, folder: &Path) -> Result<Option<PathBuf>, TrainError> {
        let path = folder.join("error.txt");
        let errors = self.errors(ema, 256)?;
        append_score(&path, step, errors.iter().map(|[error, _]| error).sum::<f64>() / POSTURE as f64)?;
        Ok(Some(path))
    }
}
