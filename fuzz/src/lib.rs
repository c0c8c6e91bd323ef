//! What the targets share.

use std::io::Write;

use tempfile::NamedTempFile;

/// A file of `bytes`: readers map files into memory.
pub fn file(bytes: &[u8]) -> NamedTempFile {
    let mut file = NamedTempFile::new().expect("a temporary file");
    file.write_all(bytes).expect("room for a temporary file");
    file
}
