//! I3D, the Inception network inflated to video whose features FVD compares.
//!
//! Layout and names are those of `pytorch-i3d`, in which VideoGPT's `i3d_pretrained_400.pt` is published;
//! [`published_name`] gives them for the other port's, `kinetics_i3d_pytorch`, from which StyleGAN-V's
//! `i3d_torchscript.pt` was compiled (Carreira and Zisserman, "Quo Vadis, Action Recognition?", 2017).

use burn::tensor::activation::relu;
use burn::tensor::{Slice, Tensor};
use understudy_engine::attach::Attachments;
use understudy_engine::ops::Conv3dOptions;
use understudy_engine::weights::{Init, Weights};

use crate::layers::{Conv, Linear};

/// The side of the pictures it takes.
pub const SIDE: usize = 224;
/// The fewest frames: two must be left after the time is halved three times.
pub const FEWEST: usize = 9;
/// The mixed blocks.
const MIXED: [&str; 9] = ["3b", "3c", "4b", "4c", "4d", "4e", "4f", "5b", "5c"];
/// The convolutions of a mixed block, by branch.
const UNITS: [&str; 6] = ["b0", "b1a", "b1b", "b2a", "b2b", "b3b"];

/// How the windows of a maximum are laid where they do not divide a side.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Windows {
    /// What is missing is added to both ends, as TensorFlow does.
    Same,
    /// As if it divided, and the last window goes over the edge: `kinetics_i3d_pytorch`.
    Over,
}

/// The widths of an I3D, told from its tensors, and what its two ports differ in.
#[derive(Clone, Debug, PartialEq)]
pub struct I3dConfig {
    /// Channels of the three convolutions before the mixed blocks.
    pub stem: [usize; 3],
    /// Channels of the convolutions of each mixed block.
    pub mixed: [[usize; 6]; 9],
    /// Classes it tells apart, which are also its features.
    pub classes: usize,
    /// What the norms add to a variance.
    pub eps: f32,
    /// How maxima are taken.
    pub windows: Windows,
}

impl I3dConfig {
    /// What a checkpoint of these shapes must be: `shape` gives the extents of a tensor, if there is one.
    ///
    /// # Errors
    /// Names the tensor that is missing.
    pub fn of_shapes(
        shape: impl Fn(&str) -> Option<Vec<usize>>,
        eps: f32,
        windows: Windows,
    ) -> Result<Self, String> {
        let outputs = |unit: &str| {
            let name = format!("{unit}.conv3d.weight");
            let found = shape(&name).ok_or_else(|| format!("tensor {name} is missing"))?;
            found.first().copied().ok_or_else(|| format!("tensor {name} is a scalar"))
        };
        let mut config = Self {
            stem: [outputs("Conv3d_1a_7x7")?, outputs("Conv3d_2b_1x1")?, outputs("Conv3d_2c_3x3")?],
            mixed: [[0; 6]; 9],
            classes: outputs("logits")?,
            eps,
            windows,
        };
        for (widths, block) in config.mixed.iter_mut().zip(MIXED) {
            for (width, unit) in widths.iter_mut().zip(UNITS) {
                *width = outputs(&format!("Mixed_{block}.{unit}"))?;
            }
        }
        Ok(config)
    }
}

/// The name here of the tensor that `kinetics_i3d_pytorch` calls `name`; `None` if it is none of its own.
pub fn published_name(name: &str) -> Option<String> {
    let (layer, rest) = name.split_once('.')?;
    let rest = rest.replace("batch3d.", "bn.");
    if let Some(block) = layer.strip_prefix("mixed_") {
        let branches =
            ["branch_0.", "branch_1.0.", "branch_1.1.", "branch_2.0.", "branch_2.1.", "branch_3.1."];
        let found = branches.iter().zip(UNITS).find_map(|(own, unit)| Some((unit, rest.strip_prefix(own)?)));
        return found.map(|(unit, rest)| format!("Mixed_{block}.{unit}.{rest}"));
    }
    match layer {
        "conv3d_0c_1x1" => Some(format!("logits.{rest}")),
        other => Some(format!("Conv3d_{}.{rest}", other.strip_prefix("conv3d_")?)),
    }
}

/// What TensorFlow adds before and after `side` values, so that windows of `kernel` every `stride` cover
/// them.
fn same(side: usize, kernel: usize, stride: usize) -> (usize, usize) {
    let step = match side % stride {
        0 => stride,
        rest => rest,
    };
    let whole = kernel.saturating_sub(step);
    (whole / 2, whole - whole / 2)
}

/// A convolution, its norm and a rectifier.
#[derive(Clone, Debug)]
struct Unit {
    conv: Conv,
    kernel: usize,
    stride: usize,
    /// A gain and an offset a channel.
    norm: [Tensor<1>; 2],
}

impl Unit {
    fn new(weights: &Weights, [inputs, outputs]: [usize; 2], kernel: usize, stride: usize, eps: f32) -> Self {
        // At the network's size the rows and columns always divide; frames are padded as they come.
        let side = same(SIDE, kernel, stride);
        let options = Conv3dOptions { stride: [stride; 3], padding: [(0, 0), side, side] };
        let norm = weights.at("bn");
        norm.ignore("num_batches_tracked");
        let of = |name: &str, init| norm.tensor(name, [outputs], init);
        let gain = of("weight", Init::Ones) / (of("running_var", Init::Ones) + eps).sqrt();
        let offset = of("bias", Init::Zeros) - of("running_mean", Init::Zeros) * gain.clone();
        Self {
            conv: Conv::new_3d(&weights.at("conv3d"), [inputs, outputs], [kernel; 3], false, options),
            kernel,
            stride,
            norm: [gain, offset],
        }
    }

    fn forward(&self, x: Tensor<5>) -> Tensor<5> {
        let frames = same(x.dims()[2], self.kernel, self.stride);
        let x = self.conv.forward_padded(x, frames);
        let [gain, offset] = self.norm.clone().map(|values| {
            let channels = values.dims()[0];
            values.reshape([1, channels, 1, 1, 1])
        });
        relu(x * gain + offset)
    }
}

/// The maximum over windows of `x`, whose values are none below zero, so that what is added may be zero.
fn max_pool(x: Tensor<5>, kernel: [usize; 3], stride: [usize; 3], windows: Windows) -> Tensor<5> {
    (0..3).fold(x, |x, axis| max_along(x, 2 + axis, kernel[axis], stride[axis], windows))
}

fn max_along(x: Tensor<5>, axis: usize, kernel: usize, stride: usize, windows: Windows) -> Tensor<5> {
    let side = x.dims()[axis];
    let count = side.div_ceil(stride);
    let before = match windows {
        Windows::Same => same(side, kernel, stride).0,
        Windows::Over => same(stride, kernel, stride).0,
    };
    let needed = (count - 1) * stride + kernel;
    let mut around = [(0, 0); 5];
    around[axis] = (before, needed.saturating_sub(before + side));
    let x = if around[axis] == (0, 0) { x } else { x.pad(around, 0.0_f32) };
    let last = (count - 1) * stride + 1;
    let every = |from: usize| {
        let part = Slice::new(from as isize, Some((from + last) as isize), stride as isize);
        x.clone().slice_dim(axis, part)
    };
    (1..kernel).fold(every(0), |most, from| most.max_pair(every(from)))
}

/// Four branches over the same input.
#[derive(Clone, Debug)]
struct Mixed {
    units: [Unit; 6],
}

impl Mixed {
    fn new(weights: &Weights, inputs: usize, widths: [usize; 6], eps: f32) -> Self {
        let sources = [inputs, inputs, widths[1], inputs, widths[3], inputs];
        let units = std::array::from_fn(|at| {
            let kernel = if matches!(UNITS[at], "b1b" | "b2b") { 3 } else { 1 };
            Unit::new(&weights.at(UNITS[at]), [sources[at], widths[at]], kernel, 1, eps)
        });
        Self { units }
    }

    fn forward(&self, x: Tensor<5>, windows: Windows) -> Tensor<5> {
        let [b0, b1a, b1b, b2a, b2b, b3b] = &self.units;
        let pooled = max_pool(x.clone(), [3; 3], [1; 3], windows);
        let branches = vec![
            b0.forward(x.clone()),
            b1b.forward(b1a.forward(x.clone())),
            b2b.forward(b2a.forward(x)),
            b3b.forward(pooled),
        ];
        Tensor::cat(branches, 1)
    }
}

/// The whole network.
#[derive(Clone, Debug)]
pub struct I3d {
    stem: [Unit; 3],
    mixed: Vec<Mixed>,
    logits: Linear,
    windows: Windows,
}

impl I3d {
    /// Builds it from `weights`.
    pub fn new(weights: &Weights, config: &I3dConfig) -> Self {
        let [one, two, three] = config.stem;
        let unit = |name: &str, channels, kernel, stride| {
            Unit::new(&weights.at(name), channels, kernel, stride, config.eps)
        };
        let mut inputs = three;
        let mut mixed = Vec::new();
        for (block, widths) in MIXED.iter().zip(config.mixed) {
            mixed.push(Mixed::new(&weights.at(format!("Mixed_{block}")), inputs, widths, config.eps));
            inputs = widths[0] + widths[2] + widths[4] + widths[5];
        }
        let last = weights.at("logits.conv3d");
        let weight = last.tensor("weight", [config.classes, inputs, 1, 1, 1], Init::Zeros);
        let bias = last.tensor("bias", [config.classes], Init::Zeros);
        Self {
            stem: [
                unit("Conv3d_1a_7x7", [3, one], 7, 2),
                unit("Conv3d_2b_1x1", [one, two], 1, 1),
                unit("Conv3d_2c_3x3", [two, three], 3, 1),
            ],
            mixed,
            logits: Linear::from_parts(last.path(""), weight.reshape([config.classes, inputs]), bias),
            windows: config.windows,
        }
    }

    /// The logits `(batch, classes)` of clips `(batch, 3, frames, 224, 224)` in [-1, 1] of at least
    /// [`FEWEST`] frames: the mean over time of those of every two of its last frames.
    pub fn forward(&self, x: Tensor<5>) -> Tensor<2> {
        let pool = |x, kernel, stride| max_pool(x, kernel, stride, self.windows);
        let [one, two, three] = &self.stem;
        let x = pool(one.forward(x), [1, 3, 3], [1, 2, 2]);
        let mut x = pool(three.forward(two.forward(x)), [1, 3, 3], [1, 2, 2]);
        for (block, name) in self.mixed.iter().zip(MIXED) {
            x = match name {
                "4b" => pool(x, [3; 3], [2; 3]),
                "5b" => pool(x, [2; 3], [2; 3]),
                _ => x,
            };
            x = block.forward(x, self.windows);
        }
        let [batch, channels, frames, rows, columns] = x.dims();
        let means = x.reshape([batch, channels, frames, rows * columns]).mean_dim(3).squeeze_dim::<3>(3);
        let pairs = means.clone().narrow(2, 0, frames - 1) + means.narrow(2, 1, frames - 1);
        let pooled = pairs.mean_dim(2).squeeze_dim::<2>(2) * 0.5;
        self.logits.forward(pooled, &Attachments::default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_ports_name_the_same_tensors() {
        for (own, published) in [
            ("conv3d_1a_7x7.conv3d.weight", "Conv3d_1a_7x7.conv3d.weight"),
            ("conv3d_2c_3x3.batch3d.running_var", "Conv3d_2c_3x3.bn.running_var"),
            ("mixed_4f.branch_0.batch3d.bias", "Mixed_4f.b0.bn.bias"),
            ("mixed_3b.branch_1.1.conv3d.weight", "Mixed_3b.b1b.conv3d.weight"),
            ("mixed_5c.branch_3.1.conv3d.weight", "Mixed_5c.b3b.conv3d.weight"),
            ("conv3d_0c_1x1.conv3d.bias", "logits.conv3d.bias"),
        ] {
            assert_eq!(published_name(own).as_deref(), Some(published));
        }
        assert_eq!(published_name("Mixed_3b.b1b.conv3d.weight"), None);
    }

    #[test]
    fn tensorflow_adds_the_odd_one_behind() {
        assert_eq!((same(224, 7, 2), same(13, 7, 2), same(5, 3, 1)), ((2, 3), (3, 3), (1, 1)));
        assert_eq!((same(7, 3, 2), same(8, 3, 2), same(4, 2, 2)), ((1, 1), (0, 1), (0, 0)));
    }
}
