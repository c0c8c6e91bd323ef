//! The methods: what each trains, how, and the adapter it leaves behind.
//!
//! A [`Subject`] is read from pictures, a method fits it to a base in a [`Job`], and the [`Adapter`] that
//! comes out is attached to the base by whoever generates. Nothing here prints; progress is a stream of
//! [`FitEvent`]s.
//!
//! ```no_run
//! use std::ops::ControlFlow;
//! use std::path::Path;
//! use understudy_engine::attach::Attached;
//! use understudy_engine::device::DeviceName;
//! use understudy_engine::safetensors::Precision;
//! use understudy_personalize::{Dialect, Job, Lora, Preset, Recipe, Subject};
//! use understudy_pipeline::{Base, Files, Request, generate};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let base = Base::load(&Files::folder("Wan2.1-T2V-1.3B-Diffusers"), &DeviceName::Cpu.open()?)?;
//! let settings = Lora.preset(Preset::Full);
//! let options = Lora.subject_options(&settings, &base.about);
//! let subject = Subject::open(Path::new("my-cat"), "cat", "<s>", options)?;
//! let folder = Path::new("runs/my-cat");
//! let job = Job { base: &base, base_name: "wan", subject: &subject, others: &[], folder };
//! let adapter = Lora.fit(&job, &settings, None, &mut |_event| ControlFlow::Continue(()))?;
//! adapter.save(Path::new("my-cat.safetensors"), Dialect::ComfyUi, Precision::Bf16)?;
//!
//! let request = Request {
//!     attached: Attached::one(base.about.denoiser, adapter.attachments(1.0)),
//!     token_embeddings: adapter.token_embeddings(),
//!     ..Request::new("a <s> cat walks in the snow")
//! };
//! generate(&base, &request, &mut |_event| ControlFlow::Continue(()))?;
//! # Ok(())
//! # }
//! ```

mod adapter;
mod change;
mod error;
mod file;
mod fits;
mod job;
mod kinds;
mod metadata;
mod method;
mod methods;
pub mod names;
mod prompts;
mod scale;
mod shapes;
mod stages;
mod subject;
mod targets;
mod textual_inversion;

pub use adapter::{Adapter, Opened, Residual, combine};
pub use error::{Error, Result};
pub use file::{Converted, Unmatched, convert, convert_without_pictures, file_of};
pub use job::{FitEvent, Job, NotUsed, Plan, PlannedStage};
pub use kinds::{BASE_FIELDS, is_adapter_key};
pub use metadata::{BaseName, Metadata, MotionName, SubjectName};
pub use method::{Applied, METHODS, Method, Preset, Recipe, method, method_among};
pub use methods::set_and_sequence::{DEFAULT_MOTION, Motion, SequenceSettings};
pub use methods::v_warper::{
    Descriptor, Matches, Reference, Replaced, Warp, WarpConfig, WarpJob, WarpSettings,
};
pub use methods::{Lora, SetAndSequence, VWarper};
pub use names::{Dialect, Names};
pub use prompts::{neutral_prompts, personal_caption};
pub use stages::judge::{Evaluation, Judge};
pub use stages::loss::{NoisyBatch, draw_sigma};
pub use stages::residuals::Residuals;
pub use stages::row::RowStart;
pub use stages::run::Emit;
pub use stages::settings::{Augmentation, Basis, Learning, NoiseLevels, Prior, Samples, Stage, numbered};
pub use subject::{DEFAULT_TOKEN, Subject, SubjectOptions, SubjectPicture};
pub use targets::Targets;
pub use textual_inversion::{TextualInversion, with_inversions};
