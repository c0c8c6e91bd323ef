//! Writing that either happens whole or not at all.
//!
//! A file is written under a temporary name in its own folder, synced, and renamed; a folder likewise. On any failure
//! the temporary is removed, and what was under the final name before is still there.

use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use tempfile::{Builder, NamedTempFile, TempDir};

use crate::{Error, Result};

/// Replaces the file at `path` with what `fill` writes.
///
/// # Errors
/// [`Error::Io`] naming `path`; nothing half-written is left.
pub fn write_file(path: impl AsRef<Path>, fill: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> Result<()> {
    let path = path.as_ref();
    let temporary = temporary_file(&parent(path)).map_err(|e| Error::write(path, e))?;
    commit(temporary, path, fill).map_err(|e| Error::write(path, e))
}

/// Creates the folder `path` with what `fill` puts into the folder it is given. An empty folder may exist already.
///
/// # Errors
/// What `fill` fails with, or [`Error::Io`] naming `path`; nothing half-written is left.
pub fn write_directory(path: impl AsRef<Path>, fill: impl FnOnce(&Path) -> Result<()>) -> Result<()> {
    let path = path.as_ref();
    let temporary = temporary_directory(&parent(path)).map_err(|e| Error::write(path, e))?;
    fill(temporary.path())?;
    commit_directory(temporary, path).map_err(|e| Error::write(path, e))
}

/// The folder a path lies in.
pub(crate) fn parent(path: &Path) -> PathBuf {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent.into(),
        _ => PathBuf::from("."),
    }
}

/// A temporary file in `directory`, with the permissions an ordinary new file gets.
pub(crate) fn temporary_file(directory: &Path) -> io::Result<NamedTempFile> {
    let mut builder = Builder::new();
    builder.prefix(".understudy-").suffix(".tmp");
    #[cfg(unix)]
    builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666)); // less the umask
    builder.tempfile_in(directory)
}

fn temporary_directory(directory: &Path) -> io::Result<TempDir> {
    let mut builder = Builder::new();
    builder.prefix(".understudy-").suffix(".tmp");
    #[cfg(unix)]
    builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o777)); // less the umask
    builder.tempdir_in(directory)
}

/// Fills the temporary file, makes it durable and gives it its name. Dropping it removes it.
fn commit(
    mut temporary: NamedTempFile,
    path: &Path,
    fill: impl FnOnce(&mut dyn Write) -> io::Result<()>,
) -> io::Result<()> {
    let mut writer = BufWriter::with_capacity(1 << 16, temporary.as_file_mut());
    fill(&mut writer)?;
    writer.flush()?;
    drop(writer);
    temporary.as_file().sync_all()?;
    temporary.persist(path)?;
    sync_directory(&parent(path))
}

fn commit_directory(temporary: TempDir, path: &Path) -> io::Result<()> {
    for entry in fs::read_dir(temporary.path())? {
        File::open(entry?.path())?.sync_all()?;
    }
    sync_directory(temporary.path())?;
    fs::rename(temporary.path(), path)?;
    let _gone = temporary.keep(); // it has its name now: nothing to remove
    sync_directory(&parent(path))
}

/// Makes a rename durable, where the system lets folders be synced.
fn sync_directory(directory: &Path) -> io::Result<()> {
    if cfg!(unix) { File::open(directory)?.sync_all() } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(directory: &Path) -> Vec<String> {
        let mut names: Vec<_> = fs::read_dir(directory)
            .expect("the folder lists")
            .map(|entry| entry.expect("an entry").file_name().to_string_lossy().into_owned())
            .collect();
        names.sort();
        names
    }

    #[test]
    fn a_failing_writer_leaves_the_old_file_and_no_other() {
        let directory = tempfile::tempdir().expect("a folder");
        let path = directory.path().join("a.mp4");
        write_file(&path, |w| w.write_all(b"old")).expect("writes");
        let error = write_file(&path, |w| {
            w.write_all(&vec![1; 1 << 20])?;
            Err(io::Error::other("interrupted"))
        })
        .expect_err("fails");
        assert!(error.to_string().contains("a.mp4"), "{error}");
        assert!(error.to_string().contains("interrupted"), "{error}");
        assert_eq!(fs::read(&path).expect("still there"), b"old");
        assert_eq!(names(directory.path()), ["a.mp4"]);
    }

    #[test]
    fn a_failing_folder_leaves_nothing() {
        let directory = tempfile::tempdir().expect("a folder");
        let path = directory.path().join("frames");
        write_directory(&path, |at| {
            fs::write(at.join("00000.png"), b"x").expect("writes");
            Err(Error::invalid("frame 1", "broken"))
        })
        .expect_err("fails");
        assert!(names(directory.path()).is_empty());
        write_directory(&path, |at| {
            fs::write(at.join("00000.png"), b"x").expect("writes");
            Ok(())
        })
        .expect("writes");
        assert_eq!(names(&path), ["00000.png"]);
        write_directory(&path, |_| Ok(())).expect_err("a folder with content is not replaced");
        assert_eq!(names(&path), ["00000.png"]);
        assert_eq!(names(directory.path()), ["frames"]);
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_full_disk_is_an_error_and_leaves_nothing() {
        let directory = tempfile::tempdir().expect("a folder");
        let path = directory.path().join("a.gif");
        let full = Builder::new()
            .make_in(directory.path(), |at| {
                std::os::unix::fs::symlink("/dev/full", at)?;
                File::options().write(true).open(at)
            })
            .expect("a temporary on a full disk");
        let error = commit(full, &path, |w| w.write_all(&vec![0; 1 << 20])).expect_err("no space");
        assert_eq!(error.kind(), io::ErrorKind::StorageFull);
        assert!(names(directory.path()).is_empty());
    }

    #[cfg(unix)]
    #[test]
    fn new_files_have_ordinary_permissions() {
        use std::os::unix::fs::PermissionsExt;
        let directory = tempfile::tempdir().expect("a folder");
        let (ours, theirs) = (directory.path().join("a"), directory.path().join("b"));
        write_file(&ours, |w| w.write_all(b"x")).expect("writes");
        fs::write(&theirs, b"x").expect("writes");
        let mode = |path: &Path| fs::metadata(path).expect("exists").permissions().mode();
        assert_eq!(mode(&ours), mode(&theirs));
    }
}
