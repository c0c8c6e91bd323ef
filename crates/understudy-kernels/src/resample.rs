//! Separable resampling of samples in rows: what libraries' resamplers have in common, and PyTorch's.

mod torch;

pub use torch::Torch;

/// What one position of the result is made of: sources, each with its weight.
pub type Taps<W> = Vec<(usize, W)>;

/// An interpolation kernel.
#[derive(Clone, Copy, Debug)]
pub struct Kernel {
    /// It is zero from this distance on.
    support: f64,
    value: fn(f64) -> f64,
}

impl Kernel {
    /// Linear interpolation.
    pub const TRIANGLE: Self = Self { support: 1.0, value: |x| (1.0 - x.abs()).max(0.0) };
    /// Keys' cubic with a slope of -0.5 (Keys, "Cubic Convolution Interpolation for Digital Image
    /// Processing", 1981).
    pub const CUBIC: Self = Self { support: 2.0, value: |x| cubic(x, -0.5) };
    /// Lanczos' window of three lobes.
    pub const LANCZOS: Self = Self { support: 3.0, value: lanczos };

    /// The taps of all `to` positions over `from` sources. Where the picture shrinks, the kernel is widened
    /// by as much. Every intermediate number is as precise as `round` leaves it.
    pub fn antialiased(self, from: usize, to: usize, round: fn(f64) -> f64) -> Vec<Taps<f64>> {
        let scale = round(from as f64 / to as f64);
        let widened = scale.max(1.0);
        let support = round(self.support * widened);
        let at = |position: usize| {
            let center = round((position as f64 + 0.5) * scale);
            let edge = |edge: f64| round(round(edge) + 0.5).max(0.0) as usize;
            let [start, end] = [edge(center - support), edge(center + support).min(from)];
            let distance = |source: usize| round(round(source as f64 - center) + 0.5);
            let weight = |source: usize| round((self.value)(round(distance(source) * round(1.0 / widened))));
            let sum = (start..end).map(weight).fold(0.0, |sum, weight| round(sum + weight));
            (start..end).map(|source| (source, round(weight(source) / sum))).collect()
        };
        (0..to).map(at).collect()
    }
}

/// `sinc(x) sinc(x / 3)` within three of the middle.
fn lanczos(x: f64) -> f64 {
    let sinc = |x: f64| {
        let turned = x * std::f64::consts::PI;
        if x == 0.0 { 1.0 } else { turned.sin() / turned }
    };
    if (-3.0..3.0).contains(&x) { sinc(x) * sinc(x / 3.0) } else { 0.0 }
}

/// Keys' cubic with the slope `a` at a distance of one.
fn cubic(x: f64, a: f64) -> f64 {
    match x.abs() {
        x if x < 1.0 => ((a + 2.0) * x - (a + 3.0)) * x * x + 1.0,
        x if x < 2.0 => (((x - 5.0) * x + 8.0) * x - 4.0) * a,
        _ => 0.0,
    }
}

/// Resamples along rows: `lines` rows of `from` positions with `step` samples each, to as many positions as
/// there are taps. `sum` makes a sample of `(source, weight)` pairs.
pub fn along<S: Copy, W: Copy, T>(
    samples: &[S],
    [from, step]: [usize; 2],
    taps: &[Taps<W>],
    sum: impl Fn(&mut dyn Iterator<Item = (S, W)>) -> T,
) -> Vec<T> {
    let mut out = Vec::with_capacity(samples.len() / from.max(1) * taps.len());
    for line in samples.chunks_exact((from * step).max(1)) {
        for taps in taps {
            for lane in 0..step {
                let sources = taps.iter().map(|&(source, weight)| (line[source * step + lane], weight));
                out.push(sum(&mut { sources }));
            }
        }
    }
    out
}
