//! What a training step of either stage does.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use burn::tensor::{Device, Tensor};
use understudy_engine::attach::Attachments;
use understudy_engine::ops;
use understudy_engine::parameters::{Leaves, NamedGradients, Parameters};
use understudy_engine::random::Random;
use understudy_pipeline::{PromptOptions, Request, encode_prompt, generate};
use understudy_train::{StepResult, TrainError};

use super::{Residuals, Setup, TOKEN, vector, write_sheet};
use crate::adapter::Adapter;
use crate::data::{Sample, TrainingSet};
use crate::error::Result;
use crate::flow::{FlowBatch, FlowStack, draw_sigma};
use crate::row::RowStart;

/// What a stage trains.
pub(super) enum Trained {
    /// The token's row, from a start.
    Token(RowStart),
    /// Residuals, and the row on from where it is.
    Residuals(Residuals, RowStart),
}

impl Trained {
    fn name(&self) -> &'static str {
        match self {
            Self::Token(_) => "token",
            Self::Residuals(..) => "residuals",
        }
    }
}

/// A stage's objective.
pub(super) struct Objective<'a> {
    setup: &'a Setup<'a>,
    trained: Trained,
    /// Text states `(1, words, channels)` of prompts that do not change.
    texts: BTreeMap<String, Tensor<3>>,
}

/// Samples of one kind, ready for a step.
pub(super) struct Part {
    flow: FlowBatch,
    prompts: Vec<String>,
    /// Weight of their loss.
    weight: f32,
    /// Whether their prompts have the subject's token.
    personal: bool,
}

impl<'a> Objective<'a> {
    pub(super) fn new(setup: &'a Setup<'a>, trained: Trained) -> Result<Self> {
        let mut objective = Self { setup, trained, texts: BTreeMap::new() };
        let mut fixed = setup.prior.prompts();
        if !objective.trains_row() {
            fixed.extend(setup.samples.prompts());
        }
        fixed.insert("");
        let row = setup.embeddings(objective.start().row.clone().unsqueeze_dim(0));
        for prompt in fixed {
            let options = PromptOptions { token_embeddings: Some(&row), ..PromptOptions::default() };
            let text = encode_prompt(setup.job.base, &[prompt], options)?;
            objective.texts.insert(prompt.to_owned(), text);
        }
        Ok(objective)
    }

    fn start(&self) -> &RowStart {
        match &self.trained {
            Trained::Token(start) | Trained::Residuals(_, start) => start,
        }
    }

    /// How far the row moves for each of its offset; see [`LoraConfig::token_rate`](crate::LoraConfig).
    fn rate(&self) -> f32 {
        match self.trained {
            Trained::Token(_) => 1.0,
            Trained::Residuals(..) => self.setup.config.token_rate,
        }
    }

    fn trains_row(&self) -> bool {
        self.rate() > 0.0
    }

    /// The token's row `(1, dim)` under `parameters`.
    pub(super) fn row(&self, parameters: &Parameters) -> Tensor<2> {
        match parameters.get(TOKEN) {
            Some(offset) => self.start().moved(offset.value.clone(), self.rate()),
            None => self.start().row.clone().unsqueeze_dim(0),
        }
    }

    /// What `parameters` are as an adapter.
    pub(super) fn adapter(&self, parameters: &Parameters) -> Adapter {
        let residuals = match &self.trained {
            Trained::Token(_) => BTreeMap::new(),
            Trained::Residuals(residuals, _) => residuals.finished(parameters),
        };
        self.setup.adapter(residuals, self.row(parameters))
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
        Some(Part {
            flow: FlowBatch { weights: weights(drawn), latents, noise, sigmas },
            prompts,
            weight,
            personal,
        })
    }

    /// The states of a part's prompts; they follow the row where it is trained.
    fn text(&self, part: &Part, leaves: &Leaves) -> Result<Tensor<3>, TrainError> {
        let offset = leaves.tensor::<1>(TOKEN, [self.setup.job.base.config.text_encoder.d_model]);
        if let (true, Some(offset)) = (part.personal, offset) {
            let row = self.setup.embeddings(self.start().moved(offset, self.rate()));
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
        format!("lora {} {}", self.trained.name(), self.setup.key)
    }

    fn initialize(&self, device: &Device) -> Result<Parameters, TrainError> {
        let mut parameters = match &self.trained {
            Trained::Token(_) => Parameters::new(),
            Trained::Residuals(residuals, _) => residuals.initialize(self.setup.config.seed, device),
        };
        if self.trains_row() {
            let dim = self.setup.job.base.config.text_encoder.d_model;
            parameters.insert_tensor(TOKEN, vector(vec![0.0; dim], device));
        }
        Ok(parameters)
    }

    fn batch(&self, step: u64) -> Result<Vec<Part>, TrainError> {
        let config = self.setup.config;
        let count = match self.trained {
            Trained::Token(_) => config.token.batch,
            Trained::Residuals(..) => config.lora.batch,
        };
        let mut random = Random::stream(config.seed, self.trained.name(), step);
        let mut part = |samples: &TrainingSet, count, weight, personal| {
            let drawn = samples.draw(count, &mut random);
            self.part(&drawn, weight, personal, &mut random)
        };
        let subject = part(&self.setup.samples, count, 1.0, true);
        // A token alone cannot change what the class is.
        let prior = match self.trained {
            Trained::Residuals(..) => part(&self.setup.prior, config.prior.batch, config.prior.weight, false),
            Trained::Token(_) => None,
        };
        Ok(subject.into_iter().chain(prior).collect())
    }

    fn step(&self, parameters: &Parameters, batch: Vec<Part>, _: u64) -> Result<StepResult, TrainError> {
        let mut result = StepResult {
            loss: 0.0,
            gradients: NamedGradients::new(),
            buffers: Vec::new(),
            metrics: Vec::new(),
        };
        for part in &batch {
            // A graph of its own for each: a backward pass uses it up.
            let leaves = parameters.leaves();
            let attachments = match &self.trained {
                Trained::Token(_) => Attachments::none(),
                Trained::Residuals(residuals, _) => residuals.attach(&leaves).at(residuals.window.start),
            };
            let text = self.text(part, &leaves)?;
            let transformer = &self.setup.job.base.transformer;
            let stack = FlowStack::new(transformer, &attachments, text, &part.flow, part.weight);
            let (loss, gradients) = stack.gradients(&leaves, self.setup.checkpointing);
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
        let Trained::Residuals(..) = self.trained else { return Ok(None) };
        if config.samples.every == 0 {
            return Ok(None);
        }
        let adapter = self.adapter(ema);
        let phrase = self.setup.job.subject.phrase();
        let request = Request {
            prompts: config.samples.prompts.iter().map(|prompt| prompt.replace("{}", &phrase)).collect(),
            frames: config.samples.frames,
            height: config.size[0],
            width: config.size[1],
            steps: config.samples.steps,
            guidance: config.samples.guidance,
            seed: config.seed,
            attachments: adapter.attachments(1.0),
            token_embeddings: adapter.token_embeddings(),
            ..Request::new("")
        };
        let rounded = ops::bf16_products();
        ops::set_bf16_products(false);
        let output = generate(self.setup.job.base, &request, &mut |_| ControlFlow::Continue(()));
        ops::set_bf16_products(rounded);
        let path = folder.join(format!("sample-{step:06}.png"));
        write_sheet(output.map_err(other)?.frames, &request.prompts, &path).map_err(other)?;
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
