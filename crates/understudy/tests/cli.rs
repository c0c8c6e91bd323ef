//! The program as users run it, on a tiny base with random weights.
#![allow(clippy::unwrap_used)]

mod common;

use std::collections::BTreeMap;
use std::path::Path;

use common::{BASE, Run, copy, generate, noise_like, pictures, tensor, tensors, understudy};
use serde_json::Value;
use understudy_media::{Image, Video, WriteOptions};

#[cfg(unix)]
use crate::common::interrupted;

#[test]
fn every_format_is_written_and_can_be_read() {
    let folder = tempfile::tempdir().unwrap();
    for name in ["a.mp4", "a.gif", "a.webp"] {
        generate(folder.path(), &["--out", name, "--upscale", "2", "--fps", "10"]).succeeds();
        let video = Video::read(folder.path().join(name)).unwrap();
        assert_eq!([video.frames.len(), video.height(), video.width()], [5, 32, 32], "{name}");
    }
    generate(folder.path(), &["--out", "a.png"]).succeeds();
    assert!(folder.path().join("a.png").is_file());
    generate(folder.path(), &["--out", "frames"]).succeeds();
    assert_eq!(Video::read_frames(folder.path().join("frames"), 8.0).unwrap().frames.len(), 5);
    generate(folder.path(), &["--out", "a.safetensors"]).succeeds();
    let (shape, values) = tensor(&folder.path().join("a.safetensors"), "frames");
    assert_eq!(shape, [3, 5, 16, 16]);
    assert!(values.iter().all(|value| (0.0..=1.0).contains(value)));
}

#[cfg(feature = "nano")]
#[test]
fn frames_in_a_folder_are_enlarged_as_other_outputs_are() {
    let folder = tempfile::tempdir().unwrap();
    for out in ["frames", "a.png"] {
        let short = ["--frames", "1", "--steps", "1", "--prompt", "a cat", "--out", out];
        understudy(folder.path(), &[&["generate", "--base", "nano"][..], &short].concat()).succeeds();
    }
    let width = |name: &str| understudy_media::Picture::open(folder.path().join(name)).unwrap().image.width;
    assert_eq!((width("frames/00000.png"), width("a.png")), (256, 256));
}

#[test]
fn a_seed_decides_the_file() {
    let folder = tempfile::tempdir().unwrap();
    let made = |name: &str, seed: &str| {
        generate(folder.path(), &["--out", name, "--seed", seed]).succeeds();
        std::fs::read(folder.path().join(name)).unwrap()
    };
    for extension in ["mp4", "safetensors"] {
        let first = made(&format!("a.{extension}"), "7");
        assert_eq!(first, made(&format!("b.{extension}"), "7"));
        assert_ne!(first, made(&format!("c.{extension}"), "8"));
        // A file that is there is replaced.
        assert_ne!(first, made(&format!("a.{extension}"), "8"));
    }
}

#[test]
fn several_prompts_make_several_videos() {
    let folder = tempfile::tempdir().unwrap();
    let read = |name: &str| std::fs::read(folder.path().join(name)).unwrap();
    let prompts = ["--prompt", "a red ball", "--prompt", "two green cubes"];
    generate(folder.path(), &[&prompts[..], &["--out", "v.gif", "--seed", "3"]].concat()).succeeds();
    // Each is what it would be alone, with the next seed.
    generate(folder.path(), &["--prompt", "a red ball", "--out", "a.gif", "--seed", "3"]).succeeds();
    generate(folder.path(), &["--prompt", "two green cubes", "--out", "b.gif", "--seed", "4"]).succeeds();
    assert_eq!([read("v-1.gif"), read("v-2.gif")], [read("a.gif"), read("b.gif")]);
    assert!(!folder.path().join("v.gif").exists());
}

#[test]
fn guidance_may_be_left_out_and_pictures_decoded_in_tiles() {
    let folder = tempfile::tempdir().unwrap();
    let frames = |name: &str, flags: &[&str]| {
        let size = ["--height", "32", "--width", "32", "--steps", "4", "--out", name];
        generate(folder.path(), &[&size, flags].concat()).succeeds();
        tensor(&folder.path().join(name), "frames").1
    };
    let usual = frames("a.safetensors", &[]);
    assert_eq!(usual, frames("b.safetensors", &["--guidance-start", "0", "--guidance-end", "1"]));
    let plain = frames("c.safetensors", &["--guidance", "1"]);
    assert_eq!(plain, frames("d.safetensors", &["--guidance-end", "0"]));
    let part = frames("e.safetensors", &["--guidance-start", "0.5"]);
    assert!(part != usual && part != plain);
    generate(folder.path(), &["--out", "x.mp4", "--guidance-start", "0.5", "--guidance-end", "0.2"]).fails(2);

    let tiled = frames("f.safetensors", &["--vae-tile", "16"]);
    let distance = usual.iter().zip(&tiled).map(|(a, b)| (a - b).abs()).sum::<f32>() / usual.len() as f32;
    assert!(distance > 0.0 && distance < 0.2, "{distance}");
    assert_eq!(usual, frames("g.safetensors", &["--vae-tile", "32"]));
    let message = generate(folder.path(), &["--out", "x.mp4", "--vae-tile", "20"]).fails(2);
    assert!(message.contains("multiple of 16"), "{message}");
}

#[test]
fn a_plan_needs_no_weights() {
    let folder = tempfile::tempdir().unwrap();
    let plan = |flags: &[&str]| -> Value {
        let printed =
            generate(folder.path(), &[&["--out", "a.mp4", "--plan", "--json"], flags].concat()).succeeds();
        serde_json::from_str(printed.lines().next().unwrap()).unwrap()
    };
    let whole = plan(&[]);
    let number = |plan: &Value, name: &str| plan[name].as_f64().unwrap();
    assert_eq!(number(&whole, "memory"), number(&whole, "weights") + number(&whole, "activations"));
    assert!(number(&whole, "step_seconds") > 0.0);
    assert!(!folder.path().join("a.mp4").exists());
}

#[test]
fn blocks_may_stay_in_their_file() {
    let folder = tempfile::tempdir().unwrap();
    let made = |name: &str, blocks: &str| {
        generate(folder.path(), &["--out", name, "--blocks-on-host", blocks]).succeeds();
        std::fs::read(folder.path().join(name)).unwrap()
    };
    let held = made("a.safetensors", "0");
    for blocks in ["1", "2", "40"] {
        assert!(held == made("b.safetensors", blocks), "{blocks}");
    }
}

#[test]
fn latents_go_out_and_noise_comes_in() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    generate(folder.path(), &["--out", "a.safetensors", "--save-latents", "a-latents.safetensors"])
        .succeeds();
    let (shape, _) = tensor(&path("a-latents.safetensors"), "latents");
    assert_eq!(shape, [1, 8, 2, 4, 4]);

    // The same noise twice is the same video, whatever the seed says.
    noise_like(&path("noise.safetensors"), &shape);
    let with_noise = |out: &str, seed: &str| {
        generate(folder.path(), &["--out", out, "--initial-noise", "noise.safetensors", "--seed", seed])
            .succeeds();
        std::fs::read(path(out)).unwrap()
    };
    let first = with_noise("b.safetensors", "1");
    assert_eq!(first, with_noise("c.safetensors", "2"));
    assert_ne!(first, std::fs::read(path("a.safetensors")).unwrap());

    noise_like(&path("small.safetensors"), &[1, 8, 1, 4, 4]);
    let message =
        generate(folder.path(), &["--out", "d.mp4", "--initial-noise", "small.safetensors"]).fails(1);
    assert!(message.contains("initial noise") && message.contains("[1, 8, 2, 4, 4]"), "{message}");
}

#[test]
fn samplers_and_guidance_change_the_result() {
    let folder = tempfile::tempdir().unwrap();
    let made = |flags: &[&str]| {
        generate(folder.path(), &[&["--out", "a.safetensors"], flags].concat()).succeeds();
        tensor(&folder.path().join("a.safetensors"), "frames").1
    };
    let usual = made(&[]);
    for flags in [
        &["--scheduler", "euler"][..],
        &["--scheduler", "dpm++", "--shift", "5"],
        &["--guidance", "1"],
        &["--negative-prompt", "a blue cube"],
        &["--steps", "3"],
        &["--dtype", "bf16"],
    ] {
        assert_ne!(usual, made(flags), "{flags:?}");
    }
}

#[test]
fn json_is_one_event_a_line() {
    let folder = tempfile::tempdir().unwrap();
    let run = generate(folder.path(), &["--out", "a.mp4", "--json"]);
    let events: Vec<Value> = run.succeeds().lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let names: Vec<&str> = events.iter().map(|event| event["event"].as_str().unwrap()).collect();
    assert_eq!(names, ["plan", "encoded", "step", "step", "decoded", "done"]);
    assert_eq!((&events[0]["frames"], &events[0]["scheduler"]), (&5.into(), &"unipc".into()));
    assert_eq!((&events[3]["step"], &events[3]["total"]), (&2.into(), &2.into()));
    assert_eq!(events[5]["path"], "a.mp4");
    assert_eq!(run.stderr, "");
}

#[test]
fn wrong_usage_is_one_line_and_code_2() {
    let folder = tempfile::tempdir().unwrap();
    for (flags, part) in [
        (&["--out", "a.mp4", "--frobnicate"][..], "--frobnicate"),
        (&["--out", "a.mp4", "--scheduler", "magic"], "use one of euler, unipc, dpm++, ddim"),
        (&["--out", "a.mp4", "--device", "abacus"], "use cpu"),
        (&["--out", "a.mp4", "--steps", "many"], "--steps"),
        (&["--out", "a.mp4", "--upscale", "0"], "--upscale"),
        (&["--out", "a.mp4", "--fps", "0"], "--fps"),
        (&["--out", "a.mp4", "--adapter", "a.safetensors:strong"], "strong"),
        (&[], "--out"),
    ] {
        let message = generate(folder.path(), flags).fails(2);
        assert!(message.contains(part), "{message}");
    }
    let message = understudy(folder.path(), &["fit", "--method", "magic", "--print-config"]).fails(2);
    assert!(message.contains("magic") && message.contains("lora"), "{message}");
    assert!(understudy(folder.path(), &["frobnicate"]).fails(2).contains("frobnicate"));
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
}

#[test]
fn help_and_version_succeed() {
    let folder = tempfile::tempdir().unwrap();
    assert!(understudy(folder.path(), &["--version"]).succeeds().starts_with("understudy "));
    let help = understudy(folder.path(), &["generate", "--help"]);
    assert!(help.succeeds().contains("--initial-noise"));
    let help = understudy(folder.path(), &["fit", "--help"]);
    assert!(help.succeeds().contains("--print-config"));
}

#[test]
fn inspect_tells_what_is_there() {
    let folder = tempfile::tempdir().unwrap();
    let json = |path: &str| -> Value {
        serde_json::from_str(&understudy(folder.path(), &["inspect", path, "--json"]).succeeds()).unwrap()
    };
    let base = json(BASE);
    assert_eq!((&base["kind"], &base["class"]), (&"folder".into(), &"WanPipeline".into()));
    assert!(base["identity"].as_str().unwrap().starts_with("wan-"));
    assert_eq!(base["parts"]["transformer"]["config"]["num_layers"], 2);
    assert_eq!(base["parts"]["vae"]["weights"]["dtypes"], serde_json::json!(["F32"]));

    let weights = format!("{BASE}/transformer/diffusion_pytorch_model.safetensors");
    let checkpoint = json(&weights);
    assert_eq!(checkpoint["kind"], "checkpoint");
    assert_eq!(checkpoint["parameters"], base["parts"]["transformer"]["weights"]["parameters"]);
    assert!(checkpoint["modules"]["blocks"]["tensors"].as_u64().unwrap() > 40);

    let text = understudy(folder.path(), &["inspect", BASE]).succeeds();
    assert!(text.contains("WanTransformer3DModel") && text.contains("38,400 parameters"), "{text}");
    assert!(text.contains("adapters made for it fit"), "{text}");
    let half = folder.path().join("half");
    std::fs::create_dir_all(half.join("transformer")).unwrap();
    for file in ["model_index.json", "transformer/config.json"] {
        std::fs::copy(Path::new(BASE).join(file), half.join(file)).unwrap();
    }
    let whole = folder.path().join("whole");
    copy(Path::new(BASE), &whole);
    let vae = whole.join("vae/diffusion_pytorch_model.safetensors");
    let denoiser = whole.join("transformer/diffusion_pytorch_model.safetensors");
    std::fs::copy(&denoiser, &vae).unwrap();
    let text = understudy(folder.path(), &["inspect", "whole"]).succeeds();
    assert!(text.contains("it is not whole"), "{text}");
    let part = &json("half")["parts"]["transformer"];
    assert_eq!(part["faults"], serde_json::json!(["its weights are not there"]));
    let text = understudy(folder.path(), &["inspect", &weights]).succeeds();
    assert!(text.contains("blocks"), "{text}");

    const GOLDEN: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../oracle/golden");
    let release = json(&format!("{GOLDEN}/wan_original"));
    assert_eq!(release["kind"], "release");
    assert_eq!(release["parts"][0]["recognized"][0]["network"], "denoiser");
    assert_eq!(release["parts"][0]["recognized"][0]["missing"], serde_json::json!([]));
    let quantized = understudy(folder.path(), &["inspect", &format!("{GOLDEN}/wan_original/wan-q8_0.gguf")]);
    let quantized = quantized.succeeds();
    assert!(quantized.contains("named as Wan names them") && quantized.contains("whole"), "{quantized}");
    let differences = json(&format!("{GOLDEN}/lora_exchange/differences.safetensors"));
    assert_eq!((&differences["kind"], &differences["differences"]), (&"adapter".into(), &9.into()));

    std::fs::write(folder.path().join("a.txt"), "no checkpoint").unwrap();
    for path in ["a.txt", "none", "."] {
        assert!(understudy(folder.path(), &["inspect", path]).fails(1).contains(path));
    }
}

#[test]
fn settings_are_printed_with_files_and_flags_in_their_place() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("mine.toml"), "rank = 8\n[lora]\nsteps = 7\nbatch = 2\n").unwrap();
    let flags = ["fit", "--print-config", "--preset", "small", "--config", "mine.toml", "--steps", "9"];
    let printed = understudy(folder.path(), &flags).succeeds();
    let settings: BTreeMap<String, toml::Value> = toml::from_str(&printed).unwrap();
    assert_eq!(settings["rank"].as_integer(), Some(8));
    assert_eq!(
        (settings["lora"]["steps"].as_integer(), settings["lora"]["batch"].as_integer()),
        (Some(9), Some(2))
    );

    // What is printed can be read again and says the same.
    std::fs::write(folder.path().join("whole.toml"), &printed).unwrap();
    let again = understudy(folder.path(), &["fit", "--print-config", "--config", "whole.toml"]).succeeds();
    assert_eq!(printed, again);

    std::fs::write(folder.path().join("bad.toml"), "rnk = 8\n").unwrap();
    let message = understudy(folder.path(), &["fit", "--print-config", "--config", "bad.toml"]).fails(2);
    assert!(message.contains("bad.toml") && message.contains("rnk"), "{message}");
    let message = understudy(folder.path(), &["fit", "--print-config", "--config", "none.toml"]).fails(1);
    assert!(message.contains("none.toml"), "{message}");
}

/// A fit of a few steps on the tiny base.
fn fit(folder: &Path, flags: &[&str]) -> Run {
    let steps = ["--steps", "3", "--token-steps", "2"];
    understudy(folder, &fit_flags(&[&steps, flags].concat()))
}

/// The flags of a fit on the tiny base.
fn fit_flags<'a>(flags: &[&'a str]) -> Vec<&'a str> {
    let usual = [
        "fit",
        "--base",
        BASE,
        "--subject",
        "subject",
        "--class",
        "cube",
        "--out",
        "cube.safetensors",
        "--preset",
        "nano",
        "--height",
        "16",
        "--width",
        "16",
        "--rank",
        "2",
        "--batch",
        "1",
        "--sample-every",
        "0",
    ];
    [&usual, flags].concat()
}

#[test]
fn a_subject_is_fitted_and_generated() {
    let folder = tempfile::tempdir().unwrap();
    pictures(&folder.path().join("subject"), 2);
    let run = fit(folder.path(), &["--json"]);
    let events: Vec<Value> = run.succeeds().lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!((&events[0]["event"], &events[0]["pictures"]), (&"fit".into(), &2.into()));
    assert_eq!(events.last().unwrap()["phrase"], "<s> cube");
    assert!(folder.path().join("cube.safetensors").is_file());

    let inspected = understudy(folder.path(), &["inspect", "cube.safetensors", "--json"]).succeeds();
    let adapter: Value = serde_json::from_str(&inspected).unwrap();
    assert_eq!((&adapter["kind"], &adapter["metadata"]["rank"]), (&"adapter".into(), &2.into()));
    assert_eq!(adapter["metadata"]["subject"]["token"], "<s>");
    let text = understudy(folder.path(), &["inspect", "cube.safetensors"]).succeeds();
    assert!(text.contains("\"<s> cube\"") && text.contains("comfyui"), "{text}");

    let with = |adapter: &str, out: &str| {
        generate(folder.path(), &["--prompt", "a <s> cube", "--adapter", adapter, "--out", out]).succeeds();
        std::fs::read(folder.path().join(out)).unwrap()
    };
    let one = with("cube.safetensors", "a.safetensors");
    assert_eq!(one, with("cube.safetensors:1", "b.safetensors"));
    assert_ne!(one, with("cube.safetensors:0", "c.safetensors"));

    let message = fit(folder.path(), &[]).fails(1);
    assert!(message.contains("cube.safetensors.run") && message.contains("--resume"), "{message}");
    let message = fit(folder.path(), &["--resume", "--alpha", "5"]).fails(1);
    assert!(message.contains("alpha = 5") && message.contains("alpha = 2"), "{message}");
    let before = tensors(&folder.path().join("cube.safetensors"));
    fit(folder.path(), &["--resume"]).succeeds();
    assert_eq!(before, tensors(&folder.path().join("cube.safetensors")));
    std::fs::remove_dir_all(folder.path().join("cube.safetensors.run")).unwrap();
    fit(folder.path(), &["--blocks-on-host", "2"]).succeeds();
    assert_eq!(before, tensors(&folder.path().join("cube.safetensors")));
}

/// A short fit of Set-and-Sequence on a clip that moves, with more flags.
fn fit_motion(folder: &Path, flags: &[&str]) -> Run {
    let frame = |at: usize| {
        Image::from_fn(32, 32, |x, y| [(8 * x) as u8, if x / 4 == at { 250 } else { 40 }, y as u8])
    };
    let clip = Video::new((0..5).map(frame).collect(), 8.0).unwrap();
    clip.write(folder.join("subject.gif"), &WriteOptions::default()).unwrap();
    let few = "clip_frames = 5\n[prior]\nsamples = 1\nframes = 5\nsteps = 1\n";
    std::fs::write(folder.join("few.toml"), few).unwrap();
    let usual: Vec<&str> =
        fit_flags(&[]).into_iter().filter(|flag| !["--subject", "subject"].contains(flag)).collect();
    let own = ["--method", "set-and-sequence", "--subject", "subject.gif", "--config", "few.toml"];
    understudy(folder, &[&usual[..], &own, &["--steps", "2", "--token-steps", "1"], flags].concat())
}

#[test]
fn looks_and_motion_are_fitted_apart_and_weighed_apart() {
    let folder = tempfile::tempdir().unwrap();
    let run = fit_motion(folder.path(), &["--motion-steps", "2"]);
    run.succeeds();
    assert!(run.stderr.contains("<s> cube <m>"), "{}", run.stderr);
    let inspected = understudy(folder.path(), &["inspect", "cube.safetensors"]).succeeds();
    assert!(inspected.contains("set-and-sequence") && inspected.contains("<s> <m>"), "{inspected}");

    let with = |adapter: &str, flags: &[&str], out: &str| {
        let own = ["--prompt", "a <s> cube <m>", "--adapter", adapter, "--out", out];
        generate(folder.path(), &[&own[..], flags].concat()).succeeds();
        tensor(&folder.path().join(out), "frames").1
    };
    let both = with("cube.safetensors", &[], "a.safetensors");
    let looks = with("cube.safetensors", &["--motion-scale", "0"], "b.safetensors");
    assert_ne!(both, looks);
    assert_ne!(
        looks,
        with("cube.safetensors", &["--identity-scale", "0.3", "--motion-scale", "0"], "c.safetensors")
    );
    // Each adapter weighs its own parts; two of one file share its tokens, each for the part it is used for.
    assert_eq!(looks, with("cube.safetensors:motion=0", &[], "f.safetensors"));
    let again = ["--adapter", "cube.safetensors:identity=0"];
    let together = with("cube.safetensors:motion=0", &again, "g.safetensors");
    let difference = together.iter().zip(&both).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    assert!(difference < 1e-4, "{difference}");
    assert_ne!(together, looks);
    let convert = |part: &str, out: &str| {
        let flags = ["convert", "cube.safetensors", "--part", part, "--to", "diffusers", "--out", out];
        understudy(folder.path(), &flags).succeeds();
    };
    convert("looks", "looks.safetensors");
    convert("all", "all.safetensors");
    assert_eq!(looks, with("looks.safetensors", &[], "d.safetensors"));
    assert_eq!(both, with("all.safetensors", &[], "e.safetensors"));
}

#[test]
fn a_motion_is_learned_otherwise_on_the_looks_that_were_learned() {
    let folder = tempfile::tempdir().unwrap();
    let fit = |flags: &[&str]| fit_motion(folder.path(), flags);
    fit(&["--motion-steps", "2"]).succeeds();
    let run = folder.path().join("cube.safetensors.run");
    let looks = std::fs::read(run.join("lora/state.safetensors")).unwrap();

    let otherwise = ["--motion-steps", "3", "--set", "motion.dropout=0", "--resume"];
    let message = fit(&otherwise).fails(1);
    assert!(message.contains("motion.stage.steps = 3"), "{message}");
    std::fs::remove_dir_all(run.join("motion")).unwrap();
    fit(&otherwise).succeeds();
    assert_eq!(std::fs::read(run.join("lora/state.safetensors")).unwrap(), looks);
    let message = fit(&["--motion-steps", "3", "--resume"]).fails(1);
    assert!(message.contains("motion.dropout"), "{message}");
}

#[test]
fn pictures_are_kept_and_warped_into_videos() {
    let folder = tempfile::tempdir().unwrap();
    pictures(&folder.path().join("subject"), 2);
    fit(folder.path(), &["--method", "v-warper"]).succeeds();
    let with = |flags: &[&str], out: &str| {
        let own = ["--prompt", "a <s> cube", "--adapter", "cube.safetensors", "--out", out];
        let run = generate(folder.path(), &[&own[..], flags].concat());
        run.succeeds();
        tensor(&folder.path().join(out), "frames").1
    };
    let lenient = ["--warp-start", "0", "--warp-cycle", "9", "--warp-foreground", "0"];
    let warped = with(&[&lenient[..], &["--show-matches", "shown"]].concat(), "a.safetensors");
    let kept = ["--warp-cache", "kept.safetensors"];
    with(&[&lenient[..], &kept, &["--seed", "7"]].concat(), "s.safetensors");
    assert_eq!(with(&[&lenient[..], &kept].concat(), "t.safetensors"), warped);
    let plain = with(&["--no-warp"], "b.safetensors");
    assert!(warped != plain);
    // Where a hook looks at the words, padding is attended to word by word, which rounds otherwise.
    let unmixed = with(&["--warp-mix", "0"], "c.safetensors");
    assert!(plain.iter().zip(&unmixed).all(|(a, b)| (a - b).abs() < 1e-4));
    let shown = understudy_media::Picture::open(folder.path().join("shown/1.png")).unwrap().image;
    assert!(shown.width > 100 && shown.height > 100);
    let flags = ["--prompt", "a red ball", "--adapter", "cube.safetensors", "--out", "d.mp4"];
    let message = generate(folder.path(), &flags).fails(2);
    assert!(message.contains("<s> cube"), "{message}");
    let refused = |more: &[&str], part: &str| {
        let message = generate(folder.path(), &[&flags[..], more].concat()).fails(2);
        assert!(message.contains(part), "{message}");
    };
    refused(&["--motion-scale", "0"], "--motion-scale");
    refused(&["--adapter", "cube.safetensors:motion=0"], "identity= and motion=");
    refused(&["--warp-cache", "kept.mp4"], ".safetensors");
}

#[cfg(unix)]
#[test]
fn a_fit_that_is_stopped_or_killed_goes_on_as_if_it_was_not() {
    let settings = "[lora]\nsteps = 120\ncheckpoint_every = 7\n[token]\nsteps = 4\n";
    let flags = ["--json", "--config", "slow.toml"];
    let prepared = || {
        let folder = tempfile::tempdir().unwrap();
        pictures(&folder.path().join("subject"), 2);
        std::fs::write(folder.path().join("slow.toml"), settings).unwrap();
        folder
    };
    let whole = prepared();
    understudy(whole.path(), &fit_flags(&flags)).succeeds();
    let whole = tensors(&whole.path().join("cube.safetensors"));

    for signal in ["-INT", "-KILL"] {
        let folder = prepared();
        let reached = |event: &Value| {
            event["event"] == "step" && event["stage"] == "lora" && event["step"].as_u64() >= Some(16)
        };
        let run = interrupted(folder.path(), &fit_flags(&flags), reached, signal);
        if signal == "-INT" {
            let message = run.fails(1);
            assert!(message.contains("--resume") && message.contains("of 120 steps of lora"), "{message}");
        } else {
            assert_eq!(run.code, None, "{}", run.stderr);
        }
        assert!(!folder.path().join("cube.safetensors").exists());
        let resumed = understudy(folder.path(), &[&fit_flags(&flags)[..], &["--resume"]].concat()).succeeds();
        let events = resumed.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
        let mut plans = events.filter(|event| event["event"] == "plan" && event["stage"] == "lora");
        assert!(plans.any(|plan| plan["from"].as_u64() >= Some(14)), "{resumed}");
        assert_eq!(whole, tensors(&folder.path().join("cube.safetensors")), "{signal}");
    }
}

#[test]
fn adapters_of_other_programs_are_converted_and_merged() {
    const ADAPTER: &str =
        concat!(env!("CARGO_MANIFEST_DIR"), "/../../oracle/golden/lora_exchange/comfyui.safetensors");
    let folder = tempfile::tempdir().unwrap();
    let run = |arguments: &[&str]| understudy(folder.path(), arguments);
    run(&["convert", ADAPTER, "--to", "kohya", "--out", "kohya.safetensors"]).succeeds();
    run(&["convert", "kohya.safetensors", "--to", "comfyui", "--out", "back.safetensors"]).succeeds();
    assert_eq!(tensors(Path::new(ADAPTER)), tensors(&folder.path().join("back.safetensors")));
    let with = |adapter: &str, out: &str, more: &[&str]| {
        generate(folder.path(), &[&["--adapter", adapter, "--out", out], more].concat()).succeeds();
        tensor(&folder.path().join(out), "frames").1
    };
    let attached = with(ADAPTER, "a.safetensors", &[]);
    assert_eq!(attached, with("kohya.safetensors", "b.safetensors", &[]));
    let merged = with(ADAPTER, "c.safetensors", &["--merge"]);
    assert!(attached.iter().zip(&merged).all(|(a, b)| (a - b).abs() < 1e-4));

    let message = run(&["convert", ADAPTER, "--to", "comfy", "--out", "x.safetensors"]).fails(2);
    assert!(message.contains("comfyui, diffusers, kohya or diffsynth"), "{message}");
    run(&["convert", ADAPTER, "--to", "kohya", "--out", "x.bin"]).fails(2);
    run(&["convert", "none.safetensors", "--to", "kohya", "--out", "x.safetensors"]).fails(1);
    assert!(!folder.path().join("x.safetensors").exists());
}

#[test]
fn a_base_may_be_single_files() {
    const ORIGINAL: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../oracle/golden/wan_original");
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str| format!("{ORIGINAL}/{name}");
    let small = ["--frames", "5", "--height", "16", "--width", "16", "--steps", "2", "--guidance", "1"];
    let run = |base: &[&str], out: &str| {
        let arguments = [&["generate", "--prompt", "a red ball", "--out", out], &small[..], base].concat();
        understudy(folder.path(), &arguments)
    };
    let made = |base: &[&str], out: &str| {
        run(base, out).succeeds();
        // The file says by which name the base was called.
        tensor(&folder.path().join(out), "frames").1
    };
    let [denoiser, text, vae, tokenizer] = [
        file("diffusion_pytorch_model.safetensors"),
        file("models_t5_umt5-xxl-enc-bf16.pth"),
        file("Wan2.1_VAE.pth"),
        file("google/umt5-xxl/tokenizer.json"),
    ];
    let whole = made(&["--base", ORIGINAL], "a.safetensors");
    let files =
        ["--transformer", &denoiser, "--text-encoder", &text, "--vae", &vae, "--tokenizer", &tokenizer];
    assert_eq!(whole, made(&files, "b.safetensors"));
    // The rest from a folder.
    let quantized = file("wan-q8_0.gguf");
    assert_ne!(whole, made(&["--base", ORIGINAL, "--transformer", &quantized], "c.safetensors"));
    let in_folder = format!("{BASE}/transformer/diffusion_pytorch_model.safetensors");
    let of_diffusers = made(&["--base", BASE], "d.safetensors");
    assert_eq!(of_diffusers, made(&["--base", BASE, "--transformer", &in_folder], "e.safetensors"));

    let message = run(&files[..4], "x.mp4").fails(2);
    assert!(message.contains("--vae"), "{message}");
    let message = run(&files[..6], "x.mp4").fails(1);
    assert!(message.contains("--tokenizer"), "{message}");
}
