//! Sinusoids of timesteps.

use burn::tensor::{Device, Tensor, TensorData};

/// Sinusoids of `timesteps`, `(timesteps, channels)`: sines and cosines of `t * 10000^(-i / (channels / 2 -
/// shift))`, the cosines first if so asked.
pub(crate) fn timestep_embedding(
    timesteps: &[f32],
    channels: usize,
    cosines_first: bool,
    shift: f32,
    device: &Device,
) -> Tensor<2> {
    let half = channels / 2;
    let frequency = |index: usize| (-(10_000_f32.ln()) * index as f32 / (half as f32 - shift)).exp();
    let order: [fn(f32) -> f32; 2] = if cosines_first { [f32::cos, f32::sin] } else { [f32::sin, f32::cos] };
    let row = |&t: &f32| {
        order.map(|of| (0..half).map(|index| of(t * frequency(index))).collect::<Vec<_>>()).concat()
    };
    let values: Vec<f32> = timesteps.iter().flat_map(row).collect();
    Tensor::from_data(
        TensorData::new(values, [timesteps.len(), 2 * half]),
        &device.clone().without_autodiff(),
    )
}
