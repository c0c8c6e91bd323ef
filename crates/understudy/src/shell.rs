//! What shells and manuals need to know of the command line.

use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::{Args, CommandFactory};
use clap_complete::Shell;

use crate::{Arguments, report};

/// Print what a shell needs to complete the program's arguments.
#[derive(Debug, Args)]
pub struct Completions {
    /// The shell.
    #[arg(value_enum)]
    shell: Shell,
}

impl Completions {
    /// Prints it.
    pub fn run(self) -> Result<()> {
        let mut script = Vec::new();
        clap_complete::generate(self.shell, &mut Arguments::command(), "understudy", &mut script);
        report::print(&String::from_utf8(script)?)
    }
}

/// Write manual pages, one a command.
#[derive(Debug, Args)]
pub struct Man {
    /// The folder for them, such as ~/.local/share/man/man1.
    #[arg(value_name = "DIR")]
    folder: PathBuf,
}

impl Man {
    /// Writes them.
    pub fn run(self) -> Result<()> {
        let written = std::fs::create_dir_all(&self.folder)
            .and_then(|()| clap_mangen::generate_to(Arguments::command(), &self.folder));
        written.with_context(|| format!("{}: cannot write manual pages", self.folder.display()))
    }
}
