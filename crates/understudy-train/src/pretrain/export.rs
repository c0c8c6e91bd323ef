//! Writing what was trained, in the layout of diffusers and transformers.

use std::collections::BTreeMap;
use std::path::Path;

use burn::tensor::Device;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use understudy_engine::parameters::Parameters;
use understudy_engine::safetensors::{self, Checkpoint, Precision};
use understudy_engine::weights::Weights;
use understudy_models::wan_vae::{WanVae, WanVaeConfig};

use crate::error::TrainError;

/// What diffusers calls a network's file.
pub const DIFFUSERS: &str = "diffusion_pytorch_model.safetensors";
/// What transformers calls a network's file.
pub const TRANSFORMERS: &str = "model.safetensors";

/// Writes `config.json` and the weights, as bf16, of one network.
///
/// # Errors
/// When the folder cannot be written.
pub fn network(
    folder: &Path,
    class: &str,
    file: &str,
    config: &impl Serialize,
    parameters: &Parameters,
) -> Result<(), TrainError> {
    std::fs::create_dir_all(folder).map_err(|error| TrainError::Io {
        action: "create",
        path: folder.to_owned(),
        error,
    })?;
    let mut config = serde_json::to_value(config).map_err(|error| TrainError::Other(error.to_string()))?;
    if let Value::Object(entries) = &mut config {
        entries.retain(|_, value| !value.is_null());
        match file {
            DIFFUSERS => entries.insert("_class_name".into(), json!(class)),
            _ => entries.insert("architectures".into(), json!([class])),
        };
    }
    json(&folder.join("config.json"), &config)?;
    let metadata = BTreeMap::from([("format".to_owned(), "pt".to_owned())]);
    safetensors::write(&folder.join(file), &parameters.to_named_values(), metadata, Precision::Bf16)?;
    Ok(())
}

/// Writes a JSON file.
///
/// # Errors
/// When it cannot be written.
pub fn json(path: &Path, value: &Value) -> Result<(), TrainError> {
    let mut text =
        serde_json::to_string_pretty(value).map_err(|error| TrainError::Other(error.to_string()))?;
    text.push('\n');
    Ok(safetensors::write_atomically(path, text.as_bytes())?)
}

/// Reads a network [`network`] wrote.
///
/// # Errors
/// When a file is missing or malformed.
pub fn read_network<C: DeserializeOwned>(
    folder: &Path,
    file: &str,
    device: &Device,
) -> Result<(C, Parameters), TrainError> {
    let path = folder.join("config.json");
    let text = std::fs::read_to_string(&path).map_err(|error| TrainError::Io {
        action: "read",
        path: path.clone(),
        error,
    })?;
    let config = serde_json::from_str(&text)
        .map_err(|error| TrainError::Recipe { path: path.clone(), reason: error.to_string() })?;
    let checkpoint = Checkpoint::open(&folder.join(file), device)?;
    Ok((config, Parameters::from_checkpoint(&checkpoint, "")?))
}

/// The autoencoder of `config` with these weights.
///
/// # Errors
/// When they are not its.
pub fn build_vae(
    parameters: &Parameters,
    config: &WanVaeConfig,
    device: &Device,
) -> Result<WanVae, TrainError> {
    let weights = Weights::new(parameters, device);
    let network = WanVae::new(&weights, config);
    weights.finish()?;
    Ok(network)
}

/// `parameters` but for `name`.
pub fn without(parameters: &Parameters, name: &str) -> Parameters {
    parameters.filtered(|key| (key != name).then(|| key.to_owned()))
}

/// Adds a line with the step and its score to the list at `path`.
///
/// # Errors
/// When the list cannot be written.
pub fn append_score(path: &Path, step: u64, score: f64) -> Result<(), TrainError> {
    let mut text = std::fs::read_to_string(path).unwrap_or_default();
    text.push_str(&format!("{step} {score:.4}\n"));
    Ok(safetensors::write_atomically(path, text.as_bytes())?)
}
