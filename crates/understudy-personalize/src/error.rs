//! What can go wrong between a subject and an adapter. Every message is one line: what, where, and what to
//! do.

use std::path::PathBuf;

use understudy_engine::error::{WeightError, io_advice};
use understudy_train::TrainError;

use crate::names::Dialect;

/// The result of everything in this crate that can fail.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// An error of personalizing a base.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The subject cannot be used.
    #[error("{field} {reason}")]
    Subject {
        /// `class`, `token`, `subject`.
        field: &'static str,
        /// What is wrong with it and what to do.
        reason: String,
    },
    /// A setting is out of its range, unknown or does not fit the base.
    #[error("{field}: {reason}")]
    Config {
        /// The setting.
        field: String,
        /// What is wrong with it and what to do.
        reason: String,
    },
    /// An adapter file is not one, or not a whole one.
    #[error("{path} is not a usable adapter: {reason}", path = path.display())]
    Adapter {
        /// The file.
        path: PathBuf,
        /// What is wrong with it and what to do.
        reason: String,
    },
    /// A file of textual inversion is not one.
    #[error("{path} is not a usable embedding: {reason}", path = path.display())]
    Embedding {
        /// The file.
        path: PathBuf,
        /// What is wrong with it and what to do.
        reason: String,
    },
    /// An adapter that is whole holds something that cannot be written in the names asked for.
    #[error("{path} cannot be written in the names of {dialect}: {reason}", path = path.display())]
    NoNames {
        /// The adapter that was read.
        path: PathBuf,
        /// Whose names.
        dialect: Dialect,
        /// What has none and what to do.
        reason: String,
    },
    /// An adapter was made for another base.
    #[error("{adapter} was made for {made_for} and does not fit {base}: {reason}")]
    OtherBase {
        /// What the adapter is called.
        adapter: String,
        /// The base it was made for, if it says.
        made_for: String,
        /// The base it was to be used with.
        base: String,
        /// What does not fit, and what to do.
        reason: String,
    },
    /// The caller asked to stop. Everything up to here is saved.
    #[error("stopped on request after {step} of {total} steps of {stage}; run it again to go on")]
    Stopped {
        /// The stage of the recipe.
        stage: &'static str,
        /// Steps taken.
        step: u64,
        /// Steps it has.
        total: u64,
    },
    /// A file of the run cannot be read or written.
    #[error("cannot {action} {path}: {error}; {}", io_advice(error), path = path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// The system's reason.
        #[source]
        error: std::io::Error,
    },
    /// Weights cannot be read or written.
    #[error(transparent)]
    Weights(#[from] WeightError),
    /// The base cannot do what it was asked.
    #[error(transparent)]
    Pipeline(#[from] understudy_pipeline::Error),
    /// A picture or clip cannot be read or written.
    #[error(transparent)]
    Media(#[from] understudy_media::Error),
    /// Training failed.
    #[error(transparent)]
    Train(#[from] TrainError),
}

impl Error {
    /// [`Error::Config`].
    pub(crate) fn config(field: impl Into<String>, reason: impl Into<String>) -> Self {
        Self::Config { field: field.into(), reason: reason.into() }
    }
}

/// At most twenty names, separated by commas, and how many more there are.
pub(crate) fn list(names: &[String]) -> String {
    const SHOWN: usize = 20;
    // Keys are somebody's: a line stays one, whatever they hold.
    let plain = |name: &String| {
        if name.contains(char::is_control) { name.escape_debug().to_string() } else { name.clone() }
    };
    let shown: Vec<String> = names.iter().take(SHOWN).map(plain).collect();
    match names.len().saturating_sub(SHOWN) {
        0 => shown.join(", "),
        more => format!("{}, and {more} more", shown.join(", ")),
    }
}
