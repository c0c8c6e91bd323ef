//! Scoring one video after another.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use understudy_media::{Image, Video};

use crate::error::{Error, Result};
use crate::flow::FlowJudge;
use crate::metrics::{Metric, Needs, consecutive_cosine, consistency, mean_cosine, temporal_flickering};
use crate::motion::{MotionJudge, TrueMotion};
use crate::networks::{ClipJudge, Embedder};
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
    /// For what moves.
    pub flow: Option<FlowJudge>,
    /// For how characters move.
    pub motion: Option<MotionJudge>,
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
}

/// Scores videos by some metrics.
pub struct Evaluation {
    metrics: Vec<Metric>,
    networks: Networks,
    references: Option<References>,
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
                (needs.motion && networks.motion.is_none(), "a judge of motion"),
                (needs.references && references.is_none(), "references"),
            ];
            if let Some((_, what)) = missing.into_iter().find(|(missing, _)| *missing) {
                return Err(Error::Needs { metric: metric.name(), what });
            }
        }
        Ok(Self { metrics, networks, references, known: HashMap::new() })
    }

    /// The scores of `clip`. What is missing of it, or cannot be scored, is said in the row.
    ///
    /// # Errors
    /// When a network gives values that are not finite.
    pub fn row(&mut self, clip: &Clip) -> Result<Row> {
        let mut row =
            Row { name: clip.name.clone(), values: vec![None; self.metrics.len()], problems: Vec::new() };
        let Video { frames, fps } = match clip.video() {
            Ok(video) => video,
            Err(error) => {
                row.problems.push(error.to_string());
                return Ok(row);
            }
        };
        let references = match self.references_of(&clip.name) {
            Ok(references) => references,
            Err(error) => {
                row.problems.push(format!("references: {}", of_the_video(error)?));
                None
            }
        };
        let seen = match self.embed(&frames, false) {
            Ok(seen) => seen,
            Err(error) => {
                row.problems.push(of_the_video(error)?);
                return Ok(row);
            }
        };
        for (index, metric) in self.metrics.iter().enumerate() {
            let about = About { clip, frames: &frames, fps, seen: &seen };
            let score = self.score(*metric, &about, references.as_ref());
            match score.or_else(|error| of_the_video(error).map(Err))? {
                Ok(value) => row.values[index] = Some(value),
                Err(problem) => row.problems.push(format!("{metric}: {problem}")),
            }
        }
        Ok(row)
    }

    /// Where the references of the video `name` are, if any metric looks at them.
    pub fn references_for(&self, name: &str) -> Option<PathBuf> {
        let references = self.references.as_ref().filter(|_| self.needs(|needs| needs.references));
        references.map(|references| references.of(name))
    }

    fn needs(&self, of: impl Fn(Needs) -> bool) -> bool {
        self.metrics.iter().any(|metric| of(metric.needs()))
    }

    /// `pictures` as the networks see them, of which those are asked that some metric needs.
    fn embed(&self, pictures: &[Image], references: bool) -> Result<Embedded> {
        let asked = |of: fn(Needs) -> bool| {
            self.needs(|needs| of(needs) && !needs.vbench && (!references || needs.references))
        };
        let Networks { clip, dino, identity, .. } = &self.networks;
        let mut seen = Embedded::default();
        if let (Some(network), true) = (clip, asked(|needs| needs.clip)) {
            seen.clip = network.embed(pictures)?;
        }
        if let (Some(network), true) = (dino, asked(|needs| needs.dino)) {
            seen.dino = network.embed(pictures)?;
        }
        if let (Some(network), true) = (identity, asked(|needs| needs.identity)) {
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
            let seen = self.embed(&References::read(&folder)?, true)?;
            self.known.insert(folder.clone(), seen);
        }
        Ok(self.known.get(&folder).cloned())
    }

    fn score(
        &self,
        metric: Metric,
        &About { clip, frames, fps, seen }: &About,
        references: Option<&Embedded>,
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
                _ => return Ok(Err(format!("there is no prompt {}.txt", clip.name))),
            },
            Metric::ClipI => Some(mean_cosine(&seen.clip, &pictures.clip)),
            Metric::DinoI => Some(mean_cosine(&seen.dino, &pictures.dino)),
            Metric::Identity => Some(mean_cosine(&seen.identity, &pictures.identity)),
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
            Metric::DynamicDegree => {
                let moves = self.networks.flow.as_ref().map(|network| network.is_dynamic(frames, fps));
                moves.transpose()?.map(|moves| f64::from(u8::from(moves)))
            }
            Metric::MotionError => match (&self.networks.motion, &self.references) {
                (Some(network), Some(references)) => {
                    network.error(&TrueMotion::read(&references.of(&clip.name))?, frames)?
                }
                _ => None,
            },
        };
        Ok(value.filter(|value| value.is_finite()).ok_or_else(|| "it has no finite value".to_owned()))
    }
}

/// What an error says, if it is one of the video's or its prompt's or references', and no fault of a network.
fn of_the_video(error: Error) -> Result<String> {
    match error {
        Error::NotFinite { .. } | Error::Weights(_) => Err(error),
        other => Ok(other.to_string()),
    }
}

/// What identifies the files at `path` well enough to keep a score of them: names, lengths, and when they changed.
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
