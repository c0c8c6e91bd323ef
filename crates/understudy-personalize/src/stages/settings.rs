//! What methods are told of learning: stages, noise, versions of pictures, the prior, samples.

use serde::{Deserialize, Serialize};
use understudy_engine::attach::Window;
use understudy_engine::optimizer::AdamWConfig;
use understudy_pipeline::Description;
use understudy_train::{Schedule, TrainConfig};

use crate::error::{Error, Result};
use crate::method::Preset;
use crate::subject::SubjectOptions;
use crate::targets::Targets;

/// `word` of the first of several, and a word like it with a number for the others: `<s>`, `<s2>`.
pub fn numbered(word: &str, index: usize) -> String {
    match (index, word.strip_suffix('>')) {
        (0, _) => word.to_owned(),
        (_, Some(open)) => format!("{open}{}>", index + 1),
        (_, None) => format!("{word}{}", index + 1),
    }
}

/// One stage of a recipe.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Stage {
    /// Steps; 0 skips the stage.
    pub steps: u64,
    /// Samples a step.
    pub batch: usize,
    /// The highest learning rate.
    pub learning_rate: f32,
    /// Steps of warm-up, at most a quarter of all.
    pub warmup: u64,
    /// The fraction of the learning rate that is left at the end.
    pub end: f32,
    /// Decoupled decay of matrices.
    pub weight_decay: f32,
    /// Decay of the moving average that is kept as the result; 0 keeps the last step.
    pub ema_decay: f32,
    /// Steps between saved states.
    pub checkpoint_every: u64,
}

impl Stage {
    pub(crate) fn training(&self, sample_every: u64, bf16_products: bool) -> TrainConfig {
        TrainConfig {
            steps: self.steps,
            // A short run has a short warm-up.
            schedule: Schedule {
                learning_rate: self.learning_rate,
                warmup: self.warmup.min(self.steps / 4),
                end: self.end,
            },
            optimizer: AdamWConfig { weight_decay: self.weight_decay, ..AdamWConfig::default() },
            ema_decay: self.ema_decay,
            checkpoint_every: self.checkpoint_every,
            sample_every,
            bf16_products,
        }
    }

    pub(crate) fn check(&self, name: &str) -> Result<()> {
        let range = |field: &str, fine: bool, rule: &str| {
            if fine {
                Ok(())
            } else {
                Err(Error::config(format!("{name}.{field}"), format!("must be {rule}")))
            }
        };
        range("batch", (1..=1024).contains(&self.batch), "between 1 and 1024")?;
        range(
            "learning_rate",
            self.learning_rate.is_finite() && self.learning_rate > 0.0,
            "a positive number",
        )?;
        range("end", (0.0..=1.0).contains(&self.end), "between 0 and 1")?;
        range("weight_decay", self.weight_decay.is_finite() && self.weight_decay >= 0.0, "0 or more")?;
        range("ema_decay", (0.0..1.0).contains(&self.ema_decay), "at least 0 and below 1")?;
        range("checkpoint_every", self.checkpoint_every > 0, "at least 1")
    }
}

/// The noise levels that are trained: logit-normal (Esser et al., "Scaling Rectified Flow Transformers for
/// High-Resolution Image Synthesis", 2024, section 3.1), then shifted towards noise.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NoiseLevels {
    /// Mean of the normal number.
    pub mean: f32,
    /// Its standard deviation.
    pub deviation: f32,
    /// The shift; the base's own if it is left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shift: Option<f64>,
}

/// How pictures are varied before they are encoded. Pictures are not mirrored unless asked for, since emblems
/// and asymmetry belong to a subject.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Augmentation {
    /// Versions of each picture; the first is the picture itself.
    pub versions: usize,
    /// The largest part of a side that a version cuts off, in `[0, 0.5]`.
    pub crop: f32,
    /// Whether every second version is mirrored.
    pub mirror: bool,
    /// How many of the versions are trained as clips that hold still, too: single frames teach a base that
    /// was trained on clips what a first frame is made of, and later frames little.
    pub held: usize,
    /// Frames of those clips.
    pub held_frames: usize,
}

/// Prior preservation: samples of the base for the class alone, trained along so that the class stays what it
/// was (Ruiz et al., "DreamBooth", 2023, section 3.3).
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Prior {
    /// Weight of its loss; 0 turns it off.
    pub weight: f32,
    /// Samples the base makes, once a run.
    pub samples: usize,
    /// Frames of a sample.
    pub frames: usize,
    /// Denoising steps of a sample.
    pub steps: usize,
    /// Guidance of a sample.
    pub guidance: f32,
    /// Samples a training step.
    pub batch: usize,
}

/// Samples during training.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Samples {
    /// Steps between them; 0 makes none.
    pub every: u64,
    /// Steps between evaluations, after which the best adapter is kept and not the last; 0 makes none.
    #[serde(default)]
    pub evaluate_every: u64,
    /// Their prompts; `{}` is the subject.
    pub prompts: Vec<String>,
    /// Frames of a sample.
    pub frames: usize,
    /// Denoising steps.
    pub steps: usize,
    /// Guidance.
    pub guidance: f32,
}

/// Which half of a residual is its basis. The other half holds the coefficients: they start at zero, and what
/// a method learns apart on the same basis is added to them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Basis {
    /// A, the directions that are read: what peft starts at random.
    #[default]
    Input,
    /// B, the directions that are written.
    Output,
}

fn buckets() -> f32 {
    2.0
}

/// What all methods are told that learn a token and residuals.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Learning {
    /// Seed of everything random.
    pub seed: u64,
    /// Height and width of training, pixels; of pictures and clips of another aspect, the area.
    pub size: [usize; 2],
    /// The largest ratio of sides that pictures and clips are trained at, each at the shape nearest to its
    /// own; at 1 all are cut to the size's.
    #[serde(default = "buckets")]
    pub buckets: f32,
    /// Frames of the clips a video subject is cut into.
    pub clip_frames: usize,
    /// Frames a second of the base's videos; of a video subject that has more the frames between are left
    /// out.
    pub fps: f32,
    /// Rank of the residuals.
    pub rank: usize,
    /// Their scale, times the rank.
    pub alpha: f32,
    /// The half that stays a basis.
    #[serde(default)]
    pub basis: Basis,
    /// Share of the coefficients that is left out at a step; the others count so much more.
    #[serde(default)]
    pub dropout: f32,
    /// Share of the words of a prompt that the denoiser does not see at a step.
    #[serde(default)]
    pub text_masking: f32,
    /// The linear maps that get one.
    pub targets: Targets,
    /// The denoising steps they are active in, and trained for.
    pub window: Window,
    /// Learning rate of the token during the second stage, as a fraction of that stage's; 0 freezes it.
    pub token_rate: f32,
    /// Length the token's row may grow to, as a multiple of the length it starts with.
    pub token_norm: f32,
    /// Share of prompts that are left out.
    pub caption_dropout: f32,
    /// Weight of the loss outside masks, where there are masks.
    pub background: f32,
    /// Whether blocks are replayed in the backward pass to save memory; decided by the number of tokens if it
    /// is left out.
    #[serde(default, alias = "checkpointing", skip_serializing_if = "Option::is_none")]
    pub replay: Option<bool>,
    /// Whether matrix products round to bf16 while training.
    pub bf16_products: bool,
    /// The token stage: Textual Inversion of the token (Gal et al., "An Image is Worth One Word", 2023). Its
    /// learning rate is in units of the class noun's row.
    pub token: Stage,
    /// The looks stage: the residuals (Hu et al., "LoRA", 2022).
    pub lora: Stage,
    /// Noise levels.
    pub noise: NoiseLevels,
    /// Versions of the pictures.
    pub augmentation: Augmentation,
    /// Prior preservation.
    pub prior: Prior,
    /// Samples during training.
    pub samples: Samples,
}

impl Learning {
    /// Those of a preset.
    pub fn preset(preset: Preset) -> Self {
        match preset {
            Preset::Small => Self::small(),
            Preset::Full => Self::full(),
        }
    }

    /// For a base as small as `nano`: about a minute on two cores for six pictures.
    pub fn small() -> Self {
        let stage = Stage {
            steps: 100,
            batch: 4,
            learning_rate: 2e-2,
            warmup: 20,
            end: 0.1,
            weight_decay: 0.0,
            ema_decay: 0.0,
            checkpoint_every: 50,
        };
        Self {
            seed: 0,
            size: [64, 64],
            buckets: buckets(),
            clip_frames: 17,
            fps: 8.0,
            rank: 16,
            alpha: 16.0,
            basis: Basis::Input,
            dropout: 0.0,
            text_masking: 0.0,
            targets: Targets::AttentionAndFeedForward,
            window: Window::ALWAYS,
            token_rate: 0.5,
            token_norm: 1.5,
            caption_dropout: 0.0,
            background: 0.3,
            replay: None,
            bf16_products: false,
            lora: Stage { steps: 500, learning_rate: 1e-3, weight_decay: 0.01, ..stage },
            token: stage,
            noise: NoiseLevels { mean: 0.0, deviation: 1.0, shift: None },
            augmentation: Augmentation { versions: 6, crop: 0.1, mirror: false, held: 2, held_frames: 5 },
            prior: Prior { weight: 0.0, samples: 16, frames: 17, steps: 16, guidance: 4.0, batch: 1 },
            samples: Samples {
                every: 250,
                evaluate_every: 0,
                prompts: vec!["a {} walks to the left on the beach".into(), "a {} jumps in the snow".into()],
                frames: 17,
                steps: 16,
                guidance: 4.0,
            },
        }
    }

    /// How a subject is read to be fitted to a base with these settings.
    pub fn subject_options(&self, base: &Description) -> SubjectOptions {
        SubjectOptions {
            size: self.size,
            multiple: base.geometry.multiples(),
            buckets: Some(self.buckets),
            clip_frames: self.clip_frames,
            fps: f64::from(self.fps),
            strict: true,
        }
    }

    /// The same settings without what is only looked at and not learned from.
    pub(crate) fn learned(&self) -> Self {
        Self { samples: Self::small().samples, ..self.clone() }
    }

    /// For bases of the published sizes.
    pub fn full() -> Self {
        let small = Self::small();
        let stage = Stage { batch: 1, checkpoint_every: 100, warmup: 50, ..small.lora };
        Self {
            size: [480, 832],
            clip_frames: 33,
            fps: 16.0,
            rank: 32,
            alpha: 32.0,
            token_rate: 0.1,
            token: Stage { steps: 400, learning_rate: 5e-3, weight_decay: 0.0, ..stage.clone() },
            lora: Stage { steps: 1500, learning_rate: 1e-4, ..stage },
            augmentation: Augmentation { versions: 3, held: 0, ..small.augmentation },
            prior: Prior { weight: 0.0, frames: 1, steps: 30, guidance: 5.0, ..small.prior },
            samples: Samples { every: 500, frames: 33, steps: 30, guidance: 5.0, ..small.samples },
            ..small
        }
    }

    /// That sizes, lengths and targets fit a base.
    ///
    /// # Errors
    /// Names the first that does not, and what would.
    pub fn check_base(&self, base: &Description) -> Result<()> {
        self.targets.resolve(base.denoiser_sites())?;
        let [height, width] = self.size;
        base.geometry.latents([1, height, width])?;
        let Self { augmentation, prior, samples, .. } = self;
        let shown = samples.every.max(samples.evaluate_every) > 0;
        for (field, used, frames) in [
            ("augmentation.held_frames", augmentation.held > 0, augmentation.held_frames),
            ("prior.frames", prior.weight > 0.0, prior.frames),
            ("samples.frames", shown, samples.frames),
        ] {
            if used {
                base.geometry
                    .latents([frames, height, width])
                    .map_err(|error| Error::config(field, error.to_string()))?;
            }
        }
        Ok(())
    }

    /// That every setting is in its range.
    ///
    /// # Errors
    /// Names the first that is not, and the range.
    pub fn check(&self) -> Result<()> {
        self.token.check("token")?;
        self.lora.check("lora")?;
        let unit = |value: f32| (0.0..=1.0).contains(&value);
        let Self { window, noise, augmentation, prior, samples, .. } = self;
        let rules = [
            ("rank", (1..=1024).contains(&self.rank), "between 1 and 1024"),
            ("alpha", self.alpha.is_finite() && self.alpha > 0.0, "a positive number"),
            ("dropout", (0.0..1.0).contains(&self.dropout), "at least 0 and below 1"),
            ("text_masking", (0.0..1.0).contains(&self.text_masking), "at least 0 and below 1"),
            ("buckets", (1.0..=8.0).contains(&self.buckets), "between 1 and 8"),
            ("clip_frames", self.clip_frames >= 1, "at least 1"),
            ("fps", (0.1..=1000.0).contains(&self.fps), "between 0.1 and 1000"),
            (
                "window",
                unit(window.start) && unit(window.end) && window.start < window.end,
                "a start below an end, both in 0 to 1",
            ),
            ("token_rate", self.token_rate.is_finite() && self.token_rate >= 0.0, "0 or more"),
            ("token_norm", self.token_norm.is_finite() && self.token_norm >= 1.0, "at least 1"),
            ("caption_dropout", unit(self.caption_dropout), "between 0 and 1"),
            ("background", unit(self.background), "between 0 and 1"),
            ("noise.mean", noise.mean.is_finite(), "a finite number"),
            ("noise.deviation", noise.deviation.is_finite() && noise.deviation > 0.0, "a positive number"),
            ("noise.shift", noise.shift.is_none_or(|s| s.is_finite() && s > 0.0), "a positive number"),
            ("augmentation.versions", (1..=64).contains(&augmentation.versions), "between 1 and 64"),
            (
                "augmentation.held",
                augmentation.held <= augmentation.versions,
                "at most augmentation.versions",
            ),
            ("augmentation.crop", (0.0..=0.5).contains(&augmentation.crop), "between 0 and 0.5"),
            ("prior.weight", prior.weight.is_finite() && prior.weight >= 0.0, "0 or more"),
            ("prior.samples", prior.samples >= 1, "at least 1"),
            ("prior.batch", prior.batch >= 1, "at least 1"),
            ("prior.steps", (1..=1000).contains(&prior.steps), "between 1 and 1000"),
            ("prior.guidance", prior.guidance.is_finite(), "a finite number"),
            ("samples.steps", (1..=1000).contains(&samples.steps), "between 1 and 1000"),
            ("samples.guidance", samples.guidance.is_finite(), "a finite number"),
            (
                "samples.prompts",
                samples.every.max(samples.evaluate_every) == 0 || !samples.prompts.is_empty(),
                "at least one, or samples.every 0",
            ),
        ];
        match rules.into_iter().find(|(_, fine, _)| !fine) {
            Some((field, _, rule)) => Err(Error::config(field, format!("must be {rule}"))),
            None => Ok(()),
        }
    }
}
