//! The ground: everything that touches burn's internals.
//!
//! Operations with handwritten gradients, attachments to named sites, replay of blocks, weights in and
//! out, devices and random numbers.

pub mod allocator;
pub mod attach;
mod cpu;
pub mod device;
pub mod encoding;
pub mod error;
pub mod foreign;
pub mod gguf;
pub mod hash;
pub mod host;
pub mod late;
pub mod memory;
pub mod ops;
pub mod optimizer;
pub mod parameters;
pub mod patch;
mod pickle;
pub mod random;
pub mod replay;
pub mod safetensors;
pub mod sites;
pub mod stack;
pub mod text;
mod torchscript;
pub mod weights;
