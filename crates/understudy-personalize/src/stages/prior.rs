//! Prior preservation: what the base makes of the class alone.

use std::ops::ControlFlow;
use std::path::Path;

use understudy_pipeline::{Event, Request, generate};

use super::data::{Sample, Tell, TrainingSet, read_latents, write_latents};
use super::settings::Learning;
use crate::error::{Error, Result};
use crate::job::Job;
use crate::prompts::varied_prompts;

/// What they are of: every subject's class in turn.
fn prompts(job: &Job) -> Vec<String> {
    let each: Vec<Vec<String>> = job
        .subjects()
        .map(|subject| varied_prompts(job.base.networks.text.tokenizer(), &subject.class))
        .collect();
    let longest = each.iter().map(Vec::len).max().unwrap_or(0);
    (0..longest).flat_map(|at| each.iter().filter_map(move |own| own.get(at).cloned())).collect()
}

/// Samples of the base for the class noun, made by the same [`generate`] users run, without any adapter. They
/// are kept at `cache` under `key`, so that a stopped run goes on with the very same.
///
/// # Errors
/// When they cannot be made or written, or `tell` asked to stop.
pub(crate) fn prior_samples(
    job: &Job,
    settings: &Learning,
    (cache, key): (&Path, &str),
    tell: Tell,
) -> Result<TrainingSet> {
    let prior = settings.prior;
    let prompts = prompts(job);
    let mut latents = read_latents(cache, key, job.base, prior.samples);
    for index in latents.len()..prior.samples {
        let request = Request {
            frames: prior.frames,
            height: settings.size[0],
            width: settings.size[1],
            steps: prior.steps,
            guidance: prior.guidance,
            seed: settings.seed.wrapping_add(index as u64),
            ..Request::new(prompts[index % prompts.len()].clone())
        };
        let [before, total] = [index, prior.samples].map(|samples| (samples * prior.steps) as u64);
        let mut step = before;
        let mut heard = |event: Event| match event {
            Event::Step { index, .. } => {
                step = before + index as u64 + 1;
                tell(step, total)
            }
            _ => ControlFlow::Continue(()),
        };
        match generate(job.base, &request, &mut heard) {
            Ok(output) => latents.push(output.latents),
            Err(understudy_pipeline::Error::Interrupted { .. }) => {
                return Err(Error::Stopped { stage: "the prior's samples", step, total });
            }
            Err(error) => return Err(error.into()),
        }
        write_latents(cache, key, &latents)?;
    }
    let mut samples = TrainingSet::default();
    for (index, latents) in latents.into_iter().enumerate() {
        let prompts = vec![prompts[index % prompts.len()].clone()];
        samples.push(Sample { latents, weights: None, prompts });
    }
    Ok(samples)
}
