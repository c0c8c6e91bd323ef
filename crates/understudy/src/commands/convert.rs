//! `understudy convert`: an adapter in the key names of another program.

use std::path::PathBuf;

use anyhow::{Result, bail};
use burn::tensor::Device;
use clap::{Args, ValueEnum};
use serde_json::json;
use understudy_engine::safetensors::Precision;
use understudy_media::check_writable;
use understudy_personalize::{Adapter, Dialect, Unmatched, convert};

use crate::progress::Progress;
use crate::report::WrongUsage;

/// Rewrite an adapter in the key names of another program.
#[derive(Debug, Args)]
pub struct Convert {
    /// The adapter, in any of the formats.
    #[arg(value_name = "FILE.safetensors")]
    path: PathBuf,
    /// Whose names to use: comfyui, diffusers, kohya or diffsynth.
    #[arg(long, value_name = "FORMAT")]
    to: Dialect,
    /// Where to write the result.
    #[arg(long, value_name = "FILE.safetensors")]
    out: PathBuf,
    /// Of an adapter that holds looks and motion apart: write the looks alone, or both as one.
    #[arg(long, value_enum, value_name = "PART")]
    part: Option<Part>,
    /// Leave out keys that are not understood.
    #[arg(long)]
    allow_unmatched: bool,
    /// Print events as JSON lines on stdout.
    #[arg(long)]
    json: bool,
}

/// What of an adapter is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Part {
    /// The looks.
    Looks,
    /// Looks and motion.
    All,
}

impl Convert {
    /// Writes an ordinary adapter of a part; gives the keys that were left out.
    fn convert_part(&self, part: Part, unmatched: Unmatched) -> Result<Vec<String>> {
        let (adapter, left_out) = Adapter::open_with(&self.path, &Device::flex(), unmatched)?;
        if adapter.motion.is_empty() {
            let path = self.path.display();
            bail!("--part: {path} holds no motion apart from its looks; leave it out");
        }
        let motion = if part == Part::All { 1.0 } else { 0.0 };
        adapter.weighed(1.0, motion).save(&self.out, self.to, Precision::F32)?;
        Ok(left_out)
    }

    /// Converts the adapter.
    pub fn run(self) -> Result<()> {
        let progress = Progress::new(self.json);
        if self.out.extension().is_none_or(|extension| extension != "safetensors") {
            let reason = format!("--out {}: the name must end in .safetensors", self.out.display());
            return Err(WrongUsage(reason).into());
        }
        check_writable(&self.out)?;
        let unmatched = if self.allow_unmatched { Unmatched::Allow } else { Unmatched::Refuse };
        let left_out = match self.part {
            None => convert(&self.path, &self.out, self.to, unmatched)?,
            Some(part) => self.convert_part(part, unmatched)?,
        };
        progress.event(
            &json!({"event": "done", "path": self.out, "format": self.to.name(), "unmatched": left_out}),
        );
        if !left_out.is_empty() {
            progress.say(&format!("note: {} keys are left out: {}", left_out.len(), left_out.join(", ")));
        }
        progress.say(&format!("wrote {}", self.out.display()));
        Ok(())
    }
}
