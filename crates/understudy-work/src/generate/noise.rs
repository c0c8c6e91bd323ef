//! Noise in a file, in place of the seed's.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context as _, Result, bail};
use burn::tensor::{Device, Tensor, TensorData};
use understudy_engine::safetensors::Checkpoint;

use super::LATENTS;

/// Begins the name of a tensor that a sampler adds in a step, whose number follows, from 0.
const STEP: &str = "step_noise.";

/// The noise to start from, and that of steps.
///
/// # Errors
/// When the file cannot be read, or a tensor has not five dimensions.
pub fn read(path: &Path, device: &Device) -> Result<(Tensor<5>, BTreeMap<usize, Tensor<5>>)> {
    read_all(path, device).with_context(|| format!("--initial-noise {}", path.display()))
}

fn read_all(path: &Path, device: &Device) -> Result<(Tensor<5>, BTreeMap<usize, Tensor<5>>)> {
    let file = Checkpoint::open(path, device)?;
    let mut steps = BTreeMap::new();
    for info in file.infos() {
        let Some(number) = info.name.strip_prefix(STEP) else { continue };
        let Ok(step) = number.parse::<usize>() else {
            bail!("tensor {} must end in the number of a step", info.name);
        };
        steps.insert(step, tensor(&file, &info.name, device)?);
    }
    Ok((tensor(&file, LATENTS, device)?, steps))
}

fn tensor(file: &Checkpoint, name: &str, device: &Device) -> Result<Tensor<5>> {
    let (values, shape) = file.values(name)?;
    let shape: [usize; 5] = match shape.try_into() {
        Ok(shape) => shape,
        Err(shape) => {
            bail!("tensor {name} has shape {shape:?} and needs five: batch, channels, frames, height, width")
        }
    };
    Ok(Tensor::from_data(TensorData::new(values, shape), device))
}
