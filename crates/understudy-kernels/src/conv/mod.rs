//! Convolution over depth, height and width, with its gradients.
//!
//! Forward and backward-data are one operation, a *gather* (see [`gather`]): every output position sums
//! weighted inputs at fixed offsets. Backward-data of a strided convolution is one gather for each residue of
//! the position modulo the stride, so no product with an inserted zero is ever computed.

mod columns;
mod direct;
mod direct_weight;
mod gather;
#[cfg(test)]
mod tests;
mod weight;

use crate::floats::Floats;
use crate::matmul::Precision;
use gather::{Gather, Grid};
pub use weight::conv3d_backward_weight;

/// Sizes of a convolution; axes in the order depth, height, width. A 2-D convolution has depth 1 throughout.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Conv3dShape {
    /// Batch items.
    pub batch: usize,
    /// Channels of the input.
    pub in_channels: usize,
    /// Channels of the output.
    pub out_channels: usize,
    /// Extent of the input.
    pub input: [usize; 3],
    /// Extent of the kernel.
    pub kernel: [usize; 3],
    /// Step between output positions.
    pub stride: [usize; 3],
    /// Zeros before the input on each axis; a causal convolution has `kernel[0] - 1` here.
    pub pad_front: [usize; 3],
    /// Zeros after the input on each axis; a causal convolution has 0 on the first.
    pub pad_back: [usize; 3],
}

impl Conv3dShape {
    /// Extent of the output.
    ///
    /// # Panics
    ///
    /// If a kernel or stride is 0, or the kernel is larger than the padded input.
    pub fn output(&self) -> [usize; 3] {
        std::array::from_fn(|i| {
            let padded = self.input[i] + self.pad_front[i] + self.pad_back[i];
            assert!(self.kernel[i] > 0 && self.stride[i] > 0, "conv3d: kernel and stride are at least 1");
            assert!(padded >= self.kernel[i], "conv3d: kernel {:?} exceeds the padded input", self.kernel);
            (padded - self.kernel[i]) / self.stride[i] + 1
        })
    }

    fn input_len(&self) -> usize {
        self.batch * self.in_channels * self.input.iter().product::<usize>()
    }

    fn output_len(&self) -> usize {
        self.batch * self.out_channels * self.output().iter().product::<usize>()
    }

    fn weight_len(&self) -> usize {
        self.out_channels * self.in_channels * self.taps()
    }

    fn taps(&self) -> usize {
        self.kernel.iter().product()
    }

    /// Position of tap `index` in the kernel.
    fn tap(&self, index: usize) -> [usize; 3] {
        let [_, h, w] = self.kernel;
        [index / (h * w), index / w % h, index % w]
    }

    /// The forward pass as a gather from the input.
    fn forward_gather(&self) -> Gather {
        let offsets = (0..self.taps())
            .map(|t| std::array::from_fn(|i| self.tap(t)[i] as isize - self.pad_front[i] as isize))
            .collect();
        Gather {
            batch: self.batch,
            from: Grid { channels: self.in_channels, extent: self.input },
            to: Grid { channels: self.out_channels, extent: self.output() },
            count: self.output(),
            step_from: self.stride,
            step_to: [1; 3],
            first_to: [0; 3],
            offsets,
        }
    }
}

/// Convolution (cross-correlation, as in deep learning) with zero padding: `x` (batch, in_channels, d, h, w),
/// `weight` (out_channels, in_channels, kd, kh, kw), `bias` (out_channels); gives (batch, out_channels, od,
/// oh, ow).
///
/// # Panics
///
/// If a length does not fit `shape`.
pub fn conv3d_forward(
    x: &[f32],
    weight: &[f32],
    bias: Option<&[f32]>,
    shape: &Conv3dShape,
    precision: Precision,
) -> Floats {
    assert_eq!(x.len(), shape.input_len(), "conv3d: length of x");
    assert_eq!(weight.len(), shape.weight_len(), "conv3d: length of weight");
    assert!(bias.is_none_or(|b| b.len() == shape.out_channels), "conv3d: length of bias");
    let mut y = Floats::unspecified(shape.output_len());
    shape.forward_gather().run(x, weight, bias, &mut y, precision);
    y
}

/// Gradient of [`conv3d_forward`] with respect to its input: `dy` shaped as the output, gives the shape of
/// `x`.
///
/// # Panics
///
/// If a length does not fit `shape`.
pub fn conv3d_backward_data(dy: &[f32], weight: &[f32], shape: &Conv3dShape, precision: Precision) -> Floats {
    assert_eq!(dy.len(), shape.output_len(), "conv3d: length of dy");
    assert_eq!(weight.len(), shape.weight_len(), "conv3d: length of weight");
    let mut dx = match shape.stride {
        [1, 1, 1] => Floats::unspecified(shape.input_len()),
        // Inputs no tap reaches keep a gradient of zero.
        _ => Floats::zeroed(shape.input_len()),
    };
    let (stride, taps) = (shape.stride, shape.taps());
    for phase in 0..stride.iter().product() {
        // Inputs at `first + stride * j` get `dy[(first + pad - tap) / stride + j]` from the taps that
        // divide.
        let [_, sh, sw] = stride;
        let first = [phase / (sh * sw), phase / sw % sh, phase % sw];
        let count = std::array::from_fn(|i| (shape.input[i] + stride[i] - 1 - first[i]) / stride[i]);
        let shift = |t: usize, i: usize| (first[i] + shape.pad_front[i]) as isize - shape.tap(t)[i] as isize;
        // From the last tap to the first, so that offsets ascend.
        let used: Vec<usize> =
            (0..taps).rev().filter(|&t| (0..3).all(|i| shift(t, i) % stride[i] as isize == 0)).collect();
        if used.is_empty() {
            // No tap reaches these inputs: their gradient stays zero.
            continue;
        }
        let offsets =
            used.iter().map(|&t| std::array::from_fn(|i| shift(t, i) / stride[i] as isize)).collect();
        let (ci, co) = (shape.in_channels, shape.out_channels);
        let mut swapped = Vec::with_capacity(ci * co * used.len());
        for i in 0..ci {
            for o in 0..co {
                swapped.extend(used.iter().map(|t| weight[(o * ci + i) * taps + t]));
            }
        }
        let gather = Gather {
            batch: shape.batch,
            from: Grid { channels: co, extent: shape.output() },
            to: Grid { channels: ci, extent: shape.input },
            count,
            step_from: [1; 3],
            step_to: stride,
            first_to: first,
            offsets,
        };
        gather.run(dy, &swapped, None, &mut dx, precision);
    }
    dx
}
