//! PNDM.

use burn::tensor::Tensor;

use super::schedule::{Schedule, Shares, Transition};
use crate::noise::Predicts;

/// Steps of the Runge-Kutta method that [`pndm`] can begin with: four for each of three.
const RUNGE_KUTTA: usize = 12;

/// How PNDM begins, and what it draws on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pndm {
    /// Whether it begins with [`RUNGE_KUTTA`] steps; else the second step repeats the first.
    pub runge_kutta: bool,
    /// What is averaged over steps: noise, or the velocity.
    pub averages: Predicts,
}

/// Pseudo numerical methods (Liu et al., "Pseudo Numerical Methods for Diffusion Models on Manifolds", 2022,
/// algorithm 2, and, without the Runge-Kutta method, the linear multistep of latent diffusion's `plms.py`;
/// diffusers' `scheduling_pndm.py`): steps of DDIM along an average of what was predicted.
///
/// # Errors
/// Whatever `denoised` gives.
pub fn pndm<const D: usize, E>(
    mut x: Tensor<D>,
    schedule: &Schedule,
    Pndm { runge_kutta, averages }: Pndm,
    mut denoised: impl FnMut(usize, &Tensor<D>) -> Result<Tensor<D>, E>,
) -> Result<Tensor<D>, E> {
    let warm = if runge_kutta { RUNGE_KUTTA } else { 0 };
    // Where a step that is taken more than once starts.
    let mut start = x.clone();
    // The latest last.
    let mut past: Vec<Tensor<D>> = Vec::new();
    let mut sum = x.zeros_like();
    for step in 0..schedule.steps() {
        let data = denoised(step, &x)?;
        let Transition { from, to, .. } = schedule.transition(step);
        let found = averages.of(&x, data, schedule.level(step));
        if step < warm {
            let part = step % 4;
            if part == 0 {
                start = x;
                sum = found.zeros_like();
                past.push(found.clone());
            }
            sum = sum + found.clone() * if part == 1 || part == 2 { 1.0 / 3.0 } else { 1.0 / 6.0 };
            let along = if part == 3 { sum.clone() } else { found };
            x = along_mean(start.clone(), along, averages, (from, to));
        } else if warm == 0 && step == 1 {
            x = along_mean(start.clone(), (found + past[0].clone()) / 2.0, averages, (from, to));
        } else {
            past.drain(..past.len().saturating_sub(3));
            past.push(found);
            x = along_mean(x, multistep(&past), averages, (from, to));
        }
    }
    Ok(x)
}

/// The average of past predictions, the latest last, by the method of Adams and Bashforth.
fn multistep<const D: usize>(past: &[Tensor<D>]) -> Tensor<D> {
    let weights: &[f64] = match past.len() {
        0 | 1 => &[1.0],
        2 => &[3.0 / 2.0, -1.0 / 2.0],
        3 => &[23.0 / 12.0, -16.0 / 12.0, 5.0 / 12.0],
        _ => &[55.0 / 24.0, -59.0 / 24.0, 37.0 / 24.0, -9.0 / 24.0],
    };
    let mut terms = past.iter().rev().zip(weights).map(|(own, weight)| own.clone() * *weight as f32);
    let first = terms.next().unwrap_or_else(|| past[0].clone());
    terms.fold(first, |sum, term| sum + term)
}

/// Equation 11: what `x` comes to from the first shares to the second, if `mean` was predicted of it.
fn along_mean<const D: usize>(
    x: Tensor<D>,
    mean: Tensor<D>,
    averages: Predicts,
    (from, to): (Shares, Shares),
) -> Tensor<D> {
    let noise = match averages {
        Predicts::Velocity => mean * from.alpha as f32 + x.clone() * from.sigma as f32,
        Predicts::Noise => mean,
        Predicts::Data => (x.clone() - mean * from.alpha as f32) / from.sigma as f32,
    };
    let carried = to.alpha / from.alpha;
    x * carried as f32 + noise * (to.sigma - from.sigma * carried) as f32
}
