//! Scoring one video after another.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use understudy_media::{Image, Video};

use crate::error::{Error, Result};
use crate::features::VideoEmbedder;
use crate::flow::FlowJudge;
use crate::fvd::{FVD, Fvd};
use crate::identity::{FacePolicy, Faces, Seen, detection_rate, similarities, without_faces};
use crate::markings::{MarkingsJudge, true_markings};
use crate::metrics::{
    Metric, Needs, consecutive_cosine, consistency, mean_cosine, mean_squared_error, temporal_flickering,
};
use crate::motion::{MotionJudge, TrueMotion};
use crate::msrvtt::{Benchmark, Generated};
use crate::networks::{ClipJudge, Embedder};
use crate::smoothness::SmoothnessJudge;
use crate::videos::{Clip, References};

type Rows = Vec<Vec<f32>>;

/// The networks that judge; those no metric needs may be left out.
#[derive(Default)]
pub struct Networks {
    /// For texts and pictures.
    pub clip: Option<ClipJudge>,
    /// For pictures: DINO, or whatever stands for it.
    pub dino: Option<Box<dyn Embedder>>,
    /// For faces and characters.
    pub identity: Option<Box<dyn Embedder>>,
    /// Where the faces are that the identity encoder is to look at; the whole picture without it.
    pub faces: Option<Faces>,
    /// What a benchmark annotates of its samples.
    pub benchmark: Option<Benchmark>,
    /// For what moves.
    pub flow: Option<FlowJudge>,
    /// For the frames between others.
    pub smoothness: Option<SmoothnessJudge>,
    /// For how characters move.
    pub motion: Option<MotionJudge>,
    /// For what is painted on characters.
    pub markings: Option<MarkingsJudge>,
    /// For whole clips, whose distributions FVD compares; features are taken whenever it is there.
    pub video: Option<Box<dyn VideoEmbedder>>,
}

/// What was found of one video.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Row {
    /// The video's name.
    pub name: String,
    /// Its score by each metric, in their order; none where something is missing.
    pub values: Vec<Option<f64>>,
    /// What is missing, if anything.
    pub problems: Vec<String>,
    /// What is to be known beside the scores, e.g. which frames no face was found in.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub notes: Vec<String>,
    /// What the clip looks like as a whole; nothing where no set is compared with another, or the clip is too
    /// short.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub features: Vec<f32>,
}

impl Row {
    /// A row of so many values, of which none is known.
    pub fn new(name: &str, metrics: usize) -> Self {
        Self {
            name: name.to_owned(),
            values: vec![None; metrics],
            problems: Vec::new(),
            notes: Vec::new(),
            features: Vec::new(),
        }
    }
}

/// Scores videos by some metrics.
pub struct Evaluation {
    metrics: Vec<Metric>,
    networks: Networks,
    references: Option<References>,
    /// How many frames of a video are looked at, from the first on.
    limit: Option<usize>,
    /// Embeddings of references by their folder.
    known: HashMap<PathBuf, Embedded>,
}

/// A video and what was seen of it.
struct About<'a> {
    clip: &'a Clip,
    frames: &'a [Image],
    fps: f64,
    seen: &'a Embedded,
}

/// Pictures seen by every network.
#[derive(Clone, Debug, Default)]
struct Embedded {
    clip: Rows,
    dino: Rows,
    identity: Rows,
    /// The faces in each picture, where they are looked for and can be found.
    faces: Option<Vec<Vec<Seen>>>,
}

impl Evaluation {
    /// One by `metrics`, with what they need.
    ///
    /// # Errors
    /// When a metric needs a network or references that are not given.
    pub fn new(metrics: Vec<Metric>, networks: Networks, references: Option<References>) -> Result<Self> {
        for &metric in &metrics {
            let needs = metric.needs();
            let missing = [
                (needs.clip && networks.clip.is_none(), "a CLIP"),
                (needs.dino && networks.dino.is_none(), "a DINO"),
                (needs.identity && networks.identity.is_none(), "an identity encoder"),
                (needs.flow && networks.flow.is_none(), "a RAFT"),
                (needs.middles && networks.smoothness.is_none(), "an AMT"),
                (needs.motion && networks.motion.is_none(), "a judge of motion"),
                (needs.markings && networks.markings.is_none(), "a judge of markings"),
                (needs.annotations && networks.benchmark.is_none(), "annotations"),
                (needs.faces && networks.faces.is_none(), "faces"),
                (needs.compares() && references.is_none(), "references"),
            ];
            if let Some((_, what)) = missing.into_iter().find(|(missing, _)| *missing) {
                return Err(Error::Needs { metric: metric.name(), what });
            }
        }
        Ok(Self { metrics, networks, references, limit: None, known: HashMap::new() })
    }

    /// The same looking only at the first `frames` of every video.
    pub fn with_limit(self, frames: Option<usize>) -> Self {
        Self { limit: frames, ..self }
    }

    /// The scores of `clip`. What is missing of it, or cannot be scored, is said in the row.
    ///
    /// # Errors
    /// When a network gives values that are not finite.
    pub fn row(&mut self, clip: &Clip) -> Result<Row> {
        let mut row = Row::new(&clip.name, self.metrics.len());
        let Some(Video { frames, fps }) = self.read(clip, &mut row) else { return Ok(row) };
        self.look(&frames, &mut row)?;
        let references = match self.references_of(&clip.name) {
            Ok(references) => references,
            Err(error) => {
                row.problems.push(format!("references: {}", of_the_video(error)?));
                None
            }
        };
        let mut seen = match self.embed(&frames, false) {
            Ok(seen) => seen,
            Err(error) => {
                row.problems.push(of_the_video(error)?);
                return Ok(row);
            }
        };
        match self.faces(clip, &frames) {
            Ok(faces) => seen.faces = faces,
            Err(error) => row.problems.push(format!("faces: {}", of_the_video(error)?)),
        }
        row.notes.extend(seen.faces.as_deref().and_then(|faces| without_faces(faces, "frames")));
        let faces = references.as_ref().and_then(|seen| seen.faces.as_deref());
        row.notes.extend(faces.and_then(|faces| without_faces(faces, "references")));
        for (index, metric) in self.metrics.iter().enumerate() {
            let about = About { clip, frames: &frames, fps, seen: &seen };
            let score = self.score(*metric, &about, references.as_ref(), &mut row.notes);
            match score.or_else(|error| of_the_video(error).map(Err))? {
                Ok(value) => row.values[index] = Some(value),
                Err(problem) => row.problems.push(format!("{metric}: {problem}")),
            }
        }
        Ok(row)
    }

    /// What `clip` looks like as a whole, for FVD; without scores.
    ///
    /// # Errors
    /// When a network gives values that are not finite.
    pub fn features(&self, clip: &Clip) -> Result<Row> {
        let mut row = Row::new(&clip.name, 0);
        if let Some(video) = self.read(clip, &mut row) {
            self.look(&video.frames, &mut row)?;
        }
        Ok(row)
    }

    fn look(&self, frames: &[Image], row: &mut Row) -> Result<()> {
        let Some(network) = &self.networks.video else { return Ok(()) };
        if frames.len() < network.frames() {
            row.problems.push(format!(
                "{FVD}: it has {} frames and {} are needed",
                frames.len(),
                network.frames()
            ))
        } else {
            row.features = network.features(frames)?
        }
        Ok(())
    }

    /// What it judges with.
    pub fn networks(&self) -> &Networks {
        &self.networks
    }

    /// How far the clips of `rows` are from those of `references`, both with features.
    ///
    /// # Errors
    /// When there is no network for it, or fewer than two clips on a side.
    pub fn fvd(&self, rows: &[Row], references: &[Row]) -> Result<Fvd> {
        let network = self.networks.video.as_deref();
        let network = network.ok_or(Error::Needs { metric: FVD, what: "an I3D" })?;
        Fvd::of(rows, references, network)
    }

    /// Where the references of the video `name` are, if any metric looks at them.
    pub fn references_for(&self, name: &str) -> Option<PathBuf> {
        let references = self.references.as_ref().filter(|_| self.needs(Needs::compares));
        references.map(|references| references.of(name))
    }

    fn needs(&self, of: impl Fn(Needs) -> bool) -> bool {
        self.metrics.iter().any(|metric| of(metric.needs()))
    }

    /// The faces in the frames of a clip, if any metric looks at them.
    fn faces(&self, clip: &Clip, frames: &[Image]) -> Result<Option<Vec<Vec<Seen>>>> {
        let Networks { faces: Some(faces), identity: Some(network), .. } = &self.networks else {
            return Ok(None);
        };
        match (&clip.path, self.needs(|needs| needs.identity && !needs.annotations)) {
            (Some(path), true) => faces.in_frames(path, frames, network.as_ref()).map(Some),
            _ => Ok(None),
        }
    }

    /// `pictures` as the networks see them, of which those are asked that some metric needs; faces apart.
    fn embed(&self, pictures: &[Image], references: bool) -> Result<Embedded> {
        let asked = |of: fn(Needs) -> bool| {
            self.needs(|needs| {
                of(needs) && !needs.vbench && !needs.annotations && (!references || needs.references)
            })
        };
        let Networks { clip, dino, identity, faces, .. } = &self.networks;
        let mut seen = Embedded::default();
        if let (Some(network), true) = (clip, asked(|needs| needs.clip)) {
            seen.clip = network.embed(pictures)?;
        }
        if let (Some(network), true) = (dino, asked(|needs| needs.dino)) {
            seen.dino = network.embed(pictures)?;
        }
        let whole = faces.is_none() && asked(|needs| needs.identity);
        if let (Some(network), true) = (identity, whole) {
            seen.identity = network.embed(pictures)?;
        }
        Ok(seen)
    }

    fn references_of(&mut self, name: &str) -> Result<Option<Embedded>> {
        if !self.needs(|needs| needs.references) {
            return Ok(None);
        }
        let Some(references) = &self.references else { return Ok(None) };
        let folder = references.of(name);
        if !self.known.contains_key(&folder) {
            let pictures = References::read(&folder)?;
            let mut seen = self.embed(&pictures, true)?;
            if let Networks { faces: Some(faces), identity: Some(network), .. } = &self.networks {
                seen.faces = Some(faces.in_references(&folder, &pictures, network.as_ref())?);
            }
            self.known.insert(folder.clone(), seen);
        }
        Ok(self.known.get(&folder).cloned())
    }

    fn score(
        &self,
        metric: Metric,
        &About { clip, frames, fps, seen }: &About,
        references: Option<&Embedded>,
        notes: &mut Vec<String>,
    ) -> Result<Result<f64, String>> {
        let needs = metric.needs();
        if frames.len() < needs.frames {
            return Ok(Err(format!("it has {} frames and {} are needed", frames.len(), needs.frames)));
        }
        let none = Embedded::default();
        let pictures = match (needs.references, references) {
            (true, None) => return Ok(Err("there are no references".to_owned())),
            (_, own) => own.unwrap_or(&none),
        };
        let value = match metric {
            Metric::ClipT => match (&clip.prompt, &self.networks.clip) {
                (Some(prompt), Some(network)) => {
                    Some(mean_cosine(&seen.clip, &network.embed_texts(&[prompt])?))
                }
                _ => {
                    let name = &clip.name;
                    return Ok(Err(format!("there is no prompt: write it in {name}.txt beside the video")));
                }
            },
            Metric::ClipI => Some(mean_cosine(&seen.clip, &pictures.clip)),
            Metric::DinoI => Some(mean_cosine(&seen.dino, &pictures.dino)),
            Metric::Identity => match &self.networks.faces {
                None => Some(mean_cosine(&seen.identity, &pictures.identity)),
                Some(faces) => return Ok(alike(faces.policy, seen, pictures)),
            },
            Metric::DetectionRate => match &seen.faces {
                Some(faces) => detection_rate(faces),
                None => return Ok(Err(NO_FACES.to_owned())),
            },
            Metric::TCons => consecutive_cosine(&seen.clip),
            Metric::TemporalFlickering => temporal_flickering(frames),
            Metric::SubjectConsistency => match &self.networks.dino {
                Some(network) => consistency(&network.embed_for_vbench(frames)?),
                None => None,
            },
            Metric::BackgroundConsistency => match &self.networks.clip {
                Some(network) => consistency(&network.embed_for_vbench(frames)?),
                None => None,
            },
            Metric::TextS | Metric::VidS | Metric::SubjS | Metric::FaceS | Metric::DyncD => {
                let Some(benchmark) = &self.networks.benchmark else {
                    return Err(Error::Needs { metric: metric.name(), what: "annotations" });
                };
                let path = clip.path.as_deref().unwrap_or(Path::new(""));
                let clip = Generated { name: &clip.name, path, frames, fps };
                return benchmark.score(metric, &clip, &self.networks, notes);
            }
            Metric::Mse => return self.against_reference(clip, frames),
            Metric::DynamicDegree => {
                let moves = self.networks.flow.as_ref().map(|network| network.is_dynamic(frames, fps));
                moves.transpose()?.map(|moves| f64::from(u8::from(moves)))
            }
            Metric::MotionSmoothness => match &self.networks.smoothness {
                Some(network) => network.smoothness(frames)?,
                None => None,
            },
            Metric::MotionError => match (&self.networks.motion, &self.references) {
                (Some(network), Some(references)) => {
                    network.error(&TrueMotion::read(&references.of(&clip.name))?, frames)?
                }
                _ => None,
            },
            Metric::MotionAmount => match &self.networks.motion {
                Some(network) => network.amount(frames)?,
                None => None,
            },
            Metric::Markings => match (&self.networks.markings, &self.references) {
                (Some(network), Some(references)) => {
                    network.score(&true_markings(&references.of(&clip.name))?, frames)?
                }
                _ => None,
            },
        };
        Ok(value.filter(|value| value.is_finite()).ok_or_else(|| "it has no finite value".to_owned()))
    }
}

impl Evaluation {
    /// How far the frames of a clip are from those of its reference.
    fn against_reference(&self, clip: &Clip, frames: &[Image]) -> Result<Result<f64, String>> {
        let Some(references) = &self.references else {
            return Ok(Err("there are no references".to_owned()));
        };
        let reference = References::read(&references.video_of(&clip.name))?;
        Ok(mean_squared_error(frames, &reference)?
            .ok_or_else(|| format!("it has {} frames and its reference {}", frames.len(), reference.len())))
    }

    /// The video of `clip`; if it cannot be read, the row says why.
    fn read(&self, clip: &Clip, row: &mut Row) -> Option<Video> {
        let (mut video, notes) = clip.read().map_err(|error| row.problems.push(error.to_string())).ok()?;
        row.notes.extend(notes);
        video.frames.truncate(self.limit.unwrap_or(usize::MAX));
        Some(video)
    }
}

const NO_FACES: &str = "where its faces are is not known";

/// How much the faces of a video are alike to those of its references.
fn alike(policy: FacePolicy, seen: &Embedded, references: &Embedded) -> Result<f64, String> {
    let Some(faces) = &seen.faces else { return Err(NO_FACES.to_owned()) };
    let found = similarities(faces, references.faces.as_deref().unwrap_or_default());
    let found = found.ok_or("there is no face in the references")?;
    policy.score(&found).ok_or_else(|| "no frame has a face that counts".to_owned())
}

/// What an error says, if it is one of the video's or its prompt's or references', and no fault of a network.
fn of_the_video(error: Error) -> Result<String> {
    match error {
        Error::NotFinite { .. } | Error::Weights(_) => Err(error),
        other => Ok(other.to_string()),
    }
}

/// What identifies the files at `path` well enough to keep a score of them: names, lengths, and when they
/// changed.
pub(crate) fn stamp(path: &Path) -> String {
    let one = |path: &Path| {
        let about = path.metadata().ok();
        let changed = about.as_ref().and_then(|about| about.modified().ok());
        let since = changed.and_then(|time| time.duration_since(std::time::UNIX_EPOCH).ok());
        let (length, since) =
            (about.map_or(0, |about| about.len()), since.map_or(0, |since| since.as_nanos()));
        format!("{}:{length}:{since}", path.display())
    };
    match std::fs::read_dir(path) {
        Ok(entries) => {
            let mut all: Vec<String> = entries.flatten().map(|entry| one(&entry.path())).collect();
            all.sort();
            all.join(",")
        }
        Err(_) => one(path),
    }
}
