//! RAFT, which finds the optical flow from one picture to the next.
//!
//! Layout and names are those of the original release's large network, `raft-things.pth` (Teed and Deng,
//! "RAFT: Recurrent All-Pairs Field Transforms for Optical Flow", 2020).

use burn::tensor::Tensor;
use burn::tensor::activation::{relu, sigmoid, softmax, tanh};
use understudy_engine::ops::Conv3dOptions;
use understudy_engine::weights::{Init, Weights};

use crate::correlation::{FACTOR, Pyramid, around};
use crate::layers::Conv;

pub use crate::correlation::SMALLEST;

/// How far around a pixel correlations are looked up.
const RADIUS: usize = 4;
const EPS: f32 = 1e-5;

/// The widths of a RAFT, told from its tensors.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RaftConfig {
    /// Channels of the feature encoder: stem, three stages, output.
    pub features: [usize; 5],
    /// Channels of the context encoder.
    pub context: [usize; 5],
    /// Channels of the hidden state.
    pub hidden: usize,
    /// Channels of the motion encoder: two for correlations, two for flow, and both without the flow itself.
    pub motion: [usize; 5],
    /// Channels within the flow head and the mask head.
    pub heads: [usize; 2],
}

impl RaftConfig {
    /// What a checkpoint of these shapes must be: `shape` gives the extents of a tensor, if there is one.
    ///
    /// # Errors
    /// Names the tensor that is missing.
    pub fn of_shapes(shape: impl Fn(&str) -> Option<Vec<usize>>) -> Result<Self, String> {
        let outputs = |name: String| {
            let found =
                shape(&format!("{name}.weight")).ok_or_else(|| format!("tensor {name}.weight is missing"))?;
            found.first().copied().ok_or_else(|| format!("tensor {name}.weight is a scalar"))
        };
        let encoder = |name: &str| -> Result<[usize; 5], String> {
            let of = |part: &str| outputs(format!("{name}.{part}"));
            Ok([
                of("conv1")?,
                of("layer1.0.conv1")?,
                of("layer2.0.conv1")?,
                of("layer3.0.conv1")?,
                of("conv2")?,
            ])
        };
        let update = |part: &str| outputs(format!("update_block.{part}"));
        let motion = ["convc1", "convc2", "convf1", "convf2", "conv"];
        let mut widths = [0; 5];
        for (width, part) in widths.iter_mut().zip(motion) {
            *width = update(&format!("encoder.{part}"))?;
        }
        let config = Self {
            features: encoder("fnet")?,
            context: encoder("cnet")?,
            hidden: update("gru.convz1")?,
            motion: widths,
            heads: [update("flow_head.conv1")?, update("mask.0")?],
        };
        if config.context[4] > config.hidden {
            Ok(config)
        } else {
            Err(format!("{} channels of context for a state of {}", config.context[4], config.hidden))
        }
    }
}

/// A normalization of an encoder.
#[derive(Clone, Debug)]
pub(crate) enum Norm {
    /// Every picture's channels by themselves.
    Instance,
    /// By statistics of training: a gain and an offset a channel.
    Batch(Box<[Tensor<1>; 2]>),
}

impl Norm {
    fn new(weights: &Weights, channels: usize, batch: bool) -> Self {
        if !batch {
            return Self::Instance;
        }
        weights.ignore("num_batches_tracked");
        let of = |name: &str, init| weights.tensor(name, [channels], init);
        let gain = of("weight", Init::Ones) / (of("running_var", Init::Ones) + EPS).sqrt();
        let offset = of("bias", Init::Zeros) - of("running_mean", Init::Zeros) * gain.clone();
        Self::Batch(Box::new([gain, offset]))
    }

    pub(crate) fn forward(&self, x: Tensor<5>) -> Tensor<5> {
        match self {
            Self::Batch(both) => {
                let [gain, offset] = both.as_ref();
                let shape = [1, gain.dims()[0], 1, 1, 1];
                x * gain.clone().reshape(shape) + offset.clone().reshape(shape)
            }
            Self::Instance => {
                let [batch, channels, frames, rows, columns] = x.dims();
                let flat = x.reshape([batch, channels, frames * rows * columns]);
                let centered = flat.clone() - flat.mean_dim(2);
                let variance = centered.clone().powi_scalar(2).mean_dim(2);
                (centered / (variance + EPS).sqrt()).reshape([batch, channels, frames, rows, columns])
            }
        }
    }
}

/// A convolution that keeps the size, but for its stride.
pub(crate) fn convolution(weights: &Weights, channels: [usize; 2], kernel: usize, stride: usize) -> Conv {
    rectangular(weights, channels, [kernel; 2], stride)
}

fn rectangular(weights: &Weights, channels: [usize; 2], kernel: [usize; 2], stride: usize) -> Conv {
    let [rows, columns] = kernel.map(|side| (side / 2, side / 2));
    let options = Conv3dOptions { stride: [1, stride, stride], padding: [(0, 0), rows, columns] };
    Conv::new_rectangular(weights, channels, kernel, true, options)
}

#[derive(Clone, Debug)]
struct Block {
    conv1: Conv,
    norm1: Norm,
    conv2: Conv,
    norm2: Norm,
    downsample: Option<(Conv, Norm)>,
}

impl Block {
    fn new(weights: &Weights, [inputs, outputs]: [usize; 2], stride: usize, batch: bool) -> Self {
        let norm = |name: &str| Norm::new(&weights.at(name), outputs, batch);
        // The original stores the shortcut's norm under a second name as well.
        for part in ["weight", "bias", "running_mean", "running_var", "num_batches_tracked"] {
            weights.at("norm3").ignore(part);
        }
        Self {
            conv1: convolution(&weights.at("conv1"), [inputs, outputs], 3, stride),
            norm1: norm("norm1"),
            conv2: convolution(&weights.at("conv2"), [outputs, outputs], 3, 1),
            norm2: norm("norm2"),
            downsample: (stride != 1).then(|| {
                (convolution(&weights.at("downsample.0"), [inputs, outputs], 1, stride), norm("downsample.1"))
            }),
        }
    }

    fn forward(&self, x: Tensor<5>) -> Tensor<5> {
        let y = relu(self.norm1.forward(self.conv1.forward(x.clone())));
        let y = relu(self.norm2.forward(self.conv2.forward(y)));
        let shortcut = match &self.downsample {
            Some((conv, norm)) => norm.forward(conv.forward(x)),
            None => x,
        };
        relu(shortcut + y)
    }
}

/// Pictures to features at an eighth of the size.
#[derive(Clone, Debug)]
struct Encoder {
    conv1: Conv,
    norm1: Norm,
    blocks: Vec<Block>,
    conv2: Conv,
}

impl Encoder {
    fn new(weights: &Weights, widths: [usize; 5], batch: bool) -> Self {
        let mut blocks = Vec::new();
        for (stage, stride) in [1, 2, 2].into_iter().enumerate() {
            let (inputs, outputs) = (widths[stage], widths[stage + 1]);
            let at = weights.at(format!("layer{}", stage + 1));
            blocks.push(Block::new(&at.at(0), [inputs, outputs], stride, batch));
            blocks.push(Block::new(&at.at(1), [outputs, outputs], 1, batch));
        }
        Self {
            conv1: convolution(&weights.at("conv1"), [3, widths[0]], 7, 2),
            norm1: Norm::new(&weights.at("norm1"), widths[0], batch),
            blocks,
            conv2: convolution(&weights.at("conv2"), [widths[3], widths[4]], 1, 1),
        }
    }

    fn forward(&self, x: Tensor<5>) -> Tensor<5> {
        let x = relu(self.norm1.forward(self.conv1.forward(x)));
        self.conv2.forward(self.blocks.iter().fold(x, |x, block| block.forward(x)))
    }
}

/// A gated recurrent unit along one axis.
#[derive(Clone, Debug)]
struct Gru {
    z: Conv,
    r: Conv,
    q: Conv,
}

impl Gru {
    fn new(weights: &Weights, which: usize, [inputs, hidden]: [usize; 2], kernel: [usize; 2]) -> Self {
        let conv = |name: &str| {
            rectangular(&weights.at(format!("conv{name}{which}")), [hidden + inputs, hidden], kernel, 1)
        };
        Self { z: conv("z"), r: conv("r"), q: conv("q") }
    }

    fn forward(&self, h: Tensor<5>, x: &Tensor<5>) -> Tensor<5> {
        let both = |h: Tensor<5>| Tensor::cat(vec![h, x.clone()], 1);
        let hx = both(h.clone());
        let z = sigmoid(self.z.forward(hx.clone()));
        let r = sigmoid(self.r.forward(hx));
        let q = tanh(self.q.forward(both(r * h.clone())));
        h.clone() + z * (q - h)
    }
}

/// The whole network.
#[derive(Clone, Debug)]
pub struct Raft {
    hidden: usize,
    features: Encoder,
    context: Encoder,
    correlations: [Conv; 2],
    flows: [Conv; 2],
    motion: Conv,
    rows: Gru,
    columns: Gru,
    flow_head: [Conv; 2],
    mask_head: [Conv; 2],
}

impl Raft {
    /// Builds it from `weights`.
    pub fn new(weights: &Weights, config: &RaftConfig) -> Self {
        let update = weights.at("update_block");
        let [encoder, gru] = [update.at("encoder"), update.at("gru")];
        let [c1, c2, f1, f2, out] = config.motion;
        let hidden = config.hidden;
        // The context, the motion's features, and the flow.
        let inputs = config.context[4] - hidden + out + 2;
        let conv = |at: Weights, channels, kernel| convolution(&at, channels, kernel, 1);
        let [flow, mask] = config.heads;
        let (flow_head, mask_head) = (update.at("flow_head"), update.at("mask"));
        Self {
            hidden,
            features: Encoder::new(&weights.at("fnet"), config.features, false),
            context: Encoder::new(&weights.at("cnet"), config.context, true),
            correlations: [
                conv(encoder.at("convc1"), [around(RADIUS), c1], 1),
                conv(encoder.at("convc2"), [c1, c2], 3),
            ],
            flows: [conv(encoder.at("convf1"), [2, f1], 7), conv(encoder.at("convf2"), [f1, f2], 3)],
            motion: conv(encoder.at("conv"), [c2 + f2, out], 3),
            rows: Gru::new(&gru, 1, [inputs, hidden], [1, 5]),
            columns: Gru::new(&gru, 2, [inputs, hidden], [5, 1]),
            flow_head: [
                conv(flow_head.at("conv1"), [hidden, flow], 3),
                conv(flow_head.at("conv2"), [flow, 2], 3),
            ],
            mask_head: [
                conv(mask_head.at(0), [hidden, mask], 3),
                conv(mask_head.at(2), [mask, 9 * FACTOR * FACTOR], 1),
            ],
        }
    }

    /// The flow `(pairs, 2, height, width)`, columns and then rows in pixels, from the pictures `from` to
    /// those of `to` `(pairs, 3, height, width)` in [-1, 1], whose sides are multiples of 8 and at least
    /// [`SMALLEST`]; refined `updates` times.
    pub fn flow(&self, from: Tensor<4>, to: Tensor<4>, updates: usize) -> Tensor<4> {
        let [pairs, _, height, width] = from.dims();
        let device = from.device();
        let both = Tensor::cat(vec![from.clone(), to], 0).unsqueeze_dim(2);
        let features = self.features.forward(both);
        let pyramid = Pyramid::new(features, RADIUS);
        let context = self.context.forward(from.unsqueeze_dim(2));
        let rest = context.dims()[1] - self.hidden;
        let mut state = tanh(context.clone().narrow(1, 0, self.hidden));
        let context = relu(context.narrow(1, self.hidden, rest));

        let [rows, columns] = [height / FACTOR, width / FACTOR];
        let mut flow = Tensor::<5>::zeros([pairs, 2, 1, rows, columns], &device);
        for _ in 0..updates {
            let correlations = pyramid.around(&flow, &device);
            let inputs = Tensor::cat(vec![context.clone(), self.motion(correlations, &flow)], 1);
            state = self.columns.forward(self.rows.forward(state, &inputs), &inputs);
            let [first, second] = &self.flow_head;
            flow = flow + second.forward(relu(first.forward(state.clone())));
        }
        let [first, second] = &self.mask_head;
        let mask = second.forward(relu(first.forward(state))) * 0.25;
        upsampled(flow, mask)
    }

    /// What the correlations and the flow so far say.
    fn motion(&self, correlations: Tensor<5>, flow: &Tensor<5>) -> Tensor<5> {
        let twice = |[first, second]: &[Conv; 2], x| relu(second.forward(relu(first.forward(x))));
        let both =
            Tensor::cat(vec![twice(&self.correlations, correlations), twice(&self.flows, flow.clone())], 1);
        Tensor::cat(vec![relu(self.motion.forward(both)), flow.clone()], 1)
    }
}

/// `flow (pairs, 2, 1, rows, columns)` at eight times the size: every fine pixel is a mixture of the nine
/// coarse ones around it, weighed by `mask (pairs, 9 * 64, 1, rows, columns)`.
fn upsampled(flow: Tensor<5>, mask: Tensor<5>) -> Tensor<4> {
    let [pairs, _, _, rows, columns] = flow.dims();
    let mask = mask.reshape([pairs, 1, 9, FACTOR * FACTOR, rows * columns]);
    let mask = softmax(mask, 2);
    let padded = (flow * FACTOR as f32).reshape([pairs, 2, rows, columns]).pad((1, 1, 1, 1), 0.0_f32);
    let neighbour = |index: usize| {
        let part = padded.clone().narrow(2, index / 3, rows).narrow(3, index % 3, columns);
        part.reshape([pairs, 2, 1, 1, rows * columns])
    };
    let nine = Tensor::cat((0..9).map(neighbour).collect(), 2);
    let fine = (mask * nine).sum_dim(2).reshape([pairs * 2, FACTOR, FACTOR, rows, columns]);
    fine.permute([0, 3, 1, 4, 2]).reshape([pairs, 2, rows * FACTOR, columns * FACTOR])
}
