//! The method `lora`: Textual Inversion of a token, then low-rank residuals, by flow matching.
//!
//! Both stages minimize the same loss. The first moves only the token's row, starting from the class noun's; the
//! second trains the residuals, and the row on at its own rate. See [`fit`] for the whole recipe.

mod objective;

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::path::Path;

use burn::tensor::{Device, Tensor, TensorData};
use understudy_engine::attach::{Attachments, LowRank, Window};
use understudy_engine::host::values;
use understudy_engine::parameters::{Leaves, Parameters};
use understudy_engine::random::Random;
use understudy_models::wan_transformer::WanTransformerConfig;
use understudy_pipeline::TokenEmbeddings;
use understudy_train::{Event, STATE, State, TrainError, train};

use crate::adapter::{Adapter, Residual};
use crate::config::{LoraConfig, Stage};
use crate::data::TrainingSet;
use crate::error::{Error, Result};
use crate::fingerprint::Fingerprint;
use crate::job::{FitEvent, Job};
use crate::metadata::{BaseName, Metadata, SubjectName};
use crate::plan::{plan, use_checkpointing};
use crate::prior::prior_samples;
use crate::row::RowStart;
use crate::sites::PATCHES;
use objective::{Objective, Trained};

/// The name of the token's offset among the parameters, and of the stage that trains it.
const TOKEN: &str = "token";
/// The stage of the residuals.
const LORA: &str = "lora";

/// A listener that can stop a run.
pub type Emit<'a> = &'a mut dyn FnMut(&FitEvent) -> ControlFlow<()>;

/// The residuals of a rank on some sites, as trainable parameters.
#[derive(Clone, Debug)]
pub struct Residuals {
    /// Sites with their shapes `[outputs, inputs]`.
    pub sites: BTreeMap<String, [usize; 2]>,
    /// Rank of every residual.
    pub rank: usize,
    /// Their scale, times the rank.
    pub alpha: f32,
    /// When they are active.
    pub window: Window,
    /// Frames, rows and columns of the denoiser's patches, which are the kernel of the patch embedding.
    pub patch: [usize; 3],
}

impl Residuals {
    /// Those `config` asks for.
    ///
    /// # Errors
    /// When a target is no site of the denoiser.
    pub fn new(config: &LoraConfig, transformer: &WanTransformerConfig) -> Result<Self> {
        let LoraConfig { rank, alpha, window, ref targets, .. } = *config;
        Ok(Self { sites: targets.resolve(transformer)?, rank, alpha, window, patch: transformer.patch_size })
    }

    /// The names of the halves of the residual at `site` among the parameters: A and B.
    pub fn names(site: &str) -> [String; 2] {
        [format!("{site}.lora_A"), format!("{site}.lora_B")]
    }

    /// Parameters to start from: A normal with variance `1 / inputs`, a function of `seed`; B zero.
    pub fn initialize(&self, seed: u64, device: &Device) -> Parameters {
        let mut parameters = Parameters::new();
        for (site, [outputs, inputs]) in &self.sites {
            let [down, up] = Self::names(site);
            let deviation = (*inputs as f32).powf(-0.5);
            let mut values = Random::stream(seed, &down, 0).normals(self.rank * inputs);
            values.iter_mut().for_each(|value| *value *= deviation);
            parameters.insert(down, &[self.rank, *inputs], values, device);
            parameters.insert(up, &[*outputs, self.rank], vec![0.0; outputs * self.rank], device);
        }
        parameters
    }

    /// Everything attached, as tracked views of `leaves`, so that gradients reach them.
    pub fn attach(&self, leaves: &Leaves) -> Attachments {
        let mut attachments = Attachments::none();
        for (site, [outputs, inputs]) in &self.sites {
            let [down, up] = Self::names(site);
            let halves =
                (leaves.tensor(&down, [self.rank, *inputs]), leaves.tensor(&up, [*outputs, self.rank]));
            if let (Some(down), Some(up)) = halves {
                let scale = self.alpha / self.rank as f32;
                attachments.add_low_rank(site, LowRank { down, up, scale, window: self.window });
            }
        }
        attachments
    }

    /// The residuals as an adapter has them.
    pub fn finished(&self, parameters: &Parameters) -> BTreeMap<String, Residual> {
        let half = |name: &str, shape: [usize; 2]| Some(parameters.get(name)?.value.clone().reshape(shape));
        let residual = |(site, [outputs, inputs]): (&String, &[usize; 2])| {
            let [down, up] = Self::names(site);
            let (down, up) = (half(&down, [self.rank, *inputs])?, half(&up, [*outputs, self.rank])?);
            let kernel = (site == PATCHES).then_some(self.patch);
            Some((site.clone(), Residual { down, up, alpha: self.alpha, kernel }))
        };
        self.sites.iter().filter_map(residual).collect()
    }
}

/// What both stages share.
pub(crate) struct Setup<'a> {
    pub(crate) job: Job<'a>,
    pub(crate) config: &'a LoraConfig,
    pub(crate) samples: TrainingSet,
    pub(crate) prior: TrainingSet,
    pub(crate) shift: f64,
    pub(crate) checkpointing: bool,
    /// Tells runs apart; a state of another one is refused.
    pub(crate) key: String,
}

impl Setup<'_> {
    /// The token with its row.
    pub(crate) fn embeddings(&self, row: Tensor<2>) -> TokenEmbeddings {
        TokenEmbeddings { tokens: vec![self.job.subject.token.clone()], rows: row }
    }

    pub(crate) fn adapter(&self, residuals: BTreeMap<String, Residual>, row: Tensor<2>) -> Adapter {
        let Job { base, base_name, subject, .. } = self.job;
        let metadata = Metadata {
            base: Some(BaseName { identity: base.identity.clone(), name: base_name.to_owned() }),
            subject: Some(SubjectName { class: subject.class.clone(), token: subject.token.clone() }),
            tokens: vec![subject.token.clone()],
            window: self.config.window,
            base_size: Some(self.config.size),
            ..Metadata::new("lora", &residuals)
        };
        Adapter { metadata, residuals, differences: BTreeMap::new(), token_rows: Some(row) }
    }
}

/// Fits a subject to a base.
///
/// 1. Check everything and tell the plan.
/// 2. Encode the pictures once for each version of them; make the prior's samples if it is on.
/// 3. Train the token's row.
/// 4. Train the residuals, and the row along with them.
///
/// A run that was stopped in any way goes on from its last checkpoint when it is started again with the same
/// job and settings, and ends with the same numbers as one that was not.
///
/// # Errors
/// When a setting, the subject or the base does not fit, before anything heavy starts; when the folder cannot be
/// written or belongs to another run; when training diverges; and [`Error::Stopped`] when `emit` asked to stop.
pub fn fit(job: &Job, config: &LoraConfig, emit: Emit) -> Result<Adapter> {
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
    let start = RowStart::of_class(job.base, &job.subject.class, config.token_norm)?;
    let key = Fingerprint::new(job, config, &start)?.finish();
    refuse_other_runs(job.folder, &key)?;
    let setup = prepare(job, config, key, use_checkpointing(config, planned.tokens), emit)?;

    let row = match config.token.steps {
        0 => start.row.clone(),
        _ => {
            let objective = Objective::new(&setup, Trained::Token(start.clone()))?;
            let state = stage(&setup, &objective, &config.token, TOKEN, emit)?;
            objective.row(&state.ema).reshape([-1])
        }
    };
    let objective = Objective::new(&setup, Trained::Residuals(residuals, start.at(row)))?;
    let state = stage(&setup, &objective, &config.lora, LORA, emit)?;
    Ok(objective.adapter(&state.ema))
}

/// That the states in `folder`, if any, are of the run `key`: found out before their caches are written over.
fn refuse_other_runs(folder: &Path, key: &str) -> Result<()> {
    for stage in [TOKEN, LORA] {
        let path = folder.join(stage).join(STATE);
        match State::owner(&path)? {
            Some(found) if !found.ends_with(key) => return Err(TrainError::OtherRun { path, found }.into()),
            _ => {}
        }
    }
    Ok(())
}

/// Everything that is made once, each with its cache in the run's folder.
fn prepare<'a>(
    job: &Job<'a>,
    config: &'a LoraConfig,
    key: String,
    checkpointing: bool,
    emit: Emit,
) -> Result<Setup<'a>> {
    let mut tell = |what: &str, done, total| {
        let event = Event::Prepare { what: what.to_owned(), done, total };
        emit(&FitEvent::Stage { stage: "prepare", event })
    };
    let cache = job.folder.join("latents.safetensors");
    let encoded = &mut |done, total| tell("pictures encoded", done, total);
    let samples = TrainingSet::encode(job.base, job.subject, config, (&cache, &key), encoded)?;
    let prior = match config.prior.weight > 0.0 {
        true => {
            let cache = job.folder.join("prior.safetensors");
            prior_samples(job, config, (&cache, &key), &mut |done, total| {
                tell("steps of prior samples", done, total)
            })?
        }
        false => TrainingSet::default(),
    };
    let shift = config.noise.shift.unwrap_or(job.base.config.scheduler.shift);
    Ok(Setup { job: *job, config, samples, prior, shift, checkpointing, key })
}

/// One stage, in a folder of its own.
fn stage(
    setup: &Setup,
    objective: &Objective,
    stage: &Stage,
    name: &'static str,
    emit: Emit,
) -> Result<State> {
    let every = if name == LORA { setup.config.samples.every } else { 0 };
    let training = stage.training(every, setup.config.bf16_products);
    let folder = setup.job.folder.join(name);
    let mut tell = |event: &Event| emit(&FitEvent::Stage { stage: name, event: event.clone() });
    let state = train(objective, &training, &folder, &setup.job.base.device, &mut tell)?;
    match state.step < stage.steps {
        true => Err(Error::Stopped { stage: name, step: state.step, total: stage.steps }),
        false => Ok(state),
    }
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
