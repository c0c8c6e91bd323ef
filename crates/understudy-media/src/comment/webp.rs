//! An XMP packet with a description, in a WebP's extended form.

use std::fs::File;

use super::{read, skip};

/// In the flags of `VP8X`: there is an XMP packet.
const XMP: u8 = 0x04;
/// `RIFF size WEBP`.
const START: usize = 12;
const BEFORE: &str = "<x:xmpmeta xmlns:x=\"adobe:ns:meta/\"><rdf:RDF xmlns:rdf=\"http://www.w3.org/1999/02/22-rdf-syntax-ns#\">\
    <rdf:Description rdf:about=\"\" xmlns:dc=\"http://purl.org/dc/elements/1.1/\"><dc:description><rdf:Alt>\
    <rdf:li xml:lang=\"x-default\">";
const AFTER: &str = "</rdf:li></rdf:Alt></dc:description></rdf:Description></rdf:RDF></x:xmpmeta>";

/// A WebP of `width` x `height` with `comment` as the description of its XMP.
pub(crate) fn with_comment(mut webp: Vec<u8>, (width, height): (usize, usize), comment: &str) -> Vec<u8> {
    if webp.get(START..START + 4) == Some(b"VP8X") {
        webp[START + 8] |= XMP;
    } else {
        // A single frame has the short form, which holds nothing else.
        let side = |pixels: usize| (pixels as u32 - 1).to_le_bytes();
        let extended = [&[XMP, 0, 0, 0][..], &side(width)[..3], &side(height)[..3]].concat();
        webp.splice(START..START, chunk(b"VP8X", &extended));
    }
    let text = comment.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
    webp.extend(chunk(b"XMP ", format!("{BEFORE}{text}{AFTER}").as_bytes()));
    let size = (webp.len() - 8) as u32;
    webp[4..8].copy_from_slice(&size.to_le_bytes());
    webp
}

fn chunk(name: &[u8; 4], content: &[u8]) -> Vec<u8> {
    let length = content.len() as u32;
    let even = &[0][..content.len() % 2];
    [&name[..], &length.to_le_bytes(), content, even].concat()
}

/// The description that [`with_comment`] writes.
pub(super) fn comment(file: &mut File) -> Option<Vec<u8>> {
    skip(file, START as u64)?;
    loop {
        let head = read(file, 8)?;
        let length = u64::from(u32::from_le_bytes(head[4..].try_into().ok()?));
        if &head[..4] == b"XMP " {
            let packet = String::from_utf8(read(file, length)?).ok()?;
            let text = packet.strip_prefix(BEFORE)?.strip_suffix(AFTER)?;
            let text = text.replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&");
            return Some(text.into_bytes());
        }
        skip(file, length.next_multiple_of(2))?;
    }
}
