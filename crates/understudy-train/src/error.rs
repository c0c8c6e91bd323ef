//! Errors of training.

use understudy_engine::error::{WeightError, io_advice};

/// What can go wrong while training.
#[derive(Debug, thiserror::Error)]
pub enum TrainError {
    /// Weights or a training state cannot be read or written.
    #[error(transparent)]
    Weights(#[from] WeightError),
    /// A file beside the weights cannot be read or written.
    #[error("cannot {action} {path}: {error}; {}", io_advice(error), path = path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// The file.
        path: std::path::PathBuf,
        /// The system's reason.
        #[source]
        error: std::io::Error,
    },
    /// A recipe is not valid.
    #[error("{path}: {reason}", path = path.display())]
    Recipe {
        /// The recipe's file.
        path: std::path::PathBuf,
        /// Which entry is wrong, and how.
        reason: String,
    },
    /// The loss or a gradient stopped being a number.
    #[error(
        "step {step}: the loss is {loss} and the gradient's length {norm}; lower the learning rate and resume from the last state"
    )]
    Diverged {
        /// The step.
        step: u64,
        /// The loss there.
        loss: f32,
        /// The gradient's length there.
        norm: f32,
    },
    /// The state on disk belongs to another run.
    #[error(
        "{path} was written by another run ({found}): other settings, another base or other data; give those of the \
         first, or use another folder",
        path = path.display()
    )]
    OtherRun {
        /// The state file.
        path: std::path::PathBuf,
        /// What it says it is.
        found: String,
    },
    /// The pipeline refused something.
    #[error(transparent)]
    Pipeline(#[from] understudy_pipeline::Error),
    /// A base or a picture cannot be used.
    #[error("{0}")]
    Other(String),
}
