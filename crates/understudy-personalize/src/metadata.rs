//! What an adapter file says of itself.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use understudy_engine::attach::Window;
use understudy_pipeline::{Naming, network_of};

use crate::adapter::Residual;
use crate::names::TEXT_MODEL;
use crate::stages::settings::Basis;

/// The key of this project's own metadata in an adapter's header.
pub(crate) const OWN: &str = "understudy";
/// The key diffusers reads the scale from.
pub(crate) const PEFT: &str = "lora_adapter_metadata";
/// Where we note the alphas that were multiplied into B for DiffSynth.
pub(crate) const FOLDED: &str = "understudy.folded_alphas";
/// The newest layout of [`Metadata`] this program knows.
pub(crate) const VERSION: u32 = 1;

/// A base as an adapter names it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BaseName {
    /// Its architecture; see `understudy_pipeline::Description`.
    pub identity: String,
    /// What the user called it: `nano`, or a folder's name.
    pub name: String,
}

/// A subject as an adapter names it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SubjectName {
    /// The class noun, e.g. `cat`.
    pub class: String,
    /// The token that stands for it in prompts, e.g. `<s>`.
    pub token: String,
}

/// A motion as an adapter names it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MotionName {
    /// The token that stands for it in prompts, e.g. `<m>`.
    pub token: String,
    /// The half of the residuals that it shares with the subject's looks.
    pub basis: Basis,
}

/// What an adapter file says of itself, as JSON under the key `understudy` of its header. A file of another
/// program has none; of it only what its tensors tell is known.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Metadata {
    /// Layout of this metadata; 1.
    pub version: u32,
    /// The base it was made for, if it says.
    #[serde(default)]
    pub base: Option<BaseName>,
    /// The method that made it, e.g. `lora`.
    pub method: String,
    /// Whom or what it shows, if it says.
    #[serde(default)]
    pub subject: Option<SubjectName>,
    /// Whom or what else it shows.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub others: Vec<SubjectName>,
    /// The tokens of the embedding rows, in their order.
    #[serde(default)]
    pub tokens: Vec<String>,
    /// The largest rank of its residuals; 0 without any.
    pub rank: usize,
    /// The alpha of that residual; the residual is scaled by `alpha / rank`.
    pub alpha: f32,
    /// The denoising steps its residuals are active in.
    pub window: Window,
    /// The motion it holds apart from the looks, if it does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub motion: Option<MotionName>,
    /// How many sites have a residual.
    pub sites: usize,
    /// Height and width of the pictures it was made from, pixels.
    #[serde(default)]
    pub base_size: Option<[usize; 2]>,
    /// The program and its version.
    pub created_with: String,
}

impl Default for Metadata {
    fn default() -> Self {
        Self::new("lora", &BTreeMap::new())
    }
}

impl Metadata {
    /// For an adapter of `method`, about whose origin nothing else is known yet.
    pub fn new(method: &str, residuals: &BTreeMap<String, Residual>) -> Self {
        let largest = residuals.values().max_by_key(|residual| residual.rank());
        Self {
            version: VERSION,
            base: None,
            method: method.to_owned(),
            subject: None,
            others: Vec::new(),
            tokens: Vec::new(),
            motion: None,
            rank: largest.map_or(0, Residual::rank),
            alpha: largest.map_or(0.0, |residual| residual.alpha),
            window: Window::ALWAYS,
            sites: residuals.len(),
            base_size: None,
            created_with: concat!("understudy ", env!("CARGO_PKG_VERSION")).to_owned(),
        }
    }
}

/// What diffusers and peft need to scale residuals right, given the rank and alpha of every site: their
/// configuration as `save_lora_weights` writes it, its fields prefixed by the component's name. With
/// `biases`, B has some; `decomposed` are weights with DoRA's magnitudes.
pub(crate) fn to_peft(
    naming: &Naming,
    scales: &BTreeMap<String, (usize, f32)>,
    biases: bool,
    decomposed: bool,
) -> Value {
    let mut networks: BTreeMap<&str, BTreeMap<&str, (usize, f32)>> = BTreeMap::new();
    for (site, scale) in scales {
        let (network, path) = network_of(site);
        // Ends of names are enough for peft, and newer transformers has nothing before them.
        let path = path.strip_prefix(TEXT_MODEL).unwrap_or(path);
        networks.entry(network.unwrap_or(naming.network)).or_default().insert(path, *scale);
    }
    let mut fields = Map::new();
    for (network, scales) in networks {
        fields.extend(of_network(naming, network, &scales, (biases, decomposed)));
    }
    Value::Object(fields)
}

/// The same of one network.
fn of_network(
    naming: &Naming,
    network: &str,
    scales: &BTreeMap<&str, (usize, f32)>,
    (biases, decomposed): (bool, bool),
) -> Map<String, Value> {
    let (rank, alpha) = scales.values().next().copied().unwrap_or_default();
    let mut patterns = [Map::new(), Map::new()];
    let mut targets = BTreeSet::new();
    for (site, (own_rank, own_alpha)) in scales {
        if *own_rank != rank {
            patterns[0].insert((*site).to_owned(), json!(own_rank));
        }
        if *own_alpha != alpha {
            patterns[1].insert((*site).to_owned(), json!(own_alpha));
        }
        targets.insert(target(naming, site, scales));
    }
    let [ranks, alphas] = patterns;
    let fields = json!({
        "peft_type": "LORA", "r": rank, "lora_alpha": alpha, "rank_pattern": ranks, "alpha_pattern": alphas,
        "target_modules": targets, "bias": "none", "lora_bias": biases, "use_dora": decomposed, "use_rslora": false,
    });
    let prefixed = fields.as_object().into_iter().flatten();
    prefixed.map(|(name, value)| (format!("{network}.{name}"), value.clone())).collect()
}

/// The name by which peft is to know `site`: short, like `to_q`, where that means no map without a residual.
fn target<'a>(naming: &Naming, site: &'a str, scales: &BTreeMap<&str, (usize, f32)>) -> &'a str {
    let Some((_, module)) = naming.in_block(site) else { return site };
    // Modules that differ by a number alone go by what is behind it.
    let stem = |module: &'a str| {
        let (first, rest) = module.split_once('.')?;
        let stem = first.trim_end_matches(|letter: char| letter.is_ascii_digit());
        (stem != first).then_some((stem, rest))
    };
    let alike = match stem(module) {
        Some((stem, rest)) => naming.alike(stem, rest),
        None => vec![module.to_owned()],
    };
    let blocks: BTreeSet<&str> = scales.keys().filter_map(|own| Some(naming.in_block(own)?.0)).collect();
    let Some(word) = naming.block_word() else { return site };
    let has =
        |block: &&str| alike.iter().all(|own| scales.contains_key(format!("{word}.{block}.{own}").as_str()));
    if blocks.iter().all(has) { stem(module).map_or(module, |(_, rest)| rest) } else { site }
}
