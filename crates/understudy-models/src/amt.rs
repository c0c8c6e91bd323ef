//! AMT, which makes the picture between two others.
//!
//! Layout and names are those of the original release's small network, `amt-s.pth` (Li et al., "AMT:
//! All-Pairs Multi-Field Transforms for Efficient Frame Interpolation", 2023). Flows from the picture in the
//! middle to both ends are found from coarse to fine, refined by correlations of the ends on the way; on the
//! last step there are several of each, and what they say is mixed.

use burn::tensor::activation::{leaky_relu, prelu, relu, sigmoid};
use burn::tensor::module::conv_transpose2d;
use burn::tensor::ops::ConvTransposeOptions;
use burn::tensor::{Tensor, TensorData};
use understudy_engine::host;
use understudy_engine::weights::{Init, Weights};
use understudy_kernels::resample::Torch;

use crate::correlation::{Pyramid, around};
use crate::layers::{Conv, resampling};
use crate::raft::{Norm, convolution};

pub use crate::correlation::SMALLEST;

/// Sides of pictures are multiples of this.
pub const MULTIPLE: usize = 16;
/// How far around a pixel correlations are looked up.
const RADIUS: usize = 3;
/// Slope of the update's activations below zero.
const SLOPE: f64 = 0.1;
/// Slope of the others, from scratch.
const PRELU: f32 = 0.25;
/// What the middle's flow to one end is multiplied by to be that from the other end.
const WHOLE: f32 = 2.0;

/// The widths of an AMT, told from its tensors.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AmtConfig {
    /// Channels of the encoder whose features are correlated: stem, three stages, output.
    pub features: [usize; 5],
    /// Channels of the pyramid, from fine to coarse.
    pub channels: [usize; 4],
    /// Channels that the decoders' blocks treat apart.
    pub side: usize,
    /// Flows to each end.
    pub flows: usize,
    /// Channels of the updates: of correlations, of flows, of both, and of what follows.
    pub update: [usize; 4],
}

impl AmtConfig {
    /// What a checkpoint of these shapes must be: `shape` gives the extents of a tensor, if there is one.
    ///
    /// # Errors
    /// Names the tensor that is missing.
    pub fn of_shapes(shape: impl Fn(&str) -> Option<Vec<usize>>) -> Result<Self, String> {
        let outputs = |name: &str| {
            let name = format!("{name}.weight");
            let found = shape(&name).ok_or_else(|| format!("tensor {name} is missing"))?;
            found.first().copied().ok_or_else(|| format!("tensor {name} is a scalar"))
        };
        let feature = |part: &str| outputs(&format!("feat_encoder.{part}"));
        let level = |index: usize| outputs(&format!("encoder.pyramid{index}.0.0"));
        let update = |part: &str| outputs(&format!("update4.{part}"));
        let config = Self {
            features: [
                feature("conv1")?,
                feature("layer1.0.conv3")?,
                feature("layer2.0.conv3")?,
                feature("layer3.0.conv3")?,
                feature("conv2")?,
            ],
            channels: [level(1)?, level(2)?, level(3)?, level(4)?],
            side: outputs("decoder4.convblock.1.conv2.0")?,
            // Three colours of each pair are mixed to twice as many channels.
            flows: outputs("comb_block.0")? / 6,
            update: [update("convc1")?, update("convf2")?, update("conv")?, update("gru.0")?],
        };
        let narrowest = config.channels.iter().map(|channels| 2 * channels).min().unwrap_or(0);
        if config.side > 0 && config.side < narrowest && config.flows > 0 {
            Ok(config)
        } else {
            Err(format!("{} side channels of {narrowest}, {} flows", config.side, config.flows))
        }
    }
}

/// A convolution and the slope of its channels below zero.
#[derive(Clone, Debug)]
struct Sloped {
    conv: Conv,
    slope: Tensor<1>,
}

impl Sloped {
    fn new(weights: &Weights, channels: [usize; 2], stride: usize) -> Self {
        let slope = slope(&weights.at(1), channels[1]);
        Self { conv: convolution(&weights.at(0), channels, 3, stride), slope }
    }

    fn forward(&self, x: Tensor<5>) -> Tensor<5> {
        prelu(self.conv.forward(x), self.slope.clone())
    }
}

fn slope(weights: &Weights, channels: usize) -> Tensor<1> {
    weights.tensor("weight", [channels], Init::Constant(PRELU))
}

/// A residual block whose last channels pass convolutions of their own.
#[derive(Clone, Debug)]
struct Block {
    side: usize,
    outer: [Sloped; 2],
    inner: [Sloped; 2],
    last: Conv,
    slope: Tensor<1>,
}

impl Block {
    fn new(weights: &Weights, channels: usize, side: usize) -> Self {
        let sloped = |name: &str, width: usize| Sloped::new(&weights.at(name), [width; 2], 1);
        Self {
            side,
            outer: [sloped("conv1", channels), sloped("conv3", channels)],
            inner: [sloped("conv2", side), sloped("conv4", side)],
            last: convolution(&weights.at("conv5"), [channels; 2], 3, 1),
            slope: slope(&weights.at("prelu"), channels),
        }
    }

    fn forward(&self, x: Tensor<5>) -> Tensor<5> {
        let mut y = x.clone();
        for (outer, inner) in self.outer.iter().zip(&self.inner) {
            y = outer.forward(y);
            let rest = y.dims()[1] - self.side;
            let own = inner.forward(y.clone().narrow(1, rest, self.side));
            y = Tensor::cat(vec![y.narrow(1, 0, rest), own], 1);
        }
        prelu(x + self.last.forward(y), self.slope.clone())
    }
}

/// A step of the decoder: what is known at one size to what is known at twice that.
#[derive(Clone, Debug)]
struct Decoder {
    first: Sloped,
    block: Block,
    weight: Tensor<4>,
    bias: Tensor<1>,
}

impl Decoder {
    /// With `width` channels inside.
    fn new(weights: &Weights, [inputs, width, outputs]: [usize; 3], side: usize) -> Self {
        let weights = weights.at("convblock");
        let last = weights.at(2);
        Self {
            first: Sloped::new(&weights.at(0), [inputs, width], 1),
            block: Block::new(&weights.at(1), width, side),
            weight: last.tensor(
                "weight",
                [width, outputs, 4, 4],
                Init::Normal((4.0 * width as f32).powf(-0.5)),
            ),
            bias: last.tensor("bias", [outputs], Init::Zeros),
        }
    }

    fn forward(&self, parts: Vec<Tensor<5>>) -> Tensor<5> {
        let x = self.block.forward(self.first.forward(Tensor::cat(parts, 1)));
        let options = ConvTransposeOptions::new([2, 2], [1, 1], [0, 0], [1, 1], 1);
        let (weight, bias) = (self.weight.clone(), self.bias.clone());
        conv_transpose2d(x.squeeze_dim::<4>(2), weight, Some(bias), options).unsqueeze_dim(2)
    }
}

/// What refines flows and features by correlations.
#[derive(Clone, Debug)]
struct Update {
    correlations: Conv,
    flows: [Conv; 2],
    both: Conv,
    state: [Conv; 2],
    features: [Conv; 2],
    flow: [Conv; 2],
}

impl Update {
    /// For features of `channels`.
    fn new(weights: &Weights, channels: usize, [correlation, flow, both, hidden]: [usize; 4]) -> Self {
        let conv = |name: &str, channels, kernel| convolution(&weights.at(name), channels, kernel, 1);
        let two = |name: &str, [inputs, width, outputs]: [usize; 3]| {
            let at = weights.at(name);
            [convolution(&at.at(0), [inputs, width], 3, 1), convolution(&at.at(2), [width, outputs], 3, 1)]
        };
        Self {
            correlations: conv("convc1", [2 * around(RADIUS), correlation], 1),
            flows: [conv("convf1", [4, 2 * flow], 7), conv("convf2", [2 * flow, flow], 3)],
            both: conv("conv", [correlation + flow, both], 3),
            state: two("gru", [both + 4 + channels, hidden, hidden]),
            features: two("feat_head", [hidden, hidden, channels]),
            flow: two("flow_head", [hidden, hidden, 4]),
        }
    }

    /// What is added to `features` and to both flows, from flows and correlations at an eighth of the
    /// pictures' size; features are `times` that size.
    fn forward(
        &self,
        features: Tensor<5>,
        flow: Tensor<5>,
        correlations: Tensor<5>,
        times: usize,
    ) -> [Tensor<5>; 2] {
        let bent = |x| leaky_relu(x, SLOPE);
        let two = |[first, second]: &[Conv; 2], x| second.forward(bent(first.forward(x)));
        let [_, _, _, rows, columns] = features.dims();
        let small = resized(features, [rows / times, columns / times]);
        let seen = bent(self.correlations.forward(correlations));
        let moved = bent(two(&self.flows, flow.clone()));
        let both = bent(self.both.forward(Tensor::cat(vec![seen, moved], 1)));
        let state = two(&self.state, Tensor::cat(vec![both, flow, small], 1));
        let size = [rows, columns];
        [
            resized(two(&self.features, state.clone()), size),
            resized(two(&self.flow, state), size) * times as f32,
        ]
    }
}

/// A residual block of the correlated features.
#[derive(Clone, Debug)]
struct Bottleneck {
    convs: [Conv; 3],
    downsample: Option<Conv>,
}

impl Bottleneck {
    fn new(weights: &Weights, [inputs, outputs]: [usize; 2], stride: usize) -> Self {
        let inner = outputs / 4;
        let conv =
            |name: &str, channels, kernel, stride| convolution(&weights.at(name), channels, kernel, stride);
        Self {
            convs: [
                conv("conv1", [inputs, inner], 1, 1),
                conv("conv2", [inner, inner], 3, stride),
                conv("conv3", [inner, outputs], 1, 1),
            ],
            downsample: (stride != 1).then(|| conv("downsample.0", [inputs, outputs], 1, stride)),
        }
    }

    fn forward(&self, x: Tensor<5>) -> Tensor<5> {
        let normed = |conv: &Conv, x| Norm::Instance.forward(conv.forward(x));
        let y = self.convs.iter().fold(x.clone(), |y, conv| relu(normed(conv, y)));
        let shortcut = match &self.downsample {
            Some(conv) => normed(conv, x),
            None => x,
        };
        relu(shortcut + y)
    }
}

/// Pictures to what is correlated, at an eighth of their size.
#[derive(Clone, Debug)]
struct Features {
    first: Conv,
    blocks: Vec<Bottleneck>,
    last: Conv,
}

impl Features {
    fn new(weights: &Weights, widths: [usize; 5]) -> Self {
        let mut blocks = Vec::new();
        for (stage, stride) in [1, 2, 2].into_iter().enumerate() {
            let at = weights.at(format!("layer{}", stage + 1));
            let [inputs, outputs] = [widths[stage], widths[stage + 1]];
            blocks.push(Bottleneck::new(&at.at(0), [inputs, outputs], stride));
            blocks.push(Bottleneck::new(&at.at(1), [outputs, outputs], 1));
        }
        Self {
            first: convolution(&weights.at("conv1"), [3, widths[0]], 7, 2),
            blocks,
            last: convolution(&weights.at("conv2"), [widths[3], widths[4]], 1, 1),
        }
    }

    fn forward(&self, x: Tensor<5>) -> Tensor<5> {
        let x = relu(Norm::Instance.forward(self.first.forward(x)));
        self.last.forward(self.blocks.iter().fold(x, |x, block| block.forward(x)))
    }
}

/// The whole network.
#[derive(Clone, Debug)]
pub struct Amt {
    flows: usize,
    features: Features,
    /// The levels of the pyramid, each two convolutions.
    pyramid: Vec<[Sloped; 2]>,
    /// From coarse to fine; the last makes all flows.
    decoders: Vec<Decoder>,
    /// One after each decoder but the last.
    updates: Vec<Update>,
    mix: [Conv; 2],
    slope: Tensor<1>,
}

/// What is known of the middle at one size.
struct Known {
    /// To the first picture, to the second: `(pairs, 2, 1, rows, columns)` pixels.
    flows: [Tensor<5>; 2],
    features: Tensor<5>,
}

impl Amt {
    /// Builds it from `weights`.
    pub fn new(weights: &Weights, config: &AmtConfig) -> Self {
        let AmtConfig { channels: [c1, c2, c3, c4], side, flows, update, .. } = *config;
        let level = |(index, [inputs, outputs]): (usize, [usize; 2])| {
            let at = weights.at(format!("encoder.pyramid{}", index + 1));
            [Sloped::new(&at.at(0), [inputs, outputs], 2), Sloped::new(&at.at(1), [outputs; 2], 1)]
        };
        let decoder =
            |index: usize, widths| Decoder::new(&weights.at(format!("decoder{index}")), widths, side);
        let step = |inputs: usize, outputs: usize| [3 * inputs + 4, 3 * inputs, outputs];
        let updated =
            |index: usize, channels| Update::new(&weights.at(format!("update{index}")), channels, update);
        let mix = weights.at("comb_block");
        Self {
            flows,
            features: Features::new(&weights.at("feat_encoder"), config.features),
            pyramid: [[3, c1], [c1, c2], [c2, c3], [c3, c4]].into_iter().enumerate().map(level).collect(),
            decoders: vec![
                decoder(4, [2 * c4 + 1, 2 * c4, c3 + 4]),
                decoder(3, step(c3, c2 + 4)),
                decoder(2, step(c2, c1 + 4)),
                decoder(1, step(c1, 8 * flows)),
            ],
            updates: vec![updated(4, c3), updated(3, c2), updated(2, c1)],
            mix: [
                convolution(&mix.at(0), [3 * flows, 6 * flows], 3, 1),
                convolution(&mix.at(2), [6 * flows, 3], 3, 1),
            ],
            slope: slope(&mix.at(1), 6 * flows),
        }
    }

    /// The pictures halfway between `from` and `to (pairs, 3, height, width)` in [0, 1], whose sides are
    /// multiples of [`MULTIPLE`] and at least [`SMALLEST`].
    pub fn middle(&self, from: Tensor<4>, to: Tensor<4>) -> Tensor<4> {
        let mean = (from.clone().mean_dims(&[1, 2, 3]) + to.clone().mean_dims(&[1, 2, 3])) / 2.0;
        let ends = [from, to].map(|picture| (picture - mean.clone()).unsqueeze_dim::<5>(2));
        let mean: Tensor<5> = mean.unsqueeze_dim(2);
        let [one, two] = [0, 1].map(|end: usize| self.features.forward(ends[end].clone()));
        let correlations = [
            Pyramid::new(Tensor::cat(vec![one.clone(), two.clone()], 0), RADIUS),
            Pyramid::new(Tensor::cat(vec![two, one], 0), RADIUS),
        ];
        let levels = ends.clone().map(|end| self.levels(end));
        let at = |level: usize| [levels[0][level].clone(), levels[1][level].clone()];

        let mut known = None;
        for (step, update) in self.updates.iter().enumerate() {
            let found = self.decoded(step, at(3 - step), known);
            known = Some(refined(update, found, &correlations, 1 << step));
        }
        let out = self.decoders[3].forward(parts(at(0), known.as_ref()));
        self.mixed(out, known.as_ref(), ends, mean)
    }

    /// A picture's features at falling sizes.
    fn levels(&self, picture: Tensor<5>) -> Vec<Tensor<5>> {
        let mut levels: Vec<Tensor<5>> = Vec::new();
        for [first, second] in &self.pyramid {
            let below = levels.last().unwrap_or(&picture).clone();
            levels.push(second.forward(first.forward(below)));
        }
        levels
    }

    /// A decoder's flows and features, at twice the size of the features of the ends.
    fn decoded(&self, step: usize, ends: [Tensor<5>; 2], known: Option<Known>) -> Known {
        let out = self.decoders[step].forward(parts(ends, known.as_ref()));
        let rest = out.dims()[1] - 4;
        Known { flows: flows(&out, 1, known.as_ref()), features: out.narrow(1, 4, rest) }
    }

    /// The picture that the last decoder's `out` makes of both ends.
    fn mixed(
        &self,
        out: Tensor<5>,
        known: Option<&Known>,
        ends: [Tensor<5>; 2],
        mean: Tensor<5>,
    ) -> Tensor<4> {
        let count = self.flows;
        let flows = flows(&out, count, known);
        let masks = sigmoid(out.clone().narrow(1, 4 * count, count));
        let one = |index: usize| {
            let [first, second] = [0, 1]
                .map(|end: usize| warped(ends[end].clone(), flows[end].clone().narrow(1, 2 * index, 2)));
            let mask = masks.clone().narrow(1, index, 1);
            let residual = out.clone().narrow(1, 5 * count + 3 * index, 3);
            mask.clone() * first + (-mask + 1.0) * second + mean.clone() + residual
        };
        let pictures: Vec<Tensor<5>> = (0..count).map(one).collect();
        let all = Tensor::cat(pictures.clone(), 1);
        let average = Tensor::stack::<6>(pictures, 0).mean_dim(0).squeeze_dim::<5>(0);
        let [first, second] = &self.mix;
        let mixed = average + second.forward(prelu(first.forward(all), self.slope.clone()));
        mixed.squeeze_dim::<4>(2).clamp(0.0, 1.0)
    }
}

/// What a decoder reads: the features of both ends, brought where the flows so far lead, and the middle's
/// own; on the first step, that the time is one half.
fn parts(ends: [Tensor<5>; 2], known: Option<&Known>) -> Vec<Tensor<5>> {
    let [one, two] = ends;
    match known {
        Some(Known { flows: [a, b], features }) => {
            vec![features.clone(), warped(one, a.clone()), warped(two, b.clone()), a.clone(), b.clone()]
        }
        None => {
            let [pairs, _, frames, rows, columns] = one.dims();
            let half = Tensor::full([pairs, 1, frames, rows, columns], 0.5, &one.device());
            vec![one, two, half]
        }
    }
}

/// What is known after an update; flows and features are `times` an eighth of the pictures' size.
fn refined(update: &Update, known: Known, pyramids: &[Pyramid; 2], times: usize) -> Known {
    let Known { flows: [one, two], features } = known;
    let [_, _, _, rows, columns] = one.dims();
    let small = |flow: &Tensor<5>| resized(flow.clone(), [rows / times, columns / times]) / times as f32;
    let (a, b) = (small(&one), small(&two));
    // Motion is taken to be straight: from end to end it is twice that from the middle.
    let device = features.device();
    let seen = vec![
        pyramids[0].around(&(b.clone() * WHOLE), &device),
        pyramids[1].around(&(a.clone() * WHOLE), &device),
    ];
    let flow = Tensor::cat(vec![a, b], 1);
    let [more, moved] = update.forward(features.clone(), flow, Tensor::cat(seen, 1), times);
    let flows = [one + moved.clone().narrow(1, 0, 2), two + moved.narrow(1, 2, 2)];
    Known { flows, features: features + more }
}

/// The flows to both ends that a decoder's `out` begins with, `count` to each, on top of what was known at
/// half the size.
fn flows(out: &Tensor<5>, count: usize, known: Option<&Known>) -> [Tensor<5>; 2] {
    [0, 1].map(|end: usize| {
        let own = out.clone().narrow(1, end * 2 * count, 2 * count);
        match known {
            Some(known) => own + doubled(known.flows[end].clone()).repeat_dim(1, count),
            None => own,
        }
    })
}

/// Flows for pictures of twice the size.
fn doubled(flow: Tensor<5>) -> Tensor<5> {
    let [_, _, _, rows, columns] = flow.dims();
    resized(flow, [2 * rows, 2 * columns]) * 2.0
}

/// `x (batch, channels, 1, rows, columns)` at another size, as PyTorch's bilinear interpolation has it:
/// corners are not aligned, nothing is smoothed.
fn resized(x: Tensor<5>, size: [usize; 2]) -> Tensor<5> {
    let [batch, channels, frames, rows, columns] = x.dims();
    if size == [rows, columns] {
        return x;
    }
    let device = x.device();
    let matrix = |from, to| resampling(&Torch::Bilinear.taps(from, to), from, &device);
    let down = matrix(rows, size[0]).unsqueeze::<3>();
    let across = matrix(columns, size[1]).transpose().unsqueeze::<3>();
    let flat = x.reshape([batch * channels * frames, rows, columns]);
    down.matmul(flat).matmul(across).reshape([batch, channels, frames, size[0], size[1]])
}

/// `x (pairs, channels, 1, rows, columns)` read where `flow (pairs, 2, 1, rows, columns)` leads; beyond its
/// edges are the edges.
fn warped(x: Tensor<5>, flow: Tensor<5>) -> Tensor<5> {
    let dims @ [pairs, channels, _, rows, columns] = x.dims();
    let device = x.device();
    let pixels = rows * columns;
    let (values, flow) = (host::values(x), host::values(flow));
    let mut out = vec![0.0; values.len()];
    for pair in 0..pairs {
        for place in 0..pixels {
            let led = |axis: usize, at: usize, side: usize| {
                let moved = flow[(pair * 2 + axis) * pixels + place] + at as f32;
                let inside = moved.clamp(0.0, (side - 1) as f32);
                let first = inside as usize;
                (first, (first + 1).min(side - 1), inside - first as f32)
            };
            let (left, right, across) = led(0, place % columns, columns);
            let (top, bottom, down) = led(1, place / columns, rows);
            for channel in 0..channels {
                let at = (pair * channels + channel) * pixels;
                let line = |row: usize| {
                    let start = at + row * columns;
                    (1.0 - across) * values[start + left] + across * values[start + right]
                };
                out[at + place] = (1.0 - down) * line(top) + down * line(bottom);
            }
        }
    }
    Tensor::from_data(TensorData::new(out, dims), &device)
}
