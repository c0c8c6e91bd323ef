//! A file says how it was made, whatever its format, and plays as it did.
#![allow(clippy::unwrap_used)]

use serde_json::json;
use understudy_media::{Image, Picture, Provenance, Video, WriteOptions, read_comment};

fn clip(frames: usize) -> Video {
    let frame =
        |at: usize| Image::from_fn(32, 24, move |x, y| [(x * 8) as u8, (y * 10) as u8, (at * 60) as u8]);
    Video::new((0..frames).map(frame).collect(), 8.0).unwrap()
}

fn provenance() -> Provenance {
    Provenance {
        made_by: "understudy 0.1.0".into(),
        prompt: "a <s> cat & \"ünïcödé\" 🐈\n\x1b[31m in a room".into(),
        caption: Some("a cat".into()),
        seed: Some(u64::MAX),
        settings: json!({"steps": 20, "guidance": 4.0}),
        // Longer than a block of a GIF.
        arguments: vec!["--prompt".into(), "a <s> cat".repeat(100)],
    }
}

#[test]
fn every_format_says_how_it_was_made() {
    let folder = tempfile::tempdir().unwrap();
    let made = provenance();
    assert!(made.to_text().is_ascii() && !made.to_text().contains('\n'));
    for name in ["a.mp4", "a.gif", "a.webp", "a.png", "a.safetensors", "frames"] {
        for frames in [1, 4] {
            let path = folder.path().join(format!("{frames}-{name}"));
            clip(frames).write_with(&path, &WriteOptions::default(), Some(&made.to_text())).unwrap();
            assert_eq!(Provenance::read(&path), Some(made.clone()), "{name}, {frames} frames");
            if ["a.mp4", "a.gif", "a.webp"].contains(&name) {
                let plain = folder.path().join(format!("plain-{frames}-{name}"));
                clip(frames).write(&plain, &WriteOptions::default()).unwrap();
                assert_eq!(read_comment(&plain), None, "{name}");
                match (name, frames) {
                    // Which is a picture.
                    ("a.webp", 1) => {
                        assert_eq!(Picture::open(&path).unwrap(), Picture::open(&plain).unwrap(), "{name}");
                    }
                    _ => assert_eq!(Video::read(&path).unwrap(), Video::read(&plain).unwrap(), "{name}"),
                }
            }
        }
    }
    let frames = Video::read_frames(folder.path().join("4-frames"), 8.0).unwrap();
    assert_eq!(frames, clip(4));
}

#[test]
fn what_is_damaged_or_made_elsewhere_says_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let made = provenance().to_text();
    assert_eq!(Provenance::read(folder.path()), None);
    assert_eq!(read_comment(folder.path().join("none.mp4")), None);
    for name in ["a.mp4", "a.gif", "a.webp", "a.png", "a.safetensors"] {
        let path = folder.path().join(name);
        clip(2).write_with(&path, &WriteOptions::default(), Some("by hand")).unwrap();
        assert_eq!(
            (read_comment(&path).as_deref(), Provenance::read(&path)),
            (Some("by hand"), None),
            "{name}"
        );
        clip(2).write_with(&path, &WriteOptions::default(), Some(&made)).unwrap();
        let whole = std::fs::read(&path).unwrap();
        // Cut off anywhere it says all or nothing, and does not fail.
        for end in (0..whole.len()).step_by(37) {
            std::fs::write(&path, &whole[..end]).unwrap();
            let said = read_comment(&path);
            assert!(said.is_none() || said.as_deref() == Some(made.as_str()), "{name} {end}");
        }
    }
}
