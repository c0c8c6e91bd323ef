//! A fit from its folder's point of view: what is made once and kept, and stages that go on where they
//! stopped.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use burn::tensor::{Device, Tensor};
use understudy_engine::memory;
use understudy_engine::parameters::Parameters;
use understudy_engine::safetensors::{Checkpoint, Sealed};
use understudy_train::{Event, STATE, State, TrainError, train};

use super::data::{Input, TrainingSet};
use super::fingerprint::Fingerprint;
use super::judge::{Best, Judge};
use super::learners::{ResidualLearner, TokenLearner};
use super::objective::{Learner, Objective};
use super::prior::prior_samples;
use super::residuals::Residuals;
use super::row::RowStart;
use super::rows::Rows;
use super::samples::Shown;
use super::settings::{Learning, Stage};
use crate::adapter::{Adapter, Residual};
use crate::error::{Error, Result};
use crate::job::{FitEvent, Job, Plan};
use crate::metadata::{BaseName, Metadata};
use crate::subject::Subject;

/// A listener that can stop a run.
pub type Emit<'a> = &'a mut dyn FnMut(&FitEvent) -> ControlFlow<()>;

/// What comes before all stages.
const PREPARE: &str = "prepare";
/// The stage of the tokens.
pub(crate) const TOKEN: &str = "token";
/// The stage of the residuals.
pub(crate) const LORA: &str = "lora";

/// A fit that is under way.
pub struct Run<'a> {
    /// The method's name.
    pub method: &'static str,
    /// What is fitted.
    pub job: Job<'a>,
    /// How.
    pub learning: &'a Learning,
    /// Who evaluates the last stage, if somebody does.
    pub judge: Option<&'a dyn Judge>,
    /// The shift of noise levels.
    pub(super) shift: f64,
    /// Whether blocks are replayed.
    pub(super) replayed: bool,
    /// Where the rows of the subjects' tokens start.
    starts: Vec<RowStart>,
    fingerprint: Fingerprint<'a>,
}

/// What a stage left.
pub struct Learned {
    /// Its parameters.
    pub parameters: Parameters,
    /// The rows `(tokens, dim)` that it trained.
    pub rows: Tensor<2>,
    /// Its adapter: the best, where a judge chose one, or the last.
    pub adapter: Adapter,
}

/// A stage that is to be run.
pub struct Staged<'a> {
    /// Its name, and that of its folder.
    pub name: &'static str,
    /// Its settings.
    pub stage: &'a Stage,
    /// What tells its states from those of other runs.
    pub key: &'a str,
    /// Whether samples are made on the way.
    pub shown: bool,
    /// Whether it is the last, which a judge looks at.
    pub last: bool,
}

impl<'a> Run<'a> {
    /// Tells what is planned and begins in the job's folder.
    ///
    /// # Errors
    /// When the folder cannot be made, a class means nothing to the base, or `emit` asked to stop.
    pub fn begin(
        method: &'static str,
        job: &'a Job<'a>,
        (learning, planned): (&'a Learning, &Plan),
        judge: Option<&'a dyn Judge>,
        emit: Emit,
    ) -> Result<Self> {
        if emit(&FitEvent::Plan { event: "fit", plan: planned.clone() }).is_break() {
            return Err(Error::Stopped { stage: TOKEN, step: 0, total: learning.token.steps });
        }
        let fault = |error| Error::Io { action: "create", path: job.folder.to_owned(), error };
        std::fs::create_dir_all(job.folder).map_err(fault)?;
        let starts = job.subjects().map(|own| RowStart::of_class(job.base, &own.class, learning.token_norm));
        let starts = starts.collect::<Result<Vec<_>>>()?;
        Ok(Self {
            method,
            job: *job,
            learning,
            judge: judge.filter(|_| learning.samples.evaluate_every > 0),
            shift: learning.noise.shift.or(job.base.about.scheduler.shift()).unwrap_or(1.0),
            replayed: planned.replayed,
            fingerprint: Fingerprint::new(job, &starts)?,
            starts,
        })
    }

    /// What tells states and caches of this run from others: a hash of the base, the subjects, the settings
    /// and what `more` of them a method has.
    pub fn key(&self, more: &str) -> String {
        self.fingerprint.with(&format!("{} {:?} {more}", self.method, self.learning.learned()))
    }

    /// That the states of stages in the run's folder, if any, are of the run with these keys: found out
    /// before their caches are written over.
    ///
    /// # Errors
    /// When one is not.
    pub fn refuse_others(&self, keys: &[(&'static str, &str)]) -> Result<()> {
        for (stage, key) in keys {
            let folder = self.job.folder.join(stage);
            match State::owner(&folder)? {
                Some(found) if !found.ends_with(key) => {
                    return Err(TrainError::OtherRun { path: folder.join(STATE), found }.into());
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// Encodes `inputs` once, with a cache called `name` in the run's folder; `what` they are is told.
    ///
    /// # Errors
    /// When the training size does not fit the base, the cache cannot be written, or `emit` asked to stop.
    pub fn encode(
        &self,
        (name, what): (&str, &str),
        inputs: Vec<Input>,
        key: &str,
        emit: Emit,
    ) -> Result<TrainingSet> {
        let cache = self.cache(name, emit)?;
        let tell = &mut |done, total| prepared(what, (done, total), emit);
        let set = TrainingSet::encode(self.job.base, inputs, self.learning.background, (&cache, key), tell);
        // What the autoencoder computed with is no use to the steps.
        memory::release();
        set
    }

    /// The samples of the prior, made once, where the settings have a prior.
    ///
    /// # Errors
    /// When they cannot be made or written, or `emit` asked to stop.
    pub fn prior(&self, key: &str, emit: Emit) -> Result<TrainingSet> {
        if self.learning.prior.weight <= 0.0 {
            return Ok(TrainingSet::default());
        }
        let cache = self.cache("prior", emit)?;
        let tell = &mut |done, total| prepared("steps of prior samples", (done, total), emit);
        let set = prior_samples(&self.job, self.learning, (&cache, key), tell);
        memory::release();
        set
    }

    /// The file of a cache; a damaged one is told and removed, so that it is made again.
    fn cache(&self, name: &str, emit: Emit) -> Result<PathBuf> {
        let path = self.job.folder.join(format!("{name}.safetensors"));
        if let Sealed::Damaged | Sealed::Unsealed(_) = Checkpoint::open_sealed(&path, &Device::flex())? {
            let fault = |error| Error::Io { action: "remove", path: path.clone(), error };
            std::fs::remove_file(&path).map_err(fault)?;
            note(PREPARE, format!("{} is damaged; it is made again", path.display()), emit);
        }
        Ok(path)
    }

    /// The rows of the subjects' tokens from where they start, trained at `rate`.
    pub fn rows(&self, starts: &[RowStart], rate: f32) -> Rows {
        let tokens = self.job.subjects().map(|subject| subject.token.clone());
        Rows { trained: tokens.zip(starts.iter().cloned()).collect(), fixed: None, rate }
    }

    /// Where the rows of the subjects' tokens start: at their class nouns.
    pub fn starts(&self) -> &[RowStart] {
        &self.starts
    }

    /// The token stage: Textual Inversion (Gal et al., 2023). Where the rows are after it.
    ///
    /// # Errors
    /// When training diverges, or `emit` asked to stop.
    pub fn learn_tokens(&self, samples: &TrainingSet, key: &str, emit: Emit) -> Result<Vec<RowStart>> {
        if self.learning.token.steps == 0 {
            return Ok(self.starts.clone());
        }
        let learner = TokenLearner { run: self, samples };
        let staged = Staged { name: TOKEN, stage: &self.learning.token, key, shown: false, last: false };
        let learned = self.learn(staged, learner, self.rows(&self.starts, 1.0), emit)?;
        let at = |(index, start): (usize, &RowStart)| {
            start.at(learned.rows.clone().narrow(0, index, 1).reshape([-1]))
        };
        Ok(self.starts.iter().enumerate().map(at).collect())
    }

    /// The stage of the residuals (Hu et al., "LoRA", 2022), and of the rows along with them.
    ///
    /// # Errors
    /// When training diverges, or `emit` asked to stop.
    pub fn learn_residuals(
        &self,
        residuals: &Residuals,
        (samples, prior): (&TrainingSet, &TrainingSet),
        starts: &[RowStart],
        (key, last): (&str, bool),
        emit: Emit,
    ) -> Result<Learned> {
        let learner = ResidualLearner { run: self, residuals, samples, prior };
        let staged = Staged { name: LORA, stage: &self.learning.lora, key, shown: true, last };
        self.learn(staged, learner, self.rows(starts, self.learning.token_rate), emit)
    }

    /// Runs a stage, from the state in its folder if there is one.
    ///
    /// # Errors
    /// When a state is of another run, training diverges, or `emit` asked to stop.
    pub fn learn<L: Learner>(&self, staged: Staged, learner: L, rows: Rows, emit: Emit) -> Result<Learned> {
        let Staged { name, stage, key, shown, last } = staged;
        let judge = self.judge.filter(|_| last);
        let samples = &self.learning.samples;
        let every = match (shown, samples.every, samples.evaluate_every) {
            (false, ..) => 0,
            (_, 0, other) | (_, other, 0) => other,
            (_, shown, judged) => greatest_common_divisor(shown, judged),
        };
        let training = stage.training(every, self.learning.bf16_products);
        let folder = self.job.folder.join(name);
        if judge.is_some() {
            tell_damaged_best(&folder, name, emit)?;
        }
        let mut prompts: BTreeSet<&str> = learner.prior().map(TrainingSet::prompts).unwrap_or_default();
        if !rows.are_trained() {
            prompts.extend(learner.sets().into_iter().flat_map(TrainingSet::prompts));
        }
        let prompts = prompts.into_iter().map(str::to_owned).collect();
        let shown = shown.then(|| Shown::new(self, judge));
        let objective = Objective::new(self, learner, (stage, key), rows, shown, prompts)?;
        let mut tell = |event: &Event| emit(&FitEvent::Stage { stage: name, event: event.clone() });
        let state = train(&objective, &training, &folder, &self.job.base.device, &mut tell)?;
        if state.step < stage.steps {
            return Err(Error::Stopped { stage: name, step: state.step, total: stage.steps });
        }
        let best = match judge {
            Some(_) => Best::new(&folder).adapter(self.job.base)?,
            None => None,
        };
        Ok(Learned {
            rows: objective.rows.under(&state.ema),
            adapter: best.unwrap_or_else(|| objective.adapter(&state.ema)),
            parameters: state.ema,
        })
    }

    /// An adapter of these residuals, and of the rows of the subjects' tokens and, after them, of `further`
    /// ones.
    pub fn adapter(
        &self,
        residuals: BTreeMap<String, Residual>,
        rows: Tensor<2>,
        further: &[String],
    ) -> Adapter {
        let Job { base, base_name, subject, others, .. } = self.job;
        let tokens = self.job.subjects().map(|own| own.token.clone()).chain(further.iter().cloned());
        let metadata = Metadata {
            base: Some(BaseName { identity: base.about.identity.clone(), name: base_name.to_owned() }),
            subject: Some(subject.name()),
            others: others.iter().map(Subject::name).collect(),
            tokens: tokens.collect(),
            window: self.learning.window,
            base_size: Some(self.learning.size),
            ..Metadata::new(self.method, &residuals)
        };
        let naming = Some(base.about.naming);
        Adapter { metadata, residuals, token_rows: Some(rows), naming, ..Adapter::default() }
    }
}

/// Tells that `done` of so many of `what` is made before the stages.
fn prepared(what: &str, (done, total): (u64, u64), emit: Emit) -> ControlFlow<()> {
    let event = Event::Prepare { what: what.to_owned(), done, total };
    emit(&FitEvent::Stage { stage: PREPARE, event })
}

/// Says so when what was kept of the best adapter of a stage is damaged, and has the stage's steps taken
/// again: they alone lead to it.
///
/// # Errors
/// When the stage's folder cannot be read or removed.
fn tell_damaged_best(folder: &Path, stage: &'static str, emit: Emit) -> Result<()> {
    let best = Best::new(folder);
    if let Some(path) = best.damaged()? {
        let message = format!("{} is damaged; the steps of {stage} are taken again", path.display());
        let fault = |error| Error::Io { action: "remove", path: folder.to_owned(), error };
        std::fs::remove_dir_all(folder).map_err(fault)?;
        note(stage, message, emit);
    }
    Ok(())
}

/// What is said stops nothing; the next step is heard again.
fn note(stage: &'static str, message: String, emit: Emit) {
    let _ = emit(&FitEvent::Stage { stage, event: Event::Note { message } });
}

fn greatest_common_divisor(a: u64, b: u64) -> u64 {
    if b == 0 { a } else { greatest_common_divisor(b, a % b) }
}
