//! Wan 2.1's text-to-video (Wan: "Open and Advanced Large-Scale Video Generative Models", 2025), and `nano`,
//! which is built like it: a diffusion transformer over latents of a causal video autoencoder, with UMT5 for
//! texts and flow matching.

mod about;
mod adapters;
mod config;
mod export;
mod files;
mod kinds;
mod limits;
mod networks;
mod opened;
pub mod original;
mod recognize;
pub mod shapes;

use burn::tensor::Device;
use understudy_engine::safetensors::Checkpoint;

use crate::error::Result;
use crate::family::{Family, OpenBase};
use crate::files::Source;
use crate::naming::Naming;
use crate::recognize::{Network, Recognized};

pub use about::describe;
pub use config::WanConfig;
pub use export::{BaseParameters, save};
pub use networks::{WanNetworks, denoiser};
pub use opened::{BaseWeights, build};

/// The family.
#[derive(Clone, Copy, Debug)]
pub struct Wan;

impl Family for Wan {
    fn name(&self) -> &'static str {
        "wan"
    }

    fn networks(&self, file: &Checkpoint) -> Vec<Network> {
        recognize::networks(file)
    }

    fn pipeline(&self) -> &'static str {
        files::PIPELINE
    }

    fn classes(&self) -> &'static [&'static str] {
        &[files::TRANSFORMER.class, files::TEXT_ENCODER.class, files::VAE.class]
    }

    fn published(&self, network: Network) -> (&'static str, &'static str) {
        match network {
            Network::Denoiser => ("diffusion_pytorch_model.safetensors", "diffusion_pytorch_model"),
            Network::TextEncoder => ("models_t5_umt5-xxl-enc-bf16.pth", "models_t5"),
            Network::Autoencoder => ("Wan2.1_VAE.pth", "Wan2.1_VAE"),
        }
    }

    fn recognize(&self, file: &Checkpoint, base: Option<&Source>) -> Vec<Recognized> {
        match base.map(opened::config) {
            Some(Ok(Some(config))) => recognize::compare(file, &config).into_iter().collect(),
            _ => recognize::recognize(file),
        }
    }

    fn open(&self, source: &Source, device: &Device) -> Result<Option<Box<dyn OpenBase>>> {
        opened::open(source, device)
    }

    fn model_of(&self, maps: &[(&str, [usize; 2])]) -> Option<&'static str> {
        let naming = self.naming();
        let block = |site: &str| naming.in_block(site)?.0.parse::<usize>().ok();
        let depth = maps.iter().filter_map(|(site, _)| block(site)).max()? + 1;
        let attends = |site: &str| site.ends_with("attn1.to_q") || site.ends_with("attn2.to_q");
        let (_, [_, dim]) = maps.iter().find(|(site, _)| attends(site))?;
        about::published(*dim, depth, maps.iter().any(|(site, _)| naming.is_foreign(site)))
    }

    fn naming(&self) -> &'static Naming {
        &original::NAMING
    }
}
