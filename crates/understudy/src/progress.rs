//! Rendering events: a bar for people at a terminal, lines where there is none, JSON lines for programs.

use std::io::{IsTerminal, Write};
use std::ops::ControlFlow;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;
use understudy_personalize::{FitEvent, Plan};
use understudy_train::Event;

use crate::interrupt;

/// Without a terminal, every so many steps get a line.
const LINES_EVERY: u64 = 25;

/// Where events go. For people everything is on stderr; JSON is on stdout.
pub struct Progress {
    json: bool,
    bar: Option<ProgressBar>,
}

impl Progress {
    /// A renderer; `json` prints every event as one JSON object a line on stdout.
    pub fn new(json: bool) -> Self {
        Self { json, bar: None }
    }

    /// One event as a JSON line, if JSON was asked for.
    pub fn event(&self, event: &impl Serialize) {
        if self.json
            && let Ok(line) = serde_json::to_string(event)
        {
            // Whoever reads the events may stop reading; the work goes on.
            let _ = writeln!(std::io::stdout(), "{line}");
        }
    }

    /// A line for people, above the bar.
    pub fn say(&self, line: &str) {
        match &self.bar {
            _ if self.json => {}
            Some(bar) => bar.suspend(|| eprintln!("{line}")),
            None => eprintln!("{line}"),
        }
    }

    /// Shows that `done` of `total` are done.
    pub fn step(&mut self, what: &str, done: u64, total: u64, message: &str) {
        if self.json {
            return;
        }
        if !std::io::stderr().is_terminal() {
            if done.is_multiple_of(LINES_EVERY) || done == total {
                eprintln!("{what} {done}/{total} {message}");
            }
            return;
        }
        let bar = self.bar.get_or_insert_with(|| bar(total));
        bar.set_length(total);
        bar.set_prefix(what.to_owned());
        bar.set_message(message.to_owned());
        bar.set_position(done);
        if done == total {
            self.clear();
        }
    }

    /// Takes the bar away.
    pub fn clear(&mut self) {
        if let Some(bar) = self.bar.take() {
            bar.finish_and_clear();
        }
    }

    /// Renders one event of a training.
    pub fn training(&mut self, event: &Event) -> ControlFlow<()> {
        self.event(event);
        self.show("step", event);
        if let Event::Done { path, .. } = event {
            self.say(&format!("done: {}", path.display()));
        }
        interrupt::flow()
    }

    /// Renders one event of a fit.
    pub fn fitting(&mut self, event: &FitEvent) -> ControlFlow<()> {
        self.event(event);
        match event {
            FitEvent::Plan { plan, .. } => self.plan(plan),
            FitEvent::Stage { stage, event } => self.show(stage, event),
        }
        interrupt::flow()
    }

    fn plan(&self, plan: &Plan) {
        let Plan { method, pictures, clips, sites, parameters, memory, seconds, .. } = plan;
        let stages: Vec<String> =
            plan.stages.iter().map(|stage| format!("{} {} steps", stage.steps, stage.name)).collect();
        self.say(&format!(
            "{method}: {pictures} pictures, {clips} clips; {}; {parameters} parameters at {sites} sites; about {:.1} GB \
             of memory and {:.0} s",
            stages.join(" and "),
            *memory as f64 / 1e9,
            seconds
        ));
        for not_used in &plan.left_out {
            self.say(&format!("left out: {}: {}", not_used.path.display(), not_used.reason));
        }
    }

    fn show(&mut self, stage: &str, event: &Event) {
        match event {
            Event::Plan { name, parameters, from, to } => {
                self.say(&format!("{name}: {parameters} parameters, steps {from} to {to}"));
            }
            Event::Prepare { what, done, total } => self.step(what, *done, *total, ""),
            Event::Step { step, total, loss, seconds, metrics, .. } => {
                let metrics: Vec<String> =
                    metrics.iter().map(|(name, value)| format!(" {name} {value:.3}")).collect();
                self.step(
                    stage,
                    *step,
                    *total,
                    &format!("loss {loss:.4}{} ({seconds:.2} s)", metrics.concat()),
                );
            }
            Event::Sample { path, .. } => self.say(&format!("samples: {}", path.display())),
            Event::Checkpoint { .. } => {}
            Event::Done { .. } => self.clear(),
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.clear();
    }
}

fn bar(total: u64) -> ProgressBar {
    let bar = ProgressBar::new(total);
    let template = "{prefix} [{bar:32}] {pos}/{len} {msg} [{elapsed} < {eta}]";
    // The template is constant; were it wrong, the plain bar would do.
    if let Ok(style) = ProgressStyle::with_template(template) {
        bar.set_style(style.progress_chars("=> "));
    }
    bar.enable_steady_tick(Duration::from_millis(500));
    bar
}
