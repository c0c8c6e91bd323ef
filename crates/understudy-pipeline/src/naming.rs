//! What the modules of a family's networks are called: one table, which files of weights, adapters and plans
//! all read.
//!
//! The paths of the denoiser stand as they are; those of another network have its name before them, as in
//! `text_encoder/text_model.encoder.layers.0.mlp.fc1` (see [`network_of`]).

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};

/// What stands for the number of a block in the paths of [`Module`].
pub const BLOCK: &str = "{}";

/// A module in the published names and in those of the original release.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Module {
    /// Its path as diffusers has it; [`BLOCK`] stands for a number.
    pub published: Cow<'static, str>,
    /// The same in the original release.
    pub original: Cow<'static, str>,
    /// What it is.
    pub kind: ModuleKind,
}

/// What a module is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ModuleKind {
    /// A linear map: it takes low-rank residuals.
    Map,
    /// A linear map of patches, which is published as a convolution whose stride is its kernel, with frames.
    Patches,
    /// A convolution of pictures, with whatever kernel: files have it, and what adapts it, with rows and
    /// columns.
    Convolution,
    /// A normalization, which has a weight and maybe a bias.
    Norm,
    /// A table of shifts and scales, which is a tensor by itself.
    Table,
}

/// What an adapter was made for, by its file's name and the fields of its header that name a base.
pub type MadeFor = fn(&str, &[(&str, &str)]) -> Option<String>;

/// The names of a family's networks.
#[derive(Debug)]
pub struct Naming {
    /// The denoiser's name, as its folder is called.
    pub network: &'static str,
    /// Every module, those of kinds of the family that are not run, too.
    pub modules: Cow<'static, [Module]>,
    /// The modules of these that only kinds of the family have that are not run, by parts of their published
    /// names.
    pub foreign: &'static [&'static str],
    /// Whether kohya's programs have the published paths of the denoiser, and not the original ones.
    pub flat_published: bool,
    /// What musubi-tuner calls the module that adapters are made with.
    pub trainer_module: &'static str,
    /// What it is in words, e.g. `Toy 1's text-to-video denoiser`.
    pub title: &'static str,
    /// Parts of the keys of adapters for kinds of the family that are not run, and what those are.
    pub relatives: &'static [(&'static str, &'static str)],
    /// What an adapter was made for instead, though its keys fit; `None` where it seems to be for these
    /// networks.
    pub made_for: MadeFor,
}

impl Module {
    /// A module by its published and its original path.
    pub const fn named(published: &'static str, original: &'static str, kind: ModuleKind) -> Self {
        Self { published: Cow::Borrowed(published), original: Cow::Borrowed(original), kind }
    }
}

impl ModuleKind {
    /// Whether it takes low-rank residuals.
    pub fn is_map(self) -> bool {
        matches!(self, Self::Map | Self::Patches | Self::Convolution)
    }
}

impl Naming {
    /// Every module of a denoiser of `depth` blocks: its published path, its original one, and what it is.
    pub fn paths(&self, depth: usize) -> BTreeMap<String, (String, ModuleKind)> {
        let mut paths = BTreeMap::new();
        for Module { published, original, kind } in self.modules.iter() {
            let mut insert = |number: &str| {
                paths.insert(published.replace(BLOCK, number), (original.replace(BLOCK, number), *kind));
            };
            if published.contains(BLOCK) {
                (0..depth).for_each(|index| insert(&index.to_string()));
            } else {
                insert("");
            }
        }
        paths
    }

    /// The original path of a published one; `None` where it is no module's.
    pub fn original(&self, published: &str) -> Option<String> {
        self.translated(published, |module| [&module.published, &module.original])
    }

    /// The published path of an original one; `None` where it is no module's.
    pub fn published(&self, original: &str) -> Option<String> {
        self.translated(original, |module| [&module.original, &module.published])
    }

    fn translated(&self, path: &str, sides: impl Fn(&Module) -> [&str; 2]) -> Option<String> {
        self.modules.iter().find_map(|module| {
            let [from, to] = sides(module);
            Some(to.replace(BLOCK, number_in(path, from)?))
        })
    }

    /// What the module of a published path is; `None` where it is no module's.
    pub fn kind(&self, published: &str) -> Option<ModuleKind> {
        self.modules
            .iter()
            .find(|module| number_in(published, &module.published).is_some())
            .map(|own| own.kind)
    }

    /// Whether paths of modules have this `part`, in either of their names.
    pub fn has(&self, part: &str) -> bool {
        self.modules.iter().any(|own| own.published.contains(part) || own.original.contains(part))
    }

    /// The number of the block that a published path is in, and the path within it; `None` where blocks are
    /// counted at several places.
    pub fn in_block<'a>(&self, published: &'a str) -> Option<(&'a str, &'a str)> {
        published.strip_prefix(self.block_word()?)?.strip_prefix('.')?.split_once('.')
    }

    /// The maps within a block whose first word is `stem` and a number, and whose rest is `rest`.
    pub fn alike(&self, stem: &str, rest: &str) -> Vec<String> {
        let within = |module: &Module| {
            let (_, within) = module.published.split_once(BLOCK)?;
            let within = within.strip_prefix('.')?;
            let (first, end) = within.split_once('.')?;
            let number = first.strip_prefix(stem)?;
            let counted = !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit());
            (counted && end == rest && module.kind.is_map()).then(|| within.to_owned())
        };
        self.modules.iter().filter_map(within).collect()
    }

    /// The word before the number of a block in published paths, e.g. `blocks`, where there is one alone.
    pub fn block_word(&self) -> Option<&str> {
        let words: BTreeSet<&str> =
            self.modules.iter().filter_map(|module| before_number(&module.published)).collect();
        words.first().copied().filter(|_| words.len() == 1)
    }

    /// The words before the numbers of blocks, in the published names and in those of the original release.
    pub fn block_words(&self) -> BTreeSet<&str> {
        let paths = self.modules.iter().flat_map(|module| [&module.published, &module.original]);
        paths.filter_map(|path| before_number(path)).collect()
    }

    /// What the original release calls its tables of shifts and scales, within the modules they are of.
    pub fn table_names(&self) -> Vec<&str> {
        let tables = self.modules.iter().filter(|module| module.kind == ModuleKind::Table);
        let mut names: Vec<&str> =
            tables.filter_map(|module| Some(module.original.rsplit_once('.')?.1)).collect();
        names.dedup();
        names
    }

    /// Whether a published path, or a tensor's name, is of a kind of the family that is not run.
    pub fn is_foreign(&self, published: &str) -> bool {
        self.foreign.iter().any(|part| published.contains(part))
    }
}

/// The network that a path is of, if it is not the denoiser's, and the path within it.
pub fn network_of(path: &str) -> (Option<&str>, &str) {
    path.split_once('/').map_or((None, path), |(network, path)| (Some(network), path))
}

/// The words before [`BLOCK`] in a path of [`Module`]; `None` where it has no number.
fn before_number(path: &str) -> Option<&str> {
    Some(path.split_once(BLOCK)?.0.trim_end_matches('.'))
}

/// The number that stands in `path` for [`BLOCK`] of `pattern`, nothing where the pattern has none; `None`
/// where it is another path.
fn number_in<'a>(path: &'a str, pattern: &str) -> Option<&'a str> {
    let Some((before, after)) = pattern.split_once(BLOCK) else { return (path == pattern).then_some("") };
    let number = path.strip_prefix(before)?.strip_suffix(after)?;
    let is_number = !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit());
    is_number.then_some(number)
}

#[cfg(test)]
mod tests {
    use super::*;

    const NAMING: Naming = Naming {
        network: "transformer",
        modules: Cow::Borrowed(&[
            Module::named("blocks.{}.attn.q", "layers.{}.q", ModuleKind::Map),
            Module::named("out", "head.0", ModuleKind::Map),
        ]),
        foreign: &[],
        flat_published: false,
        trainer_module: "networks.lora_toy",
        title: "a toy",
        relatives: &[],
        made_for: |_, _| None,
    };

    #[test]
    fn paths_are_translated_both_ways() {
        assert_eq!(NAMING.original("blocks.12.attn.q").as_deref(), Some("layers.12.q"));
        assert_eq!(NAMING.published("layers.3.q").as_deref(), Some("blocks.3.attn.q"));
        assert_eq!(NAMING.published("head.0").as_deref(), Some("out"));
        for other in ["blocks..attn.q", "blocks.x.attn.q", "blocks.1.attn.q.weight", "head.00"] {
            assert_eq!(NAMING.original(other).or(NAMING.published(other)), None, "{other}");
        }
        assert_eq!(NAMING.paths(2).len(), 3);
    }
}
