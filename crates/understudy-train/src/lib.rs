//! The rehearsal room: one training loop for every recipe, and the recipes that pretrain `nano` and its
//! judges on the puppet world.

mod error;
mod event;
pub mod noise;
pub mod pretrain;
mod schedule;
mod state;
mod trainer;

pub use error::TrainError;
pub use event::{Event, path_as_text};
pub use schedule::Schedule;
pub use state::State;
pub use trainer::{Objective, STATE, StepResult, TrainConfig, train};
