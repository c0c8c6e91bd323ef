//! V-Warper on the command line.

use std::path::PathBuf;

use anyhow::Result;
use clap::Args;
use understudy_personalize::{Descriptor, Replaced, WarpSettings};

use super::made::add;
use super::outputs::check_tensors;

/// Usual settings.
const START: f32 = 0.15;
const END: f32 = 1.0;
const CYCLE: f32 = 0.4;
const FOREGROUND: f32 = 0.2;
const MIX: f32 = 0.8;

/// Whether and how values of the subject's pictures are warped into the video; for adapters of `fit --method
/// v-warper`.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "V-Warper")]
pub struct Warping {
    /// Use the adapter without warping.
    #[arg(long)]
    no_warp: bool,
    /// The block whose queries and keys are matched [0.6 of the depth].
    #[arg(long, value_name = "N")]
    warp_match: Option<usize>,
    /// The first block whose values are warped [that one].
    #[arg(long, value_name = "N")]
    warp_first: Option<usize>,
    /// The block after the last [the depth].
    #[arg(long, value_name = "N")]
    warp_last: Option<usize>,
    /// Where in denoising warping begins, from 0 to 1.
    #[arg(long, value_name = "X", default_value_t = START)]
    warp_start: f32,
    /// Where it ends.
    #[arg(long, value_name = "X", default_value_t = END)]
    warp_end: f32,
    /// How far a match may lead astray on its way back, as a share of the subject's rows.
    #[arg(long, value_name = "X", default_value_t = CYCLE)]
    warp_cycle: f32,
    /// Attention to the subject's words from which on a place shows it, from 0 to 1.
    #[arg(long, value_name = "X", default_value_t = FOREGROUND)]
    warp_foreground: f32,
    /// How much of a value is replaced, from 0 to 1.
    #[arg(long, value_name = "X", default_value_t = MIX)]
    warp_mix: f32,
    /// What places are compared by: qk, qk-rotated (after the rotary embedding), hidden.
    #[arg(long, value_name = "NAME", default_value = "qk", value_parser = descriptor)]
    warp_by: Descriptor,
    /// What is replaced: values, keys-values.
    #[arg(long, value_name = "NAME", default_value = "values", value_parser = replaced)]
    warp_what: Replaced,
    /// Keep what the references show at every step in this file, for other seeds and prompts.
    ///
    /// That saves their way through the denoiser. On a large base it takes gigabytes.
    #[arg(long, value_name = "FILE.safetensors")]
    warp_cache: Option<PathBuf>,
    /// Write pictures of what was matched.
    ///
    /// They show the references, the frames, the references' parts in their places, and the masks of the
    /// subject, of matches that lead back, and of what was used.
    #[arg(long, value_name = "DIR")]
    show_matches: Option<PathBuf>,
}

impl Warping {
    /// What the method is told.
    pub fn settings(&self) -> WarpSettings {
        WarpSettings {
            off: self.no_warp,
            match_block: self.warp_match,
            first: self.warp_first,
            last: self.warp_last,
            start: Some(self.warp_start),
            end: Some(self.warp_end),
            cycle: Some(self.warp_cycle),
            foreground: Some(self.warp_foreground),
            mix: Some(self.warp_mix),
            by: self.warp_by,
            what: self.warp_what,
            cache: self.warp_cache.clone(),
            show: self.show_matches.clone(),
        }
    }

    /// The folder for pictures of what is matched and the file of what references show, found usable.
    ///
    /// # Errors
    /// When the folder is there already and holds something, or the file cannot be written.
    pub fn check(&self) -> Result<()> {
        if let Some(folder) = &self.show_matches {
            understudy_media::check_writable(folder)?;
        }
        if let Some(path) = &self.warp_cache {
            check_tensors("--warp-cache", path)?;
        }
        Ok(())
    }

    /// What is written, with the flags that say where.
    pub fn written(&self) -> impl Iterator<Item = (&'static str, PathBuf)> {
        let named = [("--warp-cache", &self.warp_cache), ("--show-matches", &self.show_matches)];
        named.into_iter().filter_map(|(flag, path)| Some((flag, path.clone()?)))
    }

    /// The flags that say what is not usual.
    pub fn arguments(&self) -> Vec<String> {
        let mut arguments = Vec::new();
        let usual = |value: f32, usual: f32| (value != usual).then(|| value.to_string());
        let number = |value: Option<usize>| value.map(|value| value.to_string());
        let stated = [
            ("--warp-match", number(self.warp_match)),
            ("--warp-first", number(self.warp_first)),
            ("--warp-last", number(self.warp_last)),
            ("--warp-start", usual(self.warp_start, START)),
            ("--warp-end", usual(self.warp_end, END)),
            ("--warp-cycle", usual(self.warp_cycle, CYCLE)),
            ("--warp-foreground", usual(self.warp_foreground, FOREGROUND)),
            ("--warp-mix", usual(self.warp_mix, MIX)),
            ("--warp-by", (self.warp_by != Descriptor::QueryKey).then(|| named(self.warp_by).to_owned())),
            ("--warp-what", (self.warp_what != Replaced::Values).then(|| "keys-values".to_owned())),
        ];
        arguments.extend(self.no_warp.then(|| "--no-warp".to_owned()));
        for (flag, value) in stated {
            value.into_iter().for_each(|value| add(&mut arguments, flag, &value));
        }
        arguments
    }
}

fn descriptor(text: &str) -> Result<Descriptor, String> {
    match text {
        "qk" => Ok(Descriptor::QueryKey),
        "qk-rotated" => Ok(Descriptor::RotatedQueryKey),
        "hidden" => Ok(Descriptor::Hidden),
        _ => Err("use qk, qk-rotated or hidden".to_owned()),
    }
}

fn named(descriptor: Descriptor) -> &'static str {
    match descriptor {
        Descriptor::QueryKey => "qk",
        Descriptor::RotatedQueryKey => "qk-rotated",
        Descriptor::Hidden => "hidden",
    }
}

fn replaced(text: &str) -> Result<Replaced, String> {
    match text {
        "values" => Ok(Replaced::Values),
        "keys-values" => Ok(Replaced::KeysAndValues),
        _ => Err("use values or keys-values".to_owned()),
    }
}
