//! Numbers in configurations that may differ from block to block.

use serde::{Deserialize, Serialize};

/// A value for every block, or one for each.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum PerBlock {
    /// The same everywhere.
    One(usize),
    /// One a block, in the order of down blocks.
    Each(Vec<usize>),
}

impl PerBlock {
    /// What it is for `block`.
    pub(crate) fn of(&self, block: usize) -> usize {
        match self {
            Self::One(value) => *value,
            Self::Each(values) => values.get(block).copied().unwrap_or(1),
        }
    }

    /// Whether it is positive, and one for each of `blocks` where it is a list.
    pub(crate) fn fits(&self, blocks: usize) -> bool {
        match self {
            Self::One(value) => *value > 0,
            Self::Each(values) => values.len() == blocks && values.iter().all(|value| *value > 0),
        }
    }
}
