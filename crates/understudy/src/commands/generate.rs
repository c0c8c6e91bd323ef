//! `understudy generate`: a video from a prompt.

mod adapters;
pub mod sampling;
mod warping;

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context, Result, bail};
use burn::tensor::{Device, Tensor, TensorData};
use clap::Args;
use serde_json::json;
use understudy_engine::device::DeviceName;
use understudy_engine::safetensors::{self, Checkpoint, NamedValues, Precision};
use understudy_media::{OutputFormat, Range, Video, WriteOptions, check_writable, write_frames_safetensors};
use understudy_personalize::Adapter;
use understudy_pipeline::cost::{Estimate, Halved};
use understudy_pipeline::{BaseConfig, Event, LoadOptions, Output, Request, Source, decode, denoise};

use super::Common;
use crate::base::BaseArguments;
use crate::interrupt;
use crate::memory;
use crate::progress::Progress;
use crate::report::WrongUsage;
use adapters::Adapters;
use sampling::Sampling;
use warping::Warping;

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
    /// Read "(word:1.2)" in prompts as a weight of the word, as ComfyUI does; otherwise it is text like any other.
    #[arg(long)]
    prompt_weights: bool,
    #[command(flatten)]
    adapters: Adapters,
    /// A picture for a word of the prompt.
    #[arg(long = "reference", value_name = "WORD=IMAGE")]
    references: Vec<String>,
    #[command(flatten)]
    sampling: Sampling,
    #[command(flatten)]
    warping: Warping,
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

impl Generate {
    /// Generates the video.
    pub fn run(self) -> Result<()> {
        let started = Instant::now();
        let format = self.check_paths()?;
        self.warping.check()?;
        if !self.references.is_empty() {
            bail!("--reference: no method uses it yet; leave it out");
        }
        let device = self.common.open()?;
        let source = self.base.source()?;
        let config = source.config()?;
        let mut progress = self.common.progress();
        let adapters = self.adapters.read(&config, &self.base.name(), &device, &progress)?;
        let mut request = self.request(&config, &device)?;
        request.check(&config)?;
        let upscale = self.write_options(format).upscale;
        format
            .check_size(&self.out, request.width * upscale, request.height * upscale)
            .map_err(|error| WrongUsage(error.to_string()))?;
        self.check_prompts(&config, &source, &adapters)?;
        let (attachments, token_embeddings, additions) = self.adapters.attach(&adapters, &config)?;
        (request.attachments, request.token_embeddings) = (attachments, token_embeddings);
        let halved = halved(&source);
        let estimate = self.estimate(&request, (&config, halved), &source, &adapters, &device)?;
        self.tell_plan(&config, &request, &adapters, estimate, &progress);
        if self.common.device == DeviceName::Cpu {
            self.warn_of_memory(&config, &request, (estimate.peak(), halved), &device)?;
        }
        if self.plan {
            return Ok(());
        }
        let options = LoadOptions { additions, blocks_on_host: self.base.blocks_on_host };
        let base = source.load_with(options, &device)?;
        let warp = self.warping.attach(&base, &adapters, &mut request)?;
        let mut listen = Listener::new(&mut progress);
        let latents = denoise(&base, &request, &mut |event| listen.hear(event))?;
        let vae = base.vae.clone();
        drop(base);
        let output = decode(&vae, &request, latents, &mut |event| listen.hear(event));
        progress.clear();
        if let Some(warp) = &warp {
            warp.save()?;
            self.warping.show(warp, &vae, &adapters, &output.frames)?;
        }
        self.write(output, format)?;
        self.tell_done(started, &progress);
        Ok(())
    }

    /// What it is going to cost, with adapters, files and the references beside it.
    fn estimate(
        &self,
        request: &Request,
        (config, halved): (&BaseConfig, Halved),
        source: &Source,
        adapters: &[(Adapter, f32)],
        device: &Device,
    ) -> Result<Estimate> {
        let Estimate { weights, activations, step_seconds, seconds } =
            request.estimate(config, halved, self.base.blocks_on_host, device)?;
        let [_, _, frames, ..] = request.check(config)?;
        let passes = if request.guidance > 1.0 { 2 } else { 1 };
        let slowdown = self.warping.slowdown(adapters, frames, passes);
        Ok(Estimate {
            weights: weights + adapters.iter().map(|(adapter, _)| adapter.bytes()).sum::<u64>(),
            activations: activations.max(source.embedding_bytes()),
            step_seconds: step_seconds * slowdown,
            seconds: seconds * slowdown,
        })
    }

    fn tell_done(&self, started: Instant, progress: &Progress) {
        let (outputs, seconds) = (self.outputs(), started.elapsed().as_secs_f64());
        progress.event(
            &json!({"event": "done", "path": self.out, "paths": outputs, "latents": self.save_latents, "seconds": seconds}),
        );
        let written: Vec<String> = outputs.iter().map(|path| path.display().to_string()).collect();
        progress.say(&format!("wrote {} in {seconds:.1} s", written.join(", ")));
    }

    /// Where each prompt's video goes.
    fn outputs(&self) -> Vec<PathBuf> {
        if self.prompts.len() == 1 {
            return vec![self.out.clone()];
        }
        (1..=self.prompts.len()).map(|number| numbered(&self.out, number)).collect()
    }

    /// That everything can be written where it is to go.
    fn check_paths(&self) -> Result<OutputFormat> {
        // An extension that is not known is not a matter of this disk.
        OutputFormat::from_path(&self.out).map_err(|error| WrongUsage(error.to_string()))?;
        let outputs = self.outputs();
        let mut format = OutputFormat::Directory;
        for path in &outputs {
            format = check_writable(path)?;
        }
        if let Some(latents) = &self.save_latents {
            check_tensors("--save-latents", latents)?;
            if outputs.iter().any(|path| resolved(path) == resolved(latents)) {
                let reason = format!(
                    "--save-latents and --out are both {}; give them different names",
                    latents.display()
                );
                return Err(WrongUsage(reason).into());
            }
        }
        Ok(format)
    }

    /// That the prompts are short enough, before any weights are read.
    fn check_prompts(&self, config: &BaseConfig, source: &Source, adapters: &[(Adapter, f32)]) -> Result<()> {
        let tokens: Vec<String> =
            adapters.iter().flat_map(|(adapter, _)| adapter.metadata.tokens.iter().cloned()).collect();
        let tokenizer = source.tokenizer()?.with_added(&tokens)?;
        let texts: Vec<&str> =
            self.prompts.iter().chain([&self.negative_prompt]).map(String::as_str).collect();
        match self.prompt_weights {
            true => drop(tokenizer.encode_weighted(&texts, config.max_sequence_length)?),
            false => drop(tokenizer.encode(&texts, config.max_sequence_length)?),
        }
        Ok(())
    }

    /// What is asked for, without the adapters.
    fn request(&self, config: &BaseConfig, device: &Device) -> Result<Request> {
        Ok(Request {
            prompts: self.prompts.clone(),
            negative_prompt: self.negative_prompt.clone(),
            prompt_weights: self.prompt_weights,
            initial_noise: self.initial_noise.as_deref().map(|path| read_noise(path, device)).transpose()?,
            ..self.sampling.request(self.base.usual().within(config))
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
        progress.event(&json!({
            "event": "plan", "base": self.base.name(), "identity": config.identity(), "prompts": self.prompts,
            "frames": frames, "height": height, "width": width, "steps": steps, "guidance": guidance,
            "scheduler": sampler, "shift": shift, "seed": seed, "adapters": self.adapters.summary(adapters),
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
        self.adapters.tell(adapters, &self.prompts, progress);
    }

    /// Says so when it is going to take more memory than is free, and what would take less.
    ///
    /// # Errors
    /// When this machine does not have as much.
    fn warn_of_memory(
        &self,
        config: &BaseConfig,
        request: &Request,
        (needed, halved): (u64, Halved),
        device: &Device,
    ) -> Result<()> {
        let Some(free) = memory::available().filter(|free| *free < needed) else {
            return Ok(());
        };
        let blocks = config.transformer.num_layers;
        let smaller = request.estimate(config, halved, blocks, device)?.peak();
        let advice = match smaller < free && self.base.blocks_on_host < blocks {
            true => format!("--blocks-on-host {blocks} takes about {:.1} GB", gigabytes(smaller)),
            false => "fewer frames, a smaller size or --vae-tile take less".to_owned(),
        };
        if !self.plan {
            memory::check(needed, &advice)?;
        }
        let note = format!("note: that is more than the {:.1} GB that are free; {advice}", gigabytes(free));
        self.common.progress().say(&note);
        Ok(())
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

/// That the file of a flag can be written and is named as one of tensors.
fn check_tensors(flag: &str, path: &Path) -> Result<()> {
    if OutputFormat::from_path(path).ok() != Some(OutputFormat::Safetensors) {
        let reason = format!("{flag} {}: the name must end in .safetensors", path.display());
        return Err(WrongUsage(reason).into());
    }
    check_writable(path)?;
    Ok(())
}

/// Whose matrices take half their room; what cannot be opened is said when it is loaded.
fn halved(source: &Source) -> Halved {
    source.halved().unwrap_or_default()
}

fn gigabytes(bytes: u64) -> f64 {
    bytes as f64 / 1e9
}

/// Where `path` is in the end, whatever way it was named; its folder exists.
fn resolved(path: &Path) -> PathBuf {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let folder = folder.canonicalize().unwrap_or_else(|_| folder.to_owned());
    folder.join(path.file_name().unwrap_or_default())
}

/// `NAME-3.mp4` of `NAME.mp4`; a name that ends in a slash is a folder's.
fn numbered(path: &Path, number: usize) -> PathBuf {
    if path.to_string_lossy().ends_with(std::path::MAIN_SEPARATOR) {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        return path.with_file_name(format!("{name}-{number}/"));
    }
    let stem = path.file_stem().unwrap_or_default().to_string_lossy();
    let name = match path.extension() {
        Some(extension) => format!("{stem}-{number}.{}", extension.to_string_lossy()),
        None => format!("{stem}-{number}"),
    };
    path.with_file_name(name)
}

/// Shows what happens on the way to a video.
struct Listener<'a> {
    progress: &'a mut Progress,
    encoding: f64,
    denoising: f64,
}

impl<'a> Listener<'a> {
    fn new(progress: &'a mut Progress) -> Self {
        Self { progress, encoding: 0.0, denoising: 0.0 }
    }

    /// Shows `event`, and says whether to go on: Ctrl-C asks to stop.
    fn hear(&mut self, event: Event) -> ControlFlow<()> {
        match event {
            Event::Encoded { elapsed } => {
                self.encoding = elapsed.as_secs_f64();
                self.progress.event(&json!({"event": "encoded", "seconds": self.encoding}));
            }
            Event::Step { index, total, sigma, skipped, elapsed } => {
                let (step, seconds) = (index + 1, elapsed.as_secs_f64());
                self.denoising += seconds;
                self.progress.event(&json!({"event": "step", "step": step, "total": total, "sigma": sigma,
                    "skipped": skipped, "seconds": seconds}));
                self.progress.step("step", step as u64, total as u64, &format!("({seconds:.2} s)"));
            }
            Event::Decoded { elapsed } => {
                let (encoding, denoising, seconds) = (self.encoding, self.denoising, elapsed.as_secs_f64());
                self.progress.event(&json!({"event": "decoded", "seconds": seconds}));
                self.progress.say(&format!(
                    "text {encoding:.1} s, denoising {denoising:.1} s, decoding {seconds:.1} s"
                ));
            }
        }
        interrupt::flow()
    }
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
