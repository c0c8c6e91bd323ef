//! Synthetic clips and the tools of every test.
#![allow(dead_code, clippy::unwrap_used)]

use std::path::Path;

use understudy_media::{Image, Video};

/// A smooth clip with motion: drifting colour waves.
pub fn waves(width: usize, height: usize, frames: usize, fps: f64) -> Video {
    let wave = |x: f64| ((x.sin() * 0.5 + 0.5) * 220.0 + 16.0) as u8;
    let frame = |t: usize| {
        Image::from_fn(width, height, |x, y| {
            let (x, y, t) = (x as f64, y as f64, t as f64);
            [wave(x * 0.06 + t * 0.15), wave(y * 0.07 - t * 0.1 + 1.0), wave((x + y) * 0.04 + t * 0.05 + 2.0)]
        })
    };
    Video::new((0..frames).map(frame).collect(), fps).unwrap()
}

/// Peak signal-to-noise ratio in dB over the area both pictures have.
pub fn psnr(a: &Image, b: &Image) -> f64 {
    let (width, height) = (a.width.min(b.width), a.height.min(b.height));
    let mut squares = 0.0;
    for y in 0..height {
        for x in 0..width {
            let difference = |c: usize| f64::from(a.pixel(x, y)[c]) - f64::from(b.pixel(x, y)[c]);
            squares += (0..3).map(|c| difference(c).powi(2)).sum::<f64>();
        }
    }
    10.0 * (255.0f64.powi(2) / (squares / (width * height * 3) as f64).max(1e-9)).log10()
}

/// What lies in a folder, sorted.
pub fn names(folder: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(folder).unwrap();
    let mut names: Vec<_> = entries.map(|e| e.unwrap().file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

/// A small deterministic generator (SplitMix64) for damage.
pub struct Random(pub u64);

impl Random {
    pub fn below(&mut self, n: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) % n as u64) as usize
    }
}

/// `path` holding `bytes`.
pub fn put(folder: &Path, name: &str, bytes: &[u8]) -> std::path::PathBuf {
    let path = folder.join(name);
    std::fs::write(&path, bytes).unwrap();
    path
}

/// A picture encoded in a format of the `image` crate.
pub fn encoded(image: &Image, format: image::ImageFormat) -> Vec<u8> {
    let buffer =
        image::RgbImage::from_raw(image.width as u32, image.height as u32, image.rgb.clone()).unwrap();
    let mut bytes = std::io::Cursor::new(Vec::new());
    buffer.write_to(&mut bytes, format).unwrap();
    bytes.into_inner()
}
