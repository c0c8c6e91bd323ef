//! What a file is, by its content: whether it moves.

use std::fs;
use std::io::Read;
use std::path::Path;

use crate::animation::Animation;
use crate::picture::sniff;
use crate::video::is_mp4;

/// Extensions of files that are taken for videos whatever is in them, so that what is wrong with them is
/// said.
const EXTENSIONS: [&str; 16] = [
    "mp4", "m4v", "mov", "mkv", "webm", "avi", "wmv", "flv", "mpg", "mpeg", "ts", "m2ts", "mts", "ogv",
    "3gp", "gif",
];
/// Brands of still pictures in the boxes of MP4 (ISO/IEC 23008-12).
const STILL_BRANDS: [&[u8; 4]; 7] = [b"heic", b"heix", b"heim", b"heis", b"mif1", b"avif", b"jxl "];
/// What files of other containers begin with: Matroska and WebM, FLV, Ogg, Windows Media, MPEG program
/// streams and elementary video, Y4M.
const BEGINNINGS: [&[u8]; 8] = [
    b"\x1a\x45\xdf\xa3",
    b"FLV\x01",
    b"OggS",
    b"\x30\x26\xb2\x75\x8e\x66\xcf\x11",
    b"\0\0\x01\xba",
    b"\0\0\x01\xb3",
    b"\0\0\0\x01\x67",
    b"YUV4MPEG2",
];
/// Length of a packet of an MPEG transport stream, which begins with `SYNC`, and of the time before it on
/// some discs.
const PACKET: usize = 188;
const SYNC: u8 = 0x47;

/// Whether a file is an animation by content: a GIF, WebP or PNG of more than one frame. What cannot be read
/// is none.
pub fn is_animation(path: impl AsRef<Path>) -> bool {
    let path = path.as_ref();
    let Some(format) = Animation::of(&beginning(path)) else { return false };
    let Ok(bytes) = fs::read(path) else { return false };
    let frames = match format {
        Animation::Gif => gif_frames(&bytes),
        Animation::WebP => webp_frames(&bytes),
        Animation::Png => png_frames(&bytes),
    };
    frames.is_some_and(|frames| frames > 1)
}

/// Whether a file is a video or an animation, by content; or, where its content is nothing that is known, by
/// its name.
pub fn is_video(path: impl AsRef<Path>) -> bool {
    let path = path.as_ref();
    let head = beginning(path);
    if Animation::of(&head).is_some() || sniff(&head).is_some() {
        return is_animation(path);
    }
    if is_mp4(&head) {
        let brand = head.get(8..12).unwrap_or_default();
        return head.get(4..8) != Some(b"ftyp") || STILL_BRANDS.iter().all(|still| still[..] != *brand);
    }
    let known = BEGINNINGS.iter().any(|beginning| head.starts_with(beginning));
    let packets = |at: usize, length| head.get(at) == Some(&SYNC) && head.get(at + length) == Some(&SYNC);
    let avi = head.starts_with(b"RIFF") && head.get(8..12) == Some(b"AVI ");
    known || avi || packets(0, PACKET) || packets(4, PACKET + 4) || (path.is_file() && is_called_so(path))
}

fn is_called_so(path: &Path) -> bool {
    path.extension().is_some_and(|own| EXTENSIONS.iter().any(|known| own.eq_ignore_ascii_case(known)))
}

/// As much of a file as tells what it is; nothing where it cannot be read.
fn beginning(path: &Path) -> Vec<u8> {
    const ENOUGH: u64 = 512;
    let mut head = Vec::new();
    let read = fs::File::open(path).and_then(|file| file.take(ENOUGH).read_to_end(&mut head));
    if read.is_err() {
        head.clear();
    }
    head
}

/// How many frames a GIF has, up to two.
fn gif_frames(bytes: &[u8]) -> Option<usize> {
    let mut options = gif::DecodeOptions::new();
    options.skip_frame_decoding(true);
    let mut decoder = options.read_info(bytes).ok()?;
    Some((0..2).map_while(|_| decoder.next_frame_info().ok().flatten().map(|_| ())).count())
}

/// How many frames an animated PNG says to have: the `acTL` chunk stands before the picture.
fn png_frames(bytes: &[u8]) -> Option<usize> {
    let mut rest = bytes.get(8..)?;
    loop {
        let length = u32::from_be_bytes(rest.first_chunk().copied()?) as usize;
        match rest.get(4..8)? {
            b"acTL" => return Some(u32::from_be_bytes(rest.get(8..12)?.try_into().ok()?) as usize),
            b"IDAT" | b"IEND" => return None,
            _ => rest = rest.get(length.checked_add(12)?..)?,
        }
    }
}

/// How many frames an animated WebP has: chunks `ANMF`.
fn webp_frames(bytes: &[u8]) -> Option<usize> {
    let (mut rest, mut frames) = (bytes.get(12..)?, 0);
    while let Some(length) = rest.get(4..8) {
        frames += usize::from(rest.starts_with(b"ANMF"));
        let length = u32::from_le_bytes(length.try_into().ok()?) as usize;
        rest = rest.get(length.checked_add(8 + length % 2)?..).unwrap_or_default();
    }
    Some(frames)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn videos_are_known_by_what_is_in_them() {
        let folder = tempfile::tempdir().unwrap();
        let is = |name: &str, bytes: &[u8]| {
            let path = folder.path().join(name);
            fs::write(&path, bytes).unwrap();
            is_video(path)
        };
        let mut stream = vec![0; 400];
        (stream[0], stream[PACKET]) = (SYNC, SYNC);
        for bytes in [
            &b"RIFF\0\0\0\0AVI LIST"[..],
            b"\x1a\x45\xdf\xa3 a Matroska file",
            b"\0\0\0\x14ftypqt  ",
            b"\0\0\0\x08wide",
            &stream,
        ] {
            assert!(is("a.part", bytes), "{bytes:?}");
        }
        for bytes in [&b"RIFF\0\0\0\0WAVEfmt "[..], b"\0\0\0\x18ftypheic", b"hello", b""] {
            assert!(!is("a", bytes), "{bytes:?}");
        }
        assert!(is("empty.MKV", b"") && !is_video(folder.path().join("none.mp4")));
    }
}
