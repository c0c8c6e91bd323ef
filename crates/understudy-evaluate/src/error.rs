//! What can go wrong while judging. Every message is one line: what, where, and what to do.

use understudy_engine::error::WeightError;

/// The result of everything in this crate that can fail.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// An error of loading or using a judge or a metric.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A judge's file cannot be read, or a prompt cannot be tokenized.
    #[error(transparent)]
    Files(#[from] understudy_pipeline::Error),
    /// A judge's configuration is not what it should be.
    #[error("{file}: {reason}; give a published network as it was published")]
    Config {
        /// The file.
        file: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A judge's weights do not fit its configuration.
    #[error(transparent)]
    Weights(#[from] WeightError),
    /// A frame cannot be cropped or resized.
    #[error(transparent)]
    Media(#[from] understudy_media::Error),
    /// A metric has too little to work on.
    #[error("{what}: {found} given and at least {needed} needed")]
    TooFew {
        /// What there is too little of.
        what: &'static str,
        /// How many there are.
        found: usize,
        /// How many there must be.
        needed: usize,
    },
    /// Two sets do not belong together.
    #[error("{what}: {left} and {right}, which must be equal")]
    Mismatch {
        /// What differs.
        what: &'static str,
        /// In the first set.
        left: usize,
        /// In the second.
        right: usize,
    },
    /// A folder of videos or references cannot be used.
    #[error("{path}: {reason}")]
    Videos {
        /// The folder, or the video's name.
        path: String,
        /// What is wrong with it and what to do.
        reason: String,
    },
    /// Frames that a network cannot look at.
    #[error("{reason}")]
    Frames {
        /// What is wrong with them and what is needed.
        reason: String,
    },
    /// A network in a file cannot be run, or is not what it should be.
    #[error("{reason}")]
    Network {
        /// What is wrong with it and what to do.
        reason: String,
    },
    /// A metric that does not exist.
    #[error("metric {name:?} is not known; those there are: {known}")]
    UnknownMetric {
        /// As it was asked for.
        name: String,
        /// The names of all.
        known: String,
    },
    /// A metric lacks something.
    #[error("metric {metric} needs {what}; give it, or leave the metric out")]
    Needs {
        /// Its name.
        metric: &'static str,
        /// What is not there.
        what: &'static str,
    },
    /// A table cannot be written.
    #[error("cannot write {path}: {source}; choose another place for it")]
    Write {
        /// The file.
        path: String,
        /// The system's reason.
        source: std::io::Error,
    },
    /// A number that is infinite or not one at all.
    #[error("{what}: a value is not finite; the network that made it has diverged")]
    NotFinite {
        /// Where.
        what: &'static str,
    },
}

/// [`Error::TooFew`] unless there are `needed`.
pub(crate) fn at_least(needed: usize, found: usize, what: &'static str) -> Result<()> {
    if found >= needed { Ok(()) } else { Err(Error::TooFew { what, found, needed }) }
}

/// [`Error::Mismatch`] unless both are equal.
pub(crate) fn equal(left: usize, right: usize, what: &'static str) -> Result<()> {
    if left == right { Ok(()) } else { Err(Error::Mismatch { what, left, right }) }
}
