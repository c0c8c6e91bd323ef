//! Scoring an adapter while it is trained, and keeping the best.

use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use understudy_engine::safetensors::{Precision, write_atomically};
use understudy_files::{checksum, seal, unseal};
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
    /// The rule: identity counts whole as long as the text score is at least nine tenths of the base's, and
    /// falls in proportion below that.
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
    folder: PathBuf,
    evaluation: PathBuf,
    log: PathBuf,
}

/// What is said of the best adapter beside it, sealed.
#[derive(Serialize, Deserialize)]
struct Said {
    /// The checksum of its file.
    adapter: u32,
    evaluation: Evaluation,
}

impl Best {
    pub(crate) fn new(folder: &Path) -> Self {
        Self {
            folder: folder.to_owned(),
            evaluation: folder.join("best.toml"),
            log: folder.join("evaluations.jsonl"),
        }
    }

    /// Where the adapter of a step is: what is said of one before it stays true until the new one is said to
    /// be the best.
    fn adapter_of(&self, step: u64) -> PathBuf {
        self.folder.join(format!("best-{step:06}.safetensors"))
    }

    fn known(&self) -> Option<Said> {
        toml::from_str(unseal(&std::fs::read(&self.evaluation).ok()?)?).ok()
    }

    /// Which of its files is damaged, if one is.
    ///
    /// # Errors
    /// When one cannot be read.
    pub(crate) fn damaged(&self) -> Result<Option<PathBuf>> {
        if !self.evaluation.exists() {
            return Ok(None);
        }
        let Some(said) = self.known() else { return Ok(Some(self.evaluation.clone())) };
        let adapter = self.adapter_of(said.evaluation.step);
        let whole = match std::fs::read(&adapter) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => false,
            own => checksum(&own.map_err(fault("read", &adapter))?) == said.adapter,
        };
        Ok((!whole).then_some(adapter))
    }

    /// Keeps `adapter` if it is better than what is kept, and logs the evaluation either way.
    ///
    /// # Errors
    /// When a file cannot be written.
    pub(crate) fn offer(&self, adapter: &Adapter, evaluation: Evaluation) -> Result<Evaluation> {
        let known = self.known().map(|known| known.evaluation);
        // A run that goes on after a kill may come to the best a second time.
        let best = known.is_none_or(|known| evaluation.score > known.score || evaluation.step == known.step);
        let evaluation = Evaluation { best, ..evaluation };
        if best {
            let path = self.adapter_of(evaluation.step);
            adapter.save(&path, Dialect::ComfyUi, Precision::F32)?;
            let bytes = std::fs::read(&path).map_err(fault("read", &path))?;
            let said = toml::to_string(&Said { adapter: checksum(&bytes), evaluation });
            let said = said.map_err(|error| fault("write", &self.evaluation)(io::Error::other(error)))?;
            write_atomically(&self.evaluation, seal(&said).as_bytes())?;
            if let Some(known) = known.filter(|known| known.step != evaluation.step) {
                // It is no use any more, and no harm.
                let _ = std::fs::remove_file(self.adapter_of(known.step));
            }
        }
        self.log(&evaluation)?;
        Ok(evaluation)
    }

    /// Adds an evaluation to the log. Those of this step and later are of a run that was killed, and made
    /// again.
    fn log(&self, evaluation: &Evaluation) -> Result<()> {
        let logged = std::fs::read_to_string(&self.log).unwrap_or_default();
        let earlier = logged.lines().filter(|line| {
            serde_json::from_str(line).is_ok_and(|own: Evaluation| own.step < evaluation.step)
        });
        let line = serde_json::to_string(&evaluation).unwrap_or_default();
        let lines: String = earlier.chain([line.as_str()]).map(|line| format!("{line}\n")).collect();
        Ok(write_atomically(&self.log, lines.as_bytes())?)
    }

    /// The best adapter, if any was kept.
    ///
    /// # Errors
    /// When its file cannot be read.
    pub(crate) fn adapter(&self, base: &Base) -> Result<Option<Adapter>> {
        match self.known() {
            Some(said) => Ok(Some(Adapter::load(&self.adapter_of(said.evaluation.step), base)?)),
            None => Ok(None),
        }
    }
}

fn fault(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Error {
    let path = path.to_owned();
    move |error| Error::Io { action, path, error }
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
