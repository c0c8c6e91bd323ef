//! Training a judge of motion: from a frame to the numbers of the character's posture.

use std::path::{Path, PathBuf};

use burn::tensor::{Device, Tensor, TensorData};
use serde::{Deserialize, Serialize};
use understudy_engine::parameters::Parameters;
use understudy_models::iresnet::IResNetConfig;
use understudy_puppet::{POSTURE, Posture, Scenario};

use crate::error::TrainError;
use crate::pretrain::export::append_score;
use crate::pretrain::reader::{FRAMES, FrameReader};
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
    /// How often pixels are averaged with their neighbours, at most: what is generated is less sharp than the
    /// world.
    pub blur: u64,
    /// The network; its embedding is the posture.
    pub model: IResNetConfig,
    /// The loop.
    pub training: TrainConfig,
}

/// The objective of a judge of motion.
pub struct PostureReader {
    recipe: PostureRecipe,
    frames: FrameReader,
}

/// Frames `(batch, 3, size, size)` in [-1, 1] and the postures they show.
pub struct Postures {
    pixels: Vec<f32>,
    postures: Vec<f32>,
}

impl PostureReader {
    /// Prepares `recipe`.
    ///
    /// # Errors
    /// When the world cannot render its size.
    pub fn new(recipe: PostureRecipe) -> Result<Self, TrainError> {
        let PostureRecipe { seed, batch, noise, blur, ref model, .. } = recipe;
        let frames = FrameReader::new(seed, batch, (blur, noise), model)?;
        Ok(Self { recipe, frames })
    }

    /// The mean squared error of each number of the posture on held-out characters, and its variance there.
    fn errors(&self, parameters: &Parameters, frames: u64) -> Result<Vec<[f64; 2]>, TrainError> {
        let (read, truth) = self.frames.read_held_out(parameters, frames, shown)?;
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

    /// The share of each number's variance on held-out characters that the judge sees, which is how much it
    /// counts.
    ///
    /// # Errors
    /// When `parameters` are not the recipe's.
    pub fn reliability(&self, parameters: &Parameters) -> Result<Vec<f32>, TrainError> {
        let seen = |[error, variance]: &[f64; 2]| (1.0 - error / variance.max(1e-6)).max(0.0) as f32;
        Ok(self.errors(parameters, 1024)?.iter().map(seen).collect())
    }
}

/// The posture that a frame of a scenario shows.
fn shown(scenario: &Scenario, frame: usize) -> Posture {
    scenario.actors[0].posture(frame, FRAMES)
}

/// What stands beside the weights of a judge of motion.
#[derive(Serialize)]
pub(crate) struct Described<'a> {
    #[serde(flatten)]
    pub(crate) model: &'a IResNetConfig,
    pub(crate) reliability: Vec<f32>,
}

impl Objective for PostureReader {
    type Batch = Postures;

    fn name(&self) -> String {
        format!("judge of motion {}", key(&self.recipe))
    }

    fn initialize(&self, device: &Device) -> Result<Parameters, TrainError> {
        self.frames.initialize(device)
    }

    fn batch(&self, step: u64) -> Result<Postures, TrainError> {
        let (pixels, postures) = self.frames.batch("posture batch", step, shown);
        Ok(Postures { pixels, postures: postures.concat() })
    }

    fn step(&self, parameters: &Parameters, batch: Postures, _: u64) -> Result<StepResult, TrainError> {
        let Postures { pixels, postures } = batch;
        self.frames.step(parameters, pixels, |read, device| {
            let count = postures.len() / POSTURE;
            let truth = Tensor::<2>::from_data(TensorData::new(postures, [count, POSTURE]), device);
            (read - truth).square().mean()
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
