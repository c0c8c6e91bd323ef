//! The files of a Stable Diffusion and of motion modules, open.

use std::path::Path;
use std::sync::Arc;

use burn::tensor::Device;
use understudy_engine::patch::{Additions, Patched};
use understudy_engine::safetensors::Checkpoint;
use understudy_engine::weights::{SharedSource, WeightSource, Weights};
use understudy_models::clip::ClipText;
use understudy_models::motion_module::MotionConfig;
use understudy_models::sd_unet::SdUnet;
use understudy_models::sd_vae::SdVae;

use super::about::{describe, is_matrix};
use super::config::{self, PIPELINES, PictureConfig};
use super::networks::{ClipTexts, Pictures, Unet};
use super::original::{MOTION, WHOLE, motion_renamed, text_renamed, unet_renamed, unwrapped, vae_renamed};
use super::refused;
use super::tokenizer;
use crate::base::{Base, LoadOptions, Networks, TEXT_ENCODER};
use crate::cost::{Halved, halves};
use crate::error::{Error, Result};
use crate::family::{Description, OpenBase};
use crate::files::{Animated, Files, INDEX, Source};
use crate::tokenize::Tokenizer;

const MOTION_WEIGHTS: &str = "diffusion_pytorch_model.safetensors";

/// The networks' files, their tensors under diffusers' names.
struct Checkpoints {
    unet: Checkpoint,
    motion: Checkpoint,
    text: Checkpoint,
    vae: Checkpoint,
}

/// A base whose files are open.
struct AnimateDiffOpened {
    config: PictureConfig,
    motion: MotionConfig,
    about: Arc<Description>,
    tokenizer: Tokenizer,
    checkpoints: Checkpoints,
    notes: Vec<String>,
    device: Device,
}

/// Opens the files of `source`; `None` where they are of another family.
///
/// # Errors
/// When a file is missing, malformed or not supported, or nothing makes the pictures move.
pub(super) fn open(source: &Source, device: &Device) -> Result<Option<Box<dyn OpenBase>>> {
    let animated = match source {
        Source::Parts(_) => return Ok(None),
        Source::Files(files) => {
            let class = config::pipeline(files)?;
            if !class.is_some_and(|class| PIPELINES.contains(&class.as_str())) {
                return Ok(None);
            }
            return Ok(Some(Box::new(open_folder(files, None, device)?)));
        }
        Source::Animated(animated) => animated,
    };
    let opened = if animated.pictures.is_dir() {
        open_folder(&Files::folder(&animated.pictures), Some(animated), device)?
    } else {
        open_file(animated, device)?
    };
    Ok(Some(Box::new(opened)))
}

/// Pictures that are open, and the motion modules in their own files.
struct OpenPictures {
    config: PictureConfig,
    tokenizer: Tokenizer,
    unet: Checkpoint,
    text: Checkpoint,
    vae: Checkpoint,
}

fn open_folder(files: &Files, animated: Option<&Animated>, device: &Device) -> Result<AnimateDiffOpened> {
    if let Some(class) = config::pipeline(files)?.filter(|class| !PIPELINES.contains(&class.as_str())) {
        let reason = format!("_class_name is {class:?}, which is no Stable Diffusion 1.5");
        let advice = "give a Stable Diffusion 1.5, or one of its many fine-tuned ones";
        return Err(Error::File { file: files.name(INDEX), reason, advice });
    }
    let config = PictureConfig::read(files)?;
    let levels = config.vae.block_out_channels.len();
    let vae = match animated.and_then(|animated| animated.vae.as_deref()) {
        Some(path) => autoencoder_file(path, device)?,
        None => files.checkpoint("vae/diffusion_pytorch_model.safetensors", device)?,
    };
    let pictures = OpenPictures {
        tokenizer: Tokenizer::of_clip(files, "tokenizer")?,
        unet: files.checkpoint("unet/diffusion_pytorch_model.safetensors", device)?,
        text: text_renamed(files.checkpoint("text_encoder/model.safetensors", device)?)?,
        vae: vae_renamed(vae, levels)?,
        config,
    };
    let beside = files.has("motion_adapter/config.json");
    let motion = match animated.and_then(|animated| animated.motion.as_deref()) {
        Some(path) => Some(open_motion(path, device)?),
        None if pictures.config.motion.is_some() => None,
        None if beside => Some(read_motion(files, "motion_adapter", device)?),
        None => {
            let reason = "it makes pictures, and nothing in it moves them";
            return Err(missing_motion(files.name("unet"), reason));
        }
    };
    finish(pictures, motion, device)
}

/// Opens a file of a whole Stable Diffusion in the names of its original release.
fn open_file(animated: &Animated, device: &Device) -> Result<AnimateDiffOpened> {
    let path = &animated.pictures;
    let file = unwrapped(Checkpoint::open(path, device)?);
    if let Some(reason) = refused::as_pictures(&file) {
        let advice = "give a folder in diffusers' layout, or a file with UNet, text encoder and autoencoder";
        return Err(Error::File { file: path.display().to_string(), reason, advice });
    }
    let (config, tokenizer) = match &animated.config {
        Some(folder) => {
            let files = Files::folder(folder);
            (PictureConfig::read(&files)?, Tokenizer::of_clip(&files, "tokenizer")?)
        }
        None => (PictureConfig::published()?, tokenizer::published()?),
    };
    let vae = match &animated.vae {
        Some(path) => autoencoder_file(path, device)?,
        None => file.clone().part(WHOLE[2]),
    };
    let pictures = OpenPictures {
        tokenizer,
        unet: unet_renamed(file.clone().part(WHOLE[0]), config.counted())?,
        text: text_renamed(file.part(WHOLE[1]))?,
        vae: vae_renamed(vae, config.vae.block_out_channels.len())?,
        config,
    };
    let Some(motion) = animated.motion.as_deref() else {
        let reason = "it makes pictures, and nothing moves them";
        return Err(missing_motion(path.display().to_string(), reason));
    };
    finish(pictures, Some(open_motion(motion, device)?), device)
}

/// An autoencoder's own file; where it is a whole Stable Diffusion's, the part that is the autoencoder.
fn autoencoder_file(path: &Path, device: &Device) -> Result<Checkpoint> {
    Ok(unwrapped(Checkpoint::open(path, device)?).part(WHOLE[2]))
}

fn missing_motion(file: String, reason: &str) -> Error {
    let advice =
        "give motion modules with --motion: a folder of diffusers', or a file of the original layout";
    Error::File { file, reason: reason.to_owned(), advice }
}

fn finish(
    pictures: OpenPictures,
    motion: Option<(MotionConfig, Checkpoint)>,
    device: &Device,
) -> Result<AnimateDiffOpened> {
    let OpenPictures { config, tokenizer, unet, text, vae } = pictures;
    let is_motion = |name: &str| name.contains(MOTION);
    let (motion, moves) = match (motion, &config.motion) {
        (Some(own), _) => own,
        (None, Some(inside)) => (inside.clone(), unet.clone().only(is_motion)),
        (None, None) => return Err(missing_motion(unet.describe(), "nothing moves its pictures")),
    };
    let checkpoints = Checkpoints { unet: unet.only(|name| !is_motion(name)), motion: moves, text, vae };
    if let Some(reason) = motion.unsupported().or_else(|| config.unet.unsupported_motion(&motion)) {
        let file = checkpoints.motion.describe();
        let advice = "give motion modules that were made for this Stable Diffusion";
        return Err(Error::File { file, reason: format!("not supported: {reason}"), advice });
    }
    let halved = Halved {
        text_encoder: halves(&checkpoints.text, is_matrix),
        denoiser: halves(&checkpoints.unet, is_matrix),
    };
    let about = Arc::new(describe(&config, &motion, halved));
    let notes = Vec::new();
    Ok(AnimateDiffOpened { config, motion, about, tokenizer, checkpoints, notes, device: device.clone() })
}

/// Motion modules: a folder of diffusers', or a file of either layout.
///
/// # Errors
/// When they cannot be read, or are none.
fn open_motion(path: &Path, device: &Device) -> Result<(MotionConfig, Checkpoint)> {
    if path.is_dir() {
        return read_motion(&Files::folder(path), "", device);
    }
    let file = unwrapped(Checkpoint::open(path, device)?);
    if let Some(reason) = refused::as_motion(&file) {
        let advice =
            "give motion modules: mm_sd_v15_v2.ckpt, v3_sd15_mm.ckpt, or a motion adapter of diffusers'";
        return Err(Error::File { file: path.display().to_string(), reason, advice });
    }
    let (file, positions) = motion_renamed(file)?;
    let beside = path.parent().map(Files::folder).filter(|files| files.has("config.json"));
    let stated =
        beside.and_then(|files| files.config("config.json", "MotionAdapter", MotionConfig::unsupported).ok());
    let config = match stated {
        Some(config) => config,
        None => config::motion_of(&file, positions)?,
    };
    Ok((config, file))
}

fn read_motion(files: &Files, folder: &str, device: &Device) -> Result<(MotionConfig, Checkpoint)> {
    let at = |name: &str| crate::files::below(folder, name);
    let config = files.config(&at("config.json"), "MotionAdapter", MotionConfig::unsupported)?;
    let (file, _) = motion_renamed(files.checkpoint(&at(MOTION_WEIGHTS), device)?)?;
    Ok((config, file))
}

impl OpenBase for AnimateDiffOpened {
    fn about(&self) -> &Arc<Description> {
        &self.about
    }

    fn notes(&self) -> &[String] {
        &self.notes
    }

    fn tokenizer(&self) -> &Tokenizer {
        &self.tokenizer
    }

    fn load(self: Box<Self>, options: LoadOptions) -> Result<Base> {
        let Self { config, motion, about, tokenizer, checkpoints, device, .. } = *self;
        let Checkpoints { unet, motion: moves, text, vae } = checkpoints;
        let [of_unet, of_motion, of_text] = divided(options.additions);
        let streamed = |source: SharedSource| Weights::streamed(source, &device, 0);
        let unet = streamed(Arc::new(Patched::new(unet, of_unet)?));
        let moves = streamed(Arc::new(Patched::new(moves, of_motion)?));
        let text = streamed(Arc::new(Patched::new(text, of_text)?));
        let vae = streamed(Arc::new(vae));
        let denoiser = Unet {
            network: SdUnet::with_motion(&unet, &config.unet, &moves, &motion),
            noise: config.scheduler.noise(),
            lost: [unet.lost().clone(), moves.lost().clone()],
        };
        let texts = ClipTexts {
            network: ClipText::new(&text, &config.text),
            tokenizer,
            device: device.clone(),
            lost: text.lost().clone(),
        };
        let autoencoder = Pictures { network: SdVae::new(&vae, &config.vae) };
        [&unet, &moves, &text, &vae].into_iter().try_for_each(Weights::finish)?;
        let networks =
            Networks { text: Arc::new(texts), denoiser: Arc::new(denoiser), vae: Arc::new(autoencoder) };
        Ok(Base { about, networks, device, blocks_on_host: 0 })
    }
}

/// What is added to the UNet, to its motion modules, and to the text encoder.
fn divided(additions: Additions) -> [Additions; 3] {
    let text = format!("{TEXT_ENCODER}/");
    let [of_text, rest] = additions.divided(|name| name.starts_with(&text));
    let [of_motion, of_unet] = rest.divided(|name| name.contains(MOTION));
    [of_unet, of_motion, of_text.renamed(|name| name[text.len()..].to_owned())]
}
