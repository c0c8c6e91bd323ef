//! AnimateDiff on the command line, on a tiny Stable Diffusion with random weights.
#![allow(clippy::unwrap_used)]

mod common;

use std::path::Path;

use common::{Run, tensor, understudy};
use serde_json::Value;
use understudy_media::Image;

/// A folder as Stable Diffusion is published, with motion modules in a folder of it.
const BASE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../oracle/golden/animatediff_a");
/// Motion modules by themselves.
const MOTION: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../oracle/golden/animatediff_a/motion_adapter");

fn generate(folder: &Path, flags: &[&str]) -> Run {
    let usual = [
        ["--frames", "3"],
        ["--height", "16"],
        ["--width", "24"],
        ["--steps", "2"],
        ["--prompt", "a red cat"],
    ];
    let mut arguments = vec!["generate", "--base", BASE];
    for flag in usual.iter().filter(|flag| !flags.contains(&flag[0])) {
        arguments.extend(flag);
    }
    understudy(folder, &[&arguments, flags].concat())
}

fn pictures(folder: &Path, count: usize) {
    std::fs::create_dir(folder).unwrap();
    for index in 0..count {
        let shade = |x: usize, y: usize| [(8 * x) as u8, (9 * y) as u8, (40 * index) as u8];
        Image::from_fn(24, 24, shade).write_png(folder.join(format!("{index}.png"))).unwrap();
    }
}

/// The plan of a command, and what else it tells.
fn events(run: &Run) -> Vec<Value> {
    run.succeeds().lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn pictures_move_by_whichever_modules_are_given() {
    let folder = tempfile::tempdir().unwrap();
    let frames = |name: &str, flags: &[&str]| {
        generate(folder.path(), &[&["--out", name], flags].concat()).succeeds();
        tensor(&folder.path().join(name), "frames").1
    };
    let own = frames("own.safetensors", &[]);
    assert_eq!(own, frames("given.safetensors", &["--motion", MOTION]));
    assert_ne!(own, frames("euler.safetensors", &["--scheduler", "euler-a"]));
    assert_ne!(own, frames("skip.safetensors", &["--clip-skip", "1"]));
    let said = generate(folder.path(), &["--clip-skip", "9", "--plan"]).fails(2);
    assert!(said.contains("clip-skip"), "{said}");
    let said = generate(folder.path(), &["--scheduler", "unipc", "--plan"]).fails(2);
    assert!(said.contains("unipc"), "{said}");
}

#[test]
fn what_does_not_move_is_said() {
    let folder = tempfile::tempdir().unwrap();
    let still = folder.path().join("still");
    for part in ["tokenizer", "text_encoder", "vae", "unet", "scheduler"] {
        std::fs::create_dir_all(still.join(part)).unwrap();
        for entry in std::fs::read_dir(Path::new(BASE).join(part)).unwrap().map(Result::unwrap) {
            std::fs::copy(entry.path(), still.join(part).join(entry.file_name())).unwrap();
        }
    }
    std::fs::copy(Path::new(BASE).join("model_index.json"), still.join("model_index.json")).unwrap();
    let still = still.to_str().unwrap();
    let asked =
        ["generate", "--base", still, "--prompt", "a", "--frames", "2", "--height", "16", "--width", "16"];
    let plan = |more: &[&str]| understudy(folder.path(), &[&asked[..], more, &["--plan"]].concat());
    let said = plan(&[]).fails(1);
    assert!(said.contains("--motion"), "{said}");
    plan(&["--motion", MOTION]).succeeds();
    let said = plan(&["--motion", &format!("{BASE}/vae")]).fails(1);
    assert!(said.contains("AutoencoderKL") && said.contains("MotionAdapter"), "{said}");
    let nano = understudy(folder.path(), &["generate", "--motion", MOTION, "--prompt", "a", "--plan"]);
    let said = nano.fails(2);
    assert!(said.contains("--motion") && said.contains("--base"), "{said}");
}

#[test]
fn more_frames_than_positions_are_made_in_windows() {
    let folder = tempfile::tempdir().unwrap();
    let run = generate(folder.path(), &["--frames", "40", "--out", "v.safetensors", "--json"]);
    let plan = events(&run).into_iter().find(|event| event["event"] == "plan").unwrap();
    assert!(plan["notes"].to_string().contains("windows of 16"), "{plan}");
    assert_eq!(tensor(&folder.path().join("v.safetensors"), "frames").0, [3, 40, 16, 24]);
    let said = generate(folder.path(), &["--context", "4", "--context-overlap", "4", "--plan"]).fails(2);
    assert!(said.contains("context"), "{said}");
    // All frames in one window are no windows.
    generate(folder.path(), &["--context", "8", "--out", "one.safetensors"]).succeeds();
    generate(folder.path(), &["--out", "none.safetensors"]).succeeds();
    let frames = |name: &str| tensor(&folder.path().join(name), "frames").1;
    assert_eq!(frames("one.safetensors"), frames("none.safetensors"));
}

#[test]
fn a_subject_is_learned_where_it_is_asked_for() {
    let folder = tempfile::tempdir().unwrap();
    pictures(&folder.path().join("cat"), 3);
    let fit = |out: &str, flags: &[&str]| {
        let asked = ["fit", "--base", BASE, "--subject", "cat", "--class", "cat", "--out", out, "--json"];
        let short = ["--height", "24", "--width", "24", "--rank", "2", "--steps", "2", "--token-steps", "1"];
        let quiet = ["--sample-every", "0", "--prior-weight", "0"];
        understudy(folder.path(), &[&asked[..], &short, &quiet, flags].concat())
    };
    let sites = |targets: &str| {
        let out = format!("{targets}.safetensors");
        let plan = events(&fit(&out, &["--targets", targets]));
        plan.into_iter().find(|event| event["event"] == "fit").unwrap()["sites"].as_u64().unwrap()
    };
    // Two levels with transformers: two down and three up, and the middle.
    let spatial = sites("spatial-self-attention");
    let temporal = sites("temporal");
    assert!(spatial > 0 && temporal > 0 && spatial != temporal, "{spatial} and {temporal}");
    let run = generate(
        folder.path(),
        &["--adapter", "temporal.safetensors", "--prompt", "a <s> cat dances", "--out", "v.mp4"],
    );
    run.succeeds();
}

#[test]
fn parts_people_have_are_told() {
    let folder = tempfile::tempdir().unwrap();
    let adapters = concat!(env!("CARGO_MANIFEST_DIR"), "/../../oracle/golden/animatediff_adapters");
    let told = |path: &str| understudy(folder.path(), &["inspect", path]).succeeds();
    assert!(told(MOTION).contains("motion modules (AnimateDiff v1.5-2)"));
    assert!(told(&format!("{adapters}/controlnet")).contains("network: ControlNet"));
    let style = told(&format!("{adapters}/whole.safetensors"));
    assert!(style.contains("21 LoRA") && style.contains("63 kohya") && style.contains("mlp.fc1"), "{style}");
    let motion = told(&format!("{adapters}/motion_original.ckpt"));
    assert!(motion.contains("motion attn1.to_q"), "{motion}");
    assert!(told(BASE).contains("animatediff"));
}

#[test]
fn methods_learn_what_the_base_can_show_or_say_why_not() {
    let folder = tempfile::tempdir().unwrap();
    pictures(&folder.path().join("cat"), 3);
    let printed = |flags: &[&str]| {
        let asked = ["fit", "--base", BASE, "--print-config"];
        understudy(folder.path(), &[&asked[..], flags].concat()).succeeds()
    };
    let settings = printed(&["--method", "set-and-sequence"]);
    assert!(settings.contains("clip_frames = 16") && settings.contains("held_frames = 16"), "{settings}");
    let settings = printed(&["--height", "24", "--width", "32", "--set", "clip_frames=8"]);
    assert!(
        settings.contains("clip_frames = 8") && settings.contains("size = [\n    24,\n    32,\n]"),
        "{settings}"
    );
    let warped = ["fit", "--base", BASE, "--method", "v-warper", "--subject", "cat", "--class", "cat"];
    let said = understudy(folder.path(), &[&warped[..], &["--out", "w.safetensors"]].concat()).fails(2);
    assert!(said.contains("a frame at a time"), "{said}");
}
