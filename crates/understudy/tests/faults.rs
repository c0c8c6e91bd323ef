//! What becomes of a fit, a suite and a generation whose process is killed, or whose disk is full, at any of
//! their writes: run again they end with the same bits, what goes wrong is told in one line, and nobody
//! leaves anything behind.
//!
//! Every write: `cargo test --release -p understudy --test faults -- --ignored --nocapture`, half an hour on
//! two cores.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used)]

mod common;

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::OnceLock;

use common::{BASE, pictures};

/// The library that makes calls go wrong, built by the C compiler that some of our dependencies need as well.
fn faults() -> &'static Path {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    BUILT.get_or_init(|| {
        let library = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("faults.so");
        let source = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/faults/faults.c");
        // Under a name of its own first: another test may be building it.
        let own = library.with_extension(std::process::id().to_string());
        let built = Command::new("cc")
            .args(["-shared", "-fPIC", "-O1", "-o"])
            .arg(&own)
            .args([source, "-ldl"])
            .status();
        assert!(built.unwrap().success());
        fs::rename(own, &library).unwrap();
        library
    })
}

/// What a fault does to a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// Ends the process, in the middle of a write.
    Kill,
    /// It alone fails.
    Once,
    /// It and all later ones that need room fail.
    Full,
}

/// Something the program does.
struct Work {
    name: &'static str,
    arguments: Vec<&'static str>,
    /// What is needed to do it again where some of it is there.
    again: fn(&Path) -> Vec<&'static str>,
    prepare: fn(&Path),
    /// Whether a file is one of those that must come out the same, by its path in the folder.
    counts: fn(&str) -> bool,
}

impl Work {
    fn run(&self, folder: &Path, environment: &[(&str, String)]) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_understudy"));
        command.args(&self.arguments).args((self.again)(folder)).current_dir(folder).stdin(Stdio::null());
        command.env_remove("RUST_BACKTRACE").envs(environment.iter().cloned());
        command.output().unwrap()
    }

    /// Runs it with a fault at a call; without one at 0.
    fn run_with(&self, folder: &Path, kind: Kind, at: usize) -> Output {
        let kind = format!("{kind:?}").to_lowercase();
        let environment = [
            ("LD_PRELOAD", faults().display().to_string()),
            ("FAULTS_BELOW", folder.canonicalize().unwrap().join("").display().to_string()),
            ("FAULTS_KIND", kind),
            ("FAULTS_AT", at.to_string()),
            ("FAULTS_COUNT", folder.with_extension("count").display().to_string()),
        ];
        self.run(folder, &environment)
    }

    /// What must come out: every file that counts, by its path.
    fn result(&self, folder: &Path) -> BTreeMap<String, Vec<u8>> {
        files(folder).into_iter().filter(|(path, _)| (self.counts)(path)).collect()
    }

    /// How many calls there are, and what comes out when none of them fails.
    fn whole(&self) -> (usize, BTreeMap<String, Vec<u8>>) {
        let folder = tempfile::tempdir().unwrap();
        let work = folder.path().join("work");
        fs::create_dir(&work).unwrap();
        (self.prepare)(&work);
        let output = self.run_with(&work, Kind::Once, 0);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let calls = fs::read_to_string(folder.path().join("work.count")).unwrap().parse().unwrap();
        let result = self.result(&work);
        assert!(result.len() > 1 && calls > 10, "{calls} {:?}", result.keys());
        (calls, result)
    }

    /// Has call number `at` go wrong and then runs it again. Gives what is wrong with what comes of it.
    fn check(&self, kind: Kind, at: usize, expected: &BTreeMap<String, Vec<u8>>) -> Result<(), String> {
        let folder = tempfile::tempdir().unwrap();
        let work = folder.path().join("work");
        fs::create_dir(&work).unwrap();
        (self.prepare)(&work);
        let first = self.run_with(&work, kind, at);
        let said = String::from_utf8_lossy(&first.stderr).into_owned();
        let last = said.lines().last().unwrap_or_default();
        match (kind, first.status.code(), first.status.signal()) {
            (Kind::Kill, None, Some(9)) => {}
            (Kind::Kill, ..) => return Err(format!("was not killed: {:?} {said}", first.status)),
            // Some of what is written is not needed.
            (_, Some(0), _) if self.result(&work) == *expected => {}
            (_, Some(0), _) => return Err(format!("success without the result: {said}")),
            (_, Some(1), _) if last.starts_with("error: ") && !said.contains("a mistake in") => {}
            _ => return Err(format!("ended with {:?}: {said}", first.status)),
        }
        if let Some(half) = self.result(&work).iter().find(|(path, bytes)| is_result(path, bytes, expected)) {
            return Err(format!("{} is there and not what it should be", half.0));
        }
        let again = self.run(&work, &[]);
        let said = String::from_utf8_lossy(&again.stderr).into_owned();
        if !again.status.success() {
            return Err(format!("run again it ended with {:?}: {said}", again.status));
        }
        if said.contains("damaged") {
            return Err(format!("run again it found damage: {said}"));
        }
        if let Some(left) = files(&work).keys().find(|path| path.contains(".understudy")) {
            return Err(format!("{left} is left behind"));
        }
        if self.result(&work) == *expected {
            Ok(())
        } else {
            Err(format!("other bits: {}", differences(&self.result(&work), expected)))
        }
    }

    /// Checks these calls with these kinds of faults, and says all that is wrong.
    fn check_all(&self, kinds: &[Kind], calls: impl Fn(usize) -> Vec<usize>) {
        let (count, expected) = self.whole();
        let mut wrong = Vec::new();
        for kind in kinds {
            for at in calls(count) {
                if let Err(reason) = self.check(*kind, at, &expected) {
                    eprintln!("{} {kind:?} {at} of {count}: {reason}", self.name);
                    wrong.push(at);
                }
            }
            eprintln!("{}: {kind:?} at {} of {count} calls", self.name, calls(count).len());
        }
        assert!(wrong.is_empty(), "{}: {} faults", self.name, wrong.len());
    }
}

/// Whether a file that lies where a result is to be is something else. What a run keeps for itself is none,
/// and latents grow by a row for each video that is done.
fn is_result(path: &str, bytes: &[u8], expected: &BTreeMap<String, Vec<u8>>) -> bool {
    !path.contains(".run/") && path != "v.safetensors" && expected.get(path).is_some_and(|own| own != bytes)
}

/// Every file in a folder by its path.
fn files(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut found = BTreeMap::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(next) = folders.pop() {
        for entry in fs::read_dir(next).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path)
            } else {
                let name = path.strip_prefix(folder).unwrap().display().to_string();
                found.insert(name, fs::read(&path).unwrap());
            }
        }
    }
    found
}

fn differences(found: &BTreeMap<String, Vec<u8>>, expected: &BTreeMap<String, Vec<u8>>) -> String {
    let names = found.keys().chain(expected.keys());
    let differs = names.filter(|name| found.get(*name) != expected.get(*name));
    differs.map(String::as_str).collect::<Vec<_>>().join(", ")
}

/// What a run may end with otherwise: its log has times in it, and what it would fall back on depends on
/// where it stopped.
fn is_same_again(path: &str) -> bool {
    let other = [".understudy", "events.jsonl", "state.before.safetensors", "state.next.safetensors"];
    !other.iter().any(|part| path.contains(part))
}

/// A fit with everything that is written on the way: a prior, samples, evaluations, checkpoints.
fn fit() -> Work {
    fn prepare(folder: &Path) {
        pictures(&folder.join("subject"), 2);
        let few = "token = { checkpoint_every = 1 }\nlora = { checkpoint_every = 2 }\n\
                   [prior]\nweight = 1.0\nsamples = 2\nframes = 1\nsteps = 1\n\
                   [samples]\nevery = 2\nframes = 1\nsteps = 1\nprompts = [\"a {}\"]\n";
        fs::write(folder.join("few.toml"), few).unwrap();
    }
    fn again(folder: &Path) -> Vec<&'static str> {
        if folder.join("cube.safetensors.run").exists() { vec!["--resume"] } else { Vec::new() }
    }
    let usual =
        ["fit", "--base", BASE, "--subject", "subject", "--class", "cube", "--out", "cube.safetensors"];
    let size = ["--preset", "small", "--height", "16", "--width", "16", "--rank", "2", "--batch", "1"];
    let steps = ["--config", "few.toml", "--steps", "4", "--token-steps", "2"];
    let clip = concat!(env!("CARGO_MANIFEST_DIR"), "/../../oracle/golden/evaluate/clip");
    let dino = concat!(env!("CARGO_MANIFEST_DIR"), "/../../oracle/golden/evaluate/dino");
    let judge = ["--evaluate-every", "2", "--clip", clip, "--dino", dino];
    let arguments = [&usual[..], &size, &steps, &judge].concat();
    Work { name: "fit", arguments, again, prepare, counts: is_same_again }
}

fn generation() -> Work {
    let usual =
        ["generate", "--base", BASE, "--frames", "5", "--height", "16", "--width", "16", "--steps", "1"];
    let prompts = ["--prompt", "a red ball", "--prompt", "a cube"];
    let arguments = [&usual[..], &prompts, &["--out", "v.mp4", "--save-latents", "v.safetensors"]].concat();
    Work { name: "generation", arguments, again: |_| Vec::new(), prepare: |_| {}, counts: is_same_again }
}

fn suite() -> Work {
    fn prepare(folder: &Path) {
        pictures(&folder.join("all/one/pictures"), 1);
        fs::write(folder.join("all/one/class.txt"), "cube").unwrap();
        let base = format!("--base {BASE}");
        let text = format!(
            "title = \"Small\"\nseeds = [1]\nsubjects = {{ folder = \"all\" }}\n\
             fit = \"{base} --preset nano --sample-every 0 --height 16 --width 16 --rank 2 --batch 1 --steps 1 --token-steps 1\"\n\
             generate = \"{base} --frames 5 --height 16 --width 16 --steps 1\"\n\
             [[prompts]]\nname = \"all\"\nmetrics = [\"temporal-flickering\", \"dino-i\"]\ntexts = [\"a {{}}\", \"the {{}}\"]\n\
             [[methods]]\nname = \"base\"\n[[methods]]\nname = \"fitted\"\nfit = \"\"\n"
        );
        fs::write(folder.join("small.toml"), text).unwrap();
    }
    let dino = concat!(env!("CARGO_MANIFEST_DIR"), "/../../oracle/golden/evaluate/dino");
    let arguments =
        vec!["evaluate", "--suite", "small.toml", "--out", "x.csv", "--report", "x.html", "--dino", dino];
    Work {
        name: "suite",
        arguments,
        again: |_| Vec::new(),
        prepare,
        // Rows that are kept say when their videos were made, and the page says when it was.
        counts: |path| is_same_again(path) && !path.ends_with(".part") && !path.ends_with(".html"),
    }
}

/// Some of the calls, spread over all.
fn some(count: usize) -> Vec<usize> {
    (1..=4).map(|part| part * count / 5).collect()
}

fn every(count: usize) -> Vec<usize> {
    (1..=count).collect()
}

#[test]
fn a_fit_survives_kills_and_a_full_disk() {
    fit().check_all(&[Kind::Kill, Kind::Full], some);
}

#[test]
fn a_generation_survives_kills_and_a_full_disk() {
    generation().check_all(&[Kind::Kill, Kind::Full], some);
}

#[test]
#[ignore = "minutes; run by name when what is written changes"]
fn a_fit_survives_a_fault_at_every_write() {
    fit().check_all(&[Kind::Kill, Kind::Once, Kind::Full], every);
}

#[test]
#[ignore = "minutes; run by name when what is written changes"]
fn a_generation_survives_a_fault_at_every_write() {
    generation().check_all(&[Kind::Kill, Kind::Once, Kind::Full], every);
}

#[test]
#[ignore = "minutes; run by name when what is written changes"]
fn a_suite_survives_a_fault_at_every_write() {
    suite().check_all(&[Kind::Kill, Kind::Once, Kind::Full], every);
}
