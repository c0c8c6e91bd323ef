//! Faces in pictures: where they are, who finds them, and how they are cut out for an ArcFace network.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use understudy_media::resample::warp_affine;
use understudy_media::{Image, Text};

use crate::error::{Error, Result};

/// Where ArcFace's networks want the eyes, the nose and the corners of the mouth in a picture of [`SIDE`].
const PLACES: [[f64; 2]; 5] =
    [[38.2946, 51.6963], [73.5318, 51.5014], [56.0252, 71.7366], [41.5493, 92.3655], [70.7299, 92.2041]];
const SIDE: f64 = 112.0;
/// Sides that are multiples of this have a margin on the left and right.
const WIDE: usize = 128;
/// What the margin is at that side.
const MARGIN: f64 = 8.0;

/// A face: insightface's `Face`.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct Face {
    /// Left eye, right eye, nose, left and right corner of the mouth, as the viewer sees them: columns and
    /// rows, pixels.
    #[serde(rename = "kps", default)]
    pub landmarks: Option<[[f64; 2]; 5]>,
    /// Left, top, right and bottom, pixels.
    #[serde(rename = "bbox", default)]
    pub bounds: Option<[f64; 4]>,
    /// How sure the detector was.
    #[serde(rename = "det_score", default = "sure")]
    pub score: f64,
}

fn sure() -> f64 {
    1.0
}

impl Face {
    /// Pixels of its box, or of that around its landmarks.
    pub fn area(&self) -> f64 {
        let [left, top, right, bottom] = self.bounds.unwrap_or_else(|| {
            let places = || self.landmarks.iter().flatten();
            let least = |axis: usize| places().map(|at| at[axis]).fold(f64::MAX, f64::min);
            let most = |axis: usize| places().map(|at| at[axis]).fold(f64::MIN, f64::max);
            [least(0), least(1), most(0), most(1)]
        });
        (right - left).max(0.0) * (bottom - top).max(0.0)
    }

    /// The face turned upright and cut out of `picture` with its landmarks where ArcFace's networks want
    /// them, in a square of `side`: insightface's `norm_crop`.
    ///
    /// # Errors
    /// When it has no landmarks, all are one point, or the picture is inconsistent.
    pub fn aligned(&self, picture: &Image, side: usize) -> Result<Image> {
        let wide = side.is_multiple_of(WIDE);
        let scale = side as f64 / if wide { WIDE as f64 } else { SIDE };
        let margin = if wide { MARGIN * scale } else { 0.0 };
        let places = PLACES.map(|[x, y]| [x * scale + margin, y * scale]);
        let matrix =
            self.landmarks.and_then(|own| similarity(&own, &places)).ok_or_else(|| Error::Frames {
                reason: format!("{:?} are no landmarks of a face; detect it again", self.landmarks),
            })?;
        Ok(warp_affine(picture, matrix, [side, side])?)
    }
}

/// The rotation, scale and shift that takes `from` nearest to `to` by least squares, as rows of `(x, y, 1)`
/// (Umeyama 1991, which in the plane needs no decomposition); `None` if all points of `from` are one.
pub fn similarity(from: &[[f64; 2]; 5], to: &[[f64; 2]; 5]) -> Option<[[f64; 3]; 2]> {
    let mean = |points: &[[f64; 2]; 5], axis: usize| points.iter().map(|at| at[axis]).sum::<f64>() / 5.0;
    let [center, target] = [from, to].map(|points| [mean(points, 0), mean(points, 1)]);
    let (mut along, mut across, mut spread) = (0.0, 0.0, 0.0);
    for (own, other) in from.iter().zip(to) {
        let [x, y] = [own[0] - center[0], own[1] - center[1]];
        let [u, v] = [other[0] - target[0], other[1] - target[1]];
        along += x * u + y * v;
        across += x * v - y * u;
        spread += x * x + y * y;
    }
    let [cosine, sine] = [along / spread, across / spread];
    let usable = spread > 0.0 && cosine.is_finite() && sine.is_finite() && cosine.hypot(sine) > 0.0;
    usable.then(|| {
        [
            [cosine, -sine, target[0] - cosine * center[0] + sine * center[1]],
            [sine, cosine, target[1] - sine * center[0] - cosine * center[1]],
        ]
    })
}

/// A network that finds faces.
pub trait FaceDetector: Send + Sync {
    /// The faces in `picture`, the surest first.
    ///
    /// # Errors
    /// When the network fails.
    fn faces(&self, picture: &Image) -> Result<Vec<Face>>;
}

/// Who says where faces are.
pub enum FaceFinder {
    /// `NAME.faces.json` or `NAME.faces.csv` beside a video or a picture.
    Files,
    /// A network.
    Network(Box<dyn FaceDetector>),
}

impl FaceFinder {
    /// The faces in each of `pictures`, which are the first frames of the video at `path`, or the picture
    /// there.
    ///
    /// # Errors
    /// When there is no file of them, it is malformed or of fewer frames, or the network fails.
    pub fn faces(&self, path: &Path, pictures: &[Image]) -> Result<Vec<Vec<Face>>> {
        match self {
            Self::Network(network) => pictures.iter().map(|picture| network.faces(picture)).collect(),
            Self::Files => {
                let file = beside(path)?;
                let fault = |reason: String| Error::Videos { path: file.display().to_string(), reason };
                let text = Text::read(&file)?.content;
                let csv = file.extension().is_some_and(|extension| extension == "csv");
                let faces = if csv { from_csv(&text, pictures.len()) } else { from_json(&text) };
                let mut faces = faces.map_err(fault)?;
                if faces.len() >= pictures.len() {
                    faces.truncate(pictures.len());
                    Ok(faces)
                } else {
                    Err(fault(format!(
                        "it has faces of {} frames, and there are {}",
                        faces.len(),
                        pictures.len()
                    )))
                }
            }
        }
    }
}

/// The file of faces beside a video or picture.
fn beside(path: &Path) -> Result<PathBuf> {
    let stem = if path.is_dir() { path.file_name() } else { path.file_stem() };
    let name = stem.unwrap_or_default().to_string_lossy();
    let files = ["json", "csv"].map(|kind| path.with_file_name(format!("{name}.faces.{kind}")));
    files.iter().find(|file| file.is_file()).cloned().ok_or_else(|| Error::Videos {
        path: path.display().to_string(),
        reason: format!("there is no {name}.faces.json or {name}.faces.csv beside it; detect its faces"),
    })
}

/// A list of frames, each a list of faces.
fn from_json(text: &str) -> Result<Vec<Vec<Face>>, String> {
    let faces: Vec<Vec<Face>> = serde_json::from_str(text).map_err(|error| error.to_string())?;
    if faces
        .iter()
        .flatten()
        .flat_map(|face| face.landmarks.iter().flatten().flatten())
        .all(|at| at.is_finite())
    {
        Ok(faces)
    } else {
        Err("a landmark is not a number".to_owned())
    }
}

/// A line a face after a heading: the frame's number from 0 on, the columns and rows of the five landmarks in
/// turn, and, if there is one more, how sure the detector was. Frames that are not there have no face.
fn from_csv(text: &str, frames: usize) -> Result<Vec<Vec<Face>>, String> {
    let mut found: BTreeMap<usize, Vec<Face>> = BTreeMap::new();
    let mut csv = csv::ReaderBuilder::new().flexible(true).trim(csv::Trim::All).from_reader(text.as_bytes());
    for record in csv.records() {
        let record = record.map_err(|error| error.to_string())?;
        // The position is where the record before ends: empty lines follow it.
        let line = || {
            let (before, rest) = text.split_at(record.position().map_or(0, |at| at.byte() as usize));
            let empty = &rest[..rest.len() - rest.trim_start().len()];
            1 + before.matches('\n').count() + empty.matches('\n').count()
        };
        if record.iter().all(str::is_empty) {
            continue;
        }
        let fault = || format!("line {}: it is not a frame and ten coordinates", line());
        let number = |cell: &str| cell.parse().ok().filter(|value: &f64| value.is_finite());
        let cells: Vec<f64> = record.iter().map(number).collect::<Option<_>>().ok_or_else(fault)?;
        let (Some(&frame), Some(places)) = (cells.first(), cells.get(1..11)) else { return Err(fault()) };
        if frame < 0.0 || frame.fract() != 0.0 || frame > f64::from(u32::MAX) {
            return Err(format!("line {}: {frame} is no frame", line()));
        }
        let landmarks = std::array::from_fn(|at| [places[2 * at], places[2 * at + 1]]);
        let score = cells.get(11).copied().unwrap_or_else(sure);
        found.entry(frame as usize).or_default().push(Face {
            landmarks: Some(landmarks),
            bounds: None,
            score,
        });
    }
    Ok((0..frames).map(|frame| found.remove(&frame).unwrap_or_default()).collect())
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn a_turned_and_shrunk_face_comes_back_upright() {
        let (sine, cosine) = 0.4_f64.sin_cos();
        let moved =
            PLACES.map(|[x, y]| [0.3 * (cosine * x - sine * y) + 7.0, 0.3 * (sine * x + cosine * y) - 2.0]);
        let [first, second] = similarity(&moved, &PLACES).unwrap();
        for (from, to) in moved.iter().zip(PLACES) {
            let found = [first, second].map(|row| row[0] * from[0] + row[1] * from[1] + row[2]);
            assert!((found[0] - to[0]).abs() < 1e-9 && (found[1] - to[1]).abs() < 1e-9);
        }
        // Never mirrored: nearest are a rotation and a scale.
        let mirrored = PLACES.map(|[x, y]| [-x, y]);
        let [first, second] = similarity(&mirrored, &PLACES).unwrap();
        assert!(first[0] * second[1] - first[1] * second[0] > 0.0);
        assert_eq!(similarity(&[[1.0, 1.0]; 5], &PLACES), None);
    }

    #[test]
    fn faces_stand_in_files_beside_a_video() {
        let folder = tempfile::tempdir().unwrap();
        let video = folder.path().join("a.mp4");
        let frames = vec![Image::filled(8, 8, [0; 3]); 3];
        let faces = || FaceFinder::Files.faces(&video, &frames);
        let message = |text: &str| {
            fs::write(folder.path().join("a.faces.csv"), text).unwrap();
            faces().unwrap_err().to_string()
        };
        assert!(faces().unwrap_err().to_string().contains("a.faces.json"));
        assert!(message("head\n0,1,2\n").contains("line 2"));
        assert!(message("head\r\n\r\n0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10\r\n0,1,x\r\n").contains("line 4"));
        assert!(message("head\n-1,1,2,3,4,5,6,7,8,9,10\n").contains("-1 is no frame"));
        fs::write(
            folder.path().join("a.faces.csv"),
            "head\n1,1,2,3,4,5,6,7,8,9,10,0.5\n1,1,2,3,2,5,6,7,8,9,14\n",
        )
        .unwrap();
        let found = faces().unwrap();
        assert_eq!(found.iter().map(Vec::len).collect::<Vec<_>>(), [0, 2, 0]);
        assert_eq!(
            (found[1][0].landmarks.unwrap()[2], found[1][0].score, found[1][0].area()),
            ([5.0, 6.0], 0.5, 64.0)
        );
        assert_eq!((found[1][1].score, found[1][1].area()), (1.0, 96.0));
        let json =
            r#"[[], [{"kps": [[1,2],[3,4],[5,6],[7,8],[9,10]], "bbox": [0,0,5,4], "det_score": 0.75}], []]"#;
        fs::write(folder.path().join("a.faces.json"), json).unwrap();
        assert_eq!((faces().unwrap()[1][0].area(), faces().unwrap()[1][0].score), (20.0, 0.75));
        fs::write(folder.path().join("a.faces.json"), "[[]]").unwrap();
        assert!(faces().unwrap_err().to_string().contains("of 1 frames, and there are 3"));
    }
}
