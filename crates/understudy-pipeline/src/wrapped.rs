//! Networks that lie below other names in their file: dictionaries of a state of training, modules that hold
//! the network, and the several copies of it that a training keeps.

use std::collections::{BTreeMap, BTreeSet};

use understudy_engine::error::WeightError;
use understudy_engine::safetensors::Checkpoint;

/// Modules that programs put around parts of a network to shard, checkpoint or compile them: no part of a
/// name, wherever they stand in it.
const AROUND: [&str; 4] =
    ["_fsdp_wrapped_module", "_checkpoint_wrapped_module", "_orig_mod", "_forward_module"];
/// Dictionaries and modules that hold the average of a network over its training.
const AVERAGES: [&str; 9] = [
    "ema",
    "ema_model",
    "ema_module",
    "ema_state_dict",
    "model_ema",
    "state_dict_ema",
    "generator_ema",
    "params_ema",
    "averaged_model",
];
/// Dictionaries and modules that hold a network, and peft's around one.
const HOLDERS: [&str; 20] = [
    "state_dict",
    "model_state_dict",
    "model_state",
    "module",
    "model",
    "diffusion_model",
    "base_model",
    "generator",
    "transformer",
    "denoiser",
    "dit",
    "unet",
    "net",
    "network",
    "pipe",
    "pipeline",
    "params",
    "weights",
    "shadow",
    "online_model",
];

/// Whether `word`, a part of a name between dots, stands for something that holds a network.
pub fn is_holder(word: &str) -> bool {
    HOLDERS.contains(&word) || AVERAGES.contains(&word)
}

/// What holds the tensor or module `name`, and its name in the network itself.
fn split(name: &str) -> (Vec<&str>, String) {
    let words: Vec<&str> = name.split('.').filter(|word| !AROUND.contains(word)).collect();
    let most = words.len().saturating_sub(1);
    let held = words.iter().take(most).take_while(|word| is_holder(word)).count();
    (words[..held].to_vec(), words[held..].join("."))
}

/// The name in the network itself of a tensor or module that a file calls `name`: `blocks.0.ffn.0` of
/// `state_dict.model.module.blocks.0.ffn.0`.
pub fn bare(name: &str) -> String {
    split(name).1
}

/// Which tensors of a file are those of a network, and what they are called in it.
#[derive(Debug)]
pub(crate) struct Held {
    /// The file's names by the network's.
    names: BTreeMap<String, String>,
    /// What is before the network's names in the file, with a dot at its end.
    prefix: String,
    /// What to say of it: which copy was taken, and what is left out.
    pub(crate) note: Option<String>,
}

impl Held {
    /// Those among `names` of a network whose names begin with one of `first_words`, up to the first dot. Of
    /// several copies the average over the training is taken, or else that which the least is around. What is
    /// not below anything, or beside the network, belongs to it, so that nothing strange goes unseen.
    pub(crate) fn of<'a>(first_words: &[&str], names: impl IntoIterator<Item = &'a str>) -> Self {
        let all: Vec<(&str, Vec<&str>, String)> = names
            .into_iter()
            .map(|name| {
                let (holders, bare) = split(name);
                (name, holders, bare)
            })
            .collect();
        let is_own = |bare: &str| first_words.contains(&bare.split('.').next().unwrap_or_default());
        let mut copies: BTreeMap<Vec<&str>, usize> = BTreeMap::new();
        for (_, holders, _) in all.iter().filter(|(.., bare)| is_own(bare)) {
            *copies.entry(holders.clone()).or_insert(0) += 1;
        }
        let order = |holders: &Vec<&str>| {
            let average = holders.iter().any(|word| AVERAGES.contains(word));
            (!average, holders.len(), holders.join("."))
        };
        let mut chosen: BTreeMap<&str, (&str, &Vec<&str>)> = BTreeMap::new();
        for (name, holders, bare) in all.iter().filter(|(.., bare)| is_own(bare)) {
            let better = chosen.get(bare.as_str()).is_none_or(|(_, other)| order(holders) < order(other));
            if better {
                chosen.insert(bare, (name, holders));
            }
        }
        let used: BTreeSet<&Vec<&str>> = chosen.values().map(|(_, holders)| *holders).collect();
        let plain = used.is_empty() || used.iter().any(|holders| holders.is_empty());
        let mut names: BTreeMap<String, String> =
            chosen.iter().map(|(bare, (name, _))| ((*bare).to_owned(), (*name).to_owned())).collect();
        // Counters of a training stand beside the network that it keeps.
        let beside = |holders: &Vec<&str>, bare: &str| {
            plain || (used.contains(holders) && (holders.is_empty() || bare.contains('.')))
        };
        let mut left: BTreeSet<String> = BTreeSet::new();
        for (name, holders, bare) in &all {
            if !is_own(bare) && beside(holders, bare) {
                names.insert(bare.clone(), (*name).to_owned());
            } else if chosen.get(bare.as_str()).is_none_or(|(own, _)| own != name) {
                let first = if holders.is_empty() {
                    bare.split('.').next().unwrap_or_default().to_owned()
                } else {
                    holders.join(".")
                };
                left.insert(first);
            }
        }
        let most =
            copies.iter().filter(|(holders, _)| used.contains(holders)).max_by_key(|(_, count)| **count);
        let prefix: String = most
            .map(|(holders, _)| holders.iter().map(|word| format!("{word}.")).collect())
            .unwrap_or_default();
        let note = (!left.is_empty()).then(|| said(&used, &left));
        Self { names, prefix, note }
    }

    /// The network's own names.
    pub(crate) fn names(&self) -> Vec<String> {
        self.names.keys().cloned().collect()
    }

    /// What the file calls the network's tensor `name`, or would.
    pub(crate) fn in_file(&self, name: &str) -> String {
        self.names.get(name).cloned().unwrap_or_else(|| format!("{}{name}", self.prefix))
    }

    /// The file's names by the network's.
    pub(crate) fn by_name(&self) -> &BTreeMap<String, String> {
        &self.names
    }

    /// The tensors themselves by the network's names.
    pub(crate) fn tensors(&self, checkpoint: Checkpoint) -> Result<Checkpoint, WeightError> {
        let own: BTreeMap<&str, &str> =
            self.names.iter().map(|(bare, name)| (name.as_str(), bare.as_str())).collect();
        checkpoint.only(|name| own.contains_key(name)).renamed(|name| Some((*own.get(name)?).to_owned()))
    }
}

fn said(used: &BTreeSet<&Vec<&str>>, left: &BTreeSet<String>) -> String {
    let list = |names: Vec<String>| names.join(", ");
    let average = used.iter().any(|holders| holders.iter().any(|word| AVERAGES.contains(word)));
    let taken = list(used.iter().map(|holders| holders.join(".")).collect());
    let taken = match (taken.is_empty(), average) {
        (true, _) => "what is below nothing else".to_owned(),
        (_, true) => format!("what is below {taken}, the average over its training,"),
        (_, false) => format!("what is below {taken}"),
    };
    format!("of its tensors {taken} is used; left out: {}", list(left.iter().cloned().collect()))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    const OWN: [&str; 3] = ["patch_embedding.weight", "blocks.0.ffn.0.weight", "head.modulation"];

    fn below(prefix: &str) -> Vec<String> {
        OWN.iter().map(|name| format!("{prefix}{name}")).collect()
    }

    fn held(names: &[String]) -> Held {
        Held::of(&["patch_embedding", "blocks", "head"], names.iter().map(String::as_str))
    }

    #[test]
    fn a_network_is_found_below_whatever_holds_it() {
        for prefix in [
            "",
            "model.",
            "model.diffusion_model.",
            "state_dict.model.",
            "model_state_dict.module.",
            "module._orig_mod.",
            "generator.model._fsdp_wrapped_module.",
            "pipe.dit.",
            "ema_model.module.",
            "net.",
        ] {
            let names = below(prefix);
            let found = held(&names);
            assert_eq!(found.note, None, "{prefix}");
            for (own, name) in OWN.iter().zip(&names) {
                assert_eq!((bare(name).as_str(), found.in_file(own)), (*own, name.clone()));
            }
        }
        let inner = "model.blocks.0._checkpoint_wrapped_module.ffn.0.weight";
        assert_eq!(bare(inner), "blocks.0.ffn.0.weight");
        assert_eq!([bare("model"), bare("")], ["model", ""]);
        let found = held(&below("state_dict.")[..1]);
        assert_eq!(found.in_file("head.modulation"), "state_dict.head.modulation");
    }

    #[test]
    fn of_copies_the_average_is_taken_and_it_is_said() {
        let mut names =
            [below("generator.model."), below("generator_ema.model."), below("critic.model.")].concat();
        names.push("generator_ema.model.extra.weight".to_owned());
        names.push("generator_ema.step".to_owned());
        let found = held(&names);
        assert_eq!(found.in_file(OWN[0]), "generator_ema.model.patch_embedding.weight");
        assert_eq!(found.names().len(), 4, "{:?}", found.names());
        let note = found.note.unwrap();
        assert!(note.contains("generator_ema.model, the average") && note.contains("critic"), "{note}");
        // An average of what was trained alone, and the rest as it was.
        let found = held(&[below("model."), vec!["ema.blocks.0.ffn.0.weight".to_owned()]].concat());
        assert_eq!(found.in_file(OWN[1]), "ema.blocks.0.ffn.0.weight");
        assert_eq!(found.in_file(OWN[0]), "model.patch_embedding.weight");
        // What is strange is not hidden.
        let found =
            held(&[below(""), vec!["other.weight".to_owned(), "model.strange.weight".to_owned()]].concat());
        assert!(found.note.is_none() && found.names().len() == 5, "{:?}", found.names());
    }
}
