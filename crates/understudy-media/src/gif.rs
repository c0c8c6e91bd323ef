//! Animated GIF with one palette for the whole clip, so that still parts do not flicker.

use std::borrow::Cow;
use std::collections::HashMap;

use color_quant::NeuQuant;
use gif::{DisposalMethod, Encoder, Extension, Frame, Repeat};

use crate::Video;

/// Pixels the quantizer is trained on at most; a sample of every frame.
const SAMPLE_PIXELS: usize = 1 << 19;

/// Whether the format holds frames of this size.
pub(crate) fn check_size(width: usize, height: usize) -> Result<(), String> {
    match width.max(height) {
        side if side > usize::from(u16::MAX) => {
            Err(format!("a GIF has at most {} pixels a side, not {side}", u16::MAX))
        }
        _ => Ok(()),
    }
}

/// Encodes an endless GIF. The format counts time in 1/100 s: rounding is carried from frame to frame, so
/// that the clip as a whole keeps its length; players show nothing faster than 50 frames a second.
pub(crate) fn encode(video: &Video, comment: Option<&str>) -> Result<Vec<u8>, String> {
    check_size(video.width(), video.height())?;
    let (width, height) = (video.width() as u16, video.height() as u16);
    let mut palette = Palette::of(video);
    let mut encoder = Encoder::new(Vec::new(), width, height, &palette.colors).map_err(|e| e.to_string())?;
    encoder.set_repeat(Repeat::Infinite).map_err(|e| e.to_string())?;
    if let Some(text) = comment {
        let written = encoder.write_raw_extension(Extension::Comment.into(), &[text.as_bytes()]);
        written.map_err(|e| e.to_string())?;
    }
    for (index, image) in video.frames.iter().enumerate() {
        let buffer: Vec<u8> =
            image.rgb.chunks_exact(3).map(|p| palette.index_of([p[0], p[1], p[2]])).collect();
        let frame = Frame {
            width,
            height,
            buffer: Cow::Owned(buffer),
            delay: delay(index, video.fps),
            dispose: DisposalMethod::Keep,
            ..Frame::default()
        };
        encoder.write_frame(&frame).map_err(|e| e.to_string())?;
    }
    encoder.into_inner().map_err(|e| e.to_string())
}

/// Hundredths of a second between frame `index` and the next.
fn delay(index: usize, fps: f64) -> u16 {
    let time = |i: usize| (i as f64 * 100.0 / fps).round();
    (time(index + 1) - time(index)).clamp(2.0, f64::from(u16::MAX)) as u16
}

/// At most 256 colours: exact where the clip has no more, learned by NeuQuant otherwise.
struct Palette {
    colors: Vec<u8>,
    quantizer: Option<NeuQuant>,
    known: HashMap<[u8; 3], u8>,
}

impl Palette {
    fn of(video: &Video) -> Self {
        let pixels = || video.frames.iter().flat_map(|frame| frame.rgb.chunks_exact(3));
        let mut known = HashMap::new();
        let mut colors = Vec::new();
        for pixel in pixels() {
            let color = [pixel[0], pixel[1], pixel[2]];
            if known.contains_key(&color) {
                continue;
            }
            if known.len() == 256 {
                return Self::learned(pixels(), video.width() * video.height() * video.frames.len());
            }
            known.insert(color, known.len() as u8);
            colors.extend(color);
        }
        Self { colors, quantizer: None, known }
    }

    fn learned<'a>(pixels: impl Iterator<Item = &'a [u8]>, count: usize) -> Self {
        let step = count.div_ceil(SAMPLE_PIXELS).max(1) | 1; // odd: not to walk down one column
        let sample: Vec<u8> = pixels.step_by(step).flat_map(|p| [p[0], p[1], p[2], 255]).collect();
        let quantizer = NeuQuant::new(3, 256, &sample);
        Self { colors: quantizer.color_map_rgb(), quantizer: Some(quantizer), known: HashMap::new() }
    }

    fn index_of(&mut self, color: [u8; 3]) -> u8 {
        let quantizer = self.quantizer.as_ref();
        *self.known.entry(color).or_insert_with(|| {
            let [r, g, b] = color;
            quantizer.map_or(0, |quantizer| quantizer.index_of(&[r, g, b, 255]) as u8)
        })
    }
}
