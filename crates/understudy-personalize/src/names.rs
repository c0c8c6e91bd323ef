//! The key names of adapter files: which dialect a key is of, and which site and part it means.
//!
//! The same weights go by four kinds of names. All are read; ComfyUI's, diffusers' and kohya's are written.

use std::collections::BTreeMap;
use std::str::FromStr;

use crate::error::{Error, Result};
use crate::sites::{BLOCK, GLOBAL};

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
}

impl FromStr for Dialect {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        match text {
            "comfyui" => Ok(Self::ComfyUi),
            "diffusers" => Ok(Self::Diffusers),
            "kohya" => Ok(Self::Kohya),
            other => Err(Error::config(
                "format",
                format!("{other:?} is not known; use comfyui, diffusers or kohya"),
            )),
        }
    }
}

/// A part of a site's residual.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Role {
    /// The down projection A, `(rank, inputs)`.
    Down,
    /// The up projection B, `(outputs, rank)`.
    Up,
    /// The scalar alpha.
    Alpha,
}

/// Ends of keys, longest first so that the most specific one is taken.
const SUFFIXES: [(&str, Role); 15] = [
    (".lora_linear_layer.down.weight", Role::Down),
    (".lora_linear_layer.up.weight", Role::Up),
    (".lora_A.default.weight", Role::Down),
    (".lora_B.default.weight", Role::Up),
    (".lora.down.weight", Role::Down),
    ("_lora.down.weight", Role::Down),
    (".lora_down.weight", Role::Down),
    (".lora.up.weight", Role::Up),
    ("_lora.up.weight", Role::Up),
    (".lora_up.weight", Role::Up),
    (".lora_A.weight", Role::Down),
    (".lora_B.weight", Role::Up),
    (".lora_A", Role::Down),
    (".lora_B", Role::Up),
    (".alpha", Role::Alpha),
];

/// The original checkpoint's path of a site, which ComfyUI and kohya use.
fn native(site: &str) -> String {
    let global = GLOBAL.iter().find(|(own, _)| *own == site).map(|(_, other)| (*other).to_owned());
    let block = || {
        let (number, module) = site.strip_prefix("blocks.")?.split_once('.')?;
        let (_, other) = BLOCK.iter().find(|(own, _)| *own == module)?;
        Some(format!("blocks.{number}.{other}"))
    };
    global.or_else(block).unwrap_or_else(|| site.to_owned())
}

/// The key of a site's part in `dialect`.
pub fn key(dialect: Dialect, site: &str, role: Role) -> String {
    let module = match dialect {
        Dialect::ComfyUi => format!("diffusion_model.{}", native(site)),
        Dialect::Diffusers => format!("transformer.{site}"),
        Dialect::Kohya => format!("lora_unet_{}", native(site).replace('.', "_")),
    };
    let suffix = match (dialect, role) {
        (_, Role::Alpha) => "alpha",
        (Dialect::Kohya, Role::Down) => "lora_down.weight",
        (Dialect::Kohya, Role::Up) => "lora_up.weight",
        (_, Role::Down) => "lora_A.weight",
        (_, Role::Up) => "lora_B.weight",
    };
    format!("{module}.{suffix}")
}

/// Every name every site can have.
///
/// It is a table and not a parser because kohya's underscores cannot be taken apart without knowing the sites.
pub struct Names {
    modules: BTreeMap<String, (Dialect, String)>,
}

impl Names {
    /// The names of a denoiser of `depth` blocks.
    pub fn new(depth: usize) -> Self {
        let mut names = Self { modules: BTreeMap::new() };
        GLOBAL.iter().for_each(|(site, _)| names.add(site));
        for block in 0..depth {
            BLOCK.iter().for_each(|(module, _)| names.add(&format!("blocks.{block}.{module}")));
        }
        names
    }

    fn add(&mut self, site: &str) {
        let native = native(site);
        // ComfyUI's own; DiffSynth's, which has no prefix; its old one.
        for prefix in ["diffusion_model.", "", "pipe.dit."] {
            self.modules.insert(format!("{prefix}{native}"), (Dialect::ComfyUi, site.to_owned()));
        }
        // diffusers' pipelines, its models (`save_lora_adapter`), and raw peft.
        for prefix in ["transformer.", "", "base_model.model."] {
            self.modules.insert(format!("{prefix}{site}"), (Dialect::Diffusers, site.to_owned()));
        }
        // musubi-tuner, VideoX-Fun, and either with diffusers' module names.
        for prefix in ["lora_unet_", "lora_unet__"] {
            for path in [native.as_str(), site] {
                let module = format!("{prefix}{}", path.replace('.', "_"));
                self.modules.insert(module, (Dialect::Kohya, site.to_owned()));
            }
        }
    }

    /// What `key` means: its dialect, its site and which part; `None` if nothing.
    pub fn parse(&self, key: &str) -> Option<(Dialect, &str, Role)> {
        SUFFIXES.iter().find_map(|(suffix, role)| {
            let (dialect, site) = self.modules.get(key.strip_suffix(suffix)?)?;
            Some((*dialect, site.as_str(), *role))
        })
    }
}

/// A depth that no block number in `keys` exceeds, for reading a file without its base.
pub(crate) fn depth_of<'a>(keys: impl Iterator<Item = &'a str>) -> usize {
    const DEEPEST: usize = 1024;
    let number = |key: &str| {
        let rest = key.split_once("blocks")?.1.trim_start_matches(['.', '_']);
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
        let names = Names::new(3);
        for block in 0..3 {
            for (module, _) in BLOCK {
                let site = format!("blocks.{block}.{module}");
                for dialect in [Dialect::ComfyUi, Dialect::Diffusers, Dialect::Kohya] {
                    for role in [Role::Down, Role::Up, Role::Alpha] {
                        let key = key(dialect, &site, role);
                        assert_eq!(names.parse(&key), Some((dialect, site.as_str(), role)), "{key}");
                    }
                }
            }
        }
    }

    #[test]
    fn names_met_in_the_wild_are_known() {
        let names = Names::new(40);
        for (key, site, role) in [
            ("diffusion_model.blocks.39.cross_attn.o.lora_A.weight", "blocks.39.attn2.to_out.0", Role::Down),
            ("blocks.1.self_attn.q.lora_B.default.weight", "blocks.1.attn1.to_q", Role::Up),
            ("pipe.dit.blocks.1.ffn.2.lora_A.default.weight", "blocks.1.ffn.net.2", Role::Down),
            ("lora_unet__blocks_12_ffn_0.lora_up.weight", "blocks.12.ffn.net.0.proj", Role::Up),
            ("lora_unet_blocks_12_attn1_to_out_0.alpha", "blocks.12.attn1.to_out.0", Role::Alpha),
            ("base_model.model.blocks.2.attn2.to_k.lora_A.weight", "blocks.2.attn2.to_k", Role::Down),
            ("blocks.2.attn2.to_k.lora_B.weight", "blocks.2.attn2.to_k", Role::Up),
            ("diffusion_model.head.head.lora_A.weight", "proj_out", Role::Down),
        ] {
            let (_, found, part) = names.parse(key).unwrap();
            assert_eq!((found, part), (site, role), "{key}");
        }
        for key in [
            "",
            "x",
            "blocks.1.self_attn.q",
            "blocks.40.self_attn.q.alpha",
            "blocks.1.self_attn.q.dora_scale",
        ] {
            assert_eq!(names.parse(key), None, "{key}");
        }
    }

    #[test]
    fn depth_is_found_in_any_dialect() {
        let keys = ["lora_unet__blocks_7_ffn_0.alpha", "transformer.blocks.11.attn1.to_q.lora_A.weight", "x"];
        assert_eq!(depth_of(keys.into_iter()), 12);
        assert_eq!(depth_of(["blocks.99999999999999999999.x"].into_iter()), 0);
    }
}
