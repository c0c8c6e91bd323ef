//! The main job end to end on the embedded base.

mod sheet;
mod subject;

use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context as _, Result};
use clap::Args;
use serde_json::{Value, json};
use understudy_engine::safetensors::{Precision, write_atomically};
use understudy_evaluate::{Judges, MotionJudge};
use understudy_media::{Image, Picture, Provenance, Range, Video, WriteOptions, check_writable};
use understudy_personalize::{
    Adapter, DEFAULT_TOKEN, Dialect, Error, Job, Learning, Lora, Recipe, Samples, Subject, combine,
};
use understudy_pipeline::{Base, Request, generate};

use crate::base::{BaseName, nano};
use crate::context::Context;
use crate::event::Event;
use crate::generate::{add, values};
use crate::named::Named;
use crate::outputs::reserve_folder;
use crate::puppet::{render, write_clip, write_masks};
use crate::results::{Results, Scores, Shown};
use crate::said::text;

/// Fit a bundled subject on the embedded base, generate it before and after, and score both.
#[derive(Debug, Args)]
pub struct Demo {
    /// The folder for everything the demo makes; what an earlier one left there is replaced.
    #[arg(long, default_value = "understudy-demo", value_name = "DIR")]
    out: PathBuf,
}

impl Named for Demo {
    const NAME: &'static str = "demo";
}

/// Prompts the subject was not seen with; `{}` is the subject.
const PROMPTS: [&str; 4] = [
    "a {} jumps on the beach",
    "a {} walks to the left in the snow",
    "a {} dances on a stage",
    "a {} waves in the desert",
];
const SEEDS: [u64; 2] = [1, 2];
const ADAPTER: &str = "adapter.safetensors";
const SHEET: &str = "contact-sheet.png";

/// One of the demo's videos.
struct Take {
    /// Which of the prompts it is of.
    prompt: usize,
    /// The prompt as it was given.
    text: String,
    seed: u64,
    video: Video,
}

impl Demo {
    /// Runs the demo.
    ///
    /// # Errors
    /// When something cannot be written; when it is stopped.
    pub fn run(self, context: &Context) -> Result<()> {
        let (started, _precision) = (Instant::now(), context.precision());
        let (out, device) = (&self.out, &context.device);
        for folder in ["subject", "before", "after"] {
            let path = out.join(folder);
            std::fs::create_dir_all(&path).with_context(|| format!("cannot create {}", path.display()))?;
        }
        check_writable(out.join(SHEET))?;
        let _reserved = reserve_folder("--out", out)?;
        let files = nano()?;
        let base = Base::load(&files, device)?;
        let judges = Judges::load(&files, device)?;
        let motion = MotionJudge::load(&files, "judges/motion", device)?;

        let pictures = subject::pictures()?;
        for (index, picture) in pictures.iter().enumerate() {
            picture.write_png(out.join(format!("subject/{:02}.png", index + 1)))?;
        }
        let performance = subject::performance();
        let clip = render(&performance)?;
        write_clip(out, &performance, &clip)?;
        write_masks(out, &clip)?;
        let class = subject::class();
        let path = text(out.join("subject"));
        context.tell(&Event::Subject { class, pictures: pictures.len(), path });

        let takes = Takes { base: &base, out, class, context };
        let before = takes.make("before", class, &[])?;
        let adapter = self.fit(&base, &pictures, context)?;
        let phrase = format!("{DEFAULT_TOKEN} {class}");
        let after = takes.make("after", &phrase, &[(adapter, 1.0)])?;

        let scored = |take: &Take| scores((&judges, &motion), take, &pictures);
        let score = |takes: &[Take]| takes.iter().map(scored).collect::<Result<_>>();
        let results =
            Results::new(class, shown(&before), score(&before)?, score(&after)?, started.elapsed())?;
        let json = serde_json::to_string_pretty(&results)? + "\n";
        write_atomically(&out.join("results.json"), json.as_bytes())?;
        sheet::render(&pictures, &before, &after, &results)?.write_png(out.join(SHEET))?;

        let (path, sheet) = (text(out), text(out.join(SHEET)));
        context.tell(&Event::Shown { path, sheet, results: Box::new(results) });
        Ok(())
    }

    /// Fits the subject as `fit` does by default.
    fn fit(&self, base: &Base, pictures: &[Image], context: &Context) -> Result<Adapter> {
        let usual = Learning::small();
        let settings = Learning {
            bf16_products: context.bf16,
            // The videos after it show more.
            samples: Samples { every: 0, ..usual.samples },
            ..usual
        };
        let pictures: Vec<Picture> =
            pictures.iter().map(|image| Picture { image: image.clone(), mask: None }).collect();
        let subject = Subject::from_pictures(&pictures, subject::class(), DEFAULT_TOKEN, settings.size)?;
        let folder = self.out.join(format!("{ADAPTER}.run"));
        if folder.exists() {
            std::fs::remove_dir_all(&folder)
                .with_context(|| format!("cannot remove {}", folder.display()))?;
        }
        let name = BaseName::Nano.name();
        let job = Job { base, base_name: &name, subject: &subject, others: &[], folder: &folder };
        let fitted = Lora.fit(&job, &settings, None, &mut |event| {
            context.tell(&Event::Fitting(Box::new(event.clone())));
            context.flow()
        });
        let adapter = fitted.map_err(|error| match error {
            Error::Stopped { .. } => anyhow::anyhow!("stopped on request; run the demo again to start over"),
            other => other.into(),
        })?;
        adapter.save(&self.out.join(ADAPTER), Dialect::default(), Precision::F32)?;
        Ok(adapter)
    }
}

/// Makes the demo's videos.
struct Takes<'a> {
    base: &'a Base,
    out: &'a Path,
    class: &'a str,
    context: &'a Context<'a>,
}

impl Takes<'_> {
    /// Every prompt with every seed, `phrase` being the subject, as MP4s in the folder `when`.
    fn make(&self, when: &'static str, phrase: &str, adapters: &[(Adapter, f32)]) -> Result<Vec<Take>> {
        let usual = self.base.about.usual;
        let [frames, height, width] = usual.size;
        let (attached, token_embeddings) = combine(adapters, &self.base.about)?;
        let mut takes: Vec<Take> = Vec::new();
        for (prompt, seed) in (0..PROMPTS.len()).flat_map(|prompt| SEEDS.map(|seed| (prompt, seed))) {
            let [text, caption] = [phrase, self.class].map(|noun| PROMPTS[prompt].replace("{}", noun));
            let request = Request {
                frames,
                height,
                width,
                steps: usual.steps,
                guidance: usual.guidance,
                seed,
                attached: attached.clone(),
                token_embeddings: token_embeddings.clone(),
                ..Request::new(&text)
            };
            // The steps of one short video are no news.
            let output = generate(self.base, &request, &mut |_| self.context.flow())?;
            let video = Video::from_planar(&values(output.frames)?, usual.size, usual.fps, Range::Unit)?;
            let path = self.out.join(when).join(format!("{}-{}-seed{seed}.mp4", prompt + 1, self.class));
            let options = WriteOptions { upscale: usual.enlarged, ..WriteOptions::default() };
            video.write_with(&path, &options, Some(&self.made(&text, &caption, seed, adapters).to_text()))?;
            let (video_number, videos) = (takes.len() + 1, PROMPTS.len() * SEEDS.len());
            self.context.tell(&Event::Sample {
                path: path.display().to_string(),
                prompt: text.clone(),
                seed,
                when,
                video: video_number,
                videos,
            });
            takes.push(Take { prompt, text, seed, video });
        }
        Ok(takes)
    }

    /// How a video is made, as `generate` writes it into its files.
    fn made(&self, prompt: &str, caption: &str, seed: u64, adapters: &[(Adapter, f32)]) -> Provenance {
        let usual = self.base.about.usual;
        let [frames, height, width] = usual.size;
        let base = BaseName::Nano.name();
        let mut arguments = Vec::new();
        add(&mut arguments, "--prompt", prompt);
        add(&mut arguments, "--seed", &seed.to_string());
        add(&mut arguments, "--base", &base);
        let path = self.out.join(ADAPTER).display().to_string();
        if !adapters.is_empty() {
            add(&mut arguments, "--adapter", &path);
        }
        let uses: Vec<Value> =
            adapters.iter().map(|(_, weight)| json!({"path": path, "weight": weight})).collect();
        Provenance {
            made_by: concat!("understudy ", env!("CARGO_PKG_VERSION")).to_owned(),
            prompt: prompt.to_owned(),
            caption: (caption != prompt).then(|| caption.to_owned()),
            seed: Some(seed),
            settings: json!({
                "base": base, "adapters": uses, "frames": frames, "height": height, "width": width,
                "steps": usual.steps, "guidance": usual.guidance, "fps": usual.fps,
            }),
            arguments,
        }
    }
}

/// The judges' scores of one video.
fn scores((judges, motion): (&Judges, &MotionJudge), take: &Take, pictures: &[Image]) -> Result<Scores> {
    // The judge knows the class and not the token.
    let prompt = PROMPTS[take.prompt].replace("{}", subject::class());
    Ok(Scores {
        identity: judges.identity_similarity(&take.video.frames, pictures)?,
        text: judges.clip_text_score(&take.video.frames, &prompt)?,
        motion: motion.amount(&take.video.frames)?.unwrap_or_default(),
    })
}

/// What the videos show, without the pixels.
fn shown(takes: &[Take]) -> Vec<Shown> {
    takes.iter().map(|take| Shown { prompt: PROMPTS[take.prompt].to_owned(), seed: take.seed }).collect()
}
