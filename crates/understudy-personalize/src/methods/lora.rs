//! `lora`: Textual Inversion of a token, then low-rank residuals.

use understudy_pipeline::Description;

use crate::adapter::Adapter;
use crate::error::Result;
use crate::job::{Job, Plan};
use crate::method::{Preset, Recipe};
use crate::prompts::Telling;
use crate::stages::data::whole_inputs;
use crate::stages::judge::Judge;
use crate::stages::plan::{
    Asked, Planning, Sizes, check_prompts, check_subject, clip_shapes, learned_along, picture_sizes, planned,
    unknown_words, versions,
};
use crate::stages::residuals::Residuals;
use crate::stages::run::{Emit, LORA, Run, TOKEN};
use crate::stages::settings::Learning;
use crate::subject::SubjectOptions;

/// A token by Textual Inversion (Gal et al., "An Image is Worth One Word", 2023), then low-rank residuals (Hu
/// et al., "LoRA", 2022).
#[derive(Clone, Copy, Debug)]
pub struct Lora;

impl Recipe for Lora {
    type Settings = Learning;

    fn name(&self) -> &'static str {
        "lora"
    }

    fn about(&self) -> &'static str {
        "a token by Textual Inversion, then low-rank residuals"
    }

    fn preset(&self, preset: Preset) -> Learning {
        Learning::preset(preset)
    }

    fn check(&self, settings: &Learning) -> Result<()> {
        settings.check()
    }

    fn check_base(&self, settings: &Learning, about: &Description) -> Result<()> {
        settings.check_base(about)
    }

    fn subject_options(&self, settings: &Learning, about: &Description) -> SubjectOptions {
        settings.subject_options(about)
    }

    fn plan(&self, job: &Job, settings: &Learning) -> Result<Plan> {
        settings.check()?;
        job.subjects().try_for_each(|subject| check_subject(subject, settings))?;
        let notes = job.subjects().flat_map(|subject| {
            let example = format!("a {} in a room", subject.class);
            learned_along(subject, &example).into_iter().chain(unknown_words(subject, job.base))
        });
        planned_whole(job, settings, self.name(), notes.collect())
    }

    fn fit(&self, job: &Job, settings: &Learning, judge: Option<&dyn Judge>, emit: Emit) -> Result<Adapter> {
        let planned = self.plan(job, settings)?;
        let run = Run::begin(self.name(), job, (settings, &planned), judge, emit)?;
        fit_whole(&run, emit)
    }
}

/// What it takes to learn looks and motion together: a token and then residuals, from versions of pictures
/// and clips.
pub(crate) fn planned_whole(
    job: &Job,
    learning: &Learning,
    method: &'static str,
    notes: Vec<String>,
) -> Result<Plan> {
    check_prompts(job, learning, &[], |_, subject, tokenizer| {
        subject.clip_prompts(tokenizer, Telling::Moving)
    })?;
    let sizes = || {
        let mut kinds = versions(learning, picture_sizes(job));
        kinds.extend(clip_shapes(job).map(|shape| (1, shape)));
        Sizes::of(job.base, learning, &kinds, learning.prior.frames)
    };
    let shown = learning.samples.prompts.len();
    let stages = vec![
        Planning { name: TOKEN, stage: &learning.token, sizes: sizes()?, prior: false, shown: 0 },
        Planning { name: LORA, stage: &learning.lora, sizes: sizes()?, prior: true, shown },
    ];
    planned(job, learning, Asked { method, stages, notes })
}

/// Learns the token, and then the residuals.
pub(crate) fn fit_whole(run: &Run, emit: Emit) -> Result<Adapter> {
    let (job, learning) = (&run.job, run.learning);
    let key = run.key("");
    run.refuse_others(&[(TOKEN, &key), (LORA, &key)])?;
    let inputs = job.subjects().map(|subject| whole_inputs(job.base, subject, learning));
    let inputs = inputs.collect::<Result<Vec<_>>>()?.into_iter().flatten().collect();
    let samples = run.encode(("latents", "pictures encoded"), inputs, &key, emit)?;
    let prior = run.prior(&key, emit)?;
    let starts = run.learn_tokens(&samples, &key, emit)?;
    let residuals = Residuals::new(learning, job.base.about.denoiser_sites())?;
    let learned = run.learn_residuals(&residuals, (&samples, &prior), &starts, (&key, true), emit)?;
    Ok(learned.adapter)
}
