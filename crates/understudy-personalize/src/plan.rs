//! What the method `lora` is going to cost, before it starts.

use understudy_pipeline::cost::{
    OVERHEAD, block_numbers, denoiser_work, products_per_second, text_weights, weight_bytes,
};
use understudy_pipeline::{Base, latent_shape};

use crate::clips::check_clips;
use crate::config::{LoraConfig, Stage};
use crate::error::{Error, Result};
use crate::job::{Job, NotUsed, Plan, PlannedStage};
use crate::prompts::{neutral_prompts, personal_caption};

/// From this many tokens in a batch on, blocks are replayed in the backward pass unless it is set.
const CHECKPOINTED_TOKENS: usize = 8192;

/// Checks everything that can be checked cheaply, and estimates memory and time.
///
/// # Errors
/// When a setting is out of range, a size does not fit the base, or a prompt is too long.
pub fn plan(job: &Job, config: &LoraConfig) -> Result<Plan> {
    config.check()?;
    let Job { base, subject, .. } = job;
    if subject.size != config.size {
        let reason = format!(
            "is {:?}, but the subject was read for {:?}; give both the same",
            config.size, subject.size
        );
        return Err(Error::config("size", reason));
    }
    if subject.pictures.is_empty() && subject.clips.is_empty() {
        return Err(Error::Subject {
            field: "subject",
            reason: "has no picture and no clip; give at least one".into(),
        });
    }
    if config.motion.is_some() {
        check_clips(&subject.clips)?;
    }
    check_prompts(job, config)?;
    let size = Sizes::of(job, config)?;
    let targets = config.targets.resolve(&base.config.transformer)?;
    let residuals: usize = targets.values().map(|[outputs, inputs]| config.rank * (outputs + inputs)).sum();
    let parameters = residuals + base.config.text_encoder.d_model;
    let checkpointing = use_checkpointing(config, size.longest);
    let rate = products_per_second(&base.config.transformer, &base.device);
    let stage = |name, stage: &Stage, prior: usize| {
        let replayed = if checkpointing { 3.0 } else { 2.0 };
        let denoiser =
            replayed * denoiser_work(&base.config.transformer, stage.batch * size.mean + prior, size.longest);
        let work = denoiser + text_work(base) * stage.batch as f64;
        PlannedStage { name, steps: stage.steps, step_seconds: (work / rate * OVERHEAD) as f32 }
    };
    let prior = if config.prior.weight > 0.0 { config.prior.batch * size.prior } else { 0 };
    let mut stages = vec![stage("token", &config.token, 0), stage("lora", &config.lora, prior)];
    stages.extend(config.motion.as_ref().map(|motion| stage("motion", &motion.stage, prior)));
    let generating = (generation_work(base, config, &size) / rate * OVERHEAD) as f32;
    let training: f32 = stages.iter().map(|stage| stage.steps as f32 * stage.step_seconds).sum();
    let left_out =
        subject.left_out.iter().map(|l| NotUsed { path: l.path.clone(), reason: l.reason.clone() });
    Ok(Plan {
        method: if config.motion.is_some() { "set-and-sequence" } else { "lora" },
        pictures: subject.pictures.len(),
        clips: subject.clips.len(),
        left_out: left_out.collect(),
        sites: targets.len(),
        parameters,
        tokens: size.longest,
        checkpointing,
        memory: memory(base, parameters, (config.lora.batch * size.subject).max(prior), checkpointing),
        seconds: training + generating,
        stages,
    })
}

/// Whether blocks are replayed, for samples of `tokens`.
pub(crate) fn use_checkpointing(config: &LoraConfig, tokens: usize) -> bool {
    config.checkpointing.unwrap_or(config.lora.batch * tokens >= CHECKPOINTED_TOKENS)
}

/// Video tokens of one sample of each kind.
struct Sizes {
    /// Of the subject's longest.
    subject: usize,
    /// Of the subject's mean.
    mean: usize,
    /// Of the prior's.
    prior: usize,
    /// Of one that is shown during training.
    shown: usize,
    /// The longest that is trained on.
    longest: usize,
}

impl Sizes {
    fn of(job: &Job, config: &LoraConfig) -> Result<Self> {
        let count = |frames| token_count(job.base, config.size, frames);
        let frames = match &config.motion {
            Some(_) => job.subject.clips.iter().map(|clip| clip.frames.len()).sum(),
            None => 0,
        };
        let pictures = job.subject.pictures.len() + frames;
        let augmentation = &config.augmentation;
        let mut kinds = vec![(pictures * augmentation.versions, 1)];
        kinds.push((pictures * augmentation.held, augmentation.held_frames));
        kinds.extend(job.subject.clips.iter().map(|clip| (1, clip.frames.len())));
        let (mut samples, mut tokens, mut subject) = (0, 0, 0);
        for (number, frames) in kinds.into_iter().filter(|(number, _)| *number > 0) {
            let each = count(frames)?;
            samples += number;
            tokens += number * each;
            subject = subject.max(each);
        }
        let prior = if config.prior.weight > 0.0 { count(config.prior.frames)? } else { 0 };
        let shown = if config.samples.every > 0 { count(config.samples.frames)? } else { 0 };
        let mean = tokens.checked_div(samples).unwrap_or(0);
        Ok(Self { subject, mean, prior, shown, longest: subject.max(prior) })
    }
}

/// Video tokens of a sample of `frames`.
fn token_count(base: &Base, [height, width]: [usize; 2], frames: usize) -> Result<usize> {
    let [_, frames, rows, columns] = latent_shape(&base.config, [frames, height, width])?;
    let places = frames * rows * columns;
    Ok(places / base.config.transformer.patch_size.iter().product::<usize>())
}

/// That every prompt fits the text encoder.
fn check_prompts(job: &Job, config: &LoraConfig) -> Result<()> {
    let Job { base, subject, .. } = job;
    let phrase = subject.phrase();
    let mut prompts = neutral_prompts(&base.tokenizer, &phrase);
    let captions = subject.pictures.iter().filter_map(|picture| picture.caption.as_deref());
    prompts.extend(captions.map(|caption| personal_caption(caption, &subject.class, &phrase)));
    if config.samples.every > 0 {
        prompts.extend(config.samples.prompts.iter().map(|prompt| prompt.replace("{}", &phrase)));
    }
    let mut tokens = vec![subject.token.clone()];
    if let Some(motion) = &config.motion {
        if motion.token == subject.token {
            let reason = format!("is {:?}, which stands for the subject; choose another word", motion.token);
            return Err(Error::config("motion.token", reason));
        }
        prompts.extend(neutral_prompts(&base.tokenizer, &format!("{phrase} {}", motion.token)));
        tokens.push(motion.token.clone());
    }
    let prompts: Vec<&str> = prompts.iter().map(String::as_str).collect();
    let tokenizer = base.tokenizer.with_added(&tokens)?;
    tokenizer.encode(&prompts, base.config.max_sequence_length)?;
    Ok(())
}

/// Multiplications of all videos that are generated on the way, with guidance.
fn generation_work(base: &Base, config: &LoraConfig, size: &Sizes) -> f64 {
    let video = |tokens: usize, steps: usize| {
        2.0 * steps as f64 * denoiser_work(&base.config.transformer, tokens, tokens)
    };
    let prior = config.prior.samples as f64 * video(size.prior, config.prior.steps);
    let rounds = config.lora.steps.checked_div(config.samples.every).unwrap_or(0);
    let shown = rounds as f64 * config.samples.prompts.len() as f64 * video(size.shown, config.samples.steps);
    prior + shown
}

/// Multiplications of a prompt's encoding and its gradient.
fn text_work(base: &Base) -> f64 {
    const WORDS: f64 = 8.0;
    2.0 * WORDS * text_weights(&base.config.text_encoder) as f64
}

/// Bytes: the base, four numbers for each trained one, and activations.
fn memory(base: &Base, parameters: usize, tokens: usize, checkpointing: bool) -> u64 {
    const FLOAT: usize = 4;
    let config = &base.config.transformer;
    let block = block_numbers(config);
    let activations = match checkpointing {
        true => tokens * (config.num_layers * config.inner_dim() + 2 * block),
        false => tokens * config.num_layers * block,
    };
    weight_bytes(&base.config, base.blocks_on_host) + (FLOAT * (4 * parameters + activations)) as u64
}
