//! What people put on a Stable Diffusion with motion modules, against diffusers, peft and weights changed by
//! hand; see `oracle/animatediff_adapters.py` and `oracle/animatediff_steps.py`.
#![allow(clippy::unwrap_used)]

mod common;

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use common::{device, error, golden, open, tensor, values};
use serde_json::Value;
use understudy_engine::attach::Window;
use understudy_engine::safetensors::{Precision, StoredTensor, write_stored};
use understudy_personalize::{
    Adapter, Dialect, TextualInversion, Unmatched, combine, convert, with_inversions,
};
use understudy_pipeline::{Animated, Base, Control, LoadOptions, Request, Source, generate};

const CASE: &str = "animatediff_adapters";

fn path(name: &str) -> PathBuf {
    golden(CASE).join(name)
}

fn case() -> Value {
    serde_json::from_slice(&std::fs::read(path("case.json")).unwrap()).unwrap()
}

/// The case's call: `call`, or `words` with words of textual inversion.
fn request(call: &str) -> Request {
    let call = &case()[call];
    let number = |name: &str| call[name].as_u64().unwrap() as usize;
    Request {
        negative_prompt: call["negative_prompt"].as_str().unwrap().to_owned(),
        frames: number("num_frames"),
        height: number("height"),
        width: number("width"),
        steps: number("num_inference_steps"),
        guidance: call["guidance_scale"].as_f64().unwrap() as f32,
        initial_noise: Some(tensor::<5>(&open(&path("io.safetensors")), "latents")),
        ..Request::new(call["prompt"].as_str().unwrap())
    }
}

fn base(options: LoadOptions) -> Base {
    let source = Source::Animated(Animated { pictures: golden("animatediff_b"), ..Animated::default() });
    source.open(&device()).unwrap().load(options).unwrap()
}

/// The latents with these adapters at the case's weight, merged or attached.
fn run(files: &[&Path], merge: bool, request: Request) -> Vec<f32> {
    let weight = case()["weight"].as_f64().unwrap() as f32;
    let adapters: Vec<(Adapter, f32)> =
        files.iter().map(|path| (Adapter::open(path, &device()).unwrap(), weight)).collect();
    let mut options = LoadOptions::default();
    for (adapter, weight) in &adapters {
        options.additions.extend(adapter.additions(*weight, merge).unwrap());
    }
    let base = base(options);
    let (attached, _) = combine(&adapters, &base.about).unwrap();
    let request = if merge { request } else { Request { attached, ..request } };
    values(generate(&base, &request, &mut |_| ControlFlow::Continue(())).unwrap().latents)
}

fn agrees(found: &[f32], name: &str) {
    let expected = open(&path("io.safetensors")).values(&format!("{name}.latents_out")).unwrap().0;
    let error = error(found, &expected);
    println!("{name}: {error:.1e}");
    assert!(error < 1e-3, "{name}: {error:.1e}");
}

#[test]
fn kohyas_adapters_of_unet_and_text_encoder() {
    for name in ["style", "convolutions", "whole"] {
        let file = path(&format!("{name}.safetensors"));
        for merge in [false, true] {
            agrees(&run(&[&file], merge, request("call")), name);
        }
    }
}

#[test]
fn what_diffusers_saved_is_what_it_was_loaded_from() {
    let saved = path("diffusers/pytorch_lora_weights.safetensors");
    agrees(&run(&[&saved], false, request("call")), "whole");
    agrees(&run(&[&path("diffusers")], false, request("call")), "whole");
}

#[test]
fn loha_lokr_and_dora_on_linear_maps_and_convolutions() {
    for name in ["loha", "lokr", "dora"] {
        agrees(&run(&[&path(&format!("{name}.safetensors"))], false, request("call")), name);
    }
}

#[test]
fn loras_of_motion_and_of_the_look_of_clips_in_every_layout() {
    for file in ["motion_original.safetensors", "motion_original.ckpt", "motion_diffusers.safetensors"] {
        agrees(&run(&[&path(file)], false, request("call")), "motion");
    }
    for file in ["domain.ckpt", "domain.safetensors"] {
        agrees(&run(&[&path(file)], false, request("call")), "domain");
    }
    agrees(&run(&[&path("motion_original.ckpt")], true, request("call")), "motion");
}

#[test]
fn words_of_textual_inversion_in_prompt_and_negative_prompt() {
    let files = ["learned_embeds.safetensors", "learned_embeds.bin", "badhands.pt"];
    let words = files.map(|file| TextualInversion::open(&path(file), &device()).unwrap());
    let found: Vec<_> = words.iter().map(|own| (own.word.as_str(), own.rows.dims()[0])).collect();
    assert_eq!(found, [("<dog>", 1), ("<style-1>", 3), ("badhands", 2)]);
    let token_embeddings = with_inversions(None, &words).unwrap();
    let base = base(LoadOptions::default());
    let request = Request { token_embeddings, ..request("words") };
    let found = generate(&base, &request, &mut |_| ControlFlow::Continue(())).unwrap();
    agrees(&values(found.latents), "words");
}

/// The case's ControlNet, by this weight in the case's part of denoising.
fn control(base: &Base) -> Control {
    let file = open(&path("io.safetensors"));
    Control {
        network: base.about.control(&path("controlnet"), &device()).unwrap(),
        pictures: tensor::<4>(&file, "control").swap_dims(0, 1).unsqueeze_dim(0),
        weight: 0.8,
        window: Window { start: 0.1, end: 0.8 },
        guess: false,
    }
}

#[test]
fn a_controlnet_in_its_part_of_denoising() {
    let base = base(LoadOptions::default());
    let request = Request { controls: vec![control(&base)], ..request("call") };
    let found = generate(&base, &request, &mut |_| ControlFlow::Continue(())).unwrap();
    agrees(&values(found.latents), "control");
    // Where it never counts it is not there.
    let window = Window { start: 0.95, end: 1.0 };
    let idle = Request { controls: vec![Control { window, ..control(&base) }], ..request.clone() };
    let none = Request { controls: Vec::new(), ..request };
    let [idle, none] = [idle, none]
        .map(|own| values(generate(&base, &own, &mut |_| ControlFlow::Continue(())).unwrap().latents));
    assert_eq!(idle, none);
}

#[test]
fn a_controlnet_a_style_with_convolutions_and_words_together() {
    let files = ["learned_embeds.safetensors", "learned_embeds.bin", "badhands.pt"];
    let words = files.map(|file| TextualInversion::open(&path(file), &device()).unwrap());
    let weight = case()["weight"].as_f64().unwrap() as f32;
    let style = Adapter::open(&path("whole.safetensors"), &device()).unwrap();
    let base = base(LoadOptions::default());
    let (attached, tokens) = combine(&[(style, weight)], &base.about).unwrap();
    let token_embeddings = with_inversions(tokens, &words).unwrap();
    let controls = vec![control(&base)];
    let request = Request { attached, token_embeddings, controls, ..request("words") };
    let found = generate(&base, &request, &mut |_| ControlFlow::Continue(())).unwrap();
    agrees(&values(found.latents), "together");
}

type Tensors = BTreeMap<String, StoredTensor>;

fn tensors(path: &Path) -> Tensors {
    let file = open(path);
    file.infos().into_iter().map(|info| (info.name.clone(), file.stored(&info.name).unwrap())).collect()
}

fn shapes(tensors: &Tensors) -> BTreeMap<String, Vec<usize>> {
    tensors.iter().map(|(name, own)| (name.clone(), own.shape.clone())).collect()
}

/// The names of text encoders with what transformers left out from its version 5 on.
fn with_text_model(tensors: Tensors) -> Tensors {
    let long = |name: String| {
        let rest = name.strip_prefix("text_encoder.").filter(|rest| !rest.starts_with("text_model."));
        rest.map_or(name.clone(), |rest| format!("text_encoder.text_model.{rest}"))
    };
    tensors.into_iter().map(|(name, own)| (long(name), own)).collect()
}

#[test]
fn converting_between_kohya_and_diffusers_keeps_every_number() {
    let scratch = tempfile::tempdir().unwrap();
    let at = |name: &str| scratch.path().join(name);
    for name in ["style", "convolutions", "whole"] {
        let first = path(&format!("{name}.safetensors"));
        convert(&first, &at("diffusers.safetensors"), Dialect::Diffusers, Unmatched::Refuse).unwrap();
        agrees(&run(&[&at("diffusers.safetensors")], false, request("call")), name);
        convert(&at("diffusers.safetensors"), &at("kohya.safetensors"), Dialect::Kohya, Unmatched::Refuse)
            .unwrap();
        assert!(tensors(&at("kohya.safetensors")) == tensors(&first), "{name}");
    }
    // diffusers itself writes the same keys, shapes and numbers.
    convert(&path("whole.safetensors"), &at("own.safetensors"), Dialect::Diffusers, Unmatched::Refuse)
        .unwrap();
    let (own, theirs) =
        (tensors(&at("own.safetensors")), tensors(&path("diffusers/pytorch_lora_weights.safetensors")));
    let (own, theirs) = (with_text_model(own), with_text_model(theirs));
    assert_eq!(shapes(&own), shapes(&theirs));
    assert!(own == theirs);
    // MotionLoRAs and the others of AnimateDiff's program have no alphas.
    for file in ["motion_original.ckpt", "domain.ckpt"] {
        let case = file.split(['_', '.']).next().unwrap();
        for dialect in [Dialect::Diffusers, Dialect::Kohya, Dialect::ComfyUi] {
            convert(&path(file), &at("other.safetensors"), dialect, Unmatched::Refuse).unwrap();
            agrees(&run(&[&at("other.safetensors")], false, request("call")), case);
        }
    }
}

#[test]
fn what_is_written_here_has_the_keys_that_diffusers_has() {
    let scratch = tempfile::tempdir().unwrap();
    let adapter = Adapter::open(&path("whole.safetensors"), &device()).unwrap();
    let theirs = tensors(&path("diffusers/pytorch_lora_weights.safetensors"));
    for dialect in [Dialect::Diffusers, Dialect::Kohya, Dialect::ComfyUi] {
        let file = scratch.path().join("own.safetensors");
        adapter.save(&file, dialect, Precision::F32).unwrap();
        agrees(&run(&[&file], false, request("call")), "whole");
        match dialect {
            Dialect::Diffusers => {
                assert!(with_text_model(tensors(&file)) == with_text_model(theirs.clone()));
            }
            Dialect::Kohya => assert!(tensors(&file) == tensors(&path("whole.safetensors"))),
            _ => {}
        }
    }
}

#[test]
fn a_style_for_other_layers_is_refused_or_left_out() {
    let scratch = tempfile::tempdir().unwrap();
    let file = scratch.path().join("style.safetensors");
    let mut all = tensors(&path("style.safetensors"));
    let site = "lora_unet_down_blocks_2_attentions_1_transformer_blocks_0_attn1_to_q";
    let odd = "lora_unet_down_blocks_0_attentions_7_transformer_blocks_0_attn1_to_q";
    for module in [site, odd] {
        let numbers = |shape: &[usize]| StoredTensor::new(&[0.5; 24], shape.to_vec(), Precision::F32);
        all.insert(format!("{module}.lora_down.weight"), numbers(&[2, 12]));
        all.insert(format!("{module}.lora_up.weight"), numbers(&[12, 2]));
    }
    write_stored(&file, &all, BTreeMap::new()).unwrap();
    // A layer that no Stable Diffusion has is no key of one; another is not in this one.
    let said = Adapter::open(&file, &device()).unwrap_err().to_string();
    assert!(said.contains(odd) && said.contains("--allow-unmatched") && !said.contains(site), "{said}");
    let opened = Adapter::open_with(&file, &device(), Unmatched::Allow).unwrap();
    assert_eq!(opened.left_out.len(), 2);
    let base = base(LoadOptions::default());
    let said = opened.adapter.check(&base.about).unwrap_err().to_string();
    assert!(said.contains("down_blocks.2.attentions.1") && said.contains("--allow-unmatched"), "{said}");
    let mut adapter = opened.adapter;
    assert_eq!(adapter.keep_fitting(&base.about).len(), 1);
    let weight = case()["weight"].as_f64().unwrap() as f32;
    let (attached, _) = combine(&[(adapter, weight)], &base.about).unwrap();
    let request = Request { attached, ..request("call") };
    let found = generate(&base, &request, &mut |_| ControlFlow::Continue(())).unwrap();
    agrees(&values(found.latents), "style");
}
