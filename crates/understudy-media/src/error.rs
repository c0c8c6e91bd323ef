//! What can go wrong, each with where it happened and what to do about it.

use std::io;
use std::path::{Path, PathBuf};

/// A path in a message of one line: control characters are written out, and so is what is no text.
///
/// ```
/// use std::path::Path;
///
/// assert_eq!(understudy_media::shown(Path::new("a\u{1b}[31m b.png")), "a\\u{1b}[31m b.png");
/// ```
pub fn shown(path: &Path) -> String {
    let written = |character: char| {
        let plain = !character.is_control();
        if plain { character.to_string() } else { character.escape_default().to_string() }
    };
    let chunk = |chunk: std::str::Utf8Chunk| {
        let valid: String = chunk.valid().chars().map(written).collect();
        let invalid: String = chunk.invalid().iter().map(|byte| format!("\\x{byte:02x}")).collect();
        valid + &invalid
    };
    path.as_os_str().as_encoded_bytes().utf8_chunks().map(chunk).collect()
}

/// The result of everything in this crate that can fail.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// An error of reading or writing media. Its text is one line: where, what, and what to do.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The operating system refused an operation on a file.
    #[error("{}: cannot {action}: {source}; {advice}", shown(path))]
    Io {
        /// What was being done, as a verb: "read", "create", ...
        action: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
        /// What the user can do.
        advice: &'static str,
    },
    /// A file is damaged, truncated, or not what it should be.
    #[error("{}: {reason}; {advice}", shown(path))]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
        /// What the user can do.
        advice: &'static str,
    },
    /// A video of a kind that is left to `ffmpeg`, which is not there.
    #[error(
        "{}: {reason}; install ffmpeg, which is used for such files, or re-encode it elsewhere to H.264 in MP4 \
         (ffmpeg -i in -c:v libx264 -pix_fmt yuv420p out.mp4)",
        shown(path)
    )]
    Unsupported {
        /// The file.
        path: PathBuf,
        /// Why it is not decoded here.
        reason: String,
    },
    /// A picture or video frame is too small or too large to use.
    #[error("{}: {width}x{height} is outside the limits ({limit}); {advice}", shown(path))]
    Dimensions {
        /// The file.
        path: PathBuf,
        /// Width from the file's header, pixels.
        width: u64,
        /// Height from the file's header, pixels.
        height: u64,
        /// The limit that is broken, in words.
        limit: String,
        /// What the user can do.
        advice: &'static str,
    },
    /// A subject folder has no picture that can be used.
    #[error(
        "{}: no usable picture (left out: {left_out}); put PNG, JPEG, WebP, BMP or TIFF pictures directly in this folder",
        shown(path)
    )]
    NoPictures {
        /// The folder.
        path: PathBuf,
        /// The names left out, each with its reason.
        left_out: String,
    },
    /// Some pictures of a folder cannot be read. All of them are named.
    #[error("{}: {count} unreadable: {problems}; replace or remove them", shown(path))]
    UnreadablePictures {
        /// The folder.
        path: PathBuf,
        /// How many there are.
        count: usize,
        /// Each name with its reason.
        problems: String,
    },
    /// A dataset description has an unknown, missing or wrong field.
    #[error("{}: {field}: {reason}", shown(path))]
    Config {
        /// The TOML or JSONL file.
        path: PathBuf,
        /// The field, or the line.
        field: String,
        /// What is wrong with it and what to do.
        reason: String,
    },
    /// A file cannot be written as asked.
    #[error("{}: cannot be written: {reason}", shown(path))]
    Output {
        /// The file or folder to be written.
        path: PathBuf,
        /// Why, and what to do.
        reason: String,
    },
    /// Arguments that do not fit together: a shape, a frame rate, an option.
    #[error("{what}: {reason}")]
    Invalid {
        /// The argument.
        what: &'static str,
        /// What is wrong with it and what to do.
        reason: String,
    },
}

impl Error {
    /// The file or folder that it is about.
    pub(crate) fn path(&self) -> Option<&Path> {
        match self {
            Self::Io { path, .. }
            | Self::Unreadable { path, .. }
            | Self::Unsupported { path, .. }
            | Self::Dimensions { path, .. }
            | Self::NoPictures { path, .. }
            | Self::UnreadablePictures { path, .. }
            | Self::Config { path, .. }
            | Self::Output { path, .. } => Some(path),
            Self::Invalid { .. } => None,
        }
    }

    /// [`Error::Io`] on reading `path`.
    pub(crate) fn read(path: &Path, source: io::Error) -> Self {
        Self::Io {
            action: "read",
            path: path.into(),
            source,
            advice: "check that the file exists and that you may read it",
        }
    }

    /// [`Error::Io`] on writing `path`. Nothing was left under that name.
    pub(crate) fn write(path: &Path, source: io::Error) -> Self {
        Self::Io {
            action: "write",
            path: path.into(),
            source,
            advice: "nothing was left behind; check free space and permissions and run again",
        }
    }

    /// [`Error::Unreadable`].
    pub(crate) fn unreadable(path: &Path, reason: impl Into<String>, advice: &'static str) -> Self {
        Self::Unreadable { path: path.into(), reason: reason.into(), advice }
    }

    /// [`Error::Unsupported`].
    pub(crate) fn unsupported(path: &Path, reason: impl Into<String>) -> Self {
        Self::Unsupported { path: path.into(), reason: reason.into() }
    }

    /// [`Error::Output`].
    pub(crate) fn output(path: &Path, reason: impl Into<String>) -> Self {
        Self::Output { path: path.into(), reason: reason.into() }
    }

    /// [`Error::Invalid`].
    pub(crate) fn invalid(what: &'static str, reason: impl Into<String>) -> Self {
        Self::Invalid { what, reason: reason.into() }
    }
}
