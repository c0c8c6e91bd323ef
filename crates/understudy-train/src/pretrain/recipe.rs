//! Recipes as TOML files, and running them from the first step to the exported weights.

use std::ops::ControlFlow;
use std::path::Path;

use burn::tensor::Device;
use serde::{Deserialize, Serialize};
use understudy_engine::hash::Fnv;
use understudy_engine::ops::Products;
use understudy_engine::parameters::Parameters;
use understudy_models::wan_vae::WanVaeConfig;
use understudy_pipeline::Tokenizer;

use crate::error::TrainError;
use crate::event::Event;
use crate::pretrain::autoencoder::{Autoencoder, AutoencoderRecipe, measure_latents};
use crate::pretrain::check::{self, Fault};
use crate::pretrain::contrast::{Contrast, ContrastRecipe};
use crate::pretrain::denoiser::{Caches, Denoiser, DenoiserRecipe, Material};
use crate::pretrain::export;
use crate::pretrain::identity::{IdentityEncoder, IdentityRecipe};
use crate::pretrain::latents::{Kind, LatentCache};
use crate::pretrain::markings::{self, MarkingsReader, MarkingsRecipe};
use crate::pretrain::parts::{PartsReader, PartsRecipe};
use crate::pretrain::posture::{Described, PostureReader, PostureRecipe};
use crate::pretrain::vocabulary::tokenizer;
use crate::state::State;
use crate::trainer::{Objective, TrainConfig, train};

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
    /// A judge of motion.
    Posture(PostureRecipe),
    /// A judge of markings.
    Markings(MarkingsRecipe),
    /// A judge of parts.
    Parts(PartsRecipe),
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
        Self::parse(&text).map_err(|reason| TrainError::Recipe { path: path.to_owned(), reason })
    }

    /// Reads a recipe from TOML, and checks every entry.
    fn parse(text: &str) -> Result<Self, String> {
        let line = |error: toml::de::Error| {
            let line = error.span().map_or(1, |span| 1 + text[..span.start].matches('\n').count());
            format!(
                "line {line}: {}; correct it",
                error.message().split_whitespace().collect::<Vec<_>>().join(" ")
            )
        };
        let table: toml::Table = text.parse().map_err(line)?;
        let recipe: Self = toml::from_str(text).map_err(line)?;
        // The networks' published configurations may have more fields than are used; a recipe may not.
        let known = toml::Table::try_from(&recipe).map_err(|error| error.to_string())?;
        if let Some(entry) = unknown(&table, &known) {
            return Err(format!("{entry}: no such entry; correct its name or remove it"));
        }
        match recipe.fault() {
            Some((entry, rule)) => Err(format!("{entry}: must be {rule}")),
            None => Ok(recipe),
        }
    }

    /// The first entry that is out of its range, and the range.
    fn fault(&self) -> Option<Fault> {
        match self {
            Self::Autoencoder(recipe) => check::autoencoder(recipe),
            Self::Denoiser(recipe) => check::denoiser(recipe),
            Self::Clip(recipe) => check::clip(recipe),
            Self::Identity(recipe) => check::identity(recipe),
            Self::Posture(recipe) => check::posture(recipe),
            Self::Markings(recipe) => check::markings(recipe),
            Self::Parts(recipe) => check::parts(recipe),
        }
    }

    /// The same recipe with another number of steps; the learning rate's course is stretched over them.
    pub fn with_steps(mut self, steps: u64) -> Self {
        let training = match &mut self {
            Self::Autoencoder(recipe) => &mut recipe.training,
            Self::Denoiser(recipe) => &mut recipe.training,
            Self::Clip(recipe) => &mut recipe.training,
            Self::Identity(recipe) => &mut recipe.training,
            Self::Posture(recipe) => &mut recipe.training,
            Self::Markings(recipe) => &mut recipe.training,
            Self::Parts(recipe) => &mut recipe.training,
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
                let objective = Autoencoder::new(recipe.clone(), device)?;
                let Some(state) = whole(&objective, &recipe.training, folder, device, emit)? else {
                    return Ok(());
                };
                let network = export::build_vae(&state.ema, &recipe.model, device)?;
                let mut tell = |done| emit(&prepared("latents measured", done, MEASURED_CLIPS));
                let measured = measure_latents(&network, recipe.size, MEASURED_CLIPS, device, &mut tell)?;
                let Some([mean, deviation]) = measured else { return Ok(()) };
                let config = WanVaeConfig { latents_mean: mean, latents_std: deviation, ..recipe.model };
                export::network(&export, "AutoencoderKLWan", export::DIFFUSERS, &config, &state.ema)
            }
            Self::Clip(recipe) => {
                let objective = Contrast::new(recipe.clone(), nano_tokenizer()?)?;
                let Some(state) = whole(&objective, &recipe.training, folder, device, emit)? else {
                    return Ok(());
                };
                export::network(&export, "CLIPModel", export::TRANSFORMERS, &recipe.model, &state.ema)?;
                export::json(&export.join("tokenizer.json"), &tokenizer())
            }
            Self::Identity(recipe) => {
                let objective = IdentityEncoder::new(recipe.clone())?;
                let Some(state) = whole(&objective, &recipe.training, folder, device, emit)? else {
                    return Ok(());
                };
                let network = export::without(&state.ema, "arcface");
                export::network(&export, "IResNet", export::TRANSFORMERS, &recipe.model, &network)
            }
            Self::Posture(recipe) => {
                let objective = PostureReader::new(recipe.clone())?;
                let Some(state) = whole(&objective, &recipe.training, folder, device, emit)? else {
                    return Ok(());
                };
                let described =
                    Described { model: &recipe.model, reliability: objective.reliability(&state.ema)? };
                export::network(&export, "IResNet", export::TRANSFORMERS, &described, &state.ema)
            }
            Self::Markings(recipe) => {
                let objective = MarkingsReader::new(recipe.clone())?;
                let Some(state) = whole(&objective, &recipe.training, folder, device, emit)? else {
                    return Ok(());
                };
                let named = objective.named(&state.ema)?;
                let described = markings::Described { model: &recipe.model, markings: named };
                export::network(&export, "IResNet", export::TRANSFORMERS, &described, &state.ema)
            }
            Self::Parts(recipe) => {
                let objective = PartsReader::new(recipe.clone())?;
                let Some(state) = whole(&objective, &recipe.training, folder, device, emit)? else {
                    return Ok(());
                };
                export::network(&export, "Segmenter", export::TRANSFORMERS, &recipe.model, &state.ema)
            }
            Self::Denoiser(recipe) => run_denoiser(*recipe, folder, device, emit),
        }
    }
}

/// Trains to the last step; `None` when the run was stopped before.
fn whole<O: Objective>(
    objective: &O,
    training: &TrainConfig,
    folder: &Path,
    device: &Device,
    emit: &mut dyn FnMut(&Event) -> ControlFlow<()>,
) -> Result<Option<State>, TrainError> {
    let state = train(objective, training, folder, device, emit)?;
    Ok((state.step >= training.steps).then_some(state))
}

fn prepared(what: &str, done: u64, total: u64) -> Event {
    Event::Prepare { what: what.to_owned(), done, total }
}

/// The first entry of `table` that `known` does not have, with the tables it is in.
fn unknown(table: &toml::Table, known: &toml::Table) -> Option<String> {
    table.iter().find_map(|(name, value)| match (value, known.get(name)) {
        (_, None) => Some(name.clone()),
        (toml::Value::Table(inner), Some(toml::Value::Table(known))) => {
            unknown(inner, known).map(|entry| format!("{name}.{entry}"))
        }
        _ => None,
    })
}

/// A short name for what a run depends on: everything in its recipe but how long it is and how often it
/// writes. A state is resumed only by the recipe it is from.
pub(crate) fn key(recipe: &impl Serialize) -> String {
    let mut value = serde_json::to_value(recipe).unwrap_or_default();
    if let Some(training) = value.get_mut("training").and_then(|training| training.as_object_mut()) {
        training.retain(|name, _| !["steps", "checkpoint_every", "sample_every"].contains(&name.as_str()));
    }
    format!("{:016x}", Fnv::of(value.to_string().bytes()))
}

/// A short name for latents: the autoencoder's configuration and weights, and the size of the clips.
fn latents_key(config: &WanVaeConfig, weights: &Parameters, size: [usize; 3]) -> String {
    let text = format!("{config:?} {size:?}").into_bytes();
    let values = weights.to_named_values().into_iter().flat_map(|tensor| tensor.values);
    format!("{:016x}", Fnv::of(text.into_iter().chain(values.flat_map(f32::to_le_bytes))))
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
    let vae = export::build_vae(&weights, &config, device)?;
    let key = latents_key(&config, &weights, recipe.size);
    let step = State::steps(folder)?;
    let mut cache = |kind, name, material: &Material| {
        let count = material.at(step);
        let mut tell = |done| emit(&prepared(&format!("{name} encoded"), done, count));
        let path = folder.join(format!("{name}-{key}.f16"));
        let _products = Products::rounded(recipe.training.bf16_products).scope();
        LatentCache::fill(&path, &vae, recipe.size, (kind, count), device, &mut tell)
    };
    let Some(stills) = cache(Kind::Stills, "stills", &recipe.stills)? else { return Ok(()) };
    let Some(clips) = cache(Kind::Clips, "clips", &recipe.clips)? else { return Ok(()) };
    let training = recipe.training.clone();
    let caches = Caches { clips, stills };
    let objective = Denoiser::new(recipe, caches, nano_tokenizer()?, (config, weights), device)?;
    match whole(&objective, &training, folder, device, emit)? {
        Some(state) => objective.export(&state.ema, &folder.join("export")),
        None => Ok(()),
    }
}

fn nano_tokenizer() -> Result<Tokenizer, TrainError> {
    Tokenizer::from_bytes(tokenizer().to_string().as_bytes(), "the tokenizer of nano")
        .map_err(|error| TrainError::Other(error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const RECIPES: [&str; 9] = [
        include_str!("../../../../recipes/autoencoder.toml"),
        include_str!("../../../../recipes/denoiser.toml"),
        include_str!("../../../../recipes/clip.toml"),
        include_str!("../../../../recipes/identity.toml"),
        include_str!("../../../../recipes/identity-reward.toml"),
        include_str!("../../../../recipes/autoencoder-smooth.toml"),
        include_str!("../../../../recipes/motion.toml"),
        include_str!("../../../../recipes/markings.toml"),
        include_str!("../../../../recipes/parts.toml"),
    ];

    #[test]
    fn the_recipes_of_nano_are_valid() {
        for text in RECIPES {
            Recipe::parse(text).unwrap();
        }
    }

    #[test]
    fn faults_are_named() {
        let [autoencoder, denoiser, clip, identity, ..] = RECIPES;
        for (recipe, entry, value) in [
            (autoencoder, "size = ", "[17, 64, 62]"),
            (autoencoder, "size = ", "[16, 64, 64]"),
            (autoencoder, "base_dim = ", "0"),
            (autoencoder, "steps = ", "0"),
            (autoencoder, "checkpoint_every = ", "0"),
            (autoencoder, "learning_rate = ", "-1.0"),
            (denoiser, "clips = ", "{ count = 1, batch = 0, shift = 1.0 }"),
            (denoiser, "clips = ", "{ count = 0, batch = 1, shift = 1.0 }"),
            (denoiser, "stills = ", "{ count = 1, batch = 1, shift = 0.0 }"),
            (denoiser, "phases = ", "[{ from = 0, stills = 1.5 }]"),
            (denoiser, "in_channels = ", "5"),
            (denoiser, "caption_dropout = ", "1.5"),
            (clip, "frames = ", "18"),
            (clip, "frames = ", "0"),
            (clip, "batch = ", "1"),
            (identity, "identities = ", "1"),
            (identity, "embedding = ", "0"),
        ] {
            let spoiled: Vec<String> = recipe
                .lines()
                .map(|line| if line.starts_with(entry) { format!("{entry}{value}") } else { line.to_owned() })
                .collect();
            let message = Recipe::parse(&spoiled.join("\n")).unwrap_err();
            let name = entry.trim_end_matches(" = ");
            assert!(message.contains(name) && !message.contains('\n'), "{entry}{value}: {message}");
        }
        let message = Recipe::parse(&autoencoder.replace("num_res_blocks", "res_blocks = 1\nnum_res_blocks"));
        assert!(message.unwrap_err().contains("model.res_blocks: no such entry"));
        let message = Recipe::parse(&autoencoder.replace("frames = 17", "frames = 16")).unwrap_err();
        assert!(message.contains("phases"), "{message}");
    }
}
