//! The folder on disk, in the layout of `huggingface_hub`.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};
use crate::repository::Repository;

/// A cache of repositories.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cache {
    folder: PathBuf,
}

/// The path that the environment has under `name`.
pub(crate) fn set(name: &str) -> Option<PathBuf> {
    env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from)
}

/// Where programs of Hugging Face's keep what is the user's: `HF_HOME`, or `huggingface` among the caches.
pub(crate) fn home() -> PathBuf {
    let caches = || set("XDG_CACHE_HOME").or_else(|| Some(env::home_dir()?.join(".cache")));
    set("HF_HOME").unwrap_or_else(|| caches().unwrap_or_else(|| PathBuf::from(".cache")).join("huggingface"))
}

impl Cache {
    /// The cache in `folder`.
    pub fn new(folder: impl Into<PathBuf>) -> Self {
        Self { folder: folder.into() }
    }

    /// Where every program of Hugging Face's looks: `HF_HUB_CACHE`, or `hub` in `HF_HOME`, or
    /// `~/.cache/huggingface/hub`.
    pub fn usual() -> Self {
        Self::new(set("HF_HUB_CACHE").unwrap_or_else(|| home().join("hub")))
    }

    /// The folder.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    pub(crate) fn repository(&self, repository: &Repository) -> PathBuf {
        self.folder.join(repository.folder())
    }

    /// The files of `repository` at `revision` (a branch or a commit) as they were fetched; `None` if they
    /// were not.
    pub fn snapshot(&self, repository: &Repository, revision: &str) -> Option<PathBuf> {
        let root = self.repository(repository);
        let named = fs::read_to_string(root.join("refs").join(revision)).ok();
        let commit = named.as_deref().map_or(revision, str::trim);
        let plain = !commit.is_empty() && commit.chars().all(|c| c.is_ascii_hexdigit());
        let snapshot = root.join("snapshots").join(commit);
        (plain && snapshot.is_dir()).then_some(snapshot)
    }

    /// Makes `snapshot/name` the file `blob`.
    pub(crate) fn link(snapshot: &Path, name: &str, blob: &Path) -> Result<()> {
        let path = snapshot.join(name);
        let io = |action| {
            let path = path.clone();
            move |error| Error::Io { action, path, error }
        };
        let folder = path.parent().unwrap_or(snapshot);
        fs::create_dir_all(folder).map_err(io("create the folder of"))?;
        if path.exists() {
            return Ok(());
        }
        // A link that leads nowhere.
        let _ = fs::remove_file(&path);
        // Up from the file's folder to the repository's, and down to the blob, so that the cache can be
        // moved.
        let depth = Path::new(name).components().count() + 1;
        let up: PathBuf = std::iter::repeat_n("..", depth).collect();
        let target = up.join("blobs").join(blob.file_name().unwrap_or_default());
        place(&target, blob, &path).map_err(io("write"))
    }
}

/// A link where the system has them.
#[cfg(unix)]
fn place(target: &Path, _: &Path, path: &Path) -> std::io::Result<()> {
    std::os::unix::fs::symlink(target, path)
}

/// A copy where links are not for everyone.
#[cfg(not(unix))]
fn place(_: &Path, blob: &Path, path: &Path) -> std::io::Result<()> {
    fs::copy(blob, path).map(|_| ())
}
