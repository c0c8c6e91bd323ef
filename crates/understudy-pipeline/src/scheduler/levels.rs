//! The steps of a run of diffusion, as diffusers' schedulers lay them out.

use super::diffusion::{Diffusion, Sigmas};
use crate::error::{Error, Result};
use crate::sampling::{Schedule, Shares, Solver, Spacing, Transition, leading, linspace, spaced, trailing};

impl Diffusion {
    /// The steps of a run in so many `steps`.
    ///
    /// # Errors
    /// When there cannot be so many, or so few.
    pub(super) fn schedule(&self, steps: usize) -> Result<Schedule> {
        match self.solver {
            Solver::Lcm(_) => self.lcm(steps),
            Solver::Pndm(pndm) => self.pndm(steps, pndm.runge_kutta),
            // UniPC is for flows alone, which `Scheduler::with` sees to.
            Solver::Ddim { .. } | Solver::UniPc => self.ddim(steps),
            Solver::Euler | Solver::EulerAncestral => Ok(self.euler(steps)),
            Solver::DpmPlusPlus(_) => self.dpm_plus_plus(steps),
        }
    }

    /// The shares at a whole timestep; before the first one, those at the end.
    fn place(&self, timestep: i64) -> Result<Shares> {
        if timestep < 0 && self.to_data {
            return Ok(Shares::DATA);
        }
        let index = usize::try_from(timestep).unwrap_or(0);
        let kept = self.alphas_cumprod.get(index).ok_or_else(|| {
            let train = self.alphas_cumprod.len();
            impossible(format!(
                "are too many for this scheduler: they would begin at {index} of {train} timesteps"
            ))
        })?;
        Ok(Shares::preserving(f64::from(*kept)))
    }

    /// A step at a timestep from it to another one.
    fn step(&self, timestep: i64, from: i64, to: i64) -> Result<Transition> {
        let [at, from, to] = [self.place(timestep)?, self.place(from)?, self.place(to)?];
        Ok(Transition { at, timestep: timestep as f32, from, to })
    }

    /// The whole timesteps of a run, the last one first.
    fn whole(&self, steps: usize) -> Result<Vec<i64>> {
        let train = self.alphas_cumprod.len();
        if steps > train {
            return Err(impossible(format!("must be at most {train}, as many as the base was trained with")));
        }
        let timesteps = spaced(self.spacing, train, steps, self.offset as f64);
        Ok(timesteps.into_iter().map(|timestep| timestep.round_ties_even() as i64).collect())
    }

    /// As `DDIMScheduler`: a step leads by a whole stride, which need not be where the next one looks.
    fn ddim(&self, steps: usize) -> Result<Schedule> {
        let stride = (self.alphas_cumprod.len() / steps) as i64;
        let timesteps = self.whole(steps)?.into_iter();
        let transitions: Result<_> = timesteps.map(|t| self.step(t, t, t - stride)).collect();
        Ok(Schedule::new(transitions?, 1.0))
    }

    /// As `LCMScheduler`: some of the timesteps that were distilled.
    fn lcm(&self, steps: usize) -> Result<Schedule> {
        let original = self.original_steps;
        if steps > original {
            return Err(impossible(format!(
                "must be at most {original}, as many as the base was distilled from"
            )));
        }
        let stride = self.alphas_cumprod.len() / original;
        let line = (0..steps).map(|index| index as f64 * (original as f64 / steps as f64));
        let timesteps: Vec<i64> = line.map(|at| ((original - at as usize) * stride) as i64 - 1).collect();
        let mut places: Vec<Shares> = timesteps.iter().map(|&t| self.place(t)).collect::<Result<_>>()?;
        places.push(Shares::DATA);
        let timesteps: Vec<f32> = timesteps.into_iter().map(|t| t as f32).collect();
        Ok(Schedule::chain(&places, &timesteps, 1.0))
    }

    /// As `PNDMScheduler`: the second step is the first one again, with what is predicted at its end; or
    /// three steps are taken by the method of Runge and Kutta, in four parts each.
    fn pndm(&self, steps: usize, runge_kutta: bool) -> Result<Schedule> {
        let stride = (self.alphas_cumprod.len() / steps) as i64;
        let whole = self.whole(steps)?;
        if runge_kutta && steps < 4 {
            return Err(impossible(
                "must be at least 4: three are taken by the method of Runge and Kutta".to_owned(),
            ));
        }
        let mut transitions = Vec::new();
        if runge_kutta {
            let half = stride / 2;
            // Each of the four parts: at its start, twice half way (as counted from its end), at its end.
            for pair in whole[..4].windows(2) {
                let (start, end) = (pair[0], pair[1]);
                let parts = [(start, start - half), (end + half, end + half), (end + half, end), (end, end)];
                for (at, to) in parts {
                    transitions.push(self.step(at, start, to)?);
                }
            }
            for &timestep in &whole[3..] {
                transitions.push(self.step(timestep, timestep, timestep - stride)?);
            }
        } else {
            for (index, &timestep) in whole.iter().enumerate() {
                if index == 1 {
                    transitions.push(self.step(timestep, timestep + stride, timestep)?);
                }
                transitions.push(self.step(timestep, timestep, timestep - stride)?);
            }
        }
        Ok(Schedule::new(transitions, 1.0))
    }

    /// Noise on unscaled data, `sigma / alpha`, at each timestep.
    fn ratios(&self) -> Vec<f32> {
        let mut kept = self.alphas_cumprod.clone();
        if let Some(last) = kept.last_mut().filter(|_| self.rescaled) {
            // Of no signal at all it would be infinite.
            *last = 2.0_f32.powi(-24);
        }
        kept.into_iter().map(|kept| ((1.0 - kept) / kept).sqrt()).collect()
    }

    /// As `EulerDiscreteScheduler` and its ancestral one, on scaled data: fractional timesteps have
    /// interpolated noise. Of [`Spacing::Leading`] they start from unit noise, else from noise without data.
    fn euler(&self, steps: usize) -> Schedule {
        let ratios = self.ratios();
        let mut timesteps = spaced(self.spacing, ratios.len(), steps, self.offset as f64);
        timesteps.iter_mut().for_each(|timestep| *timestep = f64::from(*timestep as f32));
        let mut noise: Vec<f64> = timesteps.iter().map(|&timestep| interpolated(&ratios, timestep)).collect();
        if self.sigmas.log_linear {
            noise = log_linear(&ratios, steps);
        }
        if self.sigmas.karras {
            noise = self.sigmas.karras(&noise, steps);
            timesteps = noise.iter().map(|&noise| timestep_of(noise, &ratios)).collect();
        }
        noise.push(if self.to_data { 0.0 } else { f64::from(ratios[0]) });
        noise.truncate(steps + 1);
        let noise: Vec<f64> = noise.into_iter().map(|noise| f64::from(noise as f32)).collect();
        let mut places: Vec<Shares> = noise.iter().map(|&noise| Shares::exploded(noise)).collect();
        // The result is of unscaled data.
        places[steps] = Shares { alpha: 1.0, sigma: noise[steps] };
        let start = if self.spacing == Spacing::Leading { 1.0 } else { places[0].sigma as f32 };
        let timesteps: Vec<f32> = timesteps.into_iter().map(|timestep| timestep as f32).collect();
        Schedule::chain(&places, &timesteps, start)
    }

    /// As `DPMSolverMultistepScheduler`: whole timesteps, of one more than there are steps, whose last is
    /// left out. It stands in the place of data, or of the least noise.
    fn dpm_plus_plus(&self, steps: usize) -> Result<Schedule> {
        let ratios = self.ratios();
        let mut timesteps = self.dpm_timesteps(steps, &ratios)?;
        let mut noise: Vec<f64> = timesteps.iter().map(|&timestep| interpolated(&ratios, timestep)).collect();
        if self.sigmas.karras {
            let ends = [ratios[ratios.len() - 1], ratios[0]].map(f64::from);
            noise = self.sigmas.karras(&ends, steps);
            timesteps = noise.iter().map(|&noise| timestep_of(noise, &ratios)).collect();
            if !self.fractional {
                timesteps.iter_mut().for_each(|timestep| *timestep = timestep.round_ties_even());
            }
        }
        let noise = noise.into_iter().map(|noise| f64::from(noise as f32));
        let mut places: Vec<Shares> = noise.map(Shares::exploded).collect();
        if places.windows(2).any(|pair| pair[1].sigma >= pair[0].sigma) {
            return Err(impossible("are too many for this scheduler: some would change nothing".to_owned()));
        }
        places.push(if self.to_data { Shares::DATA } else { Shares::exploded(f64::from(ratios[0])) });
        let timesteps: Vec<f32> = timesteps.into_iter().map(|timestep| timestep.trunc() as f32).collect();
        Ok(Schedule::chain(&places, &timesteps, 1.0))
    }

    fn dpm_timesteps(&self, steps: usize, ratios: &[f32]) -> Result<Vec<f64>> {
        // Those whose signal is too weak are left out.
        let lambda = |ratio: &&f32| -f64::from(**ratio).ln() < self.least_lambda;
        let train = ratios.len();
        let last = train - ratios.iter().filter(lambda).count();
        let timesteps = match self.spacing {
            Spacing::Linspace => {
                let line = linspace(0.0, last as f64 - 1.0, steps + 1);
                line.into_iter().skip(1).rev().map(f64::round_ties_even).collect()
            }
            Spacing::Leading => {
                let mut line = leading(last / (steps + 1), steps + 1, self.offset as f64);
                line.truncate(steps);
                line
            }
            Spacing::Trailing => trailing(last, train, steps),
        };
        if timesteps.is_empty() {
            return Err(impossible("leave no timestep with enough signal".to_owned()));
        }
        Ok(timesteps)
    }
}

impl Sigmas {
    /// Noise from the first of `noise` to the last, or between the stated bounds, evenly in its seventh root
    /// (Karras et al., "Elucidating the Design Space of Diffusion-Based Generative Models", 2022, eq. 5).
    fn karras(&self, noise: &[f64], steps: usize) -> Vec<f64> {
        const RHO: f64 = 7.0;
        let most = self.most.unwrap_or(noise[0]).powf(1.0 / RHO);
        let least = self.least.unwrap_or(noise[noise.len() - 1]).powf(1.0 / RHO);
        linspace(0.0, 1.0, steps).into_iter().map(|part| (most + part * (least - most)).powf(RHO)).collect()
    }
}

/// Noise of one more than so many steps, evenly in its logarithm.
fn log_linear(ratios: &[f32], steps: usize) -> Vec<f64> {
    let [most, least] = [ratios[ratios.len() - 1], ratios[0]].map(|ratio| f64::from(ratio).ln());
    linspace(most, least, steps + 1).into_iter().map(f64::exp).collect()
}

/// A value between those at whole places, or that at the nearer end.
fn interpolated(values: &[f32], at: f64) -> f64 {
    let low = (at.max(0.0) as usize).min(values.len() - 1);
    let [from, to] = [low, (low + 1).min(values.len() - 1)].map(|index| f64::from(values[index]));
    (to - from) * (at - low as f64).clamp(0.0, 1.0) + from
}

/// The timestep with so much noise, evenly in its logarithm between two whole ones.
fn timestep_of(noise: f64, ratios: &[f32]) -> f64 {
    let logarithm = |index: usize| f64::from(f64::from(ratios[index]).ln() as f32);
    let sought = noise.max(1e-10).ln();
    let below = (0..ratios.len()).filter(|&index| logarithm(index) <= sought).count();
    let low = below.saturating_sub(1).min(ratios.len() - 2);
    let [from, to] = [logarithm(low), logarithm(low + 1)];
    let part = ((sought - from) / f64::from((to - from) as f32)).clamp(0.0, 1.0);
    (1.0 - part) * low as f64 + part * (low + 1) as f64
}

/// There cannot be so many steps, or so few.
fn impossible(reason: String) -> Error {
    Error::Request { field: "steps", reason }
}
