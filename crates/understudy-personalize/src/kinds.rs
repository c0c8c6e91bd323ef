//! What keys are that no part of an adapter here is read from: another kind of adapter, parts of another network, whole
//! weights.

use std::collections::BTreeMap;
use std::path::Path;

use understudy_engine::safetensors::Checkpoint;
use understudy_pipeline::recognize;

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

/// Other networks by a part of their keys; the first that is found is meant.
const NETWORKS: [(&str, &str); 24] = [
    ("transformer_2.", "the low-noise half of Wan 2.2 A14B, which this program has no base for"),
    ("vace_", "VACE"),
    ("control_adapter", "Wan Fun with camera control"),
    ("ref_conv", "Wan Fun with references"),
    ("face_adapter", "Wan 2.2 Animate"),
    ("face_encoder", "Wan 2.2 Animate"),
    ("motion_encoder", "Wan 2.2 Animate"),
    ("pose_patch_embedding", "Wan 2.2 Animate"),
    ("audio_injector", "Wan 2.2 S2V"),
    ("casual_audio_encoder", "Wan 2.2 S2V"),
    ("trainable_cond_mask", "Wan 2.2 S2V"),
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
    if let Some((_, network)) = NETWORKS.iter().find(|(part, _)| key.contains(part)) {
        return Strange::Network(network);
    }
    let known = |module: &str| names.knows(module);
    if split(key).is_none() && WHOLE.iter().any(|end| key.ends_with(end)) {
        return Strange::Whole;
    }
    match key.rsplit_once('.').is_some_and(|(module, _)| known(module)) {
        true => Strange::Part,
        false => Strange::Unknown,
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

/// What is to be said of a file that was made for Wan 2.2, as its header or its name says: its A14B has two denoisers of the
/// shapes of Wan 2.1's.
pub(crate) fn newer(path: &Path, header: &BTreeMap<String, String>) -> Option<String> {
    let is_newer =
        |text: &str| ["2.2", "wan22", "wan2_2"].iter().any(|own| text.to_lowercase().contains(own));
    let named = BASE_FIELDS.iter().find_map(|field| Some((field, header.get(*field)?)));
    let name = path.file_name().unwrap_or_default().to_string_lossy().to_lowercase();
    let half = ["high", "low"].into_iter().find(|half| {
        ["_noise", "-noise", "noise", " noise"].iter().any(|end| name.contains(&format!("{half}{end}")))
    });
    let made = match (named.filter(|(_, value)| is_newer(value)), half) {
        (Some((field, value)), _) => format!("its header says {field} {value:?}: it was made for Wan 2.2"),
        (None, Some(half)) => format!("its name says {half} noise: it is a half of a pair for Wan 2.2 A14B"),
        (None, None) => return None,
    };
    Some(format!("{made}, of which there is no base here; on Wan 2.1 it does not do what it was trained for"))
}

/// What is to be said of keys that are not understood: what they are, and an advice that leaves nothing half applied.
/// `others` says whether there are keys that are.
pub(crate) fn explain(names: &Names, keys: &[String], others: bool) -> Vec<String> {
    let mut groups: BTreeMap<Strange, Vec<String>> = BTreeMap::new();
    for key in keys {
        groups.entry(strange(names, key)).or_default().push(key.clone());
    }
    groups.into_iter().map(|(kind, keys)| said(kind, &keys, others)).collect()
}

fn said(kind: Strange, keys: &[String], others: bool) -> String {
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
            format!(
                "{count} keys are for {network}: {names}; use an adapter for Wan 2.1's text-to-video denoiser"
            )
        }
        Strange::Whole => format!(
            "{count} keys are whole weights and no adapter's: {names}; a whole denoiser is given to --transformer, or extract a LoRA \
             from it"
        ),
        Strange::Text if others => format!(
            "{count} keys are for a text encoder, which is not adapted here (--allow-unmatched leaves them out): {names}"
        ),
        Strange::Text => format!(
            "{count} keys are for a text encoder, which is not adapted here, and there are no others: {names}; use an adapter for \
             Wan 2.1's text-to-video denoiser"
        ),
        Strange::Unknown if others => {
            format!("{count} keys are not understood (--allow-unmatched leaves them out): {names}")
        }
        Strange::Unknown => format!(
            "{count} keys are not understood, and there are no others: {names}; use an adapter for Wan 2.1's text-to-video \
             denoiser"
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn adapters_for_wan_2_2_are_known_by_header_or_name() {
        let header = |value: &str| BTreeMap::from([("ss_base_model_version".to_owned(), value.to_owned())]);
        let said = |name: &str, value: &str| newer(Path::new(name), &header(value)).unwrap_or_default();
        assert!(said("a.safetensors", "wan2.2-t2v-a14b").contains("ss_base_model_version"));
        assert!(said("cat_HighNoise.safetensors", "").contains("high noise"));
        assert!(said("cat-low_noise_lora.safetensors", "").contains("low noise"));
        assert_eq!(said("slow.safetensors", "wan2.1-t2v-14b"), "");
    }

    #[test]
    fn what_is_not_supported_is_named_and_nothing_is_advised_that_weakens_it() {
        let names = Names::new(2);
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
