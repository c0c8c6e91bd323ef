//! What an adapter holds: its method, its base, its subject, and where it acts.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

use anyhow::Result;
use burn::tensor::Device;
use serde::Serialize;
use understudy_engine::safetensors::Checkpoint;
use understudy_personalize::{Adapter, Metadata, Unmatched};

use super::checkpoint::Totals;
use super::{grouped, size};

/// An adapter in numbers.
#[derive(Debug, Serialize)]
pub struct AdapterSummary {
    path: PathBuf,
    metadata: Metadata,
    /// Residuals by the kind of linear map, e.g. `attn1.to_q`.
    sites: BTreeMap<String, usize>,
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
        let mut dialects = BTreeMap::new();
        for info in &infos {
            *dialects.entry(dialect(&info.name)).or_insert(0) += 1;
        }
        Ok(Self {
            path: path.to_owned(),
            metadata: adapter.metadata,
            sites,
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
fn dialect(key: &str) -> &'static str {
    match key {
        _ if key.starts_with("understudy.") => "understudy",
        _ if key.starts_with("lora_unet_") => "kohya",
        _ if key.starts_with("diffusion_model.") => "comfyui",
        _ if key.contains(".attn1.") || key.contains(".attn2.") || key.contains(".ffn.net.") => "diffusers",
        _ if key.starts_with("transformer.") || key.starts_with("base_model.") => "diffusers",
        _ if key.starts_with("blocks.") || key.starts_with("pipe.dit.") => "diffsynth",
        _ => "not told by their names",
    }
}

fn counts<K: fmt::Display>(counts: &BTreeMap<K, usize>) -> String {
    counts.iter().map(|(name, count)| format!("{count} {name}")).collect::<Vec<_>>().join(", ")
}

impl fmt::Display for AdapterSummary {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let Metadata { method, rank, alpha, window, created_with, .. } = &self.metadata;
        let unknown = || "not said".to_owned();
        let base = self
            .metadata
            .base
            .as_ref()
            .map_or_else(unknown, |base| format!("{} ({})", base.name, base.identity));
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
        writeln!(f, "  rank        {rank}, alpha {alpha}")?;
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
