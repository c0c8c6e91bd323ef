//! Several prompts in one command, and what a video says of how it was made.
#![allow(clippy::unwrap_used)]

mod common;

use std::fs;
use std::path::Path;

use common::{BASE, generate, tensor, understudy};
use serde_json::Value;
use understudy_media::{Provenance, Video};

#[cfg(unix)]
use crate::common::interrupted;

const TWO: [&str; 4] = ["--prompt", "a red ball", "--prompt", "two green cubes on the left"];

fn events(printed: &str) -> Vec<Value> {
    printed.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// The arguments of a `generate` on the tiny base.
fn command<'a>(flags: &[&'a str]) -> Vec<&'a str> {
    let usual = [["--frames", "5"], ["--height", "16"], ["--width", "16"], ["--steps", "2"]];
    let usual = usual.into_iter().filter(|own| !flags.contains(&own[0])).flatten();
    ["generate", "--base", BASE].into_iter().chain(usual).chain(flags.iter().copied()).collect()
}

#[test]
fn each_video_is_what_its_prompt_gives_alone_with_the_next_seed() {
    let folder = tempfile::tempdir().unwrap();
    let read = |name: &str| fs::read(folder.path().join(name)).unwrap();
    generate(folder.path(), &[&TWO[..], &["--out", "v.safetensors", "--seed", "3"]].concat()).succeeds();
    generate(folder.path(), &["--prompt", TWO[1], "--out", "a.safetensors", "--seed", "3"]).succeeds();
    generate(folder.path(), &["--prompt", TWO[3], "--out", "b.safetensors", "--seed", "4"]).succeeds();
    assert_eq!(
        [read("v-1.safetensors"), read("v-2.safetensors")],
        [read("a.safetensors"), read("b.safetensors")]
    );
    assert_eq!(Provenance::read(folder.path().join("v-2.safetensors")).unwrap().seed, Some(4));
    let help = understudy(folder.path(), &["generate", "--help"]).succeeds();
    let help = help.split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(help.contains("what the second prompt alone gives with a seed 1 higher"), "{help}");
}

#[test]
fn prompts_come_from_a_file_in_any_usual_encoding() {
    let folder = tempfile::tempdir().unwrap();
    let said = format!("{}\r\n\r\n  {}  \r\n", TWO[1], TWO[3]);
    let utf16: Vec<u8> = format!("\u{feff}{said}").encode_utf16().flat_map(u16::to_le_bytes).collect();
    fs::write(folder.path().join("utf8.txt"), &said).unwrap();
    fs::write(folder.path().join("utf16.txt"), utf16).unwrap();
    understudy(folder.path(), &command(&[&TWO[..], &["--out", "a.gif"]].concat())).succeeds();
    for file in ["utf8.txt", "utf16.txt"] {
        understudy(folder.path(), &command(&["--prompts", file, "--out", "b.gif"])).succeeds();
        for number in [1, 2] {
            let of = |name: &str| fs::read(folder.path().join(format!("{name}-{number}.gif"))).unwrap();
            assert_eq!(of("a"), of("b"), "{file}");
        }
    }
    fs::write(folder.path().join("empty.txt"), "\n\n").unwrap();
    let fails = |flags: &[&str], code| understudy(folder.path(), &command(flags)).fails(code);
    assert!(fails(&["--prompts", "empty.txt", "--out", "c.gif"], 1).contains("empty.txt"));
    assert!(fails(&["--prompts", "none.txt", "--out", "c.gif"], 1).contains("none.txt"));
    assert!(fails(&["--prompts", "utf8.txt", "--prompt", "a", "--out", "c.gif"], 2).contains("--prompt"));
    assert!(fails(&["--out", "c.gif"], 2).contains("--prompt"));
}

#[cfg(unix)]
#[test]
fn what_is_done_outlives_the_command_and_is_kept_when_it_goes_on() {
    const PROMPTS: [&str; 4] = ["a red ball", "two green cubes", "a blue cube", "a ball"];
    let several = PROMPTS.into_iter().flat_map(|prompt| ["--prompt", prompt]).collect::<Vec<_>>();
    let frames = |path: &Path| {
        if path.is_dir() { Video::read_frames(path, 8.0).unwrap() } else { Video::read(path).unwrap() }
    };
    for (out, name) in [("v.gif", "v-#.gif"), ("v", "v-#"), ("v.mp4", "v-#.mp4")] {
        let asked = command(&[&several[..], &["--out", out, "--steps", "30", "--json"]].concat());
        let at = |folder: &Path, number: usize| folder.join(name.replace('#', &number.to_string()));
        let folder = tempfile::tempdir().unwrap();
        let run = interrupted(folder.path(), &asked, |event| event["event"] == "video", "-KILL");
        assert_eq!(run.code, None, "{}", run.stderr);
        let written = |path: &Path| fs::metadata(path).unwrap().modified().unwrap();
        let first = at(folder.path(), 1);
        let before = (Provenance::read(&first).unwrap(), written(&first));

        let resumed = understudy(folder.path(), &[&asked[..], &["--resume"]].concat()).succeeds();
        assert!(events(&resumed).iter().any(|event| event["kept"] == true), "{resumed}");
        assert_eq!((Provenance::read(&first).unwrap(), written(&first)), before);

        // The same as in one go.
        let whole = tempfile::tempdir().unwrap();
        understudy(whole.path(), &asked).succeeds();
        for number in 1..=PROMPTS.len() {
            let [one, other] = [&folder, &whole].map(|folder| frames(&at(folder.path(), number)));
            assert!(one == other, "{out} {number}");
        }
    }
}

#[test]
fn what_was_made_otherwise_is_made_again() {
    let folder = tempfile::tempdir().unwrap();
    let made = |flags: &[&str]| {
        let run = generate(folder.path(), &[&["--out", "a.gif", "--resume", "--json"], flags].concat());
        let events = events(&run.succeeds());
        events.iter().any(|event| event["event"] == "step")
    };
    assert!(made(&[]));
    assert!(!made(&[]));
    assert!(made(&["--seed", "1"]));
    assert!(made(&["--steps", "3"]));
    assert!(!made(&["--steps", "3"]));
}

#[cfg(unix)]
#[test]
fn latents_that_cannot_be_written_do_not_take_the_video_along() {
    let folder = tempfile::tempdir().unwrap();
    let latents = folder.path().join("latents");
    fs::create_dir(&latents).unwrap();
    let own = [
        &["--out", "a.gif", "--save-latents", "latents/a.safetensors", "--json"],
        &TWO[..2],
        &["--steps", "40"],
    ]
    .concat();
    let begun = |event: &Value| {
        let begun = event["event"] == "step";
        if begun {
            fs::remove_dir_all(&latents).unwrap();
        }
        begun
    };
    let run = interrupted(folder.path(), &command(&own), begun, "-CONT");
    assert_eq!(run.code, Some(1));
    assert!(run.stderr.contains("a.gif") && run.stderr.contains("latents/a.safetensors"), "{}", run.stderr);
    assert_eq!(Video::read(folder.path().join("a.gif")).unwrap().frames.len(), 5);
}

#[test]
fn latents_of_several_are_rows_of_one_file() {
    let folder = tempfile::tempdir().unwrap();
    let flags = ["--out", "v.gif", "--save-latents", "all.safetensors"];
    generate(folder.path(), &[&TWO[..], &flags].concat()).succeeds();
    let flags = ["--out", "b.gif", "--save-latents", "second.safetensors", "--seed", "1"];
    generate(folder.path(), &[&TWO[2..], &flags].concat()).succeeds();
    let [(all, rows), (one, second)] =
        ["all", "second"].map(|name| tensor(&folder.path().join(format!("{name}.safetensors")), "latents"));
    assert_eq!((all[0], one[0]), (2, 1));
    assert_eq!(rows[second.len()..], second);
}

#[test]
fn a_video_says_how_to_make_it_again() {
    const ADAPTER: &str =
        concat!(env!("CARGO_MANIFEST_DIR"), "/../../oracle/golden/lora_exchange/comfyui.safetensors");
    let folder = tempfile::tempdir().unwrap();
    let adapter = format!("{ADAPTER}:0.5");
    let odd = [
        "--prompt=-a (red:1.3) ball",
        "--prompt",
        "two 'cubes' & a \"ball\"",
        "--negative-prompt",
        "green",
        "--prompt-weights",
        "--adapter",
        &adapter,
        "--guidance",
        "3.3",
        "--guidance-start",
        "0.2",
        "--scheduler",
        "euler",
        "--shift",
        "2.5",
        "--seed",
        "18446744073709551615",
        "--fps",
        "10",
        "--upscale",
        "2",
    ];
    for name in ["v.mp4", "v.gif", "v.webp", "v.png", "v.safetensors", "frames"] {
        understudy(folder.path(), &command(&[&odd[..], &["--out", name]].concat())).succeeds();
        for number in [1, 2] {
            let (stem, end) =
                name.split_once('.').map_or((name, String::new()), |(a, b)| (a, format!(".{b}")));
            let path = folder.path().join(format!("{stem}-{number}{end}"));
            let made = Provenance::read(&path).unwrap();
            let seed = if number == 1 { u64::MAX } else { 0 };
            assert_eq!((made.seed, made.made_by.split(' ').next()), (Some(seed), Some("understudy")));
            let again = format!("again-{number}-{stem}{end}");
            let arguments: Vec<&str> = made.arguments.iter().map(String::as_str).collect();
            understudy(folder.path(), &[&["generate"], &arguments[..], &["--out", &again]].concat())
                .succeeds();
            let again = folder.path().join(again);
            if path.is_dir() {
                assert_eq!(
                    fs::read(path.join("00004.png")).unwrap(),
                    fs::read(again.join("00004.png")).unwrap()
                );
            } else {
                assert!(fs::read(&path).unwrap() == fs::read(again).unwrap(), "{name} {number}");
            }
        }
    }
    let shown = understudy(folder.path(), &["inspect", "v-2.mp4"]).succeeds();
    for part in [
        "two 'cubes' & a \"ball\"",
        "seed              0",
        "negative prompt   green",
        "0.5",
        "understudy generate --prompt",
    ] {
        assert!(shown.contains(part), "{part}: {shown}");
    }
    let json = understudy(folder.path(), &["inspect", "frames-1", "--json"]).succeeds();
    assert_eq!(serde_json::from_str::<Value>(&json).unwrap()["prompt"], "-a (red:1.3) ball");
}

#[test]
fn evaluate_finds_the_prompts_of_what_was_made() {
    let folder = tempfile::tempdir().unwrap();
    fs::create_dir(folder.path().join("videos")).unwrap();
    let clip = concat!(env!("CARGO_MANIFEST_DIR"), "/../../oracle/golden/evaluate/clip");
    for name in ["v.gif", "w.mp4", "x"] {
        let out = format!("videos/{name}");
        generate(folder.path(), &[&TWO[..], &["--out", &out, "--upscale", "2"]].concat()).succeeds();
    }
    let scores = || {
        let flags =
            ["evaluate", "--videos", "videos", "--clip", clip, "--metrics", "clip-t", "--out", "a.csv"];
        understudy(folder.path(), &flags).succeeds();
        fs::read_to_string(folder.path().join("a.csv")).unwrap()
    };
    let found = scores();
    assert_eq!(found.lines().filter(|line| !line.ends_with(',')).count(), 1 + 6, "{found}");
    for name in ["v", "w", "x"] {
        fs::write(folder.path().join(format!("videos/{name}-1.txt")), TWO[1]).unwrap();
        fs::write(folder.path().join(format!("videos/{name}-2.txt")), TWO[3]).unwrap();
    }
    assert_eq!(found, scores());
    // What is written beside a video counts.
    fs::write(folder.path().join("videos/v-1.txt"), "a blue cube").unwrap();
    assert_ne!(found, scores());
}
