//! Bases and runs told by what they are: by `inspect`, and by what their defaults are.
#![allow(clippy::unwrap_used)]

mod common;

use std::path::Path;

use common::{BASE, copy, generate, pictures, tensor, tensors, understudy};
use safetensors::tensor::{Dtype, TensorView};
#[cfg(feature = "nano")]
use serde_json::Value;

#[cfg(feature = "nano")]
const NANO: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../understudy-nano/weights");

#[cfg(feature = "nano")]
#[test]
fn nano_is_inspected_with_its_judges() {
    let folder = tempfile::tempdir().unwrap();
    let text = understudy(folder.path(), &["inspect", "nano"]).succeeds();
    for part in [
        "base nano",
        "WanTransformer3DModel",
        "judges/identity",
        "judges/clip",
        "adapters made for it fit",
        "dim_mult 1 2 4",
        "latents_mean of 16 numbers",
    ] {
        assert!(text.contains(part), "{part}: {text}");
    }
    assert!(!text.contains(['{', '[', '"']), "{text}");
    let json = |name: &str| -> Value {
        serde_json::from_str(&understudy(folder.path(), &["inspect", name, "--json"]).succeeds()).unwrap()
    };
    let (embedded, copied) = (json("nano"), json(NANO));
    assert_eq!(embedded["identity"], copied["identity"]);
    assert_eq!(embedded["parts"], copied["parts"]);
    assert_eq!(embedded["parts"]["judges/motion"]["class"], "IResNet");
}

#[cfg(feature = "nano")]
#[test]
fn nano_in_a_folder_has_the_defaults_of_nano() {
    let folder = tempfile::tempdir().unwrap();
    copy(Path::new(NANO), &folder.path().join("mine"));
    let plan = |flags: &[&str]| {
        let arguments =
            [&["generate", "--prompt", "a cat", "--out", "a.mp4", "--plan", "--json"], flags].concat();
        let lines = understudy(folder.path(), &arguments).succeeds();
        let mut events = lines.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
        let plan = events.find(|event| event["event"] == "plan").unwrap();
        ["identity", "frames", "height", "width", "steps", "guidance"].map(|field| plan[field].clone())
    };
    let named = plan(&["--base", "nano"]);
    assert_eq!(plan(&["--base", "mine"]), named);
    let denoiser = "mine/transformer/diffusion_pytorch_model.safetensors";
    assert_eq!(plan(&["--base", "mine", "--transformer", denoiser]), named);
    let preset =
        |base: &str| understudy(folder.path(), &["fit", "--base", base, "--print-config"]).succeeds();
    assert_eq!(preset("mine"), preset("nano"));
}

#[test]
fn a_run_says_how_far_it_got_and_how_it_goes_on() {
    let folder = tempfile::tempdir().unwrap();
    pictures(&folder.path().join("subject"), 1);
    let fit = ["fit", "--base", BASE, "--subject", "subject", "--class", "cube", "--out", "a.safetensors"];
    let flags = ["--preset", "small", "--height", "16", "--width", "16", "--rank", "1"];
    let steps = ["--steps", "2", "--token-steps", "1", "--sample-every", "0"];
    understudy(folder.path(), &[&fit[..], &flags, &steps].concat()).succeeds();
    let text = understudy(folder.path(), &["inspect", "a.safetensors.run"]).succeeds();
    for part in ["run a.safetensors.run", "lora", "<s> cube", "1 of 1 steps", "2 of 2 steps", "a.safetensors"]
    {
        assert!(text.contains(part), "{part}: {text}");
    }
    assert!(text.contains("finished"), "{text}");
    std::fs::remove_file(folder.path().join("a.safetensors")).unwrap();
    let state = folder.path().join("a.safetensors.run/lora/state.safetensors");
    let whole = std::fs::read(&state).unwrap();
    std::fs::write(&state, &whole[..whole.len() / 2]).unwrap();
    let text = understudy(folder.path(), &["inspect", "a.safetensors.run"]).succeeds();
    for part in ["--out a.safetensors --resume", "damaged", "state.safetensors", "cut off"] {
        assert!(text.contains(part), "{part}: {text}");
    }
}

#[test]
fn files_that_are_no_model_are_named() {
    let folder = tempfile::tempdir().unwrap();
    let inspected = |name: &str, bytes: &[u8]| {
        std::fs::write(folder.path().join(name), bytes).unwrap();
        let message = understudy(folder.path(), &["inspect", name]).fails(1);
        assert!(message.contains(name), "{message}");
        message
    };
    for (name, bytes, said) in [
        (
            "a.safetensors",
            &b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n"[..],
            "git lfs pull",
        ),
        ("b.gguf", b"<!doctype html><title>Hub</title>", "web page"),
        ("c.mp4", b"\0\0\0\x18ftypmp42\0\0\0\0mp42isom", "nothing in it says how it was made"),
        ("p.mp4", b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n", "git lfs pull"),
        ("d.png", b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", "picture"),
        ("e.pth", b"", "empty"),
        ("f.toml", b"steps = 3\n", "text"),
        ("g.json", b"\xef\xbb\xbf{\"weight_map\": 3}", "weight_map"),
        ("h.safetensors", b"\x40\0\0\0\0\0\0\0{\"a\":", "cut off"),
    ] {
        let message = inspected(name, bytes);
        assert!(message.contains(said), "{said}: {message}");
    }
}

#[test]
fn a_text_encoder_without_a_tokenizer_takes_that_of_the_base() {
    let folder = tempfile::tempdir().unwrap();
    let encoder = format!("{BASE}/text_encoder/model.safetensors");
    std::fs::copy(encoder, folder.path().join("umt5.safetensors")).unwrap();
    generate(folder.path(), &["--out", "a.safetensors"]).succeeds();
    generate(folder.path(), &["--out", "b.safetensors", "--text-encoder", "umt5.safetensors"]).succeeds();
    // Each says how it was made, which differs.
    let [a, b] = ["a", "b"].map(|name| tensors(&folder.path().join(format!("{name}.safetensors"))));
    assert!(a == b);
}

/// The shape and the bytes of tensors by their names.
type Tensors = std::collections::BTreeMap<String, (Vec<usize>, Vec<u8>)>;

fn write(path: &Path, tensors: &Tensors) {
    let views = tensors
        .iter()
        .map(|(name, (shape, bytes))| (name, TensorView::new(Dtype::F32, shape.clone(), bytes).unwrap()));
    std::fs::write(path, safetensors::serialize(views, None).unwrap()).unwrap();
}

fn denoiser() -> Tensors {
    tensors(Path::new(&format!("{BASE}/transformer/diffusion_pytorch_model.safetensors")))
}

#[test]
fn a_denoiser_is_read_wherever_it_lies_in_its_file() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("d.safetensors");
    let frames = |flags: &[&str]| {
        generate(folder.path(), &[flags, &["--steps", "1", "--out", "v.safetensors"]].concat()).succeeds();
        tensor(&folder.path().join("v.safetensors"), "frames").1
    };
    let plain = frames(&[]);
    let below = |prefix: &str, tensors: Tensors| -> Tensors {
        tensors.into_iter().map(|(name, own)| (format!("{prefix}{name}"), own)).collect()
    };
    let zeros = || {
        denoiser().into_iter().map(|(name, (shape, bytes))| (name, (shape, vec![0; bytes.len()]))).collect()
    };
    let with = ["--transformer", "d.safetensors"];
    for prefix in ["state_dict.", "model_state_dict.module.", "generator.model._fsdp_wrapped_module.", "net."]
    {
        write(&path, &below(prefix, denoiser()));
        assert_eq!(frames(&with), plain, "{prefix}");
    }
    let copies =
        [below("generator.", zeros()), below("generator_ema.", denoiser()), below("critic.", zeros())];
    write(&path, &copies.into_iter().flatten().collect());
    assert_eq!(frames(&with), plain);
    let text = understudy(folder.path(), &["inspect", "d.safetensors"]).succeeds();
    for part in ["generator_ema, the average over its training", "left out: critic, generator"] {
        assert!(text.contains(part), "{part}: {text}");
    }
}

#[test]
fn what_is_wrong_with_a_checkpoint_is_named_alone() {
    let folder = tempfile::tempdir().unwrap();
    let with = |file: &str| generate(folder.path(), &["--transformer", file, "--out", "v.mp4"]).fails(1);
    for name in ["blocks.0.ffn.net.0.proj.weight", "patch_embedding.weight", "proj_out.weight"] {
        let mut tensors = denoiser();
        let (shape, bytes) = tensors.get_mut(name).unwrap();
        shape[0] += 4;
        bytes.resize(shape.iter().product::<usize>() * 4, 0);
        write(&folder.path().join("d.safetensors"), &tensors);
        let said = with("d.safetensors");
        assert!(said.contains(&format!("1 wrong (tensor {name}:")), "{said}");
    }
    let index = r#"{"weight_map": {"proj_out.bias": "d-00002-of-00002.safetensors"}}"#;
    std::fs::write(folder.path().join("d.safetensors.index.json"), index).unwrap();
    let said = with("d.safetensors.index.json");
    for part in ["d.safetensors.index.json names a file", "d-00002-of-00002.safetensors; download it"] {
        assert!(said.contains(part), "{part}: {said}");
    }
}
