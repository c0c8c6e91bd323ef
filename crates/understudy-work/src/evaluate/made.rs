//! What a suite has made, with the checksums of its files beside it, so that damage is noticed.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use understudy_files::{checksum, seal};
use understudy_media::write_file;

use crate::context::Context;

/// Gives the folder at `from` the name `to`, in place of what is there.
///
/// # Errors
/// When that cannot be removed or renamed.
pub fn replace(from: &Path, to: &Path) -> Result<()> {
    let _ = fs::remove_file(beside(to));
    if to.exists() {
        fs::remove_dir_all(to).with_context(|| to.display().to_string())?;
    }
    fs::rename(from, to).with_context(|| to.display().to_string())?;
    keep(to)
}

/// Keeps the checksums of the file or the files of the folder at `path`, which was just made.
///
/// # Errors
/// When they cannot be read, or written.
pub fn keep(path: &Path) -> Result<()> {
    let sums = sums(path)?;
    Ok(write_file(beside(path), |file| file.write_all(sums.as_bytes()))?)
}

/// Whether the file or folder at `path` is there as it was made. A damaged one is removed, and `context`
/// hears of it.
///
/// # Errors
/// When it cannot be read, or removed.
pub fn is_whole(path: &Path, context: &Context) -> Result<bool> {
    if !path.exists() {
        return Ok(false);
    }
    // A process that was killed in between, or an earlier version, left none.
    let Ok(stated) = fs::read(beside(path)) else { return keep(path).map(|()| true) };
    if stated == sums(path)?.as_bytes() {
        return Ok(true);
    }
    context.note(format!("{} is damaged; it is made again", path.display()));
    let removed = if path.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) };
    removed.with_context(|| path.display().to_string())?;
    Ok(false)
}

/// The hidden file of the checksums of `path`.
fn beside(path: &Path) -> PathBuf {
    let mut name = std::ffi::OsString::from(".");
    name.push(path.file_name().unwrap_or_default());
    name.push(".sums");
    path.with_file_name(name)
}

/// A line with the checksum of every file at `path`.
fn sums(path: &Path) -> Result<String> {
    let mut lines = Vec::new();
    add(path, path, &mut lines)?;
    lines.sort();
    Ok(seal(&lines.concat()))
}

fn add(root: &Path, path: &Path, lines: &mut Vec<String>) -> Result<()> {
    let told = || path.display().to_string();
    if path.is_dir() {
        for entry in fs::read_dir(path).with_context(told)? {
            add(root, &entry.with_context(told)?.path(), lines)?;
        }
        return Ok(());
    }
    let sum = checksum(&fs::read(path).with_context(told)?);
    let name = path.strip_prefix(root).unwrap_or(path);
    lines.push(format!("{sum:08x} {}\n", name.display()));
    Ok(())
}
