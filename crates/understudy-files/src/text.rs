//! Text as programs write it: editors and shells of Windows put a mark before it, or write two bytes a
//! character.

use std::borrow::Cow;

/// The byte order mark that a text may begin with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mark {
    /// That of UTF-8, which says nothing of an order.
    Utf8,
    /// UTF-16 whose first byte of two is the lesser.
    Utf16Le,
    /// UTF-16 whose first byte of two is the greater.
    Utf16Be,
}

impl Mark {
    const ALL: [Self; 3] = [Self::Utf8, Self::Utf16Le, Self::Utf16Be];

    /// The mark that `bytes` begin with, and what follows it; nothing where they begin with none.
    pub fn of(bytes: &[u8]) -> Option<(Self, &[u8])> {
        Self::ALL.iter().find_map(|mark| Some((*mark, bytes.strip_prefix(mark.bytes())?)))
    }

    fn bytes(self) -> &'static [u8] {
        match self {
            Self::Utf8 => b"\xef\xbb\xbf",
            Self::Utf16Le => b"\xff\xfe",
            Self::Utf16Be => b"\xfe\xff",
        }
    }

    /// The text of `bytes` in the encoding that the mark stands for.
    ///
    /// # Errors
    /// Says where it is none.
    pub fn decode(self, bytes: &[u8]) -> Result<Cow<'_, str>, String> {
        let order = match self {
            Self::Utf8 => {
                return std::str::from_utf8(bytes).map(Cow::Borrowed).map_err(|error| error.to_string());
            }
            Self::Utf16Le => u16::from_le_bytes,
            Self::Utf16Be => u16::from_be_bytes,
        };
        let (units, rest) = bytes.as_chunks::<2>();
        let text = String::from_utf16(&units.iter().copied().map(order).collect::<Vec<_>>());
        match text {
            Ok(text) if rest.is_empty() => Ok(Cow::Owned(text)),
            _ => Err("it is not whole text in UTF-16".to_owned()),
        }
    }
}

/// The text of `bytes`: UTF-8, with a byte order mark or without, or UTF-16 with one. The mark is no part of
/// it.
///
/// # Errors
/// Says where it is neither.
pub fn decoded(bytes: &[u8]) -> Result<Cow<'_, str>, String> {
    let (mark, text) = Mark::of(bytes).unwrap_or((Mark::Utf8, bytes));
    mark.decode(text)
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
        assert!(Mark::of(b"a").is_none() && Mark::of(b"").is_none());
    }
}
