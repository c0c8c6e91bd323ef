//! `understudy convert`: an adapter in the key names of another program.

use std::path::PathBuf;

use anyhow::Result;
use clap::Args;
use serde_json::json;
use understudy_media::check_writable;
use understudy_personalize::{Dialect, Unmatched, convert};

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
    /// Leave out keys that are not understood.
    #[arg(long)]
    allow_unmatched: bool,
    /// Print events as JSON lines on stdout.
    #[arg(long)]
    json: bool,
}

impl Convert {
    /// Converts the adapter.
    pub fn run(self) -> Result<()> {
        let progress = Progress::new(self.json);
        if self.out.extension().is_none_or(|extension| extension != "safetensors") {
            let reason = format!("--out {}: the name must end in .safetensors", self.out.display());
            return Err(WrongUsage(reason).into());
        }
        check_writable(&self.out)?;
        let unmatched = if self.allow_unmatched { Unmatched::Allow } else { Unmatched::Refuse };
        let left_out = convert(&self.path, &self.out, self.to, unmatched)?;
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
