//! Text on contact sheets, in the letters of `font/letters.otf`: Latin, Greek, Cyrillic, and the common
//! characters of Chinese, Japanese and Korean. Scripts whose letters change beside each other are not among
//! them, and show as boxes.

use std::sync::LazyLock;

use ab_glyph::{Font, FontRef, Glyph, PxScale, point};
use unicode_normalization::UnicodeNormalization;

use crate::Image;

static FONT: LazyLock<FontRef> = LazyLock::new(|| {
    FontRef::try_from_slice(include_bytes!("../font/letters.otf")).expect("the letters are an OpenType font")
});

/// How text looks.
#[derive(Clone, Copy)]
pub(crate) struct Style {
    /// Size of the font, pixels.
    pub size: usize,
    pub color: [u8; 3],
}

impl Style {
    /// From one line's top to the next.
    pub fn line_height(self) -> usize {
        self.size * 4 / 3
    }

    /// Width of one line of text, pixels.
    pub fn width(self, text: &str) -> usize {
        self.set(text).1.ceil() as usize
    }

    /// The letters of one line, from its top left corner on, and where the next would stand.
    fn set(self, text: &str) -> (Vec<Glyph>, f32) {
        let em = FONT.units_per_em().unwrap_or(1000.0);
        let pixels = |units: f32| units * self.size as f32 / em;
        let scale = PxScale::from(pixels(FONT.height_unscaled()));
        let baseline = pixels(FONT.ascent_unscaled()).round();
        let mut x = 0.0;
        // Names of files may come with their accents apart.
        let glyphs = text.nfc().map(|c| {
            let id = FONT.glyph_id(c);
            let glyph = id.with_scale_and_position(scale, point(x, baseline));
            x += pixels(FONT.h_advance_unscaled(id));
            glyph
        });
        (glyphs.collect(), x)
    }

    /// Breaks text into lines no wider than `width`: at spaces, and inside a word only when it alone is too
    /// long.
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
                for c in word.nfc() {
                    if !line.is_empty() && self.width(&format!("{line}{c}")) > width {
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
    pub fn draw(self, image: &mut Image, x: usize, y: usize, text: &str) {
        for outline in self.set(text).0.into_iter().filter_map(|glyph| FONT.outline_glyph(glyph)) {
            let corner = outline.px_bounds().min;
            let [left, top] = [x as i64 + corner.x as i64, y as i64 + corner.y as i64];
            let (width, height) = (image.width as i64, image.height as i64);
            outline.draw(|column, row, coverage| {
                let (px, py) = (left + i64::from(column), top + i64::from(row));
                if (0..width).contains(&px) && (0..height).contains(&py) {
                    let at = (py * width + px) as usize * 3;
                    for (sample, ink) in image.rgb[at..at + 3].iter_mut().zip(self.color) {
                        let paper = f32::from(*sample);
                        *sample = (paper + (f32::from(ink) - paper) * coverage.min(1.0)).round() as u8;
                    }
                }
            });
        }
    }
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
    fn names_are_drawn_and_not_boxes() {
        let ink = |text: &str| {
            let mut image = Image::filled(24, 24, [255; 3]);
            STYLE.draw(&mut image, 2, 0, text);
            image.rgb
        };
        let [box_of_none, paper] = ["\u{e000}", " "].map(ink);
        for c in ('!'..='~').chain("ÄşŁΩжЁіґẾ“—€猫貓踊ねプ고양가。".chars()) {
            let drawn = ink(&c.to_string());
            assert!(drawn != box_of_none && drawn.iter().any(|sample| *sample < 160), "{c}");
        }
        assert!(ink(" ") == paper && ink("A\u{308}") == ink("Ä") && box_of_none != paper);
        // What does not fit is cut off.
        ink("a long name that reaches beyond the picture");
    }
}
