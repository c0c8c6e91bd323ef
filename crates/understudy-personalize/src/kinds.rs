//! What keys are that no part of an adapter here is read from: another kind of adapter, parts of another
//! network, whole weights.

use std::collections::BTreeMap;
use std::path::Path;

use understudy_engine::safetensors::Checkpoint;
use understudy_pipeline::{Naming, recognize};

use crate::error::list;
use crate::names::{Names, Part, split};

/// Kinds of adapters by a part of their keys.
const KINDS: [(&str, &str); 19] = [
    (".boft_", "BOFT"),
    (".oft_", "OFT or BOFT"),
    (".vera_lambda", "VeRA"),
    (".vblora_", "VB-LoRA"),
    (".lora_E", "AdaLoRA"),
    (".ranknum", "AdaLoRA"),
    (".lora_embedding_", "a LoRA of an embedding table"),
    (".a1.weight", "GLoRA"),
    (".a2.weight", "GLoRA"),
    (".b1.weight", "GLoRA"),
    (".b2.weight", "GLoRA"),
    (".bm.weight", "GLoRA"),
    (".ia3_l", "IA3"),
    (".on_input", "IA3"),
    (".hra_u", "HRA"),
    (".fourierft_spectrum", "FourierFT"),
    (".set_weight", "whole weights for ComfyUI (set_weight)"),
    (".reshape_weight", "a LoRA that gives weights another shape (reshape_weight)"),
    ("_loras.", "Stand-In"),
];

/// Networks of other families by a part of their keys; the first that is found is meant.
const NETWORKS: [(&str, &str); 13] = [
    ("single_transformer_blocks", "HunyuanVideo or FLUX"),
    ("double_blocks", "HunyuanVideo or FLUX"),
    ("single_blocks", "HunyuanVideo or FLUX"),
    ("motion_modules", "AnimateDiff"),
    ("down_blocks", "a Stable Diffusion UNet"),
    ("up_blocks", "a Stable Diffusion UNet"),
    ("mid_block", "a Stable Diffusion UNet"),
    ("input_blocks", "a Stable Diffusion UNet"),
    ("output_blocks", "a Stable Diffusion UNet"),
    ("middle_block", "a Stable Diffusion UNet"),
    ("joint_blocks", "Stable Diffusion 3"),
    ("transformer_blocks", "another diffusion transformer (LTX-Video, CogVideoX, Qwen-Image, ...)"),
    ("layers.", "another transformer (Z-Image, Lumina, ...)"),
];

/// Beginnings of keys of a text encoder's adapter.
const TEXT: [&str; 6] = ["lora_te", "text_encoder", "lycoris_text", "clip_l.", "t5xxl.", "conditioner."];

/// Ends of keys of whole weights.
const WHOLE: [&str; 4] = [".weight", ".bias", ".modulation", "scale_shift_table"];

/// Whether a key is one of an adapter, of a kind that is read here or of another.
pub fn is_adapter_key(key: &str) -> bool {
    // Networks have alphas, too.
    let part = split(key).is_some_and(|(_, part)| part != Part::Alpha);
    part || KINDS.iter().any(|(own, _)| key.contains(own))
}

/// What a key that is not understood is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Strange {
    /// Of an adapter of another kind.
    Kind(&'static str),
    /// Of a known module, and nothing that is known of one.
    Part,
    /// Of another network.
    Network(&'static str),
    /// Weights as they are, and no difference to any.
    Whole,
    /// Of a text encoder.
    Text,
    /// Nothing that is known.
    Unknown,
}

fn strange(names: &Names, key: &str) -> Strange {
    if TEXT.iter().any(|begin| key.starts_with(begin)) {
        return Strange::Text;
    }
    if let Some((_, kind)) = KINDS.iter().find(|(part, _)| key.contains(part)) {
        return Strange::Kind(kind);
    }
    let foreign = |(part, _): &&(&str, &str)| !names.naming().has(part);
    let mut networks = names.naming().relatives.iter().chain(NETWORKS.iter().filter(foreign));
    if let Some((_, network)) = networks.find(|(part, _)| key.contains(part)) {
        return Strange::Network(network);
    }
    let known = |module: &str| names.knows(module);
    if split(key).is_none() && WHOLE.iter().any(|end| key.ends_with(end)) {
        return Strange::Whole;
    }
    if key.rsplit_once('.').is_some_and(|(module, _)| known(module)) {
        Strange::Part
    } else {
        Strange::Unknown
    }
}

/// What a file is that holds whole networks and no adapter, and where to give it.
pub(crate) fn whole(checkpoint: &Checkpoint) -> Option<String> {
    let infos = checkpoint.infos();
    if infos.iter().any(|info| split(&info.name).is_some()) {
        return None;
    }
    match &recognize(checkpoint)[..] {
        [] => None,
        [own] => {
            let flag = match own.network {
                "denoiser" => "--transformer",
                "text encoder" => "--text-encoder",
                _ => "--vae",
            };
            let model = own.model.as_ref().map(|model| format!(" ({model})")).unwrap_or_default();
            Some(format!(
                "it is a whole {}{model} and no adapter; give it to {flag}, or extract a LoRA from it",
                own.network
            ))
        }
        _ => Some("it is a whole base and no adapter; give it to --base".to_owned()),
    }
}

/// Fields of a header in which trainers name the base.
pub const BASE_FIELDS: [&str; 6] = [
    "ss_base_model_version",
    "modelspec.architecture",
    "base_model_name_or_path",
    "base_model",
    "ss_sd_model_name",
    "modelspec.implementation",
];

/// What is to be said of a file that was made for other networks of the family, as its header or its name
/// says.
pub(crate) fn made_for(naming: &Naming, path: &Path, header: &BTreeMap<String, String>) -> Option<String> {
    let named: Vec<(&str, &str)> =
        BASE_FIELDS.iter().filter_map(|field| Some((*field, header.get(*field)?.as_str()))).collect();
    let name = path.file_name().unwrap_or_default().to_string_lossy().to_lowercase();
    (naming.made_for)(&name, &named)
}

/// What is to be said of keys that are not understood: what they are, and an advice that leaves nothing half
/// applied. `others` says whether there are keys that are.
pub(crate) fn explain(names: &Names, keys: &[String], others: bool) -> Vec<String> {
    let mut groups: BTreeMap<Strange, Vec<String>> = BTreeMap::new();
    for key in keys {
        groups.entry(strange(names, key)).or_default().push(key.clone());
    }
    let title = names.naming().title;
    groups.into_iter().map(|(kind, keys)| described(kind, &keys, others, title)).collect()
}

fn described(kind: Strange, keys: &[String], others: bool, title: &str) -> String {
    let (count, names) = (keys.len(), list(keys));
    match kind {
        Strange::Kind(kind) => format!(
            "{count} keys are of {kind}, which is not supported: {names}; use a LoRA, DoRA, LoHa or LoKr, without these keys it \
             would not be what was trained"
        ),
        Strange::Part => format!(
            "{count} keys say something of a weight that this program does not know: {names}; without them it would not be what \
             was trained: export it as a LoRA"
        ),
        Strange::Network(network) => {
            format!("{count} keys are for {network}: {names}; use an adapter for {title}")
        }
        Strange::Whole => format!(
            "{count} keys are whole weights and no adapter's: {names}; a whole denoiser is given to --transformer, or extract a LoRA \
             from it"
        ),
        Strange::Text if others => format!(
            "{count} keys are for a text encoder, which is not adapted here (--allow-unmatched leaves them out): {names}"
        ),
        Strange::Text => format!(
            "{count} keys are for a text encoder, which is not adapted here, and there are no others: {names}; \
             use an adapter for {title}"
        ),
        Strange::Unknown if others => {
            format!("{count} keys are not understood (--allow-unmatched leaves them out): {names}")
        }
        Strange::Unknown => format!(
            "{count} keys are not understood, and there are no others: {names}; \
             use an adapter for {title}"
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_supported_is_named_and_nothing_is_advised_that_weakens_it() {
        let names = Names::new(understudy_pipeline::FAMILIES[0].naming(), 2);
        for (key, part) in [
            ("lora_unet_blocks_0_self_attn_q.oft_blocks", "OFT"),
            ("lycoris_blocks_0_self_attn_q.a1.weight", "GLoRA"),
            ("base_model.model.blocks.0.attn1.to_q.ia3_l", "IA3"),
            ("lycoris_blocks_0_ffn_0.on_input", "IA3"),
            ("base_model.model.blocks.0.attn1.to_q.vera_lambda_b", "VeRA"),
            ("base_model.model.blocks.0.attn1.to_q.lora_E", "AdaLoRA"),
            ("diffusion_model.patch_embedding.set_weight", "set_weight"),
            ("diffusion_model.blocks.0.self_attn.q.twist", "does not know"),
            ("diffusion_model.vace_blocks.0.self_attn.q.lora_A.weight", "VACE"),
            ("transformer_2.blocks.0.attn1.to_q.lora_A.weight", "Wan 2.2 A14B"),
            ("diffusion_model.double_blocks.0.img_attn.qkv.lora_A.weight", "HunyuanVideo"),
            ("lora_unet_down_blocks_0_attentions_0_proj_in.lora_down.weight", "Stable Diffusion"),
            ("blocks.0.self_attn.q.weight", "--transformer"),
            ("base_model.model.blocks.0.attn1.to_q.base_layer.bias", "whole weights"),
        ] {
            let said = explain(&names, &[key.to_owned()], true).join("; ");
            assert!(
                said.contains(part) && said.contains(key) && !said.contains("--allow-unmatched"),
                "{said}"
            );
        }
        for key in ["lora_te_text_model_encoder_layers_0_mlp_fc1.lora_down.weight", "something.else"] {
            let said = |others| explain(&names, &[key.to_owned()], others).join("; ");
            assert!(said(true).contains("--allow-unmatched") && !said(false).contains("--allow-unmatched"));
            assert!(said(false).contains("no others") && said(false).contains(key), "{}", said(false));
        }
    }
}
