//! What every method is given, and what it tells on the way.

use std::path::{Path, PathBuf};

use serde::Serialize;
use understudy_pipeline::Base;
use understudy_train::{Event, path_as_text};

use crate::subject::Subject;

/// A subject to be fitted to a base.
#[derive(Clone, Copy, Debug)]
pub struct Job<'a> {
    /// The base; it stays as it is.
    pub base: &'a Base,
    /// What the user calls it, for the adapter's metadata.
    pub base_name: &'a str,
    /// The subject.
    pub subject: &'a Subject,
    /// Further subjects that are learned along with it, each with a token of its own.
    pub others: &'a [Subject],
    /// The folder of the run: states, caches, logs and samples. A run found there goes on where it stopped.
    pub folder: &'a Path,
}

impl Job<'_> {
    /// The subject, and those that are learned along.
    pub fn subjects(&self) -> impl Iterator<Item = &Subject> {
        std::iter::once(self.subject).chain(self.others)
    }
}

/// What is going to happen.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Plan {
    /// The method.
    pub method: &'static str,
    /// Pictures of the subject.
    pub pictures: usize,
    /// Clips of it.
    pub clips: usize,
    /// Inputs that are not used, each with the reason.
    pub left_out: Vec<NotUsed>,
    /// What is worth knowing before it starts, e.g. how an input is read, or what will be learned along with
    /// the subject.
    pub notes: Vec<String>,
    /// Linear maps that get a residual.
    pub sites: usize,
    /// Trainable numbers.
    pub parameters: usize,
    /// Steps of each stage.
    pub stages: Vec<PlannedStage>,
    /// Video tokens of the longest sample.
    pub tokens: usize,
    /// Whether blocks are replayed in the backward pass.
    pub replayed: bool,
    /// Estimated memory at its peak, bytes, the base included.
    pub memory: u64,
    /// Estimated time of all stages and of the videos generated on the way, seconds.
    pub seconds: f32,
}

/// An input that is not used.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct NotUsed {
    /// The file.
    #[serde(serialize_with = "path_as_text")]
    pub path: PathBuf,
    /// Why.
    pub reason: String,
}

/// A stage of a [`Plan`].
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct PlannedStage {
    /// Its name.
    pub name: &'static str,
    /// Its steps.
    pub steps: u64,
    /// Estimated time of one, seconds.
    pub step_seconds: f32,
}

/// What a method tells whoever listens.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(untagged)]
pub enum FitEvent {
    /// Before anything heavy starts.
    Plan {
        /// Always `fit`.
        event: &'static str,
        /// The plan.
        #[serde(flatten)]
        plan: Plan,
    },
    /// From one of its stages.
    Stage {
        /// The stage.
        stage: &'static str,
        /// What happened there.
        #[serde(flatten)]
        event: Event,
    },
}
