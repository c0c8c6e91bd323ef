//! `understudy evaluate`: scores for a folder of videos, or for a suite that makes them first.

mod puppets;
mod suite;

use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context, Result, bail};
use burn::tensor::Device;
use clap::Args;
use serde_json::json;
use understudy_evaluate::{
    Clip, Evaluation, FlowJudge, Interval, Metric, Needs, Networks, References, Scored, Table, Unfinished,
};

use super::generate::sampling::frame_rate;
use super::{Common, judges};
use crate::interrupt;
use crate::progress::Progress;
use crate::report::WrongUsage;

/// Score a folder of videos.
#[derive(Debug, Args)]
pub struct Evaluate {
    /// The videos: NAME.mp4 (or .gif, .webp), or folders NAME of frames, each with its prompt in NAME.txt.
    #[arg(long, value_name = "DIR", required_unless_present = "suite")]
    videos: Option<PathBuf>,
    /// Methods, subjects, prompts and claims: fit, generate and score them all. What is made is kept in RESULTS.run beside
    /// the table, and not made again.
    #[arg(long, value_name = "FILE.toml", conflicts_with_all = ["videos", "against", "references", "metrics"])]
    suite: Option<PathBuf>,
    /// Only the short part of the suite.
    #[arg(long, requires = "suite")]
    short: bool,
    /// Other videos of the same names, to compare with: how much the first score higher, pair by pair.
    #[arg(long, value_name = "DIR")]
    against: Option<PathBuf>,
    /// Pictures of the subjects: in DIR/NAME for the video NAME, or in DIR for all.
    #[arg(long, value_name = "DIR")]
    references: Option<PathBuf>,
    /// A CLIP as a Hugging Face folder [nano's].
    #[arg(long, value_name = "DIR")]
    clip: Option<PathBuf>,
    /// A DINO or DINOv2 as a Hugging Face folder [nano's identity encoder].
    #[arg(long, value_name = "DIR")]
    dino: Option<PathBuf>,
    /// An identity encoder: an ArcFace IResNet's file, or a folder as `pretrain` writes it [nano's].
    #[arg(long, value_name = "FILE|DIR")]
    identity: Option<PathBuf>,
    /// A RAFT: the original release's raft-things.pth.
    #[arg(long, value_name = "FILE")]
    raft: Option<PathBuf>,
    /// Frames a second of videos that are folders of frames.
    #[arg(long, value_name = "X", default_value_t = 8.0, value_parser = frame_rate)]
    fps: f64,
    /// What to score by, separated by commas: clip-t, clip-i, dino-i, t-cons, identity, temporal-flickering,
    /// subject-consistency, background-consistency, dynamic-degree.
    #[arg(long, value_name = "NAME,...", default_value = "clip-t,t-cons,temporal-flickering")]
    metrics: String,
    /// Where to write the table, a row a video.
    #[arg(long, value_name = "FILE.csv")]
    out: PathBuf,
    /// Also write a page to look at: means, every video's scores, and the videos, in one file.
    #[arg(long, value_name = "FILE.html")]
    report: Option<PathBuf>,
    #[command(flatten)]
    common: Common,
}

impl Evaluate {
    /// Scores the videos.
    pub fn run(self) -> Result<()> {
        let started = Instant::now();
        self.check_out()?;
        if let Some(path) = &self.suite {
            return suite::run(&self, path, self.short);
        }
        let metrics = self.metrics()?;
        let clips = Clip::list(self.videos(), self.fps).with_context(|| "--videos".to_owned())?;
        let references = self
            .references
            .as_deref()
            .map(References::open)
            .transpose()
            .with_context(|| "--references".to_owned())?;
        let mut progress = self.common.progress();
        let networks = self.networks(&metrics, &self.common.open()?)?;
        let mut evaluation = Evaluation::new(metrics.clone(), networks, references)?;
        let mut unfinished = Unfinished::open(&self.out, &self.stated())?;
        let rows = self.rows(&clips, &mut evaluation, &mut unfinished, &mut progress)?;
        let table = Table { metrics: metrics.clone(), rows };
        let others = match &self.against {
            Some(folder) => {
                let clips = Clip::list(folder, self.fps).with_context(|| "--against".to_owned())?;
                let rows = self.rows(&clips, &mut evaluation, &mut unfinished, &mut progress)?;
                Some((Table { metrics, rows }, clips))
            }
            None => None,
        };
        table.write_csv(&self.out)?;
        unfinished.finish();
        let own = Scored { table: &table, clips: &clips };
        let others = others.as_ref().map(|(table, clips)| Scored { table, clips });
        self.write_report(own, others)?;
        tell(&table, &progress);
        if let Some(others) = others {
            tell_gains(&table, others.table, &progress);
        }
        if table.rows.iter().all(|row| row.values.iter().all(Option::is_none)) {
            bail!("no video could be scored; {} says nothing", self.out.display());
        }
        let seconds = started.elapsed().as_secs_f64();
        progress.event(
            &json!({"event": "done", "path": self.out, "videos": table.rows.len(), "seconds": seconds}),
        );
        progress.say(&format!("wrote {} in {seconds:.1} s", self.out.display()));
        Ok(())
    }

    /// The parser sees to it that they are there where there is no suite.
    fn videos(&self) -> &Path {
        self.videos.as_deref().unwrap_or(Path::new("."))
    }

    fn write_report(&self, own: Scored, others: Option<Scored>) -> Result<()> {
        let Some(path) = &self.report else { return Ok(()) };
        let against = self.against.as_ref().map(|folder| format!(" against {}", folder.display()));
        let title = format!("Scores of {}{}", self.videos().display(), against.unwrap_or_default());
        let page = understudy_evaluate::html(own, others, &title)?;
        Ok(understudy_media::write_file(path, |file| file.write_all(page.as_bytes()))?)
    }

    fn metrics(&self) -> Result<Vec<Metric>> {
        let wrong = |reason: String| WrongUsage(format!("--metrics: {reason}"));
        let mut metrics: Vec<Metric> = Vec::new();
        for name in self.metrics.split(',') {
            let metric =
                name.parse().map_err(|error: understudy_evaluate::Error| wrong(error.to_string()))?;
            if metrics.contains(&metric) {
                return Err(wrong(format!("{metric} stands twice")).into());
            }
            metrics.push(metric);
        }
        let lacks = |metric: &&Metric| {
            let needs = metric.needs();
            (needs.references && self.references.is_none()) || (needs.flow && self.raft.is_none())
        };
        match metrics.iter().find(lacks) {
            Some(metric) if metric.needs().flow => {
                Err(wrong(format!("{metric} follows what moves; give --raft")).into())
            }
            Some(metric) => Err(wrong(format!("{metric} compares with pictures; give --references")).into()),
            None => Ok(metrics),
        }
    }

    fn check_out(&self) -> Result<()> {
        check_file("--out", &self.out, "csv")?;
        match &self.report {
            Some(report) => check_file("--report", report, "html"),
            None => Ok(()),
        }
    }

    /// The networks that `metrics` need: those given, or `nano`'s.
    fn networks(&self, metrics: &[Metric], device: &Device) -> Result<Networks> {
        let needed = |of: fn(Needs) -> bool| metrics.iter().any(|metric| of(metric.needs()));
        let mut networks = Networks::default();
        if needed(|needs| needs.clip) {
            networks.clip = Some(judges::clip(self.clip.as_deref(), device)?);
        }
        if needed(|needs| needs.dino) {
            networks.dino = Some(judges::dino(self.dino.as_deref(), device)?);
        }
        if needed(|needs| needs.identity) {
            networks.identity = Some(judges::identity(self.identity.as_deref(), device)?);
        }
        if needed(|needs| needs.motion) {
            networks.motion = Some(judges::motion(device)?);
        }
        if let (Some(path), true) = (&self.raft, needed(|needs| needs.flow)) {
            networks.flow = Some(FlowJudge::open(path, device).context("--raft")?);
        }
        Ok(networks)
    }

    /// What rows depend on beside the videos.
    fn stated(&self) -> String {
        let named = |path: &Option<PathBuf>| {
            path.as_ref().map(|path| path.canonicalize().unwrap_or_else(|_| path.clone()))
        };
        format!(
            "{} {:?}",
            env!("CARGO_PKG_VERSION"),
            (
                &self.metrics,
                [&self.references, &self.clip, &self.dino, &self.identity, &self.raft].map(named),
                self.fps
            )
        )
    }

    /// A row for each video; those of an evaluation that was stopped are kept.
    fn rows(
        &self,
        clips: &[Clip],
        evaluation: &mut Evaluation,
        unfinished: &mut Unfinished,
        progress: &mut Progress,
    ) -> Result<Vec<understudy_evaluate::Row>> {
        let mut rows = Vec::with_capacity(clips.len());
        for (index, clip) in clips.iter().enumerate() {
            let folder = evaluation.references_for(&clip.name);
            let row = match unfinished.row(clip, folder.as_deref()) {
                Some(row) => row,
                None => {
                    let row = evaluation.row(clip)?;
                    unfinished.add(clip, folder.as_deref(), &row)?;
                    row
                }
            };
            progress.event(
                &json!({"event": "row", "name": row.name, "values": row.values, "problems": row.problems}),
            );
            progress.step("video", index as u64 + 1, clips.len() as u64, &row.name);
            rows.push(row);
            if interrupt::flow().is_break() && index + 1 < clips.len() {
                bail!(
                    "stopped on request after {} of {} videos; the same command goes on from there",
                    index + 1,
                    clips.len()
                );
            }
        }
        Ok(rows)
    }
}

/// That a file of this extension can be written where `flag` says.
fn check_file(flag: &str, file: &Path, extension: &str) -> Result<()> {
    let path = file.display();
    if file.extension().is_none_or(|own| own != extension) {
        return Err(WrongUsage(format!("{flag} {path}: the name must end in .{extension}")).into());
    }
    if file.is_dir() {
        bail!("{flag} {path}: it is a folder; give the name of a file");
    }
    match file.parent().filter(|folder| !folder.as_os_str().is_empty() && !folder.is_dir()) {
        Some(folder) => bail!("{flag} {path}: there is no folder {}; make it first", folder.display()),
        None => Ok(()),
    }
}

/// Says by how much a table's videos score higher than others of the same names.
fn tell_gains(table: &Table, others: &Table, progress: &Progress) {
    for (index, metric) in table.metrics.iter().enumerate() {
        let name = metric.name();
        let Some((Interval { mean, low, high }, pairs)) = table.gain(others, index) else {
            progress.say(&format!("gain of {name}: no pair has it"));
            continue;
        };
        progress.event(
            &json!({"event": "gain", "metric": name, "mean": mean, "low": low, "high": high, "pairs": pairs}),
        );
        progress.say(&format!("gain of {name}: {mean:+.4} (95 %: {low:+.4} to {high:+.4}; {pairs} pairs)"));
    }
}

/// Says the means, and which videos lack what.
fn tell(table: &Table, progress: &Progress) {
    let count = table.rows.len();
    let width = table.metrics.iter().map(|metric| metric.name().len()).max().unwrap_or(0);
    for (index, metric) in table.metrics.iter().enumerate() {
        let (name, there) = (metric.name(), table.values(index).len());
        let Some(Interval { mean, low, high }) = table.mean(index) else {
            progress.say(&format!("{name:width$}  no video has it"));
            continue;
        };
        let missing = if there < count { format!(", {} missing", count - there) } else { String::new() };
        progress.event(&json!({"event": "mean", "metric": name, "mean": mean, "low": low, "high": high, "videos": there}));
        progress
            .say(&format!("{name:width$}  {mean:.4} (95 %: {low:.4} to {high:.4}; {there} videos{missing})"));
    }
    for row in table.rows.iter().filter(|row| !row.problems.is_empty()) {
        progress.say(&format!("missing: {}: {}", row.name, row.problems.join("; ")));
    }
}
