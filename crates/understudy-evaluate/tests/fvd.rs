//! I3D and FVD against PyTorch and scipy (`oracle/i3d.py`).
#![allow(clippy::unwrap_used)]

use std::path::{Path, PathBuf};

use burn::tensor::Device;
use understudy_engine::safetensors::Checkpoint;
use understudy_evaluate::{Covariance, I3dJudge, VideoEmbedder, frechet_distance_with};
use understudy_media::{Image, Picture};

const FILES: [(&str, &str); 2] = [("kinetics", "i3d_torchscript.pt"), ("videogpt", "i3d_pretrained_400.pt")];
const FRAMES: [usize; 3] = [16, 13, 9];

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../oracle/golden/i3d").join(name)
}

fn clip(index: usize) -> Vec<Image> {
    let frame = |at: usize| Picture::open(golden(&format!("{index}/{at:02}.png"))).unwrap().image;
    (0..FRAMES[index]).map(frame).collect()
}

fn io() -> Checkpoint {
    Checkpoint::open(&golden("io.safetensors"), &Device::flex()).unwrap()
}

#[test]
fn features_are_those_of_both_ports() {
    let expected = io();
    for (port, file) in FILES {
        for (index, frames) in FRAMES.into_iter().enumerate() {
            let judge = I3dJudge::open(&golden(file), frames, &Device::flex()).unwrap();
            let found = judge.features(&clip(index)).unwrap();
            let (expected, _) = expected.values(&format!("{index}.{port}")).unwrap();
            let square = |values: &mut dyn Iterator<Item = f32>| values.map(|x| x * x).sum::<f32>().sqrt();
            let error = square(&mut found.iter().zip(&expected).map(|(a, b)| a - b))
                / square(&mut expected.iter().copied());
            assert!(found.len() == expected.len() && error < 1e-4, "{port} {index}: {error}");
        }
    }
}

#[test]
fn what_an_i3d_cannot_look_at_is_an_error() {
    let open = |file: &str, frames| I3dJudge::open(&golden(file), frames, &Device::flex());
    let message = open(FILES[0].1, 8).unwrap_err().to_string();
    assert!(message.contains("at least 9 frames") && message.contains("i3d_torchscript.pt"), "{message}");
    let message = open("io.safetensors", 16).unwrap_err().to_string();
    assert!(message.contains("Conv3d_1a_7x7"), "{message}");
    let judge = open(FILES[1].1, 16).unwrap();
    assert!(judge.features(&clip(1)).unwrap_err().to_string().contains("13 given and at least 16"));
    assert_eq!(judge.name(), "fvd-videogpt-16f");
}

#[test]
fn distances_are_those_of_scipy() {
    let io = io();
    let text = std::fs::read_to_string(golden("case.json")).unwrap();
    let case: serde_json::Value = serde_json::from_str(&text).unwrap();
    // Nine vectors in twelve dimensions have singular covariances.
    for name in ["many", "few"] {
        let [a, b] = ["a", "b"].map(|set| {
            let (values, shape) = io.values(&format!("{name}.{set}")).unwrap();
            values.chunks(shape[1]).map(<[f32]>::to_vec).collect::<Vec<_>>()
        });
        for (kind, key) in [(Covariance::Unbiased, "unbiased"), (Covariance::Biased, "biased")] {
            let found = frechet_distance_with(&a, &b, kind).unwrap();
            let expected = case[name][key].as_f64().unwrap();
            assert!((found / expected - 1.0).abs() < 1e-6, "{name} {key}: {found} {expected}");
        }
    }
}
