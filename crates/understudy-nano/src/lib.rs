//! The embedded base `nano` and its judges, as files compiled into the program.
//!
//! [`FILES`] holds a diffusers folder (`WanPipeline`), and under `judges/` a CLIP, two identity encoders that
//! were trained on disjoint identities (`identity` judges, `identity-reward` may be trained against), a judge
//! of motion, which reads postures from frames, and one of markings, which reads patterns and emblems. The
//! files are those of `weights/`, which `tools/assemble-nano.sh` puts together from the runs of `understudy
//! pretrain`.

/// Pairs of a path and what lies there below `weights/`.
macro_rules! files {
    ($($path:literal),+ $(,)?) => {
        &[$(($path, include_bytes!(concat!("../weights/", $path)))),+]
    };
}
/// What error messages call the embedded files.
pub const NAME: &str = "nano";

/// Every file: its path in the folder, and its content.
pub static FILES: &[(&str, &[u8])] = files![
    "model_index.json",
    "scheduler/scheduler_config.json",
    "text_encoder/config.json",
    "text_encoder/model.safetensors",
    "tokenizer/tokenizer.json",
    "tokenizer/tokenizer_config.json",
    "transformer/config.json",
    "transformer/diffusion_pytorch_model.safetensors",
    "vae/config.json",
    "vae/diffusion_pytorch_model.safetensors",
    "judges/clip/config.json",
    "judges/clip/model.safetensors",
    "judges/clip/tokenizer.json",
    "judges/identity/config.json",
    "judges/identity/model.safetensors",
    "judges/identity-reward/config.json",
    "judges/identity-reward/model.safetensors",
    "judges/markings/config.json",
    "judges/markings/model.safetensors",
    "judges/motion/config.json",
    "judges/motion/model.safetensors",
];

#[cfg(test)]
mod tests {
    use super::*;

    /// The most the embedded files may take.
    const LIMIT: usize = 40_000_000;

    #[test]
    fn the_files_are_small_enough_and_none_is_empty() {
        let sizes: Vec<usize> = FILES.iter().map(|(_, bytes)| bytes.len()).collect();
        assert!(sizes.iter().all(|&size| size > 0), "{sizes:?}");
        let total: usize = sizes.iter().sum();
        assert!(total <= LIMIT, "{total} bytes");
    }
}
