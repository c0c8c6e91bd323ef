//! The published `scheduler_config.json`: which sampler a base was made for, and how a run's noise levels are
//! laid out. A file says what was trained too: whether the base matches flows, or how its diffusion adds
//! noise and what it predicts.

mod betas;
mod diffusion;
mod fields;
mod flow;
mod levels;

use burn::tensor::Tensor;
use serde_json::{Map, Value};

use crate::error::{Error, Result};
use crate::noise::Noise;
use crate::sampling::{DpmPlusPlus, Sampler, Schedule, Solver};
use diffusion::Diffusion;

/// A sampler with its settings, and with what it samples.
#[derive(Clone, Debug, PartialEq)]
pub struct Scheduler(Kind);

#[derive(Clone, Debug, PartialEq)]
enum Kind {
    Flow { sampler: Sampler, shift: f64 },
    Diffusion(Box<Diffusion>),
}

impl Scheduler {
    /// Of flow matching, with noise levels moved towards noise by `shift`: 1 does nothing, Wan uses 3 to 5.
    /// A `sampler` that is not [for flows](Sampler::is_for_flow) is taken for Euler's method.
    pub const fn flow(sampler: Sampler, shift: f64) -> Self {
        Self(Kind::Flow { sampler, shift })
    }

    /// Reads a configuration of any class; `file` names it in errors. What is absent is as the class has it.
    ///
    /// # Errors
    /// When its class is not known, a field is malformed, or one asks for mathematics that is not
    /// implemented.
    pub fn from_config(config: &Map<String, Value>, file: &str) -> Result<Self> {
        if flow::is_flow(config) {
            return Self::flow_from_config(config, file);
        }
        let advice = "use another scheduler's file, as DDIMScheduler's or EulerDiscreteScheduler's";
        let read = Diffusion::read(config);
        let diffusion = read.map_err(|reason| Error::File { file: file.to_owned(), reason, advice })?;
        Ok(Self(Kind::Diffusion(Box::new(diffusion))))
    }

    /// The same of a base that matches flows.
    ///
    /// # Errors
    /// As [`Scheduler::from_config`], and when the file is of diffusion.
    pub fn flow_from_config(config: &Map<String, Value>, file: &str) -> Result<Self> {
        let advice = "use a FlowMatchEulerDiscreteScheduler or a flow-predicting UniPCMultistepScheduler or \
                      DPMSolverMultistepScheduler";
        let read = flow::read(config);
        let read = read.map_err(|reason| Error::File { file: file.to_owned(), reason, advice });
        read.map(|(sampler, shift)| Self::flow(sampler, shift))
    }

    /// The configuration as diffusers reads it.
    pub fn to_config(&self) -> Value {
        Value::Object(match &self.0 {
            Kind::Flow { sampler, shift } => flow::to_config(*sampler, *shift),
            Kind::Diffusion(diffusion) => diffusion.config.clone(),
        })
    }

    /// The same base sampled by another `sampler`, or with another `shift`. Of diffusion the other sampler
    /// has the fields that the file states, where it has such, and else its own defaults.
    ///
    /// # Errors
    /// When these do not go with the base.
    pub fn with(&self, sampler: Option<Sampler>, shift: Option<f64>) -> Result<Self> {
        let sampler = sampler.unwrap_or(self.sampler());
        match &self.0 {
            Kind::Flow { shift: own, .. } => {
                if !sampler.is_for_flow() {
                    return Err(misfit(sampler, "this base matches flows", Sampler::is_for_flow));
                }
                Ok(Self::flow(sampler, shift.unwrap_or(*own)))
            }
            Kind::Diffusion(own) => {
                if !sampler.is_for_diffusion() {
                    return Err(misfit(sampler, "this base is of diffusion", Sampler::is_for_diffusion));
                }
                if shift.is_some() {
                    let reason = "is for bases that match flows, and this one is of diffusion; leave it out";
                    return Err(Error::Request { field: "shift", reason: reason.to_owned() });
                }
                if sampler == own.sampler {
                    return Ok(self.clone());
                }
                let other = own.with(sampler).map_err(|reason| Error::Request {
                    field: "scheduler",
                    reason: format!("{sampler} does not go with this base: {reason}"),
                })?;
                Ok(Self(Kind::Diffusion(Box::new(other))))
            }
        }
    }

    /// The sampler's name.
    pub fn sampler(&self) -> Sampler {
        match &self.0 {
            Kind::Flow { sampler, .. } => *sampler,
            Kind::Diffusion(diffusion) => diffusion.sampler,
        }
    }

    /// How far noise levels are moved towards noise, where the base matches flows.
    pub fn shift(&self) -> Option<f64> {
        match &self.0 {
            Kind::Flow { shift, .. } => Some(*shift),
            Kind::Diffusion(_) => None,
        }
    }

    /// What was trained.
    pub fn noise(&self) -> Noise {
        match &self.0 {
            Kind::Flow { .. } => Noise::Flow,
            Kind::Diffusion(diffusion) => diffusion.noise(),
        }
    }

    /// The sampler with its settings.
    pub fn solver(&self) -> Solver {
        match &self.0 {
            Kind::Flow { sampler: Sampler::UniPc, .. } => Solver::UniPc,
            Kind::Flow { sampler: Sampler::DpmPlusPlus, .. } => {
                Solver::DpmPlusPlus(DpmPlusPlus::SECOND_ORDER)
            }
            Kind::Flow { .. } => Solver::Euler,
            Kind::Diffusion(diffusion) => diffusion.solver,
        }
    }

    /// The noise levels of a run in so many `steps`, from 1 on.
    ///
    /// # Errors
    /// When this sampler cannot take so many, or so few.
    pub fn schedule(&self, steps: usize) -> Result<Schedule> {
        if steps == 0 {
            return Err(Error::Request { field: "steps", reason: "must be at least 1".to_owned() });
        }
        match &self.0 {
            Kind::Flow { sampler: Sampler::UniPc, shift } => Ok(Schedule::unipc(*shift, steps)),
            Kind::Flow { sampler: Sampler::DpmPlusPlus, shift } => Ok(Schedule::dpm_plus_plus(*shift, steps)),
            Kind::Flow { shift, .. } => Ok(Schedule::euler(*shift, steps)),
            Kind::Diffusion(diffusion) => diffusion.schedule(steps),
        }
    }

    /// Takes unit `noise` to data along a schedule of its own; see [`Solver::sample`].
    ///
    /// # Errors
    /// Whatever `denoised` gives.
    pub fn sample<const D: usize, E>(
        &self,
        noise: Tensor<D>,
        schedule: &Schedule,
        denoised: impl FnMut(usize, &Tensor<D>) -> Result<Tensor<D>, E>,
        fresh: &mut dyn FnMut(usize) -> Tensor<D>,
    ) -> Result<Tensor<D>, E> {
        self.solver().sample(noise, schedule, denoised, fresh)
    }
}

/// A sampler that is for other bases, and those that are for this one.
fn misfit(sampler: Sampler, base: &str, fits: fn(Sampler) -> bool) -> Error {
    let fitting = Sampler::ALL.into_iter().filter(|sampler| fits(*sampler));
    let names: Vec<&str> = fitting.map(Sampler::name).collect();
    let reason = format!("{sampler} does not sample it: {base}; use one of {}", names.join(", "));
    Error::Request { field: "scheduler", reason }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;
