//! Adapters that people have: what is said of them, and what becomes of them.
#![allow(clippy::unwrap_used)]

mod common;

use std::collections::HashMap;
use std::path::Path;

use common::{BASE, generate, tensor, tensors, understudy};
use safetensors::tensor::{Dtype, TensorView};
use serde_json::{Value, json};

const KINDS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../oracle/golden/adapter_kinds");
const Q: &str = "diffusion_model.blocks.0.self_attn.q";

/// Writes a LoRA of one map with this header.
fn lora(path: &Path, header: &[(&str, String)]) {
    let halves = [("lora_A", vec![2_usize, 32]), ("lora_B", vec![32, 2])];
    let bytes: Vec<u8> = (0..64).flat_map(|index| (0.1 + index as f32 / 640.0).to_le_bytes()).collect();
    let tensors = halves.map(|(half, shape)| {
        (format!("{Q}.{half}.weight"), TensorView::new(Dtype::F32, shape, &bytes).unwrap())
    });
    let header: HashMap<String, String> =
        header.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect();
    std::fs::write(path, safetensors::serialize(tensors, Some(header)).unwrap()).unwrap();
}

#[test]
fn kinds_and_scales_are_told_and_used() {
    let folder = tempfile::tempdir().unwrap();
    let inspect = |path: &str| -> Value {
        let printed = understudy(folder.path(), &["inspect", "--json", path]).succeeds();
        serde_json::from_str(&printed).unwrap()
    };
    for path in ["peft_dora", "peft_dora/adapter_config.json", "peft_dora/adapter_model.safetensors"] {
        let found = inspect(&format!("{KINDS}/{path}"));
        assert_eq!((&found["kind"], &found["kinds"]), (&json!("adapter"), &json!({"DoRA": 3})));
        assert_eq!(found["scales_from"], json!({"adapter_config.json": 3}));
        assert_eq!(found["scales"], json!([2.0, 2.0]));
    }
    assert_eq!(
        inspect(&format!("{KINDS}/lokr.safetensors"))["kinds"],
        json!({"LoKr": 3, "LoKr with DoRA": 1})
    );
    let text = understudy(folder.path(), &["inspect", &format!("{KINDS}/loha.safetensors")]).succeeds();
    assert!(text.contains("2 LoHa, 1 LoHa with DoRA") && text.contains("its alpha tensors"), "{text}");

    lora(&folder.path().join("a.safetensors"), &[("lora_alpha", "8".to_owned()), ("r", "2".to_owned())]);
    let text = understudy(folder.path(), &["inspect", "a.safetensors"]).succeeds();
    assert!(text.contains("scale       4, by the header's lora_alpha"), "{text}");
    let with = |adapter: &str, more: &[&str]| {
        let run =
            generate(folder.path(), &[&["--adapter", adapter, "--out", "v.safetensors"], more].concat());
        run.succeeds();
        (run.stderr, tensor(&folder.path().join("v.safetensors"), "frames").1)
    };
    let (said, stated) = with(&format!("{KINDS}/lokr.safetensors:0.5"), &[]);
    assert!(said.contains("3 weights changed (LoKr)") && said.contains("weight 0.5"), "{said}");
    assert_eq!(stated, with(&format!("{KINDS}/lokr.safetensors:0.5"), &["--merge"]).1);

    // One that cannot be used is named, and counts as 1.
    lora(&folder.path().join("b.safetensors"), &[("lora_alpha", "8".to_owned()), ("r", "16".to_owned())]);
    lora(&folder.path().join("c.safetensors"), &[]);
    let (said, one) = with("b.safetensors", &[]);
    assert!(said.contains("lora_alpha") && said.contains("for rank 16"), "{said}");
    assert_eq!(one, with("c.safetensors", &[]).1);
    assert_ne!(one, with("a.safetensors", &[]).1);
    let arguments = ["convert", "b.safetensors", "--to", "kohya", "--out", "k.safetensors"];
    let run = understudy(folder.path(), &arguments);
    run.succeeds();
    assert!(run.stderr.contains("for rank 16"), "{}", run.stderr);
}

#[test]
fn what_is_no_adapter_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 12345\n";
    std::fs::write(folder.path().join("p.safetensors"), pointer).unwrap();
    let page = "<!DOCTYPE html><html><head><title>Sign in</title></head></html>";
    std::fs::write(folder.path().join("h.safetensors"), page).unwrap();
    let denoiser = format!("{BASE}/transformer/diffusion_pytorch_model.safetensors");
    for (path, part) in [
        ("p.safetensors", "git-lfs pointer"),
        ("h.safetensors", "a page to sign in"),
        (denoiser.as_str(), "give it to --transformer"),
        (BASE, "give it to --base"),
    ] {
        let message = generate(folder.path(), &["--adapter", path, "--out", "v.mp4"]).fails(1);
        assert!(message.contains(part), "{message}");
        let message =
            understudy(folder.path(), &["convert", path, "--to", "kohya", "--out", "k.safetensors"]);
        assert!(message.fails(1).contains(part));
    }
    assert!(understudy(folder.path(), &["inspect", "p.safetensors"]).fails(1).contains("git-lfs pointer"));
}

#[test]
fn pictures_of_a_subject_are_told_and_can_be_left_out() {
    let folder = tempfile::tempdir().unwrap();
    let own = json!({
        "version": 1, "method": "v-warper", "rank": 2, "alpha": 2.0, "window": {"start": 0.0, "end": 1.0}, "sites": 1,
        "base_size": [16, 24], "created_with": "understudy",
    });
    let references = json!({
        "shape": [8, 4, 6], "frames": 2, "latents": vec![vec![0_u16; 8 * 2 * 4 * 6]; 2],
        "masks": [vec![255_u8; 24], null],
    });
    let header = [("understudy", own.to_string()), ("understudy.references", references.to_string())];
    lora(&folder.path().join("a.safetensors"), &header);
    let run = |arguments: &[&str]| understudy(folder.path(), arguments).succeeds();
    let text = run(&["inspect", "a.safetensors"]);
    assert!(text.contains("2 of the subject, as latents of 6x4, 24x16 pixels, 1 with masks"), "{text}");
    let convert = ["convert", "a.safetensors", "--to", "kohya", "--out", "k.safetensors"];
    assert!(understudy(folder.path(), &convert).stderr.contains("--without-pictures"));
    let found: Value = serde_json::from_str(&run(&["inspect", "--json", "k.safetensors"])).unwrap();
    assert_eq!(found["pictures"]["count"], 2);
    run(&[&convert[..], &["--without-pictures"]].concat());
    let found: Value = serde_json::from_str(&run(&["inspect", "--json", "k.safetensors"])).unwrap();
    assert_eq!(found["pictures"], Value::Null);
    assert_eq!(tensors(&folder.path().join("k.safetensors")).len(), 3);
}
