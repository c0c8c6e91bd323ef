//! IResNet, the residual network of ArcFace, and its additive angular margin loss.
//!
//! Layout and names are those of insightface's published PyTorch checkpoints (Deng et al., "ArcFace:
//! Additive Angular Margin Loss for Deep Face Recognition", 2019).

use burn::tensor::activation::log_softmax;
use burn::tensor::{Int, Tensor};
use serde::{Deserialize, Serialize};
use understudy_engine::attach::Attachments;
use understudy_engine::ops::{self, Conv3dOptions};
use understudy_engine::weights::{Init, Weights};

use crate::layers::{Conv, Linear};

/// The shape of an IResNet. IResNet-50 is `[3, 4, 14, 3]`, widths `[64, 128, 256, 512]`, size 112.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct IResNetConfig {
    /// Blocks of each stage.
    pub layers: [usize; 4],
    /// Channels of each stage.
    pub widths: [usize; 4],
    /// Side of the picture; each stage halves it.
    pub size: usize,
    /// Channels of the embedding.
    pub embedding: usize,
}

impl IResNetConfig {
    /// What a checkpoint of these shapes must be: `shape` gives the extents of a tensor, if there is one.
    ///
    /// # Errors
    /// Names the tensor that is missing or has an impossible shape.
    pub fn of_shapes(shape: impl Fn(&str) -> Option<Vec<usize>>) -> Result<Self, String> {
        let extent = |name: &str, axis: usize| {
            let found = shape(name).ok_or_else(|| format!("tensor {name} is missing"))?;
            found.get(axis).copied().ok_or_else(|| format!("tensor {name} has shape {found:?}"))
        };
        let (mut layers, mut widths) = ([0; 4], [0; 4]);
        for stage in 0..4 {
            let block = |index: usize| format!("layer{}.{index}.conv1.weight", stage + 1);
            layers[stage] = (0..).take_while(|&index| shape(&block(index)).is_some()).count();
            widths[stage] = extent(&block(0), 0)?;
        }
        let inputs = extent("fc.weight", 1)?;
        let side = (inputs / widths[3].max(1)).isqrt();
        if side == 0 || side * side * widths[3] != inputs {
            return Err(format!("tensor fc.weight: {inputs} inputs are no square of {} channels", widths[3]));
        }
        Ok(Self { layers, widths, size: 16 * side, embedding: extent("fc.weight", 0)? })
    }
}

const EPS: f32 = 1e-5;

/// Running statistics a training pass wants to be updated: path of the layer, batch mean, and unbiased batch
/// variance.
pub type BatchStatistics = Vec<(String, Tensor<1>, Tensor<1>)>;

/// How batch normalization works in one pass.
enum Mode<'a> {
    Evaluate,
    Train(&'a mut BatchStatistics),
}

#[derive(Clone, Debug)]
struct BatchNorm {
    path: String,
    weight: Tensor<1>,
    bias: Tensor<1>,
    mean: Tensor<1>,
    variance: Tensor<1>,
}

impl BatchNorm {
    fn new(weights: &Weights, channels: usize) -> Self {
        weights.ignore("num_batches_tracked");
        Self {
            path: weights.path(""),
            weight: weights.tensor("weight", [channels], Init::Ones),
            bias: weights.tensor("bias", [channels], Init::Zeros),
            mean: weights.tensor("running_mean", [channels], Init::Zeros).detach(),
            variance: weights.tensor("running_var", [channels], Init::Ones).detach(),
        }
    }

    /// `x (batch, channels, frames, rows, columns)`.
    fn forward(&self, x: Tensor<5>, mode: &mut Mode) -> Tensor<5> {
        match mode {
            Mode::Evaluate => self.evaluate(x),
            Mode::Train(statistics) => {
                let dims = x.dims();
                let count = (dims[0] * dims[2] * dims[3] * dims[4]) as f32;
                let found = ops::batch_norm_train(x, self.weight.clone(), self.bias.clone(), EPS);
                // The published momentum update uses the unbiased variance.
                let unbiased = found.variance * (count / (count - 1.0));
                statistics.push((self.path.clone(), found.mean, unbiased));
                found.output
            }
        }
    }

    fn evaluate(&self, x: Tensor<5>) -> Tensor<5> {
        let channels = self.mean.dims()[0];
        let gain = self.weight.clone() / (self.variance.clone() + EPS).sqrt();
        let offset = self.bias.clone() - self.mean.clone() * gain.clone();
        x * gain.reshape([1, channels, 1, 1, 1]) + offset.reshape([1, channels, 1, 1, 1])
    }
}

/// A rectifier with a learned slope per channel.
#[derive(Clone, Debug)]
struct Prelu {
    weight: Tensor<1>,
}

impl Prelu {
    fn new(weights: &Weights, channels: usize) -> Self {
        Self { weight: weights.tensor("weight", [channels], Init::Constant(0.25)) }
    }

    fn forward(&self, x: Tensor<5>) -> Tensor<5> {
        ops::prelu(x, self.weight.clone())
    }
}

fn convolution(weights: &Weights, channels: [usize; 2], kernel: usize, stride: usize) -> Conv {
    let side = (kernel / 2, kernel / 2);
    let options = Conv3dOptions { stride: [1, stride, stride], padding: [(0, 0), side, side] };
    Conv::new_2d(weights, channels, kernel, false, options)
}

#[derive(Clone, Debug)]
struct Block {
    bn1: BatchNorm,
    conv1: Conv,
    bn2: BatchNorm,
    prelu: Prelu,
    conv2: Conv,
    bn3: BatchNorm,
    downsample: Option<(Conv, BatchNorm)>,
}

impl Block {
    fn new(weights: &Weights, inputs: usize, outputs: usize, stride: usize) -> Self {
        let downsample = || {
            let conv = convolution(&weights.at("downsample.0"), [inputs, outputs], 1, stride);
            (conv, BatchNorm::new(&weights.at("downsample.1"), outputs))
        };
        Self {
            bn1: BatchNorm::new(&weights.at("bn1"), inputs),
            conv1: convolution(&weights.at("conv1"), [inputs, outputs], 3, 1),
            bn2: BatchNorm::new(&weights.at("bn2"), outputs),
            prelu: Prelu::new(&weights.at("prelu"), outputs),
            conv2: convolution(&weights.at("conv2"), [outputs, outputs], 3, stride),
            bn3: BatchNorm::new(&weights.at("bn3"), outputs),
            downsample: (stride != 1 || inputs != outputs).then(downsample),
        }
    }

    fn forward(&self, x: Tensor<5>, mode: &mut Mode) -> Tensor<5> {
        let hidden = self.conv1.forward(self.bn1.forward(x.clone(), mode));
        let hidden = self.prelu.forward(self.bn2.forward(hidden, mode));
        let hidden = self.bn3.forward(self.conv2.forward(hidden), mode);
        let shortcut = match &self.downsample {
            Some((conv, norm)) => norm.forward(conv.forward(x), mode),
            None => x,
        };
        hidden + shortcut
    }
}

/// The whole network.
#[derive(Clone, Debug)]
pub struct IResNet {
    config: IResNetConfig,
    conv1: Conv,
    bn1: BatchNorm,
    prelu: Prelu,
    blocks: Vec<Block>,
    bn2: BatchNorm,
    fc: Linear,
    features: BatchNorm,
}

impl IResNet {
    /// Builds the network from `weights`.
    pub fn new(weights: &Weights, config: &IResNetConfig) -> Self {
        let mut channels = config.widths[0];
        let mut blocks = Vec::new();
        for (stage, (&depth, &width)) in config.layers.iter().zip(&config.widths).enumerate() {
            let at = weights.at(format!("layer{}", stage + 1));
            for index in 0..depth {
                let stride = if index == 0 { 2 } else { 1 };
                blocks.push(Block::new(&at.at(index), channels, width, stride));
                channels = width;
            }
        }
        let side = config.size.div_ceil(16);
        let [stem, last] = [config.widths[0], channels];
        let mut features = BatchNorm::new(&weights.at("features"), config.embedding);
        // Published as a weight of one that is never trained.
        features.weight = features.weight.detach();
        Self {
            config: config.clone(),
            conv1: convolution(&weights.at("conv1"), [3, stem], 3, 1),
            bn1: BatchNorm::new(&weights.at("bn1"), stem),
            prelu: Prelu::new(&weights.at("prelu"), stem),
            blocks,
            bn2: BatchNorm::new(&weights.at("bn2"), last),
            fc: Linear::new(&weights.at("fc"), last * side * side, config.embedding, true),
            features,
        }
    }

    /// The configuration it was built with.
    pub fn config(&self) -> &IResNetConfig {
        &self.config
    }

    /// Embeds `pixels (batch, 3, size, size)` in [-1, 1] with running statistics; `(batch, embedding)`, not
    /// normalized.
    pub fn forward(&self, pixels: Tensor<4>) -> Tensor<2> {
        self.run(pixels, &mut Mode::Evaluate)
    }

    /// The same with batch statistics, which are given back so that the running ones can follow them.
    pub fn forward_train(&self, pixels: Tensor<4>) -> (Tensor<2>, BatchStatistics) {
        let mut statistics = Vec::new();
        let output = self.run(pixels, &mut Mode::Train(&mut statistics));
        (output, statistics)
    }

    /// What [`IResNet::forward`] gives, and before it what every block makes of the picture,
    /// `(batch, channels, 1, rows, columns)` each.
    pub fn features(&self, pixels: Tensor<4>) -> (Vec<Tensor<5>>, Tensor<2>) {
        let mode = &mut Mode::Evaluate;
        let mut x = self.stem(pixels, mode);
        let mut features = Vec::with_capacity(self.blocks.len());
        for block in &self.blocks {
            x = block.forward(x, mode);
            features.push(x.clone());
        }
        (features, self.head(x, mode))
    }

    fn run(&self, pixels: Tensor<4>, mode: &mut Mode) -> Tensor<2> {
        let x = self.stem(pixels, mode);
        let x = self.blocks.iter().fold(x, |x, block| block.forward(x, mode));
        self.head(x, mode)
    }

    fn stem(&self, pixels: Tensor<4>, mode: &mut Mode) -> Tensor<5> {
        let x = self.conv1.forward(pixels.unsqueeze_dim(2));
        self.prelu.forward(self.bn1.forward(x, mode))
    }

    fn head(&self, x: Tensor<5>, mode: &mut Mode) -> Tensor<2> {
        let x = self.bn2.forward(x, mode);
        let [batch, channels, _, rows, columns] = x.dims();
        let flat = x.reshape([batch, channels * rows * columns]);
        let embedding = self.fc.forward(flat, &Attachments::none());
        let embedding = embedding.reshape([batch, self.config.embedding, 1, 1, 1]);
        self.features.forward(embedding, mode).reshape([batch, self.config.embedding])
    }
}

/// Rows of `x (rows, channels)` scaled to length one.
pub fn normalize_rows(x: Tensor<2>) -> Tensor<2> {
    let norm = x.clone().powi_scalar(2).sum_dim(1).clamp_min(1e-24).sqrt();
    x / norm
}

/// The additive angular margin loss: cross entropy over `scale * cos(theta)`, where the angle to the own
/// class is widened by `margin`. `embeddings (batch, channels)`, `classes (classes, channels)`,
/// `labels (batch)`. Past `pi - margin` the target goes on linearly, so that it always falls with the angle.
pub fn arcface_loss(
    embeddings: Tensor<2>,
    classes: Tensor<2>,
    labels: Tensor<1, Int>,
    scale: f32,
    margin: f32,
) -> Tensor<1> {
    let cosines = normalize_rows(embeddings).matmul(normalize_rows(classes).transpose());
    let labels = labels.unsqueeze_dim::<2>(1);
    let own = cosines.clone().gather(1, labels.clone());
    let sine = (-own.clone().powi_scalar(2) + 1.0).clamp_min(1e-12).sqrt();
    let widened = own.clone() * margin.cos() - sine * margin.sin();
    let beyond = own.clone() - margin * (std::f32::consts::PI - margin).sin();
    let near = own.clone().greater_elem((std::f32::consts::PI - margin).cos());
    let target = beyond.mask_where(near, widened);
    let logits =
        cosines.scatter(1, labels.clone(), target - own, burn::tensor::IndexingUpdateOp::Add) * scale;
    -log_softmax(logits, 1).gather(1, labels).mean()
}
