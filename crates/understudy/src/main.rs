//! The command line: the only place that prints, parses flags or knows colours.

#![cfg_attr(test, allow(clippy::unwrap_used))]

mod base;
mod commands;
mod interrupt;
mod memory;
mod progress;
mod report;

use std::process::ExitCode;

use clap::Parser;

use crate::commands::Command;

// Tensors are large and short-lived; the system's allocator gives each back to the kernel and pays for fresh
// pages at every operation.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Puts your own subject into text-to-video.
#[derive(Debug, Parser)]
#[command(name = "understudy", version, propagate_version = true)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

fn main() -> ExitCode {
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => return report::usage(&error),
    };
    match report::guarded(|| arguments.command.run()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => report::failure(&error),
    }
}
