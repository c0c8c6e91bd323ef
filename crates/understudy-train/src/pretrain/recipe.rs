//! Recipes as TOML files, and running them from the first step to the exported weights.

use std::ops::ControlFlow;
use std::path::Path;

use burn::tensor::Device;
use serde::{Deserialize, Serialize};
use understudy_engine::parameters::Parameters;
use understudy_engine::weights::Weights;
use understudy_models::wan_vae::{WanVae, WanVaeConfig};
use understudy_pipeline::Tokenizer;

use crate::error::TrainError;
use crate::event::Event;
use crate::pretrain::autoencoder::{Autoencoder, AutoencoderRecipe, measure_latents};
use crate::pretrain::contrast::{Contrast, ContrastRecipe};
use crate::pretrain::denoiser::{Denoiser, DenoiserRecipe};
use crate::pretrain::export;
use crate::pretrain::identity::{IdentityEncoder, IdentityRecipe};
use crate::pretrain::latents::LatentCache;
use crate::pretrain::vocabulary::tokenizer;
use crate::trainer::train;

/// One file under `recipes/`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "train", rename_all = "kebab-case")]
pub enum Recipe {
    /// The video autoencoder.
    Autoencoder(AutoencoderRecipe),
    /// The text encoder and the denoiser.
    Denoiser(Box<DenoiserRecipe>),
    /// The small CLIP.
    Clip(ContrastRecipe),
    /// An identity encoder.
    Identity(IdentityRecipe),
}

/// Clips the latents' mean and deviation are taken over.
const MEASURED_CLIPS: u64 = 256;

impl Recipe {
    /// Reads a recipe.
    ///
    /// # Errors
    /// When the file cannot be read or an entry is unknown, missing or of the wrong kind; the error names it.
    pub fn read(path: &Path) -> Result<Self, TrainError> {
        let text = std::fs::read_to_string(path).map_err(|error| TrainError::Io {
            action: "read",
            path: path.to_owned(),
            error,
        })?;
        toml::from_str(&text).map_err(|error| TrainError::Recipe {
            path: path.to_owned(),
            reason: error.to_string().split_whitespace().collect::<Vec<_>>().join(" "),
        })
    }

    /// The same recipe with another number of steps; the learning rate's course is stretched over them.
    pub fn with_steps(mut self, steps: u64) -> Self {
        let training = match &mut self {
            Self::Autoencoder(recipe) => &mut recipe.training,
            Self::Denoiser(recipe) => &mut recipe.training,
            Self::Clip(recipe) => &mut recipe.training,
            Self::Identity(recipe) => &mut recipe.training,
        };
        training.steps = steps;
        self
    }

    /// Trains in `folder`, going on where an earlier run stopped, and writes the trained weights to
    /// `folder/export`. A run that `emit` stopped exports nothing.
    ///
    /// # Errors
    /// As [`train`], and when the export cannot be written.
    pub fn run(
        self,
        folder: &Path,
        device: &Device,
        emit: &mut dyn FnMut(&Event) -> ControlFlow<()>,
    ) -> Result<(), TrainError> {
        let export = folder.join("export");
        match self {
            Self::Autoencoder(recipe) => {
                let state =
                    train(&Autoencoder::new(recipe.clone())?, &recipe.training, folder, device, emit)?;
                if state.step < recipe.training.steps {
                    return Ok(());
                }
                let network = build_vae(&state.ema, &recipe.model, device)?;
                let (mean, deviation) = measure_latents(&network, recipe.size, MEASURED_CLIPS, device)?;
                let config = WanVaeConfig { latents_mean: mean, latents_std: deviation, ..recipe.model };
                export::network(&export, "AutoencoderKLWan", export::DIFFUSERS, &config, &state.ema)
            }
            Self::Clip(recipe) => {
                let objective = Contrast::new(recipe.clone(), nano_tokenizer()?)?;
                let state = train(&objective, &recipe.training, folder, device, emit)?;
                if state.step < recipe.training.steps {
                    return Ok(());
                }
                export::network(&export, "CLIPModel", export::TRANSFORMERS, &recipe.model, &state.ema)?;
                export::json(&export.join("tokenizer.json"), &tokenizer())
            }
            Self::Identity(recipe) => {
                let objective = IdentityEncoder::new(recipe.clone())?;
                let state = train(&objective, &recipe.training, folder, device, emit)?;
                if state.step < recipe.training.steps {
                    return Ok(());
                }
                let network = export::without(&state.ema, "arcface");
                export::network(&export, "IResNet", export::TRANSFORMERS, &recipe.model, &network)
            }
            Self::Denoiser(recipe) => run_denoiser(*recipe, folder, device, emit),
        }
    }
}

/// A short name for what a run depends on: everything in its recipe but how long it is and how often it
/// writes. A state is resumed only by the recipe it is from.
pub(crate) fn key(recipe: &impl Serialize) -> String {
    let mut value = serde_json::to_value(recipe).unwrap_or_default();
    if let Some(training) = value.get_mut("training").and_then(|training| training.as_object_mut()) {
        training.retain(|name, _| !["steps", "checkpoint_every", "sample_every"].contains(&name.as_str()));
    }
    format!("{:016x}", fnv(value.to_string().bytes()))
}

/// FNV-1a: short, stable, and only has to keep recipes and weights apart.
pub(crate) fn fnv(bytes: impl Iterator<Item = u8>) -> u64 {
    bytes.fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}

/// A short name for latents: the autoencoder's configuration and weights, and the size of the clips.
fn latents_key(config: &WanVaeConfig, weights: &Parameters, size: [usize; 3]) -> String {
    let text = format!("{config:?} {size:?}").into_bytes();
    let values = weights.to_named_values().into_iter().flat_map(|tensor| tensor.values);
    format!("{:016x}", fnv(text.into_iter().chain(values.flat_map(f32::to_le_bytes))))
}

fn run_denoiser(
    recipe: DenoiserRecipe,
    folder: &Path,
    device: &Device,
    emit: &mut dyn FnMut(&Event) -> ControlFlow<()>,
) -> Result<(), TrainError> {
    let io = |error| TrainError::Io { action: "create", path: folder.to_owned(), error };
    std::fs::create_dir_all(folder).map_err(io)?;
    let (config, weights) =
        export::read_network::<WanVaeConfig>(&recipe.autoencoder, export::DIFFUSERS, device)?;
    let vae = build_vae(&weights, &config, device)?;
    let key = latents_key(&config, &weights, recipe.size);
    let path = folder.join(format!("latents-{key}.f16"));
    let mut tell = |done: u64| {
        let _ = emit(&Event::Prepare { what: "clips encoded".into(), done, total: recipe.clips });
    };
    let cache = LatentCache::fill(&path, &vae, recipe.size, recipe.clips, device, &mut tell)?;
    let training = recipe.training.clone();
    let objective = Denoiser::new(recipe, cache, nano_tokenizer()?, (config, weights));
    let state = train(&objective, &training, folder, device, emit)?;
    if state.step < training.steps {
        return Ok(());
    }
    objective.export(&state.ema, &folder.join("export"))
}

fn nano_tokenizer() -> Result<Tokenizer, TrainError> {
    Tokenizer::from_bytes(tokenizer().to_string().as_bytes(), "the tokenizer of nano")
        .map_err(|error| TrainError::Other(error.to_string()))
}

fn build_vae(parameters: &Parameters, config: &WanVaeConfig, device: &Device) -> Result<WanVae, TrainError> {
    let weights = Weights::new(parameters, device);
    let network = WanVae::new(&weights, config);
    weights.finish()?;
    Ok(network)
}
