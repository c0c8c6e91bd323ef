//! One module a command.

mod convert;
mod demo;
mod detectors;
mod evaluate;
mod fit;
mod generate;
mod inspect;
mod judges;
mod pretrain;
mod pull;
mod shell;

use anyhow::{Result, bail};
use burn::tensor::{Device, FloatDType};
use clap::{Args, Subcommand, ValueEnum};
use understudy_engine::device::DeviceName;
use understudy_engine::ops::{Products, ProductsScope};

use crate::interrupt;
use crate::progress::Progress;

/// What the program does.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Print what a shell needs to complete the program's arguments.
    Completions(shell::Completions),
    /// Rewrite an adapter in the key names of another program.
    Convert(convert::Convert),
    /// Fit a bundled subject on the embedded base, generate it before and after, and score both.
    Demo(demo::Demo),
    /// Score a folder of videos, or a suite of methods.
    Evaluate(Box<evaluate::Evaluate>),
    /// Learn a subject from pictures or a clip of it and write an adapter.
    Fit(Box<fit::Fit>),
    /// Generate a video from a prompt.
    Generate(Box<generate::Generate>),
    /// Print what an adapter, a checkpoint or a base folder holds, or how a video was made.
    Inspect(inspect::Inspect),
    /// Write manual pages, one a command.
    Man(shell::Man),
    /// Fetch a repository of weights into the Hugging Face cache.
    Pull(pull::Pull),
    /// Train the embedded base or one of its judges on the puppet world.
    Pretrain(pretrain::Pretrain),
}

impl Command {
    /// Runs the command to its end.
    pub fn run(self) -> Result<()> {
        interrupt::listen();
        match self {
            Self::Completions(command) => command.run(),
            Self::Convert(command) => command.run(),
            Self::Demo(command) => command.run(),
            Self::Evaluate(command) => command.run(),
            Self::Fit(command) => command.run(),
            Self::Generate(command) => command.run(),
            Self::Inspect(command) => command.run(),
            Self::Man(command) => command.run(),
            Self::Pretrain(command) => command.run(),
            Self::Pull(command) => command.run(),
        }
    }
}

/// Flags every command takes.
#[derive(Debug, Args)]
#[command(next_help_heading = "Device and output")]
pub struct Common {
    /// Where to compute: cpu, cuda:N, vulkan:N or metal.
    #[arg(long, default_value = "cpu", value_name = "DEVICE")]
    pub device: DeviceName,
    /// Precision of matrix products; everything else is f32.
    #[arg(long, value_enum, default_value_t = Dtype::F32, value_name = "TYPE")]
    pub dtype: Dtype,
    /// Print events as JSON lines on stdout instead of a progress bar.
    #[arg(long)]
    pub json: bool,
}

impl Common {
    /// The device.
    ///
    /// # Errors
    /// When the program was built without the device, or the device does not have the precision.
    pub fn open(&self) -> Result<Device> {
        let device = self.device.open()?;
        if self.dtype == Dtype::Bf16
            && self.device != DeviceName::Cpu
            && !device.supports_dtype(FloatDType::BF16)
        {
            bail!("this device has no bf16; leave out --dtype bf16, or use another --device");
        }
        Ok(device)
    }

    /// Has the products of this thread be in the precision that was asked for, as long as what is returned
    /// lives.
    pub fn precision(&self) -> ProductsScope {
        Products::rounded(self.dtype == Dtype::Bf16).scope()
    }

    /// Where events go.
    pub fn progress(&self) -> Progress {
        Progress::new(self.json)
    }
}

/// Precision of matrix products.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Dtype {
    /// Single precision.
    F32,
    /// Operands rounded to bfloat16, sums in single precision: faster on processors that have it.
    Bf16,
}
