//! From noise to data: noise levels, samplers over them, and guidance.

mod guidance;
mod samplers;
mod schedule;

pub use guidance::{Branch, Guided};
pub use samplers::{Sampler, dpm_plus_plus, euler, unipc};
pub use schedule::Schedule;
