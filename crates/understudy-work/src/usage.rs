//! What makes an error one of usage: exit code 2 on the command line, 400 from a service.

use std::error::Error;
use std::fmt;

use understudy_personalize::Error as Personalize;
use understudy_pipeline::Error as Pipeline;

/// A flag's value that no file, base or machine would make right.
#[derive(Debug)]
pub struct WrongUsage(pub String);

impl fmt::Display for WrongUsage {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Error for WrongUsage {}

/// What clap says on several lines, on one: without the usage, which `--help` prints.
pub fn without_usage(rendered: &str) -> String {
    let lines = rendered.lines().map(str::trim).take_while(|line| !line.starts_with("Usage:"));
    let lines: Vec<&str> =
        lines.filter(|line| !line.is_empty() && !line.starts_with("For more information")).collect();
    lines.join(" ")
}

/// Whether a task was given a value out of its range.
pub fn is_usage(error: &anyhow::Error) -> bool {
    error.chain().any(is_cause)
}

fn is_cause(error: &(dyn Error + 'static)) -> bool {
    error.is::<WrongUsage>()
        || error.downcast_ref::<Pipeline>().is_some_and(is_out_of_range)
        || error.downcast_ref::<Personalize>().is_some_and(|error| match error {
            Personalize::Config { .. } => true,
            Personalize::Subject { field, .. } => ["class", "token"].contains(field),
            Personalize::Pipeline(error) => is_out_of_range(error),
            _ => false,
        })
}

fn is_out_of_range(error: &Pipeline) -> bool {
    matches!(error, Pipeline::Request { .. } | Pipeline::Size { .. } | Pipeline::UnknownScheduler(_))
}
