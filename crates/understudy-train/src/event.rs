//! What training tells whoever listens.

use std::path::PathBuf;

use serde::Serialize;

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
        path: PathBuf,
    },
    /// The state was written.
    Checkpoint {
        /// After this many steps.
        step: u64,
        /// Where it is.
        path: PathBuf,
    },
    /// The run is over.
    Done {
        /// Steps taken.
        step: u64,
        /// Where the result is.
        path: PathBuf,
    },
}
