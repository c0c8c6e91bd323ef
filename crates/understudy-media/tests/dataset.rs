//! Pictures, subject folders and dataset descriptions.
#![allow(clippy::unwrap_used)]

mod common;

use common::{encoded, put, waves};
use image::ImageFormat::{Gif, Jpeg, Png, WebP};
use understudy_media::{
    Dataset, Error, FolderOptions, Image, LeftOut, Mask, MediaKind, Picture, SubjectFolder, WriteOptions,
};

fn sample() -> Image {
    waves(48, 32, 1, 8.0).frames.remove(0)
}

fn reasons(left_out: &[LeftOut]) -> Vec<(String, &str)> {
    let name = |entry: &LeftOut| entry.path.file_name().unwrap().to_string_lossy().into_owned();
    left_out.iter().map(|entry| (name(entry), entry.reason.as_str())).collect()
}

/// A PNG of this size in its header only.
fn png_header(width: u32, height: u32) -> Vec<u8> {
    let mut chunk = b"IHDR".to_vec();
    chunk.extend(width.to_be_bytes());
    chunk.extend(height.to_be_bytes());
    chunk.extend([8, 2, 0, 0, 0]);
    let crc = chunk.iter().fold(!0u32, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |c, _| if c & 1 == 1 { 0xedb8_8320 ^ (c >> 1) } else { c >> 1 })
    });
    let mut png = b"\x89PNG\r\n\x1a\n\0\0\0\x0d".to_vec();
    png.extend(chunk);
    png.extend((!crc).to_be_bytes());
    png.extend(b"\0\0\0\0IDAT\x35\xaf\x06\x1e");
    png
}

#[test]
fn limits_hold_before_decoding() {
    let folder = tempfile::tempdir().unwrap();
    for (width, height, wanted) in [
        (1, 1, "at least 16"),
        (15, 400, "at least 16"),
        (20_000, 20_000, "at most 16384"),
        (4_000_000_000, 20, "at most 16384"),
        (16_000, 16_000, "at most 100 megapixels"),
    ] {
        let path = put(folder.path(), "a.png", &png_header(width, height));
        let error = Picture::open(&path).unwrap_err().to_string();
        assert!(error.contains("a.png"), "{error}");
        let by_image_crate = width > i32::MAX as u32 && error.contains("damaged");
        assert!(error.contains(wanted) || by_image_crate, "{width}x{height}: {error}");
        assert_eq!(Picture::probe(&path).unwrap_err().to_string(), error);
    }
    let small = put(folder.path(), "b.png", &encoded(&Image::filled(16, 16, [1, 2, 3]), Png));
    assert_eq!(Picture::open(small).unwrap().image.rgb[..3], [1, 2, 3]);
}

#[test]
fn format_is_by_content_and_orientation_is_applied() {
    let folder = tempfile::tempdir().unwrap();
    let named_wrongly = put(folder.path(), "a.png", &encoded(&sample(), WebP));
    assert_eq!(Picture::open(&named_wrongly).unwrap().image, sample());
    assert_eq!(Picture::probe(&named_wrongly).unwrap().format, "WebP");

    // Orientation 6: turn a quarter clockwise to see it upright.
    let exif = b"Exif\0\0MM\0\x2a\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0";
    let jpeg = encoded(&sample(), Jpeg);
    let length = (exif.len() as u16 + 2).to_be_bytes();
    let turned = [&jpeg[..2], &[0xff, 0xe1], &length, exif, &jpeg[2..]].concat();
    let path = put(folder.path(), "b.jpg", &turned);
    let plain = Picture::open(put(folder.path(), "c.jpg", &jpeg)).unwrap().image;
    let upright = Picture::open(&path).unwrap().image;
    assert_eq!((upright.width, upright.height), (32, 48));
    assert_eq!(upright.pixel(31, 0), plain.pixel(0, 0));
    let info = Picture::probe(&path).unwrap();
    assert_eq!((info.width, info.height), (32, 48));
}

#[test]
fn transparency_becomes_the_mask() {
    let folder = tempfile::tempdir().unwrap();
    let rgba =
        image::RgbaImage::from_fn(20, 20, |x, _| image::Rgba([200, 0, 0, if x < 10 { 255 } else { 0 }]));
    let path = folder.path().join("a.png");
    rgba.save(&path).unwrap();
    let picture = Picture::open(&path).unwrap();
    let mask = picture.mask.as_ref().unwrap();
    assert_eq!((mask.alpha[0], mask.alpha[19]), (255, 0));
    assert_eq!((picture.image.pixel(0, 0), picture.image.pixel(19, 0)), ([200, 0, 0], [255; 3]));
    assert_eq!(Picture::open_over(&path, [0, 9, 0]).unwrap().image.pixel(19, 0), [0, 9, 0]);
    let opaque = put(folder.path(), "b.png", &encoded(&sample(), Png));
    assert_eq!(Picture::open(opaque).unwrap().mask, None);

    let cropped = picture.cover_crop([10, 10]).unwrap();
    assert_eq!(cropped.image.pixel(1, 5), [200, 0, 0]);
    assert_eq!((cropped.mask.unwrap().alpha[0], cropped.image.width), (255, 10));
}

#[test]
fn cover_crop_takes_the_centre_without_aliasing() {
    let thirds = Image::from_fn(90, 30, |x, _| [[255, 0, 0], [0, 255, 0], [0, 0, 255]][x / 30]);
    let middle = thirds.cover_crop([10, 10]).unwrap();
    assert_eq!(middle.pixel(5, 5), [0, 255, 0]);
    assert!((1..9).all(|x| middle.pixel(x, 5)[1] > 230), "{middle:?}");
    let checks = Image::from_fn(512, 512, |x, y| [((x + y) % 2 * 255) as u8; 3]);
    let small = checks.cover_crop([64, 32]).unwrap();
    assert!(small.rgb.iter().all(|sample| sample.abs_diff(128) < 6), "fine detail averages out");
    let flat = Image::filled(17, 33, [9, 80, 200]);
    assert_eq!(flat.cover_crop([64, 64]).unwrap(), Image::filled(64, 64, [9, 80, 200]));
    assert_eq!(sample().cover_crop([32, 48]).unwrap(), sample());
    assert!(sample().cover_crop([0, 48]).is_err());
    assert!(sample().resize([16, 70_000]).is_err());
    let video = waves(48, 32, 2, 8.0).cover_crop([16, 16]).unwrap();
    assert_eq!((video.width(), video.height()), (16, 16));
}

#[test]
fn a_folder_accounts_for_every_name() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    put(at, "b.jpg", &encoded(&sample(), Jpeg));
    put(at, "a.png", &encoded(&sample(), Png));
    put(at, "c.dat", &encoded(&sample(), WebP));
    put(at, "a.txt", "\u{feff} a cat \n".as_bytes());
    put(at, "b.txt", b"  \n");
    put(at, "a.mask.png", &encoded(&Image::filled(48, 32, [255; 3]), Png));
    put(at, "a_mask.png", &encoded(&Image::filled(48, 32, [255; 3]), Png));
    put(at, "z_mask.png", &encoded(&Image::filled(48, 32, [255; 3]), Png));
    put(at, "d.txt", b"orphan");
    put(at, "e.gif", &encoded(&sample(), Gif));
    put(at, ".DS_Store", b"x");
    put(at, "notes.md", b"# x");
    waves(32, 32, 2, 8.0).write(at.join("f.mp4"), &WriteOptions::default()).unwrap();
    std::fs::create_dir(at.join("more")).unwrap();

    let subject = SubjectFolder::open(at).unwrap();
    let names: Vec<_> = subject.items.iter().map(|i| i.path.file_name().unwrap().to_str().unwrap()).collect();
    assert_eq!(names, ["a.png", "b.jpg", "c.dat", "z_mask.png"]);
    assert!(subject.items[3].notes[0].text.contains("taken as a picture"), "{:?}", subject.items[3].notes);
    assert_eq!(subject.items[0].caption.as_deref(), Some("a cat"));
    assert_eq!(subject.items[1].caption, None);
    assert_eq!(subject.items[0].mask.as_deref(), Some(at.join("a.mask.png").as_path()));
    assert_eq!((subject.items[0].width, subject.items[0].height), (48, 32));
    assert_eq!(subject.items[0].load().unwrap().mask.unwrap().alpha, vec![255; 48 * 32]);
    assert_eq!(
        reasons(&subject.left_out),
        [
            (".DS_Store".into(), "a hidden file"),
            ("a_mask.png".into(), "a second mask of the same picture"),
            ("d.txt".into(), "a caption without a picture of its name"),
            (
                "e.gif".into(),
                "a GIF; convert it to PNG, or name it alone as the subject to learn from its frames"
            ),
            ("f.mp4".into(), "a video; name it alone as the subject to learn from its frames"),
            ("more".into(), "a folder; subfolders are not read"),
            ("notes.md".into(), "not a PNG, JPEG, WebP, BMP or TIFF picture"),
        ]
    );

    let one = SubjectFolder::open(at.join("a.png")).unwrap();
    assert_eq!(one.items, subject.items[..1]);
}

#[test]
fn unreadable_pictures_are_all_named() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    let png = encoded(&sample(), Png);
    put(at, "good.png", &png);
    put(at, "cut.png", &png[..png.len() / 2]);
    put(at, "text.jpg", b"hello");
    put(at, "empty.webp", b"");
    put(at, "tiny.png", &encoded(&Image::filled(4, 4, [0; 3]), Png));
    put(at, "odd.png", &png);
    put(at, "odd_mask.png", &encoded(&Image::filled(20, 20, [0; 3]), Png));
    put(at, "latin.png", &png);
    put(at, "latin.txt", b"\xea\xee\xf8\xea\xe0");
    let error = SubjectFolder::open(at).unwrap_err();
    let text = error.to_string();
    assert!(matches!(error, Error::UnreadablePictures { count: 6, .. }), "{text}");
    for name in ["cut.png", "text.jpg", "empty.webp", "tiny.png", "odd_mask.png", "latin.txt"] {
        assert!(text.contains(name), "{name} in {text}");
    }
    assert!(text.contains("truncated") && text.contains("the mask is 20x20 but its picture 48x32"), "{text}");
    assert!(!text.contains('\n'));

    let lenient = SubjectFolder::open_with(at, FolderOptions { strict: false }).unwrap();
    assert_eq!((lenient.items.len(), lenient.left_out.len()), (1, 6));
}

#[test]
fn a_folder_without_pictures_is_an_error() {
    let folder = tempfile::tempdir().unwrap();
    let text = || SubjectFolder::open(folder.path()).unwrap_err().to_string();
    assert!(text().contains("no usable picture") && text().contains("it is empty"), "{}", text());
    put(folder.path(), "a.txt", b"x");
    assert!(text().contains("a.txt (a caption without"), "{}", text());
    let missing = SubjectFolder::open(folder.path().join("nowhere")).unwrap_err().to_string();
    assert!(missing.contains("nowhere: cannot read"), "{missing}");
}

#[test]
fn a_mask_is_luma() {
    let folder = tempfile::tempdir().unwrap();
    let path = put(folder.path(), "m.png", &encoded(&Image::filled(16, 16, [255, 0, 0]), Png));
    assert_eq!(Mask::open(path).unwrap().alpha, [76; 256]);
}

#[test]
fn descriptions_may_begin_with_a_byte_order_mark() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    std::fs::create_dir(at.join("images")).unwrap();
    put(&at.join("images"), "a.png", &encoded(&sample(), Png));
    put(&at.join("images"), "A.TXT", b"caf\xe9");
    put(&at.join("images"), "a-masklabel.png", &encoded(&Image::filled(48, 32, [255; 3]), Png));
    let toml = put(at, "d.TOML", "\u{feff}[[datasets]]\nimage_directory = 'images'\n".as_bytes());
    let dataset = Dataset::open(toml).unwrap();
    let [item] = dataset.items.as_slice() else { panic!("{:?}", dataset.items) };
    assert_eq!(item.caption.as_deref(), Some("café"));
    assert_eq!(item.load_picture().unwrap().0.mask.unwrap().alpha, vec![255; 48 * 32]);
    assert!(dataset.notes[0].text.contains("Windows-1252"), "{:?}", dataset.notes);
    let line = "\u{feff}{\"image_path\": \"images/a.png\", \"caption\": \"a cat\"}";
    assert_eq!(Dataset::open(put(at, "d.jsonl", line.as_bytes())).unwrap().items.len(), 1);
    // As PowerShell writes it.
    let wide: Vec<u8> = line.encode_utf16().flat_map(u16::to_le_bytes).collect();
    let dataset = Dataset::open(put(at, "e.jsonl", &wide)).unwrap();
    assert_eq!((dataset.items.len(), dataset.notes.len()), (1, 1));
}

#[test]
fn musubi_toml_is_read() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    std::fs::create_dir_all(at.join("images")).unwrap();
    std::fs::create_dir_all(at.join("clips")).unwrap();
    put(&at.join("images"), "a.png", &encoded(&sample(), Png));
    put(&at.join("images"), "a.caption", b"a cat");
    put(&at.join("images"), "x.bin", b"?");
    waves(32, 32, 2, 8.0).write(at.join("clips/v.mp4"), &WriteOptions::default()).unwrap();
    put(&at.join("clips"), "v.txt", b"a dance");
    let description = put(
        at,
        "dataset.toml",
        br#"
        [general]
        resolution = [64, 48]
        caption_extension = ".caption"
        batch_size = 1
        enable_bucket = true

        [[datasets]]
        image_directory = "images"
        cache_directory = "cache"
        num_repeats = 3

        [[datasets]]
        video_directory = "clips"
        caption_extension = ".txt"
        resolution = 96
        target_frames = [1, 17]
        frame_extraction = "uniform"
        frame_sample = 4
        source_fps = 30.0
        "#,
    );
    let dataset = Dataset::open(&description).unwrap();
    let [image, video] = dataset.items.as_slice() else { panic!("{:?}", dataset.items) };
    assert_eq!((image.kind, image.num_repeats, image.resolution), (MediaKind::Image, 3, [64, 48]));
    assert_eq!(image.caption.as_deref(), Some("a cat"));
    assert_eq!(image.load_picture().unwrap().0.image, sample());
    assert_eq!((video.kind, video.resolution), (MediaKind::Video, [96, 96]));
    assert_eq!((video.caption.as_deref(), video.enable_bucket), (Some("a dance"), Some(true)));
    assert_eq!(reasons(&dataset.left_out), [("x.bin".into(), "neither a picture nor a video")]);
    let ignored: Vec<_> = dataset.ignored.iter().map(|entry| entry.key.as_str()).collect();
    assert_eq!(
        ignored,
        [
            "general.batch_size",
            "datasets[0].cache_directory",
            "datasets[1].target_frames",
            "datasets[1].frame_extraction",
            "datasets[1].frame_sample",
            "datasets[1].source_fps"
        ]
    );
}

#[test]
fn wrong_descriptions_name_the_field() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::create_dir(folder.path().join("images")).unwrap();
    put(&folder.path().join("images"), "a.png", &encoded(&sample(), Png));
    let toml = |text: &str| {
        let path = put(folder.path(), "d.toml", text.as_bytes());
        Dataset::open(path).unwrap_err().to_string()
    };
    let table = "[[datasets]]\nimage_directory = 'images'\n";
    for (text, wanted) in [
        (format!("{table}colour = 1"), "line 3: unknown field `colour`"),
        (format!("{table}num_repeats = 0"), "datasets[0].num_repeats: must be at least 1"),
        (format!("{table}resolution = 4"), "datasets[0].resolution"),
        (format!("{table}target_frames = [16]"), "4k + 1"),
        (format!("{table}video_directory = 'images'"), "exactly one of"),
        (format!("{table}num_repeats = 'two'"), "line 3"),
        ("[general]\nresolution = 64".into(), "datasets: is missing"),
        ("[[datasets]]\nvideo_directory = 'images'".into(), "no usable picture"),
        ("[[datasets]]\nimage_directory = 'nowhere'".into(), "nowhere: cannot read"),
    ] {
        let error = toml(&text);
        assert!(error.contains(wanted), "{text}\n{error}");
        assert!(!error.contains('\n'), "{error}");
    }
}

#[test]
fn paths_of_windows_are_said_to_be_such() {
    let folder = tempfile::tempdir().unwrap();
    let open = |name: &str, text: &str| {
        let error = Dataset::open(put(folder.path(), name, text.as_bytes())).unwrap_err().to_string();
        assert!(!error.contains(['\n', '\t']), "{error}");
        error
    };
    let escape = "write paths with / instead";
    for (path, wanted) in [
        (r#""C:\data\cats""#, escape),
        (r#""C:\temp\new""#, escape),
        (r#""C:\\data\\cats""#, "a path on a Windows machine"),
        ("'C:\\data\\cats'", "a path on a Windows machine"),
        ("'C:/data/cats'", "a path on a Windows machine"),
        ("'data\\cats'", "write / for"),
    ] {
        let error = open("d.toml", &format!("[[datasets]]\nimage_directory = {path}\n"));
        assert!(error.contains(wanted) && error.contains("d.toml"), "{path}: {error}");
    }
    for (path, wanted) in [(r"C:\data\a.png", escape), (r"C:\\data\\a.png", "a path on a Windows machine")] {
        let error = open("d.jsonl", &format!("{{\"image_path\": \"{path}\"}}"));
        assert!(error.contains(wanted) && error.contains("line 1"), "{path}: {error}");
    }
}

#[test]
fn clips_of_other_containers_are_videos() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::create_dir(folder.path().join("clips")).unwrap();
    put(&folder.path().join("clips"), "a.webm", b"\x1a\x45\xdf\xa3");
    put(&folder.path().join("clips"), "b.avi", b"RIFF\0\0\0\0AVI LIST");
    let toml = put(folder.path(), "d.toml", b"[[datasets]]\nvideo_directory = 'clips'\n");
    let dataset = Dataset::open(toml).unwrap();
    assert_eq!((dataset.items.len(), dataset.left_out), (2, vec![]));
}

#[test]
fn jsonl_is_read() {
    let folder = tempfile::tempdir().unwrap();
    put(folder.path(), "a.png", &encoded(&sample(), Png));
    let open = |text: &str| Dataset::open(put(folder.path(), "d.jsonl", text.as_bytes()));
    let dataset = open("{\"image_path\": \"a.png\", \"caption\": \"a cat\"}\n\n").unwrap();
    assert_eq!(dataset.items[0].caption.as_deref(), Some("a cat"));
    let text = |line: &str| open(line).unwrap_err().to_string();
    assert!(
        text("{\"image_path\": \"a.png\", \"captoin\": \"\"}").contains("line 1: unknown field `captoin`")
    );
    assert!(text("{\"image_path\": \"b.png\"}").contains("b.png"));
    assert!(text("{\"video_path\": \"a.png\"}").contains("is not a video"));
    assert!(text("{\"caption\": \"x\"}").contains("exactly one"));
    assert!(text("nonsense").contains("line 1"));
    let spoken = text("{\"image_path\": \"a.png\", \"caption\": \"a \\u001b[31mcat\"}");
    assert!(spoken.contains("control character in line 1 (U+001B)") && !spoken.contains('\x1b'), "{spoken}");
    assert!(text("").contains("no usable picture"));
}
