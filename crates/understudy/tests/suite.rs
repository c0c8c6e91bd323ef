//! `evaluate --suite`: the published suites in short, what is kept of them, and what is said of faulty ones.
#![allow(clippy::unwrap_used)]

mod common;

use std::fs;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use common::understudy;

fn benchmarks() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../benchmarks")
}

/// When every video and adapter below `folder` was written.
fn made(folder: &Path) -> Vec<(PathBuf, SystemTime)> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap().flatten() {
        if entry.path().is_dir() {
            found.extend(made(&entry.path()))
        } else {
            found.push((entry.path(), entry.metadata().unwrap().modified().unwrap()))
        }
    }
    found.retain(|(path, _)| {
        path.extension().is_some_and(|extension| extension == "png" || extension == "safetensors")
    });
    found.sort();
    found
}

#[test]
fn every_published_suite_runs_in_short_and_makes_nothing_twice() {
    for entry in fs::read_dir(benchmarks()).unwrap() {
        let suite = entry.unwrap().path();
        let folder = tempfile::tempdir().unwrap();
        let arguments = ["evaluate", "--suite", suite.to_str().unwrap(), "--short", "--out", "x.csv"];
        let arguments = [&arguments[..], &["--report", "x.html"]].concat();
        let run = understudy(folder.path(), &arguments);
        run.succeeds();
        let table = fs::read_to_string(folder.path().join("x.csv")).unwrap();
        assert!(table.lines().count() > 2, "{}: {table}", suite.display());
        let page = fs::read_to_string(folder.path().join("x.html")).unwrap();
        assert!(page.contains("<h2>Claims</h2>") && page.contains("data:image/webp"));
        let said = format!("{}{}", run.stdout, run.stderr);
        assert!(said.contains("standard errors"), "{said}");
        let before = made(&folder.path().join("x.csv.run"));
        understudy(folder.path(), &arguments).succeeds();
        assert_eq!(made(&folder.path().join("x.csv.run")), before);
        assert_eq!(fs::read_to_string(folder.path().join("x.csv")).unwrap(), table);
    }
}

#[test]
fn faulty_suites_are_named_in_one_line() {
    let folder = tempfile::tempdir().unwrap();
    let text = fs::read_to_string(benchmarks().join("set-and-sequence.toml")).unwrap();
    let refused = |from: &str, to: &str, part: &str| {
        assert!(text.contains(from), "{from}");
        fs::write(folder.path().join("s.toml"), text.replacen(from, to, 1)).unwrap();
        let run = understudy(folder.path(), &["evaluate", "--suite", "s.toml", "--short", "--out", "x.csv"]);
        let said = run.fails(1);
        assert!(said.contains(part), "{said}");
    };
    refused("like = \"regularized\"", "like = \"nobody\"", "like names no method");
    refused("metric = \"clip-t\"", "metric = \"beauty\"", "beauty");
    refused("{action} in a meadow", "{mood} in a meadow", "mood");
    refused("--motion-scale 0", "--motion-scales 0", "arguments of generate");
}
