//! Which videos fit a base, and what latents they make.

use crate::error::{Error, Result};

/// How pixels become latents, and latents the places a denoiser looks at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Geometry {
    /// Channels of latents.
    pub channels: usize,
    /// Frames a latent frame holds, but for the first, which stands alone; and pixels a latent has a side.
    pub factors: [usize; 2],
    /// Latent frames, rows and columns that make one place.
    pub patch: [usize; 3],
    /// The most places along frames, rows and columns.
    pub positions: [usize; 3],
}

impl Geometry {
    /// The latents `(channels, frames, height, width)` of a video of `[frames, height, width]`.
    ///
    /// # Errors
    /// When a size does not divide into latents and places, naming the nearest that do, or when a side has
    /// more places than there are positions for.
    pub fn latents(&self, [frames, height, width]: [usize; 3]) -> Result<[usize; 4]> {
        Ok([
            self.channels,
            self.latent_frames(frames)?,
            self.latent_side("height", height, 1)?,
            self.latent_side("width", width, 2)?,
        ])
    }

    /// Places along frames, rows and columns of latents of these extents.
    pub fn places(&self, [frames, rows, columns]: [usize; 3]) -> [usize; 3] {
        [frames / self.patch[0], rows / self.patch[1], columns / self.patch[2]]
    }

    /// Pixels that the height and the width of a video are multiples of.
    pub fn multiples(&self) -> [usize; 2] {
        [self.patch[1], self.patch[2]].map(|patch| patch * self.factors[1])
    }

    /// The largest video there are positions for: frames, height and width.
    pub fn largest(&self) -> [usize; 3] {
        let latents = [0, 1, 2].map(|axis| self.positions[axis].saturating_mul(self.patch[axis]));
        let side = |latents: usize| latents.saturating_mul(self.factors[1]);
        let frames = latents[0].saturating_sub(1).saturating_mul(self.factors[0]).saturating_add(1);
        [frames, side(latents[1]), side(latents[2])]
    }

    /// The smallest video there is.
    pub fn smallest(&self) -> [usize; 3] {
        let [height, width] = self.multiples();
        [(self.patch[0] - 1) * self.factors[0] + 1, height, width]
    }

    fn latent_frames(&self, frames: usize) -> Result<usize> {
        let ([factor, _], patch, positions) = (self.factors, self.patch[0], self.positions[0]);
        let video = |patches: usize| (patches * patch - 1) * factor + 1;
        // The most patches there can be in `frames`.
        let fitting = frames.checked_sub(1).map_or(0, |rest| (rest / factor + 1) / patch);
        if (1..=positions).contains(&fitting) && video(fitting) == frames {
            return Ok(fitting * patch);
        }
        let whole = match patch {
            1 => String::new(),
            _ => format!(", in whole patches of {patch} latent frames"),
        };
        let rule = match factor {
            1 => format!("at least 1{whole}"),
            _ => format!("1 more than a multiple of {factor}{whole}"),
        };
        Err(unfit("frames", frames, rule, (fitting, positions), video))
    }

    fn latent_side(&self, what: &'static str, pixels: usize, axis: usize) -> Result<usize> {
        let (factor, positions) = (self.factors[1], self.positions[axis]);
        let multiple = factor * self.patch[axis];
        let fitting = pixels / multiple;
        if (1..=positions).contains(&fitting) && pixels.is_multiple_of(multiple) {
            return Ok(pixels / factor);
        }
        let side = |patches: usize| patches * multiple;
        Err(unfit(what, pixels, format!("a multiple of {multiple}"), (fitting, positions), side))
    }
}

/// The error of a length that holds `fitting` patches and something, where a base has so many positions;
/// `length` is what so many patches make.
fn unfit(
    what: &'static str,
    value: usize,
    rule: String,
    (fitting, positions): (usize, usize),
    length: impl Fn(usize) -> usize,
) -> Error {
    let rule = if fitting < positions {
        rule
    } else {
        let most = length(positions);
        format!("{rule}, and at most {most}, as this base has positions for {positions}")
    };
    let below = fitting.min(positions);
    let above = fitting.saturating_add(1);
    Error::Size {
        what,
        value,
        rule,
        below: (below > 0).then(|| length(below)),
        above: (above <= positions).then(|| length(above)),
    }
}
