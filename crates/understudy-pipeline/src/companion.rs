//! What runs beside a generation, step by step.

use std::fmt::Debug;
use std::sync::Arc;

use crate::base::Base;
use crate::error::Result;
use crate::noise::Level;

/// A denoising step that is about to be taken.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Moment {
    /// The noise level it starts from.
    pub level: Level,
    /// How far denoising is, in `[0, 1]`.
    pub progress: f32,
}

/// A branch of its own beside a generation: what it sees at a step, hooks attached to the denoiser use in
/// that step.
pub trait Companion: Debug + Send + Sync {
    /// Runs before the denoiser does.
    ///
    /// # Errors
    /// When it cannot.
    fn step(self: Arc<Self>, base: &Base, moment: Moment) -> Result<()>;
}
