//! `evaluate` against published networks in Python (`oracle/evaluate.py`), and what it does about what is missing.
#![allow(clippy::unwrap_used)]

mod common;

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use common::understudy;

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
        "clip-t,clip-i,t-cons,subject-consistency,background-consistency,dino-i",
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
    assert!(run(&["--clip", "nowhere"]).fails(1).contains("--clip nowhere"));
    assert!(run(&["--references", "nowhere"]).fails(1).contains("nowhere"));
    assert!(run(&["--clip", &format!("{GOLDEN}/dino")]).fails(1).contains("config.json"));
    let out = ["evaluate", "--videos", &videos, "--out", "none/x.csv"];
    assert!(understudy(folder.path(), &out).fails(1).contains("none"));
    let none = ["evaluate", "--videos", "nowhere", "--out", "x.csv"];
    assert!(understudy(folder.path(), &none).fails(1).contains("nowhere"));
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
}
