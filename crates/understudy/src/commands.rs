//! The commands: a task each, where to do it, and who hears of it.

use anyhow::Result;
use clap::{Args, Subcommand};
use understudy_engine::device::DeviceName;
use understudy_work::{
    Context, Convert, Demo, Dtype, Evaluate, Event, Fit, Generate, Inspect, Place, Placed, Pretrain, Pull,
    Task,
};

use crate::interrupt;
use crate::printer::Printer;
use crate::report::{self, printable};
use crate::shell;

/// What the program does.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Print what a shell needs to complete the program's arguments.
    Completions(shell::Completions),
    /// Rewrite an adapter in the key names of another program.
    Convert(Plain<Convert>),
    /// Fit a bundled subject on the embedded base, generate it before and after, and score both.
    Demo(OnDevice<Demo>),
    /// Score a folder of videos, or a suite of methods.
    Evaluate(Box<OnDevice<Evaluate>>),
    /// Learn a subject from pictures or a clip of it and write an adapter.
    Fit(Box<OnDevice<Fit>>),
    /// Generate a video from a prompt.
    Generate(Box<OnDevice<Generate>>),
    /// Print what an adapter, a checkpoint or a base folder holds, or how a video was made.
    Inspect(Plain<Inspect>),
    /// Write manual pages, one a command.
    Man(shell::Man),
    /// Fetch a repository of weights into the Hugging Face cache.
    Pull(Plain<Pull>),
    /// Train the embedded base or one of its judges on the puppet world.
    Pretrain(OnDevice<Pretrain>),
}

impl Command {
    /// Runs the command to its end.
    pub fn run(self) -> Result<()> {
        match self {
            Self::Completions(command) => command.run(),
            Self::Convert(command) => command.run(Task::Convert),
            Self::Demo(command) => command.run(Task::Demo),
            Self::Evaluate(command) => command.run(|task| Task::Evaluate(Box::new(task))),
            Self::Fit(command) => command.run(|task| Task::Fit(Box::new(task))),
            Self::Generate(command) => command.run(|task| Task::Generate(Box::new(task))),
            Self::Inspect(command) => command.print(),
            Self::Man(command) => command.run(),
            Self::Pretrain(command) => command.run(Task::Pretrain),
            Self::Pull(command) => command.run(Task::Pull),
        }
    }
}

/// A task that computes nothing much.
#[derive(Debug, Args)]
pub struct Plain<T: Args> {
    #[command(flatten)]
    task: T,
    /// Print events as JSON lines on stdout.
    #[arg(long)]
    json: bool,
}

impl<T: Args> Plain<T> {
    fn run(self, task: impl FnOnce(T) -> Task) -> Result<()> {
        run(task(self.task), Place::default(), self.json)
    }
}

impl Plain<Inspect> {
    /// Prints the summary.
    fn print(self) -> Result<()> {
        let summary = self.task.summary()?;
        let text = if self.json { serde_json::to_string(&summary)? } else { printable(&summary.to_string()) };
        report::print(&format!("{}\n", text.trim_end()))
    }
}

/// A task, and where to do it.
#[derive(Debug, Args)]
pub struct OnDevice<T: Args> {
    #[command(flatten)]
    placed: Placed<T>,
    /// Print events as JSON lines on stdout instead of a progress bar.
    #[arg(long)]
    json: bool,
}

impl<T: Args> OnDevice<T> {
    fn run(self, task: impl FnOnce(T) -> Task) -> Result<()> {
        run(task(self.placed.task), self.placed.place, self.json)
    }
}

/// Does `task`, until Ctrl-C asks it to stop.
fn run(task: Task, place: Place, json: bool) -> Result<()> {
    let printer = Printer::new(json);
    let tell = |event: &Event| printer.show(event);
    let device = place.device.unwrap_or(DeviceName::Cpu);
    let context = Context::open(device, place.dtype == Some(Dtype::Bf16), &tell)?;
    interrupt::listen(context.stop.clone());
    task.run(&context)?;
    printer.ended()
}
