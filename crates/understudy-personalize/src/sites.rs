//! The linear maps of a Wan denoiser: their sites, their shapes, and which of them a method trains.

use std::collections::BTreeMap;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use understudy_models::wan_transformer::WanTransformerConfig;

use crate::error::{Error, Result};

/// Maps of a block: the path below `blocks.N`, and the same in the original checkpoint and in ComfyUI.
pub(crate) const BLOCK: [(&str, &str); 10] = [
    ("attn1.to_q", "self_attn.q"),
    ("attn1.to_k", "self_attn.k"),
    ("attn1.to_v", "self_attn.v"),
    ("attn1.to_out.0", "self_attn.o"),
    ("attn2.to_q", "cross_attn.q"),
    ("attn2.to_k", "cross_attn.k"),
    ("attn2.to_v", "cross_attn.v"),
    ("attn2.to_out.0", "cross_attn.o"),
    ("ffn.net.0.proj", "ffn.0"),
    ("ffn.net.2", "ffn.2"),
];

/// The patch embedding, which files have as a convolution.
pub(crate) const PATCHES: &str = "patch_embedding";

/// Maps outside the blocks, in both namings.
pub(crate) const GLOBAL: [(&str, &str); 7] = [
    (PATCHES, PATCHES),
    ("condition_embedder.time_embedder.linear_1", "time_embedding.0"),
    ("condition_embedder.time_embedder.linear_2", "time_embedding.2"),
    ("condition_embedder.time_proj", "time_projection.1"),
    ("condition_embedder.text_embedder.linear_1", "text_embedding.0"),
    ("condition_embedder.text_embedder.linear_2", "text_embedding.2"),
    ("proj_out", "head.head"),
];

/// Every linear map of the denoiser that takes a low-rank residual, by site: `[outputs, inputs]`.
pub fn linear_sites(config: &WanTransformerConfig) -> BTreeMap<String, [usize; 2]> {
    let [dim, ffn] = [config.inner_dim(), config.ffn_dim];
    let patch = config.patch_size.iter().product::<usize>();
    let global = [
        [dim, config.in_channels * patch],
        [dim, config.freq_dim],
        [dim, dim],
        [6 * dim, dim],
        [dim, config.text_dim],
        [dim, dim],
        [config.out_channels * patch, dim],
    ];
    let mut sites: BTreeMap<_, _> =
        GLOBAL.iter().zip(global).map(|((site, _), shape)| ((*site).to_owned(), shape)).collect();
    for block in 0..config.num_layers {
        for (module, _) in BLOCK {
            let shape = match module {
                "ffn.net.0.proj" => [ffn, dim],
                "ffn.net.2" => [dim, ffn],
                _ => [dim, dim],
            };
            sites.insert(format!("blocks.{block}.{module}"), shape);
        }
    }
    sites
}

/// Which linear maps get a residual.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "Written", into = "Written")]
pub enum Targets {
    /// Queries, keys, values and outputs of self- and cross-attention.
    Attention,
    /// These and both maps of the feed-forward layers.
    #[default]
    AttentionAndFeedForward,
    /// Queries, keys, values and outputs of self-attention.
    SelfAttention,
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

    /// `attn`, `attn-ffn`, `self-attn`, or sites separated by commas.
    fn from_str(text: &str) -> Result<Self> {
        match text {
            "attn" => Ok(Self::Attention),
            "attn-ffn" => Ok(Self::AttentionAndFeedForward),
            "self-attn" => Ok(Self::SelfAttention),
            sites if sites.contains("to_") || sites.contains("ffn") || sites.contains('.') => {
                Ok(Self::Sites(sites.split(',').map(|site| site.trim().to_owned()).collect()))
            }
            other => Err(Error::config(
                "targets",
                format!(
                    "{other:?} is not known; use attn, attn-ffn, self-attn, or sites like attn1.to_q,ffn.net.2"
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
            Targets::Sites(sites) => return Self::Sites(sites),
        };
        Self::Name(name.to_owned())
    }
}

impl Targets {
    /// The sites meant, with their shapes `[outputs, inputs]`.
    ///
    /// # Errors
    /// When one of [`Targets::Sites`] is no site of this denoiser.
    pub fn resolve(&self, config: &WanTransformerConfig) -> Result<BTreeMap<String, [usize; 2]>> {
        let all = linear_sites(config);
        let below_block = |parts: &'static [&'static str]| {
            let wanted = |site: &String| parts.iter().any(|part| site.contains(part));
            all.clone().into_iter().filter(|(site, _)| wanted(site)).collect()
        };
        Ok(match self {
            Self::Attention => below_block(&[".attn1.", ".attn2."]),
            Self::AttentionAndFeedForward => below_block(&[".attn1.", ".attn2.", ".ffn."]),
            Self::SelfAttention => below_block(&[".attn1."]),
            Self::Sites(names) => {
                let mut found = BTreeMap::new();
                for name in names {
                    let ends = |site: &str| site == name || site.ends_with(&format!(".{name}"));
                    let before = found.len();
                    found.extend(all.clone().into_iter().filter(|(site, _)| ends(site)));
                    if name.is_empty()
                        || (found.len() == before && !found.keys().any(|site: &String| ends(site)))
                    {
                        let reason = format!(
                            "{name:?} is no linear map of this base; its sites are like blocks.0.attn1.to_q"
                        );
                        return Err(Error::config("targets", reason));
                    }
                }
                if found.is_empty() {
                    return Err(Error::config("targets", "the list is empty; name at least one site"));
                }
                found
            }
        })
    }
}
