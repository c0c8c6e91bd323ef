//! The configurations of the networks: from the published JSON, from a motion module's shapes, or as Stable
//! Diffusion 1.5 was published.

use serde_json::{Map, Value, json};
use understudy_engine::safetensors::Checkpoint;
use understudy_engine::weights::WeightSource;
use understudy_models::clip::ClipTextConfig;
use understudy_models::motion_module::MotionConfig;
use understudy_models::sd_unet::SdUnetConfig;
use understudy_models::sd_vae::SdVaeConfig;

use crate::error::{Error, Result};
use crate::files::{Files, INDEX};
use crate::scheduler::Scheduler;

/// The pipelines of diffusers whose folders are read.
pub(super) const PIPELINES: [&str; 4] = [
    "AnimateDiffPipeline",
    "AnimateDiffControlNetPipeline",
    "AnimateDiffVideoToVideoPipeline",
    "StableDiffusionPipeline",
];
/// The file that says how its samplers are set.
const SCHEDULER: &str = "scheduler/scheduler_config.json";
/// What diffusers calls a UNet with motion modules in it.
const ANIMATED: &str = "UNetMotionModel";
const AGAIN: &str = "download or export the folder again";

/// The networks of a Stable Diffusion, and the samplers it was made for.
#[derive(Clone, Debug)]
pub(super) struct PictureConfig {
    pub(super) unet: SdUnetConfig,
    pub(super) text: ClipTextConfig,
    pub(super) vae: SdVaeConfig,
    pub(super) scheduler: Scheduler,
    /// Of the motion modules in the UNet's own file, if it has any.
    pub(super) motion: Option<MotionConfig>,
}

impl PictureConfig {
    /// Reads the configurations of a folder in diffusers' layout.
    ///
    /// # Errors
    /// When one is missing, malformed or not supported.
    pub(super) fn read(files: &Files) -> Result<Self> {
        let unet_file = "unet/config.json";
        let unet = files.object(unet_file)?;
        let animated = unet.get("_class_name").and_then(Value::as_str) == Some(ANIMATED);
        let motion =
            if animated { Some(parsed::<MotionConfig>(files, unet_file, of_motion(&unet))?) } else { None };
        let unet: SdUnetConfig = parsed(files, unet_file, of_pictures(unet))?;
        supported(files, unet_file, unet.unsupported())?;
        let text: ClipTextConfig =
            files.config("text_encoder/config.json", "CLIPTextModel", unsupported_text)?;
        let vae: SdVaeConfig = files.config("vae/config.json", "AutoencoderKL", SdVaeConfig::unsupported)?;
        let scheduler = Scheduler::from_config(&files.object(SCHEDULER)?, &files.name(SCHEDULER))?;
        Ok(Self { unet, text, vae, scheduler, motion })
    }

    /// Stable Diffusion 1.5 as it was published, with the scheduler of AnimateDiff's own configurations.
    pub(super) fn published() -> Result<Self> {
        let file = "Stable Diffusion 1.5";
        let read = |error: serde_json::Error| fault(file, error.to_string());
        Ok(Self {
            unet: serde_json::from_value(published_unet(768)).map_err(read)?,
            text: serde_json::from_value(json!({
                "vocab_size": 49408, "hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12,
                "num_attention_heads": 12, "max_position_embeddings": 77, "hidden_act": "quick_gelu",
            }))
            .map_err(read)?,
            vae: serde_json::from_value(json!({
                "block_out_channels": [128, 256, 512, 512], "layers_per_block": 2, "latent_channels": 4,
                "down_block_types": vec!["DownEncoderBlock2D"; 4], "up_block_types": vec!["UpDecoderBlock2D"; 4],
                "scaling_factor": 0.18215,
            }))
            .map_err(read)?,
            scheduler: Scheduler::from_config(&published_scheduler(), file)?,
            motion: None,
        })
    }

    /// Levels of the UNet, and layers of a level: what its original names are counted by.
    pub(super) fn counted(&self) -> [usize; 2] {
        [self.unet.block_out_channels.len(), self.unet.layers(0)]
    }
}

/// What a folder says of itself; `None` where it says nothing.
pub(super) fn pipeline(files: &Files) -> Result<Option<String>> {
    if !files.has(INDEX) {
        return Ok(None);
    }
    Ok(files.object(INDEX)?.get("_class_name").and_then(Value::as_str).map(str::to_owned))
}

/// The published UNet, and a ControlNet's copy of its way down, for texts of so many channels.
pub(super) fn published_unet(text_channels: usize) -> Value {
    json!({
        "block_out_channels": [320, 640, 1280, 1280], "layers_per_block": 2, "attention_head_dim": 8,
        "cross_attention_dim": text_channels, "in_channels": 4, "out_channels": 4,
    })
}

/// The scheduler of AnimateDiff's configurations: Stable Diffusion's own lays its betas out otherwise.
fn published_scheduler() -> Map<String, Value> {
    let config = json!({
        "_class_name": "DDIMScheduler", "beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "linear",
        "clip_sample": false, "steps_offset": 1, "timestep_spacing": "linspace",
    });
    config.as_object().cloned().unwrap_or_default()
}

/// The configuration of a UNet with motion modules as that of the UNet of pictures it was made of.
fn of_pictures(mut config: Map<String, Value>) -> Map<String, Value> {
    for name in ["down_block_types", "up_block_types"] {
        for kind in config.get_mut(name).and_then(Value::as_array_mut).into_iter().flatten() {
            if let Some(text) = kind.as_str() {
                *kind = text.replace("BlockMotion", "Block2D").into();
            }
        }
    }
    if config.get("_class_name").and_then(Value::as_str) == Some(ANIMATED) {
        config.remove("mid_block_type");
    }
    config
}

/// What the configuration of a UNet with motion modules says of these, in the words of their own.
fn of_motion(config: &Map<String, Value>) -> Map<String, Value> {
    const NAMES: [(&str, &str); 3] = [
        ("layers_per_block", "motion_layers_per_block"),
        ("temporal_transformer_layers_per_block", "motion_transformer_layers_per_block"),
        ("temporal_transformer_layers_per_mid_block", "motion_transformer_layers_per_mid_block"),
    ];
    let mut own = config.clone();
    for (name, motion) in NAMES {
        if let Some(value) = config.get(name).filter(|value| !value.is_null()) {
            own.insert(motion.to_owned(), value.clone());
        }
    }
    own
}

/// The configuration of the motion modules in `file`, whose tensors have diffusers' names, which has
/// `positions`; what shapes do not tell is as published.
///
/// # Errors
/// When it is no motion module of a kind that is known.
pub(super) fn motion_of(file: &Checkpoint, positions: Option<usize>) -> Result<MotionConfig> {
    let infos = file.infos();
    let width = |level: usize| {
        let name = format!("down_blocks.{level}.motion_modules.0.proj_in.weight");
        infos.iter().find(|info| info.name == name).and_then(|info| info.shape.first().copied())
    };
    let has = |name: &str| infos.iter().any(|info| info.name.starts_with(name));
    let channels: Vec<usize> = (0..).map_while(width).collect();
    if channels.is_empty() {
        return Err(fault(&file.describe(), "it holds no motion modules".to_owned()));
    }
    let layers = (0..).take_while(|layer| has(&format!("down_blocks.0.motion_modules.{layer}."))).count();
    let middle = has("mid_block.motion_modules.0.");
    let block = |index: usize| format!("down_blocks.0.motion_modules.0.transformer_blocks.{index}.");
    let transformers = (0..).take_while(|index| has(&block(*index))).count();
    let config = json!({
        "block_out_channels": channels, "motion_layers_per_block": layers, "use_motion_mid_block": middle,
        "motion_transformer_layers_per_block": transformers,
        // The first release, which has nothing in the middle, was trained on fewer frames.
        "motion_max_seq_length": positions.unwrap_or(if middle { 32 } else { 24 }),
    });
    serde_json::from_value(config).map_err(|error| fault(&file.describe(), error.to_string()))
}

fn unsupported_text(config: &ClipTextConfig) -> Option<String> {
    let heads = config.num_attention_heads;
    let fits = heads > 0 && config.hidden_size.is_multiple_of(heads) && config.num_hidden_layers > 0;
    (!fits).then(|| format!("{heads} heads of {} channels", config.hidden_size))
}

fn parsed<C: serde::de::DeserializeOwned>(
    files: &Files,
    file: &str,
    config: Map<String, Value>,
) -> Result<C> {
    serde_json::from_value(Value::Object(config)).map_err(|error| fault(&files.name(file), error.to_string()))
}

fn supported(files: &Files, file: &str, unsupported: Option<String>) -> Result<()> {
    match unsupported {
        None => Ok(()),
        Some(reason) => Err(fault(&files.name(file), format!("not supported: {reason}"))),
    }
}

fn fault(file: &str, reason: String) -> Error {
    Error::File { file: file.to_owned(), reason, advice: AGAIN }
}
