//! A small U-Net that tells what every pixel of a picture shows (Ronneberger, Fischer and Brox, "U-Net:
//! convolutional networks for biomedical image segmentation", 2015), with residual blocks, and sums in the
//! place of concatenations.

use burn::tensor::Tensor;
use serde::{Deserialize, Serialize};
use understudy_engine::ops::{self, Conv3dOptions};
use understudy_engine::weights::{Init, Weights};

use crate::layers::Conv;

/// The shape of a segmenter.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SegmenterConfig {
    /// Channels at full resolution, and at each halving of it.
    pub widths: Vec<usize>,
    /// What is told apart.
    pub classes: usize,
    /// Side of the picture.
    pub size: usize,
}

fn same(side: usize, stride: usize) -> Conv3dOptions {
    let pad = (side / 2, side / 2);
    Conv3dOptions { stride: [1, stride, stride], padding: [(0, 0), pad, pad] }
}

/// A normalized, rectified convolution beside what it gets.
#[derive(Clone, Debug)]
struct Block {
    gamma: Tensor<1>,
    conv: Conv,
}

impl Block {
    fn new(weights: &Weights, channels: usize) -> Self {
        Self {
            gamma: weights.tensor("gamma", [channels], Init::Ones),
            conv: Conv::new_2d(&weights.at("conv"), [channels, channels], 3, true, same(3, 1)),
        }
    }

    fn forward(&self, x: Tensor<5>) -> Tensor<5> {
        let hidden = ops::silu(ops::channel_rms_norm(x.clone(), self.gamma.clone()));
        x + self.conv.forward(hidden)
    }
}

/// The blocks of one resolution, and the ways to the next and back.
#[derive(Clone, Debug)]
struct Level {
    down: Block,
    halve: Conv,
    widen: Conv,
    up: Block,
}

/// The whole network.
#[derive(Clone, Debug)]
pub struct Segmenter {
    config: SegmenterConfig,
    stem: Conv,
    levels: Vec<Level>,
    middle: [Block; 2],
    gamma: Tensor<1>,
    head: Conv,
}

impl Segmenter {
    /// Builds the network from `weights`.
    pub fn new(weights: &Weights, config: &SegmenterConfig) -> Self {
        let widths = &config.widths;
        let first = widths.first().copied().unwrap_or_default();
        let level = |(index, pair): (usize, &[usize])| {
            let at = weights.at("levels").at(index);
            Level {
                down: Block::new(&at.at("down"), pair[0]),
                halve: Conv::new_2d(&at.at("halve"), [pair[0], pair[1]], 3, true, same(3, 2)),
                widen: Conv::new_2d(&at.at("widen"), [pair[1], pair[0]], 3, true, same(3, 1)),
                up: Block::new(&at.at("up"), pair[0]),
            }
        };
        let last = widths.last().copied().unwrap_or_default();
        Self {
            config: config.clone(),
            stem: Conv::new_2d(&weights.at("stem"), [3, first], 3, true, same(3, 1)),
            levels: widths.windows(2).enumerate().map(level).collect(),
            middle: [0, 1].map(|index| Block::new(&weights.at("middle").at(index), last)),
            gamma: weights.tensor("gamma", [first], Init::Ones),
            head: Conv::new_2d(&weights.at("head"), [first, config.classes], 1, true, same(1, 1)),
        }
    }

    /// The configuration it was built with.
    pub fn config(&self) -> &SegmenterConfig {
        &self.config
    }

    /// Logits of `pixels (batch, 3, size, size)` in [-1, 1]: `(batch, classes, size, size)`.
    pub fn forward(&self, pixels: Tensor<4>) -> Tensor<4> {
        let mut x = self.stem.forward(pixels.unsqueeze_dim(2));
        let mut passed = Vec::with_capacity(self.levels.len());
        for level in &self.levels {
            x = level.down.forward(x);
            passed.push(x.clone());
            x = level.halve.forward(x);
        }
        x = self.middle.iter().fold(x, |x, block| block.forward(x));
        for (level, passed) in self.levels.iter().zip(passed).rev() {
            x = level.up.forward(level.widen.forward(ops::upsample_nearest_2x(x)) + passed);
        }
        let x = ops::silu(ops::channel_rms_norm(x, self.gamma.clone()));
        self.head.forward(x).squeeze_dim(2)
    }
}
