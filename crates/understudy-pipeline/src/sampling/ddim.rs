//! DDIM.

use burn::tensor::Tensor;

use super::euler::euler_step;
use super::schedule::{Schedule, Shares, Transition};

/// DDIM without noise of its own (Song et al., "Denoising Diffusion Implicit Models", 2021, eq. 12 with eta
/// 0; diffusers' `scheduling_ddim.py`): the foreseen data, and the foreseen noise as much as the next level
/// has. With `clip`, data is held within `[-clip, clip]`, and noise is still what the data before that told
/// of (`use_clipped_model_output` is false).
///
/// # Errors
/// Whatever `denoised` gives.
pub fn ddim<const D: usize, E>(
    mut x: Tensor<D>,
    schedule: &Schedule,
    clip: Option<f32>,
    mut denoised: impl FnMut(usize, &Tensor<D>) -> Result<Tensor<D>, E>,
) -> Result<Tensor<D>, E> {
    for step in 0..schedule.steps() {
        let data = denoised(step, &x)?;
        let Transition { from, to, .. } = schedule.transition(step);
        x = ddim_step(x, data, (from, to), clip);
    }
    Ok(x)
}

/// A step of [`ddim`] from the first shares to the second. Without `clip` it is one of Euler's method.
pub fn ddim_step<const D: usize>(
    x: Tensor<D>,
    data: Tensor<D>,
    (from, to): (Shares, Shares),
    clip: Option<f32>,
) -> Tensor<D> {
    let Some(clip) = clip else { return euler_step(x, data, from, to) };
    let carried = to.sigma / from.sigma;
    let noise = x * carried as f32 - data.clone() * (from.alpha * carried) as f32;
    noise + data.clamp(-clip, clip) * to.alpha as f32
}
