//! The command line: the only place that prints, parses flags or knows colours.

#![cfg_attr(test, allow(clippy::unwrap_used))]

mod base;
mod commands;
mod interrupt;
mod memory;
mod progress;
mod report;

use std::process::ExitCode;

use clap::{CommandFactory, FromArgMatches, Parser};

use crate::commands::Command;

// Tensors are large and short-lived; the system's allocator gives each back to the kernel and pays for fresh
// pages at every operation.
#[global_allocator]
static ALLOCATOR: memory::Allocator = memory::Allocator;

/// Puts your own subject into text-to-video.
#[derive(Debug, Parser)]
#[command(name = "understudy", version, propagate_version = true)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

/// Reads the arguments. A negative number is a value, whatever its flag makes of it.
fn parse() -> Result<Arguments, clap::Error> {
    let negative =
        |command: clap::Command| command.mut_args(|argument| argument.allow_negative_numbers(true));
    let mut command = Arguments::command().mut_subcommands(negative);
    let mut matches = command.try_get_matches_from_mut(std::env::args_os())?;
    Arguments::from_arg_matches_mut(&mut matches).map_err(|error| error.format(&mut command))
}

fn main() -> ExitCode {
    let arguments = match parse() {
        Ok(arguments) => arguments,
        Err(error) => return report::usage(&error),
    };
    match report::guarded(|| arguments.command.run()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => report::failure(&error),
    }
}
