//! Training the small CLIP: clips and their captions find each other in a batch.

use std::path::{Path, PathBuf};

use burn::tensor::activation::log_softmax;
use burn::tensor::{Device, Int, Tensor, TensorData};
use serde::{Deserialize, Serialize};
use understudy_engine::parameters::{Initializer, NamedGradients, Parameters};
use understudy_engine::random::Random;
use understudy_engine::weights::Weights;
use understudy_models::clip::{Clip, ClipConfig};
use understudy_models::iresnet::normalize_rows;
use understudy_pipeline::Tokenizer;
use understudy_puppet::{Detail, Scenario, Split};

use crate::error::TrainError;
use crate::pretrain::autoencoder::device_of;
use crate::pretrain::clips::{ClipBatch, Clips};
use crate::pretrain::export::append_score;
use crate::pretrain::recipe::key;
use crate::trainer::{Objective, StepResult, TrainConfig};

/// How the small CLIP is trained.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ContrastRecipe {
    /// Seed of everything random.
    pub seed: u64,
    /// Frames, height and width of the clips.
    pub size: [usize; 3],
    /// Frames of each clip that are looked at; their embeddings are averaged.
    pub frames: usize,
    /// Clips a batch.
    pub batch: usize,
    /// Standard deviation of noise added to the pixels, so that what generators leave does not matter.
    pub noise: f32,
    /// The network.
    pub model: ClipConfig,
    /// The loop.
    pub training: TrainConfig,
}

/// The small CLIP's objective.
pub struct Contrast {
    recipe: ContrastRecipe,
    clips: Clips,
    tokenizer: Tokenizer,
}

/// Clips and the ids of their captions.
pub struct Pairs {
    clips: ClipBatch,
    ids: Vec<Vec<i64>>,
}

impl Contrast {
    /// Prepares `recipe`.
    ///
    /// # Errors
    /// When the world cannot render its size.
    pub fn new(recipe: ContrastRecipe, tokenizer: Tokenizer) -> Result<Self, TrainError> {
        let clips = Clips::new(recipe.size)?;
        Ok(Self { recipe, clips, tokenizer })
    }

    fn build(&self, weights: &Weights) -> Result<Clip, TrainError> {
        let network = Clip::new(weights, &self.recipe.model);
        weights.finish()?;
        Ok(network)
    }

    fn pairs(&self, scenarios: &[Scenario], captions: &[String]) -> Result<Pairs, TrainError> {
        let limit = self.recipe.model.text_config.max_position_embeddings;
        let captions: Vec<&str> = captions.iter().map(String::as_str).collect();
        let tokens =
            self.tokenizer.encode(&captions, limit).map_err(|error| TrainError::Other(error.to_string()))?;
        let ids = tokens.ids.into_iter().map(|row| row.into_iter().map(i64::from).collect()).collect();
        Ok(Pairs { clips: self.clips.batch(scenarios, 0, self.recipe.size[0]), ids })
    }

    /// Unit embeddings of both sides, `(batch, dim)`.
    fn embed(&self, network: &Clip, pairs: &Pairs, random: &mut Random, device: &Device) -> [Tensor<2>; 2] {
        let video = pairs.clips.video(device);
        let [clips, _, frames, ..] = video.dims();
        let count = self.recipe.frames;
        // One frame from every part of the clip.
        let chosen: Vec<i32> = (0..count)
            .map(|part| {
                let [from, to] = [part * frames / count, (part + 1) * frames / count];
                (from as u64 + random.below((to - from) as u64)) as i32
            })
            .collect();
        let chosen = Tensor::<1, Int>::from_data(TensorData::new(chosen, [count]), device);
        let frames = video.select(2, chosen).swap_dims(1, 2);
        let [_, _, _, rows, columns] = frames.dims();
        let pixels = frames.reshape([clips * count, 3, rows, columns]);
        let pixels = pixels.clone() + random.normal_tensor(pixels.dims(), device) * self.recipe.noise;
        let images = normalize_rows(network.image(pixels));
        let dim = images.dims()[1];
        let mean = images.reshape([clips, count, dim]).mean_dim(1).squeeze_dim::<2>(1);
        [normalize_rows(mean), normalize_rows(network.text(&pairs.ids, device))]
    }
}

impl Objective for Contrast {
    type Batch = Pairs;

    fn name(&self) -> String {
        format!("clip {}", key(&self.recipe))
    }

    fn initialize(&self, device: &Device) -> Result<Parameters, TrainError> {
        let source = Initializer::new(self.recipe.seed, device);
        Clip::new(&Weights::new(&source, device), &self.recipe.model);
        Ok(source.into_parameters())
    }

    fn batch(&self, step: u64) -> Result<Pairs, TrainError> {
        let mut random = Random::stream(self.recipe.seed, "clip batch", step);
        let scenarios: Vec<Scenario> = (0..self.recipe.batch)
            .map(|_| self.clips.scenario(Split::Train, random.next_u64() >> 24))
            .collect();
        let details = [Detail::Brief, Detail::Colors, Detail::Traits, Detail::Full];
        let captions: Vec<String> = scenarios
            .iter()
            .map(|scenario| scenario.caption_with(random.next_u64(), details[random.below(4) as usize]))
            .collect();
        self.pairs(&scenarios, &captions)
    }

    fn step(&self, parameters: &Parameters, pairs: Pairs, step: u64) -> Result<StepResult, TrainError> {
        let leaves = parameters.leaves();
        let device = device_of(parameters);
        let network = self.build(&Weights::new(&leaves, &device))?;
        let mut random = Random::stream(self.recipe.seed, "clip pixels", step);
        let [images, texts] = self.embed(&network, &pairs, &mut random, &device);
        let count = pairs.ids.len();
        let scale = network.logit_scale().exp().reshape([1, 1]);
        let logits = images.matmul(texts.transpose()) * scale;
        let own = Tensor::<1, Int>::arange(0..count as i64, &device).unsqueeze_dim::<2>(1);
        let rows = log_softmax(logits.clone(), 1).gather(1, own.clone());
        let columns = log_softmax(logits.clone().transpose(), 1).gather(1, own.clone());
        let loss = -(rows.mean() + columns.mean()) * 0.5;
        let mut gradients = NamedGradients::new();
        leaves.collect(&mut loss.backward(), &mut gradients);
        let found = logits.without_autodiff().argmax(1).equal(own).float().mean();
        Ok(StepResult {
            loss: loss.without_autodiff().into_scalar(),
            gradients,
            buffers: Vec::new(),
            metrics: vec![("accuracy".into(), found.into_scalar())],
        })
    }

    /// Retrieval among 64 held-out clips, appended to `retrieval.txt`.
    fn sample(&self, ema: &Parameters, step: u64, folder: &Path) -> Result<Option<PathBuf>, TrainError> {
        let device = device_of(ema);
        let network = self.build(&Weights::new(ema, &device))?;
        let scenarios: Vec<Scenario> =
            (0..64).map(|index| self.clips.scenario(Split::HeldOut, index)).collect();
        let captions: Vec<String> = scenarios.iter().map(Scenario::caption).collect();
        let pairs = self.pairs(&scenarios, &captions)?;
        let [images, texts] = self.embed(&network, &pairs, &mut Random::new(0, 0), &device);
        let own = Tensor::<1, Int>::arange(0..64, &device).unsqueeze_dim::<2>(1);
        let found: f32 = images.matmul(texts.transpose()).argmax(1).equal(own).float().mean().into_scalar();
        let path = folder.join("retrieval.txt");
        append_score(&path, step, f64::from(found))?;
        Ok(Some(path))
    }
}
