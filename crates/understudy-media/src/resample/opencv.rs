//! OpenCV's `cv2.resize` of 8-bit pictures.

use understudy_kernels::resample::{Taps, along};

use super::check;
use crate::{Image, Result};

/// An interpolation of `cv2.resize`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OpenCv {
    /// `INTER_LINEAR`: two sources across and two down, weights of 11 bits. Halving both sides is the mean of
    /// four.
    Linear,
    /// `INTER_AREA`: the mean of what a pixel covers. Linear, but within each source pixel, where a side
    /// grows.
    Area,
}

/// Bits of a linear weight behind the point.
const BITS: u32 = 11;

impl OpenCv {
    /// `image` at `[height, width]`.
    ///
    /// # Errors
    /// [`Error::Invalid`] when a side is zero or the picture is inconsistent.
    pub fn resize(self, image: &Image, [height, width]: [usize; 2]) -> Result<Image> {
        check(image, [height, width])?;
        if [height, width] == [image.height, image.width] {
            return Ok(image.clone());
        }
        let halved = image.height == 2 * height && image.width == 2 * width;
        let grows = height > image.height || width > image.width;
        let rgb = match self {
            Self::Linear if halved => mean(image, [height, width]),
            Self::Area if !grows => mean(image, [height, width]),
            Self::Linear => linear(image, [height, width], centered),
            Self::Area => linear(image, [height, width], inside),
        };
        Ok(Image { width, height, rgb })
    }
}

/// The source before a position and the fraction towards the next, from the position, the source's side and
/// the result's.
type Place = fn(usize, usize, usize) -> (i64, f32);

/// With the centres of pixels on one another.
fn centered(position: usize, from: usize, to: usize) -> (i64, f32) {
    let scale = 1.0 / (to as f64 / from as f64);
    let at = ((position as f64 + 0.5) * scale - 0.5) as f32;
    let floor = at.floor();
    (floor as i64, at - floor)
}

/// With a step only where a result pixel lies across the edge of two source pixels.
fn inside(position: usize, from: usize, to: usize) -> (i64, f32) {
    let grown = to as f64 / from as f64;
    let scale = 1.0 / grown;
    let floor = (position as f64 * scale).floor();
    let beyond = ((position + 1) as f64 - (floor + 1.0) * grown) as f32;
    (floor as i64, if beyond <= 0.0 { 0.0 } else { beyond - beyond.floor() })
}

fn linear(image: &Image, [height, width]: [usize; 2], place: Place) -> Vec<u8> {
    let columns: Vec<Taps<i32>> =
        (0..width).map(|at| column(place(at, image.width, width), image.width)).collect();
    let rows: Vec<Taps<i32>> =
        (0..height).map(|at| row(place(at, image.height, height), image.height)).collect();
    let across = along(&image.rgb, [image.width, 3], &columns, |sources| {
        sources.map(|(source, weight)| i32::from(source) * weight).sum::<i32>()
    });
    // The second pass drops four bits of what comes in, and sixteen of each product, as its vector code does.
    along(&across, [image.height, width * 3], &rows, |sources| {
        let sum: i32 = sources.map(|(source, weight)| ((source >> 4) * weight) >> 16).sum();
        ((sum + 2) >> 2).clamp(0, 255) as u8
    })
}

fn fixed(weight: f32) -> i32 {
    (weight * (1 << BITS) as f32).round_ties_even() as i32
}

/// Beyond an edge there is one source, with all the weight.
fn column((floor, fraction): (i64, f32), from: usize) -> Taps<i32> {
    if floor < 0 || floor as usize >= from - 1 {
        return vec![(floor.clamp(0, from as i64 - 1) as usize, fixed(1.0))];
    }
    row((floor, fraction), from)
}

/// Beyond an edge the same source is taken twice, and rounded twice.
fn row((floor, fraction): (i64, f32), from: usize) -> Taps<i32> {
    let source = |at: i64| at.clamp(0, from as i64 - 1) as usize;
    vec![(source(floor), fixed(1.0 - fraction)), (source(floor + 1), fixed(fraction))]
}

/// The mean of the pixels each result covers.
fn mean(image: &Image, [height, width]: [usize; 2]) -> Vec<u8> {
    let whole = image.height.is_multiple_of(height) && image.width.is_multiple_of(width);
    if whole {
        return mean_of_blocks(image, [height, width]);
    }
    let sources: Vec<f32> = image.rgb.iter().map(|sample| f32::from(*sample)).collect();
    let blend =
        |sources: &mut dyn Iterator<Item = (f32, f32)>| sources.map(|(source, weight)| source * weight).sum();
    let across = along(&sources, [image.width, 3], &area_taps(image.width, width), blend);
    let down = along(&across, [image.height, width * 3], &area_taps(image.height, height), blend);
    down.into_iter().map(|value: f32| value.round_ties_even() as u8).collect()
}

/// Of blocks of whole pixels.
fn mean_of_blocks(image: &Image, [height, width]: [usize; 2]) -> Vec<u8> {
    let [rows, columns] = [image.height / height, image.width / width];
    let area = rows * columns;
    let mut out = Vec::with_capacity(height * width * 3);
    for index in 0..height * width * 3 {
        let [lane, column, row] = [index % 3, index / 3 % width, index / 3 / width];
        let sample = |y: usize, x: usize| {
            u32::from(image.rgb[((row * rows + y) * image.width + column * columns + x) * 3 + lane])
        };
        let sum: u32 = (0..rows).flat_map(|y| (0..columns).map(move |x| sample(y, x))).sum();
        out.push(match area {
            4 if rows == 2 => ((sum + 2) >> 2) as u8,
            _ => (sum as f32 * (1.0 / area as f32)).round_ties_even() as u8,
        });
    }
    out
}

/// The share of each source in each result.
fn area_taps(from: usize, to: usize) -> Vec<Taps<f32>> {
    const LEAST: f64 = 1e-3;
    let scale = from as f64 / to as f64;
    let at = |position: usize| {
        let [begin, end] = [position as f64 * scale, (position + 1) as f64 * scale];
        let cell = scale.min(from as f64 - begin);
        let last = (end.floor() as usize).min(from - 1);
        let first = (begin.ceil() as usize).min(last);
        let mut taps = Taps::new();
        if first as f64 - begin > LEAST {
            taps.push((first - 1, ((first as f64 - begin) / cell) as f32));
        }
        taps.extend((first..last).map(|source| (source, (1.0 / cell) as f32)));
        if end - last as f64 > LEAST {
            taps.push((last, ((end - last as f64).min(1.0).min(cell) / cell) as f32));
        }
        taps
    };
    (0..to).map(at).collect()
}
