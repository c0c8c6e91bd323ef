//! How values are warped.

use serde::{Deserialize, Serialize};
use understudy_engine::attach::Window;

use crate::error::{Error, Result};

/// How values are warped.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct WarpConfig {
    /// The block whose self-attention is matched.
    pub match_block: usize,
    /// The first block whose values are warped, and the one after the last; not before the one that is
    /// matched.
    pub blocks: [usize; 2],
    /// The part of denoising it is done in.
    pub window: Window,
    /// How far a match may lead astray on its way back, as a share of the rows the subject fills.
    pub cycle: f32,
    /// Attention to the subject's words, between the least and the most there is, from which on a place shows
    /// it.
    pub foreground: f32,
    /// How much of a value is replaced.
    pub mix: f32,
    /// What places are compared by.
    pub descriptor: Descriptor,
    /// What of the references takes the place of the video's own.
    pub replaced: Replaced,
}

/// What places are compared by: the cosine of these, about their mean over a picture. The last two are what
/// the first is measured against.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Descriptor {
    /// Queries and keys of all heads, before their rotary embedding.
    #[default]
    #[serde(rename = "qk")]
    QueryKey,
    /// The same after it, so that places count as alike that lie alike.
    #[serde(rename = "qk-rotated")]
    RotatedQueryKey,
    /// The hidden states before the block.
    #[serde(rename = "hidden")]
    Hidden,
}

/// What of the references takes the place of the video's own.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Replaced {
    /// Values.
    #[default]
    #[serde(rename = "values")]
    Values,
    /// Values and keys.
    #[serde(rename = "keys-values")]
    KeysAndValues,
}

impl WarpConfig {
    /// The defaults for a denoiser of `depth` blocks, as a sweep on `nano` chose them.
    pub fn for_depth(depth: usize) -> Self {
        const MATCHED: f32 = 0.6;
        let matched = ((depth as f32 * MATCHED).round() as usize).min(depth.saturating_sub(1));
        Self {
            match_block: matched,
            blocks: [matched, depth.max(1)],
            window: Window { start: 0.15, end: 1.0 },
            cycle: 0.4,
            foreground: 0.2,
            mix: 0.8,
            descriptor: Descriptor::QueryKey,
            replaced: Replaced::Values,
        }
    }

    pub(super) fn check(&self, depth: usize) -> Result<()> {
        let [first, end] = self.blocks;
        let unit = |value: f32| (0.0..=1.0).contains(&value);
        let rules = [
            (
                "warp.match_block",
                self.match_block >= 1 || self.descriptor != Descriptor::Hidden,
                "1 or more where hidden states are compared".to_owned(),
            ),
            ("warp.match_block", self.match_block < depth, format!("below the {depth} blocks of this base")),
            (
                "warp.blocks",
                self.match_block <= first && first < end && end <= depth,
                format!("a first block from {} on and an end up to {depth}", self.match_block),
            ),
            (
                "warp.window",
                unit(self.window.start) && unit(self.window.end) && self.window.start < self.window.end,
                "a part of 0 to 1".to_owned(),
            ),
            ("warp.cycle", self.cycle.is_finite() && self.cycle > 0.0, "a positive number".to_owned()),
            ("warp.foreground", unit(self.foreground), "between 0 and 1".to_owned()),
            ("warp.mix", unit(self.mix), "between 0 and 1".to_owned()),
        ];
        match rules.into_iter().find(|(_, fine, _)| !fine) {
            Some((field, _, rule)) => Err(Error::config(field, format!("must be {rule}"))),
            None => Ok(()),
        }
    }
}
