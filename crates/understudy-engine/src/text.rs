//! Text as programs write it: editors and shells of Windows put a mark before it, or write two bytes a character.

use std::borrow::Cow;

const UTF8: &[u8] = b"\xef\xbb\xbf";
const LITTLE: &[u8] = b"\xff\xfe";
const BIG: &[u8] = b"\xfe\xff";

/// The text of `bytes`: UTF-8, with a byte order mark or without, or UTF-16 with one. The mark is no part of it.
///
/// # Errors
/// Says where it is neither.
pub fn decoded(bytes: &[u8]) -> Result<Cow<'_, str>, String> {
    let wide = |bytes: &[u8], read: fn([u8; 2]) -> u16| {
        let (units, rest) = bytes.as_chunks::<2>();
        let text = String::from_utf16(&units.iter().copied().map(read).collect::<Vec<_>>());
        match text {
            Ok(text) if rest.is_empty() => Ok(Cow::Owned(text)),
            _ => Err("it is not whole text in UTF-16".to_owned()),
        }
    };
    if let Some(rest) = bytes.strip_prefix(LITTLE) {
        return wide(rest, u16::from_le_bytes);
    }
    if let Some(rest) = bytes.strip_prefix(BIG) {
        return wide(rest, u16::from_be_bytes);
    }
    let text = std::str::from_utf8(bytes.strip_prefix(UTF8).unwrap_or(bytes));
    text.map(Cow::Borrowed).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marks_are_no_part_of_a_text() {
        for bytes in [
            &b"{\"a\"}"[..],
            b"\xef\xbb\xbf{\"a\"}",
            b"\xff\xfe{\0\"\0a\0\"\0}\0",
            b"\xfe\xff\0{\0\"\0a\0\"\0}",
        ] {
            assert_eq!(decoded(bytes).unwrap(), "{\"a\"}");
        }
        assert!(decoded(b"\xff\xfe{").is_err() && decoded(b"a\xe9").is_err());
    }
}
