//! The operations networks are made of.
//!
//! On the CPU engine each runs one slice kernel with a handwritten gradient; on any other device, or for a
//! type other than f32, it is composed of burn's own operations. The composed forms are also the reference
//! the kernels are tested against.

mod activation;
mod attention;
mod channelwise;
mod conv;
mod conv2d;
mod elsewhere;
mod frozen;
mod group_norm;
mod linear;
mod norm;
mod products;
mod rope;
mod sliced_attention;
#[cfg(test)]
mod testing;

pub use activation::{activated, geglu, gelu, gelu_tanh, silu};
pub use attention::{AttentionOptions, attention, multi_head_attention, repeat_last};
pub use channelwise::{BatchNormTrain, batch_norm_train, prelu};
pub use conv::{Conv3dOptions, conv3d, upsample_nearest_2x};
pub use conv2d::{Conv2dOptions, Conv2dWeight, conv2d};
pub(crate) use frozen::residual;
pub use group_norm::{GroupNormOptions, group_norm};
pub use linear::{Weight, gated_add, linear};
pub use norm::{channel_rms_norm, layer_norm, layer_norm_modulate, rms_norm};
pub use products::{Products, ProductsScope, bf16_products};
pub use rope::rope_heads;
pub use understudy_kernels::Activation;

use products::precision;
