//! The method `lora`: Textual Inversion of a token, then low-rank residuals, by flow matching. And Set-and-Sequence,
//! which is that with a third stage.
//!
//! All stages minimize the same loss. The first moves only the token's row, starting from the class noun's; the
//! second trains the residuals, and the row on at its own rate. The third leaves them as they are and trains what is
//! added to their coefficients for motion, with a token of its own. See [`fit`] for the whole recipe.

mod objective;
mod residuals;

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::path::Path;

use burn::tensor::{Device, Tensor, TensorData};
use understudy_engine::host::values;
use understudy_engine::memory;
use understudy_engine::safetensors::{Checkpoint, Sealed};
use understudy_train::{Event, STATE, State, TrainError, train};

use crate::adapter::{Adapter, Residual};
use crate::config::{LoraConfig, Stage};
use crate::data::{TrainingSet, inputs, moving_inputs, references, stitched_inputs};
use crate::error::{Error, Result};
use crate::fingerprint::Fingerprint;
use crate::job::{FitEvent, Job};
use crate::judge::{Best, Judge};
use crate::metadata::{BaseName, Metadata, MotionName};
use crate::plan::{plan, use_checkpointing};
use crate::prior::prior_samples;
use crate::row::RowStart;
use crate::subject::Subject;
use objective::{Objective, Still, Trained};

pub use residuals::Residuals;

/// The name of the token's offset among the parameters, and of the stage that trains it.
const TOKEN: &str = "token";
/// What comes before all stages.
const PREPARE: &str = "prepare";
/// The stage of the residuals.
const LORA: &str = "lora";
/// The stage of the motion.
const MOTION: &str = "motion";

/// A listener that can stop a run.
pub type Emit<'a> = &'a mut dyn FnMut(&FitEvent) -> ControlFlow<()>;

/// What the stages share.
pub(crate) struct Setup<'a> {
    pub(crate) job: Job<'a>,
    pub(crate) config: &'a LoraConfig,
    /// What the token and the residuals learn from.
    pub(crate) samples: TrainingSet,
    /// What the motion is learned from.
    pub(crate) clips: TrainingSet,
    /// Clips of two subjects side by side.
    pub(crate) stitched: TrainingSet,
    pub(crate) prior: TrainingSet,
    /// The prior's first frames, which go with the frames of a clip.
    pub(crate) still_prior: TrainingSet,
    pub(crate) shift: f64,
    pub(crate) checkpointing: bool,
    pub(crate) keys: Keys,
    /// Who evaluates the last stage.
    pub(crate) judge: Option<&'a dyn Judge>,
}

/// What tells runs apart; a state of another one is refused.
#[derive(Clone, Debug)]
pub(crate) struct Keys {
    /// Of all that the looks are learned from: other settings of the motion leave them as they are.
    looks: String,
    /// Of everything.
    whole: String,
}

impl Keys {
    /// That of the states of `stage`.
    fn of(&self, stage: &str) -> &str {
        if stage == MOTION { &self.whole } else { &self.looks }
    }
}

impl Setup<'_> {
    /// The best adapter of a stage, where one was kept.
    fn best(&self, stage: &str) -> Result<Option<Adapter>> {
        match self.judge {
            Some(_) => Best::new(&self.job.folder.join(stage)).adapter(self.job.base),
            None => Ok(None),
        }
    }

    /// An adapter of these residuals, with the rows of the subject's token and, after it, of the motion's.
    pub(crate) fn adapter(
        &self,
        residuals: BTreeMap<String, Residual>,
        rows: Tensor<2>,
        motion: BTreeMap<String, Tensor<2>>,
    ) -> Adapter {
        let Job { base, base_name, subject, others, .. } = self.job;
        let subjects: Vec<String> = self.job.subjects().map(|own| own.token.clone()).collect();
        let named = self.config.motion.as_ref().filter(|_| rows.dims()[0] > subjects.len());
        let motions = (0..subjects.len()).filter_map(|index| Some(named?.token_of(index)));
        let tokens = subjects.iter().cloned().chain(motions).collect();
        let method = self.config.method();
        let metadata = Metadata {
            base: Some(BaseName { identity: base.identity.clone(), name: base_name.to_owned() }),
            subject: Some(subject.name()),
            others: others.iter().map(Subject::name).collect(),
            tokens,
            window: self.config.window,
            base_size: Some(self.config.size),
            motion: named.map(|own| MotionName { token: own.token.clone(), basis: self.config.basis }),
            ..Metadata::new(method, &residuals)
        };
        let (references, changes, differences) = (Vec::new(), BTreeMap::new(), BTreeMap::new());
        Adapter { metadata, residuals, motion, references, changes, differences, token_rows: Some(rows) }
    }
}

/// Fits a subject to a base.
///
/// 1. Check everything and tell the plan.
/// 2. Encode the pictures once for each version of them; make the prior's samples if it is on.
/// 3. Train the token's row.
/// 4. Train the residuals, and the row along with them.
/// 5. With [`LoraConfig::motion`], train the motion's coefficients and its token's row on the clips.
///
/// A run that was stopped in any way goes on from its last checkpoint when it is started again with the same
/// job and settings, and ends with the same numbers as one that was not.
///
/// # Errors
/// When a setting, the subject or the base does not fit, before anything heavy starts; when the folder cannot be
/// written or belongs to another run; when training diverges; and [`Error::Stopped`] when `emit` asked to stop.
pub fn fit(job: &Job, config: &LoraConfig, emit: Emit) -> Result<Adapter> {
    fit_judged(job, config, None, emit)
}

/// The same with a judge, who evaluates the adapter every [`Samples::evaluate_every`](crate::Samples) steps of the last
/// stage; the best is what comes out. See [`Evaluation::new`](crate::Evaluation::new) for what the best is.
///
/// # Errors
/// As [`fit`], and when the judge cannot tell.
pub fn fit_judged(job: &Job, config: &LoraConfig, judge: Option<&dyn Judge>, emit: Emit) -> Result<Adapter> {
    let planned = plan(job, config)?;
    let residuals = Residuals::new(config, &job.base.config.transformer)?;
    if emit(&FitEvent::Plan { event: "fit", plan: planned.clone() }).is_break() {
        return Err(Error::Stopped { stage: TOKEN, step: 0, total: config.token.steps });
    }
    std::fs::create_dir_all(job.folder).map_err(|error| Error::Io {
        action: "create",
        path: job.folder.to_owned(),
        error,
    })?;
    let starts = job.subjects().map(|own| RowStart::of_class(job.base, &own.class, config.token_norm));
    let starts = starts.collect::<Result<Vec<_>>>()?;
    let fingerprint = Fingerprint::new(job, &starts)?;
    let keys = Keys { looks: fingerprint.with(&config.looks()), whole: fingerprint.with(config) };
    refuse_other_runs(job.folder, &keys)?;
    let setup = prepare(job, config, keys, use_checkpointing(config, planned.tokens), emit)?;
    let setup = Setup { judge: judge.filter(|_| config.samples.evaluate_every > 0), ..setup };

    let looks = match config.token.steps {
        0 => starts.clone(),
        _ => {
            let objective = Objective::new(&setup, Trained::Token(starts.clone()))?;
            let state = stage(&setup, &objective, &config.token, TOKEN, emit)?;
            let rows = objective.row(&state.ema);
            let at =
                |(index, start): (usize, &RowStart)| start.at(rows.clone().narrow(0, index, 1).reshape([-1]));
            starts.iter().enumerate().map(at).collect()
        }
    };
    let objective = Objective::new(&setup, Trained::Residuals(residuals.clone(), looks))?;
    let state = stage(&setup, &objective, &config.lora, LORA, emit)?;
    let Some(motion) = &config.motion else {
        let references = if config.references { references(job, config)? } else { Vec::new() };
        let best = setup.best(LORA)?.unwrap_or_else(|| objective.adapter(&state.ema));
        return Ok(Adapter { references, ..best });
    };
    let rows = objective.row(&state.ema);
    let still = Box::new(Still { residuals, parameters: state.ema, rows });
    let objective = Objective::new(&setup, Trained::Motion(still, starts))?;
    let state = stage(&setup, &objective, &motion.stage, MOTION, emit)?;
    Ok(setup.best(MOTION)?.unwrap_or_else(|| objective.adapter(&state.ema)))
}

/// That the states in `folder`, if any, are of the run `keys` are of: found out before their caches are written over.
fn refuse_other_runs(folder: &Path, keys: &Keys) -> Result<()> {
    for stage in [TOKEN, LORA, MOTION] {
        let folder = folder.join(stage);
        match State::owner(&folder)? {
            Some(found) if !found.ends_with(keys.of(stage)) => {
                return Err(TrainError::OtherRun { path: folder.join(STATE), found }.into());
            }
            _ => {}
        }
    }
    Ok(())
}

/// Everything that is made once, each with its cache in the run's folder.
fn prepare<'a>(
    job: &Job<'a>,
    config: &'a LoraConfig,
    keys: Keys,
    checkpointing: bool,
    emit: Emit,
) -> Result<Setup<'a>> {
    let [latents, moving, stitched, prior] =
        ["latents", "clips", "stitched", "prior"].map(|name| job.folder.join(format!("{name}.safetensors")));
    for cache in [&latents, &moving, &stitched, &prior] {
        tell_damage(cache, emit)?;
    }
    let mut tell = |what: &str, done, total| {
        let event = Event::Prepare { what: what.to_owned(), done, total };
        emit(&FitEvent::Stage { stage: PREPARE, event })
    };
    let encoded = &mut |done, total| tell("pictures encoded", done, total);
    let inputs = job.subjects().map(|own| inputs(job.base, own, config)).collect::<Result<Vec<_>>>()?;
    let inputs = inputs.into_iter().flatten().collect();
    let samples = TrainingSet::encode(job.base, inputs, config, (&latents, &keys.looks), encoded)?;
    let clips = match &config.motion {
        Some(motion) => {
            let encoded = &mut |done, total| tell("clips encoded", done, total);
            let inputs = moving_inputs(job, motion)?;
            TrainingSet::encode(job.base, inputs, config, (&moving, &keys.whole), encoded)?
        }
        None => TrainingSet::default(),
    };
    let stitched = match &config.motion {
        Some(motion) if motion.stitched > 0.0 => {
            let encoded = &mut |done, total| tell("stitched clips encoded", done, total);
            let inputs = stitched_inputs(job, config, motion)?;
            TrainingSet::encode(job.base, inputs, config, (&stitched, &keys.whole), encoded)?
        }
        _ => TrainingSet::default(),
    };
    let prior = match config.prior.weight > 0.0 {
        true => prior_samples(job, config, (&prior, &keys.looks), &mut |done, total| {
            tell("steps of prior samples", done, total)
        })?,
        false => TrainingSet::default(),
    };
    let shift = config.noise.shift.unwrap_or(job.base.config.scheduler.shift);
    let still_prior = prior.first_frames();
    // What the autoencoder computed with is no use to the steps.
    memory::release();
    Ok(Setup {
        job: *job,
        config,
        samples,
        clips,
        stitched,
        prior,
        still_prior,
        shift,
        checkpointing,
        keys,
        judge: None,
    })
}

/// Says so when the file at `path` is damaged, and removes it: it is made again.
///
/// # Errors
/// When it cannot be read or removed.
fn tell_damage(path: &Path, emit: Emit) -> Result<()> {
    if let Sealed::Damaged | Sealed::Unsealed(_) = Checkpoint::open_sealed(path, &Device::flex())? {
        let fault = |error| Error::Io { action: "remove", path: path.to_owned(), error };
        std::fs::remove_file(path).map_err(fault)?;
        note(PREPARE, format!("{} is damaged; it is made again", path.display()), emit);
    }
    Ok(())
}

/// Says so when what was kept of the best adapter of a stage is damaged, and has the stage's steps taken again: they alone
/// lead to it.
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

/// One stage, in a folder of its own.
fn stage(
    setup: &Setup,
    objective: &Objective,
    stage: &Stage,
    name: &'static str,
    emit: Emit,
) -> Result<State> {
    let samples = &setup.config.samples;
    let every = match (name, samples.every, samples.evaluate_every) {
        (TOKEN, ..) => 0,
        (_, 0, other) | (_, other, 0) => other,
        (_, shown, judged) => greatest_common_divisor(shown, judged),
    };
    let training = stage.training(every, setup.config.bf16_products);
    let folder = setup.job.folder.join(name);
    if setup.judge.is_some() {
        tell_damaged_best(&folder, name, emit)?;
    }
    let mut tell = |event: &Event| emit(&FitEvent::Stage { stage: name, event: event.clone() });
    let state = train(objective, &training, &folder, &setup.job.base.device, &mut tell)?;
    match state.step < stage.steps {
        true => Err(Error::Stopped { stage: name, step: state.step, total: stage.steps }),
        false => Ok(state),
    }
}

fn greatest_common_divisor(a: u64, b: u64) -> u64 {
    if b == 0 { a } else { greatest_common_divisor(b, a % b) }
}

/// Writes the frames of `videos (prompts, 3, frames, height, width)` in [0, 1], one prompt a row.
fn write_sheet(videos: Tensor<5>, prompts: &[String], path: &Path) -> Result<()> {
    use understudy_media::{ContactSheet, Range, SheetRow, Video, WriteOptions};
    const SHOWN: usize = 5;
    let [count, channels, frames, height, width] = videos.dims();
    let values = values(videos);
    let length = channels * frames * height * width;
    let mut rows = Vec::new();
    for (index, prompt) in prompts.iter().enumerate().take(count) {
        let planar = &values[index * length..][..length];
        let video = Video::from_planar(planar, [frames, height, width], 8.0, Range::Unit)?;
        rows.push(SheetRow::new("").cell((&video, SHOWN.min(frames))).caption(prompt.clone()));
    }
    let scale = (256 / width.max(1)).max(1);
    let sheet = ContactSheet { rows, scale, ..ContactSheet::default() };
    Ok(Video::new(vec![sheet.render()?], 1.0)?.write(path, &WriteOptions::default())?)
}

/// A tensor of the CPU's numbers.
pub(crate) fn vector(values: Vec<f32>, device: &Device) -> Tensor<1> {
    let count = values.len();
    Tensor::from_data(TensorData::new(values, [count]), device)
}
