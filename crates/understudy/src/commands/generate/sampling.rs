//! Flags of sampling.

use clap::Args;
use understudy_engine::attach::Window;
use understudy_pipeline::{Request, Sampler};

use crate::base::Usual;

/// How a video is sampled; what is not given is as usual for the base.
#[derive(Clone, Debug, Args)]
pub struct Sampling {
    /// Frames [nano: 17].
    #[arg(long, value_name = "N")]
    pub frames: Option<usize>,
    /// Rows of pixels [nano: 64].
    #[arg(long, value_name = "N")]
    pub height: Option<usize>,
    /// Columns of pixels [nano: 64].
    #[arg(long, value_name = "N")]
    pub width: Option<usize>,
    /// Denoising steps [nano: 20].
    #[arg(long, value_name = "N")]
    pub steps: Option<usize>,
    /// Guidance scale; none at 1 or less [nano: 4].
    #[arg(long, value_name = "X")]
    pub guidance: Option<f32>,
    /// Where in denoising guidance begins, from 0 to 1; steps without it cost half.
    #[arg(long, default_value_t = 0.0, value_name = "X")]
    pub guidance_start: f32,
    /// Where in denoising guidance ends.
    #[arg(long, default_value_t = 1.0, value_name = "X")]
    pub guidance_end: f32,
    /// Skip all blocks but the first in steps in which what it adds has changed by less than this part since all of them
    /// ran: faster, and not quite the same video. 0.1 is careful.
    #[arg(long, value_name = "X")]
    pub block_reuse: Option<f32>,
    /// Decode in square tiles of so many pixels, for the memory of one; a multiple of 4 latents.
    #[arg(long, value_name = "N")]
    pub vae_tile: Option<usize>,
    /// The sampler: euler, unipc or dpm++ [the base's own].
    #[arg(long, value_name = "NAME")]
    pub scheduler: Option<Sampler>,
    /// How far noise levels are shifted towards noise [the base's own].
    #[arg(long, value_name = "X")]
    pub shift: Option<f64>,
    /// Decides the noise: the same seed gives the same video.
    #[arg(long, default_value_t = 0, value_name = "N")]
    pub seed: u64,
    /// Frames a second of the file [nano: 8].
    #[arg(long, value_name = "X", value_parser = frame_rate)]
    pub fps: Option<f64>,
}

/// Reads a rate that a file can have.
pub fn frame_rate(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(rate) if (0.1..=1000.0).contains(&rate) => Ok(rate),
        _ => Err("must be a number between 0.1 and 1000".to_owned()),
    }
}

impl Sampling {
    /// A request with these settings, and the usual ones where nothing is said.
    pub fn request(&self, usual: Usual) -> Request {
        let [frames, height, width] = usual.size;
        Request {
            frames: self.frames.unwrap_or(frames),
            height: self.height.unwrap_or(height),
            width: self.width.unwrap_or(width),
            steps: self.steps.unwrap_or(usual.steps),
            guidance: self.guidance.unwrap_or(usual.guidance),
            guidance_window: Window { start: self.guidance_start, end: self.guidance_end },
            block_reuse: self.block_reuse,
            vae_tile: self.vae_tile,
            sampler: self.scheduler,
            shift: self.shift,
            seed: self.seed,
            ..Request::new("")
        }
    }
}
