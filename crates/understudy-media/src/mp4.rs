//! MP4 files: one H.264 track, written and read.

mod demux;
mod display;
mod edits;
mod mux;

pub(crate) use display::square_width;
pub(crate) use mux::encode;

use std::path::Path;

use crate::color::{Hdr, TONE_MAPPED};
use crate::h264::{Form, FrameDecoder};
use crate::video::check_memory;
use crate::yuv::ColorMatrix;
use crate::{Error, Footage, Image, Result, Video};

pub(crate) const RE_ENCODE: &str =
    "copy the file again, or re-encode it: ffmpeg -i in.mp4 -c:v libx264 -pix_fmt yuv420p out.mp4";

/// What an MP4's header says of its video track.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Mp4Info {
    /// Pixels a row, as displayed: upright, with square pixels.
    pub width: usize,
    /// Rows, as displayed.
    pub height: usize,
    /// Number of frames that are shown.
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
    /// Reads an MP4 or MOV file whose video is 8-bit 4:2:0 H.264, at an even rate ([`crate::Timing::even`]).
    /// Sound is not read.
    ///
    /// # Errors
    /// [`Error::Unsupported`] when its video is not such H.264 or it is fragmented; when the file cannot be
    /// read, is damaged or truncated, has no video or no frames, or decoding it would take more than
    /// [`crate::MAX_VIDEO_BYTES`]. A clip of which only some frames decode is an error too.
    pub fn read_mp4(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        read(path)?.into_video(path)
    }
}

/// The frames of an MP4 that are shown, as they are displayed.
pub(crate) fn read(path: &Path) -> Result<Footage> {
    let track = demux::Track::open(path)?;
    let info = track.info();
    let coding = track.coding();
    let [coded_height, coded_width] = track.coded_size();
    let (width, height) = (info.width.max(coded_width), info.height.max(coded_height));
    check_memory(path, info.frames as u64, width as u64, height as u64)?;
    let undecoded = |reason: String| Error::unsupported(path, reason);
    let matrix = ColorMatrix::of_code(coding.matrix, coding.full_range);
    let mut uses = vec![0usize; track.sample_count()];
    track.shown().frames.iter().for_each(|at| uses[*at] += 1);
    let wanted: Vec<bool> = uses.iter().map(|uses| *uses > 0).collect();
    let form = Form { matrix, size: track.coded_size(), aspect: track.display().aspect(), wanted: &wanted };
    let mut decoder = FrameDecoder::new(track.parameter_sets(), form).map_err(undecoded)?;
    for index in 0..wanted.len() {
        let unit = track.access_unit(path, index)?;
        decoder.decode(&unit).map_err(|reason| undecoded(format!("{reason} (frame {index})")))?;
    }
    let mut frames = decoder.finish().map_err(undecoded)?;
    if frames.len() != wanted.len() {
        let reason = format!("only {} of {} frames could be decoded", frames.len(), wanted.len());
        return Err(undecoded(reason));
    }
    let taken = |at: &usize| {
        uses[*at] -= 1;
        if uses[*at] == 0 { frames[*at].take() } else { frames[*at].clone() }
    };
    let shown: Vec<Image> = track.shown().frames.iter().filter_map(taken).collect();
    let hdr = Hdr::of_code(coding.transfer);
    let frames = match hdr {
        Some(hdr) => hdr.tone_map_narrow(path, shown)?,
        None => shown,
    };
    let frames = frames.into_iter().map(|frame| track.display().apply(frame)).collect();
    Ok(Footage::new(path, frames, track.shown().timing.clone())?.noted(hdr.is_some(), TONE_MAPPED))
}
