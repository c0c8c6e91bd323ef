//! Where a folder in diffusers' layout has what.

pub(super) use crate::files::INDEX;

pub(super) const TEXT_ENCODER: Part = Part::of("text_encoder", "model.safetensors", "UMT5EncoderModel");
pub(super) const TRANSFORMER: Part =
    Part::of("transformer", "diffusion_pytorch_model.safetensors", "WanTransformer3DModel");
pub(super) const VAE: Part = Part::of("vae", "diffusion_pytorch_model.safetensors", "AutoencoderKLWan");
pub(super) const SCHEDULER: &str = "scheduler/scheduler_config.json";
pub(super) const PIPELINE: &str = "WanPipeline";

/// One network's place in the folder.
pub(super) struct Part {
    pub(super) folder: &'static str,
    weights: &'static str,
    pub(super) class: &'static str,
}

impl Part {
    const fn of(folder: &'static str, weights: &'static str, class: &'static str) -> Self {
        Self { folder, weights, class }
    }

    pub(super) fn config(&self) -> String {
        format!("{}/config.json", self.folder)
    }

    pub(super) fn weights(&self) -> String {
        format!("{}/{}", self.folder, self.weights)
    }
}
