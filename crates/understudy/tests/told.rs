//! What the command line says: help, plans, notes and advice, each true and of use.
#![allow(clippy::unwrap_used)]

mod common;

use std::fs;
use std::path::Path;

use common::{BASE, Run, generate, pictures, understudy};
use serde_json::Value;
use understudy_media::{Image, Video, WriteOptions};

/// The help of a command as paragraphs: each heading with its options.
fn help(command: &str, flag: &str) -> Vec<(String, String)> {
    let folder = tempfile::tempdir().unwrap();
    let printed = understudy(folder.path(), &[command, flag]).succeeds();
    let mut parts: Vec<(String, String)> = vec![("".into(), "".into())];
    for line in printed.lines() {
        match line.strip_suffix(':').filter(|line| !line.starts_with(' ')) {
            Some(heading) => parts.push((heading.to_owned(), String::new())),
            None => parts.last_mut().unwrap().1 += &format!("{line}\n"),
        }
    }
    parts
}

#[test]
fn options_stand_under_their_own_heading() {
    for flag in ["-h", "--help"] {
        for (command, option, heading) in [
            ("generate", "--prompt <", "Options"),
            ("generate", "--negative-prompt <", "Options"),
            ("generate", "--out <", "Options"),
            ("generate", "--base <", "Base"),
            ("generate", "--adapter <", "Adapters"),
            ("generate", "--merge", "Adapters"),
            ("generate", "--steps <", "Sampling"),
            ("generate", "--no-warp", "V-Warper"),
            ("generate", "--initial-noise <", "Options"),
            ("generate", "--device <", "Device and output"),
            ("fit", "--subject <", "Options"),
            ("fit", "--out <", "Options"),
            ("fit", "--resume", "Options"),
            ("fit", "--print-config", "Options"),
            ("fit", "--blocks-on-host <", "Base"),
            ("fit", "--evaluate-every <", "Evaluations"),
            ("fit", "--json", "Device and output"),
        ] {
            let parts = help(command, flag);
            let found: Vec<&str> = parts[1..]
                .iter()
                .filter(|(_, text)| text.lines().any(|line| line.trim_start().starts_with(option)))
                .map(|(name, _)| name.as_str())
                .collect();
            assert_eq!(found, [heading], "{command} {flag} {option}");
        }
    }
}

#[test]
fn usage_names_what_is_needed_and_help_offers_what_there_is() {
    let folder = tempfile::tempdir().unwrap();
    let whole = |command: &str| understudy(folder.path(), &[command, "--help"]).succeeds();
    for (command, needed) in [
        ("fit", &["--subject <", "--class <", "--out <"][..]),
        ("generate", &["--prompt <", "--out <"]),
        ("evaluate", &["--videos <", "--suite <", "--out <"]),
        ("convert", &["--to <", "--out <"]),
        ("pretrain", &["<RECIPE>", "--out <"]),
    ] {
        let printed = whole(command);
        let usage = printed.split("\n\n").find(|part| part.starts_with("Usage:")).unwrap();
        for flag in needed {
            assert!(usage.contains(flag), "{command} {flag}: {usage}");
        }
    }
    for absent in ["personal-video", "not built yet", "--reference"] {
        for command in ["fit", "generate"] {
            assert!(!whole(command).contains(absent), "{command} {absent}");
        }
    }
    let message = understudy(folder.path(), &["fit", "--method", "magic", "--print-config"]).fails(2);
    assert!(message.contains("set-and-sequence") && !message.contains("personal-video"), "{message}");
}

/// Whether `text` says something of a word in quotes.
fn names(text: &str, word: &str) -> bool {
    text.contains(&format!("{word:?}"))
}

#[test]
fn words_the_base_does_not_know_are_named_once() {
    let folder = tempfile::tempdir().unwrap();
    let plan = |prompt: &str, more: &[&str]| {
        let run = understudy(folder.path(), &[&["generate", "--plan", "--prompt", prompt], more].concat());
        run.succeeds();
        run.stderr
    };
    let said = plan("A platypus, and a cat: the platypus jumps on the beach!", &[]);
    assert!(names(&said, "platypus") && said.matches("platypus").count() == 1, "{said}");
    assert!(!said.contains("\"cat\"") && !said.contains("\"beach\""), "{said}");
    assert!(!plan("A cat jumps on the beach, in the snow", &[]).contains("note"));
    let said = plan("a <s> cat", &[]);
    assert!(said.contains("<s> stands for nothing") && said.contains("--adapter"), "{said}");
    assert!(names(&plan("a cat", &["--negative-prompt", "blurry"]), "blurry"));
    let json =
        understudy(folder.path(), &["generate", "--plan", "--json", "--prompt", "a dragon"]).succeeds();
    let event: Value = serde_json::from_str(json.lines().next().unwrap()).unwrap();
    assert!(names(event["notes"][0].as_str().unwrap(), "dragon"), "{event}");
}

/// A plan of a fit on the tiny base.
fn plan(folder: &Path, flags: &[&str]) -> Run {
    let usual = ["fit", "--base", BASE, "--plan", "--preset", "small", "--height", "16", "--width", "16"];
    understudy(folder, &[&usual, flags].concat())
}

#[test]
fn a_fit_can_be_planned() {
    let folder = tempfile::tempdir().unwrap();
    pictures(&folder.path().join("subject"), 2);
    fs::write(folder.path().join("subject/notes.md"), "x").unwrap();
    let of = |class: &str| {
        let run = plan(folder.path(), &["--subject", "subject", "--class", class]);
        run.succeeds();
        run.stderr
    };
    let said = of("cube");
    assert!(said.contains("2 pictures") && said.contains("notes.md") && !said.contains(" 0.0 "), "{said}");
    assert!(!said.contains("note:"), "{said}");
    assert!(names(&of("dragon"), "dragon"));
    let json = plan(folder.path(), &["--subject", "subject", "--class", "cube", "--json"]).succeeds();
    let event: Value = serde_json::from_str(json.lines().next().unwrap()).unwrap();
    assert_eq!((&event["event"], &event["pictures"]), (&"fit".into(), &2.into()));
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
}

#[test]
fn a_fit_says_what_it_will_learn_along() {
    let folder = tempfile::tempdir().unwrap();
    let frame = |at: usize| {
        Image::from_fn(32, 32, |x, y| [(8 * x) as u8, if x / 4 == at { 250 } else { 40 }, y as u8])
    };
    let clip = Video::new((0..5).map(frame).collect(), 8.0).unwrap();
    clip.write(folder.path().join("a.gif"), &WriteOptions::default()).unwrap();
    let said = || {
        let few = ["--set", "clip_frames=5", "--method", "set-and-sequence"];
        let run = plan(folder.path(), &[&["--subject", "a.gif", "--class", "cube"][..], &few].concat());
        run.succeeds();
        run.stderr
    };
    let whole = said();
    assert!(
        whole.contains("no caption and no masks") && whole.contains("a cube [jumps] in a room"),
        "{whole}"
    );
    fs::write(folder.path().join("a.txt"), "a red cube").unwrap();
    let told = said();
    assert!(
        told.contains("no masks") && !told.contains("no caption") && told.contains("square brackets"),
        "{told}"
    );
    fs::write(folder.path().join("a.txt"), "a red cube [rolls] on the left").unwrap();
    assert!(!said().contains("square brackets"));
    clip.write(folder.path().join("a.masks/"), &WriteOptions::default()).unwrap();
    assert!(!said().contains("note:"), "{}", said());

    pictures(&folder.path().join("one"), 1);
    let run = plan(folder.path(), &["--subject", "one", "--class", "cube"]);
    assert!(run.stderr.contains("one picture"), "{}", run.stderr);
}

#[test]
fn a_plan_needs_no_place_and_speaks_of_what_there_is() {
    let folder = tempfile::tempdir().unwrap();
    let run = generate(folder.path(), &["--plan"]);
    run.succeeds();
    assert!(!run.stderr.contains(" 0.0 ") && run.stderr.contains("B activations"), "{}", run.stderr);
    let message = generate(folder.path(), &[]).fails(2);
    assert!(message.contains("--out"), "{message}");
    let several =
        generate(folder.path(), &["--plan", "--prompt", "a ball", "--prompt", "a cube", "--seed", "5"]);
    assert!(
        several.stderr.contains("2 videos") && several.stderr.contains("seeds 5 to 6"),
        "{}",
        several.stderr
    );
}

/// The numbers after the last "use" of a message.
fn advised(message: &str) -> Vec<String> {
    let (_, advice) = message.rsplit_once("use ").unwrap();
    advice.split(" or ").map(|number| number.trim().to_owned()).collect()
}

#[test]
fn values_that_are_advised_are_accepted() {
    let folder = tempfile::tempdir().unwrap();
    for (flag, value) in [
        ("--frames", "1000000"),
        ("--frames", "18446744073709551615"),
        ("--frames", "0"),
        ("--frames", "6"),
        ("--frames", "258"),
        ("--height", "1000000"),
        ("--height", "513"),
        ("--height", "505"),
        ("--height", "65"),
        ("--width", "1"),
        ("--width", "0"),
    ] {
        let asked = |value: &str| {
            let small = [["--frames", "5"], ["--height", "16"], ["--width", "16"]];
            let small = small.into_iter().filter(|own| own[0] != flag).flatten().collect::<Vec<_>>();
            let own = ["generate", "--base", BASE, "--prompt", "a ball", "--plan", flag, value];
            understudy(folder.path(), &[&own[..], &small].concat())
        };
        let message = asked(value).fails(2);
        let advised = advised(&message);
        assert!(!advised.is_empty(), "{message}");
        for value in advised {
            assert_eq!(asked(&value).code, Some(0), "{message}: {value}");
        }
    }
    // A setting is called by its name.
    pictures(&folder.path().join("subject"), 2);
    let wrong =
        ["--subject", "subject", "--class", "cube", "--set", "samples.frames=6", "--sample-every", "1"];
    let message = plan(folder.path(), &wrong).fails(2);
    assert!(message.contains("samples.frames") && advised(&message) == ["5", "9"], "{message}");
}

#[test]
fn what_is_printed_does_not_move_the_cursor() {
    let folder = tempfile::tempdir().unwrap();
    let clean = |run: Run| {
        assert!(!format!("{}{}", run.stdout, run.stderr).contains('\x1b'), "{:?}", run.stderr);
        run
    };
    let odd = "a\x1b[2J\u{202e}.safetensors";
    let message = clean(generate(folder.path(), &["--out", "a.gif", "--adapter", odd])).fails(1);
    assert!(message.contains("\\u{1b}[2J") && !message.contains('\u{202e}'), "{message}");
    clean(generate(folder.path(), &["--out", "a\x1b[31m.gif", "--prompt", "a \x1b[2J ball"])).succeeds();
    clean(understudy(folder.path(), &["inspect", "a\x1b[31m.gif"])).succeeds();
    clean(understudy(folder.path(), &["generate", "--frob\x1b[31m"])).fails(2);
    pictures(&folder.path().join("subject"), 1);
    fs::write(folder.path().join("subject/x\x1b[31m.md"), "x").unwrap();
    clean(plan(folder.path(), &["--subject", "subject", "--class", "cube"])).succeeds();
}

#[test]
fn nothing_is_written_to_stdout_by_the_name_of_a_dash() {
    let folder = tempfile::tempdir().unwrap();
    let message = generate(folder.path(), &["--out", "-"]).fails(2);
    assert!(message.contains("stdout") && message.contains("out.mp4"), "{message}");
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
}

#[test]
fn a_weight_that_makes_noise_of_everything_is_refused() {
    const ADAPTER: &str =
        concat!(env!("CARGO_MANIFEST_DIR"), "/../../oracle/golden/lora_exchange/comfyui.safetensors");
    let folder = tempfile::tempdir().unwrap();
    for weight in ["1e9", "nan", "-inf", "0x", "0.5x", "1,5"] {
        let adapter = format!("{ADAPTER}:{weight}");
        let message = generate(folder.path(), &["--out", "a.gif", "--adapter", &adapter]).fails(2);
        assert!(message.contains("weight"), "{weight}: {message}");
    }
    let odd = folder.path().join("my:cat.safetensors");
    fs::copy(ADAPTER, &odd).unwrap();
    for text in ["my:cat.safetensors", "my:cat.safetensors:0.5"] {
        generate(folder.path(), &["--out", "a.gif", "--adapter", text]).succeeds();
    }
}

#[test]
fn one_number_under_two_names_is_said_to_be_one() {
    let folder = tempfile::tempdir().unwrap();
    fs::create_dir(folder.path().join("videos")).unwrap();
    generate(folder.path(), &["--out", "videos/a.gif", "--upscale", "2"]).succeeds();
    pictures(&folder.path().join("subject"), 2);
    let scored = |metrics: &str| {
        let flags = [
            "evaluate",
            "--videos",
            "videos",
            "--references",
            "subject",
            "--out",
            "a.csv",
            "--report",
            "a.html",
        ];
        let run = understudy(folder.path(), &[&flags[..], &["--metrics", metrics]].concat());
        run.succeeds();
        (run.stderr, fs::read_to_string(folder.path().join("a.html")).unwrap())
    };
    let (said, page) = scored("dino-i,identity");
    let same = "dino-i and identity are the same number here";
    assert!(said.contains(same) && page.contains(same), "{said}");
    let (said, page) = scored("dino-i");
    assert!(
        said.contains("stands for DINO") && !said.contains(same) && page.contains("stands for DINO"),
        "{said}"
    );
    let (said, page) = scored("clip-t");
    assert!(!said.contains("DINO"), "{said}");
    // The page says what it is of, and shows nothing that is empty.
    assert!(
        page.contains("understudy evaluate --videos videos")
            && page.contains(" UTC")
            && !page.contains("gain over")
    );
    assert!(page.contains(concat!("understudy ", env!("CARGO_PKG_VERSION"))) && !page.contains("References"));
}

#[test]
fn shells_and_manuals_know_every_command() {
    let folder = tempfile::tempdir().unwrap();
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let run = understudy(folder.path(), &["completions", shell]);
        run.succeeds();
        assert!(run.stdout.contains("initial-noise"), "{shell}");
        // These complete no values.
        let of_flags = ["elvish", "powershell"].contains(&shell);
        assert!(run.stdout.contains("set-and-sequence") || of_flags, "{shell}");
    }
    assert_eq!(understudy(folder.path(), &["completions", "dos"]).code, Some(2));
    understudy(folder.path(), &["man", "man/man1"]).succeeds();
    let page = |name: &str| fs::read_to_string(folder.path().join("man/man1").join(name)).unwrap();
    assert!(page("understudy.1").contains("understudy\\-fit(1)"));
    assert!(page("understudy-fit.1").contains("set\\-and\\-sequence"));
    fs::write(folder.path().join("file"), "").unwrap();
    let run = understudy(folder.path(), &["man", "file"]);
    assert!(run.code == Some(1) && run.stderr.contains("file: cannot write manual pages"), "{}", run.stderr);
}
