//! An adapter in the key names of another program.

use std::path::PathBuf;

use anyhow::{Result, bail};
use burn::tensor::Device;
use clap::{Args, ValueEnum};
use understudy_engine::safetensors::Precision;
use understudy_media::check_writable;
use understudy_personalize::{
    Adapter, Converted, Dialect, Opened, Unmatched, convert, convert_without_pictures,
};

use crate::context::Context;
use crate::event::Event;
use crate::named::Named;
use crate::outputs::{Input, reserve};
use crate::said::text;
use crate::usage::WrongUsage;

/// Rewrite an adapter in the key names of another program.
#[derive(Debug, Args)]
pub struct Convert {
    /// The adapter, in any of the formats, or a folder that peft or diffusers saved one in.
    #[arg(value_name = "FILE|DIR")]
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
    /// Leave out the pictures of the subject that an adapter of V-Warper carries: it then warps no values,
    /// and nobody who has the file can see them.
    #[arg(long)]
    without_pictures: bool,
    /// Leave out keys that are not understood.
    #[arg(long)]
    allow_unmatched: bool,
}

impl Named for Convert {
    const NAME: &'static str = "convert";
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
    /// Writes an ordinary adapter of a part.
    fn convert_part(&self, part: Part, unmatched: Unmatched) -> Result<Converted> {
        let Opened { mut adapter, left_out, notes, .. } =
            Adapter::open_with(&self.path, &Device::flex(), unmatched)?;
        if adapter.motion.is_empty() {
            let path = self.path.display();
            bail!("--part: {path} holds no motion apart from its looks; leave it out");
        }
        let motion = if part == Part::All { 1.0 } else { 0.0 };
        if self.without_pictures {
            adapter.references.clear();
        }
        adapter.weighed(1.0, motion).save(&self.out, self.to, Precision::F32)?;
        Ok(Converted { left_out, notes, pictures: !adapter.references.is_empty() })
    }

    /// Converts the adapter.
    ///
    /// # Errors
    /// When it is none, or holds what is not understood and may not be left out.
    pub fn run(self, context: &Context) -> Result<()> {
        if self.out.extension().is_none_or(|extension| extension != "safetensors") {
            let reason = format!("--out {}: the name must end in .safetensors", self.out.display());
            return Err(WrongUsage(reason).into());
        }
        check_writable(&self.out)?;
        let _reserved = reserve(&[("--out", &self.out)], &[Input::new("the adapter", &self.path)])?;
        let unmatched = if self.allow_unmatched { Unmatched::Allow } else { Unmatched::Refuse };
        let Converted { left_out, mut notes, pictures } = match self.part {
            None if self.without_pictures => {
                convert_without_pictures(&self.path, &self.out, self.to, unmatched)?
            }
            None => convert(&self.path, &self.out, self.to, unmatched)?,
            Some(part) => self.convert_part(part, unmatched)?,
        };
        if pictures {
            notes.push(
                "it holds the pictures of its subject as latents: whoever has it can see them; --without-pictures leaves them out"
                    .to_owned(),
            );
        }
        context.tell(&Event::Converted {
            path: text(&self.out),
            format: self.to.name(),
            unmatched: left_out,
            notes,
        });
        Ok(())
    }
}
