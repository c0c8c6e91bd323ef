//! Heads that read from a middle block of the denoiser what the world knows of every place.
//!
//! Representation alignment (Yu et al., "Representation alignment for generation: training diffusion
//! transformers is easier than you think", 2025) with the truth in the place of another network's features.
//! The heads are no part of the base.

use burn::tensor::activation::log_softmax;
use burn::tensor::{Device, Tensor, TensorData};
use serde::{Deserialize, Serialize};
use understudy_engine::attach::Attachments;
use understudy_engine::ops;
use understudy_engine::weights::Weights;
use understudy_models::layers::{LayerNorm, Linear};

use crate::pretrain::truth::{LOOKS, POSTURES, SHOWN, Truth};

/// How hidden tokens are aligned with the world.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AlignmentRecipe {
    /// The block whose tokens are read, from 0.
    pub block: usize,
    /// Hidden channels of the heads.
    pub hidden: usize,
    /// Weight of their loss beside the denoiser's.
    pub weight: f32,
}

/// The heads: a layer that they share, and a linear map each.
pub(crate) struct Heads {
    norm: LayerNorm,
    inner: Linear,
    shown: Linear,
    looks: Linear,
    postures: Linear,
    places: usize,
}

/// What the heads lose.
pub(crate) struct Lost {
    /// Of all three, each counting alike.
    pub(crate) total: Tensor<1>,
    /// How far they are from the truth about what is shown (divergence), looks (cross-entropy) and postures
    /// (squared error).
    pub(crate) each: [(&'static str, f32); 3],
}

/// How much more places count that show a character.
const CHARACTERS: f32 = 3.0;

impl Heads {
    /// Heads on tokens of `channels` for `places` each.
    pub(crate) fn new(weights: &Weights, hidden: usize, channels: usize, places: usize) -> Self {
        let linear = |name: &str, outputs| Linear::new(&weights.at(name), hidden, outputs, true);
        Self {
            norm: LayerNorm::plain(1e-6),
            inner: Linear::new(&weights.at("inner"), channels, hidden, true),
            shown: linear("shown", places * SHOWN),
            looks: linear("looks", LOOKS.iter().sum()),
            postures: linear("postures", POSTURES),
            places,
        }
    }

    /// What is lost in reading `truth` from `tokens (batch, tokens, channels)`.
    pub(crate) fn lost(&self, tokens: Tensor<3>, truth: &Truth) -> Lost {
        let none = Attachments::none();
        let [batch, count, channels] = tokens.dims();
        let device = tokens.device().without_autodiff();
        let tokens = tokens.reshape([batch * count, channels]);
        let hidden = ops::silu(self.inner.forward(self.norm.forward(tokens), &none));
        let read = |head: &Linear| head.forward(hidden.clone(), &none);
        let rows = batch * count * self.places;
        let shown = shown(read(&self.shown).reshape([rows, SHOWN]), &truth.shares, &device);
        let looks = looks(read(&self.looks), &truth.looks, &device);
        let postures = postures(read(&self.postures), truth, &device);
        let number = |tensor: &Tensor<1>| tensor.clone().without_autodiff().into_scalar::<f32>();
        let each = [("shown", number(&shown)), ("looks", number(&looks)), ("postures", number(&postures))];
        Lost { total: (shown + looks + postures) / 3.0, each }
    }
}

/// The mean divergence of what is read, `(places, SHOWN)`, from the shares.
fn shown(read: Tensor<2>, shares: &[f32], device: &Device) -> Tensor<1> {
    let weight = |shares: &[f32]| 1.0 + CHARACTERS * (1.0 - shares[0]);
    let all: f32 = shares.chunks_exact(SHOWN).map(weight).sum();
    let weighed = |shares: &[f32]| shares.iter().map(|share| share * weight(shares) / all).collect();
    let weighed: Vec<f32> = shares.chunks_exact(SHOWN).flat_map(|own| -> Vec<f32> { weighed(own) }).collect();
    let own = shares.iter().zip(&weighed).filter(|(share, _)| **share > 0.0);
    let entropy: f32 = own.map(|(share, weighed)| -weighed * share.ln()).sum();
    let weighed = Tensor::<2>::from_data(TensorData::new(weighed, read.dims()), device);
    -(log_softmax(read, 1) * weighed).sum() - entropy
}

/// The mean cross-entropy of looks, where a character is to be seen.
fn looks(read: Tensor<2>, truth: &[Option<[usize; LOOKS.len()]>], device: &Device) -> Tensor<1> {
    let each: usize = LOOKS.iter().sum();
    let known = truth.iter().flatten().count().max(1);
    let mut chosen = vec![0.0; truth.len() * each];
    for (row, own) in chosen.chunks_exact_mut(each).zip(truth) {
        let mut first = 0;
        for (value, values) in own.iter().flatten().zip(LOOKS) {
            row[first + value] = -1.0 / (known * LOOKS.len()) as f32;
            first += values;
        }
    }
    let mut first = 0;
    let parts = LOOKS.map(|values| {
        let part = log_softmax(read.clone().narrow(1, first, values), 1);
        first += values;
        part
    });
    let chosen = Tensor::<2>::from_data(TensorData::new(chosen, [truth.len(), each]), device);
    (Tensor::cat(parts.to_vec(), 1) * chosen).sum()
}

/// The mean squared error of postures, where a character is to be seen.
fn postures(read: Tensor<2>, truth: &Truth, device: &Device) -> Tensor<1> {
    let known = truth.looks.iter().flatten().count().max(1);
    let weight = 1.0 / (known * POSTURES) as f32;
    let weights = truth.looks.iter().map(|own| if own.is_some() { weight } else { 0.0 }).collect::<Vec<_>>();
    let rows = weights.len();
    let weights = Tensor::<2>::from_data(TensorData::new(weights, [rows, 1]), device);
    let own = Tensor::<2>::from_data(TensorData::new(truth.postures.clone(), [rows, POSTURES]), device);
    ((read - own).powi_scalar(2) * weights).sum()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use understudy_engine::parameters::{Initializer, NamedGradients};
    use understudy_engine::random::Random;
    use understudy_puppet::POSTURE;

    /// Two tokens of one place: one shows nothing, the other half of a character's torso and half of its
    /// head.
    fn truth() -> Truth {
        let mut shares = vec![0.0; 2 * SHOWN];
        shares[0] = 1.0;
        shares[SHOWN + 2] = 0.5;
        shares[SHOWN + 4] = 0.5;
        let mut postures = vec![0.0; 2 * POSTURES];
        postures[POSTURES..].fill(2.0);
        Truth { shares, looks: vec![None, Some([1, 2, 3, 4])], postures, seen: Vec::new() }
    }

    #[test]
    fn the_truth_costs_nothing() {
        let (device, truth) = (Device::flex(), truth());
        let logits: Vec<f32> =
            truth.shares.iter().map(|share| if *share > 0.0 { share.ln() } else { -60.0 }).collect();
        let read = Tensor::from_data(TensorData::new(logits, [2, SHOWN]), &device);
        assert!(shown(read, &truth.shares, &device).into_scalar::<f32>().abs() < 1e-5);
        let read = Tensor::from_data(TensorData::new(truth.postures.clone(), [2, POSTURES]), &device);
        assert_eq!(postures(read, &truth, &device).into_scalar::<f32>(), 0.0);
        assert_eq!(POSTURES, 2 * POSTURE);
    }

    #[test]
    fn what_is_not_known_costs_what_it_should() {
        let (device, truth) = (Device::flex(), truth());
        // The token without a character does not count.
        let read = Tensor::<2>::zeros([2, POSTURES], &device);
        assert!((postures(read, &truth, &device).into_scalar::<f32>() - 4.0).abs() < 1e-5);
        let blank = Tensor::<2>::zeros([2, LOOKS.iter().sum()], &device);
        let expected = LOOKS.map(|values| (values as f32).ln()).iter().sum::<f32>() / LOOKS.len() as f32;
        assert!((looks(blank, &truth.looks, &device).into_scalar::<f32>() - expected).abs() < 1e-4);
        let blank = Tensor::<2>::zeros([2, SHOWN], &device);
        // The second place counts four times as much, and half of what it shows is known to be one of two.
        let expected = ((SHOWN as f32).ln() + 4.0 * ((SHOWN as f32).ln() - 2.0_f32.ln())) / 5.0;
        assert!((shown(blank, &truth.shares, &device).into_scalar::<f32>() - expected).abs() < 1e-4);
    }

    #[test]
    fn tokens_and_heads_are_moved() {
        let device = Device::flex();
        let source = Initializer::new(1, &device);
        Heads::new(&Weights::new(&source, &device), 8, 6, 1);
        let parameters = source.into_parameters();
        let leaves = parameters.leaves();
        let heads = Heads::new(&Weights::new(&leaves, &device), 8, 6, 1);
        let tokens: Tensor<3> = Random::new(2, 0).normal_tensor([1, 2, 6], &device);
        let tokens = tokens.autodiff().require_grad();
        let lost = heads.lost(tokens.clone(), &truth());
        let mut found = lost.total.backward();
        let moved = tokens.grad_remove(&mut found).unwrap();
        assert!(moved.abs().sum().into_scalar::<f32>() > 0.0);
        let mut gradients = NamedGradients::new();
        leaves.collect(&mut found, &mut gradients);
        assert_eq!(gradients.len(), parameters.iter().count());
        assert!(gradients.into_values().all(|own| own.abs().sum().into_scalar::<f32>() > 0.0));
    }
}
