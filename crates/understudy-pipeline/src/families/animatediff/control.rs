//! ControlNets beside the UNet.

use std::path::Path;
use std::sync::Arc;

use burn::tensor::{Device, Tensor};
use understudy_engine::attach::{Attachments, Window};
use understudy_engine::safetensors::Checkpoint;
use understudy_engine::weights::{Lost, SharedSource, WeightSource, Weights};
use understudy_models::controlnet::{ControlNet, ControlNetConfig};

use super::config::published_unet;
use super::names::PUBLISHED;
use super::networks::folded;
use super::original::{control_renamed, unwrapped};
use crate::error::{Error, Result};
use crate::family::Description;
use crate::files::Files;
use crate::network::{ControlNetwork, Step, Texts};

const CLASS: &str = "ControlNetModel";
const WEIGHTS: &str = "diffusion_pytorch_model.safetensors";
/// What every ControlNet has, under diffusers' names.
const OWN: &str = "controlnet_cond_embedding.conv_in.weight";

/// A ControlNet for a base of these sites.
///
/// # Errors
/// When it cannot be read, is none, or was made for another UNet.
pub(super) fn open(path: &Path, about: &Description, device: &Device) -> Result<Arc<dyn ControlNetwork>> {
    let fault = |reason: String| Error::File {
        file: path.display().to_string(),
        reason,
        advice: "give a ControlNet that was made for this Stable Diffusion",
    };
    let (config, file) = if path.is_dir() {
        let files = Files::folder(path);
        let config: ControlNetConfig = files.config("config.json", CLASS, ControlNetConfig::unsupported)?;
        (config, files.checkpoint(WEIGHTS, device)?)
    } else {
        let file = control_renamed(unwrapped(Checkpoint::open(path, device)?), PUBLISHED)?;
        (of_file(&file).map_err(fault)?, file)
    };
    if !file.names().iter().any(|name| name == OWN) {
        return Err(fault("it holds no ControlNet".to_owned()));
    }
    let weights = Weights::streamed(Arc::new(file) as SharedSource, device, 0);
    let network = ControlNet::new(&weights, &config);
    weights.finish()?;
    // Whatever it adds must find its place in the UNet.
    let states = &about.denoiser_sites().states;
    let wide = |level: usize| config.down.channels(level);
    let first = states.iter().find(|state| state.path == "conv_in").map(|state| state.channels);
    let deepest = states.iter().find(|state| state.path == "mid_block").map(|state| state.channels);
    if first != Some(wide(0)) || deepest != Some(wide(config.down.depth().saturating_sub(1))) {
        return Err(fault(format!(
            "its channels are {:?}, the base's UNet has others",
            config.down.block_out_channels
        )));
    }
    Ok(Arc::new(Control { network, lost: weights.lost().clone() }))
}

/// The configuration of a file without one: the published one, with the width of texts that it has.
fn of_file(file: &Checkpoint) -> Result<ControlNetConfig, String> {
    let infos = file.infos();
    let text = infos.iter().find(|info| info.name.ends_with("attn2.to_k.weight"));
    let text = text.and_then(|info| info.shape.get(1)).ok_or("it holds no ControlNet")?;
    serde_json::from_value(published_unet(*text)).map_err(|error| error.to_string())
}

/// A ControlNet that is loaded.
#[derive(Debug)]
struct Control {
    network: ControlNet,
    lost: Lost,
}

impl ControlNetwork for Control {
    fn attachments(
        &self,
        step: &Step<'_>,
        texts: &Texts,
        pictures: &Tensor<5>,
        weight: f32,
        guessed: Option<usize>,
    ) -> Attachments {
        let samples = guessed.unwrap_or(step.timesteps.len()).min(step.timesteps.len());
        if samples == 0 || weight == 0.0 {
            return Attachments::none();
        }
        let latents = folded(step.latents.clone().narrow(0, 0, samples));
        let pictures = folded(pictures.clone().repeat_dim(0, samples));
        let text = texts.words.clone().narrow(0, 0, samples);
        let none = Attachments::none();
        let residuals = self.network.forward(latents, pictures, &step.timesteps[..samples], text, &none);
        let all = step.latents.dims()[0] * step.latents.dims()[2];
        let residuals = if guessed.is_some() { residuals.guessing().padded(all) } else { residuals };
        residuals.attachments(weight, Window::ALWAYS)
    }

    fn lost(&self) -> Option<&str> {
        self.lost.reason()
    }
}
