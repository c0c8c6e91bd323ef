//! The weights of a convolution, laid out once for all products with them.

use half::f16;

use crate::cpu::Isa;
use crate::par::{self, Shared};
use crate::simd::multiversion;
use crate::tile::COLUMNS;

/// Weights (outputs, inputs, rows, columns) in panels of 32 outputs, each (taps, inputs, 32), in the
/// narrowest type that holds every number of them.
#[derive(Clone)]
pub struct ConvWeight {
    numbers: Numbers,
    outputs: usize,
    inputs: usize,
    kernel: [usize; 2],
}

#[derive(Clone)]
enum Numbers {
    F32(Vec<f32>),
    F16(Vec<u16>),
    Bf16(Vec<u16>),
}

impl std::fmt::Debug for ConvWeight {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        write!(f, "ConvWeight({}x{}x{:?})", self.outputs, self.inputs, self.kernel)
    }
}

fn to_f16(x: f32) -> Option<u16> {
    let narrow = f16::from_f32(x);
    (narrow.to_f32().to_bits() == x.to_bits()).then_some(narrow.to_bits())
}

fn to_bf16(x: f32) -> Option<u16> {
    let bits = x.to_bits();
    (bits & 0xffff == 0).then_some((bits >> 16) as u16)
}

multiversion! {
    fn widen_bf16(from: &[u16], to: &mut [f32]) {
        for (to, &from) in to.iter_mut().zip(from) {
            *to = f32::from_bits((from as u32) << 16);
        }
    }
}

multiversion! {
    /// Halves, subnormal ones too: the exponent is moved by a product with a power of two.
    fn widen_f16(from: &[u16], to: &mut [f32]) {
        for (to, &from) in to.iter_mut().zip(from) {
            let size = f32::from_bits(((from & 0x7fff) as u32) << 13) * f32::from_bits(0x7780_0000);
            let infinite = if from & 0x7c00 == 0x7c00 { 0x7f80_0000 } else { 0 };
            *to = f32::from_bits(size.to_bits() | infinite | (((from & 0x8000) as u32) << 16));
        }
    }
}

impl ConvWeight {
    /// Of `weight (outputs, inputs, rows, columns)`, kept in f32.
    ///
    /// # Panics
    ///
    /// If the length does not fit.
    pub fn plain(weight: &[f32], [outputs, inputs]: [usize; 2], kernel: [usize; 2]) -> Self {
        let numbers = Numbers::F32(laid_out(weight, outputs, inputs, kernel, |x| x));
        Self { numbers, outputs, inputs, kernel }
    }

    /// The same in 16 bits if bf16 or f16 holds every number.
    ///
    /// # Panics
    ///
    /// If the length does not fit.
    pub fn narrow(weight: &[f32], [outputs, inputs]: [usize; 2], kernel: [usize; 2]) -> Self {
        use rayon::prelude::*;
        let all = |narrow: fn(f32) -> Option<u16>| {
            weight.par_chunks(par::CHUNK).all(|part| part.iter().all(|&x| narrow(x).is_some()))
        };
        let halves = |narrow: fn(f32) -> Option<u16>| {
            laid_out(weight, outputs, inputs, kernel, |x| narrow(x).unwrap_or_default())
        };
        let numbers = match (all(to_bf16), all(to_f16)) {
            (true, _) => Numbers::Bf16(halves(to_bf16)),
            (_, true) => Numbers::F16(halves(to_f16)),
            _ => return Self::plain(weight, [outputs, inputs], kernel),
        };
        Self { numbers, outputs, inputs, kernel }
    }

    /// Channels of the output.
    pub fn outputs(&self) -> usize {
        self.outputs
    }

    /// Channels of the input.
    pub fn inputs(&self) -> usize {
        self.inputs
    }

    /// Rows and columns of the kernel.
    pub fn kernel(&self) -> [usize; 2] {
        self.kernel
    }

    /// Numbers of a panel.
    pub(super) fn panel_len(&self) -> usize {
        self.kernel[0] * self.kernel[1] * self.inputs * COLUMNS
    }

    /// So many numbers of panel `panel` from `start` on, in f32: as they lie there, or widened into `space`.
    pub(super) fn numbers<'a>(
        &'a self,
        isa: Isa,
        panel: usize,
        start: usize,
        len: usize,
        space: &'a mut [f32],
    ) -> &'a [f32] {
        let from = panel * self.panel_len() + start;
        match &self.numbers {
            Numbers::F32(numbers) => return &numbers[from..from + len],
            Numbers::Bf16(numbers) => widen_bf16(isa, &numbers[from..from + len], &mut space[..len]),
            Numbers::F16(numbers) => widen_f16(isa, &numbers[from..from + len], &mut space[..len]),
        }
        &space[..len]
    }

    /// The weights as they were given.
    pub fn unpacked(&self) -> Vec<f32> {
        let taps = self.kernel[0] * self.kernel[1];
        let row = self.inputs * taps;
        let mut out = vec![0.0; self.outputs * row];
        let mut space = vec![0.0; self.panel_len()];
        for (panel, out) in out.chunks_mut(COLUMNS * row).enumerate() {
            let numbers = self.numbers(Isa::best(), panel, 0, self.panel_len(), &mut space);
            for (lane, out) in out.chunks_exact_mut(row).enumerate() {
                for (at, out) in out.iter_mut().enumerate() {
                    *out = numbers[(at % taps * self.inputs + at / taps) * COLUMNS + lane];
                }
            }
        }
        out
    }
}

fn laid_out<T: Copy + Default + Send + Sync>(
    weight: &[f32],
    outputs: usize,
    inputs: usize,
    [rows, columns]: [usize; 2],
    convert: impl Fn(f32) -> T + Sync,
) -> Vec<T> {
    let taps = rows * columns;
    assert_eq!(weight.len(), outputs * inputs * taps, "conv2d: length of weight");
    let len = taps * inputs * COLUMNS;
    let panels = outputs.div_ceil(COLUMNS);
    let mut numbers = vec![T::default(); panels * len];
    let out = Shared::new(&mut numbers);
    par::for_each(panels, |panel| {
        // SAFETY: each task writes its own panel.
        let out = unsafe { out.slice(panel * len, len) };
        for lane in 0..COLUMNS.min(outputs - panel * COLUMNS) {
            let from = &weight[(panel * COLUMNS + lane) * inputs * taps..][..inputs * taps];
            for (input, from) in from.chunks_exact(taps).enumerate() {
                for (tap, &x) in from.iter().enumerate() {
                    out[(tap * inputs + input) * COLUMNS + lane] = convert(x);
                }
            }
        }
    });
    numbers
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::random;

    #[test]
    fn what_is_laid_out_comes_back_in_every_type() {
        let (channels, kernel) = ([37, 5], [3, 2]);
        let exact = random(1, 37 * 5 * 6);
        let halves: Vec<f32> = exact.iter().map(|&x| f16::from_f32(x).to_f32()).collect();
        let short: Vec<f32> = exact.iter().map(|&x| half::bf16::from_f32(x).to_f32()).collect();
        for numbers in [&exact, &halves, &short] {
            let weight = ConvWeight::narrow(numbers, channels, kernel);
            assert_eq!(weight.unpacked(), *numbers);
        }
        assert!(matches!(ConvWeight::narrow(&exact, channels, kernel).numbers, Numbers::F32(_)));
        assert!(matches!(ConvWeight::narrow(&halves, channels, kernel).numbers, Numbers::F16(_)));
        assert!(matches!(ConvWeight::narrow(&short, channels, kernel).numbers, Numbers::Bf16(_)));
    }

    #[test]
    fn every_half_is_widened_exactly() {
        let all: Vec<u16> = (0..=u16::MAX).filter(|&bits| !f16::from_bits(bits).is_nan()).collect();
        for isa in Isa::available() {
            let mut wide = vec![0.0; all.len()];
            widen_f16(isa, &all, &mut wide);
            for (&bits, wide) in all.iter().zip(wide) {
                assert_eq!(wide.to_bits(), f16::from_bits(bits).to_f32().to_bits());
            }
        }
    }
}
