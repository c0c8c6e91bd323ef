//! Settings of the method `lora`, and presets of them.

use std::str::FromStr;

use serde::{Deserialize, Serialize};
use understudy_engine::attach::Window;
use understudy_engine::optimizer::AdamWConfig;
use understudy_pipeline::{BaseConfig, latent_shape};
use understudy_train::{Schedule, TrainConfig};

use crate::error::{Error, Result};
use crate::sites::Targets;
use crate::subject::SubjectOptions;

/// What stands for a motion in prompts unless something else is asked for.
pub const DEFAULT_MOTION: &str = "<m>";

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
    /// Steps between checkpoints.
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

    fn check(&self, name: &str) -> Result<()> {
        let range = |field: &str, fine: bool, rule: &str| match fine {
            true => Ok(()),
            false => Err(Error::config(format!("{name}.{field}"), format!("must be {rule}"))),
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
pub struct Noise {
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
    /// How many of the versions are trained as clips that hold still, too: single frames teach a base that was
    /// trained on clips what a first frame is made of, and later frames little.
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

/// Which half of a residual is its basis. The other half holds the coefficients: they start at zero, and what Set-and-
/// Sequence adds for motion is added to them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Basis {
    /// A, the directions that are read: what peft starts at random.
    #[default]
    Input,
    /// B, the directions that are written: the basis of Set-and-Sequence, whose `W' = W + A B` has them on the left.
    Output,
}

/// The motion stage of Set-and-Sequence (Abdal et al., "Dynamic Concepts Personalization from Single Videos", 2025):
/// residuals of the coefficients, learned from the clip in its order on the basis that its frames gave.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Motion {
    /// The word that stands for the motion in prompts.
    pub token: String,
    /// Share of these coefficients that is left out at a step.
    pub dropout: f32,
    /// Share of the prompts that do not name the motion, to a twentieth.
    pub unnamed: f32,
    /// How often, of several subjects, two are shown side by side in one clip, so that neither looks like the other.
    #[serde(default = "stitched")]
    pub stitched: f32,
    /// Its steps.
    pub stage: Stage,
}

fn stitched() -> f32 {
    0.1
}

fn buckets() -> f32 {
    2.0
}

impl Motion {
    /// The word that stands for the motion of subject `index`: `<m>`, `<m2>`, `<m3>`.
    pub fn token_of(&self, index: usize) -> String {
        numbered(&self.token, index)
    }
}

/// `word` of the first of several, and a word like it with a number for the others: `<s>`, `<s2>`.
pub fn numbered(word: &str, index: usize) -> String {
    match (index, word.strip_suffix('>')) {
        (0, _) => word.to_owned(),
        (_, Some(open)) => format!("{open}{}>", index + 1),
        (_, None) => format!("{word}{}", index + 1),
    }
}

/// Settings of the method `lora`, and of those built on it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LoraConfig {
    /// Seed of everything random.
    pub seed: u64,
    /// Height and width of training, pixels; of pictures and clips of another aspect, the area.
    pub size: [usize; 2],
    /// The largest ratio of sides that pictures and clips are trained at, each at the shape nearest to its own; at 1 all are cut
    /// to the size's.
    #[serde(default = "buckets")]
    pub buckets: f32,
    /// Frames of the clips a video subject is cut into.
    pub clip_frames: usize,
    /// Frames a second of the base's videos; of a video subject that has more the frames between are left out.
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
    /// Whether the adapter keeps the pictures, for V-Warper to warp their values into videos.
    #[serde(default)]
    pub references: bool,
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
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub checkpointing: Option<bool>,
    /// Whether matrix products round to bf16 while training.
    pub bf16_products: bool,
    /// The token stage: Textual Inversion of the token (Gal et al., "An Image is Worth One Word", 2023). Its
    /// learning rate is in units of the class noun's row.
    pub token: Stage,
    /// The looks stage: the residuals (Hu et al., "LoRA", 2022).
    pub lora: Stage,
    /// Noise levels.
    pub noise: Noise,
    /// Versions of the pictures.
    pub augmentation: Augmentation,
    /// Prior preservation.
    pub prior: Prior,
    /// Samples during training.
    pub samples: Samples,
    /// The motion stage, which makes it Set-and-Sequence.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub motion: Option<Motion>,
}

/// A set of settings by name.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Preset {
    /// For `nano`: about a minute on two cores for six pictures.
    #[default]
    Nano,
    /// For Wan 2.1 as published.
    Wan,
}

impl FromStr for Preset {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        match text {
            "nano" => Ok(Self::Nano),
            "wan" => Ok(Self::Wan),
            other => Err(Error::config("preset", format!("{other:?} is not known; use nano or wan"))),
        }
    }
}

impl Preset {
    /// Its settings.
    pub fn config(self) -> LoraConfig {
        match self {
            Self::Nano => LoraConfig::nano(),
            Self::Wan => LoraConfig::wan(),
        }
    }

    /// Its settings for Set-and-Sequence: [`LoraConfig::sequence`]. On `nano` the looks have fewer steps and the motion more, both
    /// at three times the rates and regularized more lightly, without the prior: so few steps reach little where so much is
    /// left out, and a base so small unlearns the motion in other places along with the class's (`docs/results.md`).
    pub fn sequence(self) -> LoraConfig {
        let config = self.config().sequence();
        let (Self::Nano, Some(motion)) = (self, &config.motion) else { return config };
        const FASTER: f32 = 3.0;
        let faster = |stage: &Stage, steps: u64, batch: usize| Stage {
            steps,
            batch,
            learning_rate: FASTER * stage.learning_rate,
            ..stage.clone()
        };
        LoraConfig {
            token: Stage { steps: 50, batch: 2, ..config.token.clone() },
            lora: faster(&config.lora, 200, 4),
            dropout: 0.5,
            prior: Prior { weight: 0.0, ..config.prior },
            motion: Some(Motion { dropout: 0.2, stage: faster(&motion.stage, 600, 2), ..motion.clone() }),
            ..config
        }
    }

    /// Its settings with those of `overrides` in their place, table by table.
    ///
    /// # Errors
    /// When an override is unknown or of the wrong kind; the message names it.
    pub fn with(self, overrides: &toml::Table) -> Result<LoraConfig> {
        self.config().with(overrides)
    }
}

impl LoraConfig {
    /// These settings with those of `overrides` in their place, table by table.
    ///
    /// # Errors
    /// When an override is unknown or of the wrong kind; the message names it.
    pub fn with(&self, overrides: &toml::Table) -> Result<Self> {
        let fault = |error: &dyn std::fmt::Display| {
            Error::config("settings", error.to_string().split_whitespace().collect::<Vec<_>>().join(" "))
        };
        let mut table = toml::Table::try_from(self).map_err(|error| fault(&error))?;
        merge(&mut table, overrides);
        let config: Self = table.try_into().map_err(|error: toml::de::Error| fault(&error))?;
        config.check()?;
        Ok(config)
    }
}

fn merge(into: &mut toml::Table, from: &toml::Table) {
    for (name, value) in from {
        match (into.get_mut(name), value) {
            (Some(toml::Value::Table(inner)), toml::Value::Table(more)) => merge(inner, more),
            _ => drop(into.insert(name.clone(), value.clone())),
        }
    }
}

impl LoraConfig {
    /// [`Preset::Nano`].
    pub fn nano() -> Self {
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
            references: false,
            targets: Targets::AttentionAndFeedForward,
            window: Window::ALWAYS,
            token_rate: 0.5,
            token_norm: 1.5,
            caption_dropout: 0.0,
            background: 0.3,
            checkpointing: None,
            bf16_products: false,
            lora: Stage { steps: 500, learning_rate: 1e-3, weight_decay: 0.01, ..stage },
            token: stage,
            noise: Noise { mean: 0.0, deviation: 1.0, shift: None },
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
            motion: None,
        }
    }

    /// How a subject is read to be fitted to a base with these settings. V-Warper's pictures have the shape of the videos they
    /// are warped into.
    pub fn subject_options(&self, base: &BaseConfig) -> SubjectOptions {
        let [_, tall, wide] = base.transformer.patch_size;
        SubjectOptions {
            size: self.size,
            multiple: [tall, wide].map(|patch| patch * base.vae.spatial_factor()),
            buckets: (!self.references).then_some(self.buckets),
            clip_frames: self.clip_frames,
            fps: f64::from(self.fps),
            strict: true,
        }
    }

    /// The name of the method these settings are.
    pub fn method(&self) -> &'static str {
        match (&self.motion, self.references) {
            (Some(_), _) => "set-and-sequence",
            (None, true) => "v-warper",
            (None, false) => "lora",
        }
    }

    /// The same settings with those of the motion stage as they usually are: what the looks depend on.
    pub(crate) fn looks(&self) -> Self {
        let usual = Self::nano().sequence().motion;
        Self { motion: self.motion.as_ref().and(usual), ..self.clone() }
    }

    /// The same settings for V-Warper's first stage: attention alone, and the pictures kept.
    pub fn warper(self) -> Self {
        Self { references: true, targets: Targets::Attention, ..self }
    }

    /// The same settings for Set-and-Sequence: a basis that is written, twice the rank, dropout and masking as published,
    /// prior preservation, and the motion stage as long as the looks stage.
    pub fn sequence(self) -> Self {
        const DROPOUT: [f32; 2] = [0.8, 0.5];
        let stage = self.lora.clone();
        Self {
            rank: 2 * self.rank,
            alpha: 2.0 * self.alpha,
            basis: Basis::Output,
            dropout: DROPOUT[0],
            text_masking: 0.1,
            augmentation: Augmentation {
                versions: 1,
                held: self.augmentation.held.min(1),
                // As long as clips usually are: in shorter ones the subject would fade where they end.
                held_frames: self.clip_frames,
                ..self.augmentation
            },
            prior: Prior { weight: 1.0, frames: self.clip_frames, batch: stage.batch, ..self.prior },
            motion: Some(Motion {
                token: DEFAULT_MOTION.to_owned(),
                dropout: DROPOUT[1],
                unnamed: 0.0,
                stitched: stitched(),
                stage,
            }),
            ..self
        }
    }

    /// [`Preset::Wan`].
    pub fn wan() -> Self {
        let nano = Self::nano();
        let stage = Stage { batch: 1, checkpoint_every: 100, warmup: 50, ..nano.lora };
        Self {
            size: [480, 832],
            clip_frames: 33,
            fps: 16.0,
            rank: 32,
            alpha: 32.0,
            token_rate: 0.1,
            token: Stage { steps: 400, learning_rate: 5e-3, weight_decay: 0.0, ..stage.clone() },
            lora: Stage { steps: 1500, learning_rate: 1e-4, ..stage },
            augmentation: Augmentation { versions: 3, held: 0, ..nano.augmentation },
            prior: Prior { weight: 0.0, frames: 1, steps: 30, guidance: 5.0, ..nano.prior },
            samples: Samples { every: 500, frames: 33, steps: 30, guidance: 5.0, ..nano.samples },
            ..nano
        }
    }

    /// The settings as a TOML file, as `fit --print-config` shows them.
    ///
    /// # Errors
    /// When a value cannot be written, which no valid setting is.
    pub fn to_toml(&self) -> Result<String> {
        toml::to_string_pretty(self).map_err(|error| Error::config("settings", error.to_string()))
    }

    /// That sizes, lengths and targets fit a base of this configuration.
    ///
    /// # Errors
    /// Names the first that does not, and what would.
    pub fn check_base(&self, base: &BaseConfig) -> Result<()> {
        self.targets.resolve(&base.transformer)?;
        let [height, width] = self.size;
        latent_shape(base, [1, height, width])?;
        let Self { augmentation, prior, samples, .. } = self;
        let shown = samples.every.max(samples.evaluate_every) > 0;
        for (field, used, frames) in [
            ("augmentation.held_frames", augmentation.held > 0, augmentation.held_frames),
            ("prior.frames", prior.weight > 0.0, prior.frames),
            ("samples.frames", shown, samples.frames),
            ("clip_frames", self.motion.is_some(), self.clip_frames),
        ] {
            if used {
                latent_shape(base, [frames, height, width])
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
        if let Some(motion) = &self.motion {
            motion.stage.check("motion.stage")?;
        }
        let shares = |motion: &Motion| [motion.dropout, motion.unnamed, motion.stitched];
        let shares = self.motion.as_ref().map_or([0.0; 3], shares);
        let unit = |value: f32| (0.0..=1.0).contains(&value);
        let Self { window, noise, augmentation, prior, samples, .. } = self;
        let rules = [
            ("rank", (1..=1024).contains(&self.rank), "between 1 and 1024"),
            ("alpha", self.alpha.is_finite() && self.alpha > 0.0, "a positive number"),
            ("dropout", (0.0..1.0).contains(&self.dropout), "at least 0 and below 1"),
            ("text_masking", (0.0..1.0).contains(&self.text_masking), "at least 0 and below 1"),
            ("motion.dropout", (0.0..1.0).contains(&shares[0]), "at least 0 and below 1"),
            ("motion.unnamed", unit(shares[1]), "between 0 and 1"),
            ("motion.stitched", unit(shares[2]), "between 0 and 1"),
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

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn presets_are_valid_and_survive_toml() {
        for preset in [Preset::Nano, Preset::Wan] {
            let config = preset.config();
            config.check().unwrap();
            let read: LoraConfig = toml::from_str(&config.to_toml().unwrap()).unwrap();
            assert_eq!(read, config);
            assert_eq!(preset.with(&toml::Table::new()).unwrap(), config);
            let sequence = preset.sequence();
            let faster = if preset == Preset::Wan { 1.0 } else { 3.0 };
            assert_eq!(sequence.lora.learning_rate, faster * config.lora.learning_rate);
            sequence.check().unwrap();
            assert_eq!(toml::from_str::<LoraConfig>(&sequence.to_toml().unwrap()).unwrap(), sequence);
        }
    }

    #[test]
    fn overrides_win_and_unknown_ones_are_named() {
        let overrides = |text: &str| Preset::Nano.with(&text.parse().unwrap());
        let config = overrides("rank = 4\ntargets = ['attn1.to_q']\n[lora]\nsteps = 7").unwrap();
        assert_eq!((config.rank, config.lora.steps), (4, 7));
        assert_eq!(config.lora.batch, LoraConfig::nano().lora.batch);
        assert_eq!(config.targets, Targets::Sites(vec!["attn1.to_q".into()]));
        for (text, part) in [
            ("rnk = 4", "rnk"),
            ("rank = 0", "rank: must be"),
            ("targets = 'all'", "attn-ffn"),
            ("[lora]\nlearning_rate = -1.0", "lora.learning_rate"),
            ("[window]\nstart = 0.5\nend = 0.5", "window"),
        ] {
            let message = overrides(text).unwrap_err().to_string();
            assert!(message.contains(part) && !message.contains('\n'), "{message}");
        }
    }
}
