//! What a folder of one file a network holds: Wan's original release, or files as ComfyUI has them.

use std::fmt;
use std::path::{Path, PathBuf};

use anyhow::Result;
use burn::tensor::Device;
use serde::Serialize;
use understudy_engine::safetensors::Checkpoint;
use understudy_pipeline::{Parts, Source};
use understudy_train::path_as_text;

use super::checkpoint::CheckpointSummary;

/// The files of a base's networks.
#[derive(Debug, Serialize)]
pub struct ReleaseSummary {
    #[serde(serialize_with = "path_as_text")]
    path: PathBuf,
    /// The architecture's short name, if this program can run the base.
    identity: Option<String>,
    /// Why it cannot.
    not_supported: Option<String>,
    parts: Vec<CheckpointSummary>,
}

impl ReleaseSummary {
    /// Reads the files of `parts`, which lie in `path`; of weights only the headers.
    ///
    /// # Errors
    /// When a file is malformed.
    pub fn read(path: &Path, parts: &Parts) -> Result<Self> {
        let opened = Source::Parts(parts.clone()).open(&Device::flex());
        let files = [&parts.transformer, &parts.text_encoder, &parts.vae];
        let read = |file: &PathBuf| -> Result<CheckpointSummary> {
            Ok(CheckpointSummary::of(file, &Checkpoint::open(file, &Device::flex())?))
        };
        Ok(Self {
            path: path.to_owned(),
            not_supported: opened.as_ref().err().map(ToString::to_string),
            identity: opened.ok().map(|opened| opened.about().identity.clone()),
            parts: files.into_iter().map(read).collect::<Result<_>>()?,
        })
    }
}

impl fmt::Display for ReleaseSummary {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        writeln!(f, "base {} (one file a network)", self.path.display())?;
        match (&self.identity, &self.not_supported) {
            (Some(identity), _) => writeln!(f, "  architecture {identity}: adapters made for it fit")?,
            (_, Some(reason)) => writeln!(f, "  not supported: {reason}")?,
            _ => {}
        }
        self.parts.iter().try_for_each(|part| write!(f, "{part}"))
    }
}
