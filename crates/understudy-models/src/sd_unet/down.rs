//! The half of a UNet that it shares with its ControlNet: from latents down to the middle.

use burn::tensor::{Device, Tensor};
use understudy_engine::attach::Attachments;
use understudy_engine::ops::{Activation, Conv2dOptions};
use understudy_engine::sites::Role;
use understudy_engine::weights::{Init, Weights};

use super::blocks::{DownLayer, MidBlock};
use super::config::SdUnetConfig;
use super::{Conditions, Motion, State};
use crate::layers::{Conv2d, Linear};
use crate::timestep::timestep_embedding;

/// Where the first convolution's output is hooked.
pub(crate) const FIRST: &str = "conv_in";

/// Everything down to the middle, and the time embedding.
#[derive(Clone, Debug)]
pub(crate) struct DownHalf {
    config: SdUnetConfig,
    conv_in: Conv2d,
    time_in: Linear,
    time_out: Linear,
    layers: Vec<DownLayer>,
    middle: MidBlock,
}

impl DownHalf {
    /// Of a supported configuration.
    pub fn new(weights: &Weights, config: &SdUnetConfig, motion: Option<Motion>) -> Self {
        let (first, time) = (config.channels(0), config.time_dim());
        let embedding = weights.at("time_embedding").serving(Role::Embedding);
        let level = |level| DownLayer::level(weights, config, motion, level);
        weights.at(FIRST).state_site(first);
        Self {
            config: config.clone(),
            conv_in: first_convolution(weights, config, motion),
            time_in: Linear::new(&embedding.at("linear_1"), first, time, true),
            time_out: Linear::new(&embedding.at("linear_2"), time, time, true),
            layers: (0..config.depth()).flat_map(level).collect(),
            middle: MidBlock::new(weights, config, motion),
        }
    }

    /// The time embedding of `timesteps`, `(timesteps, 4 * first channels)`, through the activation that
    /// every block begins with.
    pub fn time(&self, timesteps: &[f32], device: &Device, attachments: &Attachments) -> Tensor<2> {
        let config = &self.config;
        let order = config.flip_sin_to_cos;
        let sinusoid = timestep_embedding(timesteps, config.channels(0), order, config.freq_shift, device);
        let hidden = self.time_in.forward_then(sinusoid, attachments, Activation::Silu);
        self.time_out.forward_then(hidden, attachments, Activation::Silu)
    }

    /// `latents (pictures, channels, height, width)` through the first convolution: `(pictures, height,
    /// width, channels)`.
    pub fn first(&self, latents: Tensor<4>, attachments: &Attachments) -> Tensor<4> {
        self.conv_in.forward(latents.permute([0, 2, 3, 1]), attachments)
    }

    /// Layers on the way down.
    pub(super) fn layers(&self) -> &[DownLayer] {
        &self.layers
    }

    /// All layers on the way down.
    pub fn down(&self, first: State, given: &Conditions, attachments: &Attachments) -> State {
        self.layers.iter().fold(first, |state, layer| layer.forward(state, given, attachments))
    }

    /// The sites behind which something is left for the way up, in order.
    pub fn sites(&self) -> impl Iterator<Item = &str> {
        std::iter::once(FIRST).chain(self.layers.iter().flat_map(DownLayer::sites))
    }

    /// The middle's site.
    pub fn middle_site(&self) -> &str {
        self.middle.site()
    }

    /// The middle.
    pub fn middle(&self, state: State, given: &Conditions, attachments: &Attachments) -> State {
        State { hidden: self.middle.forward(state.hidden, given, attachments), skips: state.skips }
    }
}

/// The first convolution. Motion modules that take more latent channels than the UNet bring those of the
/// weight that read them.
fn first_convolution(weights: &Weights, config: &SdUnetConfig, motion: Option<Motion>) -> Conv2d {
    let (first, own, at) = (config.channels(0), config.in_channels, weights.at("conv_in"));
    let brought =
        motion.and_then(|motion| Some((motion.weights.at("conv_in"), motion.config.conv_in_channels?)));
    let Some((further, inputs)) = brought else { return Conv2d::new(&at, [own, first], 3, 1) };
    let weight = at.tensor("weight", [first, own, 3, 3], Init::Zeros);
    let whole = further.tensor("weight", [first, inputs, 3, 3], Init::Zeros);
    further.ignore("bias");
    let weight = Tensor::cat(vec![weight, whole.narrow(1, own, inputs - own)], 1);
    Conv2d::from_parts(&at, weight, Conv2dOptions { stride: 1, padding: 1 })
}
