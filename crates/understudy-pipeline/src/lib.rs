//! The stage: from a prompt to a video.
//!
//! A [`Base`] is a text-to-video model loaded from a [`Source`]: a diffusers folder on disk or compiled in,
//! or files as people share them. Which networks it has is its [family]'s matter; here they are a
//! [`TextEncoder`], a [`Denoiser`] and an [`Autoencoder`]. [`generate`] runs them for a [`Request`] and
//! reports [`Event`]s; it is made of pieces that training uses too: [`encode_prompt`], a [`Denoiser`], and a
//! [`Scheduler`] over a [`Schedule`]. Nothing here prints.
//!
//! [family]: Family
//!
//! ```no_run
//! use std::ops::ControlFlow;
//! use understudy_engine::device::DeviceName;
//! use understudy_pipeline::{Base, Files, Request, generate};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let device = DeviceName::Cpu.open()?;
//! let base = Base::load(&Files::folder("Wan2.1-T2V-1.3B-Diffusers"), &device)?;
//! let request = Request { steps: 20, seed: 7, ..Request::new("a red ball rolls to the left") };
//! let video = generate(&base, &request, &mut |_event| ControlFlow::Continue(()))?;
//! assert_eq!(video.frames.dims(), [1, 3, 81, 480, 832]);
//! # Ok(())
//! # }
//! ```

mod base;
mod clip_vocabulary;
mod companion;
pub mod cost;
mod discover;
mod emphasis;
mod error;
pub mod families;
mod family;
mod files;
mod folder;
mod generate;
mod geometry;
mod naming;
mod network;
mod noise;
mod prompt;
mod recognize;
mod request;
mod sampling;
mod scheduler;
mod spiece;
mod tokenize;
pub mod wrapped;

pub use base::{Base, LoadOptions, Networks, TEXT_ENCODER};
pub use companion::{Companion, Moment};
pub use error::{Error, Result};
pub use family::{Description, FAMILIES, Family, OpenBase, Usual};
pub use files::{Animated, Files, OpenedBase, Parts, Source, below};
pub use generate::{Event, Output, decode, denoise, generate};
pub use geometry::Geometry;
pub use naming::{BLOCK, Module, ModuleKind, Naming, network_of};
pub use network::{
    Autoencoder, Conditioned, Control, ControlNetwork, Denoiser, End, Step, TextEncoder, Texts,
};
pub use noise::{Level, Noise, Predicts, mixed};
pub use prompt::{PromptOptions, TokenEmbeddings, encode_prompt};
pub use recognize::{Network, Recognized, compare, other_model, recognize};
pub use request::Request;
pub use sampling::{
    Branch, Context, DpmPlusPlus, Guided, Lcm, Pndm, Rule, Sampler, Schedule, Shares, Solver, Transition,
    ddim, ddim_step, dpm_plus_plus, euler, euler_ancestral, euler_step, lcm, lcm_data, pndm, unipc,
};
pub use scheduler::Scheduler;
pub use tokenize::{Tokenizer, Tokens, clean, listed, without_weights};
