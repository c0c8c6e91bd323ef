//! Euler's method, and the same with noise of its own.

use burn::tensor::Tensor;

use super::schedule::{Schedule, Shares, Transition};

/// Euler's method on the flow between data and noise, and on that of diffusion (Karras et al., "Elucidating
/// the Design Space of Diffusion-Based Generative Models", 2022, algorithm 1 without its correction;
/// diffusers' `scheduling_euler_discrete.py`). `x` is of any shape, and `denoised` is asked for the data
/// foreseen at a step and a sample.
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
        let Transition { from, to, .. } = schedule.transition(step);
        x = euler_step(x, data, from, to);
    }
    Ok(x)
}

/// Euler's method towards less noise than the next step has, and then noise up to that ("ancestral":
/// k-diffusion's `sample_euler_ancestral`, diffusers' `scheduling_euler_ancestral_discrete.py`). `noise` is
/// asked for unit noise like `x` for every step but one that ends without noise.
///
/// # Errors
/// Whatever `denoised` gives.
pub fn euler_ancestral<const D: usize, E>(
    mut x: Tensor<D>,
    schedule: &Schedule,
    mut denoised: impl FnMut(usize, &Tensor<D>) -> Result<Tensor<D>, E>,
    noise: &mut dyn FnMut(usize) -> Tensor<D>,
) -> Result<Tensor<D>, E> {
    for step in 0..schedule.steps() {
        let data = denoised(step, &x)?;
        let Transition { from, to, .. } = schedule.transition(step);
        let [before, after] = [from, to].map(|shares| shares.sigma / shares.alpha);
        let up = after * (1.0 - (after / before).powi(2)).sqrt();
        let down = after * after / before;
        x = euler_step(x, data, from, Shares { alpha: to.alpha, sigma: to.alpha * down });
        if up > 0.0 {
            x = x + noise(step) * (to.alpha * up) as f32;
        }
    }
    Ok(x)
}

/// A step of Euler's method: along the line from `x` to the foreseen `data`, as far as noise's share falls.
pub fn euler_step<const D: usize>(x: Tensor<D>, data: Tensor<D>, from: Shares, to: Shares) -> Tensor<D> {
    let carried = to.sigma / from.sigma;
    let gained = to.alpha - from.alpha * carried;
    x * carried as f32 + data * gained as f32
}
