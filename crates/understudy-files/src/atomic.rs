//! Writing that either happens whole or not at all.
//!
//! A file is written under a temporary name in its own folder, synced, and renamed, and the folder is synced;
//! a folder likewise. On any failure the temporary is removed, and what was under the final name before is
//! still there.

use std::ffi::OsStr;
use std::fs::{self, File, TryLockError};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use tempfile::{Builder, NamedTempFile, TempDir};

use crate::seal::checksum;

/// How the names of all temporaries and locks begin, and how they end.
const PREFIX: &str = ".understudy-";
const SUFFIX: &str = ".part";
pub(crate) const LOCK: &str = ".lock";
/// How deep a run's folder is.
const DEPTH: usize = 4;

/// Replaces the file at `path` with what `fill` writes.
///
/// # Errors
/// Those of `fill` and of the disk; nothing half-written is left.
pub fn write_file(path: &Path, fill: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> io::Result<()> {
    commit(temporary_file(path)?, path, fill)
}

/// Creates the folder `path` with what `fill` puts into the folder it is given. An empty folder may exist
/// already.
///
/// # Errors
/// What `fill` fails with, or what `fault` makes of an error of the disk; nothing half-written is left.
pub fn write_directory<E>(
    path: &Path,
    fill: impl FnOnce(&Path) -> Result<(), E>,
    fault: impl Fn(io::Error) -> E,
) -> Result<(), E> {
    let (temporary, held) = temporary_directory(path).map_err(&fault)?;
    fill(temporary.path())?;
    commit_directory(temporary, path).map_err(fault)?;
    drop(held);
    Ok(())
}

/// Finds out whether a file could be created at `path`, by creating a temporary one, which is removed.
///
/// # Errors
/// When it could not.
pub fn check_creatable(path: &Path) -> io::Result<()> {
    temporary_file(path)?.close()
}

/// Removes what processes that were killed left half-written anywhere below `folder`.
pub fn remove_leftovers(folder: &Path) {
    remove_below(folder, DEPTH);
}

fn remove_below(folder: &Path, depth: usize) {
    remove_abandoned(folder, PREFIX);
    let Some(depth) = depth.checked_sub(1) else { return };
    let Ok(entries) = fs::read_dir(folder) else { return };
    for entry in entries.flatten() {
        // A link may lead anywhere.
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove_below(&entry.path(), depth);
        }
    }
}

/// The folder a path lies in.
pub fn parent(path: &Path) -> PathBuf {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent.into(),
        _ => PathBuf::from("."),
    }
}

/// What names of temporaries of `path` begin with: the same for every process, whatever the name holds, and
/// short.
pub(crate) fn prefix(path: &Path) -> String {
    let name = path.file_name().unwrap_or(OsStr::new(""));
    format!("{PREFIX}{:08x}", checksum(name.as_encoded_bytes()))
}

/// A temporary file beside `path`, with the permissions an ordinary new file gets, locked as long as it is
/// written.
fn temporary_file(path: &Path) -> io::Result<NamedTempFile> {
    temporary(path, 0o666, |builder, folder| {
        let file = builder.tempfile_in(folder)?;
        let ours = is_ours(file.as_file(), file.path());
        Ok(ours.then_some(file))
    })
}

/// A temporary folder beside `path`, and what it is locked by.
fn temporary_directory(path: &Path) -> io::Result<(TempDir, Option<File>)> {
    temporary(path, 0o777, |builder, folder| {
        let created = builder.tempdir_in(folder)?;
        // Not every system opens folders.
        let held = File::open(created.path()).ok();
        let ours = held.as_ref().is_none_or(|held| is_ours(held, created.path()));
        Ok(ours.then_some((created, held)))
    })
}

/// What `create` makes in the folder it is given, beside `path`; it is asked again for as long as what it
/// made is not ours. `mode` are the permissions on unix, less the umask.
fn temporary<T>(
    path: &Path,
    mode: u32,
    create: impl Fn(&Builder, &Path) -> io::Result<Option<T>>,
) -> io::Result<T> {
    let (folder, prefix) = (parent(path), prefix(path));
    remove_abandoned(&folder, &prefix);
    let mut builder = Builder::new();
    builder.prefix(&prefix).suffix(SUFFIX);
    #[cfg(unix)]
    builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(mode));
    #[cfg(not(unix))]
    let _ = mode;
    loop {
        if let Some(created) = create(&builder, &folder)? {
            return Ok(created);
        }
    }
}

/// Locks a new temporary. It is not ours when somebody takes it for abandoned in that moment.
fn is_ours(file: &File, path: &Path) -> bool {
    match file.try_lock() {
        Err(TryLockError::WouldBlock) => false,
        // Where the disk has no locks, nobody removes anything.
        Ok(()) | Err(TryLockError::Error(_)) => path.exists(),
    }
}

/// Removes temporaries and locks in `folder` whose names begin with `prefix` and whose process is gone. They
/// harm nobody, so what cannot be removed stays.
fn remove_abandoned(folder: &Path, prefix: &str) {
    let Ok(entries) = fs::read_dir(folder) else { return };
    for entry in entries.flatten() {
        let name = entry.file_name();
        let name = name.as_encoded_bytes();
        let ours = [SUFFIX, LOCK].iter().any(|suffix| name.ends_with(suffix.as_bytes()));
        if !name.starts_with(prefix.as_bytes()) || !ours {
            continue;
        }
        let path = entry.path();
        let Ok(file) = File::open(&path) else { continue };
        if file.try_lock().is_ok() {
            let _ = if path.is_dir() { fs::remove_dir_all(&path) } else { fs::remove_file(&path) };
        }
    }
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
    let (file, temporary) = temporary.into_parts();
    file.sync_all()?;
    fs::rename(&temporary, path)?;
    let _named = temporary.keep(); // nothing to remove any more
    sync_directory(&parent(path))
}

fn commit_directory(temporary: TempDir, path: &Path) -> io::Result<()> {
    for entry in fs::read_dir(temporary.path())? {
        File::open(entry?.path())?.sync_all()?;
    }
    sync_directory(temporary.path())?;
    fs::rename(temporary.path(), path)?;
    let _named = temporary.keep();
    sync_directory(&parent(path))
}

/// Makes a rename durable, where the system lets folders be synced.
fn sync_directory(directory: &Path) -> io::Result<()> {
    if !cfg!(unix) {
        return Ok(());
    }
    match File::open(directory)?.sync_all() {
        Err(error) if matches!(error.kind(), io::ErrorKind::InvalidInput | io::ErrorKind::Unsupported) => {
            Ok(())
        }
        synced => synced,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(directory: &Path) -> Vec<String> {
        let entries = fs::read_dir(directory).unwrap();
        let mut names: Vec<_> =
            entries.map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned()).collect();
        names.sort();
        names
    }

    fn fill_directory(path: &Path, fill: impl FnOnce(&Path) -> io::Result<()>) -> io::Result<()> {
        write_directory(path, fill, |error| error)
    }

    #[test]
    fn a_failing_writer_leaves_the_old_file_and_no_other() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a.mp4");
        write_file(&path, |w| w.write_all(b"old")).unwrap();
        let error = write_file(&path, |w| {
            w.write_all(&vec![1; 1 << 20])?;
            Err(io::Error::other("interrupted"))
        });
        assert!(error.unwrap_err().to_string().contains("interrupted"));
        assert_eq!(fs::read(&path).unwrap(), b"old");
        assert_eq!(names(directory.path()), ["a.mp4"]);
    }

    #[test]
    fn a_failing_folder_leaves_nothing() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("frames");
        fill_directory(&path, |at| {
            fs::write(at.join("00000.png"), b"x")?;
            Err(io::Error::other("broken"))
        })
        .unwrap_err();
        assert!(names(directory.path()).is_empty());
        fill_directory(&path, |at| fs::write(at.join("00000.png"), b"x")).unwrap();
        assert_eq!(names(&path), ["00000.png"]);
        fill_directory(&path, |_| Ok(())).expect_err("a folder with content is not replaced");
        assert_eq!(names(&path), ["00000.png"]);
        assert_eq!(names(directory.path()), ["frames"]);
    }

    #[test]
    fn what_the_dead_left_is_removed_and_what_the_living_write_is_not() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a.mp4");
        let of = |path: &Path, end: &str| directory.path().join(format!("{}{end}{SUFFIX}", prefix(path)));
        fs::write(of(&path, "dead"), b"x").unwrap();
        fs::create_dir(of(&path, "folder")).unwrap();
        let other = of(&directory.path().join("b.mp4"), "dead");
        fs::write(&other, b"x").unwrap();
        let living = temporary_file(&path).unwrap();
        write_file(&path, |w| w.write_all(b"new")).unwrap();
        assert!(living.path().exists() && other.exists());
        assert_eq!(names(directory.path()).len(), 3, "{:?}", names(directory.path()));
        let inner = directory.path().join("inner");
        fs::create_dir(&inner).unwrap();
        fs::write(inner.join(other.file_name().unwrap()), b"x").unwrap();
        remove_leftovers(directory.path());
        assert!(living.path().exists() && !other.exists() && names(&inner).is_empty());
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_full_disk_is_an_error_and_leaves_nothing() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a.gif");
        let full = Builder::new()
            .make_in(directory.path(), |at| {
                std::os::unix::fs::symlink("/dev/full", at)?;
                File::options().write(true).open(at)
            })
            .unwrap();
        let error = commit(full, &path, |w| w.write_all(&vec![0; 1 << 20])).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::StorageFull);
        assert!(names(directory.path()).is_empty());
    }

    #[cfg(unix)]
    #[test]
    fn new_files_have_ordinary_permissions() {
        use std::os::unix::fs::PermissionsExt;
        let directory = tempfile::tempdir().unwrap();
        let (ours, theirs) = (directory.path().join("a"), directory.path().join("b"));
        write_file(&ours, |w| w.write_all(b"x")).unwrap();
        fs::write(&theirs, b"x").unwrap();
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode();
        assert_eq!(mode(&ours), mode(&theirs));
    }
}
