//! The metadata boxes that iTunes writes and everybody reads: `udta/meta/ilst/©cmt/data`.

use std::fs::File;

use super::{read, skip};

const COMMENT: &[u8; 4] = b"\xa9cmt";
/// A box's length and name.
const HEAD: usize = 8;
/// What `meta` has before its boxes: version and flags.
const META: usize = 4;
/// What `data` has before its text: the kind of text, and the language.
const DATA: usize = 8;

/// The box `udta` with `comment`.
pub(crate) fn user_data(comment: &str) -> Vec<u8> {
    const UTF8: [u8; DATA] = [0, 0, 0, 1, 0, 0, 0, 0];
    let handler = [&[0; 8][..], b"mdirappl", &[0; 9]].concat();
    let data = atom(b"data", &[&UTF8, comment.as_bytes()].concat());
    let list = atom(b"ilst", &atom(COMMENT, &data));
    let meta = [&[0; META][..], &atom(b"hdlr", &handler), &list].concat();
    atom(b"udta", &atom(b"meta", &meta))
}

fn atom(name: &[u8; 4], content: &[u8]) -> Vec<u8> {
    let length = (HEAD + content.len()) as u32;
    [&length.to_be_bytes()[..], name, content].concat()
}

/// The comment of an MP4.
pub(super) fn comment(file: &mut File) -> Option<Vec<u8>> {
    let movie = loop {
        let head = read(file, HEAD as u64)?;
        let length = match u32::from_be_bytes(head[..4].try_into().ok()?) {
            1 => u64::from_be_bytes(read(file, 8)?.try_into().ok()?).checked_sub(16)?,
            length => u64::from(length).checked_sub(HEAD as u64)?,
        };
        if &head[4..] == b"moov" {
            break read(file, length)?;
        }
        skip(file, length)?;
    };
    let meta = within(within(&movie, b"udta")?, b"meta")?;
    // QuickTime's `meta` has no version.
    let list = within(meta.get(META..)?, b"ilst").or_else(|| within(meta, b"ilst"))?;
    Some(within(within(list, COMMENT)?, b"data")?.get(DATA..)?.to_vec())
}

/// What is in the first box called `name`.
fn within<'a>(mut boxes: &'a [u8], name: &[u8; 4]) -> Option<&'a [u8]> {
    loop {
        let length = u32::from_be_bytes(boxes.get(..4)?.try_into().ok()?) as usize;
        let own = boxes.get(..length.max(HEAD))?;
        if own.get(4..HEAD)? == name {
            return own.get(HEAD..);
        }
        boxes = &boxes[own.len()..];
    }
}
