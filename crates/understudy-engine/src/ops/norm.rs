//! Normalizations.

use burn::tensor::Tensor;
use understudy_kernels as kernels;
use understudy_kernels::LayerNormParams;

use crate::cpu::{Array, CpuOp, Kept, Primitive, apply};

/// `x (..., channels)` with zero mean and unit variance over the channels, times `weight`, plus `bias`.
pub fn layer_norm<const D: usize>(
    x: Tensor<D>,
    weight: Option<Tensor<1>>,
    bias: Option<Tensor<1>>,
    eps: f32,
) -> Tensor<D> {
    let rows_per_batch = (x.shape().num_elements() / x.dims()[D - 1].max(1)).max(1);
    let op = LayerNorm { eps, rows_per_batch, modulated: false };
    if let (Some(weight), Some(bias)) = (&weight, &bias)
        && let (Some(x), Some(w), Some(b)) = (Primitive::of(&x), Primitive::of(weight), Primitive::of(bias))
    {
        return apply(op, [x, w, b]).into_tensor();
    }
    composed_layer_norm(x, weight, bias, eps)
}

fn composed_layer_norm<const D: usize>(
    x: Tensor<D>,
    weight: Option<Tensor<1>>,
    bias: Option<Tensor<1>>,
    eps: f32,
) -> Tensor<D> {
    let mut y = standardize(x, eps);
    if let Some(weight) = weight {
        y = y * weight.unsqueeze();
    }
    if let Some(bias) = bias {
        y = y + bias.unsqueeze();
    }
    y
}

fn standardize<const D: usize>(x: Tensor<D>, eps: f32) -> Tensor<D> {
    let centred = x.clone() - x.mean_dim(D - 1);
    let variance = centred.clone().powi_scalar(2).mean_dim(D - 1);
    centred / (variance + eps).sqrt()
}

/// Layer normalization of `x (batch, tokens, channels)`, times `1 + scale`, plus `shift`, both
/// `(batch, channels)`.
pub fn layer_norm_modulate(x: Tensor<3>, scale: Tensor<2>, shift: Tensor<2>, eps: f32) -> Tensor<3> {
    let op = LayerNorm { eps, rows_per_batch: x.dims()[1], modulated: true };
    match (Primitive::of(&x), Primitive::of(&scale), Primitive::of(&shift)) {
        (Some(x), Some(scale), Some(shift)) => apply(op, [x, scale, shift]).into_tensor(),
        _ => composed_modulate(x, scale, shift, eps),
    }
}

fn composed_modulate(x: Tensor<3>, scale: Tensor<2>, shift: Tensor<2>, eps: f32) -> Tensor<3> {
    standardize(x, eps) * (scale.unsqueeze_dim(1) + 1.0) + shift.unsqueeze_dim(1)
}

/// Layer normalization with either a weight and a bias per channel, or a scale (beyond one) and a shift per
/// batch item and channel.
#[derive(Clone, Debug)]
struct LayerNorm {
    eps: f32,
    rows_per_batch: usize,
    modulated: bool,
}

impl LayerNorm {
    fn params<'a>(&self, channels: usize, gain: &'a [f32], offset: &'a [f32]) -> LayerNormParams<'a> {
        let when = |condition: bool, values| condition.then_some(values);
        LayerNormParams {
            channels,
            rows_per_batch: self.rows_per_batch,
            scale: when(self.modulated, gain),
            shift: when(self.modulated, offset),
            weight: when(!self.modulated, gain),
            bias: when(!self.modulated, offset),
            eps: self.eps,
        }
    }
}

/// The last dimension of a shape.
fn channels(shape: &[usize]) -> usize {
    shape.last().copied().unwrap_or(1)
}

impl CpuOp<3> for LayerNorm {
    fn forward(&self, [x, gain, offset]: [&Array; 3]) -> (Array, Vec<Array>) {
        let params = self.params(channels(&x.shape()), gain.data(), offset.data());
        let output = kernels::layer_norm_modulate_forward(x.data(), &params);
        let statistics = [output.mean, output.rstd].map(|values| {
            let rows = values.len();
            Array::new(values, [rows])
        });
        (Array::new(output.y, x.shape()), statistics.into())
    }

    fn keeps(&self, _: [bool; 3]) -> ([bool; 3], bool) {
        ([true, true, true], false)
    }

    fn backward(&self, kept: &Kept<3>, grad: &Array, wanted: [bool; 3]) -> [Option<Array>; 3] {
        let params = self.params(channels(kept.shape(0)), kept.input(1), kept.input(2));
        let [mean, rstd] = [kept.extra(0), kept.extra(1)];
        let found = kernels::layer_norm_modulate_backward(kept.input(0), &params, mean, rstd, grad.data());
        let gain = found.dscale.or(found.dweight).filter(|_| wanted[1]);
        let offset = found.dshift.or(found.dbias).filter(|_| wanted[2]);
        [
            wanted[0].then(|| Array::new(found.dx, kept.shape(0))),
            gain.map(|values| Array::new(values, kept.shape(1))),
            offset.map(|values| Array::new(values, kept.shape(2))),
        ]
    }
}

/// `x (..., channels)` over its root mean square, times `weight`.
pub fn rms_norm<const D: usize>(x: Tensor<D>, weight: Tensor<1>, eps: f32) -> Tensor<D> {
    match (Primitive::of(&x), Primitive::of(&weight)) {
        (Some(x), Some(weight)) => apply(RmsNorm { eps }, [x, weight]).into_tensor(),
        _ => composed_rms_norm(x, weight, eps),
    }
}

fn composed_rms_norm<const D: usize>(x: Tensor<D>, weight: Tensor<1>, eps: f32) -> Tensor<D> {
    let mean = x.clone().powi_scalar(2).mean_dim(D - 1);
    x / (mean + eps).sqrt() * weight.unsqueeze()
}

#[derive(Clone, Debug)]
struct RmsNorm {
    eps: f32,
}

impl CpuOp<2> for RmsNorm {
    fn forward(&self, [x, weight]: [&Array; 2]) -> (Array, Vec<Array>) {
        let y = kernels::rms_norm_forward(x.data(), weight.data(), self.eps);
        (Array::new(y, x.shape()), Vec::new())
    }

    fn keeps(&self, _: [bool; 2]) -> ([bool; 2], bool) {
        ([true, true], false)
    }

    fn backward(&self, kept: &Kept<2>, grad: &Array, wanted: [bool; 2]) -> [Option<Array>; 2] {
        let (dx, dw) = kernels::rms_norm_backward(kept.input(0), kept.input(1), self.eps, grad.data());
        [wanted[0].then(|| Array::new(dx, kept.shape(0))), wanted[1].then(|| Array::new(dw, kept.shape(1)))]
    }
}

/// `x (batch, channels, frames, rows, columns)`, each position's channels scaled to length
/// `sqrt(channels)`, times `gamma (channels)`.
pub fn channel_rms_norm(x: Tensor<5>, gamma: Tensor<1>) -> Tensor<5> {
    match (Primitive::of(&x), Primitive::of(&gamma)) {
        (Some(x), Some(gamma)) => apply(ChannelNorm, [x, gamma]).into_tensor(),
        _ => composed_channel_norm(x, gamma),
    }
}

fn composed_channel_norm(x: Tensor<5>, gamma: Tensor<1>) -> Tensor<5> {
    let channels = x.dims()[1];
    let length = x.clone().powi_scalar(2).sum_dim(1).clamp_min(1e-24).sqrt();
    let gamma = gamma.reshape([1, channels, 1, 1, 1]);
    x / length * (gamma * (channels as f32).sqrt())
}

#[derive(Clone, Debug)]
struct ChannelNorm;

impl CpuOp<2> for ChannelNorm {
    fn forward(&self, [x, gamma]: [&Array; 2]) -> (Array, Vec<Array>) {
        let shape = x.shape();
        let y = kernels::channel_rms_norm_forward(x.data(), shape[0], gamma.data());
        (Array::new(y, shape), Vec::new())
    }

    fn keeps(&self, _: [bool; 2]) -> ([bool; 2], bool) {
        ([true, true], false)
    }

    fn backward(&self, kept: &Kept<2>, grad: &Array, wanted: [bool; 2]) -> [Option<Array>; 2] {
        let batch = kept.shape(0)[0];
        let (dx, dgamma) =
            kernels::channel_rms_norm_backward(kept.input(0), batch, kept.input(1), grad.data());
        [
            wanted[0].then(|| Array::new(dx, kept.shape(0))),
            wanted[1].then(|| Array::new(dgamma, kept.shape(1))),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::testing::{check, random};

    #[test]
    fn kernels_agree_with_the_composed_forms() {
        let [x, scale, shift] = [random([2, 5, 19], 1), random([2, 19], 2), random([2, 19], 3)];
        check(
            &[&x, &scale, &shift],
            |t| layer_norm_modulate(t.get(0), t.get(1), t.get(2), 1e-6),
            |t| composed_modulate(t.get(0), t.get(1), t.get(2), 1e-6),
        );
        let [weight, bias] = [random([19], 4), random([19], 5)];
        check(
            &[&x, &weight, &bias],
            |t| layer_norm::<3>(t.get(0), Some(t.get(1)), Some(t.get(2)), 1e-5),
            |t| composed_layer_norm(t.get(0), Some(t.get(1)), Some(t.get(2)), 1e-5),
        );
        check(
            &[&x, &weight],
            |t| rms_norm::<3>(t.get(0), t.get(1), 1e-6),
            |t| composed_rms_norm(t.get(0), t.get(1), 1e-6),
        );
        let [x, gamma] = [random([2, 7, 3, 4, 5], 6), random([7], 7)];
        check(
            &[&x, &gamma],
            |t| channel_rms_norm(t.get(0), t.get(1)),
            |t| composed_channel_norm(t.get(0), t.get(1)),
        );
    }
}
