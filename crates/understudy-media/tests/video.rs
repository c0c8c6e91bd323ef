//! Clips written and read back.
#![allow(clippy::unwrap_used)]

mod common;

use common::{names, psnr, waves};
use understudy_media::{
    ContactSheet, Error, Image, Mp4Info, OutputFormat, Range, SheetRow, Video, WriteOptions, check_writable,
    write_frames_safetensors,
};

fn round_trip(video: &Video, name: &str, options: &WriteOptions) -> Video {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join(name);
    video.write(&path, options).unwrap();
    assert_eq!(names(folder.path()), [name], "no temporary is left");
    Video::read(&path).unwrap()
}

fn worst_psnr(a: &Video, b: &Video) -> f64 {
    assert_eq!(a.frames.len(), b.frames.len());
    a.frames.iter().zip(&b.frames).map(|(a, b)| psnr(a, b)).fold(f64::INFINITY, f64::min)
}

#[test]
fn mp4_keeps_frames_rate_and_quality() {
    for (width, height, frames) in [(64, 64, 17), (128, 96, 60), (65, 47, 5), (17, 16, 2), (640, 360, 1)] {
        let video = waves(width, height, frames, 8.0);
        let back = round_trip(&video, "a.mp4", &WriteOptions::default());
        assert_eq!((back.width(), back.height()), (width.next_multiple_of(2), height.next_multiple_of(2)));
        assert!((back.fps - 8.0).abs() < 1e-9);
        let db = worst_psnr(&video, &back);
        assert!(db > 36.0, "{width}x{height}: {db:.1} dB");
    }
}

#[test]
fn mp4_rates_are_exact() {
    for fps in [1.0, 8.0, 16.0, 24.0, 24_000.0 / 1001.0, 30_000.0 / 1001.0, 12.5, 60.0, 120.0] {
        let back = round_trip(&waves(32, 32, 3, fps), "a.mp4", &WriteOptions::default());
        assert!((back.fps - fps).abs() < 1e-9, "{fps} became {}", back.fps);
    }
}

#[test]
fn enlarged_sharp_colours_stay_clean() {
    let checks = |t: usize| {
        Image::from_fn(64, 64, |x, y| {
            if (x / 4 + y / 4 + t).is_multiple_of(2) { [230, 30, 40] } else { [20, 60, 220] }
        })
    };
    let video = Video::new((0..9).map(checks).collect(), 8.0).unwrap();
    let options = WriteOptions { upscale: 4, ..WriteOptions::default() };
    let back = round_trip(&video, "a.mp4", &options);
    assert_eq!((back.width(), back.height()), (256, 256));
    let db = worst_psnr(&video.upscale_nearest(4), &back);
    assert!(db > 36.0, "{db:.1} dB");
}

#[test]
fn the_same_frames_give_the_same_bytes() {
    let folder = tempfile::tempdir().unwrap();
    for name in ["a.mp4", "a.gif", "a.webp", "a.png"] {
        let (one, two) = (folder.path().join(name), folder.path().join(format!("again-{name}")));
        waves(64, 48, 5, 8.0).write(&one, &WriteOptions::default()).unwrap();
        waves(64, 48, 5, 8.0).write(&two, &WriteOptions::default()).unwrap();
        assert_eq!(std::fs::read(one).unwrap(), std::fs::read(two).unwrap(), "{name}");
    }
}

#[test]
fn mp4_header_tells_before_decoding() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.mp4");
    waves(80, 48, 7, 24.0).write(&path, &WriteOptions::default()).unwrap();
    let info = Mp4Info::probe(&path).unwrap();
    assert_eq!(info, Mp4Info { width: 80, height: 48, frames: 7, fps: 24.0 });
    let bytes = std::fs::read(&path).unwrap();
    let position = |name: &[u8]| bytes.windows(4).position(|w| w == name).unwrap();
    assert!(position(b"moov") < position(b"mdat"), "playing can begin at once");
    assert!(position(b"stss") > 0 && position(b"avcC") > 0);
}

#[test]
fn frames_that_repeat_come_back_as_often() {
    let mut video = waves(48, 32, 9, 8.0);
    for (to, from) in [(2, 1), (3, 1), (8, 7)] {
        video.frames[to] = video.frames[from].clone();
    }
    for name in ["a.webp", "a.gif", "a.mp4"] {
        let back = round_trip(&video, name, &WriteOptions::default());
        assert!((back.fps - 8.0).abs() < 0.2, "{name}: {}", back.fps);
        let db = worst_psnr(&video, &back);
        assert!(db > 25.0, "{name}: {db:.1} dB");
    }
}

#[test]
fn webp_and_gif_come_back() {
    let video = waves(65, 47, 6, 8.0);
    let webp = round_trip(&video, "a.webp", &WriteOptions::default());
    assert!(worst_psnr(&video, &webp) > 32.0);
    assert!((webp.fps - 8.0).abs() < 0.05);
    let gif = round_trip(&video, "a.gif", &WriteOptions::default());
    let db = worst_psnr(&video, &gif);
    assert!(db > 28.0, "{db:.1} dB");
    assert!((gif.fps - 8.0).abs() < 0.2, "{}", gif.fps);
    let flat = Image::from_fn(32, 32, |x, y| [(x / 4 * 30) as u8, (y / 4 * 30) as u8, 9]);
    let few = Video::new(vec![flat; 3], 10.0).unwrap();
    assert_eq!(
        round_trip(&few, "a.gif", &WriteOptions::default()).frames,
        few.frames,
        "64 colours are exact"
    );
}

#[test]
fn pictures_and_folders_of_frames() {
    let folder = tempfile::tempdir().unwrap();
    let video = waves(40, 32, 10, 8.0);
    let at = folder.path().join("frames");
    video.write(&at, &WriteOptions::default()).unwrap();
    assert_eq!(names(&at)[9], "00009.png");
    assert_eq!(Video::read_frames(&at, 8.0).unwrap(), video);
    let again = video.write(&at, &WriteOptions::default()).unwrap_err();
    assert!(again.to_string().contains("not empty"), "{again}");

    let single = folder.path().join("one.png");
    let one = Video::new(video.frames[..1].to_vec(), 8.0).unwrap();
    one.write(&single, &WriteOptions::default()).unwrap();
    assert_eq!(understudy_media::Picture::open(&single).unwrap().image, video.frames[0]);
    let strip = folder.path().join("strip.png");
    video.write(&strip, &WriteOptions::default()).unwrap();
    let strip = understudy_media::Picture::open(&strip).unwrap().image;
    assert_eq!((strip.width, strip.height), (8 * 42 - 2, 2 * 34 - 2));
    assert_eq!(strip.pixel(42 + 3, 34 + 5), video.frames[9].pixel(3, 5));
}

#[test]
fn safetensors_keep_unquantized_frames() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.safetensors");
    let planar: Vec<f32> = (0..3 * 2 * 4 * 5).map(|i| i as f32 / 120.0).collect();
    write_frames_safetensors(&path, &planar, [2, 4, 5], None).unwrap();
    let bytes = std::fs::read(&path).unwrap();
    let file = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let tensor = file.tensor("frames").unwrap();
    assert_eq!(tensor.shape(), [3, 2, 4, 5]);
    let back: Vec<f32> =
        tensor.data().chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect();
    assert_eq!(back, planar);
}

#[test]
fn planar_layout_is_channel_frame_row_column() {
    let video = waves(20, 16, 3, 8.0);
    let unit = video.to_planar(Range::Unit);
    assert_eq!(unit[((3 + 2) * 16 + 5) * 20 + 7], f32::from(video.frames[2].pixel(7, 5)[1]) / 255.0);
    for range in [Range::Unit, Range::Signed] {
        let planar = video.to_planar(range);
        assert_eq!(Video::from_planar(&planar, [3, 16, 20], 8.0, range).unwrap(), video);
    }
    let signed = Image::filled(1, 1, [0, 255, 128]).to_planar(Range::Signed);
    assert_eq!(&signed[..2], [-1.0, 1.0]);
    let frame = &video.frames[0];
    assert_eq!(&Image::from_planar(&frame.to_planar(Range::Signed), [16, 20], Range::Signed).unwrap(), frame);
    let over = Image::from_planar(&[2.0, -3.0, 0.5], [1, 1], Range::Unit).unwrap();
    assert_eq!(over.rgb, [255, 0, 128]);
}

#[test]
fn wrong_arguments_are_named() {
    let mut planar = vec![0.5; 3 * 4];
    planar[5] = f32::NAN;
    let text = |r: Result<Video, Error>| r.unwrap_err().to_string();
    assert!(
        text(Video::from_planar(&planar, [1, 2, 2], 8.0, Range::Unit)).contains("1 of 12 values are NaN")
    );
    assert!(text(Video::from_planar(&planar, [1, 2, 3], 8.0, Range::Unit)).contains("(3, 1, 2, 3)"));
    assert!(text(Video::from_planar(&planar, [usize::MAX, 2, 3], 8.0, Range::Unit)).contains("does not fit"));
    assert!(text(Video::new(vec![], 8.0)).contains("no frames"));
    assert!(text(Video::new(vec![Image::filled(2, 2, [0; 3])], f64::NAN)).contains("fps"));
    let mixed = vec![Image::filled(2, 2, [0; 3]), Image::filled(2, 3, [0; 3])];
    assert!(text(Video::new(mixed, 8.0)).contains("frame 1 is 2x3"));

    let folder = tempfile::tempdir().unwrap();
    let video = waves(32, 32, 2, 8.0);
    let write =
        |name: &str, options| video.write(folder.path().join(name), &options).unwrap_err().to_string();
    let defaults = WriteOptions::default();
    assert!(write("a.mp4", WriteOptions { upscale: 0, ..defaults }).contains("upscale"));
    assert!(write("a.mp4", WriteOptions { h264_qp: 99, ..defaults }).contains("h264_qp"));
    assert!(write("a.webp", WriteOptions { webp_quality: f32::NAN, ..defaults }).contains("webp_quality"));
    let tiny = Video::new(vec![Image::filled(8, 8, [0; 3])], 8.0).unwrap();
    assert!(tiny.write(folder.path().join("a.mp4"), &defaults).unwrap_err().to_string().contains("16x16"));
    tiny.write(folder.path().join("b.mp4"), &WriteOptions { upscale: 2, ..defaults }).unwrap();
    let large = Video::new(vec![Image::filled(4000, 20, [0; 3])], 8.0).unwrap();
    assert!(
        large.write(folder.path().join("a.mp4"), &defaults).unwrap_err().to_string().contains("3840x2160")
    );
    let broken = Video { frames: vec![Image { width: 4, height: 4, rgb: vec![] }], fps: 8.0 };
    assert!(broken.write(folder.path().join("a.gif"), &defaults).is_err());
    assert_eq!(names(folder.path()), ["b.mp4"]);
}

#[test]
fn paths_are_checked_before_the_work() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let text = |name: &str| check_writable(at(name)).unwrap_err().to_string();
    assert_eq!(check_writable(at("a.MP4")).unwrap(), OutputFormat::Mp4);
    assert_eq!(check_writable(at("frames")).unwrap(), OutputFormat::Directory);
    assert_eq!(check_writable(at("v1.5/")).unwrap(), OutputFormat::Directory);
    assert_eq!(check_writable("a.webp").unwrap(), OutputFormat::WebP);
    assert!(text("a.avi").contains(".mp4, .gif, .webp, .png"));
    assert!(text("missing/a.mp4").contains("does not exist"));
    std::fs::write(at("file"), "x").unwrap();
    assert!(text("file").contains("a file of that name exists"));
    assert!(text("file/a.mp4").contains("does not exist"));
    assert!(check_writable("/").is_err());
    if cfg!(target_os = "linux") {
        let error = check_writable("/proc/a.mp4").unwrap_err().to_string();
        assert!(error.starts_with("/proc/a.mp4: cannot write"), "{error}");
    }
    assert_eq!(names(folder.path()), ["file"], "the probe is removed");
}

#[test]
fn a_contact_sheet_shows_every_frame() {
    let (clip, still) = (waves(32, 24, 9, 8.0), Image::filled(32, 32, [200, 0, 0]));
    let sheet = ContactSheet {
        title: "Subjects".into(),
        head: vec!["reference".into(), "generated".into()],
        rows: vec![
            SheetRow::new("a label that is far too long for its column and wraps around")
                .cell(still)
                .cell((&clip, 5))
                .caption("a photo of a cat ".repeat(30)),
            SheetRow::new("short").cell(clip.frames[1].clone()),
        ],
        scale: 2,
        ..ContactSheet::default()
    };
    let picture = sheet.render().unwrap();
    let shows = |frame: &Image| {
        let frame = frame.upscale_nearest(2);
        let row = |y: usize| &picture.rgb[y * picture.width * 3..][..picture.width * 3];
        let first = &frame.rgb[..frame.width * 3];
        (0..picture.height).any(|y| row(y).windows(first.len()).step_by(3).any(|window| window == first))
    };
    for index in [0, 2, 4, 6, 8, 1] {
        assert!(shows(&clip.frames[index]), "frame {index}");
    }
    assert!(ContactSheet::default().render().is_err());
    assert!(
        ContactSheet { scale: 5000, ..sheet }
            .render()
            .unwrap_err()
            .to_string()
            .contains("scale 5000 is not within")
    );
}
