//! Who finds faces and subjects, as `--faces`, `--yolo`, `--grounding-dino` and `--sam` name them: files
//! beside each video, or networks in ONNX files where the program is built to run them.

use std::path::Path;

use anyhow::Result;
use understudy_evaluate::{FaceFinder, SubjectFinder};

/// What stands for files beside each video.
const LANDMARKS: &str = "landmarks";

/// Who finds the faces of `--faces`.
///
/// # Errors
/// When its network cannot be opened.
pub fn faces(name: &str) -> Result<FaceFinder> {
    match name {
        LANDMARKS => Ok(FaceFinder::Files),
        file => onnx::scrfd(Path::new(file)),
    }
}

/// Who finds boxes of faces for face-s.
///
/// # Errors
/// When its network cannot be opened.
pub fn face_boxes(yolo: Option<&Path>) -> Result<FaceFinder> {
    yolo.map_or(Ok(FaceFinder::Files), onnx::yolo)
}

/// Who finds subjects for subj-s.
///
/// # Errors
/// When a network cannot be opened.
pub fn subjects(networks: Option<[&Path; 2]>) -> Result<SubjectFinder> {
    networks.map_or(Ok(SubjectFinder::Files), onnx::grounded)
}

#[cfg(feature = "onnx")]
mod onnx {
    use std::path::Path;

    use anyhow::{Context as _, Result};
    use understudy_evaluate::{FaceFinder, GroundedSam, Onnx, Scrfd, SubjectFinder, Yolo};
    use understudy_pipeline::Tokenizer;

    pub fn scrfd(file: &Path) -> Result<FaceFinder> {
        Ok(FaceFinder::Network(Box::new(Scrfd::new(Onnx::open(file).context("--faces")?))))
    }

    pub fn yolo(file: &Path) -> Result<FaceFinder> {
        Ok(FaceFinder::Network(Box::new(Yolo::new(Onnx::open(file).context("--yolo")?))))
    }

    /// A folder of a GroundingDINO with its tokenizer, and one of a SAM.
    pub fn grounded([dino, sam]: [&Path; 2]) -> Result<SubjectFinder> {
        let words = dino.join("tokenizer.json");
        let name = words.display().to_string();
        let bytes = std::fs::read(&words).with_context(|| format!("--grounding-dino {name}"))?;
        let detector = Onnx::open(&dino.join("model.onnx")).context("--grounding-dino")?;
        let part = |name: &str| Onnx::open(&sam.join(name)).context("--sam");
        let parts = [part("encoder.onnx")?, part("decoder.onnx")?];
        let found = GroundedSam::new(detector, Tokenizer::from_bytes(&bytes, &name)?, parts);
        Ok(SubjectFinder::Network(Box::new(found)))
    }
}

#[cfg(not(feature = "onnx"))]
mod onnx {
    use std::path::Path;

    use anyhow::{Result, bail};
    use understudy_evaluate::{FaceFinder, SubjectFinder};

    fn not_here<T>(file: &Path) -> Result<T> {
        bail!(
            "{}: this program runs no ONNX files; build it with --features onnx, or give what is found as files",
            file.display()
        )
    }

    pub fn scrfd(file: &Path) -> Result<FaceFinder> {
        not_here(file)
    }

    pub fn yolo(file: &Path) -> Result<FaceFinder> {
        not_here(file)
    }

    pub fn grounded([dino, _]: [&Path; 2]) -> Result<SubjectFinder> {
        not_here(dino)
    }
}
