//! The methods: what each trains, how, and the adapter it leaves behind.
//!
//! A [`Subject`] is read from pictures, a method fits it to a base in a [`Job`], and the [`Adapter`] that comes
//! out is attached to the base by whoever generates. Nothing here prints; progress is a stream of [`FitEvent`]s.
//!
//! ```no_run
//! use std::ops::ControlFlow;
//! use std::path::Path;
//! use understudy_engine::device::DeviceName;
//! use understudy_engine::safetensors::Precision;
//! use understudy_personalize::{Dialect, Job, Preset, Subject, lora};
//! use understudy_pipeline::{Base, Files, Request, generate};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let base = Base::load(&Files::folder("Wan2.1-T2V-1.3B-Diffusers"), &DeviceName::Cpu.open()?)?;
//! let config = Preset::Wan.config();
//! let options = config.subject_options(&base.config);
//! let subject = Subject::open(Path::new("my-cat"), "cat", "<s>", options)?;
//! let job = Job { base: &base, base_name: "wan", subject: &subject, others: &[], folder: Path::new("runs/my-cat") };
//! let adapter = lora::fit(&job, &config, &mut |_event| ControlFlow::Continue(()))?;
//! adapter.save(Path::new("my-cat.safetensors"), Dialect::ComfyUi, Precision::Bf16)?;
//!
//! let request = Request {
//!     attachments: adapter.attachments(1.0),
//!     token_embeddings: adapter.token_embeddings(),
//!     ..Request::new("a <s> cat walks in the snow")
//! };
//! generate(&base, &request, &mut |_event| ControlFlow::Continue(()))?;
//! # Ok(())
//! # }
//! ```

mod adapter;
mod change;
mod clips;
mod config;
mod data;
mod error;
mod file;
mod fingerprint;
mod fits;
pub mod flow;
mod job;
mod judge;
mod kinds;
pub mod lora;
mod metadata;
pub mod names;
mod plan;
mod prior;
mod prompts;
mod references;
mod row;
mod scale;
mod shapes;
mod sites;
mod subject;
mod warp;

pub use adapter::{Adapter, Opened, Residual, combine};
pub use config::{
    Augmentation, Basis, DEFAULT_MOTION, LoraConfig, Motion, Noise, Preset, Prior, Samples, Stage, numbered,
};
pub use error::{Error, Result};
pub use file::{Converted, Unmatched, convert, convert_without_pictures, file_of};
pub use job::{FitEvent, Job, NotUsed, Plan, PlannedStage};
pub use judge::{Evaluation, Judge};
pub use kinds::{BASE_FIELDS, is_adapter_key};
pub use metadata::{BaseName, Metadata, MotionName, SubjectName};
pub use names::{Dialect, Names};
pub use plan::plan;
pub use prompts::{neutral_prompts, personal_caption};
pub use row::RowStart;
pub use sites::{Targets, linear_sites};
pub use subject::{DEFAULT_TOKEN, Subject, SubjectOptions, SubjectPicture};
pub use warp::{Descriptor, Matches, Reference, Replaced, Warp, WarpConfig, WarpJob};
