//! What a file of weights is, told from its tensors: which network, whose names, which published model, and whether it
//! is whole.

use std::collections::BTreeMap;

use burn::tensor::Device;
use serde::Serialize;
use serde_json::Value;
use understudy_engine::safetensors::Checkpoint;
use understudy_engine::weights::{Probe, WeightSource};
use understudy_models::umt5::{Umt5Config, Umt5Encoder};
use understudy_models::wan_transformer::{WanTransformer, WanTransformerConfig};
use understudy_models::wan_vae::{WanVae, WanVaeConfig};

use crate::base::{BaseConfig, TEXT_ENCODER, TRANSFORMER, VAE, to_json};
use crate::limits;
use crate::original;
use crate::shapes::Shapes;
use crate::source::{WHOLE, decoder_blocks};

/// A file of one of a base's networks.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Recognized {
    /// `denoiser`, `text encoder` or `autoencoder`.
    pub network: &'static str,
    /// Whose names its tensors have: `diffusers`, `Wan` (the original release) or `ComfyUI`.
    pub names: &'static str,
    /// The published model with these shapes, if it is one.
    pub model: Option<&'static str>,
    /// The configuration its shapes tell.
    pub config: Value,
    /// Why this program cannot run it, if it cannot.
    pub not_supported: Option<String>,
    /// Tensors that are not there, with the shapes they need.
    pub missing: Vec<String>,
    /// Tensors of a wrong shape.
    pub misshapen: Vec<String>,
    /// Tensors the network does not have.
    pub unknown: Vec<String>,
}

impl Recognized {
    /// The class diffusers or transformers publishes such a network as.
    pub fn class(&self) -> &'static str {
        let all = [
            (Network::Denoiser, TRANSFORMER),
            (Network::TextEncoder, TEXT_ENCODER),
            (Network::Autoencoder, VAE),
        ];
        all.into_iter().find(|(network, _)| network.name() == self.network).map_or("", |(_, part)| part.class)
    }
}

/// A network of a base.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Network {
    /// The diffusion transformer.
    Denoiser,
    /// UMT5.
    TextEncoder,
    /// The video autoencoder.
    Autoencoder,
}

impl Network {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Denoiser => "denoiser",
            Self::TextEncoder => "text encoder",
            Self::Autoencoder => "autoencoder",
        }
    }
}

/// The networks that `checkpoint` holds: none, one, or all of a base.
pub(crate) fn networks(checkpoint: &Checkpoint) -> Vec<Network> {
    let names = checkpoint.names();
    match is_whole(&names) {
        true => vec![Network::Denoiser, Network::TextEncoder, Network::Autoencoder],
        false => network(&Shapes::of(checkpoint)).into_iter().collect(),
    }
}

/// Whether a file of these tensors holds all networks of a base.
fn is_whole(names: &[String]) -> bool {
    WHOLE.iter().all(|prefix| names.iter().any(|name| name.starts_with(prefix)))
}

/// Which network tensors of these shapes are. Other models have tensors of the same names: Wan's patches and its
/// autoencoder's kernels are of videos, and UMT5 has positions in every layer, where T5 has them in the first.
fn network(shapes: &Shapes) -> Option<Network> {
    let names: Vec<String> = shapes.by_name().keys().cloned().collect();
    let blocks = decoder_blocks(&names);
    let autoencoder = |name: &str| original::autoencoder(name, blocks);
    let extents = |wanted: &str, rename: &dyn Fn(&str) -> Option<String>| {
        let own = shapes.by_name().iter();
        own.filter(|(name, _)| rename(name).as_deref().unwrap_or(name) == wanted)
            .map(|(_, shape)| shape.len())
            .next()
    };
    let text = |name: &str| extents(name, &original::text_encoder).is_some();
    let layer = |index: usize, part: &str| text(&format!("encoder.block.{index}.layer.0.{part}.weight"));
    if extents("patch_embedding.weight", &original::denoiser) == Some(5) {
        Some(Network::Denoiser)
    } else if text("shared.weight") {
        let positions = "SelfAttention.relative_attention_bias";
        (layer(1, positions) || !layer(1, "layer_norm")).then_some(Network::TextEncoder)
    } else {
        (extents("post_quant_conv.weight", &autoencoder) == Some(5)).then_some(Network::Autoencoder)
    }
}

const COMFYUI: &str = "ComfyUI";
/// Tensors of a text encoder's file that are not its own: the tied embedding, and ComfyUI's tokenizer.
const BESIDE: [&str; 2] = ["encoder.embed_tokens.weight", "spiece_model"];

/// What `checkpoint` holds of a base: nothing, a network, or all three. Only names and shapes are looked at.
pub fn recognize(checkpoint: &Checkpoint) -> Vec<Recognized> {
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
pub fn compare(checkpoint: &Checkpoint, base: &BaseConfig) -> Option<Recognized> {
    told(&Shapes::of(checkpoint), Some(base))
}

/// Which network has tensors of these `shapes`; its configuration is that of `base`, or what the shapes tell.
fn told(shapes: &Shapes, base: Option<&BaseConfig>) -> Option<Recognized> {
    let names: Vec<String> = shapes.by_name().keys().cloned().collect();
    let renamed = |rename: &dyn Fn(&str) -> Option<String>| -> Shapes {
        let own = shapes.by_name().iter();
        own.map(|(name, shape)| (rename(name).unwrap_or_else(|| name.clone()), shape.clone())).collect()
    };
    let network = network(shapes)?;
    Some(match network {
        Network::Denoiser => {
            let own = renamed(&original::denoiser);
            let config = base.map_or_else(|| own.transformer(None), |base| Ok(base.transformer.clone()));
            found(network, &names, &own, config, &Denoiser)
        }
        Network::TextEncoder => {
            let own = renamed(&original::text_encoder);
            let config = base.map_or_else(|| own.text_encoder(), |base| Ok(base.text_encoder.clone()));
            found(network, &names, &own, config, &TextEncoder)
        }
        Network::Autoencoder => {
            let blocks = decoder_blocks(&names);
            let own = renamed(&|name| original::autoencoder(name, blocks));
            let config = base.map_or_else(|| own.autoencoder(), |base| Ok(base.vae.clone()));
            found(network, &names, &own, config, &Autoencoder)
        }
    })
}

/// What is asked of a kind of network.
trait Kind {
    type Config: Serialize;
    fn model(&self, config: &Self::Config) -> Option<&'static str>;
    fn fault(&self, config: &Self::Config) -> Option<String>;
    fn needed(&self, config: &Self::Config) -> BTreeMap<String, Vec<usize>>;
}

fn found<K: Kind>(
    network: Network,
    names: &[String],
    shapes: &Shapes,
    config: Result<K::Config, String>,
    kind: &K,
) -> Recognized {
    let starts = |prefix: &str| names.iter().any(|name| name.starts_with(prefix));
    let same = shapes.by_name().keys().eq(names.iter());
    let mut recognized = Recognized {
        network: network.name(),
        names: match (starts("model.diffusion_model.") || starts("diffusion_model."), same) {
            (true, _) => COMFYUI,
            (_, true) => "diffusers",
            _ => "Wan",
        },
        model: None,
        config: Value::Null,
        not_supported: None,
        missing: Vec::new(),
        misshapen: Vec::new(),
        unknown: Vec::new(),
    };
    let config = match config {
        Ok(config) => config,
        Err(reason) => return Recognized { not_supported: Some(reason), ..recognized },
    };
    recognized.config = to_json(&config);
    recognized.model = kind.model(&config);
    recognized.not_supported = kind.fault(&config);
    if recognized.not_supported.is_some() {
        return recognized;
    }
    let needed = kind.needed(&config);
    for (name, shape) in &needed {
        match shapes.by_name().get(name) {
            None => recognized.missing.push(format!("{name} {shape:?}")),
            Some(own) if own != shape => {
                recognized.misshapen.push(format!("{name} is {own:?} and needs {shape:?}"));
            }
            Some(_) => {}
        }
    }
    let unknown = |name: &&String| !needed.contains_key(*name) && !BESIDE.contains(&name.as_str());
    recognized.unknown = shapes.by_name().keys().filter(unknown).cloned().collect();
    recognized
}

fn out_of_range(found: Result<(), (&'static str, String)>) -> Option<String> {
    found.err().map(|(field, rule)| format!("{field}: must be {rule}"))
}

struct Denoiser;

impl Kind for Denoiser {
    type Config = WanTransformerConfig;

    fn model(&self, config: &WanTransformerConfig) -> Option<&'static str> {
        Some(match (config.inner_dim(), config.num_layers, config.in_channels, config.image_dim.is_some()) {
            (1536, 30, 16, _) => "Wan 2.1 T2V 1.3B",
            // Both denoisers of Wan 2.2's text-to-video have the same shapes.
            (5120, 40, 16, _) => "Wan 2.1 T2V 14B, or a half of Wan 2.2 T2V A14B",
            (5120, 40, 36, true) => "Wan 2.1 I2V 14B",
            (5120, 40, 36, false) => "a half of Wan 2.2 I2V A14B",
            (3072, 30, 48, _) => "Wan 2.2 TI2V 5B",
            _ => return None,
        })
    }

    fn fault(&self, config: &WanTransformerConfig) -> Option<String> {
        let channels = config.in_channels != config.out_channels;
        let image = channels.then(|| "it takes a picture beside the text; only text-to-video is".to_owned());
        config.unsupported().or(image).or_else(|| out_of_range(limits::transformer(config)))
    }

    fn needed(&self, config: &WanTransformerConfig) -> BTreeMap<String, Vec<usize>> {
        Probe::shapes(&Device::flex(), |weights| WanTransformer::new(weights, config))
    }
}

struct TextEncoder;

impl Kind for TextEncoder {
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

impl Kind for Autoencoder {
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
