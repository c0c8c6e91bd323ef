//! Checksums that travel with what they are of.

use std::io::{self, BufReader, Read, Write};
use std::path::Path;

/// Bytes of a checksum at the end of a sealed file.
const LENGTH: usize = 4;
/// What stands before the checksum in the last line of a sealed text: a remark in TOML.
const MARK: &str = "# checksum ";

/// The checksum of `bytes`: CRC-32, which no flip of a few bits and no loss of a piece leaves as it was.
pub fn checksum(bytes: &[u8]) -> u32 {
    crc32fast::hash(bytes)
}

/// Writes on, and knows the checksum of what went through.
pub struct Sealing<W> {
    inner: W,
    hasher: crc32fast::Hasher,
}

impl<W: Write> Sealing<W> {
    /// Nothing went through yet.
    pub fn new(inner: W) -> Self {
        Self { inner, hasher: crc32fast::Hasher::new() }
    }

    /// Ends a sealed file: its last four bytes are the checksum of all before them.
    ///
    /// # Errors
    /// When they cannot be written.
    pub fn finish(mut self) -> io::Result<()> {
        let sum = self.hasher.finalize();
        self.inner.write_all(&sum.to_le_bytes())
    }
}

impl<W: Write> Write for Sealing<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.inner.write(bytes)?;
        self.hasher.update(&bytes[..written]);
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

/// Whether the file at `path` ends with the checksum of all that comes before.
///
/// # Errors
/// When it cannot be read.
pub fn is_sealed(path: &Path) -> io::Result<bool> {
    let file = std::fs::File::open(path)?;
    let Some(length) = file.metadata()?.len().checked_sub(LENGTH as u64) else { return Ok(false) };
    let mut file = BufReader::new(file);
    let mut rest = (&mut file).take(length);
    let mut hasher = crc32fast::Hasher::new();
    let mut part = vec![0; 1 << 16];
    loop {
        match rest.read(&mut part)? {
            0 => break,
            read => hasher.update(&part[..read]),
        }
    }
    let mut stated = [0; LENGTH];
    file.read_exact(&mut stated)?;
    Ok(hasher.finalize() == u32::from_le_bytes(stated))
}

/// `text` with a last line that holds its checksum.
pub fn seal(text: &str) -> String {
    let text = if text.is_empty() || text.ends_with('\n') { text.to_owned() } else { format!("{text}\n") };
    format!("{text}{MARK}{:08x}\n", checksum(text.as_bytes()))
}

/// The text that [`seal`] sealed; `None` where it is damaged.
pub fn unseal(bytes: &[u8]) -> Option<&str> {
    let text = std::str::from_utf8(bytes).ok()?;
    let content = &text[..text.rfind(MARK)?];
    (seal(content) == text).then_some(content)
}

/// A line of a log that says its checksum first.
pub fn seal_line(line: &str) -> String {
    format!("{:08x} {line}\n", checksum(line.as_bytes()))
}

/// The line that [`seal_line`] sealed; `None` where it is damaged.
pub fn unseal_line(line: &[u8]) -> Option<&str> {
    let line = std::str::from_utf8(line).ok()?;
    let content = line.split_once(' ')?.1.strip_suffix('\n')?;
    (seal_line(content) == line).then_some(content)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// That every flip of a bit and every cut of `bytes` is noticed.
    fn is_noticed(bytes: &[u8], whole: impl Fn(&[u8]) -> bool) {
        assert!(whole(bytes));
        for bit in 0..8 * bytes.len() {
            let mut flipped = bytes.to_vec();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert!(!whole(&flipped), "bit {bit}");
        }
        (0..bytes.len()).for_each(|length| assert!(!whole(&bytes[..length]), "{length}"));
    }

    #[test]
    fn damage_is_noticed() {
        assert_eq!(checksum(b"123456789"), 0xcbf4_3926);
        for text in ["", "rank = 8\n", "a\nb"] {
            let sealed = seal(text);
            assert_eq!(unseal(sealed.as_bytes()).map(str::trim_end), Some(text.trim_end()));
            is_noticed(sealed.as_bytes(), |bytes| unseal(bytes).is_some());
        }
        let line = seal_line("{\"a\": 1}");
        assert_eq!(unseal_line(line.as_bytes()), Some("{\"a\": 1}"));
        is_noticed(line.as_bytes(), |bytes| unseal_line(bytes).is_some());

        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a");
        let mut bytes = Vec::new();
        let mut sealing = Sealing::new(&mut bytes);
        sealing.write_all(b"a file").unwrap();
        sealing.finish().unwrap();
        is_noticed(&bytes, |bytes| {
            std::fs::write(&path, bytes).unwrap();
            is_sealed(&path).unwrap()
        });
    }
}
