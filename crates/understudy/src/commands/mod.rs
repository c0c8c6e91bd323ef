//! One module a command.

mod pretrain;

use anyhow::Result;
use clap::{Args, Subcommand};
use understudy_engine::device::DeviceName;

/// What the program does.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Train the embedded base or one of its judges on the puppet world.
    Pretrain(pretrain::Pretrain),
}

impl Command {
    /// Runs the command to its end.
    pub fn run(self) -> Result<()> {
        match self {
            Self::Pretrain(command) => command.run(),
        }
    }
}

/// Flags every command takes.
#[derive(Debug, Args)]
pub struct Common {
    /// Where to compute: cpu, cuda:N, vulkan:N or metal.
    #[arg(long, default_value = "cpu", value_name = "DEVICE")]
    pub device: DeviceName,
    /// Print events as JSON lines on stdout instead of a progress bar.
    #[arg(long)]
    pub json: bool,
}
