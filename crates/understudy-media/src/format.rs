//! What a file is, by its first bytes: a picture, a clip, a list of such, or something that has to be
//! converted first.

use std::path::Path;

use ::image::ImageFormat;

use crate::footage::is_text;
use crate::kind::is_animation;
use crate::video::{is_mp4, read_head};
use crate::{Error, Result};

/// The formats of pictures that are read, for messages.
pub(crate) const PICTURES: &str = "PNG, JPEG, WebP, BMP or TIFF";

/// The names pictures have.
const PICTURE_NAMES: [&str; 8] = ["png", "jpg", "jpeg", "webp", "bmp", "tif", "tiff", "jfif"];

/// Names of what cameras write, TIFF inside, of which the first picture is a thumbnail.
const RAW_NAMES: [&str; 14] =
    ["dng", "nef", "nrw", "arw", "sr2", "srf", "cr2", "pef", "srw", "dcr", "kdc", "erf", "3fr", "iiq"];

/// What a file can serve as.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FileKind {
    /// A still picture.
    Picture,
    /// A video, or an animated picture.
    Clip,
    /// A description of a data set, for [`Dataset::open`](crate::Dataset::open).
    Description,
    /// None of these by its looks; a video of a kind that `ffmpeg` may know.
    Unknown,
}

impl FileKind {
    /// What the file at `path` is.
    ///
    /// # Errors
    /// When it cannot be read, is named as a picture and is none, is of a kind that has to be converted
    /// first, or of one that nothing is learned from; the message says what to give instead.
    pub fn of(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let head = read_head(path)?;
        if let Some(Foreign { name, advice }) = foreign(path, &head) {
            return Err(Error::unreadable(path, name, advice));
        }
        if is_description(path) {
            return Ok(Self::Description);
        }
        Ok(match sniff(&head) {
            Some(_) if is_animation(path) => Self::Clip,
            Some(_) => Self::Picture,
            None if is_mp4(&head) || head.starts_with(b"GIF8") => Self::Clip,
            None if is_named_picture(path) => {
                // The reader's own error says more than that it is no video either.
                return Err(crate::Picture::open(path).err().unwrap_or_else(|| no_picture(path, &head)));
            }
            None => match no_subject(path, &head) {
                Some(found) => return Err(Error::unreadable(path, found.name, found.advice)),
                None => Self::Unknown,
            },
        })
    }
}

/// Whether a file is named as a picture.
pub(crate) fn is_named_picture(path: &Path) -> bool {
    has_extension(path, &PICTURE_NAMES)
}

/// Whether a file is named as the description of a data set.
pub(crate) fn is_description(path: &Path) -> bool {
    has_extension(path, &["toml", "jsonl"])
}

fn has_extension(path: &Path, known: &[&str]) -> bool {
    path.extension().is_some_and(|own| known.iter().any(|known| own.eq_ignore_ascii_case(known)))
}

/// That a file is no picture.
pub(crate) fn no_picture(path: &Path, head: &[u8]) -> Error {
    let reason = match head {
        [] => "the file is empty".to_owned(),
        _ => format!("not a {PICTURES} picture"),
    };
    Error::unreadable(path, reason, "export it again as PNG, JPEG or WebP")
}

/// The format by content, if it is one this crate reads as a picture.
pub(crate) fn sniff(head: &[u8]) -> Option<ImageFormat> {
    // The size of a BMP's second header, by its version.
    const BMP_HEADERS: [u8; 7] = [12, 40, 52, 56, 64, 108, 124];
    if head.starts_with(b"\x89PNG\r\n\x1a\n") {
        Some(ImageFormat::Png)
    } else if head.starts_with(&[0xff, 0xd8, 0xff]) {
        Some(ImageFormat::Jpeg)
    } else if head.starts_with(b"RIFF") && head.get(8..12) == Some(b"WEBP") {
        Some(ImageFormat::WebP)
    } else if head.starts_with(b"BM")
        && matches!(head.get(14..18), Some([size, 0, 0, 0]) if BMP_HEADERS.contains(size))
    {
        Some(ImageFormat::Bmp)
    } else if matches!(head.get(..4), Some(b"II*\0" | b"MM\0*" | b"II+\0" | b"MM\0+")) {
        Some(ImageFormat::Tiff)
    } else {
        None
    }
}

/// A kind of file that is not read here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Foreign {
    /// What it is.
    pub(crate) name: &'static str,
    /// What to do.
    pub(crate) advice: &'static str,
}

/// The kind of a file that has to be converted before it is used, if it is of such a kind.
pub(crate) fn foreign(path: &Path, head: &[u8]) -> Option<Foreign> {
    const RAW: Foreign = Foreign {
        name: "a raw picture of a camera, which is not developed here",
        advice: "export it as JPEG or PNG from a program that does",
    };
    let starts = |known: &[&[u8]]| known.iter().any(|known| head.starts_with(known));
    let named = |name, advice| Some(Foreign { name, advice });
    if let Some(found) = brand(head) {
        return Some(found);
    }
    if starts(&[b"FUJIFILMCCD-RAW", b"IIU\0", b"IIRO", b"IIRS", b"MMOR", b"FOVb"])
        || head.get(8..10) == Some(b"CR") && head.starts_with(b"II*\0")
        || sniff(head) == Some(ImageFormat::Tiff) && has_extension(path, &RAW_NAMES)
    {
        return Some(RAW);
    }
    if starts(&[b"\0\0\0\x0cJXL ", b"\xff\x0a"]) {
        return named(
            "a JPEG XL picture, which is not read here",
            "convert it to JPEG or PNG: djxl in.jxl out.png",
        );
    }
    if starts(&[b"\0\0\0\x0cjP  ", b"\xff\x4f\xff\x51"]) {
        return named(
            "a JPEG 2000 picture, which is not read here",
            "convert it to PNG: magick in.jp2 out.png",
        );
    }
    if starts(&[b"8BPS"]) {
        return named("a Photoshop file, which is not read here", "export it as PNG, JPEG or WebP");
    }
    if starts(&[b"\x76\x2f\x31\x01", b"#?RADIANCE", b"#?RGBE"]) {
        return named("an HDR picture, which is not read here", "export it as PNG, JPEG or WebP");
    }
    if starts(&[b"qoif", b"\0\0\x01\0", b"DDS ", b"farbfeld", b"gimp xcf"]) {
        return named(
            "a picture of a kind that is not read here",
            "convert it to PNG: magick in.ext out.png",
        );
    }
    if starts(&[b"%PDF", b"PK\x03\x04"]) && is_named_picture(path) {
        return named("a document or an archive, not a picture", "export what it shows as PNG or JPEG");
    }
    stand_in(head)
}

/// What is in the place of a file that was not fetched, if it is such a thing.
pub(crate) fn stand_in(head: &[u8]) -> Option<Foreign> {
    let named = |name, advice| Some(Foreign { name, advice });
    if head.starts_with(b"version https://git-lfs") {
        return named("a git-lfs pointer, not the file itself", "fetch it: git lfs pull");
    }
    let text = head.strip_prefix(b"\xef\xbb\xbf").unwrap_or(head).trim_ascii_start().to_ascii_lowercase();
    let page = [&b"<!doctype html"[..], b"<html", b"<head", b"<!--"];
    if page.iter().any(|known| text.starts_with(known)) {
        return named("a web page, not the file that was to be downloaded", "download it again");
    }
    None
}

/// What a file is that no subject is read from, if its beginning tells.
fn no_subject(path: &Path, head: &[u8]) -> Option<Foreign> {
    let named = |name, advice| Some(Foreign { name, advice });
    if head.is_empty() {
        return named("the file is empty", "copy or download it again");
    }
    let archives =
        [&b"PK\x03\x04"[..], b"\x1f\x8b", b"7z\xbc\xaf", b"Rar!", b"BZh", b"\xfd7zXZ", b"\x28\xb5\x2f\xfd"];
    if archives.iter().any(|known| head.starts_with(known)) {
        return named("an archive", "unpack it and give the folder of its pictures");
    }
    if head.starts_with(b"PAR1") {
        return named("a Parquet table, which is not read", IN_LINES);
    }
    if !is_text(head) {
        return None;
    }
    if has_extension(path, &["csv", "tsv"]) {
        return named("a table, which is not read", IN_LINES);
    }
    if has_extension(path, &["yaml", "yml"]) {
        return named(
            "a configuration in YAML, which is not read",
            "give the folder of pictures that it names (folder_path, path), as --subject",
        );
    }
    if has_extension(path, &["json"]) {
        return named("a JSON file, which is not read", IN_LINES);
    }
    named(
        "a text, which nothing is learned from",
        "give a folder of pictures, a picture, a video, or a description of a data set (.toml, .jsonl)",
    )
}

/// What to give in place of a list of pictures in another form.
const IN_LINES: &str = "give the folder of its pictures, each caption in NAME.txt beside its picture, or a .jsonl of lines \
    like {\"image_path\": \"a.png\", \"caption\": \"a cat\"}";

/// The picture that the brands of an `ftyp` box say a file is.
fn brand(head: &[u8]) -> Option<Foreign> {
    if head.get(4..8) != Some(b"ftyp") {
        return None;
    }
    let major = head.get(8..12)?;
    // Where the first brand only says that it is a picture, those it is compatible with say of which kind.
    let others = head.get(16..).unwrap_or_default().as_chunks::<4>().0;
    let any = |known: &[&[u8; 4]]| {
        let general = matches!(major, b"mif1" | b"msf1" | b"mif2" | b"miaf" | b"MiHB");
        known.iter().any(|known| major == *known || general && others.contains(known))
    };
    if any(&[b"avif", b"avis", b"avio"]) {
        return Some(Foreign {
            name: "an AVIF picture, which is not read here",
            advice: "convert it to JPEG or PNG: magick in.avif out.png, or ffmpeg -i in.avif out.png",
        });
    }
    if any(&[b"crx "]) {
        return Some(Foreign {
            name: "a raw picture of a camera (CR3), which is not developed here",
            advice: "export it as JPEG or PNG from a program that does",
        });
    }
    let heif =
        any(&[b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs", b"jpeg", b"j2ki"])
            || matches!(major, b"mif1" | b"msf1" | b"mif2" | b"miaf");
    heif.then_some(Foreign {
        name: "a HEIC picture, which is not read here",
        advice: "convert it to JPEG or PNG: magick in.heic out.jpg, or on a Mac: sips -s format jpeg in.heic --out out.jpg",
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_that_are_not_read_are_named() {
        let name = |file: &str, head: &[u8]| foreign(Path::new(file), head).map(|found| found.name);
        let is = |file: &str, head: &[u8], part: &str| {
            let found = name(file, head);
            assert!(found.is_some_and(|name| name.contains(part)), "{file}: {found:?}");
        };
        is("a", b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "HEIC");
        is("a.mp4", b"\0\0\0\x18ftypmif1\0\0\0\0mif1heic", "HEIC");
        is("a", b"\0\0\0\x18ftypmif1\0\0\0\0mif1heixmiaf", "HEIC");
        is("a", b"\0\0\0\x1cftypmif1\0\0\0\0mif1avifmiaf", "AVIF");
        is("a", b"\0\0\0\x1cftypavif\0\0\0\0", "AVIF");
        is("a", b"\0\0\0\x1cftypavis\0\0\0\0", "AVIF");
        is("a", b"\0\0\0\x18ftypcrx \0\0\0\x01crx isom", "CR3");
        is("a.cr2", b"II*\0\x10\0\0\0CR\x02\0", "raw");
        is("a.DNG", b"II*\0\x08\0\0\0", "raw");
        is("a", b"FUJIFILMCCD-RAW 0201", "raw");
        is("a", b"\xff\x0a\xfa", "JPEG XL");
        is("a", b"\0\0\0\x0cJXL \r\n\x87\n", "JPEG XL");
        is("a", b"8BPS\0\x01", "Photoshop");
        is("a.png", b"version https://git-lfs.github.c", "git-lfs");
        is("a.jpg", b"\n<!DOCTYPE html>", "web page");
        for video in [
            &b"\0\0\0\x20ftypisom\0\0\x02\0isomiso2"[..],
            b"\0\0\0\x14ftypqt  \0\0\0\0qt  ",
            b"\0\0\0\x1cftypmp42\0\0\0\0heic",
        ] {
            assert_eq!(name("a.mp4", video), None);
        }
        assert_eq!(name("a.tif", b"II*\0\x08\0\0\0"), None);
    }

    #[test]
    fn pictures_are_known_by_their_first_bytes() {
        assert_eq!(sniff(b"BM\x46\0\0\0\0\0\0\0\x36\0\0\0\x28\0\0\0"), Some(ImageFormat::Bmp));
        assert_eq!(sniff(b"BMW 320 on a street"), None);
        assert_eq!(sniff(b"MM\0*\0\0\0\x08"), Some(ImageFormat::Tiff));
    }
}
