//! A base: a text-to-video model that is loaded.

use std::sync::Arc;

use burn::tensor::{Device, Tensor};
use understudy_engine::patch::Additions;

use crate::error::{Error, Result};
use crate::family::Description;
use crate::files::{Files, Source};
use crate::network::{Autoencoder, Denoiser, TextEncoder};

/// The text encoder's name, by which things are attached to it.
pub const TEXT_ENCODER: &str = "text_encoder";

/// How a base is loaded.
#[derive(Clone, Debug, Default)]
pub struct LoadOptions {
    /// What is added to the denoiser's weights.
    pub additions: Additions,
    /// How many of the denoiser's blocks stay in its file and are read whenever they are needed.
    pub blocks_on_host: usize,
}

/// The networks of a base.
#[derive(Clone, Debug)]
pub struct Networks {
    /// Texts to what the denoiser reads.
    pub text: Arc<dyn TextEncoder>,
    /// The denoiser.
    pub denoiser: Arc<dyn Denoiser>,
    /// Videos to latents and back.
    pub vae: Arc<dyn Autoencoder>,
}

/// A text-to-video model ready to run. Copies share their weights.
#[derive(Clone, Debug)]
pub struct Base {
    /// What is known of it without its values.
    pub about: Arc<Description>,
    /// Its networks.
    pub networks: Networks,
    /// Where it computes.
    pub device: Device,
    /// How many of the denoiser's blocks are read whenever they are needed.
    pub blocks_on_host: usize,
}

impl Base {
    /// Loads a base from its files.
    ///
    /// # Errors
    /// When a file is missing, malformed or not supported, or weights do not fit: every missing, mis-shaped
    /// and unknown tensor is listed.
    pub fn load(files: &Files, device: &Device) -> Result<Self> {
        Self::load_with(files, LoadOptions::default(), device)
    }

    /// The same as `options` say.
    ///
    /// # Errors
    /// As [`Base::load`], and when something is added that does not fit.
    pub fn load_with(files: &Files, options: LoadOptions, device: &Device) -> Result<Self> {
        Source::Files(files.clone()).open(device)?.load(options)
    }

    /// That everything that was read since it was loaded could be read: a file may be changed or its disk go
    /// away, and what is computed without it means nothing.
    ///
    /// # Errors
    /// Says what could not be read.
    pub fn check_read(&self) -> Result<()> {
        let Networks { text, denoiser, vae } = &self.networks;
        match text.lost().or_else(|| denoiser.lost()).or_else(|| vae.lost()) {
            Some(reason) => Err(Error::Lost(reason.to_owned())),
            None => Ok(()),
        }
    }

    /// The normalized latents `(videos, channels, frames, height, width)` that a denoiser is trained on, of
    /// `videos (videos, 3, frames, height, width)` in [-1, 1].
    ///
    /// # Errors
    /// When the videos' size does not fit the base, or its encoder cannot be read any more.
    pub fn encode(&self, videos: Tensor<5>) -> Result<Tensor<5>> {
        let [_, _, frames, height, width] = videos.dims();
        self.about.geometry.latents([frames, height, width])?;
        let latents = self.networks.vae.encode(videos);
        self.check_read()?;
        Ok(latents)
    }
}
