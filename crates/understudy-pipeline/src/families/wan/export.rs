//! Writing a base as a diffusers folder.

use std::collections::BTreeMap;
use std::path::Path;

use serde::Serialize;
use serde_json::{Map, Value, json};
use understudy_engine::parameters::Parameters;
use understudy_engine::safetensors::{Precision, write, write_atomically};

use super::config::{WanConfig, to_json};
use super::files::{INDEX, PIPELINE, Part, SCHEDULER, TEXT_ENCODER, TRANSFORMER, VAE};
use crate::error::{Error, Result};
use crate::tokenize::{TOKENIZER, Tokenizer};

/// The values of a base's three networks.
#[derive(Clone, Copy, Debug)]
pub struct BaseParameters<'a> {
    /// Of the text encoder.
    pub text_encoder: &'a Parameters,
    /// Of the denoiser.
    pub transformer: &'a Parameters,
    /// Of the autoencoder.
    pub vae: &'a Parameters,
}

/// Writes a base into `folder`, which is made if it is not there, in the layout of diffusers' `WanPipeline`.
///
/// Every file is written whole or not at all, and `model_index.json` last: a folder that has it is complete.
///
/// # Errors
/// When the folder cannot be written or the disk is full.
pub fn save(
    folder: &Path,
    config: &WanConfig,
    tokenizer: &Tokenizer,
    parameters: BaseParameters,
    precision: Precision,
) -> Result<()> {
    for name in [TEXT_ENCODER.folder, TRANSFORMER.folder, VAE.folder, "tokenizer", "scheduler"] {
        create(&folder.join(name))?;
    }
    let writer = Writer { folder, precision };
    writer.network(&TEXT_ENCODER, text_encoder_config(config), parameters.text_encoder)?;
    writer.network(&TRANSFORMER, transformer_config(config), parameters.transformer)?;
    writer.network(&VAE, vae_config(config), parameters.vae)?;
    write_atomically(&folder.join(TOKENIZER), tokenizer.to_json()?.as_bytes())?;
    writer.json("tokenizer/tokenizer_config.json", tokenizer_config(config))?;
    writer.json(SCHEDULER, config.scheduler.to_config())?;
    writer.json(INDEX, index(config))
}

fn create(folder: &Path) -> Result<()> {
    std::fs::create_dir_all(folder).map_err(|source| Error::Io {
        action: "create",
        file: folder.display().to_string(),
        source,
        advice: "choose a folder that can be written",
    })
}

struct Writer<'a> {
    folder: &'a Path,
    precision: Precision,
}

impl Writer<'_> {
    fn network(&self, part: &Part, config: Value, parameters: &Parameters) -> Result<()> {
        // The entry that tells transformers which library wrote the file.
        let metadata = BTreeMap::from([("format".to_owned(), "pt".to_owned())]);
        let path = self.folder.join(part.weights());
        write(&path, &parameters.to_named_values(), metadata, self.precision)?;
        self.json(&part.config(), config)
    }

    fn json(&self, path: &str, value: Value) -> Result<()> {
        Ok(write_atomically(&self.folder.join(path), format!("{value:#}\n").as_bytes())?)
    }
}

/// `config` with the fields of `more`, which win.
fn with(config: &impl Serialize, more: Value) -> Value {
    let fields = |value: Value| match value {
        Value::Object(fields) => fields,
        _ => Map::new(),
    };
    let mut all = fields(to_json(config));
    all.extend(fields(more));
    Value::Object(all)
}

fn text_encoder_config(config: &WanConfig) -> Value {
    let more = json!({
        "architectures": [TEXT_ENCODER.class], "model_type": "umt5", "dropout_rate": 0.0,
        "pad_token_id": 0, "eos_token_id": 1, "decoder_start_token_id": 0,
    });
    with(&config.text_encoder, more)
}

fn transformer_config(config: &WanConfig) -> Value {
    let more = json!({"_class_name": TRANSFORMER.class, "qk_norm": "rms_norm_across_heads"});
    with(&config.transformer, more)
}

fn vae_config(config: &WanConfig) -> Value {
    let more = json!({
        "_class_name": VAE.class, "in_channels": 3, "out_channels": 3, "dropout": 0.0,
        "scale_factor_spatial": config.vae.spatial_factor(),
        "scale_factor_temporal": config.vae.temporal_factor(),
    });
    with(&config.vae, more)
}

fn tokenizer_config(config: &WanConfig) -> Value {
    json!({
        "tokenizer_class": "PreTrainedTokenizerFast", "pad_token": "<pad>", "eos_token": "</s>",
        "unk_token": "<unk>", "model_max_length": config.max_sequence_length,
    })
}

fn index(config: &WanConfig) -> Value {
    let scheduler = config.scheduler.to_config();
    let mut index = json!({
        "_class_name": PIPELINE,
        "scheduler": ["diffusers", scheduler["_class_name"]],
        "text_encoder": ["transformers", TEXT_ENCODER.class],
        "tokenizer": ["transformers", "PreTrainedTokenizerFast"],
        "transformer": ["diffusers", TRANSFORMER.class],
        "transformer_2": [null, null],
        "vae": ["diffusers", VAE.class],
        "boundary_ratio": null,
        "expand_timesteps": false,
        "max_sequence_length": config.max_sequence_length,
    });
    if let Some(usual) = &config.usual {
        index["usual"] = json!(usual);
    }
    index
}
