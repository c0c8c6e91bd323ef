//! A clip as its file has it: every frame once, with the time it is shown.

use std::path::Path;

use crate::animation::Animation;
use crate::format::stand_in;
use crate::timing::Even;
use crate::video::{RE_ENCODE, check_memory, is_mp4, read_head};
use crate::{Error, Image, Result, Timing, Video, ffmpeg, mp4, picture};

const NO_VIDEO: &str = "not an MP4, GIF, WebP or PNG file";

/// The decoded frames of a clip and when each is shown.
#[derive(Debug, Clone, PartialEq)]
pub struct Footage {
    /// The frames, in order, all of one size: upright, with square pixels.
    pub frames: Vec<Image>,
    /// When they are shown.
    pub timing: Timing,
    /// What is to be said of how they were read.
    pub notes: Vec<&'static str>,
}

impl Footage {
    /// Reads a clip: MP4 with H.264, GIF, animated WebP or PNG, told apart by content, and anything else by
    /// the system's `ffmpeg` where there is one. Transparency is laid over white; colours of high dynamic
    /// range become BT.709.
    ///
    /// # Errors
    /// When the file cannot be read, is none of these, needs `ffmpeg` and there is none, is damaged, has no
    /// frames, or exceeds the limits ([`crate::MAX_SIDE`], [`crate::MAX_VIDEO_BYTES`]).
    pub fn read(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let head = read_head(path)?;
        if let Some(found) = stand_in(&head) {
            return Err(Error::unreadable(path, found.name, found.advice));
        }
        if let Some(animation) = Animation::of(&head) {
            animation.read(path)
        } else if picture::sniff(&head).is_some() {
            Err(Error::unreadable(path, "a still picture, which has no frames to play", "give a video"))
        } else if is_mp4(&head) {
            match mp4::read(path) {
                Err(Error::Unsupported { reason, .. }) => ffmpeg::read(path, &reason),
                other => other,
            }
        } else if head.is_empty() {
            Err(Error::unreadable(path, "the file is empty", "copy or download it again"))
        } else if is_text(&head) {
            let reason = format!("a text, {NO_VIDEO}");
            Err(Error::unreadable(path, reason, "give a video; if this was to be one, download it again"))
        } else {
            ffmpeg::read(path, NO_VIDEO)
        }
    }

    pub(crate) fn new(path: &Path, frames: Vec<Image>, timing: Timing) -> Result<Self> {
        if frames.len() != timing.starts().len() {
            let reason = format!("it has {} frames and the times of {}", frames.len(), timing.starts().len());
            return Err(Error::unreadable(path, reason, RE_ENCODE));
        }
        Ok(Self { frames, timing, notes: Vec::new() })
    }

    /// The same, with this to be said of it where `said`.
    pub(crate) fn noted(mut self, said: bool, note: &'static str) -> Self {
        self.notes.extend(said.then_some(note));
        self
    }

    /// The clip at an even rate ([`Timing::even`]).
    pub(crate) fn into_video(self, path: &Path) -> Result<Video> {
        let even = self.timing.even();
        self.into_even(path, &even)
    }

    /// The clip of these of its frames; `path` is its file.
    ///
    /// # Errors
    /// When it needs more memory than [`crate::MAX_VIDEO_BYTES`], as frames that are shown for long do, which
    /// stand as often.
    pub fn into_even(self, path: &Path, even: &Even) -> Result<Video> {
        let (width, height) = self.frames.first().map_or((0, 0), |frame| (frame.width, frame.height));
        check_memory(path, even.frames.len() as u64, width as u64, height as u64)?;
        Video::new(even.pick(self.frames), even.fps.clamp(0.1, 1000.0))
    }
}

/// Whether a file begins as text, which `ffmpeg` would draw the letters of.
pub(crate) fn is_text(head: &[u8]) -> bool {
    // The head may end within a character.
    let text = match std::str::from_utf8(head) {
        Ok(_) => head,
        Err(error) if error.error_len().is_none() => &head[..error.valid_up_to()],
        Err(_) => return false,
    };
    !head.starts_with(b"YUV4MPEG2")
        && !text.iter().any(|byte| byte.is_ascii_control() && !byte.is_ascii_whitespace())
}

#[cfg(test)]
mod tests {
    use super::is_text;

    #[test]
    fn text_is_no_video() {
        assert!(is_text(b"a cat [jumps]\n") && is_text(b"{\"a\": 1}") && is_text("une b\u{ea}".as_bytes()));
        assert!(is_text(b"\xef\xbb\xbfa,b") && is_text(&"\u{e9}t\u{e9}".as_bytes()[..4]));
        assert!(!is_text(b"\x1a\x45\xdf\xa3") && !is_text(b"OggS\0") && !is_text(b"YUV4MPEG2 W2"));
    }
}
