//! What the modules of Stable Diffusion's UNet, of motion modules and of CLIP's text encoder are called.
//!
//! The original release of Stable Diffusion counts the layers of its UNet through all levels
//! (`input_blocks.4.1`), diffusers level by level (`down_blocks.1.attentions.0`); within a layer the names of
//! residual blocks differ. Programs that train adapters for it have diffusers' names.

use std::borrow::Cow;
use std::sync::LazyLock;

use crate::base::TEXT_ENCODER;
use crate::naming::{BLOCK, Module, ModuleKind, Naming};

/// How the UNet's folder is called, by which things are attached to it.
pub(super) const UNET: &str = "unet";
/// Levels of the published UNet, and layers of a level on the way down.
pub(super) const PUBLISHED: [usize; 2] = [4, 2];

/// The names of the family's networks.
pub(super) static NAMING: LazyLock<Naming> = LazyLock::new(|| {
    let [levels, layers] = PUBLISHED;
    let mut modules = unet(levels, layers);
    modules.extend(motion(levels, layers));
    modules.extend(text());
    Naming {
        network: UNET,
        modules: Cow::Owned(modules),
        foreign: &[],
        flat_published: true,
        trainer_module: "networks.lora",
        title: "the UNet of Stable Diffusion 1.5 with motion modules",
        relatives: &[],
        made_for: |_, _| None,
    }
});

/// Parts of a residual block: diffusers', the original's.
const RESIDUAL: [(&str, &str, ModuleKind); 6] = [
    ("norm1", "in_layers.0", ModuleKind::Norm),
    ("conv1", "in_layers.2", ModuleKind::Convolution),
    ("time_emb_proj", "emb_layers.1", ModuleKind::Map),
    ("norm2", "out_layers.0", ModuleKind::Norm),
    ("conv2", "out_layers.3", ModuleKind::Convolution),
    ("conv_shortcut", "skip_connection", ModuleKind::Convolution),
];

/// Parts of a transformer over a picture, which all call alike.
const TRANSFORMER: [(&str, ModuleKind); 16] = [
    ("norm", ModuleKind::Norm),
    ("proj_in", ModuleKind::Convolution),
    ("proj_out", ModuleKind::Convolution),
    ("transformer_blocks.{}.norm1", ModuleKind::Norm),
    ("transformer_blocks.{}.norm2", ModuleKind::Norm),
    ("transformer_blocks.{}.norm3", ModuleKind::Norm),
    ("transformer_blocks.{}.attn1.to_q", ModuleKind::Map),
    ("transformer_blocks.{}.attn1.to_k", ModuleKind::Map),
    ("transformer_blocks.{}.attn1.to_v", ModuleKind::Map),
    ("transformer_blocks.{}.attn1.to_out.0", ModuleKind::Map),
    ("transformer_blocks.{}.attn2.to_q", ModuleKind::Map),
    ("transformer_blocks.{}.attn2.to_k", ModuleKind::Map),
    ("transformer_blocks.{}.attn2.to_v", ModuleKind::Map),
    ("transformer_blocks.{}.attn2.to_out.0", ModuleKind::Map),
    ("transformer_blocks.{}.ff.net.0.proj", ModuleKind::Map),
    ("transformer_blocks.{}.ff.net.2", ModuleKind::Map),
];

/// Parts of a motion module: diffusers', the original's.
const MOTION: [(&str, &str, ModuleKind); 16] = [
    ("norm", "norm", ModuleKind::Norm),
    ("proj_in", "proj_in", ModuleKind::Map),
    ("proj_out", "proj_out", ModuleKind::Map),
    ("transformer_blocks.{}.norm1", "transformer_blocks.{}.norms.0", ModuleKind::Norm),
    ("transformer_blocks.{}.norm2", "transformer_blocks.{}.norms.1", ModuleKind::Norm),
    ("transformer_blocks.{}.norm3", "transformer_blocks.{}.ff_norm", ModuleKind::Norm),
    ("transformer_blocks.{}.attn1.to_q", "transformer_blocks.{}.attention_blocks.0.to_q", ModuleKind::Map),
    ("transformer_blocks.{}.attn1.to_k", "transformer_blocks.{}.attention_blocks.0.to_k", ModuleKind::Map),
    ("transformer_blocks.{}.attn1.to_v", "transformer_blocks.{}.attention_blocks.0.to_v", ModuleKind::Map),
    (
        "transformer_blocks.{}.attn1.to_out.0",
        "transformer_blocks.{}.attention_blocks.0.to_out.0",
        ModuleKind::Map,
    ),
    ("transformer_blocks.{}.attn2.to_q", "transformer_blocks.{}.attention_blocks.1.to_q", ModuleKind::Map),
    ("transformer_blocks.{}.attn2.to_k", "transformer_blocks.{}.attention_blocks.1.to_k", ModuleKind::Map),
    ("transformer_blocks.{}.attn2.to_v", "transformer_blocks.{}.attention_blocks.1.to_v", ModuleKind::Map),
    (
        "transformer_blocks.{}.attn2.to_out.0",
        "transformer_blocks.{}.attention_blocks.1.to_out.0",
        ModuleKind::Map,
    ),
    ("transformer_blocks.{}.ff.net.0.proj", "transformer_blocks.{}.ff.net.0.proj", ModuleKind::Map),
    ("transformer_blocks.{}.ff.net.2", "transformer_blocks.{}.ff.net.2", ModuleKind::Map),
];

/// Parts of a layer of CLIP's text encoder.
const TEXT_LAYER: [(&str, ModuleKind); 8] = [
    ("self_attn.q_proj", ModuleKind::Map),
    ("self_attn.k_proj", ModuleKind::Map),
    ("self_attn.v_proj", ModuleKind::Map),
    ("self_attn.out_proj", ModuleKind::Map),
    ("mlp.fc1", ModuleKind::Map),
    ("mlp.fc2", ModuleKind::Map),
    ("layer_norm1", ModuleKind::Norm),
    ("layer_norm2", ModuleKind::Norm),
];

/// The modules of a UNet of so many levels, with so many layers a level on the way down and one more on the
/// way up.
pub(super) fn unet(levels: usize, layers: usize) -> Vec<Module> {
    use ModuleKind::{Convolution, Map, Norm};
    let mut modules = vec![
        named("conv_in", "input_blocks.0.0", Convolution),
        named("time_embedding.linear_1", "time_embed.0", Map),
        named("time_embedding.linear_2", "time_embed.2", Map),
        named("conv_norm_out", "out.0", Norm),
        named("conv_out", "out.2", Convolution),
    ];
    for level in 0..levels {
        for layer in 0..layers {
            let input = 1 + level * (layers + 1) + layer;
            residual(
                &mut modules,
                format!("down_blocks.{level}.resnets.{layer}"),
                format!("input_blocks.{input}.0"),
            );
            transformer(
                &mut modules,
                format!("down_blocks.{level}.attentions.{layer}"),
                format!("input_blocks.{input}.1"),
            );
        }
        let (input, down) = ((level + 1) * (layers + 1), format!("down_blocks.{level}.downsamplers.0.conv"));
        modules.push(named(down, format!("input_blocks.{input}.0.op"), Convolution));
        for layer in 0..=layers {
            let output = level * (layers + 1) + layer;
            residual(
                &mut modules,
                format!("up_blocks.{level}.resnets.{layer}"),
                format!("output_blocks.{output}.0"),
            );
            transformer(
                &mut modules,
                format!("up_blocks.{level}.attentions.{layer}"),
                format!("output_blocks.{output}.1"),
            );
        }
        // After the last layer of a level, behind its transformer where there is one: the deepest has none.
        let (output, place) = (level * (layers + 1) + layers, if level == 0 { 1 } else { 2 });
        let up = format!("up_blocks.{level}.upsamplers.0.conv");
        modules.push(named(up, format!("output_blocks.{output}.{place}.conv"), Convolution));
    }
    for (layer, place) in [(0, 0), (1, 2)] {
        residual(&mut modules, format!("mid_block.resnets.{layer}"), format!("middle_block.{place}"));
    }
    transformer(&mut modules, "mid_block.attentions.0".to_owned(), "middle_block.1".to_owned());
    modules
}

/// The motion modules of such a UNet.
fn motion(levels: usize, layers: usize) -> Vec<Module> {
    let mut places = vec!["mid_block.motion_modules.0".to_owned()];
    for level in 0..levels {
        places.extend((0..layers).map(|layer| format!("down_blocks.{level}.motion_modules.{layer}")));
        places.extend((0..=layers).map(|layer| format!("up_blocks.{level}.motion_modules.{layer}")));
    }
    let parts = |place: &String| {
        let place = place.clone();
        MOTION.iter().map(move |(published, original, kind)| {
            named(format!("{place}.{published}"), format!("{place}.temporal_transformer.{original}"), *kind)
        })
    };
    places.iter().flat_map(parts).collect()
}

/// The modules of the text encoder.
fn text() -> Vec<Module> {
    let layer = |(part, kind): &(&str, ModuleKind)| {
        let path = format!("text_model.encoder.layers.{BLOCK}.{part}");
        named(format!("{TEXT_ENCODER}/{path}"), path, *kind)
    };
    TEXT_LAYER.iter().map(layer).collect()
}

fn residual(modules: &mut Vec<Module>, published: String, original: String) {
    let part = |(own, other, kind): &(&str, &str, ModuleKind)| {
        named(format!("{published}.{own}"), format!("{original}.{other}"), *kind)
    };
    modules.extend(RESIDUAL.iter().map(part));
}

fn transformer(modules: &mut Vec<Module>, published: String, original: String) {
    let part = |(own, kind): &(&str, ModuleKind)| {
        named(format!("{published}.{own}"), format!("{original}.{own}"), *kind)
    };
    modules.extend(TRANSFORMER.iter().map(part));
}

fn named(
    published: impl Into<Cow<'static, str>>,
    original: impl Into<Cow<'static, str>>,
    kind: ModuleKind,
) -> Module {
    Module { published: published.into(), original: original.into(), kind }
}
