//! Animated pictures: GIF, WebP and PNG with several frames.

use std::fmt::Display;
use std::fs;
use std::io::Cursor;
use std::path::Path;

use ::image::codecs::gif::GifDecoder;
use ::image::codecs::png::PngDecoder;
use ::image::codecs::webp::WebPDecoder;
use ::image::{AnimationDecoder, Frames, ImageDecoder, ImageFormat, ImageResult, RgbaImage};

use crate::footage::Footage;
use crate::picture::{check_dimensions, flatten};
use crate::timing::Timing;
use crate::video::{RE_ENCODE, check_memory};
use crate::{Error, Result, complete};

/// Seconds that players show a frame for whose own time is a unit of the format's clock or none.
const USUAL_DELAY: f64 = 0.1;

/// What is said of a clip that is transparent in part.
const OVER_WHITE: &str =
    "what is transparent in it is laid over white, and where that is is not learned from";

/// Formats of animated pictures.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Animation {
    Gif,
    WebP,
    Png,
}

impl Animation {
    /// What a file that begins so may be.
    pub fn of(head: &[u8]) -> Option<Self> {
        match crate::picture::sniff(head) {
            Some(ImageFormat::Png) => Some(Self::Png),
            Some(ImageFormat::WebP) => Some(Self::WebP),
            _ => head.starts_with(b"GIF8").then_some(Self::Gif),
        }
    }

    /// Reads the clip. Transparency is laid over white.
    pub fn read(self, path: &Path) -> Result<Footage> {
        let bytes = fs::read(path).map_err(|e| Error::read(path, e))?;
        let source = || Cursor::new(bytes.as_slice());
        match self {
            Self::Gif => {
                if bytes.last() != Some(&0x3b) {
                    return Err(Error::unreadable(path, "the GIF is truncated", RE_ENCODE));
                }
                collect(path, GifDecoder::new(source()), |decoder| Ok(decoder.into_frames()), 0.01)
            }
            Self::WebP => {
                complete::check(path, ImageFormat::WebP, &bytes)?;
                webp(path, &bytes)
            }
            Self::Png => {
                complete::check(path, ImageFormat::Png, &bytes)?;
                let frames = |decoder: PngDecoder<_>| Ok(decoder.apng()?.into_frames());
                collect(path, PngDecoder::new(source()), frames, 0.001)
            }
        }
    }
}

/// The frames of an animated WebP, put together by libwebp as players do.
fn webp(path: &Path, bytes: &[u8]) -> Result<Footage> {
    const TICK: f64 = 0.001;
    let damaged = |error: &dyn Display| Error::unreadable(path, format!("damaged: {error}"), RE_ENCODE);
    let size = WebPDecoder::new(Cursor::new(bytes)).map_err(|error| damaged(&error))?.dimensions();
    check_dimensions(path, size)?;
    let decoder = webp_animation::Decoder::new(bytes).map_err(|error| damaged(&error))?;
    let (mut pictures, mut delays, mut before, mut transparent) = (Vec::new(), Vec::new(), 0, false);
    for frame in decoder {
        check_memory(path, pictures.len() as u64 + 1, size.0.into(), size.1.into())?;
        let delay = f64::from(frame.timestamp() - before) * TICK;
        before = frame.timestamp();
        delays.push(if delay < 1.5 * TICK { USUAL_DELAY } else { delay });
        let pixels = RgbaImage::from_raw(size.0, size.1, frame.data().to_vec());
        let pixels = pixels.ok_or_else(|| damaged(&"a frame is of another size"))?;
        let picture = flatten(pixels, [255; 3]);
        transparent |= picture.mask.is_some();
        pictures.push(picture.image);
    }
    match frames_of_webp(bytes) {
        0 => Err(Error::unreadable(path, "a still picture, which has no frames to play", "give a video")),
        // The decoder ends at the first frame it cannot read.
        count if count > pictures.len() => Err(damaged(&format!("frame {} of {count}", pictures.len() + 1))),
        _ => {
            let footage = Footage::new(path, pictures, Timing::of_delays(&delays, TICK))?;
            Ok(footage.noted(transparent, OVER_WHITE))
        }
    }
}

/// How many frames the chunks of a WebP hold, if it is animated.
fn frames_of_webp(bytes: &[u8]) -> usize {
    let mut rest = bytes.get(12..).unwrap_or_default();
    let mut count = 0;
    while let Some((head, data)) = rest.split_first_chunk::<8>() {
        count += usize::from(head.starts_with(b"ANMF"));
        let length = u32::from_le_bytes([head[4], head[5], head[6], head[7]]) as usize;
        rest = data.get(length.next_multiple_of(2)..).unwrap_or_default();
    }
    count
}

/// The frames of an animated picture whose format counts in units of `tick` seconds.
fn collect<'a, D: ImageDecoder>(
    path: &Path,
    decoder: ImageResult<D>,
    frames: impl FnOnce(D) -> ImageResult<Frames<'a>>,
    tick: f64,
) -> Result<Footage> {
    let damaged = |error| Error::unreadable(path, format!("damaged: {error}"), RE_ENCODE);
    let decoder = decoder.map_err(damaged)?;
    let (width, height) = decoder.dimensions();
    check_dimensions(path, (width, height))?;
    let (mut pictures, mut delays, mut transparent) = (Vec::new(), Vec::new(), false);
    for frame in frames(decoder).map_err(damaged)? {
        check_memory(path, pictures.len() as u64 + 1, width.into(), height.into())?;
        let frame = frame.map_err(damaged)?;
        let (numerator, denominator) = frame.delay().numer_denom_ms();
        let delay = f64::from(numerator) / f64::from(denominator.max(1)) / 1000.0;
        delays.push(if delay < 1.5 * tick { USUAL_DELAY } else { delay });
        let picture = flatten(frame.into_buffer(), [255; 3]);
        transparent |= picture.mask.is_some();
        pictures.push(picture.image);
    }
    if pictures.is_empty() {
        return Err(Error::unreadable(path, "a still picture, which has no frames to play", "give a video"));
    }
    Ok(Footage::new(path, pictures, Timing::of_delays(&delays, tick))?.noted(transparent, OVER_WHITE))
}
