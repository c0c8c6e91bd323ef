//! Training an identity encoder: pictures of one character lie close, those of others apart.

use std::path::{Path, PathBuf};

use burn::tensor::{Device, Int, Tensor, TensorData};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use understudy_engine::host;
use understudy_engine::parameters::{Initializer, NamedGradients, Parameters};
use understudy_engine::random::Random;
use understudy_engine::weights::{Init, Weights};
use understudy_models::iresnet::{BatchStatistics, IResNet, IResNetConfig, arcface_loss, normalize_rows};
use understudy_puppet::{Identity, Motion, Scenario, Size, Split, World};

use crate::error::TrainError;
use crate::pretrain::autoencoder::device_of;
use crate::pretrain::export::append_score;
use crate::pretrain::recipe::key;
use crate::trainer::{Objective, StepResult, TrainConfig};

/// How an identity encoder is trained.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct IdentityRecipe {
    /// Seed of everything random.
    pub seed: u64,
    /// Training identities are those with index `first`, `first + 2`, ...: the two encoders share none.
    pub first: u64,
    /// How many identities there are.
    pub identities: u64,
    /// Pictures a batch.
    pub batch: usize,
    /// Scale of the loss's cosines.
    pub scale: f32,
    /// Additive angular margin in radians.
    pub margin: f32,
    /// Steps over which the margin grows to that; networks of this size do not start with it.
    pub margin_warmup: u64,
    /// Standard deviation of noise added to the pixels, at most.
    pub noise: f32,
    /// The network.
    pub model: IResNetConfig,
    /// The loop.
    pub training: TrainConfig,
}

/// The identity encoder's objective.
pub struct IdentityEncoder {
    recipe: IdentityRecipe,
    world: World,
}

/// Pictures `(batch, 3, size, size)` in [-1, 1] and whose they are.
pub struct Portraits {
    pixels: Vec<f32>,
    labels: Vec<i64>,
}

/// The path of the class centres among the parameters; they are not part of the network.
const CENTRES: &str = "arcface";

impl IdentityEncoder {
    /// Prepares `recipe`.
    ///
    /// # Errors
    /// When the world cannot render its size.
    pub fn new(recipe: IdentityRecipe) -> Result<Self, TrainError> {
        let side = recipe.model.size;
        let world =
            World::new(Size::new(1, side, side)).map_err(|error| TrainError::Other(error.to_string()))?;
        Ok(Self { recipe, world })
    }

    fn build(&self, weights: &Weights) -> Result<(IResNet, Tensor<2>), TrainError> {
        let network = IResNet::new(weights, &self.recipe.model);
        let shape = [self.recipe.identities as usize, self.recipe.model.embedding];
        let centres = weights.tensor(CENTRES, shape, Init::Normal(0.05));
        weights.finish()?;
        Ok((network, centres))
    }
}

/// Planar frames of `side * side` pixels as one batch `(frames, 3, side, side)`.
pub(crate) fn batch_of(pixels: Vec<f32>, side: usize, device: &Device) -> Tensor<4> {
    let count = pixels.len() / (3 * side * side);
    Tensor::from_data(TensorData::new(pixels, [count, 3, side, side]), device)
}

/// RGB bytes of one frame as planes in [-1, 1].
pub(crate) fn planes(rgb: &[u8]) -> Vec<f32> {
    (0..3).flat_map(|c| rgb.iter().skip(c).step_by(3).map(|&p| f32::from(p) / 127.5 - 1.0)).collect()
}

/// Adds normal noise to `pixels`, of a deviation drawn up to `most`.
pub(crate) fn add_noise(pixels: &mut [f32], most: f32, random: &mut Random) {
    let amount = most * random.uniform() as f32;
    let normals = random.normals(pixels.len());
    pixels.iter_mut().zip(normals).for_each(|(pixel, normal)| *pixel += amount * normal);
}

/// The running statistics of `parameters`, a tenth of a step's in them.
pub(crate) fn updated_statistics(parameters: &Parameters, step: BatchStatistics) -> Vec<(String, Tensor<1>)> {
    let mut buffers = Vec::new();
    for (path, mean, variance) in step {
        for (what, batch) in [("running_mean", mean), ("running_var", variance)] {
            let name = format!("{path}.{what}");
            if let Some(old) = parameters.get(&name) {
                buffers.push((name, old.value.clone() * 0.9 + batch * 0.1));
            }
        }
    }
    buffers
}

/// One picture of `identity`, planar in [-1, 1], as different from others of it as the world allows: any
/// action, scene, light, style and place.
pub fn picture(world: &World, identity: Identity, seed: u64) -> Vec<f32> {
    let scenario = Scenario::performance(identity, Motion::from_index(Split::Train, seed), seed);
    planes(&world.render(&scenario).frames)
}

impl Objective for IdentityEncoder {
    type Batch = Portraits;

    fn name(&self) -> String {
        format!("identity encoder {}", key(&self.recipe))
    }

    fn initialize(&self, device: &Device) -> Result<Parameters, TrainError> {
        let source = Initializer::new(self.recipe.seed, device);
        self.build(&Weights::new(&source, device))?;
        Ok(source.into_parameters())
    }

    fn batch(&self, step: u64) -> Result<Portraits, TrainError> {
        let mut random = Random::stream(self.recipe.seed, "identity batch", step);
        let drawn: Vec<(u64, u64, u64)> = (0..self.recipe.batch)
            .map(|_| (random.below(self.recipe.identities), random.next_u64() >> 20, random.next_u64()))
            .collect();
        let render = |&(label, seed, noise): &(u64, u64, u64)| {
            let identity = Identity::from_index(Split::Train, self.recipe.first + 2 * label);
            let mut pixels = picture(&self.world, identity, seed);
            add_noise(&mut pixels, self.recipe.noise, &mut Random::new(noise, 0));
            pixels
        };
        let pixels: Vec<Vec<f32>> = drawn.par_iter().map(render).collect();
        Ok(Portraits {
            pixels: pixels.concat(),
            labels: drawn.iter().map(|&(label, ..)| label as i64).collect(),
        })
    }

    fn step(&self, parameters: &Parameters, batch: Portraits, step: u64) -> Result<StepResult, TrainError> {
        let leaves = parameters.leaves();
        let device = device_of(parameters);
        let (network, centres) = self.build(&Weights::new(&leaves, &device))?;
        let count = batch.labels.len();
        let labels = Tensor::<1, Int>::from_data(TensorData::new(batch.labels, [count]), &device);
        let (embeddings, statistics) =
            network.forward_train(batch_of(batch.pixels, self.recipe.model.size, &device));
        let grown = (step as f32 / self.recipe.margin_warmup.max(1) as f32).min(1.0);
        let margin = self.recipe.margin * grown;
        let cosines = normalize_rows(embeddings.clone().without_autodiff())
            .matmul(normalize_rows(centres.clone().without_autodiff()).transpose());
        let own = labels.clone().unsqueeze_dim::<2>(1);
        let accuracy: f32 = cosines.argmax(1).equal(own).float().mean().into_scalar();
        let loss = arcface_loss(embeddings, centres, labels, self.recipe.scale, margin);
        let mut gradients = NamedGradients::new();
        leaves.collect(&mut loss.backward(), &mut gradients);

        Ok(StepResult {
            loss: loss.without_autodiff().into_scalar(),
            gradients,
            buffers: updated_statistics(parameters, statistics),
            metrics: vec![("accuracy".into(), accuracy)],
        })
    }

    /// Verification accuracy on held-out identities, appended to `verification.txt`.
    fn sample(&self, ema: &Parameters, step: u64, folder: &Path) -> Result<Option<PathBuf>, TrainError> {
        let device = device_of(ema);
        let (network, _) = self.build(&Weights::new(ema, &device))?;
        let accuracy = verification_accuracy(&network, 400, Strangers::SameClass, &device)?;
        let path = folder.join("verification.txt");
        append_score(&path, step, accuracy)?;
        Ok(Some(path))
    }
}

/// Who the two of a pair of different identities are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Strangers {
    /// Any two held-out identities.
    Any,
    /// Two of one class: the hard case.
    SameClass,
}

/// How well `network` tells on held-out identities whether two pictures show the same one: the accuracy over
/// `pairs` pairs, half of them the same, at the threshold that separates the other half of the pairs best
/// (two folds).
///
/// # Errors
/// When the world cannot render the network's size.
pub fn verification_accuracy(
    network: &IResNet,
    pairs: u64,
    strangers: Strangers,
    device: &Device,
) -> Result<f64, TrainError> {
    let side = network.config().size;
    let world = World::new(Size::new(1, side, side)).map_err(|error| TrainError::Other(error.to_string()))?;
    let embed =
        |pictures: Vec<Vec<f32>>| normalize_rows(network.forward(batch_of(pictures.concat(), side, device)));
    let mut scored = Vec::new();
    for start in (0..pairs).step_by(50) {
        let range = start..(start + 50).min(pairs);
        let identity = |index: u64| Identity::from_index(Split::HeldOut, index);
        let other = |pair: u64| match strangers {
            Strangers::Any => identity(1_000_000 + pair),
            Strangers::SameClass => {
                Identity::of_class(identity(pair).class(), Split::HeldOut, 1_000_000 + pair)
            }
        };
        let first = range.clone().map(|pair| picture(&world, identity(pair), 2 * pair)).collect();
        let second = range
            .clone()
            .map(|pair| match pair % 2 {
                0 => picture(&world, identity(pair), 2 * pair + 1),
                _ => picture(&world, other(pair), 2 * pair + 1),
            })
            .collect();
        let cosines = (embed(first) * embed(second)).sum_dim(1);
        let cosines = host::values(cosines);
        scored.extend(range.zip(cosines).map(|(pair, cosine)| (cosine, pair % 2 == 0)));
    }
    let (one, two): (Vec<_>, Vec<_>) = scored.iter().enumerate().partition(|(index, _)| index % 4 < 2);
    let strip =
        |fold: Vec<(usize, &(f32, bool))>| fold.into_iter().map(|(_, &pair)| pair).collect::<Vec<_>>();
    let [one, two] = [strip(one), strip(two)];
    Ok((accuracy(&two, best_threshold(&one)) + accuracy(&one, best_threshold(&two))) / 2.0)
}

fn accuracy(pairs: &[(f32, bool)], threshold: f32) -> f64 {
    let right = pairs.iter().filter(|(cosine, same)| (*cosine >= threshold) == *same).count();
    right as f64 / pairs.len().max(1) as f64
}

fn best_threshold(pairs: &[(f32, bool)]) -> f32 {
    let candidates = pairs.iter().map(|&(cosine, _)| cosine);
    candidates
        .map(|threshold| (accuracy(pairs, threshold), threshold))
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map_or(0.0, |(_, threshold)| threshold)
}
