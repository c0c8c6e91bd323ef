//! `understudy generate`: a video from a prompt.

mod adapters;
mod made;
mod outputs;
pub mod sampling;
mod using;
mod warping;
mod words;

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context, Result, bail};
use burn::tensor::{Device, Tensor, TensorData};
use clap::{ArgGroup, Args};
use serde_json::json;
use understudy_engine::device::DeviceName;
use understudy_engine::ops;
use understudy_engine::safetensors::Checkpoint;
use understudy_media::{
    OutputFormat, Provenance, Range, Text, Video, WriteOptions, check_writable, write_frames_safetensors,
};
use understudy_personalize::Adapter;
use understudy_pipeline::cost::Estimate;
use understudy_pipeline::{
    Base, Description, Error, Event, LoadOptions, Output, Request, Tokenizer, clean, decode, denoise,
    without_weights,
};

use super::Common;
use crate::base::BaseArguments;
use crate::interrupt;
use crate::memory;
use crate::outputs::{Input, reserve};
use crate::progress::Progress;
use crate::report::{WrongUsage, duration, size};
use adapters::Adapters;
use made::Making;
pub use made::add;
use outputs::{Latents, Outputs};
use sampling::Sampling;
use using::{Using, using};
use warping::Warping;

/// The tensor that holds latents in a file.
const LATENTS: &str = "latents";

/// Generate a video from a prompt.
#[derive(Debug, Args)]
#[command(group = ArgGroup::new("texts").required(true).multiple(true))]
#[command(override_usage = "understudy generate --prompt <TEXT> --out <FILE> [OPTIONS]\n       \
    understudy generate --prompts <FILE> --out <FILE> [OPTIONS]")]
pub struct Generate {
    /// What to show; a fitted subject is named as it was fitted, e.g. "a <s> cat dances on the beach".
    ///
    /// Of several the files are numbered, NAME-1.mp4, NAME-2.mp4, and each is written as soon as it is done.
    /// NAME-2 is what the second prompt alone gives with a seed 1 higher, NAME-3 what the third gives with a
    /// seed 2 higher.
    #[arg(long = "prompt", value_name = "TEXT", group = "texts")]
    prompts: Vec<String>,
    /// A text file with a prompt on every line; empty lines are left out.
    #[arg(long = "prompts", value_name = "FILE", group = "texts", conflicts_with = "prompts")]
    prompts_file: Option<PathBuf>,
    /// What guidance leads away from.
    #[arg(long, default_value = "", hide_default_value = true, value_name = "TEXT")]
    negative_prompt: String,
    /// Read "(word:1.2)" in prompts as a weight of the word, as ComfyUI does; otherwise it is text like any
    /// other.
    #[arg(long)]
    prompt_weights: bool,
    /// Where to write the video; a name without an extension is a folder of PNGs.
    ///
    /// The file says how it was made: `inspect` shows its prompt, its settings and the command that makes it
    /// again, and `evaluate` finds its prompt.
    #[arg(long, value_name = "FILE.mp4|.gif|.webp|.png|.safetensors|DIR", required_unless_present = "plan")]
    out: Option<PathBuf>,
    /// Keep the videos that are there and were made with the same prompt, seed and settings, and make the
    /// rest.
    ///
    /// Otherwise files that are there are made again and replaced.
    #[arg(long, conflicts_with = "save_latents")]
    resume: bool,
    /// Say what it is going to take, and stop.
    #[arg(long)]
    plan: bool,
    /// Repeat every pixel so many times in both directions, in videos and pictures [nano: 4; others: 1].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u8).range(1..=64))]
    upscale: Option<u8>,
    /// Noise to start from in place of the seed's: tensor `latents` (batch, channels, frames, height, width).
    #[arg(long, value_name = "FILE")]
    initial_noise: Option<PathBuf>,
    /// Where to write the results before the autoencoder, as tensor `latents`, a row for each prompt.
    #[arg(long, value_name = "FILE.safetensors")]
    save_latents: Option<PathBuf>,
    #[command(flatten)]
    sampling: Sampling,
    #[command(flatten)]
    base: BaseArguments,
    #[command(flatten)]
    adapters: Adapters,
    #[command(flatten)]
    warping: Warping,
    #[command(flatten)]
    common: Common,
}

impl Generate {
    /// Generates the videos.
    pub fn run(mut self) -> Result<()> {
        let (started, _precision) = (Instant::now(), self.common.precision());
        self.read_prompts()?;
        let places = self.places()?;
        let _reserved = reserve(&self.written(places.as_ref()), &self.inputs())?;
        self.warping.check()?;
        let device = self.common.open()?;
        let opened = self.base.source()?.open(&device)?;
        let about = opened.about().clone();
        let outputs = places.map(|places| self.outputs(places, &about));
        let mut progress = self.common.progress();
        let adapters = self.adapters.read(&about, &self.base.name(), &device, &progress)?;
        let mut request = self.request(&about, &device)?;
        request.check(&about)?;
        if let Some(outputs) = &outputs {
            outputs.check_size([request.height, request.width])?;
        }
        let notes = self.check_prompts(&about, opened.tokenizer(), &adapters)?;
        let notes: Vec<String> = opened.notes().iter().cloned().chain(notes).collect();
        let (attached, token_embeddings, additions) = self.adapters.attach(&adapters, &about)?;
        (request.attached, request.token_embeddings) = (attached, token_embeddings);
        let using = using(&adapters, &self.warping)?;
        let making = Making::new(&self, &request, &about, &adapters)?;
        let jobs = self.jobs(&request, &making, outputs.as_ref())?;
        let estimate = self.estimate(&jobs, &about, (&adapters, &using), &device)?;
        self.tell_plan(&about, &jobs, &adapters, (estimate, &notes), &progress);
        if self.common.device == DeviceName::Cpu {
            self.warn_of_memory(&about, &jobs, estimate.peak(), &device)?;
        }
        // The parser sees to it that there is a place for the videos where they are made.
        let Some(outputs) = outputs.filter(|_| !self.plan) else { return Ok(()) };
        tell_kept(&jobs, &outputs, &progress);
        let made = jobs.iter().filter(|job| !job.kept).count();
        if made > 0 {
            let options = LoadOptions { additions, blocks_on_host: self.base.blocks_on_host };
            let base = opened.load(options)?;
            using.iter().try_for_each(|own| own.check(&base, &request))?;
            self.make(base, jobs, &using, &outputs, &mut progress)?;
        }
        self.tell_done(&outputs, made, started, &progress);
        Ok(())
    }

    /// Makes the videos one after another, each written before the next is begun.
    fn make(
        &self,
        base: Base,
        jobs: Vec<Job>,
        using: &[Using],
        outputs: &Outputs,
        progress: &mut Progress,
    ) -> Result<()> {
        let (last, count) = (jobs.iter().rposition(|job| !job.kept), jobs.len());
        let mut latents = Latents::new(self.save_latents.as_deref());
        let vae = base.networks.vae.clone();
        let mut base = Some(base);
        for (index, mut job) in jobs.into_iter().enumerate() {
            let Some(loaded) = base.as_ref().filter(|_| !job.kept) else { continue };
            let mut applied = Vec::new();
            for own in using {
                applied.extend(own.apply(loaded, &mut job.request)?);
            }
            let mut listen = Listener::new(progress, (index, count));
            let denoised = denoise(loaded, &job.request, &mut |event| listen.hear(event))
                .map_err(|error| stopped(error, index, count))?;
            // What decodes the last needs the room that the base takes.
            base = base.filter(|_| last != Some(index));
            let output = decode(vae.as_ref(), &job.request, denoised, &mut |event| listen.hear(event))?;
            progress.clear();
            let path = &outputs.paths[index];
            // One that cannot be written is no reason to lose the other.
            let written = self.write_video(path, &output, &job.made, outputs);
            let kept = latents.add(&output.latents, job.made);
            written?;
            kept.with_context(|| format!("{} is written, its latents are not", path.display()))?;
            applied.iter().try_for_each(|own| own.finish(vae.as_ref(), &output.frames, index))?;
            if count > 1 {
                let (prompt, seed) = (&job.request.prompts, job.request.seed);
                let path = path.display().to_string();
                progress.event(&json!({"event": "video", "path": path, "prompt": prompt[0], "seed": seed}));
                progress.say(&format!("wrote {path} ({} of {count})", index + 1));
            }
            if interrupt::flow().is_break() && last != Some(index) {
                return Err(stopped(
                    Error::Interrupted { done: 0, total: job.request.steps },
                    index + 1,
                    count,
                ));
            }
        }
        Ok(())
    }

    /// Reads the prompts of a file.
    fn read_prompts(&mut self) -> Result<()> {
        let Some(path) = &self.prompts_file else { return Ok(()) };
        let text = Text::read(path).context("--prompts")?;
        if let Some(note) = text.note() {
            self.common.progress().say(&format!("note: --prompts {}: {note}", path.display()));
        }
        let lines = text.content.lines().map(str::trim).filter(|line| !line.is_empty());
        self.prompts = lines.map(str::to_owned).collect();
        if self.prompts.is_empty() {
            bail!("--prompts {}: there is no prompt in it; write one on every line", path.display());
        }
        Ok(())
    }

    /// Where the videos go, and as what, found usable; nowhere where only a plan is wanted.
    fn places(&self) -> Result<Option<(Vec<PathBuf>, OutputFormat)>> {
        let Some(out) = &self.out else { return Ok(None) };
        // An extension that is not known is not a matter of this disk.
        let format = OutputFormat::from_path(out).map_err(|error| WrongUsage(error.to_string()))?;
        let paths = outputs::paths(out, self.prompts.len());
        outputs::check(&paths, self.resume)?;
        if let Some(latents) = &self.save_latents {
            outputs::check_tensors("--save-latents", latents)?;
        }
        Ok(Some((paths, format)))
    }

    /// How the videos of such a base are written.
    fn outputs(&self, (paths, format): (Vec<PathBuf>, OutputFormat), about: &Description) -> Outputs {
        let upscale = self.upscale.map_or(about.usual.enlarged, usize::from);
        let options = WriteOptions { upscale, ..WriteOptions::default() };
        Outputs { paths, format, options, fps: self.sampling.fps.unwrap_or(about.usual.fps) }
    }

    /// What is to be made of each prompt. What is there already is kept, if that was asked for.
    fn jobs(&self, request: &Request, making: &Making, outputs: Option<&Outputs>) -> Result<Vec<Job>> {
        let mut jobs = Vec::new();
        for (index, prompt) in request.prompts.iter().enumerate() {
            let seed = request.seed.wrapping_add(index as u64);
            let made = making.of(prompt, seed);
            let own = Request {
                prompts: vec![prompt.clone()],
                seed,
                initial_noise: request.initial_noise.clone().map(|noise| noise.narrow(0, index, 1)),
                ..request.clone()
            };
            let path = outputs.map(|outputs| &outputs.paths[index]);
            let kept = self.resume && path.is_some_and(|path| Provenance::read(path).as_ref() == Some(&made));
            if let Some(path) = path.filter(|_| self.resume && !kept) {
                // A folder that is there is not replaced.
                check_writable(path)?;
            }
            jobs.push(Job { request: own, made, kept });
        }
        Ok(jobs)
    }

    /// What it is going to cost, with adapters and what their methods do beside it.
    fn estimate(
        &self,
        jobs: &[Job],
        about: &Description,
        (adapters, using): (&[(Adapter, f32)], &[Using]),
        device: &Device,
    ) -> Result<Estimate> {
        let request = &jobs[0].request;
        let videos = jobs.iter().filter(|job| !job.kept).count();
        let Estimate { weights, activations, step_seconds, seconds } =
            request.estimate(about, (self.base.blocks_on_host, videos), device)?;
        let [_, _, frames, ..] = request.check(about)?;
        let passes = if request.guidance > 1.0 { 2 } else { 1 };
        let slowdown: f32 = using.iter().map(|own| own.slowdown(frames, passes)).product();
        // With bf16 products even changed matrices take half.
        let widens = about.costs.halved.denoiser && !ops::bf16_products();
        let widened = if widens { 2 * self.adapters.changed_numbers(adapters) } else { 0 };
        Ok(Estimate {
            weights: weights + widened + adapters.iter().map(|(adapter, _)| adapter.bytes()).sum::<u64>(),
            activations,
            step_seconds: step_seconds * slowdown,
            seconds: seconds * slowdown,
        })
    }

    /// Everything that is written, with the flag that says where.
    fn written(&self, places: Option<&(Vec<PathBuf>, OutputFormat)>) -> Vec<(&'static str, PathBuf)> {
        let videos = places.into_iter().flat_map(|(paths, _)| paths).map(|path| ("--out", path.clone()));
        let latents = self.save_latents.iter().map(|path| ("--save-latents", path.clone()));
        videos.chain(latents).chain(self.warping.written()).collect()
    }

    /// What is read.
    fn inputs(&self) -> Vec<Input> {
        let mut inputs = self.base.inputs();
        inputs.extend(self.adapters.inputs());
        let files = [("--initial-noise", &self.initial_noise), ("--prompts", &self.prompts_file)];
        inputs.extend(files.into_iter().filter_map(|(flag, path)| Some(Input::new(flag, path.as_ref()?))));
        inputs
    }

    /// Says what there is now, of which so many videos were `made`.
    fn tell_done(&self, outputs: &Outputs, made: usize, started: Instant, progress: &Progress) {
        let (paths, seconds) = (&outputs.paths, started.elapsed().as_secs_f64());
        let text = |path: &PathBuf| path.display().to_string();
        let named: Vec<String> = paths.iter().map(text).collect();
        let (out, latents) = (self.out.as_ref().map(text), self.save_latents.as_ref().map(text));
        progress.event(
            &json!({"event": "done", "path": out, "paths": named, "latents": latents, "seconds": seconds}),
        );
        let written = match named.as_slice() {
            _ if made == 0 => return,
            [one] => one.clone(),
            [first, .., last] if made == named.len() => format!("{made} videos, {first} to {last},"),
            all => format!("{made} of {} videos", all.len()),
        };
        progress.say(&format!("wrote {written} in {seconds:.1} s"));
    }

    /// That the prompts are short enough, before any weights are read; and what is to be said of their words.
    fn check_prompts(
        &self,
        about: &Description,
        tokenizer: &Tokenizer,
        adapters: &[(Adapter, f32)],
    ) -> Result<Vec<String>> {
        let tokens: Vec<String> =
            adapters.iter().flat_map(|(adapter, _)| adapter.metadata.tokens.iter().cloned()).collect();
        let tokenizer = tokenizer.with_added(&tokens)?;
        let texts: Vec<&str> =
            self.prompts.iter().chain([&self.negative_prompt]).map(String::as_str).collect();
        let plain: Vec<String> = if self.prompt_weights {
            tokenizer.encode_weighted(&texts, about.text_limit)?;
            texts.iter().map(|text| without_weights(text)).collect()
        } else {
            tokenizer.encode(&texts, about.text_limit)?;
            texts.iter().map(|text| clean(text)).collect()
        };
        let plain: Vec<&str> = plain.iter().map(String::as_str).collect();
        Ok(words::notes(&plain, &tokenizer, &self.adapters.subjects(adapters)))
    }

    /// What is asked for, without the adapters.
    fn request(&self, about: &Description, device: &Device) -> Result<Request> {
        Ok(Request {
            prompts: self.prompts.clone(),
            negative_prompt: self.negative_prompt.clone(),
            prompt_weights: self.prompt_weights,
            initial_noise: self.initial_noise.as_deref().map(|path| read_noise(path, device)).transpose()?,
            ..self.sampling.request(about)
        })
    }

    fn tell_plan(
        &self,
        about: &Description,
        jobs: &[Job],
        adapters: &[(Adapter, f32)],
        (estimate, notes): (Estimate, &[String]),
        progress: &Progress,
    ) {
        let Estimate { weights, activations, step_seconds, seconds } = estimate;
        let memory = estimate.peak();
        let request = &jobs[0].request;
        let scheduler = request.scheduler(about);
        let Request { frames, height, width, steps, guidance, seed, .. } = request;
        let (sampler, shift) = (scheduler.sampler.to_string(), scheduler.shift);
        progress.event(&json!({
            "event": "plan", "base": self.base.name(), "identity": about.identity, "prompts": self.prompts,
            "frames": frames, "height": height, "width": width, "steps": steps, "guidance": guidance,
            "scheduler": sampler, "shift": shift, "seed": seed, "adapters": self.adapters.summary(adapters),
            "weights": weights, "activations": activations, "memory": memory, "step_seconds": step_seconds,
            "seconds": seconds, "notes": notes,
        }));
        let videos = match jobs.len() {
            1 => String::new(),
            count => format!("{count} videos of "),
        };
        let seeds = match jobs {
            [_] => format!("seed {seed}"),
            [.., last] => format!("seeds {seed} to {}", last.request.seed),
            [] => String::new(),
        };
        progress.say(&format!(
            "{}: {videos}{frames} frames of {width}x{height}, {steps} {sampler} steps (shift {shift}), guidance {guidance}, \
             {seeds}; about {} of memory ({} weights, {} activations) and {} ({step_seconds:.1} s a step)",
            self.base.name(),
            size(memory),
            size(weights),
            size(activations),
            duration(seconds.into()),
        ));
        self.adapters.tell(adapters, &self.prompts, progress);
        notes.iter().for_each(|note| progress.say(&format!("note: {note}")));
    }

    /// Says so when it is going to take more memory than is free, and what would take less.
    ///
    /// # Errors
    /// When this machine does not have as much.
    fn warn_of_memory(&self, about: &Description, jobs: &[Job], needed: u64, device: &Device) -> Result<()> {
        let Some(free) = memory::available().filter(|free| *free < needed) else {
            return Ok(());
        };
        let blocks = about.blocks;
        let smaller = jobs[0].request.estimate(about, (blocks, jobs.len()), device)?.peak();
        let advice = if smaller < free && self.base.blocks_on_host < blocks {
            format!("--blocks-on-host {blocks} takes about {}", size(smaller))
        } else {
            "fewer frames, a smaller size or --vae-tile take less".to_owned()
        };
        if !self.plan {
            memory::check(needed, &advice)?;
        }
        let note = format!("note: that is more than the {} that are free; {advice}", size(free));
        self.common.progress().say(&note);
        Ok(())
    }

    /// Writes the first video of `output` to `path`, and with it how it was `made`.
    fn write_video(&self, path: &Path, output: &Output, made: &Provenance, outputs: &Outputs) -> Result<()> {
        let [_, _, count, height, width] = output.frames.dims();
        let (planar, shape) = (values(output.frames.clone())?, [count, height, width]);
        let said = made.to_text();
        if outputs.format == OutputFormat::Safetensors {
            return Ok(write_frames_safetensors(path, &planar, shape, Some(&said))?);
        }
        let video = Video::from_planar(&planar, shape, outputs.fps, Range::Unit)?;
        Ok(video.write_with(path, &outputs.options, Some(&said))?)
    }
}

/// One video that is to be made.
struct Job {
    request: Request,
    /// What its file says of it.
    made: Provenance,
    /// Whether it is there already.
    kept: bool,
}

/// Says which videos are there already.
fn tell_kept(jobs: &[Job], outputs: &Outputs, progress: &Progress) {
    for (job, path) in jobs.iter().zip(&outputs.paths).filter(|(job, _)| job.kept) {
        let (path, made) = (path.display().to_string(), &job.made);
        let (prompt, seed) = (&made.prompt, made.seed);
        progress
            .event(&json!({"event": "video", "path": path, "prompt": prompt, "seed": seed, "kept": true}));
        progress.say(&format!("{path} is there, made just so; it is kept"));
    }
}

/// What to say when the work ends after `done` of `count` videos.
fn stopped(error: Error, done: usize, count: usize) -> anyhow::Error {
    match error {
        Error::Interrupted { .. } if count > 1 => anyhow::anyhow!(
            "stopped on request after {done} of {count} videos; the same command with --resume goes on from there"
        ),
        other => other.into(),
    }
}

/// Shows what happens on the way to a video.
struct Listener<'a> {
    progress: &'a mut Progress,
    /// What its steps are called.
    step: String,
    encoding: f64,
    denoising: f64,
}

impl<'a> Listener<'a> {
    /// Of the video of this index, of so many.
    fn new(progress: &'a mut Progress, (index, count): (usize, usize)) -> Self {
        let step =
            if count > 1 { format!("video {} of {count}, step", index + 1) } else { "step".to_owned() };
        Self { progress, step, encoding: 0.0, denoising: 0.0 }
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
                self.progress.step(&self.step, step as u64, total as u64, &format!("({seconds:.2} s)"));
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
