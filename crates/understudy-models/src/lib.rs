//! One file per published network, in the order of its reference implementation, configured by its published
//! JSON and built from any [`Weights`](understudy_engine::weights::Weights).

pub mod amt;
mod attention;
pub mod clip;
pub mod controlnet;
mod correlation;
pub mod i3d;
pub mod iresnet;
pub mod layers;
pub mod motion_module;
mod per_block;
pub mod raft;
mod resnet;
pub mod reuse;
pub mod sd_unet;
pub mod sd_vae;
pub mod segmenter;
pub mod text_context;
pub mod tiling;
mod timestep;
pub mod umt5;
pub mod vit;
pub mod wan_transformer;
pub mod wan_vae;
