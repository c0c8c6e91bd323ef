//! How the program ends: exit codes, and one line for what went wrong.

use std::fmt;
use std::io::Write;
use std::panic::{self, AssertUnwindSafe, PanicHookInfo};
use std::process::ExitCode;
use std::sync::{Mutex, PoisonError};

use anyhow::{Result, anyhow};
use clap::error::ErrorKind;

/// Wrong usage.
const USAGE: u8 = 2;
/// Any other failure.
const FAILURE: u8 = 1;

/// What the first panic said, and where.
static MISTAKE: Mutex<Option<String>> = Mutex::new(None);

/// Runs a command; a panic anywhere in it becomes an error like any other. With `RUST_BACKTRACE` set, it is
/// printed in full as well.
///
/// # Errors
/// Those of the command, and what a panic said.
pub fn guarded(command: impl FnOnce() -> Result<()>) -> Result<()> {
    let verbose = std::env::var_os("RUST_BACKTRACE").is_some_and(|value| value != "0");
    let usual = panic::take_hook();
    panic::set_hook(Box::new(move |info| {
        MISTAKE.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert_with(|| describe(info));
        if verbose {
            usual(info);
        }
    }));
    panic::catch_unwind(AssertUnwindSafe(command)).unwrap_or_else(|_| {
        let said = MISTAKE.lock().unwrap_or_else(PoisonError::into_inner).take();
        Err(anyhow!(
            "a mistake in this program: {}; please report it with the command",
            said.unwrap_or_default()
        ))
    })
}

fn describe(info: &PanicHookInfo) -> String {
    let place = info.location().map(|at| format!(" ({}:{})", at.file(), at.line()));
    format!("{}{}", info.payload_as_str().unwrap_or("no message").trim(), place.unwrap_or_default())
}

/// Reports a command that failed.
pub fn failure(error: &anyhow::Error) -> ExitCode {
    eprintln!("error: {}", one_line(&told(error)));
    ExitCode::from(if error.chain().any(is_usage) { USAGE } else { FAILURE })
}

/// An error with its causes, each said once.
fn told(error: &anyhow::Error) -> String {
    let mut said = String::new();
    for cause in error.chain() {
        let cause = without_temporary(&cause.to_string());
        if said.is_empty() {
            said = cause;
        } else if !said.contains(&cause) {
            said = format!("{said}: {cause}");
        }
    }
    said
}

/// `text` without the names of temporary files, which nobody asked for.
fn without_temporary(text: &str) -> String {
    const BEFORE: &str = " at path \"";
    match text.split_once(BEFORE).and_then(|(start, rest)| Some((start, rest.split_once('"')?.1))) {
        Some((start, end)) => format!("{start}{end}"),
        None => text.to_owned(),
    }
}

/// Prints `text` on stdout. Whoever reads may have stopped reading; a disk that is full is an error.
///
/// # Errors
/// When it cannot be written.
pub fn print(text: &str) -> Result<()> {
    let mut out = std::io::stdout();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => {
            Err(anyhow!("stdout: cannot write: {error}; free some space or print elsewhere"))
        }
        _ => Ok(()),
    }
}

/// A flag's value that no file, base or machine would make right.
#[derive(Debug)]
pub struct WrongUsage(pub String);

impl fmt::Display for WrongUsage {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for WrongUsage {}

/// Whether the command was given a value out of its range.
fn is_usage(error: &(dyn std::error::Error + 'static)) -> bool {
    use understudy_personalize::Error as Personalize;
    use understudy_pipeline::Error as Pipeline;
    let out_of_range = |error: &Pipeline| {
        matches!(error, Pipeline::Request { .. } | Pipeline::Size { .. } | Pipeline::UnknownScheduler(_))
    };
    error.is::<WrongUsage>()
        || error.downcast_ref::<Pipeline>().is_some_and(out_of_range)
        || error.downcast_ref::<Personalize>().is_some_and(|error| match error {
            Personalize::Config { .. } => true,
            Personalize::Subject { field, .. } => ["class", "token"].contains(field),
            Personalize::Pipeline(error) => out_of_range(error),
            _ => false,
        })
}

/// Reports arguments that are wrong, or prints the help or the version that was asked for.
pub fn usage(error: &clap::Error) -> ExitCode {
    match error.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => match print(&error.render().to_string()) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => failure(&error),
        },
        ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => {
            let _ = error.print();
            ExitCode::from(USAGE)
        }
        _ => {
            eprintln!("{}", summary(&error.render().to_string()));
            ExitCode::from(USAGE)
        }
    }
}

/// What clap says on several lines, on one: without the usage, which `--help` prints.
fn summary(rendered: &str) -> String {
    let told = rendered.lines().map(str::trim).take_while(|line| !line.starts_with("Usage:"));
    let told: Vec<&str> =
        told.filter(|line| !line.is_empty() && !line.starts_with("For more information")).collect();
    format!("{}; see --help", told.join(" ").replace(" tip: ", "; "))
}

/// `text` with its lines joined.
fn one_line(text: &str) -> String {
    text.lines().map(str::trim).filter(|line| !line.is_empty()).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cause_is_said_once_and_temporary_names_not_at_all() {
        let cause = std::io::Error::other("full at path \"/tmp/x.tmp\"");
        let error = anyhow::Error::new(cause).context("a.mp4: cannot write: full; free some space");
        assert_eq!(told(&error), "a.mp4: cannot write: full; free some space");
        assert_eq!(told(&anyhow!("one").context("two")), "two: one");
    }

    #[test]
    fn usage_errors_fit_on_a_line() {
        let rendered = "error: unexpected argument '--fsp' found\n\n  tip: a similar argument exists: '--fps'\n\n\
                        Usage: understudy generate <--prompt <TEXT>>\n\nFor more information, try '--help'.\n";
        let expected =
            "error: unexpected argument '--fsp' found; a similar argument exists: '--fps'; see --help";
        assert_eq!(summary(rendered), expected);
    }
}
