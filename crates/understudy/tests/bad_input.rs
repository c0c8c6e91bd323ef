//! What users get wrong: one line, the right exit code, before any long work, and nothing left behind.
#![allow(clippy::unwrap_used)]

mod common;

use std::path::Path;

use common::{BASE, copy, generate, pictures, tensor, understudy, write_tensor};
use understudy_media::Image;

/// The names in a folder.
fn names(folder: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(folder).unwrap();
    let mut names: Vec<String> =
        entries.map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

/// The message of a fit that must fail and leave nothing.
fn refused_subject(folder: &Path, subject: &str) -> String {
    let before = names(folder);
    let flags = [
        "--class",
        "cat",
        "--out",
        "cat.safetensors",
        "--preset",
        "small",
        "--height",
        "16",
        "--width",
        "16",
    ];
    let run = understudy(folder, &[&["fit", "--base", BASE, "--subject", subject], &flags[..]].concat());
    let message = run.fails(1);
    assert_eq!(names(folder), before, "{message}");
    message
}

#[test]
fn pictures_that_cannot_be_used() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    pictures(&path("good"), 1);
    let good = std::fs::read(path("good/0.png")).unwrap();

    for (name, bytes) in
        [("truncated", &good[..good.len() / 2]), ("unreadable", &b"not a picture at all"[..])]
    {
        pictures(&path(name), 1);
        std::fs::write(path(name).join("b.png"), bytes).unwrap();
        let message = refused_subject(folder.path(), name);
        assert!(message.contains("b.png"), "{message}");
    }
    #[cfg(unix)]
    {
        std::fs::create_dir(path("pipe")).unwrap();
        let pipe = path("pipe").join("a.png");
        assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
        assert!(refused_subject(folder.path(), "pipe").contains("no usable picture"));
        assert!(refused_subject(folder.path(), "/dev/null").contains("neither a file nor a folder"));
    }
    std::fs::create_dir(path("empty")).unwrap();
    assert!(refused_subject(folder.path(), "empty").contains("no usable picture"));
    assert!(refused_subject(folder.path(), "none").contains("none"));

    for (name, width, height) in [("tiny", 1, 1), ("huge", 20_000, 20_000)] {
        std::fs::create_dir(path(name)).unwrap();
        std::fs::write(path(name).join("a.png"), png_header(&good, width, height)).unwrap();
        let message = refused_subject(folder.path(), name);
        assert!(message.contains("a.png") && message.contains(&format!("{width}x{height}")), "{message}");
    }
}

/// `png` with another size in its header.
fn png_header(png: &[u8], width: u32, height: u32) -> Vec<u8> {
    let mut bytes = png.to_vec();
    bytes[16..20].copy_from_slice(&width.to_be_bytes());
    bytes[20..24].copy_from_slice(&height.to_be_bytes());
    // The chunk's check sum covers its name and its data.
    let sum = crc32(&bytes[12..29]);
    bytes[29..33].copy_from_slice(&sum.to_be_bytes());
    bytes
}

fn crc32(bytes: &[u8]) -> u32 {
    let bit = |crc: u32| if crc & 1 == 1 { (crc >> 1) ^ 0xEDB8_8320 } else { crc >> 1 };
    !bytes.iter().fold(!0_u32, |crc, byte| (0..8).fold(crc ^ u32::from(*byte), |crc, _| bit(crc)))
}

#[test]
fn methods_and_flags_that_are_not_there_or_do_nothing() {
    let folder = tempfile::tempdir().unwrap();
    pictures(&folder.path().join("subject"), 1);
    let judged = ["fit", "--base", BASE, "--subject", "subject", "--class", "cat", "--out", "a.safetensors"];
    let flags = ["--height", "16", "--width", "16", "--evaluate-every", "2"];
    let message = understudy(folder.path(), &[&judged[..], &flags].concat()).fails(2);
    assert!(message.contains("--clip"), "{message}");
    let method = "personal-video";
    let flags =
        ["fit", "--method", method, "--subject", "subject", "--class", "cat", "--out", "a.safetensors"];
    let message = understudy(folder.path(), &flags).fails(2);
    assert!(message.contains(method) && message.contains("set-and-sequence"), "{message}");
    let sequence = ["fit", "--subject", "subject", "--class", "cat", "--out", "a.safetensors"];
    let message = understudy(folder.path(), &[&sequence[..], &["--motion-steps", "9"]].concat()).fails(2);
    assert!(message.contains("--motion-steps"), "{message}");
    let flags = ["--method", "set-and-sequence", "--format", "kohya"];
    let message = understudy(folder.path(), &[&sequence[..], &flags].concat()).fails(2);
    assert!(message.contains("kohya"), "{message}");
    let flags = ["--base", BASE, "--method", "set-and-sequence", "--height", "16", "--width", "16"];
    let message = understudy(folder.path(), &[&sequence[..], &flags].concat()).fails(1);
    assert!(message.contains("no clip"), "{message}");
    let message = generate(folder.path(), &["--out", "a.mp4", "--reference", "cat=cat.png"]).fails(2);
    assert!(message.contains("--reference"), "{message}");
    let message = generate(folder.path(), &["--out", "a.mp4", "--device", "cuda:0"]).fails(1);
    assert!(message.contains("cuda"), "{message}");
    assert_eq!(names(folder.path()), ["subject"]);
}

#[test]
fn adapters_that_do_not_fit() {
    let folder = tempfile::tempdir().unwrap();
    let refused = |name: &str| {
        let message = generate(folder.path(), &["--out", "a.mp4", "--adapter", name]).fails(1);
        assert!(!folder.path().join("a.mp4").exists());
        message
    };
    assert!(refused("none.safetensors").contains("none.safetensors"));
    std::fs::write(folder.path().join("text.safetensors"), "hello").unwrap();
    assert!(refused("text.safetensors").contains("text.safetensors"));

    // A site this base does not have, and one in another shape.
    let lora = |site: &str, inputs: usize| {
        let path = folder.path().join("lora.safetensors");
        let [a, b] = [vec![0.1; 2 * inputs], vec![0.1; 2 * inputs]];
        let bytes = |values: &[f32]| values.iter().flat_map(|value| value.to_le_bytes()).collect::<Vec<u8>>();
        let (down, up) = (bytes(&a), bytes(&b));
        let view = |shape: [usize; 2], bytes| {
            safetensors::tensor::TensorView::new(safetensors::Dtype::F32, shape.to_vec(), bytes).unwrap()
        };
        let tensors = [
            (format!("diffusion_model.{site}.lora_A.weight"), view([2, inputs], &down)),
            (format!("diffusion_model.{site}.lora_B.weight"), view([inputs, 2], &up)),
        ];
        std::fs::write(&path, safetensors::serialize(tensors, None).unwrap()).unwrap();
    };
    lora("blocks.7.self_attn.q", 32);
    assert!(refused("lora.safetensors").contains("blocks.7.attn1.to_q"));
    lora("blocks.0.self_attn.q", 48);
    assert!(refused("lora.safetensors").contains("blocks.0.attn1.to_q"));
    lora("blocks.0.self_attn.q", 32);
    generate(folder.path(), &["--out", "a.mp4", "--adapter", "lora.safetensors:0.5"]).succeeds();
}

#[cfg(feature = "nano")]
#[test]
fn an_adapter_made_for_another_base() {
    let folder = tempfile::tempdir().unwrap();
    pictures(&folder.path().join("subject"), 1);
    let flags = [
        "--preset",
        "nano",
        "--height",
        "16",
        "--width",
        "16",
        "--rank",
        "1",
        "--steps",
        "1",
        "--token-steps",
        "1",
        "--sample-every",
        "0",
    ];
    let fit = ["fit", "--base", BASE, "--subject", "subject", "--class", "cube", "--out", "a.safetensors"];
    understudy(folder.path(), &[&fit[..], &flags[..]].concat()).succeeds();
    let nano = [
        "generate",
        "--base",
        "nano",
        "--prompt",
        "a <s> cube",
        "--adapter",
        "a.safetensors",
        "--out",
        "a.mp4",
    ];
    let message = understudy(folder.path(), &nano).fails(1);
    assert!(
        message.contains("a.safetensors") && message.contains("wan_pipeline_a") && message.contains("nano"),
        "{message}"
    );
    assert!(!folder.path().join("a.mp4").exists());
}

#[test]
fn prompts_and_sizes_that_do_not_fit() {
    let folder = tempfile::tempdir().unwrap();
    let long = "a red ball ".repeat(400);
    for (flags, code, part) in [
        (&["--prompt", &long][..], 1, "shorten it"),
        (&["--negative-prompt", &long], 1, "shorten it"),
        (&["--frames", "6"], 2, "use 5 or 9"),
        (&["--height", "20"], 2, "height 20"),
        (&["--width", "0"], 2, "width 0"),
        (&["--steps", "0"], 2, "steps"),
        (&["--shift", "-1"], 2, "shift"),
        (&["--guidance", "NaN"], 2, "guidance"),
        (&["--width", "8192"], 2, "positions for 64"),
    ] {
        let mut arguments = vec!["generate", "--base", BASE, "--out", "a.mp4"];
        for usual in [["--frames", "5"], ["--height", "16"], ["--width", "16"], ["--prompt", "a ball"]] {
            if !flags.contains(&usual[0]) {
                arguments.extend(usual);
            }
        }
        // A value that begins with a minus is a value and not a flag.
        let joined = format!("{}={}", flags[0], flags[1]);
        arguments.push(&joined);
        let message = understudy(folder.path(), &arguments).fails(code);
        assert!(message.contains(part), "{message}");
    }
    assert!(names(folder.path()).is_empty());
}

#[test]
fn a_video_larger_than_its_format_holds() {
    let folder = tempfile::tempdir().unwrap();
    let size = ["--frames", "5", "--height", "64", "--width", "80", "--upscale", "64"];
    let flags = ["generate", "--base", BASE, "--prompt", "a ball", "--steps", "1000", "--out", "a.mp4"];
    let message = understudy(folder.path(), &[&flags[..], &size].concat()).fails(2);
    assert!(message.contains("a.mp4") && message.contains("3840x2160"), "{message}");
    assert!(names(folder.path()).is_empty());
}

#[test]
fn a_base_that_is_damaged() {
    let folder = tempfile::tempdir().unwrap();
    let base = folder.path().join("base");
    copy(Path::new(BASE), &base);
    let refused = || {
        let flags = [
            "generate", "--base", "base", "--prompt", "a ball", "--frames", "5", "--height", "16", "--width",
            "16",
        ];
        let message = understudy(folder.path(), &[&flags[..], &["--out", "a.mp4"]].concat()).fails(1);
        assert_eq!(names(folder.path()), ["base"]);
        message
    };
    let weights = base.join("transformer/diffusion_pytorch_model.safetensors");
    let whole = std::fs::read(&weights).unwrap();
    std::fs::write(&weights, &whole[..whole.len() - 4]).unwrap();
    assert!(refused().contains("is cut off"));

    let mut damaged = whole.clone();
    let end = damaged.len();
    damaged[end - 4..].copy_from_slice(&f32::NAN.to_le_bytes());
    std::fs::write(&weights, &damaged).unwrap();
    let message = refused();
    assert!(message.contains("NaN") && message.contains("tensor"), "{message}");

    std::fs::write(&weights, &whole).unwrap();
    std::fs::remove_file(base.join("model_index.json")).unwrap();
    assert!(refused().contains("model_index.json"));
    let flags = ["generate", "--base", "nowhere", "--prompt", "a ball", "--out", "a.mp4"];
    assert!(understudy(folder.path(), &flags).fails(1).contains("no such folder"));
}

#[test]
fn outputs_that_cannot_be_written() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::create_dir(folder.path().join("full")).unwrap();
    std::fs::write(folder.path().join("full/x"), "").unwrap();
    let before = names(folder.path());
    for (flags, code, part) in [
        (&["--out", "a.avi"][..], 2, ".avi"),
        (&["--out", "no/such/a.mp4"], 1, "does not exist"),
        (&["--out", "full"], 1, "not empty"),
        (&["--out", "a.mp4", "--save-latents", "a.bin"], 2, "a.bin"),
        (&["--out", "a.mp4", "--save-latents", "b.mp4"], 2, ".safetensors"),
        (&["--out", "a.safetensors", "--save-latents", "a.safetensors"], 2, "different names"),
        (&["--out", "a.safetensors", "--save-latents", "./a.safetensors"], 2, "different names"),
        (&["--out", "a.mp4", "--seed", "-1"], 2, "--seed"),
        (&["--out", "a.mp4", "--guidance", "-3000"], 2, "guidance"),
        #[cfg(unix)]
        (&["--out", "/dev/full"], 1, "device"),
        (&["--out", "a.mp4", "--initial-noise", "none.safetensors"], 1, "none.safetensors"),
    ] {
        let message = generate(folder.path(), flags).fails(code);
        assert!(message.contains(part), "{message}");
        assert_eq!(names(folder.path()), before, "{message}");
    }
    let fit = ["fit", "--base", BASE, "--subject", "x", "--class", "cat", "--out", "cat.pt"];
    assert!(understudy(folder.path(), &fit).fails(2).contains("cat.pt"));
}

#[cfg(target_os = "linux")]
#[test]
fn a_disk_that_fills_up_while_saving() {
    use std::os::unix::process::CommandExt;
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("a.safetensors"), "old").unwrap();
    // No file may grow beyond 4 kB: the system refuses the rest, as a full disk does.
    let run = std::process::Command::new("sh")
        .args(["-c", "ulimit -f 8; trap '' XFSZ; exec \"$0\" \"$@\"", env!("CARGO_BIN_EXE_understudy")])
        .args([
            "generate", "--base", BASE, "--prompt", "a ball", "--frames", "5", "--height", "16", "--width",
            "16",
        ])
        .args(["--steps", "1", "--out", "a.safetensors"])
        .arg0("sh")
        .current_dir(folder.path())
        .output()
        .unwrap();
    let stderr = String::from_utf8(run.stderr).unwrap();
    assert_eq!(run.status.code(), Some(1), "{stderr}");
    assert!(stderr.contains("error: ") && stderr.contains("a.safetensors"), "{stderr}");
    assert_eq!(std::fs::read(folder.path().join("a.safetensors")).unwrap(), b"old");
    assert_eq!(names(folder.path()), ["a.safetensors"]);
}

#[test]
fn noise_with_a_value_that_is_not_a_number() {
    let folder = tempfile::tempdir().unwrap();
    let mut values = vec![0.5; 8 * 2 * 4 * 4];
    let path = folder.path().join("noise.safetensors");
    write_tensor(&path, "latents", &[1, 8, 2, 4, 4], &values);
    generate(folder.path(), &["--out", "a.safetensors", "--initial-noise", "noise.safetensors"]).succeeds();
    assert!(tensor(&folder.path().join("a.safetensors"), "frames").1.iter().all(|value| value.is_finite()));
    values[3] = f32::NAN;
    write_tensor(&path, "latents", &[1, 8, 2, 4, 4], &values);
    let message =
        generate(folder.path(), &["--out", "b.mp4", "--initial-noise", "noise.safetensors"]).fails(1);
    assert!(message.contains("noise.safetensors"), "{message}");
    assert!(!folder.path().join("b.mp4").exists());
    // Not a tensor of that name.
    Image::filled(8, 8, [0; 3]).write_png(folder.path().join("x.png")).unwrap();
    let message = generate(folder.path(), &["--out", "b.mp4", "--initial-noise", "x.png"]).fails(1);
    assert!(message.contains("x.png"), "{message}");
}
