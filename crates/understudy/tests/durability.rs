//! Work is not lost and not spoiled: by ears that do not listen, by damage, by names, by itself, or by
//! others.
#![cfg(unix)]
#![allow(clippy::unwrap_used)]

mod common;

use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use common::{BASE, Run, copy, pictures, tensors, understudy};
use serde_json::Value;
use understudy_files::Lock;

const GOLDEN: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../oracle/golden/evaluate");
const SIZE: [&str; 4] = ["--height", "16", "--width", "16"];

fn program(folder: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_understudy"));
    command.current_dir(folder).env_remove("RUST_BACKTRACE").stdin(Stdio::null());
    command
}

/// A generation of a moment.
fn generate<'a>(flags: &[&'a str]) -> Vec<&'a str> {
    let usual = ["generate", "--base", BASE, "--prompt", "a ball", "--frames", "5", "--steps", "1"];
    [&usual[..], &SIZE, flags].concat()
}

/// A fit of a moment.
fn fit<'a>(flags: &[&'a str]) -> Vec<&'a str> {
    let usual =
        ["fit", "--base", BASE, "--class", "cube", "--preset", "small", "--rank", "2", "--batch", "1"];
    let steps = ["--steps", "2", "--token-steps", "2", "--sample-every", "0"];
    [&usual[..], &SIZE, &steps, flags].concat()
}

/// A pipe that nobody reads.
fn closed_pipe() -> Stdio {
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    writer.into()
}

fn full_disk() -> Stdio {
    File::options().write(true).open("/dev/full").unwrap().into()
}

#[test]
fn work_goes_on_when_nobody_can_be_told() {
    let folder = tempfile::tempdir().unwrap();
    pictures(&folder.path().join("subject"), 1);
    let commands = [fit(&["--subject", "subject", "--out", "a.safetensors"]), generate(&["--out", "a.mp4"])];
    for (arguments, out) in commands.iter().zip(["a.safetensors", "a.mp4"]) {
        for errors in [closed_pipe(), full_disk()] {
            let status = program(folder.path()).args(arguments).stderr(errors).status().unwrap();
            assert_eq!(status.code(), Some(0), "{out}");
            fs::remove_file(folder.path().join(out)).unwrap();
            let _ = fs::remove_dir_all(folder.path().join("a.safetensors.run"));
        }
    }
    // What was wrong is told by the code at least.
    let arguments = generate(&["--out", "a.bmp"]);
    assert_eq!(
        program(folder.path()).args(arguments).stderr(closed_pipe()).status().unwrap().code(),
        Some(2)
    );
    let help = program(folder.path()).arg("--hlep").stderr(full_disk()).status().unwrap();
    assert_eq!(help.code(), Some(2));
}

#[test]
fn events_that_cannot_be_written_are_told_when_the_work_is_done() {
    let folder = tempfile::tempdir().unwrap();
    for events in [closed_pipe(), full_disk()] {
        let arguments = generate(&["--out", "a.mp4", "--json"]);
        let output = program(folder.path()).args(arguments).stdout(events).output().unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{said}");
        assert!(said.starts_with("error: the work is done") && said.lines().count() == 1, "{said}");
        fs::remove_file(folder.path().join("a.mp4")).unwrap();
    }
}

#[test]
fn errors_are_events_too() {
    let folder = tempfile::tempdir().unwrap();
    let last = |arguments: &[&str], code: i32| -> Value {
        let run = understudy(folder.path(), arguments);
        let told = run.fails(code);
        let event: Value = serde_json::from_str(run.stdout.lines().last().unwrap()).unwrap();
        assert_eq!((&event["event"], &event["code"]), (&"error".into(), &code.into()));
        assert_eq!(told, format!("error: {}", event["message"].as_str().unwrap()));
        event
    };
    last(&generate(&["--out", "none/a.mp4", "--json"]), 1);
    last(&generate(&["--out", "a.bmp", "--json"]), 2);
    last(&["generate", "--json", "--fsp", "3"], 2);
    last(&["inspect", "none", "--json"], 1);
}

/// Flips a bit in the middle of a file.
fn damage(path: &Path) {
    let mut bytes = fs::read(path).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 4;
    fs::write(path, bytes).unwrap();
}

#[test]
fn damage_in_a_run_is_told_and_made_good() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    pictures(&path("subject"), 2);
    let few = "token = { checkpoint_every = 1 }\nlora = { checkpoint_every = 1 }\n\
               [prior]\nweight = 1.0\nsamples = 2\nframes = 1\nsteps = 1\n\
               [samples]\nframes = 1\nsteps = 1\nprompts = [\"a {}\"]\n";
    fs::write(path("few.toml"), few).unwrap();
    let (clip, dino) = (format!("{GOLDEN}/clip"), format!("{GOLDEN}/dino"));
    let own = ["--subject", "subject", "--config", "few.toml", "--out", "a.safetensors"];
    let judge = ["--evaluate-every", "1", "--clip", &clip, "--dino", &dino];
    let arguments = fit(&[&own[..], &judge].concat());
    understudy(folder.path(), &arguments).succeeds();
    let expected = tensors(&path("a.safetensors"));
    let run = path("a.safetensors.run");
    let mut kept = fs::read_dir(run.join("lora")).unwrap().map(|entry| entry.unwrap().file_name());
    let best = kept.find(|name| name.to_string_lossy().starts_with("best-")).unwrap();
    let best = PathBuf::from("lora").join(best);
    let resumed = |damaged: &[&Path]| {
        fs::remove_file(path("a.safetensors")).unwrap();
        let run = understudy(folder.path(), &[&arguments[..], &["--resume"]].concat());
        run.succeeds();
        for name in damaged {
            let told = |line: &str| line.contains(name.to_str().unwrap()) && line.contains("damaged");
            assert!(run.stderr.lines().any(told), "{}: {}", name.display(), run.stderr);
        }
        assert!(tensors(&path("a.safetensors")) == expected, "{damaged:?}");
        run
    };
    let kept = path("kept");
    copy(&run, &kept);
    let alone =
        ["settings.toml", "latents.safetensors", "prior.safetensors", "lora/best.toml"].map(Path::new);
    let states = ["token/state.safetensors", "lora/state.safetensors"].map(Path::new);
    for name in alone.into_iter().chain(states).chain([best.as_path()]) {
        damage(&run.join(name));
        resumed(&[name]);
        // It is made good for the next time as well.
        let again = resumed(&[]);
        assert!(!again.stderr.contains("damaged"), "{}", again.stderr);
        fs::remove_dir_all(&run).unwrap();
        copy(&kept, &run);
    }
    // Where the checkpoint before is damaged as well, the steps are taken from the first on.
    let both = ["lora/state.safetensors", "lora/state.before.safetensors"].map(Path::new);
    both.iter().for_each(|name| damage(&run.join(name)));
    resumed(&both);
    // What an earlier version or a power cut left of the settings does not stop the run.
    fs::write(run.join("settings.toml"), "rank = ").unwrap();
    resumed(&[Path::new("settings.toml")]);
}

/// A name that is not UTF-8.
fn name(end: &str) -> OsString {
    OsString::from_vec([b"caf\xe9", end.as_bytes()].concat())
}

fn run(folder: &Path, arguments: &[&OsStr]) -> Run {
    let output = program(folder).args(arguments).output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    Run { code: output.status.code(), stdout: text(output.stdout), stderr: text(output.stderr) }
}

#[test]
fn names_need_not_be_utf_8() {
    let outer = tempfile::tempdir().unwrap();
    let folder = outer.path().join(name(""));
    copy(Path::new(BASE), &folder.join(name("-base")));
    pictures(&folder.join(name("-subject")), 2);
    for (of, index) in [(name("-subject/0.png"), 0), (name("-subject/1.png"), 1)] {
        let to = folder.join(name("-subject")).join(name(&format!("{index}.png")));
        fs::rename(folder.join(of), to).unwrap();
    }
    // Flags and values that are not names come as text.
    let done = |arguments: &[&[&str]], names: &[(&str, OsString)], out: &OsStr| {
        let mut all: Vec<&OsStr> = arguments.iter().copied().flatten().map(OsStr::new).collect();
        names.iter().for_each(|(flag, name)| all.extend([OsStr::new(flag), name]));
        all.push(OsStr::new("--json"));
        let run = run(&folder, &all);
        let printed = run.succeeds();
        let last: Value = serde_json::from_str(printed.lines().last().unwrap()).unwrap();
        assert_eq!(last["event"], "done", "{printed}");
        assert!(folder.join(out).exists(), "{out:?}");
    };
    let base = || ("--base", name("-base"));
    let usual: Vec<&str> = fit(&[]).into_iter().filter(|own| ![BASE, "--base"].contains(own)).collect();
    let out = || ("--out", name(".safetensors"));
    done(
        &[&usual, &["--set", "samples.every=1"]],
        &[base(), ("--subject", name("-subject")), out()],
        &out().1,
    );
    done(&[&usual, &["--resume"]], &[base(), ("--subject", name("-subject")), out()], &out().1);

    let usual: Vec<&str> = generate(&[]).into_iter().filter(|own| ![BASE, "--base"].contains(own)).collect();
    let latents = || name("-latents.safetensors");
    for end in [".mp4", ".gif", ".png", "-frames", "-f.safetensors"] {
        let names = [
            base(),
            ("--adapter", name(".safetensors:0.5")),
            ("--save-latents", latents()),
            ("--out", name(end)),
        ];
        done(&[&usual], &names, &name(end));
    }
    done(&[&usual], &[base(), ("--initial-noise", latents()), ("--out", name("-n.mp4"))], &name("-n.mp4"));
    done(&[&usual, &["--prompt", "a cube"]], &[base(), ("--out", name("-v.mp4"))], &name("-v-2.mp4"));

    let (from, to) = (name(".safetensors"), name("-kohya.safetensors"));
    let convert =
        [OsStr::new("convert"), &from, OsStr::new("--to"), OsStr::new("kohya"), OsStr::new("--out"), &to];
    run(&folder, &convert).succeeds();
    for path in [&from, &name("-base"), &latents()] {
        for more in [&[][..], &["--json"]] {
            let arguments =
                [&[OsStr::new("inspect"), path], &more.iter().map(OsStr::new).collect::<Vec<_>>()[..]];
            run(&folder, &arguments.concat()).succeeds();
        }
    }

    let videos = folder.join(name("-videos"));
    fs::create_dir(&videos).unwrap();
    fs::copy(folder.join(name(".mp4")), videos.join(name(".mp4"))).unwrap();
    fs::write(videos.join(name(".txt")), "a ball").unwrap();
    let dino = format!("{GOLDEN}/dino");
    let evaluate = ["evaluate", "--dino", &dino, "--metrics", "dino-i,temporal-flickering"];
    let names = [
        ("--videos", name("-videos")),
        ("--references", name("-subject")),
        ("--report", name(".html")),
        ("--out", name(".csv")),
    ];
    done(&[&evaluate], &names, &name(".csv"));
}

#[test]
fn a_suite_may_be_called_anything() {
    let outer = tempfile::tempdir().unwrap();
    let folder = outer.path().join(name(""));
    let subject = folder.join(name("-all")).join(name("-one"));
    pictures(&subject.join("pictures"), 1);
    fs::write(subject.join("class.txt"), "cube").unwrap();
    let base = format!("--base {BASE}");
    let text = format!(
        "title = \"Small\"\nseeds = [1]\nsubjects = {{ folder = \".\" }}\n\
         fit = \"{base} --preset nano --sample-every 0 --height 16 --width 16 --rank 2 --batch 1 --steps 1 --token-steps 1\"\n\
         generate = \"{base} --frames 5 --height 16 --width 16 --steps 1\"\n\
         [[prompts]]\nname = \"all\"\nmetrics = [\"temporal-flickering\"]\ntexts = [\"a {{}}\"]\n\
         [[methods]]\nname = \"fitted\"\nfit = \"\"\n"
    );
    let (suite, out) = (folder.join(name("-all")).join(name(".toml")), name(".csv"));
    fs::write(&suite, text).unwrap();
    let arguments =
        [OsStr::new("evaluate"), OsStr::new("--suite"), suite.as_os_str(), OsStr::new("--out"), &out];
    run(&folder, &arguments).succeeds();
    assert!(folder.join(out).exists());
    let mut names = fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().file_name());
    assert!(names.all(|name| name.as_bytes().starts_with(b"caf\xe9")));
}

#[test]
fn no_output_is_an_input() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    copy(Path::new(BASE), &path("base"));
    pictures(&path("subject"), 1);
    understudy(folder.path(), &fit(&["--subject", "subject", "--out", "a.safetensors"])).succeeds();
    understudy(folder.path(), &generate(&["--out", "v.mp4", "--save-latents", "l.safetensors"])).succeeds();
    fs::hard_link(path("a.safetensors"), path("hard.safetensors")).unwrap();
    std::os::unix::fs::symlink("a.safetensors", path("soft.safetensors")).unwrap();
    std::os::unix::fs::symlink("base", path("same")).unwrap();
    let before: Vec<_> = ["a.safetensors", "l.safetensors"].map(|name| fs::read(path(name)).unwrap()).into();
    let refused = |arguments: &[&str], flags: [&str; 2]| {
        let message = understudy(folder.path(), arguments).fails(2);
        assert!(flags.iter().all(|flag| message.contains(flag)), "{message}");
    };
    for out in ["a.safetensors", "./subject/../a.safetensors", "hard.safetensors", "soft.safetensors"] {
        refused(&generate(&["--adapter", "a.safetensors:0.5", "--out", out]), ["--out", "--adapter"]);
        refused(&["convert", "a.safetensors", "--to", "kohya", "--out", out], ["--out", "a.safetensors"]);
    }
    let noise = ["--initial-noise", "l.safetensors", "--out", "x.mp4", "--save-latents", "./l.safetensors"];
    refused(&generate(&noise), ["--save-latents", "--initial-noise"]);
    let twice = ["--out", "x.safetensors", "--save-latents", "./x.safetensors"];
    refused(&generate(&twice), ["--save-latents", "--out"]);
    let weights = "base/transformer/diffusion_pytorch_model.safetensors";
    let own: Vec<&str> =
        generate(&[]).into_iter().map(|own| if own == BASE { "same" } else { own }).collect();
    refused(&[&own[..], &["--out", weights]].concat(), ["--out", "--base"]);
    let own: Vec<&str> = fit(&["--subject", "subject"]);
    let own: Vec<&str> = own.into_iter().map(|own| if own == BASE { "base" } else { own }).collect();
    refused(&[&own[..], &["--out", weights]].concat(), ["--out", "--base"]);
    fs::rename(path("v.mp4"), path("v.safetensors")).unwrap();
    refused(&fit(&["--subject", "v.safetensors", "--out", "v.safetensors"]), ["--out", "--subject"]);

    fs::create_dir(path("videos")).unwrap();
    fs::write(path("videos/v.faces.csv"), "frame\n").unwrap();
    let evaluate = ["evaluate", "--videos", "videos", "--out", "videos/v.faces.csv"];
    refused(&evaluate, ["--out", "--videos"]);
    assert_eq!(before, ["a.safetensors", "l.safetensors"].map(|name| fs::read(path(name)).unwrap()));
    // An adapter may be fitted again beside the pictures it was learned from.
    understudy(folder.path(), &fit(&["--subject", "subject", "--out", "subject/a.safetensors"])).succeeds();
    let again = fit(&["--subject", "subject", "--out", "subject/a.safetensors", "--resume"]);
    understudy(folder.path(), &again).succeeds();
}

#[test]
fn one_at_a_time() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    pictures(&path("subject"), 1);
    fs::create_dir(path("run")).unwrap();
    let held = [
        Lock::beside(&path("a.safetensors")),
        Lock::beside(&path("frames")),
        Lock::beside(&path("x.csv")),
        Lock::within(&path("run")),
    ];
    let held = held.map(Result::unwrap);
    let recipe = concat!(env!("CARGO_MANIFEST_DIR"), "/../../recipes/identity.toml");
    let commands = [
        fit(&["--subject", "subject", "--out", "a.safetensors"]),
        fit(&["--subject", "subject", "--out", "a.safetensors", "--resume"]),
        generate(&["--out", "frames"]),
        vec!["evaluate", "--videos", "subject", "--out", "x.csv"],
        vec!["pretrain", recipe, "--steps", "1", "--out", "run"],
    ];
    for arguments in &commands {
        let message = understudy(folder.path(), arguments).fails(1);
        let holder = format!("process {}", std::process::id());
        assert!(message.contains(&holder) && message.contains("is writing it"), "{message}");
    }
    drop(held);
    understudy(folder.path(), &commands[0]).succeeds();
    assert!(
        fs::read_dir(folder.path())
            .unwrap()
            .all(|entry| { !entry.unwrap().file_name().to_string_lossy().starts_with('.') })
    );
}
