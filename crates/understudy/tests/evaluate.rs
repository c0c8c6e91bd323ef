//! `evaluate` against published networks in Python (`oracle/evaluate.py`), and what it does about what is
//! missing.
#![allow(clippy::unwrap_used)]

mod common;

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use burn::tensor::Device;
use common::understudy;
use serde_json::Value;
use understudy_engine::safetensors::Checkpoint;
use understudy_media::Image;

#[cfg(unix)]
use crate::common::interrupted;

const GOLDEN: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../oracle/golden/evaluate");

/// The cells of a table by row and column.
fn cells(path: &Path) -> BTreeMap<(String, String), Option<f64>> {
    let text = fs::read_to_string(path).unwrap();
    let mut lines = text.lines().map(|line| line.split(',').map(str::to_owned).collect::<Vec<_>>());
    let columns = lines.next().unwrap();
    assert_eq!(columns[0], "name");
    let row = |row: Vec<String>| {
        let name = row[0].clone();
        let cell = |(column, cell): (&String, &String)| {
            ((name.clone(), column.clone()), (!cell.is_empty()).then(|| cell.parse().unwrap()))
        };
        columns.iter().zip(&row).skip(1).map(cell).collect::<Vec<_>>()
    };
    lines.flat_map(row).collect()
}

#[test]
fn scores_are_those_of_published_networks() {
    let folder = tempfile::tempdir().unwrap();
    let more = [
        "clip-t,clip-i,t-cons,temporal-flickering,subject-consistency,background-consistency,dino-i",
        "clip-t,clip-i,t-cons,dino-i",
    ];
    for (dino, metrics) in ["dino", "dinov2"].into_iter().zip(more) {
        let [videos, references, clip, network] =
            ["videos", "references-each", "clip", dino].map(|name| format!("{GOLDEN}/{name}"));
        let run = understudy(
            folder.path(),
            &[
                "evaluate",
                "--videos",
                &videos,
                "--references",
                &references,
                "--clip",
                &clip,
                "--dino",
                &network,
                "--metrics",
                metrics,
                "--out",
                "x.csv",
            ],
        );
        run.succeeds();
        let (own, expected) =
            (cells(&folder.path().join("x.csv")), cells(Path::new(&format!("{GOLDEN}/{dino}.csv"))));
        assert_eq!(own.keys().collect::<Vec<_>>(), expected.keys().collect::<Vec<_>>());
        for (cell, expected) in expected {
            match (own[&cell], expected) {
                (Some(own), Some(expected)) => {
                    assert!((own - expected).abs() < 1e-5, "{cell:?}: {own} {expected}")
                }
                (own, expected) => assert_eq!(own, expected, "{cell:?}"),
            }
        }
    }
}

#[test]
fn newer_folders_and_references_for_all() {
    let folder = tempfile::tempdir().unwrap();
    let clip = folder.path().join("clip");
    fs::create_dir(&clip).unwrap();
    for name in ["config.json", "model.safetensors", "preprocessor_config.json"] {
        fs::copy(Path::new(GOLDEN).join("clip").join(name), clip.join(name)).unwrap();
    }
    fs::copy(Path::new(GOLDEN).join("tokenizer.json"), clip.join("tokenizer.json")).unwrap();
    let [videos, references] = ["videos", "references-one"].map(|name| format!("{GOLDEN}/{name}"));
    let flags =
        ["--references", &references, "--clip", "clip", "--metrics", "clip-t,clip-i", "--out", "x.csv"];
    understudy(folder.path(), &[&["evaluate", "--videos", &videos][..], &flags].concat()).succeeds();
    let (own, expected) =
        (cells(&folder.path().join("x.csv")), cells(Path::new(&format!("{GOLDEN}/dino.csv"))));
    for cell in own.keys().filter(|(_, column)| column == "clip_t") {
        assert!((own[cell].unwrap() - expected[cell].unwrap()).abs() < 1e-5, "{cell:?}");
    }
    // This one has no references of its own.
    let cell = ("b".to_owned(), "clip_i".to_owned());
    assert!((own[&cell].unwrap() - expected[&cell].unwrap()).abs() < 1e-5);
}

#[test]
fn what_is_missing_is_said_and_keeps_its_row() {
    let folder = tempfile::tempdir().unwrap();
    let videos = folder.path().join("videos");
    fs::create_dir_all(videos.join("empty")).unwrap();
    fs::create_dir(videos.join("whole")).unwrap();
    for frame in fs::read_dir(Path::new(GOLDEN).join("videos/b")).unwrap().map(Result::unwrap) {
        fs::copy(frame.path(), videos.join("whole").join(frame.file_name())).unwrap();
    }
    fs::write(videos.join("whole.txt"), "a cat walks to the left").unwrap();
    fs::write(videos.join("broken.mp4"), "no video at all").unwrap();
    fs::write(videos.join("absent.txt"), "a prompt alone").unwrap();
    let flags = [
        "evaluate",
        "--videos",
        "videos",
        "--metrics",
        "clip-t,t-cons",
        "--out",
        "x.csv",
        "--report",
        "x.html",
    ];
    let run = understudy(folder.path(), &flags);
    run.succeeds();
    let page = fs::read_to_string(folder.path().join("x.html")).unwrap();
    assert!(page.contains("data:image/webp") && page.contains("absent: there is"), "{page}");
    for name in ["empty", "broken", "absent"] {
        assert!(run.stderr.contains(&format!("missing: {name}")), "{}", run.stderr);
    }
    let own = cells(&folder.path().join("x.csv"));
    assert_eq!(own.len(), 8);
    assert_eq!(own.iter().filter(|(_, value)| value.is_some()).count(), 2);
    assert!(!folder.path().join("x.csv.part").exists());
}

#[test]
fn two_folders_are_compared_pair_by_pair() {
    let folder = tempfile::tempdir().unwrap();
    let videos = format!("{GOLDEN}/videos");
    let flags = ["--metrics", "t-cons,temporal-flickering", "--out", "x.csv", "--report", "x.html"];
    let run = understudy(
        folder.path(),
        &[&["evaluate", "--videos", &videos, "--against", &videos][..], &flags].concat(),
    );
    run.succeeds();
    assert!(
        run.stderr.contains("gain of t-cons: +0.0000 (95 %: +0.0000 to +0.0000; 3 pairs)"),
        "{}",
        run.stderr
    );
    let page = fs::read_to_string(folder.path().join("x.html")).unwrap();
    assert_eq!(page.matches("data:image/webp").count(), 8);
}

/// A folder of clips of so many frames, each a grey of its own.
fn clips(folder: &Path, lengths: &[usize], bright: u8) {
    for (index, length) in lengths.iter().enumerate() {
        let clip = folder.join(format!("{index}"));
        fs::create_dir_all(&clip).unwrap();
        for frame in 0..*length {
            let grey = bright + 20 * index as u8 + frame as u8;
            let picture = Image::filled(32, 24, [grey, 90, grey / 2]);
            picture.write_png(clip.join(format!("{frame:02}.png"))).unwrap();
        }
    }
}

#[test]
fn sets_of_videos_are_compared_as_sets_and_frame_by_frame() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    clips(&at.join("made"), &[16, 16, 9], 10);
    clips(&at.join("real"), &[16, 17, 4, 16], 60);
    let i3d = format!("{GOLDEN}/../i3d/i3d_torchscript.pt");
    let flags = ["--videos", "made", "--references", "real", "--against", "real", "--out", "x.csv"];
    let more = ["--metrics", "mse,fvd", "--i3d", &i3d, "--report", "x.html"];
    let run = understudy(at, &[&["evaluate"], &flags[..], &more].concat());
    run.succeeds();
    for part in [
        "fvd-styleganv-16f  ",
        "(2 videos, 3 references; not comparable",
        "fvd-styleganv-16f of --against  0.0000 (3 videos, 3 references",
        "missing: 2: fvd: it has 9 frames and 16 are needed; mse: it has 9 frames and its reference 4",
        "missing: reference 2: fvd: it has 4 frames",
    ] {
        assert!(run.stderr.contains(part), "{part}: {}", run.stderr);
    }
    assert!(
        fs::read_to_string(at.join("x.html")).unwrap().contains("fvd-styleganv-16f of the others: 0.0000")
    );
    let own = cells(&at.join("x.csv"));
    assert_eq!(own.len(), 3);
    // 50 of 255 in red and 25 in blue.
    let expected = (50.0_f64.powi(2) + 25.0_f64.powi(2)) / 3.0 / 255.0_f64.powi(2);
    let value = own[&("0".to_owned(), "mse".to_owned())].unwrap();
    assert!((value - expected).abs() < 1e-9, "{value} {expected}");
    // Without an I3D the small CLIP stands in; a single picture is a set of none.
    let nano = ["--metrics", "fvd"];
    let run = understudy(at, &[&["evaluate"], &flags[..], &nano].concat());
    run.succeeds();
    assert!(run.stderr.contains("frechet-clip  ") && run.stderr.contains("(3 videos, 4 references"));
}

#[test]
fn faces_are_turned_upright_and_missing_ones_named() {
    let folder = tempfile::tempdir().unwrap();
    let golden = format!("{GOLDEN}/../faces");
    let text = fs::read_to_string(format!("{golden}/case.json")).unwrap();
    let case: serde_json::Value = serde_json::from_str(&text).unwrap();
    for policy in ["default", "opens2v"] {
        let [videos, references, network] =
            ["videos", "references", "backbone.pth"].map(|name| format!("{golden}/{name}"));
        let run = understudy(
            folder.path(),
            &[
                &["evaluate", "--videos", &videos, "--references", &references, "--identity", &network][..],
                &["--faces", "landmarks", "--face-policy", policy, "--out", "x.csv", "--metrics"],
                &["identity,detection-rate"],
            ]
            .concat(),
        );
        run.succeeds();
        assert!(run.stderr.contains("note: a: no face in 1 of 4 frames: 1"), "{}", run.stderr);
        assert!(run.stderr.contains(&format!("identity is by face_{policy}")), "{}", run.stderr);
        assert!(run.stderr.contains("missing: b: faces:"), "{}", run.stderr);
        let own = cells(&folder.path().join("x.csv"));
        let value = |column: &str| own[&("a".to_owned(), column.to_owned())].unwrap();
        let expected = case[policy].as_f64().unwrap();
        assert!((value("identity") - expected).abs() < 1e-4, "{} {expected}", value("identity"));
        assert_eq!(value("detection_rate"), 0.75);
        assert_eq!(own[&("b".to_owned(), "identity".to_owned())], None);
    }
}

#[test]
fn samples_of_msrvtt_personalization_score_as_in_python() {
    let folder = tempfile::tempdir().unwrap();
    let text = fs::read_to_string(format!("{GOLDEN}/../msrvtt/case.json")).unwrap();
    let case: serde_json::Value = serde_json::from_str(&text).unwrap();
    let [videos, annotations] = ["videos", "annotations"].map(|name| format!("{GOLDEN}/../msrvtt/{name}"));
    let [clip, dino] = ["clip", "dino"].map(|name| format!("{GOLDEN}/{name}"));
    let arcface = format!("{GOLDEN}/../faces/backbone.pth");
    for (mode, samples) in [("subject", &["a"][..]), ("face", &["a", "b"])] {
        let run = understudy(
            folder.path(),
            &[
                &["evaluate", "--videos", &videos, "--annotations", &annotations, "--mode", mode][..],
                &["--clip", &clip, "--dino", &dino, "--identity", &arcface, "--out", "x.csv"],
                &["--metrics", "text-s,vid-s,subj-s,face-s"],
            ]
            .concat(),
        );
        run.succeeds();
        let own = cells(&folder.path().join("x.csv"));
        // Folders of masks are no videos.
        assert_eq!(own.len(), 8);
        for ((name, column), found) in own {
            if samples.contains(&name.as_str()) {
                let (found, expected) = (found.unwrap(), case[&name][&column].as_f64().unwrap());
                assert!((found - expected).abs() < 1e-4, "{name} {column}: {found} {expected}");
            } else {
                assert_eq!(found, None)
            }
        }
        let other = "missing: b: text-s: it is no sample of this mode";
        assert_eq!(run.stderr.contains(other), mode == "subject", "{}", run.stderr);
        // What was not found counts as 0, and is said.
        assert!(run.stderr.contains("note: a: subj-s: no "), "{}", run.stderr);
    }
}

#[test]
fn what_moves_is_followed_and_what_lies_between_is_expected() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    let golden = |name: &str| format!("{GOLDEN}/../{name}");
    let frames = |video: &str, from: &str, count: usize| {
        fs::create_dir_all(at.join("videos").join(video)).unwrap();
        for index in 0..count {
            let frame = format!("videos/{video}/{index}.png");
            fs::copy(golden(&format!("{from}-{index}.png")), at.join(frame)).unwrap();
        }
    };
    frames("a", "raft/0", 2);
    frames("b", "amt/0", 5);
    clips(&at.join("videos"), &[3], 10);
    let [raft, amt, annotations] =
        ["raft/raft-things.pth", "amt/amt-s.pth", "msrvtt/annotations"].map(golden);
    let metrics = ["--metrics", "dynamic-degree,dync-d,motion-smoothness", "--out", "x.csv"];
    let networks = ["--raft", &raft, "--amt", &amt, "--annotations", &annotations];
    let found = |rate: &str| {
        let flags = [&["evaluate", "--videos", "videos", "--fps", rate][..], &metrics, &networks].concat();
        let run = understudy(at, &flags);
        run.succeeds();
        (cells(&at.join("x.csv")), run.stderr)
    };
    let value = |own: &BTreeMap<(String, String), Option<f64>>, name: &str, column: &str| {
        own[&(name.to_owned(), column.to_owned())]
    };
    let (own, said) = found("8");
    let smooth = Checkpoint::open(Path::new(&golden("amt/io.safetensors")), &Device::flex()).unwrap();
    let expected = f64::from(smooth.values("0.smoothness").unwrap().0[0]);
    assert!((value(&own, "b", "motion_smoothness").unwrap() - expected).abs() < 1e-5);
    for column in ["dynamic_degree", "dync_d"] {
        assert_eq!(value(&own, "a", column), Some(1.0));
    }
    // What two frames are too few for, what is too small, and what nobody annotated is said.
    assert_eq!(value(&own, "a", "motion_smoothness"), None);
    for part in ["missing: a: motion-smoothness", "missing: 0: dynamic-degree", "dync-d"] {
        assert!(said.contains(part), "{part}: {said}");
    }
    // Of sixteen frames a second every other one is looked at: of two there is one, which does not move.
    let (own, _) = found("16");
    for column in ["dynamic_degree", "dync_d"] {
        assert_eq!(value(&own, "a", column), Some(0.0));
    }
}

#[cfg(unix)]
#[test]
fn an_evaluation_that_is_stopped_or_killed_goes_on_from_there() {
    let flags = ["evaluate", "--videos", "videos", "--metrics", "t-cons", "--out", "x.csv", "--json"];
    let rows = |stdout: &str| {
        let events = stdout.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
        events.filter(|event| event["event"] == "row").collect::<Vec<_>>()
    };
    let mut tables = Vec::new();
    for signal in ["", "-INT", "-KILL"] {
        let folder = tempfile::tempdir().unwrap();
        clips(&folder.path().join("videos"), &[9; 12], 5);
        if !signal.is_empty() {
            let reached = |event: &Value| event["event"] == "row" && event["name"] == "10";
            let run = interrupted(folder.path(), &flags, reached, signal);
            match signal {
                "-INT" => assert!(run.fails(1).contains("the same command goes on from there")),
                _ => assert_eq!(run.code, None, "{}", run.stderr),
            }
            assert!(!folder.path().join("x.csv").exists());
        }
        let rows = rows(&understudy(folder.path(), &flags).succeeds());
        let kept = rows.iter().filter(|row| row["kept"] == true).count();
        assert_eq!(rows.len(), 12);
        assert!(if signal.is_empty() { kept == 0 } else { kept >= 3 }, "{signal}: {kept}");
        tables.push(fs::read_to_string(folder.path().join("x.csv")).unwrap());
    }
    assert!(tables.iter().all(|table| *table == tables[0]));
}

#[test]
fn wrong_requests_are_one_line() {
    let folder = tempfile::tempdir().unwrap();
    let videos = format!("{GOLDEN}/videos");
    let run = |flags: &[&str]| {
        understudy(folder.path(), &[&["evaluate", "--videos", &videos, "--out", "x.csv"][..], flags].concat())
    };
    assert!(run(&["--metrics", "beauty"]).fails(2).contains("clip-t"));
    assert!(run(&["--metrics", "clip-t,clip-t"]).fails(2).contains("twice"));
    assert!(run(&["--metrics", "clip-i"]).fails(2).contains("--references"));
    assert!(run(&["--metrics", "detection-rate"]).fails(2).contains("--faces"));
    assert!(run(&["--metrics", "text-s"]).fails(2).contains("--annotations"));
    assert!(run(&["--faces", "landmarks"]).fails(2).contains("--identity"));
    let arcface = format!("{GOLDEN}/../faces/backbone.pth");
    if cfg!(not(feature = "onnx")) {
        let faces =
            ["--references", &videos, "--identity", &arcface, "--faces", "det.onnx", "--metrics", "identity"];
        assert!(run(&faces).fails(1).contains("--features onnx"));
    }
    assert!(run(&["--sam", "sam"]).fails(2).contains("--grounding-dino"));
    assert!(run(&["--metrics", "fvd"]).fails(2).contains("--references"));
    assert!(run(&["--metrics", "fvd", "--fvd-frames", "8"]).fails(2).contains("9"));
    assert!(run(&["--clip", "nowhere"]).fails(1).contains("--clip nowhere"));
    assert!(run(&["--references", "nowhere"]).fails(1).contains("nowhere"));
    assert!(run(&["--clip", &format!("{GOLDEN}/dino")]).fails(1).contains("config.json"));
    let out = ["evaluate", "--videos", &videos, "--out", "none/x.csv"];
    assert!(understudy(folder.path(), &out).fails(1).contains("none"));
    let none = ["evaluate", "--videos", "nowhere", "--out", "x.csv"];
    assert!(understudy(folder.path(), &none).fails(1).contains("nowhere"));
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
}
