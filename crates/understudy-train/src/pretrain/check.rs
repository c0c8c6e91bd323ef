//! What the entries of a recipe may be.

use understudy_puppet::POSTURE;

use crate::pretrain::alignment::AlignmentRecipe;
use crate::pretrain::autoencoder::AutoencoderRecipe;
use crate::pretrain::contrast::ContrastRecipe;
use crate::pretrain::denoiser::{DenoiserRecipe, Material};
use crate::pretrain::identity::IdentityRecipe;
use crate::pretrain::markings::MarkingsRecipe;
use crate::pretrain::parts::PartsRecipe;
use crate::pretrain::perception::PerceptionRecipe;
use crate::pretrain::posture::PostureRecipe;
use crate::pretrain::vocabulary::vocabulary_size;
use crate::trainer::TrainConfig;

/// An entry, and what it must be.
pub(crate) type Fault = (&'static str, String);
/// An entry, whether it is fine, and what it must be.
type Rule = (&'static str, bool, String);

pub(crate) fn autoencoder(recipe: &AutoencoderRecipe) -> Option<Fault> {
    let (size, model) = (recipe.size, &recipe.model);
    let lengths = |frames: usize| frames >= 1 && (frames - 1).is_multiple_of(model.temporal_factor());
    let side =
        |own: usize, whole: usize| own >= 1 && own <= whole && own.is_multiple_of(model.spatial_factor());
    let window = |[rows, columns]: [usize; 2]| side(rows, size[1]) && side(columns, size[2]);
    let phase = |frames: usize, batch: usize| batch >= 1 && frames <= size[0] && lengths(frames);
    first([
        rule("model.base_dim", model.base_dim >= 1, "at least 1"),
        rule("model.z_dim", model.z_dim >= 1, "at least 1"),
        rule("model.dim_mult", model.dim_mult.iter().all(|&m| m >= 1), "numbers of at least 1"),
        clip_size(size, model.temporal_factor(), model.spatial_factor()),
        rule(
            "phases",
            recipe.phases.iter().all(|p| phase(p.frames, p.batch) && p.window.is_none_or(window)),
            &format!(
                "batches of at least 1, frames one more than a multiple of {}, {} at most, and windows within the frame \
                 whose sides are multiples of {}",
                model.temporal_factor(),
                size[0],
                model.spatial_factor()
            ),
        ),
        not_negative("kl_weight", recipe.kl_weight),
        not_negative("mask_weight", recipe.mask_weight),
        not_negative("difference.absolute", recipe.difference.absolute),
        not_negative("difference.squared", recipe.difference.squared),
        not_negative("difference.edges", recipe.difference.edges),
        rule(
            "perception",
            recipe.perception.as_ref().is_none_or(perception),
            "one network or more, a weight of 0 or more, and at least one frame",
        ),
    ])
    .or_else(|| training(&recipe.training))
}

fn perception(recipe: &PerceptionRecipe) -> bool {
    let weight = recipe.weight;
    !recipe.networks.is_empty() && weight.is_finite() && weight >= 0.0 && recipe.frames >= 1
}

pub(crate) fn denoiser(recipe: &DenoiserRecipe) -> Option<Fault> {
    let (text, denoiser) = (&recipe.text_encoder, &recipe.transformer);
    let words = vocabulary_size();
    first([
        material("clips", &recipe.clips),
        material("stills", &recipe.stills),
        rule(
            "phases",
            recipe.phases.iter().all(|phase| (0.0..=1.0).contains(&phase.stills)),
            "shares of stills between 0 and 1",
        ),
        not_negative("mask_weight", recipe.mask_weight),
        not_negative("head_weight", recipe.head_weight),
        rule(
            "alignment",
            recipe.alignment.is_none_or(|own| alignment(own, denoiser.num_layers)),
            "a block of the transformer's, counted from 0, at least one hidden channel, and a weight of 0 or more",
        ),
        rule("caption_dropout", (0.0..=1.0).contains(&recipe.caption_dropout), "between 0 and 1"),
        rule("max_tokens", (1..=4096).contains(&recipe.max_tokens), "between 1 and 4096"),
        rule(
            "text_encoder.vocab_size",
            text.vocab_size == words,
            &format!("{words}, the words of the world"),
        ),
        rule("transformer.text_dim", denoiser.text_dim == text.d_model, "the text encoder's d_model"),
        rule("transformer.in_channels", denoiser.in_channels == denoiser.out_channels, "out_channels"),
    ])
    .or_else(|| training(&recipe.training))
}

fn alignment(recipe: AlignmentRecipe, blocks: usize) -> bool {
    let AlignmentRecipe { block, hidden, weight } = recipe;
    block < blocks && hidden >= 1 && weight.is_finite() && weight >= 0.0
}

pub(crate) fn clip(recipe: &ContrastRecipe) -> Option<Fault> {
    let words = vocabulary_size();
    let model = &recipe.model;
    first([
        batch(recipe.batch, 2),
        rule(
            "frames",
            (1..=recipe.size[0]).contains(&recipe.frames),
            &format!("between 1 and the {} of size", recipe.size[0]),
        ),
        not_negative("noise", recipe.noise),
        rule(
            "model.text_config.vocab_size",
            model.text_config.vocab_size == words,
            &format!("{words}, the words of the world"),
        ),
    ])
    .or_else(|| training(&recipe.training))
}

pub(crate) fn identity(recipe: &IdentityRecipe) -> Option<Fault> {
    first([
        batch(recipe.batch, 2),
        rule("identities", recipe.identities >= 2, "at least 2"),
        rule("model.embedding", recipe.model.embedding >= 1, "at least 1"),
        rule("scale", recipe.scale.is_finite() && recipe.scale > 0.0, "a positive number"),
        not_negative("margin", recipe.margin),
        not_negative("noise", recipe.noise),
    ])
    .or_else(|| training(&recipe.training))
}

pub(crate) fn posture(recipe: &PostureRecipe) -> Option<Fault> {
    first([
        batch(recipe.batch, 2),
        rule(
            "model.embedding",
            recipe.model.embedding == POSTURE,
            &format!("{POSTURE}, the numbers of a posture"),
        ),
        not_negative("noise", recipe.noise),
    ])
    .or_else(|| training(&recipe.training))
}

pub(crate) fn markings(recipe: &MarkingsRecipe) -> Option<Fault> {
    let values = MarkingsRecipe::values();
    first([
        batch(recipe.batch, 2),
        rule(
            "model.embedding",
            recipe.model.embedding == values,
            &format!("{values}, the values of all markings"),
        ),
        not_negative("noise", recipe.noise),
    ])
    .or_else(|| training(&recipe.training))
}

pub(crate) fn parts(recipe: &PartsRecipe) -> Option<Fault> {
    let model = &recipe.model;
    let halvings = model.widths.len().saturating_sub(1);
    first([
        batch(recipe.batch, 1),
        rule(
            "model.widths",
            model.widths.iter().all(|&w| w >= 1) && halvings >= 1,
            "two numbers or more of at least 1",
        ),
        rule("model.size", model.size.is_multiple_of(1 << halvings), "a multiple of two for each halving"),
        rule(
            "model.classes",
            model.classes == PartsRecipe::CLASSES,
            &format!("{}, nothing and the parts and features of characters", PartsRecipe::CLASSES),
        ),
        not_negative("noise", recipe.noise),
    ])
    .or_else(|| training(&recipe.training))
}

fn training(config: &TrainConfig) -> Option<Fault> {
    let rate = config.schedule.learning_rate;
    first([
        rule("training.steps", config.steps >= 1, "at least 1"),
        rule("training.checkpoint_every", config.checkpoint_every >= 1, "at least 1"),
        rule("training.ema_decay", (0.0..1.0).contains(&config.ema_decay), "at least 0 and below 1"),
        rule("training.schedule.learning_rate", rate.is_finite() && rate > 0.0, "a positive number"),
    ])
}

fn first<const N: usize>(rules: [Rule; N]) -> Option<Fault> {
    rules.into_iter().find(|(_, fine, _)| !fine).map(|(entry, _, rule)| (entry, rule))
}

fn rule(entry: &'static str, fine: bool, rule: &str) -> Rule {
    (entry, fine, rule.to_owned())
}

fn material(entry: &'static str, material: &Material) -> Rule {
    let fine =
        material.count >= 1 && material.batch >= 1 && material.shift.is_finite() && material.shift > 0.0;
    rule(entry, fine, "a count and a batch of at least 1 and a positive shift")
}

fn batch(size: usize, least: usize) -> Rule {
    rule("batch", size >= least, &format!("at least {least}"))
}

fn not_negative(entry: &'static str, value: f32) -> Rule {
    rule(entry, value.is_finite() && value >= 0.0, "0 or more")
}

/// Frames, height and width that an autoencoder of these factors takes.
fn clip_size([frames, height, width]: [usize; 3], temporal: usize, spatial: usize) -> Rule {
    let fine = frames >= 1
        && (frames - 1).is_multiple_of(temporal)
        && [height, width].iter().all(|&side| side >= 1 && side.is_multiple_of(spatial));
    let text =
        format!("one more than a multiple of {temporal} frames, and sides that are multiples of {spatial}");
    rule("size", fine, &text)
}
