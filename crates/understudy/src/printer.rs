//! Showing events: a bar for people at a terminal, lines where there is none, JSON lines for programs.

use std::io::IsTerminal;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Result, anyhow};
use indicatif::{ProgressBar, ProgressStyle};
use understudy_media::shown;
use understudy_personalize::{Evaluation, FitEvent, Plan, PlannedStage};
use understudy_train as train;
use understudy_work::{AdapterUse, Event, GenerationPlan, duration, shell, size};

use crate::report::{self, printable};

/// Without a terminal, every so many steps get a line.
const LINES_EVERY: u64 = 25;
/// Columns of the longest metric's name.
const METRIC: usize = 22;

/// Shows events. For people everything is on stderr; JSON is on stdout.
pub struct Printer {
    json: bool,
    shown: Mutex<Shown>,
}

/// What was shown, as far as it matters later.
#[derive(Default)]
struct Shown {
    bar: Option<ProgressBar>,
    /// The stages of a fit, as they were planned.
    stages: Vec<PlannedStage>,
    /// Seconds of the texts and the steps of a video.
    encoding: f64,
    denoising: f64,
    /// What is missing in scores.
    problems: Vec<String>,
    /// Why stdout did not take everything.
    untold: Option<anyhow::Error>,
}

impl Printer {
    /// For programs as JSON lines, or for people.
    pub fn new(json: bool) -> Self {
        Self { json, shown: Mutex::default() }
    }

    /// Shows an event. Where it cannot be written the work goes on, and [`Printer::ended`] says so.
    pub fn show(&self, event: &Event) {
        let mut shown = self.shown.lock().unwrap_or_else(PoisonError::into_inner);
        if !self.json {
            return shown.show(event);
        }
        // After half a line the next would be read as its end.
        if shown.untold.is_none() {
            let told = report::event(event);
            shown.untold = told.err().map(|error| {
                anyhow!("the work is done, and stdout could not take all events of it: {error}")
            });
        }
    }

    /// The work is done.
    ///
    /// # Errors
    /// When stdout did not take everything.
    pub fn ended(&self) -> Result<()> {
        self.shown.lock().unwrap_or_else(PoisonError::into_inner).untold.take().map_or(Ok(()), Err)
    }
}

impl Drop for Shown {
    fn drop(&mut self) {
        self.clear();
    }
}

impl Shown {
    /// A line, above the bar.
    fn say(&self, line: &str) {
        match &self.bar {
            Some(bar) => bar.suspend(|| report::say(line)),
            None => report::say(line),
        }
    }

    fn note(&self, message: &str) {
        self.say(&format!("note: {message}"));
    }

    /// Shows that `done` of `total` are done.
    fn step(&mut self, what: &str, done: u64, total: u64, message: &str) {
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
    fn clear(&mut self) {
        if let Some(bar) = self.bar.take() {
            bar.finish_and_clear();
        }
    }

    fn show(&mut self, event: &Event) {
        match event {
            Event::Note { message } => self.note(message),
            Event::Settings { settings } => self.untold = report::print(settings).err(),
            Event::Unmatched { path, keys } => {
                self.note(&format!("adapter {path}: {} keys are left out: {}", keys.len(), keys.join(", ")));
            }
            Event::Plan(plan) => self.plan_of_videos(plan),
            Event::Encoded { .. } | Event::Step { .. } | Event::Decoded { .. } | Event::Video { .. } => {
                self.video(event);
            }
            Event::Fetch { file, done, total } => {
                const MEGABYTE: u64 = 1_000_000;
                self.step("MB", done / MEGABYTE, total.div_ceil(MEGABYTE), file);
            }
            Event::Evaluation { evaluation } => self.evaluation(evaluation),
            Event::Row { .. }
            | Event::Mean { .. }
            | Event::Gain { .. }
            | Event::Fvd { .. }
            | Event::Policy { .. }
            | Event::Claim { .. } => self.scores(event),
            Event::Subject { class, pictures, path } => self
                .say(&format!("subject: a {class} the base was never shown, in {pictures} pictures: {path}")),
            Event::Sample { when, video, videos, .. } => {
                self.step(&format!("videos {when}"), *video as u64, *videos as u64, "");
            }
            Event::Generated { .. }
            | Event::Fitted { .. }
            | Event::Evaluated { .. }
            | Event::Converted { .. }
            | Event::Pulled { .. }
            | Event::Shown { .. } => self.done(event),
            Event::Fitting(event) => match event.as_ref() {
                FitEvent::Plan { plan, .. } => {
                    self.stages.clone_from(&plan.stages);
                    self.plan_of_fit(plan);
                }
                FitEvent::Stage { stage, event } => self.training(stage, event),
            },
            Event::Training(event) => {
                self.training("step", event);
                if let train::Event::Done { path, .. } = event {
                    self.say(&format!("done: {}", path.display()));
                }
            }
        }
    }

    fn plan_of_videos(&self, plan: &GenerationPlan) {
        let GenerationPlan { base, frames, height, width, steps, guidance, scheduler, shift, seed, .. } =
            plan;
        let (videos, seeds) = match plan.prompts.len() {
            1 => (String::new(), format!("seed {seed}")),
            count => {
                let last = seed.wrapping_add(count as u64 - 1);
                (format!("{count} videos of "), format!("seeds {seed} to {last}"))
            }
        };
        let shifted = shift.map_or_else(String::new, |shift| format!(" (shift {shift})"));
        self.say(&format!(
            "{base}: {videos}{frames} frames of {width}x{height}, {steps} {scheduler} steps{shifted}, guidance \
             {guidance}, {seeds}; about {} of memory ({} weights, {} activations) and {} ({:.1} s a step)",
            size(plan.memory),
            size(plan.weights),
            size(plan.activations),
            duration(plan.seconds.into()),
            plan.step_seconds,
        ));
        plan.adapters.iter().for_each(|adapter| self.adapter(adapter));
        plan.notes.iter().for_each(|note| self.note(note));
    }

    /// How an adapter is used.
    fn adapter(&self, adapter: &AdapterUse) {
        let AdapterUse { path, weight, kinds, residuals, differences, merged, unnamed, .. } = adapter;
        let how = if *merged { "merged" } else { "attached" };
        let mut parts = vec![format!("{residuals} residuals {how}")];
        let changed = kinds.iter().filter(|(kind, _)| **kind != "LoRA");
        parts.extend(changed.map(|(kind, count)| format!("{count} weights changed ({kind})")));
        if *differences > 0 {
            parts.push(format!("{differences} dense differences added"));
        }
        if parts.len() > 1 && *residuals == 0 {
            parts.remove(0);
        }
        self.say(&format!("adapter {path}: {} with weight {weight}", parts.join(", ")));
        for token in unnamed {
            self.note(&format!("no prompt names {token}, the subject of {path}"));
        }
    }

    /// What happens on the way to a video.
    fn video(&mut self, event: &Event) {
        match event {
            Event::Encoded { seconds } => {
                (self.encoding, self.denoising) = (*seconds, 0.0);
            }
            Event::Step { video, videos, step, total, seconds, .. } => {
                self.denoising += seconds;
                let what =
                    if *videos > 1 { format!("video {video} of {videos}, step") } else { "step".to_owned() };
                self.step(&what, *step as u64, *total as u64, &format!("({seconds:.2} s)"));
            }
            Event::Decoded { seconds } => {
                self.clear();
                let (encoding, denoising) = (self.encoding, self.denoising);
                self.say(&format!(
                    "text {encoding:.1} s, denoising {denoising:.1} s, decoding {seconds:.1} s"
                ));
            }
            Event::Video { path, kept: true, .. } => {
                self.say(&format!("{path} is there, made just so; it is kept"));
            }
            Event::Video { path, video, videos, .. } => {
                self.say(&format!("wrote {path} ({video} of {videos})"))
            }
            _ => {}
        }
    }

    fn evaluation(&self, evaluation: &Evaluation) {
        let Evaluation { step, identity, text, base_text, best, .. } = evaluation;
        let best = if *best { ", the best so far" } else { "" };
        self.say(&format!(
            "evaluation at step {step}: identity {identity:.3}, text {text:.3} (the base's {base_text:.3}){best}"
        ));
    }

    fn scores(&mut self, event: &Event) {
        match event {
            Event::Row { name, method, reference, problems, notes, row, rows, .. } => {
                let what = if *reference { "reference" } else { "video" };
                self.step(what, *row as u64, *rows as u64, name);
                let method = method.as_ref().map(|method| format!("{method}: ")).unwrap_or_default();
                let whose = if *reference { format!("reference {name}") } else { format!("{method}{name}") };
                if !problems.is_empty() {
                    self.problems.push(format!("missing: {whose}: {}", problems.join("; ")));
                }
                if !notes.is_empty() && !reference {
                    self.problems.push(format!("note: {whose}: {}", notes.join("; ")));
                }
            }
            Event::Mean(mean) => {
                let named = [&mean.group, &mean.method].into_iter().flatten();
                let whose: String = named.map(|name| format!("{name}: ")).collect();
                let metric = mean.metric;
                let Some(interval) = &mean.interval else {
                    return self.say(&format!("{whose}{metric:METRIC$}  no video has it"));
                };
                let missing = mean.of - mean.videos;
                let missing = if missing > 0 { format!(", {missing} missing") } else { String::new() };
                let spread = match mean.videos {
                    1 => "1 video".to_owned(),
                    videos => format!("95 %: {:.4} to {:.4}; {videos} videos", interval.low, interval.high),
                };
                self.say(&format!("{whose}{metric:METRIC$}  {:.4} ({spread}{missing})", interval.mean));
            }
            Event::Gain { metric, interval: None, .. } => {
                self.say(&format!("gain of {metric}: no pair has it"));
            }
            Event::Gain { metric, interval: Some(interval), pairs } => {
                let spread = match pairs {
                    1 => "1 pair".to_owned(),
                    _ => format!("95 %: {:+.4} to {:+.4}; {pairs} pairs", interval.low, interval.high),
                };
                self.say(&format!("gain of {metric}: {:+.4} ({spread})", interval.mean));
            }
            Event::Fvd { name, against, said, .. } => {
                let whose = if *against { " of --against" } else { "" };
                self.say(&format!("{name}{whose}  {said}"));
            }
            Event::Policy { metric, policy } => self.say(&format!("{metric} is by {policy}")),
            Event::Claim { says, verdict: None, .. } => self.say(&format!("not measured: {says}")),
            Event::Claim { says, metric, holds, verdict: Some(own) } => {
                let state = if *holds { "holds" } else { "does not hold" };
                let errors = own.errors().map_or_else(|| "no".to_owned(), |errors| format!("{errors:.1}"));
                self.say(&format!(
                    "{state}: {says}: {metric} {:.4} and {:.4}, by {:+.4} (95 %: {:+.4} to {:+.4}; {errors} standard \
                     errors)",
                    own.left, own.right, own.margin, own.interval[0], own.interval[1]
                ));
            }
            _ => {}
        }
    }

    /// What there is at the end.
    fn done(&mut self, event: &Event) {
        self.clear();
        match event {
            Event::Generated { paths, made, seconds, .. } => {
                let written = match paths.as_slice() {
                    _ if *made == 0 => return,
                    [one] => one.clone(),
                    [first, .., last] if *made == paths.len() => format!("{made} videos, {first} to {last},"),
                    all => format!("{made} of {} videos", all.len()),
                };
                self.say(&format!("wrote {written} in {seconds:.1} s"));
            }
            Event::Fitted { path, phrase, base } => self.say(&format!(
                "wrote {path}; use it with: understudy generate {} --adapter {} --prompt \"a {phrase} ...\" --out \
                 video.mp4",
                shell(base),
                shell(std::slice::from_ref(path))
            )),
            Event::Evaluated { path, seconds, .. } => {
                std::mem::take(&mut self.problems).iter().for_each(|problem| self.say(problem));
                self.say(&format!("wrote {path} in {seconds:.1} s"));
            }
            Event::Converted { path, unmatched, notes, .. } => {
                if !unmatched.is_empty() {
                    self.note(&format!("{} keys are left out: {}", unmatched.len(), unmatched.join(", ")));
                }
                notes.iter().for_each(|note| self.note(note));
                self.say(&format!("wrote {path}"));
            }
            Event::Pulled { path, repository, base } => self.say(&format!(
                "{repository} is in {path}; use it with: understudy generate --base {base} --prompt \"...\" --out \
                 video.mp4"
            )),
            Event::Shown { sheet, results, .. } => self.say(&format!("\n{results}\nlook at {sheet}")),
            _ => {}
        }
    }

    fn plan_of_fit(&self, plan: &Plan) {
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

    fn training(&mut self, stage: &str, event: &train::Event) {
        match event {
            train::Event::Plan { name, parameters, from, to } => {
                self.say(&format!("{name}: {parameters} parameters, steps {from} to {to}"));
            }
            train::Event::Note { message } => self.say(&format!("note: {message}")),
            train::Event::Prepare { what, done, total } => self.step(what, *done, *total, ""),
            train::Event::Step { step, total, loss, seconds, metrics, .. } => {
                let metrics: Vec<String> =
                    metrics.iter().map(|(name, value)| format!(" {name} {value:.3}")).collect();
                let left = match left(&self.stages, stage, total - step, (*seconds).into()) {
                    Some(left) => format!(", {} left in all", duration(left)),
                    None => String::new(),
                };
                let message = format!("loss {loss:.4}{} ({seconds:.2} s{left})", metrics.concat());
                self.step(stage, *step, *total, &message);
            }
            train::Event::Sample { path, .. } => self.say(&format!("samples: {}", path.display())),
            train::Event::Checkpoint { .. } => {}
            train::Event::Done { .. } => self.clear(),
        }
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
