//! A file of records of one size, made once and read by number, that goes on where its making was
//! interrupted.

use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use crate::error::TrainError;

/// Records `0..count`, one after the other in one file.
#[derive(Clone, Debug)]
pub(crate) struct Records {
    path: PathBuf,
    /// Bytes of a record.
    size: usize,
}

impl Records {
    /// Opens the file at `path`, adding what is not in it yet up to `count`: `make(first, next)` gives the
    /// bytes of the records from `first` up to `next`, `chunk` of them at most. `tell` hears how many are
    /// done, and can stop, which gives `None`.
    ///
    /// # Errors
    /// When the file cannot be written, or `make` fails.
    pub(crate) fn fill(
        path: &Path,
        size: usize,
        (count, chunk): (u64, u64),
        mut make: impl FnMut(u64, u64) -> Result<Vec<u8>, TrainError>,
        tell: &mut dyn FnMut(u64) -> ControlFlow<()>,
    ) -> Result<Option<Self>, TrainError> {
        let io = |error| TrainError::Io { action: "write", path: path.to_owned(), error };
        let mut file = OpenOptions::new().create(true).append(true).open(path).map_err(io)?;
        let mut done = file.metadata().map_err(io)?.len() / size as u64;
        // Half a record may stand at the end after an interruption.
        file.set_len(done * size as u64).map_err(io)?;
        while done < count {
            let next = (done + chunk).min(count);
            file.write_all(&make(done, next)?).map_err(io)?;
            done = next;
            if tell(done).is_break() && done < count {
                return Ok(None);
            }
        }
        Ok(Some(Self { path: path.to_owned(), size }))
    }

    /// The bytes of the records with these `numbers`, one after the other.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub(crate) fn read(&self, numbers: &[u64]) -> Result<Vec<u8>, TrainError> {
        let io = |error| TrainError::Io { action: "read", path: self.path.clone(), error };
        let mut file = File::open(&self.path).map_err(io)?;
        let mut bytes = vec![0; numbers.len() * self.size];
        for (number, record) in numbers.iter().zip(bytes.chunks_exact_mut(self.size)) {
            file.seek(SeekFrom::Start(number * self.size as u64)).map_err(io)?;
            file.read_exact(record).map_err(io)?;
        }
        Ok(bytes)
    }
}
