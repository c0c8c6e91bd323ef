//! What a file is that holds no weights: what a download leaves when it fails, archives, and files of other
//! kinds.

use std::fs::File;
use std::io::{BufReader, Cursor, Read, Seek};
use std::path::Path;

use serde_json::Value;
use zip::ZipArchive;

use crate::error::WeightError;

/// What a file is instead of weights, and what to do about it.
type Found = (String, &'static str);

const AGAIN: &str = "download or copy it again";
const SIGN_IN: &str = "the site answered with this in place of the file: sign in or give a token where it asks for one, and \
                       download the file itself (on the hub its address has /resolve/ where the page's has /blob/)";
const MAYBE: &str = "give a safetensors, GGUF or PyTorch file; if it was downloaded, sign in or give a token and download it again";
const UNPACK: &str = "unpack it and give the file in it";
const OTHER: &str = "give a safetensors, GGUF or PyTorch file";
/// A page or message is looked at no further.
pub(crate) const BEGIN: usize = 1 << 16;
/// The most bytes a safetensors header has.
pub(crate) const LARGEST_HEADER: usize = 100_000_000;

/// Other files by what they begin with.
const BEGINNINGS: [(&[u8], &str, &str); 18] = [
    (b"\x89PNG\r\n\x1a\n", "a picture (PNG)", OTHER),
    (b"\xff\xd8\xff", "a picture (JPEG)", OTHER),
    (b"GIF8", "a picture (GIF)", OTHER),
    (b"RIFF", "a picture, video or sound (RIFF)", OTHER),
    (b"\x1a\x45\xdf\xa3", "a video (Matroska)", OTHER),
    (b"%PDF", "a document (PDF)", OTHER),
    (b"\x1f\x8b", "a gzip archive", UNPACK),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive", UNPACK),
    (b"Rar!", "a RAR archive", UNPACK),
    (b"\xfd7zXZ\0", "an xz archive", UNPACK),
    (b"\x28\xb5\x2f\xfd", "a zstd archive", UNPACK),
    (b"BZh", "a bzip2 archive", UNPACK),
    (b"\x93NUMPY", "an array of NumPy", OTHER),
    (b"\x89HDF", "an HDF5 file", OTHER),
    (
        b"\0\x05\x16\x07",
        "a file of macOS's attributes (its name begins with ._)",
        "give the file without ._ in its name",
    ),
    (
        b"\x80\x03",
        "a Python pickle of another kind than torch.save writes",
        "save its tensors as safetensors",
    ),
    (
        b"\x80\x04",
        "a Python pickle of another kind than torch.save writes",
        "save its tensors as safetensors",
    ),
    (
        b"\x80\x05",
        "a Python pickle of another kind than torch.save writes",
        "save its tensors as safetensors",
    ),
];

/// What the file at `path`, which holds `bytes`, is instead of weights; `None` where it may hold some.
pub fn not_weights(path: &Path, bytes: &[u8]) -> Option<WeightError> {
    let begin = &bytes[..bytes.len().min(BEGIN)];
    described(path, instead(begin, bytes.len(), || Some(Cursor::new(bytes))))
}

/// The same of a file of `length` bytes of which only the beginning was read: [`BEGIN`] bytes, or all there
/// are.
pub(crate) fn in_file(path: &Path, begin: &[u8], length: usize) -> Option<WeightError> {
    described(path, instead(begin, length, || File::open(path).ok().map(BufReader::new)))
}

/// What the file at `path`, which holds `bytes` and should be a configuration or a vocabulary, is instead;
/// `None` where it may be one.
pub fn not_configuration(path: &Path, bytes: &[u8]) -> Option<WeightError> {
    if bytes.is_empty() {
        return described(path, Some(("empty".to_owned(), AGAIN)));
    }
    let begin = String::from_utf8_lossy(&bytes[..bytes.len().min(BEGIN)]);
    let begin = begin.trim_start_matches('\u{feff}').trim();
    described(path, pointer(begin).or_else(|| page(begin)))
}

fn described(path: &Path, found: Option<Found>) -> Option<WeightError> {
    found.map(|(what, advice)| WeightError::NotWeights { path: path.to_owned(), what, advice })
}

fn instead<R: Read + Seek>(begin: &[u8], length: usize, whole: impl Fn() -> Option<R>) -> Option<Found> {
    match header_length(begin) {
        Some(header) => cut_off(header, length),
        None if begin.starts_with(b"PK\x03\x04") => archive(whole()?),
        None => recognized(begin),
    }
}

/// The length of the header that a safetensors file of these bytes would have.
fn header_length(bytes: &[u8]) -> Option<u64> {
    let (length, rest) = bytes.split_first_chunk::<8>()?;
    let length = u64::from_le_bytes(*length);
    (rest.first() == Some(&b'{') && length <= LARGEST_HEADER as u64).then_some(length)
}

/// Whether a file begins as safetensors does: any eight bytes, which are its header's length, and then the
/// header.
pub(crate) fn is_safetensors(bytes: &[u8]) -> bool {
    header_length(bytes).is_some()
}

fn cut_off(header: u64, length: usize) -> Option<Found> {
    let there = length as u64;
    (header + 8 > there)
        .then(|| (format!("cut off: its header has {header} bytes, and the file {there}"), AGAIN))
}

/// That a file of `there` bytes, which states that it has `stated`, is cut off.
pub(crate) fn shortened(path: &Path, there: usize, stated: usize) -> WeightError {
    let what = format!("cut off: {there} of {stated} bytes are there");
    WeightError::NotWeights { path: path.to_owned(), what, advice: AGAIN }
}

fn recognized(bytes: &[u8]) -> Option<Found> {
    if bytes.is_empty() {
        return Some(("empty".to_owned(), AGAIN));
    }
    if let Some((_, what, advice)) = BEGINNINGS.iter().find(|(begin, ..)| bytes.starts_with(begin)) {
        return Some(((*what).to_owned(), advice));
    }
    if bytes.get(4..8) == Some(b"ftyp") {
        return Some(("a video or a picture (MP4, HEIC)".to_owned(), OTHER));
    }
    if bytes.get(257..262) == Some(b"ustar") {
        return Some(("a tar archive".to_owned(), UNPACK));
    }
    if bytes.iter().all(|byte| *byte == 0) {
        let what =
            "filled with zeros where it should begin, as an unfinished download that reserved its space";
        return Some((what.to_owned(), AGAIN));
    }
    text(bytes)
}

/// A ZIP archive that is not one of `torch.save`.
fn archive(whole: impl Read + Seek) -> Option<Found> {
    let Ok(mut archive) = ZipArchive::new(whole) else {
        let what = "an archive that is cut off: a PyTorch file or a ZIP whose end is missing";
        return Some((what.to_owned(), AGAIN));
    };
    let count = archive.len();
    let name = |index| Some(archive.by_index_raw(index).ok()?.name().ok()?.to_string());
    let names: Vec<String> = (0..count).filter_map(name).collect();
    if names.iter().any(|name| name.ends_with("data.pkl")) {
        return None;
    }
    let weights = names.iter().find(|name| {
        [".safetensors", ".gguf", ".pt", ".pth", ".ckpt", ".bin"].iter().any(|end| name.ends_with(end))
    });
    Some(match weights {
        Some(own) => (format!("a ZIP archive, with {} in it", quoted(own)), UNPACK),
        None => (format!("a ZIP archive of {} files without weights", names.len()), OTHER),
    })
}

fn text(bytes: &[u8]) -> Option<Found> {
    let text = match std::str::from_utf8(bytes) {
        Ok(text) => text,
        // Only a letter that was cut in two at the end is forgiven.
        Err(error) if error.error_len().is_none() => {
            std::str::from_utf8(&bytes[..error.valid_up_to()]).ok()?
        }
        Err(_) => return None,
    };
    let text = text.trim_start_matches('\u{feff}').trim();
    if text.chars().any(|letter| letter.is_control() && !letter.is_whitespace()) {
        return None;
    }
    let page = || page(text).map(|(what, advice)| (format!("{what} and no weights"), advice));
    Some(pointer(text).or_else(page).or_else(|| message(text)).unwrap_or_else(|| plain(text)))
}

/// What git and its extensions leave in a working tree in place of a large file.
fn pointer(text: &str) -> Option<Found> {
    let first = text.lines().next().unwrap_or_default();
    if first.starts_with("version https://git-lfs.github.com/spec/")
        || first.starts_with("version https://hawser.github.com/spec/")
    {
        let size = text.lines().find_map(|line| line.strip_prefix("size ")).unwrap_or("unknown");
        let what = format!("a git-lfs pointer, which stands for a file of {} bytes", quoted_bare(size));
        return Some((
            what,
            "run `git lfs install` and `git lfs pull` in its repository, or download the file itself",
        ));
    }
    if first.starts_with("# xet version") {
        return Some((
            "a git-xet pointer and not the file it stands for".to_owned(),
            "fetch it with git-xet, or download the file itself",
        ));
    }
    if first.contains("/annex/objects/") {
        return Some((
            "a git-annex pointer and not the file it stands for".to_owned(),
            "run `git annex get` on it, or download the file itself",
        ));
    }
    None
}

/// A web page, or a store's answer in XML.
fn page(text: &str) -> Option<Found> {
    let lower = text.to_ascii_lowercase();
    let html = ["<!doctype html", "<html", "<head", "<body"].iter().any(|tag| lower.starts_with(tag))
        || (lower.starts_with('<') && lower.contains("<html"));
    if html {
        let title = between(text, &lower, "<title", "</title>").and_then(|inner| inner.split_once('>'));
        let title = title.map(|(_, title)| format!(" ({})", quoted(title))).unwrap_or_default();
        let login = ["log in", "login", "sign in", "signin"]
            .iter()
            .any(|word| title.to_ascii_lowercase().contains(word));
        let what = if login { "a page to sign in" } else { "a web page" };
        return Some((format!("{what}{title}"), SIGN_IN));
    }
    if lower.starts_with("<?xml") || lower.starts_with("<error>") {
        let said = between(text, &lower, "<message>", "</message>")
            .or_else(|| between(text, &lower, "<code>", "</code>"));
        let said = said.map(|said| format!(" ({})", quoted(said))).unwrap_or_default();
        return Some((format!("an answer in XML{said}"), SIGN_IN));
    }
    None
}

/// The part of `text` between two tags, which are looked for in `lower`, the same in lower case.
fn between<'a>(text: &'a str, lower: &str, start: &str, end: &str) -> Option<&'a str> {
    let from = lower.find(start)? + start.len();
    let to = from + lower[from..].find(end)?;
    text.get(from..to)
}

/// An answer in JSON, or a configuration.
fn message(text: &str) -> Option<Found> {
    if !text.starts_with(['{', '[']) {
        return None;
    }
    let parsed: Option<Value> = serde_json::from_str(text).ok();
    let field = |name: &&str| {
        let value = parsed.as_ref()?.get(*name)?;
        let inner = value.get("message").and_then(Value::as_str);
        inner.or_else(|| value.as_str()).map(str::to_owned)
    };
    match ["message", "error", "detail", "errors"].iter().find_map(field) {
        Some(said) => Some((format!("an answer in JSON ({}) and no weights", quoted(&said)), SIGN_IN)),
        None if parsed.is_some() || text.starts_with("{\"") || text.starts_with("{\n") => {
            Some(("JSON and no weights".to_owned(), "give the file of weights that it is about"))
        }
        None => None,
    }
}

fn plain(text: &str) -> Found {
    if text.is_empty() {
        ("empty but for white space".to_owned(), AGAIN)
    } else {
        (format!("text ({}) and no weights", quoted(text)), MAYBE)
    }
}

/// The beginning of what a file says, on one line.
fn quoted(text: &str) -> String {
    format!("\"{}\"", quoted_bare(text))
}

fn quoted_bare(text: &str) -> String {
    const SHOWN: usize = 60;
    let words = text.split_whitespace().collect::<Vec<_>>().join(" ");
    let clean = words.replace('"', "'");
    match clean.char_indices().nth(SHOWN) {
        Some((at, _)) => format!("{} ...", &clean[..at]),
        None => clean,
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn said(bytes: &[u8]) -> String {
        let found = not_weights(Path::new("a.safetensors"), bytes);
        let said = found.map(|error| error.to_string()).unwrap_or_default();
        assert!(!said.contains('\n'));
        said
    }

    fn zip(name: &str) -> Vec<u8> {
        let mut bytes = Cursor::new(Vec::new());
        let mut archive = zip::ZipWriter::new(&mut bytes);
        archive.start_file(name, zip::write::SimpleFileOptions::default()).unwrap();
        archive.write_all(b"x").unwrap();
        archive.finish().unwrap();
        bytes.into_inner()
    }

    #[test]
    fn what_downloads_leave_is_named() {
        let pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n";
        let page =
            b"\n<!DOCTYPE html>\n<html><head>\n<title data-x=\"1\">Log in \xe2\x80\x93\n Hub</title></head>";
        let denied = b"<?xml version=\"1.0\"?><Error><Code>AccessDenied</Code><Message>Access Denied</Message></Error>";
        for (bytes, parts) in [
            (&pointer[..], ["git-lfs pointer", "12345 bytes", "git lfs pull"]),
            (b"", ["is empty", "download", "a.safetensors"]),
            (&[0; 5000], ["filled with zeros", "unfinished", "download"]),
            (page, ["a page to sign in", "Log in \u{2013} Hub", "token"]),
            (b"<html><body>404</body></html>", ["a web page", "no weights", "/resolve/"]),
            (denied, ["XML", "Access Denied", "token"]),
            (
                br#"{"error":"Unauthorized","message":"You must be signed in"}"#,
                ["JSON", "You must be signed in", "token"],
            ),
            (br#"{"error":{"message":"gone","code":410}}"#, ["JSON", "gone", "token"]),
            (b"Invalid username or password.", ["text", "Invalid username", "token"]),
            (br#"{"peft_type": "LORA", "r": 4}"#, ["JSON", "no weights", "give the file"]),
            (&zip("lora.safetensors"), ["ZIP", "\"lora.safetensors\"", "unpack"]),
            (&zip("a.txt"), ["ZIP", "without weights", "safetensors"]),
            (&zip("a.txt")[..40], ["cut off", "PyTorch", "again"]),
            (b"\x1f\x8b\x08\0\0\0", ["gzip", "unpack", "a.safetensors"]),
            (b"\x89PNG\r\n\x1a\n\0\0", ["picture", "PNG", "a.safetensors"]),
            (b"\x10\x27\0\0\0\0\0\0{\"a\":", ["cut off", "10000 bytes", "again"]),
        ] {
            let said = said(bytes);
            assert!(parts.iter().all(|part| said.contains(part)), "{said}");
        }
    }

    #[test]
    fn a_pointer_in_place_of_a_configuration_is_named() {
        let said = |bytes: &[u8]| {
            let found = not_configuration(Path::new("config.json"), bytes);
            found.map(|error| error.to_string()).unwrap_or_default()
        };
        let pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 9\n";
        assert!(said(pointer).contains("git lfs pull"), "{}", said(pointer));
        assert!(said(b"<!doctype html><title>Hub</title>").contains("a web page"));
        assert!(said(b"").contains("empty"));
        assert_eq!(said(b"\xef\xbb\xbf{}"), "");
        assert_eq!(said(b"\x0a\x0e\xff\x00"), "");
    }

    #[test]
    fn what_may_be_weights_is_left_to_their_readers() {
        for bytes in [
            &b"\x02\0\0\0\0\0\0\0{}"[..],
            b"GGUF\x03\0\0\0",
            b"\x80\x02}q\0.",
            &zip("archive/data.pkl"),
            b"\xff\xfe\xfd\x01",
        ] {
            assert_eq!(said(bytes), "");
        }
    }
}
