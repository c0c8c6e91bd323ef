//! `v-warper`: residuals on attention from pictures, which the adapter keeps, and values of these pictures
//! warped into the videos that are generated with it (Lee et al., "V-Warper", 2025).

mod cache;
mod config;
mod kept;
mod matching;
pub(crate) mod references;
mod settings;
mod shown;
mod warp;

use std::sync::Arc;

use toml::Table;
use understudy_engine::sites::Role;
use understudy_pipeline::{Base, Description, Request};

use crate::adapter::Adapter;
use crate::error::{Error, Result};
use crate::job::{Job, Plan};
use crate::method::{Applied, Preset, Recipe, read};
use crate::methods::lora::{fit_whole, planned_whole};
use crate::stages::judge::Judge;
use crate::stages::plan::{check_subject, is_told_apart, learned_along, unknown_words};
use crate::stages::run::{Emit, Run};
use crate::stages::settings::Learning;
use crate::subject::{Subject, SubjectOptions};
use crate::targets::Targets;
use kept::references;
use shown::AppliedWarp;

pub use config::{Descriptor, Replaced, WarpConfig};
pub use settings::WarpSettings;
pub use warp::{Matches, Reference, Warp, WarpJob};

/// Pictures, whose values are warped into the videos.
#[derive(Clone, Copy, Debug)]
pub struct VWarper;

/// That self-attention sees the places of all frames at once, which are matched.
fn check_attention(about: &Description) -> Result<()> {
    if about.denoiser_sites().attentions(Role::TemporalAttention).next().is_none() {
        return Ok(());
    }
    let reason = "v-warper matches places of all frames, and this base's self-attention sees a frame at a time; \
                  use --method lora, or --no-warp with an adapter that is there";
    Err(Error::config("method", reason))
}

impl Recipe for VWarper {
    type Settings = Learning;

    fn name(&self) -> &'static str {
        "v-warper"
    }

    fn about(&self) -> &'static str {
        "from pictures, which the adapter keeps: their values are warped into the videos that are generated with it"
    }

    /// Attention alone.
    fn preset(&self, preset: Preset) -> Learning {
        Learning { targets: Targets::Attention, ..Learning::preset(preset) }
    }

    fn check(&self, settings: &Learning) -> Result<()> {
        settings.check()
    }

    fn check_base(&self, settings: &Learning, about: &Description) -> Result<()> {
        check_attention(about)?;
        settings.check_base(about)
    }

    /// Pictures have the shape of the videos they are warped into.
    fn subject_options(&self, settings: &Learning, about: &Description) -> SubjectOptions {
        SubjectOptions { buckets: None, ..settings.subject_options(about) }
    }

    fn plan(&self, job: &Job, settings: &Learning) -> Result<Plan> {
        settings.check()?;
        job.subjects().try_for_each(|subject| check_pictures(subject, settings))?;
        if !job.others.is_empty() {
            let reason = "are several; V-Warper learns one at a time".to_owned();
            return Err(Error::Subject { field: "subjects", reason });
        }
        let example = format!("a {} in a room", job.subject.class);
        let along = learned_along(job.subject, &example).into_iter().chain(around(job.subject));
        let notes = along.chain(unknown_words(job.subject, job.base)).collect();
        planned_whole(job, settings, self.name(), notes)
    }

    fn fit(&self, job: &Job, settings: &Learning, judge: Option<&dyn Judge>, emit: Emit) -> Result<Adapter> {
        let planned = self.plan(job, settings)?;
        let run = Run::begin(self.name(), job, (settings, &planned), judge, emit)?;
        let fitted = fit_whole(&run, emit)?;
        Ok(Adapter { references: references(job, settings)?, ..fitted })
    }

    fn slowdown(&self, adapter: &Adapter, with: &Table, frames: usize, passes: usize) -> f32 {
        let references: usize = adapter.references.iter().map(|own| own.latents.dims()[2]).sum();
        match read::<WarpSettings>(with) {
            Ok(settings) if settings.off || references == 0 => 1.0,
            _ => 1.0 + references as f32 / (frames * passes).max(1) as f32,
        }
    }

    fn check_use(&self, adapter: &Adapter, with: &Table, base: &Base, request: &Request) -> Result<()> {
        let settings: WarpSettings = read(with)?;
        if settings.off || adapter.references.is_empty() {
            return Ok(());
        }
        check_attention(&base.about)?;
        with_job(adapter, &settings, base, request, |job| job.check_prompts())
    }

    fn apply(
        &self,
        adapter: &Adapter,
        with: &Table,
        base: &Base,
        request: &mut Request,
    ) -> Result<Option<Arc<dyn Applied>>> {
        let settings: WarpSettings = read(with)?;
        if settings.off || adapter.references.is_empty() {
            return Ok(None);
        }
        let config = settings.config(base.about.denoiser_sites());
        let warp = with_job(adapter, &settings, base, request, |job| Warp::new(job, config))?;
        warp.attach(request.attached.to_mut(base.about.denoiser));
        request.companions.push(warp.clone());
        let references = adapter.references.clone();
        Ok(Some(Arc::new(AppliedWarp { warp, references, folder: settings.show })))
    }
}

/// What `work` makes of the warp of an adapter's pictures into what `request` asks for.
fn with_job<T>(
    adapter: &Adapter,
    settings: &WarpSettings,
    base: &Base,
    request: &Request,
    work: impl FnOnce(&WarpJob) -> Result<T>,
) -> Result<T> {
    let Some(subject) = &adapter.metadata.subject else {
        let reason = "it has pictures to warp and does not say what prompts call its subject; add --no-warp";
        return Err(Error::config("adapter", reason));
    };
    let phrase = format!("{} {}", subject.token, subject.class);
    let [_, frames, rows, columns] =
        base.about.geometry.latents([request.frames, request.height, request.width])?;
    work(&WarpJob {
        base,
        references: &adapter.references,
        attached: &request.attached,
        embeddings: request.token_embeddings.as_ref(),
        phrase: &phrase,
        prompts: &request.prompts,
        latent_size: [frames, rows, columns],
        cache: settings.cache.as_deref(),
    })
}

/// That a subject has pictures.
fn check_pictures(subject: &Subject, settings: &Learning) -> Result<()> {
    check_subject(subject, settings)?;
    if subject.pictures.is_empty() {
        let reason = "has no picture; V-Warper learns from pictures: give a folder of them".to_owned();
        return Err(Error::Subject { field: "subject", reason });
    }
    Ok(())
}

/// What all pictures share is taken for the subject where nothing tells them apart.
fn around(subject: &Subject) -> Option<String> {
    let apart = subject.pictures.iter().any(is_told_apart);
    (subject.pictures.len() > 1 && !apart).then(|| {
        format!(
            "no picture of the {} has a caption or a mask, so what is around it in all of them is learned along with it; \
             NAME.txt and NAME.mask.png beside each keep it out",
            subject.class
        )
    })
}
