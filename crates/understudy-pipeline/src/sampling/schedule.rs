//! Noise levels: which a run passes through, and which timesteps the denoiser is told.
//!
//! A sample at a level is `alpha * data + sigma * noise`; of flow matching, alpha is `1 - sigma`, and of
//! diffusion their squares add up to 1. Every schedule of flow matching is a straight line in sigma that is
//! then *shifted* towards noise, `shift * sigma / (1 + (shift - 1) * sigma)` (Esser et al., "Scaling
//! Rectified Flow Transformers for High-Resolution Image Synthesis", 2024, eq. 23). The three published
//! schedulers draw the line a little differently, and a checkpoint's results depend on it, so each is kept.

use burn::tensor::Tensor;

use super::spacing::linspace;
use crate::noise::Level;

/// Timesteps a denoiser of flow matching was trained with; timestep = sigma * 1000.
const TRAIN_TIMESTEPS: f64 = 1000.0;

/// Data's and noise's share in a sample: it is `alpha * data + sigma * noise`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Shares {
    /// Data's share.
    pub alpha: f64,
    /// Noise's share.
    pub sigma: f64,
}

impl Shares {
    /// Data without noise.
    pub const DATA: Self = Self { alpha: 1.0, sigma: 0.0 };

    /// Of diffusion, by the square of data's share.
    pub fn preserving(alpha_squared: f64) -> Self {
        Self { alpha: alpha_squared.sqrt(), sigma: (1.0 - alpha_squared).sqrt() }
    }

    /// Of diffusion, by `sigma / alpha`: with as much noise on unscaled data.
    pub fn exploded(ratio: f64) -> Self {
        let alpha = 1.0 / (ratio * ratio + 1.0).sqrt();
        Self { alpha, sigma: ratio * alpha }
    }

    /// `ln(alpha / sigma)`, half the logarithm of the signal-to-noise ratio.
    pub(super) fn lambda(self) -> f64 {
        (self.alpha / self.sigma).ln()
    }
}

/// A step of a run.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Transition {
    /// The shares in the sample that the denoiser is shown.
    pub at: Shares,
    /// What the denoiser is told of them, in `[0, 1000]`.
    pub timestep: f32,
    /// The shares in the sample that is then moved: the same one, except where a step is taken again.
    pub from: Shares,
    /// The shares that it is moved to. Of some schedulers these are not quite where the next step looks.
    pub to: Shares,
}

/// The steps of a run, from noise to data.
#[derive(Clone, Debug, PartialEq)]
pub struct Schedule {
    transitions: Vec<Transition>,
    start: f32,
}

impl Schedule {
    /// Of these steps. A run starts from unit noise times `start`.
    pub fn new(transitions: Vec<Transition>, start: f32) -> Self {
        Self { transitions, start }
    }

    /// Of steps that each lead to where the next one begins, and the last one to the last of `places`, of
    /// which there is one more than timesteps.
    pub fn chain(places: &[Shares], timesteps: &[f32], start: f32) -> Self {
        let step = |(pair, &timestep): (&[Shares], &f32)| Transition {
            at: pair[0],
            timestep,
            from: pair[0],
            to: pair[1],
        };
        Self::new(places.windows(2).zip(timesteps).map(step).collect(), start)
    }

    /// As `FlowMatchEulerDiscreteScheduler`: shifted, on a line that ends at an already shifted 1/1000.
    /// Timesteps are fractional.
    pub fn euler(shift: f64, steps: usize) -> Self {
        let single = shift as f32;
        let lowest = 1.0 / TRAIN_TIMESTEPS as f32;
        let lowest = single * lowest / (1.0 + (single - 1.0) * lowest);
        let line = linspace(TRAIN_TIMESTEPS, f64::from(lowest) * TRAIN_TIMESTEPS, steps);
        let sigmas: Vec<f32> = line.into_iter().map(|t| shifted(t / TRAIN_TIMESTEPS, shift) as f32).collect();
        let timesteps: Vec<f32> = sigmas.iter().map(|sigma| sigma * TRAIN_TIMESTEPS as f32).collect();
        Self::flow(sigmas, &timesteps)
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
        let timesteps: Vec<f32> =
            sigmas.iter().map(|sigma| (sigma * TRAIN_TIMESTEPS).trunc() as f32).collect();
        Self::flow(sigmas.into_iter().map(|sigma| sigma as f32).collect(), &timesteps)
    }

    fn flow(mut sigmas: Vec<f32>, timesteps: &[f32]) -> Self {
        sigmas.push(0.0);
        let place = |sigma: f32| Shares { alpha: 1.0 - f64::from(sigma), sigma: f64::from(sigma) };
        let places: Vec<Shares> = sigmas.into_iter().map(place).collect();
        Self::chain(&places, timesteps, 1.0)
    }

    /// How many steps there are. Some samplers take more than were asked for.
    pub fn steps(&self) -> usize {
        self.transitions.len()
    }

    /// A step.
    pub fn transition(&self, step: usize) -> Transition {
        self.transitions[step]
    }

    /// The level of the sample that the denoiser is shown in a step.
    pub fn level(&self, step: usize) -> Level {
        let Transition { at, timestep, .. } = self.transitions[step];
        Level { alpha: at.alpha as f32, sigma: at.sigma as f32, timestep }
    }

    /// Noise's shares where the steps begin, and where the last one ends.
    pub fn sigmas(&self) -> Vec<f32> {
        let ends = self.transitions.last().map(|last| last.to.sigma as f32);
        self.transitions.iter().map(|step| step.at.sigma as f32).chain(ends).collect()
    }

    /// What the denoiser is told at each step, in `[0, 1000]`.
    pub fn timesteps(&self) -> Vec<f32> {
        self.transitions.iter().map(|step| step.timestep).collect()
    }

    /// The sample to start from, of unit `noise` of any shape: the same but for samplers that were published
    /// with a beginning of another size.
    pub fn start<const D: usize>(&self, noise: Tensor<D>) -> Tensor<D> {
        if self.start == 1.0 {
            return noise;
        }
        noise * self.start
    }
}

/// Moves `sigma` in `[0, 1]` towards noise; a shift of 1 changes nothing.
fn shifted(sigma: f64, shift: f64) -> f64 {
    shift * sigma / (1.0 + (shift - 1.0) * sigma)
}
