//! The names of Stable Diffusion's original release, in whose files fine-tuned ones are shared, and of
//! AnimateDiff's motion modules: what each tensor is called in diffusers.

use std::collections::BTreeMap;

use understudy_engine::error::WeightError;
use understudy_engine::safetensors::Checkpoint;

use super::names::{NAMING, unet};

/// Where a file of a whole Stable Diffusion has its UNet, its text encoder and its autoencoder.
pub(super) const WHOLE: [&str; 3] =
    ["model.diffusion_model.", "cond_stage_model.transformer.", "first_stage_model."];
/// What the places of motion modules are called, wherever they are.
pub(super) const MOTION: &str = "motion_modules.";
/// What in such a file is no weight of these.
const BESIDE: [&str; 2] = ["text_model.embeddings.position_ids", "embeddings.position_ids"];
/// What an autoencoder's own file has of its training.
const BESIDE_VAE: [&str; 2] = ["loss.", "model_ema."];
/// What the names of a text encoder begin with.
const TEXT_MODEL: &str = "text_model.";
/// What names of motion modules have between a module's place and its parts.
const TEMPORAL: &str = ".temporal_transformer.";
/// The last convolution of a ControlNet's picture, of eight.
const HINT_LAST: usize = 7;
/// The table of positions, which diffusers makes itself.
const POSITIONS: &str = "pos_encoder.pe";

/// The tensors of `file` without what trainings put around them.
pub(super) fn unwrapped(file: Checkpoint) -> Checkpoint {
    file.part("state_dict.")
}

/// The UNet of so many levels and layers, from the original names.
///
/// # Errors
/// When two tensors get one name.
pub(super) fn unet_renamed(
    file: Checkpoint,
    [levels, layers]: [usize; 2],
) -> Result<Checkpoint, WeightError> {
    let modules = unet(levels, layers).into_iter();
    let table: BTreeMap<String, String> =
        modules.map(|module| (module.original.into_owned(), module.published.into_owned())).collect();
    file.renamed(|name| {
        let numbered = replaced_number(name);
        let (pattern, number) = numbered.as_ref().map_or((name, ""), |(pattern, number)| (pattern, number));
        let (module, parameter) = pattern.rsplit_once('.')?;
        Some(format!("{}.{parameter}", table.get(module)?.replace("{}", number)))
    })
}

/// `name` with `{}` for the number of its transformer block, and the number.
fn replaced_number(name: &str) -> Option<(String, &str)> {
    const BLOCKS: &str = "transformer_blocks.";
    let (before, rest) = name.split_once(BLOCKS)?;
    let (number, after) = rest.split_once('.')?;
    Some((format!("{before}{BLOCKS}{{}}.{after}"), number))
}

/// The text encoder under its published names: transformers leaves [`TEXT_MODEL`] out from its version 5 on.
///
/// # Errors
/// When two tensors get one name.
pub(super) fn text_renamed(file: Checkpoint) -> Result<Checkpoint, WeightError> {
    let file = file.without(&BESIDE).without(&["text_projection", "logit_scale"]);
    file.renamed(|name| (!name.starts_with(TEXT_MODEL)).then(|| format!("{TEXT_MODEL}{name}")))
}

/// The autoencoder of so many levels.
///
/// # Errors
/// When two tensors get one name.
pub(super) fn vae_renamed(file: Checkpoint, levels: usize) -> Result<Checkpoint, WeightError> {
    let renamed = file.without(&BESIDE_VAE).renamed(|name| vae(name, levels))?;
    // Maps of its attention are published as convolutions of one pixel.
    Ok(renamed.shaped(|name, shape| match shape {
        &[outputs, inputs, 1, 1] if name.contains(".attentions.") => Some(vec![outputs, inputs]),
        _ => None,
    }))
}

/// What diffusers calls a tensor of the original autoencoder of so many levels; the names of its attention's
/// maps also as earlier diffusers had them.
fn vae(name: &str, levels: usize) -> Option<String> {
    const ATTENTION: [(&str, &str); 9] = [
        ("norm.", "group_norm."),
        ("q.", "to_q."),
        ("k.", "to_k."),
        ("v.", "to_v."),
        ("proj_out.", "to_out.0."),
        ("query.", "to_q."),
        ("key.", "to_k."),
        ("value.", "to_v."),
        ("proj_attn.", "to_out.0."),
    ];
    let (half, rest) = name.split_once('.')?;
    let attention = |rest: &str| {
        let (own, published) = ATTENTION.iter().find(|(own, _)| rest.starts_with(own))?;
        Some(format!("{half}.mid_block.attentions.0.{published}{}", &rest[own.len()..]))
    };
    if let Some(rest) = rest.strip_prefix("mid_block.attentions.0.") {
        return attention(rest);
    }
    if let Some(rest) = rest.strip_prefix("mid.") {
        let (part, rest) = rest.split_once('.')?;
        return match part {
            "block_1" => Some(format!("{half}.mid_block.resnets.0.{rest}")),
            "block_2" => Some(format!("{half}.mid_block.resnets.1.{rest}")),
            "attn_1" => attention(rest),
            _ => None,
        };
    }
    if let Some(rest) = rest.strip_prefix("norm_out.") {
        return Some(format!("{half}.conv_norm_out.{rest}"));
    }
    let (way, level, rest) = match rest.split_once('.')? {
        (way @ ("down" | "up"), rest) => {
            let (level, rest) = rest.split_once('.')?;
            (way, level.parse::<usize>().ok()?, rest)
        }
        _ => return None,
    };
    let level = if way == "up" { levels.checked_sub(level + 1)? } else { level };
    let rest = match rest.split_once('.')? {
        ("block", rest) => format!("resnets.{}", rest.replace("nin_shortcut", "conv_shortcut")),
        ("downsample", rest) => format!("downsamplers.0.{rest}"),
        ("upsample", rest) => format!("upsamplers.0.{rest}"),
        _ => return None,
    };
    Some(format!("{half}.{way}_blocks.{level}.{rest}"))
}

/// A ControlNet of the published levels and layers, from the names of its original release.
///
/// # Errors
/// When two tensors get one name.
pub(super) fn control_renamed(file: Checkpoint, counted: [usize; 2]) -> Result<Checkpoint, WeightError> {
    let file = unet_renamed(file.part("control_model."), counted)?;
    file.renamed(|name| {
        let numbered = |start: &str| {
            let (number, rest) = name.strip_prefix(start)?.split_once('.')?;
            Some((number.parse::<usize>().ok()?, rest))
        };
        if let Some((index, rest)) = numbered("zero_convs.") {
            return Some(format!("controlnet_down_blocks.{index}.{}", rest.strip_prefix("0.")?));
        }
        if let Some(rest) = name.strip_prefix("middle_block_out.0.") {
            return Some(format!("controlnet_mid_block.{rest}"));
        }
        // Activations stand between the convolutions.
        let (index, rest) = numbered("input_hint_block.")?;
        let place = match index / 2 {
            0 => "conv_in".to_owned(),
            HINT_LAST => "conv_out".to_owned(),
            block => format!("blocks.{}", block - 1),
        };
        Some(format!("controlnet_cond_embedding.{place}.{rest}"))
    })
}

/// A motion adapter under diffusers' names, and how many positions its table has, where it has one.
///
/// # Errors
/// When two tensors get one name.
pub(super) fn motion_renamed(file: Checkpoint) -> Result<(Checkpoint, Option<usize>), WeightError> {
    let tables = file.infos().into_iter().filter(|info| info.name.contains(POSITIONS));
    let positions = tables.filter_map(|info| info.shape.get(1).copied()).max();
    let file = file.only(|name| !name.contains(POSITIONS));
    let file = file.renamed(|name| name.strip_prefix("module.").map(str::to_owned))?;
    let renamed = file.renamed(|name| {
        let (module, parameter) = name.rsplit_once('.')?;
        let published = module.contains(TEMPORAL).then(|| NAMING.published(module)).flatten()?;
        Some(format!("{published}.{parameter}"))
    })?;
    Ok((renamed, positions))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_autoencoders_levels_are_counted_from_the_other_end_on_the_way_up() {
        let named = |name: &str| vae(name, 4).unwrap_or_default();
        assert_eq!(named("decoder.up.3.block.0.conv1.weight"), "decoder.up_blocks.0.resnets.0.conv1.weight");
        assert_eq!(
            named("encoder.down.1.downsample.conv.bias"),
            "encoder.down_blocks.1.downsamplers.0.conv.bias"
        );
        assert_eq!(
            named("decoder.mid.attn_1.proj_out.weight"),
            "decoder.mid_block.attentions.0.to_out.0.weight"
        );
        assert_eq!(
            named("decoder.mid_block.attentions.0.query.weight"),
            "decoder.mid_block.attentions.0.to_q.weight"
        );
        assert_eq!(named("encoder.norm_out.weight"), "encoder.conv_norm_out.weight");
        assert_eq!(vae("quant_conv.weight", 4), None);
        assert_eq!(vae("encoder.conv_in.weight", 4), None);
    }
}
