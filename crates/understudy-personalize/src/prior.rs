//! Prior preservation: what the base makes of the class alone.

use std::ops::ControlFlow;
use std::path::Path;

use understudy_pipeline::{Event, Request, generate};

use crate::config::LoraConfig;
use crate::data::{Sample, Tell, TrainingSet, read_latents, write_latents};
use crate::error::{Error, Result};
use crate::job::Job;
use crate::prompts::neutral_prompts;

/// Samples of the base for the class noun, made by the same [`generate`] users run, without any adapter. They
/// are kept at `cache` under `key`, so that a stopped run goes on with the very same.
///
/// # Errors
/// When they cannot be made or written, or `tell` asked to stop.
pub(crate) fn prior_samples(
    job: &Job,
    config: &LoraConfig,
    (cache, key): (&Path, &str),
    tell: Tell,
) -> Result<TrainingSet> {
    let prior = config.prior;
    let prompts = neutral_prompts(&job.base.tokenizer, &job.subject.class);
    let mut latents = read_latents(cache, key, job.base, prior.samples);
    for index in latents.len()..prior.samples {
        let request = Request {
            frames: prior.frames,
            height: config.size[0],
            width: config.size[1],
            steps: prior.steps,
            guidance: prior.guidance,
            seed: config.seed.wrapping_add(index as u64),
            ..Request::new(prompts[index % prompts.len()].clone())
        };
        let mut go_on = |_: Event| ControlFlow::Continue(());
        latents.push(generate(job.base, &request, &mut go_on)?.latents);
        write_latents(cache, key, &latents)?;
        let [step, total] = [latents.len() as u64, prior.samples as u64];
        if tell(step, total).is_break() {
            return Err(Error::Stopped { stage: "the prior's samples", step, total });
        }
    }
    let mut samples = TrainingSet::default();
    for (index, latents) in latents.into_iter().enumerate() {
        let prompts = vec![prompts[index % prompts.len()].clone()];
        samples.push(Sample { latents, weights: None, prompts });
    }
    Ok(samples)
}
