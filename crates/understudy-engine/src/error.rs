//! Errors of the engine.

use std::path::PathBuf;

/// What can go wrong while reading or writing weights.
#[derive(Debug, thiserror::Error)]
pub enum WeightError {
    /// The file cannot be opened, read or written.
    #[error("cannot {action} {path}: {error}; {}", io_advice(error), path = path.display())]
    Io {
        /// What was tried: "open", "read", "write".
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// The system's reason.
        #[source]
        error: std::io::Error,
    },
    /// The file is not what it should be.
    #[error("{path} is not a valid checkpoint: {reason}; download or export it again", path = path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// Which field is wrong, and how.
        reason: String,
    },
    /// The file holds no weights, or not all of them.
    #[error("{path} is {what}; {advice}", path = path.display())]
    NotWeights {
        /// The file.
        path: PathBuf,
        /// What it is.
        what: String,
        /// What to do about it.
        advice: &'static str,
    },
    /// Shards of a checkpoint are not there.
    #[error(
        "{index} names {} that {} not beside it: {}; download {} too, into the same folder",
        if names.len() == 1 { "a file" } else { "files" },
        if names.len() == 1 { "is" } else { "are" },
        names.join(", "),
        if names.len() == 1 { "it" } else { "them" },
        index = index.display()
    )]
    MissingShards {
        /// The index that names them.
        index: PathBuf,
        /// Their names.
        names: Vec<String>,
    },
    /// One tensor cannot be used.
    #[error("tensor {name}: {reason}")]
    Tensor {
        /// The tensor's published path.
        name: String,
        /// Why it cannot be used.
        reason: String,
    },
    /// The checkpoint does not hold exactly the network's tensors.
    #[error(
        "{source_name} does not fit this network: {}; download or export it again, or check that its configuration \
         belongs to it",
        faults(missing, wrong, unused)
    )]
    Incomplete {
        /// The checkpoint.
        source_name: String,
        /// Tensors the network has and the checkpoint does not, with their shapes.
        missing: Vec<String>,
        /// Tensors that cannot be used, with the reason.
        wrong: Vec<String>,
        /// Tensors of the checkpoint the network does not have.
        unused: Vec<String>,
    },
}

/// What to do about a file that cannot be opened, read or written.
pub fn io_advice(error: &std::io::Error) -> &'static str {
    use std::io::ErrorKind;
    match error.kind() {
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded => "free some space and run it again",
        ErrorKind::NotFound => "check the path",
        // Whether it was to be read or written.
        ErrorKind::PermissionDenied => "check that you may use it",
        ErrorKind::ReadOnlyFilesystem => "choose a place you may write to",
        ErrorKind::AlreadyExists => "choose another place",
        ErrorKind::NotADirectory => "check the path",
        ErrorKind::IsADirectory => "name a file",
        _ => "check the disk and run it again",
    }
}

fn faults(missing: &[String], wrong: &[String], unused: &[String]) -> String {
    let lists = [list("missing", missing), list("wrong", wrong), list("not used", unused)];
    lists.into_iter().flatten().collect::<Vec<_>>().join("; ")
}

/// `3 missing (a, b, c)`, with at most twenty names, or nothing.
fn list(what: &str, names: &[String]) -> Option<String> {
    const SHOWN: usize = 20;
    if names.is_empty() {
        return None;
    }
    let more = match names.len().checked_sub(SHOWN) {
        Some(rest) if rest > 0 => format!(", and {rest} more"),
        _ => String::new(),
    };
    let shown: Vec<&str> = names.iter().take(SHOWN).map(String::as_str).collect();
    Some(format!("{} {what} ({}{more})", names.len(), shown.join(", ")))
}
