//! How the program ends: exit codes, and one line for what went wrong.

use std::fmt;
use std::io::Write;
use std::panic::{self, AssertUnwindSafe, PanicHookInfo};
use std::path::Path;
use std::process::ExitCode;
use std::sync::{Mutex, PoisonError};

use anyhow::{Result, anyhow};
use clap::error::ErrorKind;
use serde::Serialize;
use serde_json::json;

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

/// Says a line to people, on stderr. Where it cannot be written nobody hears it, and the work goes on.
pub fn say(line: &str) {
    let _ = std::io::stderr().write_all(format!("{}\n", printable(line)).as_bytes());
}

/// Why the events could not all be written.
static UNTOLD: Mutex<Option<String>> = Mutex::new(None);

/// Prints an event as a JSON line on stdout. Where it cannot be written the work goes on, and [`ended`] says
/// so.
pub fn event(event: &impl Serialize) {
    let mut untold = UNTOLD.lock().unwrap_or_else(PoisonError::into_inner);
    // After half a line the next would be read as its end.
    if untold.is_some() {
        return;
    }
    let written = serde_json::to_string(event).map_err(std::io::Error::from).and_then(|line| {
        let mut out = std::io::stdout().lock();
        out.write_all(format!("{line}\n").as_bytes())?;
        out.flush()
    });
    *untold = written.err().map(|error| error.to_string());
}

/// A path as events have it: what of its name is not Unicode is replaced.
pub fn text(path: impl AsRef<Path>) -> String {
    path.as_ref().display().to_string()
}

/// Reports how a command ended.
pub fn ended(result: Result<()>) -> ExitCode {
    if let Err(error) = result {
        return failure(&error);
    }
    let untold = UNTOLD.lock().unwrap_or_else(PoisonError::into_inner).take();
    match untold {
        None => ExitCode::SUCCESS,
        Some(reason) => {
            say(&format!("error: the work is done, and stdout could not take all events of it: {reason}"));
            ExitCode::from(FAILURE)
        }
    }
}

/// Reports a command that failed.
pub fn failure(error: &anyhow::Error) -> ExitCode {
    fail(&one_line(&told(error)), if error.chain().any(is_usage) { USAGE } else { FAILURE })
}

/// Says what went wrong, to programs as well where events were asked for.
fn fail(message: &str, code: u8) -> ExitCode {
    // The arguments may be what is wrong, so they are looked at as they are.
    if std::env::args_os().skip(1).take_while(|own| own != "--").any(|own| own == "--json") {
        event(&json!({"event": "error", "message": message, "code": code}));
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

/// `1.5 MB`.
pub fn size(bytes: u64) -> String {
    let units = ["B", "kB", "MB", "GB", "TB"];
    let (mut value, mut unit) = (bytes as f64, 0);
    while value >= 999.5 && unit + 1 < units.len() {
        value /= 1000.0;
        unit += 1;
    }
    if unit == 0 { format!("{bytes} B") } else { format!("{value:.1} {}", units[unit]) }
}

/// `12 s`, `5 min`, `2.5 h`.
pub fn duration(seconds: f64) -> String {
    match seconds {
        ..120.0 => format!("{seconds:.0} s"),
        ..7200.0 => format!("{:.0} min", seconds / 60.0),
        _ => format!("{:.1} h", seconds / 3600.0),
    }
}

/// Now, as a page says it: `30 November 2026, 19:40 UTC`.
pub fn date() -> String {
    let now = time::OffsetDateTime::now_utc();
    let (day, month, year) = (now.day(), now.month(), now.year());
    format!("{day} {month} {year}, {:02}:{:02} UTC", now.hour(), now.minute())
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

/// Arguments as a shell takes them.
pub fn shell(arguments: &[String]) -> String {
    let plain = |letter: char| letter.is_alphanumeric() || "-_=+.,:/@%".contains(letter);
    let quoted = |argument: &String| {
        if argument.chars().all(plain) && !argument.is_empty() {
            argument.clone()
        } else {
            format!("'{}'", argument.replace('\'', "'\\''"))
        }
    };
    arguments.iter().map(quoted).collect::<Vec<_>>().join(" ")
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
            let said = summary(&error.render().to_string());
            fail(said.strip_prefix("error: ").unwrap_or(&said), USAGE)
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
    fn arguments_are_quoted_where_a_shell_would_read_them_otherwise() {
        let arguments = ["--prompt", "a <s> cat's ball", "-1", "a.mp4", "", "a;b"].map(str::to_owned);
        assert_eq!(shell(&arguments), "--prompt 'a <s> cat'\\''s ball' -1 a.mp4 '' 'a;b'");
    }

    #[test]
    fn numbers_are_easy_to_read() {
        let sizes = [999, 1_500, 999_990, 2_000_000_000].map(size);
        assert_eq!(sizes, ["999 B", "1.5 kB", "1.0 MB", "2.0 GB"]);
        assert_eq!([0.4, 119.0, 121.0, 9000.0].map(duration), ["0 s", "119 s", "2 min", "2.5 h"]);
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
