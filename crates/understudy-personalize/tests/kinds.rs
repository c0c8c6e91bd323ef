//! Adapters that are no plain LoRA, against weights changed by hand and by peft; see
//! `oracle/adapter_kinds.py`.
#![allow(clippy::unwrap_used)]

mod common;

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use burn::tensor::{Tensor, TensorData};
use common::{device, error, golden, open, values};
use understudy_engine::safetensors::{NamedValues, Precision, StoredTensor, write, write_stored};
use understudy_personalize::{Adapter, Dialect, Unmatched, combine, convert};
use understudy_pipeline::{Base, Files, LoadOptions, Request, generate};

const CASE: &str = "adapter_kinds";

fn path(name: &str) -> PathBuf {
    match name.strip_prefix("peft_") {
        Some(_) => golden(CASE).join(name),
        None => golden(CASE).join(format!("{name}.safetensors")),
    }
}

fn case() -> serde_json::Value {
    serde_json::from_str(&std::fs::read_to_string(golden(CASE).join("case.json")).unwrap()).unwrap()
}

fn request() -> Request {
    let case = case();
    let number = |name: &str| case[name].as_u64().unwrap() as usize;
    let (noise, shape) = open(&golden("wan_pipeline_a").join("io.safetensors")).values("latents_in").unwrap();
    let shape: [usize; 5] = shape.try_into().unwrap();
    Request {
        frames: number("num_frames"),
        height: number("height"),
        width: number("width"),
        steps: number("num_inference_steps"),
        guidance: case["guidance_scale"].as_f64().unwrap() as f32,
        initial_noise: Some(Tensor::from_data(TensorData::new(noise, shape), &device())),
        ..Request::new(case["prompt"].as_str().unwrap())
    }
}

/// The latents with these adapters and their weights, merged or attached, with so many blocks in their file.
fn run(files: &[(&Path, f32)], merge: bool, blocks_on_host: usize) -> Vec<f32> {
    let adapters: Vec<(Adapter, f32)> =
        files.iter().map(|(path, weight)| (Adapter::open(path, &device()).unwrap(), *weight)).collect();
    let mut options = LoadOptions { blocks_on_host, ..LoadOptions::default() };
    for (adapter, weight) in &adapters {
        options.additions.extend(adapter.additions(*weight, merge).unwrap());
    }
    let mut base = Base::load_with(&Files::folder(golden("wan_pipeline_a")), options, &device()).unwrap();
    Arc::make_mut(&mut base.about).text_limit = 24;
    let mut request = request();
    let (attached, _) = combine(&adapters, &base.about).unwrap();
    if !merge {
        request.attached = attached;
    }
    values(generate(&base, &request, &mut |_| ControlFlow::Continue(())).unwrap().latents)
}

fn expected(name: &str) -> Vec<f32> {
    open(&golden(CASE).join("io.safetensors")).values(&format!("{name}.latents_out")).unwrap().0
}

fn agrees(got: &[f32], name: &str) {
    let error = error(got, &expected(name));
    assert!(error < 3e-5, "{name}: {error:.1e}");
}

const OURS: [&str; 4] = ["dora", "dora_inputs", "loha", "lokr"];

#[test]
fn every_kind_makes_the_weights_that_its_program_makes() {
    let peft = ["peft_dora", "peft_rslora", "peft_loha", "peft_lokr", "peft_lokr_full"];
    for name in OURS.into_iter().chain(peft) {
        agrees(&run(&[(&path(name), 1.0)], false, 0), name);
    }
    // As a folder, by its file, and by its configuration.
    let folder = path("peft_dora");
    for file in ["adapter_model.safetensors", "adapter_config.json"] {
        agrees(&run(&[(&folder.join(file), 1.0)], false, 0), "peft_dora");
    }
}

#[test]
fn a_weight_goes_from_the_base_to_what_was_trained() {
    let weight = case()["weight"].as_f64().unwrap() as f32;
    for name in OURS {
        agrees(&run(&[(&path(name), weight)], false, 0), &format!("{name}.weighed"));
    }
    // Nothing of it leaves every bit as it is.
    let plain = run(&[], false, 0);
    assert_eq!(plain, run(&[(&path("dora"), 0.0)], false, 0));
    assert_eq!(plain, run(&[(&path("lokr"), 0.0)], true, 0));
}

#[test]
fn several_add_up_in_any_order_merged_or_not_and_from_a_file() {
    let weight = case()["weight"].as_f64().unwrap() as f32;
    let several = ["dora", "loha", "lokr"].map(path);
    let mut files: Vec<(&Path, f32)> = several.iter().map(|path| (path.as_path(), weight)).collect();
    for (merge, blocks_on_host) in [(false, 0), (true, 0), (false, 2)] {
        agrees(&run(&files, merge, blocks_on_host), "several");
    }
    files.reverse();
    agrees(&run(&files, false, 0), "several");
}

fn tensors(path: &Path) -> BTreeMap<String, StoredTensor> {
    let checkpoint = open(path);
    let infos = checkpoint.infos().into_iter();
    infos.map(|info| (info.name.clone(), checkpoint.stored(&info.name).unwrap())).collect()
}

#[test]
fn kinds_are_converted_where_the_names_have_a_place_for_them() {
    let folder = tempfile::tempdir().unwrap();
    let [there, back] = ["there", "back"].map(|name| folder.path().join(format!("{name}.safetensors")));
    for (name, own, other) in [
        ("dora", Dialect::ComfyUi, Dialect::Kohya),
        ("dora_inputs", Dialect::Kohya, Dialect::ComfyUi),
        ("loha", Dialect::Kohya, Dialect::ComfyUi),
        ("lokr", Dialect::ComfyUi, Dialect::Kohya),
    ] {
        convert(&path(name), &there, other, Unmatched::Refuse).unwrap();
        agrees(&run(&[(&there, 1.0)], false, 0), name);
        convert(&there, &back, own, Unmatched::Refuse).unwrap();
        assert_eq!(
            tensors(&back).values().map(|own| (&own.shape, &own.bytes)).collect::<Vec<_>>().len(),
            tensors(&path(name)).len()
        );
        agrees(&run(&[(&back, 1.0)], false, 0), name);
    }
    // What peft scales by its configuration is scaled for programs that do not read it.
    for name in ["peft_dora", "peft_rslora", "peft_loha", "peft_lokr", "peft_lokr_full"] {
        for dialect in [Dialect::ComfyUi, Dialect::Kohya] {
            convert(&path(name), &there, dialect, Unmatched::Refuse).unwrap();
            agrees(&run(&[(&there, 1.0)], false, 0), name);
        }
    }
    convert(&path("peft_dora"), &there, Dialect::Diffusers, Unmatched::Refuse).unwrap();
    agrees(&run(&[(&there, 1.0)], false, 0), "peft_dora");
    let vector = "transformer.blocks.0.attn1.to_q.lora_magnitude_vector";
    assert_eq!(tensors(&there)[vector].shape, [32]);
    assert!(open(&there).metadata()["lora_adapter_metadata"].contains("\"transformer.use_dora\":true"));
    convert(&there, &back, Dialect::ComfyUi, Unmatched::Refuse).unwrap();
    let back = tensors(&back);
    assert_eq!(back["diffusion_model.blocks.0.self_attn.q.dora_scale"].shape, [32, 1]);
    assert_eq!(back["diffusion_model.patch_embedding.dora_scale"].shape, [32, 1, 1, 1, 1]);
    for (name, dialect, said) in [
        ("loha", Dialect::Diffusers, "diffusers has no keys for LoHa (3: "),
        ("lokr", Dialect::DiffSynth, "diffsynth has no keys for"),
        ("dora", Dialect::DiffSynth, "DoRA"),
        ("dora_inputs", Dialect::Diffusers, "no keys in diffusers"),
        ("dora", Dialect::Diffusers, "some do not"),
    ] {
        let message = convert(&path(name), &there, dialect, Unmatched::Refuse).unwrap_err().to_string();
        assert!(message.contains(said) && message.contains("use comfyui or kohya"), "{message}");
    }
}

fn tensor(name: &str, shape: &[usize], value: f32) -> NamedValues {
    let values = (0..shape.iter().product::<usize>()).map(|at| value * (1.0 + at as f32 % 3.0)).collect();
    NamedValues { name: name.to_owned(), shape: shape.to_vec(), values }
}

const Q: &str = "diffusion_model.blocks.0.self_attn.q";

fn lora(value: f32) -> Vec<NamedValues> {
    [("lora_A", [2, 32]), ("lora_B", [32, 2])]
        .map(|(half, shape)| tensor(&format!("{Q}.{half}.weight"), &shape, value))
        .into()
}

#[test]
fn parts_that_do_not_make_a_whole_are_named() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.safetensors");
    let refused = |parts: &[(&str, &[usize])]| {
        let tensors: Vec<NamedValues> =
            parts.iter().map(|(end, shape)| tensor(&format!("{Q}.{end}"), shape, 0.5)).collect();
        write(&path, &tensors, BTreeMap::new(), Precision::F32).unwrap();
        Adapter::open(&path, &device()).unwrap_err().to_string()
    };
    let hada: [(&str, &[usize]); 4] =
        [("hada_w1_a", &[32, 2]), ("hada_w1_b", &[2, 32]), ("hada_w2_a", &[32, 2]), ("hada_w2_b", &[2, 32])];
    for left_out in 0..4 {
        let mut parts = hada.to_vec();
        parts.remove(left_out);
        assert!(refused(&parts).contains("lack the other half"), "{left_out}");
    }
    let odd: [(&str, &[usize]); 4] = [hada[0], hada[1], hada[2], ("hada_w2_b", &[3, 32])];
    assert!(refused(&odd).contains("ranks 2 and 3"));
    assert!(refused(&[("lokr_w1", &[4, 4])]).contains("lack the other half"));
    assert!(refused(&[("lokr_w1", &[4, 4]), ("lokr_w2_a", &[8, 2])]).contains("lokr_w2_a"));
    assert!(refused(&[("dora_scale", &[32, 1])]).contains("dora_scale"));
    let mixed: [(&str, &[usize]); 4] = [
        ("lora_A.weight", &[2, 32]),
        ("lora_B.weight", &[32, 2]),
        ("lokr_w1", &[4, 4]),
        ("lokr_w2", &[8, 8]),
    ];
    assert!(refused(&mixed).contains("lack the other half"));
    assert!(refused(&[("oft_blocks", &[4, 8, 8])]).contains("OFT"));
    // A product of another size than the base's weight.
    let tensors =
        [tensor(&format!("{Q}.lokr_w1"), &[4, 4], 0.5), tensor(&format!("{Q}.lokr_w2"), &[4, 4], 0.5)];
    write(&path, &tensors, BTreeMap::new(), Precision::F32).unwrap();
    let base = Base::load(&Files::folder(golden("wan_pipeline_a")), &device()).unwrap();
    let message = Adapter::load(&path, &base).unwrap_err().to_string();
    assert!(message.contains("for [16, 16], the base has [32, 32]"), "{message}");
}

#[test]
fn a_scale_stated_anywhere_is_used_or_named() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.safetensors");
    let opened = |header: &[(&str, &str)]| {
        let header = header.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        write(&path, &lora(0.5), header, Precision::F32).unwrap();
        Adapter::open_with(&path, &device(), Unmatched::Refuse).unwrap()
    };
    let found = opened(&[("lora_alpha", "8"), ("r", "2")]);
    assert_eq!(found.adapter.residuals["blocks.0.attn1.to_q"].alpha, 8.0);
    assert_eq!(found.scales, BTreeMap::from([("the header's lora_alpha".to_owned(), 1)]));
    let found = opened(&[("lora_alpha", "8"), ("r", "16")]);
    assert_eq!(found.adapter.residuals["blocks.0.attn1.to_q"].alpha, 2.0);
    assert!(found.notes[0].contains("for rank 16"), "{:?}", found.notes);
    // Whatever a converted file says besides, it has the scale itself.
    opened(&[("transformer.lora_alpha", "8"), ("transformer.r", "2")]);
    for dialect in Dialect::ALL {
        let out = folder.path().join(format!("{dialect}.safetensors"));
        convert(&path, &out, dialect, Unmatched::Refuse).unwrap();
        let residual = &Adapter::open(&out, &device()).unwrap().residuals["blocks.0.attn1.to_q"];
        assert_eq!(residual.alpha, 8.0, "{dialect}");
    }
    let alpha = open(&folder.path().join("comfyui.safetensors")).values(&format!("{Q}.alpha")).unwrap().0;
    assert_eq!(alpha, [8.0]);
}

#[test]
fn pefts_configuration_counts_for_its_own_file() {
    let folder = tempfile::tempdir().unwrap();
    let config = |text: &str| std::fs::write(folder.path().join("adapter_config.json"), text).unwrap();
    let path = folder.path().join("adapter_model.safetensors");
    write(&path, &lora(0.5), BTreeMap::new(), Precision::F32).unwrap();
    let alpha = |path: &Path| Adapter::open(path, &device()).unwrap().residuals["blocks.0.attn1.to_q"].alpha;
    config("\u{feff}{\"peft_type\": \"LORA\", \"r\": 2, \"lora_alpha\": 8, \"alpha_pattern\": {}}");
    assert_eq!(alpha(&path), 8.0);
    assert_eq!(alpha(folder.path()), 8.0);
    // Patterns name modules as the file does.
    config(r#"{"peft_type": "LORA", "r": 2, "lora_alpha": 8, "alpha_pattern": {"self_attn.q": 3}}"#);
    assert_eq!(alpha(&path), 3.0);
    config(r#"{"peft_type": "LORA", "r": 2, "lora_alpha": 8, "use_dora": true}"#);
    assert!(Adapter::open(&path, &device()).unwrap_err().to_string().contains("use_dora"));
    config(r#"{"r": 2, "lora_alpha": 8, "init_lora_weights": "pissa_niter_4"}"#);
    let opened = Adapter::open_with(&path, &device(), Unmatched::Refuse).unwrap();
    assert!(opened.notes[0].contains("pissa"), "{:?}", opened.notes);
    config("{");
    let message = Adapter::open(&path, &device()).unwrap_err().to_string();
    assert!(message.contains("adapter_config.json"), "{message}");
    // It is not about another file that lies beside.
    config(r#"{"r": 2, "lora_alpha": 8}"#);
    let other = folder.path().join("other.safetensors");
    write(&other, &lora(0.5), BTreeMap::new(), Precision::F32).unwrap();
    assert_eq!(alpha(&other), 2.0);
}

#[test]
fn differences_of_zeros_need_no_place() {
    let folder = tempfile::tempdir().unwrap();
    let [path, out] = ["x", "out"].map(|name| folder.path().join(format!("{name}.safetensors")));
    let mut tensors: BTreeMap<String, StoredTensor> = BTreeMap::new();
    for NamedValues { name, shape, values } in lora(0.5) {
        tensors.insert(name, StoredTensor::new(&values, shape, Precision::F16));
    }
    let zeros = |shape: &[usize]| {
        StoredTensor::new(&vec![0.0; shape.iter().product()], shape.to_vec(), Precision::F16)
    };
    tensors.insert(format!("{Q}.diff_b"), zeros(&[32]));
    tensors.insert("diffusion_model.blocks.0.self_attn.norm_q.diff".to_owned(), zeros(&[32]));
    // Of image-to-video alone.
    tensors.insert("diffusion_model.blocks.0.cross_attn.norm_k_img.diff".to_owned(), zeros(&[32]));
    write_stored(&path, &tensors, BTreeMap::new()).unwrap();
    for dialect in [Dialect::Diffusers, Dialect::DiffSynth] {
        let converted = convert(&path, &out, dialect, Unmatched::Refuse).unwrap();
        assert!(converted.notes[0].contains("3 differences of zeros"), "{:?}", converted.notes);
        assert_eq!(open(&out).infos().len(), 2);
    }
    assert!(convert(&path, &out, Dialect::Kohya, Unmatched::Refuse).unwrap().notes.is_empty());
    assert_eq!(open(&out).infos().len(), 6);
    let base = Base::load(&Files::folder(golden("wan_pipeline_a")), &device()).unwrap();
    let adapter = Adapter::load(&path, &base).unwrap();
    assert!(adapter.differences.is_empty());
}

#[test]
fn what_is_for_another_denoiser_is_said() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.safetensors");
    let base = Base::load(&Files::folder(golden("wan_pipeline_a")), &device()).unwrap();
    let refused = |tensors: &[NamedValues]| {
        write(&path, tensors, BTreeMap::new(), Precision::F32).unwrap();
        Adapter::load(&path, &base).unwrap_err().to_string()
    };
    let of = |site: &str, dim: usize| {
        [("lora_A", vec![2, dim]), ("lora_B", vec![dim, 2])]
            .map(|(half, shape)| tensor(&format!("diffusion_model.blocks.{site}.{half}.weight"), &shape, 0.5))
    };
    let mut image = lora(0.5);
    image.extend(of("0.cross_attn.k_img", 32));
    let message = refused(&image);
    assert!(
        message.contains("an image-to-video base") && message.contains("of image-to-video alone"),
        "{message}"
    );
    assert!(message.contains("trained beside a picture"), "{message}");
    let large = of("39.self_attn.q", 5120);
    assert!(refused(&large).contains("Wan 2.1 T2V 14B"));
    assert!(refused(&of("29.self_attn.q", 3072)).contains("Wan 2.2 TI2V 5B"));
    let vace = [
        of("0.self_attn.q", 32),
        of("0.self_attn.k", 32)
            .map(|own| NamedValues { name: own.name.replace("blocks.0", "vace_blocks.0"), ..own }),
    ];
    assert!(refused(&vace.into_iter().flatten().collect::<Vec<_>>()).contains("for VACE"));
    // A whole denoiser, and a whole text encoder.
    for (part, flag) in [("transformer", "--transformer"), ("text_encoder", "--text-encoder")] {
        let name = if part == "transformer" { "diffusion_pytorch_model" } else { "model" };
        let whole = golden("wan_pipeline_a").join(part).join(format!("{name}.safetensors"));
        let message = Adapter::open(&whole, &device()).unwrap_err().to_string();
        assert!(message.contains("no adapter") && message.contains(flag), "{message}");
    }
    let message = Adapter::open(&golden("wan_pipeline_a"), &device()).unwrap_err().to_string();
    assert!(message.contains("give it to --base"), "{message}");
}
