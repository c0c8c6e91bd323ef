//! The bytes of an open checkpoint.
//!
//! A file is read piece by piece and not mapped: a map of a file that somebody shortens, or of a disk that
//! goes away, ends the process at the next look at it, and nothing can be told.

use std::borrow::Cow;
use std::fs::File;
use std::io::{self, ErrorKind, Read};
use std::ops::Range;
use std::path::{Path, PathBuf};

use crate::error::WeightError;

/// Bytes that are read at once where more is asked for: few calls, and what was read is still in the cache.
const PIECE: usize = 1 << 20;

/// Where a checkpoint's bytes are.
pub(crate) enum Storage {
    /// A file on disk, and its length when it was opened.
    File { file: File, length: usize, path: PathBuf },
    /// Bytes compiled into the program.
    Static(&'static [u8]),
}

impl Storage {
    /// The file at `path`.
    pub(crate) fn open(path: &Path) -> Result<Self, WeightError> {
        let io = |error| WeightError::Io { action: "open", path: path.to_owned(), error };
        let file = File::open(path).map_err(io)?;
        let metadata = file.metadata().map_err(io)?;
        if !metadata.is_file() {
            let reason = "it is not a file".to_owned();
            return Err(WeightError::Malformed { path: path.to_owned(), reason });
        }
        let length = usize::try_from(metadata.len()).unwrap_or(usize::MAX);
        Ok(Self::File { file, length, path: path.to_owned() })
    }

    /// How many bytes there are.
    pub(crate) fn length(&self) -> usize {
        match self {
            Self::File { length, .. } => *length,
            Self::Static(bytes) => bytes.len(),
        }
    }

    /// Fills `buffer` with the bytes from `start` on.
    ///
    /// # Errors
    /// Says which file cannot be read, and why.
    pub(crate) fn read(&self, start: usize, buffer: &mut [u8]) -> Result<(), String> {
        match self {
            Self::Static(bytes) => {
                let own = bytes.get(start..start.saturating_add(buffer.len()));
                buffer.copy_from_slice(own.ok_or("it ends too early")?);
                Ok(())
            }
            Self::File { file, length, path } => {
                read_exact_at(file, buffer, start as u64).map_err(|error| fault(&error, path, *length))
            }
        }
    }

    /// The bytes in `range`, which lies within.
    ///
    /// # Errors
    /// As [`Storage::read`].
    pub(crate) fn bytes(&self, range: Range<usize>) -> Result<Cow<'_, [u8]>, String> {
        match self {
            Self::Static(bytes) => bytes.get(range).map(Cow::Borrowed).ok_or("it ends too early".to_owned()),
            Self::File { .. } => {
                let mut bytes = vec![0; range.len()];
                self.read(range.start, &mut bytes)?;
                Ok(Cow::Owned(bytes))
            }
        }
    }

    /// Hands out the bytes in `range` in pieces of whole `unit`s, in order.
    ///
    /// # Errors
    /// As [`Storage::read`].
    pub(crate) fn pieces(
        &self,
        range: Range<usize>,
        unit: usize,
        mut each: impl FnMut(&[u8]),
    ) -> Result<(), String> {
        if let Self::Static(_) = self {
            each(&self.bytes(range)?);
            return Ok(());
        }
        let size = (PIECE / unit.max(1)).max(1) * unit.max(1);
        let mut buffer = vec![0; size.min(range.len())];
        let mut start = range.start;
        while start < range.end {
            let piece = &mut buffer[..size.min(range.end - start)];
            self.read(start, piece)?;
            each(piece);
            start += piece.len();
        }
        Ok(())
    }

    /// The bytes from the beginning on, as a stream.
    pub(crate) fn stream(&self) -> impl Read + '_ {
        io::BufReader::with_capacity(PIECE.min(1 << 16), Stream { storage: self, at: 0 })
    }
}

/// Why the file at `path`, `length` bytes long when it was opened, cannot be read.
fn fault(error: &io::Error, path: &Path, length: usize) -> String {
    let path = path.display();
    match error.kind() {
        ErrorKind::UnexpectedEof => {
            format!("{path} became shorter than the {length} bytes it had when it was opened")
        }
        _ => format!("{path} cannot be read: {error}"),
    }
}

#[cfg(unix)]
fn read_exact_at(file: &File, buffer: &mut [u8], start: u64) -> io::Result<()> {
    std::os::unix::fs::FileExt::read_exact_at(file, buffer, start)
}

#[cfg(windows)]
fn read_exact_at(file: &File, mut buffer: &mut [u8], mut start: u64) -> io::Result<()> {
    while !buffer.is_empty() {
        match std::os::windows::fs::FileExt::seek_read(file, buffer, start) {
            Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
            Ok(count) => {
                buffer = &mut buffer[count..];
                start += count as u64;
            }
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// A place in a storage that moves on.
struct Stream<'a> {
    storage: &'a Storage,
    at: usize,
}

impl Read for Stream<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = buffer.len().min(self.storage.length() - self.at);
        self.storage.read(self.at, &mut buffer[..count]).map_err(io::Error::other)?;
        self.at += count;
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_read_in_pieces_of_whole_units() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x");
        let bytes: Vec<u8> = (0..PIECE * 2 + 12).map(|index| index as u8).collect();
        std::fs::write(&path, &bytes).unwrap();
        let storage = Storage::open(&path).unwrap();
        let (mut all, mut sizes) = (Vec::new(), Vec::new());
        storage
            .pieces(3..3 + 6 * 200_000, 6, |piece| {
                all.extend_from_slice(piece);
                sizes.push(piece.len());
            })
            .unwrap();
        assert_eq!(all, bytes[3..3 + 6 * 200_000]);
        assert!(sizes.len() > 1 && sizes.iter().all(|size| size % 6 == 0), "{sizes:?}");
        let mut read = Vec::new();
        storage.stream().read_to_end(&mut read).unwrap();
        assert_eq!(read, bytes);
    }

    #[test]
    fn a_file_that_becomes_shorter_is_told() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x");
        std::fs::write(&path, [7; 100]).unwrap();
        let storage = Storage::open(&path).unwrap();
        std::fs::OpenOptions::new().write(true).open(&path).unwrap().set_len(50).unwrap();
        assert_eq!(storage.bytes(0..50).unwrap().len(), 50);
        let message = storage.bytes(40..60).unwrap_err();
        assert!(message.contains("shorter than the 100 bytes"), "{message}");
    }
}
