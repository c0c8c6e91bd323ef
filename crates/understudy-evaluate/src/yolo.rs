//! YOLO detectors of faces (v8, v9 and the like), as they are exported to ONNX: boxes and scores of classes
//! for every place in columns, `(1, 4 + classes, places)`, of which the first class is a face.

use understudy_media::Image;
use understudy_media::resample::OpenCv;

use crate::detect::{Array, Found, Network, Values, keep_apart, planes};
use crate::error::{Error, Result};
use crate::faces::{Face, FaceDetector};

/// The longer side of the picture it looks at; sides are multiples of the stride.
const SIDE: usize = 640;
const STRIDE: usize = 32;
const GREY: [u8; 3] = [114; 3];
const LEAST_SCORE: f32 = 0.2;
const OVERLAP: f32 = 0.4;

/// A detector of faces without landmarks, with MSRVTT-Personalization's thresholds.
pub struct Yolo<N> {
    network: N,
    side: usize,
    /// Whether it sees blue first, as the benchmark's code shows it pictures.
    blue_first: bool,
}

/// A picture in the middle of a larger one.
struct Letter {
    picture: Image,
    scale: f64,
}

impl<N: Network> Yolo<N> {
    /// One that looks at pictures of 640 pixels, blue first.
    pub fn new(network: N) -> Self {
        Self { network, side: SIDE, blue_first: true }
    }

    /// The same looking at pictures of another size, red first or blue first.
    pub fn with(self, side: usize, blue_first: bool) -> Self {
        Self { side, blue_first, ..self }
    }

    /// The picture within the smallest rectangle whose sides are multiples of the stride and whose longer
    /// side is the network's.
    fn letter(&self, picture: &Image) -> Result<Letter> {
        let [height, width] = [picture.height as f64, picture.width as f64];
        let scale = (self.side as f64 / height).min(self.side as f64 / width);
        let inner = [height, width].map(|side| ((side * scale).round_ties_even() as usize).max(1));
        let resized = OpenCv::Linear.resize(picture, inner)?;
        let [rows, columns] = inner.map(|inner| (self.side - inner) % STRIDE);
        // A tenth less, so that of an odd pixel the first half is the smaller.
        let before = |rest: usize| (rest as f64 / 2.0 - 0.1).round_ties_even().max(0.0) as usize;
        let mut out = Image::filled(inner[1] + columns, inner[0] + rows, GREY);
        out.paste(&resized, before(columns), before(rows));
        Ok(Letter { picture: out, scale })
    }
}

impl<N: Network> FaceDetector for Yolo<N> {
    fn faces(&self, picture: &Image) -> Result<Vec<Face>> {
        let letter = self.letter(picture)?;
        let mut pixels = planes(&letter.picture, |_, sample| f32::from(sample) / 255.0);
        let area = pixels.len() / 3;
        if self.blue_first {
            pixels.rotate_left(2 * area);
            pixels[area..].rotate_left(area);
        }
        let shape = [1, 3, letter.picture.height, letter.picture.width];
        let outputs = self.network.run(vec![Array::floats("", &shape, pixels)])?;
        let found = boxes(outputs.first())?;
        let back = |bounds: [f32; 4]| {
            let [width, height] = [picture.width as f64, picture.height as f64];
            // Not the whole pixels of the margin, but what is left on both sides.
            let left = (letter.picture.width as f64 - width * letter.scale) / 2.0;
            let top = (letter.picture.height as f64 - height * letter.scale) / 2.0;
            let at = |value: f32, margin: f64, side: f64| {
                ((f64::from(value) - margin) / letter.scale).clamp(0.0, side).round_ties_even()
            };
            [
                at(bounds[0], left, width),
                at(bounds[1], top, height),
                at(bounds[2], left, width),
                at(bounds[3], top, height),
            ]
        };
        let kept = keep_apart(&found, OVERLAP, 0.0).into_iter().map(|at| Face {
            landmarks: None,
            bounds: Some(back(found[at].bounds)),
            score: f64::from(found[at].score),
        });
        Ok(kept.collect())
    }
}

/// The faces in an output, in pixels of the picture that went in.
fn boxes(output: Option<&Array>) -> Result<Vec<Found>> {
    let fault = |shape: &[usize]| Error::Network {
        reason: format!("its first output has shape {shape:?}, where a YOLO has (1, 4 + classes, places)"),
    };
    let Some(Array { shape, values: Values::Floats(values), .. }) = output else { return Err(fault(&[])) };
    let &[1, rows, places] = shape.as_slice() else { return Err(fault(shape)) };
    if rows < 5 || values.len() != rows * places {
        return Err(fault(shape));
    }
    let at = |row: usize, place: usize| values[row * places + place];
    let one = |place: usize| {
        let best = (4..rows).max_by(|a, b| at(*a, place).total_cmp(&at(*b, place)).then(b.cmp(a)))?;
        let score = at(best, place);
        // Other classes than the first are no faces.
        (best == 4 && score > LEAST_SCORE).then(|| {
            let [x, y, width, height] = [0, 1, 2, 3].map(|row| at(row, place));
            let bounds = [x - width / 2.0, y - height / 2.0, x + width / 2.0, y + height / 2.0];
            Found { bounds, score }
        })
    };
    Ok((0..places).filter_map(one).collect())
}
