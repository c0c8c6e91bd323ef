//! Pictures whose files say that their numbers are not sRGB's.
#![allow(clippy::unwrap_used)]

mod common;

use std::io::Cursor;
use std::path::Path;

use common::put;
use image::codecs::{jpeg::JpegEncoder, png::PngEncoder, tiff::TiffEncoder, webp::WebPEncoder};
use image::{ExtendedColorType, ImageEncoder};
use moxcms::{ColorProfile, Layout, TransformOptions};
use understudy_media::{Image, Picture, SubjectFolder};

const SIDE: usize = 48;

/// A card of flat colours, so that lossy formats keep them.
fn card() -> Image {
    const COLORS: [[u8; 3]; 9] = [
        [200, 40, 40],
        [40, 180, 60],
        [50, 70, 200],
        [230, 200, 40],
        [128, 128, 128],
        [20, 20, 20],
        [240, 240, 240],
        [180, 90, 160],
        [90, 160, 170],
    ];
    Image::from_fn(SIDE, SIDE, |x, y| COLORS[y / 16 * 3 + x / 16])
}

/// Its numbers in another space.
fn in_space(profile: &ColorProfile) -> Vec<u8> {
    let options = TransformOptions { prefer_fixed_point: false, ..TransformOptions::default() };
    let transform =
        ColorProfile::new_srgb().create_transform_8bit(Layout::Rgb, profile, Layout::Rgb, options).unwrap();
    let mut rgb = vec![0; SIDE * SIDE * 3];
    transform.transform(&card().rgb, &mut rgb).unwrap();
    rgb
}

/// Files of these numbers with a profile, in every format that has such.
fn tagged(rgb: &[u8], icc: &[u8]) -> [(&'static str, Vec<u8>); 4] {
    let side = SIDE as u32;
    let (mut png, mut jpeg, mut webp, mut tiff) = (vec![], vec![], vec![], Cursor::new(vec![]));
    macro_rules! write {
        ($encoder:expr) => {{
            let mut encoder = $encoder;
            encoder.set_icc_profile(icc.to_vec()).unwrap();
            encoder.write_image(rgb, side, side, ExtendedColorType::Rgb8).unwrap();
        }};
    }
    write!(PngEncoder::new(&mut png));
    write!(JpegEncoder::new_with_quality(&mut jpeg, 100));
    write!(WebPEncoder::new_lossless(&mut webp));
    write!(TiffEncoder::new(&mut tiff));
    [("a.png", png), ("a.jpg", jpeg), ("a.webp", webp), ("a.tif", tiff.into_inner())]
}

fn furthest(found: &Image, expected: &Image) -> u8 {
    // The middle of each field: a JPEG's edges bleed.
    let middles = (0..9).map(|at| (at % 3 * 16 + 8, at / 3 * 16 + 8));
    middles
        .flat_map(|(x, y)| (0..3).map(move |c| (x, y, c)))
        .map(|(x, y, c)| found.pixel(x, y)[c].abs_diff(expected.pixel(x, y)[c]))
        .max()
        .unwrap()
}

fn notes(path: &Path) -> Vec<String> {
    SubjectFolder::open(path).unwrap().items[0].notes.iter().map(|note| note.text.clone()).collect()
}

#[test]
fn profiles_are_converted_in_every_format() {
    let folder = tempfile::tempdir().unwrap();
    for profile in
        [ColorProfile::new_display_p3(), ColorProfile::new_adobe_rgb(), ColorProfile::new_pro_photo_rgb()]
    {
        let rgb = in_space(&profile);
        let raw = Image::new(SIDE, SIDE, rgb.clone()).unwrap();
        assert!(furthest(&raw, &card()) > 10);
        for (name, bytes) in tagged(&rgb, &profile.encode().unwrap()) {
            let path = put(folder.path(), name, &bytes);
            let found = Picture::open(&path).unwrap().image;
            // A JPEG rounds in a space that is wider.
            let most = if name == "a.jpg" { 6 } else { 3 };
            assert!(furthest(&found, &card()) <= most, "{name}: {}", furthest(&found, &card()));
            assert_eq!(notes(&path), [""; 0]);
        }
    }
}

#[test]
fn srgb_stays_as_it_is_and_a_broken_profile_is_said() {
    let folder = tempfile::tempdir().unwrap();
    let srgb = ColorProfile::new_srgb().encode().unwrap();
    for (name, bytes) in tagged(&card().rgb, &srgb) {
        let found = Picture::open(put(folder.path(), name, &bytes)).unwrap().image;
        assert!(name == "a.jpg" || found == card(), "{name}");
        assert!(furthest(&found, &card()) <= 2, "{name}");
    }
    for (name, bytes) in tagged(&card().rgb, &srgb[..100]).into_iter().chain(tagged(&card().rgb, &[7; 400])) {
        let path = put(folder.path(), name, &bytes);
        assert!(furthest(&Picture::open(&path).unwrap().image, &card()) <= 2, "{name}");
        assert!(notes(&path)[0].contains("profile is damaged"), "{name}: {:?}", notes(&path));
    }
}

#[test]
fn a_gray_profile_is_for_gray_pictures() {
    let folder = tempfile::tempdir().unwrap();
    let icc = ColorProfile::new_gray_with_gamma(1.0).encode().unwrap();
    let mut png = vec![];
    let mut encoder = PngEncoder::new(&mut png);
    encoder.set_icc_profile(icc).unwrap();
    encoder.write_image(&[55; 32 * 32], 32, 32, ExtendedColorType::L8).unwrap();
    // A linear 0.216 is sRGB's middle gray.
    let found = Picture::open(put(folder.path(), "a.png", &png)).unwrap().image.pixel(5, 5);
    assert!(found.iter().all(|sample| sample.abs_diff(128) <= 2), "{found:?}");
}

/// A PNG with a chunk of its own before the pixels.
fn with_chunk(rgb: &[u8], chunks: &[(&[u8; 4], &[u8])]) -> Vec<u8> {
    let mut png = vec![];
    let side = SIDE as u32;
    PngEncoder::new(&mut png).write_image(rgb, side, side, ExtendedColorType::Rgb8).unwrap();
    let (head, rest) = png.split_at(33);
    let chunk = |(kind, data): &(&[u8; 4], &[u8])| {
        let body = [&kind[..], data].concat();
        let crc = body.iter().fold(!0u32, |crc, byte| {
            (0..8)
                .fold(crc ^ u32::from(*byte), |c, _| if c & 1 == 1 { 0xedb8_8320 ^ (c >> 1) } else { c >> 1 })
        });
        [&(data.len() as u32).to_be_bytes()[..], &body, &(!crc).to_be_bytes()].concat()
    };
    [head, &chunks.iter().flat_map(chunk).collect::<Vec<u8>>(), rest].concat()
}

#[test]
fn a_png_names_its_space_by_numbers() {
    let folder = tempfile::tempdir().unwrap();
    let read = |bytes: &[u8]| Picture::open(put(folder.path(), "a.png", bytes)).unwrap().image;
    let p3 = in_space(&ColorProfile::new_display_p3());
    assert!(furthest(&read(&with_chunk(&p3, &[(b"cICP", &[12, 13, 0, 1])])), &card()) <= 3);
    assert_eq!(read(&with_chunk(&card().rgb, &[(b"cICP", &[1, 13, 0, 1])])), card());
    // Linear numbers.
    let linear = |sample: &u8| {
        let unit = f64::from(*sample) / 255.0;
        let unit = if unit <= 0.04045 { unit / 12.92 } else { ((unit + 0.055) / 1.055).powf(2.4) };
        (unit * 255.0).round() as u8
    };
    let numbers: Vec<u8> = card().rgb.iter().map(linear).collect();
    let gamma = 100_000_u32.to_be_bytes();
    assert!(furthest(&read(&with_chunk(&numbers, &[(b"gAMA", &gamma)])), &card()) <= 6);
    // sRGB's own gamma, with and without saying so, is sRGB.
    let gamma = 45_455_u32.to_be_bytes();
    assert_eq!(read(&with_chunk(&card().rgb, &[(b"gAMA", &gamma)])), card());
    assert_eq!(read(&with_chunk(&card().rgb, &[(b"sRGB", &[0]), (b"gAMA", &[0, 1, 0x86, 0xa0])])), card());
    let srgb =
        [31_270, 32_900, 64_000, 33_000, 30_000, 60_000, 15_000, 6_000_u32].map(u32::to_be_bytes).concat();
    assert_eq!(read(&with_chunk(&card().rgb, &[(b"gAMA", &gamma), (b"cHRM", &srgb)])), card());
    let p3_primaries =
        [31_270, 32_900, 68_000, 32_000, 26_500, 69_000, 15_000, 6_000_u32].map(u32::to_be_bytes).concat();
    assert!(furthest(&read(&with_chunk(&p3, &[(b"gAMA", &gamma), (b"cHRM", &p3_primaries)])), &card()) <= 3);
    // Video's own gamma is that of what is shown as it is, in the primaries of either norm.
    let gamma = 50_994_u32.to_be_bytes();
    let ntsc =
        [31_270, 32_900, 63_000, 34_000, 31_000, 59_500, 15_500, 7_000_u32].map(u32::to_be_bytes).concat();
    for chunks in [
        &[(b"gAMA", &gamma[..])][..],
        &[(b"cHRM", &srgb[..]), (b"gAMA", &gamma)],
        &[(b"cHRM", &ntsc), (b"gAMA", &gamma)],
        &[(b"cICP", &[6, 6, 0, 1])],
        &[(b"cICP", &[1, 14, 0, 1])],
        &[(b"cICP", &[2, 2, 0, 1])],
    ] {
        assert_eq!(read(&with_chunk(&card().rgb, chunks)), card(), "{chunks:?}");
    }
    assert!(furthest(&read(&with_chunk(&p3, &[(b"cHRM", &p3_primaries), (b"gAMA", &gamma)])), &card()) <= 3);
    // Apple's old one is not.
    let old = 55_556_u32.to_be_bytes();
    assert!(furthest(&read(&with_chunk(&card().rgb, &[(b"gAMA", &old)])), &card()) > 10);
    // What is for HDR screens is said.
    let path = put(folder.path(), "b.png", &with_chunk(&card().rgb, &[(b"cICP", &[9, 16, 0, 1])]));
    assert!(notes(&path)[0].contains("PQ"), "{:?}", notes(&path));
}

#[test]
fn sixteen_bits_and_turned_pictures_are_converted_too() {
    let folder = tempfile::tempdir().unwrap();
    let rgb = in_space(&ColorProfile::new_display_p3());
    let icc = ColorProfile::new_display_p3().encode().unwrap();
    let wide: Vec<u8> = rgb.iter().flat_map(|sample| (u16::from(*sample) * 257).to_ne_bytes()).collect();
    let mut png = vec![];
    let mut encoder = PngEncoder::new(&mut png);
    encoder.set_icc_profile(icc.clone()).unwrap();
    // Orientation 6: turn a quarter clockwise to see it upright.
    let exif = b"MM\0\x2a\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0";
    encoder.set_exif_metadata(exif.to_vec()).unwrap();
    encoder.write_image(&wide, SIDE as u32, SIDE as u32, ExtendedColorType::Rgb16).unwrap();
    let found = Picture::open(put(folder.path(), "a.png", &png)).unwrap().image;
    let turned = Image::from_fn(SIDE, SIDE, |x, y| card().pixel(y, SIDE - 1 - x));
    assert!(furthest(&found, &turned) <= 3, "{}", furthest(&found, &turned));
}

#[test]
fn a_profile_of_greys_says_nothing_of_colours() {
    let folder = tempfile::tempdir().unwrap();
    let grey = ColorProfile::new_gray_with_gamma(2.2).encode().unwrap();
    let (_, png) = tagged(&card().rgb, &grey).into_iter().next().unwrap();
    let path = put(folder.path(), "a.png", &png);
    assert_eq!(Picture::open(&path).unwrap().image, card());
    assert!(notes(&path)[0].contains("for other pictures"), "{:?}", notes(&path));
}
