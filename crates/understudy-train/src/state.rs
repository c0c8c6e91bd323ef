//! The whole state of a run in one file, written atomically, so that resuming is exact.

use std::collections::BTreeMap;
use std::path::Path;

use burn::tensor::Device;
use understudy_engine::optimizer::{AdamW, AdamWConfig};
use understudy_engine::parameters::Parameters;
use understudy_engine::safetensors::{self, Checkpoint, Precision};

use crate::error::TrainError;

/// Parameters, their moving average, and the optimizer.
#[derive(Clone, Debug)]
pub struct State {
    /// What is trained, f32.
    pub parameters: Parameters,
    /// Its moving average, which is what is used afterwards.
    pub ema: Parameters,
    /// The optimizer's moments and step count.
    pub optimizer: AdamW,
    /// Steps taken.
    pub step: u64,
}

/// The entry of the metadata that holds the run's name.
const RUN: &str = "run";
const PREFIXES: [&str; 4] = ["parameter/", "ema/", "first_moment/", "second_moment/"];

impl State {
    /// The state before the first step.
    pub fn new(parameters: Parameters, config: AdamWConfig) -> Self {
        Self { ema: parameters.clone(), parameters, optimizer: AdamW::new(config), step: 0 }
    }

    /// Writes the state of a run called `name` to `path`.
    ///
    /// # Errors
    /// When the file cannot be written; the previous one is then untouched.
    pub fn save(&self, path: &Path, name: &str) -> Result<(), TrainError> {
        let [first, second] = self.optimizer.moments();
        let groups = [&self.parameters, &self.ema, &first, &second];
        let of_group = |(prefix, group): (&&str, &Parameters)| group.lazy_values(prefix);
        let tensors: Vec<_> = PREFIXES.iter().zip(groups).flat_map(of_group).collect();
        let metadata = BTreeMap::from([
            (RUN.to_owned(), name.to_owned()),
            ("step".to_owned(), self.step.to_string()),
            ("optimizer_step".to_owned(), self.optimizer.steps().to_string()),
        ]);
        Ok(safetensors::write_lazily(path, &tensors, metadata, Precision::F32)?)
    }

    /// The name of the run whose state is at `path`, or `None` if there is no file. Only the file's header is
    /// read.
    ///
    /// # Errors
    /// When the file is damaged.
    pub fn owner(path: &Path) -> Result<Option<String>, TrainError> {
        if !path.exists() {
            return Ok(None);
        }
        let checkpoint = open(path, &Device::flex())?;
        Ok(Some(checkpoint.metadata().get(RUN).cloned().unwrap_or_default()))
    }

    /// Reads the state of the run called `name`, or `None` if there is no file.
    ///
    /// # Errors
    /// When the file is damaged or belongs to another run.
    pub fn load(
        path: &Path,
        name: &str,
        config: AdamWConfig,
        device: &Device,
    ) -> Result<Option<Self>, TrainError> {
        if !path.exists() {
            return Ok(None);
        }
        let checkpoint = open(path, device)?;
        let text = |key: &str| checkpoint.metadata().get(key).cloned().unwrap_or_default();
        let found = text(RUN);
        if found != name {
            return Err(TrainError::OtherRun { path: path.to_owned(), found });
        }
        let number = |key: &str| {
            text(key).parse::<u64>().map_err(|_| TrainError::Recipe {
                path: path.to_owned(),
                reason: format!("metadata {key} is not a number; the file is damaged"),
            })
        };
        let group = |index: usize| Parameters::from_checkpoint(&checkpoint, PREFIXES[index]);
        let moments = [group(2)?, group(3)?];
        Ok(Some(Self {
            parameters: group(0)?,
            ema: group(1)?,
            optimizer: AdamW::restore(config, number("optimizer_step")?, moments),
            step: number("step")?,
        }))
    }
}

fn open(path: &Path, device: &Device) -> Result<Checkpoint, TrainError> {
    Checkpoint::open(path, device).map_err(|error| TrainError::State { path: path.to_owned(), error })
}
