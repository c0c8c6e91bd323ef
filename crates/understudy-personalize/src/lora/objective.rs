//! What a training step of each stage does.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use burn::tensor::{Device, Tensor, TensorData};
use understudy_engine::attach::Attachments;
use understudy_engine::host::values;
use understudy_engine::ops;
use understudy_engine::parameters::{Leaves, NamedGradients, Parameters};
use understudy_engine::random::Random;
use understudy_media::{Image, Range, Video};
use understudy_pipeline::{PromptOptions, Request, TokenEmbeddings, encode_prompt, generate};
use understudy_train::{StepResult, TrainError};

use super::residuals::Dropout;
use super::{MOTION, Residuals, Setup, TOKEN, vector, write_sheet};
use crate::adapter::Adapter;
use crate::data::{Sample, TrainingSet};
use crate::error::Result;
use crate::flow::{FlowBatch, FlowStack, draw_sigma};
use crate::judge::{Best, Evaluation, Judge};
use crate::row::RowStart;

/// What a stage trains.
pub(super) enum Trained {
    /// The rows of the subjects' tokens, from their starts.
    Token(Vec<RowStart>),
    /// Residuals, and the rows on from where they are.
    Residuals(Residuals, Vec<RowStart>),
    /// What is added to the coefficients of residuals for motions, and the rows of their tokens from their starts.
    Motion(Box<Still>, Vec<RowStart>),
}

/// What the first stages of Set-and-Sequence left: residuals, their numbers, and the rows `(subjects, dim)`.
pub(super) struct Still {
    pub(super) residuals: Residuals,
    pub(super) parameters: Parameters,
    pub(super) rows: Tensor<2>,
}

impl Trained {
    fn name(&self) -> &'static str {
        match self {
            Self::Token(_) => "token",
            Self::Residuals(..) => "residuals",
            Self::Motion(..) => MOTION,
        }
    }
}

/// A stage's objective.
pub(super) struct Objective<'a> {
    setup: &'a Setup<'a>,
    trained: Trained,
    /// Text states `(1, words, channels)` of prompts that do not change.
    texts: BTreeMap<String, Tensor<3>>,
    /// The base's own text score, once it is known.
    base_text: OnceLock<f64>,
}

/// Samples of one kind, ready for a step.
pub(super) struct Part {
    flow: FlowBatch,
    prompts: Vec<String>,
    /// Weight of their loss.
    weight: f32,
    /// Whether their prompts have the subject's token.
    personal: bool,
    /// Which words `(batch, words, 1)` the denoiser sees, where some are hidden.
    hidden: Option<Tensor<3>>,
}

impl<'a> Objective<'a> {
    pub(super) fn new(setup: &'a Setup<'a>, trained: Trained) -> Result<Self> {
        let mut objective = Self { setup, trained, texts: BTreeMap::new(), base_text: OnceLock::new() };
        let learned = if objective.trains_row() { Default::default() } else { objective.samples().prompts() };
        let fixed: BTreeSet<String> =
            setup.prior.prompts().into_iter().chain(learned).chain([""]).map(str::to_owned).collect();
        let rows = objective.starts().iter().map(|start| start.row.clone().unsqueeze_dim(0)).collect();
        let row = objective.embeddings(Tensor::cat(rows, 0));
        for prompt in fixed {
            let options = PromptOptions { token_embeddings: Some(&row), ..PromptOptions::default() };
            let text = encode_prompt(setup.job.base, &[&prompt], options)?;
            objective.texts.insert(prompt, text);
        }
        Ok(objective)
    }

    /// Where the trained rows start, one for each subject.
    fn starts(&self) -> &[RowStart] {
        match &self.trained {
            Trained::Token(starts) | Trained::Residuals(_, starts) | Trained::Motion(_, starts) => starts,
        }
    }

    /// What is learned from.
    fn samples(&self) -> &TrainingSet {
        match self.trained {
            Trained::Motion(..) => &self.setup.clips,
            _ => &self.setup.samples,
        }
    }

    /// What a step learns from: now and then two subjects side by side.
    fn shown(&self, random: &mut Random) -> &TrainingSet {
        let Setup { stitched, config, .. } = self.setup;
        let share = config.motion.as_ref().map_or(0.0, |motion| f64::from(motion.stitched));
        match self.trained {
            Trained::Motion(..) if !stitched.is_empty() && random.uniform() < share => stitched,
            _ => self.samples(),
        }
    }

    /// The rows of all tokens, where the trained ones have `rows (subjects, dim)`.
    fn rows(&self, rows: Tensor<2>) -> Tensor<2> {
        match &self.trained {
            Trained::Motion(still, _) => Tensor::cat(vec![still.rows.clone(), rows], 0),
            _ => rows,
        }
    }

    /// The tokens with their rows, where the trained ones have `rows (subjects, dim)`.
    fn embeddings(&self, rows: Tensor<2>) -> TokenEmbeddings {
        let motion = match self.trained {
            Trained::Motion(..) => self.setup.config.motion.as_ref(),
            _ => None,
        };
        let subjects = self.setup.job.subjects().map(|own| own.token.clone());
        let motions = (0..self.starts().len()).filter_map(|index| Some(motion?.token_of(index)));
        TokenEmbeddings { tokens: subjects.chain(motions).collect(), rows: self.rows(rows) }
    }

    /// How far the row moves for each of its offset; see [`LoraConfig::token_rate`](crate::LoraConfig).
    fn rate(&self) -> f32 {
        match self.trained {
            Trained::Token(_) => 1.0,
            Trained::Residuals(..) | Trained::Motion(..) => self.setup.config.token_rate,
        }
    }

    fn trains_row(&self) -> bool {
        self.rate() > 0.0
    }

    /// The trained tokens' rows `(subjects, dim)` under `parameters`.
    pub(super) fn row(&self, parameters: &Parameters) -> Tensor<2> {
        let row = |(index, start): (usize, &RowStart)| match parameters.get(&token_name(index)) {
            Some(offset) => start.moved(offset.value.clone(), self.rate()),
            None => start.row.clone().unsqueeze_dim(0),
        };
        Tensor::cat(self.starts().iter().enumerate().map(row).collect(), 0)
    }

    /// What `parameters` are as an adapter.
    pub(super) fn adapter(&self, parameters: &Parameters) -> Adapter {
        let rows = self.rows(self.row(parameters));
        let (residuals, motion) = match &self.trained {
            Trained::Token(_) => (BTreeMap::new(), BTreeMap::new()),
            Trained::Residuals(residuals, _) => (residuals.finished(parameters), BTreeMap::new()),
            Trained::Motion(still, _) => {
                let Still { residuals, parameters: own, .. } = still.as_ref();
                (residuals.finished(own), residuals.finished_motion(parameters))
            }
        };
        self.setup.adapter(residuals, rows, motion)
    }

    /// Samples with noise, as a batch, if there are any; every random number is drawn from `random`.
    fn part(
        &self,
        drawn: &[(&Sample, &str)],
        weight: f32,
        personal: bool,
        random: &mut Random,
    ) -> Option<Part> {
        if drawn.is_empty() {
            return None;
        }
        let config = self.setup.config;
        let window = [config.window.start, config.window.end];
        let latents = Tensor::cat(drawn.iter().map(|(sample, _)| sample.latents.clone()).collect(), 0);
        let sigmas =
            drawn.iter().map(|_| draw_sigma(random, &config.noise, self.setup.shift, window)).collect();
        let prompts =
            drawn.iter().map(|(_, prompt)| match random.uniform() < f64::from(config.caption_dropout) {
                true => String::new(),
                false => (*prompt).to_owned(),
            });
        let prompts = prompts.collect();
        let noise = random.normal_tensor(latents.dims(), &latents.device());
        let hidden = self.hidden_words(drawn.len(), random);
        Some(Part {
            hidden,
            flow: FlowBatch { weights: weights(drawn), latents, noise, sigmas },
            prompts,
            weight,
            personal,
        })
    }

    /// A mask `(batch, words, 1)` that hides the share of words the settings ask for.
    fn hidden_words(&self, batch: usize, random: &mut Random) -> Option<Tensor<3>> {
        let share = f64::from(self.setup.config.text_masking);
        let words = self.setup.job.base.config.max_sequence_length;
        let device = &self.setup.job.base.device;
        let mask = |random| {
            Tensor::from_data(TensorData::new(seen(share, batch * words, random), [batch, words, 1]), device)
        };
        (share > 0.0).then(|| mask(random))
    }

    /// What is attached at `step`.
    fn attachments(&self, leaves: &Leaves, step: u64) -> Attachments {
        let config = self.setup.config;
        let dropout = |share| Dropout { share, seed: config.seed, step };
        match &self.trained {
            Trained::Token(_) => Attachments::none(),
            Trained::Residuals(residuals, _) => residuals.attach_with(leaves, dropout(config.dropout)),
            Trained::Motion(still, _) => {
                let share = config.motion.as_ref().map_or(0.0, |motion| motion.dropout);
                still.residuals.attach_motion_with(&still.parameters, leaves, dropout(share))
            }
        }
    }

    /// The states of a part's prompts; they follow the row where it is trained.
    fn text(&self, part: &Part, leaves: &Leaves) -> Result<Tensor<3>, TrainError> {
        let dim = [self.setup.job.base.config.text_encoder.d_model];
        let row = |(index, start): (usize, &RowStart)| {
            Some(start.moved(leaves.tensor::<1>(&token_name(index), dim)?, self.rate()))
        };
        let rows: Option<Vec<_>> = self.starts().iter().enumerate().map(row).collect();
        if let (true, Some(rows)) = (part.personal, rows) {
            let row = self.embeddings(Tensor::cat(rows, 0));
            let options = PromptOptions { token_embeddings: Some(&row), ..PromptOptions::default() };
            let prompts: Vec<&str> = part.prompts.iter().map(String::as_str).collect();
            return encode_prompt(self.setup.job.base, &prompts, options).map_err(other);
        }
        let known = |prompt: &String| self.texts.get(prompt).cloned();
        let texts: Option<Vec<_>> = part.prompts.iter().map(known).collect();
        let missing = || TrainError::Other("a prompt has no text states; start the run again".to_owned());
        Ok(Tensor::cat(texts.ok_or_else(missing)?, 0))
    }
}

/// For each of so many words whether it is seen, 1, or one of the `share` that is hidden, 0.
fn seen(share: f64, words: usize, random: &mut Random) -> Vec<f32> {
    (0..words).map(|_| if random.uniform() < share { 0.0 } else { 1.0 }).collect()
}

/// The offset of subject `index`'s row among the parameters.
fn token_name(index: usize) -> String {
    if index == 0 { TOKEN.to_owned() } else { format!("{TOKEN}.{index}") }
}

/// The weights of a batch, where any of it has some.
fn weights(drawn: &[(&Sample, &str)]) -> Option<Tensor<5>> {
    if drawn.iter().all(|(sample, _)| sample.weights.is_none()) {
        return None;
    }
    let own = |(sample, _): &(&Sample, &str)| match &sample.weights {
        Some(weights) => weights.clone(),
        None => {
            let [_, _, frames, rows, columns] = sample.latents.dims();
            Tensor::ones([1, 1, frames, rows, columns], &sample.latents.device())
        }
    };
    Some(Tensor::cat(drawn.iter().map(own).collect(), 0))
}

fn other(error: impl std::fmt::Display) -> TrainError {
    TrainError::Other(error.to_string())
}

impl understudy_train::Objective for Objective<'_> {
    type Batch = Vec<Part>;

    fn name(&self) -> String {
        format!("lora {} {}", self.trained.name(), self.setup.keys.of(self.trained.name()))
    }

    fn initialize(&self, device: &Device) -> Result<Parameters, TrainError> {
        let mut parameters = match &self.trained {
            Trained::Token(_) => Parameters::new(),
            Trained::Residuals(residuals, _) => residuals.initialize(self.setup.config.seed, device),
            Trained::Motion(still, _) => still.residuals.initialize_motion(device),
        };
        if self.trains_row() {
            let dim = self.setup.job.base.config.text_encoder.d_model;
            for index in 0..self.starts().len() {
                parameters.insert_tensor(token_name(index), vector(vec![0.0; dim], device));
            }
        }
        Ok(parameters)
    }

    fn batch(&self, step: u64) -> Result<Vec<Part>, TrainError> {
        let config = self.setup.config;
        let count = match (&self.trained, &config.motion) {
            (Trained::Token(_), _) => config.token.batch,
            (Trained::Motion(..), Some(motion)) => motion.stage.batch,
            _ => config.lora.batch,
        };
        let mut random = Random::stream(config.seed, self.trained.name(), step);
        let shown = self.shown(&mut random);
        let mut part = |samples: &TrainingSet, count, weight, personal| {
            let drawn = samples.draw(count, &mut random);
            self.part(&drawn, weight, personal, &mut random)
        };
        let subject = part(shown, count, 1.0, true);
        // A token alone cannot change what the class is.
        let prior = match self.trained {
            Trained::Token(_) => None,
            Trained::Residuals(..) if config.motion.is_some() => {
                part(&self.setup.still_prior, config.prior.batch, config.prior.weight, false)
            }
            _ => part(&self.setup.prior, config.prior.batch, config.prior.weight, false),
        };
        Ok(subject.into_iter().chain(prior).collect())
    }

    fn step(&self, parameters: &Parameters, batch: Vec<Part>, step: u64) -> Result<StepResult, TrainError> {
        let mut result = StepResult {
            loss: 0.0,
            gradients: NamedGradients::new(),
            buffers: Vec::new(),
            metrics: Vec::new(),
        };
        for part in &batch {
            // A graph of its own for each: a backward pass uses it up.
            let leaves = parameters.leaves();
            let attachments = self.attachments(&leaves, step).at(self.setup.config.window.start);
            let text = self.text(part, &leaves)?;
            let text = match &part.hidden {
                Some(mask) => text * mask.clone(),
                None => text,
            };
            let transformer = &self.setup.job.base.transformer;
            let stack = FlowStack::new(transformer, &attachments, text, &part.flow, part.weight);
            let (loss, gradients) = stack.gradients(&leaves, self.setup.checkpointing);
            self.setup.job.base.check_read().map_err(other)?;
            result.loss += loss;
            add(gradients, &mut result.gradients);
            if batch.len() > 1 {
                let name = if part.personal { "subject" } else { "prior" };
                result.metrics.push((name.to_owned(), loss / part.weight));
            }
        }
        Ok(result)
    }

    /// Videos of the configured prompts, made by the very [`generate`] users run with the adapter as it would be
    /// written now.
    fn sample(&self, ema: &Parameters, step: u64, folder: &Path) -> Result<Option<PathBuf>, TrainError> {
        let config = self.setup.config;
        let Some(last) = self.steps() else { return Ok(None) };
        let due = |every: u64| every > 0 && (step.is_multiple_of(every) || step == last);
        let judge = self.judge().filter(|_| due(config.samples.evaluate_every));
        let shown = due(config.samples.every);
        if judge.is_none() && !shown {
            return Ok(None);
        }
        let adapter = self.adapter(ema);
        let prompts = self.shown_prompts(&self.setup.job.subject.phrase());
        let frames = self.videos(&prompts, Some(&adapter))?;
        if let Some(judge) = judge {
            self.evaluate(judge, &adapter, frames.clone(), step, folder)?;
        }
        let path = folder.join(format!("sample-{step:06}.png"));
        if shown {
            write_sheet(frames, &prompts, &path).map_err(other)?;
        }
        Ok(shown.then_some(path))
    }
}

impl Objective<'_> {
    /// Steps of this stage; none for the token's, of which there is nothing to see.
    fn steps(&self) -> Option<u64> {
        match self.trained {
            Trained::Token(_) => None,
            Trained::Residuals(..) => Some(self.setup.config.lora.steps),
            Trained::Motion(..) => self.setup.config.motion.as_ref().map(|motion| motion.stage.steps),
        }
    }

    /// Who evaluates this stage, if it is the last.
    fn judge(&self) -> Option<&dyn Judge> {
        let last = matches!(self.trained, Trained::Motion(..)) || self.setup.config.motion.is_none();
        self.setup.judge.filter(|_| last)
    }

    /// Videos `(prompts, 3, frames, height, width)` in [0, 1], with an adapter or of the base alone.
    fn videos(&self, prompts: &[String], adapter: Option<&Adapter>) -> Result<Tensor<5>, TrainError> {
        let config = self.setup.config;
        let request = Request {
            prompts: prompts.to_vec(),
            frames: config.samples.frames,
            height: config.size[0],
            width: config.size[1],
            steps: config.samples.steps,
            guidance: config.samples.guidance,
            seed: config.seed,
            attachments: adapter.map_or_else(Attachments::none, |adapter| adapter.attachments(1.0)),
            token_embeddings: adapter.and_then(Adapter::token_embeddings),
            ..Request::new("")
        };
        let rounded = ops::bf16_products();
        ops::set_bf16_products(false);
        let output = generate(self.setup.job.base, &request, &mut |_| ControlFlow::Continue(()));
        ops::set_bf16_products(rounded);
        Ok(output.map_err(other)?.frames)
    }

    /// Scores videos of the adapter against those of the base, and keeps it if it is the best.
    fn evaluate(
        &self,
        judge: &dyn Judge,
        adapter: &Adapter,
        videos: Tensor<5>,
        step: u64,
        folder: &Path,
    ) -> Result<(), TrainError> {
        let class = &self.setup.job.subject.class;
        let plain = self.shown_prompts(class);
        let plain: Vec<String> =
            plain.iter().take(self.setup.config.samples.prompts.len()).cloned().collect();
        let mean = |scores: &[f64]| scores.iter().sum::<f64>() / scores.len().max(1) as f64;
        let texts = |videos: &[Vec<Image>]| -> Result<f64, TrainError> {
            let scores = videos.iter().zip(&plain).map(|(video, prompt)| judge.text(video, prompt));
            Ok(mean(&scores.collect::<Result<Vec<_>, _>>().map_err(other)?))
        };
        let base_text = match self.base_text.get() {
            Some(known) => *known,
            None => {
                let found = texts(&images(self.videos(&plain, None)?).map_err(other)?)?;
                *self.base_text.get_or_init(|| found)
            }
        };
        let videos = images(videos).map_err(other)?;
        let identity = videos.iter().map(|video| judge.identity(video)).collect::<Result<Vec<_>, _>>();
        let evaluation = Evaluation::new(step, mean(&identity.map_err(other)?), texts(&videos)?, base_text);
        judge.hear(&Best::new(folder).offer(adapter, evaluation).map_err(other)?);
        Ok(())
    }

    /// The prompts of samples: as they are set, and, where a motion is trained, as it is named.
    fn shown_prompts(&self, phrase: &str) -> Vec<String> {
        let config = self.setup.config;
        let mut prompts: Vec<String> =
            config.samples.prompts.iter().map(|prompt| prompt.replace("{}", phrase)).collect();
        if let (Trained::Motion(..), Some(motion)) = (&self.trained, &config.motion) {
            prompts.push(format!("a {phrase} {}", motion.token));
        }
        prompts
    }
}

/// The frames of `videos (count, 3, frames, height, width)` in [0, 1].
fn images(videos: Tensor<5>) -> Result<Vec<Vec<Image>>> {
    let [count, channels, frames, height, width] = videos.dims();
    let values = values(videos);
    let length = channels * frames * height * width;
    let video = |index: usize| {
        let planar = &values[index * length..][..length];
        Ok(Video::from_planar(planar, [frames, height, width], 8.0, Range::Unit)?.frames)
    };
    (0..count).map(video).collect()
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
