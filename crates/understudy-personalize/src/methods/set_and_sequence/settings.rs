//! What Set-and-Sequence is told beside what all methods are.

use serde::{Deserialize, Serialize};
use toml::{Table, Value};

use crate::error::{Error, Result};
use crate::method::Preset;
use crate::stages::settings::{Augmentation, Basis, Learning, Prior, Stage, numbered};

/// What stands for a motion in prompts unless something else is asked for.
pub const DEFAULT_MOTION: &str = "<m>";

/// The motion stage: residuals of the coefficients, learned from the clip in its order on the basis that its
/// frames gave.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Motion {
    /// The word that stands for the motion in prompts.
    pub token: String,
    /// Share of these coefficients that is left out at a step.
    pub dropout: f32,
    /// Share of the prompts that do not name the motion, to a twentieth.
    pub unnamed: f32,
    /// How often, of several subjects, two are shown side by side in one clip, so that neither looks like the
    /// other.
    #[serde(default = "stitched")]
    pub stitched: f32,
    /// Its steps.
    pub stage: Stage,
}

fn stitched() -> f32 {
    0.1
}

impl Motion {
    /// The word that stands for the motion of subject `index`: `<m>`, `<m2>`, `<m3>`.
    pub fn token_of(&self, index: usize) -> String {
        numbered(&self.token, index)
    }
}

/// The settings of Set-and-Sequence: those of [`Learning`], which are of the looks, and a table `motion`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "Table", into = "Table")]
pub struct SequenceSettings {
    /// How the looks are learned.
    pub learning: Learning,
    /// How the motion is.
    pub motion: Motion,
}

impl TryFrom<Table> for SequenceSettings {
    type Error = toml::de::Error;

    fn try_from(mut table: Table) -> Result<Self, toml::de::Error> {
        let motion = table.remove("motion").unwrap_or_else(|| Value::Table(Table::new()));
        Ok(Self { motion: motion.try_into()?, learning: table.try_into()? })
    }
}

impl From<SequenceSettings> for Table {
    fn from(SequenceSettings { learning, motion }: SequenceSettings) -> Self {
        // Structs of numbers and words cannot fail to become tables.
        let mut table = Self::try_from(learning).unwrap_or_default();
        table.extend(Self::try_from(motion).map(|motion| ("motion".to_owned(), Value::Table(motion))));
        table
    }
}

impl SequenceSettings {
    /// Those of `learning` as published: a basis that is written, twice the rank, dropout and masking, prior
    /// preservation, and the motion stage as long as that of the looks.
    pub fn published(learning: Learning) -> Self {
        const DROPOUT: [f32; 2] = [0.8, 0.5];
        let stage = learning.lora.clone();
        let learning = Learning {
            rank: 2 * learning.rank,
            alpha: 2.0 * learning.alpha,
            basis: Basis::Output,
            dropout: DROPOUT[0],
            text_masking: 0.1,
            augmentation: Augmentation {
                versions: 1,
                held: learning.augmentation.held.min(1),
                // As long as clips usually are: in shorter ones the subject would fade where they end.
                held_frames: learning.clip_frames,
                ..learning.augmentation
            },
            prior: Prior { weight: 1.0, frames: learning.clip_frames, batch: stage.batch, ..learning.prior },
            ..learning
        };
        let motion = Motion {
            token: DEFAULT_MOTION.to_owned(),
            dropout: DROPOUT[1],
            unnamed: 0.0,
            stitched: stitched(),
            stage,
        };
        Self { learning, motion }
    }

    /// Those of a preset. On small bases the looks have fewer steps and the motion more, both at three times
    /// the rates and regularized more lightly, without the prior: so few steps reach little where so much is
    /// left out, and a base so small unlearns the motion in other places along with the class's
    /// (`docs/results.md`).
    pub fn preset(preset: Preset) -> Self {
        let Self { learning, motion } = Self::published(Learning::preset(preset));
        if preset == Preset::Full {
            return Self { learning, motion };
        }
        const FASTER: f32 = 3.0;
        let faster = |stage: &Stage, steps: u64, batch: usize| Stage {
            steps,
            batch,
            learning_rate: FASTER * stage.learning_rate,
            ..stage.clone()
        };
        Self {
            motion: Motion { dropout: 0.2, stage: faster(&motion.stage, 600, 2), ..motion },
            learning: Learning {
                token: Stage { steps: 50, batch: 2, ..learning.token.clone() },
                lora: faster(&learning.lora, 200, 4),
                dropout: 0.5,
                prior: Prior { weight: 0.0, ..learning.prior },
                ..learning
            },
        }
    }

    /// That every setting is in its range.
    ///
    /// # Errors
    /// Names the first that is not, and the range.
    pub fn check(&self) -> Result<()> {
        self.learning.check()?;
        let Motion { dropout, unnamed, stitched, stage, .. } = &self.motion;
        stage.check("motion.stage")?;
        let rules = [
            ("motion.dropout", (0.0..1.0).contains(dropout), "at least 0 and below 1"),
            ("motion.unnamed", (0.0..=1.0).contains(unnamed), "between 0 and 1"),
            ("motion.stitched", (0.0..=1.0).contains(stitched), "between 0 and 1"),
        ];
        match rules.into_iter().find(|(_, fine, _)| !fine) {
            Some((field, _, rule)) => Err(Error::config(field, format!("must be {rule}"))),
            None => Ok(()),
        }
    }
}
