//! Activations and softmax, forward and backward.

use crate::cpu::Isa;
use crate::math::{exp, normal_cdf, sigmoid, tanh};
use crate::par::CHUNK;
use crate::simd::{self, fma, multiversion};
use rayon::prelude::*;

/// An elementwise activation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Activation {
    /// GELU by its tanh approximation: `x/2 (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3)))`.
    GeluTanh,
    /// GELU by the error function: `x/2 (1 + erf(x / sqrt 2))`.
    GeluErf,
    /// `x / (1 + exp(-x))`.
    Silu,
    /// `1 / (1 + exp(-x))`.
    Sigmoid,
    /// Hyperbolic tangent.
    Tanh,
}

/// `sqrt(8 / pi)`: GELU's tanh form equals `x sigmoid(K (x + C x^3))`.
const K: f32 = 1.595_769_2;
const C: f32 = 0.044_715;

#[inline(always)]
fn gelu_tanh<const FMA: bool>(x: f32) -> f32 {
    let u = K * x * fma::<FMA>(C * x, x, 1.0);
    x * sigmoid::<FMA>(u)
}

/// Value and derivative of [`gelu_tanh`].
#[inline(always)]
fn gelu_tanh_slope<const FMA: bool>(x: f32) -> (f32, f32) {
    let u = K * x * fma::<FMA>(C * x, x, 1.0);
    let slope = K * fma::<FMA>(3.0 * C * x, x, 1.0);
    let e = exp::<FMA>(-u);
    let s = 1.0 / (1.0 + e);
    // 1 - s = e s, without cancellation.
    (x * s, fma::<FMA>(x * slope * s, e * s, s))
}

multiversion! {
    fn forward(kind: Activation, x: &[f32], out: &mut [f32]) {
        match kind {
            Activation::GeluTanh => map1(x, out, gelu_tanh::<FMA>),
            Activation::GeluErf => map1(x, out, |x| x * normal_cdf::<FMA>(x)),
            Activation::Silu => map1(x, out, |x| x * sigmoid::<FMA>(x)),
            Activation::Sigmoid => map1(x, out, sigmoid::<FMA>),
            Activation::Tanh => map1(x, out, tanh::<FMA>),
        }
    }
}

multiversion! {
    fn backward(kind: Activation, x: &[f32], dout: &[f32], dx: &mut [f32]) {
        match kind {
            Activation::GeluTanh => map2(x, dout, dx, |x, g| g * gelu_tanh_slope::<FMA>(x).1),
            Activation::GeluErf => map2(x, dout, dx, |x, g| {
                let density = FRAC_1_SQRT_TAU * exp::<FMA>(-0.5 * x * x);
                g * fma::<FMA>(x, density, normal_cdf::<FMA>(x))
            }),
            Activation::Silu => map2(x, dout, dx, |x, g| {
                let e = exp::<FMA>(-x);
                let s = 1.0 / (1.0 + e);
                g * fma::<FMA>(x * s, e * s, s)
            }),
            Activation::Sigmoid => map2(x, dout, dx, |x, g| {
                let e = exp::<FMA>(-x.abs());
                let s = 1.0 / (1.0 + e);
                g * s * (e * s)
            }),
            Activation::Tanh => map2(x, dout, dx, |x, g| {
                // 1 - tanh^2 = 4 q / (1 + q)^2 with q = exp(-2|x|).
                let q = exp::<FMA>(-2.0 * x.abs());
                let r = 1.0 / (1.0 + q);
                g * (4.0 * q * r * r)
            }),
        }
    }
}

multiversion! {
    fn add(x: &[f32], onto: &mut [f32]) {
        for (o, &x) in onto.iter_mut().zip(x) {
            *o += x;
        }
    }
}

/// `row = f(row + bias)`, of which either may be left out.
pub(crate) fn finish(isa: Isa, kind: Option<Activation>, bias: Option<&[f32]>, row: &mut [f32]) {
    const PART: usize = 256;
    let Some(kind) = kind else { return bias.into_iter().for_each(|bias| add(isa, bias, row)) };
    let mut sums = [0.0; PART];
    for (at, part) in row.chunks_mut(PART).enumerate() {
        let sums = &mut sums[..part.len()];
        sums.copy_from_slice(part);
        if let Some(bias) = bias {
            add(isa, &bias[at * PART..], sums);
        }
        forward(isa, kind, sums, part);
    }
}

/// `1 / sqrt(2 pi)`.
const FRAC_1_SQRT_TAU: f32 = 0.398_942_3;

#[inline(always)]
fn map1(x: &[f32], out: &mut [f32], f: impl Fn(f32) -> f32) {
    for (o, &x) in out.iter_mut().zip(x) {
        *o = f(x);
    }
}

#[inline(always)]
fn map2(x: &[f32], y: &[f32], out: &mut [f32], f: impl Fn(f32, f32) -> f32) {
    for ((o, &x), &y) in out.iter_mut().zip(x).zip(y) {
        *o = f(x, y);
    }
}

/// `out = f(x)`; both of any one shape.
///
/// # Panics
///
/// If the lengths differ.
pub fn activation_forward(kind: Activation, x: &[f32], out: &mut [f32]) {
    assert_eq!(x.len(), out.len(), "activation: length of out");
    let isa = Isa::best();
    out.par_chunks_mut(CHUNK).zip(x.par_chunks(CHUNK)).for_each(|(out, x)| forward(isa, kind, x, out));
}

/// `dx = dout f'(x)` from the activation's input.
///
/// # Panics
///
/// If the lengths differ.
pub fn activation_backward(kind: Activation, x: &[f32], dout: &[f32], dx: &mut [f32]) {
    assert_eq!(x.len(), dx.len(), "activation: length of dx");
    assert_eq!(x.len(), dout.len(), "activation: length of dout");
    let isa = Isa::best();
    dx.par_chunks_mut(CHUNK)
        .zip(x.par_chunks(CHUNK))
        .zip(dout.par_chunks(CHUNK))
        .for_each(|((dx, x), dout)| backward(isa, kind, x, dout, dx));
}

multiversion! {
    fn gated_forward(a: &[f32], b: &[f32], out: &mut [f32]) {
        map2(a, b, out, |a, b| gelu_tanh::<FMA>(a) * b);
    }
}

multiversion! {
    fn gated_backward(a: &[f32], b: &[f32], dout: &[f32], da: &mut [f32], db: &mut [f32]) {
        for ((((da, db), &a), &b), &g) in da.iter_mut().zip(db).zip(a).zip(b).zip(dout) {
            let (value, slope) = gelu_tanh_slope::<FMA>(a);
            *da = g * b * slope;
            *db = g * value;
        }
    }
}

/// `out = gelu_tanh(a) * b`, the gated unit of T5.
///
/// # Panics
///
/// If the lengths differ.
pub fn gated_gelu_forward(a: &[f32], b: &[f32], out: &mut [f32]) {
    assert!(a.len() == b.len() && a.len() == out.len(), "gated_gelu: lengths");
    let isa = Isa::best();
    out.par_chunks_mut(CHUNK)
        .zip(a.par_chunks(CHUNK))
        .zip(b.par_chunks(CHUNK))
        .for_each(|((out, a), b)| gated_forward(isa, a, b, out));
}

/// Gradients of [`gated_gelu_forward`] with respect to `a` and `b`.
///
/// # Panics
///
/// If the lengths differ.
pub fn gated_gelu_backward(a: &[f32], b: &[f32], dout: &[f32], da: &mut [f32], db: &mut [f32]) {
    let n = a.len();
    assert!(b.len() == n && dout.len() == n && da.len() == n && db.len() == n, "gated_gelu: lengths");
    let isa = Isa::best();
    da.par_chunks_mut(CHUNK)
        .zip(db.par_chunks_mut(CHUNK))
        .zip(a.par_chunks(CHUNK))
        .zip(b.par_chunks(CHUNK))
        .zip(dout.par_chunks(CHUNK))
        .for_each(|((((da, db), a), b), dout)| gated_backward(isa, a, b, dout, da, db));
}

multiversion! {
    fn geglu_rows(x: &[f32], width: usize, out: &mut [f32]) {
        for (x, out) in x.chunks_exact(2 * width).zip(out.chunks_exact_mut(width)) {
            let (value, gate) = x.split_at(width);
            map2(value, gate, out, |value, gate| value * (gate * normal_cdf::<FMA>(gate)));
        }
    }
}

multiversion! {
    fn geglu_rows_backward(x: &[f32], dout: &[f32], width: usize, dx: &mut [f32]) {
        let rows = x.chunks_exact(2 * width).zip(dx.chunks_exact_mut(2 * width));
        for ((x, dx), dout) in rows.zip(dout.chunks_exact(width)) {
            let ((value, gate), (dvalue, dgate)) = (x.split_at(width), dx.split_at_mut(width));
            map2(gate, dout, dvalue, |gate, g| g * (gate * normal_cdf::<FMA>(gate)));
            for (((dgate, &value), &gate), &g) in dgate.iter_mut().zip(value).zip(gate).zip(dout) {
                let density = FRAC_1_SQRT_TAU * exp::<FMA>(-0.5 * gate * gate);
                *dgate = g * value * fma::<FMA>(gate, density, normal_cdf::<FMA>(gate));
            }
        }
    }
}

/// The gated unit of diffusers: of `x` (rows, 2 width) the first half times the exact GELU of the second;
/// `out` (rows, width).
///
/// # Panics
///
/// If the lengths do not fit.
pub fn geglu_forward(x: &[f32], width: usize, out: &mut [f32]) {
    assert!(width > 0 && x.len().is_multiple_of(2 * width) && x.len() == 2 * out.len(), "geglu: lengths");
    let (isa, chunk) = (Isa::best(), (CHUNK / width).max(1) * width);
    out.par_chunks_mut(chunk)
        .zip(x.par_chunks(2 * chunk))
        .for_each(|(out, x)| geglu_rows(isa, x, width, out));
}

/// Gradient of [`geglu_forward`] with respect to `x`.
///
/// # Panics
///
/// If the lengths do not fit.
pub fn geglu_backward(x: &[f32], width: usize, dout: &[f32], dx: &mut [f32]) {
    assert!(width > 0 && x.len().is_multiple_of(2 * width) && x.len() == 2 * dout.len(), "geglu: lengths");
    assert_eq!(x.len(), dx.len(), "geglu: length of dx");
    let (isa, chunk) = (Isa::best(), (CHUNK / width).max(1) * width);
    dx.par_chunks_mut(2 * chunk)
        .zip(x.par_chunks(2 * chunk))
        .zip(dout.par_chunks(chunk))
        .for_each(|((dx, x), dout)| geglu_rows_backward(isa, x, dout, width, dx));
}

multiversion! {
    fn softmax_rows(x: &[f32], cols: usize, out: &mut [f32]) {
        for (x, out) in x.chunks_exact(cols).zip(out.chunks_exact_mut(cols)) {
            let top = simd::max(x);
            // A row of minus infinities has no distribution; zeros keep it out of everything after.
            let top = if top == f32::NEG_INFINITY { 0.0 } else { top };
            map1(x, out, |x| exp::<FMA>(x - top));
            let sum = simd::sum1(out, |v| v);
            let inverse = if sum == 0.0 { 0.0 } else { 1.0 / sum };
            for o in out.iter_mut() {
                *o *= inverse;
            }
        }
    }
}

multiversion! {
    fn softmax_rows_backward(y: &[f32], dout: &[f32], cols: usize, dx: &mut [f32]) {
        for ((y, g), dx) in y.chunks_exact(cols).zip(dout.chunks_exact(cols)).zip(dx.chunks_exact_mut(cols)) {
            let dot = simd::sum2(y, g, |y, g| y * g);
            map2(y, g, dx, |y, g| y * (g - dot));
        }
    }
}

/// Softmax over the last dimension: `x` and `out` (rows, cols). A row of minus infinities gives zeros.
///
/// # Panics
///
/// If the lengths differ or are no multiple of `cols`.
pub fn softmax_forward(x: &[f32], cols: usize, out: &mut [f32]) {
    assert!(x.len() == out.len() && cols > 0 && x.len().is_multiple_of(cols), "softmax: shapes");
    let (isa, chunk) = (Isa::best(), (CHUNK / cols).max(1) * cols);
    out.par_chunks_mut(chunk).zip(x.par_chunks(chunk)).for_each(|(out, x)| softmax_rows(isa, x, cols, out));
}

/// Gradient of softmax from its output `y` (rows, cols).
///
/// # Panics
///
/// If the lengths differ or are no multiple of `cols`.
pub fn softmax_backward(y: &[f32], dout: &[f32], cols: usize, dx: &mut [f32]) {
    assert!(y.len() == dx.len() && y.len() == dout.len(), "softmax: lengths");
    assert!(cols > 0 && y.len().is_multiple_of(cols), "softmax: columns");
    let (isa, chunk) = (Isa::best(), (CHUNK / cols).max(1) * cols);
    dx.par_chunks_mut(chunk)
        .zip(y.par_chunks(chunk))
        .zip(dout.par_chunks(chunk))
        .for_each(|((dx, y), dout)| softmax_rows_backward(isa, y, dout, cols, dx));
}

#[cfg(test)]
mod tests;
