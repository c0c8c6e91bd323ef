//! What is said of warping where an adapter is used.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use understudy_engine::attach::Window;
use understudy_engine::sites::{Role, Sites};

use super::config::{Descriptor, Replaced, WarpConfig};

/// What is said of warping; what is not is as usual, see [`WarpConfig::for_depth`].
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct WarpSettings {
    /// Use the adapter without warping.
    pub off: bool,
    /// The block whose queries and keys are matched.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub match_block: Option<usize>,
    /// The first block whose values are warped.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub first: Option<usize>,
    /// The block after the last.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last: Option<usize>,
    /// Where in denoising warping begins.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub start: Option<f32>,
    /// Where it ends.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub end: Option<f32>,
    /// How far a match may lead astray on its way back, as a share of the subject's rows.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cycle: Option<f32>,
    /// Attention to the subject's words from which on a place shows it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub foreground: Option<f32>,
    /// How much of a value is replaced.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mix: Option<f32>,
    /// What places are compared by.
    pub by: Descriptor,
    /// What is replaced.
    pub what: Replaced,
    /// A file for what the references show at every step.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cache: Option<PathBuf>,
    /// A folder for pictures of what was matched.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub show: Option<PathBuf>,
}

impl WarpSettings {
    /// The whole of it for a denoiser that has `sites`.
    pub fn config(&self, sites: &Sites) -> WarpConfig {
        let usual = WarpConfig::for_depth(sites.attentions(Role::SelfAttention).count());
        let match_block = self.match_block.unwrap_or(usual.match_block);
        let first = self.first.unwrap_or(usual.blocks[0].max(match_block));
        WarpConfig {
            match_block,
            blocks: [first, self.last.unwrap_or(usual.blocks[1].max(first + 1))],
            window: Window {
                start: self.start.unwrap_or(usual.window.start),
                end: self.end.unwrap_or(usual.window.end),
            },
            cycle: self.cycle.unwrap_or(usual.cycle),
            foreground: self.foreground.unwrap_or(usual.foreground),
            mix: self.mix.unwrap_or(usual.mix),
            descriptor: self.by,
            replaced: self.what,
        }
    }
}
