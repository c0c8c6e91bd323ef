//! The command line: the only place that prints, parses flags or knows colours.

#![cfg_attr(test, allow(clippy::unwrap_used))]

mod commands;
mod interrupt;
mod printer;
mod report;
mod shell;

use std::process::ExitCode;

use clap::{CommandFactory, FromArgMatches, Parser};
use understudy_engine::allocator::Allocator;

use crate::commands::Command;

#[global_allocator]
static ALLOCATOR: Allocator = Allocator;

/// Puts your own subject into text-to-video.
#[derive(Debug, Parser)]
#[command(name = "understudy", version, propagate_version = true)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

/// Reads the arguments. A negative number is a value, whatever its flag makes of it.
fn parse() -> Result<Arguments, clap::Error> {
    let lenient = |argument: clap::Arg| {
        if argument.get_action().takes_values() { argument.allow_negative_numbers(true) } else { argument }
    };
    let negative = |command: clap::Command| command.mut_args(lenient);
    let mut command = Arguments::command().mut_subcommands(negative);
    let mut matches = command.try_get_matches_from_mut(std::env::args_os())?;
    Arguments::from_arg_matches_mut(&mut matches).map_err(|error| error.format(&mut command))
}

fn main() -> ExitCode {
    let arguments = match parse() {
        Ok(arguments) => arguments,
        Err(error) => return report::usage(&error),
    };
    report::ended(report::guarded(|| arguments.command.run()))
}
