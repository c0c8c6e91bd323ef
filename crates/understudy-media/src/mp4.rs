//! MP4 files: one H.264 track, written and read.

mod demux;
mod mux;

pub(crate) use mux::encode;

use std::path::Path;

use crate::h264::FrameDecoder;
use crate::video::check_memory;
use crate::{Error, Result, Video};

pub(crate) const RE_ENCODE: &str =
    "copy the file again, or re-encode it: ffmpeg -i in.mp4 -c:v libx264 -pix_fmt yuv420p out.mp4";

/// What an MP4's header says of its video track.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Mp4Info {
    /// Pixels a row, as displayed (after the track's rotation).
    pub width: usize,
    /// Rows, as displayed.
    pub height: usize,
    /// Number of frames.
    pub frames: usize,
    /// Mean frames a second.
    pub fps: f64,
}

impl Mp4Info {
    /// Reads the header only; no frame is decoded.
    ///
    /// # Errors
    /// When the file cannot be read, is damaged or truncated, or has no H.264 video.
    pub fn probe(path: impl AsRef<Path>) -> Result<Self> {
        Ok(demux::Track::open(path.as_ref())?.info())
    }
}

impl Video {
    /// Reads an MP4 or MOV file whose video is 8-bit 4:2:0 H.264, upright as its rotation says.
    /// Sound is not read. A variable frame rate becomes its mean.
    ///
    /// # Errors
    /// [`Error::Unsupported`] when its video is not such H.264 or it is fragmented; when the file cannot be read, is damaged or
    /// truncated, has no video or no frames, or decoding it would take more than [`crate::MAX_VIDEO_BYTES`]. A clip of which only some frames decode is an error too.
    pub fn read_mp4(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let track = demux::Track::open(path)?;
        let info = track.info();
        check_memory(path, info.frames as u64, info.width as u64, info.height as u64)?;
        let damaged = |reason: String| Error::unreadable(path, format!("H.264: {reason}"), RE_ENCODE);
        let mut decoder = FrameDecoder::new(track.parameter_sets(), track.color_matrix(), track.coded_size())
            .map_err(damaged)?;
        for index in 0..info.frames {
            let unit = track.access_unit(path, index)?;
            decoder.decode(&unit).map_err(|e| damaged(format!("frame {index}: {e}")))?;
        }
        let frames = decoder.finish().map_err(damaged)?;
        if frames.len() != info.frames {
            let reason = format!("only {} of {} frames could be decoded", frames.len(), info.frames);
            return Err(damaged(reason));
        }
        let upright = frames.into_iter().map(|frame| track.rotation().apply(frame)).collect();
        Video::new(upright, info.fps)
    }
}
