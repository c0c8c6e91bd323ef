//! Clips as people's cameras, editors and browsers make them: what is read is what players show.
//!
//! The files in `clips/` show one drawing, 34 frames of 96x64 at 16 a second, each in its own way.
#![allow(clippy::unwrap_used)]

mod common;

use std::path::PathBuf;

use common::psnr;
use understudy_media::{Error, Footage, Image, Picture, Video, is_animation, is_video};

fn path(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/clips").join(name)
}

fn frames(name: &str) -> Vec<Image> {
    Footage::read(path(name)).unwrap().frames
}

/// The clip, or nothing where it is left to a program that is not there, which must be said with `kind`.
fn by_ffmpeg(name: &str, kind: &str) -> Option<Vec<Image>> {
    match Footage::read(path(name)) {
        Ok(footage) => Some(footage.frames),
        Err(Error::Unsupported { reason, .. }) => {
            assert!(reason.contains(kind), "{reason}");
            None
        }
        Err(other) => panic!("{other}"),
    }
}

/// The mean squared error of samples in [0, 1], as `evaluate` has it.
fn mse(a: &[Image], b: &[Image]) -> f64 {
    assert_eq!(a.len(), b.len());
    let one = |(a, b): (&Image, &Image)| {
        assert_eq!((a.width, a.height), (b.width, b.height));
        10f64.powf(-psnr(a, b) / 10.0)
    };
    a.iter().zip(b).map(one).sum::<f64>() / a.len() as f64
}

#[test]
fn an_edit_list_hides_what_players_do_not_show() {
    assert_eq!(frames("editlist.mp4"), frames("plain.mp4")[16..]);
    assert_eq!(Video::read(path("editlist.mp4")).unwrap().fps, 16.0);
}

#[test]
fn range_and_matrix_are_those_of_the_stream() {
    // Full range without a word of it in the container; the frame beside it was decoded by ffmpeg.
    let wanted = Picture::open(path("from-jpegs.png")).unwrap().image;
    let read = frames("from-jpegs.mp4");
    let error = mse(&read[..1], &[wanted]);
    assert!(error < 1e-4, "{error}");
}

#[test]
fn samples_become_square_and_mirrors_are_kept() {
    let plain = frames("plain.mp4");
    // As ffmpeg scales it.
    let wide = Picture::open(path("sar.png")).unwrap().image;
    let error = mse(&frames("sar.mp4")[..1], &[wide]);
    assert!(error < 2e-4, "{error}");
    let mirror = |frame: &Image| Image::from_fn(96, 64, |x, y| frame.pixel(95 - x, y));
    assert_eq!(frames("mirrored.mp4"), plain.iter().map(mirror).collect::<Vec<_>>());
}

#[test]
fn the_frame_of_each_moment_is_shown() {
    // Fifteen frames a 25th of a second each, and then each for three or four.
    let footage = Footage::read(path("vfr.mp4")).unwrap();
    let starts = footage.timing.starts();
    let even = footage.timing.at_rate(8.0);
    assert_eq!(even.frames[..9], [0, 3, 6, 9, 12, 14, 15, 16, 18]);
    for (moment, shown) in even.frames.iter().enumerate() {
        let now = moment as f64 / 8.0;
        assert!(starts[*shown] <= now + 1e-6 && starts.get(shown + 1).is_none_or(|next| *next > now));
    }
    let every = Video::read(path("vfr.mp4")).unwrap();
    assert!((every.fps - 25.0).abs() < 1e-6 && every.frames.len() == 67);
    assert_eq!(every.frames[18], footage.frames[15]);
}

#[test]
fn animations_are_clips_whatever_holds_them() {
    let plain = frames("plain.mp4");
    for name in ["plain.gif", "plain.webp", "plain.apng"] {
        let video = Video::read(path(name)).unwrap();
        assert!(mse(&video.frames, &plain) < 5e-3, "{name}");
        assert!((video.fps - 16.0).abs() < 0.8, "{name}: {}", video.fps);
        assert!(is_animation(path(name)) && is_video(path(name)));
    }
    assert!(!is_animation(path("from-jpegs.png")) && !is_video(path("from-jpegs.png")));
    assert!(is_video(path("vp9.webm")) && !is_animation(path("vp9.webm")));
    let error = Video::read(path("from-jpegs.png")).unwrap_err().to_string();
    assert!(error.contains("still picture"), "{error}");
}

#[test]
fn what_is_not_decoded_here_is_said_or_left_to_ffmpeg() {
    let plain = frames("plain.mp4");
    if let Some(read) = by_ffmpeg("interlaced.mp4", "interlaced") {
        assert!(mse(&read, &plain) < 1e-3);
    }
    // Its edit list begins with the first frame that needs none that were cut off: the eleventh of the
    // drawing.
    if let Some(read) = by_ffmpeg("opengop-cut.mp4", "cut without encoding it anew") {
        assert!(mse(&read, &plain[10..]) < 1e-3, "{}", read.len());
    }
    if let Some(read) = by_ffmpeg("vp9.webm", "not an MP4") {
        assert!(mse(&read, &plain) < 1e-2);
    }
}

#[test]
fn high_dynamic_range_is_brought_to_the_usual() {
    if let Some(read) = by_ffmpeg("hdr.mov", "H.265") {
        let error = mse(&read, &frames("plain.mp4"));
        assert!(error < 2e-3, "{error}");
        let notes = Footage::read(path("hdr.mov")).unwrap().notes;
        assert!(notes.len() == 1 && notes[0].contains("tone-mapped"), "{notes:?}");
    }
    assert_eq!(Footage::read(path("plain.mp4")).unwrap().notes, [""; 0]);
}

/// Frames that cover a part of the picture, each cleared before the next.
#[test]
fn an_animated_webp_of_parts_is_put_together_as_players_do() {
    let [webp, png] = ["parts.webp", "parts.apng"].map(|name| Video::read(path(name)).unwrap().frames);
    assert_eq!(webp.len(), png.len());
    assert!(webp == png);
    let notes = Footage::read(path("parts.webp")).unwrap().notes;
    assert!(notes[0].contains("over white"), "{notes:?}");
}
