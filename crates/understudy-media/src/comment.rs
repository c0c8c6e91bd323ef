//! A text in a file, beside its pixels: how the file was made, so that it can be made again.
//!
//! Every format has a place for it that other programs show: a comment in MP4 (`©cmt`, which `ffprobe`
//! prints), GIF and PNG, the XMP description of a WebP, and an entry of a safetensors header. The text is
//! ASCII, since GIF and PNG know no more.

mod mp4;
mod png;
mod webp;

use std::collections::HashMap;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

pub(crate) use mp4::user_data;
pub(crate) use png::with_comment as png_with_comment;
pub(crate) use webp::with_comment as webp_with_comment;

/// The entry of a safetensors header, and of a PNG.
pub const COMMENT: &str = "comment";
/// No comment is longer, and no part of a file that is looked into.
const LONGEST: u64 = 64 << 20;

/// The comment in a video, a picture or a safetensors file, or in the first picture of a folder; none where
/// there is none, or the file is damaged: whoever decodes it says so.
pub fn read_comment(path: impl AsRef<Path>) -> Option<String> {
    let path = path.as_ref();
    let path = if path.is_dir() { first_picture(path)? } else { path.to_owned() };
    let mut file = File::open(path).ok()?;
    let mut head = [0; 16];
    file.read_exact(&mut head).ok()?;
    file.rewind().ok()?;
    let bytes = match &head {
        [0x89, b'P', b'N', b'G', ..] => png::comment(&mut file),
        [b'G', b'I', b'F', b'8', ..] => gif(&whole(&mut file)?),
        [b'R', b'I', b'F', b'F', _, _, _, _, b'W', b'E', b'B', b'P', ..] => webp::comment(&mut file),
        [_, _, _, _, b'f', b't', b'y', b'p', ..] => mp4::comment(&mut file),
        [_, _, _, _, _, _, _, _, b'{', ..] => safetensors(&mut file),
        _ => None,
    };
    String::from_utf8(bytes?).ok()
}

/// The first picture of a folder of frames.
fn first_picture(folder: &Path) -> Option<PathBuf> {
    let pictures = std::fs::read_dir(folder).ok()?.flatten().map(|entry| entry.path());
    pictures.filter(|path| path.extension().is_some_and(|own| own.eq_ignore_ascii_case("png"))).min()
}

fn whole(file: &mut File) -> Option<Vec<u8>> {
    let mut bytes = Vec::new();
    file.take(LONGEST).read_to_end(&mut bytes).ok()?;
    Some(bytes)
}

/// `count` bytes from where `file` is.
fn read(file: &mut File, count: u64) -> Option<Vec<u8>> {
    let mut bytes = Vec::new();
    file.take(count.min(LONGEST)).read_to_end(&mut bytes).ok()?;
    (bytes.len() as u64 == count).then_some(bytes)
}

fn skip(file: &mut File, count: u64) -> Option<()> {
    file.seek(SeekFrom::Current(i64::try_from(count).ok()?)).ok().map(drop)
}

/// The comment before the first frame of a GIF.
fn gif(bytes: &[u8]) -> Option<Vec<u8>> {
    const EXTENSION: u8 = 0x21;
    const COMMENT: u8 = 0xfe;
    let flags = *bytes.get(10)?;
    let palette = if flags & 0x80 == 0 { 0 } else { 3 << ((flags & 7) + 1) };
    let mut at = 13 + palette;
    while *bytes.get(at)? == EXTENSION {
        let kind = *bytes.get(at + 1)?;
        at += 2;
        let mut data = Vec::new();
        loop {
            let length = usize::from(*bytes.get(at)?);
            data.extend_from_slice(bytes.get(at + 1..at + 1 + length)?);
            at += 1 + length;
            if length == 0 {
                break;
            }
        }
        if kind == COMMENT {
            return Some(data);
        }
    }
    None
}

/// The entry of a safetensors header.
fn safetensors(file: &mut File) -> Option<Vec<u8>> {
    #[derive(serde::Deserialize)]
    struct Header {
        #[serde(rename = "__metadata__")]
        metadata: HashMap<String, String>,
    }
    let length = u64::from_le_bytes(read(file, 8)?.try_into().ok()?);
    let header: Header = serde_json::from_slice(&read(file, length)?).ok()?;
    header.metadata.get(COMMENT).map(|text| text.clone().into_bytes())
}
