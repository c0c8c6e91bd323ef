//! What an adapter holds: its method, its base, its subject, and where it acts.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

use anyhow::Result;
use burn::tensor::Device;
use serde::Serialize;
use understudy_engine::safetensors::Checkpoint;
use understudy_personalize::{
    Adapter, BASE_FIELDS, Metadata, Names, Opened, Reference, Unmatched, file_of, is_adapter_key,
};
use understudy_train::path_as_text;

use super::checkpoint::Totals;
use super::{grouped, size};

/// An adapter in numbers.
#[derive(Debug, Serialize)]
pub struct AdapterSummary {
    #[serde(serialize_with = "path_as_text")]
    path: PathBuf,
    metadata: Metadata,
    /// The published denoiser whose channels and blocks it has, if it is one.
    model: Option<&'static str>,
    /// What its header says of its base in another program's words.
    made_for: Option<String>,
    /// Linear maps it acts on by what is made of them: `LoRA`, `DoRA`, `LoHa`, `LoKr`.
    kinds: BTreeMap<&'static str, usize>,
    /// The same by the kind of linear map, e.g. `attn1.to_q`.
    sites: BTreeMap<String, usize>,
    /// Residuals by their rank.
    ranks: BTreeMap<usize, usize>,
    /// The least and the greatest `alpha / rank`.
    scales: Option<[f32; 2]>,
    /// Where the scales are stated, and for how many maps.
    scales_from: BTreeMap<String, usize>,
    /// Pictures of the subject that are in the file, as latents, if there are some.
    pictures: Option<Pictures>,
    /// Tensors of the base that it adds numbers to.
    differences: usize,
    /// Keys by the program whose names they are.
    dialects: BTreeMap<&'static str, usize>,
    /// Keys that are not understood.
    unmatched: Vec<String>,
    /// What the user should know.
    notes: Vec<String>,
    #[serde(flatten)]
    totals: Totals,
}

/// Pictures of the subject in an adapter: whoever has the file can see them.
#[derive(Debug, Serialize)]
pub struct Pictures {
    count: usize,
    /// Rows and columns of their latents.
    latents: [usize; 2],
    /// Height and width in pixels, if the adapter says.
    pixels: Option<[usize; 2]>,
    /// How many have a mask.
    masks: usize,
}

impl Pictures {
    fn of(adapter: &Adapter) -> Option<Self> {
        let first = adapter.references.first()?;
        let [_, _, _, rows, columns] = first.latents.dims();
        let masked = |own: &&Reference| own.mask.is_some();
        let (count, masks) = (adapter.references.len(), adapter.references.iter().filter(masked).count());
        Some(Self { count, latents: [rows, columns], pixels: adapter.metadata.base_size, masks })
    }
}

/// The file of an adapter that `path` names, if it is a folder of peft's or diffusers', or peft's
/// configuration.
pub fn in_folder(path: &Path) -> PathBuf {
    const NAMES: [&str; 3] =
        ["adapter_config.json", "adapter_model.safetensors", "pytorch_lora_weights.safetensors"];
    let named = path.file_name().is_some_and(|name| name == NAMES[0]);
    let holds = || NAMES.iter().any(|name| path.join(name).is_file());
    if named || path.is_dir() && holds() {
        file_of(path).unwrap_or_else(|_| path.to_owned())
    } else {
        path.to_owned()
    }
}

/// Whether the file is an adapter rather than a network.
pub fn is_adapter(checkpoint: &Checkpoint) -> bool {
    checkpoint.metadata().contains_key("understudy")
        || checkpoint.infos().iter().any(|info| is_adapter_key(&info.name))
}

impl AdapterSummary {
    /// Reads the adapter at `path`, whose checkpoint is open already.
    ///
    /// # Errors
    /// When a residual lacks a half, shapes do not fit each other, or a value is not finite.
    pub fn read(path: &Path, checkpoint: &Checkpoint, device: &Device) -> Result<Self> {
        let Opened { adapter, left_out: unmatched, notes, scales: scales_from } =
            Adapter::open_with(path, device, Unmatched::Allow)?;
        let infos = checkpoint.infos();
        let mut sites = BTreeMap::new();
        for site in adapter.residuals.keys().chain(adapter.changes.keys()) {
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
            model: adapter.model(),
            made_for: BASE_FIELDS.iter().find_map(|field| checkpoint.metadata().get(*field).cloned()),
            kinds: adapter.kinds(),
            sites,
            ranks,
            scales: scales(&adapter),
            scales_from,
            pictures: Pictures::of(&adapter),
            notes,
            metadata: adapter.metadata,
            differences: adapter.differences.len(),
            dialects,
            unmatched,
            totals: Totals::of(&infos),
        })
    }
}

/// `attn1.to_q` of `blocks.3.attn1.to_q`, and of `down_blocks.0.attentions.1.transformer_blocks.0.attn1.to_q`
/// what follows `down_blocks` but for its numbers.
fn kind(site: &str) -> String {
    let is_number = |word: &&str| word.bytes().all(|byte| byte.is_ascii_digit());
    let words: Vec<&str> = site.split('.').collect();
    let blocks = words.iter().position(|word| word.ends_with("blocks") || word.ends_with("layers"));
    let Some(at) = blocks.filter(|at| words.get(at + 1).is_some_and(is_number)) else {
        return site.to_owned();
    };
    let rest = &words[at + 2..];
    // The last number names a module among its like: `to_out.0`, `ff.net.2`.
    let inner = rest.iter().rposition(|word| word.ends_with("blocks")).map_or(0, |at| at + 2);
    let place = if site.contains("motion_modules") { "motion " } else { "" };
    format!("{place}{}", rest[inner.min(rest.len())..].join("."))
}

/// Whose name `key` is.
fn dialect(names: &Names, key: &str) -> &'static str {
    match names.parse(key) {
        Some((dialect, ..)) => dialect.name(),
        None if key.starts_with("understudy.") => "understudy",
        None => "not told by their names",
    }
}

/// The least and the greatest factor of its residuals.
fn scales(adapter: &Adapter) -> Option<[f32; 2]> {
    let residuals = || adapter.residuals.values().map(|residual| residual.alpha / residual.rank() as f32);
    let own = || residuals().chain(adapter.changes.values().map(|change| change.scale));
    Some([own().reduce(f32::min)?, own().reduce(f32::max)?])
}

impl AdapterSummary {
    /// Where the scales are stated.
    fn sources(&self) -> String {
        match self.scales_from.len() {
            0 => "nothing: it counts as 1".to_owned(),
            1 => self.scales_from.keys().cloned().collect(),
            _ => self
                .scales_from
                .iter()
                .map(|(place, count)| format!("{place} ({count})"))
                .collect::<Vec<_>>()
                .join(", "),
        }
    }
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
        let sized = || match (&self.made_for, self.model) {
            (Some(said), Some(model)) => format!("{said:?}, as it says; it has the size of {model}"),
            (Some(said), None) => format!("{said:?}, as it says"),
            (None, Some(model)) => format!("not said; it has the size of {model}"),
            (None, None) => unknown(),
        };
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
        if !self.kinds.is_empty() {
            writeln!(f, "  kind        {}", counts(&self.kinds))?;
        }
        if let (Some(least), Some(most)) = (self.ranks.keys().min(), self.ranks.keys().max()) {
            writeln!(f, "  rank        {}", span(least, most))?;
        }
        if let Some([low, high]) = self.scales {
            writeln!(f, "  scale       {}, by {}", span(low, high), self.sources())?;
        }
        writeln!(f, "  window      {} to {} of denoising", window.start, window.end)?;
        writeln!(f, "  sites       {}: {}", self.metadata.sites, counts(&self.sites))?;
        if let Some(Pictures { count, latents: [rows, columns], pixels, masks }) = &self.pictures {
            let pixels =
                pixels.map(|[height, width]| format!(", {width}x{height} pixels")).unwrap_or_default();
            writeln!(
                f,
                "  pictures    {count} of the subject, as latents of {columns}x{rows}{pixels}, {masks} with masks: whoever has this file can see them; convert --without-pictures leaves them out"
            )?;
        }
        if self.differences > 0 {
            writeln!(f, "  adds to     {} tensors of the base", self.differences)?;
        }
        if !self.unmatched.is_empty() {
            writeln!(f, "  not understood: {} keys: {}", self.unmatched.len(), self.unmatched.join(", "))?;
        }
        for note in &self.notes {
            writeln!(f, "  note        {note}")?;
        }
        writeln!(f, "  keys        {}: {}", self.totals.tensors, counts(&self.dialects))?;
        let (parameters, precision) = (grouped(self.totals.parameters), self.totals.precision());
        writeln!(f, "  parameters  {parameters}, {}, {precision}", size(self.totals.bytes))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sites_are_counted_by_what_they_are() {
        for (site, expected) in [
            ("blocks.3.attn1.to_q", "attn1.to_q"),
            ("blocks.3.attn1.to_out.0", "attn1.to_out.0"),
            ("down_blocks.0.attentions.1.transformer_blocks.0.attn1.to_q", "attn1.to_q"),
            ("mid_block.attentions.0.transformer_blocks.0.ff.net.2", "ff.net.2"),
            ("up_blocks.1.motion_modules.0.transformer_blocks.0.attn1.to_out.0", "motion attn1.to_out.0"),
            ("mid_block.motion_modules.0.transformer_blocks.0.attn1.to_q", "motion attn1.to_q"),
            ("down_blocks.1.resnets.0.conv1", "resnets.0.conv1"),
            ("text_encoder/text_model.encoder.layers.0.mlp.fc1", "mlp.fc1"),
            ("proj_out", "proj_out"),
        ] {
            assert_eq!(kind(site), expected, "{site}");
        }
    }
}
