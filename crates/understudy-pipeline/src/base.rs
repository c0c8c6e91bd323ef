//! A base: a loaded text-to-video model of the Wan family.

use std::sync::Arc;

use burn::tensor::Device;
use serde::Serialize;
use serde_json::{Map, Value};
use understudy_engine::hash::Fnv;
use understudy_engine::patch::{Additions, Patched};
use understudy_engine::safetensors::Checkpoint;
use understudy_engine::weights::{Lost, SharedSource, Weights};
use understudy_models::umt5::{Umt5Config, Umt5Encoder};
use understudy_models::wan_transformer::{WanTransformer, WanTransformerConfig};
use understudy_models::wan_vae::{WanVae, WanVaeConfig};

use crate::cost::{Halved, text_weights};
use crate::error::{Error, Result};
use crate::folder::Files;
use crate::limits;
use crate::scheduler::Scheduler;
use crate::source::check_kind;
use crate::tokenize::Tokenizer;

pub(crate) const INDEX: &str = "model_index.json";
pub(crate) const TEXT_ENCODER: Part = Part::of("text_encoder", "model.safetensors", "UMT5EncoderModel");
pub(crate) const TRANSFORMER: Part =
    Part::of("transformer", "diffusion_pytorch_model.safetensors", "WanTransformer3DModel");
pub(crate) const VAE: Part = Part::of("vae", "diffusion_pytorch_model.safetensors", "AutoencoderKLWan");
pub(crate) const SCHEDULER: &str = "scheduler/scheduler_config.json";
pub(crate) const PIPELINE: &str = "WanPipeline";

/// Wan 2.1's prompts are padded to this many tokens.
pub(crate) const MAX_SEQUENCE_LENGTH: usize = 512;

/// One network's place in the folder.
pub(crate) struct Part {
    pub(crate) folder: &'static str,
    weights: &'static str,
    pub(crate) class: &'static str,
}

impl Part {
    const fn of(folder: &'static str, weights: &'static str, class: &'static str) -> Self {
        Self { folder, weights, class }
    }

    pub(crate) fn config(&self) -> String {
        format!("{}/config.json", self.folder)
    }

    pub(crate) fn weights(&self) -> String {
        format!("{}/{}", self.folder, self.weights)
    }
}

/// Everything a base folder says of its networks, without their weights.
#[derive(Clone, Debug, PartialEq)]
pub struct BaseConfig {
    /// The text encoder.
    pub text_encoder: Umt5Config,
    /// The denoiser.
    pub transformer: WanTransformerConfig,
    /// The autoencoder.
    pub vae: WanVaeConfig,
    /// The sampler it was made for, and its shift.
    pub scheduler: Scheduler,
    /// Tokens of a prompt, padding included. Wan's 512, unless `model_index.json` has an entry
    /// `max_sequence_length` (which other programs ignore).
    pub max_sequence_length: usize,
}

impl BaseConfig {
    /// Reads the configurations of a base.
    ///
    /// # Errors
    /// When a file is missing or malformed, a class is not one of Wan 2.1's, a field is not supported, or the
    /// networks do not fit each other.
    pub fn read(files: &Files) -> Result<Self> {
        let index = files.object(INDEX)?;
        check_index(&index, &files.name(INDEX))?;
        let max_sequence_length = match index.get("max_sequence_length").map(Value::as_u64) {
            None => MAX_SEQUENCE_LENGTH,
            Some(Some(length @ 1..=4096)) => length as usize,
            Some(_) => {
                return Err(Error::File {
                    file: files.name(INDEX),
                    reason: "max_sequence_length: must be between 1 and 4096".to_owned(),
                    advice: "correct it or remove it for 512",
                });
            }
        };
        let config = Self {
            text_encoder: files.config(
                &TEXT_ENCODER.config(),
                TEXT_ENCODER.class,
                Umt5Config::unsupported,
            )?,
            transformer: files.config(
                &TRANSFORMER.config(),
                TRANSFORMER.class,
                WanTransformerConfig::unsupported,
            )?,
            vae: files.config(&VAE.config(), VAE.class, WanVaeConfig::unsupported)?,
            scheduler: Scheduler::from_config(&files.object(SCHEDULER)?, &files.name(SCHEDULER))?,
            max_sequence_length,
        };
        config.check([TEXT_ENCODER, TRANSFORMER, VAE].map(|part| files.name(&part.config())))?;
        Ok(config)
    }

    /// Whether every number is one a network can be built with, and the networks fit each other. The files of the
    /// text encoder, the denoiser and the autoencoder are named in errors.
    pub(crate) fn check(&self, [text_encoder, transformer, vae]: [String; 3]) -> Result<()> {
        let fault = |file: &str, (field, rule): (&str, String)| Error::File {
            file: file.to_owned(),
            reason: format!("{field}: must be {rule}"),
            advice: "download or export the files again",
        };
        limits::text_encoder(&self.text_encoder).map_err(|found| fault(&text_encoder, found))?;
        limits::transformer(&self.transformer).map_err(|found| fault(&transformer, found))?;
        limits::autoencoder(&self.vae).map_err(|found| fault(&vae, found))?;
        self.check_fit(&transformer)
    }

    /// Whether the networks take what their neighbours give.
    fn check_fit(&self, file: &str) -> Result<()> {
        let fields = [
            ("text_dim", self.transformer.text_dim, "the text encoder's d_model", self.text_encoder.d_model),
            ("in_channels", self.transformer.in_channels, "the autoencoder's z_dim", self.vae.z_dim),
            ("out_channels", self.transformer.out_channels, "the autoencoder's z_dim", self.vae.z_dim),
        ];
        match fields.into_iter().find(|(_, own, _, other)| own != other) {
            None => Ok(()),
            Some((field, own, neighbour, other)) => Err(Error::File {
                file: file.to_owned(),
                reason: format!("{field} is {own}, but {neighbour} is {other}"),
                advice: "use networks that were made for each other",
            }),
        }
    }

    /// A short name for the architecture, the same for every base that adapters can be exchanged with: `wan-`
    /// and a hash of the three networks' configurations. It does not depend on weights, on the scheduler or on
    /// fields that are absent or null.
    pub fn identity(&self) -> String {
        // One normalization is known, named or not.
        let transformer = WanTransformerConfig { qk_norm: None, ..self.transformer.clone() };
        let networks = [to_json(&self.text_encoder), to_json(&transformer), to_json(&self.vae)];
        let text = without_nulls(Value::Array(networks.to_vec())).to_string();
        format!("wan-{:016x}", Fnv::of(text.bytes()))
    }
}

fn check_index(index: &Map<String, Value>, file: &str) -> Result<()> {
    let fault = |reason: String| Error::File {
        file: file.to_owned(),
        reason,
        advice: "use a text-to-video checkpoint of the Wan 2.1 family",
    };
    let class = index.get("_class_name").and_then(Value::as_str).unwrap_or_default();
    if class != PIPELINE {
        return Err(fault(format!("_class_name is {class:?}, not {PIPELINE:?}")));
    }
    let second = index.get("transformer_2").and_then(|entry| entry.get(0)).is_some_and(Value::is_string);
    let boundary = index.get("boundary_ratio").is_some_and(Value::is_number);
    let expanded = index.get("expand_timesteps").and_then(Value::as_bool).unwrap_or(false);
    let newer = [("transformer_2", second), ("boundary_ratio", boundary), ("expand_timesteps", expanded)];
    match newer.into_iter().find(|(_, set)| *set) {
        Some((field, _)) => Err(fault(format!("{field}: Wan 2.2 is not supported"))),
        None => Ok(()),
    }
}

/// A configuration as its file has it. It goes through text, where an f32 keeps its short form.
pub(crate) fn to_json(config: &impl Serialize) -> Value {
    // Plain structs of numbers and strings cannot fail to be written.
    let text = serde_json::to_string(config).unwrap_or_default();
    serde_json::from_str(&text).unwrap_or_default()
}

fn without_nulls(value: Value) -> Value {
    match value {
        Value::Object(fields) => {
            let kept = fields.into_iter().filter(|(_, value)| !value.is_null());
            // A BTreeMap keeps the order of keys whatever features serde_json was built with.
            let sorted: std::collections::BTreeMap<_, _> =
                kept.map(|(name, value)| (name, without_nulls(value))).collect();
            sorted.into_iter().collect()
        }
        Value::Array(items) => items.into_iter().map(without_nulls).collect(),
        other => other,
    }
}

/// Where the weights of the three networks come from: a checkpoint, or parameters under training.
pub struct BaseWeights<'a> {
    /// Of the text encoder.
    pub text_encoder: Weights<'a>,
    /// Of the denoiser.
    pub transformer: Weights<'a>,
    /// Of the autoencoder.
    pub vae: Weights<'a>,
    /// What is known of how they will be held.
    pub halved: Halved,
}

impl BaseWeights<'static> {
    /// From checkpoints, as `options` say.
    pub(crate) fn of(
        config: &BaseConfig,
        [text_encoder, transformer, vae]: [Checkpoint; 3],
        options: LoadOptions,
        device: &Device,
    ) -> Result<Self> {
        let layers = if text_stays(&config.text_encoder) { config.text_encoder.num_layers } else { 0 };
        check_kind(&transformer)?;
        let halved = Halved::of(&text_encoder, &transformer);
        let transformer = Patched::new(transformer, options.additions)?;
        let streamed = |source: SharedSource, blocks| Weights::streamed(source, device, blocks);
        Ok(Self {
            text_encoder: streamed(Arc::new(text_encoder), layers),
            transformer: streamed(Arc::new(transformer), options.blocks_on_host),
            vae: streamed(Arc::new(vae), 0),
            halved,
        })
    }
}

/// How a base is loaded.
#[derive(Clone, Debug, Default)]
pub struct LoadOptions {
    /// What is added to the denoiser's weights.
    pub additions: Additions,
    /// How many of the denoiser's blocks stay in its file and are read whenever they are needed.
    pub blocks_on_host: usize,
}

/// Whether a text encoder stays in its file: it is used once for a video, and the published one would take 22 GB.
pub(crate) fn text_stays(config: &Umt5Config) -> bool {
    const LARGE: usize = 1 << 29;
    text_weights(config) + config.vocab_size * config.d_model > LARGE
}

/// A text-to-video model ready to run. Copies share their weights.
#[derive(Clone, Debug)]
pub struct Base {
    /// What its folder says of it.
    pub config: BaseConfig,
    /// Prompts to ids.
    pub tokenizer: Tokenizer,
    /// Ids to text states.
    pub text_encoder: Umt5Encoder,
    /// The denoiser.
    pub transformer: WanTransformer,
    /// Latents to pixels and back.
    pub vae: WanVae,
    /// Its architecture's short name; see [`BaseConfig::identity`].
    pub identity: String,
    /// Where it computes.
    pub device: Device,
    /// How many of the denoiser's blocks are read whenever they are needed.
    pub blocks_on_host: usize,
    /// Whose matrices take half their room.
    pub halved: Halved,
    /// What could not be read any more of each network.
    lost: [Lost; 3],
}

impl Base {
    /// Loads a base from its files.
    ///
    /// # Errors
    /// When a file is missing, malformed or not supported, or weights do not fit: every missing, mis-shaped and
    /// unknown tensor is listed.
    pub fn load(files: &Files, device: &Device) -> Result<Self> {
        Self::load_with(files, LoadOptions::default(), device)
    }

    /// The same as `options` say.
    ///
    /// # Errors
    /// As [`Base::load`], and when something is added that does not fit.
    pub fn load_with(files: &Files, options: LoadOptions, device: &Device) -> Result<Self> {
        let config = BaseConfig::read(files)?;
        let tokenizer = Tokenizer::load(files)?;
        let open = |part: Part| files.checkpoint(&part.weights(), device);
        let checkpoints = [open(TEXT_ENCODER)?, open(TRANSFORMER)?, open(VAE)?];
        let weights = BaseWeights::of(&config, checkpoints, options, device)?;
        Self::build(config, tokenizer, weights, device)
    }

    /// That everything that was read since it was loaded could be read: a file may be changed or its disk go away, and what
    /// is computed without it means nothing.
    ///
    /// # Errors
    /// Says what could not be read.
    pub fn check_read(&self) -> Result<()> {
        match self.lost.iter().find_map(Lost::reason) {
            Some(reason) => Err(Error::Lost(reason.to_owned())),
            None => Ok(()),
        }
    }

    /// Builds a base from configurations and any source of weights.
    ///
    /// # Errors
    /// When weights do not fit: every missing, mis-shaped and unknown tensor is listed.
    pub fn build(
        config: BaseConfig,
        tokenizer: Tokenizer,
        weights: BaseWeights,
        device: &Device,
    ) -> Result<Self> {
        Ok(Self {
            text_encoder: network(&weights.text_encoder, |w| Umt5Encoder::new(w, &config.text_encoder))?,
            transformer: network(&weights.transformer, |w| WanTransformer::new(w, &config.transformer))?,
            vae: network(&weights.vae, |w| WanVae::new(w, &config.vae))?,
            identity: config.identity(),
            blocks_on_host: weights.transformer.on_host(),
            lost: [&weights.text_encoder, &weights.transformer, &weights.vae].map(|own| own.lost().clone()),
            halved: weights.halved,
            config,
            tokenizer,
            device: device.clone(),
        })
    }
}

fn network<N>(weights: &Weights, build: impl FnOnce(&Weights) -> N) -> Result<N> {
    let network = build(weights);
    weights.finish()?;
    Ok(network)
}
