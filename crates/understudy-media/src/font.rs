//! Text on contact sheets: the 8x8 bitmap letters of `font8x8`, set proportionally and smoothed.

use font8x8::UnicodeFonts;

use crate::Image;

/// Glyphs are enlarged to this many pixels a side before they are sampled.
const FINE: usize = 32;

/// How text looks.
#[derive(Clone, Copy)]
pub(crate) struct Style {
    /// Height of the letter box, pixels.
    pub size: usize,
    pub color: [u8; 3],
}

impl Style {
    /// From one line's top to the next.
    pub fn line_height(self) -> usize {
        self.size * 5 / 4
    }

    /// Width of one line of text, pixels.
    pub fn width(self, text: &str) -> usize {
        text.chars().map(|c| self.advance(c)).sum()
    }

    fn advance(self, c: char) -> usize {
        ((extent(glyph(c)).1 + 1) * self.box_width()).div_ceil(8)
    }

    /// The letters are drawn narrower than high: square, they look stretched.
    fn box_width(self) -> usize {
        self.size * 3 / 4
    }

    /// Breaks text into lines no wider than `width`: at spaces, and inside a word only when it alone is too long.
    pub fn wrap(self, text: &str, width: usize) -> Vec<String> {
        let mut lines = Vec::new();
        for paragraph in text.lines() {
            let mut line = String::new();
            for word in paragraph.split_whitespace() {
                let longer = if line.is_empty() { word.to_string() } else { format!("{line} {word}") };
                if self.width(&longer) <= width {
                    line = longer;
                    continue;
                }
                if !line.is_empty() {
                    lines.push(std::mem::take(&mut line));
                }
                for c in word.chars() {
                    if !line.is_empty() && self.width(&line) + self.advance(c) > width {
                        lines.push(std::mem::take(&mut line));
                    }
                    line.push(c);
                }
            }
            lines.push(line);
        }
        lines
    }

    /// Draws one line with its top left corner at `(x, y)`; what falls outside the picture is cut off.
    pub fn draw(self, image: &mut Image, mut x: usize, y: usize, text: &str) {
        for c in text.chars() {
            self.draw_glyph(image, x, y, glyph(c));
            x += self.advance(c);
        }
    }

    fn draw_glyph(self, image: &mut Image, x: usize, y: usize, glyph: [u8; 8]) {
        let fine = enlarge(glyph);
        let width = self.box_width();
        let first = extent(glyph).0 * width / 8;
        for row in 0..self.size {
            for column in first..width {
                let (px, py) = (x + column - first, y + row);
                let coverage = coverage(&fine, [column, row], [width, self.size]);
                if coverage > 0 && px < image.width && py < image.height {
                    let at = (py * image.width + px) * 3;
                    for (sample, ink) in image.rgb[at..at + 3].iter_mut().zip(self.color) {
                        let mixed = u32::from(*sample) * (16 - coverage) + u32::from(ink) * coverage;
                        *sample = (mixed / 16) as u8;
                    }
                }
            }
        }
    }
}

/// Eight rows, lowest bit leftmost; an outlined box for letters the font lacks.
fn glyph(c: char) -> [u8; 8] {
    font8x8::BASIC_FONTS
        .get(c)
        .or_else(|| font8x8::LATIN_FONTS.get(c))
        .or_else(|| font8x8::GREEK_FONTS.get(c))
        .unwrap_or([0x7e, 0x42, 0x42, 0x42, 0x42, 0x42, 0x7e, 0])
}

/// First column with ink and number of columns from there to the last; a space is three columns wide.
fn extent(glyph: [u8; 8]) -> (usize, usize) {
    let ink = glyph.iter().fold(0, |ink, row| ink | row);
    if ink == 0 {
        return (0, 3);
    }
    let first = ink.trailing_zeros() as usize;
    (first, 8 - ink.leading_zeros() as usize - first)
}

/// The glyph at [`FINE`] pixels a side: Scale2x twice, which rounds diagonal steps and keeps straight edges.
fn enlarge(glyph: [u8; 8]) -> Vec<bool> {
    let mut bits: Vec<bool> = (0..64).map(|i| glyph[i / 8] >> (i % 8) & 1 == 1).collect();
    let mut side = 8;
    while side < FINE {
        bits = scale2x(&bits, side);
        side *= 2;
    }
    bits
}

/// Scale2x (Mazzoleni 2001): each pixel becomes four, each of them taking the colour of the two neighbours it touches
/// when those agree and the opposite ones differ.
fn scale2x(bits: &[bool], side: usize) -> Vec<bool> {
    let at = |x: usize, y: usize| x < side && y < side && bits[y * side + x];
    let mut doubled = vec![false; side * side * 4];
    for y in 0..side {
        for x in 0..side {
            let center = at(x, y);
            let (up, down) = (at(x, y.wrapping_sub(1)), at(x, y + 1));
            let (left, right) = (at(x.wrapping_sub(1), y), at(x + 1, y));
            let corners = if up != down && left != right {
                let pick = |a: bool, b: bool| if a == b { a } else { center };
                [pick(left, up), pick(up, right), pick(left, down), pick(down, right)]
            } else {
                [center; 4]
            };
            for (i, bit) in corners.into_iter().enumerate() {
                doubled[(y * 2 + i / 2) * side * 2 + x * 2 + i % 2] = bit;
            }
        }
    }
    doubled
}

/// How many of 4x4 points inside pixel `(x, y)` of a glyph drawn at `(width, height)` are ink: 0 to 16.
fn coverage(fine: &[bool], [x, y]: [usize; 2], [width, height]: [usize; 2]) -> u32 {
    let point =
        |pixel: usize, i: usize, size: usize| ((pixel * 8 + i * 2 + 1) * FINE / (size * 8)).min(FINE - 1);
    (0..16).filter(|i| fine[point(y, i / 4, height) * FINE + point(x, i % 4, width)]).count() as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    const STYLE: Style = Style { size: 16, color: [0; 3] };

    #[test]
    fn lines_fit_and_no_letter_is_lost() {
        let text = "a photo of a cat dancing under an incomprehensibilities-resistant umbrella";
        for width in [60, 100, 333] {
            let lines = STYLE.wrap(text, width);
            assert!(lines.iter().all(|line| STYLE.width(line) <= width), "{lines:?}");
            let squeeze = |s: &str| s.replace(' ', "");
            assert_eq!(squeeze(&lines.concat()), squeeze(text));
        }
        assert_eq!(STYLE.wrap("one\ntwo", 1000), ["one", "two"]);
    }

    #[test]
    fn every_ascii_letter_leaves_ink() {
        for c in '!'..='~' {
            let mut image = Image::filled(24, 24, [255; 3]);
            STYLE.draw(&mut image, 2, 2, &c.to_string());
            assert!(image.rgb.iter().any(|sample| *sample < 64), "{c}");
        }
    }
}
