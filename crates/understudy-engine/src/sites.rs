//! What a network has that something can be attached to. It is noted while the network is built, so that
//! nobody else has to know its modules.

use std::collections::BTreeMap;

/// What a module is for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Role {
    /// Attention of the places of a picture or a video to one another.
    SelfAttention,
    /// Attention of a place to the same place of other frames.
    TemporalAttention,
    /// Attention of places to the words of a text.
    CrossAttention,
    /// The feed-forward layers after attention.
    FeedForward,
    /// Embeddings: of patches, time and text.
    Embedding,
    /// Everything else.
    #[default]
    Other,
}

/// A linear map, or a convolution, that takes a low-rank residual.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Site {
    /// Outputs and inputs; of a convolution the inputs are channels times its kernel.
    pub shape: [usize; 2],
    /// What it is for.
    pub role: Role,
    /// Frames, rows and columns of the kernel where it is, or is published as, a convolution.
    pub kernel: Option<[usize; 3]>,
}

/// The sites of a network, by their published paths.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sites {
    /// Linear maps and convolutions.
    pub maps: BTreeMap<String, Site>,
    /// Attentions, in the order the network runs them.
    pub attentions: Vec<(String, Role)>,
    /// Where hidden states can be hooked, in the order the network runs them.
    pub states: Vec<StateSite>,
}

/// A module behind which a hidden state can be hooked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StateSite {
    /// Its path.
    pub path: String,
    /// What it is for; [`Role::Other`] of a whole block.
    pub role: Role,
    /// Channels of the state.
    pub channels: usize,
}

impl Sites {
    /// The paths of attentions for `role`, in the order the network runs them.
    pub fn attentions(&self, role: Role) -> impl Iterator<Item = &str> {
        self.attentions.iter().filter(move |(_, own)| *own == role).map(|(site, _)| site.as_str())
    }

    /// The modules for `role` behind which hidden states can be hooked, in the order the network runs them.
    pub fn states(&self, role: Role) -> impl Iterator<Item = &StateSite> {
        self.states.iter().filter(move |state| state.role == role)
    }
}
