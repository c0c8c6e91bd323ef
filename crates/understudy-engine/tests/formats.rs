//! Weights as people share them, against what PyTorch and gguf read; see `oracle/formats.py`.
#![allow(clippy::unwrap_used)]

use std::path::PathBuf;

use burn::tensor::Device;
use understudy_engine::safetensors::Checkpoint;

fn path(file: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../oracle/golden/formats").join(file)
}

fn open(file: &str) -> Checkpoint {
    Checkpoint::open(&path(file), &Device::flex()).unwrap()
}

#[test]
fn eight_bit_floats_with_and_without_scales() {
    let (found, expected) = (open("eight_bits.safetensors"), open("io.safetensors"));
    let names = ["e4m3", "e5m2", "blocks.0.ffn.0.weight", "blocks.1.ffn.0.weight"];
    let mut own: Vec<String> = found.infos().into_iter().map(|info| info.name).collect();
    own.sort();
    let mut all = names.map(str::to_owned);
    all.sort();
    assert_eq!(own, all);
    for name in names {
        assert_eq!(found.values(name).unwrap(), expected.values(name).unwrap(), "{name}");
    }
}

#[test]
fn quantized_blocks() {
    let (found, expected) = (open("quantized.gguf"), open("io.safetensors"));
    assert_eq!(found.metadata()["general.name"], "a tiny one");
    let infos = found.infos();
    assert_eq!(infos.len(), 13);
    for info in infos {
        let ((values, shape), (wanted, wanted_shape)) =
            (found.values(&info.name).unwrap(), expected.values(&info.name).unwrap());
        assert_eq!(shape, wanted_shape, "{}", info.name);
        for (index, (a, b)) in values.iter().zip(&wanted).enumerate() {
            assert!((a - b).abs() <= 1e-6 * b.abs().max(1.0), "{} {index}: {a} {b}", info.name);
        }
    }
}

/// Whatever is changed in a file, reading it ends in an error or in tensors, not in a crash.
#[test]
fn damaged_files_are_errors() {
    let device = Device::flex();
    let folder = tempfile::tempdir().unwrap();
    for file in ["quantized.gguf", "eight_bits.safetensors"] {
        let whole = std::fs::read(path(file)).unwrap();
        let target = folder.path().join(file);
        let header = 1400.min(whole.len());
        for at in (0..header).step_by(3) {
            for value in [0, 1, 0x7f, 0xff] {
                let mut bytes = whole.clone();
                bytes[at] = value;
                std::fs::write(&target, &bytes).unwrap();
                let Ok(checkpoint) = Checkpoint::open(&target, &device) else { continue };
                for info in checkpoint.infos() {
                    // Either is fine.
                    let _ = checkpoint.values(&info.name);
                }
            }
        }
        for length in (0..whole.len()).step_by(97) {
            std::fs::write(&target, &whole[..length]).unwrap();
            let message = Checkpoint::open(&target, &device).map(|_| ()).unwrap_err().to_string();
            assert!(message.contains(file) && !message.contains('\n'), "{message}");
        }
    }
}
