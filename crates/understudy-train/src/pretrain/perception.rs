//! How alike frames look to networks that were trained to see characters.

use std::path::PathBuf;

use burn::tensor::{Device, Int, Tensor, TensorData};
use serde::{Deserialize, Serialize};
use understudy_engine::random::Random;
use understudy_engine::weights::Weights;
use understudy_models::iresnet::{IResNet, IResNetConfig, normalize_rows};

use crate::error::TrainError;
use crate::pretrain::export;

/// A term for what networks see of a clip's frames (Johnson, Alahi and Fei-Fei, "Perceptual losses for
/// real-time style transfer and super-resolution", 2016).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PerceptionRecipe {
    /// The folders of the networks, which earlier runs exported. Whatever looks through the judge of identity
    /// is no longer judged by it.
    pub networks: Vec<PathBuf>,
    /// Weight of the term beside the differences of pixels.
    pub weight: f32,
    /// Frames of every clip that are looked at, drawn anew at every step.
    pub frames: usize,
}

/// The networks of a [`PerceptionRecipe`].
pub(crate) struct Perception {
    networks: Vec<IResNet>,
    weight: f32,
    frames: usize,
}

impl Perception {
    /// Opens the networks.
    ///
    /// # Errors
    /// When one cannot be read.
    pub(crate) fn open(recipe: &PerceptionRecipe, device: &Device) -> Result<Self, TrainError> {
        let network = |folder: &PathBuf| {
            let (config, parameters) =
                export::read_network::<IResNetConfig>(folder, export::TRANSFORMERS, device)?;
            let weights = Weights::new(&parameters, device);
            let network = IResNet::new(&weights, &config);
            weights.finish()?;
            Ok(network)
        };
        let networks = recipe.networks.iter().map(network).collect::<Result<_, TrainError>>()?;
        Ok(Self { networks, weight: recipe.weight, frames: recipe.frames })
    }

    /// The weighed term for `made` in the place of `truth`, both `(clips, 3, frames, rows, columns)`: over
    /// all networks, the mean of how far apart the features of each block are, relative to their own size,
    /// and the embeddings.
    pub(crate) fn term(&self, made: Tensor<5>, truth: Tensor<5>, random: &mut Random) -> Tensor<1> {
        let device = truth.device();
        let chosen = self.chosen(truth.dims()[2], random, &device);
        let [made, truth] = [made, truth].map(|video| pictures(video.select(2, chosen.clone())));
        let mut total = Tensor::<1>::zeros([1], &device);
        for network in &self.networks {
            let (own, embedding) = network.features(truth.clone());
            let (found, read) = network.features(made.clone());
            let blocks = own.len() as f32;
            for (own, found) in own.into_iter().zip(found) {
                let size = own.clone().powi_scalar(2).mean();
                let apart = (found - own.autodiff()).powi_scalar(2).mean();
                total = total.clone() + apart / size.autodiff() / blocks;
            }
            let apart = normalize_rows(read) - normalize_rows(embedding).autodiff();
            total = total + apart.powi_scalar(2).sum_dim(1).mean();
        }
        total * (self.weight / self.networks.len().max(1) as f32)
    }

    /// As many of `frames` as are looked at, all different.
    fn chosen(&self, frames: usize, random: &mut Random, device: &Device) -> Tensor<1, Int> {
        let mut all: Vec<i32> = (0..frames as i32).collect();
        let count = self.frames.min(frames);
        for at in 0..count {
            let other = at + random.below((frames - at) as u64) as usize;
            all.swap(at, other);
        }
        all.truncate(count);
        Tensor::from_data(TensorData::new(all, [count]), device)
    }
}

/// The frames of `video` one after the other, `(clips * frames, 3, rows, columns)`.
fn pictures(video: Tensor<5>) -> Tensor<4> {
    let [clips, channels, frames, rows, columns] = video.dims();
    video.swap_dims(1, 2).reshape([clips * frames, channels, rows, columns])
}
