//! The similarity of faces that were found and turned upright, and how it is summed up over a video.

use std::path::Path;

use understudy_media::Image;

use crate::error::Result;
use crate::faces::{Face, FaceFinder};
use crate::metrics::mean_cosine;
use crate::networks::Embedder;
use crate::videos::References;

/// How the faces of a video become one number. A report that does not say which says little.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FacePolicy {
    /// Of several faces the one most alike; a frame without one counts as 0.
    Default,
    /// OpenS2V's: the largest face, never below 0; frames without one, and those of 0, are left out.
    OpenS2V,
}

impl FacePolicy {
    /// As a report names it, with what it does.
    pub fn describe(self) -> &'static str {
        match self {
            Self::Default => {
                "face_default: aligned faces, the one most alike of several, frames without a face count as 0"
            }
            Self::OpenS2V => {
                "face_opens2v: aligned faces, the largest of several, frames without a face left out"
            }
        }
    }

    /// The side faces are cut out at.
    fn side(self) -> usize {
        match self {
            Self::Default => 112,
            Self::OpenS2V => 224,
        }
    }

    /// The score of frames from the similarity and area of each of their faces; `None` if none counts.
    pub fn score(self, frames: &[Vec<(f64, f64)>]) -> Option<f64> {
        let of_frames: Vec<f64> = match self {
            Self::Default => {
                let alike = |faces: &Vec<(f64, f64)>| {
                    faces.iter().map(|(similarity, _)| *similarity).reduce(f64::max).unwrap_or(0.0)
                };
                frames.iter().map(alike).collect()
            }
            Self::OpenS2V => {
                let largest =
                    |faces: &Vec<(f64, f64)>| faces.iter().copied().max_by(|a, b| a.1.total_cmp(&b.1));
                let similarity = |(similarity, _): (f64, f64)| Some(similarity).filter(|value| *value > 0.0);
                frames.iter().filter_map(largest).filter_map(similarity).collect()
            }
        };
        (!of_frames.is_empty()).then(|| of_frames.iter().sum::<f64>() / of_frames.len() as f64)
    }
}

/// Where faces come from, and how they are summed up.
pub struct Faces {
    /// Who finds them.
    pub finder: FaceFinder,
    /// What is made of them.
    pub policy: FacePolicy,
}

/// A face as an identity encoder sees it.
#[derive(Clone, Debug)]
pub(crate) struct Seen {
    pub(crate) embedding: Vec<f32>,
    pub(crate) area: f64,
}

impl Faces {
    /// The faces in each frame of the video at `path`.
    ///
    /// # Errors
    /// When they cannot be found or cut out.
    pub(crate) fn in_frames(
        &self,
        path: &Path,
        frames: &[Image],
        network: &dyn Embedder,
    ) -> Result<Vec<Vec<Seen>>> {
        self.seen(frames, &self.finder.faces(path, frames)?, network)
    }

    /// The largest face of each of the `pictures` that [`References::read`] found at `path`; nothing where
    /// there is none.
    ///
    /// # Errors
    /// When they cannot be found or cut out.
    pub(crate) fn in_references(
        &self,
        path: &Path,
        pictures: &[Image],
        network: &dyn Embedder,
    ) -> Result<Vec<Vec<Seen>>> {
        let mut faces = match References::files(path)? {
            None => self.finder.faces(path, pictures)?,
            Some(files) => {
                let mut faces = Vec::with_capacity(files.len());
                for (file, picture) in files.iter().zip(pictures) {
                    faces.extend(self.finder.faces(file, std::slice::from_ref(picture))?);
                }
                faces
            }
        };
        for faces in &mut faces {
            faces.sort_by(|a, b| b.area().total_cmp(&a.area()));
            faces.truncate(1);
        }
        self.seen(pictures, &faces, network)
    }

    fn seen(
        &self,
        pictures: &[Image],
        faces: &[Vec<Face>],
        network: &dyn Embedder,
    ) -> Result<Vec<Vec<Seen>>> {
        let mut crops = Vec::new();
        for (picture, faces) in pictures.iter().zip(faces) {
            for face in faces {
                crops.push(face.aligned(picture, self.policy.side())?);
            }
        }
        let embeddings = if crops.is_empty() { Vec::new() } else { network.embed(&crops)? };
        let mut embeddings = embeddings.into_iter();
        let seen = |faces: &Vec<Face>| {
            let areas = faces.iter().map(Face::area);
            areas.zip(embeddings.by_ref()).map(|(area, embedding)| Seen { embedding, area }).collect()
        };
        Ok(faces.iter().map(seen).collect())
    }
}

/// The similarity to all references, and the area, of the faces in each frame; `None` without a reference.
pub(crate) fn similarities(frames: &[Vec<Seen>], references: &[Vec<Seen>]) -> Option<Vec<Vec<(f64, f64)>>> {
    let references: Vec<Vec<f32>> = references.iter().flatten().map(|seen| seen.embedding.clone()).collect();
    let one = |seen: &Seen| (mean_cosine(std::slice::from_ref(&seen.embedding), &references), seen.area);
    (!references.is_empty()).then(|| frames.iter().map(|faces| faces.iter().map(one).collect()).collect())
}

/// Which of the frames or references have no face, in words; `None` if each has one.
pub(crate) fn without_faces(seen: &[Vec<Seen>], what: &str) -> Option<String> {
    let lacking: Vec<String> =
        seen.iter().enumerate().filter(|(_, faces)| faces.is_empty()).map(|(at, _)| at.to_string()).collect();
    (!lacking.is_empty())
        .then(|| format!("no face in {} of {} {what}: {}", lacking.len(), seen.len(), lacking.join(", ")))
}

/// The share of frames with a face.
pub(crate) fn detection_rate(frames: &[Vec<Seen>]) -> Option<f64> {
    let found = frames.iter().filter(|faces| !faces.is_empty()).count();
    (!frames.is_empty()).then(|| found as f64 / frames.len() as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn policies_treat_missing_and_several_faces_as_they_say() {
        let frames = [vec![(0.2, 9.0), (0.8, 1.0)], vec![], vec![(-0.5, 4.0)], vec![(0.4, 4.0)]];
        let near = |found: Option<f64>, expected: f64| (found.unwrap() - expected).abs() < 1e-12;
        assert!(near(FacePolicy::Default.score(&frames), (0.8 + 0.0 - 0.5 + 0.4) / 4.0));
        assert!(near(FacePolicy::OpenS2V.score(&frames), (0.2 + 0.4) / 2.0));
        assert_eq!(FacePolicy::Default.score(&[vec![], vec![]]), Some(0.0));
        assert_eq!(FacePolicy::OpenS2V.score(&[vec![], vec![]]), None);
    }
}
