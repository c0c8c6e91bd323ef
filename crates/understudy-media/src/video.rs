//! A clip in memory, at an even rate.

use std::fs;
use std::io::Read;
use std::path::Path;

use crate::image::{check_planar, gather_frame, scatter_frame};
use crate::{Error, Footage, Image, Picture, Range, Result};

/// A decoded clip may not take more memory than this.
pub const MAX_VIDEO_BYTES: u64 = 4 << 30;

pub(crate) const RE_ENCODE: &str =
    "copy the file again, or re-encode it: ffmpeg -i in -c:v libx264 -pix_fmt yuv420p out.mp4";
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

    /// A clip from planar `(3, frames, height, width)` values; the shape is given as `[frames, height,
    /// width]`.
    ///
    /// # Errors
    /// [`Error::Invalid`] when the length does not match or a value is not finite: a diverged sampler must
    /// not become a black video.
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

    /// Reads a clip ([`Footage::read`]) at an even rate: each frame as often as it is shown, where all are
    /// shown for whole multiples of the shortest time; else the frame that is shown at each moment
    /// ([`crate::Timing::even`]).
    ///
    /// # Errors
    /// As [`Footage::read`].
    pub fn read(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        Footage::read(path)?.into_video(path)
    }

    /// Reads the pictures of a folder, sorted by name, as the frames of a clip: the counterpart of writing to
    /// a folder.
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

/// Up to the first 32 bytes of a file.
pub(crate) fn read_head(path: &Path) -> Result<Vec<u8>> {
    let mut head = Vec::new();
    let file = fs::File::open(path).map_err(|e| Error::read(path, e))?;
    file.take(32).read_to_end(&mut head).map_err(|e| Error::read(path, e))?;
    Ok(head)
}
