//! Scoring an adapter while it is trained, and keeping the best.

use std::fs::OpenOptions;
use std::io::Write;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use understudy_engine::safetensors::{Precision, write_atomically};
use understudy_media::Image;
use understudy_pipeline::Base;

use crate::adapter::Adapter;
use crate::error::{Error, Result};
use crate::names::Dialect;

/// Somebody who looks at videos of the subject.
pub trait Judge: Sync {
    /// How well `video` fits `prompt`, which names the class and not the subject.
    ///
    /// # Errors
    /// Says why it cannot be told.
    fn text(&self, video: &[Image], prompt: &str) -> Result<f64, String>;

    /// How much `video` shows the subject.
    ///
    /// # Errors
    /// Says why it cannot be told.
    fn identity(&self, video: &[Image]) -> Result<f64, String>;

    /// Hears what came of it.
    fn hear(&self, evaluation: &Evaluation);
}

/// How good an adapter was at a step.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Evaluation {
    /// The step.
    pub step: u64,
    /// Mean over the videos.
    pub identity: f64,
    /// Mean over the videos.
    pub text: f64,
    /// The same of the base without the adapter.
    pub base_text: f64,
    /// What the best has the most of; see [`Evaluation::new`].
    pub score: f64,
    /// Whether it is the best so far.
    pub best: bool,
}

impl Evaluation {
    /// The rule: identity counts whole as long as the text score is at least nine tenths of the base's, and falls in
    /// proportion below that.
    pub fn new(step: u64, identity: f64, text: f64, base_text: f64) -> Self {
        const KEPT: f64 = 0.9;
        let kept = if base_text > 0.0 { (text / (KEPT * base_text)).clamp(0.0, 1.0) } else { 1.0 };
        // An identity below zero must not gain by losing text.
        let score = if identity > 0.0 { identity * kept } else { identity };
        Self { step, identity, text, base_text, score, best: false }
    }
}

/// The best adapter so far, in a folder.
pub(crate) struct Best {
    adapter: PathBuf,
    evaluation: PathBuf,
    log: PathBuf,
}

impl Best {
    pub(crate) fn new(folder: &Path) -> Self {
        Self {
            adapter: folder.join("best.safetensors"),
            evaluation: folder.join("best.json"),
            log: folder.join("evaluations.jsonl"),
        }
    }

    fn known(&self) -> Option<Evaluation> {
        serde_json::from_slice(&std::fs::read(&self.evaluation).ok()?).ok()
    }

    /// Keeps `adapter` if it is better than what is kept, and logs the evaluation either way.
    ///
    /// # Errors
    /// When a file cannot be written.
    pub(crate) fn offer(&self, adapter: &Adapter, evaluation: Evaluation) -> Result<Evaluation> {
        let best = self.known().is_none_or(|known| evaluation.score > known.score);
        let evaluation = Evaluation { best, ..evaluation };
        let fault = |path: &Path| {
            let path = path.to_owned();
            move |error| Error::Io { action: "write", path, error }
        };
        let line = serde_json::to_string(&evaluation).unwrap_or_default();
        let mut log =
            OpenOptions::new().create(true).append(true).open(&self.log).map_err(fault(&self.log))?;
        writeln!(log, "{line}").map_err(fault(&self.log))?;
        if best {
            // The adapter first: whatever happens in between, it is at least as good as what is said of it.
            adapter.save(&self.adapter, Dialect::ComfyUi, Precision::F32)?;
            write_atomically(&self.evaluation, line.as_bytes())?;
        }
        Ok(evaluation)
    }

    /// The best adapter, if any was kept.
    ///
    /// # Errors
    /// When its file cannot be read.
    pub(crate) fn adapter(&self, base: &Base) -> Result<Option<Adapter>> {
        match self.known() {
            Some(_) => Ok(Some(Adapter::load(&self.adapter, base)?)),
            None => Ok(None),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn identity_counts_whole_while_text_is_kept() {
        let score = |identity, text| Evaluation::new(1, identity, text, 0.5).score;
        assert_eq!((score(0.4, 0.5), score(0.4, 0.45), score(0.4, 0.9)), (0.4, 0.4, 0.4));
        assert!((score(0.4, 0.225) - 0.2).abs() < 1e-12);
        assert_eq!(score(-0.1, 0.1), -0.1);
        assert_eq!(Evaluation::new(1, 0.3, 0.1, 0.0).score, 0.3);
    }
}
