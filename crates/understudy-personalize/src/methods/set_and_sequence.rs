//! `set-and-sequence`: from one clip its looks, and apart from them its motion on the same basis (Abdal et
//! al., "Dynamic Concepts Personalization from Single Videos", 2025).

mod clips;
mod inputs;
mod motion;
mod settings;

use understudy_pipeline::Description;

use crate::adapter::Adapter;
use crate::error::{Error, Result};
use crate::job::{Job, Plan};
use crate::method::{Preset, Recipe};
use crate::prompts::Telling;
use crate::stages::data::still_inputs;
use crate::stages::judge::Judge;
use crate::stages::plan::{
    Asked, Planning, Sizes, check_prompts, check_subject, clip_shapes, learned_along, picture_sizes, planned,
    unknown_words, versions,
};
use crate::stages::residuals::Residuals;
use crate::stages::run::{Emit, LORA, Run, Staged, TOKEN};
use crate::subject::{Subject, SubjectOptions};
use clips::check_clips;
use inputs::{moving_inputs, stitched_inputs, stitched_prompts};
use motion::MotionLearner;

pub use settings::{DEFAULT_MOTION, Motion, SequenceSettings};

/// The stage of the motion.
const MOTION: &str = "motion";

/// Looks from unordered frames, then motion on the same basis.
#[derive(Clone, Copy, Debug)]
pub struct SetAndSequence;

impl Recipe for SetAndSequence {
    type Settings = SequenceSettings;

    fn name(&self) -> &'static str {
        "set-and-sequence"
    }

    fn about(&self) -> &'static str {
        "from one clip its looks from unordered frames, then its motion on the same basis"
    }

    fn preset(&self, preset: Preset) -> SequenceSettings {
        SequenceSettings::preset(preset)
    }

    fn check(&self, settings: &SequenceSettings) -> Result<()> {
        settings.check()
    }

    fn check_base(&self, settings: &SequenceSettings, about: &Description) -> Result<()> {
        settings.learning.check_base(about)?;
        let ([height, width], frames) = (settings.learning.size, settings.learning.clip_frames);
        let fits = about.geometry.latents([frames, height, width]);
        fits.map_err(|error| Error::config("clip_frames", error.to_string())).map(drop)
    }

    fn subject_options(&self, settings: &SequenceSettings, about: &Description) -> SubjectOptions {
        settings.learning.subject_options(about)
    }

    fn plan(&self, job: &Job, settings: &SequenceSettings) -> Result<Plan> {
        settings.check()?;
        let SequenceSettings { learning, motion } = settings;
        job.subjects().try_for_each(|subject| check_moving(subject, settings))?;
        let tokens = motion_tokens(job, motion)?;
        check_prompts(job, learning, &tokens, |index, subject, tokenizer| {
            subject.clip_prompts(tokenizer, Telling::Named(&motion.token_of(index)))
        })?;
        check_stitched(job, motion, &tokens)?;
        let notes = job.subjects().flat_map(|subject| {
            let example = format!("a {} [jumps] in a room", subject.class);
            let along = learned_along(subject, &example).into_iter().chain(unbracketed(subject));
            along.chain(unknown_words(subject, job.base))
        });
        let looks = || {
            let frames = clip_shapes(job).flat_map(|[frames, height, width]| vec![[height, width]; frames]);
            Sizes::of(job.base, learning, &versions(learning, picture_sizes(job).chain(frames)), 1)
        };
        let shown = learning.samples.prompts.len();
        let stages = vec![
            Planning { name: TOKEN, stage: &learning.token, sizes: looks()?, prior: false, shown: 0 },
            Planning { name: LORA, stage: &learning.lora, sizes: looks()?, prior: true, shown },
            Planning {
                name: MOTION,
                stage: &motion.stage,
                sizes: moving_sizes(job, settings)?,
                prior: true,
                shown: shown + 1,
            },
        ];
        planned(job, learning, Asked { method: self.name(), stages, notes: notes.collect() })
    }

    /// 1. Encode the frames as pictures, and the clips; make the prior's samples if it is on.
    /// 2. Train the tokens' rows, and then residuals on the frames: the looks, whose one half becomes a
    ///    basis.
    /// 3. Leave them as they are, and train what is added to the coefficients of that basis, and a token of
    ///    its own, on the clips in their order.
    fn fit(
        &self,
        job: &Job,
        settings: &SequenceSettings,
        judge: Option<&dyn Judge>,
        emit: Emit,
    ) -> Result<Adapter> {
        let planned = self.plan(job, settings)?;
        let SequenceSettings { learning, motion } = settings;
        let run = Run::begin(self.name(), job, (learning, &planned), judge, emit)?;
        // What was learned of the looks does not depend on how the motion will be learned.
        let (looks_key, key) = (run.key(""), run.key(&format!("{motion:?}")));
        run.refuse_others(&[(TOKEN, &looks_key), (LORA, &looks_key), (MOTION, &key)])?;

        let inputs = job.subjects().map(|subject| still_inputs(job.base, subject, learning));
        let inputs = inputs.collect::<Result<Vec<_>>>()?.into_iter().flatten().collect();
        let stills = run.encode(("latents", "pictures encoded"), inputs, &looks_key, emit)?;
        let clips = run.encode(("clips", "clips encoded"), moving_inputs(job, motion)?, &key, emit)?;
        let stitched =
            if motion.stitched > 0.0 { stitched_inputs(job, learning.size, motion)? } else { Vec::new() };
        let stitched = run.encode(("stitched", "stitched clips encoded"), stitched, &key, emit)?;
        let prior = run.prior(&looks_key, emit)?;

        let starts = run.learn_tokens(&stills, &looks_key, emit)?;
        let residuals = Residuals::new(learning, job.base.about.denoiser_sites())?;
        let still_prior = prior.first_frames();
        let looks =
            run.learn_residuals(&residuals, (&stills, &still_prior), &starts, (&looks_key, false), emit)?;

        let rows = motion.rows(&run, looks.rows);
        let learner = MotionLearner {
            run: &run,
            motion,
            residuals: &residuals,
            looks: &looks.parameters,
            clips: &clips,
            stitched: &stitched,
            prior: &prior,
        };
        let staged = Staged { name: MOTION, stage: &motion.stage, key: &key, shown: true, last: true };
        Ok(run.learn(staged, learner, rows, emit)?.adapter)
    }

    fn needs_own_names(&self) -> bool {
        true
    }

    fn phrase(&self, (index, subject): (usize, &Subject), settings: &SequenceSettings) -> String {
        format!("{} {}", subject.phrase(), settings.motion.token_of(index))
    }
}

/// That a subject has clips in which something moves.
fn check_moving(subject: &Subject, settings: &SequenceSettings) -> Result<()> {
    check_subject(subject, &settings.learning)?;
    if !subject.clips.is_empty() {
        return check_clips(&subject.clips);
    }
    let found = subject.pictures.len();
    let reason = format!(
        "has no clip to learn a motion from: {found} {}, and a clip has {} (clip_frames); give a longer video",
        if found == 1 { "picture or frame" } else { "pictures or frames" },
        settings.learning.clip_frames
    );
    Err(Error::Subject { field: "subject", reason })
}

/// The tokens of all motions.
///
/// # Errors
/// When one stands for a subject.
fn motion_tokens(job: &Job, motion: &Motion) -> Result<Vec<String>> {
    let tokens: Vec<String> = (0..job.subjects().count()).map(|index| motion.token_of(index)).collect();
    match job.subjects().find(|subject| tokens.contains(&subject.token)) {
        None => Ok(tokens),
        Some(Subject { token, .. }) => {
            let reason = format!("is {token:?}, which stands for the subject; choose another word");
            Err(Error::config("motion.token", reason))
        }
    }
}

/// That prompts of two subjects in one clip fit the text encoder.
fn check_stitched(job: &Job, motion: &Motion, tokens: &[String]) -> Result<()> {
    if motion.stitched == 0.0 {
        return Ok(());
    }
    let all: Vec<String> =
        job.subjects().map(|subject| subject.token.clone()).chain(tokens.iter().cloned()).collect();
    let tokenizer = job.base.networks.text.tokenizer().with_added(&all)?;
    for prompt in stitched_prompts(job, motion) {
        tokenizer.encode(&[&prompt], job.base.about.text_limit).map_err(|error| {
            let reason = format!(
                "two subjects in one clip: {error}; shorten what is in brackets, or set motion.stitched=0"
            );
            Error::Subject { field: "caption", reason }
        })?;
    }
    Ok(())
}

/// Captions that do not say in square brackets what the subject does.
fn unbracketed(subject: &Subject) -> Option<String> {
    let unbracketed = |caption: &String| subject.naming().action(caption).is_none();
    subject.clip_captions.iter().any(unbracketed).then(|| {
        format!(
            "a caption of the {0}'s clip does not say in square brackets what it does, so that cannot be told from where \
             it is; write it like \"a {0} [jumps] in a room\"",
            subject.class
        )
    })
}

/// What the motion is learned from.
fn moving_sizes(job: &Job, settings: &SequenceSettings) -> Result<Sizes> {
    let learning = &settings.learning;
    let mut kinds: Vec<_> = clip_shapes(job).map(|shape| (1, shape)).collect();
    if job.subjects().count() > 1 {
        // Two side by side have the training size.
        let [height, width] = learning.size;
        kinds.extend(clip_shapes(job).map(|[frames, ..]| (1, [frames, height, width])));
    }
    Sizes::of(job.base, learning, &kinds, learning.prior.frames)
}
