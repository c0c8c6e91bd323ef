//! Writing that either happens whole or not at all, with errors that name the file.

use std::io::{self, Write};
use std::path::Path;

pub(crate) use understudy_files::parent;

use crate::{Error, Result};

/// Replaces the file at `path` with what `fill` writes.
///
/// # Errors
/// [`Error::Io`] naming `path`; nothing half-written is left.
pub fn write_file(path: impl AsRef<Path>, fill: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> Result<()> {
    let path = path.as_ref();
    understudy_files::write_file(path, fill).map_err(|e| Error::write(path, e))
}

/// Creates the folder `path` with what `fill` puts into the folder it is given. An empty folder may exist
/// already.
///
/// # Errors
/// What `fill` fails with, or [`Error::Io`] naming `path`; nothing half-written is left.
pub fn write_directory(path: impl AsRef<Path>, fill: impl FnOnce(&Path) -> Result<()>) -> Result<()> {
    let path = path.as_ref();
    understudy_files::write_directory(path, fill, |e| Error::write(path, e))
}
