//! CPU kernels over plain slices: matrix products, attention, normalization, convolution and their gradients.
//!
//! Every kernel takes and gives contiguous row-major `f32` slices, picks the widest instruction set of the
//! machine at run time (scalar, AVX2, AVX-512, and for products AVX512-BF16 or AMX), and runs on the current
//! rayon pool. `UNDERSTUDY_CPU=scalar`, `avx2`, `avx512` or `avx512bf16` in the environment holds all but f32
//! products, which are the gemm crate's, to what such a machine has.
//!
//! Two promises hold for all of them:
//!
//! - **Determinism.** Work is cut into chunks whose sizes depend on the shapes alone, and partial sums are
//!   added in a fixed order, so the result is the same bit for bit whatever the number of threads.
//! - **Shapes are the caller's duty.** A wrong length is a bug of the calling crate and panics with a
//!   message; nothing here reads user input.

mod activation;
mod attention;
mod bf16;
mod conv;
mod conv2d;
mod convert;
mod cpu;
mod floats;
mod gate;
mod layout;
mod math;
mod matmul;
mod norm;
mod optim;
mod par;
pub mod resample;
mod rope;
mod simd;
#[cfg(test)]
mod testing;
mod tile;

pub use activation::{
    Activation, activation_backward, activation_forward, gated_gelu_backward, gated_gelu_forward,
    geglu_backward, geglu_forward, softmax_backward, softmax_forward,
};
pub use attention::{AttentionShape, KeyMask, attention_backward, attention_forward};
pub use conv::{Conv3dShape, conv3d_backward_data, conv3d_backward_weight, conv3d_forward};
pub use conv2d::{Conv2dShape, ConvWeight, conv2d_backward_data, conv2d_backward_weight, conv2d_forward};
pub use convert::{bf16_to_f32, f16_to_f32, f32_to_bf16, f32_to_f16};
pub use floats::{Floats, release_memory};
pub use gate::{GatedAddGradients, gated_add_backward, gated_add_forward};
pub use layout::transpose_heads;
pub use matmul::{
    BatchRef, Epilogue, MatRef, PackedB, PackedRef, Precision, matmul, matmul_batched, matmul_packed,
    matmul_packed_then,
};
pub use norm::{
    GroupNormGradients, GroupNormParams, LayerNormGradients, LayerNormOutput, LayerNormParams,
    channel_rms_norm_backward, channel_rms_norm_forward, group_norm_backward, group_norm_forward,
    layer_norm_modulate_backward, layer_norm_modulate_forward, rms_norm_backward, rms_norm_forward,
};
pub use optim::{
    AdamW, NEWTON_SCHULZ, NEWTON_SCHULZ_ITERATIONS, adamw_step, ema_step, orthogonalize, sum_squares,
};
pub use rope::{HeadLayout, rope};
