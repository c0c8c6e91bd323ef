//! Latent consistency models.

use burn::tensor::Tensor;

use super::schedule::{Schedule, Transition};

/// What a latent consistency model was distilled for.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Lcm {
    /// Foreseen data is held within `[-clip, clip]`.
    pub clip: Option<f32>,
    /// By what timesteps are multiplied where it is asked how near they are to data.
    pub timestep_scaling: f64,
}

/// Multistep sampling of a consistency model (Luo et al., "Latent Consistency Models", 2023, algorithm 3;
/// diffusers' `scheduling_lcm.py`): every step foresees data, to which fresh noise of the next level is
/// added. `noise` is asked for unit noise like `x` for every step but the last, which gives data.
///
/// # Errors
/// Whatever `denoised` gives.
pub fn lcm<const D: usize, E>(
    mut x: Tensor<D>,
    schedule: &Schedule,
    lcm: Lcm,
    mut denoised: impl FnMut(usize, &Tensor<D>) -> Result<Tensor<D>, E>,
    noise: &mut dyn FnMut(usize) -> Tensor<D>,
) -> Result<Tensor<D>, E> {
    for step in 0..schedule.steps() {
        let foreseen = denoised(step, &x)?;
        let Transition { timestep, to, .. } = schedule.transition(step);
        let data = lcm_data(x, foreseen, timestep, lcm);
        x = if to.sigma == 0.0 { data } else { data * to.alpha as f32 + noise(step) * to.sigma as f32 };
    }
    Ok(x)
}

/// What a consistency model says of `x` at `timestep` where its denoiser foresees `data`: `c_out data +
/// c_skip x`, which at timestep 0 is `x` itself (the boundary condition).
pub fn lcm_data<const D: usize>(x: Tensor<D>, data: Tensor<D>, timestep: f32, lcm: Lcm) -> Tensor<D> {
    const DATA_VARIANCE: f64 = 0.25;
    let data = match lcm.clip {
        Some(clip) => data.clamp(-clip, clip),
        None => data,
    };
    let scaled = f64::from(timestep) * lcm.timestep_scaling;
    let total = scaled * scaled + DATA_VARIANCE;
    data * (scaled / total.sqrt()) as f32 + x * (DATA_VARIANCE / total) as f32
}
