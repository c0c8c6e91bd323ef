//! What a fit is going to cost, and what is worth knowing before it starts.

use understudy_media::shown;
use understudy_pipeline::cost::OVERHEAD;
use understudy_pipeline::{Base, Tokenizer, listed};

use super::settings::{Learning, Stage};
use crate::error::{Error, Result};
use crate::job::{Job, NotUsed, Plan, PlannedStage};
use crate::prompts::neutral_prompts;
use crate::subject::{Subject, SubjectPicture};

/// From this many tokens in a batch on, blocks are replayed in the backward pass unless it is set.
const REPLAYED_TOKENS: usize = 8192;

/// Samples of so many frames, of a height and a width, and how many there are.
pub(crate) type Kind = (usize, [usize; 3]);

/// A stage that is planned.
pub(crate) struct Planning<'a> {
    pub(crate) name: &'static str,
    pub(crate) stage: &'a Stage,
    pub(crate) sizes: Sizes,
    /// Whether the prior is trained along.
    pub(crate) prior: bool,
    /// Prompts that its samples show beside those of the settings.
    pub(crate) shown: usize,
}

/// What a method says of a fit.
pub(crate) struct Asked<'a> {
    pub(crate) method: &'static str,
    pub(crate) stages: Vec<Planning<'a>>,
    /// Further notes.
    pub(crate) notes: Vec<String>,
}

/// Estimates memory and time of what is `asked`.
///
/// # Errors
/// When a size does not fit the base.
pub(crate) fn planned(job: &Job, learning: &Learning, asked: Asked) -> Result<Plan> {
    let base = job.base;
    let Asked { method, stages, notes } = asked;
    let targets = learning.targets.resolve(base.about.denoiser_sites())?;
    let residuals: usize =
        targets.values().map(|site| learning.rank * site.shape.iter().sum::<usize>()).sum();
    let parameters = residuals + job.subjects().count() * base.about.text_table[1];
    let longest = stages.iter().map(|own| own.sizes.all()).max().unwrap_or(0);
    let batch = stages.iter().map(|own| own.stage.batch).max().unwrap_or(1);
    let replayed = learning.replay.unwrap_or(batch * longest >= REPLAYED_TOKENS);
    let rate = base.about.costs.products_per_second(&base.device);
    let at_once =
        |own: &Planning| (own.stage.batch * own.sizes.longest).max(learning.prior.batch * own.sizes.prior);
    let tokens = stages.iter().map(at_once).max().unwrap_or(0);
    let generating = generation_work(base, learning, &stages)? / rate * OVERHEAD;
    let each = |own: &Planning| {
        let times = if replayed { 3.0 } else { 2.0 };
        let prior = if own.prior { learning.prior.batch * own.sizes.prior } else { 0 };
        let tokens = own.stage.batch * own.sizes.mean + prior;
        let denoiser = times * base.about.costs.denoiser_work(tokens, own.sizes.all());
        let work = denoiser + text_work(base) * own.stage.batch as f64;
        let step_seconds = (work / rate * OVERHEAD) as f32;
        PlannedStage { name: own.name, steps: own.stage.steps, step_seconds }
    };
    let stages: Vec<PlannedStage> = stages.iter().map(each).collect();
    let training: f32 = stages.iter().map(|stage| stage.steps as f32 * stage.step_seconds).sum();
    let left_out = job.subjects().flat_map(|subject| &subject.left_out);
    Ok(Plan {
        method,
        pictures: job.subjects().map(|own| own.pictures.len()).sum(),
        clips: job.subjects().map(|own| own.clips.len()).sum(),
        left_out: left_out.map(|l| NotUsed { path: l.path.clone(), reason: l.reason.clone() }).collect(),
        notes: job.subjects().flat_map(read_notes).chain(notes).collect(),
        sites: targets.len(),
        parameters,
        tokens: longest,
        replayed,
        memory: memory(base, learning, parameters, tokens, replayed),
        seconds: training + generating as f32,
        stages,
    })
}

/// How the subject's files were read, where that is to be said.
fn read_notes(subject: &Subject) -> impl Iterator<Item = String> {
    subject.notes.iter().map(|note| format!("{}: {}", shown(&note.path), note.text))
}

/// That a subject was read as the settings say, and has something to learn from.
///
/// # Errors
/// When it was not, or has not.
pub(crate) fn check_subject(subject: &Subject, learning: &Learning) -> Result<()> {
    if subject.size != learning.size {
        let reason = format!(
            "is {:?}, but the subject was read for {:?}; give both the same",
            learning.size, subject.size
        );
        return Err(Error::config("size", reason));
    }
    if subject.pictures.is_empty() && subject.clips.is_empty() {
        let reason = "has no picture and no clip; give at least one".into();
        return Err(Error::Subject { field: "subject", reason });
    }
    Ok(())
}

/// What a base does not know of what a subject is called and its captions say.
pub(crate) fn unknown_words(subject: &Subject, base: &Base) -> Vec<String> {
    let mut notes = Vec::new();
    let unknown = |texts: &[&str]| listed(&base.networks.text.tokenizer().unknown_words(texts));
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
/// Captions of clips are to be written as in `example`.
pub(crate) fn learned_along(subject: &Subject, example: &str) -> Vec<String> {
    let class = &subject.class;
    let mut notes = Vec::new();
    let (told, masked) = (!subject.clip_captions.is_empty(), !subject.clip_masks.is_empty());
    let write = format!("NAME.txt beside it, like \"{example}\"");
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
    if let [one] = subject.pictures.as_slice()
        && !is_told_apart(one)
    {
        notes.push(format!(
            "there is one picture of the {class}, without a caption and a mask, so its place is learned along with it; give \
             more pictures in other places, or write NAME.txt beside it, like \"a {class} in a room\""
        ));
    }
    notes
}

/// Whether a caption or a mask tells the subject from what is around it.
pub(crate) fn is_told_apart(picture: &SubjectPicture) -> bool {
    picture.caption.is_some() || picture.picture.mask.is_some()
}

/// Video tokens of what a stage trains on.
pub(crate) struct Sizes {
    /// Of the subject's mean sample.
    mean: usize,
    /// Of its longest.
    longest: usize,
    /// Of a sample of the prior; none without one.
    prior: usize,
}

impl Sizes {
    /// Of samples of these kinds, and of a prior of so many frames.
    ///
    /// # Errors
    /// When one does not fit the base.
    pub(crate) fn of(base: &Base, learning: &Learning, kinds: &[Kind], prior: usize) -> Result<Self> {
        let [height, width] = learning.size;
        // Nothing that is learned from need have the training size itself.
        token_count(base, [1, height, width])?;
        let (mut samples, mut tokens, mut longest) = (0, 0, 0);
        for &(number, shape) in kinds.iter().filter(|(number, _)| *number > 0) {
            let each = token_count(base, shape)?;
            samples += number;
            tokens += number * each;
            longest = longest.max(each);
        }
        let prior = if learning.prior.weight > 0.0 { token_count(base, [prior, height, width])? } else { 0 };
        Ok(Self { mean: tokens.checked_div(samples).unwrap_or(0), longest, prior })
    }

    /// Of the longest sample of any kind.
    fn all(&self) -> usize {
        self.longest.max(self.prior)
    }
}

/// The versions of pictures of these heights and widths.
pub(crate) fn versions(learning: &Learning, sizes: impl Iterator<Item = [usize; 2]>) -> Vec<Kind> {
    let augmentation = learning.augmentation;
    let of = |[height, width]: [usize; 2]| {
        [
            (augmentation.versions, [1, height, width]),
            (augmentation.held, [augmentation.held_frames, height, width]),
        ]
    };
    sizes.flat_map(of).collect()
}

/// Heights and widths of all pictures.
pub(crate) fn picture_sizes(job: &Job) -> impl Iterator<Item = [usize; 2]> {
    job.subjects().flat_map(|own| own.pictures.iter().map(|picture| picture.size))
}

/// Frames, height and width of all clips.
pub(crate) fn clip_shapes(job: &Job) -> impl Iterator<Item = [usize; 3]> {
    let clips = job.subjects().flat_map(|own| &own.clips);
    clips.map(|clip| [clip.frames.len(), clip.height(), clip.width()])
}

/// Video tokens of a sample of so many frames, of a height and a width.
fn token_count(base: &Base, shape: [usize; 3]) -> Result<usize> {
    let geometry = &base.about.geometry;
    let [_, frames, rows, columns] = geometry.latents(shape)?;
    Ok(geometry.places([frames, rows, columns]).iter().product())
}

/// That every prompt of the subjects fits the text encoder, and every token is another; `further` tokens and
/// prompts are a method's.
///
/// # Errors
/// Says which does not, or is not.
pub(crate) fn check_prompts(
    job: &Job,
    learning: &Learning,
    further: &[String],
    prompts: impl Fn(usize, &Subject, &Tokenizer) -> Vec<String>,
) -> Result<()> {
    let tokens = tokens(job, further)?;
    let own = job.base.networks.text.tokenizer();
    let (tokenizer, limit) = (own.with_added(&tokens)?, job.base.about.text_limit);
    for (index, subject) in job.subjects().enumerate() {
        let phrase = subject.phrase();
        let mut all = neutral_prompts(own, &phrase);
        all.extend(prompts(index, subject, own));
        if learning.samples.every > 0 {
            all.extend(learning.samples.prompts.iter().map(|prompt| prompt.replace("{}", &phrase)));
        }
        tokenizer.encode(&all.iter().map(String::as_str).collect::<Vec<_>>(), limit)?;
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
    Ok(())
}

/// The tokens of all subjects, and `further` ones.
///
/// # Errors
/// When one stands for two subjects.
fn tokens(job: &Job, further: &[String]) -> Result<Vec<String>> {
    let mut tokens: Vec<String> = Vec::new();
    for subject in job.subjects() {
        if tokens.contains(&subject.token) {
            let reason = format!("{:?} stands for two subjects; give each its own", subject.token);
            return Err(Error::Subject { field: "token", reason });
        }
        tokens.push(subject.token.clone());
    }
    tokens.extend(further.iter().cloned());
    Ok(tokens)
}

/// Multiplications of all videos that are generated on the way, with guidance.
fn generation_work(base: &Base, learning: &Learning, stages: &[Planning]) -> Result<f64> {
    let [height, width] = learning.size;
    let video = |frames: usize, steps: usize| -> Result<f64> {
        let tokens = token_count(base, [frames, height, width])?;
        Ok(2.0 * steps as f64 * base.about.costs.denoiser_work(tokens, tokens))
    };
    let (prior, samples) = (&learning.prior, &learning.samples);
    let of_prior =
        if prior.weight > 0.0 { prior.samples as f64 * video(prior.frames, prior.steps)? } else { 0.0 };
    let rounds = |stage: &Stage| {
        let every = [samples.every, samples.evaluate_every];
        every.into_iter().filter_map(|every| stage.steps.checked_div(every)).max().unwrap_or(0) as usize
    };
    let videos: usize = stages.iter().map(|own| rounds(own.stage) * own.shown).sum();
    let shown = if videos > 0 { videos as f64 * video(samples.frames, samples.steps)? } else { 0.0 };
    Ok(of_prior + shown)
}

/// Multiplications of a prompt's encoding and its gradient.
fn text_work(base: &Base) -> f64 {
    const WORDS: f64 = 8.0;
    2.0 * WORDS * base.about.costs.word
}

/// Bytes: the base, of its autoencoder the encoder and, where videos are made on the way, the decoder; four
/// numbers for each trained one; and activations.
fn memory(base: &Base, learning: &Learning, parameters: usize, tokens: usize, replayed: bool) -> u64 {
    const FLOAT: usize = 4;
    let costs = &base.about.costs;
    let (_, depth) = costs.blocks;
    let activations = if replayed {
        tokens * (depth * costs.hidden + 2 * costs.block)
    } else {
        tokens * depth * costs.block
    };
    let [encoder, decoder] = costs.autoencoder;
    let shown = learning.samples.every.max(learning.samples.evaluate_every) > 0;
    costs.weights(base.blocks_on_host)
        + encoder
        + if shown { decoder } else { 0 }
        + (FLOAT * (4 * parameters + activations)) as u64
}
