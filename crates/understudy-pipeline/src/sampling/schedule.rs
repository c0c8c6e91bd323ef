//! Noise levels: which a run passes through, and which timesteps the denoiser is told.
//!
//! A sample at a level is `alpha * data + sigma * noise`; of flow matching, alpha is `1 - sigma`. Every
//! schedule of flow matching is a straight line in sigma that is then *shifted* towards noise, `shift * sigma
//! / (1 + (shift - 1) * sigma)` (Esser et al., "Scaling Rectified Flow Transformers for High-Resolution Image
//! Synthesis", 2024, eq. 23). The three published schedulers draw the line a little differently, and a
//! checkpoint's results depend on it, so each is kept.

use super::Sampler;
use crate::noise::{Level, Noise};

/// Timesteps a denoiser was trained with; timestep = sigma * 1000.
const TRAIN_TIMESTEPS: f64 = 1000.0;

/// The noise levels of a run, from noise to 0, and the timestep told to the denoiser at each step.
#[derive(Clone, Debug, PartialEq)]
pub struct Schedule {
    sigmas: Vec<f32>,
    alphas: Vec<f64>,
    timesteps: Vec<f32>,
}

impl Schedule {
    /// As `FlowMatchEulerDiscreteScheduler`: shifted, on a line that ends at an already shifted 1/1000.
    /// Timesteps are fractional.
    pub fn euler(shift: f64, steps: usize) -> Self {
        let single = shift as f32;
        let lowest = 1.0 / TRAIN_TIMESTEPS as f32;
        let lowest = single * lowest / (1.0 + (single - 1.0) * lowest);
        let line = linspace(TRAIN_TIMESTEPS, f64::from(lowest) * TRAIN_TIMESTEPS, steps);
        let sigmas: Vec<f32> = line.into_iter().map(|t| shifted(t / TRAIN_TIMESTEPS, shift) as f32).collect();
        let timesteps = sigmas.iter().map(|sigma| sigma * TRAIN_TIMESTEPS as f32).collect();
        Self::ending(sigmas, timesteps)
    }

    /// As `UniPCMultistepScheduler` with `use_flow_sigmas`. Timesteps are whole numbers, rounded down.
    pub fn unipc(shift: f64, steps: usize) -> Self {
        let mut line = linspace(1.0, 1.0 / TRAIN_TIMESTEPS, steps + 1);
        line.truncate(steps);
        let mut sigmas: Vec<f64> = line.into_iter().map(|sigma| shifted(sigma, shift)).collect();
        // At sigma 1 the signal-to-noise ratio is 0 and its logarithm infinite.
        if let Some(first) = sigmas.first_mut().filter(|first| (**first - 1.0).abs() < 1e-6) {
            *first -= 1e-6;
        }
        Self::truncated(sigmas)
    }

    /// As `DPMSolverMultistepScheduler` with `use_flow_sigmas`: it starts at 0.999, shifted. Timesteps are
    /// whole numbers, rounded down.
    pub fn dpm_plus_plus(shift: f64, steps: usize) -> Self {
        let signal = linspace(1.0, 1.0 / TRAIN_TIMESTEPS, steps + 1);
        let noise = signal.into_iter().map(|alpha| shifted(1.0 - alpha, shift));
        Self::truncated(noise.skip(1).rev().collect())
    }

    fn truncated(sigmas: Vec<f64>) -> Self {
        let timesteps = sigmas.iter().map(|sigma| (sigma * TRAIN_TIMESTEPS).trunc() as f32).collect();
        Self::ending(sigmas.into_iter().map(|sigma| sigma as f32).collect(), timesteps)
    }

    fn ending(mut sigmas: Vec<f32>, timesteps: Vec<f32>) -> Self {
        sigmas.push(0.0);
        let alphas = sigmas.iter().map(|sigma| 1.0 - f64::from(*sigma)).collect();
        Self { sigmas, alphas, timesteps }
    }

    /// Of diffusion, by the square of data's share at each timestep: so many of these from the last on,
    /// evenly spaced (Lin et al., "Common Diffusion Noise Schedules and Sample Steps are Flawed", 2024,
    /// "trailing").
    pub fn diffusion(alphas_cumprod: &[f64], steps: usize) -> Self {
        let count = alphas_cumprod.len();
        let stride = count as f64 / steps as f64;
        let step = |index: usize| (count as f64 - index as f64 * stride).round() as usize;
        let timesteps: Vec<usize> = (0..steps).map(|index| step(index).saturating_sub(1)).collect();
        let kept = timesteps.iter().map(|&timestep| alphas_cumprod[timestep]);
        let (mut alphas, mut sigmas): (Vec<f64>, Vec<f32>) =
            kept.map(|kept| (kept.sqrt(), (1.0 - kept).sqrt() as f32)).unzip();
        alphas.push(1.0);
        sigmas.push(0.0);
        Self { sigmas, alphas, timesteps: timesteps.into_iter().map(|timestep| timestep as f32).collect() }
    }

    /// How many steps there are.
    pub fn steps(&self) -> usize {
        self.timesteps.len()
    }

    /// Noise's shares, one more than steps; the last is 0.
    pub fn sigmas(&self) -> &[f32] {
        &self.sigmas
    }

    /// Data's shares, one more than steps.
    pub fn alphas(&self) -> &[f64] {
        &self.alphas
    }

    /// The level that a step starts from.
    pub fn level(&self, step: usize) -> Level {
        let (alpha, sigma) = (self.alphas[step] as f32, self.sigmas[step]);
        Level { alpha, sigma, timestep: self.timesteps[step] }
    }

    /// `ln(alpha / sigma)` where a step starts, half the logarithm of the signal-to-noise ratio.
    pub(super) fn lambda(&self, step: usize) -> f64 {
        (self.alphas[step] / f64::from(self.sigmas[step])).ln()
    }

    /// What the denoiser is told at each step, in `[0, 1000]`.
    pub fn timesteps(&self) -> &[f32] {
        &self.timesteps
    }
}

impl Noise {
    /// The noise levels of a run of `sampler` in so many `steps`; `shift` moves those of [`Noise::Flow`]
    /// towards noise.
    pub fn schedule(&self, sampler: Sampler, shift: f64, steps: usize) -> Schedule {
        match self {
            Self::Flow => sampler.schedule(shift, steps),
            Self::Diffusion { alphas_cumprod, .. } => Schedule::diffusion(alphas_cumprod, steps),
        }
    }
}

/// Moves `sigma` in `[0, 1]` towards noise; a shift of 1 changes nothing.
fn shifted(sigma: f64, shift: f64) -> f64 {
    shift * sigma / (1.0 + (shift - 1.0) * sigma)
}

/// `count` evenly spaced numbers from `start` to exactly `end`.
fn linspace(start: f64, end: f64, count: usize) -> Vec<f64> {
    let step = (end - start) / count.saturating_sub(1).max(1) as f64;
    let mut line: Vec<f64> = (0..count).map(|index| index as f64 * step + start).collect();
    if let Some(last) = line.last_mut().filter(|_| count > 1) {
        *last = end;
    }
    line
}
