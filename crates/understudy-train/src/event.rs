//! What training tells whoever listens.

use std::path::{Path, PathBuf};

use serde::{Serialize, Serializer};

/// One event of a run.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Event {
    /// Before anything heavy starts.
    Plan {
        /// What is trained.
        name: String,
        /// Trainable numbers.
        parameters: usize,
        /// The step the run starts at; more than 0 when it resumes.
        from: u64,
        /// The step it ends at.
        to: u64,
    },
    /// Something that whoever started the run should know.
    Note {
        /// What.
        message: String,
    },
    /// Something that has to be there before the first step is being made.
    Prepare {
        /// What.
        what: String,
        /// How many are done.
        done: u64,
        /// Of how many.
        total: u64,
    },
    /// A step was taken.
    Step {
        /// Steps taken so far.
        step: u64,
        /// Steps in all.
        total: u64,
        /// The loss of this step.
        loss: f32,
        /// Length of the gradient before clipping.
        gradient_norm: f32,
        /// Learning rate.
        learning_rate: f32,
        /// Seconds this step took.
        seconds: f32,
        /// Whatever else the objective measures.
        metrics: Vec<(String, f32)>,
    },
    /// Samples were written.
    Sample {
        /// After this many steps.
        step: u64,
        /// Where they are.
        #[serde(serialize_with = "path_as_text")]
        path: PathBuf,
    },
    /// The state was written.
    Checkpoint {
        /// After this many steps.
        step: u64,
        /// Where it is.
        #[serde(serialize_with = "path_as_text")]
        path: PathBuf,
    },
    /// The run is over.
    Done {
        /// Steps taken.
        step: u64,
        /// Where the result is.
        #[serde(serialize_with = "path_as_text")]
        path: PathBuf,
    },
}

/// A path as text: what of its name is not Unicode is replaced, since an event is better with it than not
/// told.
///
/// # Errors
/// Those of `serializer`.
pub fn path_as_text<S: Serializer>(path: &Path, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(&path.display())
}
