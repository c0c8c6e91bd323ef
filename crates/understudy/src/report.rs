//! How the program ends: exit codes, and one line for what went wrong.

use std::io::Write;
use std::panic::{self, AssertUnwindSafe, PanicHookInfo};
use std::process::ExitCode;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Result, anyhow};
use clap::error::ErrorKind;
use serde::Serialize;
use serde_json::json;
use understudy_work::{is_usage, without_usage};

/// Wrong usage.
const USAGE: u8 = 2;
/// Any other failure.
const FAILURE: u8 = 1;

/// Runs a command; a panic anywhere in it becomes an error like any other. With `RUST_BACKTRACE` set, it is
/// printed in full as well.
///
/// # Errors
/// Those of the command, and what a panic said.
pub fn guarded(command: impl FnOnce() -> Result<()>) -> Result<()> {
    let verbose = std::env::var_os("RUST_BACKTRACE").is_some_and(|value| value != "0");
    let usual = panic::take_hook();
    // What the first panic said, and where.
    let mistake = Arc::new(Mutex::new(None));
    let heard = mistake.clone();
    panic::set_hook(Box::new(move |info| {
        heard.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert_with(|| describe(info));
        if verbose {
            usual(info);
        }
    }));
    panic::catch_unwind(AssertUnwindSafe(command)).unwrap_or_else(|_| {
        let said = mistake.lock().unwrap_or_else(PoisonError::into_inner).take();
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

/// Says a line to people, on stderr. Where it cannot be written nobody hears it, and the work goes on.
pub fn say(line: &str) {
    let _ = std::io::stderr().write_all(format!("{}\n", printable(line)).as_bytes());
}

/// Prints an event as a JSON line on stdout.
///
/// # Errors
/// When it cannot be written.
pub fn event(event: &impl Serialize) -> std::io::Result<()> {
    let line = serde_json::to_string(event).map_err(std::io::Error::from)?;
    let mut out = std::io::stdout().lock();
    out.write_all(format!("{line}\n").as_bytes())?;
    out.flush()
}

/// Reports how a command ended.
pub fn ended(result: Result<()>) -> ExitCode {
    match result {
        Err(error) => failure(&error),
        Ok(()) => ExitCode::SUCCESS,
    }
}

/// Reports a command that failed.
pub fn failure(error: &anyhow::Error) -> ExitCode {
    fail(&one_line(&told(error)), if is_usage(error) { USAGE } else { FAILURE })
}

/// Says what went wrong, to programs as well where events were asked for.
fn fail(message: &str, code: u8) -> ExitCode {
    // The arguments may be what is wrong, so they are looked at as they are.
    if std::env::args_os().skip(1).take_while(|own| own != "--").any(|own| own == "--json") {
        // Where stdout is closed, stderr says it.
        let _ = event(&json!({"event": "error", "message": message, "code": code}));
    }
    say(&format!("error: {message}"));
    ExitCode::from(code)
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

/// `text` as a terminal may be shown it: names of files and words of prompts may hold what moves its cursor,
/// changes its colours or turns the text around. Line ends stay.
pub fn printable(text: &str) -> String {
    let turns = |letter| matches!(letter, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    let mut out = String::with_capacity(text.len());
    for letter in text.chars() {
        match letter {
            '\n' => out.push('\n'),
            _ if letter.is_control() || turns(letter) => out.extend(letter.escape_default()),
            _ => out.push(letter),
        }
    }
    out
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
            let said = summary(&error.render().to_string());
            fail(said.strip_prefix("error: ").unwrap_or(&said), USAGE)
        }
    }
}

/// What clap says on several lines, on one.
fn summary(rendered: &str) -> String {
    format!("{}; see --help", without_usage(rendered).replace(" tip: ", "; "))
}

/// `text` with its lines joined.
fn one_line(text: &str) -> String {
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
    printable(&lines.collect::<Vec<_>>().join(" "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_that_is_printed_moves_the_cursor() {
        assert_eq!(
            printable("a\x1b[2Jb\r\u{9b}c\u{202e}d\te\nf é 猫"),
            "a\\u{1b}[2Jb\\r\\u{9b}c\\u{202e}d\\te\nf é 猫"
        );
        assert_eq!(one_line("a\r\n  b\x07"), "a b\\u{7}");
    }

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
