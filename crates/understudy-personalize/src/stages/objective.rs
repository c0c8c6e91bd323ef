//! A training step of any stage: noisy samples of a subject, and of the prior, through the denoiser with what
//! is learned.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use burn::tensor::{Device, Tensor, TensorData};
use understudy_engine::attach::{Attached, Attachments};
use understudy_engine::parameters::{Leaves, NamedGradients, Parameters};
use understudy_engine::random::Random;
use understudy_pipeline::{PromptOptions, Texts, encode_prompt};
use understudy_train::{StepResult, TrainError};

use super::data::{Sample, TrainingSet};
use super::loss::{NoisyBatch, draw_sigma};
use super::rows::Rows;
use super::run::Run;
use super::samples::{Shown, write_sheet};
use super::settings::Stage;
use crate::adapter::Adapter;
use crate::error::Result;

/// What a stage learns, and from what.
pub trait Learner: Sync {
    /// What it learns: names its random numbers and its states.
    fn name(&self) -> &'static str;

    /// Its parameters before training, but for the rows of tokens.
    fn initialize(&self, device: &Device) -> Parameters;

    /// What is attached to the denoiser at `step`.
    fn attachments(&self, leaves: &Leaves, step: u64) -> Attachments;

    /// What a step is shown; may be drawn.
    fn samples(&self, random: &mut Random) -> &TrainingSet;

    /// All that [`Learner::samples`] may give.
    fn sets(&self) -> Vec<&TrainingSet>;

    /// What a step is shown of the prior, if anything.
    fn prior(&self) -> Option<&TrainingSet>;

    /// What `parameters` are as an adapter, with the rows of all tokens.
    fn adapter(&self, parameters: &Parameters, rows: Tensor<2>) -> Adapter;

    /// Prompts that samples show beside those of the settings; `phrase` is the subject.
    fn prompts(&self, phrase: &str) -> Vec<String> {
        let _ = phrase;
        Vec::new()
    }
}

/// A stage: its learner, its settings and the rows it trains.
pub struct Objective<'a, L> {
    pub(super) run: &'a Run<'a>,
    pub(super) learner: L,
    pub(super) stage: &'a Stage,
    /// What tells its states from those of other runs.
    pub(super) key: &'a str,
    pub(super) rows: Rows,
    /// Whether samples are made on the way, and whether they are judged.
    pub(super) shown: Option<Shown<'a>>,
    /// What the denoiser reads of prompts that do not change.
    texts: BTreeMap<String, Texts>,
}

/// Samples of one kind, ready for a step.
pub struct Part {
    noisy: NoisyBatch,
    prompts: Vec<String>,
    /// Weight of their loss.
    weight: f32,
    /// Whether their prompts have the subject's token.
    personal: bool,
    /// Which words `(batch, words, 1)` the denoiser sees, where some are hidden.
    hidden: Option<Tensor<3>>,
}

impl<'a, L: Learner> Objective<'a, L> {
    pub(super) fn new(
        run: &'a Run<'a>,
        learner: L,
        (stage, key): (&'a Stage, &'a str),
        rows: Rows,
        shown: Option<Shown<'a>>,
        prompts: BTreeSet<String>,
    ) -> Result<Self> {
        let mut objective = Self { run, learner, stage, key, rows, shown, texts: BTreeMap::new() };
        let embeddings = objective.rows.embeddings(objective.rows.starting());
        for prompt in prompts.into_iter().chain([String::new()]) {
            let options = PromptOptions { token_embeddings: Some(&embeddings), ..PromptOptions::default() };
            let texts = encode_prompt(run.job.base, &[&prompt], options)?;
            objective.texts.insert(prompt, texts);
        }
        Ok(objective)
    }

    /// What `parameters` are as an adapter.
    pub(super) fn adapter(&self, parameters: &Parameters) -> Adapter {
        let rows = self.rows.embeddings(self.rows.under(parameters)).rows;
        self.learner.adapter(parameters, rows)
    }

    /// Samples with noise, as a batch, if there are any; every random number is drawn from `random`.
    fn part(
        &self,
        drawn: &[(&Sample, &str)],
        (weight, personal): (f32, bool),
        random: &mut Random,
    ) -> Option<Part> {
        if drawn.is_empty() {
            return None;
        }
        let settings = self.run.learning;
        let window = [settings.window.start, settings.window.end];
        let latents = Tensor::cat(drawn.iter().map(|(sample, _)| sample.latents.clone()).collect(), 0);
        let kind = self.run.job.base.networks.denoiser.noise();
        let level = |_| kind.level(draw_sigma(random, &settings.noise, self.run.shift, window));
        let levels = drawn.iter().map(level).collect();
        let left_out = f64::from(settings.caption_dropout);
        let prompt = |(_, prompt): &(&Sample, &str)| {
            if random.uniform() < left_out { String::new() } else { (*prompt).to_owned() }
        };
        let prompts = drawn.iter().map(prompt).collect();
        let noise = random.normal_tensor(latents.dims(), &latents.device());
        let hidden = self.hidden_words(drawn.len(), random);
        let noisy = NoisyBatch { weights: weights(drawn), latents, noise, levels };
        Some(Part { hidden, noisy, prompts, weight, personal })
    }

    /// A mask `(batch, words, 1)` that hides the share of words the settings ask for.
    fn hidden_words(&self, batch: usize, random: &mut Random) -> Option<Tensor<3>> {
        let share = f64::from(self.run.learning.text_masking);
        let (words, device) = (self.run.job.base.about.text_limit, &self.run.job.base.device);
        let mask = |random| {
            Tensor::from_data(TensorData::new(seen(share, batch * words, random), [batch, words, 1]), device)
        };
        (share > 0.0).then(|| mask(random))
    }

    /// What the denoiser reads of a part's prompts; it follows the rows where they are trained.
    fn texts(&self, part: &Part, leaves: &Leaves) -> Result<Texts, TrainError> {
        if let (true, Some(rows)) = (part.personal, self.rows.tracked(leaves)) {
            let embeddings = self.rows.embeddings(rows);
            let options = PromptOptions { token_embeddings: Some(&embeddings), ..PromptOptions::default() };
            let prompts: Vec<&str> = part.prompts.iter().map(String::as_str).collect();
            return encode_prompt(self.run.job.base, &prompts, options).map_err(other);
        }
        let known = |prompt: &String| self.texts.get(prompt).cloned();
        let texts: Option<Vec<_>> = part.prompts.iter().map(known).collect();
        let missing = || TrainError::Other("a prompt has no text states; start the run again".to_owned());
        Ok(Texts::cat(texts.ok_or_else(missing)?))
    }
}

/// For each of so many words whether it is seen, 1, or one of the `share` that is hidden, 0.
fn seen(share: f64, words: usize, random: &mut Random) -> Vec<f32> {
    (0..words).map(|_| if random.uniform() < share { 0.0 } else { 1.0 }).collect()
}

/// The weights of a batch, where any of it has some.
fn weights(drawn: &[(&Sample, &str)]) -> Option<Tensor<5>> {
    if drawn.iter().all(|(sample, _)| sample.weights.is_none()) {
        return None;
    }
    let of_sample = |(sample, _): &(&Sample, &str)| match &sample.weights {
        Some(weights) => weights.clone(),
        None => {
            let [_, _, frames, rows, columns] = sample.latents.dims();
            Tensor::ones([1, 1, frames, rows, columns], &sample.latents.device())
        }
    };
    Some(Tensor::cat(drawn.iter().map(of_sample).collect(), 0))
}

pub(super) fn other(error: impl std::fmt::Display) -> TrainError {
    TrainError::Other(error.to_string())
}

impl<L: Learner> understudy_train::Objective for Objective<'_, L> {
    type Batch = Vec<Part>;

    fn name(&self) -> String {
        format!("{} {} {}", self.run.method, self.learner.name(), self.key)
    }

    fn initialize(&self, device: &Device) -> Result<Parameters, TrainError> {
        let mut parameters = self.learner.initialize(device);
        self.rows.initialize(&mut parameters, device);
        Ok(parameters)
    }

    fn batch(&self, step: u64) -> Result<Vec<Part>, TrainError> {
        let settings = self.run.learning;
        let mut random = Random::stream(settings.seed, self.learner.name(), step);
        let shown = self.learner.samples(&mut random);
        let drawn = shown.draw(self.stage.batch, &mut random);
        let subject = self.part(&drawn, (1.0, true), &mut random);
        let prior = self.learner.prior().and_then(|prior| {
            let drawn = prior.draw(settings.prior.batch, &mut random);
            self.part(&drawn, (settings.prior.weight, false), &mut random)
        });
        Ok(subject.into_iter().chain(prior).collect())
    }

    fn step(&self, parameters: &Parameters, batch: Vec<Part>, step: u64) -> Result<StepResult, TrainError> {
        let mut result = StepResult {
            loss: 0.0,
            gradients: NamedGradients::new(),
            buffers: Vec::new(),
            metrics: Vec::new(),
        };
        let denoiser = self.run.job.base.networks.denoiser.as_ref();
        for part in &batch {
            // A graph of its own for each: a backward pass uses it up.
            let leaves = parameters.leaves();
            let attached = Attached::one(denoiser.name(), self.learner.attachments(&leaves, step));
            let mut texts = self.texts(part, &leaves)?;
            if let Some(mask) = &part.hidden {
                texts.words = texts.words * mask.clone();
            }
            let conditions = (&texts, &attached, self.run.learning.window.start);
            let (loss, gradients) =
                part.noisy.gradients(denoiser, conditions, (&leaves, self.run.replayed), part.weight);
            self.run.job.base.check_read().map_err(other)?;
            result.loss += loss;
            add(gradients, &mut result.gradients);
            if batch.len() > 1 {
                let name = if part.personal { "subject" } else { "prior" };
                result.metrics.push((name.to_owned(), loss / part.weight));
            }
        }
        Ok(result)
    }

    /// Videos of the configured prompts, as users generate them with the adapter as it would be written now.
    fn sample(&self, ema: &Parameters, step: u64, folder: &Path) -> Result<Option<PathBuf>, TrainError> {
        let Some(shown) = &self.shown else { return Ok(None) };
        let samples = &self.run.learning.samples;
        let due = |every: u64| every > 0 && (step.is_multiple_of(every) || step == self.stage.steps);
        let (judged, visible) = (shown.is_judged() && due(samples.evaluate_every), due(samples.every));
        if !judged && !visible {
            return Ok(None);
        }
        let adapter = self.adapter(ema);
        let phrase = self.run.job.subject.phrase();
        let prompts = shown.prompts(&phrase, self.learner.prompts(&phrase));
        let frames = shown.videos(&prompts, Some(&adapter))?;
        if judged {
            shown.evaluate(&adapter, frames.clone(), step, folder)?;
        }
        if !visible {
            return Ok(None);
        }
        let path = folder.join(format!("sample-{step:06}.png"));
        write_sheet(frames, &prompts, &path).map_err(other)?;
        Ok(Some(path))
    }
}

/// Adds gradients to those already there.
fn add(gradients: NamedGradients, into: &mut NamedGradients) {
    for (name, gradient) in gradients {
        let sum = match into.remove(&name) {
            Some(previous) => previous + gradient,
            None => gradient,
        };
        into.insert(name, sum);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn so_many_words_are_hidden_each_time_others() {
        let mut random = Random::new(5, 0);
        let mut draw = || seen(0.1, 10_000, &mut random);
        let (first, second) = (draw(), draw());
        let hidden = first.iter().filter(|word| **word == 0.0).count();
        assert!(first.iter().all(|word| *word == 0.0 || *word == 1.0));
        // The standard deviation is 30.
        assert!(hidden.abs_diff(1000) < 150, "{hidden}");
        assert_ne!(first, second);
    }
}
