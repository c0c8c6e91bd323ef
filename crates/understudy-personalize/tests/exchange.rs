//! LoRA files of other programs, against diffusers; see `oracle/lora_exchange.py`.
#![allow(clippy::unwrap_used)]

mod common;

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use common::{device, error, golden, open, values};
use understudy_engine::attach::{Attached, Window};
use understudy_engine::patch::Additions;
use understudy_engine::safetensors::{NamedValues, Precision, StoredTensor, write, write_stored};
use understudy_personalize::{Adapter, Dialect, Opened, Unmatched, combine, convert};
use understudy_pipeline::{Base, Files, LoadOptions, Request, generate};

const CASE: &str = "lora_exchange";

fn file(dialect: Dialect) -> PathBuf {
    match dialect {
        Dialect::Diffusers => golden(CASE).join("diffusers/pytorch_lora_weights.safetensors"),
        other => golden(CASE).join(format!("{other}.safetensors")),
    }
}

struct Call {
    weight: f32,
    request: Request,
}

fn call() -> Call {
    let text = std::fs::read_to_string(golden(CASE).join("case.json")).unwrap();
    let case: serde_json::Value = serde_json::from_str(&text).unwrap();
    let number = |name: &str| case[name].as_u64().unwrap() as usize;
    let (noise, shape) = open(&golden("wan_pipeline_a").join("io.safetensors")).values("latents_in").unwrap();
    let shape: [usize; 5] = shape.try_into().unwrap();
    let request = Request {
        negative_prompt: case["negative_prompt"].as_str().unwrap().to_owned(),
        frames: number("num_frames"),
        height: number("height"),
        width: number("width"),
        steps: number("num_inference_steps"),
        guidance: case["guidance_scale"].as_f64().unwrap() as f32,
        initial_noise: Some(burn::tensor::Tensor::from_data(
            burn::tensor::TensorData::new(noise, shape),
            &device(),
        )),
        ..Request::new(case["prompt"].as_str().unwrap())
    };
    Call { weight: case["weight"].as_f64().unwrap() as f32, request }
}

/// Latents, then frames (row by row, channels last).
fn run(path: &Path, merge: bool) -> [Vec<f32>; 2] {
    let Call { weight, mut request } = call();
    let files = Files::folder(golden("wan_pipeline_a"));
    let adapter = Adapter::open(path, &device()).unwrap();
    let additions = adapter.additions(weight, merge).unwrap();
    let mut base =
        Base::load_with(&files, LoadOptions { additions, ..LoadOptions::default() }, &device()).unwrap();
    Arc::make_mut(&mut base.about).text_limit = 24;
    (request.attached, _) = combine(&[(adapter, weight)], &base.about).unwrap();
    if merge {
        request.attached = Attached::none();
    }
    let output = generate(&base, &request, &mut |_| ControlFlow::Continue(())).unwrap();
    [values(output.latents), values(output.frames.permute([0, 2, 3, 4, 1]))]
}

fn expected(prefix: &str) -> [Vec<f32>; 2] {
    let io = open(&golden(CASE).join("io.safetensors"));
    ["latents_out", "frames"].map(|name| io.values(&format!("{prefix}.{name}")).unwrap().0)
}

fn agree(got: &[Vec<f32>; 2], expected: &[Vec<f32>; 2], limit: f64, what: &str) {
    for (got, expected) in got.iter().zip(expected) {
        let error = error(got, expected);
        assert!(error < limit, "{what}: {error:.1e}");
    }
}

#[test]
fn every_form_of_a_lora_gives_what_diffusers_gives() {
    let expected = expected("lora");
    let comfyui = run(&file(Dialect::ComfyUi), false);
    agree(&comfyui, &expected, 1e-3, "comfyui");
    for dialect in [Dialect::Diffusers, Dialect::Kohya] {
        assert_eq!(comfyui, run(&file(dialect), false), "{dialect}");
    }
    // B is stored already scaled there.
    agree(&run(&file(Dialect::DiffSynth), false), &expected, 1e-3, "diffsynth");
    let merged = run(&file(Dialect::ComfyUi), true);
    assert_ne!(merged, comfyui);
    agree(&merged, &comfyui, 1e-4, "merged");
}

#[test]
fn dense_differences_are_added_to_the_weights() {
    let got = run(&golden(CASE).join("differences.safetensors"), false);
    agree(&got, &expected("dense"), 1e-3, "differences");
}

fn tensors(path: &Path) -> BTreeMap<String, StoredTensor> {
    let checkpoint = open(path);
    checkpoint
        .infos()
        .into_iter()
        .map(|info| (info.name.clone(), checkpoint.stored(&info.name).unwrap()))
        .collect()
}

#[test]
fn converting_there_and_back_changes_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let [there, back] = ["there", "back"].map(|name| folder.path().join(format!("{name}.safetensors")));
    // DiffSynth's own file has no alphas, which is a different thing to say.
    for from in [Dialect::ComfyUi, Dialect::Diffusers, Dialect::Kohya] {
        for to in Dialect::ALL {
            convert(&file(from), &there, to, Unmatched::Refuse).unwrap();
            convert(&there, &back, from, Unmatched::Refuse).unwrap();
            let (first, last) = (tensors(&file(from)), tensors(&back));
            assert_eq!(first.keys().collect::<Vec<_>>(), last.keys().collect::<Vec<_>>());
            for (name, tensor) in &first {
                if to == Dialect::DiffSynth {
                    // Dividing by a scale of 1.5 again rounds.
                    let [first, last] = [tensor, &last[name]].map(|tensor| tensor.values().unwrap());
                    assert!(error(&last, &first) < 1e-7, "{name}");
                } else {
                    assert_eq!(tensor, &last[name], "{from} to {to}: {name}");
                }
            }
            // What a program finds is what it would have written.
            let own: Vec<String> = tensors(&file(to)).into_keys().collect();
            assert_eq!(tensors(&there).into_keys().collect::<Vec<_>>(), own, "{from} to {to}");
        }
    }
    let dense = golden(CASE).join("differences.safetensors");
    convert(&dense, &there, Dialect::Kohya, Unmatched::Refuse).unwrap();
    convert(&there, &back, Dialect::ComfyUi, Unmatched::Refuse).unwrap();
    assert_eq!(tensors(&dense), tensors(&back));
    let refused = convert(&dense, &there, Dialect::Diffusers, Unmatched::Refuse).unwrap_err().to_string();
    assert!(
        refused.contains("diffusers has no keys") && refused.contains("patch_embedding.weight"),
        "{refused}"
    );
}

#[test]
fn biases_go_between_their_two_forms() {
    let folder = tempfile::tempdir().unwrap();
    let [comfyui, diffusers, back] =
        ["c", "d", "b"].map(|name| folder.path().join(format!("{name}.safetensors")));
    let q = "diffusion_model.blocks.0.self_attn.q";
    let tensor = |end: &str, shape: &[usize], value: f32| NamedValues {
        name: format!("{q}.{end}"),
        shape: shape.to_vec(),
        values: vec![value; shape.iter().product()],
    };
    let file = [
        tensor("lora_A.weight", &[4, 32], 0.5),
        tensor("lora_B.weight", &[32, 4], 0.5),
        tensor("alpha", &[], 2.0),
        tensor("diff_b", &[32], 3.0),
    ];
    write(&comfyui, &file, BTreeMap::new(), Precision::F32).unwrap();
    convert(&comfyui, &diffusers, Dialect::Diffusers, Unmatched::Refuse).unwrap();
    let bias = open(&diffusers).values("transformer.blocks.0.attn1.to_q.lora_B.bias").unwrap();
    assert_eq!(bias, (vec![6.0; 32], vec![32]));
    convert(&diffusers, &back, Dialect::ComfyUi, Unmatched::Refuse).unwrap();
    assert_eq!(tensors(&comfyui), tensors(&back));
    let added = |path: &Path| Adapter::open(path, &device()).unwrap().differences;
    assert_eq!(added(&comfyui), added(&diffusers));
    assert_eq!(added(&comfyui)["blocks.0.attn1.to_q.bias"], [3.0; 32]);
}

#[test]
fn what_is_not_understood_is_refused_or_left_out_and_named() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.safetensors");
    let mut all: Vec<NamedValues> = Vec::new();
    let comfyui = open(&file(Dialect::ComfyUi));
    for info in comfyui.infos() {
        let (values, shape) = comfyui.values(&info.name).unwrap();
        all.push(NamedValues { name: info.name, shape, values });
    }
    let strange = "lora_te_text_model_encoder_layers_0_mlp_fc1.lora_down.weight";
    all.push(NamedValues { name: strange.into(), shape: vec![1], values: vec![1.0] });
    for (end, shape) in [("lora_A", vec![2, 32]), ("lora_B", vec![32, 2])] {
        let values = vec![0.5; shape.iter().product()];
        all.push(NamedValues {
            name: format!("diffusion_model.blocks.7.self_attn.q.{end}.weight"),
            shape,
            values,
        });
    }
    write(&path, &all, BTreeMap::new(), Precision::F32).unwrap();
    let message = Adapter::open(&path, &device()).unwrap_err().to_string();
    assert!(message.contains("1 keys are for a text encoder") && message.contains(strange), "{message}");

    let Opened { mut adapter, left_out, .. } =
        Adapter::open_with(&path, &device(), Unmatched::Allow).unwrap();
    assert_eq!(left_out, [strange]);
    let base = Base::load(&Files::folder(golden("wan_pipeline_a")), &device()).unwrap();
    let left_out = adapter.keep_fitting(&base.about);
    assert_eq!(left_out, ["blocks.7.attn1.to_q (no such site)"]);
    adapter.check(&base.about).unwrap();
    assert_eq!(
        adapter.residuals.len(),
        Adapter::open(&file(Dialect::ComfyUi), &device()).unwrap().residuals.len()
    );
}

#[test]
fn what_is_active_in_a_window_cannot_be_merged() {
    let mut adapter = Adapter::open(&file(Dialect::ComfyUi), &device()).unwrap();
    adapter.metadata.window = Window { start: 0.5, end: 1.0 };
    assert!(adapter.additions(1.0, false).unwrap().is_empty());
    let message = adapter.additions(1.0, true).unwrap_err().to_string();
    assert!(message.contains("cannot be merged"), "{message}");
    // Adding to what is not there is an error, and no silent nothing.
    let mut additions = Additions::default();
    let values = vec![1.0; 3];
    additions.add("no.such.tensor", understudy_engine::patch::Addition::Dense { values, scale: 1.0 });
    let base = Base::load_with(
        &Files::folder(golden("wan_pipeline_a")),
        LoadOptions { additions, ..LoadOptions::default() },
        &device(),
    );
    assert!(base.unwrap_err().to_string().contains("no.such.tensor"));
}

#[test]
fn alphas_come_back_as_they_were_stored() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    let tensor = |shape: &[usize], precision| {
        let values: Vec<f32> = (0..shape.iter().product::<usize>()).map(|index| 0.5 + index as f32).collect();
        StoredTensor::new(&values, shape.to_vec(), precision)
    };
    let mut tensors = BTreeMap::new();
    for site in ["self_attn.q", "self_attn.k"] {
        let key = |part: &str| format!("diffusion_model.blocks.0.{site}.{part}");
        tensors.insert(key("lora_A.weight"), tensor(&[2, 4], Precision::Bf16));
        tensors.insert(key("lora_B.weight"), tensor(&[4, 2], Precision::Bf16));
    }
    // One of the two has an alpha, of another type and shape than one would write.
    let alpha = StoredTensor::new(&[4.0], vec![1], Precision::F32);
    tensors.insert("diffusion_model.blocks.0.self_attn.q.alpha".to_owned(), alpha);
    write_stored(&path("first.safetensors"), &tensors, BTreeMap::new()).unwrap();
    for between in [Dialect::Diffusers, Dialect::DiffSynth] {
        convert(&path("first.safetensors"), &path("other.safetensors"), between, Unmatched::Refuse).unwrap();
        convert(&path("other.safetensors"), &path("back.safetensors"), Dialect::ComfyUi, Unmatched::Refuse)
            .unwrap();
        let back = open(&path("back.safetensors"));
        let found: BTreeMap<String, StoredTensor> = back
            .infos()
            .into_iter()
            .map(|info| (info.name.clone(), back.stored(&info.name).unwrap()))
            .collect();
        assert_eq!(found, tensors, "{between}");
    }
}
