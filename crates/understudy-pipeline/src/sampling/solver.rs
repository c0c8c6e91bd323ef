//! A sampler with its settings.

use burn::tensor::Tensor;

use super::ddim::ddim;
use super::dpm::{DpmPlusPlus, dpm_plus_plus};
use super::euler::{euler, euler_ancestral};
use super::lcm::{Lcm, lcm};
use super::pndm::{Pndm, pndm};
use super::schedule::Schedule;
use super::unipc::unipc;

/// A sampler with its settings.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Solver {
    /// See [`euler`].
    Euler,
    /// See [`euler_ancestral`].
    EulerAncestral,
    /// See [`unipc`].
    UniPc,
    /// See [`dpm_plus_plus`].
    DpmPlusPlus(DpmPlusPlus),
    /// See [`ddim`].
    Ddim {
        /// Foreseen data is held within `[-clip, clip]`.
        clip: Option<f32>,
    },
    /// See [`lcm`].
    Lcm(Lcm),
    /// See [`pndm`].
    Pndm(Pndm),
}

impl Solver {
    /// Whether it adds noise of its own in steps.
    pub fn draws_noise(self) -> bool {
        match self {
            Self::EulerAncestral | Self::Lcm(_) => true,
            Self::DpmPlusPlus(settings) => settings.stochastic,
            Self::Euler | Self::UniPc | Self::Ddim { .. } | Self::Pndm(_) => false,
        }
    }

    /// Takes unit `noise` to data. `denoised` is asked for the data foreseen at a step and a sample, and
    /// `fresh` for unit noise of the same shape at a step; by those that are deterministic, never.
    ///
    /// # Errors
    /// Whatever `denoised` gives.
    pub fn sample<const D: usize, E>(
        self,
        noise: Tensor<D>,
        schedule: &Schedule,
        denoised: impl FnMut(usize, &Tensor<D>) -> Result<Tensor<D>, E>,
        fresh: &mut dyn FnMut(usize) -> Tensor<D>,
    ) -> Result<Tensor<D>, E> {
        let x = schedule.start(noise);
        match self {
            Self::Euler => euler(x, schedule, denoised),
            Self::EulerAncestral => euler_ancestral(x, schedule, denoised, fresh),
            Self::UniPc => unipc(x, schedule, denoised),
            Self::DpmPlusPlus(settings) => dpm_plus_plus(x, schedule, settings, denoised, fresh),
            Self::Ddim { clip } => ddim(x, schedule, clip, denoised),
            Self::Lcm(settings) => lcm(x, schedule, settings, denoised, fresh),
            Self::Pndm(settings) => pndm(x, schedule, settings, denoised),
        }
    }
}
