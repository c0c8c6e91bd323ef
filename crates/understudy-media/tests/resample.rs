//! Resampling against Pillow, OpenCV and PyTorch: `oracle/resample.py`.

#![allow(clippy::unwrap_used)]

use safetensors::SafeTensors;
use understudy_media::Image;
use understudy_media::resample::{OpenCv, Pillow, Torch};

const GOLDEN: &str =
    concat!(env!("CARGO_MANIFEST_DIR"), "/../../oracle/golden/resample/resample.safetensors");

/// Runs `check` on every source with the expected result called `name` of its shape.
fn each(name: &str, check: impl Fn(&Image, [usize; 2], &[u8])) {
    let bytes = std::fs::read(GOLDEN).unwrap();
    let golden = SafeTensors::deserialize(&bytes).unwrap();
    let mut count = 0;
    while let Ok(source) = golden.tensor(&format!("{count}.source")) {
        let image = Image::new(source.shape()[1], source.shape()[0], source.data().to_vec()).unwrap();
        let expected = golden.tensor(&format!("{count}.{name}")).unwrap();
        // Planes come first in PyTorch's.
        let size = match *expected.shape() {
            [3, height, width] if name.starts_with("torch") => [height, width],
            [height, width, _] => [height, width],
            _ => panic!("{name}: {:?}", expected.shape()),
        };
        check(&image, size, expected.data());
        count += 1;
    }
    assert!(count >= 10, "{count}");
}

fn same(name: &str, resize: impl Fn(&Image, [usize; 2]) -> Image) {
    each(name, |image, size, expected| {
        let found = resize(image, size).rgb;
        let off = found.iter().zip(expected).filter(|(found, expected)| found != expected).count();
        assert_eq!(off, 0, "{name}, {}x{} to {size:?}, of {}", image.height, image.width, expected.len());
    });
}

#[test]
fn eight_bits_are_those_of_pillow() {
    same("pillow.bilinear", |image, size| Pillow::Bilinear.resize(image, size).unwrap());
    same("pillow.bicubic", |image, size| Pillow::Bicubic.resize(image, size).unwrap());
    same("pillow.lanczos", |image, size| Pillow::Lanczos.resize(image, size).unwrap());
}

#[test]
fn eight_bits_are_those_of_opencv() {
    same("opencv.linear", |image, size| OpenCv::Linear.resize(image, size).unwrap());
    same("opencv.area", |image, size| OpenCv::Area.resize(image, size).unwrap());
}

#[test]
fn numbers_are_those_of_pytorch() {
    let modes = [
        ("bilinear.plain", Torch::Bilinear),
        ("bicubic.plain", Torch::Bicubic),
        ("bilinear.antialiased", Torch::BilinearAntialiased),
        ("bicubic.antialiased", Torch::BicubicAntialiased),
    ];
    for (name, mode) in modes {
        each(&format!("torch.{name}"), |image, size, expected| {
            let planes: Vec<f32> =
                (0..3).flat_map(|lane| image.rgb[lane..].iter().step_by(3).map(|s| f32::from(*s))).collect();
            let found = mode.resize(&planes, [image.height, image.width], size);
            let expected =
                expected.chunks_exact(4).map(|bytes| f32::from_le_bytes(bytes.try_into().unwrap()));
            let worst = found.iter().zip(expected).map(|(found, expected)| (found - expected).abs());
            let worst = worst.fold(0.0, f32::max) / 255.0;
            assert!(worst < 1e-5, "{name}, {}x{} to {size:?}: {worst}", image.height, image.width);
        });
    }
}

#[test]
fn an_empty_result_is_refused() {
    let image = Image::filled(4, 3, [9; 3]);
    assert!(Pillow::Bicubic.resize(&image, [0, 4]).is_err());
    assert!(OpenCv::Area.resize(&image, [4, 0]).is_err());
}
