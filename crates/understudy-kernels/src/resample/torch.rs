//! PyTorch's `torch.nn.functional.interpolate` with `align_corners=False`.

use super::{Kernel, Taps, along, cubic};

/// A mode of `interpolate` on `float32`. Nothing is clamped: a cubic leaves the range of its source.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Torch {
    /// `mode="bilinear"`: two sources.
    Bilinear,
    /// `mode="bicubic"`: four sources, with a slope of -0.75.
    Bicubic,
    /// `mode="bilinear", antialias=True`.
    BilinearAntialiased,
    /// `mode="bicubic", antialias=True`, with a slope of -0.5.
    BicubicAntialiased,
}

impl Torch {
    /// Planes `(.., rows, columns)` at another `[rows, columns]`.
    ///
    /// # Panics
    /// When a side is zero, or `planes` are not whole ones of size `from`.
    pub fn resize(self, planes: &[f32], from: [usize; 2], to: [usize; 2]) -> Vec<f32> {
        let pixels = from[0] * from[1];
        assert!(pixels > 0 && to[0] * to[1] > 0, "no pixels: {from:?} to {to:?}");
        assert!(planes.len().is_multiple_of(pixels), "{} numbers are no planes of {from:?}", planes.len());
        let across = along(planes, [from[1], 1], &self.taps(from[1], to[1]), blend);
        along(&across, [from[0], to[1]], &self.taps(from[0], to[0]), blend)
    }

    /// The sources and weights of each of `to` positions in a line of `from`.
    pub fn taps(self, from: usize, to: usize) -> Vec<Taps<f32>> {
        self.taps_at(from, to, from as f32 / to as f32)
    }

    /// The same with positions `scale` apart, as with `scale_factor` of `1 / scale`; antialiased ones have
    /// their own.
    pub fn taps_at(self, from: usize, to: usize, scale: f32) -> Vec<Taps<f32>> {
        match self {
            Self::Bilinear => plain(from, to, scale, |at| (at.max(0.0), 0, |t| vec![1.0 - t, t])),
            Self::Bicubic => plain(from, to, scale, |at| {
                let weights = |t: f64| [1.0 + t, t, 1.0 - t, 2.0 - t].map(|x| cubic(x, -0.75)).to_vec();
                (at, 1, weights)
            }),
            Self::BilinearAntialiased => single(Kernel::TRIANGLE, from, to),
            Self::BicubicAntialiased => single(Kernel::CUBIC, from, to),
        }
    }
}

/// A position among the sources, how many sources before it count, and the weights for its fraction.
type Placed = (f64, usize, fn(f64) -> Vec<f64>);

/// Taps that do not widen; sources beyond an edge are those at it.
fn plain(from: usize, to: usize, scale: f32, place: impl Fn(f64) -> Placed) -> Vec<Taps<f32>> {
    let at = |position: usize| {
        let (at, before, weights) = place(f64::from(scale.mul_add(position as f32 + 0.5, -0.5)));
        let first = at.floor() as i64 - before as i64;
        let source = |index: usize| (first + index as i64).clamp(0, from as i64 - 1) as usize;
        let weights = weights(at - at.floor()).into_iter().enumerate();
        weights.map(|(index, weight)| (source(index), weight as f32)).collect()
    };
    (0..to).map(at).collect()
}

/// Antialiased taps, computed in single precision.
fn single(kernel: Kernel, from: usize, to: usize) -> Vec<Taps<f32>> {
    let narrow = |taps: Taps<f64>| taps.into_iter().map(|(source, weight)| (source, weight as f32)).collect();
    kernel.antialiased(from, to, |number| f64::from(number as f32)).into_iter().map(narrow).collect()
}

fn blend(sources: &mut dyn Iterator<Item = (f32, f32)>) -> f32 {
    sources.map(|(source, weight)| source * weight).sum()
}
