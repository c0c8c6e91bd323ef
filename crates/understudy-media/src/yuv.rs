//! RGB to and from planar 4:2:0 Y'CbCr, rounded to nearest (ITU-T H.273, section 8.3).

use crate::resize::resize_plane;
use crate::{Error, Image, Result};

/// How RGB became Y'CbCr: the luma weights of red and blue, and whether samples use all of 0..=255.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct ColorMatrix {
    pub kr: f32,
    pub kb: f32,
    pub full_range: bool,
}

impl ColorMatrix {
    /// ITU-R BT.601, limited range: what ffmpeg takes a video for that does not say, and what we write.
    pub const BT601: Self = Self { kr: 0.299, kb: 0.114, full_range: false };
    /// ITU-R BT.709, limited range: high definition.
    pub const BT709: Self = Self { kr: 0.2126, kb: 0.0722, full_range: false };
    /// ITU-R BT.2020 non-constant luminance, limited range.
    pub const BT2020: Self = Self { kr: 0.2627, kb: 0.0593, full_range: false };

    /// The matrix of a code of ITU-T H.273, as ffmpeg's conversion to RGB takes it: BT.601 where the code
    /// says nothing.
    pub fn of_code(code: u16, full_range: bool) -> Self {
        let matrix = match code {
            0 | 1 => Self::BT709,
            4 => Self { kr: 0.30, kb: 0.11, full_range: false },
            7 => Self { kr: 0.212, kb: 0.087, full_range: false },
            9 | 10 => Self::BT2020,
            _ => Self::BT601,
        };
        Self { full_range, ..matrix }
    }

    /// Offset of luma, excursion of luma, excursion of chroma.
    fn levels(self) -> (f32, f32, f32) {
        if self.full_range { (0.0, 255.0, 255.0) } else { (16.0, 219.0, 224.0) }
    }
}

/// A borrowed picture: luma rows of `strides[0]`, chroma rows of `strides[1]` bytes. A sample of chroma is
/// for so many rows and columns of luma as `shared` says: `[2, 2]` in 4:2:0.
pub(crate) struct Planes<'a> {
    pub y: &'a [u8],
    pub u: &'a [u8],
    pub v: &'a [u8],
    pub strides: [usize; 2],
    pub shared: [usize; 2],
}

/// Y, U and V planes of a picture with even sides, one after the other. Chroma is the mean of 2x2 pixels.
pub(crate) fn from_rgb(image: &Image, matrix: ColorMatrix) -> Vec<u8> {
    let (width, height) = (image.width, image.height);
    let (offset, luma, chroma) = matrix.levels();
    let kg = 1.0 - matrix.kr - matrix.kb;
    let y_of = |[r, g, b]: [f32; 3]| matrix.kr * r + kg * g + matrix.kb * b;
    let at = |x, y| image.pixel(x, y).map(|sample| f32::from(sample) / 255.0);

    let mut planes = Vec::with_capacity(width * height * 3 / 2);
    for y in 0..height {
        planes.extend((0..width).map(|x| (offset + luma * y_of(at(x, y))).round() as u8));
    }
    let (mut us, mut vs) = (Vec::new(), Vec::new());
    for y in (0..height).step_by(2) {
        for x in (0..width).step_by(2) {
            let corners = [at(x, y), at(x + 1, y), at(x, y + 1), at(x + 1, y + 1)];
            let mean = [0, 1, 2].map(|c| corners.iter().map(|pixel| pixel[c]).sum::<f32>() / 4.0);
            let luma = y_of(mean);
            us.push((128.0 + chroma * (mean[2] - luma) / (2.0 * (1.0 - matrix.kb))).round() as u8);
            vs.push((128.0 + chroma * (mean[0] - luma) / (2.0 * (1.0 - matrix.kr))).round() as u8);
        }
    }
    planes.extend(us);
    planes.extend(vs);
    planes
}

/// The picture of `width` x `height`, or `None` when the planes are too short for it.
pub(crate) fn to_rgb(planes: &Planes<'_>, width: usize, height: usize, matrix: ColorMatrix) -> Option<Image> {
    let (offset, luma, chroma) = matrix.levels();
    let kg = 1.0 - matrix.kr - matrix.kb;
    let (to_r, to_b) = (2.0 * (1.0 - matrix.kr), 2.0 * (1.0 - matrix.kb));
    let [rows, columns] = planes.shared;
    let half = width.div_ceil(columns);
    let mut rgb = Vec::with_capacity(width * height * 3);
    for row in 0..height {
        let ys = planes.y.get(row * planes.strides[0]..)?.get(..width)?;
        let us = planes.u.get(row / rows * planes.strides[1]..)?.get(..half)?;
        let vs = planes.v.get(row / rows * planes.strides[1]..)?.get(..half)?;
        for (x, y) in ys.iter().enumerate() {
            let y = (f32::from(*y) - offset) / luma;
            let cb = (f32::from(us[x / columns]) - 128.0) / chroma;
            let cr = (f32::from(vs[x / columns]) - 128.0) / chroma;
            let (r, b) = (y + to_r * cr, y + to_b * cb);
            let g = (y - matrix.kr * r - matrix.kb * b) / kg;
            rgb.extend([r, g, b].map(|value| (value * 255.0).round() as u8));
        }
    }
    Some(Image { width, height, rgb })
}

/// As [`to_rgb`], resized to `to_width` pixels a row as ffmpeg does it on the way: the planes by themselves,
/// chroma to every row and, where the width is odd, to every column.
///
/// # Errors
/// When the planes are too short, or a side cannot be.
pub(crate) fn to_rgb_of_width(
    planes: &Planes<'_>,
    [height, width]: [usize; 2],
    to_width: usize,
    matrix: ColorMatrix,
) -> Result<Image> {
    let short = || Error::invalid("picture", "its planes are short");
    if to_width == width {
        return to_rgb(planes, width, height, matrix).ok_or_else(short);
    }
    let resized = |plane: &[u8], stride: usize, [rows, columns]: [usize; 2], to: [usize; 2]| {
        let lines: Option<Vec<&[u8]>> =
            (0..rows).map(|row| plane.get(row * stride..)?.get(..columns)).collect();
        resize_plane(&lines.ok_or_else(short)?.concat(), [rows, columns], to)
    };
    let [luma, chroma] = planes.strides;
    let half = [height.div_ceil(planes.shared[0]), width.div_ceil(planes.shared[1])];
    let columns = if to_width.is_multiple_of(2) { 2 } else { 1 };
    let to_half = [height, to_width / columns];
    let y = resized(planes.y, luma, [height, width], [height, to_width])?;
    let u = resized(planes.u, chroma, half, to_half)?;
    let v = resized(planes.v, chroma, half, to_half)?;
    let planes = Planes { y: &y, u: &u, v: &v, strides: [to_width, to_half[1]], shared: [1, columns] };
    to_rgb(&planes, to_width, height, matrix).ok_or_else(short)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flat_colours_survive_every_matrix() {
        for full_range in [false, true] {
            for matrix in [ColorMatrix::BT601, ColorMatrix::BT709, ColorMatrix::BT2020] {
                let matrix = ColorMatrix { full_range, ..matrix };
                for color in
                    [[0, 0, 0], [255, 255, 255], [255, 0, 0], [0, 255, 0], [0, 0, 255], [12, 130, 201]]
                {
                    let image = Image::filled(4, 2, color);
                    let planes = from_rgb(&image, matrix);
                    let (y, chroma) = planes.split_at(8);
                    let (u, v) = chroma.split_at(2);
                    let back = to_rgb(&Planes { y, u, v, strides: [4, 2], shared: [2, 2] }, 4, 2, matrix)
                        .expect("long enough");
                    for (a, b) in back.rgb.iter().zip(&image.rgb) {
                        assert!(a.abs_diff(*b) <= 2, "{matrix:?} {color:?} became {:?}", back.pixel(0, 0));
                    }
                }
            }
        }
    }

    #[test]
    fn white_is_235_in_limited_range() {
        let planes = from_rgb(&Image::filled(2, 2, [255; 3]), ColorMatrix::BT601);
        assert_eq!(planes, [235, 235, 235, 235, 128, 128]);
    }
}
