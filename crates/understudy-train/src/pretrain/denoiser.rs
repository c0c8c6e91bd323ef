//! Training the text encoder and the denoiser together, by flow matching.

use std::path::{Path, PathBuf};

use burn::tensor::{Device, Int, Tensor, TensorData};
use serde::{Deserialize, Serialize};
use understudy_engine::attach::Attachments;
use understudy_engine::parameters::{Initializer, NamedGradients, Parameters};
use understudy_engine::random::Random;
use understudy_engine::weights::Weights;
use understudy_models::umt5::{Umt5Config, Umt5Encoder};
use understudy_models::wan_transformer::{WanTransformer, WanTransformerConfig};
use understudy_models::wan_vae::WanVae;
use understudy_pipeline::Tokenizer;
use understudy_puppet::{Detail, Scenario, Split};

use crate::error::TrainError;
use crate::pretrain::autoencoder::device_of;
use crate::pretrain::grid::frames_grid;
use crate::pretrain::latents::LatentCache;
use crate::trainer::{Objective, StepResult, TrainConfig};

/// How the text encoder and the denoiser are trained.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DenoiserRecipe {
    /// Seed of everything random.
    pub seed: u64,
    /// Frames, height and width of the clips.
    pub size: [usize; 3],
    /// How many clips are encoded and trained on.
    pub clips: u64,
    /// Clips a batch.
    pub batch: usize,
    /// Share of captions that are left out, which guidance needs.
    pub caption_dropout: f32,
    /// Shift of the noise levels toward noise.
    pub shift: f32,
    /// Longest caption in tokens.
    pub max_tokens: usize,
    /// The folder of the trained autoencoder.
    pub autoencoder: PathBuf,
    /// The text encoder.
    pub text_encoder: Umt5Config,
    /// The denoiser.
    pub transformer: WanTransformerConfig,
    /// The loop.
    pub training: TrainConfig,
}

/// The two networks under training.
pub struct Networks {
    /// The text encoder, under `text_encoder.`.
    pub text_encoder: Umt5Encoder,
    /// The denoiser, under `transformer.`.
    pub transformer: WanTransformer,
}

impl Networks {
    /// Builds both from one store.
    pub fn new(weights: &Weights, recipe: &DenoiserRecipe) -> Self {
        Self {
            text_encoder: Umt5Encoder::new(&weights.at("text_encoder"), &recipe.text_encoder),
            transformer: WanTransformer::new(&weights.at("transformer"), &recipe.transformer),
        }
    }

    /// The states of texts, zero beyond their ends as the published pipeline makes them.
    pub fn encode(&self, texts: &Texts, device: &Device) -> Tensor<3> {
        let [batch, tokens] = [texts.lengths.len(), texts.ids.len() / texts.lengths.len().max(1)];
        let ids = Tensor::<2, Int>::from_data(TensorData::new(texts.ids.clone(), [batch, tokens]), device);
        let embedded = self.text_encoder.embed(ids);
        let states = self.text_encoder.forward(embedded, &texts.lengths, &Attachments::none());
        let real = |&length: &usize| (0..tokens).map(move |t| f32::from(u8::from(t < length)));
        let mask: Vec<f32> = texts.lengths.iter().flat_map(real).collect();
        states * Tensor::from_data(TensorData::new(mask, [batch, tokens, 1]), device)
    }
}

/// Token ids of several texts, padded to one length.
#[derive(Clone, Debug)]
pub struct Texts {
    /// Row-major ids.
    pub ids: Vec<i64>,
    /// Real tokens of each.
    pub lengths: Vec<usize>,
}

/// The ids of `captions`, padded to `limit`.
pub(crate) fn texts(tokenizer: &Tokenizer, captions: &[String], limit: usize) -> Result<Texts, TrainError> {
    let captions: Vec<&str> = captions.iter().map(String::as_str).collect();
    let tokens = tokenizer.encode(&captions, limit).map_err(|error| TrainError::Other(error.to_string()))?;
    let ids = tokens.ids.iter().flatten().map(|&id| i64::from(id)).collect();
    Ok(Texts { ids, lengths: tokens.lengths })
}

/// One batch: latents, their noise levels, and texts.
pub struct Batch {
    latents: Vec<f32>,
    sigmas: Vec<f32>,
    texts: Texts,
}

/// The denoiser's objective.
pub struct Denoiser {
    recipe: DenoiserRecipe,
    cache: LatentCache,
    tokenizer: Tokenizer,
    vae: WanVaeSource,
}

/// Decodes samples; the autoencoder is not trained here.
struct WanVaeSource(std::sync::Mutex<WanVae>);

impl Denoiser {
    /// Prepares `recipe` with the latents of its clips.
    pub fn new(recipe: DenoiserRecipe, cache: LatentCache, tokenizer: Tokenizer, vae: WanVae) -> Self {
        Self { recipe, cache, tokenizer, vae: WanVaeSource(std::sync::Mutex::new(vae)) }
    }

    fn build(&self, weights: &Weights) -> Result<Networks, TrainError> {
        let networks = Networks::new(weights, &self.recipe);
        weights.finish()?;
        Ok(networks)
    }

    fn texts(&self, captions: &[String]) -> Result<Texts, TrainError> {
        texts(&self.tokenizer, captions, self.recipe.max_tokens)
    }
}

/// How much a caption tells, drawn anew at every visit.
fn detail(random: &mut Random) -> Detail {
    [Detail::Brief, Detail::Colors, Detail::Traits, Detail::Full, Detail::Full][random.below(5) as usize]
}

/// A noise level in (0, 1): logit-normal, shifted toward noise.
pub fn draw_sigma(random: &mut Random, shift: f32) -> f32 {
    let u = 1.0 / (1.0 + (-random.normal()).exp());
    let shift = f64::from(shift);
    (shift * u / (1.0 + (shift - 1.0) * u)) as f32
}

impl Objective for Denoiser {
    type Batch = Batch;

    fn name(&self) -> String {
        "denoiser".into()
    }

    fn initialize(&self, device: &Device) -> Result<Parameters, TrainError> {
        let source = Initializer::new(self.recipe.seed, device);
        Networks::new(&Weights::new(&source, device), &self.recipe);
        Ok(source.into_parameters())
    }

    fn batch(&self, step: u64) -> Result<Batch, TrainError> {
        let mut random = Random::stream(self.recipe.seed, "denoiser batch", step);
        let clips: Vec<u64> = (0..self.recipe.batch).map(|_| random.below(self.cache.count())).collect();
        let sigmas = clips.iter().map(|_| draw_sigma(&mut random, self.recipe.shift)).collect();
        let mut caption = |&clip: &u64| {
            let dropped = random.uniform() < f64::from(self.recipe.caption_dropout);
            let seed = random.next_u64();
            let detail = detail(&mut random);
            match dropped {
                true => String::new(),
                false => Scenario::from_index(Split::Train, clip).caption_with(seed, detail),
            }
        };
        let captions: Vec<String> = clips.iter().map(&mut caption).collect();
        Ok(Batch { latents: self.cache.read(&clips)?, sigmas, texts: self.texts(&captions)? })
    }

    fn step(&self, parameters: &Parameters, batch: Batch, step: u64) -> Result<StepResult, TrainError> {
        let leaves = parameters.leaves();
        let device = device_of(parameters);
        let networks = self.build(&Weights::new(&leaves, &device))?;
        let latents = self.cache.tensor(batch.latents, &device);
        let noise =
            Random::stream(self.recipe.seed, "denoiser noise", step).normal_tensor(latents.dims(), &device);
        let count = batch.sigmas.len();
        let sigma = Tensor::<1>::from_floats(batch.sigmas.as_slice(), &device).reshape([count, 1, 1, 1, 1]);
        let noised = latents.clone() * (-sigma.clone() + 1.0) + noise.clone() * sigma;
        let target = noise - latents;

        let none = Attachments::none();
        let context = networks.transformer.context(networks.encode(&batch.texts, &device), &none);
        let timesteps: Vec<f32> = batch.sigmas.iter().map(|sigma| sigma * 1000.0).collect();
        let predicted = networks.transformer.forward(noised, &timesteps, context, &none);
        let loss = (predicted - target).powi_scalar(2).mean();
        let mut gradients = NamedGradients::new();
        leaves.collect(&mut loss.backward(), &mut gradients);
        let loss = loss.without_autodiff().into_scalar::<f32>();
        Ok(StepResult { loss, gradients, buffers: Vec::new(), metrics: Vec::new() })
    }

    /// Held-out prompts, one a row.
    fn sample(&self, ema: &Parameters, step: u64, folder: &Path) -> Result<Option<PathBuf>, TrainError> {
        let device = device_of(ema);
        let networks = self.build(&Weights::new(ema, &device))?;
        let prompts: Vec<String> =
            (0..6).map(|index| Scenario::from_index(Split::HeldOut, index).caption()).collect();
        let latents = sample_euler(
            &networks,
            &self.texts(&prompts)?,
            &self.texts(&vec![String::new(); 6])?,
            &Sampling {
                dims: self.cache.dims(),
                steps: 20,
                guidance: 4.0,
                shift: self.recipe.shift,
                seed: self.recipe.seed,
            },
            &device,
        );
        let vae = self.vae.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let videos = vae.decode(vae.denormalize(latents));
        let path = folder.join(format!("sample-{step:06}.png"));
        frames_grid(videos, 4, 2, &path)?;
        let listed = std::fs::write(path.with_extension("txt"), prompts.join("\n"));
        listed.map_err(|error| TrainError::Io { action: "write", path: path.clone(), error })?;
        Ok(Some(path))
    }
}

/// Settings of [`sample_euler`].
pub struct Sampling {
    /// Channels, frames, rows and columns of one sample's latents.
    pub dims: [usize; 4],
    /// Steps.
    pub steps: usize,
    /// Guidance scale.
    pub guidance: f32,
    /// Shift of the noise levels.
    pub shift: f32,
    /// Seed of the noise.
    pub seed: u64,
}

/// Plain Euler sampling of a batch of prompts, to watch a training by.
pub fn sample_euler(
    networks: &Networks,
    texts: &Texts,
    empty: &Texts,
    sampling: &Sampling,
    device: &Device,
) -> Tensor<5> {
    let none = Attachments::none();
    let context = |texts| networks.transformer.context(networks.encode(texts, device), &none);
    let [context, unconditional] = [context(texts), context(empty)];
    let count = texts.lengths.len();
    let [channels, frames, rows, columns] = sampling.dims;
    let mut random = Random::stream(sampling.seed, "sample noise", 0);
    let mut x = random.normal_tensor([count, channels, frames, rows, columns], device);
    let sigma = |step: usize| {
        let s = 1.0 - step as f32 / sampling.steps as f32;
        sampling.shift * s / (1.0 + (sampling.shift - 1.0) * s)
    };
    for step in 0..sampling.steps {
        let timesteps = vec![sigma(step) * 1000.0; count];
        let with = networks.transformer.forward(x.clone(), &timesteps, context.clone(), &none);
        let without = networks.transformer.forward(x.clone(), &timesteps, unconditional.clone(), &none);
        let velocity = without.clone() + (with - without) * sampling.guidance;
        x = x + velocity * (sigma(step + 1) - sigma(step));
    }
    x
}
