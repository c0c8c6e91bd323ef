//! Face detectors laid out as published, against Python (`oracle/detectors.py`): what is made of their outputs, and, with
//! ONNX Runtime, the whole.
#![allow(clippy::unwrap_used)]

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};

use burn::tensor::Device;
use understudy_engine::safetensors::Checkpoint;
use understudy_evaluate::{Array, Face, FaceDetector, Network, Result, Scrfd, Values, Yolo};
use understudy_media::Picture;

const SIDE: usize = 64;

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../oracle/golden/detectors").join(name)
}

/// Gives the outputs that were recorded for inputs, which must be those that were recorded.
struct Recorded {
    io: Checkpoint,
    name: &'static str,
    turn: AtomicUsize,
}

impl Recorded {
    fn new(name: &'static str) -> Self {
        let io = Checkpoint::open(&golden("io.safetensors"), &Device::flex()).unwrap();
        Self { io, name, turn: AtomicUsize::new(0) }
    }
}

impl Network for Recorded {
    fn run(&self, inputs: Vec<Array>) -> Result<Vec<Array>> {
        let name = format!("{}.{}", self.name, self.turn.fetch_add(1, Ordering::Relaxed));
        let (expected, shape) = self.io.values(&format!("{name}.input")).unwrap();
        let Values::Floats(found) = &inputs[0].values else { panic!("no floats") };
        assert_eq!(inputs[0].shape, shape);
        let worst = found.iter().zip(&expected).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        assert!(worst < 1e-6, "{name}: {worst}");
        let outputs = (0..).map_while(|at| self.io.values(&format!("{name}.output{at:02}")).ok());
        Ok(outputs.map(|(values, shape)| Array::floats("", &shape, values)).collect())
    }
}

/// That `detector` finds the faces Python found.
fn check(detector: &dyn FaceDetector, name: &str) {
    let text = std::fs::read_to_string(golden(&format!("{name}.json"))).unwrap();
    let expected: Vec<Vec<Face>> = serde_json::from_str(&text).unwrap();
    for (index, expected) in expected.iter().enumerate() {
        let picture = Picture::open(golden(&format!("{index}.png"))).unwrap().image;
        let found = detector.faces(&picture).unwrap();
        assert_eq!(found.len(), expected.len(), "{name} {index}");
        for (found, expected) in found.iter().zip(expected) {
            let values = |face: &Face| -> Vec<f64> {
                let places = face.landmarks.iter().flatten().flatten();
                places.chain(face.bounds.iter().flatten()).chain([&face.score]).copied().collect()
            };
            for (found, expected) in values(found).iter().zip(values(expected)) {
                assert!((found - expected).abs() < 1e-4, "{name} {index}: {found} {expected}");
            }
        }
    }
}

#[test]
fn faces_are_those_of_insightface_and_yolo() {
    check(&Scrfd::new(Recorded::new("scrfd")).with_side(SIDE).unwrap(), "scrfd");
    check(&Yolo::new(Recorded::new("yolo")).with(SIDE, true), "yolo");
}

#[test]
fn another_network_is_no_face_detector() {
    let picture = Picture::open(golden("0.png")).unwrap().image;
    let message = Scrfd::new(Recorded::new("scrfd")).with_side(60).err().unwrap().to_string();
    assert!(message.contains("multiple of 32"), "{message}");
    struct Nothing;
    impl Network for Nothing {
        fn run(&self, _: Vec<Array>) -> Result<Vec<Array>> {
            Ok(vec![Array::integers("x", &[2], vec![1, 2])])
        }
    }
    let message = Scrfd::new(Nothing).faces(&picture).unwrap_err().to_string();
    assert!(message.contains("1 outputs"), "{message}");
    let message = Yolo::new(Nothing).faces(&picture).unwrap_err().to_string();
    assert!(message.contains("[]"), "{message}");
}

/// Where ONNX Runtime is installed: `ORT_DYLIB_PATH=... cargo test --features onnx -- --ignored`.
#[cfg(feature = "onnx")]
#[test]
#[ignore = "needs ONNX Runtime's library"]
fn onnx_files_run() {
    use understudy_evaluate::Onnx;
    let open = |name: &str| Onnx::open(&golden(name)).unwrap();
    check(&Scrfd::new(open("scrfd.onnx")).with_side(SIDE).unwrap(), "scrfd");
    check(&Yolo::new(open("yolo.onnx")).with(SIDE, true), "yolo");
    let message = Onnx::open(&golden("0.png")).err().unwrap().to_string();
    assert!(message.contains("0.png") && !message.contains('\n'), "{message}");
}
