//! How captions are read, and how what is to be said of many files is said once.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use understudy_media::{Note, shown};

use super::Subject;
use crate::prompts::{CalledBy, Naming};

impl Subject {
    /// Says how captions are read that do not just name the class.
    pub(super) fn note_captions(&mut self, path: &Path) {
        let naming = Naming { class: &self.class, token: &self.token };
        let own =
            self.pictures.iter().filter_map(|own| Some((own.path.as_deref()?, own.caption.as_deref()?)));
        let clips = self.clip_captions.iter().map(|caption| (path, caption.as_str()));
        let said = own.chain(clips).filter_map(|(path, caption)| {
            let (named, by) = naming.named(caption, None);
            let text = match by {
                CalledBy::Class => return None,
                CalledBy::Token => format!("its caption has {} in it and stays as it is", self.token),
                CalledBy::Placeholder => {
                    format!("its caption is read with {:?} in place of what stands for it", self.phrase())
                }
                CalledBy::Nothing => {
                    let start: String = named.chars().take(60).collect();
                    let more = if start.len() < named.len() { " ..." } else { "" };
                    let text = format!(
                        "its caption does not name the {}; it is read as \"{start}{more}\"",
                        self.class
                    );
                    return Some((by, (path.to_owned(), text)));
                }
            };
            Some((by, (path.to_owned(), text)))
        });
        // One line for all captions of a kind.
        let mut kinds: BTreeMap<CalledBy, Vec<(PathBuf, String)>> = BTreeMap::new();
        said.for_each(|(by, said)| kinds.entry(by).or_default().push(said));
        let first = |said: Vec<(PathBuf, String)>| {
            let mut said = said.into_iter();
            let (path, text) = said.next()?;
            let others: Vec<PathBuf> = said.map(|(path, _)| path).collect();
            Some(with_others(Note { path, text }, &others))
        };
        self.notes.extend(kinds.into_values().filter_map(first).collect::<Vec<_>>());
    }
}

/// A caption on one line, its words a space apart, so that a class of several words is found in it however
/// they are parted.
pub(super) fn tidy(caption: &str) -> String {
    caption.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// Each text once, of the first file that it is said of, with the others.
pub(super) fn gathered(notes: Vec<Note>) -> Vec<Note> {
    let mut texts: Vec<(Note, Vec<PathBuf>)> = Vec::new();
    for note in notes {
        match texts.iter_mut().find(|(own, _)| own.text == note.text) {
            Some((_, others)) => others.push(note.path),
            None => texts.push((note, Vec::new())),
        }
    }
    texts.into_iter().map(|(note, others)| with_others(note, &others)).collect()
}

/// What is said of `note`'s file and of `others`, with how many those are and the names of the first.
fn with_others(note: Note, others: &[PathBuf]) -> Note {
    const NAMED: usize = 3;
    let name = |path: &PathBuf| shown(Path::new(path.file_name().unwrap_or_default()));
    // Several captions may be in one file.
    let mut names: Vec<String> = others.iter().filter(|own| **own != note.path).map(name).collect();
    if names.len() > NAMED {
        names.truncate(NAMED);
        names.push("...".to_owned());
    }
    let colon = if names.is_empty() { "" } else { ": " };
    let text = match others.len() {
        0 => note.text,
        count => format!("{} (and {count} more like it{colon}{})", note.text, names.join(", ")),
    };
    Note { path: note.path, text }
}
