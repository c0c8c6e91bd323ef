//! A clip in memory, and reading one by content.

use std::fs;
use std::io::{Cursor, Read};
use std::path::Path;

use ::image::codecs::gif::GifDecoder;
use ::image::codecs::webp::WebPDecoder;
use ::image::{AnimationDecoder, Frames, ImageDecoder};

use crate::image::{check_planar, gather_frame, scatter_frame};
use crate::picture::{check_dimensions, flatten};
use crate::{Error, Image, Picture, Range, Result};

/// A decoded clip may not take more memory than this.
pub const MAX_VIDEO_BYTES: u64 = 4 << 30;

const RE_ENCODE: &str =
    "copy the file again, or re-encode it: ffmpeg -i in -c:v libx264 -pix_fmt yuv420p out.mp4";
const NO_VIDEO: &str = "not an MP4, GIF or WebP file";
const CUT: &str = "cut or scale the clip: ffmpeg -i in -t 5 -vf scale=-2:720 out.mp4";

/// A clip: frames of one size and a constant frame rate.
#[derive(Debug, Clone, PartialEq)]
pub struct Video {
    /// The frames, in order, all of one size.
    pub frames: Vec<Image>,
    /// Frames a second.
    pub fps: f64,
}

impl Video {
    /// A clip from its frames.
    ///
    /// # Errors
    /// [`Error::Invalid`] when there is no frame, sizes differ, or `fps` is not within 0.1..=1000.
    pub fn new(frames: Vec<Image>, fps: f64) -> Result<Self> {
        let video = Self { frames, fps };
        video.check()?;
        Ok(video)
    }

    /// Pixels a row.
    pub fn width(&self) -> usize {
        self.frames.first().map_or(0, |frame| frame.width)
    }

    /// Rows.
    pub fn height(&self) -> usize {
        self.frames.first().map_or(0, |frame| frame.height)
    }

    /// A clip from planar `(3, frames, height, width)` values; the shape is given as `[frames, height, width]`.
    ///
    /// # Errors
    /// [`Error::Invalid`] when the length does not match or a value is not finite: a diverged sampler must not
    /// become a black video.
    pub fn from_planar(planar: &[f32], shape: [usize; 3], fps: f64, range: Range) -> Result<Self> {
        check_planar(planar, shape)?;
        Self::new((0..shape[0]).map(|i| gather_frame(planar, i, shape, range)).collect(), fps)
    }

    /// Planar `(3, frames, height, width)` values.
    pub fn to_planar(&self, range: Range) -> Vec<f32> {
        let count = self.frames.len();
        let mut planar = vec![0.0; self.width() * self.height() * 3 * count];
        for (index, frame) in self.frames.iter().enumerate() {
            scatter_frame(frame, &mut planar, index, count, range);
        }
        planar
    }

    /// Reads a clip: MP4 with H.264, GIF, or animated WebP, told apart by content, and anything else by the system's `ffmpeg`
    /// where there is one. Transparency is laid over white.
    /// A frame of an animated picture that is shown a whole number of times as long as the shortest stands as often: encoders
    /// write frames that repeat as one. Other variable frame rates become their mean.
    ///
    /// # Errors
    /// When the file cannot be read, is none of these, needs `ffmpeg` and there is none, is damaged, has no frames, or exceeds the limits
    /// ([`crate::MAX_SIDE`], [`MAX_VIDEO_BYTES`]).
    pub fn read(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let head = read_head(path)?;
        if head.starts_with(b"GIF8") {
            let bytes = fs::read(path).map_err(|e| Error::read(path, e))?;
            let decoder = GifDecoder::new(Cursor::new(&bytes)).map_err(|e| damaged(path, e))?;
            check_dimensions(path, decoder.dimensions())?;
            if bytes.last() != Some(&0x3b) {
                return Err(Error::unreadable(path, "the GIF is truncated", RE_ENCODE));
            }
            let area = decoder.dimensions();
            collect(path, area, decoder.into_frames(), 10.0)
        } else if head.starts_with(b"RIFF") && head.get(8..12) == Some(b"WEBP") {
            let bytes = fs::read(path).map_err(|e| Error::read(path, e))?;
            crate::complete::check(path, ::image::ImageFormat::WebP, &bytes)?;
            let decoder = WebPDecoder::new(Cursor::new(&bytes)).map_err(|e| damaged(path, e))?;
            check_dimensions(path, decoder.dimensions())?;
            let area = decoder.dimensions();
            collect(path, area, decoder.into_frames(), 1.0)
        } else if is_mp4(&head) {
            match Self::read_mp4(path) {
                Err(Error::Unsupported { reason, .. }) => crate::ffmpeg::read(path, &reason),
                other => other,
            }
        } else if is_text(&head) {
            Err(Error::unreadable(path, NO_VIDEO, RE_ENCODE))
        } else {
            crate::ffmpeg::read(path, NO_VIDEO)
        }
    }

    /// Reads the pictures of a folder, sorted by name, as the frames of a clip: the counterpart of writing to a folder.
    ///
    /// # Errors
    /// As [`Picture::open`] for each of them; [`Error::Invalid`] when their sizes differ.
    pub fn read_frames(directory: impl AsRef<Path>, fps: f64) -> Result<Self> {
        let directory = directory.as_ref();
        let entries = fs::read_dir(directory).map_err(|e| Error::read(directory, e))?;
        let mut paths = Vec::new();
        for entry in entries {
            paths.push(entry.map_err(|e| Error::read(directory, e))?.path());
        }
        paths.sort();
        let frames = paths.iter().map(|path| Ok(Picture::open(path)?.image)).collect::<Result<_>>()?;
        Self::new(frames, fps)
    }

    /// Every pixel repeated `factor` times in both directions.
    pub fn upscale_nearest(&self, factor: usize) -> Self {
        Self {
            frames: self.frames.iter().map(|frame| frame.upscale_nearest(factor)).collect(),
            fps: self.fps,
        }
    }

    /// That this is a clip at all; see [`Video::new`].
    pub(crate) fn check(&self) -> Result<()> {
        if !(0.1..=1000.0).contains(&self.fps) {
            return Err(Error::invalid("fps", format!("{} is not within 0.1 and 1000", self.fps)));
        }
        let Some(first) = self.frames.first() else {
            return Err(Error::invalid("video", "has no frames; give at least one"));
        };
        for (index, frame) in self.frames.iter().enumerate() {
            frame.check()?;
            if (frame.width, frame.height) != (first.width, first.height) {
                return Err(Error::invalid(
                    "video",
                    format!(
                        "frame {index} is {}x{} but frame 0 is {}x{}; resize them to one size",
                        frame.width, frame.height, first.width, first.height
                    ),
                ));
            }
        }
        Ok(())
    }
}

/// That `frames` frames of `width` x `height` fit [`MAX_VIDEO_BYTES`].
pub(crate) fn check_memory(path: &Path, frames: u64, width: u64, height: u64) -> Result<()> {
    let bytes = width.saturating_mul(height).saturating_mul(3).saturating_mul(frames);
    if bytes > MAX_VIDEO_BYTES {
        let reason =
            format!("{frames} frames of {width}x{height} need {} GiB decoded, the limit is 4", bytes >> 30);
        return Err(Error::unreadable(path, reason, CUT));
    }
    Ok(())
}

/// Whether a file begins as MP4 or QuickTime files do.
pub(crate) fn is_mp4(head: &[u8]) -> bool {
    matches!(head.get(4..8), Some(b"ftyp" | b"moov" | b"mdat" | b"wide" | b"free" | b"skip"))
}

/// Whether a file begins as text, which `ffmpeg` would draw the letters of, or has nothing in it.
fn is_text(head: &[u8]) -> bool {
    !head.starts_with(b"YUV4MPEG2")
        && head.iter().all(|byte| byte.is_ascii_graphic() || byte.is_ascii_whitespace())
}

/// Up to the first 32 bytes of a file.
pub(crate) fn read_head(path: &Path) -> Result<Vec<u8>> {
    let mut head = Vec::new();
    let file = fs::File::open(path).map_err(|e| Error::read(path, e))?;
    file.take(32).read_to_end(&mut head).map_err(|e| Error::read(path, e))?;
    Ok(head)
}

/// The frames of an animated picture, at their mean rate; those that stand for several as often. Its format counts in so
/// many milliseconds.
fn collect(path: &Path, (width, height): (u32, u32), source: Frames<'_>, unit: f64) -> Result<Video> {
    let (mut distinct, mut delays) = (Vec::new(), Vec::new());
    for frame in source {
        check_memory(path, distinct.len() as u64 + 1, width.into(), height.into())?;
        let frame = frame.map_err(|e| damaged(path, e))?;
        let (numerator, denominator) = frame.delay().numer_denom_ms();
        delays.push(f64::from(numerator) / f64::from(denominator.max(1)));
        distinct.push(flatten(frame.into_buffer(), [255; 3]).image);
    }
    if distinct.is_empty() {
        return Err(Error::unreadable(path, "has no frames", RE_ENCODE));
    }
    let milliseconds: f64 = delays.iter().sum();
    let counts = repeats(&delays, unit);
    check_memory(path, counts.iter().sum::<usize>() as u64, width.into(), height.into())?;
    let repeated = |(frame, count)| std::iter::repeat_n(frame, count);
    let frames: Vec<Image> = distinct.into_iter().zip(counts).flat_map(repeated).collect();
    let fps = if milliseconds > 0.0 { frames.len() as f64 * 1000.0 / milliseconds } else { 10.0 };
    Video::new(frames, fps.clamp(0.1, 1000.0))
}

/// How often each frame is shown, if all delays are about whole multiples of the shortest; else once. Of those counted in
/// less than three units nothing can be told: of 60 frames a second a GIF shows some for one unit and some for two.
fn repeats(delays: &[f64], unit: f64) -> Vec<usize> {
    // Of 24 frames a second a GIF shows some for 4 hundredths and some for 5.
    const OFF: f64 = 0.3;
    let shortest = delays.iter().copied().fold(f64::INFINITY, f64::min);
    let counts = delays.iter().map(|delay| {
        let times = delay / shortest;
        (shortest >= 3.0 * unit && (times - times.round()).abs() < OFF).then_some(times.round() as usize)
    });
    counts.collect::<Option<_>>().unwrap_or_else(|| vec![1; delays.len()])
}

fn damaged(path: &Path, error: ::image::ImageError) -> Error {
    Error::unreadable(path, format!("damaged: {error}"), RE_ENCODE)
}

#[cfg(test)]
mod tests {
    use super::{is_text, repeats};

    #[test]
    fn text_is_no_video() {
        assert!(is_text(b"") && is_text(b"a cat [jumps]\n") && is_text(b"{\"a\": 1}"));
        assert!(!is_text(b"\x1a\x45\xdf\xa3") && !is_text(b"OggS\0") && !is_text(b"YUV4MPEG2 W2"));
    }

    #[test]
    fn delays_of_whole_multiples_are_repeats() {
        assert_eq!(repeats(&[125.0, 250.0, 125.0, 375.0], 1.0), [1, 2, 1, 3]);
        assert_eq!(repeats(&[40.0, 40.0, 50.0, 40.0], 10.0), [1, 1, 1, 1]);
        // A rate that varies, one that cannot be told, and none.
        assert_eq!(repeats(&[100.0, 150.0], 1.0), [1, 1]);
        assert_eq!(repeats(&[10.0, 20.0, 20.0], 10.0), [1, 1, 1]);
        assert_eq!(repeats(&[0.0, 20.0], 1.0), [1, 1]);
    }
}
