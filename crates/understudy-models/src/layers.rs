//! Layers every network is made of. Each knows its published path, which is also its site's name.

use burn::tensor::{Device, Int, Tensor, TensorData};
use understudy_engine::attach::{Attachments, AttentionInputs};
use understudy_engine::host;
use understudy_engine::ops::{self, Activation, Conv2dOptions, Conv3dOptions, GroupNormOptions};
use understudy_engine::weights::{Init, Origin, Weights};
use understudy_kernels::resample::Taps;

/// A linear map `x W^T + b`, and a site for low-rank residuals.
#[derive(Clone, Debug)]
pub struct Linear {
    site: String,
    weight: ops::Weight,
    bias: Option<Tensor<1>>,
}

impl Linear {
    /// A map from `inputs` to `outputs`, its weight `(outputs, inputs)`; from scratch it starts with
    /// variance `1 / inputs` and zero bias.
    pub fn new(weights: &Weights, inputs: usize, outputs: usize, bias: bool) -> Self {
        Self::with_init(weights, inputs, outputs, bias, Init::Normal((inputs as f32).powf(-0.5)))
    }

    /// The same with another start.
    pub fn with_init(weights: &Weights, inputs: usize, outputs: usize, bias: bool, init: Init) -> Self {
        weights.site([outputs, inputs], None);
        Self {
            site: weights.path(""),
            weight: ops::Weight::new(weights.tensor("weight", [outputs, inputs], init)),
            bias: bias.then(|| weights.tensor("bias", [outputs], Init::Zeros)),
        }
    }

    /// A map that is published as a convolution of shape `[outputs, inputs, frames, rows, columns]`, or
    /// without frames, whose stride is its kernel: what it sees of `x` is a patch as a row.
    pub fn of_patches<const D: usize>(weights: &Weights, shape: [usize; D]) -> Self {
        let (outputs, inputs) = (shape[0], shape[1..].iter().product::<usize>());
        let kernel = match shape[2..] {
            [frames, rows, columns] => [frames, rows, columns],
            [rows, columns] => [1, rows, columns],
            _ => [1; 3],
        };
        weights.site([outputs, inputs], Some(kernel));
        let weight = weights.tensor("weight", shape, Init::Normal((inputs as f32).powf(-0.5)));
        let bias = weights.tensor("bias", [outputs], Init::Zeros);
        Self::from_parts(weights.path(""), weight.reshape([outputs, inputs]), bias)
    }

    /// A map from tensors already at hand; `weight` is `(outputs, inputs)`.
    pub fn from_parts(site: String, weight: Tensor<2>, bias: Tensor<1>) -> Self {
        Self { site, weight: ops::Weight::new(weight), bias: Some(bias) }
    }

    /// The published path.
    pub fn site(&self) -> &str {
        &self.site
    }

    /// `x (..., inputs)` to `(..., outputs)`, with whatever is attached here.
    pub fn forward<const D: usize>(&self, x: Tensor<D>, attachments: &Attachments) -> Tensor<D> {
        attachments.linear(&self.site, (&self.weight, self.bias.as_ref()), x)
    }

    /// The same, and `activation` of it.
    pub fn forward_then<const D: usize>(
        &self,
        x: Tensor<D>,
        attachments: &Attachments,
        activation: Activation,
    ) -> Tensor<D> {
        attachments.linear_then(&self.site, (&self.weight, self.bias.as_ref()), x, activation)
    }
}

/// Layer normalization over the last dimension, in f32.
#[derive(Clone, Debug)]
pub struct LayerNorm {
    affine: Option<(Tensor<1>, Tensor<1>)>,
    eps: f32,
}

impl LayerNorm {
    /// With a learned scale and shift.
    pub fn affine(weights: &Weights, channels: usize, eps: f32) -> Self {
        let weight = weights.tensor("weight", [channels], Init::Ones);
        let bias = weights.tensor("bias", [channels], Init::Zeros);
        Self { affine: Some((weight, bias)), eps }
    }

    /// Without any parameters.
    pub fn plain(eps: f32) -> Self {
        Self { affine: None, eps }
    }

    /// Normalizes `x (..., channels)`.
    pub fn forward<const D: usize>(&self, x: Tensor<D>) -> Tensor<D> {
        let (weight, bias) = self.affine.clone().unzip();
        ops::layer_norm(x, weight, bias, self.eps)
    }
}

/// Root-mean-square normalization over the last dimension.
#[derive(Clone, Debug)]
pub struct RmsNorm {
    weight: Tensor<1>,
    eps: f32,
}

impl RmsNorm {
    /// Over `channels`, with a learned scale.
    pub fn new(weights: &Weights, channels: usize, eps: f32) -> Self {
        Self { weight: weights.tensor("weight", [channels], Init::Ones), eps }
    }

    /// Normalizes `x (..., channels)`.
    pub fn forward<const D: usize>(&self, x: Tensor<D>) -> Tensor<D> {
        ops::rms_norm(x, self.weight.clone(), self.eps)
    }
}

/// Group normalization of pictures whose channels lie together.
#[derive(Clone, Debug)]
pub struct GroupNorm {
    weight: Tensor<1>,
    bias: Tensor<1>,
    groups: usize,
    eps: f32,
}

impl GroupNorm {
    /// Over `groups` of `channels`, with a learned scale and shift.
    pub fn new(weights: &Weights, channels: usize, groups: usize, eps: f32) -> Self {
        let weight = weights.tensor("weight", [channels], Init::Ones);
        let bias = weights.tensor("bias", [channels], Init::Zeros);
        Self { weight, bias, groups, eps }
    }

    /// Normalizes `x (batch, rows, columns, channels)`.
    pub fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        self.followed(x, false)
    }

    /// The same, and the SiLU after it.
    pub fn forward_silu(&self, x: Tensor<4>) -> Tensor<4> {
        self.followed(x, true)
    }

    fn followed(&self, x: Tensor<4>, silu: bool) -> Tensor<4> {
        let options = GroupNormOptions { groups: self.groups, eps: self.eps, silu };
        ops::group_norm(x, self.weight.clone(), self.bias.clone(), options)
    }
}

/// A convolution over pictures whose channels lie together, `(batch, rows, columns, channels)`, and a site
/// for low-rank residuals.
#[derive(Clone, Debug)]
pub struct Conv2d {
    site: String,
    weight: ops::Conv2dWeight,
    bias: Tensor<2>,
    options: Conv2dOptions,
}

impl Conv2d {
    /// With a square kernel of an odd side, keeping the extent but for its stride.
    pub fn new(weights: &Weights, channels: [usize; 2], kernel: usize, stride: usize) -> Self {
        Self::with_options(weights, channels, kernel, Conv2dOptions { stride, padding: kernel / 2 })
    }

    /// The same with another padding.
    pub fn with_options(
        weights: &Weights,
        [inputs, outputs]: [usize; 2],
        kernel: usize,
        options: Conv2dOptions,
    ) -> Self {
        let init = conv_init(inputs, &[kernel; 2]);
        let weight = weights.tensor("weight", [outputs, inputs, kernel, kernel], init);
        Self::from_parts(weights, weight, options)
    }

    /// The same with its `weight (outputs, inputs, rows, columns)` at hand and its bias from `weights`.
    pub fn from_parts(weights: &Weights, weight: Tensor<4>, options: Conv2dOptions) -> Self {
        let [outputs, inputs, rows, columns] = weight.dims();
        weights.site([outputs, inputs * rows * columns], Some([1, rows, columns]));
        let bias = weights.tensor("bias", [outputs], Init::Zeros).reshape([1, outputs]);
        Self { site: weights.path(""), weight: ops::Conv2dWeight::new(weight), bias, options }
    }

    /// Applies the convolution to `x (batch, rows, columns, inputs)`, with whatever is attached here.
    pub fn forward(&self, x: Tensor<4>, attachments: &Attachments) -> Tensor<4> {
        attachments.conv2d(&self.site, (&self.weight, self.bias.clone()), x, self.options)
    }

    /// The same plus `shift (batch, outputs)` everywhere.
    pub fn forward_moved(&self, x: Tensor<4>, shift: Tensor<2>, attachments: &Attachments) -> Tensor<4> {
        attachments.conv2d(&self.site, (&self.weight, self.bias.clone() + shift), x, self.options)
    }
}

/// A table of vectors looked up by index.
#[derive(Clone, Debug)]
pub struct Embedding {
    table: Table,
}

/// Where the rows are.
#[derive(Clone)]
enum Table {
    Held(Tensor<2>),
    /// In the store, from which rows are read when they are asked for.
    OnHost {
        origin: Origin,
        shape: [usize; 2],
    },
}

impl std::fmt::Debug for Table {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        match self {
            Self::Held(weight) => weight.fmt(f),
            Self::OnHost { shape, .. } => write!(f, "{shape:?} on the host"),
        }
    }
}

impl Embedding {
    /// `rows` vectors of `channels`.
    pub fn new(weights: &Weights, rows: usize, channels: usize, deviation: f32) -> Self {
        Self { table: Table::Held(weights.tensor("weight", [rows, channels], Init::Normal(deviation))) }
    }

    /// The same for a table so large that it stays in the store where blocks do.
    pub fn large(weights: &Weights, rows: usize, channels: usize, deviation: f32) -> Self {
        match weights.origin().filter(|_| weights.on_host() > 0) {
            None => Self::new(weights, rows, channels, deviation),
            Some(origin) => {
                Self::new(&weights.headers(), rows, channels, deviation);
                Self { table: Table::OnHost { origin, shape: [rows, channels] } }
            }
        }
    }

    /// The rows `indices (batch, tokens)`, `(batch, tokens, channels)`.
    pub fn forward(&self, indices: Tensor<2, Int>) -> Tensor<3> {
        match &self.table {
            Table::Held(weight) => burn::tensor::module::embedding(weight.clone(), indices),
            Table::OnHost { origin, shape } => {
                let [batch, tokens] = indices.dims();
                let wanted: Vec<usize> =
                    host::integers(indices).into_iter().map(|index| index as usize).collect();
                origin.rows("weight", *shape, &wanted).reshape([batch, tokens, shape[1]])
            }
        }
    }

    /// Where it computes.
    pub fn device(&self) -> Device {
        match &self.table {
            Table::Held(weight) => weight.device(),
            Table::OnHost { origin, .. } => origin.device().clone(),
        }
    }
}

/// A convolution over `(batch, channels, frames, height, width)`; a picture's is one with kernel depth 1.
#[derive(Clone, Debug)]
pub struct Conv {
    weight: Tensor<5>,
    bias: Option<Tensor<1>>,
    options: Conv3dOptions,
}

impl Conv {
    /// A 3-D convolution.
    pub fn new_3d(
        weights: &Weights,
        [inputs, outputs]: [usize; 2],
        kernel: [usize; 3],
        bias: bool,
        options: Conv3dOptions,
    ) -> Self {
        let init = conv_init(inputs, &kernel);
        let shape = [outputs, inputs, kernel[0], kernel[1], kernel[2]];
        Self::with_init_3d(weights, shape, bias, options, init)
    }

    /// The same with its weight's shape `(outputs, inputs, frames, rows, columns)` and another start.
    pub fn with_init_3d(
        weights: &Weights,
        shape: [usize; 5],
        bias: bool,
        options: Conv3dOptions,
        init: Init,
    ) -> Self {
        Self {
            weight: weights.tensor("weight", shape, init),
            bias: bias.then(|| weights.tensor("bias", [shape[0]], Init::Zeros)),
            options,
        }
    }

    /// A 2-D convolution, applied to every frame.
    pub fn new_2d(
        weights: &Weights,
        [inputs, outputs]: [usize; 2],
        kernel: usize,
        bias: bool,
        options: Conv3dOptions,
    ) -> Self {
        Self::new_rectangular(weights, [inputs, outputs], [kernel; 2], bias, options)
    }

    /// The same with a kernel of so many rows and columns.
    pub fn new_rectangular(
        weights: &Weights,
        [inputs, outputs]: [usize; 2],
        kernel @ [rows, columns]: [usize; 2],
        bias: bool,
        options: Conv3dOptions,
    ) -> Self {
        let init = conv_init(inputs, &kernel);
        let weight = weights.tensor("weight", [outputs, inputs, rows, columns], init);
        Self {
            weight: weight.reshape([outputs, inputs, 1, rows, columns]),
            bias: bias.then(|| weights.tensor("bias", [outputs], Init::Zeros)),
            options,
        }
    }

    /// Applies the convolution.
    pub fn forward(&self, x: Tensor<5>) -> Tensor<5> {
        self.forward_padded(x, self.options.padding[0])
    }

    /// The same with another padding of the frames, for causal streaming.
    pub fn forward_padded(&self, x: Tensor<5>, frames: (usize, usize)) -> Tensor<5> {
        let mut options = self.options;
        options.padding[0] = frames;
        ops::conv3d(x, self.weight.clone(), self.bias.clone(), options)
    }
}

fn conv_init(inputs: usize, kernel: &[usize]) -> Init {
    Init::Normal(((inputs * kernel.iter().product::<usize>()) as f32).powf(-0.5))
}

/// `(batch, tokens, heads * dim)` to `(batch, heads, tokens, dim)`.
pub fn split_heads(x: Tensor<3>, heads: usize) -> Tensor<4> {
    let [batch, tokens, channels] = x.dims();
    x.reshape([batch, tokens, heads, channels / heads]).swap_dims(1, 2)
}

/// `(batch, heads, tokens, dim)` to `(batch, tokens, heads * dim)`.
pub fn join_heads(x: Tensor<4>) -> Tensor<3> {
    let [batch, heads, tokens, dim] = x.dims();
    x.swap_dims(1, 2).reshape([batch, tokens, heads * dim])
}

/// Queries, keys and values `(batch, tokens, heads * dim)` as what hooks the attention at `site` leaves them.
pub(crate) fn hooked_heads(
    site: &str,
    heads: usize,
    inputs: [Tensor<3>; 3],
    attachments: &Attachments,
) -> [Tensor<3>; 3] {
    let [query, key, value] = inputs.map(|x| split_heads(x, heads));
    let AttentionInputs { query, key, value } =
        attachments.attention(site, AttentionInputs { query, key, value });
    [query, key, value].map(join_heads)
}

/// The matrix `(to, from)` that takes `from` samples to those of `taps`.
pub(crate) fn resampling(taps: &[Taps<f32>], from: usize, device: &Device) -> Tensor<2> {
    let row = |taps: &Taps<f32>| {
        let mut row = vec![0.0; from];
        taps.iter().for_each(|(source, weight)| row[*source] += weight);
        row
    };
    let weights: Vec<f32> = taps.iter().flat_map(row).collect();
    Tensor::from_data(TensorData::new(weights, [taps.len(), from]), device)
}
