//! One picture in memory, its mask, and the planar layout the networks read.

use crate::{Error, Result};

/// The interval of planar `f32` pixels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Range {
    /// `[0, 1]`: metrics, files.
    Unit,
    /// `[-1, 1]`: what the VAEs read and write.
    Signed,
}

impl Range {
    /// An 8-bit sample in this range.
    pub fn from_u8(self, sample: u8) -> f32 {
        let unit = f32::from(sample) / 255.0;
        match self {
            Self::Unit => unit,
            Self::Signed => unit * 2.0 - 1.0,
        }
    }

    /// The nearest 8-bit sample; values outside the range saturate.
    pub fn to_u8(self, value: f32) -> u8 {
        let unit = match self {
            Self::Unit => value,
            Self::Signed => value * 0.5 + 0.5,
        };
        (unit * 255.0).round() as u8 // a float-to-int cast saturates
    }
}

/// An 8-bit RGB picture, sRGB as stored in the file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Image {
    /// Pixels a row.
    pub width: usize,
    /// Rows.
    pub height: usize,
    /// `height * width * 3` samples, row by row, R G B interleaved.
    pub rgb: Vec<u8>,
}

/// A mask the size of its picture: 255 is subject, 0 is not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mask {
    /// Pixels a row.
    pub width: usize,
    /// Rows.
    pub height: usize,
    /// `height * width` samples, row by row.
    pub alpha: Vec<u8>,
}

impl Image {
    /// A picture from `height * width * 3` interleaved samples.
    ///
    /// # Errors
    /// [`Error::Invalid`] when the length does not match, or a side is zero.
    pub fn new(width: usize, height: usize, rgb: Vec<u8>) -> Result<Self> {
        let image = Self { width, height, rgb };
        image.check()?;
        Ok(image)
    }

    /// A picture of one colour.
    pub fn filled(width: usize, height: usize, color: [u8; 3]) -> Self {
        Self { width, height, rgb: color.repeat(width * height) }
    }

    /// A picture of `f(x, y)`.
    pub fn from_fn(width: usize, height: usize, mut f: impl FnMut(usize, usize) -> [u8; 3]) -> Self {
        let rgb = (0..width * height).flat_map(|i| f(i % width, i / width)).collect();
        Self { width, height, rgb }
    }

    /// A picture from planar `(3, height, width)` values.
    ///
    /// # Errors
    /// [`Error::Invalid`] when the length does not match or a value is not finite.
    pub fn from_planar(planar: &[f32], [height, width]: [usize; 2], range: Range) -> Result<Self> {
        check_planar(planar, [1, height, width])?;
        Ok(gather_frame(planar, 0, [1, height, width], range))
    }

    /// The mean absolute difference of its samples to those of another picture of its size, of 255.
    pub fn difference(&self, other: &Self) -> f64 {
        let sum: u64 = self.rgb.iter().zip(&other.rgb).map(|(a, b)| u64::from(a.abs_diff(*b))).sum();
        sum as f64 / self.rgb.len().max(1) as f64
    }

    /// Planar `(3, height, width)` values.
    pub fn to_planar(&self, range: Range) -> Vec<f32> {
        let mut planar = vec![0.0; self.rgb.len()];
        scatter_frame(self, &mut planar, 0, 1, range);
        planar
    }

    /// The pixel at `(x, y)`.
    ///
    /// # Panics
    /// When `(x, y)` is outside the picture.
    pub fn pixel(&self, x: usize, y: usize) -> [u8; 3] {
        let at = (y * self.width + x) * 3;
        [self.rgb[at], self.rgb[at + 1], self.rgb[at + 2]]
    }

    /// Copies `tile` into this picture with its top left corner at `(x, y)`; what falls outside is cut off.
    pub fn paste(&mut self, tile: &Image, x: usize, y: usize) {
        let columns = tile.width.min(self.width.saturating_sub(x));
        let rows = tile.height.min(self.height.saturating_sub(y));
        for row in 0..rows {
            let from = row * tile.width * 3;
            let to = ((y + row) * self.width + x) * 3;
            self.rgb[to..to + columns * 3].copy_from_slice(&tile.rgb[from..from + columns * 3]);
        }
    }

    /// Fills the rectangle at `(x, y)` with a colour; what falls outside is cut off.
    pub fn fill_rect(&mut self, [x, y]: [usize; 2], [width, height]: [usize; 2], color: [u8; 3]) {
        let (right, bottom) = ((x + width).min(self.width), (y + height).min(self.height));
        for row in y..bottom {
            for column in x..right {
                let at = (row * self.width + column) * 3;
                self.rgb[at..at + 3].copy_from_slice(&color);
            }
        }
    }

    /// Every pixel repeated `factor` times in both directions: small clips enlarged without blur.
    pub fn upscale_nearest(&self, factor: usize) -> Self {
        if factor <= 1 {
            return self.clone();
        }
        let mut rgb = Vec::with_capacity(self.rgb.len() * factor * factor);
        for row in self.rgb.chunks_exact(self.width * 3) {
            let wide: Vec<u8> = row.chunks_exact(3).flat_map(|pixel| pixel.repeat(factor)).collect();
            (0..factor).for_each(|_| rgb.extend_from_slice(&wide));
        }
        Self { width: self.width * factor, height: self.height * factor, rgb }
    }

    /// Even sides, by repeating the last column and row where a side is odd (4:2:0 video needs it).
    pub(crate) fn padded_to_even(&self) -> Self {
        let (width, height) = (self.width.next_multiple_of(2), self.height.next_multiple_of(2));
        Self::from_fn(width, height, |x, y| self.pixel(x.min(self.width - 1), y.min(self.height - 1)))
    }

    /// That the length fits the sides, and no side is zero.
    pub(crate) fn check(&self) -> Result<()> {
        let wanted = self.width.checked_mul(self.height).and_then(|n| n.checked_mul(3));
        if self.width == 0 || self.height == 0 || wanted != Some(self.rgb.len()) {
            return Err(Error::invalid(
                "image",
                format!(
                    "{}x{} needs width * height * 3 samples and sides of at least 1, got {} samples",
                    self.width,
                    self.height,
                    self.rgb.len()
                ),
            ));
        }
        Ok(())
    }
}

/// That `planar` is `(3, frames, height, width)` and every value is finite.
pub(crate) fn check_planar(planar: &[f32], [frames, height, width]: [usize; 3]) -> Result<()> {
    let wanted = [3, frames, height, width].iter().try_fold(1usize, |n, side| n.checked_mul(*side));
    if wanted != Some(planar.len()) || planar.is_empty() {
        return Err(Error::invalid(
            "planar frames",
            format!("shape (3, {frames}, {height}, {width}) does not fit {} values", planar.len()),
        ));
    }
    let broken = planar.iter().filter(|value| !value.is_finite()).count();
    if broken > 0 {
        return Err(Error::invalid(
            "planar frames",
            format!(
                "{broken} of {} values are NaN or infinite; try a wider dtype such as f32 or bf16",
                planar.len()
            ),
        ));
    }
    Ok(())
}

/// Frame `index` of planar `(3, frames, height, width)`.
pub(crate) fn gather_frame(
    planar: &[f32],
    index: usize,
    [frames, height, width]: [usize; 3],
    range: Range,
) -> Image {
    let plane = height * width;
    let channel = |c: usize| &planar[(c * frames + index) * plane..][..plane];
    let (r, g, b) = (channel(0), channel(1), channel(2));
    let rgb = (0..plane).flat_map(|i| [r[i], g[i], b[i]].map(|value| range.to_u8(value))).collect();
    Image { width, height, rgb }
}

/// Writes `image` as frame `index` of planar `(3, frames, height, width)`.
pub(crate) fn scatter_frame(image: &Image, planar: &mut [f32], index: usize, frames: usize, range: Range) {
    let plane = image.height * image.width;
    for (i, pixel) in image.rgb.chunks_exact(3).enumerate() {
        for (c, sample) in pixel.iter().enumerate() {
            planar[(c * frames + index) * plane + i] = range.from_u8(*sample);
        }
    }
}
