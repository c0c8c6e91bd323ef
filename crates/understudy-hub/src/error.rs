//! What can go wrong between a repository and the cache. Every message is one line: what, where, and what to
//! do.

use std::path::PathBuf;

/// The result of everything in this crate that can fail.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// An error of fetching a repository.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A name that is none of a repository.
    #[error("{name:?} is not a repository: {reason}; give ORGANIZATION/NAME")]
    Name {
        /// What was given.
        name: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// The server does not answer, or not as expected.
    #[error("{url}: {reason}")]
    Server {
        /// What was asked for.
        url: String,
        /// What happened and what to do.
        reason: String,
    },
    /// What was fetched is not what the server says it is.
    #[error("{file}: its checksum is {found} and must be {expected}; it was removed, fetch it again")]
    Checksum {
        /// The file in the repository.
        file: String,
        /// The hash the server names.
        expected: String,
        /// The hash of what came.
        found: String,
    },
    /// Nothing in the repository has a wanted name.
    #[error("{repository}: no file matches {pattern:?}; it has {names}")]
    NoFile {
        /// The repository.
        repository: String,
        /// What was asked for.
        pattern: String,
        /// Some of the names it has.
        names: String,
    },
    /// The cache cannot be read or written.
    #[error("cannot {action} {path}: {error}; make room, or choose another folder with HF_HOME", path = path.display())]
    Io {
        /// What was attempted.
        action: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// Why it failed.
        error: std::io::Error,
    },
    /// The caller asked to stop. What was fetched stays.
    #[error("stopped on request; run it again to go on")]
    Stopped,
}
