//! What a file is that was given for another: people have dozens of them, and the names say little.

use understudy_engine::safetensors::Checkpoint;
use understudy_engine::weights::WeightSource;

use super::original::{MOTION, WHOLE};
use crate::recognize::other_model;

/// Parts of the names in adapters.
const ADAPTER: [&str; 5] = ["lora_", "_lora.", ".lora.", ".hada_w", ".lokr_w"];
/// Parts of names that other Stable Diffusions have in files of all networks, and which.
const OTHERS: [(&str, &str); 3] = [
    ("conditioner.embedders.1.", "a Stable Diffusion XL"),
    ("conditioner.embedders.", "a Stable Diffusion XL"),
    ("cond_stage_model.model.", "a Stable Diffusion 2"),
];

/// Why `file` is not a whole Stable Diffusion 1.5 in the names of its release, if it is none.
pub(super) fn as_pictures(file: &Checkpoint) -> Option<String> {
    let names = file.names();
    let has = |part: &str| names.iter().any(|name| name.contains(part));
    let missing = WHOLE.iter().find(|prefix| !names.iter().any(|name| name.starts_with(**prefix)))?;
    let not = "no Stable Diffusion 1.5";
    Some(if ADAPTER.iter().any(|part| has(part)) {
        format!("it is a LoRA or another adapter and {not}; an adapter is given to --adapter")
    } else if has(MOTION) {
        format!("it holds motion modules and {not}; these are given to --motion")
    } else if let Some((_, other)) = OTHERS.iter().find(|(part, _)| has(part)) {
        format!("it is {other}, and {not}")
    } else if let Some(other) = other_model(file) {
        format!("it is {other}, and no whole Stable Diffusion 1.5: nothing in it is called {missing}*")
    } else {
        format!("it is no whole Stable Diffusion 1.5: nothing in it is called {missing}*")
    })
}

/// Why `file` holds no motion modules, if it holds none.
pub(super) fn as_motion(file: &Checkpoint) -> Option<String> {
    let names = file.names();
    let has = |part: &str| names.iter().any(|name| name.contains(part));
    let none = "no motion modules";
    if ADAPTER.iter().any(|part| has(part)) {
        let what = if has(MOTION) { "a LoRA of motion modules" } else { "a LoRA or another adapter" };
        return Some(format!("it is {what} and {none} itself; it is given to --adapter"));
    }
    if has(MOTION) {
        return None;
    }
    Some(if WHOLE.iter().all(|prefix| has(prefix)) {
        format!("it is a whole Stable Diffusion, with {none}; it is given to --base")
    } else if let Some(other) = other_model(file) {
        format!("it is {other}, with {none}")
    } else {
        format!("it holds {none}")
    })
}
