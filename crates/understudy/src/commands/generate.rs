//! `understudy generate`: a video from a prompt.

use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use burn::tensor::{Device, Tensor, TensorData};
use clap::Args;
use serde_json::json;
use understudy_engine::attach::{Attachments, Window};
use understudy_engine::patch::Additions;
use understudy_engine::safetensors::{self, Checkpoint, NamedValues, Precision};
use understudy_media::{OutputFormat, Range, Video, WriteOptions, check_writable, write_frames_safetensors};
use understudy_personalize::{Adapter, Unmatched, combine};
use understudy_pipeline::cost::Estimate;
use understudy_pipeline::{Base, BaseConfig, Event, LoadOptions, Output, Request, Sampler, Source, generate};

use super::Common;
use crate::base::BaseArguments;
use crate::interrupt;
use crate::progress::Progress;
use crate::report::WrongUsage;

/// The tensor that holds latents in a file.
const LATENTS: &str = "latents";

/// Generate a video from a prompt.
#[derive(Debug, Args)]
pub struct Generate {
    #[command(flatten)]
    base: BaseArguments,
    /// What to show. A fitted subject is named as it was fitted, e.g. "a <s> cat dances on the beach". With several,
    /// the files are numbered: NAME-1.mp4, NAME-2.mp4.
    #[arg(long = "prompt", value_name = "TEXT", required = true)]
    prompts: Vec<String>,
    /// What guidance leads away from.
    #[arg(long, default_value = "", value_name = "TEXT")]
    negative_prompt: String,
    /// An adapter, with its weight (1 if it has none). Several are added up.
    #[arg(long = "adapter", value_name = "FILE[:WEIGHT]")]
    adapters: Vec<WeightedAdapter>,
    /// Add the adapters to the base's weights instead of attaching them: the same result within rounding.
    #[arg(long)]
    merge: bool,
    /// Keep so many of the denoiser's blocks in their file and read each when it is its turn: slower, and smaller.
    #[arg(long, default_value_t = 0, value_name = "N")]
    blocks_on_host: usize,
    /// Leave out what an adapter holds that is not understood or that the base has no place for.
    #[arg(long)]
    allow_unmatched: bool,
    /// A picture for a word of the prompt.
    #[arg(long = "reference", value_name = "WORD=IMAGE")]
    references: Vec<String>,
    #[command(flatten)]
    sampling: Sampling,
    /// Noise to start from in place of the seed's: tensor `latents` (batch, channels, frames, height, width).
    #[arg(long, value_name = "FILE")]
    initial_noise: Option<PathBuf>,
    /// Where to write the result before the autoencoder, as tensor `latents`.
    #[arg(long, value_name = "FILE")]
    save_latents: Option<PathBuf>,
    /// Where to write the video; a name without an extension is a folder of PNGs.
    #[arg(long, value_name = "FILE.mp4|.gif|.webp|.png|.safetensors|DIR")]
    out: PathBuf,
    /// Say what it is going to take, and stop.
    #[arg(long)]
    plan: bool,
    /// Repeat every pixel so many times in both directions, in videos and pictures [nano: 4].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u8).range(1..=64))]
    upscale: Option<u8>,
    #[command(flatten)]
    common: Common,
}

/// How a video is sampled; what is not given is as usual for the base.
#[derive(Clone, Debug, Args)]
struct Sampling {
    /// Frames [nano: 17].
    #[arg(long, value_name = "N")]
    frames: Option<usize>,
    /// Rows of pixels [nano: 64].
    #[arg(long, value_name = "N")]
    height: Option<usize>,
    /// Columns of pixels [nano: 64].
    #[arg(long, value_name = "N")]
    width: Option<usize>,
    /// Denoising steps [nano: 20].
    #[arg(long, value_name = "N")]
    steps: Option<usize>,
    /// Guidance scale; none at 1 or less [nano: 4].
    #[arg(long, value_name = "X")]
    guidance: Option<f32>,
    /// Where in denoising guidance begins, from 0 to 1; steps without it cost half.
    #[arg(long, default_value_t = 0.0, value_name = "X")]
    guidance_start: f32,
    /// Where in denoising guidance ends.
    #[arg(long, default_value_t = 1.0, value_name = "X")]
    guidance_end: f32,
    /// Decode in square tiles of so many pixels, for the memory of one; a multiple of 4 latents.
    #[arg(long, value_name = "N")]
    vae_tile: Option<usize>,
    /// The sampler: euler, unipc or dpm++ [the base's own].
    #[arg(long, value_name = "NAME")]
    scheduler: Option<Sampler>,
    /// How far noise levels are shifted towards noise [the base's own].
    #[arg(long, value_name = "X")]
    shift: Option<f64>,
    /// Decides the noise: the same seed gives the same video.
    #[arg(long, default_value_t = 0, value_name = "N")]
    seed: u64,
    /// Frames a second of the file [nano: 8].
    #[arg(long, value_name = "X", value_parser = frame_rate)]
    fps: Option<f64>,
}

fn frame_rate(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(rate) if (0.1..=1000.0).contains(&rate) => Ok(rate),
        _ => Err("must be a number between 0.1 and 1000".to_owned()),
    }
}

/// An adapter's file and how strongly it counts.
#[derive(Clone, Debug, PartialEq)]
struct WeightedAdapter {
    path: PathBuf,
    weight: f32,
}

impl FromStr for WeightedAdapter {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let whole = || Self { path: text.into(), weight: 1.0 };
        let Some((path, weight)) = text.rsplit_once(':').filter(|(path, _)| !path.is_empty()) else {
            return Ok(whole());
        };
        match weight.parse::<f32>() {
            Ok(number) if number.is_finite() => Ok(Self { path: path.into(), weight: number }),
            Ok(_) => Err("the weight must be finite".to_owned()),
            // A colon may also belong to the path.
            Err(_) if weight.contains(['/', '\\', '.']) => Ok(whole()),
            Err(_) => Err(format!("{weight:?} is not a weight; use FILE:0.8")),
        }
    }
}

impl Generate {
    /// Generates the video.
    pub fn run(self) -> Result<()> {
        let started = Instant::now();
        let format = self.check_paths()?;
        if !self.references.is_empty() {
            bail!("--reference: no method uses it yet; leave it out");
        }
        let device = self.common.open()?;
        let source = self.base.source()?;
        let config = source.config()?;
        let mut request = self.request(&device)?;
        request.check(&config)?;
        let upscale = self.write_options(format).upscale;
        format.check_size(&self.out, request.width * upscale, request.height * upscale)?;
        let mut progress = self.common.progress();
        let adapters = self.read_adapters(&config, &source, &device, &progress)?;
        (request.attachments, request.token_embeddings) = combine(&adapters, &config)?;
        if self.merge {
            request.attachments = Attachments::none();
        }
        let mut additions = Additions::default();
        for (adapter, weight) in &adapters {
            additions.extend(adapter.additions(*weight, self.merge)?);
        }
        let estimate = request.estimate(&config, self.blocks_on_host, &device)?;
        self.tell_plan(&config, &request, &adapters, estimate, &progress);
        if self.plan {
            return Ok(());
        }
        let options = LoadOptions { additions, blocks_on_host: self.blocks_on_host };
        let base = source.load_with(options, &device)?;
        let output = run(&base, &request, &mut progress)?;
        progress.clear();
        self.write(output, format)?;
        let (outputs, seconds) = (self.outputs(), started.elapsed().as_secs_f64());
        progress.event(
            &json!({"event": "done", "path": self.out, "paths": outputs, "latents": self.save_latents, "seconds": seconds}),
        );
        let written: Vec<String> = outputs.iter().map(|path| path.display().to_string()).collect();
        progress.say(&format!("wrote {} in {seconds:.1} s", written.join(", ")));
        Ok(())
    }

    /// Where each prompt's video goes.
    fn outputs(&self) -> Vec<PathBuf> {
        if self.prompts.len() == 1 {
            return vec![self.out.clone()];
        }
        (1..=self.prompts.len()).map(|number| numbered(&self.out, number)).collect()
    }

    /// Whether a prompt has the word `token`.
    fn names(&self, token: &str) -> bool {
        self.prompts.iter().any(|prompt| prompt.contains(token))
    }

    /// That everything can be written where it is to go.
    fn check_paths(&self) -> Result<OutputFormat> {
        // An extension that is not known is not a matter of this disk.
        OutputFormat::from_path(&self.out).map_err(|error| WrongUsage(error.to_string()))?;
        let mut format = check_writable(&self.out)?;
        for path in self.outputs() {
            format = check_writable(&path)?;
        }
        if let Some(latents) = &self.save_latents {
            if OutputFormat::from_path(latents).ok() != Some(OutputFormat::Safetensors) {
                let reason =
                    format!("--save-latents {}: the name must end in .safetensors", latents.display());
                return Err(WrongUsage(reason).into());
            }
            if *latents == self.out {
                let reason = format!(
                    "--save-latents and --out are both {}; give them different names",
                    latents.display()
                );
                return Err(WrongUsage(reason).into());
            }
            check_writable(latents)?;
        }
        Ok(format)
    }

    /// The adapters, found to be for this base, and the prompts, found short enough, before any weights are read.
    fn read_adapters(
        &self,
        config: &BaseConfig,
        source: &Source,
        device: &Device,
        progress: &Progress,
    ) -> Result<Vec<(Adapter, f32)>> {
        let mut adapters = Vec::new();
        let mut tokens = Vec::new();
        let unmatched = if self.allow_unmatched { Unmatched::Allow } else { Unmatched::Refuse };
        for WeightedAdapter { path, weight } in &self.adapters {
            let (mut adapter, mut left_out) = Adapter::open_with(path, device, unmatched)?;
            if self.allow_unmatched {
                left_out.extend(adapter.keep_fitting(config));
            }
            tell_left_out(path, &left_out, progress);
            let identity = config.identity();
            if let Some(own) = adapter.metadata.base.as_ref().filter(|own| own.identity != identity) {
                bail!(
                    "--adapter {} was made for the base {} ({}), and --base is {} ({identity}); use it with its own base",
                    path.display(),
                    own.name,
                    own.identity,
                    self.base.name()
                );
            }
            tokens.extend(adapter.metadata.tokens.iter().cloned());
            adapters.push((adapter, *weight));
        }
        let tokenizer = source.tokenizer()?.with_added(&tokens)?;
        let texts: Vec<&str> =
            self.prompts.iter().chain([&self.negative_prompt]).map(String::as_str).collect();
        tokenizer.encode(&texts, config.max_sequence_length)?;
        Ok(adapters)
    }

    /// What is asked for, without the adapters.
    fn request(&self, device: &Device) -> Result<Request> {
        let (usual, own) = (self.base.usual(), &self.sampling);
        let [frames, height, width] = usual.size;
        Ok(Request {
            negative_prompt: self.negative_prompt.clone(),
            frames: own.frames.unwrap_or(frames),
            height: own.height.unwrap_or(height),
            width: own.width.unwrap_or(width),
            steps: own.steps.unwrap_or(usual.steps),
            guidance: own.guidance.unwrap_or(usual.guidance),
            guidance_window: Window { start: own.guidance_start, end: own.guidance_end },
            vae_tile: own.vae_tile,
            sampler: own.scheduler,
            shift: own.shift,
            seed: own.seed,
            initial_noise: self.initial_noise.as_deref().map(|path| read_noise(path, device)).transpose()?,
            prompts: self.prompts.clone(),
            ..Request::new("")
        })
    }

    fn tell_plan(
        &self,
        config: &BaseConfig,
        request: &Request,
        adapters: &[(Adapter, f32)],
        estimate: Estimate,
        progress: &Progress,
    ) {
        let Estimate { weights, activations, step_seconds, seconds } = estimate;
        let memory = estimate.peak();
        let scheduler = request.scheduler(config);
        let Request { frames, height, width, steps, guidance, seed, .. } = request;
        let (sampler, shift) = (scheduler.sampler.to_string(), scheduler.shift);
        let loaded = self.adapters.iter().zip(adapters).map(|(named, (adapter, weight))| {
            let tokens = &adapter.metadata.tokens;
            json!({"path": named.path, "weight": weight, "sites": adapter.residuals.len(), "tokens": tokens})
        });
        progress.event(&json!({
            "event": "plan", "base": self.base.name(), "identity": config.identity(), "prompts": self.prompts,
            "frames": frames, "height": height, "width": width, "steps": steps, "guidance": guidance,
            "scheduler": sampler, "shift": shift, "seed": seed, "adapters": loaded.collect::<Vec<_>>(),
            "weights": weights, "activations": activations, "memory": memory, "step_seconds": step_seconds,
            "seconds": seconds,
        }));
        progress.say(&format!(
            "{}: {frames} frames of {width}x{height}, {steps} {sampler} steps (shift {shift}), guidance {guidance}, \
             seed {seed}; about {:.1} GB of memory ({:.1} weights, {:.1} activations) and {seconds:.0} s \
             ({step_seconds:.1} a step)",
            self.base.name(),
            gigabytes(memory),
            gigabytes(weights),
            gigabytes(activations)
        ));
        for (named, (adapter, weight)) in self.adapters.iter().zip(adapters) {
            let (path, sites) = (named.path.display(), adapter.residuals.len());
            let how = if self.merge { "merged" } else { "attached" };
            let dense = match adapter.differences.len() {
                0 => String::new(),
                count => format!(" and {count} dense differences"),
            };
            progress.say(&format!("adapter {path}: {sites} residuals{dense} {how} with weight {weight}"));
            for token in adapter.metadata.tokens.iter().filter(|token| !self.names(token)) {
                progress.say(&format!("note: no prompt names {token}, the subject of {path}"));
            }
        }
    }

    fn write(&self, output: Output, format: OutputFormat) -> Result<()> {
        if let Some(path) = &self.save_latents {
            let shape = output.latents.dims().to_vec();
            let latents = NamedValues { name: LATENTS.to_owned(), shape, values: values(output.latents)? };
            safetensors::write(path, &[latents], Default::default(), Precision::F32)?;
        }
        for (index, path) in self.outputs().iter().enumerate() {
            self.write_video(path, output.frames.clone().narrow(0, index, 1), format)?;
        }
        Ok(())
    }

    /// Writes the video `frames (1, 3, frames, height, width)`.
    fn write_video(&self, path: &Path, frames: Tensor<5>, format: OutputFormat) -> Result<()> {
        let [_, _, count, height, width] = frames.dims();
        let (planar, shape) = (values(frames)?, [count, height, width]);
        if format == OutputFormat::Safetensors {
            return Ok(write_frames_safetensors(path, &planar, shape)?);
        }
        let usual = self.base.usual();
        let video = Video::from_planar(&planar, shape, self.sampling.fps.unwrap_or(usual.fps), Range::Unit)?;
        Ok(video.write(path, &self.write_options(format))?)
    }

    fn write_options(&self, format: OutputFormat) -> WriteOptions {
        // A folder of frames is for other programs, which want every pixel once.
        let enlarged = if format == OutputFormat::Directory { 1 } else { self.base.usual().upscale };
        WriteOptions { upscale: self.upscale.map_or(enlarged, usize::from), ..WriteOptions::default() }
    }
}

fn gigabytes(bytes: u64) -> f64 {
    bytes as f64 / 1e9
}

/// `NAME-3.mp4` of `NAME.mp4`.
fn numbered(path: &Path, number: usize) -> PathBuf {
    let stem = path.file_stem().unwrap_or_default().to_string_lossy();
    let name = match path.extension() {
        Some(extension) => format!("{stem}-{number}.{}", extension.to_string_lossy()),
        None => format!("{stem}-{number}"),
    };
    path.with_file_name(name)
}

/// Says what of an adapter is not used.
fn tell_left_out(path: &Path, left_out: &[String], progress: &Progress) {
    if left_out.is_empty() {
        return;
    }
    progress.event(&json!({"event": "unmatched", "path": path, "keys": left_out}));
    let count = left_out.len();
    progress.say(&format!(
        "note: adapter {}: {count} keys are left out: {}",
        path.display(),
        left_out.join(", ")
    ));
}

/// Runs `request` and shows its steps.
///
/// # Errors
/// When the run is stopped by Ctrl-C.
pub fn run(base: &Base, request: &Request, progress: &mut Progress) -> Result<Output> {
    let (mut encoding, mut denoising) = (Duration::ZERO, Duration::ZERO);
    let output = generate(base, request, &mut |event| {
        let seconds = |elapsed: Duration| elapsed.as_secs_f64();
        match event {
            Event::Encoded { elapsed } => {
                encoding = elapsed;
                progress.event(&json!({"event": "encoded", "seconds": seconds(elapsed)}))
            }
            Event::Step { index, total, sigma, elapsed } => {
                denoising += elapsed;
                let (step, seconds) = (index + 1, seconds(elapsed));
                progress.event(
                    &json!({"event": "step", "step": step, "total": total, "sigma": sigma, "seconds": seconds}),
                );
                progress.step("step", step as u64, total as u64, &format!("({seconds:.2} s)"));
            }
            Event::Decoded { elapsed } => {
                progress.event(&json!({"event": "decoded", "seconds": seconds(elapsed)}));
                progress.say(&format!(
                    "text {:.1} s, denoising {:.1} s, decoding {:.1} s",
                    seconds(encoding),
                    seconds(denoising),
                    seconds(elapsed)
                ));
            }
        }
        interrupt::flow()
    })?;
    Ok(output)
}

/// The values of a tensor, row by row.
///
/// # Errors
/// When one is not finite: a video must not be made of it.
pub fn values<const D: usize>(tensor: Tensor<D>) -> Result<Vec<f32>> {
    let values: Vec<f32> = tensor.into_data().try_into_vec().map_err(|error| anyhow::anyhow!("{error:?}"))?;
    if !values.iter().all(|value| value.is_finite()) {
        bail!(
            "the result holds values that are not finite; check the base and the adapters, or use --dtype f32"
        );
    }
    Ok(values)
}

/// The noise in a file.
fn read_noise(path: &Path, device: &Device) -> Result<Tensor<5>> {
    let read = || -> Result<Tensor<5>> {
        let (values, shape) = Checkpoint::open(path, device)?.values(LATENTS)?;
        let shape: [usize; 5] = match shape.try_into() {
            Ok(shape) => shape,
            Err(shape) => bail!(
                "tensor {LATENTS} has shape {shape:?} and needs five: batch, channels, frames, height, width"
            ),
        };
        Ok(Tensor::from_data(TensorData::new(values, shape), device))
    };
    read().with_context(|| format!("--initial-noise {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn adapters_may_have_a_weight() {
        let parse = |text: &str| text.parse::<WeightedAdapter>();
        let adapter = |path: &str, weight| Ok(WeightedAdapter { path: path.into(), weight });
        assert_eq!(parse("a.safetensors"), adapter("a.safetensors", 1.0));
        assert_eq!(parse("a.safetensors:0.5"), adapter("a.safetensors", 0.5));
        assert_eq!(parse("d/a.safetensors:-1"), adapter("d/a.safetensors", -1.0));
        assert_eq!(parse("C:/a.safetensors"), adapter("C:/a.safetensors", 1.0));
        assert!(parse("a.safetensors:half").is_err());
        assert!(parse("a.safetensors:inf").is_err());
    }
}
