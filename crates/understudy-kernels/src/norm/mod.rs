//! Normalizations and their gradients.

mod channel;
mod group;
mod layer;
mod rms;

pub use channel::{channel_rms_norm_backward, channel_rms_norm_forward};
pub use group::{GroupNormGradients, GroupNormParams, group_norm_backward, group_norm_forward};
pub use layer::{
    LayerNormGradients, LayerNormOutput, LayerNormParams, layer_norm_modulate_backward,
    layer_norm_modulate_forward,
};
pub use rms::{rms_norm_backward, rms_norm_forward};

/// Rows a task handles: about 32 thousand elements, and at most 64 tasks a batch item so that partial sums
/// stay small.
fn rows_per_task(rows: usize, c: usize) -> usize {
    (2 * crate::par::CHUNK / c).max(rows.div_ceil(64)).max(1)
}
