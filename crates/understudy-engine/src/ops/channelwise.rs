//! Operations on each channel of pictures, for residual networks: batch normalization and the parametric
//! rectifier.

use burn::tensor::{Tensor, module};
use rayon::prelude::*;

use understudy_kernels::Floats;

use crate::cpu::{Array, CpuOp, Kept, Primitive, apply, apply_with_extra};

/// What batch normalization gives in training.
pub struct BatchNormTrain {
    /// The normalized input.
    pub output: Tensor<5>,
    /// The batch's mean of every channel, outside any graph.
    pub mean: Tensor<1>,
    /// The batch's population variance of every channel, outside any graph.
    pub variance: Tensor<1>,
}

/// Normalizes every channel of `x (batch, channels, frames, rows, columns)` by the batch's own statistics,
/// times `weight (channels)`, plus `bias (channels)`.
pub fn batch_norm_train(x: Tensor<5>, weight: Tensor<1>, bias: Tensor<1>, eps: f32) -> BatchNormTrain {
    if let (Some(x), Some(weight), Some(bias)) =
        (Primitive::of(&x), Primitive::of(&weight), Primitive::of(&bias))
    {
        let (output, statistics) = apply_with_extra(BatchNorm { eps }, [x, weight, bias]);
        let [mean, variance] = [0, 1].map(|index| Primitive::from_array(&statistics[index]).into_tensor());
        return BatchNormTrain { output: output.into_tensor(), mean, variance };
    }
    let found = module::batch_norm_train(x, weight, bias, f64::from(eps));
    let [mean, variance] = [found.mean, found.variance].map(Tensor::without_autodiff);
    BatchNormTrain { output: found.output, mean, variance }
}

/// `x` where it is positive, elsewhere `x` times its channel's `slope (channels)`. `x (batch, channels,
/// frames, rows, columns)`.
pub fn prelu(x: Tensor<5>, slope: Tensor<1>) -> Tensor<5> {
    match (Primitive::of(&x), Primitive::of(&slope)) {
        (Some(x), Some(slope)) => apply(Prelu, [x, slope]).into_tensor(),
        _ => composed_prelu(x, slope),
    }
}

fn composed_prelu(x: Tensor<5>, slope: Tensor<1>) -> Tensor<5> {
    use burn::tensor::activation::relu;
    let slope = slope.reshape([1, x.dims()[1], 1, 1, 1]);
    relu(x.clone()) - relu(-x) * slope
}

/// Batch items, channels, and positions of a shape.
fn extents(shape: &[usize]) -> [usize; 3] {
    [shape[0], shape[1], shape[2..].iter().product()]
}

/// The planes of one channel, in order of batch items.
fn planes(
    data: &[f32],
    [batch, channels, positions]: [usize; 3],
    channel: usize,
) -> impl Iterator<Item = &[f32]> {
    (0..batch).map(move |item| {
        let start = (item * channels + channel) * positions;
        &data[start..start + positions]
    })
}

/// The sums of both parts of `term(x, y)` over two planes: in f32 lanes of a fixed width, so that the result
/// does not depend on threads and the loop is vectorized.
fn plane_sums(x: &[f32], y: &[f32], term: impl Fn(f32, f32) -> [f32; 2]) -> [f64; 2] {
    const LANES: usize = 16;
    let mut lanes = [[0.0_f32; LANES]; 2];
    let (x_chunks, x_rest) = x.as_chunks::<LANES>();
    let (y_chunks, y_rest) = y.as_chunks::<LANES>();
    for (x, y) in x_chunks.iter().zip(y_chunks) {
        for lane in 0..LANES {
            let [a, b] = term(x[lane], y[lane]);
            lanes[0][lane] += a;
            lanes[1][lane] += b;
        }
    }
    let mut sums = lanes.map(|lanes| lanes.iter().map(|&v| f64::from(v)).sum::<f64>());
    for (&x, &y) in x_rest.iter().zip(y_rest) {
        let [a, b] = term(x, y);
        sums[0] += f64::from(a);
        sums[1] += f64::from(b);
    }
    sums
}

/// [`plane_sums`] over all planes of a channel, added in order of batch items.
fn channel_sums<'a>(
    x: impl Iterator<Item = &'a [f32]>,
    y: impl Iterator<Item = &'a [f32]>,
    term: impl Fn(f32, f32) -> [f32; 2],
) -> [f64; 2] {
    x.zip(y).map(|(x, y)| plane_sums(x, y, &term)).fold([0.0; 2], |[a, b], [x, y]| [a + x, b + y])
}

#[derive(Clone, Debug)]
struct BatchNorm {
    eps: f32,
}

impl CpuOp<3> for BatchNorm {
    fn forward(&self, [x, weight, bias]: [&Array; 3]) -> (Array, Vec<Array>) {
        let shape = extents(&x.shape());
        let [batch, channels, positions] = shape;
        let count = (batch * positions) as f64;
        let statistics: Vec<[f32; 2]> = (0..channels)
            .into_par_iter()
            .map(|channel| {
                let values = || planes(x.data(), shape, channel);
                let mean = (channel_sums(values(), values(), |v, _| [v, 0.0])[0] / count) as f32;
                let square = |v: f32, _| [(v - mean) * (v - mean), 0.0];
                [mean, (channel_sums(values(), values(), square)[0] / count) as f32]
            })
            .collect();
        let mut y = Floats::unspecified(x.len());
        y.par_chunks_mut(positions).zip(x.data().par_chunks(positions)).enumerate().for_each(
            |(plane, (y, x))| {
                let channel = plane % channels;
                let [mean, variance] = statistics[channel];
                let gain = weight.data()[channel] / (variance + self.eps).sqrt();
                let offset = bias.data()[channel] - mean * gain;
                for (y, x) in y.iter_mut().zip(x) {
                    *y = x * gain + offset;
                }
            },
        );
        let part =
            |index: usize| Array::new(statistics.iter().map(|s| s[index]).collect::<Vec<_>>(), [channels]);
        (Array::new(y, x.shape()), vec![part(0), part(1)])
    }

    fn keeps(&self, _: [bool; 3]) -> ([bool; 3], bool) {
        ([true, true, false], false)
    }

    fn backward(&self, kept: &Kept<3>, grad: &Array, wanted: [bool; 3]) -> [Option<Array>; 3] {
        let shape = extents(kept.shape(0));
        let [batch, channels, positions] = shape;
        let count = (batch * positions) as f32;
        let x = kept.input(0);
        // Per channel: the sums of the gradient and of the gradient times the normalized input.
        let found: Vec<[f32; 2]> = (0..channels)
            .into_par_iter()
            .map(|channel| {
                let mean = kept.extra(0)[channel];
                let scale = 1.0 / (kept.extra(1)[channel] + self.eps).sqrt();
                let term = |x: f32, g: f32| [g, g * (x - mean) * scale];
                channel_sums(planes(x, shape, channel), planes(grad.data(), shape, channel), term)
                    .map(|sum| sum as f32)
            })
            .collect();
        let mut dx = Floats::unspecified(x.len());
        let inputs = x.par_chunks(positions).zip(grad.data().par_chunks(positions));
        dx.par_chunks_mut(positions).zip(inputs).enumerate().for_each(|(plane, (dx, (x, grad)))| {
            let channel = plane % channels;
            let mean = kept.extra(0)[channel];
            let scale = 1.0 / (kept.extra(1)[channel] + self.eps).sqrt();
            let gain = kept.input(1)[channel] * scale;
            let [sum, projected] = found[channel].map(|sum| sum / count);
            for ((dx, x), g) in dx.iter_mut().zip(x).zip(grad) {
                *dx = gain * (g - sum - (x - mean) * scale * projected);
            }
        });
        let part = |index: usize| Array::new(found.iter().map(|s| s[index]).collect::<Vec<_>>(), [channels]);
        [
            wanted[0].then(|| Array::new(dx, kept.shape(0))),
            wanted[1].then(|| part(1)),
            wanted[2].then(|| part(0)),
        ]
    }
}

#[derive(Clone, Debug)]
struct Prelu;

impl CpuOp<2> for Prelu {
    fn forward(&self, [x, slope]: [&Array; 2]) -> (Array, Vec<Array>) {
        let [_, channels, positions] = extents(&x.shape());
        let mut y = Floats::unspecified(x.len());
        y.par_chunks_mut(positions).zip(x.data().par_chunks(positions)).enumerate().for_each(
            |(plane, (y, x))| {
                let slope = slope.data()[plane % channels];
                for (y, &x) in y.iter_mut().zip(x) {
                    *y = x.max(0.0) + slope * x.min(0.0);
                }
            },
        );
        (Array::new(y, x.shape()), Vec::new())
    }

    fn keeps(&self, _: [bool; 2]) -> ([bool; 2], bool) {
        ([true, true], false)
    }

    fn backward(&self, kept: &Kept<2>, grad: &Array, wanted: [bool; 2]) -> [Option<Array>; 2] {
        let shape = extents(kept.shape(0));
        let [_, channels, positions] = shape;
        let x = kept.input(0);
        let mut dx = Floats::unspecified(x.len());
        let inputs = x.par_chunks(positions).zip(grad.data().par_chunks(positions));
        dx.par_chunks_mut(positions).zip(inputs).enumerate().for_each(|(plane, (dx, (x, grad)))| {
            let slope = kept.input(1)[plane % channels];
            for ((dx, &x), &g) in dx.iter_mut().zip(x).zip(grad) {
                *dx = if x > 0.0 { g } else { slope * g };
            }
        });
        let slopes = || -> Vec<f32> {
            (0..channels)
                .into_par_iter()
                .map(|channel| {
                    let term = |x: f32, g: f32| [x.min(0.0) * g, 0.0];
                    channel_sums(planes(x, shape, channel), planes(grad.data(), shape, channel), term)[0]
                        as f32
                })
                .collect()
        };
        [
            wanted[0].then(|| Array::new(dx, kept.shape(0))),
            wanted[1].then(|| Array::new(slopes(), [channels])),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::testing::{check, random};

    #[test]
    fn kernels_agree_with_the_composed_forms() {
        let [x, weight, bias] = [random([3, 5, 1, 4, 6], 1), random([5], 2), random([5], 3)];
        check(
            &[&x, &weight, &bias],
            |t| batch_norm_train(t.get(0), t.get(1), t.get(2), 1e-5).output,
            |t| {
                let x: Tensor<5> = t.get(0);
                let mean = |x: Tensor<5>| x.mean_dim(0).mean_dim(3).mean_dim(4);
                let centred = x.clone() - mean(x);
                let variance = mean(centred.clone().powi_scalar(2));
                let shaped = |v: Tensor<1>| v.reshape([1, 5, 1, 1, 1]);
                centred / (variance + 1e-5).sqrt() * shaped(t.get(1)) + shaped(t.get(2))
            },
        );
        check(&[&x, &weight], |t| prelu(t.get(0), t.get(1)), |t| composed_prelu(t.get(0), t.get(1)));
    }
}
