//! What `ffmpeg` says, in words of ours.

use std::path::Path;

use super::OTHERWISE;
use crate::Error;

/// Said of clips that were cut out of longer ones: what refers to frames before the first is not shown.
const HARMLESS: [&str; 6] = [
    "mmco:",
    "reference picture",
    "reference frames",
    "co located POC",
    "Could not find ref",
    "Last message repeated",
];

/// What it says, any of these, and what that means; the first counts.
const MEANINGS: [(&[&str], &str); 7] = [
    (&["not contain any stream", "matches no streams", "At least one output file"], "it has no video"),
    (
        &["ecoder not found", "Unknown decoder", "no decoder", "not currently supported"],
        "this ffmpeg has no decoder for it",
    ),
    (&["No such filter"], "this ffmpeg lacks usual filters; install a usual build of it"),
    (&["Invalid data found", "moov atom not found"], "it is damaged, cut off, or no video"),
    (
        &["ended prematurely", "partial file", "Truncat", "truncated"],
        "the file is cut off, its end is missing",
    ),
    (&["non-existing PPS", "no frame!"], "its beginning is missing, which its pictures need"),
    (&["corrupt", "while decoding", "missing picture"], "it is damaged"),
];

/// Whether a line is no complaint of what was decoded.
pub(super) fn is_harmless(line: &str) -> bool {
    line.trim().is_empty() || HARMLESS.iter().any(|known| line.contains(known))
}

/// The error of a run that said `said` of `path`, of which `reason` says why it is not decoded here.
pub(super) fn failure(path: &Path, reason: &str, said: &str) -> Error {
    let why = meaning(said).map_or_else(|| last_words(path, said), str::to_owned);
    Error::unreadable(path, format!("{reason}, and ffmpeg cannot decode it either: {why}"), OTHERWISE)
}

fn meaning(said: &str) -> Option<&'static str> {
    let says = |known: &[&str]| known.iter().any(|known| said.contains(known));
    MEANINGS.iter().find(|(known, _)| says(known)).map(|(_, meaning)| *meaning)
}

/// Its last line, without the part of it that says so and without the file's name, which is named anyway.
fn last_words(path: &Path, said: &str) -> String {
    const LONGEST: usize = 200;
    let name = path.display().to_string();
    let mut lines = said.lines().map(str::trim).filter(|line| !is_harmless(line));
    let Some(last) = lines.next_back() else { return "it gave up".to_owned() };
    let without_part =
        if last.starts_with('[') { last.split_once("] ").map_or(last, |(_, rest)| rest) } else { last };
    let plain = without_part.replace(&format!("file:{name}"), "").replace(&name, "");
    let plain = plain.trim_start_matches([':', ' ']).chars().filter(|c| !c.is_control()).take(LONGEST);
    format!("ffmpeg says {:?}", plain.collect::<String>())
}
