//! The key names of adapter files: which dialect a key is of, and which site and part it means.
//!
//! The same weights go by four kinds of names; all are read and written.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use understudy_pipeline::wrapped::{bare, is_holder};
use understudy_pipeline::{FAMILIES, ModuleKind, Naming, network_of};

use crate::error::{Error, Result};

/// A way of naming the tensors of an adapter.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Dialect {
    /// `diffusion_model.blocks.0.self_attn.q.lora_A.weight`, with `.alpha` scalars.
    #[default]
    ComfyUi,
    /// `transformer.blocks.0.attn1.to_q.lora_A.weight`, with the scale in the metadata.
    Diffusers,
    /// `lora_unet_blocks_0_self_attn_q.lora_down.weight`, with `.alpha` scalars.
    Kohya,
    /// `blocks.0.self_attn.q.lora_A.default.weight`, its scale always 1.
    DiffSynth,
}

impl Dialect {
    /// Every one.
    pub const ALL: [Self; 4] = [Self::ComfyUi, Self::Diffusers, Self::Kohya, Self::DiffSynth];

    /// As the command line names it.
    pub fn name(self) -> &'static str {
        match self {
            Self::ComfyUi => "comfyui",
            Self::Diffusers => "diffusers",
            Self::Kohya => "kohya",
            Self::DiffSynth => "diffsynth",
        }
    }
}

impl fmt::Display for Dialect {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Dialect {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let unknown = || {
            Error::config(
                "format",
                format!("{text:?} is not known; use comfyui, diffusers, kohya or diffsynth"),
            )
        };
        Self::ALL.into_iter().find(|dialect| dialect.name() == text).ok_or_else(unknown)
    }
}

/// A part of what an adapter holds for a site.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Part {
    /// The down projection A, `(rank, inputs)`.
    Down,
    /// The up projection B, `(outputs, rank)`.
    Up,
    /// A bias of B, `(outputs)`, which the scale multiplies too.
    UpBias,
    /// The scalar alpha.
    Alpha,
    /// What is added to the weight.
    Weight,
    /// What is added to the bias.
    Bias,
    /// What is added to a table of shifts and scales, in a key that names the module the table is of.
    Modulation,
    /// The kernel between the projections of a convolution, `(rank, rank, frames, rows, columns)`.
    Mid,
    /// The lengths that DoRA gives the rows or columns of the changed weight.
    Magnitude,
    /// A tensor of a product that is no plain residual, by the end of its key: one of [`PRODUCTS`].
    Product(&'static str),
}

/// The tensors of LoHa and LoKr.
pub const PRODUCTS: [&str; 13] = [
    "hada_w1_a",
    "hada_w1_b",
    "hada_w2_a",
    "hada_w2_b",
    "hada_t1",
    "hada_t2",
    "lokr_w1",
    "lokr_w1_a",
    "lokr_w1_b",
    "lokr_w2",
    "lokr_w2_a",
    "lokr_w2_b",
    "lokr_t2",
];

/// What peft calls the magnitudes of DoRA, which are always of outputs.
pub(crate) const MAGNITUDES: &str = "lora_magnitude_vector";

/// Ends of keys, longest first so that the most specific one is taken.
const SUFFIXES: [(&str, Part); 23] = [
    (".lora_magnitude_vector.weight", Part::Magnitude),
    (".lora_linear_layer.down.weight", Part::Down),
    (".lora_linear_layer.up.weight", Part::Up),
    (".lora.down.weight", Part::Down),
    ("_lora.down.weight", Part::Down),
    (".lora_down.weight", Part::Down),
    (".lora.up.weight", Part::Up),
    ("_lora.up.weight", Part::Up),
    (".lora_up.weight", Part::Up),
    (".lora_A.weight", Part::Down),
    (".lora_B.weight", Part::Up),
    (".lora_B.bias", Part::UpBias),
    (".lora_magnitude_vector", Part::Magnitude),
    (".lora_mid.weight", Part::Mid),
    (".dora_scale", Part::Magnitude),
    (".lora_A", Part::Down),
    (".lora_B", Part::Up),
    (".diff_b", Part::Bias),
    (".diff_m", Part::Modulation),
    (".alpha", Part::Alpha),
    (".w_norm", Part::Weight),
    (".b_norm", Part::Bias),
    (".diff", Part::Weight),
];

/// A key's module and part.
pub(crate) fn split(key: &str) -> Option<(&str, Part)> {
    let suffix = |(suffix, part): &(&str, Part)| Some((key.strip_suffix(suffix)?, *part));
    let product = || {
        // peft's adapters may have their name behind the tensor's.
        let (module, last) = key.strip_suffix(".default").unwrap_or(key).rsplit_once('.')?;
        let &own = PRODUCTS.iter().find(|own| **own == last)?;
        Some((module, Part::Product(own)))
    };
    SUFFIXES.iter().find_map(suffix).or_else(product).or_else(|| named(key))
}

/// The same of a key in which peft put the adapter's name: `.lora_A.default.weight`,
/// `.lora_magnitude_vector.default`.
fn named(key: &str) -> Option<(&str, Part)> {
    let halves =
        [(".lora_A.", Part::Down), (".lora_B.", Part::Up), (".lora_magnitude_vector.", Part::Magnitude)];
    halves.into_iter().find_map(|(half, part)| {
        let (module, name) = key.strip_suffix(".weight").unwrap_or(key).rsplit_once(half)?;
        let whole = part == Part::Magnitude || key.ends_with(".weight");
        (whole && !name.is_empty() && !name.contains('.')).then_some((module, part))
    })
}

/// The original checkpoint's path of a site, which all but diffusers use.
pub(crate) fn native(naming: &Naming, site: &str) -> String {
    naming.original(site).unwrap_or_else(|| network_of(site).1.to_owned())
}

/// The key of a site's part in `dialect`; `None` where the dialect has no place for it.
pub fn key(naming: &Naming, dialect: Dialect, site: &str, part: Part) -> Option<String> {
    use Dialect::{ComfyUi, DiffSynth, Diffusers, Kohya};
    let suffix = match (dialect, part) {
        (Kohya, Part::Down) => "lora_down.weight",
        (Kohya, Part::Up) => "lora_up.weight",
        (DiffSynth, Part::Down) => "lora_A.default.weight",
        (DiffSynth, Part::Up) => "lora_B.default.weight",
        (ComfyUi | Diffusers, Part::Down) => "lora_A.weight",
        (ComfyUi | Diffusers, Part::Up) => "lora_B.weight",
        (Diffusers, Part::UpBias) => "lora_B.bias",
        (Diffusers, Part::Magnitude) => MAGNITUDES,
        (ComfyUi | Kohya, Part::Magnitude) => "dora_scale",
        (ComfyUi | Kohya, Part::Mid) => "lora_mid.weight",
        (ComfyUi | Kohya, Part::Product(own)) => own,
        (ComfyUi | Kohya, Part::Alpha) => "alpha",
        (ComfyUi | Kohya, Part::Weight) => "diff",
        (ComfyUi | Kohya, Part::Bias) => "diff_b",
        (ComfyUi | Kohya, Part::Modulation) => "diff_m",
        _ => return None,
    };
    let native = || match part {
        // The key names the module the table is of.
        Part::Modulation => Some(native(naming, site).rsplit_once('.')?.0.to_owned()),
        _ => Some(native(naming, site)),
    };
    let module = match (dialect, network_of(site)) {
        (Diffusers, (network, path)) => format!("{}.{path}", network.unwrap_or(naming.network)),
        // Nothing else is called so in these programs' files.
        (ComfyUi | Kohya, (Some(_), path)) => format!("{FLAT}te_{}", flattened(path)),
        (ComfyUi, _) => format!("diffusion_model.{}", native()?),
        (Kohya, (_, path)) if naming.flat_published => format!("{FLAT}unet_{}", flattened(path)),
        (Kohya, _) => format!("{FLAT}unet_{}", flattened(&native()?)),
        (DiffSynth, (Some(_), _)) => return None,
        (DiffSynth, _) => native()?,
    };
    Some(format!("{module}.{suffix}"))
}

/// A path as kohya's programs have it.
fn flattened(path: &str) -> String {
    path.replace('.', "_")
}

/// The tensor that a site's [`Part::Weight`], [`Part::Bias`] or [`Part::Modulation`] is added to.
pub fn tensor(naming: &Naming, site: &str, part: Part) -> String {
    match part {
        Part::Bias => format!("{site}.bias"),
        _ if naming.kind(site) == Some(ModuleKind::Table) => site.to_owned(),
        _ => format!("{site}.weight"),
    }
}

/// Every name every site can have.
///
/// It is a table and not a parser because kohya's underscores cannot be taken apart without knowing the
/// sites.
pub struct Names {
    naming: &'static Naming,
    modules: BTreeMap<String, Module>,
}

/// What a module's name means.
struct Module {
    dialect: Dialect,
    site: String,
    kind: ModuleKind,
}

/// What the families call modules.
pub(crate) fn namings() -> Vec<&'static Naming> {
    FAMILIES.iter().map(|family| family.naming()).collect()
}

/// The same after what a base calls them, which need not be of a family that is listed.
pub(crate) fn namings_from(base: &'static Naming) -> Vec<&'static Naming> {
    let others = namings().into_iter().filter(|naming| !std::ptr::eq(*naming, base));
    std::iter::once(base).chain(others).collect()
}

/// What modules are called where nothing tells: as by the first family.
pub(crate) fn usual() -> &'static Naming {
    FAMILIES[0].naming()
}

impl Names {
    /// The names of a denoiser of `depth` blocks.
    pub fn new(naming: &'static Naming, depth: usize) -> Self {
        let mut names = Self { naming, modules: BTreeMap::new() };
        for (site, (native, kind)) in naming.paths(depth) {
            names.add(&site, &native, kind);
        }
        names
    }

    /// The names of whatever denoiser the keys of a file are of, of the family that knows the most of them.
    pub fn of<'a>(keys: impl Iterator<Item = &'a str>) -> Self {
        Self::among(&namings(), keys)
    }

    /// The same among families that call modules so; the first of those that know as many.
    pub fn among<'a>(namings: &[&'static Naming], keys: impl Iterator<Item = &'a str>) -> Self {
        let keys: Vec<&str> = keys.collect();
        let of = |naming: &&'static Naming| Self::new(naming, depth_of(naming, keys.iter().copied()));
        let known = |names: &Self| keys.iter().filter(|key| names.parse(key).is_some()).count();
        let best = namings.iter().map(of).rev().max_by_key(known);
        best.unwrap_or_else(|| Self::new(usual(), 0))
    }

    /// The family's table.
    pub fn naming(&self) -> &'static Naming {
        self.naming
    }

    fn add(&mut self, site: &str, native: &str, kind: ModuleKind) {
        let mut insert = |name: String, dialect| {
            self.modules.insert(name, Module { dialect, site: site.to_owned(), kind });
        };
        if let (Some(network), path) = network_of(site) {
            // transformers leaves the outermost module out from its version 5 on.
            for path in [path, path.strip_prefix(TEXT_MODEL).unwrap_or(path)] {
                insert(path.to_owned(), Dialect::Diffusers);
                insert(format!("{network}.{path}"), Dialect::Diffusers);
            }
            // kohya's, that of programs for bases with two text encoders, OneTrainer's and LyCORIS'.
            for before in ["te_", "te1_", "text_encoder_", ""] {
                insert(format!("{FLAT}{before}{}", flattened(path)), Dialect::Kohya);
            }
            return;
        }
        // diffusers' models (`save_lora_adapter`) and raw peft on those; DiffSynth and raw peft on the
        // original model. A name that both have is read as the original one.
        insert(site.to_owned(), Dialect::Diffusers);
        insert(native.to_owned(), Dialect::DiffSynth);
        for path in [native, site] {
            insert(format!("{FLAT}{}", flattened(path)), Dialect::Kohya);
        }
    }

    /// Whether a module goes by this name in any dialect.
    pub(crate) fn knows(&self, module: &str) -> bool {
        self.module(module).is_some()
    }

    /// The module that goes by this name, whatever programs put before it, and its dialect.
    fn module(&self, name: &str) -> Option<(Dialect, &Module)> {
        let own = flat(name).unwrap_or_else(|| bare(name));
        let module = self.modules.get(&own).or_else(|| self.modules.get(&unprocessed(&own)?))?;
        let dialect = match name.split('.').find(|word| ["diffusion_model", "transformer"].contains(word)) {
            Some("diffusion_model") => Dialect::ComfyUi,
            Some(_) => Dialect::Diffusers,
            None => module.dialect,
        };
        Some((dialect, module))
    }

    /// What `key` means: its dialect, its site and which part; `None` if nothing.
    pub fn parse(&self, key: &str) -> Option<(Dialect, &str, Part)> {
        let (module, part) = split(key)?;
        let (dialect, Module { site, kind, .. }) = match part {
            Part::Modulation => self.naming.table_names().iter().find_map(|table| {
                let dotted = self.module(&format!("{module}.{table}"));
                dotted.or_else(|| self.module(&format!("{module}_{table}")))
            })?,
            _ => self.module(module)?,
        };
        let linear = kind.is_map();
        let whole = matches!(part, Part::Weight | Part::Bias | Part::Modulation);
        (whole || linear).then_some((dialect, site.as_str(), part))
    }
}

/// The outermost module of CLIP's text encoder.
pub(crate) const TEXT_MODEL: &str = "text_model.";

/// A map of an attention whose residual lies in a processor beside it, as early diffusers and AnimateDiff's
/// own program have them: `attn1.to_out.0` of `attn1.processor.to_out`. `None` of other names.
fn unprocessed(name: &str) -> Option<String> {
    let (attention, map) = name.split_once(".processor.")?;
    let layer = if map == "to_out" { ".0" } else { "" };
    Some(format!("{attention}.{map}{layer}"))
}

/// What names in which underscores stand for dots begin with in the table.
const FLAT: &str = "lora_";

/// A name in which underscores stand for dots, as kohya's programs, OneTrainer and LyCORIS have it, without
/// what they put before the module's own: `lora_blocks_0_ffn_0` of `lora_unet__blocks_0_ffn_0`. `None` of
/// other names.
fn flat(name: &str) -> Option<String> {
    let mut rest =
        ["lora_transformer_", "lora_", "lycoris_"].iter().find_map(|start| name.strip_prefix(start))?;
    let holder = |rest: &str| {
        // Elsewhere it is the beginning of another network's transformer_blocks.
        let is_known = |word: &str| word != "transformer" && is_holder(word);
        // Of two that begin alike, the longer.
        let mut ends = rest.rmatch_indices('_').map(|(at, _)| at);
        ends.find(|&at| at == 0 || is_known(&rest[..at])).map(|at| at + 1)
    };
    while let Some(end) = holder(rest) {
        rest = &rest[end..];
    }
    Some(format!("{FLAT}{rest}"))
}

/// A depth that no block number in `keys` exceeds, for reading a file without its base.
fn depth_of<'a>(naming: &Naming, keys: impl Iterator<Item = &'a str>) -> usize {
    const DEEPEST: usize = 1024;
    let word = |word: &&str| {
        let path = network_of(word).1;
        flattened(path.strip_prefix(TEXT_MODEL).unwrap_or(path))
    };
    let words: Vec<String> = naming.block_words().iter().map(word).collect();
    let number = |key: &str| {
        let key = flattened(key);
        let rest = words.iter().find_map(|word| key.split_once(word.as_str()))?.1.trim_start_matches('_');
        let digits: String = rest.chars().take_while(char::is_ascii_digit).collect();
        digits.parse::<usize>().ok().map(|number| number.saturating_add(1))
    };
    keys.filter_map(number).max().unwrap_or(0).min(DEEPEST)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn every_dialect_names_every_site_and_is_read_back() {
        let naming = FAMILIES[0].naming();
        let names = Names::new(naming, 3);
        for (site, (_, kind)) in naming.paths(3) {
            if kind.is_map() {
                for dialect in Dialect::ALL {
                    for part in [Part::Down, Part::Up, Part::Alpha, Part::Weight, Part::Bias] {
                        let Some(key) = key(naming, dialect, &site, part) else { continue };
                        assert_eq!(names.parse(&key), Some((dialect, site.as_str(), part)), "{key}");
                    }
                }
            }
        }
    }

    #[test]
    fn names_met_in_the_wild_are_known() {
        let names = Names::new(FAMILIES[0].naming(), 40);
        for (key, site, part) in [
            ("diffusion_model.blocks.39.cross_attn.o.lora_A.weight", "blocks.39.attn2.to_out.0", Part::Down),
            ("blocks.1.self_attn.q.lora_B.default.weight", "blocks.1.attn1.to_q", Part::Up),
            ("pipe.dit.blocks.1.ffn.2.lora_A.default.weight", "blocks.1.ffn.net.2", Part::Down),
            ("lora_unet__blocks_12_ffn_0.lora_up.weight", "blocks.12.ffn.net.0.proj", Part::Up),
            ("lora_unet_blocks_12_attn1_to_out_0.alpha", "blocks.12.attn1.to_out.0", Part::Alpha),
            ("base_model.model.blocks.2.attn2.to_k.lora_A.weight", "blocks.2.attn2.to_k", Part::Down),
            ("blocks.2.attn2.to_k.lora_B.weight", "blocks.2.attn2.to_k", Part::Up),
            ("diffusion_model.head.head.lora_A.weight", "proj_out", Part::Down),
            ("diffusion_model.patch_embedding.lora_down.weight", "patch_embedding", Part::Down),
            ("diffusion_model.blocks.2.norm3.diff", "blocks.2.norm2", Part::Weight),
            ("diffusion_model.blocks.2.self_attn.norm_q.diff", "blocks.2.attn1.norm_q", Part::Weight),
            ("diffusion_model.blocks.2.ffn.0.diff_b", "blocks.2.ffn.net.0.proj", Part::Bias),
            ("diffusion_model.blocks.2.modulation.diff", "blocks.2.scale_shift_table", Part::Weight),
            ("diffusion_model.blocks.2.diff_m", "blocks.2.scale_shift_table", Part::Modulation),
            ("diffusion_model.head.diff_m", "scale_shift_table", Part::Modulation),
            ("lora_unet_blocks_2.diff_m", "blocks.2.scale_shift_table", Part::Modulation),
            ("transformer.blocks.2.attn1.to_q.lora_B.bias", "blocks.2.attn1.to_q", Part::UpBias),
            ("transformer.blocks.2.attn1.to_q.lora_A.my_cat.weight", "blocks.2.attn1.to_q", Part::Down),
            ("transformer.blocks.2.self_attn.q.lora_B.weight", "blocks.2.attn1.to_q", Part::Up),
            ("base_model.model.blocks.2.self_attn.q.lora_B.weight", "blocks.2.attn1.to_q", Part::Up),
            ("diffusion_model.blocks.2.attn1.to_q.lora_B.weight", "blocks.2.attn1.to_q", Part::Up),
            ("model.diffusion_model.blocks.2.ffn.0.lora_up.weight", "blocks.2.ffn.net.0.proj", Part::Up),
            ("lora_transformer_blocks_2_attn1_to_q.lora_down.weight", "blocks.2.attn1.to_q", Part::Down),
            ("lycoris_blocks_2_self_attn_q.alpha", "blocks.2.attn1.to_q", Part::Alpha),
            ("lora_unet_diffusion_model_blocks_2_self_attn_q.alpha", "blocks.2.attn1.to_q", Part::Alpha),
            ("lora_dit_blocks_2_self_attn_q.alpha", "blocks.2.attn1.to_q", Part::Alpha),
            ("lora_blocks_2_self_attn_q.alpha", "blocks.2.attn1.to_q", Part::Alpha),
            ("model.blocks.2.self_attn.q.lora_A.weight", "blocks.2.attn1.to_q", Part::Down),
            ("unet.blocks.2.attn1.to_q.lora_A.weight", "blocks.2.attn1.to_q", Part::Down),
            ("dit.blocks.2.self_attn.q.lora_B.default.weight", "blocks.2.attn1.to_q", Part::Up),
            ("net.blocks.2.self_attn.q.lora_down.weight", "blocks.2.attn1.to_q", Part::Down),
            ("module.blocks.2.self_attn.q.lora_up.weight", "blocks.2.attn1.to_q", Part::Up),
            (
                "base_model.model.transformer.blocks.2.attn1.to_q.lora_A.weight",
                "blocks.2.attn1.to_q",
                Part::Down,
            ),
            (
                "module.base_model.model._orig_mod.blocks.2.attn1.to_q.lora_A.default.weight",
                "blocks.2.attn1.to_q",
                Part::Down,
            ),
            (
                "state_dict.model.diffusion_model.blocks.2.diff_m",
                "blocks.2.scale_shift_table",
                Part::Modulation,
            ),
            ("lora_unet_blocks_2_cross_attn_k_img.alpha", "blocks.2.attn2.add_k_proj", Part::Alpha),
            ("diffusion_model.blocks.2.self_attn.q.dora_scale", "blocks.2.attn1.to_q", Part::Magnitude),
            (
                "base_model.model.blocks.2.attn1.to_q.lora_magnitude_vector",
                "blocks.2.attn1.to_q",
                Part::Magnitude,
            ),
            (
                "blocks.2.attn1.to_q.lora_magnitude_vector.default.weight",
                "blocks.2.attn1.to_q",
                Part::Magnitude,
            ),
            ("lora_unet_blocks_2_ffn_0.hada_w1_a", "blocks.2.ffn.net.0.proj", Part::Product("hada_w1_a")),
            ("diffusion_model.blocks.2.ffn.0.lokr_w2", "blocks.2.ffn.net.0.proj", Part::Product("lokr_w2")),
            ("lycoris_blocks_2_norm3.w_norm", "blocks.2.norm2", Part::Weight),
            (
                "diffusion_model.blocks.2.cross_attn.norm_k_img.diff",
                "blocks.2.attn2.norm_added_k",
                Part::Weight,
            ),
            (
                "diffusion_model.img_emb.proj.1.lora_A.weight",
                "condition_embedder.image_embedder.ff.net.0.proj",
                Part::Down,
            ),
        ] {
            let (_, found, read) = names.parse(key).unwrap();
            assert_eq!((found, read), (site, part), "{key}");
        }
        for key in [
            "",
            "x",
            "blocks.1.self_attn.q",
            "blocks.40.self_attn.q.alpha",
            "blocks.1.norm3.dora_scale",
            "transformer_2.blocks.1.self_attn.q.alpha",
            "text_encoder.blocks.1.self_attn.q.alpha",
            "lora_transformer_2_blocks_1_self_attn_q.alpha",
            "lora_unet_transformer_blocks_1_attn1_to_q.alpha",
            "transformer_blocks.1.attn1.to_q.alpha",
            "lora_te_blocks_1_self_attn_q.alpha",
            "blocks.1.self_attn.q.lokr_w9",
            "blocks.1.norm3.lora_A.weight",
            "blocks.1.norm3.diff_m",
            "blocks.1.self_attn.q.lora_A.a.b.weight",
            "blocks.1.self_attn.q.lora_A..weight",
        ] {
            assert_eq!(names.parse(key), None, "{key}");
        }
    }

    #[test]
    fn stable_diffusions_names_met_in_the_wild_are_known() {
        let naming = FAMILIES.iter().find(|family| family.name() == "animatediff").unwrap().naming();
        let names = Names::new(naming, 12);
        let attention = "down_blocks.0.attentions.1.transformer_blocks.0.attn1";
        let motion = "up_blocks.3.motion_modules.2.transformer_blocks.0";
        for (key, site) in [
            (
                "lora_unet_down_blocks_0_attentions_1_transformer_blocks_0_attn1_to_q",
                format!("{attention}.to_q"),
            ),
            ("lora_unet_input_blocks_2_1_transformer_blocks_0_attn1_to_q", format!("{attention}.to_q")),
            ("lora_unet_input_blocks_2_1_proj_in", "down_blocks.0.attentions.1.proj_in".to_owned()),
            ("lora_unet_output_blocks_5_2_conv", "up_blocks.1.upsamplers.0.conv".to_owned()),
            (
                "unet.down_blocks.0.attentions.1.transformer_blocks.0.attn1.processor.to_out",
                format!("{attention}.to_out.0"),
            ),
            (
                "module.up_blocks.3.motion_modules.2.temporal_transformer.transformer_blocks.0.attention_blocks.1.processor.to_out",
                format!("{motion}.attn2.to_out.0"),
            ),
            (
                "unet.up_blocks.3.motion_modules.2.transformer_blocks.0.attn1.to_v",
                format!("{motion}.attn1.to_v"),
            ),
            (
                "lora_te_text_model_encoder_layers_11_mlp_fc1",
                "text_encoder/text_model.encoder.layers.11.mlp.fc1".to_owned(),
            ),
            (
                "text_encoder.encoder.layers.3.self_attn.k_proj",
                "text_encoder/text_model.encoder.layers.3.self_attn.k_proj".to_owned(),
            ),
        ] {
            let found = names
                .parse(&format!("{key}_lora.down.weight"))
                .or(names.parse(&format!("{key}.lora_down.weight")));
            assert_eq!(found.map(|(_, site, _)| site), Some(site.as_str()), "{key}");
        }
    }

    #[test]
    fn depth_is_found_in_any_dialect() {
        let keys = ["lora_unet__blocks_7_ffn_0.alpha", "transformer.blocks.11.attn1.to_q.lora_A.weight", "x"];
        assert_eq!(depth_of(FAMILIES[0].naming(), keys.into_iter()), 12);
        assert_eq!(depth_of(FAMILIES[0].naming(), ["blocks.99999999999999999999.x"].into_iter()), 0);
    }
}
