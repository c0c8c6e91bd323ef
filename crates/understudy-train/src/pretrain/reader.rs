//! What judges have in common that read something of a character from one frame: their frames, and how they
//! are trained.

use burn::tensor::{Device, Tensor};
use rayon::prelude::*;
use understudy_engine::host;
use understudy_engine::parameters::{Initializer, NamedGradients, Parameters};
use understudy_engine::random::Random;
use understudy_engine::weights::Weights;
use understudy_models::iresnet::{IResNet, IResNetConfig};
use understudy_puppet::{Identity, Motion, Scenario, Size, Split, World};

use crate::error::TrainError;
use crate::pretrain::autoencoder::device_of;
use crate::pretrain::identity::{add_noise, batch_of, planes, updated_statistics};
use crate::trainer::StepResult;

/// The length of the clips that frames are taken of.
pub(crate) const FRAMES: usize = 17;

/// Frames of characters that move, and a network that reads them.
pub(crate) struct FrameReader {
    seed: u64,
    batch: usize,
    /// How often frames are blurred and how much noise they get, at most.
    worse: (u64, f32),
    model: IResNetConfig,
    world: World,
}

impl FrameReader {
    /// A reader by `model` of batches of so many frames.
    ///
    /// # Errors
    /// When the world cannot render the network's size.
    pub(crate) fn new(
        seed: u64,
        batch: usize,
        worse: (u64, f32),
        model: &IResNetConfig,
    ) -> Result<Self, TrainError> {
        let side = model.size;
        let world = World::new(Size::new(FRAMES, side, side))
            .map_err(|error| TrainError::Other(error.to_string()))?;
        Ok(Self { seed, batch, worse, model: model.clone(), world })
    }

    fn build(&self, weights: &Weights) -> Result<IResNet, TrainError> {
        let network = IResNet::new(weights, &self.model);
        weights.finish()?;
        Ok(network)
    }

    /// The network's parameters to start from.
    pub(crate) fn initialize(&self, device: &Device) -> Result<Parameters, TrainError> {
        let source = Initializer::new(self.seed, device);
        self.build(&Weights::new(&source, device))?;
        Ok(source.into_parameters())
    }

    /// What the network reads from so many frames of held-out characters, row by row, and what `shown` says
    /// of each.
    pub(crate) fn read_held_out<T: Send>(
        &self,
        parameters: &Parameters,
        frames: u64,
        shown: impl Fn(&Scenario, usize) -> T + Sync,
    ) -> Result<(Vec<f32>, Vec<T>), TrainError> {
        let device = device_of(parameters);
        let network = self.build(&Weights::new(parameters, &device))?;
        let make = |seed| {
            let (pixels, scenario, frame) = moving_frame(&self.world, Split::HeldOut, seed);
            (pixels, shown(&scenario, frame))
        };
        let made: Vec<_> = (0..frames).into_par_iter().map(make).collect();
        let (pixels, truth): (Vec<_>, Vec<_>) = made.into_iter().unzip();
        Ok((host::values(network.forward(batch_of(pixels.concat(), self.model.size, &device))), truth))
    }

    /// Pixels `(batch, 3, size, size)` in [-1, 1] of a step's frames, made worse, and what `shown` says of
    /// each.
    pub(crate) fn batch<T: Send>(
        &self,
        stream: &str,
        step: u64,
        shown: impl Fn(&Scenario, usize) -> T + Sync,
    ) -> (Vec<f32>, Vec<T>) {
        let mut random = Random::stream(self.seed, stream, step);
        let seeds: Vec<u64> = (0..self.batch).map(|_| random.next_u64() >> 20).collect();
        let make = |&seed: &u64| {
            let (pixels, scenario, frame) = moving_frame(&self.world, Split::Train, seed);
            (worsened(pixels, self.model.size, self.worse, seed), shown(&scenario, frame))
        };
        let made: Vec<_> = seeds.par_iter().map(make).collect();
        let (pixels, truth): (Vec<_>, Vec<_>) = made.into_iter().unzip();
        (pixels.concat(), truth)
    }

    /// A training step on `pixels`, by the loss of what is read.
    pub(crate) fn step(
        &self,
        parameters: &Parameters,
        pixels: Vec<f32>,
        loss: impl FnOnce(Tensor<2>, &Device) -> Tensor<1>,
    ) -> Result<StepResult, TrainError> {
        let leaves = parameters.leaves();
        let device = device_of(parameters);
        let network = self.build(&Weights::new(&leaves, &device))?;
        let (read, statistics) = network.forward_train(batch_of(pixels, self.model.size, &device));
        let loss = loss(read, &device);
        let mut gradients = NamedGradients::new();
        leaves.collect(&mut loss.backward(), &mut gradients);
        Ok(StepResult {
            loss: loss.without_autodiff().into_scalar(),
            gradients,
            buffers: updated_statistics(parameters, statistics),
            metrics: Vec::new(),
        })
    }
}

/// One frame of one character of `split`, planar in [-1, 1], the scenario it is of, and which frame it is:
/// every second character moves in a way of its own.
fn moving_frame(world: &World, split: Split, seed: u64) -> (Vec<f32>, Scenario, usize) {
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
