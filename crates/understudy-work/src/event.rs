//! What tasks tell whoever listens: one type, one JSON object each, told apart by `event`.

use std::collections::BTreeMap;

use serde::Serialize;
use understudy_evaluate::{Interval, Verdict};
use understudy_personalize::{Evaluation, FitEvent};

use crate::results::Results;

/// Something that happened. Paths are text: what of a name is not Unicode is replaced.
#[derive(Clone, Debug, Serialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Event {
    /// Before a video is made.
    Plan(Box<GenerationPlan>),
    /// Something that is to be known.
    Note {
        /// What.
        message: String,
    },
    /// What a fit would be told, as TOML.
    Settings {
        /// The settings.
        settings: String,
    },
    /// What a file holds and is not used.
    Unmatched {
        /// The file.
        path: String,
        /// Its keys that are left out.
        keys: Vec<String>,
    },
    /// The texts of a video are encoded.
    Encoded {
        /// How long that took.
        seconds: f64,
    },
    /// A denoising step was taken.
    Step {
        /// Which video of how many, from 1.
        video: usize,
        /// How many.
        videos: usize,
        /// Steps taken so far.
        step: usize,
        /// Steps in all.
        total: usize,
        /// The noise it started from.
        sigma: f32,
        /// How many steps so far went without most blocks.
        skipped: usize,
        /// How long it took.
        seconds: f64,
    },
    /// A video is decoded.
    Decoded {
        /// How long that took.
        seconds: f64,
    },
    /// One of several videos is written.
    Video {
        /// Where.
        path: String,
        /// What it shows.
        prompt: String,
        /// Its seed, where that decides it.
        seed: Option<u64>,
        /// Which of how many, from 1.
        video: usize,
        /// How many.
        videos: usize,
        /// Whether it was there already, made just so.
        #[serde(skip_serializing_if = "std::ops::Not::not")]
        kept: bool,
    },
    /// An adapter was evaluated while it is fitted.
    Evaluation {
        /// What was found.
        evaluation: Evaluation,
    },
    /// Bytes of a repository arrived.
    Fetch {
        /// Of which file.
        file: String,
        /// Bytes that are there.
        done: u64,
        /// Bytes in all.
        total: u64,
    },
    /// A video was scored.
    Row {
        /// Its name.
        name: String,
        /// The method of a suite that made it.
        #[serde(skip_serializing_if = "Option::is_none")]
        method: Option<String>,
        /// Whether it is one that others are compared with.
        reference: bool,
        /// Whether it was scored earlier.
        kept: bool,
        /// Its scores, in the order of the metrics.
        values: Vec<Option<f64>>,
        /// Why scores are missing.
        problems: Vec<String>,
        /// What is to be known of them.
        notes: Vec<String>,
        /// Which of how many, from 1.
        row: usize,
        /// How many.
        rows: usize,
    },
    /// The mean of a metric.
    Mean(Mean),
    /// By how much videos score higher than others of the same names.
    Gain {
        /// By which metric.
        metric: String,
        /// The mean and its 95 % interval, if any pair has it.
        #[serde(flatten)]
        interval: Option<Interval>,
        /// Pairs of videos.
        pairs: usize,
    },
    /// The Frechet distance of videos from real ones.
    Fvd {
        /// What it is called after its features.
        name: String,
        /// The distance.
        distance: f64,
        /// Videos that were compared.
        videos: usize,
        /// Videos they were compared with.
        references: usize,
        /// Whether published numbers are of the same kind.
        comparable: bool,
        /// Whether it is that of the videos compared against.
        against: bool,
        /// The same for people.
        #[serde(skip)]
        said: String,
    },
    /// By what rule a metric is computed where there are several.
    Policy {
        /// The metric.
        metric: &'static str,
        /// The rule.
        policy: &'static str,
    },
    /// What a suite claims.
    Claim {
        /// The claim.
        says: String,
        /// The metric it is about.
        metric: String,
        /// Whether it holds.
        holds: bool,
        /// What was measured, if anything was.
        verdict: Option<Verdict>,
    },
    /// The demo's subject.
    Subject {
        /// Its class.
        class: &'static str,
        /// How many pictures there are of it.
        pictures: usize,
        /// Where they are.
        path: String,
    },
    /// One of the demo's videos is written.
    Sample {
        /// Where.
        path: String,
        /// What it shows.
        prompt: String,
        /// Its seed.
        seed: u64,
        /// Before or after fitting.
        when: &'static str,
        /// Which of how many, from 1.
        video: usize,
        /// How many.
        videos: usize,
    },
    /// Videos are made.
    #[serde(rename = "done")]
    Generated {
        /// Where they were to go.
        path: String,
        /// Where each is.
        paths: Vec<String>,
        /// Where their latents are.
        latents: Option<String>,
        /// How many were made just now.
        made: usize,
        /// How long it took.
        seconds: f64,
    },
    /// An adapter is written.
    #[serde(rename = "done")]
    Fitted {
        /// Where.
        path: String,
        /// What its subject is called in prompts.
        phrase: String,
        /// The flags that name its base.
        base: Vec<String>,
    },
    /// A table is written.
    #[serde(rename = "done")]
    Evaluated {
        /// Where.
        path: String,
        /// Videos in it.
        videos: usize,
        /// How long it took.
        seconds: f64,
    },
    /// An adapter was converted.
    #[serde(rename = "done")]
    Converted {
        /// Where it is.
        path: String,
        /// In whose names.
        format: &'static str,
        /// Keys that were left out.
        unmatched: Vec<String>,
        /// What is to be known.
        notes: Vec<String>,
    },
    /// A repository is there.
    #[serde(rename = "done")]
    Pulled {
        /// Where.
        path: String,
        /// Its name.
        repository: String,
        /// What `--base` takes for it.
        base: String,
    },
    /// The demo is done.
    #[serde(rename = "done")]
    Shown {
        /// Where everything is.
        path: String,
        /// The picture to look at.
        sheet: String,
        /// What was measured.
        results: Box<Results>,
    },
    /// From a fit.
    #[serde(untagged)]
    Fitting(Box<FitEvent>),
    /// From a pretraining.
    #[serde(untagged)]
    Training(understudy_train::Event),
}

/// What videos take.
#[derive(Clone, Debug, Serialize)]
pub struct GenerationPlan {
    /// What the base is called.
    pub base: String,
    /// Its architecture.
    pub identity: String,
    /// What the videos show.
    pub prompts: Vec<String>,
    /// Frames of each.
    pub frames: usize,
    /// Rows of pixels.
    pub height: usize,
    /// Columns of pixels.
    pub width: usize,
    /// Denoising steps.
    pub steps: usize,
    /// Guidance scale.
    pub guidance: f32,
    /// The sampler.
    pub scheduler: String,
    /// How far its noise levels are shifted towards noise, where the base matches flows.
    pub shift: Option<f64>,
    /// The first video's; each further one has one more.
    pub seed: u64,
    /// What is attached.
    pub adapters: Vec<AdapterUse>,
    /// Bytes of weights.
    pub weights: u64,
    /// Bytes of everything else.
    pub activations: u64,
    /// Bytes in all.
    pub memory: u64,
    /// Seconds of a step.
    pub step_seconds: f32,
    /// Seconds in all.
    pub seconds: f32,
    /// What is to be known.
    pub notes: Vec<String>,
}

/// How an adapter is used.
#[derive(Clone, Debug, Serialize)]
pub struct AdapterUse {
    /// Its file.
    pub path: String,
    /// How much it counts.
    pub weight: f32,
    /// How many modules it adapts.
    pub sites: usize,
    /// How many of them by what.
    pub kinds: BTreeMap<&'static str, usize>,
    /// The words that stand for its subjects.
    pub tokens: Vec<String>,
    /// Low-rank residuals of it.
    #[serde(skip)]
    pub residuals: usize,
    /// Dense differences of it.
    #[serde(skip)]
    pub differences: usize,
    /// Whether it is added to the weights.
    #[serde(skip)]
    pub merged: bool,
    /// Words of its subjects that no prompt has.
    #[serde(skip)]
    pub unnamed: Vec<String>,
}

/// The mean of a metric over videos.
#[derive(Clone, Debug, Serialize)]
pub struct Mean {
    /// The method of a suite.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub method: Option<String>,
    /// The group of its prompts.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub group: Option<String>,
    /// The metric.
    pub metric: &'static str,
    /// The mean and its 95 % interval, if any video has it.
    #[serde(flatten)]
    pub interval: Option<Interval>,
    /// Videos that have it.
    pub videos: usize,
    /// Videos in all.
    pub of: usize,
}
