//! Which of the family's networks a file of weights is, told from its tensors.

use serde_json::{Value, json};
use understudy_engine::safetensors::Checkpoint;
use understudy_engine::weights::WeightSource;

use super::original::{MOTION, WHOLE, unwrapped};
use crate::recognize::{Network, Recognized};

/// Names that tell a network: what it is, whose names, the class, and a part of a name.
const KNOWN: [(&str, &str, &str, &str); 9] = [
    ("ControlNet", "diffusers", "ControlNetModel", "controlnet_cond_embedding."),
    ("ControlNet", "Stable Diffusion", "ControlNetModel", "input_hint_block."),
    ("denoiser", "Stable Diffusion", "UNet2DConditionModel", "input_blocks.0.0."),
    ("denoiser", "diffusers", "UNet2DConditionModel", "down_blocks.0.resnets.0.time_emb_proj."),
    ("motion modules", "AnimateDiff", "MotionAdapter", ".temporal_transformer.transformer_blocks."),
    ("motion modules", "diffusers", "MotionAdapter", "motion_modules.0.transformer_blocks."),
    ("text encoder", "transformers", "CLIPTextModel", "encoder.layers.0.self_attn.q_proj.weight"),
    ("autoencoder", "Stable Diffusion", "AutoencoderKL", "decoder.up.0.block.0.conv1."),
    ("autoencoder", "diffusers", "AutoencoderKL", "decoder.up_blocks.0.resnets.0.conv1."),
];
/// What a UNet with motion modules in it is published as.
const ANIMATED: &str = "UNetMotionModel";
/// What a whole CLIP has beside its text encoder.
const CLIP: [&str; 3] = ["vision_model.", "visual_projection.", "logit_scale"];
/// Shapes by which pictures' autoencoders differ from videos': kernels have two sides.
const PICTURE: usize = 4;

/// The networks that `file` holds: none, or all of a base.
pub(super) fn networks(file: &Checkpoint) -> Vec<Network> {
    let names = unwrapped(file.clone()).names();
    let whole = WHOLE.iter().all(|prefix| names.iter().any(|name| name.starts_with(prefix)));
    let unet = names.iter().any(|name| name.contains("input_blocks.0.0."));
    if whole && unet {
        vec![Network::Denoiser, Network::TextEncoder, Network::Autoencoder]
    } else {
        Vec::new()
    }
}

/// What `file` holds, in more words.
pub(super) fn recognize(file: &Checkpoint) -> Vec<Recognized> {
    let infos = file.infos();
    if infos.iter().any(|info| info.name.contains("lora") || info.name.ends_with(".alpha")) {
        return Vec::new();
    }
    let has = |part: &str| infos.iter().find(|info| info.name.contains(part));
    if CLIP.iter().any(|part| has(part).is_some()) {
        return Vec::new();
    }
    let whole = !networks(file).is_empty();
    let moves = has(MOTION).is_some();
    let found = KNOWN.iter().filter_map(|(network, names, class, part)| {
        let info = has(part)?;
        let pictures = *network != "autoencoder" || info.shape.len() == PICTURE || info.shape.len() == 1;
        let class = if *network == "denoiser" && moves { ANIMATED } else { class };
        pictures.then(|| recognized(network, names, class, file))
    });
    let mut found: Vec<Recognized> = found.collect();
    if !whole {
        // A UNet with motion modules in it is one network.
        found.truncate(1);
    }
    found
}

fn recognized(
    network: &'static str,
    names: &'static str,
    class: &'static str,
    file: &Checkpoint,
) -> Recognized {
    Recognized {
        network,
        names,
        model: model(network, file),
        config: config(network, file),
        not_supported: None,
        missing: Vec::new(),
        misshapen: Vec::new(),
        unknown: Vec::new(),
        class,
        compared: false,
        note: None,
    }
}

/// The published model of these shapes.
fn model(network: &str, file: &Checkpoint) -> Option<String> {
    let infos = file.infos();
    let inputs = |part: &str| infos.iter().find(|info| info.name.contains(part))?.shape.get(1).copied();
    let text = inputs("attn2.to_k.weight");
    Some(match (network, text) {
        ("denoiser", Some(768)) => "Stable Diffusion 1.5".to_owned(),
        ("denoiser", Some(1024)) => "Stable Diffusion 2".to_owned(),
        ("denoiser", Some(2048)) => "Stable Diffusion XL".to_owned(),
        ("motion modules", _) if infos.iter().any(|info| info.name.contains("mid_block.motion_modules")) => {
            "AnimateDiff v1.5-2".to_owned()
        }
        ("motion modules", _) => "AnimateDiff v1.4 or v3".to_owned(),
        _ => return None,
    })
}

/// What shapes tell.
fn config(network: &str, file: &Checkpoint) -> Value {
    match network {
        "motion modules" => {
            let tables = file.infos().into_iter().filter(|info| info.name.contains("pos_encoder.pe"));
            let frames = tables.filter_map(|info| info.shape.get(1).copied()).max();
            json!({"motion_max_seq_length": frames})
        }
        _ => Value::Null,
    }
}
