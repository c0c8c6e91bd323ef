//! OpenCV's `cv2.warpAffine` of 8-bit pictures.

use super::check;
use crate::{Error, Image, Result};

/// `image` moved by `matrix`, which takes `(x, y, 1)` of it to `(x, y)` of a picture of `[height, width]`,
/// with black where it has nothing: `cv2.warpAffine` with `INTER_LINEAR`, identical to OpenCV 4.11 and later.
/// Releases before round positions to a 32nd of a pixel and so give samples that differ by a few levels.
///
/// # Errors
/// [`Error::Invalid`] when a side is zero, the picture is inconsistent, or the matrix has no inverse.
pub fn warp_affine(image: &Image, matrix: [[f64; 3]; 2], [height, width]: [usize; 2]) -> Result<Image> {
    check(image, [height, width])?;
    let back = inverse(matrix)
        .ok_or_else(|| Error::invalid("warp", format!("the matrix {matrix:?} cannot be turned back")))?;
    let back = back.map(|row| row.map(|value| value as f32));
    let mut rgb = Vec::with_capacity(height * width * 3);
    for y in 0..height {
        let [from_x, from_y] = back.map(|row| y as f32 * row[1] + row[2]);
        for x in 0..width {
            let at = [(x as f32).mul_add(back[0][0], from_x), (x as f32).mul_add(back[1][0], from_y)];
            rgb.extend(between(image, at));
        }
    }
    Ok(Image { width, height, rgb })
}

/// The matrix that takes the results of `matrix` back.
fn inverse([[a, b, c], [d, e, f]]: [[f64; 3]; 2]) -> Option<[[f64; 3]; 2]> {
    let determinant = a * e - b * d;
    if !determinant.is_finite() || determinant == 0.0 || !c.is_finite() || !f.is_finite() {
        return None;
    }
    let scale = 1.0 / determinant;
    let [a, b, d, e] = [e * scale, b * -scale, d * -scale, a * scale];
    Some([[a, b, -a * c - b * f], [d, e, -d * c - e * f]])
}

/// The pixel at a place between four.
fn between(image: &Image, [x, y]: [f32; 2]) -> [u8; 3] {
    let (left, top) = (x.floor(), y.floor());
    let (right, down) = (x - left, y - top);
    let sample = |row: f32, column: f32, lane: usize| {
        let inside = row >= 0.0 && column >= 0.0 && row < image.height as f32 && column < image.width as f32;
        if inside {
            f32::from(image.rgb[(row as usize * image.width + column as usize) * 3 + lane])
        } else {
            0.0
        }
    };
    std::array::from_fn(|lane| {
        let across = |row: f32| {
            let (from, to) = (sample(row, left, lane), sample(row, left + 1.0, lane));
            right.mul_add(to - from, from)
        };
        let (upper, lower) = (across(top), across(top + 1.0));
        down.mul_add(lower - upper, upper).round_ties_even() as u8
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_lies_beyond_is_black_and_halves_are_rounded() {
        let image = Image::new(2, 1, vec![10, 20, 30, 13, 21, 30]).unwrap();
        // Half a pixel to the left.
        let moved = warp_affine(&image, [[1.0, 0.0, -0.5], [0.0, 1.0, 0.0]], [1, 3]).unwrap();
        assert_eq!(moved.rgb, [12, 20, 30, 6, 10, 15, 0, 0, 0]);
        assert!(warp_affine(&image, [[1.0, 1.0, 0.0], [1.0, 1.0, 0.0]], [1, 1]).is_err());
        assert!(warp_affine(&image, [[f64::NAN, 0.0, 0.0], [0.0, 1.0, 0.0]], [1, 1]).is_err());
    }
}
