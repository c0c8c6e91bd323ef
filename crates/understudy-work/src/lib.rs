//! What the program does, as [`Task`]s: a command line, a suite and a service start them alike.
//!
//! Nothing here prints. A task tells its [`Context`] what happens as [`Event`]s, and asks it whether to go
//! on; whoever starts it shows the events, and stops it. What a task writes goes through [`outputs`], so that
//! it is none of what it reads, and nobody else's.
//!
//! ```no_run
//! use serde_json::json;
//! use understudy_engine::device::DeviceName;
//! use understudy_work::{Context, Task};
//!
//! # fn main() -> anyhow::Result<()> {
//! let fields = json!({"prompt": "a cat dances", "seed": 3, "out": "cat.mp4"});
//! let (task, place) = Task::from_json("generate", &fields)?;
//! let tell = |event: &understudy_work::Event| println!("{event:?}");
//! let context = Context::open(DeviceName::Cpu, false, &tell)?;
//! task.run(&context.at(place)?)
//! # }
//! ```

#![cfg_attr(test, allow(clippy::unwrap_used))]

mod base;
mod bases;
mod context;
mod convert;
mod demo;
mod detectors;
mod evaluate;
mod event;
mod fit;
mod generate;
mod inspect;
mod judges;
mod limit;
mod memory;
mod named;
mod outputs;
mod place;
mod pretrain;
mod pull;
mod puppet;
mod results;
mod said;
mod task;
mod usage;

pub use bases::Bases;
pub use context::{Context, Stop};
pub use convert::Convert;
pub use demo::Demo;
pub use evaluate::Evaluate;
pub use event::{AdapterUse, Event, GenerationPlan};
pub use fit::Fit;
pub use generate::Generate;
pub use inspect::{Inspect, Summary};
pub use named::Named;
pub use place::{Dtype, Place, Placed};
pub use pretrain::Pretrain;
pub use pull::Pull;
pub use results::Results;
pub use said::{date, duration, shell, size};
pub use task::Task;
pub use usage::{WrongUsage, is_usage, without_usage};
