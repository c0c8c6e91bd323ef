//! AnimateDiff on Stable Diffusion 1.5 (Guo et al., "AnimateDiff: Animate Your Personalized Text-to-Image
//! Diffusion Models without Specific Tuning", 2024): a UNet of pictures with attention over frames put into
//! it, CLIP for texts, an autoencoder of pictures, and diffusion that predicts noise.

mod about;
mod config;
mod control;
mod names;
mod networks;
mod opened;
mod original;
mod recognize;
mod refused;
mod tokenizer;

use std::path::Path;
use std::sync::Arc;

use burn::tensor::Device;
use understudy_engine::safetensors::Checkpoint;

use crate::error::Result;
use crate::family::{Description, Family, OpenBase};
use crate::files::Source;
use crate::naming::Naming;
use crate::network::ControlNetwork;
use crate::recognize::{Network, Recognized};

/// The family.
#[derive(Clone, Copy, Debug)]
pub struct AnimateDiff;

impl Family for AnimateDiff {
    fn name(&self) -> &'static str {
        "animatediff"
    }

    fn networks(&self, file: &Checkpoint) -> Vec<Network> {
        recognize::networks(file)
    }

    fn pipeline(&self) -> &'static str {
        config::PIPELINES[0]
    }

    fn classes(&self) -> &'static [&'static str] {
        &["UNet2DConditionModel", "UNetMotionModel", "MotionAdapter", "CLIPTextModel", "AutoencoderKL"]
    }

    fn published(&self, network: Network) -> (&'static str, &'static str) {
        match network {
            Network::Denoiser => ("v1-5-pruned-emaonly.safetensors", "v1-5-pruned"),
            Network::TextEncoder => ("text_encoder/model.safetensors", "model"),
            Network::Autoencoder => ("vae/diffusion_pytorch_model.safetensors", "vae-ft"),
        }
    }

    fn recognize(&self, file: &Checkpoint, _: Option<&Source>) -> Vec<Recognized> {
        recognize::recognize(file)
    }

    fn open(&self, source: &Source, device: &Device) -> Result<Option<Box<dyn OpenBase>>> {
        opened::open(source, device)
    }

    fn control(&self, path: &Path, about: &Description, device: &Device) -> Result<Arc<dyn ControlNetwork>> {
        control::open(path, about, device)
    }

    fn model_of(&self, maps: &[(&str, [usize; 2])]) -> Option<&'static str> {
        let of =
            |end: &str| maps.iter().find(|(site, _)| site.ends_with(end)).map(|(_, [_, inputs])| *inputs);
        match of("attn2.to_k")? {
            768 => Some("Stable Diffusion 1.5"),
            1024 => Some("Stable Diffusion 2"),
            2048 => Some("Stable Diffusion XL"),
            _ => None,
        }
    }

    fn naming(&self) -> &'static Naming {
        &names::NAMING
    }
}
