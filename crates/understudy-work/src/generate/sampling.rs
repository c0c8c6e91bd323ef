//! Flags of sampling.

use clap::Args;
use understudy_engine::attach::Window;
use understudy_pipeline::{Description, Request, Sampler};

use super::made::add;

/// How a video is sampled; what is not given is as usual for the base.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Sampling")]
pub struct Sampling {
    /// Frames [nano: 17; others: 81].
    #[arg(long, value_name = "N")]
    pub frames: Option<usize>,
    /// Rows of pixels [nano: 64; others: 480].
    #[arg(long, value_name = "N")]
    pub height: Option<usize>,
    /// Columns of pixels [nano: 64; others: 832].
    #[arg(long, value_name = "N")]
    pub width: Option<usize>,
    /// Denoising steps [nano: 20; others: 50].
    #[arg(long, value_name = "N")]
    pub steps: Option<usize>,
    /// Guidance scale; none at 1 or less [nano: 4; others: 5].
    #[arg(long, value_name = "X")]
    pub guidance: Option<f32>,
    /// Where in denoising guidance begins, from 0 to 1; steps without it cost half.
    #[arg(long, default_value_t = 0.0, value_name = "X")]
    pub guidance_start: f32,
    /// Where in denoising guidance ends.
    #[arg(long, default_value_t = 1.0, value_name = "X")]
    pub guidance_end: f32,
    /// Skip blocks in steps that change little: faster, and not quite the same video; 0.1 is careful.
    ///
    /// All blocks but the first are skipped where what the first adds has changed by less than this part
    /// since all of them ran.
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
    /// Decides the noise: the same seed gives the same video. Each further prompt has a seed 1 higher.
    #[arg(long, default_value_t = 0, value_name = "N", allow_negative_numbers = true)]
    pub seed: u64,
    /// Frames a second of the file [nano: 8; others: 16].
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
    /// The flags that state all of what `request` says, with the name and the shift of its scheduler.
    pub fn arguments(&self, request: &Request, (sampler, shift): (&str, f64), fps: f64) -> Vec<String> {
        let Window { start, end } = request.guidance_window;
        let part = |value: f32, usual: f32| (value != usual).then(|| value.to_string());
        let stated = [
            ("--frames", Some(request.frames.to_string())),
            ("--height", Some(request.height.to_string())),
            ("--width", Some(request.width.to_string())),
            ("--steps", Some(request.steps.to_string())),
            ("--guidance", Some(request.guidance.to_string())),
            ("--guidance-start", part(start, 0.0)),
            ("--guidance-end", part(end, 1.0)),
            ("--block-reuse", request.block_reuse.map(|part| part.to_string())),
            ("--vae-tile", request.vae_tile.map(|side| side.to_string())),
            ("--scheduler", Some(sampler.to_owned())),
            ("--shift", Some(shift.to_string())),
            ("--fps", Some(fps.to_string())),
        ];
        let mut arguments = Vec::new();
        for (flag, value) in stated {
            if let Some(value) = value {
                add(&mut arguments, flag, &value);
            }
        }
        arguments
    }

    /// A request with these settings, and the usual ones where nothing is said.
    pub fn request(&self, about: &Description) -> Request {
        let (usual, most) = (about.usual, about.geometry.largest());
        // As far as the base has positions.
        let [frames, height, width] = [0, 1, 2].map(|axis| usual.size[axis].min(most[axis]));
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
