//! What a network must be, told from the shapes of its tensors alone: files people share rarely carry a
//! configuration.

use std::collections::BTreeMap;

use burn::tensor::Device;
use understudy_engine::safetensors::Checkpoint;
use understudy_engine::weights::Probe;
use understudy_models::umt5::{Umt5Config, Umt5Encoder};
use understudy_models::wan_transformer::{WanTransformer, WanTransformerConfig};
use understudy_models::wan_vae::{WanVae, WanVaeConfig};

use super::config::WanConfig;
use crate::wrapped::Held;

/// The embedding once more, which some files of text encoders have.
pub(crate) const TIED: &str = "encoder.embed_tokens.weight";

/// Channels of an attention head in every published Wan denoiser, where nothing says how many heads there
/// are.
const HEAD: usize = 128;

/// Blocks of a network that are looked at; none has as many.
const MOST: usize = 1 << 10;

/// Means and deviations of the latents of Wan 2.1's autoencoder, as published in its configuration.
const LATENTS_MEAN: [f32; 16] = [
    -0.7571, -0.7089, -0.9113, 0.1075, -0.1745, 0.9653, -0.1517, 1.5508, 0.4134, -0.0715, 0.5517, -0.3632,
    -0.1922, -0.9497, 0.2503, -0.2921,
];
const LATENTS_STD: [f32; 16] = [
    2.8184, 1.4541, 2.3275, 2.6558, 1.2196, 1.7708, 2.6052, 2.0743, 3.2687, 2.1526, 2.8652, 1.5579, 1.6382,
    1.1253, 2.8251, 1.9160,
];

/// Shapes by diffusers' (or transformers') names.
#[derive(Clone, Debug, Default)]
pub struct Shapes(BTreeMap<String, Vec<usize>>);

impl FromIterator<(String, Vec<usize>)> for Shapes {
    fn from_iter<I: IntoIterator<Item = (String, Vec<usize>)>>(shapes: I) -> Self {
        Self(shapes.into_iter().collect())
    }
}

impl Shapes {
    /// Those of an open file.
    pub fn of(checkpoint: &Checkpoint) -> Self {
        Self(checkpoint.infos().into_iter().map(|info| (info.name, info.shape)).collect())
    }

    /// Of all of a file's those that it holds for a network, by the network's names.
    pub(super) fn held(held: &Held, all: &Self) -> Self {
        let shape = |(bare, name): (&String, &String)| Some((bare.clone(), all.by_name().get(name)?.clone()));
        held.by_name().iter().filter_map(shape).collect()
    }

    /// The shapes by name.
    pub fn by_name(&self) -> &BTreeMap<String, Vec<usize>> {
        &self.0
    }

    /// Those whose names begin with none of `starts`.
    pub(crate) fn without(self, starts: &[&str]) -> Self {
        let kept = |name: &String| !starts.iter().any(|start| name.starts_with(start));
        Self(self.0.into_iter().filter(|(name, _)| kept(name)).collect())
    }

    /// The extents of tensor `name`, as many as wanted.
    fn extents<const N: usize>(&self, name: &str) -> Result<[usize; N], String> {
        let shape = self.0.get(name).ok_or_else(|| format!("tensor {name} is missing"))?;
        shape.as_slice().try_into().map_err(|_| format!("tensor {name} has shape {shape:?}, not {N} extents"))
    }

    fn has(&self, name: &str) -> bool {
        self.0.contains_key(name)
    }

    /// How many things there are that are numbered after `prefix`: one more than the last that has one of
    /// these `parts`. A single tensor that is missing must not make a network shorter.
    fn count(&self, prefix: &str, parts: &[&str]) -> usize {
        let index = |name: &String| {
            let (index, rest) = name.strip_prefix(prefix)?.split_once('.')?;
            let known = parts.iter().any(|part| rest.starts_with(part));
            known.then(|| index.parse::<usize>().ok()).flatten()
        };
        self.0.keys().filter_map(index).max().map_or(0, |last| last.saturating_add(1))
    }

    /// Blocks of the denoiser.
    pub(crate) fn blocks(&self) -> usize {
        self.count("blocks.", &["attn1.", "attn2.", "ffn.", "norm2.", "scale_shift_table"])
    }

    /// The extent that most of these `dimensions`, each of a tensor, have; of several that as many have, the
    /// first. A single tensor of a wrong shape must not make all others wrong.
    ///
    /// # Errors
    /// Names the first tensor, when none is there.
    fn agreed<S: AsRef<str>>(&self, dimensions: &[(S, usize)]) -> Result<usize, String> {
        let mut found: Vec<(usize, usize)> = Vec::new();
        for (name, dimension) in dimensions {
            let Some(&extent) = self.0.get(name.as_ref()).and_then(|shape| shape.get(*dimension)) else {
                continue;
            };
            match found.iter_mut().find(|(own, _)| *own == extent) {
                Some((_, times)) => *times += 1,
                None => found.push((extent, 1)),
            }
        }
        // The last of the greatest is the first in the order that they were found in.
        let most = found.iter().rev().max_by_key(|(_, times)| *times).map(|(extent, _)| *extent);
        let first = || dimensions.first().map_or_else(String::new, |(name, _)| name.as_ref().to_owned());
        most.ok_or_else(|| format!("tensor {} is missing", first()))
    }

    /// The denoiser's configuration. `heads` is how many attention heads it has, if something says.
    ///
    /// # Errors
    /// Names the tensor that is missing or has an impossible shape.
    pub fn transformer(&self, heads: Option<usize>) -> Result<WanTransformerConfig, String> {
        let [_, in_channels, frames, rows, columns] = self.extents("patch_embedding.weight")?;
        let [own_outputs, _] = self.extents("proj_out.weight")?;
        let [_, text_dim] = self.extents("condition_embedder.text_embedder.linear_1.weight")?;
        let [_, freq_dim] = self.extents("condition_embedder.time_embedder.linear_1.weight")?;
        let num_layers = self.blocks();
        let of_blocks = |parts: &[(&str, usize)]| numbered("blocks.", num_layers.min(MOST), parts);
        let widths = [
            ("patch_embedding.weight", 0),
            ("patch_embedding.bias", 0),
            ("proj_out.weight", 1),
            ("condition_embedder.text_embedder.linear_2.weight", 0),
        ];
        let mut widths = widths.map(|(name, dimension)| (name.to_owned(), dimension)).to_vec();
        widths.extend(of_blocks(&[
            ("attn1.to_q.weight", 1),
            ("attn1.to_k.weight", 1),
            ("ffn.net.2.weight", 0),
        ]));
        let inner = self.agreed(&widths)?;
        let ffn_dim = self.agreed(&of_blocks(&[
            ("ffn.net.0.proj.weight", 0),
            ("ffn.net.0.proj.bias", 0),
            ("ffn.net.2.weight", 1),
        ]))?;
        let patch = frames * rows * columns;
        // A text-to-video denoiser gives as many channels as it takes.
        let patch_outputs = match self.agreed(&[("proj_out.bias", 0)]) {
            Ok(other) if other == in_channels * patch => other,
            _ => own_outputs,
        };
        if patch == 0 || !patch_outputs.is_multiple_of(patch) {
            return Err(format!(
                "tensor proj_out.weight: {patch_outputs} outputs are not whole patches of {patch}"
            ));
        }
        let heads = match heads {
            Some(heads) => heads,
            None => inner / HEAD,
        };
        if heads == 0 || !inner.is_multiple_of(heads) {
            return Err(format!(
                "tensor patch_embedding.weight: {inner} channels are not whole heads of {HEAD}"
            ));
        }
        let added = self.0.get("blocks.0.attn2.add_k_proj.weight").and_then(|shape| shape.get(1).copied());
        let any = |end: &str| self.0.keys().any(|name| name.starts_with("blocks.") && name.ends_with(end));
        Ok(WanTransformerConfig {
            patch_size: [frames, rows, columns],
            num_attention_heads: heads,
            attention_head_dim: inner / heads,
            in_channels,
            out_channels: patch_outputs / patch,
            text_dim,
            freq_dim,
            ffn_dim,
            num_layers,
            cross_attn_norm: any(".norm2.weight") || any(".norm2.bias"),
            qk_norm: any(".attn1.norm_q.weight").then(|| "rms_norm_across_heads".to_owned()),
            eps: 1e-6,
            image_dim: added,
            added_kv_proj_dim: added,
            rope_max_seq_len: 1024,
        })
    }

    /// Whether every tensor is one that `needed` has, of its shape.
    fn fit(&self, needed: &BTreeMap<String, Vec<usize>>) -> bool {
        let known = |(name, shape): (&String, &Vec<usize>)| name == TIED || needed.get(name) == Some(shape);
        !self.0.is_empty() && self.0.iter().all(known)
    }

    /// Whether they are those of the text encoder of `config`, some of which may be missing.
    pub(crate) fn fit_text_encoder(&self, config: &WanConfig) -> bool {
        self.fit(&Probe::shapes(&Device::flex(), |weights| Umt5Encoder::new(weights, &config.text_encoder)))
    }

    /// Whether they are those of the denoiser of `config`, some of which may be missing.
    pub(crate) fn fit_transformer(&self, config: &WanConfig) -> bool {
        self.fit(&Probe::shapes(&Device::flex(), |weights| WanTransformer::new(weights, &config.transformer)))
    }

    /// Whether they are those of the autoencoder of `config`, some of which may be missing.
    pub(crate) fn fit_autoencoder(&self, config: &WanConfig) -> bool {
        self.fit(&Probe::shapes(&Device::flex(), |weights| WanVae::new(weights, &config.vae)))
    }

    /// The text encoder's configuration.
    ///
    /// # Errors
    /// As [`Shapes::transformer`].
    pub fn text_encoder(&self) -> Result<Umt5Config, String> {
        const BLOCK: &str = "encoder.block.";
        let first = "encoder.block.0.layer.0.SelfAttention";
        let num_layers = self.count(BLOCK, &["layer."]);
        let of_blocks = |parts: &[(&str, usize)]| numbered(BLOCK, num_layers.min(MOST), parts);
        let within = |parts: &[(&str, usize)]| self.agreed(&of_blocks(parts));
        let [vocab_size, _] = self.extents("shared.weight")?;
        let mut widths = vec![("shared.weight".to_owned(), 1)];
        widths.extend(of_blocks(&[("layer.0.layer_norm.weight", 0), ("layer.0.SelfAttention.q.weight", 1)]));
        let d_model = self.agreed(&widths)?;
        let inner = within(&[
            ("layer.0.SelfAttention.q.weight", 0),
            ("layer.0.SelfAttention.k.weight", 0),
            ("layer.0.SelfAttention.v.weight", 0),
        ])?;
        let positions = "layer.0.SelfAttention.relative_attention_bias.weight";
        let (buckets, num_heads) = (within(&[(positions, 0)])?, within(&[(positions, 1)])?);
        let d_ff = within(&[
            ("layer.1.DenseReluDense.wi_0.weight", 0),
            ("layer.1.DenseReluDense.wi_1.weight", 0),
            ("layer.1.DenseReluDense.wo.weight", 1),
        ])?;
        if num_heads == 0 || !inner.is_multiple_of(num_heads) {
            return Err(format!(
                "tensor {first}.q.weight: {inner} outputs are not whole heads of {num_heads}"
            ));
        }
        Ok(Umt5Config {
            vocab_size,
            d_model,
            d_kv: inner / num_heads,
            d_ff,
            num_layers,
            num_heads,
            relative_attention_num_buckets: buckets,
            relative_attention_max_distance: 128,
            layer_norm_epsilon: 1e-6,
            feed_forward_proj: "gated-gelu".to_owned(),
        })
    }

    /// The autoencoder's configuration. Means and deviations of the latents are those of Wan 2.1, so there
    /// must be as many latent channels.
    ///
    /// # Errors
    /// As [`Shapes::transformer`].
    pub fn autoencoder(&self) -> Result<WanVaeConfig, String> {
        for name in ["encoder.conv_in.weight", "quant_conv.weight", "decoder.conv_in.weight"] {
            self.extents::<5>(name)?;
        }
        let base_dim = self.agreed(&[
            ("encoder.conv_in.weight", 0),
            ("encoder.conv_in.bias", 0),
            ("encoder.down_blocks.0.norm1.gamma", 0),
        ])?;
        let twice =
            self.agreed(&[("quant_conv.weight", 0), ("quant_conv.bias", 0), ("encoder.conv_out.weight", 0)])?;
        let decoder_out = self.agreed(&[
            ("decoder.conv_in.weight", 0),
            ("decoder.conv_in.bias", 0),
            ("decoder.mid_block.resnets.0.norm1.gamma", 0),
        ])?;
        let z_dim = twice / 2;
        if z_dim != LATENTS_MEAN.len() {
            return Err(format!(
                "tensor quant_conv.weight: {z_dim} latent channels, and Wan 2.1's autoencoder has {}",
                LATENTS_MEAN.len()
            ));
        }
        if base_dim == 0 {
            return Err("tensor encoder.conv_in.weight: has no channels".to_owned());
        }
        let (mut dim_mult, mut temperal_downsample) = (Vec::new(), Vec::new());
        let mut blocks = 0;
        let parts = ["norm", "conv", "resample.", "time_conv."];
        for index in 0..self.count("encoder.down_blocks.", &parts).min(MOST) {
            let at = format!("encoder.down_blocks.{index}");
            let has = |part: &str| {
                self.has(&format!("{at}.{part}.weight")) || self.has(&format!("{at}.{part}.bias"))
            };
            if has("resample.1") || has("time_conv") {
                temperal_downsample.push(has("time_conv"));
                continue;
            }
            // The first block of a level says how wide it is.
            if dim_mult.len() == temperal_downsample.len() {
                let sides = ["conv2.weight", "conv1.weight", "conv2.bias", "conv1.bias", "norm2.gamma"];
                let width = self.agreed(&sides.map(|side| (format!("{at}.{side}"), 0)))?;
                dim_mult.push(width / base_dim);
            }
            blocks += 1;
        }
        let Some(&widest) = dim_mult.last().filter(|&&last| last > 0) else {
            return Err("tensor encoder.down_blocks.0.conv2.weight is missing".to_owned());
        };
        let decoder_base = decoder_out / widest;
        Ok(WanVaeConfig {
            base_dim,
            decoder_base_dim: (decoder_base != base_dim).then_some(decoder_base),
            z_dim,
            num_res_blocks: blocks / dim_mult.len(),
            dim_mult,
            attn_scales: Vec::new(),
            temperal_downsample,
            latents_mean: LATENTS_MEAN.to_vec(),
            latents_std: LATENTS_STD.to_vec(),
            is_residual: false,
            patch_size: None,
        })
    }
}

/// The dimensions of these `parts` of so many things that are numbered after `prefix`; at least of the first.
fn numbered(prefix: &str, count: usize, parts: &[(&str, usize)]) -> Vec<(String, usize)> {
    let of = |index: usize| {
        parts.iter().map(move |(part, dimension)| (format!("{prefix}{index}.{part}"), *dimension))
    };
    (0..count.max(1)).flat_map(of).collect()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use understudy_engine::weights::Weights;

    use super::*;

    /// The shapes of what `build` asks for.
    fn shapes(build: impl Fn(&Weights)) -> Shapes {
        Shapes(Probe::shapes(&Device::flex(), build))
    }

    fn transformer() -> WanTransformerConfig {
        WanTransformerConfig {
            patch_size: [1, 2, 2],
            num_attention_heads: 2,
            attention_head_dim: 128,
            in_channels: 4,
            out_channels: 6,
            text_dim: 20,
            freq_dim: 32,
            ffn_dim: 72,
            num_layers: 3,
            cross_attn_norm: true,
            qk_norm: Some("rms_norm_across_heads".into()),
            eps: 1e-6,
            image_dim: None,
            added_kv_proj_dim: None,
            rope_max_seq_len: 1024,
        }
    }

    fn autoencoder(decoder_base_dim: Option<usize>) -> WanVaeConfig {
        WanVaeConfig {
            base_dim: 4,
            decoder_base_dim,
            z_dim: 16,
            dim_mult: vec![1, 2, 4, 4],
            num_res_blocks: 2,
            attn_scales: Vec::new(),
            temperal_downsample: vec![false, true, true],
            latents_mean: LATENTS_MEAN.to_vec(),
            latents_std: LATENTS_STD.to_vec(),
            is_residual: false,
            patch_size: None,
        }
    }

    #[test]
    fn shapes_tell_the_configuration() {
        for cross_attn_norm in [true, false] {
            let config = WanTransformerConfig { cross_attn_norm, ..transformer() };
            let found = shapes(|weights| drop(WanTransformer::new(weights, &config)));
            assert_eq!(found.transformer(None).unwrap(), config);
            let halves = WanTransformerConfig { num_attention_heads: 4, attention_head_dim: 64, ..config };
            assert_eq!(found.transformer(Some(4)).unwrap(), halves);
        }
        for decoder_base_dim in [None, Some(6)] {
            let config = autoencoder(decoder_base_dim);
            let found = shapes(|weights| drop(WanVae::new(weights, &config)));
            assert_eq!(found.autoencoder().unwrap(), config);
        }
        let config = Umt5Config {
            vocab_size: 50,
            d_model: 24,
            d_kv: 8,
            d_ff: 40,
            num_layers: 2,
            num_heads: 3,
            relative_attention_num_buckets: 32,
            relative_attention_max_distance: 128,
            layer_norm_epsilon: 1e-6,
            feed_forward_proj: "gated-gelu".into(),
        };
        let found = shapes(|weights| drop(Umt5Encoder::new(weights, &config)));
        assert_eq!(found.text_encoder().unwrap(), config);
    }

    #[test]
    fn one_tensor_of_a_wrong_shape_makes_no_other_wrong() {
        let config = WanTransformerConfig { out_channels: 4, ..transformer() };
        let whole = shapes(|weights| drop(WanTransformer::new(weights, &config)));
        for (name, dimension) in [
            ("patch_embedding.weight", 0),
            ("patch_embedding.bias", 0),
            ("blocks.0.attn1.to_q.weight", 1),
            ("blocks.0.ffn.net.0.proj.weight", 0),
            ("blocks.0.ffn.net.2.weight", 1),
            ("proj_out.weight", 0),
        ] {
            let mut spoiled = whole.clone();
            spoiled.0.get_mut(name).unwrap()[dimension] += 8;
            assert_eq!(spoiled.transformer(None).unwrap(), config, "{name}");
        }
        let config = autoencoder(None);
        let whole = shapes(|weights| drop(WanVae::new(weights, &config)));
        for name in ["encoder.conv_in.weight", "decoder.conv_in.weight", "encoder.down_blocks.0.conv2.weight"]
        {
            let mut spoiled = whole.clone();
            spoiled.0.get_mut(name).unwrap()[0] *= 2;
            assert_eq!(spoiled.autoencoder().unwrap(), config, "{name}");
        }
    }

    #[test]
    fn what_cannot_be_is_an_error() {
        let config = transformer();
        let whole = shapes(|weights| drop(WanTransformer::new(weights, &config)));
        let spoiled = |name: &str, shape: Option<Vec<usize>>| {
            let mut shapes = whole.clone();
            match shape {
                Some(shape) => shapes.0.insert(name.to_owned(), shape),
                None => shapes.0.remove(name),
            };
            let message = shapes.transformer(None).unwrap_err();
            assert!(message.contains(name), "{message}");
        };
        spoiled("patch_embedding.weight", None);
        spoiled("patch_embedding.weight", Some(vec![256, 4]));
        spoiled("proj_out.weight", Some(vec![25, 256]));
        assert!(whole.transformer(Some(0)).is_err() && whole.transformer(Some(3)).is_err());
        assert!(whole.autoencoder().is_err() && whole.text_encoder().is_err());
    }
}
