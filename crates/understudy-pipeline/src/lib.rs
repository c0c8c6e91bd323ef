//! The stage: from a prompt to a video.
//!
//! A [`Base`] is a text-to-video model loaded from [`Files`], a diffusers folder on disk or compiled in.
//! [`generate`] runs it for a [`Request`] and reports [`Event`]s; it is made of pieces that training uses
//! too: [`encode_prompt`], [`encode_video`], a [`Denoiser`] and a [`Sampler`] over a [`Schedule`].
//! [`save`] writes a folder that this crate and diffusers read. Nothing here prints.
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
mod denoiser;
mod discover;
mod emphasis;
mod error;
mod export;
mod folder;
mod kinds;
mod limits;
pub mod original;
mod prompt;
mod recognize;
mod sampler;
mod schedule;
mod scheduler;
pub mod shapes;
mod source;
mod spiece;
mod text_to_video;
mod tokenize;
mod video;
pub mod wrapped;

pub use base::{Base, BaseConfig, BaseWeights, LoadOptions};
pub use companion::{Companion, Moment};
pub use denoiser::Denoiser;
pub use error::{Error, Result};
pub use export::{BaseParameters, save};
pub use folder::{Files, below};
pub use prompt::{PromptOptions, TokenEmbeddings, encode_prompt};
pub use recognize::{Recognized, compare, other_model, recognize};
pub use sampler::{Sampler, dpm_plus_plus, euler, unipc};
pub use schedule::Schedule;
pub use scheduler::Scheduler;
pub use source::{Parts, Source};
pub use text_to_video::{Event, Output, Request, decode, denoise, generate};
pub use tokenize::{Tokenizer, Tokens, clean, listed, without_weights};
pub use video::{decode_video, encode_video, latent_shape};
