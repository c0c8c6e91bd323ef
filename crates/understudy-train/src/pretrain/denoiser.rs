//! Training the text encoder and the denoiser together, by flow matching.

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use burn::tensor::{Device, Tensor, TensorData};
use serde::{Deserialize, Serialize};
use understudy_engine::attach::Attachments;
use understudy_engine::parameters::{Initializer, NamedGradients, Parameters};
use understudy_engine::random::Random;
use understudy_engine::safetensors::{Checkpoint, Precision};
use understudy_engine::weights::{Below, WeightSource, Weights};
use understudy_models::umt5::Umt5Config;
use understudy_models::wan_transformer::{WanTransformer, WanTransformerConfig};
use understudy_models::wan_vae::{WanVae, WanVaeConfig};
use understudy_pipeline::cost::Halved;
use understudy_pipeline::families::wan::{
    BaseParameters, BaseWeights, WanConfig, WanNetworks, build, describe, save,
};
use understudy_pipeline::{
    Description, PromptOptions, Request, Sampler, Scheduler, Tokenizer, Usual, encode_prompt, generate,
};
use understudy_puppet::{Detail, Scenario, Split};

use crate::error::TrainError;
use crate::noise::levels;
use crate::pretrain::alignment::{AlignmentRecipe, Heads};
use crate::pretrain::autoencoder::device_of;
use crate::pretrain::clips::Clips;
use crate::pretrain::export::build_vae;
use crate::pretrain::grid::frames_grid;
use crate::pretrain::latents::{Kind, LatentCache};
use crate::pretrain::recipe::key;
use crate::pretrain::truth::{Layout, Seen, Truth};
use crate::trainer::{Objective, StepResult, TrainConfig};

/// How the text encoder and the denoiser are trained.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DenoiserRecipe {
    /// Seed of everything random.
    pub seed: u64,
    /// Frames, height and width of the clips.
    pub size: [usize; 3],
    /// Clips, which teach how things move. New videos are made with their shift.
    pub clips: Material,
    /// Single frames, which teach how things look at a fifth of a clip's cost; and pictures are what subjects
    /// are learned from.
    pub stills: Material,
    /// How often a step sees stills, from which step on.
    pub phases: Vec<Mix>,
    /// How much more the latents of characters count.
    pub mask_weight: f32,
    /// How much more still those of their heads count.
    #[serde(default)]
    pub head_weight: f32,
    /// What is read from hidden tokens beside, if anything.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub alignment: Option<AlignmentRecipe>,
    /// Share of captions that are left out, which guidance needs.
    pub caption_dropout: f32,
    /// Longest caption in tokens.
    pub max_tokens: usize,
    /// The folder of the trained autoencoder.
    pub autoencoder: PathBuf,
    /// A base to start from in place of random weights: what an earlier run of the same networks exported.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub start: Option<PathBuf>,
    /// The text encoder.
    pub text_encoder: Umt5Config,
    /// The denoiser.
    pub transformer: WanTransformerConfig,
    /// The loop.
    pub training: TrainConfig,
}

/// What a step learns from.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Material {
    /// How many are encoded before the first step.
    pub count: u64,
    /// How many more are encoded at every step, of whatever kind it is.
    #[serde(default)]
    pub fresh: u64,
    /// How many make a batch.
    pub batch: usize,
    /// Shift of the noise levels toward noise.
    pub shift: f32,
}

/// A stretch of training.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Mix {
    /// The first step of the stretch.
    pub from: u64,
    /// Share of its steps that see stills; the others see clips.
    pub stills: f64,
}

impl DenoiserRecipe {
    /// Share of stills in the phase of `step`; before the first phase there are none.
    fn share(&self, step: u64) -> f64 {
        self.phases.iter().rfind(|phase| phase.from <= step).map_or(0.0, |phase| phase.stills)
    }

    /// What `step` sees: stills in the share of its phase, evenly spread.
    fn kind(&self, step: u64) -> Kind {
        let share = self.share(step);
        let before = |step: u64| (step as f64 * share) as u64;
        if before(step + 1) > before(step) { Kind::Stills } else { Kind::Clips }
    }
}

impl Material {
    /// How many there are at `step`.
    pub(crate) fn at(&self, step: u64) -> u64 {
        self.count + self.fresh * step
    }
}

/// Where the two networks under training stand among the parameters.
const TEXT_ENCODER: &str = "text_encoder.";
const TRANSFORMER: &str = "transformer.";
/// And what reads from the denoiser, which is not exported.
const HEADS: &str = "heads.";

/// One batch: latents, their noise levels, captions, and what the world knows of them.
pub struct Batch {
    latents: Vec<f32>,
    sigmas: Vec<f32>,
    captions: Vec<String>,
    truth: Truth,
    kind: Kind,
}

/// What videos of such bases usually are, but for their size.
const USUAL: Usual = Usual { size: [1; 3], steps: 20, guidance: 4.0, fps: 8.0, enlarged: 4, small: true };

/// The encoded material of a recipe.
#[derive(Clone, Debug)]
pub struct Caches {
    /// The clips.
    pub clips: LatentCache,
    /// The single frames.
    pub stills: LatentCache,
}

/// The denoiser's objective.
pub struct Denoiser {
    recipe: DenoiserRecipe,
    config: WanConfig,
    about: Arc<Description>,
    caches: Caches,
    tokenizer: Tokenizer,
    vae: Parameters,
    encoder: WanVae,
    layout: Layout,
}

impl Denoiser {
    /// Prepares `recipe` with the latents of its material, and the trained autoencoder they are from.
    ///
    /// # Errors
    /// When the autoencoder cannot be built or the world cannot render the clips' size.
    pub fn new(
        recipe: DenoiserRecipe,
        caches: Caches,
        tokenizer: Tokenizer,
        (vae_config, vae): (WanVaeConfig, Parameters),
        device: &Device,
    ) -> Result<Self, TrainError> {
        let encoder = build_vae(&vae, &vae_config, device)?;
        let layout = Layout::new(recipe.size, &vae_config, recipe.transformer.patch_size)?;
        let config = WanConfig {
            text_encoder: recipe.text_encoder.clone(),
            transformer: recipe.transformer.clone(),
            vae: vae_config,
            scheduler: Scheduler::flow(Sampler::UniPc, f64::from(recipe.clips.shift)),
            max_sequence_length: recipe.max_tokens,
            usual: Some(Usual { size: recipe.size, ..USUAL }),
        };
        let about = Arc::new(describe(&config, Halved::default(), 0));
        Ok(Self { recipe, config, about, caches, tokenizer, vae, encoder, layout })
    }

    /// What steps of `kind` learn from.
    fn material(&self, kind: Kind) -> (Material, &LatentCache) {
        match kind {
            Kind::Clips => (self.recipe.clips, &self.caches.clips),
            Kind::Stills => (self.recipe.stills, &self.caches.stills),
        }
    }

    /// The networks of a base, of which the two that are trained are in `source`.
    fn networks(&self, source: &dyn WeightSource, device: &Device) -> Result<WanNetworks, TrainError> {
        let [text_encoder, transformer] =
            [TEXT_ENCODER, TRANSFORMER].map(|prefix| Below::new(source, prefix));
        let weights = BaseWeights {
            text_encoder: Weights::new(&text_encoder, device),
            transformer: Weights::new(&transformer, device),
            vae: Weights::new(&self.vae, device),
        };
        Ok(build(&self.config, self.tokenizer.clone(), &weights, device)?)
    }

    /// The heads in `source`, if the recipe has any.
    fn heads(&self, source: &dyn WeightSource, device: &Device) -> Result<Option<Heads>, TrainError> {
        let Some(recipe) = self.recipe.alignment else { return Ok(None) };
        let below = Below::new(source, HEADS);
        let weights = Weights::new(&below, device);
        let channels = self.recipe.transformer.inner_dim();
        let heads = Heads::new(&weights, recipe.hidden, channels, self.layout.places());
        weights.finish()?;
        Ok(Some(heads))
    }

    /// How much every latent of `truth` counts, `(clips, 1, frames, rows, columns)`, one on average.
    fn weights(&self, truth: &Truth, dims: [usize; 5], device: &Device) -> Tensor<5> {
        let weight = |seen: &Seen| match seen {
            Seen::Nothing => 1.0,
            Seen::Body => 1.0 + self.recipe.mask_weight,
            Seen::Head => 1.0 + self.recipe.mask_weight + self.recipe.head_weight,
        };
        let weights: Vec<f32> = truth.seen.iter().map(weight).collect();
        let mean = weights.iter().sum::<f32>() / weights.len() as f32;
        let weights = weights.into_iter().map(|weight| weight / mean).collect();
        let [clips, _, frames, rows, columns] = dims;
        Tensor::from_data(TensorData::new(weights, [clips, 1, frames, rows, columns]), device)
    }

    /// Writes the whole base, with `trained` as its two networks, into `folder` in diffusers' layout.
    ///
    /// # Errors
    /// When the folder cannot be written.
    pub fn export(&self, trained: &Parameters, folder: &Path) -> Result<(), TrainError> {
        let below = |prefix: &str| trained.filtered(|name| name.strip_prefix(prefix).map(str::to_owned));
        let parameters = BaseParameters {
            text_encoder: &below(TEXT_ENCODER),
            transformer: &below(TRANSFORMER),
            vae: &self.vae,
        };
        Ok(save(folder, &self.config, &self.tokenizer, parameters, Precision::Bf16)?)
    }
}

/// The two trained networks of an exported base.
fn exported(folder: &Path, device: &Device) -> Result<Parameters, TrainError> {
    let mut parameters = Parameters::new();
    for (prefix, file) in [
        (TEXT_ENCODER, "text_encoder/model.safetensors"),
        (TRANSFORMER, "transformer/diffusion_pytorch_model.safetensors"),
    ] {
        let checkpoint = Checkpoint::open(&folder.join(file), device)?;
        parameters.extend_below(prefix, Parameters::from_checkpoint(&checkpoint, "")?);
    }
    Ok(parameters)
}

/// What `network` predicts for `noised` latents under `text`, and the tokens after `block`, if there is one.
fn predict(
    network: &WanTransformer,
    noised: Tensor<5>,
    timesteps: &[f32],
    text: Tensor<3>,
    block: Option<usize>,
) -> (Tensor<5>, Option<Tensor<3>>) {
    let none = Attachments::none();
    let dims = noised.dims();
    let rotary = network.rotary(dims, &noised.device());
    let conditions = network.conditions(timesteps, network.context(text, &none), &none);
    let mut tokens = network.patchify(noised, &none);
    let mut read = None;
    for index in 0..network.depth() {
        tokens = network.block(index, tokens, &conditions, &rotary, &none);
        if block == Some(index) {
            read = Some(tokens.clone());
        }
    }
    (network.finish(tokens, &conditions.time, dims, &none), read)
}

/// How much a caption tells, drawn anew at every visit.
fn detail(random: &mut Random) -> Detail {
    [Detail::Brief, Detail::Colors, Detail::Traits, Detail::Full, Detail::Full][random.below(5) as usize]
}

/// Clips that are sampled while training goes on, of held-out prompts.
const CLIPS: usize = 6;
/// Rows and columns of the stills that are sampled as long as training sees no clips.
const STILLS: [usize; 2] = [4, 6];

impl Objective for Denoiser {
    type Batch = Batch;

    fn name(&self) -> String {
        format!("denoiser {}", key(&self.recipe))
    }

    fn initialize(&self, device: &Device) -> Result<Parameters, TrainError> {
        let source = Initializer::new(self.recipe.seed, device);
        self.heads(&source, device)?;
        if let Some(folder) = &self.recipe.start {
            let mut parameters = exported(folder, device)?;
            self.networks(&parameters, device)?;
            parameters.extend(source.into_parameters());
            return Ok(parameters);
        }
        self.networks(&source, device)?;
        Ok(source.into_parameters())
    }

    fn batch(&self, step: u64) -> Result<Batch, TrainError> {
        let mut random = Random::stream(self.recipe.seed, "denoiser batch", step);
        let kind = self.recipe.kind(step);
        let (material, cache) = self.material(kind);
        let count = material.at(step);
        let clips: Vec<u64> = (0..material.batch).map(|_| random.below(count)).collect();
        let sigmas = levels(&mut random, clips.len(), f64::from(material.shift));
        let scenarios: Vec<Scenario> = clips.iter().map(|&clip| Clips::training(clip)).collect();
        let mut caption = |scenario: &Scenario| {
            let dropped = random.uniform() < f64::from(self.recipe.caption_dropout);
            let seed = random.next_u64();
            let detail = detail(&mut random);
            if dropped { String::new() } else { scenario.caption_with(seed, detail) }
        };
        let captions = scenarios.iter().map(&mut caption).collect();
        let latents = cache.read(&self.encoder, count, &clips, &device_of(&self.vae))?;
        let truth = self.layout.truth(kind, &scenarios, &clips);
        Ok(Batch { latents, sigmas, captions, truth, kind })
    }

    fn step(&self, parameters: &Parameters, batch: Batch, step: u64) -> Result<StepResult, TrainError> {
        let leaves = parameters.leaves();
        let device = device_of(parameters);
        let networks = self.networks(&leaves, &device)?;
        let heads = self.heads(&leaves, &device)?;
        let (_, cache) = self.material(batch.kind);
        let latents = cache.tensor(batch.latents, &device);
        let noise =
            Random::stream(self.recipe.seed, "denoiser noise", step).normal_tensor(latents.dims(), &device);
        let count = batch.sigmas.len();
        let sigma = Tensor::<1>::from_floats(batch.sigmas.as_slice(), &device).reshape([count, 1, 1, 1, 1]);
        let noised = latents.clone() * (-sigma.clone() + 1.0) + noise.clone() * sigma;
        let target = noise - latents;

        let captions: Vec<&str> = batch.captions.iter().map(String::as_str).collect();
        let base = networks.base(self.about.clone());
        let text = encode_prompt(&base, &captions, PromptOptions::default())?.words;
        let timesteps: Vec<f32> = batch.sigmas.iter().map(|sigma| sigma * 1000.0).collect();
        let block = self.recipe.alignment.map(|recipe| recipe.block);
        let (predicted, tokens) = predict(&networks.transformer, noised, &timesteps, text, block);
        let weights = self.weights(&batch.truth, predicted.dims(), &device);
        let mut loss = ((predicted - target).powi_scalar(2) * weights).mean();
        let mut metrics = Vec::new();
        if let (Some(heads), Some(tokens), Some(recipe)) = (heads, tokens, self.recipe.alignment) {
            let lost = heads.lost(tokens, &batch.truth);
            metrics.push(("flow".to_owned(), loss.clone().without_autodiff().into_scalar()));
            metrics.extend(lost.each.map(|(name, value)| (name.to_owned(), value)));
            loss = loss + lost.total * recipe.weight;
        }
        let mut gradients = NamedGradients::new();
        leaves.collect(&mut loss.backward(), &mut gradients);
        let loss = loss.without_autodiff().into_scalar::<f32>();
        Ok(StepResult { loss, gradients, buffers: Vec::new(), metrics })
    }

    /// Held-out prompts, one a row, made by the very code that `generate` runs; the prompts are in a text
    /// file beside the picture.
    fn sample(&self, ema: &Parameters, step: u64, folder: &Path) -> Result<Option<PathBuf>, TrainError> {
        let base = self.networks(ema, &device_of(ema))?.base(self.about.clone());
        let stills = self.recipe.share(step - 1) == 1.0;
        let [rows, columns] = if stills { STILLS } else { [CLIPS, 1] };
        let prompts: Vec<String> = (0..rows * columns)
            .map(|index| index as u64)
            .map(|index| Scenario::from_index(Split::HeldOut, index).caption())
            .collect();
        let [frames, height, width] = self.recipe.size;
        let frames = if stills { 1 } else { frames };
        let request = Request {
            prompts: prompts.clone(),
            frames,
            height,
            width,
            steps: 20,
            guidance: 4.0,
            seed: self.recipe.seed,
            ..Request::new("")
        };
        let videos = generate(&base, &request, &mut |_| ControlFlow::Continue(()))?.frames;
        let path = folder.join(format!("sample-{step:06}.png"));
        let videos =
            if stills { videos.reshape([rows, columns, 3, height, width]).swap_dims(1, 2) } else { videos };
        frames_grid(videos * 2.0 - 1.0, if stills { 1 } else { 4 }, 2, &path)?;
        understudy_engine::safetensors::write_atomically(
            &path.with_extension("txt"),
            prompts.join("\n").as_bytes(),
        )?;
        Ok(Some(path))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stills_are_spread_in_the_share_of_their_phase() {
        let text = include_str!("../../../../recipes/denoiser.toml");
        let mut recipe: DenoiserRecipe = toml::from_str(&text.replace("train = ", "# train = ")).unwrap();
        recipe.phases = vec![Mix { from: 0, stills: 1.0 }, Mix { from: 10, stills: 0.25 }];
        let stills = |steps: std::ops::Range<u64>| steps.filter(|&s| recipe.kind(s) == Kind::Stills).count();
        assert_eq!(stills(0..10), 10);
        assert_eq!(stills(10..50), 10);
        assert!((10..50).all(|start| stills(start..start + 4) == 1));
    }
}
