//! What can go wrong between a checkpoint folder and a video. Every message is one line: what, where, and
//! what to do.

use understudy_engine::error::WeightError;

/// The result of everything in this crate that can fail.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// An error of loading, saving or running a base.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A file of the base cannot be read or written.
    #[error("cannot {action} {file}: {source}; {advice}")]
    Io {
        /// What was tried: "read", "create".
        action: &'static str,
        /// The file or folder.
        file: String,
        /// The system's reason.
        source: std::io::Error,
        /// What the user can do.
        advice: &'static str,
    },
    /// A file of the base is there and cannot be used.
    #[error("{file}: {reason}; {advice}")]
    File {
        /// The file.
        file: String,
        /// Which field is wrong, and how.
        reason: String,
        /// What the user can do.
        advice: &'static str,
    },
    /// Weights cannot be read, or do not fit their configuration.
    #[error(transparent)]
    Weights(#[from] WeightError),
    /// A part of the base that is read when it is needed could not be read any more.
    #[error("the base cannot be read any more: {0}; put its files back as they were, and run it again")]
    Lost(String),
    /// No sampler has this name.
    #[error("unknown scheduler {0:?}; use one of euler, unipc, dpm++, ddim, lcm, euler-a, dpm++2m-sde, pndm")]
    UnknownScheduler(String),
    /// A prompt is longer than the text encoder reads.
    #[error(
        "the prompt \"{start}\" has {tokens} tokens and the limit is {limit} (max_sequence_length); shorten it"
    )]
    PromptTooLong {
        /// The prompt's beginning.
        start: String,
        /// Its tokens, the end of the text included.
        tokens: usize,
        /// The most tokens there may be (`max_sequence_length`).
        limit: usize,
    },
    /// A prompt cannot be turned into tokens.
    #[error("the prompt \"{start}\" cannot be tokenized: {reason}; check tokenizer.json")]
    Tokenize {
        /// The prompt's beginning.
        start: String,
        /// The tokenizer's reason.
        reason: String,
    },
    /// A new token cannot be added to the vocabulary.
    #[error("the token {token:?} cannot be added: {reason}")]
    Token {
        /// The token.
        token: String,
        /// Why not, and what to do.
        reason: String,
    },
    /// A length in frames or pixels does not divide into latents and patches.
    #[error("{what} {value} does not fit this base: it must be {rule}; use {}", nearest(*.below, *.above))]
    Size {
        /// `frames`, `height` or `width`.
        what: &'static str,
        /// What was asked for.
        value: usize,
        /// The rule it breaks.
        rule: String,
        /// The nearest valid value below, if any.
        below: Option<usize>,
        /// The nearest valid value above, if any.
        above: Option<usize>,
    },
    /// A field of a request is out of its range.
    #[error("{field} {reason}")]
    Request {
        /// The field.
        field: &'static str,
        /// What is wrong with it and what to do.
        reason: String,
    },
    /// The noise to start from, or that of a step, is not of the request's shape.
    #[error(
        "the initial noise has shape {found:?}, but this request needs {needed:?}; make it for this size"
    )]
    Noise {
        /// Its shape.
        found: [usize; 5],
        /// Prompts, channels, frames, height and width of the latents.
        needed: [usize; 5],
    },
    /// The caller asked to stop.
    #[error("stopped on request after {done} of {total} steps; run it again to start over")]
    Interrupted {
        /// Steps that were done.
        done: usize,
        /// Steps that were asked for.
        total: usize,
    },
}

/// `"77 or 81"`, or the one that there is.
fn nearest(below: Option<usize>, above: Option<usize>) -> String {
    let values: Vec<String> = [below, above].into_iter().flatten().map(|n| n.to_string()).collect();
    values.join(" or ")
}
