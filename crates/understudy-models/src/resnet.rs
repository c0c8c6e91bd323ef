//! Residual blocks of convolutions, and what halves and doubles pictures between them. Channels lie together:
//! `(batch, rows, columns, channels)`.

use burn::tensor::Tensor;
use understudy_engine::attach::Attachments;
use understudy_engine::ops::Conv2dOptions;
use understudy_engine::weights::Weights;

use crate::layers::{Conv2d, GroupNorm, Linear};

/// What a residual block is built for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ResnetShape {
    /// Channels in and out.
    pub channels: [usize; 2],
    /// Groups of its normalizations.
    pub groups: usize,
    /// Epsilon of its normalizations.
    pub eps: f32,
    /// Channels of the time embedding, where time moves it.
    pub time: Option<usize>,
}

/// A residual block.
///
/// `ResnetBlock2D` of <https://github.com/huggingface/diffusers/blob/v0.42.1/src/diffusers/models/resnet.py>.
#[derive(Clone, Debug)]
pub(crate) struct ResnetBlock {
    norm1: GroupNorm,
    conv1: Conv2d,
    time_emb_proj: Option<Linear>,
    norm2: GroupNorm,
    conv2: Conv2d,
    conv_shortcut: Option<Linear>,
}

impl ResnetBlock {
    pub fn new(weights: &Weights, shape: ResnetShape) -> Self {
        let ResnetShape { channels: [inputs, outputs], groups, eps, time } = shape;
        let norm = |name: &str, channels| GroupNorm::new(&weights.at(name), channels, groups, eps);
        Self {
            norm1: norm("norm1", inputs),
            conv1: Conv2d::new(&weights.at("conv1"), [inputs, outputs], 3, 1),
            time_emb_proj: time.map(|time| Linear::new(&weights.at("time_emb_proj"), time, outputs, true)),
            norm2: norm("norm2", outputs),
            conv2: Conv2d::new(&weights.at("conv2"), [outputs, outputs], 3, 1),
            conv_shortcut: (inputs != outputs)
                .then(|| Linear::of_patches(&weights.at("conv_shortcut"), [outputs, inputs, 1, 1])),
        }
    }

    /// `hidden (samples * frames, rows, columns, inputs)`, and where time moves it `time (samples,
    /// channels)`.
    pub fn forward(
        &self,
        hidden: Tensor<4>,
        time: Option<&Tensor<2>>,
        attachments: &Attachments,
    ) -> Tensor<4> {
        let inner = self.norm1.forward_silu(hidden.clone());
        let inner = match self.time_emb_proj.as_ref().zip(time) {
            Some((project, time)) => {
                let shift = over_frames(project.forward(time.clone(), attachments), hidden.dims()[0]);
                self.conv1.forward_moved(inner, shift, attachments)
            }
            None => self.conv1.forward(inner, attachments),
        };
        let inner = self.conv2.forward(self.norm2.forward_silu(inner), attachments);
        let shortcut = match &self.conv_shortcut {
            Some(shortcut) => shortcut.forward(hidden, attachments),
            None => hidden,
        };
        shortcut + inner
    }
}

/// Every row of `x (samples, channels)` once for each of its frames, `(pictures, channels)`.
fn over_frames(x: Tensor<2>, pictures: usize) -> Tensor<2> {
    let [samples, channels] = x.dims();
    if samples == pictures {
        return x;
    }
    x.reshape([samples, 1, channels])
        .expand([samples, pictures / samples, channels])
        .reshape([pictures, channels])
}

/// A convolution that halves a picture.
///
/// `Downsample2D` of <https://github.com/huggingface/diffusers/blob/v0.42.1/src/diffusers/models/downsampling.py>.
#[derive(Clone, Debug)]
pub(crate) struct Downsampler {
    site: String,
    conv: Conv2d,
    /// Without padding of its own it gets zeros below and to the right.
    uneven: bool,
}

impl Downsampler {
    /// Of so many channels with zeros around, or with none, which puts one row and column of them behind.
    pub fn new(weights: &Weights, channels: usize, padding: usize) -> Self {
        let options = Conv2dOptions { stride: 2, padding };
        let conv = Conv2d::with_options(&weights.at("conv"), [channels; 2], 3, options);
        Self { site: weights.path(""), conv, uneven: padding == 0 }
    }

    /// The published path.
    pub fn site(&self) -> &str {
        &self.site
    }

    /// `x (batch, rows, columns, channels)` at half the size.
    pub fn forward(&self, x: Tensor<4>, attachments: &Attachments) -> Tensor<4> {
        let x = if self.uneven { x.pad([(0, 0), (0, 1), (0, 1), (0, 0)], 0.0) } else { x };
        self.conv.forward(x, attachments)
    }
}

/// A convolution of a picture that was doubled.
///
/// `Upsample2D` of <https://github.com/huggingface/diffusers/blob/v0.42.1/src/diffusers/models/upsampling.py>.
#[derive(Clone, Debug)]
pub(crate) struct Upsampler {
    conv: Conv2d,
}

impl Upsampler {
    pub fn new(weights: &Weights, channels: usize) -> Self {
        Self { conv: Conv2d::new(&weights.at("conv"), [channels; 2], 3, 1) }
    }

    /// Every pixel of `x (batch, rows, columns, channels)` four times, cut to `extent`, which is at most one
    /// less than twice: odd sides were halved upwards.
    pub fn forward(&self, x: Tensor<4>, [rows, columns]: [usize; 2], attachments: &Attachments) -> Tensor<4> {
        let [batch, height, width, channels] = x.dims();
        let twice = x
            .reshape([batch, height, 1, width, 1, channels])
            .expand([batch, height, 2, width, 2, channels])
            .reshape([batch, 2 * height, 2 * width, channels]);
        self.conv.forward(twice.narrow(1, 0, rows).narrow(2, 0, columns), attachments)
    }
}
