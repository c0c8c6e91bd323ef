//! What a TIFF says of itself in its first directory; not of a BigTIFF (TIFF 6.0, section 2).

/// The bytes of a field that are more than fit into the directory.
pub(crate) fn field(bytes: &[u8], tag: u16) -> Option<&[u8]> {
    let directory = Directory::first(bytes)?;
    let entry = directory.entry(tag)?;
    let (length, start) = (directory.number(entry + 4, 4)?, directory.number(entry + 8, 4)?);
    bytes.get(start..start.checked_add(length)?).filter(|_| length > 4)
}

/// What the pixels are, where that is a kind that the decoder does not read.
pub(crate) fn unread(bytes: &[u8]) -> Option<&'static str> {
    const PHOTOMETRIC: u16 = 262;
    const COMPRESSION: u16 = 259;
    let directory = Directory::first(bytes)?;
    let short = |tag: u16| directory.number(directory.entry(tag)? + 8, 2);
    match (short(PHOTOMETRIC), short(COMPRESSION)) {
        (_, Some(6)) => Some("compressed as old JPEG"),
        (_, Some(34_712)) => Some("compressed as JPEG 2000"),
        (_, Some(50_001)) => Some("compressed as WebP"),
        (Some(3), _) => Some("with a palette"),
        (Some(4), _) => Some("of a mask"),
        (Some(6), _) => Some("in YCbCr colours"),
        (Some(8..=10), _) => Some("in Lab colours"),
        _ => None,
    }
}

/// The first directory of a file.
struct Directory<'a> {
    bytes: &'a [u8],
    start: usize,
}

impl<'a> Directory<'a> {
    fn first(bytes: &'a [u8]) -> Option<Self> {
        let head = Self { bytes, start: 0 };
        let start = head.number(4, 4).filter(|_| head.number(2, 2) == Some(42))?;
        Some(Self { bytes, start })
    }

    /// Where the entry of `tag` begins.
    fn entry(&self, tag: u16) -> Option<usize> {
        const ENTRY: usize = 12;
        let mut entries = (0..self.number(self.start, 2)?).map(|index| self.start + 2 + ENTRY * index);
        entries.find(|at| self.number(*at, 2) == Some(usize::from(tag)))
    }

    /// The number of `length` bytes at `at`, in the order of bytes that the file begins with.
    fn number(&self, at: usize, length: usize) -> Option<usize> {
        let digits = self.bytes.get(at..at.checked_add(length)?)?.iter().map(|byte| usize::from(*byte));
        let more = |sum: usize, digit: usize| (sum << 8) | digit;
        let little = self.bytes.starts_with(b"II");
        Some(if little { digits.rev().fold(0, more) } else { digits.fold(0, more) })
    }
}
