//! Samples during training: made as users make them, looked at, and judged.

use std::ops::ControlFlow;
use std::path::Path;
use std::sync::OnceLock;

use burn::tensor::Tensor;
use understudy_engine::attach::Attached;
use understudy_engine::host::values;
use understudy_engine::ops::Products;
use understudy_media::{ContactSheet, Image, Range, SheetRow, Video, WriteOptions};
use understudy_pipeline::{Request, generate};
use understudy_train::TrainError;

use super::judge::{Best, Evaluation, Judge};
use super::objective::other;
use super::run::Run;
use crate::adapter::Adapter;
use crate::error::Result;

/// Frames a second of what is only looked at.
const FPS: f64 = 8.0;

/// Who makes samples of a stage, and who judges them.
pub struct Shown<'a> {
    run: &'a Run<'a>,
    judge: Option<&'a dyn Judge>,
    /// The base's own text score, once it is known.
    base_text: OnceLock<f64>,
}

impl<'a> Shown<'a> {
    pub(super) fn new(run: &'a Run<'a>, judge: Option<&'a dyn Judge>) -> Self {
        Self { run, judge, base_text: OnceLock::new() }
    }

    pub(super) fn is_judged(&self) -> bool {
        self.judge.is_some()
    }

    /// The prompts of the settings with `phrase` for the subject, and `further` ones.
    pub(super) fn prompts(&self, phrase: &str, further: Vec<String>) -> Vec<String> {
        let own = self.run.learning.samples.prompts.iter().map(|prompt| prompt.replace("{}", phrase));
        own.chain(further).collect()
    }

    /// Videos `(prompts, 3, frames, height, width)` in [0, 1], with an adapter or of the base alone.
    pub(super) fn videos(
        &self,
        prompts: &[String],
        adapter: Option<&Adapter>,
    ) -> Result<Tensor<5>, TrainError> {
        let (settings, base) = (self.run.learning, self.run.job.base);
        let attached = |adapter: &Adapter| Attached::one(base.about.denoiser, adapter.attachments(1.0));
        let request = Request {
            prompts: prompts.to_vec(),
            frames: settings.samples.frames,
            height: settings.size[0],
            width: settings.size[1],
            steps: settings.samples.steps,
            guidance: settings.samples.guidance,
            seed: settings.seed,
            attached: adapter.map(attached).unwrap_or_default(),
            token_embeddings: adapter.and_then(Adapter::token_embeddings),
            ..Request::new("")
        };
        let _products = Products::F32.scope();
        let output = generate(base, &request, &mut |_| ControlFlow::Continue(()));
        Ok(output.map_err(other)?.frames)
    }

    /// Scores videos of the adapter against those of the base, and keeps it if it is the best.
    pub(super) fn evaluate(
        &self,
        adapter: &Adapter,
        videos: Tensor<5>,
        step: u64,
        folder: &Path,
    ) -> Result<(), TrainError> {
        let Some(judge) = self.judge else { return Ok(()) };
        let plain = self.prompts(&self.run.job.subject.class, Vec::new());
        let texts = |videos: &[Vec<Image>]| -> Result<f64, TrainError> {
            let scores = videos.iter().zip(&plain).map(|(video, prompt)| judge.text(video, prompt));
            Ok(mean(&scores.collect::<Result<Vec<_>, _>>().map_err(other)?))
        };
        let base_text = match self.base_text.get() {
            Some(known) => *known,
            None => {
                let found = texts(&images(self.videos(&plain, None)?).map_err(other)?)?;
                *self.base_text.get_or_init(|| found)
            }
        };
        let videos = images(videos).map_err(other)?;
        let identity = videos.iter().map(|video| judge.identity(video)).collect::<Result<Vec<_>, _>>();
        let evaluation = Evaluation::new(step, mean(&identity.map_err(other)?), texts(&videos)?, base_text);
        judge.hear(&Best::new(folder).offer(adapter, evaluation).map_err(other)?);
        Ok(())
    }
}

fn mean(scores: &[f64]) -> f64 {
    scores.iter().sum::<f64>() / scores.len().max(1) as f64
}

/// The frames of `videos (count, 3, frames, height, width)` in [0, 1].
fn images(videos: Tensor<5>) -> Result<Vec<Vec<Image>>> {
    Ok(clips(videos)?.into_iter().map(|video| video.frames).collect())
}

/// `videos (count, 3, frames, height, width)` in [0, 1] one by one.
fn clips(videos: Tensor<5>) -> Result<Vec<Video>> {
    let [count, channels, frames, height, width] = videos.dims();
    let values = values(videos);
    let length = channels * frames * height * width;
    let video = |index: usize| {
        let planar = &values[index * length..][..length];
        Ok(Video::from_planar(planar, [frames, height, width], FPS, Range::Unit)?)
    };
    (0..count).map(video).collect()
}

/// Writes frames of `videos (prompts, 3, frames, height, width)` in [0, 1], one prompt a row.
pub(super) fn write_sheet(videos: Tensor<5>, prompts: &[String], path: &Path) -> Result<()> {
    const SHOWN: usize = 5;
    let width = videos.dims()[4];
    let row = |(video, prompt): (&Video, &String)| {
        let shown = SHOWN.min(video.frames.len());
        SheetRow::new("").cell((video, shown)).caption(prompt.clone())
    };
    let rows = clips(videos)?.iter().zip(prompts).map(row).collect();
    let scale = (256 / width.max(1)).max(1);
    let sheet = ContactSheet { rows, scale, ..ContactSheet::default() };
    Ok(Video::new(vec![sheet.render()?], 1.0)?.write(path, &WriteOptions::default())?)
}
