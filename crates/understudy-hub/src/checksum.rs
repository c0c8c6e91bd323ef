//! The hashes that files are named by.

use std::fs::File;
use std::io::{BufReader, Read};
use std::path::Path;

use sha1::Sha1;
use sha2::{Digest, Sha256};

use crate::error::{Error, Result};

/// A file's name among the blobs, which is its hash.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Checksum {
    /// SHA-256 of a large file.
    Sha256(String),
    /// What git calls a small one: SHA-1 of its length and content.
    Git(String),
}

impl Checksum {
    /// In hexadecimal.
    pub(crate) fn hex(&self) -> &str {
        match self {
            Self::Sha256(hex) | Self::Git(hex) => hex,
        }
    }

    /// Whether it is written as such a hash is: it names a file.
    pub(crate) fn is_plain(&self) -> bool {
        let length = if matches!(self, Self::Sha256(_)) { 64 } else { 40 };
        self.hex().len() == length && self.hex().chars().all(|c| matches!(c, '0'..='9' | 'a'..='f'))
    }

    /// The same hash of the file at `path`.
    pub(crate) fn of(&self, path: &Path) -> Result<String> {
        let io = |error| Error::Io { action: "read", path: path.to_owned(), error };
        let file = File::open(path).map_err(io)?;
        let length = file.metadata().map_err(io)?.len();
        match self {
            Self::Sha256(_) => digest(Sha256::new(), file).map_err(io),
            Self::Git(_) => digest(Sha1::new_with_prefix(format!("blob {length}\0")), file).map_err(io),
        }
    }
}

fn digest(mut hash: impl Digest, file: File) -> std::io::Result<String> {
    let mut reader = BufReader::new(file);
    let mut buffer = vec![0; 1 << 20];
    loop {
        match reader.read(&mut buffer)? {
            0 => break,
            count => hash.update(&buffer[..count]),
        }
    }
    Ok(hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
}
