//! Face detectors laid out as published, against Python (`oracle/detectors.py`): what is made of their
//! outputs, and, with ONNX Runtime, the whole.
#![allow(clippy::unwrap_used)]

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};

use burn::tensor::Device;
use understudy_engine::safetensors::Checkpoint;
use understudy_evaluate::{
    Array, Face, FaceDetector, GroundedSam, Network, Result, Scrfd, Segmenter, Values, Yolo,
};
use understudy_media::{Image, Picture};
use understudy_pipeline::Tokenizer;

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

const WORDS: &str = r#"{"version": "1.0", "pre_tokenizer": {"type": "Whitespace"},
    "post_processor": {"type": "TemplateProcessing",
        "single": [{"SpecialToken": {"id": "[CLS]", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}},
            {"SpecialToken": {"id": "[SEP]", "type_id": 0}}], "pair": [],
        "special_tokens": {"[CLS]": {"id": "[CLS]", "ids": [1], "tokens": ["[CLS]"]},
            "[SEP]": {"id": "[SEP]", "ids": [2], "tokens": ["[SEP]"]}}},
    "model": {"type": "WordLevel", "unk_token": "[UNK]",
        "vocab": {"[PAD]": 0, "[CLS]": 1, "[SEP]": 2, ".": 3, "cat": 4, "red": 5, "ball": 6, "[UNK]": 7}}}"#;

/// The parts of a GroundingDINO and a SAM that find a cat on the left, and are not sure of the ball on the
/// right.
enum Part {
    Detector,
    Encoder,
    Decoder,
}

impl Network for Part {
    fn run(&self, inputs: Vec<Array>) -> Result<Vec<Array>> {
        let input = |name: &str| inputs.iter().find(|input| input.name == name).unwrap();
        let floats = |name: &str| match &input(name).values {
            Values::Floats(values) => values.clone(),
            Values::Integers(_) => panic!("{name}"),
        };
        Ok(match self {
            Self::Detector => {
                assert_eq!(input("pixel_values").shape, [1, 3, 800, 1200]);
                // "cat . red ball." between the two special tokens.
                assert_eq!(input("input_ids").values, Values::Integers(vec![1, 4, 3, 5, 6, 3, 2]));
                let mut logits = vec![-9.0; 3 * 256];
                [logits[1], logits[256 + 3], logits[256 + 4]] = [2.0, 1.0, 1.0];
                let boxes = vec![0.25, 0.5, 0.5, 1.0, 0.75, 0.5, 0.5, 0.5, 0.5, 0.5, 1.0, 1.0];
                vec![
                    Array::floats("logits", &[1, 3, 256], logits),
                    Array::floats("pred_boxes", &[1, 3, 4], boxes),
                ]
            }
            Self::Encoder => {
                assert_eq!(inputs[0].shape, [1, 3, 1024, 1024]);
                vec![Array::floats("embedding", &[1, 1, 1, 1], vec![0.5])]
            }
            Self::Decoder => {
                assert_eq!(floats("image_embeddings"), [0.5]);
                assert_eq!(floats("point_labels"), [2.0, 3.0]);
                let corners = floats("point_coords");
                let left = corners[0] < 1.0;
                if left {
                    // Half of 1024 pixels for half of 60, and 683 for 40.
                    assert!((corners[2] - 512.0).abs() < 1e-3 && (corners[3] - 683.0).abs() < 1e-3);
                }
                let logit = |at: usize| if at % 60 < 20 { 3.0 } else { -3.0 };
                vec![
                    Array::floats("masks", &[1, 1, 40, 60], (0..2400).map(logit).collect()),
                    Array::floats("iou_predictions", &[1, 1], vec![if left { 0.95 } else { 0.85 }]),
                ]
            }
        })
    }
}

#[test]
fn a_word_is_found_by_its_box_and_cut_out_by_its_mask() {
    let words = Tokenizer::from_bytes(WORDS.as_bytes(), "x").unwrap();
    let network = GroundedSam::new(Part::Detector, words, [Part::Encoder, Part::Decoder]);
    let picture = Image::filled(60, 40, [9; 3]);
    let found = network.segments(&picture, &["cat".to_owned(), "Red ball".to_owned()]).unwrap();
    let cat = found[0].as_ref().unwrap();
    assert_eq!(cat.bounds, [0, 0, 30, 40]);
    let shown = |x: usize| cat.cut_out(&picture).pixel(5 + x, 7) == [9; 3];
    assert!(shown(0) && shown(19) && !shown(20));
    assert_eq!(found[1], None);
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
