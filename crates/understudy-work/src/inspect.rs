//! What an adapter, a checkpoint or a base folder holds.

mod adapter;
mod checkpoint;
mod folder;
mod release;
mod run;
mod video;

use std::fmt;
use std::path::{Path, PathBuf};

use anyhow::{Result, bail};
use burn::tensor::Device;
use clap::Args;
use serde::Serialize;
use understudy_engine::error::WeightError;
use understudy_engine::safetensors::Checkpoint;
use understudy_media::{Provenance, is_video};

use adapter::AdapterSummary;
use checkpoint::CheckpointSummary;
use folder::FolderSummary;
use release::ReleaseSummary;
use run::RunSummary;
use understudy_pipeline::{Files, Source};

use crate::base::nano;
use crate::named::Named;
use crate::said::size;
use video::VideoSummary;

const NANO: &str = "nano";

/// Print what an adapter, a checkpoint or a base folder holds, or how a video was made.
#[derive(Debug, Args)]
pub struct Inspect {
    /// A file (safetensors, an index of shards `*.index.json`, GGUF, .pth), a folder in diffusers' layout of
    /// Wan's original release, or of an adapter as peft saves it, the folder of a run
    /// (`NAME.safetensors.run`), nano, or a video that `generate` made.
    path: PathBuf,
}

impl Named for Inspect {
    const NAME: &'static str = "inspect";
}

/// What was found.
#[derive(Debug, Serialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Summary {
    /// An adapter.
    Adapter(Box<AdapterSummary>),
    /// Weights.
    Checkpoint(CheckpointSummary),
    /// A base in diffusers' layout.
    Folder(FolderSummary),
    /// Files of a base one by one.
    Release(ReleaseSummary),
    /// A fit under way.
    Run(RunSummary),
    /// A video and how it was made.
    Video(VideoSummary),
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Self::Adapter(adapter) => adapter.fmt(f),
            Self::Checkpoint(checkpoint) => checkpoint.fmt(f),
            Self::Folder(folder) => folder.fmt(f),
            Self::Release(release) => release.fmt(f),
            Self::Run(run) => run.fmt(f),
            Self::Video(video) => video.fmt(f),
        }
    }
}

impl Inspect {
    /// What is there.
    ///
    /// # Errors
    /// When nothing is, or it is nothing that is known.
    pub fn summary(&self) -> Result<Summary> {
        let path = &self.path;
        if let Some(made) = Provenance::read(path) {
            return Ok(Summary::Video(VideoSummary::new(path, made)));
        }
        let path = &adapter::in_folder(&self.path);
        if path.is_dir() {
            if RunSummary::is_run(path) {
                return Ok(Summary::Run(RunSummary::read(path)));
            }
            if let Some(weights) = network_in(path) {
                return Ok(Summary::Checkpoint(CheckpointSummary::of(
                    &weights,
                    &Checkpoint::open(&weights, &Device::flex())?,
                )));
            }
            return Ok(match Source::folder(path)? {
                Source::Files(files) => Summary::Folder(FolderSummary::read(path, &files)?),
                Source::Parts(parts) => Summary::Release(ReleaseSummary::read(path, &parts)?),
                Source::Animated(animated) => {
                    let files = Files::folder(animated.pictures);
                    Summary::Folder(FolderSummary::read(path, &files)?)
                }
            });
        }
        if *path == Path::new(NANO) && !path.exists() {
            return Ok(Summary::Folder(FolderSummary::read(path, &nano()?)?));
        }
        if !path.exists() {
            bail!(
                "{}: no such file or folder; give an adapter, a checkpoint, the folder of a base or of a run, or nano",
                path.display()
            );
        }
        let device = Device::flex();
        let checkpoint = match Checkpoint::open(path, &device) {
            Err(WeightError::NotWeights { what, .. }) if is_video(path) && is_moving(&what) => bail!(
                "{}: a video or an animation, and nothing in it says how it was made; `generate` writes that into its videos, and \
                 programs that cut or convert one leave it out",
                path.display()
            ),
            opened => opened?,
        };
        Ok(if adapter::is_adapter(&checkpoint) {
            Summary::Adapter(Box::new(AdapterSummary::read(path, &checkpoint, &device)?))
        } else {
            Summary::Checkpoint(CheckpointSummary::of(path, &checkpoint))
        })
    }
}

/// The weights of a folder of one network, as diffusers publishes motion modules and ControlNets.
fn network_in(folder: &Path) -> Option<PathBuf> {
    const CLASSES: [&str; 2] = ["MotionAdapter", "ControlNetModel"];
    let files = Files::folder(folder);
    let config = files.object("config.json").ok()?;
    let class = config.get("_class_name")?.as_str()?;
    Some(folder.join(files.weights_of("").filter(|_| CLASSES.contains(&class))?))
}

/// Whether what a file was found to be instead of weights can be a video: a pointer or a page has its name,
/// too.
fn is_moving(what: &str) -> bool {
    what.starts_with("a video") || what.starts_with("a picture")
}

/// `12,345,678`.
fn grouped(number: usize) -> String {
    let digits = number.to_string();
    let first = digits.len() % 3;
    let groups =
        digits.as_bytes()[first..].chunks(3).map(|group| String::from_utf8_lossy(group).into_owned());
    let head = (first > 0).then(|| digits[..first].to_owned());
    head.into_iter().chain(groups).collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_easy_to_read() {
        assert_eq!([grouped(7), grouped(1234), grouped(1_000_000)], ["7", "1,234", "1,000,000"]);
    }
}
