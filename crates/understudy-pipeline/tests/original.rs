//! Wan's original release and the files people share, against diffusers; see `oracle/wan_original.py`.
#![allow(clippy::unwrap_used)]

mod common;

use std::path::Path;

use burn::tensor::Tensor;
use common::{Case, check, device, folder, go, values};
use understudy_engine::safetensors::{Checkpoint, NamedValues, Precision, write};
use understudy_pipeline::{Output, Parts, Source, generate};

const CASE: &str = "wan_original";

fn run(source: &Source) -> Output {
    let base = source.load(&device()).unwrap();
    generate(&base, &Case::open(CASE).request(), &mut go).unwrap()
}

fn agrees(output: &Output, prefix: &str) {
    let case = Case::open(CASE);
    let frames = values(output.frames.clone().permute([0, 2, 3, 4, 1]));
    check("latents", &values(output.latents.clone()), &case.values(&format!("{prefix}latents_out")), 1e-3);
    check("frames", &frames, &case.values(&format!("{prefix}frames")), 1e-3);
}

fn parts(transformer: &Path) -> Source {
    let original = Parts::find(&folder(CASE), [false; 3]).unwrap().unwrap();
    Source::Parts(Parts { transformer: transformer.to_owned(), config: None, ..original })
}

fn same(a: &Output, b: &Output) {
    let bits = |tensor: &Tensor<5>| values(tensor.clone()).iter().map(|x| x.to_bits()).collect::<Vec<_>>();
    assert_eq!(bits(&a.latents), bits(&b.latents));
    assert_eq!(bits(&a.frames), bits(&b.frames));
}

#[test]
fn the_original_release_gives_what_diffusers_gives() {
    let output = run(&Source::folder(&folder(CASE)).unwrap());
    agrees(&output, "");

    // The same weights as one file of ComfyUI's.
    let denoiser = folder(CASE).join("diffusion_pytorch_model.safetensors");
    let tensors = prefixed(&denoiser, "model.diffusion_model.");
    let target = tempfile::tempdir().unwrap();
    for precision in [Precision::Bf16, Precision::F32] {
        let path = target.path().join("wan.safetensors");
        write(&path, &tensors, Default::default(), precision).unwrap();
        same(&run(&parts(&path)), &output);
    }

    // And as one file of all networks.
    let Source::Parts(original) = parts(&denoiser) else { panic!() };
    let text = prefixed(&original.text_encoder, "text_encoders.umt5xxl.transformer.");
    let vae = prefixed(&original.vae, "vae.");
    let all: Vec<NamedValues> = tensors.into_iter().chain(text).chain(vae).collect();
    let path = target.path().join("all.safetensors");
    write(&path, &all, Default::default(), Precision::F32).unwrap();
    let all = Parts::whole(&path).unwrap().unwrap();
    same(&run(&Source::Parts(Parts { tokenizer: original.tokenizer, ..all })), &output);
    assert_eq!(Parts::whole(&denoiser).unwrap(), None);
}

#[test]
fn files_are_told_by_what_is_in_them() {
    let whole = folder(CASE);
    let target = tempfile::tempdir().unwrap();
    for (from, to) in [
        ("wan-q8_0.gguf", "diffusion_models/a.model"),
        ("models_t5_umt5-xxl-enc-bf16.pth", "text_encoders/b"),
        ("Wan2.1_VAE.pth", "vae/c.bin"),
        ("google/umt5-xxl/tokenizer.json", "text_encoders/tokenizer.json"),
    ] {
        let to = target.path().join(to);
        std::fs::create_dir_all(to.parent().unwrap()).unwrap();
        std::fs::copy(whole.join(from), to).unwrap();
    }
    std::fs::write(target.path().join("notes.txt"), "nothing to see").unwrap();
    agrees(&run(&Source::folder(target.path()).unwrap()), "gguf.");

    let second = target.path().join("diffusion_models/d.model");
    std::fs::copy(target.path().join("diffusion_models/a.model"), &second).unwrap();
    let message = Source::folder(target.path()).unwrap_err().to_string();
    assert!(message.contains("a.model") && message.contains("--transformer"), "{message}");

    std::fs::remove_file(&second).unwrap();
    let vae = target.path().join("vae/c.bin");
    let bytes = std::fs::read(&vae).unwrap();
    std::fs::write(&vae, &bytes[..bytes.len() / 2]).unwrap();
    let message = Source::folder(target.path()).unwrap_err().to_string();
    assert!(message.contains("autoencoder") && message.contains("c.bin"), "{message}");
}

/// The tensors of a file with `prefix` before their names.
fn prefixed(path: &Path, prefix: &str) -> Vec<NamedValues> {
    let checkpoint = Checkpoint::open(path, &device()).unwrap();
    let tensor = |name: String| {
        let (values, shape) = checkpoint.values(&name).unwrap();
        NamedValues { name: format!("{prefix}{name}"), shape, values }
    };
    checkpoint.infos().into_iter().map(|info| tensor(info.name)).collect()
}

#[test]
fn a_quantized_denoiser_gives_what_its_values_give() {
    agrees(&run(&parts(&folder(CASE).join("wan-q8_0.gguf"))), "gguf.");
}

#[test]
fn incomplete_and_foreign_files_are_errors() {
    let whole = folder(CASE);
    let target = tempfile::tempdir().unwrap();
    let copied = target.path().join("base");
    std::fs::create_dir(&copied).unwrap();
    std::fs::copy(whole.join("Wan2.1_VAE.pth"), copied.join("Wan2.1_VAE.pth")).unwrap();
    let message = Source::folder(&copied).unwrap_err().to_string();
    assert!(message.contains("diffusion_pytorch_model.safetensors"), "{message}");

    // A text encoder where the denoiser should be.
    let message =
        parts(&whole.join("models_t5_umt5-xxl-enc-bf16.pth")).open(&device()).unwrap_err().to_string();
    assert!(message.contains("models_t5") && message.contains("patch_embedding.weight"), "{message}");

    // Image to video.
    let path = target.path().join("config.json");
    std::fs::write(&path, r#"{"model_type": "i2v", "num_heads": 1}"#).unwrap();
    let original = Parts::find(&whole, [false; 3]).unwrap().unwrap();
    let message =
        Source::Parts(Parts { config: Some(path), ..original }).open(&device()).unwrap_err().to_string();
    assert!(message.contains("i2v"), "{message}");

    // A folder of nothing is told what a base is.
    let nothing = tempfile::tempdir().unwrap();
    let message = Source::folder(nothing.path()).unwrap().open(&device()).unwrap_err().to_string();
    assert!(message.contains("model_index.json"), "{message}");
}
