//! A video from a prompt.

mod adapters;
mod controls;
mod made;
mod noise;
mod outputs;
pub(crate) mod sampling;
mod using;
mod warping;
mod words;

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context as _, Result, bail};
use burn::tensor::{Device, Tensor};
use clap::{ArgGroup, Args};
use understudy_engine::device::DeviceName;
use understudy_engine::ops;
use understudy_media::{
    OutputFormat, Provenance, Range, Text, Video, WriteOptions, check_writable, write_frames_safetensors,
};
use understudy_personalize::Adapter;
use understudy_pipeline::cost::Estimate;
use understudy_pipeline::{
    Base, Description, Error, Event, LoadOptions, Output, Request, TokenEmbeddings, Tokenizer, clean, decode,
    denoise, without_weights,
};

use crate::base::BaseArguments;
use crate::context::Context;
use crate::event::{self, GenerationPlan};
use crate::memory;
use crate::named::Named;
use crate::outputs::{Input, reserve};
use crate::said::{size, text};
use crate::usage::WrongUsage;
use adapters::Adapters;
use controls::Controls;
use made::Making;
pub(crate) use made::add;
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
    ///
    /// Tensors `step_noise.N` of the same shape take the place of what a sampler draws in step N, from 0.
    #[arg(long, value_name = "FILE")]
    initial_noise: Option<PathBuf>,
    /// Where to write the results before the autoencoder, as tensor `latents`, a row for each prompt.
    #[arg(long, value_name = "FILE.safetensors")]
    save_latents: Option<PathBuf>,
    #[command(flatten)]
    sampling: Sampling,
    /// The same as --base-config.
    #[arg(long, value_name = "DIR", conflicts_with = "base_config")]
    config: Option<PathBuf>,
    #[command(flatten)]
    base: BaseArguments,
    #[command(flatten)]
    adapters: Adapters,
    #[command(flatten)]
    controls: Controls,
    #[command(flatten)]
    warping: Warping,
}

impl Named for Generate {
    const NAME: &'static str = "generate";
}

impl Generate {
    /// Generates the videos, or tells the plan alone.
    ///
    /// # Errors
    /// When something that is named does not fit; when it is stopped.
    pub fn run(mut self, context: &Context) -> Result<()> {
        let (started, _precision) = (Instant::now(), context.precision());
        let device = &context.device;
        self.base.config_is(self.config.take());
        self.read_prompts(context)?;
        let places = self.places()?;
        let _reserved = reserve(&self.written(places.as_ref()), &self.inputs())?;
        self.warping.check()?;
        let opened = self.base.source()?.open(device)?;
        let about = opened.about().clone();
        let outputs = places.map(|places| self.outputs(places, &about));
        let adapters = self.adapters.read(&about, &self.base.name(), context)?;
        let mut request = self.request(&about, device)?;
        request.check(&about)?;
        if let Some(outputs) = &outputs {
            outputs.check_size([request.height, request.width])?;
        }
        let inversions = self.adapters.inversions(&about, device)?;
        let (attached, token_embeddings, additions) = self.adapters.attach(&adapters, &inversions, &about)?;
        let notes = self.check_prompts(&about, opened.tokenizer(), (&adapters, token_embeddings.as_ref()))?;
        let notes = opened.notes().iter().cloned().chain(notes).chain(windowed(&request));
        let notes: Vec<String> = notes.collect();
        (request.attached, request.token_embeddings) = (attached, token_embeddings);
        request.controls = self.controls.open(&about, &request, device)?;
        let using = using(&adapters, &self.warping)?;
        let making = Making::new(&self, &request, &about, (&adapters, context))?;
        let jobs = self.jobs(&request, &making, outputs.as_ref())?;
        let estimate = self.estimate(&jobs, &about, (&adapters, &using), device)?;
        let plan = self.planned(&about, &jobs, &adapters, (estimate, notes))?;
        context.tell(&event::Event::Plan(Box::new(plan)));
        if context.device_name == DeviceName::Cpu {
            self.warn_of_memory(&about, &jobs, estimate.peak(), context)?;
        }
        // The parser sees to it that there is a place for the videos where they are made.
        let Some(outputs) = outputs.filter(|_| !self.plan) else { return Ok(()) };
        tell_kept(&jobs, &outputs, context);
        let made = jobs.iter().filter(|job| !job.kept).count();
        if made > 0 {
            let options = LoadOptions { additions, blocks_on_host: self.base.blocks_on_host };
            let base = context.bases.load(&self.base.arguments().concat(), opened, options)?;
            using.iter().try_for_each(|own| own.check(&base, &request))?;
            self.make(base, jobs, &using, (&outputs, context))?;
        }
        self.tell_done(&outputs, made, started, context);
        Ok(())
    }

    /// Makes the videos one after another, each written before the next is begun.
    fn make(
        &self,
        base: Arc<Base>,
        jobs: Vec<Job>,
        using: &[Using],
        (outputs, context): (&Outputs, &Context),
    ) -> Result<()> {
        let (last, count) = (jobs.iter().rposition(|job| !job.kept), jobs.len());
        let mut latents = Latents::new(self.save_latents.as_deref());
        let vae = base.networks.vae.clone();
        let mut base = Some(base);
        for (index, mut job) in jobs.into_iter().enumerate() {
            let Some(loaded) = base.as_deref().filter(|_| !job.kept) else { continue };
            let mut applied = Vec::new();
            for own in using {
                applied.extend(own.apply(loaded, &mut job.request)?);
            }
            let listen = Listener { context, index, count };
            let denoised = denoise(loaded, &job.request, &mut |event| listen.hear(event))
                .map_err(|error| stopped(error, index, count))?;
            // What decodes the last needs the room that the base takes.
            base = base.filter(|_| last != Some(index));
            let output = decode(vae.as_ref(), &job.request, denoised, &mut |event| listen.hear(event))?;
            let path = &outputs.paths[index];
            // One that cannot be written is no reason to lose the other.
            let written = self.write_video(path, &output, &job.made, outputs);
            let kept = latents.add(&output.latents, job.made);
            written?;
            kept.with_context(|| format!("{} is written, its latents are not", path.display()))?;
            applied.iter().try_for_each(|own| own.finish(vae.as_ref(), &output.frames, index))?;
            if count > 1 {
                let (prompt, seed) = (job.request.prompts[0].clone(), Some(job.request.seed));
                let (path, video) = (text(path), index + 1);
                context.tell(&event::Event::Video { path, prompt, seed, video, videos: count, kept: false });
            }
            if context.stop.is_asked() && last != Some(index) {
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
    fn read_prompts(&mut self, context: &Context) -> Result<()> {
        let Some(path) = &self.prompts_file else { return Ok(()) };
        let text = Text::read(path).context("--prompts")?;
        if let Some(note) = text.note() {
            context.note(format!("--prompts {}: {note}", path.display()));
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
            let own_noise = |noise: Tensor<5>| noise.narrow(0, index, 1);
            let own = Request {
                prompts: vec![prompt.clone()],
                seed,
                initial_noise: request.initial_noise.clone().map(own_noise),
                step_noise: request.step_noise.clone().into_iter().map(|(s, n)| (s, own_noise(n))).collect(),
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
        inputs.extend(self.controls.inputs());
        let files = [("--initial-noise", &self.initial_noise), ("--prompts", &self.prompts_file)];
        inputs.extend(files.into_iter().filter_map(|(flag, path)| Some(Input::new(flag, path.as_ref()?))));
        inputs
    }

    /// Says what there is now, of which so many videos were `made`.
    fn tell_done(&self, outputs: &Outputs, made: usize, started: Instant, context: &Context) {
        context.tell(&event::Event::Generated {
            path: self.out.as_ref().map(text).unwrap_or_default(),
            paths: outputs.paths.iter().map(text).collect(),
            latents: self.save_latents.as_ref().map(text),
            made,
            seconds: started.elapsed().as_secs_f64(),
        });
    }

    /// That the prompts are short enough, before any weights are read; and what is to be said of their words.
    fn check_prompts(
        &self,
        about: &Description,
        tokenizer: &Tokenizer,
        (adapters, embeddings): (&[(Adapter, f32)], Option<&TokenEmbeddings>),
    ) -> Result<Vec<String>> {
        let tokens = embeddings.map(|own| own.tokens.as_slice()).unwrap_or_default();
        let tokenizer = tokenizer.with_added(tokens)?;
        let asked = self.prompts.iter().chain([&self.negative_prompt]);
        let texts: Vec<String> =
            asked.map(|text| embeddings.map_or_else(|| text.clone(), |own| own.spelled(text))).collect();
        let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
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
        let (initial_noise, step_noise) = match &self.initial_noise {
            Some(path) => noise::read(path, device).map(|(start, steps)| (Some(start), steps))?,
            None => Default::default(),
        };
        Ok(Request {
            prompts: self.prompts.clone(),
            negative_prompt: self.negative_prompt.clone(),
            prompt_weights: self.prompt_weights,
            initial_noise,
            step_noise,
            ..self.sampling.request(about)
        })
    }

    /// What it is going to make, and what that takes.
    fn planned(
        &self,
        about: &Description,
        jobs: &[Job],
        adapters: &[(Adapter, f32)],
        (estimate, notes): (Estimate, Vec<String>),
    ) -> Result<GenerationPlan> {
        let request = &jobs[0].request;
        let scheduler = request.scheduler(about)?;
        Ok(GenerationPlan {
            base: self.base.name(),
            identity: about.identity.clone(),
            prompts: self.prompts.clone(),
            frames: request.frames,
            height: request.height,
            width: request.width,
            steps: request.steps,
            guidance: request.guidance,
            scheduler: scheduler.sampler().to_string(),
            shift: scheduler.shift(),
            seed: request.seed,
            adapters: self.adapters.uses(adapters, &self.prompts),
            weights: estimate.weights,
            activations: estimate.activations,
            memory: estimate.peak(),
            step_seconds: estimate.step_seconds,
            seconds: estimate.seconds,
            notes,
        })
    }

    /// Says so when it is going to take more memory than is free, and what would take less.
    ///
    /// # Errors
    /// When this machine does not have as much.
    fn warn_of_memory(
        &self,
        about: &Description,
        jobs: &[Job],
        needed: u64,
        context: &Context,
    ) -> Result<()> {
        let Some(free) = memory::available().filter(|free| *free < needed) else {
            return Ok(());
        };
        let blocks = about.blocks;
        let smaller = jobs[0].request.estimate(about, (blocks, jobs.len()), &context.device)?.peak();
        let advice = if smaller < free && self.base.blocks_on_host < blocks {
            format!("--blocks-on-host {blocks} takes about {}", size(smaller))
        } else {
            "fewer frames, a smaller size or --vae-tile take less".to_owned()
        };
        if !self.plan {
            memory::check(needed, &advice)?;
        }
        context.note(format!("that is more than the {} that are free; {advice}", size(free)));
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

/// What is to be said of a video that is made in windows.
fn windowed(request: &Request) -> Option<String> {
    let context = request.context.filter(|context| context.length < request.frames)?;
    let (length, overlap) = (context.length, context.overlap);
    Some(format!(
        "{} frames are made in windows of {length} that have {overlap} in common; --context sets that",
        request.frames
    ))
}

/// One video that is to be made.
struct Job {
    request: Request,
    /// What its file says of it.
    made: Provenance,
    /// Whether it is there already.
    kept: bool,
}

/// Tells which videos are there already.
fn tell_kept(jobs: &[Job], outputs: &Outputs, context: &Context) {
    for (index, (job, path)) in jobs.iter().zip(&outputs.paths).enumerate().filter(|(_, (job, _))| job.kept) {
        context.tell(&event::Event::Video {
            path: text(path),
            prompt: job.made.prompt.clone(),
            seed: job.made.seed,
            video: index + 1,
            videos: jobs.len(),
            kept: true,
        });
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

/// Tells what happens on the way to the video of this index, of so many.
struct Listener<'a> {
    context: &'a Context<'a>,
    index: usize,
    count: usize,
}

impl Listener<'_> {
    /// Tells of `event`; whether to go on.
    fn hear(&self, event: Event) -> ControlFlow<()> {
        let (video, videos) = (self.index + 1, self.count);
        self.context.tell(&match event {
            Event::Encoded { elapsed } => event::Event::Encoded { seconds: elapsed.as_secs_f64() },
            Event::Step { index, total, sigma, skipped, elapsed } => event::Event::Step {
                video,
                videos,
                step: index + 1,
                total,
                sigma,
                skipped,
                seconds: elapsed.as_secs_f64(),
            },
            Event::Decoded { elapsed } => event::Event::Decoded { seconds: elapsed.as_secs_f64() },
        });
        self.context.flow()
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
