//! Which linear maps of a denoiser a method trains.

use std::collections::BTreeMap;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use understudy_engine::sites::{Role, Site, Sites};

use crate::error::{Error, Result};

/// Which linear maps get a residual.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "Written", into = "Written")]
pub enum Targets {
    /// Queries, keys, values and outputs of self- and cross-attention.
    Attention,
    /// These and both maps of the feed-forward layers.
    #[default]
    AttentionAndFeedForward,
    /// Queries, keys, values and outputs of self-attention: of the places of a picture where frames have an
    /// attention of their own.
    SelfAttention,
    /// Queries, keys, values and outputs of attention over frames.
    TemporalAttention,
    /// Sites, or the ends of their paths: `blocks.3.attn1.to_q`, `attn2.to_k`, `ffn.net.2`.
    Sites(Vec<String>),
}

/// [`Targets`] as a file has them: a name, or a list of sites.
#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum Written {
    Name(String),
    Sites(Vec<String>),
}

impl FromStr for Targets {
    type Err = Error;

    /// `attn`, `attn-ffn`, `self-attn` (or `spatial-self-attention`), `temporal`, or sites separated by
    /// commas.
    fn from_str(text: &str) -> Result<Self> {
        match text {
            "attn" => Ok(Self::Attention),
            "attn-ffn" => Ok(Self::AttentionAndFeedForward),
            "self-attn" | "spatial-self-attention" => Ok(Self::SelfAttention),
            "temporal" => Ok(Self::TemporalAttention),
            sites if sites.contains("to_") || sites.contains("ffn") || sites.contains('.') => {
                Ok(Self::Sites(sites.split(',').map(|site| site.trim().to_owned()).collect()))
            }
            other => Err(Error::config(
                "targets",
                format!(
                    "{other:?} is not known; use attn, attn-ffn, self-attn, temporal, or sites like \
                     attn1.to_q,ffn.net.2"
                ),
            )),
        }
    }
}

impl TryFrom<Written> for Targets {
    type Error = Error;

    fn try_from(written: Written) -> Result<Self> {
        match written {
            Written::Name(name) => name.parse(),
            Written::Sites(sites) => Ok(Self::Sites(sites)),
        }
    }
}

impl From<Targets> for Written {
    fn from(targets: Targets) -> Self {
        let name = match targets {
            Targets::Attention => "attn",
            Targets::AttentionAndFeedForward => "attn-ffn",
            Targets::SelfAttention => "self-attn",
            Targets::TemporalAttention => "temporal",
            Targets::Sites(sites) => return Self::Sites(sites),
        };
        Self::Name(name.to_owned())
    }
}

impl Targets {
    /// The sites meant of a denoiser that has `sites`.
    ///
    /// # Errors
    /// When one of [`Targets::Sites`] is none of them.
    pub fn resolve(&self, sites: &Sites) -> Result<BTreeMap<String, Site>> {
        const ATTENTION: [Role; 3] = [Role::SelfAttention, Role::TemporalAttention, Role::CrossAttention];
        let serving = |roles: &[Role]| {
            let wanted = sites.maps.iter().filter(|(_, site)| roles.contains(&site.role));
            wanted.map(|(path, site)| (path.clone(), *site)).collect()
        };
        Ok(match self {
            Self::Attention => serving(&ATTENTION),
            Self::AttentionAndFeedForward => serving(&[&ATTENTION[..], &[Role::FeedForward]].concat()),
            Self::SelfAttention => serving(&[Role::SelfAttention]),
            Self::TemporalAttention => serving(&[Role::TemporalAttention]),
            Self::Sites(names) => named(names, sites)?,
        })
    }
}

/// The sites whose paths are, or end in, one of `names`.
fn named(names: &[String], sites: &Sites) -> Result<BTreeMap<String, Site>> {
    let mut found = BTreeMap::new();
    for name in names {
        let ends = |path: &str| path == name || path.ends_with(&format!(".{name}"));
        let own = sites.maps.iter().filter(|(path, _)| !name.is_empty() && ends(path));
        let before = found.len();
        found.extend(own.map(|(path, site)| (path.clone(), *site)));
        if found.len() == before && !found.keys().any(|path: &String| ends(path)) || name.is_empty() {
            let example = sites.maps.keys().next().map_or("none", String::as_str);
            let reason = format!("{name:?} is no linear map of this base; its sites are like {example}");
            return Err(Error::config("targets", reason));
        }
    }
    if found.is_empty() {
        return Err(Error::config("targets", "the list is empty; name at least one site"));
    }
    Ok(found)
}
