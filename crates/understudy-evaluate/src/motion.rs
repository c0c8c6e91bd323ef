//! How well a video shows a motion: the postures a judge reads from its frames against those of the motion
//! itself.

use std::path::Path;

use burn::tensor::{Device, Tensor};
use serde::{Deserialize, Serialize};
use understudy_engine::host;
use understudy_media::{Image, Text};
use understudy_models::iresnet::{IResNet, IResNetConfig};
use understudy_pipeline::Files;

use crate::error::{Error, Result};
use crate::input::Input;
use crate::networks::{config, network};

/// A motion as it truly is, as `motion.json` among a subject's references states it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TrueMotion {
    /// The postures of each frame; one list for each phase that the motion may start in.
    pub phases: Vec<Vec<Vec<f32>>>,
    /// The posture of standing still.
    pub rest: Vec<f32>,
}

/// Its file among a subject's references.
pub(crate) const FILE: &str = "motion.json";

impl TrueMotion {
    /// The motion `folder/motion.json` states.
    ///
    /// # Errors
    /// When it is not there, malformed, or of no frame.
    pub fn read(folder: &Path) -> Result<Self> {
        let path = folder.join(FILE);
        let fault = |reason: String| Error::Videos { path: path.display().to_string(), reason };
        let text = Text::read(&path)?.content;
        let motion: Self = serde_json::from_str(&text).map_err(|error| fault(error.to_string()))?;
        let length = motion.rest.len();
        let whole = |phase: &Vec<Vec<f32>>| !phase.is_empty() && phase.iter().all(|own| own.len() == length);
        if length > 0 && !motion.phases.is_empty() && motion.phases.iter().all(whole) {
            Ok(motion)
        } else {
            Err(fault("its phases are not lists of postures as long as its rest".to_owned()))
        }
    }

    /// How far `postures`, one a frame, are from this motion: the mean squared distance to it, in parts of
    /// that of standing still, at the phase where it is least. 0 is the motion itself. Each number counts as
    /// much as `weights` say; where across the frame the motion is shown does not count. `None` without
    /// frames.
    pub fn error(&self, postures: &[Vec<f32>], weights: &[f32]) -> Option<f64> {
        let found = centred(postures)?;
        let still = centred(std::slice::from_ref(&self.rest))?;
        let of = |phase: &Vec<Vec<f32>>| {
            let truth = centred(&phase[..phase.len().min(found.len())])?;
            let moved = distance(&truth, &still, weights);
            (moved > 0.0).then(|| distance(&truth, &found, weights) / moved)
        };
        self.phases.iter().filter_map(of).min_by(f64::total_cmp)
    }
}

/// Postures with their first number, the place across the frame, about its mean.
fn centred(postures: &[Vec<f32>]) -> Option<Vec<Vec<f32>>> {
    let places = postures.iter().filter_map(|own| own.first());
    let mean = places.sum::<f32>() / postures.len().max(1) as f32;
    let moved = |own: &Vec<f32>| {
        let mut own = own.clone();
        if let Some(place) = own.first_mut() {
            *place -= mean;
        }
        own
    };
    (!postures.is_empty()).then(|| postures.iter().map(moved).collect())
}

/// The weighted squared difference, frame by frame; the last frame of `other` stands for those it lacks.
fn distance(one: &[Vec<f32>], other: &[Vec<f32>], weights: &[f32]) -> f64 {
    let squared = |((a, b), weight): ((&f32, &f32), &f32)| f64::from(*weight) * f64::from(a - b).powi(2);
    let frame = |(at, own): (usize, &Vec<f32>)| {
        own.iter().zip(&other[at.min(other.len() - 1)]).zip(weights).map(squared).sum::<f64>()
    };
    one.iter().enumerate().map(frame).sum::<f64>() / one.len().max(1) as f64
}

/// Reads postures from frames.
#[derive(Debug)]
pub struct MotionJudge {
    network: IResNet,
    /// How much each number of a posture counts: the share of its variance that the judge sees.
    reliability: Vec<f32>,
    input: Input,
    device: Device,
}

impl MotionJudge {
    /// Loads `folder/config.json` and its weights, as `pretrain` writes them.
    ///
    /// # Errors
    /// When one of them is missing or malformed, or the weights do not fit.
    pub fn load(files: &Files, folder: &str, device: &Device) -> Result<Self> {
        let Described { model, reliability } = config(files, folder)?;
        let network = network(files, folder, device, |weights| IResNet::new(weights, &model))?;
        Ok(Self { input: Input::Square(model.size), network, reliability, device: device.clone() })
    }

    /// How far the character of `frames` is from `motion`; see [`TrueMotion::error`].
    ///
    /// # Errors
    /// As [`MotionJudge::postures`].
    pub fn error(&self, motion: &TrueMotion, frames: &[Image]) -> Result<Option<f64>> {
        let phases = motion.phases.iter().map(|phase| smoothed(phase)).collect();
        let motion = TrueMotion { phases, rest: motion.rest.clone() };
        Ok(motion.error(&smoothed(&self.postures(frames)?), &self.reliability))
    }

    /// How much the character of `frames` moves: the root of the mean square by which its posture changes
    /// from one frame to the next, each number by how well it is read. `None` for fewer than two frames.
    ///
    /// # Errors
    /// As [`MotionJudge::postures`].
    pub fn amount(&self, frames: &[Image]) -> Result<Option<f64>> {
        Ok(amount(&smoothed(&self.postures(frames)?), &self.reliability))
    }

    /// The posture of the character in each of `frames`.
    ///
    /// # Errors
    /// When there is none, or one cannot be resized.
    pub fn postures(&self, frames: &[Image]) -> Result<Vec<Vec<f32>>> {
        self.input.rows(frames, &self.device, |pixels| {
            let found = self.network.forward(pixels);
            rows(found)
        })
    }
}

/// The root mean square change of a posture from one frame to the next.
fn amount(postures: &[Vec<f32>], weights: &[f32]) -> Option<f64> {
    let pairs = postures.len().checked_sub(1).filter(|pairs| *pairs > 0)?;
    let squared = |((a, b), weight): ((&f32, &f32), &f32)| f64::from(*weight) * f64::from(a - b).powi(2);
    let change = |pair: &[Vec<f32>]| pair[0].iter().zip(&pair[1]).zip(weights).map(squared).sum::<f64>();
    Some((postures.windows(2).map(change).sum::<f64>() / pairs as f64).sqrt())
}

/// Postures averaged with those of the frames before and after, half as much: what is read from one frame is
/// noisy.
fn smoothed(postures: &[Vec<f32>]) -> Vec<Vec<f32>> {
    let at = |index: usize| &postures[index.min(postures.len() - 1)];
    let mean = |index: usize| {
        let around = at(index.saturating_sub(1)).iter().zip(at(index + 1)).zip(at(index));
        around.map(|((before, after), own)| 0.25 * (before + after) + 0.5 * own).collect()
    };
    (0..postures.len()).map(mean).collect()
}

/// A judge's configuration, with how well it reads each number.
#[derive(Deserialize)]
struct Described {
    #[serde(flatten)]
    model: IResNetConfig,
    reliability: Vec<f32>,
}

/// What a network read, a row a picture.
pub(crate) fn rows(matrix: Tensor<2>) -> Result<Vec<Vec<f32>>> {
    let [_, columns] = matrix.dims();
    let values = host::values(matrix);
    if values.iter().all(|value| value.is_finite()) {
        Ok(values.chunks(columns.max(1)).map(<[f32]>::to_vec).collect())
    } else {
        Err(Error::NotFinite { what: "what a judge reads" })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_motion_itself_has_no_error_wherever_it_is_shown_and_standing_still_has_all() {
        let frame = |place: f32, arm: f32| vec![place, arm];
        let swing = vec![frame(-1.0, 0.0), frame(0.0, 1.0), frame(1.0, 0.0)];
        let other = vec![frame(0.0, 1.0), frame(0.0, 0.0), frame(0.0, 1.0)];
        let motion = TrueMotion { phases: vec![other, swing.clone()], rest: frame(5.0, 0.0) };
        let elsewhere: Vec<_> = swing.iter().map(|own| frame(own[0] + 7.0, own[1])).collect();
        assert!(motion.error(&elsewhere, &[1.0; 2]).unwrap() < 1e-6);
        let still = vec![frame(3.0, 0.0); 3];
        assert!((motion.error(&still, &[1.0; 2]).unwrap() - 1.0).abs() < 1e-6);
        assert_eq!(motion.error(&[], &[1.0; 2]), None);
    }

    #[test]
    fn what_stands_still_does_not_move() {
        let frames = [vec![0.0, 0.0], vec![3.0, 4.0], vec![0.0, 0.0]];
        assert_eq!(amount(&frames, &[1.0, 1.0]), Some(5.0));
        assert_eq!(amount(&frames, &[1.0, 0.0]), Some(3.0));
        assert_eq!(amount(&vec![vec![2.0]; 4], &[1.0]), Some(0.0));
        assert_eq!(amount(&frames[..1], &[1.0, 1.0]), None);
    }
}
