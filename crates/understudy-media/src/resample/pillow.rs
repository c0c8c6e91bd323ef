//! Pillow's resampling of 8-bit pictures.

use understudy_kernels::resample::{Kernel, Taps, along};

use super::check;
use crate::{Image, Result};

/// A filter of Pillow's `Image.resize`: antialiased, across and down, rounded to 8 bits after each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pillow {
    /// `Resampling.BILINEAR`.
    Bilinear,
    /// `Resampling.BICUBIC`.
    Bicubic,
    /// `Resampling.LANCZOS`.
    Lanczos,
}

/// Bits of a weight behind the point.
const BITS: u32 = 22;

impl Pillow {
    /// `image` at `[height, width]`.
    ///
    /// # Errors
    /// [`Error::Invalid`] when a side is zero or the picture is inconsistent.
    pub fn resize(self, image: &Image, [height, width]: [usize; 2]) -> Result<Image> {
        check(image, [height, width])?;
        let across = |rgb: Vec<u8>| {
            if width == image.width {
                rgb
            } else {
                along(&rgb, [image.width, 3], &self.taps(image.width, width), blend)
            }
        };
        let down = |rgb: Vec<u8>, columns: usize| {
            if height == image.height {
                rgb
            } else {
                along(&rgb, [image.height, columns * 3], &self.taps(image.height, height), blend)
            }
        };
        let rgb = if down_first([image.height, image.width], [height, width]) {
            across(down(image.rgb.clone(), image.width))
        } else {
            down(across(image.rgb.clone()), width)
        };
        Ok(Image { width, height, rgb })
    }

    fn taps(self, from: usize, to: usize) -> Vec<Taps<i64>> {
        let kernel = match self {
            Self::Bilinear => Kernel::TRIANGLE,
            Self::Bicubic => Kernel::CUBIC,
            Self::Lanczos => Kernel::LANCZOS,
        };
        let fixed = |weight: f64| (weight * f64::from(1 << BITS)).round() as i64;
        let taps = kernel.antialiased(from, to, |number| number).into_iter();
        taps.map(|taps| taps.into_iter().map(|(source, weight)| (source, fixed(weight))).collect()).collect()
    }
}

/// Whether the pass down comes first, as since Pillow 13 where rows are removed and columns are kept, or far
/// fewer of them removed. Which is first shows in the last bit.
fn down_first(from: [usize; 2], to: [usize; 2]) -> bool {
    let [rows, columns] = [0, 1].map(|side| from[side] as i64 - to[side] as i64);
    rows > 0 && 2 * columns < rows
}

fn blend(sources: &mut dyn Iterator<Item = (u8, i64)>) -> u8 {
    let sum: i64 = sources.map(|(source, weight)| i64::from(source) * weight).sum();
    ((sum + (1 << (BITS - 1))) >> BITS).clamp(0, 255) as u8
}
