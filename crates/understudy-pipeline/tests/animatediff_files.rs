//! Every file that a Stable Diffusion and motion modules are shared as gives the same bits; see
//! `oracle/animatediff_files.py`.
#![allow(clippy::unwrap_used)]

mod common;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use burn::tensor::Tensor;
use common::{Case, copy_folder, device, folder, go, values};
use understudy_engine::random::Random;
use understudy_engine::safetensors::{Checkpoint, Precision, StoredTensor, write_stored};
use understudy_pipeline::{Animated, Request, Source, generate};

type Tensors = BTreeMap<String, StoredTensor>;
const WEIGHTS: &str = "diffusion_pytorch_model.safetensors";
const MOTION: &str = "motion_adapter/";

/// What a tensor of a file in the original layout is.
struct Named {
    original: String,
    /// Its network's folder and name in diffusers' layout; nothing where it has no such tensor.
    published: Option<String>,
    shape: Vec<usize>,
}

impl Named {
    fn is_motion(&self) -> bool {
        self.original.contains(".temporal_transformer.")
    }
}

fn names(case: &str) -> Vec<Named> {
    let text =
        std::fs::read_to_string(folder("animatediff_files").join(format!("names_{case}.json"))).unwrap();
    let all: BTreeMap<String, (Option<String>, Vec<usize>)> = serde_json::from_str(&text).unwrap();
    all.into_iter().map(|(original, (published, shape))| Named { original, published, shape }).collect()
}

/// The tensors of the file at `path`.
fn tensors(path: &Path) -> Tensors {
    let file = Checkpoint::open(path, &device()).unwrap();
    file.infos().into_iter().map(|info| (info.name.clone(), file.stored(&info.name).unwrap())).collect()
}

fn write(path: &Path, tensors: &Tensors) {
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    write_stored(path, tensors, BTreeMap::new()).unwrap();
}

/// In half precision, but for the tables of positions: files in the original layout are read without theirs,
/// and have them exact.
fn halved(tensors: Tensors) -> Tensors {
    let half = |own: StoredTensor| StoredTensor::new(&own.values().unwrap(), own.shape, Precision::F16);
    let kept = |(name, own): (String, StoredTensor)| {
        if name.ends_with("pos_embed.pe") { (name, own) } else { (name, half(own)) }
    };
    tensors.into_iter().map(kept).collect()
}

/// All tensors of a folder, by their network's folder and their name as newer programs write it.
fn of_folder(base: &Path) -> Tensors {
    let networks = ["unet", "vae", "text_encoder", "motion_adapter"];
    let of = |network: &str| {
        let file = if network == "text_encoder" { "model.safetensors" } else { WEIGHTS };
        let short = |name: String| format!("{network}/{}", name.strip_prefix("text_model.").unwrap_or(&name));
        tensors(&base.join(network).join(file))
            .into_iter()
            .map(|(name, own)| (short(name), own))
            .collect::<Vec<_>>()
    };
    networks.into_iter().flat_map(of).collect()
}

/// The pictures' networks and the motion modules of a folder in the original layout.
fn original(case: &str, own: &Tensors) -> [Tensors; 2] {
    let mut files = [Tensors::new(), Tensors::new()];
    for named in names(case) {
        let tensor = match &named.published {
            Some(published) => StoredTensor { shape: named.shape.clone(), ..own[published].clone() },
            // A table of positions, which is never read.
            None => {
                let zeros = vec![0.0; named.shape.iter().product()];
                StoredTensor::new(&zeros, named.shape.clone(), Precision::F32)
            }
        };
        files[usize::from(named.is_motion())].insert(named.original, tensor);
    }
    files
}

fn latents(source: Animated) -> Vec<f32> {
    of_source(Source::Animated(source))
}

fn of_source(source: Source) -> Vec<f32> {
    let base = source.load(&device()).unwrap();
    let request = Request {
        negative_prompt: "blurry".to_owned(),
        frames: 5,
        height: 32,
        width: 48,
        steps: 3,
        guidance: 4.0,
        seed: 3,
        ..Request::new("the green ball rolls, in style")
    };
    let found = values::<5>(generate(&base, &request, &mut go).unwrap().latents);
    assert!(found.iter().all(|value| value.is_finite()));
    found
}

/// That the run of `source` is the same to the bit; with motion modules in the `original` layout but for the
/// last digits of the positions, which are computed as diffusers does, and which its own files hold.
fn same(source: Animated, original: bool, expected: &[f32], what: &str) {
    let error = common::error(&latents(source), expected);
    assert!(error <= if original { 3e-6 } else { 0.0 }, "{what}: {error:.1e}");
}

fn pictures(path: PathBuf) -> Animated {
    Animated { pictures: path, ..Animated::default() }
}

#[test]
fn a_single_file_is_the_folder_with_any_counts_of_levels_and_layers() {
    for case in ["a", "b"] {
        let (base, scratch) = (folder(&format!("animatediff_{case}")), tempfile::tempdir().unwrap());
        let [whole, motion] = original(case, &of_folder(&base));
        let [file, modules] =
            ["whole.safetensors", "motion.safetensors"].map(|name| scratch.path().join(name));
        write(&file, &whole);
        write(&modules, &motion);
        let expected = latents(pictures(base.clone()));
        // Motion modules of a file, whose heads and positions nothing but a configuration tells.
        std::fs::copy(base.join("motion_adapter/config.json"), scratch.path().join("config.json")).unwrap();
        let folder = Some(base.join("motion_adapter"));
        let config = Some(base.clone());
        let published = Some(base.join("motion_adapter").join(WEIGHTS));
        let own = Animated { motion: folder, config, ..pictures(file) };
        for (what, original, source) in [
            ("a whole file", false, own.clone()),
            ("original motion modules", true, Animated { motion: Some(modules.clone()), ..own.clone() }),
            ("a file of diffusers' motion modules", false, Animated { motion: published, ..own }),
            (
                "original motion modules for a folder",
                true,
                Animated { motion: Some(modules), ..pictures(base) },
            ),
        ] {
            same(source, original, &expected, &format!("{case}, {what}"));
        }
    }
}

/// A base of the published counts of levels and layers, with random numbers, as a folder.
fn four(at: &Path) {
    let [own, rest] = ["animatediff_files/four", "animatediff_b"].map(folder);
    copy_folder(&rest, at);
    for network in ["unet", "motion_adapter"] {
        std::fs::copy(own.join(network).join("config.json"), at.join(network).join("config.json")).unwrap();
        let mut tensors = Tensors::new();
        for named in names("four") {
            let Some(name) =
                named.published.as_deref().and_then(|own| own.strip_prefix(&format!("{network}/")))
            else {
                continue;
            };
            let inputs: usize = named.shape[1..].iter().product();
            let scale = (inputs as f32).powf(-0.5);
            let numbers = Random::stream(5, name, 0).normals(named.shape.iter().product());
            let numbers: Vec<f32> = numbers.iter().map(|value| value * scale).collect();
            tensors.insert(name.to_owned(), StoredTensor::new(&numbers, named.shape, Precision::F32));
        }
        write(&at.join(network).join(WEIGHTS), &tensors);
    }
}

#[test]
fn the_published_counts_are_named_as_published() {
    let scratch = tempfile::tempdir().unwrap();
    let base = scratch.path().join("base");
    four(&base);
    let [mut whole, motion] = original("four", &of_folder(&base));
    let [others, _] = original("b", &of_folder(&folder("animatediff_b")));
    whole.extend(others.into_iter().filter(|(name, _)| !name.starts_with("model.diffusion_model.")));
    let [file, modules] = ["whole.safetensors", "motion.safetensors"].map(|name| scratch.path().join(name));
    write(&file, &whole);
    write(&modules, &motion);
    std::fs::copy(base.join("motion_adapter/config.json"), scratch.path().join("config.json")).unwrap();
    let own = Animated { motion: Some(modules), config: Some(base.clone()), ..pictures(file) };
    same(own, true, &latents(pictures(base)), "the published counts");
}

#[test]
fn training_programs_files_in_half_precision_are_the_folder_in_half_precision() {
    let (base, own) = (folder("animatediff_b"), folder("animatediff_files"));
    let scratch = tempfile::tempdir().unwrap();
    let half = scratch.path().join("half");
    copy_folder(&base, &half);
    for file in ["unet", "vae", "motion_adapter"].map(|network| format!("{network}/{WEIGHTS}")) {
        write(&half.join(&file), &halved(tensors(&base.join(&file))));
    }
    let text = "text_encoder/model.safetensors";
    write(&half.join(text), &halved(tensors(&base.join(text))));
    let expected = latents(pictures(half.clone()));
    assert!(common::error(&expected, &latents(pictures(base.clone()))) > 1e-4);

    let modules = scratch.path().join("motion.ckpt");
    std::fs::copy(own.join("motion.ckpt"), &modules).unwrap();
    std::fs::copy(base.join("motion_adapter/config.json"), scratch.path().join("config.json")).unwrap();
    let folder = Some(half.join("motion_adapter"));
    let whole = Animated { motion: folder, config: Some(base), ..pictures(own.join("b.ckpt")) };
    same(whole.clone(), false, &expected, "a .ckpt");
    same(Animated { motion: Some(modules), ..whole }, true, &expected, "motion modules in a .ckpt");
}

#[test]
fn a_saved_pipeline_has_both_in_its_unet() {
    let (base, own) = (folder("animatediff_b"), folder("animatediff_files/pipeline"));
    let scratch = tempfile::tempdir().unwrap();
    copy_folder(&base, scratch.path());
    for file in ["model_index.json", "unet/config.json"] {
        std::fs::copy(own.join(file), scratch.path().join(file)).unwrap();
    }
    let mut unet = tensors(&base.join("unet").join(WEIGHTS));
    unet.extend(tensors(&base.join(MOTION).join(WEIGHTS)));
    write(&scratch.path().join("unet").join(WEIGHTS), &unet);
    let expected = latents(pictures(base.clone()));
    let whole = || Source::folder(scratch.path()).unwrap();
    // The pipeline saves its motion adapter once more.
    let check = |what: &str| {
        assert!(of_source(whole()) == expected, "{what}");
    };
    check("a pipeline");
    std::fs::remove_dir_all(scratch.path().join("motion_adapter")).unwrap();
    check("a pipeline's UNet");
    // Others in place of its own.
    let motion = Some(base.join("motion_adapter"));
    same(
        Animated { motion, ..pictures(scratch.path().to_owned()) },
        false,
        &expected,
        "other motion modules",
    );
}

#[test]
fn a_run_of_a_single_file_is_that_of_diffusers() {
    let (base, scratch) = (folder("animatediff_b"), tempfile::tempdir().unwrap());
    let case = Case::open("animatediff_adapters");
    let [whole, _] = original("b", &of_folder(&base));
    let file = scratch.path().join("whole.safetensors");
    write(&file, &whole);
    let motion = Some(base.join("motion_adapter"));
    let source = Animated { motion, config: Some(base), ..pictures(file) };
    let base = Source::Animated(source).load(&device()).unwrap();
    let noise: Tensor<5> = case.tensor("latents");
    let request = Request {
        negative_prompt: "blurry".to_owned(),
        frames: 5,
        height: 32,
        width: 48,
        steps: 8,
        guidance: 4.0,
        initial_noise: Some(noise),
        ..Request::new("the green ball rolls, in style")
    };
    let found = values(generate(&base, &request, &mut go).unwrap().latents);
    common::check("plain", &found, &case.values("plain.latents_out"), 1e-3);
}

fn refused(source: Source, parts: &[&str]) {
    let said = match source.load(&device()) {
        Ok(_) => panic!("it is read, and should be refused for {parts:?}"),
        Err(error) => error.to_string(),
    };
    println!("{said}");
    assert!(!said.contains('\n'), "{said}");
    for part in parts {
        assert!(said.contains(part), "{part}: {said}");
    }
}

/// A few tensors of these names and shapes.
fn some(path: &Path, named: &[(&str, &[usize])]) {
    let zeros = |shape: &[usize]| {
        StoredTensor::new(&vec![0.5; shape.iter().product()], shape.to_vec(), Precision::F32)
    };
    write(path, &named.iter().map(|(name, shape)| ((*name).to_owned(), zeros(shape))).collect());
}

#[test]
fn other_files_are_refused_for_what_they_are() {
    let (base, scratch) = (folder("animatediff_b"), tempfile::tempdir().unwrap());
    let [whole, motion] = original("b", &of_folder(&base));
    let at = |name: &str| scratch.path().join(name);
    write(&at("motion.safetensors"), &motion);
    write(&at("whole.safetensors"), &whole);
    let config = Some(base.clone());
    let moves = Some(base.join("motion_adapter"));
    let file = |name: &str| Animated { motion: moves.clone(), config: config.clone(), ..pictures(at(name)) };

    // As a base.
    refused(Source::Animated(file("motion.safetensors")), &["motion modules", "--motion"]);
    let lora = folder("animatediff_adapters/whole.safetensors");
    refused(Source::Animated(Animated { pictures: lora.clone(), ..file("") }), &["adapter", "--adapter"]);
    let q = "model.diffusion_model.input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight";
    let outer = "model.diffusion_model.input_blocks.0.0.weight";
    some(
        &at("xl.safetensors"),
        &[
            (outer, &[320, 4, 3, 3]),
            ("model.diffusion_model.input_blocks.4.1.transformer_blocks.0.attn2.to_k.weight", &[4, 2048]),
            ("conditioner.embedders.0.transformer.text_model.final_layer_norm.weight", &[4]),
            ("first_stage_model.decoder.conv_in.weight", &[4, 4, 3, 3]),
        ],
    );
    refused(Source::Animated(file("xl.safetensors")), &["Stable Diffusion XL", "1.5"]);
    some(
        &at("two.safetensors"),
        &[
            (outer, &[320, 4, 3, 3]),
            (q, &[4, 1024]),
            ("cond_stage_model.model.ln_final.weight", &[1024]),
            ("first_stage_model.decoder.conv_in.weight", &[4, 4, 3, 3]),
        ],
    );
    refused(Source::Animated(file("two.safetensors")), &["Stable Diffusion 2", "1.5"]);
    some(&at("one.safetensors"), &[("something.weight", &[4])]);
    refused(Source::Animated(file("one.safetensors")), &["one.safetensors", "Stable Diffusion 1.5"]);

    // As motion modules.
    let with =
        |motion: PathBuf| Source::Animated(Animated { motion: Some(motion), ..pictures(base.clone()) });
    refused(with(lora), &["whole.safetensors", "adapter", "--adapter"]);
    let motion_lora = folder("animatediff_adapters/motion_original.safetensors");
    refused(with(motion_lora), &["LoRA", "--adapter"]);
    refused(with(at("whole.safetensors")), &["no motion modules", "Stable Diffusion"]);
    // Nothing that moves, and modules of another base.
    refused(Source::Animated(Animated { motion: None, ..file("whole.safetensors") }), &["--motion"]);
    refused(with(folder("animatediff_a/motion_adapter")), &["not supported", "this Stable Diffusion"]);
}
