//! What the method `lora` is going to cost, before it starts.

use understudy_media::shown;
use understudy_pipeline::cost::{
    OVERHEAD, autoencoder_bytes, block_numbers, denoiser_work, products_per_second, text_weights,
    weight_bytes,
};
use understudy_pipeline::{Base, latent_shape, listed};

use crate::clips::check_clips;
use crate::config::{LoraConfig, Motion, Stage};
use crate::data::stitched_prompts;
use crate::error::{Error, Result};
use crate::job::{Job, NotUsed, Plan, PlannedStage};
use crate::prompts::{Telling, neutral_prompts};
use crate::subject::{Subject, SubjectPicture};

/// From this many tokens in a batch on, blocks are replayed in the backward pass unless it is set.
const CHECKPOINTED_TOKENS: usize = 8192;

/// Checks everything that can be checked cheaply, and estimates memory and time.
///
/// # Errors
/// When a setting is out of range, a size does not fit the base, or a prompt is too long.
pub fn plan(job: &Job, config: &LoraConfig) -> Result<Plan> {
    config.check()?;
    let Job { base, others, .. } = job;
    job.subjects().try_for_each(|subject| check_subject(subject, config))?;
    if config.references && !others.is_empty() {
        let reason = "are several; V-Warper learns one at a time".to_owned();
        return Err(Error::Subject { field: "subjects", reason });
    }
    check_prompts(job, config)?;
    let looks = Sizes::of_looks(job, config)?;
    let motion = match &config.motion {
        Some(own) => Some((own, Sizes::of_motion(job, config)?)),
        None => None,
    };
    let targets = config.targets.resolve(&base.config.transformer)?;
    let residuals: usize = targets.values().map(|[outputs, inputs]| config.rank * (outputs + inputs)).sum();
    let parameters = residuals + job.subjects().count() * base.config.text_encoder.d_model;
    let longest = motion.iter().map(|(_, size)| size.all()).fold(looks.all(), usize::max);
    let checkpointing = use_checkpointing(config, longest);
    let rate = products_per_second(&base.config.transformer, base.halved.transformer, &base.device);
    let stages = stages(base, config, (&looks, motion.as_ref()), checkpointing, rate);
    let prior = config.prior.batch;
    let at_once = |stage: &Stage, size: &Sizes| (stage.batch * size.longest).max(prior * size.prior);
    let tokens = motion.iter().map(|(own, size)| at_once(&own.stage, size));
    let tokens = tokens.fold(at_once(&config.lora, &looks), usize::max);
    let generating = (generation_work(base, config)? / rate * OVERHEAD) as f32;
    let training: f32 = stages.iter().map(|stage| stage.steps as f32 * stage.step_seconds).sum();
    let left_out = job
        .subjects()
        .flat_map(|subject| &subject.left_out)
        .map(|l| NotUsed { path: l.path.clone(), reason: l.reason.clone() });
    Ok(Plan {
        method: config.method(),
        pictures: job.subjects().map(|own| own.pictures.len()).sum(),
        clips: job.subjects().map(|own| own.clips.len()).sum(),
        left_out: left_out.collect(),
        notes: job.subjects().flat_map(|own| read_notes(own).chain(notes(own, config, base))).collect(),
        sites: targets.len(),
        parameters,
        tokens: longest,
        checkpointing,
        memory: memory(base, config, parameters, tokens, checkpointing),
        seconds: training + generating,
        stages,
    })
}

/// How the subject's files were read, where that is to be said.
fn read_notes(subject: &Subject) -> impl Iterator<Item = String> {
    subject.notes.iter().map(|note| format!("{}: {}", shown(&note.path), note.text))
}

/// That a subject is what the settings need.
fn check_subject(subject: &Subject, config: &LoraConfig) -> Result<()> {
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
        if subject.clips.is_empty() {
            let found = subject.pictures.len();
            let reason = format!(
                "has no clip to learn a motion from: {found} {}, and a clip has {} (clip_frames); give a longer video",
                if found == 1 { "picture or frame" } else { "pictures or frames" },
                config.clip_frames
            );
            return Err(Error::Subject { field: "subject", reason });
        }
        check_clips(&subject.clips)?;
    }
    if config.references && subject.pictures.is_empty() {
        let reason = "has no picture; V-Warper learns from pictures: give a folder of them".to_owned();
        return Err(Error::Subject { field: "subject", reason });
    }
    Ok(())
}

/// What is worth knowing before `subject` is learned.
fn notes(subject: &Subject, config: &LoraConfig, base: &Base) -> Vec<String> {
    let mut notes = along(subject, config);
    let unknown = |texts: &[&str]| listed(&base.tokenizer.unknown_words(texts));
    if let Some(words) = unknown(&[&subject.class]) {
        notes.push(format!(
            "this base was never taught {words}, so the subject starts from nothing it knows; a class it knows is a better start"
        ));
    }
    let captions =
        subject.pictures.iter().filter_map(|own| own.caption.as_ref()).chain(&subject.clip_captions);
    let unnamed = |own: &String| {
        let (named, _) = subject.naming().named(own, None);
        named.replace(subject.token.as_str(), " ").replace(subject.class.as_str(), " ")
    };
    let captions: Vec<String> = captions.map(unnamed).collect();
    if let Some(words) = unknown(&captions.iter().map(String::as_str).collect::<Vec<_>>()) {
        notes
            .push(format!("this base was never taught {words}, which captions of the {} say", subject.class));
    }
    notes
}

/// What will be learned along with `subject`: a place that nothing tells apart from it comes back with it.
fn along(subject: &Subject, config: &LoraConfig) -> Vec<String> {
    let class = &subject.class;
    let mut notes = Vec::new();
    let (told, masked) = (!subject.clip_captions.is_empty(), !subject.clip_masks.is_empty());
    let write = match config.motion {
        Some(_) => format!("NAME.txt beside it, like \"a {class} [jumps] in a room\""),
        None => format!("NAME.txt beside it, like \"a {class} in a room\""),
    };
    let masks = "masks in NAME.masks/";
    if !subject.clips.is_empty() {
        match (told, masked) {
            (false, false) => notes.push(format!(
                "the clip of the {class} has no caption and no masks, so its place is learned along with it and will come back \
                 whatever a prompt says; write {write}, and put {masks}"
            )),
            (true, false) => notes.push(format!(
                "the clip of the {class} has no masks, so some of its place is learned along with it; {masks} keep it out"
            )),
            (false, true) => notes.push(format!(
                "the clip of the {class} has no caption, so what it does and where is learned as part of it; write {write}"
            )),
            (true, true) => {}
        }
    }
    let apart = |own: &SubjectPicture| own.caption.is_some() || own.picture.mask.is_some();
    if let [one] = subject.pictures.as_slice()
        && !apart(one)
    {
        notes.push(format!(
            "there is one picture of the {class}, without a caption and a mask, so its place is learned along with it; give \
             more pictures in other places, or write NAME.txt beside it, like \"a {class} in a room\""
        ));
    }
    if config.references && subject.pictures.len() > 1 && !subject.pictures.iter().any(apart) {
        notes.push(format!(
            "no picture of the {class} has a caption or a mask, so what is around it in all of them is learned along with it; \
             NAME.txt and NAME.mask.png beside each keep it out"
        ));
    }
    let unbracketed = |caption: &String| subject.naming().action(caption).is_none();
    if config.motion.is_some() && told && subject.clip_captions.iter().any(unbracketed) {
        notes.push(format!(
            "a caption of the {class}'s clip does not say in square brackets what it does, so that cannot be told from where \
             it is; write it like \"a {class} [jumps] in a room\""
        ));
    }
    notes
}

/// The stages, of a device that does `rate` multiplications a second.
fn stages(
    base: &Base,
    config: &LoraConfig,
    (looks, motion): (&Sizes, Option<&(&Motion, Sizes)>),
    checkpointing: bool,
    rate: f64,
) -> Vec<PlannedStage> {
    let stage = |name, stage: &Stage, size: &Sizes, prior: usize| {
        let replayed = if checkpointing { 3.0 } else { 2.0 };
        let tokens = stage.batch * size.mean + prior * size.prior;
        let denoiser = replayed * denoiser_work(&base.config.transformer, tokens, size.all());
        let work = denoiser + text_work(base) * stage.batch as f64;
        PlannedStage { name, steps: stage.steps, step_seconds: (work / rate * OVERHEAD) as f32 }
    };
    let prior = config.prior.batch;
    let mut stages = vec![stage("token", &config.token, looks, 0), stage("lora", &config.lora, looks, prior)];
    stages.extend(motion.map(|(own, size)| stage("motion", &own.stage, size, prior)));
    stages
}

/// Whether blocks are replayed, for samples of `tokens`.
pub(crate) fn use_checkpointing(config: &LoraConfig, tokens: usize) -> bool {
    let batch = config.motion.as_ref().map_or(0, |motion| motion.stage.batch).max(config.lora.batch);
    config.checkpointing.unwrap_or(batch * tokens >= CHECKPOINTED_TOKENS)
}

/// Video tokens of what a stage trains on.
struct Sizes {
    /// Of the subject's mean sample.
    mean: usize,
    /// Of its longest.
    longest: usize,
    /// Of a sample of the prior; none without one.
    prior: usize,
}

impl Sizes {
    /// Of the token and the looks stage.
    fn of_looks(job: &Job, config: &LoraConfig) -> Result<Self> {
        // Nothing that is learned from need have the training size itself.
        token_count(job.base, [1, config.size[0], config.size[1]])?;
        let augmentation = &config.augmentation;
        let still = job.subjects().flat_map(|own| own.pictures.iter().map(|picture| picture.size));
        let shapes: Vec<[usize; 3]> = clips(job).collect();
        let each_frame = |[frames, height, width]: &[usize; 3]| vec![[*height, *width]; *frames];
        let frames = shapes.iter().filter(|_| config.motion.is_some()).flat_map(each_frame);
        let mut kinds = Vec::new();
        for [height, width] in still.chain(frames) {
            kinds.push((augmentation.versions, [1, height, width]));
            kinds.push((augmentation.held, [augmentation.held_frames, height, width]));
        }
        let prior = match config.motion {
            Some(_) => 1,
            None => {
                kinds.extend(shapes.into_iter().map(|shape| (1, shape)));
                config.prior.frames
            }
        };
        Self::of(job, config, &kinds, prior)
    }

    /// Of the motion stage.
    fn of_motion(job: &Job, config: &LoraConfig) -> Result<Self> {
        let mut kinds: Vec<_> = clips(job).map(|shape| (1, shape)).collect();
        if job.subjects().count() > 1 {
            // Two side by side have the training size.
            kinds.extend(clips(job).map(|[frames, ..]| (1, [frames, config.size[0], config.size[1]])));
        }
        Self::of(job, config, &kinds, config.prior.frames)
    }

    /// Of so many samples of so many frames, of a height and a width each.
    fn of(job: &Job, config: &LoraConfig, kinds: &[(usize, [usize; 3])], prior: usize) -> Result<Self> {
        let [height, width] = config.size;
        let (mut samples, mut tokens, mut longest) = (0, 0, 0);
        for &(number, shape) in kinds.iter().filter(|(number, _)| *number > 0) {
            let each = token_count(job.base, shape)?;
            samples += number;
            tokens += number * each;
            longest = longest.max(each);
        }
        let prior = match config.prior.weight > 0.0 {
            true => token_count(job.base, [prior, height, width])?,
            false => 0,
        };
        Ok(Self { mean: tokens.checked_div(samples).unwrap_or(0), longest, prior })
    }

    /// Of the longest sample of any kind.
    fn all(&self) -> usize {
        self.longest.max(self.prior)
    }
}

/// Frames, height and width of all clips.
fn clips(job: &Job) -> impl Iterator<Item = [usize; 3]> {
    let clips = job.subjects().flat_map(|own| &own.clips);
    clips.map(|clip| [clip.frames.len(), clip.height(), clip.width()])
}

/// Video tokens of a sample of so many frames, of a height and a width.
fn token_count(base: &Base, shape: [usize; 3]) -> Result<usize> {
    let [_, frames, rows, columns] = latent_shape(&base.config, shape)?;
    let places = frames * rows * columns;
    Ok(places / base.config.transformer.patch_size.iter().product::<usize>())
}

/// That every prompt fits the text encoder, and every token is another.
fn check_prompts(job: &Job, config: &LoraConfig) -> Result<()> {
    let tokens = tokens(job, config)?;
    let tokenizer = job.base.tokenizer.with_added(&tokens)?;
    let limit = job.base.config.max_sequence_length;
    for (index, subject) in job.subjects().enumerate() {
        let phrase = subject.phrase();
        let motion = config.motion.as_ref().map(|own| own.token_of(index));
        let telling = motion.as_deref().map_or(Telling::Moving, Telling::Named);
        let mut prompts = neutral_prompts(&job.base.tokenizer, &phrase);
        prompts.extend(subject.clip_prompts(&job.base.tokenizer, telling));
        if config.samples.every > 0 {
            prompts.extend(config.samples.prompts.iter().map(|prompt| prompt.replace("{}", &phrase)));
        }
        tokenizer.encode(&prompts.iter().map(String::as_str).collect::<Vec<_>>(), limit)?;
        for picture in &subject.pictures {
            let Some(caption) = &picture.caption else { continue };
            let (caption, _) = subject.naming().named(caption, None);
            tokenizer.encode(&[&caption], limit).map_err(|error| {
                let picture = picture.path.as_deref().map_or("a picture".to_owned(), shown);
                let reason = format!("of {picture}: {error}");
                Error::Subject { field: "caption", reason }
            })?;
        }
    }
    for prompt in
        config.motion.iter().filter(|own| own.stitched > 0.0).flat_map(|own| stitched_prompts(job, own))
    {
        tokenizer.encode(&[&prompt], limit).map_err(|error| {
            let reason = format!(
                "two subjects in one clip: {error}; shorten what is in brackets, or set motion.stitched=0"
            );
            Error::Subject { field: "caption", reason }
        })?;
    }
    Ok(())
}

/// The tokens of all subjects and their motions.
///
/// # Errors
/// When one stands for two.
fn tokens(job: &Job, config: &LoraConfig) -> Result<Vec<String>> {
    let mut tokens: Vec<String> = Vec::new();
    for subject in job.subjects() {
        if tokens.contains(&subject.token) {
            let reason = format!("{:?} stands for two subjects; give each its own", subject.token);
            return Err(Error::Subject { field: "token", reason });
        }
        tokens.push(subject.token.clone());
    }
    for index in 0..tokens.len() {
        let Some(token) = config.motion.as_ref().map(|own| own.token_of(index)) else { continue };
        if tokens.contains(&token) {
            let reason = format!("is {token:?}, which stands for the subject; choose another word");
            return Err(Error::config("motion.token", reason));
        }
        tokens.push(token);
    }
    Ok(tokens)
}

/// Multiplications of all videos that are generated on the way, with guidance.
fn generation_work(base: &Base, config: &LoraConfig) -> Result<f64> {
    let [height, width] = config.size;
    let video = |frames: usize, steps: usize| -> Result<f64> {
        let tokens = token_count(base, [frames, height, width])?;
        Ok(2.0 * steps as f64 * denoiser_work(&base.config.transformer, tokens, tokens))
    };
    let prior = match config.prior.weight > 0.0 {
        true => config.prior.samples as f64 * video(config.prior.frames, config.prior.steps)?,
        false => 0.0,
    };
    let rounds = |stage: &Stage| {
        let every = [config.samples.every, config.samples.evaluate_every];
        every.into_iter().filter_map(|every| stage.steps.checked_div(every)).max().unwrap_or(0) as usize
    };
    let prompts = config.samples.prompts.len();
    let motion = config.motion.as_ref().map_or(0, |motion| rounds(&motion.stage) * (prompts + 1));
    let shown = match rounds(&config.lora) * prompts + motion {
        0 => 0.0,
        videos => videos as f64 * video(config.samples.frames, config.samples.steps)?,
    };
    Ok(prior + shown)
}

/// Multiplications of a prompt's encoding and its gradient.
fn text_work(base: &Base) -> f64 {
    const WORDS: f64 = 8.0;
    2.0 * WORDS * text_weights(&base.config.text_encoder) as f64
}

/// Bytes: the base, of its autoencoder the encoder and, where videos are made on the way, the decoder; four numbers for each
/// trained one; and activations.
fn memory(base: &Base, config: &LoraConfig, parameters: usize, tokens: usize, checkpointing: bool) -> u64 {
    const FLOAT: usize = 4;
    let transformer = &base.config.transformer;
    let block = block_numbers(transformer);
    let activations = match checkpointing {
        true => tokens * (transformer.num_layers * transformer.inner_dim() + 2 * block),
        false => tokens * transformer.num_layers * block,
    };
    let [encoder, decoder] = autoencoder_bytes(&base.config);
    let shown = config.samples.every.max(config.samples.evaluate_every) > 0;
    weight_bytes(&base.config, base.halved, base.blocks_on_host)
        + encoder
        + if shown { decoder } else { 0 }
        + (FLOAT * (4 * parameters + activations)) as u64
}
