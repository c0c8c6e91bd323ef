//! Convolution over pictures whose channels lie together: (batch, rows, columns, channels).
//!
//! Products run over channels, so no column matrix is built: the rows of a product are the channels of pixels
//! as they lie in the padded picture.

mod direct;
#[cfg(test)]
mod tests;
mod weight;
mod winograd;

pub use weight::ConvWeight;

use crate::conv::{Conv3dShape, conv3d_backward_data, conv3d_backward_weight, conv3d_forward};
use crate::floats::Floats;
use crate::layout::transpose_heads;
use crate::matmul::Precision;
use crate::par::{self, Buffer, Shared};

/// Sizes of a convolution over channels-last pictures; axes in the order rows, columns.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Conv2dShape {
    /// Batch items.
    pub batch: usize,
    /// Channels of the input.
    pub inputs: usize,
    /// Channels of the output.
    pub outputs: usize,
    /// Extent of the input.
    pub extent: [usize; 2],
    /// Extent of the kernel.
    pub kernel: [usize; 2],
    /// Step between output positions.
    pub stride: usize,
    /// Zeros around the input, on each side.
    pub padding: usize,
}

impl Conv2dShape {
    /// Extent of the output.
    ///
    /// # Panics
    ///
    /// If the kernel is larger than the padded input.
    pub fn output(&self) -> [usize; 2] {
        let [_, rows, columns] = self.in_space().output();
        [rows, columns]
    }

    fn in_space(&self) -> Conv3dShape {
        let pad = [0, self.padding, self.padding];
        Conv3dShape {
            batch: self.batch,
            in_channels: self.inputs,
            out_channels: self.outputs,
            input: [1, self.extent[0], self.extent[1]],
            kernel: [1, self.kernel[0], self.kernel[1]],
            stride: [1, self.stride, self.stride],
            pad_front: pad,
            pad_back: pad,
        }
    }

    fn input_len(&self) -> usize {
        self.batch * self.inputs * self.extent.iter().product::<usize>()
    }

    fn output_len(&self) -> usize {
        self.batch * self.outputs * self.output().iter().product::<usize>()
    }
}

/// Convolution (cross-correlation, as in deep learning) with zero padding: `x` (batch, rows, columns,
/// inputs), `bias` (outputs) or, one for each item, (batch, outputs); gives (batch, output rows, output
/// columns, outputs).
///
/// # Panics
///
/// If a length does not fit `shape`.
pub fn conv2d_forward(
    x: &[f32],
    weight: &ConvWeight,
    bias: &[f32],
    shape: &Conv2dShape,
    precision: Precision,
) -> Floats {
    assert_eq!(x.len(), shape.input_len(), "conv2d: length of x");
    let of_weight = (weight.inputs(), weight.outputs(), weight.kernel());
    assert_eq!(of_weight, (shape.inputs, shape.outputs, shape.kernel), "conv2d: extents of the weight");
    let each = shape.batch * shape.outputs;
    assert!([shape.outputs, each].contains(&bias.len()), "conv2d: length of bias");
    let mut y = Floats::unspecified(shape.output_len());
    if y.is_empty() {
        return y;
    }
    match precision {
        Precision::Bf16 => rounded(x, weight, bias, shape, &mut y),
        Precision::F32 => {
            if !winograd::run(x, weight, bias, shape, &mut y) {
                direct::run(x, weight, bias, shape, &mut y);
            }
        }
    }
    y
}

/// The forward pass in bf16, by the convolution over channels that lie apart.
fn rounded(x: &[f32], weight: &ConvWeight, bias: &[f32], shape: &Conv2dShape, y: &mut [f32]) {
    let weight = weight.unpacked();
    let x = channels_first(x, shape.batch, shape.inputs);
    let apart = conv3d_forward(&x, &weight, None, &shape.in_space(), Precision::Bf16);
    let positions = shape.output().iter().product();
    transpose_heads(&apart, shape.batch, shape.outputs, positions, 1, y);
    let item = positions * shape.outputs;
    let out = Shared::new(y);
    par::for_each(shape.batch, |index| {
        // SAFETY: each task writes its own item.
        let y = unsafe { out.slice(index * item, item) };
        let bias = item_bias(bias, index, shape.outputs);
        y.chunks_exact_mut(shape.outputs)
            .for_each(|y| y.iter_mut().zip(bias).for_each(|(y, bias)| *y += bias));
    });
}

/// The bias of one item.
fn item_bias(bias: &[f32], item: usize, outputs: usize) -> &[f32] {
    if bias.len() == outputs { bias } else { &bias[item * outputs..(item + 1) * outputs] }
}

/// `x` (batch, positions, channels) as (batch, channels, positions).
fn channels_first(x: &[f32], batch: usize, channels: usize) -> Floats {
    let mut out = Floats::unspecified(x.len());
    transpose_heads(x, batch, x.len() / (batch * channels).max(1), channels, 1, &mut out);
    out
}

/// Gradient of [`conv2d_forward`] with respect to its input, from `weight` (outputs, inputs, rows, columns).
///
/// # Panics
///
/// If a length does not fit `shape`.
pub fn conv2d_backward_data(dy: &[f32], weight: &[f32], shape: &Conv2dShape, precision: Precision) -> Floats {
    let dy = channels_first(dy, shape.batch, shape.outputs);
    let apart = conv3d_backward_data(&dy, weight, &shape.in_space(), precision);
    let mut dx = Floats::unspecified(shape.input_len());
    let positions = shape.extent.iter().product();
    transpose_heads(&apart, shape.batch, shape.inputs, positions, 1, &mut dx);
    dx
}

/// Gradient of [`conv2d_forward`] with respect to its weight, (outputs, inputs, rows, columns).
///
/// # Panics
///
/// If a length does not fit `shape`.
pub fn conv2d_backward_weight(x: &[f32], dy: &[f32], shape: &Conv2dShape, precision: Precision) -> Vec<f32> {
    let x = channels_first(x, shape.batch, shape.inputs);
    let dy = channels_first(dy, shape.batch, shape.outputs);
    conv3d_backward_weight(&x, &dy, &shape.in_space(), precision).0
}

/// Pictures (batch, rows, columns, channels) with zeros before and behind.
struct Padded {
    data: Buffer<f32>,
    /// Extent with the zeros.
    extent: [usize; 2],
}

impl Padded {
    /// `x` with `before` zeros in front of both axes, in a picture of `extent`.
    fn new(x: &[f32], shape: &Conv2dShape, before: usize, extent: [usize; 2]) -> Self {
        let [rows, columns] = shape.extent;
        let (line, wide) = (columns * shape.inputs, extent[1] * shape.inputs);
        let mut data = Buffer::<f32>::new(shape.batch * extent[0] * wide);
        let out = Shared::new(&mut data);
        par::for_each(shape.batch * extent[0], |at| {
            let (item, row) = (at / extent[0], at % extent[0]);
            // SAFETY: each task writes its own row.
            let out = unsafe { out.slice(at * wide, wide) };
            match row.checked_sub(before).filter(|&row| row < rows) {
                None => out.fill(0.0),
                Some(row) => {
                    let (front, rest) = out.split_at_mut(before * shape.inputs);
                    let (middle, back) = rest.split_at_mut(line);
                    front.fill(0.0);
                    middle.copy_from_slice(&x[(item * rows + row) * line..][..line]);
                    back.fill(0.0);
                }
            }
        });
        Self { data, extent }
    }
}
