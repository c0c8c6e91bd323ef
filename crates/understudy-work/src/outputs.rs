//! What a command writes: none of what it reads, and nothing that another process is writing.

use std::path::{Path, PathBuf};

use anyhow::{Result, bail};
use understudy_engine::error::io_advice;
use understudy_files::{Lock, LockError, is_same};

use crate::usage::WrongUsage;

/// How deep folders of inputs are looked into.
const DEPTH: usize = 4;

/// What the value of a flag names to be read: a file, or a folder of which some files are.
pub struct Input {
    flag: &'static str,
    path: PathBuf,
    /// Which files of a folder are read.
    reads: fn(&Path) -> bool,
}

impl Input {
    /// A file, or a folder that may be read whole.
    pub fn new(flag: &'static str, path: impl Into<PathBuf>) -> Self {
        Self { flag, path: path.into(), reads: |_| true }
    }

    /// A file, or a folder of which those files are read that `reads` says.
    pub fn some(flag: &'static str, path: impl Into<PathBuf>, reads: fn(&Path) -> bool) -> Self {
        Self { reads, ..Self::new(flag, path) }
    }

    /// Whether `output`, which is there, is this or a file of it, whatever the two are called.
    fn holds(&self, output: &Path) -> bool {
        is_same(&self.path, output) || holds(&self.path, output, self.reads, DEPTH)
    }
}

fn holds(folder: &Path, output: &Path, reads: fn(&Path) -> bool, depth: usize) -> bool {
    let (Some(depth), Ok(entries)) = (depth.checked_sub(1), std::fs::read_dir(folder)) else { return false };
    let mut paths = entries.flatten().map(|entry| entry.path());
    paths.any(|path| {
        if path.is_dir() {
            holds(&path, output, reads, depth)
        } else {
            reads(&path) && is_same(&path, output)
        }
    })
}

/// Makes sure before any work that `outputs`, each with its flag, are different files, that none is among
/// `inputs`, and that nobody else is writing them as long as what is returned is kept.
///
/// # Errors
/// Names the two flags, or who is writing.
pub fn reserve(outputs: &[(&str, impl AsRef<Path>)], inputs: &[Input]) -> Result<Vec<Lock>> {
    let outputs: Vec<(&str, &Path)> = outputs.iter().map(|(flag, path)| (*flag, path.as_ref())).collect();
    for (index, (flag, path)) in outputs.iter().enumerate() {
        let twice = outputs[..index].iter().find(|(_, other)| is_same_output(path, other));
        if let Some((other, _)) = twice {
            let reason = format!("{flag} and {other} are both {}; give them different names", path.display());
            return Err(WrongUsage(reason).into());
        }
        if let Some(input) = inputs.iter().find(|input| path.exists() && input.holds(path)) {
            let reason = format!(
                "{flag} {}: that file is read, as {} {}; give the result another name",
                path.display(),
                input.flag,
                input.path.display()
            );
            return Err(WrongUsage(reason).into());
        }
    }
    outputs.iter().map(|(flag, path)| held(flag, path, Lock::beside(path))).collect()
}

/// That nobody else works in `folder`, which exists, as long as what is returned is kept. What processes that
/// were killed left half-written there is removed.
///
/// # Errors
/// Says who does.
pub fn reserve_folder(flag: &str, folder: &Path) -> Result<Lock> {
    let lock = held(flag, folder, Lock::within(folder))?;
    understudy_files::remove_leftovers(folder);
    Ok(lock)
}

fn held(flag: &str, path: &Path, lock: Result<Lock, LockError>) -> Result<Lock> {
    let path = path.display();
    match lock {
        Ok(lock) => Ok(lock),
        Err(LockError::Held(by)) => {
            bail!("{flag} {path}: {by} is writing it; wait for it to end, or choose another name")
        }
        Err(LockError::Io(error)) => {
            bail!("{flag} {path}: cannot write beside it: {error}; {}", io_advice(&error))
        }
    }
}

/// Whether both are one file, or will be.
fn is_same_output(a: &Path, b: &Path) -> bool {
    is_same(a, b) || resolved(a) == resolved(b)
}

/// Where `path` is in the end, whatever way it was named; its folder exists.
fn resolved(path: &Path) -> PathBuf {
    let folder = understudy_files::parent(path);
    folder.canonicalize().unwrap_or(folder).join(path.file_name().unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn outputs_are_none_of_the_inputs_whatever_they_are_called() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        fs::create_dir_all(at("base/deep")).unwrap();
        for name in ["a", "base/deep/b", "base/c.csv"] {
            fs::write(at(name), "x").unwrap();
        }
        fs::hard_link(at("a"), at("hard")).unwrap();
        let inputs = || {
            [Input::new("--adapter", at("a")), Input::some("--base", at("base"), |path| path.ends_with("b"))]
        };
        let refused = |name: &str| reserve(&[("--out", &at(name))], &inputs()).is_err();
        assert!(refused("a") && refused("hard") && refused("base/../a") && refused("base/deep/b"));
        assert!(!refused("new") && !refused("base/new") && !refused("base/c.csv"));
        #[cfg(unix)]
        {
            std::os::unix::fs::symlink(at("a"), at("soft")).unwrap();
            std::os::unix::fs::symlink(at("base"), at("folder")).unwrap();
            assert!(refused("soft") && refused("folder/deep/b"));
        }
        let (one, same) = (at("new"), at("base/../new"));
        let said = reserve(&[("--out", &one), ("--save-latents", &same)], &[]).unwrap_err().to_string();
        assert!(said.contains("--save-latents and --out"), "{said}");
        let kept = reserve(&[("--out", &one)], &[]).unwrap();
        assert!(reserve(&[("--out", &one)], &[]).unwrap_err().to_string().contains("is writing it"));
        drop(kept);
        reserve(&[("--out", &one)], &[]).unwrap();
    }
}
