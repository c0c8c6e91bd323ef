//! The metrics: what each needs, and its formula on embeddings or pixels.

use std::fmt;
use std::str::FromStr;

use rayon::prelude::*;
use understudy_media::Image;

use crate::error::Error;
use crate::retrieval::cosine;

/// A metric of a video.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Metric {
    /// Mean cosine of the frames' and the prompt's CLIP embeddings.
    ClipT,
    /// Mean cosine of the CLIP embeddings of frames and references, over all pairs.
    ClipI,
    /// The same with DINO's.
    DinoI,
    /// Mean cosine of the CLIP embeddings of consecutive frames.
    TCons,
    /// Mean cosine of the identity embeddings of frames and references, over all pairs.
    Identity,
    /// The share of frames in which a face was found.
    DetectionRate,
    /// VBench's temporal flickering: how little consecutive frames differ, 1 for a picture that stands still.
    TemporalFlickering,
    /// VBench's subject consistency, by DINO.
    SubjectConsistency,
    /// VBench's background consistency, by CLIP.
    BackgroundConsistency,
    /// VBench's dynamic degree, by RAFT: 1 if enough of a video moves, 0 if not.
    DynamicDegree,
    /// VBench's motion smoothness, by AMT: how near frames are to what is expected between their neighbours.
    MotionSmoothness,
    /// How far the postures of the character are from those of its true motion, in parts of standing still:
    /// of puppets.
    MotionError,
    /// How much the character moves, by the change of its posture from frame to frame: of puppets.
    MotionAmount,
    /// The probability that a judge gives to the true pattern and emblem of the character: of puppets.
    Markings,
    /// Mean squared difference of the frames and those of the reference video, pixels in [0, 1]:
    /// Set-and-Sequence's measure of how much of a clip comes back.
    Mse,
    /// MSRVTT-Personalization's Text-S: CLIP's cosine of the middle of each frame and the annotated caption.
    TextS,
    /// Its Vid-S: the same of frames and those of the real clip, over all pairs.
    VidS,
    /// Its Subj-S: DINO's cosine of the subjects found in frames and those annotated; 0 where one is not
    /// found.
    SubjS,
    /// Its Face-S: the identity encoder's cosine of the faces found in frames and that annotated; 0 where
    /// none is found.
    FaceS,
    /// Its Dync-D: dynamic degree.
    DyncD,
}

/// What a metric looks at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Needs {
    /// A CLIP.
    pub clip: bool,
    /// A DINO.
    pub dino: bool,
    /// An identity encoder.
    pub identity: bool,
    /// A RAFT.
    pub flow: bool,
    /// An AMT.
    pub middles: bool,
    /// A judge of motion.
    pub motion: bool,
    /// A judge of markings, and the true markings of the subject.
    pub markings: bool,
    /// Faces that were found in the frames.
    pub faces: bool,
    /// Frames prepared as VBench does, which other metrics do not look at.
    pub vbench: bool,
    /// The prompt of each video.
    pub prompt: bool,
    /// Pictures of the subject.
    pub references: bool,
    /// Annotations of a benchmark, for which frames are prepared apart.
    pub annotations: bool,
    /// A video to compare with, frame by frame.
    pub reference_video: bool,
    /// So many frames at least.
    pub frames: usize,
}

impl Needs {
    /// Whether it looks at references of any kind.
    pub fn compares(self) -> bool {
        self.references || self.reference_video
    }
}

impl Metric {
    /// Every one.
    pub const ALL: [Self; 20] = [
        Self::ClipT,
        Self::ClipI,
        Self::DinoI,
        Self::TCons,
        Self::Identity,
        Self::DetectionRate,
        Self::TemporalFlickering,
        Self::SubjectConsistency,
        Self::BackgroundConsistency,
        Self::DynamicDegree,
        Self::MotionSmoothness,
        Self::MotionError,
        Self::MotionAmount,
        Self::Markings,
        Self::Mse,
        Self::TextS,
        Self::VidS,
        Self::SubjS,
        Self::FaceS,
        Self::DyncD,
    ];

    /// As the command line names it.
    pub fn name(self) -> &'static str {
        match self {
            Self::ClipT => "clip-t",
            Self::ClipI => "clip-i",
            Self::DinoI => "dino-i",
            Self::TCons => "t-cons",
            Self::Identity => "identity",
            Self::DetectionRate => "detection-rate",
            Self::TemporalFlickering => "temporal-flickering",
            Self::SubjectConsistency => "subject-consistency",
            Self::BackgroundConsistency => "background-consistency",
            Self::DynamicDegree => "dynamic-degree",
            Self::MotionSmoothness => "motion-smoothness",
            Self::MotionError => "motion-error",
            Self::MotionAmount => "motion-amount",
            Self::Markings => "markings",
            Self::Mse => "mse",
            Self::TextS => "text-s",
            Self::VidS => "vid-s",
            Self::SubjS => "subj-s",
            Self::FaceS => "face-s",
            Self::DyncD => "dync-d",
        }
    }

    /// As a column of a table is called.
    pub fn column(self) -> String {
        self.name().replace('-', "_")
    }

    /// What it looks at.
    pub fn needs(self) -> Needs {
        let nothing = Needs {
            clip: false,
            dino: false,
            identity: false,
            flow: false,
            middles: false,
            motion: false,
            markings: false,
            faces: false,
            vbench: false,
            prompt: false,
            references: false,
            annotations: false,
            reference_video: false,
            frames: 1,
        };
        match self {
            Self::ClipT => Needs { clip: true, prompt: true, ..nothing },
            Self::ClipI => Needs { clip: true, references: true, ..nothing },
            Self::DinoI => Needs { dino: true, references: true, ..nothing },
            Self::TCons => Needs { clip: true, frames: 2, ..nothing },
            Self::Identity => Needs { identity: true, references: true, ..nothing },
            Self::DetectionRate => Needs { identity: true, faces: true, ..nothing },
            Self::TemporalFlickering => Needs { frames: 2, ..nothing },
            Self::SubjectConsistency => Needs { dino: true, vbench: true, frames: 2, ..nothing },
            Self::BackgroundConsistency => Needs { clip: true, vbench: true, frames: 2, ..nothing },
            Self::DynamicDegree => Needs { flow: true, ..nothing },
            Self::MotionSmoothness => Needs { middles: true, frames: 3, ..nothing },
            Self::MotionError => Needs { motion: true, references: true, ..nothing },
            Self::MotionAmount => Needs { motion: true, frames: 2, ..nothing },
            Self::Markings => Needs { markings: true, references: true, ..nothing },
            Self::TextS | Self::VidS => Needs { clip: true, annotations: true, ..nothing },
            Self::SubjS => Needs { dino: true, annotations: true, ..nothing },
            Self::FaceS => Needs { identity: true, annotations: true, ..nothing },
            Self::DyncD => Needs { flow: true, annotations: true, ..nothing },
            Self::Mse => Needs { reference_video: true, ..nothing },
        }
    }
}

impl fmt::Display for Metric {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Metric {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let wanted = text.trim().replace('_', "-");
        Self::ALL.into_iter().find(|metric| metric.name() == wanted).ok_or_else(|| Error::UnknownMetric {
            name: text.to_owned(),
            known: Self::ALL.map(Self::name).join(", "),
        })
    }
}

/// The mean cosine over all pairs; 0 without any.
pub fn mean_cosine(left: &[Vec<f32>], right: &[Vec<f32>]) -> f64 {
    let pairs = left.iter().flat_map(|a| right.iter().map(move |b| cosine(a, b)));
    pairs.sum::<f64>() / (left.len() * right.len()).max(1) as f64
}

/// The mean cosine of neighbours; `None` for fewer than two.
pub fn consecutive_cosine(frames: &[Vec<f32>]) -> Option<f64> {
    let pairs = frames.len().checked_sub(1).filter(|pairs| *pairs > 0)?;
    Some(frames.windows(2).map(|pair| cosine(&pair[0], &pair[1])).sum::<f64>() / pairs as f64)
}

/// VBench's consistency: the mean over all frames but the first of half the cosine with the frame before and
/// half that with the first, negative ones counting as zero; `None` for fewer than two.
pub fn consistency(frames: &[Vec<f32>]) -> Option<f64> {
    let first = frames.first().filter(|_| frames.len() > 1)?;
    let positive = |a: &[f32], b: &[f32]| cosine(a, b).max(0.0);
    let of = |pair: &[Vec<f32>]| 0.5 * (positive(&pair[0], &pair[1]) + positive(first, &pair[1]));
    Some(frames.windows(2).map(of).sum::<f64>() / (frames.len() - 1) as f64)
}

/// VBench's temporal flickering: `(255 - d) / 255` for the mean absolute difference `d` of consecutive
/// frames, 8-bit; `None` for fewer than two frames.
pub fn temporal_flickering(frames: &[Image]) -> Option<f64> {
    let pairs = frames.len().checked_sub(1).filter(|pairs| *pairs > 0)?;
    let difference = |pair: &[Image]| pair[0].difference(&pair[1]);
    let total: f64 = frames.par_windows(2).map(difference).collect::<Vec<_>>().into_iter().sum();
    Some((255.0 - total / pairs as f64) / 255.0)
}

/// The mean squared difference of frames and those of the same number of a reference, of any size: pixels in
/// [0, 1]; `None` if the reference has fewer.
///
/// # Errors
/// When a frame of the reference cannot be resized.
pub fn mean_squared_error(frames: &[Image], reference: &[Image]) -> Result<Option<f64>, Error> {
    let Some(reference) = reference.get(..frames.len()).filter(|frames| !frames.is_empty()) else {
        return Ok(None);
    };
    let one = |(frame, reference): (&Image, &Image)| -> Result<f64, Error> {
        let size = [frame.height, frame.width];
        // As the frames of a clip are cut for a base to learn them.
        let is_cut = [reference.height, reference.width] == size;
        let reference = if is_cut { reference.clone() } else { reference.cover_crop(size)? };
        let square = |(a, b): (&u8, &u8)| (f64::from(*a) - f64::from(*b)).powi(2);
        let total: f64 = frame.rgb.iter().zip(&reference.rgb).map(square).sum();
        Ok(total / (255.0 * 255.0) / frame.rgb.len().max(1) as f64)
    };
    let pairs: Vec<(&Image, &Image)> = frames.iter().zip(reference).collect();
    let errors: Vec<f64> = pairs.into_par_iter().map(one).collect::<Result<_, _>>()?;
    Ok(Some(errors.iter().sum::<f64>() / frames.len() as f64))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_metric_is_known_by_its_name_and_its_column() {
        for metric in Metric::ALL {
            assert_eq!(metric.name().parse::<Metric>().unwrap(), metric);
            assert_eq!(metric.column().parse::<Metric>().unwrap(), metric);
        }
        assert!("beauty".parse::<Metric>().unwrap_err().to_string().contains("clip-t"));
    }

    #[test]
    fn neighbours_and_pairs() {
        let [a, b] = [vec![1.0, 0.0], vec![0.0, 1.0]];
        assert_eq!(mean_cosine(&[a.clone(), b.clone()], std::slice::from_ref(&a)), 0.5);
        assert_eq!(consecutive_cosine(&[a.clone(), a.clone(), b]), Some(0.5));
        assert_eq!(consistency(&[a.clone(), a.clone(), vec![0.0, 1.0], vec![-1.0, 0.0]]), Some(1.0 / 3.0));
        assert_eq!((consecutive_cosine(std::slice::from_ref(&a)), consistency(&[a])), (None, None));
    }

    #[test]
    fn what_stands_still_does_not_flicker() {
        let [dark, bright] = [Image::filled(4, 3, [0; 3]), Image::filled(4, 3, [51; 3])];
        assert_eq!(temporal_flickering(&[dark.clone(), dark.clone()]), Some(1.0));
        let flicker = temporal_flickering(&[dark.clone(), bright, dark.clone()]).unwrap();
        assert!((flicker - 0.8).abs() < 1e-12);
        assert_eq!(temporal_flickering(&[dark]), None);
    }

    #[test]
    fn what_comes_back_exactly_has_no_error() {
        let [dark, bright] = [Image::filled(4, 3, [0; 3]), Image::filled(4, 3, [51; 3])];
        let [one, two] = [&[dark.clone(), bright.clone()][..], &[dark.clone(), dark.clone(), bright][..]];
        assert_eq!(mean_squared_error(one, one).unwrap(), Some(0.0));
        // A fifth of the range in one of two frames.
        let error = mean_squared_error(one, two).unwrap().unwrap();
        assert!((error - 0.02).abs() < 1e-12);
        assert_eq!(mean_squared_error(two, one).unwrap(), None);
        let large = [Image::filled(80, 60, [51; 3]), Image::filled(80, 60, [51; 3])];
        assert!((mean_squared_error(one, &large).unwrap().unwrap() - 0.02).abs() < 1e-12);
    }
}
