//! Whether a picture file is all there.
//!
//! Decoders are lenient: a truncated JPEG decodes to a picture whose lower part is grey, and a PNG without
//! its end decodes to a whole one. Training on half a face is worse than an error, so the containers are
//! walked to their end.

use std::path::Path;

use ::image::ImageFormat;

use crate::{Error, Result};

/// That the file ends where its format says it ends. Bytes after the end are allowed.
pub(crate) fn check(path: &Path, format: ImageFormat, bytes: &[u8]) -> Result<()> {
    let complete = match format {
        ImageFormat::Png => png_reaches_end(bytes),
        ImageFormat::Jpeg => jpeg_reaches_end(bytes),
        ImageFormat::WebP => webp_reaches_end(bytes),
        _ => Some(()),
    };
    complete.ok_or_else(|| {
        let reason = format!("the file is truncated ({} bytes are there)", bytes.len());
        Error::unreadable(path, reason, "copy or export it again")
    })
}

/// Chunks `length type data crc` up to `IEND`.
fn png_reaches_end(bytes: &[u8]) -> Option<()> {
    let mut at = 8;
    loop {
        let length = u32::from_be_bytes(bytes.get(at..at + 4)?.try_into().ok()?) as usize;
        let kind = bytes.get(at + 4..at + 8)?;
        let next = at.checked_add(12)?.checked_add(length)?;
        if next > bytes.len() {
            return None;
        }
        if kind == b"IEND" {
            return Some(());
        }
        at = next;
    }
}

/// Segments up to the end-of-image marker. Inside entropy-coded data `FF` is followed by `00` or a restart
/// marker.
fn jpeg_reaches_end(bytes: &[u8]) -> Option<()> {
    let mut at = 2;
    loop {
        if *bytes.get(at)? != 0xff {
            at += 1; // entropy-coded data, or filling between segments
            continue;
        }
        match *bytes.get(at + 1)? {
            0xd9 => return Some(()),
            0xff => at += 1,
            0x00 | 0x01 | 0xd0..=0xd8 => at += 2,
            _ => {
                let length = u16::from_be_bytes(bytes.get(at + 2..at + 4)?.try_into().ok()?);
                at += 2 + usize::from(length);
            }
        }
    }
}

/// `RIFF size WEBP`: the size counts everything after itself.
fn webp_reaches_end(bytes: &[u8]) -> Option<()> {
    let length = u32::from_le_bytes(bytes.get(4..8)?.try_into().ok()?) as usize;
    (length.checked_add(8)? <= bytes.len()).then_some(())
}
