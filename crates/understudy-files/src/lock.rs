//! One process at a time: a lock that the system takes away with the process that holds it.

use std::fmt;
use std::fs::{self, File, TryLockError};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use crate::atomic::{LOCK, prefix};

/// Held until it is dropped or its process ends, however it ends.
#[derive(Debug)]
pub struct Lock {
    path: PathBuf,
    /// Its descriptor is what holds the lock.
    _file: File,
}

/// Why a lock is not to be had.
#[derive(Debug)]
pub enum LockError {
    /// Another process has it, and says who it is.
    Held(String),
    /// The disk refuses.
    Io(io::Error),
}

impl fmt::Display for LockError {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Self::Held(by) => f.write_str(by),
            Self::Io(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for LockError {}

impl From<io::Error> for LockError {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

impl Lock {
    /// The lock of what is going to be written at `path`: in a hidden file beside it.
    ///
    /// # Errors
    /// When another process has it, or its file cannot be made. Where the disk knows no locks, everybody gets
    /// it.
    pub fn beside(path: &Path) -> Result<Self, LockError> {
        Self::at(path.with_file_name(format!("{}{LOCK}", prefix(path))))
    }

    /// The lock of everything in `folder`, which exists.
    ///
    /// # Errors
    /// As [`Lock::beside`].
    pub fn within(folder: &Path) -> Result<Self, LockError> {
        Self::at(folder.join(".understudy.lock"))
    }

    fn at(path: PathBuf) -> Result<Self, LockError> {
        loop {
            let mut file = File::options().create(true).truncate(false).read(true).write(true).open(&path)?;
            if let Err(TryLockError::WouldBlock) = file.try_lock() {
                return Err(LockError::Held(holder(&mut file)));
            }
            // Whoever had it may have removed it between these two.
            if is_at(&file, &path) {
                // On a full disk it holds without a name.
                let _ = file.set_len(0).and_then(|()| write!(file, "{}", own_name()));
                return Ok(Self { path, _file: file });
            }
        }
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        // While it is still held, so that it is nobody else's.
        let _ = fs::remove_file(&self.path);
    }
}

/// How a process is told from others.
fn own_name() -> String {
    let host = fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let host = if host.trim().is_empty() { String::new() } else { format!(" on {}", host.trim()) };
    format!("process {}{host}", std::process::id())
}

/// What the holder of a lock says in its file.
fn holder(file: &mut File) -> String {
    let mut name = String::new();
    match file.read_to_string(&mut name) {
        Ok(_) if !name.trim().is_empty() => name.trim().to_owned(),
        _ => "another process".to_owned(),
    }
}

/// Whether both are there and one file or folder, whatever way they are named.
#[cfg(unix)]
pub fn is_same(a: &Path, b: &Path) -> bool {
    matches!((fs::metadata(a), fs::metadata(b)), (Ok(a), Ok(b)) if is_one(&a, &b))
}

/// Whether both are there and one file or folder, whatever way they are named; hard links are not seen
/// through here.
#[cfg(not(unix))]
pub fn is_same(a: &Path, b: &Path) -> bool {
    matches!((a.canonicalize(), b.canonicalize()), (Ok(a), Ok(b)) if a == b)
}

/// Whether `file` is still what lies at `path`.
#[cfg(unix)]
fn is_at(file: &File, path: &Path) -> bool {
    matches!((file.metadata(), fs::metadata(path)), (Ok(own), Ok(there)) if is_one(&own, &there))
}

/// Whether there is still something at `path`: what is open cannot be removed there.
#[cfg(not(unix))]
fn is_at(_: &File, path: &Path) -> bool {
    path.exists()
}

#[cfg(unix)]
fn is_one(a: &fs::Metadata, b: &fs::Metadata) -> bool {
    use std::os::unix::fs::MetadataExt;
    (a.dev(), a.ino()) == (b.dev(), b.ino())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_at_a_time_and_nothing_is_left() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.safetensors");
        let first = Lock::beside(&path).unwrap();
        let refused = Lock::beside(&path).unwrap_err().to_string();
        assert!(refused.contains(&format!("process {}", std::process::id())), "{refused}");
        Lock::beside(&folder.path().join("b.safetensors")).unwrap();
        drop(first);
        let again = Lock::beside(&path).unwrap();
        drop(again);
        drop(Lock::within(folder.path()).unwrap());
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
    }
}
