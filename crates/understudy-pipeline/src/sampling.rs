//! From noise to data: noise levels, samplers over them, and guidance.
//!
//! A sampler takes a sample from noise to data along a [`Schedule`]. It asks for the data that is foreseen at
//! every step, given the step's index and the sample; what a denoiser predicts, and how that tells of data,
//! is not its matter. What it draws itself it asks for by the step's index too.

mod context;
mod ddim;
mod dpm;
mod euler;
mod guidance;
mod lcm;
mod pndm;
mod sampler;
mod schedule;
mod solver;
mod spacing;
mod unipc;

pub use context::Context;
pub use ddim::{ddim, ddim_step};
pub use dpm::{DpmPlusPlus, Rule, dpm_plus_plus};
pub use euler::{euler, euler_ancestral, euler_step};
pub use guidance::{Branch, Guided};
pub use lcm::{Lcm, lcm, lcm_data};
pub use pndm::{Pndm, pndm};
pub use sampler::Sampler;
pub use schedule::{Schedule, Shares, Transition};
pub use solver::Solver;
pub use spacing::{Spacing, leading, linspace, spaced, trailing};
pub use unipc::unipc;
