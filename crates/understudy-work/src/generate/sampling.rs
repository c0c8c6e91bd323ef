//! Flags of sampling.

use clap::Args;
use understudy_engine::attach::Window;
use understudy_pipeline::{Context, Description, Request, Sampler};

use super::made::add;

/// How a video is sampled; what is not given is as usual for the base.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Sampling")]
pub struct Sampling {
    /// Frames [nano: 17; AnimateDiff: 16; Wan: 81].
    #[arg(long, value_name = "N")]
    pub frames: Option<usize>,
    /// Rows of pixels [nano: 64; AnimateDiff: 512; Wan: 480].
    #[arg(long, value_name = "N")]
    pub height: Option<usize>,
    /// Columns of pixels [nano: 64; AnimateDiff: 512; Wan: 832].
    #[arg(long, value_name = "N")]
    pub width: Option<usize>,
    /// Denoising steps [nano: 20; AnimateDiff: 25; Wan: 50].
    #[arg(long, value_name = "N")]
    pub steps: Option<usize>,
    /// Guidance scale; none at 1 or less [nano: 4; AnimateDiff: 7.5; Wan: 5].
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
    /// Make a video of more frames than the base knows positions for in windows of so many [16, where it is
    /// needed].
    #[arg(long, value_name = "N")]
    pub context: Option<usize>,
    /// Frames that neighbouring windows have in common.
    #[arg(long, default_value_t = 4, value_name = "N")]
    pub context_overlap: usize,
    /// Also windows that skip frames: at 2 every second, at 3 also every fourth.
    #[arg(long, default_value_t = 1, value_name = "N")]
    pub context_stride: usize,
    /// Windows that go on from the last frame to the first, for a video that is played in a loop.
    #[arg(long)]
    pub context_loop: bool,
    /// Decode in square tiles of so many pixels, for the memory of one; a multiple of 4 latents.
    #[arg(long, value_name = "N")]
    pub vae_tile: Option<usize>,
    /// The sampler: euler, dpm++, and of flows unipc; of diffusion ddim, lcm, euler-a, dpm++2m-sde, pndm [the
    /// base's own].
    #[arg(long, value_name = "NAME")]
    pub scheduler: Option<Sampler>,
    /// How far noise levels of flows are shifted towards noise [the base's own].
    #[arg(long, value_name = "X")]
    pub shift: Option<f64>,
    /// Leave out so many of the last layers of the text encoder, of bases with CLIP's.
    #[arg(long, default_value_t = 0, value_name = "N")]
    pub clip_skip: usize,
    /// Decides the noise: the same seed gives the same video. Each further prompt has a seed 1 higher.
    #[arg(long, default_value_t = 0, value_name = "N", allow_negative_numbers = true)]
    pub seed: u64,
    /// Frames a second of the file [nano and AnimateDiff: 8; Wan: 16].
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
    /// The flags that state all of what `request` says, with the name and any shift of its scheduler.
    pub fn arguments(
        &self,
        request: &Request,
        (sampler, shift): (&str, Option<f64>),
        fps: f64,
    ) -> Vec<String> {
        let Window { start, end } = request.guidance_window;
        let context = request.context;
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
            ("--context", context.map(|own| own.length.to_string())),
            ("--context-overlap", context.map(|own| own.overlap.to_string())),
            ("--context-stride", context.map(|own| own.stride.to_string())),
            ("--vae-tile", request.vae_tile.map(|side| side.to_string())),
            ("--clip-skip", (request.clip_skip > 0).then(|| request.clip_skip.to_string())),
            ("--scheduler", Some(sampler.to_owned())),
            ("--shift", shift.map(|shift| shift.to_string())),
            ("--fps", Some(fps.to_string())),
        ];
        let mut arguments = Vec::new();
        arguments.extend(context.is_some_and(|own| own.looped).then(|| "--context-loop".to_owned()));
        for (flag, value) in stated {
            if let Some(value) = value {
                add(&mut arguments, flag, &value);
            }
        }
        arguments
    }

    /// The windows over so many frames, where they are asked for or the base has too few positions.
    fn windows(&self, frames: usize, about: &Description) -> Option<Context> {
        let [most, ..] = about.geometry.largest();
        let needed = frames > most && about.geometry.factors[0] == 1;
        let asked = self.context.is_some() || self.context_loop;
        (needed || asked).then(|| Context {
            length: self.context.unwrap_or(Context::USUAL.length.min(most)),
            overlap: self.context_overlap,
            stride: self.context_stride,
            looped: self.context_loop,
        })
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
            context: self.windows(self.frames.unwrap_or(frames), about),
            vae_tile: self.vae_tile,
            sampler: self.scheduler,
            shift: self.shift,
            clip_skip: self.clip_skip,
            seed: self.seed,
            ..Request::new("")
        }
    }
}
