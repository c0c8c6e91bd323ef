//! Text that people write: captions, prompts, lists and descriptions, in the encodings their editors save it
//! in.

use std::fs;
use std::path::Path;

use encoding_rs::WINDOWS_1252;
use understudy_files::Mark;

use crate::{Error, Result};

/// What a text file was written in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Encoding {
    /// UTF-8, with or without a byte order mark.
    Utf8,
    /// UTF-16 of either byte order, as Windows' Notepad and PowerShell write it.
    Utf16,
    /// Windows-1252, of which Latin-1's letters are a part.
    Windows1252,
}

/// A text file's content.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Text {
    /// What it says, without a byte order mark.
    pub content: String,
    /// What it was written in.
    pub encoding: Encoding,
}

impl Text {
    /// Reads a text file. UTF-8 comes first; UTF-16 is known by its byte order mark, or by every second byte
    /// being zero; what is neither is Windows-1252, if it reads as a western language in it.
    ///
    /// # Errors
    /// [`Error::Io`] when the file cannot be read, [`Error::Unreadable`] when it is no text, in an encoding
    /// that cannot be told, or has characters that no writer means, which are named.
    pub fn read(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let bytes = fs::read(path).map_err(|error| Error::read(path, error))?;
        let Some((content, encoding)) = decode(&bytes) else {
            let reason = "it is no text in UTF-8, UTF-16 or Windows-1252";
            return Err(Error::unreadable(path, reason, "save it as UTF-8"));
        };
        match unwritten(&content) {
            Some(reason) => Err(Error::unreadable(path, reason, "remove it, or save the text anew as UTF-8")),
            None => Ok(Self { content, encoding }),
        }
    }

    /// The same of bytes at hand; nothing when they are no text, in an encoding that cannot be told, or have
    /// characters that no writer means.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let (content, encoding) = decode(bytes)?;
        unwritten(&content).is_none().then_some(Self { content, encoding })
    }

    /// What to tell whoever wrote it, where it was not UTF-8.
    pub fn note(&self) -> Option<&'static str> {
        match self.encoding {
            Encoding::Utf8 => None,
            Encoding::Utf16 => Some("it is not UTF-8 and was read as UTF-16"),
            Encoding::Windows1252 => Some("it is not UTF-8 and was read as Windows-1252"),
        }
    }
}

fn decode(bytes: &[u8]) -> Option<(String, Encoding)> {
    let unmarked = || match zero_half(bytes) {
        Some(0) => (Mark::Utf16Be, bytes),
        Some(_) => (Mark::Utf16Le, bytes),
        None => (Mark::Utf8, bytes),
    };
    let marked = Mark::of(bytes);
    let (mark, text) = marked.unwrap_or_else(unmarked);
    let encoding = if mark == Mark::Utf8 { Encoding::Utf8 } else { Encoding::Utf16 };
    match mark.decode(text) {
        // Old editors of DOS end a text with a character of its own.
        Ok(text) => Some((text.trim_end_matches('\u{1a}').to_owned(), encoding)),
        Err(_) if marked.is_none() && mark == Mark::Utf8 && is_western(bytes) => {
            let text = WINDOWS_1252.decode_without_bom_handling_and_without_replacement(bytes)?;
            // Whatever bytes a picture has read as something in it.
            unwritten(&text).is_none().then(|| (text.into_owned(), Encoding::Windows1252))
        }
        Err(_) => None,
    }
}

/// Which of every two bytes is zero, the first or the second, where most of one are and none of the other:
/// UTF-16 of a western text.
fn zero_half(bytes: &[u8]) -> Option<usize> {
    if bytes.is_empty() || !bytes.len().is_multiple_of(2) {
        return None;
    }
    let zeros = |half: usize| bytes.iter().skip(half).step_by(2).filter(|byte| **byte == 0).count();
    let most = |half: usize| 2 * zeros(half) > bytes.len() / 2 && zeros(1 - half) == 0;
    (0..2).find(|half| most(*half))
}

/// Whether bytes read as a western language in Windows-1252: in one, letters beyond ASCII are few and stand
/// apart, while Cyrillic, Greek or Chinese text in its own encoding has little else.
fn is_western(bytes: &[u8]) -> bool {
    const RUN: usize = 3;
    let beyond = bytes.iter().filter(|byte| is_letter_beyond(byte)).count();
    let letters = bytes.iter().filter(|byte| byte.is_ascii_alphabetic()).count();
    let mut runs = bytes.chunk_by(|a, b| is_letter_beyond(a) == is_letter_beyond(b));
    beyond <= letters && !runs.any(|run| is_letter_beyond(&run[0]) && run.len() >= RUN)
}

/// Whether a byte is none of ASCII, of the quotes, dashes and signs that stand in western texts, or of space.
fn is_letter_beyond(byte: &u8) -> bool {
    const SIGNS: [u8; 10] = [0x80, 0x85, 0x99, 0xa0, 0xa9, 0xab, 0xae, 0xb0, 0xb7, 0xbb];
    *byte >= 0x80 && !SIGNS.contains(byte) && !(0x91..=0x97).contains(byte)
}

/// What is wrong with a text that has a control character other than line ends and tabs: none is ever meant
/// by who writes, and printed as it is it would speak to a terminal.
pub(crate) fn unwritten(text: &str) -> Option<String> {
    let written =
        |character: char| !character.is_control() || matches!(character, '\n' | '\r' | '\t' | '\u{c}');
    let (at, found) = text.char_indices().find(|(_, character)| !written(*character))?;
    let line = 1 + text[..at].matches('\n').count();
    Some(format!("it has a control character in line {line} (U+{:04X})", u32::from(found)))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn utf16(text: &str, order: fn(u16) -> [u8; 2]) -> Vec<u8> {
        text.encode_utf16().flat_map(order).collect()
    }

    fn read(bytes: &[u8]) -> Option<(String, Encoding)> {
        Text::decode(bytes).map(|text| (text.content, text.encoding))
    }

    #[test]
    fn encodings_are_told_apart() {
        let said = "a café, “naïve” 猫\r\n";
        let is = |bytes: &[u8], encoding| assert_eq!(read(bytes), Some((said.to_owned(), encoding)));
        is(said.as_bytes(), Encoding::Utf8);
        is(format!("\u{feff}{said}").as_bytes(), Encoding::Utf8);
        is(&utf16(&format!("\u{feff}{said}"), u16::to_le_bytes), Encoding::Utf16);
        is(&utf16(&format!("\u{feff}{said}"), u16::to_be_bytes), Encoding::Utf16);
        // Without a mark.
        is(&utf16(said, u16::to_le_bytes), Encoding::Utf16);
        is(&utf16(said, u16::to_be_bytes), Encoding::Utf16);
        let western = read(b"\x93l\x92\xe9t\xe9\x94, 5 \x80 at the caf\xe9").unwrap();
        assert_eq!(western, ("“l’été”, 5 € at the café".to_owned(), Encoding::Windows1252));
        assert_eq!(read(b""), Some((String::new(), Encoding::Utf8)));
    }

    #[test]
    fn what_cannot_be_told_is_not_guessed() {
        // Russian in Windows-1251, Chinese in GBK, Japanese in Shift JIS, an odd half, a lone surrogate, a
        // picture.
        for bytes in [
            &b"\xea\xee\xf8\xea\xe0 \xed\xe0 \xef\xeb\xff\xe6\xe5"[..],
            b"\xc4\xe3\xba\xc3\xa3\xac\xca\xc0\xbd\xe7",
            b"\x94\x4c\x82\xaa\x95\xe0\x82\xad",
            b"\xff\xfea\0b",
            b"\xff\xfe\0\xd8a\0",
            b"\x89PNG\r\n\x1a\n\0\0\0\x0dIHDR",
            b"\xff\xfe\0\0a\0\0\0",
            b"a cat\0",
            b"a \x1b[31mcat",
        ] {
            assert_eq!(read(bytes), None, "{bytes:?}");
        }
    }

    #[test]
    fn an_error_names_the_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.txt");
        std::fs::write(&path, b"\xea\xee\xf8\xea\xe0").unwrap();
        let message = Text::read(&path).unwrap_err().to_string();
        assert!(message.contains("a.txt") && message.contains("save it as UTF-8"), "{message}");
        for (bytes, named) in
            [(&b"one\na cat\0"[..], "line 2 (U+0000)"), (b"a \x1b[31mcat", "line 1 (U+001B)")]
        {
            std::fs::write(&path, bytes).unwrap();
            let message = Text::read(&path).unwrap_err().to_string();
            assert!(message.contains("a.txt") && message.contains(named), "{message}");
            assert!(!message.contains(['\0', '\x1b']) && message.contains("remove it"), "{message}");
        }
        assert!(Text::read(folder.path().join("b.txt")).unwrap_err().to_string().contains("b.txt"));
    }
}
