//! What a folder in diffusers' layout says of Wan's networks.

use serde::Serialize;
use serde_json::{Map, Value};
use understudy_engine::hash::Fnv;
use understudy_models::umt5::Umt5Config;
use understudy_models::wan_transformer::WanTransformerConfig;
use understudy_models::wan_vae::WanVaeConfig;

use super::files::{INDEX, PIPELINE, SCHEDULER, TEXT_ENCODER, TRANSFORMER, VAE};
use super::limits;
use crate::error::{Error, Result};
use crate::family::Usual;
use crate::files::Files;
use crate::scheduler::Scheduler;

/// Wan 2.1's prompts are padded to this many tokens.
pub(super) const MAX_SEQUENCE_LENGTH: usize = 512;

/// Everything a base folder says of its networks, without their weights.
#[derive(Clone, Debug, PartialEq)]
pub struct WanConfig {
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
    /// What its videos usually are, if `model_index.json` has an entry `usual` (likewise).
    pub usual: Option<Usual>,
}

impl WanConfig {
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
            scheduler: Scheduler::flow_from_config(&files.object(SCHEDULER)?, &files.name(SCHEDULER))?,
            max_sequence_length,
            usual: usual(&index, &files.name(INDEX))?,
        };
        config.check([TEXT_ENCODER, TRANSFORMER, VAE].map(|part| files.name(&part.config())))?;
        Ok(config)
    }

    /// Whether every number is one a network can be built with, and the networks fit each other. The files of
    /// the text encoder, the denoiser and the autoencoder are named in errors.
    pub(super) fn check(&self, [text_encoder, transformer, vae]: [String; 3]) -> Result<()> {
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
    /// and a hash of the three networks' configurations. It does not depend on weights, on the scheduler or
    /// on fields that are absent or null.
    pub fn identity(&self) -> String {
        // One normalization is known, named or not.
        let transformer = WanTransformerConfig { qk_norm: None, ..self.transformer.clone() };
        let networks = [to_json(&self.text_encoder), to_json(&transformer), to_json(&self.vae)];
        let text = without_nulls(Value::Array(networks.to_vec())).to_string();
        format!("wan-{:016x}", Fnv::of(text.bytes()))
    }
}

/// What `model_index.json` says of usual videos.
fn usual(index: &Map<String, Value>, file: &str) -> Result<Option<Usual>> {
    let Some(stated) = index.get("usual") else { return Ok(None) };
    let fault = |error: serde_json::Error| Error::File {
        file: file.to_owned(),
        reason: format!("usual: {error}"),
        advice: "correct or remove it",
    };
    serde_json::from_value(stated.clone()).map(Some).map_err(fault)
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
pub(super) fn to_json(config: &impl Serialize) -> Value {
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
