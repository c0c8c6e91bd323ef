//! Networks that find things, whoever runs them: what goes in and comes out, and what their detections share.

use understudy_media::Image;
use understudy_media::resample::OpenCv;

use crate::error::{Error, Result};

/// Numbers of one kind.
#[derive(Clone, Debug, PartialEq)]
pub enum Values {
    /// Real ones.
    Floats(Vec<f32>),
    /// Whole ones.
    Integers(Vec<i64>),
}

/// What goes into a network or comes out of it.
#[derive(Clone, Debug, PartialEq)]
pub struct Array {
    /// As the network calls it; empty where there is only one.
    pub name: String,
    /// Its extents.
    pub shape: Vec<usize>,
    /// As many values as its extents multiply to.
    pub values: Values,
}

impl Array {
    /// Real numbers.
    pub fn floats(name: &str, shape: &[usize], values: Vec<f32>) -> Self {
        Self { name: name.to_owned(), shape: shape.to_vec(), values: Values::Floats(values) }
    }

    /// Whole numbers.
    pub fn integers(name: &str, shape: &[usize], values: Vec<i64>) -> Self {
        Self { name: name.to_owned(), shape: shape.to_vec(), values: Values::Integers(values) }
    }

    /// Its rows of `width` numbers.
    ///
    /// # Errors
    /// When they are not real, or its last extent is another.
    pub(crate) fn rows(&self, width: usize) -> Result<Vec<&[f32]>> {
        match &self.values {
            Values::Floats(values) if self.shape.last() == Some(&width) => {
                Ok(values.chunks_exact(width.max(1)).collect())
            }
            _ => Err(Error::Network {
                reason: format!(
                    "its output {:?} has shape {:?} where rows of {width} real numbers are needed",
                    self.name, self.shape
                ),
            }),
        }
    }
}

/// A network in a file.
pub trait Network: Send + Sync {
    /// What comes out, in the file's order, for what goes in. A single input may have no name.
    ///
    /// # Errors
    /// When an input is not what the network takes, or it fails.
    fn run(&self, inputs: Vec<Array>) -> Result<Vec<Array>>;
}

/// Where something is, and how sure that is.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Found {
    /// Left, top, right, bottom.
    pub(crate) bounds: [f32; 4],
    pub(crate) score: f32,
}

/// Which of `found` stay, the surest first, when what covers another by more than `overlap` of both goes.
/// `pixel` is added to sides: 1 where bounds are the last pixels within.
pub(crate) fn keep_apart(found: &[Found], overlap: f32, pixel: f32) -> Vec<usize> {
    let mut order: Vec<usize> = (0..found.len()).collect();
    order.sort_by(|a, b| found[*b].score.total_cmp(&found[*a].score));
    let area = |[left, top, right, bottom]: [f32; 4]| (right - left + pixel) * (bottom - top + pixel);
    let covers = |a: [f32; 4], b: [f32; 4]| {
        let wide = (a[2].min(b[2]) - a[0].max(b[0]) + pixel).max(0.0);
        let high = (a[3].min(b[3]) - a[1].max(b[1]) + pixel).max(0.0);
        wide * high / (area(a) + area(b) - wide * high) > overlap
    };
    let mut kept: Vec<usize> = Vec::new();
    for at in order {
        if !kept.iter().any(|other| covers(found[*other].bounds, found[at].bounds)) {
            kept.push(at);
        }
    }
    kept
}

/// A picture as large as fits a square of `side`, in its top left corner.
///
/// # Errors
/// When the picture is inconsistent.
pub(crate) fn cornered(picture: &Image, side: usize) -> Result<(Image, f64)> {
    let aspect = picture.height as f64 / picture.width as f64;
    let [height, width] = if aspect > 1.0 {
        [side, (side as f64 / aspect) as usize]
    } else {
        [(side as f64 * aspect) as usize, side]
    };
    let resized = OpenCv::Linear.resize(picture, [height.max(1), width.max(1)])?;
    let mut square = Image::filled(side, side, [0; 3]);
    let scale = resized.height as f64 / picture.height as f64;
    square.paste(&resized, 0, 0);
    Ok((square, scale))
}

/// Planes of a picture's samples, each changed by `of`.
pub(crate) fn planes(picture: &Image, of: impl Fn(usize, u8) -> f32) -> Vec<f32> {
    (0..3)
        .flat_map(|channel| {
            let of = &of;
            picture.rgb.iter().skip(channel).step_by(3).map(move |sample| of(channel, *sample))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_what_overlaps_the_surest_stays() {
        let found = |bounds, score| Found { bounds, score };
        let all = [
            found([0.0, 0.0, 10.0, 10.0], 0.6),
            found([1.0, 0.0, 11.0, 10.0], 0.9),
            found([0.0, 20.0, 10.0, 30.0], 0.7),
            // 3 of 17 columns in common.
            found([8.0, 0.0, 18.0, 10.0], 0.5),
        ];
        assert_eq!(keep_apart(&all, 0.4, 0.0), [1, 2, 3]);
        assert_eq!(keep_apart(&all, 0.17, 0.0), [1, 2]);
    }

    #[test]
    fn a_wide_picture_lies_at_the_top() {
        let (square, scale) = cornered(&Image::filled(100, 50, [9; 3]), 64).unwrap();
        assert_eq!((square.pixel(63, 31), square.pixel(0, 32), scale), ([9; 3], [0; 3], 0.64));
        let (square, _) = cornered(&Image::filled(30, 90, [9; 3]), 64).unwrap();
        assert_eq!((square.pixel(20, 63), square.pixel(21, 0)), ([9; 3], [0; 3]));
    }
}
