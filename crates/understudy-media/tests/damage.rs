//! Truncated and damaged files: an error that names the file, never a panic, never a silent half picture.
#![allow(clippy::unwrap_used)]

mod common;

use common::{Random, encoded, put, waves};
use image::ImageFormat;
use understudy_media::{Image, Picture, Video, WriteOptions};

fn pictures() -> Vec<(&'static str, Vec<u8>)> {
    let image = &waves(48, 40, 1, 8.0).frames[0];
    [
        ("a.png", ImageFormat::Png),
        ("a.jpg", ImageFormat::Jpeg),
        ("a.webp", ImageFormat::WebP),
        ("a.bmp", ImageFormat::Bmp),
        ("a.tif", ImageFormat::Tiff),
    ]
    .map(|(name, format)| (name, encoded(image, format)))
    .into()
}

fn clips() -> Vec<(&'static str, Vec<u8>)> {
    let folder = tempfile::tempdir().unwrap();
    ["a.mp4", "a.gif", "a.webp"]
        .map(|name| {
            let path = folder.path().join(name);
            waves(48, 32, 4, 8.0).write(&path, &WriteOptions::default()).unwrap();
            (name, std::fs::read(path).unwrap())
        })
        .into()
}

#[test]
fn truncated_pictures_are_errors_at_every_cut() {
    let folder = tempfile::tempdir().unwrap();
    for (name, bytes) in pictures() {
        for cut in 0..bytes.len() {
            let path = put(folder.path(), name, &bytes[..cut]);
            let error = Picture::open(&path).expect_err(&format!("{name} cut at {cut} of {}", bytes.len()));
            assert!(error.to_string().starts_with(&path.display().to_string()), "{error}");
        }
        Picture::open(put(folder.path(), name, &bytes)).unwrap();
        let with_tail = [bytes.as_slice(), b"trailing bytes"].concat();
        Picture::open(put(folder.path(), name, &with_tail)).unwrap();
    }
}

#[test]
fn truncated_clips_are_errors_at_every_cut() {
    let folder = tempfile::tempdir().unwrap();
    for (name, bytes) in clips() {
        let step = (bytes.len() / 200).max(1);
        for cut in (0..bytes.len()).step_by(step).chain([bytes.len() - 1]) {
            let path = put(folder.path(), name, &bytes[..cut]);
            let error = Video::read(&path).expect_err(&format!("{name} cut at {cut} of {}", bytes.len()));
            assert!(error.to_string().starts_with(&path.display().to_string()), "{error}");
        }
        assert_eq!(Video::read(put(folder.path(), name, &bytes)).unwrap().frames.len(), 4);
    }
}

#[test]
fn flipped_bytes_never_panic() {
    let folder = tempfile::tempdir().unwrap();
    let mut random = Random(7);
    for (name, bytes) in pictures() {
        for _ in 0..600 {
            let mut damaged = bytes.clone();
            for _ in 0..1 + random.below(4) {
                let at = random.below(damaged.len());
                damaged[at] ^= 1 << random.below(8);
            }
            let _ = Picture::open(put(folder.path(), name, &damaged));
        }
    }
    for (name, bytes) in clips() {
        for _ in 0..400 {
            let mut damaged = bytes.clone();
            for _ in 0..1 + random.below(4) {
                let at = random.below(damaged.len());
                damaged[at] = random.below(256) as u8;
            }
            let path = put(folder.path(), name, &damaged);
            // What the built-in decoder refuses is another program's, which is not tried here.
            let read = if name == "a.mp4" { Video::read_mp4(path) } else { Video::read(path) };
            if let Ok(video) = read {
                assert!(!video.frames.is_empty());
            }
        }
    }
}

/// The header of an MP4 is the dangerous part: counts, sizes and offsets. Damage falls only there.
#[test]
fn damaged_mp4_headers_never_panic_nor_allocate_absurdly() {
    let folder = tempfile::tempdir().unwrap();
    let (name, bytes) = clips().remove(0);
    let header = bytes.windows(4).position(|w| w == b"mdat").unwrap();
    let mut random = Random(11);
    for at in 0..header {
        for value in [0x00, 0xff, random.below(256) as u8] {
            let mut damaged = bytes.clone();
            damaged[at] = value;
            let _ = Video::read_mp4(put(folder.path(), name, &damaged));
        }
    }
    for at in (0..header - 4).step_by(4) {
        let mut damaged = bytes.clone();
        damaged[at..at + 4].fill(0xff);
        let _ = Video::read_mp4(put(folder.path(), name, &damaged));
    }
}

#[test]
fn a_huge_sample_count_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let (name, mut bytes) = clips().remove(0);
    let stsz = bytes.windows(4).position(|w| w == b"stsz").unwrap();
    bytes[stsz + 8..stsz + 12].copy_from_slice(&1u32.to_be_bytes()); // every sample one byte
    bytes[stsz + 12..stsz + 16].copy_from_slice(&u32::MAX.to_be_bytes()); // four milliards of them
    let error = Video::read_mp4(put(folder.path(), name, &bytes)).unwrap_err().to_string();
    assert!(error.contains(name), "{error}");
}

#[test]
fn other_files_are_told_apart() {
    let folder = tempfile::tempdir().unwrap();
    let text = |name, bytes: &[u8]| Video::read(put(folder.path(), name, bytes)).unwrap_err().to_string();
    assert!(text("a.mp4", b"hello").contains("not an MP4"));
    assert!(text("a.mp4", b"").contains("the file is empty"));
    assert!(text("a.mp4", b"version https://git-lfs.github.com/spec/v1\n").contains("git lfs pull"));
    assert!(text("a.mp4", b"\xef\xbb\xbf\r\n<!DOCTYPE html><html>").contains("a web page"));
    assert!(text("a.mp4", b"\0\0\0\x10ftypisom\0\0\0\0").contains("no `moov` box"));
    assert!(Video::read(folder.path().join("missing.mp4")).unwrap_err().to_string().contains("missing.mp4"));
    let still = put(folder.path(), "a.webp", &encoded(&Image::filled(32, 32, [9; 3]), ImageFormat::WebP));
    assert!(Video::read(still).unwrap_err().to_string().contains("no frames"));
    let (_, mp4) = clips().remove(0);
    let hevc: Vec<u8> = {
        let mut bytes = mp4.clone();
        let at = bytes.windows(4).position(|w| w == b"avcC").unwrap();
        let entry = bytes[..at].windows(4).rposition(|w| w == b"avc1").unwrap();
        bytes[entry..entry + 4].copy_from_slice(b"xxxx");
        bytes
    };
    assert!(text("a.mp4", &hevc).contains("`xxxx`, not H.264"), "{}", text("a.mp4", &hevc));
}

/// A TIFF of 16x16 pixels of 8 bits whose header says that they are to be read as `photometric`.
fn tiff(photometric: u16, samples: u16) -> Vec<u8> {
    const PIXELS: u32 = 16 * 16;
    let entry = |tag: u16, kind: u16, count: u32, value: u32| {
        [&tag.to_le_bytes()[..], &kind.to_le_bytes(), &count.to_le_bytes(), &value.to_le_bytes()].concat()
    };
    let size = PIXELS * u32::from(samples);
    // The bits of a sample, thrice, and the colours of a palette stand before the pixels.
    let (bits, palette, pixels) = (200, 206, 206 + 3 * 2 * 256);
    let all_bits = if samples == 1 { entry(258, 3, 1, 8) } else { entry(258, 3, 3, bits) };
    let mut entries = vec![
        entry(256, 3, 1, 16),
        entry(257, 3, 1, 16),
        all_bits,
        entry(259, 3, 1, 1),
        entry(262, 3, 1, photometric.into()),
        entry(273, 4, 1, pixels),
        entry(277, 3, 1, samples.into()),
        entry(278, 3, 1, 16),
        entry(279, 4, 1, size),
    ];
    if photometric == 3 {
        entries.push(entry(320, 3, 3 * 256, palette));
    }
    let count = (entries.len() as u16).to_le_bytes();
    let mut bytes = [b"II*\0\x08\0\0\0", &count[..], &entries.concat(), &[0; 4]].concat();
    bytes.resize(bits as usize, 0);
    bytes.extend([8, 0, 8, 0, 8, 0]);
    bytes.resize((pixels + size) as usize, 100);
    bytes
}

#[test]
fn kinds_of_tiff_that_are_not_read_are_not_called_damaged() {
    let folder = tempfile::tempdir().unwrap();
    let open = |photometric, samples| Picture::open(put(folder.path(), "a.tif", &tiff(photometric, samples)));
    assert_eq!(open(2, 3).unwrap().image.pixel(3, 3), [100; 3]);
    for (photometric, samples, kind) in
        [(3, 1, "with a palette"), (8, 3, "Lab colours"), (9, 3, "Lab colours")]
    {
        let error = open(photometric, samples).unwrap_err().to_string();
        assert!(error.contains(kind) && error.contains("magick") && !error.contains("damaged"), "{error}");
    }
}
