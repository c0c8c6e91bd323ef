//! The scores of MSRVTT-Personalization: Text-S, Vid-S, Subj-S, Face-S and Dync-D.

use std::path::Path;

use understudy_media::Image;

use crate::annotations::{Annotations, Sample, cut, middle_square};
use crate::error::{Error, Result};
use crate::evaluation::Networks;
use crate::faces::{Face, FaceFinder};
use crate::metrics::{Metric, mean_cosine};
use crate::networks::Embedder;
use crate::subjects::SubjectFinder;

/// By how much of its height a face's box grows upward, and then downward.
const GROWTH: [f64; 2] = [0.17, 0.03];

/// The annotations, and who finds in generated videos what they name.
pub struct Benchmark {
    /// The annotations.
    pub annotations: Annotations,
    /// Who finds subjects and objects.
    pub subjects: SubjectFinder,
    /// Who finds faces.
    pub faces: FaceFinder,
}

/// A generated clip that is scored.
pub(crate) struct Generated<'a> {
    pub(crate) name: &'a str,
    pub(crate) path: &'a Path,
    pub(crate) frames: &'a [Image],
    pub(crate) fps: f64,
}

/// A score, or why there is none.
type Score = Result<Result<f64, String>>;

impl Benchmark {
    /// The score of `clip` by `metric`; why it has none if it is not of the mode.
    ///
    /// # Errors
    /// When something annotated or found cannot be read, or a network fails.
    pub(crate) fn score(
        &self,
        metric: Metric,
        clip: &Generated,
        networks: &Networks,
        notes: &mut Vec<String>,
    ) -> Score {
        let Some(sample) = self.annotations.sample(clip.name)? else {
            return Ok(Err("it is no sample of this mode".to_owned()));
        };
        match metric {
            Metric::TextS => {
                let clip_network = networks.clip.as_ref().ok_or_else(|| lacks(metric, "a CLIP"))?;
                let texts = clip_network.embed_texts(&[&sample.caption])?;
                Ok(Ok(mean_cosine(&squares(clip.frames, clip_network)?, &texts)))
            }
            Metric::VidS => {
                let clip_network = networks.clip.as_ref().ok_or_else(|| lacks(metric, "a CLIP"))?;
                let real = squares(&sample.frames()?, clip_network)?;
                Ok(Ok(mean_cosine(&squares(clip.frames, clip_network)?, &real)))
            }
            Metric::SubjS => {
                let dino = networks.dino.as_deref().ok_or_else(|| lacks(metric, "a DINO"))?;
                self.subjects(clip, &sample, dino, notes)
            }
            Metric::FaceS => {
                let encoder = networks.identity.as_deref();
                let encoder = encoder.ok_or_else(|| lacks(metric, "an identity encoder"))?;
                self.face(clip, &sample, encoder, notes)
            }
            _ => {
                let flow = networks.flow.as_ref().ok_or_else(|| lacks(metric, "a RAFT"))?;
                let moves =
                    flow.is_dynamic_every(clip.frames, (clip.fps / 8.0).round_ties_even() as usize)?;
                Ok(moves.map(|moves| f64::from(u8::from(moves))).ok_or_else(|| {
                    format!("of {} frames a second none is looked at; give more than 4", clip.fps)
                }))
            }
        }
    }

    /// The mean over all frames and words, of which those that are not found count as 0, of how much a
    /// subject is alike to its pictures.
    fn subjects(
        &self,
        clip: &Generated,
        sample: &Sample,
        dino: &dyn Embedder,
        notes: &mut Vec<String>,
    ) -> Score {
        if sample.words.is_empty() {
            return Ok(Err("no subject or object of it is annotated".to_owned()));
        }
        let found = self.subjects.segments(clip.path, clip.frames, &sample.words)?;
        let mut sum = 0.0;
        for (index, word) in sample.words.iter().enumerate() {
            let crops: Vec<Image> = clip
                .frames
                .iter()
                .zip(&found)
                .filter_map(|(frame, found)| Some(found[index].as_ref()?.cut_out(frame)))
                .collect();
            notes.extend(lacking(Metric::SubjS, word, crops.len(), clip.frames.len()));
            if !crops.is_empty() {
                let real = dino.embed_squares(&sample.subjects(word)?)?;
                sum += mean_cosine(&dino.embed_squares(&crops)?, &real) * crops.len() as f64;
            }
        }
        Ok(Ok(sum / (clip.frames.len() * sample.words.len()) as f64))
    }

    /// The mean over frames, of which those without a face count as 0, of how much the surest face is alike
    /// to those annotated. Boxes are enlarged and not turned upright.
    fn face(
        &self,
        clip: &Generated,
        sample: &Sample,
        encoder: &dyn Embedder,
        notes: &mut Vec<String>,
    ) -> Score {
        let real = encoder.embed(&sample.face()?)?;
        let found = self.faces.faces(clip.path, clip.frames)?;
        let crop = |(frame, faces): (&Image, &Vec<Face>)| {
            let surest =
                faces.iter().reduce(|best, face| if face.score > best.score { face } else { best })?;
            enlarged(surest.bounds?, [frame.width, frame.height])
                .map(|bounds| cut(frame, bounds, |_, _| true))
        };
        let crops: Vec<Image> = clip.frames.iter().zip(&found).filter_map(crop).collect();
        notes.extend(lacking(Metric::FaceS, "face", crops.len(), clip.frames.len()));
        if crops.is_empty() {
            return Ok(Ok(0.0));
        }
        let share = crops.len() as f64 / clip.frames.len() as f64;
        Ok(Ok(mean_cosine(&encoder.embed(&crops)?, &real) * share))
    }
}

/// That what a metric looks at was not found in some frames, which count as 0.
fn lacking(metric: Metric, what: &str, found: usize, frames: usize) -> Option<String> {
    (found < frames).then(|| format!("{metric}: no {what} found in {} of {frames} frames", frames - found))
}

fn lacks(metric: Metric, what: &'static str) -> Error {
    Error::Needs { metric: metric.name(), what }
}

/// The middle squares of pictures as a CLIP sees them.
fn squares(pictures: &[Image], network: &dyn Embedder) -> Result<Vec<Vec<f32>>> {
    network.embed_squares(&pictures.iter().map(middle_square).collect::<Vec<_>>())
}

/// A face's box in whole pixels within a picture of `[width, height]`, higher above and a little below;
/// `None` if nothing of it is inside.
fn enlarged(bounds: [f64; 4], [width, height]: [usize; 2]) -> Option<[usize; 4]> {
    let within = |value: f64, side: usize| value.clamp(0.0, side as f64).round_ties_even();
    let [left, right] = [bounds[0], bounds[2]].map(|value| within(value, width));
    let [top, bottom] = [bounds[1], bounds[3]].map(|value| within(value, height));
    let top = (top - GROWTH[0] * (bottom - top)).trunc().max(0.0);
    // The height that counts here is the one already grown.
    let bottom = (bottom + GROWTH[1] * (bottom - top)).trunc().min(height as f64 - 1.0);
    (right > left && bottom > top).then_some([left as usize, top as usize, right as usize, bottom as usize])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn boxes_of_faces_grow_upward() {
        // 100 high: 17 above; then 117 high: 3.51 below.
        assert_eq!(enlarged([10.2, 50.0, 60.4, 150.0], [200, 300]), Some([10, 33, 60, 153]));
        // Cut at the edges, the last row never taken.
        assert_eq!(enlarged([-5.0, 4.0, 300.0, 104.0], [200, 100]), Some([0, 0, 200, 99]));
        assert_eq!(enlarged([10.0, 5.0, 10.2, 50.0], [200, 100]), None);
    }
}
