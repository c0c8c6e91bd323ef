//! The whole state of a run in one file, written atomically and with a checksum, so that resuming is exact.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use burn::tensor::Device;
use understudy_engine::optimizer::{AdamW, AdamWConfig};
use understudy_engine::parameters::Parameters;
use understudy_engine::safetensors::{self, Checkpoint, Precision, Sealed};

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
    /// Whether the samples that are due after the last of them are made.
    pub sampled: bool,
}

/// The files of a run's folder that hold states, the newest first: one that is whole and about to get its
/// name, the newest, and the one before it.
const FILES: [&str; 3] = ["state.next.safetensors", "state.safetensors", "state.before.safetensors"];
/// The entry of the metadata that holds the run's name.
const RUN: &str = "run";
const STEP: &str = "step";
const OPTIMIZER_STEP: &str = "optimizer_step";
const SAMPLED: &str = "sampled";
const PREFIXES: [&str; 4] = ["parameter/", "ema/", "first_moment/", "second_moment/"];

impl State {
    /// The state before the first step.
    pub fn new(parameters: Parameters, config: AdamWConfig) -> Self {
        Self { ema: parameters.clone(), parameters, optimizer: AdamW::new(config), step: 0, sampled: true }
    }

    /// Writes the state of a run called `name` to `folder`. The one before is kept beside it, so that there
    /// is a whole one whatever becomes of the newest.
    ///
    /// # Errors
    /// When it cannot be written; those that are there are then untouched.
    pub fn save(&self, folder: &Path, name: &str) -> Result<(), TrainError> {
        let [first, second] = self.optimizer.moments();
        let groups = [&self.parameters, &self.ema, &first, &second];
        let of_group = |(prefix, group): (&&str, &Parameters)| group.lazy_values(prefix);
        let tensors: Vec<_> = PREFIXES.iter().zip(groups).flat_map(of_group).collect();
        let metadata = BTreeMap::from([
            (RUN.to_owned(), name.to_owned()),
            (STEP.to_owned(), self.step.to_string()),
            (OPTIMIZER_STEP.to_owned(), self.optimizer.steps().to_string()),
            (SAMPLED.to_owned(), self.sampled.to_string()),
        ]);
        safetensors::write_sealed(&folder.join(FILES[0]), &tensors, metadata, Precision::F32)?;
        place(folder)
    }

    /// The name of the run whose state is in `folder`, or `None` if there is none that is whole.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn owner(folder: &Path) -> Result<Option<String>, TrainError> {
        for file in FILES {
            let found = Checkpoint::open_sealed(&folder.join(file), &Device::flex())?;
            if let Sealed::Whole(checkpoint) | Sealed::Unsealed(checkpoint) = found {
                return Ok(Some(checkpoint.metadata().get(RUN).cloned().unwrap_or_default()));
            }
        }
        Ok(None)
    }

    /// The steps that the run whose state is in `folder` has taken; none if there is no state that is whole.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn steps(folder: &Path) -> Result<u64, TrainError> {
        for file in FILES {
            let path = folder.join(file);
            let found = Checkpoint::open_sealed(&path, &Device::flex())?;
            if let Sealed::Whole(checkpoint) | Sealed::Unsealed(checkpoint) = found {
                return number(&checkpoint, &path, STEP);
            }
        }
        Ok(0)
    }

    /// Reads the newest whole state in `folder` of the run called `name`, or `None` if there is none; and
    /// which of the files there are damaged, which are removed.
    ///
    /// # Errors
    /// When it cannot be read or belongs to another run.
    pub fn load(
        folder: &Path,
        name: &str,
        config: AdamWConfig,
        device: &Device,
    ) -> Result<(Option<Self>, Vec<PathBuf>), TrainError> {
        let mut damaged = Vec::new();
        for file in FILES {
            let path = folder.join(file);
            match Checkpoint::open_sealed(&path, device)? {
                Sealed::Missing => {}
                Sealed::Damaged => {
                    // Otherwise it would take the place of the whole one before it.
                    std::fs::remove_file(&path).map_err(io("remove", &path))?;
                    damaged.push(path);
                }
                Sealed::Whole(checkpoint) | Sealed::Unsealed(checkpoint) => {
                    let state = Self::read(&checkpoint, &path, name, config)?;
                    drop(checkpoint);
                    if file == FILES[0] {
                        place(folder)?;
                    }
                    return Ok((Some(state), damaged));
                }
            }
        }
        Ok((None, damaged))
    }

    fn read(
        checkpoint: &Checkpoint,
        path: &Path,
        name: &str,
        config: AdamWConfig,
    ) -> Result<Self, TrainError> {
        let text = |key: &str| checkpoint.metadata().get(key).cloned().unwrap_or_default();
        let found = text(RUN);
        if found != name {
            return Err(TrainError::OtherRun { path: path.to_owned(), found });
        }
        let number = |key: &str| number(checkpoint, path, key);
        let group = |index: usize| Parameters::from_checkpoint(checkpoint, PREFIXES[index]);
        let moments = [group(2)?, group(3)?];
        Ok(Self {
            parameters: group(0)?,
            ema: group(1)?,
            optimizer: AdamW::restore(config, number(OPTIMIZER_STEP)?, moments),
            step: number(STEP)?,
            sampled: text(SAMPLED) != "false",
        })
    }
}

/// The number under `key` in the metadata of the state at `path`.
fn number(checkpoint: &Checkpoint, path: &Path, key: &str) -> Result<u64, TrainError> {
    let text = checkpoint.metadata().get(key).map(String::as_str).unwrap_or_default();
    text.parse().map_err(|_| TrainError::Recipe {
        path: path.to_owned(),
        reason: format!("metadata {key} is not a number; the file is damaged"),
    })
}

/// Gives the state that is about to get its name that name, and the one that has it the name of the one
/// before.
fn place(folder: &Path) -> Result<(), TrainError> {
    let [next, newest, before] = FILES.map(|file| folder.join(file));
    rename(&newest, &before)?;
    rename(&next, &newest)
}

/// Gives the file at `from`, if there is one, the name `to`.
fn rename(from: &Path, to: &Path) -> Result<(), TrainError> {
    match std::fs::rename(from, to) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        renamed => renamed.map_err(io("rename", from)),
    }
}

fn io(action: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> TrainError {
    let path = path.to_owned();
    move |error| TrainError::Io { action, path, error }
}
