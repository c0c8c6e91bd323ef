//! The names of Wan 2.1's original release, and of the files people share: what each tensor is called in
//! diffusers, and the other way round.
//!
//! Nothing but names differs: no tensor is reshaped or split.

use std::borrow::Cow;

use super::adapters;
use super::files::TRANSFORMER;
use crate::naming::{Module, ModuleKind, Naming};

/// A linear map.
const fn map(published: &'static str, original: &'static str) -> Module {
    Module::named(published, original, ModuleKind::Map)
}

const fn norm(published: &'static str, original: &'static str) -> Module {
    Module::named(published, original, ModuleKind::Norm)
}

const fn table(published: &'static str, original: &'static str) -> Module {
    Module::named(published, original, ModuleKind::Table)
}

/// The modules of the denoiser. Those of pictures only image-to-video has: files that hold them are told and
/// converted.
pub(super) static NAMING: Naming = Naming {
    network: TRANSFORMER.folder,
    modules: Cow::Borrowed(&[
        Module::named("patch_embedding", "patch_embedding", ModuleKind::Patches),
        map("condition_embedder.text_embedder.linear_1", "text_embedding.0"),
        map("condition_embedder.text_embedder.linear_2", "text_embedding.2"),
        map("condition_embedder.time_embedder.linear_1", "time_embedding.0"),
        map("condition_embedder.time_embedder.linear_2", "time_embedding.2"),
        map("condition_embedder.time_proj", "time_projection.1"),
        map("condition_embedder.image_embedder.ff.net.0.proj", "img_emb.proj.1"),
        map("condition_embedder.image_embedder.ff.net.2", "img_emb.proj.3"),
        norm("condition_embedder.image_embedder.norm1", "img_emb.proj.0"),
        norm("condition_embedder.image_embedder.norm2", "img_emb.proj.4"),
        map("proj_out", "head.head"),
        table("scale_shift_table", "head.modulation"),
        map("blocks.{}.attn1.to_q", "blocks.{}.self_attn.q"),
        map("blocks.{}.attn1.to_k", "blocks.{}.self_attn.k"),
        map("blocks.{}.attn1.to_v", "blocks.{}.self_attn.v"),
        map("blocks.{}.attn1.to_out.0", "blocks.{}.self_attn.o"),
        norm("blocks.{}.attn1.norm_q", "blocks.{}.self_attn.norm_q"),
        norm("blocks.{}.attn1.norm_k", "blocks.{}.self_attn.norm_k"),
        // The norm before the cross attention is the third of the original and the second of diffusers.
        norm("blocks.{}.norm2", "blocks.{}.norm3"),
        map("blocks.{}.attn2.to_q", "blocks.{}.cross_attn.q"),
        map("blocks.{}.attn2.to_k", "blocks.{}.cross_attn.k"),
        map("blocks.{}.attn2.to_v", "blocks.{}.cross_attn.v"),
        map("blocks.{}.attn2.to_out.0", "blocks.{}.cross_attn.o"),
        norm("blocks.{}.attn2.norm_q", "blocks.{}.cross_attn.norm_q"),
        norm("blocks.{}.attn2.norm_k", "blocks.{}.cross_attn.norm_k"),
        map("blocks.{}.attn2.add_k_proj", "blocks.{}.cross_attn.k_img"),
        map("blocks.{}.attn2.add_v_proj", "blocks.{}.cross_attn.v_img"),
        norm("blocks.{}.attn2.norm_added_k", "blocks.{}.cross_attn.norm_k_img"),
        map("blocks.{}.ffn.net.0.proj", "blocks.{}.ffn.0"),
        map("blocks.{}.ffn.net.2", "blocks.{}.ffn.2"),
        table("blocks.{}.scale_shift_table", "blocks.{}.modulation"),
    ]),
    foreign: &["add_k_proj", "add_v_proj", "norm_added_k", "image_embedder"],
    flat_published: false,
    trainer_module: "networks.lora_wan",
    title: "Wan 2.1's text-to-video denoiser",
    relatives: &adapters::RELATIVES,
    made_for: adapters::made_for,
};

/// Parts of a block of the text encoder.
const TEXT_BLOCK: [(&str, &str); 10] = [
    ("norm1.weight", "layer.0.layer_norm.weight"),
    ("attn.q.weight", "layer.0.SelfAttention.q.weight"),
    ("attn.k.weight", "layer.0.SelfAttention.k.weight"),
    ("attn.v.weight", "layer.0.SelfAttention.v.weight"),
    ("attn.o.weight", "layer.0.SelfAttention.o.weight"),
    ("pos_embedding.embedding.weight", "layer.0.SelfAttention.relative_attention_bias.weight"),
    ("norm2.weight", "layer.1.layer_norm.weight"),
    ("ffn.gate.0.weight", "layer.1.DenseReluDense.wi_0.weight"),
    ("ffn.fc1.weight", "layer.1.DenseReluDense.wi_1.weight"),
    ("ffn.fc2.weight", "layer.1.DenseReluDense.wo.weight"),
];

/// The same in llama.cpp's names, which GGUF files of text encoders have.
const LLAMA_BLOCK: [(&str, &str); 10] = [
    ("attn_norm.weight", "layer.0.layer_norm.weight"),
    ("attn_q.weight", "layer.0.SelfAttention.q.weight"),
    ("attn_k.weight", "layer.0.SelfAttention.k.weight"),
    ("attn_v.weight", "layer.0.SelfAttention.v.weight"),
    ("attn_o.weight", "layer.0.SelfAttention.o.weight"),
    ("attn_rel_b.weight", "layer.0.SelfAttention.relative_attention_bias.weight"),
    ("ffn_norm.weight", "layer.1.layer_norm.weight"),
    ("ffn_gate.weight", "layer.1.DenseReluDense.wi_0.weight"),
    ("ffn_up.weight", "layer.1.DenseReluDense.wi_1.weight"),
    ("ffn_down.weight", "layer.1.DenseReluDense.wo.weight"),
];
/// How blocks of the text encoder are named, and their parts: Wan's, llama.cpp's.
const TEXT_BLOCKS: [(&str, &[(&str, &str)]); 2] = [("blocks.", &TEXT_BLOCK), ("enc.blk.", &LLAMA_BLOCK)];
/// What of the text encoder is in no block: Wan's names, llama.cpp's, transformers'.
const TEXT: [(&str, &str, &str); 2] = [
    ("token_embedding.weight", "token_embd.weight", "shared.weight"),
    ("norm.weight", "enc.output_norm.weight", "encoder.final_layer_norm.weight"),
];
/// Of a whole UMT5, which writes text too, what belongs to its decoder.
pub(crate) const TEXT_DECODER: [&str; 4] = ["decoder.", "dec.", "lm_head.", "output.weight"];

/// Parts of a residual block of the autoencoder.
const RESIDUAL: [(&str, &str); 5] = [
    ("residual.0.", "norm1."),
    ("residual.2.", "conv1."),
    ("residual.3.", "norm2."),
    ("residual.6.", "conv2."),
    ("shortcut.", "conv_shortcut."),
];

/// The denoiser's tensor `name` as diffusers calls it; `None` where it stands as it is.
pub fn denoiser(name: &str) -> Option<String> {
    renamed(name, |module| NAMING.published(module))
}

/// A tensor of a module that `rename` knows.
fn renamed(name: &str, rename: impl Fn(&str) -> Option<String>) -> Option<String> {
    ["", ".weight", ".bias"].iter().find_map(|end| Some(rename(name.strip_suffix(end)?)? + end))
}

/// What a file whose tensors are `names` calls the denoiser's tensor that diffusers calls `published`.
pub(super) fn own_denoiser(published: &str, names: &[String]) -> String {
    let is_original = names.iter().any(|name| denoiser(name).is_some_and(|own| own != *name));
    let original = renamed(published, |module| NAMING.original(module)).filter(|_| is_original);
    original.unwrap_or_else(|| published.to_owned())
}

/// The text encoder's tensor `name` as transformers calls it.
pub fn text_encoder(name: &str) -> Option<String> {
    if let Some((.., published)) = TEXT.iter().find(|(wan, llama, _)| name == *wan || name == *llama) {
        return Some((*published).to_owned());
    }
    TEXT_BLOCKS.iter().find_map(|(start, parts)| {
        let (index, rest) = numbered(name.strip_prefix(start)?)?;
        let (_, published) = parts.iter().find(|(own, _)| *own == rest)?;
        Some(format!("encoder.block.{index}.{published}"))
    })
}

/// What a file whose tensors are `names` calls the text encoder's tensor that transformers calls `published`.
pub(crate) fn own_text_encoder(published: &str, names: &[String]) -> String {
    let is = |start: &str| names.iter().any(|name| name.starts_with(start));
    let Some(kind) = TEXT_BLOCKS.iter().position(|(start, _)| is(start)) else { return published.to_owned() };
    if let Some((wan, llama, _)) = TEXT.iter().find(|(.., own)| *own == published) {
        return [wan, llama][kind].to_string();
    }
    let (start, parts) = TEXT_BLOCKS[kind];
    let own = published.strip_prefix("encoder.block.").and_then(numbered).and_then(|(index, rest)| {
        let (own, _) = parts.iter().find(|(_, other)| *other == rest)?;
        Some(format!("{start}{index}.{own}"))
    });
    own.unwrap_or_else(|| published.to_owned())
}

/// The autoencoder's tensor `name` as diffusers calls it, for a decoder with `num_res_blocks + 1` residual
/// blocks a level.
pub fn autoencoder(name: &str, num_res_blocks: usize) -> Option<String> {
    let exact = [("conv1.", "quant_conv."), ("conv2.", "post_quant_conv.")];
    if let Some(found) = replaced(name, &exact) {
        return Some(found);
    }
    let (half, rest) = name.split_once('.')?;
    if half != "encoder" && half != "decoder" {
        return None;
    }
    let inner = match rest.split_once('.')? {
        ("conv1", end) => format!("conv_in.{end}"),
        ("head", end) => replaced(end, &[("0.", "norm_out."), ("2.", "conv_out.")])?,
        ("middle", end) => middle(end)?,
        ("downsamples", end) if half == "encoder" => {
            let (index, end) = numbered(end)?;
            format!("down_blocks.{index}.{}", level(end)?)
        }
        ("upsamples", end) if half == "decoder" => {
            let (index, end) = numbered(end)?;
            // The original counts residual blocks and upsamplers of all levels in one row.
            let (block, place) = (index / (num_res_blocks + 2), index % (num_res_blocks + 2));
            let module =
                if place <= num_res_blocks { format!("resnets.{place}") } else { "upsamplers.0".to_owned() };
            format!("up_blocks.{block}.{module}.{}", level(end)?)
        }
        _ => return None,
    };
    Some(format!("{half}.{inner}"))
}

/// What a file whose tensors are `names` calls the autoencoder's tensor that diffusers calls `published`.
pub(crate) fn own_autoencoder(published: &str, names: &[String], num_res_blocks: usize) -> String {
    let is_own = names.iter().any(|name| autoencoder(name, num_res_blocks).is_some());
    let own = if is_own { original_autoencoder(published, num_res_blocks) } else { None };
    own.unwrap_or_else(|| published.to_owned())
}

/// The inverse of [`autoencoder`].
fn original_autoencoder(published: &str, num_res_blocks: usize) -> Option<String> {
    if let Some(found) = restored(published, &[("conv1.", "quant_conv."), ("conv2.", "post_quant_conv.")]) {
        return Some(found);
    }
    let (half, rest) = published.split_once('.')?;
    let inner = match rest.split_once('.')? {
        ("conv_in", end) => format!("conv1.{end}"),
        ("norm_out", end) => format!("head.0.{end}"),
        ("conv_out", end) => format!("head.2.{end}"),
        ("mid_block", end) => {
            let (kind, end) = end.split_once('.')?;
            let (index, end) = numbered(end)?;
            match kind {
                "attentions" => format!("middle.1.{end}"),
                _ => format!("middle.{}.{}", 2 * index, restored(end, &RESIDUAL)?),
            }
        }
        ("down_blocks", end) => {
            let (index, end) = numbered(end)?;
            format!("downsamples.{index}.{}", restored(end, &RESIDUAL).unwrap_or_else(|| end.to_owned()))
        }
        ("up_blocks", end) => {
            let (block, end) = numbered(end)?;
            let (kind, end) = end.split_once('.')?;
            let (place, end) = numbered(end)?;
            let first = block * (num_res_blocks + 2);
            match kind {
                "upsamplers" => format!("upsamples.{}.{end}", first + num_res_blocks + 1),
                _ => format!("upsamples.{}.{}", first + place, restored(end, &RESIDUAL)?),
            }
        }
        _ => return None,
    };
    Some(format!("{half}.{inner}"))
}

/// The inverse of [`replaced`].
fn restored(name: &str, prefixes: &[(&str, &str)]) -> Option<String> {
    prefixes.iter().find_map(|(own, published)| Some(format!("{own}{}", name.strip_prefix(published)?)))
}

/// Between the halves: a residual block, an attention, a residual block.
fn middle(rest: &str) -> Option<String> {
    match rest.split_once('.')? {
        ("0", end) => Some(format!("mid_block.resnets.0.{}", replaced(end, &RESIDUAL)?)),
        ("1", end) => Some(format!("mid_block.attentions.0.{end}")),
        ("2", end) => Some(format!("mid_block.resnets.1.{}", replaced(end, &RESIDUAL)?)),
        _ => None,
    }
}

/// A part of a residual block, or of what changes the size, which both call alike.
fn level(rest: &str) -> Option<String> {
    let alike = rest.starts_with("resample.1.") || rest.starts_with("time_conv.");
    if alike { Some(rest.to_owned()) } else { replaced(rest, &RESIDUAL) }
}

/// `name` with the first of the prefixes it has replaced.
fn replaced(name: &str, prefixes: &[(&str, &str)]) -> Option<String> {
    prefixes.iter().find_map(|(own, published)| Some(format!("{published}{}", name.strip_prefix(own)?)))
}

/// `"12.rest"` as 12 and `rest`.
fn numbered(text: &str) -> Option<(usize, &str)> {
    let (index, rest) = text.split_once('.')?;
    Some((index.parse().ok()?, rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_the_denoiser() {
        for (own, published) in [
            ("patch_embedding.weight", "patch_embedding.weight"),
            ("blocks.3.self_attn.norm_q.weight", "blocks.3.attn1.norm_q.weight"),
            ("blocks.3.cross_attn.o.bias", "blocks.3.attn2.to_out.0.bias"),
            ("blocks.11.ffn.0.weight", "blocks.11.ffn.net.0.proj.weight"),
            ("blocks.11.ffn.2.bias", "blocks.11.ffn.net.2.bias"),
            ("blocks.0.modulation", "blocks.0.scale_shift_table"),
            ("blocks.0.norm3.weight", "blocks.0.norm2.weight"),
            ("head.modulation", "scale_shift_table"),
            ("head.head.bias", "proj_out.bias"),
            ("time_projection.1.weight", "condition_embedder.time_proj.weight"),
            ("text_embedding.2.bias", "condition_embedder.text_embedder.linear_2.bias"),
            ("img_emb.proj.1.weight", "condition_embedder.image_embedder.ff.net.0.proj.weight"),
        ] {
            assert_eq!(denoiser(own).as_deref(), Some(published));
        }
        for unknown in ["blocks.x.modulation", "blocks.0.self_attn.q.lora_A", "img_emb.proj.9.weight", ""] {
            assert_eq!(denoiser(unknown), None, "{unknown}");
        }
    }

    #[test]
    fn names_of_the_text_encoder() {
        for (own, published) in [
            ("token_embedding.weight", "shared.weight"),
            ("norm.weight", "encoder.final_layer_norm.weight"),
            ("blocks.7.norm1.weight", "encoder.block.7.layer.0.layer_norm.weight"),
            ("blocks.7.attn.q.weight", "encoder.block.7.layer.0.SelfAttention.q.weight"),
            (
                "blocks.7.pos_embedding.embedding.weight",
                "encoder.block.7.layer.0.SelfAttention.relative_attention_bias.weight",
            ),
            ("blocks.7.ffn.gate.0.weight", "encoder.block.7.layer.1.DenseReluDense.wi_0.weight"),
            ("blocks.7.ffn.fc2.weight", "encoder.block.7.layer.1.DenseReluDense.wo.weight"),
            ("token_embd.weight", "shared.weight"),
            ("enc.output_norm.weight", "encoder.final_layer_norm.weight"),
            ("enc.blk.3.attn_norm.weight", "encoder.block.3.layer.0.layer_norm.weight"),
            (
                "enc.blk.3.attn_rel_b.weight",
                "encoder.block.3.layer.0.SelfAttention.relative_attention_bias.weight",
            ),
            ("enc.blk.3.ffn_gate.weight", "encoder.block.3.layer.1.DenseReluDense.wi_0.weight"),
            ("enc.blk.3.ffn_up.weight", "encoder.block.3.layer.1.DenseReluDense.wi_1.weight"),
            ("enc.blk.3.ffn_down.weight", "encoder.block.3.layer.1.DenseReluDense.wo.weight"),
        ] {
            assert_eq!(text_encoder(own).as_deref(), Some(published));
        }
        assert_eq!(text_encoder("blocks.7.ffn.fc3.weight"), None);
    }

    #[test]
    fn names_of_the_autoencoder() {
        for (own, published) in [
            ("conv1.weight", "quant_conv.weight"),
            ("conv2.bias", "post_quant_conv.bias"),
            ("encoder.conv1.weight", "encoder.conv_in.weight"),
            ("encoder.downsamples.0.residual.0.gamma", "encoder.down_blocks.0.norm1.gamma"),
            ("encoder.downsamples.3.shortcut.weight", "encoder.down_blocks.3.conv_shortcut.weight"),
            ("encoder.downsamples.5.time_conv.weight", "encoder.down_blocks.5.time_conv.weight"),
            ("encoder.downsamples.2.resample.1.bias", "encoder.down_blocks.2.resample.1.bias"),
            ("encoder.middle.0.residual.6.weight", "encoder.mid_block.resnets.0.conv2.weight"),
            ("encoder.middle.1.to_qkv.weight", "encoder.mid_block.attentions.0.to_qkv.weight"),
            ("encoder.middle.2.residual.3.gamma", "encoder.mid_block.resnets.1.norm2.gamma"),
            ("encoder.head.0.gamma", "encoder.norm_out.gamma"),
            ("encoder.head.2.weight", "encoder.conv_out.weight"),
            ("decoder.conv1.bias", "decoder.conv_in.bias"),
            ("decoder.upsamples.0.residual.2.weight", "decoder.up_blocks.0.resnets.0.conv1.weight"),
            ("decoder.upsamples.3.time_conv.weight", "decoder.up_blocks.0.upsamplers.0.time_conv.weight"),
            ("decoder.upsamples.4.shortcut.weight", "decoder.up_blocks.1.resnets.0.conv_shortcut.weight"),
            ("decoder.upsamples.14.residual.6.bias", "decoder.up_blocks.3.resnets.2.conv2.bias"),
            ("decoder.head.2.bias", "decoder.conv_out.bias"),
        ] {
            assert_eq!(autoencoder(own, 2).as_deref(), Some(published));
        }
        for unknown in
            ["encoder.upsamples.0.residual.0.gamma", "decoder.middle.3.norm.gamma", "encoder", "x.y"]
        {
            assert_eq!(autoencoder(unknown, 2), None, "{unknown}");
        }
    }
}
