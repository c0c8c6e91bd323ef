//! ControlNet: a copy of a UNet's way down that sees a picture beside the latents, and gives what is added to
//! the UNet's own.
//!
//! Published as `ControlNetModel` (Zhang et al., "Adding Conditional Control to Text-to-Image Diffusion
//! Models", 2023).

use std::sync::Arc;

use burn::tensor::Tensor;
use serde::{Deserialize, Serialize};
use understudy_engine::attach::{Attachments, Call, StateHook, Window};
use understudy_engine::ops;
use understudy_engine::weights::Weights;

use crate::layers::{Conv2d, Linear};
use crate::sd_unet::{Conditions, DownHalf, SdUnetConfig, State};

/// The published `config.json` of a ControlNet, as far as it is read; what is absent has diffusers' own
/// values.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ControlNetConfig {
    /// Channels of the picture.
    #[serde(default = "default_channels")]
    pub conditioning_channels: usize,
    /// Channels of the picture's embedding; from each to the next it is halved.
    #[serde(default = "default_widths")]
    pub conditioning_embedding_out_channels: Vec<usize>,
    /// `rgb` or `bgr`: how the network wants channels, which it is always given as `rgb`.
    #[serde(default = "default_order")]
    pub controlnet_conditioning_channel_order: String,
    /// Whether only the mean of each residual is added.
    #[serde(default)]
    pub global_pool_conditions: bool,
    /// The way down and the middle; what it says of the way up means nothing.
    #[serde(flatten)]
    pub down: SdUnetConfig,
}

fn default_channels() -> usize {
    3
}

fn default_widths() -> Vec<usize> {
    vec![16, 32, 96, 256]
}

fn default_order() -> String {
    "rgb".to_owned()
}

impl ControlNetConfig {
    /// The UNet whose way down it copies, as far as it goes.
    pub fn unet(&self) -> SdUnetConfig {
        let up = |name: &String| name.replace("Down", "Up");
        let up_block_types = self.down.down_block_types.iter().rev().map(up).collect();
        SdUnetConfig { up_block_types, ..self.down.clone() }
    }

    /// Pixels of the picture along the side of a latent.
    pub fn factor(&self) -> usize {
        1 << self.conditioning_embedding_out_channels.len().saturating_sub(1)
    }

    /// What in this configuration is not implemented, if anything.
    pub fn unsupported(&self) -> Option<String> {
        let widths = &self.conditioning_embedding_out_channels;
        let order = &self.controlnet_conditioning_channel_order;
        if widths.is_empty() || widths.contains(&0) || self.conditioning_channels == 0 {
            return Some(format!(
                "conditioning_embedding_out_channels: {widths:?} of {} channels",
                self.conditioning_channels
            ));
        }
        if !["rgb", "bgr"].contains(&order.as_str()) {
            return Some(format!("controlnet_conditioning_channel_order: {order:?} is not known"));
        }
        self.unet().unsupported()
    }

    /// Why its residuals do not suit this UNet, if there is a reason.
    pub fn unsupported_by(&self, unet: &SdUnetConfig) -> Option<String> {
        let (own, its) = (&self.down, unet);
        if own.block_out_channels != its.block_out_channels {
            let (own, its) = (&own.block_out_channels, &its.block_out_channels);
            return Some(format!("block_out_channels of the ControlNet are {own:?}, of the UNet {its:?}"));
        }
        let differs = |level: &usize| own.layers(*level) != its.layers(*level);
        let level = (0..own.depth()).find(differs)?;
        let (own, its) = (own.layers(level), its.layers(level));
        Some(format!("layers_per_block: {own} at level {level}, where the UNet has {its}"))
    }
}

/// What the picture becomes.
///
/// `ControlNetConditioningEmbedding` of <https://github.com/huggingface/diffusers/blob/v0.42.1/src/diffusers/models/controlnets/controlnet.py>.
#[derive(Clone, Debug)]
struct PictureEmbedding {
    conv_in: Conv2d,
    blocks: Vec<Conv2d>,
    conv_out: Conv2d,
}

impl PictureEmbedding {
    fn new(weights: &Weights, config: &ControlNetConfig, outputs: usize) -> Self {
        let widths = &config.conditioning_embedding_out_channels;
        let [first, last] = [widths.first(), widths.last()].map(|width| width.copied().unwrap_or(1));
        // From each width to the next a convolution that keeps the size and one that halves it.
        let pairs = widths.windows(2).flat_map(|pair| [(pair[0], pair[0], 1), (pair[0], pair[1], 2)]);
        let block =
            |(index, (from, to, stride))| Conv2d::new(&weights.at("blocks").at(index), [from, to], 3, stride);
        Self {
            conv_in: Conv2d::new(&weights.at("conv_in"), [config.conditioning_channels, first], 3, 1),
            blocks: pairs.enumerate().map(block).collect(),
            conv_out: Conv2d::new(&weights.at("conv_out"), [last, outputs], 3, 1),
        }
    }

    /// `picture (pictures, rows, columns, channels)`.
    fn forward(&self, picture: Tensor<4>, attachments: &Attachments) -> Tensor<4> {
        let through = |x, block: &Conv2d| ops::silu(block.forward(x, attachments));
        let first = ops::silu(self.conv_in.forward(picture, attachments));
        self.conv_out.forward(self.blocks.iter().fold(first, through), attachments)
    }
}

/// A ControlNet.
///
/// `ControlNetModel` of <https://github.com/huggingface/diffusers/blob/v0.42.1/src/diffusers/models/controlnets/controlnet.py>.
#[derive(Clone, Debug)]
pub struct ControlNet {
    config: ControlNetConfig,
    half: DownHalf,
    embedding: PictureEmbedding,
    /// What leads out of each site behind which the UNet leaves something for its way up, then out of the
    /// middle.
    outlets: Vec<Linear>,
}

impl ControlNet {
    /// Builds the network from `weights`; `config` is a supported one.
    pub fn new(weights: &Weights, config: &ControlNetConfig) -> Self {
        let unet = config.unet();
        let half = DownHalf::new(weights, &unet, None);
        let outlet = |path: &str, channels| Linear::of_patches(&weights.at(path), [channels, channels, 1, 1]);
        let level = |level: usize| {
            // A layer each, and where it is halved that.
            let count = unet.layers(level) + usize::from(level + 1 < unet.depth());
            std::iter::repeat_n(unet.channels(level), count)
        };
        let widths = std::iter::once(unet.channels(0)).chain((0..unet.depth()).flat_map(level));
        let mut outlets: Vec<Linear> = widths
            .enumerate()
            .map(|(index, channels)| outlet(&format!("controlnet_down_blocks.{index}"), channels))
            .collect();
        outlets.push(outlet("controlnet_mid_block", unet.channels(unet.depth() - 1)));
        Self {
            config: config.clone(),
            half,
            embedding: PictureEmbedding::new(
                &weights.at("controlnet_cond_embedding"),
                config,
                unet.channels(0),
            ),
            outlets,
        }
    }

    /// The configuration it was built with.
    pub fn config(&self) -> &ControlNetConfig {
        &self.config
    }

    /// What is added to a UNet that is given the same `latents (samples * frames, channels, height, width)`,
    /// `timesteps` (one for each sample) and `text (samples, words, channels)`. `pictures (samples * frames,
    /// 3, factor * height, factor * width)` are in [0, 1], red first.
    pub fn forward(
        &self,
        latents: Tensor<4>,
        pictures: Tensor<4>,
        timesteps: &[f32],
        text: Tensor<3>,
        attachments: &Attachments,
    ) -> Residuals {
        let frames = latents.dims()[0] / timesteps.len().max(1);
        let time = self.half.time(timesteps, &latents.device(), attachments);
        let given = Conditions { time, text, frames };
        let is_bgr = self.config.controlnet_conditioning_channel_order == "bgr";
        let pictures = if is_bgr { pictures.flip([1]) } else { pictures };
        let seen = self.embedding.forward(pictures.permute([0, 2, 3, 1]), attachments);
        let hidden = self.half.first(latents, attachments) + seen;
        let first = State { skips: vec![hidden.clone()], hidden };
        let down = self.half.down(first, &given, attachments);
        let State { hidden, mut skips } = self.half.middle(down, &given, attachments);
        skips.push(hidden);
        self.residuals(skips, attachments)
    }

    /// What leads out of `states (pictures, rows, columns, channels)`.
    fn residuals(&self, states: Vec<Tensor<4>>, attachments: &Attachments) -> Residuals {
        let is_pooled = self.config.global_pool_conditions;
        let lead = |(outlet, state): (&Linear, Tensor<4>)| {
            let [pictures, rows, columns, channels] = state.dims();
            let residual = outlet.forward(state.reshape([pictures, rows * columns, channels]), attachments);
            if is_pooled { residual.mean_dim(1) } else { residual }
        };
        let sites = self.half.sites().chain([self.half.middle_site()]);
        let residuals = self.outlets.iter().zip(states).map(lead);
        Residuals { residuals: sites.map(str::to_owned).zip(residuals).collect(), is_pooled }
    }
}

/// What a ControlNet adds to a UNet.
#[derive(Clone, Debug)]
pub struct Residuals {
    /// By the site of the UNet behind which they are added, the middle's last: `(samples * frames, places,
    /// channels)`, of one place where only the mean is added.
    residuals: Vec<(String, Tensor<3>)>,
    is_pooled: bool,
}

impl Residuals {
    /// Each with the site of the UNet behind which it is added, `(samples * frames, places, channels)`; the
    /// middle's is the last.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Tensor<3>)> {
        self.residuals.iter().map(|(site, residual)| (site.as_str(), residual))
    }

    /// The same where the picture shall say everything and the text nothing (guess mode): from a tenth of the
    /// first, each more by the same factor, to the whole of the middle's. Means are left as they are.
    pub fn guessing(self) -> Self {
        if self.is_pooled {
            return self;
        }
        let last = self.residuals.len().saturating_sub(1).max(1) as f32;
        let scale = |index: usize| 10_f32.powf(index as f32 / last - 1.0);
        let scaled =
            |(index, (site, residual)): (usize, (String, Tensor<3>))| (site, residual * scale(index));
        Self { residuals: self.residuals.into_iter().enumerate().map(scaled).collect(), ..self }
    }

    /// The same for so many pictures, of which those after its own are added nothing.
    pub fn padded(self, pictures: usize) -> Self {
        let pad = |residual: Tensor<3>| {
            let [own, places, channels] = residual.dims();
            let missing = pictures.saturating_sub(own);
            if missing == 0 {
                return residual;
            }
            let nothing = Tensor::zeros([missing, places, channels], &residual.device());
            Tensor::cat(vec![residual, nothing], 0)
        };
        let residuals = self.residuals.into_iter().map(|(site, residual)| (site, pad(residual)));
        Self { residuals: residuals.collect(), ..self }
    }

    /// What adds `weight` times these, while denoising is in `window`, to a UNet that is given as many
    /// pictures.
    pub fn attachments(&self, weight: f32, window: Window) -> Attachments {
        let mut attachments = Attachments::none();
        for (site, residual) in &self.residuals {
            let hook = Add { residual: residual.clone(), weight };
            attachments.add_state([site.as_str()], window, Arc::new(hook));
        }
        attachments
    }
}

/// Adds a residual behind one site. What is trained of it is shared, so that gradients reach it.
#[derive(Debug)]
struct Add {
    residual: Tensor<3>,
    weight: f32,
}

impl StateHook for Add {
    fn pass(&self, call: Call, hidden: Tensor<3>) -> Tensor<3> {
        let residual = call.shared.first().unwrap_or(&self.residual).clone();
        hidden + residual * self.weight
    }

    fn shared(&self) -> Vec<Tensor<3>> {
        vec![self.residual.clone()]
    }

    fn detached(self: Arc<Self>) -> Arc<dyn StateHook> {
        Arc::new(Self { residual: self.residual.clone().without_autodiff(), weight: self.weight })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_implemented_is_named() {
        let read = |json| serde_json::from_str::<ControlNetConfig>(json).expect("a configuration");
        assert_eq!(read("{}").unsupported(), None);
        assert_eq!(read("{}").factor(), 8);
        for (json, named) in [
            (r#"{"conditioning_embedding_out_channels": []}"#, "conditioning_embedding_out_channels"),
            (r#"{"controlnet_conditioning_channel_order": "hsv"}"#, "channel_order"),
            (r#"{"class_embed_type": "timestep"}"#, "class_embed_type"),
            (r#"{"block_out_channels": [320]}"#, "one length"),
        ] {
            let reason = read(json).unsupported().unwrap_or_default();
            assert!(reason.contains(named), "{json}: {reason:?}");
        }
        let unet = SdUnetConfig::default();
        assert_eq!(read("{}").unsupported_by(&unet), None);
        let narrow = r#"{"block_out_channels": [32, 64, 128, 128]}"#;
        assert!(read(narrow).unsupported_by(&unet).is_some());
    }
}
