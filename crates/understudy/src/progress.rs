//! Rendering events: a bar for people at a terminal, lines where there is none, JSON lines for programs.

use std::io::IsTerminal;
use std::ops::ControlFlow;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;
use serde_json::json;
use understudy_media::shown;
use understudy_personalize::{FitEvent, Plan, PlannedStage};
use understudy_train::Event;

use crate::interrupt;
use crate::report::{self, duration, printable, size};

/// Without a terminal, every so many steps get a line.
const LINES_EVERY: u64 = 25;

/// Where events go. For people everything is on stderr; JSON is on stdout.
pub struct Progress {
    json: bool,
    bar: Option<ProgressBar>,
    /// The stages of a fit, as they were planned.
    stages: Vec<PlannedStage>,
}

impl Progress {
    /// A renderer; `json` prints every event as one JSON object a line on stdout.
    pub fn new(json: bool) -> Self {
        Self { json, bar: None, stages: Vec::new() }
    }

    /// One event as a JSON line, if JSON was asked for.
    pub fn event(&self, event: &impl Serialize) {
        if self.json {
            report::event(event);
        }
    }

    /// Something to be known, as an event and as a line for people.
    pub fn note(&self, message: &str) {
        self.event(&json!({"event": "note", "message": message}));
        self.say(&format!("note: {message}"));
    }

    /// A line for people, above the bar.
    pub fn say(&self, line: &str) {
        match &self.bar {
            _ if self.json => {}
            Some(bar) => bar.suspend(|| report::say(line)),
            None => report::say(line),
        }
    }

    /// Shows that `done` of `total` are done.
    pub fn step(&mut self, what: &str, done: u64, total: u64, message: &str) {
        if self.json {
            return;
        }
        let message = &printable(message);
        if !std::io::stderr().is_terminal() {
            if done.is_multiple_of(LINES_EVERY) || done == total {
                report::say(&format!("{what} {done}/{total} {message}"));
            }
            return;
        }
        let whole = self.stages.is_empty();
        let bar = self.bar.get_or_insert_with(|| bar(total, whole));
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
            FitEvent::Plan { plan, .. } => {
                self.stages.clone_from(&plan.stages);
                self.plan(plan);
            }
            FitEvent::Stage { stage, event } => self.show(stage, event),
        }
        interrupt::flow()
    }

    fn plan(&self, plan: &Plan) {
        let Plan { method, pictures, clips, sites, parameters, memory, seconds, .. } = plan;
        let stages: Vec<String> =
            plan.stages.iter().map(|stage| format!("{} {} steps", stage.steps, stage.name)).collect();
        let counted = [(*pictures, "picture"), (*clips, "clip")].into_iter().filter(|(count, _)| *count > 0);
        let counted: Vec<String> = counted
            .map(|(count, what)| format!("{count} {what}{}", if count == 1 { "" } else { "s" }))
            .collect();
        self.say(&format!(
            "{method}: {}; {}; {parameters} parameters at {sites} sites; about {} of memory \
             and {}",
            counted.join(", "),
            stages.join(" and "),
            size(*memory),
            duration((*seconds).into())
        ));
        for not_used in &plan.left_out {
            self.say(&format!("left out: {}: {}", shown(&not_used.path), not_used.reason));
        }
        plan.notes.iter().for_each(|note| self.say(&format!("note: {note}")));
    }

    fn show(&mut self, stage: &str, event: &Event) {
        match event {
            Event::Plan { name, parameters, from, to } => {
                self.say(&format!("{name}: {parameters} parameters, steps {from} to {to}"));
            }
            Event::Note { message } => self.say(&format!("note: {message}")),
            Event::Prepare { what, done, total } => self.step(what, *done, *total, ""),
            Event::Step { step, total, loss, seconds, metrics, .. } => {
                let metrics: Vec<String> =
                    metrics.iter().map(|(name, value)| format!(" {name} {value:.3}")).collect();
                let left = match left(&self.stages, stage, total - step, (*seconds).into()) {
                    Some(left) => format!(", {} left in all", duration(left)),
                    None => String::new(),
                };
                let message = format!("loss {loss:.4}{} ({seconds:.2} s{left})", metrics.concat());
                self.step(stage, *step, *total, &message);
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

/// Seconds that are left of a fit when `stage` has so many steps to go, of which one takes so long: what
/// comes after it differs from its plan as this does.
fn left(stages: &[PlannedStage], stage: &str, steps: u64, seconds: f64) -> Option<f64> {
    let at = stages.iter().position(|own| own.name == stage)?;
    let planned = f64::from(stages[at].step_seconds).max(1e-9);
    let after = stages[at + 1..].iter().map(|own| own.steps as f64 * f64::from(own.step_seconds));
    Some(steps as f64 * seconds + after.sum::<f64>() * seconds / planned)
}

/// A bar, with the time that is left where one bar is the whole of the work.
fn bar(total: u64, whole: bool) -> ProgressBar {
    let bar = ProgressBar::new(total);
    let template = if whole {
        "{prefix} [{bar:32}] {pos}/{len} {msg} [{elapsed} < {eta}]"
    } else {
        "{prefix} [{bar:32}] {pos}/{len} {msg} [{elapsed}]"
    };
    // The template is constant; were it wrong, the plain bar would do.
    if let Ok(style) = ProgressStyle::with_template(template) {
        bar.set_style(style.progress_chars("=> "));
    }
    bar.enable_steady_tick(Duration::from_millis(500));
    bar
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_left_of_a_fit_is_all_its_stages() {
        let stage = |name, steps, step_seconds| PlannedStage { name, steps, step_seconds };
        let stages = [stage("token", 10, 1.0), stage("lora", 100, 2.0), stage("motion", 50, 4.0)];
        assert_eq!(left(&stages, "token", 5, 1.0), Some(5.0 + 200.0 + 200.0));
        // Half as fast as planned.
        assert_eq!(left(&stages, "lora", 10, 4.0), Some(40.0 + 400.0));
        assert_eq!(left(&stages, "motion", 0, 4.0), Some(0.0));
        assert_eq!(left(&[], "step", 5, 1.0), None);
    }
}
