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
    lora_of(path, Q, &[], header);
}

/// Writes a LoRA of the map that is called `module`, each half with these further extents.
fn lora_of(path: &Path, module: &str, extents: &[usize], header: &[(&str, String)]) {
    let halves = [("lora_A", [2_usize, 32]), ("lora_B", [32, 2])];
    let bytes: Vec<u8> = (0..64).flat_map(|index| (0.1 + index as f32 / 640.0).to_le_bytes()).collect();
    let tensors = halves.map(|(half, shape)| {
        let shape = [&shape[..], extents].concat();
        (format!("{module}.{half}.weight"), TensorView::new(Dtype::F32, shape, &bytes).unwrap())
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

#[test]
fn the_same_lora_does_the_same_whatever_is_before_its_names_and_behind_its_shapes() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    let frames = |adapter: &[&str]| {
        generate(folder.path(), &[adapter, &["--steps", "1", "--out", "v.safetensors"]].concat()).succeeds();
        tensor(&path("v.safetensors"), "frames").1
    };
    let plain = frames(&[]);
    lora(&path("a.safetensors"), &[]);
    let with = frames(&["--adapter", "a.safetensors"]);
    assert_ne!(plain, with);
    for (module, extents) in [
        ("model.blocks.0.self_attn.q", &[][..]),
        ("unet.blocks.0.attn1.to_q", &[]),
        ("base_model.model.transformer.blocks.0.attn1.to_q", &[]),
        ("module.net.blocks.0.self_attn.q", &[1, 1]),
        ("dit.blocks.0.self_attn.q", &[1]),
        (Q, &[1, 1, 1]),
    ] {
        lora_of(&path("b.safetensors"), module, extents, &[]);
        assert_eq!(frames(&["--adapter", "b.safetensors"]), with, "{module} {extents:?}");
    }
    let convert = ["convert", "b.safetensors", "--to", "diffusers", "--out", "c.safetensors"];
    understudy(folder.path(), &convert).succeeds();
    let written = tensors(&path("c.safetensors"));
    assert!(written.values().all(|(shape, _)| shape.len() == 2), "{:?}", written.keys());
    assert_eq!(frames(&["--adapter", "c.safetensors"]), with);
}

#[test]
fn nothing_is_advised_that_leaves_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let refused = |adapter: &str, flags: &[&str]| {
        generate(folder.path(), &[&["--adapter", adapter, "--out", "v.mp4"], flags].concat()).fails(1)
    };
    lora_of(&folder.path().join("a.safetensors"), "something.else", &[], &[]);
    lora_of(&folder.path().join("t.safetensors"), "text_encoder.layers.0.q_proj", &[], &[]);
    for flags in [&[][..], &["--allow-unmatched"]] {
        for adapter in ["a.safetensors", "t.safetensors"] {
            let said = refused(adapter, flags);
            assert!(said.contains("no others") && !said.contains("leaves them out"), "{said}");
        }
    }
}

#[test]
fn looks_and_motion_apart_are_named_for_what_they_are() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.safetensors");
    let own = json!({
        "version": 1, "method": "set-and-sequence", "rank": 2, "alpha": 2.0, "window": {"start": 0.0, "end": 1.0},
        "sites": 1, "motion": {"token": "<m>", "basis": "input"}, "created_with": "understudy",
    });
    let values = |count: usize| -> Vec<u8> { (0..count).flat_map(|_| 0.1_f32.to_le_bytes()).collect() };
    let bytes = values(64);
    let view = |shape: [usize; 2]| TensorView::new(Dtype::F32, shape.to_vec(), &bytes).unwrap();
    let tensors = [
        (format!("{Q}.lora_A.weight"), view([2, 32])),
        (format!("{Q}.lora_B.weight"), view([32, 2])),
        ("understudy.motion.blocks.0.attn1.to_q".to_owned(), view([32, 2])),
    ];
    let header = HashMap::from([("understudy".to_owned(), own.to_string())]);
    std::fs::write(&path, safetensors::serialize(tensors, Some(header)).unwrap()).unwrap();
    let convert = ["convert", "a.safetensors", "--to", "kohya", "--out", "k.safetensors"];
    let said = understudy(folder.path(), &convert).fails(1);
    for part in ["looks and its motion apart", "names of kohya", "--part looks", "--part all"] {
        assert!(said.contains(part), "{part}: {said}");
    }
    assert!(!said.contains("not a usable adapter"), "{said}");
    understudy(folder.path(), &[&convert[..], &["--part", "all"]].concat()).succeeds();
    let over = ["convert", "a.safetensors", "--to", "comfyui", "--out", "a.safetensors"];
    let said = understudy(folder.path(), &over).fails(2);
    assert!(said.contains("that file is read, as the adapter a.safetensors"), "{said}");
}
