//! What an adapter holds: its method, its base, its subject, and where it acts.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

use anyhow::Result;
use burn::tensor::Device;
use serde::Serialize;
use understudy_engine::safetensors::Checkpoint;
use understudy_personalize::{Adapter, Metadata, Names, Unmatched};

use super::checkpoint::Totals;
use super::{grouped, size};

/// An adapter in numbers.
#[derive(Debug, Serialize)]
pub struct AdapterSummary {
    path: PathBuf,
    metadata: Metadata,
    /// The published denoiser whose channels and blocks it has, if it is one.
    model: Option<&'static str>,
    /// Residuals by the kind of linear map, e.g. `attn1.to_q`.
    sites: BTreeMap<String, usize>,
    /// Residuals by their rank.
    ranks: BTreeMap<usize, usize>,
    /// The least and the greatest `alpha / rank`.
    scales: Option<[f32; 2]>,
    /// Tensors of the base that it adds numbers to.
    differences: usize,
    /// Keys by the program whose names they are.
    dialects: BTreeMap<&'static str, usize>,
    /// Keys that are not understood.
    unmatched: Vec<String>,
    #[serde(flatten)]
    totals: Totals,
}

/// Whether the file is an adapter rather than a network.
pub fn is_adapter(checkpoint: &Checkpoint) -> bool {
    let ends = [".diff", ".diff_b", ".diff_m"];
    let low_rank = |name: &str| {
        name.contains("lora_") || name.contains(".lora.") || ends.iter().any(|end| name.ends_with(end))
    };
    checkpoint.metadata().contains_key("understudy")
        || checkpoint.infos().iter().any(|info| low_rank(&info.name))
}

impl AdapterSummary {
    /// Reads the adapter at `path`, whose checkpoint is open already.
    ///
    /// # Errors
    /// When a residual lacks a half, shapes do not fit each other, or a value is not finite.
    pub fn read(path: &Path, checkpoint: &Checkpoint, device: &Device) -> Result<Self> {
        let (adapter, unmatched) = Adapter::open_with(path, device, Unmatched::Allow)?;
        let infos = checkpoint.infos();
        let mut sites = BTreeMap::new();
        for site in adapter.residuals.keys() {
            *sites.entry(kind(site)).or_insert(0) += 1;
        }
        let mut ranks = BTreeMap::new();
        adapter.residuals.values().for_each(|residual| *ranks.entry(residual.rank()).or_insert(0) += 1);
        let names = Names::of(infos.iter().map(|info| info.name.as_str()));
        let mut dialects = BTreeMap::new();
        for info in &infos {
            *dialects.entry(dialect(&names, &info.name)).or_insert(0) += 1;
        }
        Ok(Self {
            path: path.to_owned(),
            model: model(&adapter),
            sites,
            ranks,
            scales: scales(&adapter),
            metadata: adapter.metadata,
            differences: adapter.differences.len(),
            dialects,
            unmatched,
            totals: Totals::of(&infos),
        })
    }
}

/// `attn1.to_q` of `blocks.3.attn1.to_q`.
fn kind(site: &str) -> String {
    let below = site.strip_prefix("blocks.").and_then(|rest| rest.split_once('.')).map(|(_, kind)| kind);
    below.unwrap_or(site).to_owned()
}

/// Whose name `key` is.
fn dialect(names: &Names, key: &str) -> &'static str {
    match names.parse(key) {
        Some((dialect, ..)) => dialect.name(),
        None if key.starts_with("understudy.") => "understudy",
        None => "not told by their names",
    }
}

/// The published denoiser of the channels and blocks that `adapter` has residuals for.
fn model(adapter: &Adapter) -> Option<&'static str> {
    let block = |site: &str| site.strip_prefix("blocks.")?.split('.').next()?.parse::<usize>().ok();
    let depth = adapter.residuals.keys().filter_map(|site| block(site)).max()? + 1;
    let attends = |site: &str| site.ends_with("attn1.to_q") || site.ends_with("attn2.to_q");
    let (_, query) = adapter.residuals.iter().find(|(site, _)| attends(site))?;
    let image =
        adapter.residuals.keys().any(|site| site.contains(".add_k_proj") || site.contains("image_embedder"));
    Some(match (query.down.dims()[1], depth, image) {
        (1536, 30, false) => "Wan 2.1 T2V 1.3B",
        (5120, 40, false) => "Wan 2.1 T2V 14B, or a half of Wan 2.2 A14B",
        (5120, 40, true) => "Wan 2.1 I2V 14B",
        (3072, 30, _) => "Wan 2.2 TI2V 5B",
        _ => return None,
    })
}

/// The least and the greatest factor of its residuals.
fn scales(adapter: &Adapter) -> Option<[f32; 2]> {
    let own = || adapter.residuals.values().map(|residual| residual.alpha / residual.rank() as f32);
    Some([own().reduce(f32::min)?, own().reduce(f32::max)?])
}

/// `16`, or `4 to 16`.
fn span<T: PartialEq + fmt::Display>(least: T, greatest: T) -> String {
    if least == greatest { least.to_string() } else { format!("{least} to {greatest}") }
}

fn counts<K: fmt::Display>(counts: &BTreeMap<K, usize>) -> String {
    counts.iter().map(|(name, count)| format!("{count} {name}")).collect::<Vec<_>>().join(", ")
}

impl fmt::Display for AdapterSummary {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let Metadata { method, window, created_with, .. } = &self.metadata;
        let unknown = || "not said".to_owned();
        let sized =
            || self.model.map_or_else(unknown, |model| format!("not said; it has the size of {model}"));
        let base = self.metadata.base.as_ref();
        let base = base.map_or_else(sized, |base| format!("{} ({})", base.name, base.identity));
        let subject = self
            .metadata
            .subject
            .as_ref()
            .map_or_else(unknown, |own| format!("\"{} {}\"", own.token, own.class));
        writeln!(f, "adapter {}", self.path.display())?;
        writeln!(f, "  method      {method}, by {created_with}")?;
        writeln!(f, "  base        {base}")?;
        writeln!(f, "  subject     {subject}")?;
        if !self.metadata.tokens.is_empty() {
            writeln!(f, "  tokens      {}", self.metadata.tokens.join(" "))?;
        }
        if let (Some(least), Some(most), Some([low, high])) =
            (self.ranks.keys().min(), self.ranks.keys().max(), self.scales)
        {
            writeln!(f, "  rank        {}, scaled by {}", span(least, most), span(low, high))?;
        }
        writeln!(f, "  window      {} to {} of denoising", window.start, window.end)?;
        writeln!(f, "  sites       {}: {}", self.metadata.sites, counts(&self.sites))?;
        if self.differences > 0 {
            writeln!(f, "  adds to     {} tensors of the base", self.differences)?;
        }
        if !self.unmatched.is_empty() {
            writeln!(f, "  not understood: {} keys: {}", self.unmatched.len(), self.unmatched.join(", "))?;
        }
        writeln!(f, "  keys        {}: {}", self.totals.tensors, counts(&self.dialects))?;
        let (parameters, precision) = (grouped(self.totals.parameters), self.totals.precision());
        writeln!(f, "  parameters  {parameters}, {}, {precision}", size(self.totals.bytes))
    }
}
