//! How a decoded frame of a track is displayed: turned, mirrored, and with square pixels.

use mp4_atom::{Matrix, Trak};

use crate::Image;

/// What is done to a frame to display it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Display {
    /// Rows and columns are exchanged first.
    transposed: bool,
    /// Then columns, then rows are reversed.
    mirrored: bool,
    flipped: bool,
    /// Width of a sample over its height, before any of this.
    aspect: f64,
}

impl Display {
    /// What the matrices of a track and its movie say. Its samples have the aspect that the first of these
    /// says that says one: the matrices, `pasp`, the track's size, the stream.
    ///
    /// # Errors
    /// Where they turn by anything but quarters.
    pub fn of(
        trak: &Trak,
        movie: &Matrix,
        pasp: Option<[u32; 2]>,
        stream: Option<[u32; 2]>,
        coded: [usize; 2],
    ) -> Result<Self, String> {
        let [[a, b], [c, d]] = product(&trak.tkhd.matrix, movie);
        let (along_x, along_y) = (a.hypot(b), c.hypot(d));
        let none = along_x < 1e-4 || along_y < 1e-4;
        let [[a, b], [c, d]] = if none {
            [[1.0, 0.0], [0.0, 1.0]]
        } else {
            [[a / along_x, b / along_x], [c / along_y, d / along_y]]
        };
        let straight = |off: [f64; 2]| off.iter().all(|part: &f64| part.abs() < 0.01);
        let (transposed, mirrored, flipped) = if straight([b, c]) {
            (false, a < 0.0, d < 0.0)
        } else if straight([a, d]) {
            (true, c < 0.0, b < 0.0)
        } else {
            return Err("it is to be turned by something else than quarters".into());
        };
        let ratio = |[width, height]: [u32; 2]| {
            (width > 0 && height > 0).then(|| f64::from(width) / f64::from(height))
        };
        let scaled = (!none && (along_x / along_y - 1.0).abs() > 0.01).then(|| along_x / along_y);
        let said = scaled.or(pasp.and_then(ratio)).or_else(|| track_aspect(trak, coded));
        let aspect = said.or(stream.and_then(ratio)).unwrap_or(1.0);
        Ok(Self { transposed, mirrored, flipped, aspect })
    }

    /// Height and width of a displayed frame.
    pub fn size(&self, [height, width]: [usize; 2]) -> [usize; 2] {
        let width = square_width(width, self.aspect);
        if self.transposed { [width, height] } else { [height, width] }
    }

    /// Width of a sample over its height, as decoded.
    pub fn aspect(&self) -> f64 {
        self.aspect
    }

    /// A displayed frame, from one with square pixels.
    pub fn apply(&self, frame: Image) -> Image {
        if !(self.transposed || self.mirrored || self.flipped) {
            return frame;
        }
        let [height, width] =
            if self.transposed { [frame.width, frame.height] } else { [frame.height, frame.width] };
        Image::from_fn(width, height, |x, y| {
            let x = if self.mirrored { width - 1 - x } else { x };
            let y = if self.flipped { height - 1 - y } else { y };
            if self.transposed { frame.pixel(y, x) } else { frame.pixel(x, y) }
        })
    }
}

/// How wide a picture of `width` samples of this aspect is in square pixels.
pub(crate) fn square_width(width: usize, aspect: f64) -> usize {
    ((width as f64 * aspect).round() as usize).max(1)
}

/// The upper left of a track's matrix times its movie's.
fn product(track: &Matrix, movie: &Matrix) -> [[f64; 2]; 2] {
    let parts = |matrix: &Matrix| {
        let [a, b, c, d] = [matrix.a, matrix.b, matrix.c, matrix.d].map(|part| f64::from(part) / 65536.0);
        [[a, b], [c, d]]
    };
    let (track, movie) = (parts(track), parts(movie));
    // A movie without a matrix of use has none.
    let movie = if movie == [[0.0; 2]; 2] { [[1.0, 0.0], [0.0, 1.0]] } else { movie };
    track.map(|row| [0, 1].map(|column| row[0] * movie[0][column] + row[1] * movie[1][column]))
}

/// The aspect that the track's size says, where it is none of the coded one.
fn track_aspect(trak: &Trak, [height, width]: [usize; 2]) -> Option<f64> {
    let [shown_width, shown_height] = [trak.tkhd.width.integer(), trak.tkhd.height.integer()].map(f64::from);
    let aspect = shown_width * height as f64 / (width as f64 * shown_height);
    let differs = shown_width > 0.0
        && shown_height > 0.0
        && (shown_width, shown_height) != (width as f64, height as f64);
    differs.then_some(aspect)
}

#[cfg(test)]
mod tests {
    use super::*;
    use mp4_atom::FixedPoint;

    fn track(matrix: [i32; 4], size: [u16; 2]) -> Trak {
        let mut trak = Trak::default();
        trak.tkhd.matrix = of(matrix);
        [trak.tkhd.width, trak.tkhd.height] = size.map(|side| FixedPoint::new(side, 0));
        trak
    }

    fn of([a, b, c, d]: [i32; 4]) -> Matrix {
        let [a, b, c, d] = [a, b, c, d].map(|part| part * 0x10000);
        Matrix { a, b, u: 0, c, d, v: 0, x: 0, y: 0, w: 0x4000_0000 }
    }

    fn display(matrix: [i32; 4]) -> Display {
        Display::of(&track(matrix, [3, 2]), &of([1, 0, 0, 1]), None, None, [2, 3]).unwrap()
    }

    #[test]
    fn every_turn_and_mirror_puts_the_corner_where_the_matrix_does() {
        let image = Image::from_fn(3, 2, |x, y| [x as u8, y as u8, 0]);
        // Where the picture's x and y go, and the pixel that is then at the top left.
        for (matrix, size, corner) in [
            ([1, 0, 0, 1], (3, 2), [0, 0, 0]),
            ([0, 1, -1, 0], (2, 3), [0, 1, 0]),
            ([-1, 0, 0, -1], (3, 2), [2, 1, 0]),
            ([0, -1, 1, 0], (2, 3), [2, 0, 0]),
            ([-1, 0, 0, 1], (3, 2), [2, 0, 0]),
            ([1, 0, 0, -1], (3, 2), [0, 1, 0]),
            ([0, 1, 1, 0], (2, 3), [0, 0, 0]),
            ([0, -1, -1, 0], (2, 3), [2, 1, 0]),
        ] {
            let shown = display(matrix).apply(image.clone());
            assert_eq!(((shown.width, shown.height), shown.pixel(0, 0)), (size, corner), "{matrix:?}");
        }
        // Of a turned movie too.
        let twice = Display::of(&track([0, 1, -1, 0], [3, 2]), &of([0, 1, -1, 0]), None, None, [2, 3]);
        assert_eq!(twice.unwrap(), display([-1, 0, 0, -1]));
        let skewed = Display::of(&track([1, 1, -1, 1], [3, 2]), &of([1, 0, 0, 1]), None, None, [2, 3]);
        assert!(skewed.unwrap_err().contains("quarters"));
    }

    #[test]
    fn pixels_become_square() {
        let shown = |size: [u16; 2], pasp, stream| {
            let track = track([1, 0, 0, 1], size);
            let display = Display::of(&track, &of([1, 0, 0, 1]), pasp, stream, [64, 96]).unwrap();
            let [height, width] = display.size([64, 96]);
            (width, height)
        };
        assert_eq!(shown([96, 64], None, None), (96, 64));
        assert_eq!(shown([96, 64], Some([2, 1]), None), (192, 64));
        assert_eq!(shown([96, 64], None, Some([4, 3])), (128, 64));
        assert_eq!(shown([192, 64], None, None), (192, 64));
        assert_eq!(shown([192, 64], Some([1, 2]), Some([4, 3])), (48, 64));
        let turned =
            Display::of(&track([0, 1, -1, 0], [96, 64]), &of([1, 0, 0, 1]), Some([2, 1]), None, [64, 96]);
        assert_eq!(turned.unwrap().size([64, 96]), [192, 64]);
    }
}
