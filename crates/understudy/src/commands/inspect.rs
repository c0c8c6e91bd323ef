//! `understudy inspect`: what an adapter, a checkpoint or a base folder holds.

mod adapter;
mod checkpoint;
mod folder;
mod release;

use std::path::PathBuf;

use anyhow::{Result, bail};
use burn::tensor::Device;
use clap::Args;
use serde::Serialize;
use understudy_engine::safetensors::Checkpoint;

use adapter::AdapterSummary;
use checkpoint::CheckpointSummary;
use folder::FolderSummary;
use release::ReleaseSummary;
use understudy_pipeline::Source;

use crate::report;

/// Print what an adapter, a checkpoint or a base folder holds.
#[derive(Debug, Args)]
pub struct Inspect {
    /// A file (safetensors, an index of shards `*.index.json`, GGUF, .pth), or a folder in diffusers' layout or of
    /// Wan's original release.
    path: PathBuf,
    /// Print one JSON object on stdout.
    #[arg(long)]
    json: bool,
}

/// What was found.
#[derive(Debug, Serialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
enum Summary {
    Adapter(Box<AdapterSummary>),
    Checkpoint(CheckpointSummary),
    Folder(FolderSummary),
    Release(ReleaseSummary),
}

impl Inspect {
    /// Prints the summary.
    pub fn run(self) -> Result<()> {
        let summary = self.summary()?;
        let text = match (&summary, self.json) {
            (summary, true) => serde_json::to_string(summary)?,
            (Summary::Adapter(adapter), false) => adapter.to_string(),
            (Summary::Checkpoint(checkpoint), false) => checkpoint.to_string(),
            (Summary::Folder(folder), false) => folder.to_string(),
            (Summary::Release(release), false) => release.to_string(),
        };
        report::print(&format!("{}\n", text.trim_end()))
    }

    fn summary(&self) -> Result<Summary> {
        let path = &self.path;
        if path.is_dir() {
            return Ok(match Source::folder(path)? {
                Source::Files(_) => Summary::Folder(FolderSummary::read(path)?),
                Source::Parts(parts) => Summary::Release(ReleaseSummary::read(path, &parts)?),
            });
        }
        if !path.exists() {
            bail!(
                "{}: no such file or folder; give an adapter, a checkpoint or a base folder",
                path.display()
            );
        }
        let device = Device::flex();
        let checkpoint = Checkpoint::open(path, &device)?;
        Ok(match adapter::is_adapter(&checkpoint) {
            true => Summary::Adapter(Box::new(AdapterSummary::read(path, &checkpoint, &device)?)),
            false => Summary::Checkpoint(CheckpointSummary::of(path, &checkpoint)),
        })
    }
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

/// `1.5 MB`.
fn size(bytes: u64) -> String {
    let units = ["B", "kB", "MB", "GB", "TB"];
    let (mut value, mut unit) = (bytes as f64, 0);
    while value >= 1000.0 && unit + 1 < units.len() {
        value /= 1000.0;
        unit += 1;
    }
    if unit == 0 { format!("{bytes} B") } else { format!("{value:.1} {}", units[unit]) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_easy_to_read() {
        assert_eq!([grouped(7), grouped(1234), grouped(1_000_000)], ["7", "1,234", "1,000,000"]);
        assert_eq!([size(999), size(1_500), size(2_000_000_000)], ["999 B", "1.5 kB", "2.0 GB"]);
    }
}
