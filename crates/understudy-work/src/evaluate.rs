//! Scores for a folder of videos, or for a suite that makes them first.

mod made;
mod puppets;
mod suite;

use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context as _, Result, bail};
use burn::tensor::Device;
use clap::Args;
use understudy_evaluate::{
    About, Annotations, Benchmark, Clip, Evaluation, FVD, FacePolicy, Faces, FlowJudge, Fvd, Metric, Mode,
    Needs, Networks, References, Row, Scored, SmoothnessJudge, Table, Unfinished,
};
use understudy_files::Lock;

use crate::context::Context;
use crate::event::{Event, Mean};
use crate::generate::sampling::frame_rate;
use crate::named::Named;
use crate::outputs::{Input, reserve};
use crate::said::{date, shell, text};
use crate::usage::WrongUsage;
use crate::{detectors, judges};

/// Score a folder of videos, or a suite of methods.
#[derive(Debug, Args)]
#[command(override_usage = "understudy evaluate --videos <DIR> --out <FILE.csv> [OPTIONS]\n       \
    understudy evaluate --suite <FILE.toml> --out <FILE.csv> [OPTIONS]")]
pub struct Evaluate {
    /// The videos: NAME.mp4 (or another kind, told by content), or folders NAME of frames.
    ///
    /// The prompt of each is in NAME.txt beside it or, of videos that `generate` made, in the file.
    #[arg(long, value_name = "DIR", required_unless_present = "suite")]
    videos: Option<PathBuf>,
    /// Methods, subjects, prompts and claims: fit, generate and score them all.
    ///
    /// What is made is kept in RESULTS.run beside the table, and not made again.
    #[arg(long, value_name = "FILE.toml", conflicts_with_all = ["videos", "against", "references", "metrics"])]
    suite: Option<PathBuf>,
    /// Only the short part of the suite.
    #[arg(long, requires = "suite")]
    short: bool,
    /// Other videos of the same names, to compare with: how much the first score higher, pair by pair.
    #[arg(long, value_name = "DIR")]
    against: Option<PathBuf>,
    /// Pictures or videos of the subjects; for fvd, a folder of real videos.
    ///
    /// DIR/NAME or DIR/NAME.mp4 are for the video NAME; pictures in DIR, or one file, are for all.
    #[arg(long, value_name = "DIR|FILE")]
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
    /// Look at faces, found and turned upright, instead of whole pictures; needs --identity.
    ///
    /// `landmarks` are those in NAME.faces.json or NAME.faces.csv beside every video and reference picture;
    /// or give an SCRFD (insightface's det_10g.onnx; where the program is built with ONNX Runtime).
    #[arg(long, value_name = "landmarks|FILE")]
    faces: Option<String>,
    /// What is made of frames with no face or several.
    ///
    /// `default` counts none as 0 and takes the one most alike, `opens2v` leaves out frames with none and
    /// takes the largest.
    #[arg(long, value_name = "NAME", default_value = "default", value_parser = ["default", "opens2v"])]
    face_policy: String,
    /// A RAFT: the original release's raft-things.pth.
    #[arg(long, value_name = "FILE")]
    raft: Option<PathBuf>,
    /// An AMT, for motion-smoothness: the original release's amt-s.pth.
    #[arg(long, value_name = "FILE")]
    amt: Option<PathBuf>,
    /// The I3D of fvd: StyleGAN-V's i3d_torchscript.pt or VideoGPT's i3d_pretrained_400.pt [nano's CLIP,
    /// whose distances are no FVD].
    #[arg(long, value_name = "FILE")]
    i3d: Option<PathBuf>,
    /// Frames of every video that --i3d looks at, from the first on; videos that have fewer are named.
    #[arg(long, value_name = "N", default_value_t = 16, value_parser = clap::value_parser!(u16).range(9..=1024))]
    fvd_frames: u16,
    /// MSRVTT-Personalization's annotations, for text-s, vid-s, subj-s, face-s and dync-d.
    ///
    /// They are DIR/NAME.vid_info.json, and in DIR/NAME its frames and the pictures of its words. Masks of
    /// what the words name are read from NAME.masks/WORD.FRAME.png beside each video, boxes of faces from
    /// NAME.faces.json.
    #[arg(long, value_name = "DIR")]
    annotations: Option<PathBuf>,
    /// Which samples of --annotations count: those with exactly one subject, or with one that has a face.
    #[arg(long, value_name = "NAME", default_value = "subject", value_parser = ["subject", "face"])]
    mode: String,
    /// Find the faces of face-s by a YOLO in ONNX instead of reading their boxes.
    #[arg(long, value_name = "FILE")]
    yolo: Option<PathBuf>,
    /// Find the subjects of subj-s by a GroundingDINO (model.onnx as Hugging Face exports it, tokenizer.json)
    /// instead of reading their masks.
    #[arg(long, value_name = "DIR", requires = "sam")]
    grounding_dino: Option<PathBuf>,
    /// The SAM that cuts out what --grounding-dino finds: encoder.onnx, and decoder.onnx as the original
    /// release exports it.
    #[arg(long, value_name = "DIR", requires = "grounding_dino")]
    sam: Option<PathBuf>,
    /// Look at the first N frames of every video only.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    frames: Option<u32>,
    /// Frames a second of videos that are folders of frames.
    #[arg(long, value_name = "X", default_value_t = 8.0, value_parser = frame_rate)]
    fps: f64,
    /// What to score by, separated by commas.
    ///
    /// clip-t, clip-i, dino-i, t-cons, identity, detection-rate (of --faces), temporal-flickering,
    /// subject-consistency, background-consistency, dynamic-degree, motion-smoothness, mse (against the
    /// reference video), motion-error, motion-amount and markings (of puppets), text-s, vid-s, subj-s,
    /// face-s, dync-d (of --annotations), and fvd, which is one number for all videos and no column of the
    /// table.
    #[arg(long, value_name = "NAME,...", default_value = "clip-t,t-cons,temporal-flickering")]
    metrics: String,
    /// Where to write the table, a row a video.
    #[arg(long, value_name = "FILE.csv")]
    out: PathBuf,
    /// Also write a page to look at: means, every video's scores, and the videos, in one file.
    #[arg(long, value_name = "FILE.html")]
    report: Option<PathBuf>,
}

impl Named for Evaluate {
    const NAME: &'static str = "evaluate";
}

/// A folder of videos and what was found of it.
struct Set {
    clips: Vec<Clip>,
    table: Table,
    fvd: Option<Fvd>,
}

impl Set {
    fn scored(&self, faces: Option<FacePolicy>) -> Scored<'_> {
        Scored { table: &self.table, clips: &self.clips, fvd: self.fvd.as_ref(), faces }
    }
}

/// What scoring works with.
struct Work<'a> {
    metrics: Vec<Metric>,
    evaluation: Evaluation,
    unfinished: Unfinished,
    /// The method of a suite that made the videos.
    method: Option<String>,
    context: &'a Context<'a>,
}

impl Evaluate {
    /// Scores the videos.
    ///
    /// # Errors
    /// When something that is named does not fit, or nothing could be scored; when it is stopped.
    pub fn run(self, context: &Context) -> Result<()> {
        let (started, _precision) = (Instant::now(), context.precision());
        let _reserved = self.check_out()?;
        if let Some(path) = &self.suite {
            return suite::run(&self, path, context);
        }
        let (metrics, fvd) = self.metrics()?;
        let list = |flag: &str, folder: &Path| Clip::list(folder, self.fps).with_context(|| flag.to_owned());
        let clips = list("--videos", self.videos())?;
        let others = self.against.as_deref().map(|folder| list("--against", folder)).transpose()?;
        let references = self.references.as_deref();
        let real = references.filter(|_| fvd).map(|folder| list("--references", folder)).transpose()?;
        let references = references.map(References::open).transpose().context("--references")?;
        let notes = self.stand_ins(&metrics);
        clips.iter().filter_map(|clip| clip.note.as_ref()).for_each(|note| context.note(note));
        let networks = self.networks(&metrics, fvd, &context.device)?;
        let mut work = Work {
            evaluation: Evaluation::new(metrics.clone(), networks, references.clone())?
                .with_limit(self.frames.map(|frames| frames as usize)),
            unfinished: Unfinished::open(&self.out, &self.stated())?,
            metrics,
            method: None,
            context,
        };
        tell_damage(&work.unfinished, context);
        let mut own = work.set(clips)?;
        let mut others = others.map(|clips| work.set(clips)).transpose()?;
        let real = real.map(|clips| work.rows(&clips, false)).transpose()?;
        own.table.write_csv(&self.out)?;
        let Work { evaluation, unfinished, .. } = work;
        if let Some(real) = &real {
            own.fvd = Some(evaluation.fvd(&own.table.rows, real).context(FVD)?);
            if let Some(others) = &mut others {
                others.fvd = Some(evaluation.fvd(&others.table.rows, real).context("fvd of --against")?);
            }
        }
        let policy = evaluation.networks().faces.as_ref().map(|faces| faces.policy);
        let beside = others.as_ref().map(|set| set.scored(policy));
        let compared = references.as_ref().filter(|_| compares(&own.table.metrics));
        self.write_report(own.scored(policy), beside, compared, notes.clone())?;
        unfinished.finish();
        tell_means(&own.table, (None, None), context);
        notes.iter().for_each(|note| context.note(note));
        tell_distances(&own, others.as_ref(), context);
        if let Some(policy) = policy.map(FacePolicy::describe) {
            context.tell(&Event::Policy { metric: "identity", policy });
        }
        if let Some(others) = others {
            tell_gains(&own.table, &others.table, context);
        }
        let videos = own.table.rows.len();
        if own.fvd.is_none() && own.table.rows.iter().all(|row| row.values.iter().all(Option::is_none)) {
            bail!("no video could be scored; {} says nothing", self.out.display());
        }
        let seconds = started.elapsed().as_secs_f64();
        context.tell(&Event::Evaluated { path: text(&self.out), videos, seconds });
        Ok(())
    }

    /// The parser sees to it that they are there where there is no suite.
    fn videos(&self) -> &Path {
        self.videos.as_deref().unwrap_or(Path::new("."))
    }

    fn write_report(
        &self,
        own: Scored,
        others: Option<Scored>,
        references: Option<&References>,
        notes: Vec<String>,
    ) -> Result<()> {
        let Some(path) = &self.report else { return Ok(()) };
        let against = self.against.as_ref().map(|folder| format!(" against {}", folder.display()));
        let title = format!("Scores of {}{}", self.videos().display(), against.unwrap_or_default());
        let page = understudy_evaluate::html(own, others, references, &about(title, notes))?;
        Ok(understudy_media::write_file(path, |file| file.write_all(page.as_bytes()))?)
    }

    /// Where `nano`'s encoder stands for another network, so that scores are not what their names say
    /// elsewhere.
    fn stand_ins(&self, metrics: &[Metric]) -> Vec<String> {
        let by_dino = metrics.iter().filter(|metric| metric.needs().dino && self.dino.is_none());
        let by_dino: Vec<&str> = by_dino.map(|metric| metric.name()).collect();
        if by_dino.is_empty() {
            return Vec::new();
        }
        let both = [Metric::DinoI, Metric::Identity].iter().all(|metric| metrics.contains(metric));
        let one = both && self.identity.is_none() && self.faces.is_none();
        let mut notes = vec![format!(
            "{}: nano's identity encoder stands for DINO; give a DINO with --dino",
            by_dino.join(", ")
        )];
        if one {
            notes.push("dino-i and identity are the same number here: one encoder judges both".to_owned());
        }
        notes
    }

    /// The metrics asked for, and whether FVD is among them.
    fn metrics(&self) -> Result<(Vec<Metric>, bool)> {
        let wrong = |reason: String| WrongUsage(format!("--metrics: {reason}"));
        let mut metrics: Vec<Metric> = Vec::new();
        let mut fvd = false;
        for name in self.metrics.split(',') {
            let twice = if name.trim() == FVD {
                std::mem::replace(&mut fvd, true)
            } else {
                let metric =
                    name.parse().map_err(|error: understudy_evaluate::Error| wrong(error.to_string()))?;
                let twice = metrics.contains(&metric);
                metrics.push(metric);
                twice
            };
            if twice {
                return Err(wrong(format!("{name} stands twice")).into());
            }
        }
        if self.faces.is_some() && self.identity.is_none() {
            let reason =
                "--faces: nano's identity encoder looks at whole pictures; give an ArcFace with --identity";
            return Err(WrongUsage(reason.to_owned()).into());
        }
        if let (Some(metric), None) = (metrics.iter().find(|metric| metric.needs().faces), &self.faces) {
            return Err(wrong(format!("{metric} looks at faces; give --faces")).into());
        }
        let annotated = metrics.iter().find(|metric| metric.needs().annotations);
        if let (Some(metric), None) = (annotated, &self.annotations) {
            return Err(wrong(format!("{metric} is a benchmark's; give --annotations")).into());
        }
        let flow = |metric: &&Metric| metric.needs().flow && self.raft.is_none();
        if let Some(metric) = metrics.iter().find(flow) {
            return Err(wrong(format!("{metric} follows what moves; give --raft")).into());
        }
        let middles = |metric: &&Metric| metric.needs().middles && self.amt.is_none();
        if let Some(metric) = metrics.iter().find(middles) {
            return Err(wrong(format!("{metric} makes the frames between others; give --amt")).into());
        }
        let compares = metrics.iter().find(|metric| metric.needs().compares()).map(|metric| metric.name());
        match (compares.or(fvd.then_some(FVD)), &self.references) {
            (Some(name), None) => {
                Err(wrong(format!("{name} compares with pictures or videos; give --references")).into())
            }
            _ => Ok((metrics, fvd)),
        }
    }

    /// That results can be written where they are to go, and are nobody else's meanwhile.
    fn check_out(&self) -> Result<Vec<Lock>> {
        check_file("--out", &self.out, "csv")?;
        let mut outputs = vec![("--out", self.out.as_path())];
        if let Some(report) = &self.report {
            check_file("--report", report, "html")?;
            outputs.push(("--report", report.as_path()));
        }
        reserve(&outputs, &self.inputs())
    }

    /// What is read.
    fn inputs(&self) -> Vec<Input> {
        // Of folders of videos and pictures; earlier results may lie there.
        fn reads(path: &Path) -> bool {
            let name = path.file_name().unwrap_or_default().as_encoded_bytes();
            let result = |kind: &str| name.ends_with(kind.as_bytes());
            !(result(".csv") || result(".html")) || result(".faces.csv")
        }
        let named = [
            ("--suite", &self.suite),
            ("--videos", &self.videos),
            ("--against", &self.against),
            ("--references", &self.references),
            ("--annotations", &self.annotations),
            ("--clip", &self.clip),
            ("--dino", &self.dino),
            ("--identity", &self.identity),
            ("--raft", &self.raft),
            ("--amt", &self.amt),
            ("--i3d", &self.i3d),
            ("--yolo", &self.yolo),
            ("--grounding-dino", &self.grounding_dino),
            ("--sam", &self.sam),
        ];
        let input =
            |(flag, path): (&'static str, &Option<PathBuf>)| Some(Input::some(flag, path.as_ref()?, reads));
        named
            .into_iter()
            .filter_map(input)
            .chain(self.faces.as_ref().map(|path| Input::new("--faces", path)))
            .collect()
    }

    /// The networks that `metrics` need: those given, or `nano`'s.
    fn networks(&self, metrics: &[Metric], fvd: bool, device: &Device) -> Result<Networks> {
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
            networks.faces = self.faces()?;
        }
        if let Some(folder) = &self.annotations {
            let mode = if self.mode == "face" { Mode::Face } else { Mode::Subject };
            let both = self.grounding_dino.as_deref().zip(self.sam.as_deref());
            networks.benchmark = Some(Benchmark {
                annotations: Annotations::open(folder, mode).context("--annotations")?,
                subjects: detectors::subjects(both.map(|(dino, sam)| [dino, sam]))?,
                faces: detectors::face_boxes(self.yolo.as_deref())?,
            });
        }
        if needed(|needs| needs.motion) {
            networks.motion = Some(judges::motion(device)?);
        }
        if needed(|needs| needs.markings) {
            networks.markings = Some(judges::markings(device)?);
        }
        if let (Some(path), true) = (&self.raft, needed(|needs| needs.flow)) {
            networks.flow = Some(FlowJudge::open(path, device).context("--raft")?);
        }
        if let (Some(path), true) = (&self.amt, needed(|needs| needs.middles)) {
            networks.smoothness = Some(SmoothnessJudge::open(path, device).context("--amt")?);
        }
        if fvd {
            networks.video = Some(judges::video(self.i3d.as_deref(), self.fvd_frames.into(), device)?);
        }
        Ok(networks)
    }

    /// Where faces come from, if they are looked at.
    fn faces(&self) -> Result<Option<Faces>> {
        let Some(finder) = self.faces.as_deref() else { return Ok(None) };
        let policy = match self.face_policy.as_str() {
            "opens2v" => FacePolicy::OpenS2V,
            _ => FacePolicy::Default,
        };
        Ok(Some(Faces { finder: detectors::faces(finder)?, policy }))
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
                [&self.yolo, &self.grounding_dino, &self.sam].map(named),
                [&self.references, &self.clip, &self.dino, &self.identity, &self.raft, &self.amt, &self.i3d]
                    .map(named),
                (&self.faces, &self.face_policy, named(&self.annotations), &self.mode, self.frames),
                self.fvd_frames,
                self.fps
            )
        )
    }
}

/// Whether any of `metrics` looks at references.
fn compares(metrics: &[Metric]) -> bool {
    metrics.iter().any(|metric| metric.needs().compares())
}

/// What a page says of itself.
fn about(title: String, notes: Vec<String>) -> About {
    let arguments: Vec<String> =
        std::env::args_os().skip(1).map(|own| own.to_string_lossy().into_owned()).collect();
    About {
        title,
        date: date(),
        program: concat!("understudy ", env!("CARGO_PKG_VERSION")).to_owned(),
        command: format!("understudy {}", shell(&arguments)),
        notes,
    }
}

impl Work<'_> {
    /// The scores of `clips`.
    fn set(&mut self, clips: Vec<Clip>) -> Result<Set> {
        let rows = self.rows(&clips, true)?;
        Ok(Set { table: Table { metrics: self.metrics.clone(), rows }, clips, fvd: None })
    }

    /// A row for each video, with scores or only with what FVD compares; those of an evaluation that was
    /// stopped are kept.
    fn rows(&mut self, clips: &[Clip], scores: bool) -> Result<Vec<Row>> {
        let Self { evaluation, unfinished, .. } = self;
        let mut rows = Vec::with_capacity(clips.len());
        for (index, clip) in clips.iter().enumerate() {
            let folder = evaluation.references_for(&clip.name).filter(|_| scores);
            let known = unfinished.row(clip, folder.as_deref());
            let kept = known.is_some();
            let row = match known {
                Some(row) => row,
                None => {
                    let row = if scores { evaluation.row(clip)? } else { evaluation.features(clip)? };
                    unfinished.add(clip, folder.as_deref(), &row)?;
                    row
                }
            };
            self.context.tell(&Event::Row {
                name: row.name.clone(),
                method: self.method.clone(),
                reference: !scores,
                kept,
                values: row.values.clone(),
                problems: row.problems.clone(),
                notes: row.notes.clone(),
                row: index + 1,
                rows: clips.len(),
            });
            rows.push(row);
            let what = if scores { "video" } else { "reference" };
            if self.context.stop.is_asked() && index + 1 < clips.len() {
                bail!(
                    "stopped on request after {} of {} {what}s; the same command goes on from there",
                    index + 1,
                    clips.len()
                );
            }
        }
        Ok(rows)
    }
}

/// Says so when rows that were kept are damaged.
fn tell_damage(unfinished: &Unfinished, context: &Context) {
    let (damaged, path) = (unfinished.damaged(), unfinished.path().display());
    if damaged > 0 {
        context.note(format!("{path}: {damaged} lines are damaged; what they held is made again"));
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

/// Tells by how much a table's videos score higher than others of the same names.
fn tell_gains(table: &Table, others: &Table, context: &Context) {
    for (index, metric) in table.metrics.iter().enumerate() {
        let gain = table.gain(others, index);
        context.tell(&Event::Gain {
            metric: metric.name().to_owned(),
            interval: gain.map(|(interval, _)| interval),
            pairs: gain.map_or(0, |(_, pairs)| pairs),
        });
    }
}

/// Tells the means of videos; in a suite, of a method's of a group of prompts.
fn tell_means(table: &Table, (method, group): (Option<&str>, Option<&str>), context: &Context) {
    for (index, metric) in table.metrics.iter().enumerate() {
        context.tell(&Event::Mean(Mean {
            method: method.map(str::to_owned),
            group: group.map(str::to_owned),
            metric: metric.name(),
            interval: table.mean(index),
            videos: table.values(index).len(),
            of: table.rows.len(),
        }));
    }
}

/// Tells how far each set is from the real videos.
fn tell_distances(own: &Set, others: Option<&Set>, context: &Context) {
    for (against, set) in [(false, Some(own)), (true, others)] {
        let Some(fvd) = set.and_then(|set| set.fvd.as_ref()) else { continue };
        context.tell(&Event::Fvd {
            name: fvd.name.clone(),
            distance: fvd.distance,
            videos: fvd.videos,
            references: fvd.references,
            comparable: fvd.is_comparable(),
            against,
            said: fvd.to_string(),
        });
    }
}
