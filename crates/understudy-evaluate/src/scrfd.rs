//! SCRFD, insightface's face detector (Guo et al., "Sample and Computation Redistribution for Efficient Face
//! Detection", 2021), as its packs ship it in ONNX: scores, boxes and landmarks of three strides, in this
//! order.

use understudy_media::Image;

use crate::detect::{Array, Found, Network, cornered, keep_apart, planes};
use crate::error::{Error, Result};
use crate::faces::{Face, FaceDetector};

const STRIDES: [usize; 3] = [8, 16, 32];
/// Faces a place may have.
const ANCHORS: usize = 2;
/// The side of the picture it looks at, as insightface's own detector has it.
const SIDE: usize = 640;
const LEAST_SCORE: f32 = 0.5;
const OVERLAP: f32 = 0.4;

/// A face detector.
pub struct Scrfd<N> {
    network: N,
    side: usize,
}

impl<N: Network> Scrfd<N> {
    /// One that looks at pictures of 640 pixels.
    pub fn new(network: N) -> Self {
        Self { network, side: SIDE }
    }

    /// The same looking at pictures of another size: ConsisID and OpenS2V use 320.
    ///
    /// # Errors
    /// When it is not a multiple of 32.
    pub fn with_side(self, side: usize) -> Result<Self> {
        if side > 0 && side.is_multiple_of(STRIDES[2]) {
            Ok(Self { side, ..self })
        } else {
            Err(Error::Network {
                reason: format!("a face detector cannot look at {side} pixels; give a multiple of 32"),
            })
        }
    }

    /// What the outputs of one stride say: boxes and landmarks in pixels of the square.
    fn decoded(
        &self,
        stride: usize,
        [scores, boxes, places]: [&Array; 3],
    ) -> Result<Vec<(Found, [[f64; 2]; 5])>> {
        let columns = self.side / stride;
        let (scores, boxes, places) = (scores.rows(1)?, boxes.rows(4)?, places.rows(10)?);
        let expected = columns * columns * ANCHORS;
        if [scores.len(), boxes.len(), places.len()] != [expected; 3] {
            return Err(Error::Network {
                reason: format!(
                    "it has {} scores, {} boxes and {} landmarks every {stride} pixels, where {expected} are needed; give an SCRFD with landmarks",
                    scores.len(),
                    boxes.len(),
                    places.len()
                ),
            });
        }
        let sure = (0..expected).filter(|at| scores[*at][0] >= LEAST_SCORE);
        let one = |at: usize| {
            let place = at / ANCHORS;
            let step = stride as f32;
            let [x, y] = [(place % columns) as f32 * step, (place / columns) as f32 * step];
            let [left, top, right, bottom] = [0, 1, 2, 3].map(|side| boxes[at][side] * step);
            let bounds = [x - left, y - top, x + right, y + bottom];
            let landmarks = std::array::from_fn(|point| {
                let [across, down] = [places[at][2 * point], places[at][2 * point + 1]];
                [f64::from(x + across * step), f64::from(y + down * step)]
            });
            (Found { bounds, score: scores[at][0] }, landmarks)
        };
        Ok(sure.map(one).collect())
    }
}

impl<N: Network> FaceDetector for Scrfd<N> {
    fn faces(&self, picture: &Image) -> Result<Vec<Face>> {
        let (square, scale) = cornered(picture, self.side)?;
        let pixels = planes(&square, |_, sample| (f32::from(sample) - 127.5) / 128.0);
        let outputs = self.network.run(vec![Array::floats("", &[1, 3, self.side, self.side], pixels)])?;
        if outputs.len() != 3 * STRIDES.len() {
            return Err(Error::Network {
                reason: format!(
                    "it has {} outputs, and an SCRFD with landmarks has nine; give insightface's det_10g.onnx or the like",
                    outputs.len()
                ),
            });
        }
        let mut found = Vec::new();
        for (at, stride) in STRIDES.into_iter().enumerate() {
            found.extend(self.decoded(stride, [0, 3, 6].map(|kind| &outputs[kind + at]))?);
        }
        for (one, landmarks) in &mut found {
            one.bounds = one.bounds.map(|value| (f64::from(value) / scale) as f32);
            *landmarks = landmarks.map(|point| point.map(|value| value / scale));
        }
        let kept = keep_apart(&found.iter().map(|(one, _)| *one).collect::<Vec<_>>(), OVERLAP, 1.0);
        let face = |at: usize| {
            let (Found { bounds, score }, landmarks) = found[at];
            Face { landmarks: Some(landmarks), bounds: Some(bounds.map(f64::from)), score: f64::from(score) }
        };
        Ok(kept.into_iter().map(face).collect())
    }
}
