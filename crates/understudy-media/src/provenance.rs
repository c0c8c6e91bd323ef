//! How a video was made, as its file says it.

use std::path::Path;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::comment::read_comment;

/// What a video was asked to be, and everything it takes to make it again.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Provenance {
    /// The program and its version.
    pub made_by: String,
    /// What it was asked to show.
    pub prompt: String,
    /// The same in words that everybody knows, without tokens of subjects and weights of words; the prompt
    /// where there are none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub caption: Option<String>,
    /// The seed of its noise, if it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seed: Option<u64>,
    /// Everything else that decides it.
    #[serde(default)]
    pub settings: Value,
    /// The arguments that make it again.
    #[serde(default)]
    pub arguments: Vec<String>,
}

impl Provenance {
    /// What the file at `path` says, or the first picture of a folder; nothing where it was made by another
    /// program.
    pub fn read(path: impl AsRef<Path>) -> Option<Self> {
        serde_json::from_str(&read_comment(path)?).ok()
    }

    /// As one line of ASCII: JSON in which other letters are escaped.
    pub fn to_text(&self) -> String {
        let mut text = String::new();
        // A struct of texts and numbers always has a JSON form.
        for letter in serde_json::to_string(self).unwrap_or_default().chars() {
            if letter.is_ascii() {
                text.push(letter);
            } else {
                letter.encode_utf16(&mut [0; 2]).iter().for_each(|unit| text += &format!("\\u{unit:04x}"));
            }
        }
        text
    }

    /// What it shows, as a judge who knows no tokens is told it.
    pub fn caption(&self) -> &str {
        self.caption.as_deref().unwrap_or(&self.prompt)
    }
}
