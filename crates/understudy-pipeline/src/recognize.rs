//! What a file of weights is, told from its tensors: which network, whose names, which published model, and
//! whether it is whole. Families are asked; of networks of other models only the names are known.

use serde::Serialize;
use serde_json::Value;
use understudy_engine::safetensors::Checkpoint;
use understudy_engine::weights::WeightSource;

use crate::family::FAMILIES;
use crate::files::Source;

/// A file of one of a base's networks.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Recognized {
    /// `denoiser`, `text encoder` or `autoencoder`.
    pub network: &'static str,
    /// Whose names its tensors have: `diffusers`, `Wan` (the original release), `ComfyUI` or `llama.cpp`.
    pub names: &'static str,
    /// The published model with these shapes, or what is known of its kind.
    pub model: Option<String>,
    /// The configuration its shapes tell.
    pub config: Value,
    /// Why this program cannot run it, if it cannot.
    pub not_supported: Option<String>,
    /// Tensors that are not there, with the shapes they need.
    pub missing: Vec<String>,
    /// Tensors of a wrong shape.
    pub misshapen: Vec<String>,
    /// Tensors the network does not have.
    pub unknown: Vec<String>,
    /// The class that it is published as.
    #[serde(skip)]
    pub class: &'static str,
    /// Whether its tensors were compared with what the network needs.
    #[serde(skip)]
    pub compared: bool,
    /// Which of several copies in it is used, and what is left out.
    pub note: Option<String>,
}

impl Recognized {
    /// The same without what its tensors are compared with.
    pub(crate) fn without_faults(self) -> Self {
        Self { missing: Vec::new(), misshapen: Vec::new(), unknown: Vec::new(), ..self }
    }
}

/// A network of a base.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Network {
    /// The diffusion transformer.
    Denoiser,
    /// UMT5.
    TextEncoder,
    /// The video autoencoder.
    Autoencoder,
}

impl Network {
    /// What to call it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Denoiser => "denoiser",
            Self::TextEncoder => "text encoder",
            Self::Autoencoder => "autoencoder",
        }
    }
}

/// The networks of any family that `checkpoint` holds: none, one, or all of a base.
pub(crate) fn networks(checkpoint: &Checkpoint) -> Vec<Network> {
    let found = FAMILIES.iter().map(|family| family.networks(checkpoint));
    found.max_by_key(Vec::len).unwrap_or_default()
}

/// What `checkpoint` holds of a base: nothing, a network, or all three. Only names and shapes are looked at.
pub fn recognize(checkpoint: &Checkpoint) -> Vec<Recognized> {
    FAMILIES.iter().flat_map(|family| family.recognize(checkpoint, None)).collect()
}

/// The network in `checkpoint`, which is to be that of `base`.
pub fn compare(checkpoint: &Checkpoint, base: &Source) -> Option<Recognized> {
    FAMILIES.iter().find_map(|family| family.recognize(checkpoint, Some(base)).into_iter().next())
}

/// What network of another model `checkpoint` holds, if it is a known one.
pub fn other_model(checkpoint: &Checkpoint) -> Option<&'static str> {
    other(checkpoint.names().iter().map(String::as_str))
}

/// Networks of other models and the parts of names that tell them.
const OTHERS: [(&str, &[&str]); 22] = [
    ("HunyuanVideo's denoiser", &["txt_in.individual_token_refiner.", "context_embedder.token_refiner."]),
    ("Flux's denoiser", &["double_blocks.0.img_attn.", "single_transformer_blocks.0.attn."]),
    ("LTX-Video's denoiser", &["patchify_proj.", "adaln_single.emb.timestep_embedder."]),
    ("Mochi's denoiser", &["t5_yproj.", "t5_y_embedder."]),
    ("CogVideoX's denoiser", &["patch_embed.text_proj.", "transformer_blocks.0.norm1.linear."]),
    ("Stable Diffusion 3's denoiser", &["joint_blocks.0."]),
    ("Qwen-Image's denoiser", &["transformer_blocks.0.img_mod."]),
    ("Cosmos's denoiser", &["x_embedder.proj.1.", "blocks.block0.blocks."]),
    ("Lumina's or Z-Image's denoiser", &["cap_embedder."]),
    ("a motion module of AnimateDiff", &["motion_modules."]),
    ("a ControlNet", &["controlnet_cond_embedding.", "input_hint_block.", "zero_convs."]),
    ("a UNet of Stable Diffusion", &["input_blocks.0.0.", "down_blocks.0.resnets.0.time_emb_proj."]),
    ("an autoencoder of pictures", &["first_stage_model.", "encoder.down.0.block.0.", "quant_conv."]),
    ("a tiny autoencoder (TAEHV)", &["decoder.3.conv.0.", "encoder.4.conv.0."]),
    ("CLIP, its vision and its text", &["visual.transformer.", "logit_scale"]),
    ("CLIP's vision encoder", &["vision_model.encoder.layers.0.", "visual_projection."]),
    ("CLIP's text encoder", &["text_model.encoder.layers.0."]),
    ("a T5 of another kind than UMT5", &["encoder.block.0.layer.0.SelfAttention.", "enc.blk.0.attn_q."]),
    ("a language model", &["model.layers.0.self_attn.", "blk.0.attn_q.", "transformer.h.0."]),
    ("a detector of YOLO's kind", &["model.0.conv.weight"]),
    ("an upscaler", &["conv_first.", "RRDB_trunk.", "params_ema."]),
    ("a state of training (optimizer)", &["optimizer_states", "state.0.exp_avg", "exp_avg."]),
];

/// What network of another model has tensors of these names.
fn other<'a>(names: impl Iterator<Item = &'a str> + Clone) -> Option<&'static str> {
    let has = |part: &&str| names.clone().any(|name| name.contains(*part));
    OTHERS.iter().find(|(_, parts)| parts.iter().any(has)).map(|(name, _)| *name)
}
