//! Which of Wan's networks a file of weights is, told from its tensors: whose names, which published model,
//! and whether it is whole.

use std::collections::{BTreeMap, BTreeSet};

use burn::tensor::Device;
use serde::Serialize;
use serde_json::Value;
use understudy_engine::error::WeightError;
use understudy_engine::safetensors::Checkpoint;
use understudy_engine::weights::{Probe, WeightSource};
use understudy_models::umt5::{Umt5Config, Umt5Encoder};
use understudy_models::wan_transformer::{WanTransformer, WanTransformerConfig};
use understudy_models::wan_vae::{WanVae, WanVaeConfig};

use super::config::{WanConfig, to_json};
use super::files::{Part as Place, TEXT_ENCODER, TRANSFORMER, VAE};
use super::kinds::Kind;
use super::limits;
use super::opened::{WHOLE, decoder_blocks};
use super::original;
use super::shapes::{Shapes, TIED};
use crate::recognize::{Network, Recognized};
use crate::wrapped::{self, Held};

/// The networks that `checkpoint` holds: none, one, or all of a base.
pub(super) fn networks(checkpoint: &Checkpoint) -> Vec<Network> {
    let names = checkpoint.names();
    if is_whole(&names) {
        vec![Network::Denoiser, Network::TextEncoder, Network::Autoencoder]
    } else {
        network(&Shapes::of(checkpoint)).into_iter().collect()
    }
}

/// Whether a file of these tensors holds all networks of a base.
fn is_whole(names: &[String]) -> bool {
    WHOLE.iter().all(|prefix| names.iter().any(|name| name.starts_with(prefix)))
}

/// Which network tensors of these shapes are. Other models have tensors of the same names: Wan's patches and
/// its autoencoder's kernels are of videos, and UMT5 has positions in every layer, where T5 has them in the
/// first. None is told by one tensor alone, which may be missing.
fn network(shapes: &Shapes) -> Option<Network> {
    // Adapters have tensors of the same names.
    if shapes.by_name().keys().any(|name| name.contains(".lora_") || name.ends_with(".alpha")) {
        return None;
    }
    let named = |network| published(&Shapes::held(&held_in(network, shapes), shapes), network);
    let (denoiser, text) = (named(Network::Denoiser), named(Network::TextEncoder));
    let autoencoder = named(Network::Autoencoder);
    let extents = |shapes: &Shapes, name: &str| shapes.by_name().get(name).map(Vec::len);
    let any = |shapes: &Shapes, start: &str, part: &str| {
        shapes.by_name().keys().any(|name| name.starts_with(start) && name.contains(part))
    };
    let patches = extents(&denoiser, "patch_embedding.weight");
    let conditioned = any(&denoiser, "condition_embedder.", "") && any(&denoiser, "blocks.", ".attn2.");
    if patches == Some(5) || (patches.is_none() && conditioned) || any(&denoiser, "vace_blocks.", "") {
        return Some(Network::Denoiser);
    }
    if any(&text, "encoder.block.", ".layer.0.SelfAttention.") {
        let several = any(&text, "encoder.block.1.", "");
        let mut positions = text.by_name().keys().filter(|name| name.contains("relative_attention_bias"));
        let later = positions.any(|name| !name.starts_with("encoder.block.0."));
        return (later || !several).then_some(Network::TextEncoder);
    }
    let kernels = ["post_quant_conv.weight", "quant_conv.weight", "decoder.conv_in.weight"];
    let videos = kernels.iter().any(|name| extents(&autoencoder, name) == Some(5));
    (videos && any(&autoencoder, "decoder.", "")).then_some(Network::Autoencoder)
}

/// Where a folder in diffusers' layout has a network.
fn part_of(network: Network) -> Place {
    match network {
        Network::Denoiser => TRANSFORMER,
        Network::TextEncoder => TEXT_ENCODER,
        Network::Autoencoder => VAE,
    }
}

/// What the names of a network's tensors begin with, up to the first dot, in any naming.
fn first_words(network: Network) -> &'static [&'static str] {
    match network {
        Network::Denoiser => &[
            "blocks",
            "patch_embedding",
            "text_embedding",
            "time_embedding",
            "time_projection",
            "head",
            "condition_embedder",
            "scale_shift_table",
            "proj_out",
            "img_emb",
            "vace_blocks",
            "vace_patch_embedding",
        ],
        Network::TextEncoder => {
            &["blocks", "token_embedding", "norm", "shared", "encoder", "enc", "token_embd"]
        }
        Network::Autoencoder => &["encoder", "decoder", "conv1", "conv2", "quant_conv", "post_quant_conv"],
    }
}

/// The tensors of `network` in `checkpoint` by its own names, and what is to be said of it.
pub(super) fn held(
    network: Network,
    checkpoint: Checkpoint,
) -> Result<(Checkpoint, Option<String>), WeightError> {
    let names = checkpoint.names();
    let held = Held::of(first_words(network), names.iter().map(String::as_str));
    Ok((held.tensors(checkpoint)?, held.note))
}

/// Where in a file of tensors of these `shapes` those of `network` are.
fn held_in(network: Network, shapes: &Shapes) -> Held {
    Held::of(first_words(network), shapes.by_name().keys().map(String::as_str))
}

/// `shapes`, by the names of `network` in any naming, by its published ones.
fn published(shapes: &Shapes, network: Network) -> Shapes {
    match network {
        Network::Denoiser => renamed(shapes, original::denoiser),
        Network::TextEncoder => renamed(shapes, original::text_encoder).without(&original::TEXT_DECODER),
        Network::Autoencoder => {
            let names: Vec<String> = shapes.by_name().keys().cloned().collect();
            let blocks = decoder_blocks(&names);
            renamed(shapes, |name| original::autoencoder(name, blocks))
        }
    }
}

/// `shapes` by other names.
fn renamed(shapes: &Shapes, rename: impl Fn(&str) -> Option<String>) -> Shapes {
    let own = shapes.by_name().iter();
    own.map(|(name, shape)| (rename(name).unwrap_or_else(|| name.clone()), shape.clone())).collect()
}

const COMFYUI: &str = "ComfyUI";
/// Tensors of a text encoder's file that are not its own: the tied embedding, and ComfyUI's tokenizer.
const BESIDE: [&str; 2] = [TIED, "spiece_model"];

/// What `checkpoint` holds of a base: nothing, a network, or all three. Only names and shapes are looked at.
pub(super) fn recognize(checkpoint: &Checkpoint) -> Vec<Recognized> {
    let shapes = Shapes::of(checkpoint);
    if !is_whole(&checkpoint.names()) {
        return told(&shapes, None).into_iter().collect();
    }
    let part = |prefix: &&str| {
        let own = shapes.by_name().iter();
        let below =
            own.filter_map(|(name, shape)| Some((name.strip_prefix(*prefix)?.to_owned(), shape.clone())));
        let recognized = told(&below.collect(), None)?;
        Some(Recognized { names: COMFYUI, ..recognized })
    };
    WHOLE.iter().filter_map(part).collect()
}

/// The network in `checkpoint`, which is to be that of `base`.
pub(super) fn compare(checkpoint: &Checkpoint, base: &WanConfig) -> Option<Recognized> {
    told(&Shapes::of(checkpoint), Some(base))
}

/// Which network has tensors of these `shapes`; its configuration is that of `base`, or what the shapes tell.
fn told(shapes: &Shapes, base: Option<&WanConfig>) -> Option<Recognized> {
    let names: Vec<String> = shapes.by_name().keys().cloned().collect();
    let network = network(shapes)?;
    let held = held_in(network, shapes);
    let own = published(&Shapes::held(&held, shapes), network);
    let recognized = match network {
        Network::Denoiser => {
            let kind = Kind::of(&own);
            let config = base.map_or_else(|| own.transformer(None), |base| Ok(base.transformer.clone()));
            // Which tensors there must be does not depend on the number of heads, which shapes do not always
            // tell.
            let (config, heads) = match (config, own.transformer(Some(1))) {
                (Err(reason), Ok(any)) => (Ok(any), Some(reason)),
                (config, _) => (config, None),
            };
            let found =
                Recognized { model: kind.name.clone(), ..found(network, &names, &own, config, &Denoiser) };
            match (kind.refusal(), heads) {
                (Some(reason), _) => Recognized { not_supported: Some(reason), ..found.without_faults() },
                (_, Some(reason)) => Recognized { not_supported: Some(reason), config: Value::Null, ..found },
                _ => found,
            }
        }
        Network::TextEncoder => {
            let config = base.map_or_else(|| own.text_encoder(), |base| Ok(base.text_encoder.clone()));
            found(network, &names, &own, config, &TextEncoder)
        }
        Network::Autoencoder => {
            let config = base.map_or_else(|| own.autoencoder(), |base| Ok(base.vae.clone()));
            let newer =
                own.by_name().get("quant_conv.weight").is_some_and(|shape| shape.first() == Some(&96));
            let found = found(network, &names, &own, config, &Autoencoder);
            let model = newer.then(|| "Wan 2.2's autoencoder".to_owned()).or(found.model.clone());
            Recognized { model, ..found }
        }
    };
    Some(Recognized { note: held.note, ..recognized })
}

/// What a file whose tensors are `names` calls the tensor of `network` that is published as `published`.
pub(super) fn own_name(network: Network, published: &str, names: &[String]) -> String {
    let held = Held::of(first_words(network), names.iter().map(String::as_str));
    let names = held.names();
    let own = match network {
        Network::Denoiser => original::own_denoiser(published, &names),
        Network::TextEncoder => original::own_text_encoder(published, &names),
        Network::Autoencoder => original::own_autoencoder(published, &names, decoder_blocks(&names)),
    };
    held.in_file(&own)
}

/// What is asked of a kind of network.
trait Part {
    type Config: Serialize;
    /// The published model of this configuration.
    fn model(&self, _: &Self::Config) -> Option<&'static str> {
        None
    }
    fn fault(&self, config: &Self::Config) -> Option<String>;
    fn needed(&self, config: &Self::Config) -> BTreeMap<String, Vec<usize>>;
}

fn found<K: Part>(
    network: Network,
    names: &[String],
    shapes: &Shapes,
    config: Result<K::Config, String>,
    kind: &K,
) -> Recognized {
    let starts = |prefix: &str| names.iter().any(|name| name.starts_with(prefix));
    let bare: BTreeSet<String> = names.iter().map(|name| wrapped::bare(name)).collect();
    let same = shapes.by_name().keys().all(|name| bare.contains(name));
    let mut recognized = Recognized {
        network: network.name(),
        class: part_of(network).class,
        names: match (starts("model.diffusion_model.") || starts("diffusion_model."), same) {
            (true, _) => COMFYUI,
            (_, true) => "diffusers",
            _ if bare.iter().any(|name| name.starts_with("enc.blk.")) => "llama.cpp",
            _ => "Wan",
        },
        model: None,
        config: Value::Null,
        not_supported: None,
        missing: Vec::new(),
        misshapen: Vec::new(),
        unknown: Vec::new(),
        compared: true,
        note: None,
    };
    let config = match config {
        Ok(config) => config,
        Err(reason) => return Recognized { not_supported: Some(reason), ..recognized },
    };
    recognized.config = to_json(&config);
    recognized.model = kind.model(&config).map(str::to_owned);
    recognized.not_supported = kind.fault(&config);
    if recognized.not_supported.is_some() {
        return recognized;
    }
    let needed = kind.needed(&config);
    let called = |name: &str| own_name(network, name, names);
    for (name, shape) in &needed {
        match shapes.by_name().get(name) {
            None => recognized.missing.push(format!("{} {shape:?}", called(name))),
            Some(own) if own != shape => {
                recognized.misshapen.push(format!("{} is {own:?} and needs {shape:?}", called(name)));
            }
            Some(_) => {}
        }
    }
    let unknown = |name: &&String| !needed.contains_key(*name) && !BESIDE.contains(&name.as_str());
    recognized.unknown = shapes.by_name().keys().filter(unknown).map(|name| called(name)).collect();
    recognized
}

fn out_of_range(found: Result<(), (&'static str, String)>) -> Option<String> {
    found.err().map(|(field, rule)| format!("{field}: must be {rule}"))
}

struct Denoiser;

impl Part for Denoiser {
    type Config = WanTransformerConfig;

    fn fault(&self, config: &WanTransformerConfig) -> Option<String> {
        config.unsupported().or_else(|| out_of_range(limits::transformer(config)))
    }

    fn needed(&self, config: &WanTransformerConfig) -> BTreeMap<String, Vec<usize>> {
        Probe::shapes(&Device::flex(), |weights| WanTransformer::new(weights, config))
    }
}

struct TextEncoder;

impl Part for TextEncoder {
    type Config = Umt5Config;

    fn model(&self, config: &Umt5Config) -> Option<&'static str> {
        let published = (config.d_model, config.num_layers, config.vocab_size) == (4096, 24, 256_384);
        published.then_some("UMT5-XXL")
    }

    fn fault(&self, config: &Umt5Config) -> Option<String> {
        out_of_range(limits::text_encoder(config))
    }

    fn needed(&self, config: &Umt5Config) -> BTreeMap<String, Vec<usize>> {
        Probe::shapes(&Device::flex(), |weights| Umt5Encoder::new(weights, config))
    }
}

struct Autoencoder;

impl Part for Autoencoder {
    type Config = WanVaeConfig;

    fn model(&self, config: &WanVaeConfig) -> Option<&'static str> {
        let published = (config.base_dim, config.z_dim, config.dim_mult.len()) == (96, 16, 4);
        published.then_some("Wan 2.1's autoencoder")
    }

    fn fault(&self, config: &WanVaeConfig) -> Option<String> {
        out_of_range(limits::autoencoder(config))
    }

    fn needed(&self, config: &WanVaeConfig) -> BTreeMap<String, Vec<usize>> {
        Probe::shapes(&Device::flex(), |weights| WanVae::new(weights, config))
    }
}
