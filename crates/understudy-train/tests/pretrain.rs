//! The recipes that train the base, end to end on tiny networks.
#![allow(clippy::unwrap_used)]

use std::ops::ControlFlow;
use std::path::Path;

use burn::tensor::Device;
use understudy_engine::safetensors::{CHECKSUM, Checkpoint};
use understudy_pipeline::{Base, Files};
use understudy_train::pretrain::Recipe;
use understudy_train::{Event, STATE};

const TRAINING: &str = r#"
[training]
steps = STEPS
ema_decay = 0.9
checkpoint_every = 100
schedule = { learning_rate = 4e-3, warmup = 2, end = 0.1 }
"#;

const IDENTITY: &str = r#"
train = "identity"
seed = 1
first = 1
identities = 4
batch = 4
scale = 8.0
margin = 0.1
margin_warmup = 1
noise = 0.1
model = { layers = [1, 1, 1, 1], widths = [4, 4, 4, 4], size = 16, embedding = 8 }
"#;

const PARTS: &str = r#"
train = "parts"
seed = 3
batch = 8
noise = 0.1
blur = 1
model = { widths = [8, 16], classes = 8, size = 32 }
"#;

const AUTOENCODER: &str = r#"
train = "autoencoder"
seed = 1
size = [5, 16, 16]
kl_weight = 1e-3
mask_weight = 2.0
difference = { absolute = 1.0, squared = 1.0, edges = 0.5 }
perception = { networks = ["FOLDER/identity/export"], weight = 0.5, frames = 2 }
phases = [{ from = 0, frames = 1, batch = 2 }, { from = 2, frames = 5, batch = 2, window = [16, 8] }]

[model]
base_dim = 4
decoder_base_dim = 8
z_dim = 4
dim_mult = [1, 2, 2]
num_res_blocks = 1
temperal_downsample = [true, true]
latents_mean = [0, 0, 0, 0]
latents_std = [1, 1, 1, 1]
"#;

const DENOISER: &str = r#"
train = "denoiser"
seed = 2
size = [5, 16, 16]
clips = { count = 3, fresh = 1, batch = 2, shift = 2.0 }
stills = { count = 4, fresh = 2, batch = 4, shift = 1.0 }
phases = [{ from = 0, stills = 0.5 }]
mask_weight = 3.0
head_weight = 2.0
alignment = { block = 0, hidden = 16, weight = 0.5 }
caption_dropout = 0.1
max_tokens = 40
autoencoder = "FOLDER/autoencoder/export"

[text_encoder]
vocab_size = 211
d_model = 16
d_kv = 8
d_ff = 16
num_layers = 1
num_heads = 2
relative_attention_num_buckets = 8
relative_attention_max_distance = 16
layer_norm_epsilon = 1e-6

[transformer]
patch_size = [1, 2, 2]
num_attention_heads = 2
attention_head_dim = 12
in_channels = 4
out_channels = 4
text_dim = 16
freq_dim = 16
ffn_dim = 32
num_layers = 2
cross_attn_norm = true
qk_norm = "rms_norm_across_heads"
eps = 1e-6
rope_max_seq_len = 64
"#;

/// Runs `recipe` with so many `steps` in `folder/name`, stopped by `emit`.
fn run(folder: &Path, name: &str, recipe: &str, steps: u64, emit: &mut dyn FnMut(&Event) -> ControlFlow<()>) {
    let (head, tables) = recipe.split_once("\n[").unwrap_or((recipe, ""));
    let tables = if tables.is_empty() { String::new() } else { format!("\n[{tables}") };
    let text = format!("{head}{tables}{}", TRAINING.replace("STEPS", &steps.to_string()));
    let path = folder.join(format!("{name}.toml"));
    std::fs::write(&path, text.replace("FOLDER", folder.to_str().unwrap())).unwrap();
    Recipe::read(&path).unwrap().run(&folder.join(name), &Device::flex(), emit).unwrap();
}

fn go_on(_: &Event) -> ControlFlow<()> {
    ControlFlow::Continue(())
}

/// The values of every tensor of the state of the run in `folder`, by name.
fn state(folder: &Path) -> Vec<(String, Vec<u32>)> {
    let checkpoint = Checkpoint::open(&folder.join(STATE), &Device::flex()).unwrap();
    let bits = |name: &str| checkpoint.values(name).unwrap().0.iter().map(|v| v.to_bits()).collect();
    let names = checkpoint.infos().into_iter().map(|info| info.name.clone()).filter(|name| name != CHECKSUM);
    names.map(|name| (name.clone(), bits(&name))).collect()
}

#[test]
fn a_base_is_trained_from_its_judge_to_its_denoiser() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    run(folder, "identity", IDENTITY, 1, &mut go_on);
    let mut seen = Vec::new();
    run(folder, "autoencoder", AUTOENCODER, 4, &mut |event| {
        if let Event::Step { metrics, .. } = event {
            seen.push(metrics.iter().map(|(name, value)| (name.clone(), *value)).collect::<Vec<_>>());
        }
        ControlFlow::Continue(())
    });
    assert_eq!(seen.len(), 4);
    assert!(seen.iter().flatten().all(|(_, value)| value.is_finite()));
    assert!(seen.iter().flatten().any(|(name, value)| name == "perception" && *value > 0.0));

    let mut losses = Vec::new();
    run(folder, "denoiser", DENOISER, 6, &mut |event| {
        if let Event::Step { metrics, .. } = event {
            losses.push(metrics.clone());
        }
        ControlFlow::Continue(())
    });
    for name in ["flow", "shown", "looks", "postures"] {
        assert!(losses.iter().all(|own| own.iter().any(|(other, value)| other == name && value.is_finite())));
    }
    // What is exported opens as a base like any other, and nothing is left of the heads.
    let export = folder.join("denoiser/export");
    let base = Base::load(&Files::folder(&export), &Device::flex()).unwrap();
    assert_eq!(base.networks.denoiser.depth(), 2);
    let trained = state(&folder.join("denoiser"));
    let moments = |part: &str| {
        let own = trained.iter().filter(|(name, _)| name.contains("first_moment/") && name.contains(part));
        own.map(|(_, bits)| bits.iter().any(|bits| f32::from_bits(*bits) != 0.0)).collect::<Vec<_>>()
    };
    let heads = moments("heads.");
    assert_eq!(heads.len(), 8, "weight and bias of four maps");
    assert!(heads.into_iter().all(|moved| moved), "a head had no gradient");
    assert!(moments("transformer.blocks.0.attn1").into_iter().all(|moved| moved));

    // A run that was stopped goes on exactly, with the clips that were new at every step.
    run(folder, "stopped", DENOISER, 6, &mut |event| match event {
        Event::Step { step: 3, .. } => ControlFlow::Break(()),
        _ => ControlFlow::Continue(()),
    });
    run(folder, "stopped", DENOISER, 6, &mut go_on);
    assert_eq!(trained, state(&folder.join("stopped")));
    let encoded = |run: &str, kind: &str| {
        let files = std::fs::read_dir(folder.join(run)).unwrap().map(|entry| entry.unwrap());
        let own = |entry: &std::fs::DirEntry| entry.file_name().to_str().unwrap().starts_with(kind);
        files.filter(own).map(|entry| entry.metadata().unwrap().len()).sum::<u64>()
    };
    // Latents of 4 channels, 2 frames and 4 x 4 places as f16, of 3 clips and one more before each of steps 1
    // to 5.
    let clips = encoded("denoiser", "clips") / (2 * 4 * 2 * 16);
    assert!((7..=8).contains(&clips), "{clips}");
    assert_eq!(encoded("denoiser", "clips"), encoded("stopped", "clips"));

    // What was exported can be started from, with heads of its own.
    let again =
        DENOISER.replace("max_tokens", &format!("start = {:?}\nmax_tokens", export.to_str().unwrap()));
    run(folder, "again", &again, 2, &mut go_on);
}

#[test]
fn a_judge_of_parts_learns_what_pixels_show() {
    let folder = tempfile::tempdir().unwrap();
    let mut losses = Vec::new();
    run(folder.path(), "parts", PARTS, 60, &mut |event| {
        if let Event::Step { loss, .. } = event {
            losses.push(*loss);
        }
        ControlFlow::Continue(())
    });
    let mean = |losses: &[f32]| losses.iter().sum::<f32>() / losses.len() as f32;
    assert!(mean(&losses[50..]) < 0.85 * mean(&losses[..5]), "{losses:?}");
    let overlap = std::fs::read_to_string(folder.path().join("parts/overlap.txt")).unwrap();
    let overlap: f32 = overlap.split_whitespace().nth(1).unwrap().parse().unwrap();
    assert!((0.0..=1.0).contains(&overlap));
    assert!(folder.path().join("parts/export/model.safetensors").exists());
}
