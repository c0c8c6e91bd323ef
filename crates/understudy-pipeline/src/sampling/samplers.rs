//! Samplers: each takes a sample from noise to data along a [`Schedule`].
//!
//! A sampler asks for the data that is foreseen at every step, given the step's index and the sample; what a
//! denoiser predicts, and how that tells of data, is not its matter. All share one exact step: between two
//! noise levels, with the foreseen data held at `d`, a sample `x` comes to `(sigma_t / sigma_s) x + alpha_t
//! (1 - e^-h) d`, where `h` is the gain in `lambda = ln(alpha / sigma)`. They differ in how `d` is drawn from
//! past predictions.

use std::fmt;
use std::str::FromStr;

use burn::tensor::Tensor;

use super::schedule::Schedule;
use crate::error::Error;

/// The samplers by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sampler {
    /// Euler's method: first order.
    Euler,
    /// UniPC: second-order predictor with a corrector that costs nothing. Wan's own.
    UniPc,
    /// DPM-Solver++ (2M).
    DpmPlusPlus,
}

impl Sampler {
    /// The name the command line uses.
    pub fn name(self) -> &'static str {
        match self {
            Self::Euler => "euler",
            Self::UniPc => "unipc",
            Self::DpmPlusPlus => "dpm++",
        }
    }

    /// The schedule this sampler was published with.
    pub fn schedule(self, shift: f64, steps: usize) -> Schedule {
        match self {
            Self::Euler => Schedule::euler(shift, steps),
            Self::UniPc => Schedule::unipc(shift, steps),
            Self::DpmPlusPlus => Schedule::dpm_plus_plus(shift, steps),
        }
    }

    /// Takes `noise` to data. See [`euler`], [`unipc`] and [`dpm_plus_plus`].
    ///
    /// # Errors
    /// Whatever `denoised` gives.
    pub fn sample<const D: usize, E>(
        self,
        noise: Tensor<D>,
        schedule: &Schedule,
        denoised: impl FnMut(usize, &Tensor<D>) -> Result<Tensor<D>, E>,
    ) -> Result<Tensor<D>, E> {
        match self {
            Self::Euler => euler(noise, schedule, denoised),
            Self::UniPc => unipc(noise, schedule, denoised),
            Self::DpmPlusPlus => dpm_plus_plus(noise, schedule, denoised),
        }
    }
}

impl FromStr for Sampler {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self, Error> {
        match name {
            "euler" => Ok(Self::Euler),
            "unipc" => Ok(Self::UniPc),
            "dpm++" => Ok(Self::DpmPlusPlus),
            _ => Err(Error::UnknownScheduler(name.to_owned())),
        }
    }
}

impl fmt::Display for Sampler {
    fn fmt(&self, formatter: &mut fmt::Formatter) -> fmt::Result {
        formatter.write_str(self.name())
    }
}

/// Euler's method on the flow between data and noise, and DDIM (Song et al., "Denoising Diffusion Implicit
/// Models", 2021) without noise of its own: the exact step towards the data that is foreseen now.
///
/// # Errors
/// Whatever `denoised` gives.
pub fn euler<const D: usize, E>(
    mut x: Tensor<D>,
    schedule: &Schedule,
    mut denoised: impl FnMut(usize, &Tensor<D>) -> Result<Tensor<D>, E>,
) -> Result<Tensor<D>, E> {
    for step in 0..schedule.steps() {
        let data = denoised(step, &x)?;
        x = straight(x, data, schedule, step);
    }
    Ok(x)
}

/// DPM-Solver++ (2M) with the midpoint rule (Lu et al., "DPM-Solver++: Fast Solver for Guided Sampling of
/// Diffusion Probabilistic Models", 2022, algorithm 2). The first and the last step are first order.
///
/// # Errors
/// Whatever `denoised` gives.
pub fn dpm_plus_plus<const D: usize, E>(
    mut x: Tensor<D>,
    schedule: &Schedule,
    mut denoised: impl FnMut(usize, &Tensor<D>) -> Result<Tensor<D>, E>,
) -> Result<Tensor<D>, E> {
    let mut past = None;
    for step in 0..schedule.steps() {
        let data = denoised(step, &x)?;
        let target = match past {
            Some(past) if step + 1 < schedule.steps() => extrapolate(past, &data, schedule, step),
            _ => data.clone(),
        };
        x = advance(x, target, schedule, step);
        past = Some(data);
    }
    Ok(x)
}

/// UniPC of order 2 with `B(h) = e^-h - 1` (Zhao et al., "UniPC: A Unified Predictor-Corrector Framework for
/// Fast Sampling of Diffusion Models", 2023, algorithms 5 and 6, "bh2", on data predictions). Every
/// prediction first corrects the step that led to it, then predicts the next. The first and the last step are
/// first order.
///
/// # Errors
/// Whatever `denoised` gives.
pub fn unipc<const D: usize, E>(
    mut x: Tensor<D>,
    schedule: &Schedule,
    mut denoised: impl FnMut(usize, &Tensor<D>) -> Result<Tensor<D>, E>,
) -> Result<Tensor<D>, E> {
    // The last step's start, the data foreseen there, and the data foreseen before, if it was used.
    let mut last: Option<(Tensor<D>, Tensor<D>, Option<Tensor<D>>)> = None;
    for step in 0..schedule.steps() {
        let data = denoised(step, &x)?;
        let mut past = None;
        if let Some((start, data_there, data_before)) = last {
            let target = correct(data_before, &data_there, &data, schedule, step);
            x = advance(start, target, schedule, step - 1);
            past = Some(data_there).filter(|_| step + 1 < schedule.steps());
        }
        let target = match past.clone() {
            Some(past) => extrapolate(past, &data, schedule, step),
            None => data.clone(),
        };
        last = Some((x.clone(), data, past));
        x = advance(x, target, schedule, step);
    }
    Ok(x)
}

/// A step of Euler's method: along the line from `x` to the foreseen data, as far as noise's share falls.
fn straight<const D: usize>(x: Tensor<D>, data: Tensor<D>, schedule: &Schedule, step: usize) -> Tensor<D> {
    let [from, to] = [step, step + 1].map(|at| f64::from(schedule.sigmas()[at]));
    let carried = to / from;
    let gained = schedule.alphas()[step + 1] - schedule.alphas()[step] * carried;
    x * carried as f32 + data * gained as f32
}

/// The exact step from the level of `step` to the next with the data held at `target`; without noise it is
/// `target` itself.
fn advance<const D: usize>(x: Tensor<D>, target: Tensor<D>, schedule: &Schedule, step: usize) -> Tensor<D> {
    let [from, to] = [step, step + 1].map(|at| schedule.sigmas()[at]);
    if to == 0.0 {
        return target;
    }
    let h = schedule.lambda(step + 1) - schedule.lambda(step);
    let carried = f64::from(to) / f64::from(from);
    let gained = -schedule.alphas()[step + 1] * (-h).exp_m1();
    x * carried as f32 + target * gained as f32
}

/// The data half a step ahead of `step`, on a line in lambda through the last prediction and this one.
fn extrapolate<const D: usize>(
    past: Tensor<D>,
    data: &Tensor<D>,
    schedule: &Schedule,
    step: usize,
) -> Tensor<D> {
    let here = schedule.lambda(step);
    let ratio = (here - schedule.lambda(step - 1)) / (schedule.lambda(step + 1) - here);
    data.clone() + (data.clone() - past) * (0.5 / ratio) as f32
}

/// The data to hold while taking the step that led to `step` again, now that its end foresees `end`. `start`
/// was foreseen at its beginning and `before`, if the step was second order, one step earlier.
fn correct<const D: usize>(
    before: Option<Tensor<D>>,
    start: &Tensor<D>,
    end: &Tensor<D>,
    schedule: &Schedule,
    step: usize,
) -> Tensor<D> {
    let towards_end = end.clone() - start.clone();
    let Some(before) = before else {
        return start.clone() + towards_end * 0.5;
    };
    let from = schedule.lambda(step - 1);
    let h = schedule.lambda(step) - from;
    let ratio = (schedule.lambda(step - 2) - from) / h;
    // Solves [[1, 1], [ratio, 1]] rho = [phi_1, 2 phi_2] / B(h).
    let b = (-h).exp_m1();
    let phi_1 = b / -h - 1.0;
    let phi_2 = phi_1 / -h - 0.5;
    let rho_before = (phi_1 - 2.0 * phi_2) / b / (1.0 - ratio);
    let rho_end = phi_1 / b - rho_before;
    start.clone() + (before - start.clone()) * (rho_before / ratio) as f32 + towards_end * rho_end as f32
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::convert::Infallible;

    use burn::tensor::Device;

    use super::*;

    /// If the data is the same wherever one looks, every sampler ends there.
    #[test]
    fn constant_data_is_reached_exactly() {
        for sampler in [Sampler::Euler, Sampler::UniPc, Sampler::DpmPlusPlus] {
            for steps in [1, 2, 7] {
                let schedule = sampler.schedule(3.0, steps);
                let noise = Tensor::<1>::from_floats([0.3, -2.0, 1.0], &Device::flex());
                let data = Tensor::<1>::from_floats([1.0, 0.5, -0.25], &Device::flex());
                let reached = sampler.sample(noise, &schedule, |_, _| Ok::<_, Infallible>(data.clone()));
                let difference = (reached.unwrap() - data).abs().max().into_scalar::<f32>();
                assert!(difference < 1e-5, "{sampler} with {steps} steps: {difference}");
            }
        }
    }

    #[test]
    fn names_are_read_back() {
        for sampler in [Sampler::Euler, Sampler::UniPc, Sampler::DpmPlusPlus] {
            assert_eq!(sampler.name().parse::<Sampler>().unwrap(), sampler);
        }
        let error = "ddim".parse::<Sampler>().unwrap_err().to_string();
        assert_eq!(error, "unknown scheduler \"ddim\"; use euler, unipc or dpm++");
    }
}
