//! Image processors against transformers': `oracle/preprocess.py`.

#![allow(clippy::unwrap_used)]

use std::path::Path;

use burn::tensor::Device;
use understudy_engine::safetensors::Checkpoint;
use understudy_evaluate::Preprocess;
use understudy_media::Image;

#[test]
fn pictures_are_prepared_as_published() {
    for case in ["clip", "old", "vit", "bit", "plain"] {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("../../oracle/golden")
            .join(format!("preprocess_{case}"));
        let text = std::fs::read(folder.join("preprocessor_config.json")).unwrap();
        let preprocess = Preprocess::parse(&text, "x").unwrap();
        let golden = Checkpoint::open(&folder.join("io.safetensors"), &Device::flex()).unwrap();
        for index in 0..3 {
            let (picture, shape) = golden.values(&format!("{index}.picture")).unwrap();
            let rgb = picture.into_iter().map(|value| value as u8).collect();
            let image = Image::new(shape[1], shape[0], rgb).unwrap();
            let (planes, size) = preprocess.planes(&image).unwrap();
            let (expected, shape) = golden.values(&format!("{index}.pixel_values")).unwrap();
            assert_eq!(shape[1..], size, "{case} {index}");
            let worst = planes.iter().zip(&expected).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
            assert!(worst < 1e-5, "{case} {index}: {worst}");
        }
    }
}

#[test]
fn what_is_not_implemented_is_named() {
    let refused = |text: &str| Preprocess::parse(text.as_bytes(), "p.json").unwrap_err().to_string();
    for (text, part) in [
        (r#"{"resample": 1}"#, "resample 1"),
        (r#"{"size": {"shortest_edge": 0}}"#, "1 to 4096"),
        (r#"{"image_std": [1, 0, 1]}"#, "image_std"),
        (r#"{"size": "large"}"#, "p.json"),
    ] {
        let message = refused(text);
        assert!(message.contains(part) && !message.contains('\n'), "{message}");
    }
}
