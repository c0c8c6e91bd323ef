//! A `tEXt` chunk, "Comment".

use std::fs::File;

use super::{read, skip};

/// The keyword that the PNG specification has for it.
const KEYWORD: &[u8] = b"Comment\0";
const SIGNATURE: usize = 8;
/// The signature, and the chunk that comes first: length, name, 13 bytes, checksum.
const START: usize = SIGNATURE + 4 + 4 + 13 + 4;

/// A PNG with `comment` after its header.
pub(crate) fn with_comment(mut png: Vec<u8>, comment: &str) -> Vec<u8> {
    let body = [b"tEXt", KEYWORD, comment.as_bytes()].concat();
    let length = (body.len() - 4) as u32;
    let chunk = [&length.to_be_bytes()[..], &body, &crc32fast::hash(&body).to_be_bytes()].concat();
    png.splice(START..START, chunk);
    png
}

/// The comment before the picture.
pub(super) fn comment(file: &mut File) -> Option<Vec<u8>> {
    skip(file, SIGNATURE as u64)?;
    loop {
        let head = read(file, 8)?;
        let length = u32::from_be_bytes(head[..4].try_into().ok()?).into();
        match &head[4..] {
            b"tEXt" => {
                let data = read(file, length)?;
                if let Some(text) = data.strip_prefix(KEYWORD) {
                    return Some(text.to_vec());
                }
            }
            b"IDAT" | b"IEND" => return None,
            _ => skip(file, length)?,
        }
        skip(file, 4)?;
    }
}
