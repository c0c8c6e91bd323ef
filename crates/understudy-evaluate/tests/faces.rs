//! Faces cut out as insightface does, against scikit-image and OpenCV (`oracle/faces.py`).
#![allow(clippy::unwrap_used)]

use std::path::{Path, PathBuf};

use burn::tensor::Device;
use understudy_engine::safetensors::Checkpoint;
use understudy_evaluate::{FaceFinder, similarity};
use understudy_media::Picture;

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../oracle/golden/faces").join(name)
}

#[test]
fn crops_are_those_of_opencv_to_the_last_bit() {
    let io = Checkpoint::open(&golden("io.safetensors"), &Device::flex()).unwrap();
    for index in 0..2 {
        let path = golden(&format!("references/{index}.png"));
        let picture = Picture::open(&path).unwrap().image;
        let faces = FaceFinder::Files.faces(&path, std::slice::from_ref(&picture)).unwrap();
        for side in [112, 128, 224] {
            let crop = faces[0][0].aligned(&picture, side).unwrap();
            let expected = Picture::open(golden(&format!("crops/{index}.{side}.png"))).unwrap().image;
            assert!(crop == expected, "{index} {side}");
        }
        // What skimage gives, in f32.
        let places = [
            [38.2946, 51.6963],
            [73.5318, 51.5014],
            [56.0252, 71.7366],
            [41.5493, 92.3655],
            [70.7299, 92.2041],
        ];
        let matrix = similarity(&faces[0][0].landmarks.unwrap(), &places).unwrap();
        let (expected, _) = io.values(&format!("{index}.112.matrix")).unwrap();
        for (found, expected) in matrix.iter().flatten().zip(expected) {
            assert!((found - f64::from(expected)).abs() < 1e-5 * f64::from(expected.abs()).max(1.0));
        }
    }
}
