//! Words of a prompt that the base does not know, or that stand for nothing.

use understudy_pipeline::{Tokenizer, listed};

/// A subject's word and how much its adapter counts.
pub struct Subject<'a> {
    /// The word.
    pub token: &'a str,
    /// Its adapter's file.
    pub file: String,
    /// The adapter's weight.
    pub weight: f32,
}

/// What is to be said of the words of `texts`; `tokenizer` knows the words of `subjects`.
pub fn notes(texts: &[&str], tokenizer: &Tokenizer, subjects: &[Subject]) -> Vec<String> {
    let mut notes: Vec<String> = Vec::new();
    let stands = |word: &String| subjects.iter().any(|own| own.token == word);
    for word in distinct(texts.iter().flat_map(|text| placeholders(text))).iter().filter(|word| !stands(word))
    {
        notes.push(format!(
            "{word} stands for nothing: no adapter that is given has this word; give --adapter the one that was fitted with it, or \
             leave it out (the trigger of another program's LoRA is written as it was in its captions)"
        ));
    }
    notes.extend(listed(&tokenizer.unknown_words(texts)).map(|words| {
        format!("this base was never taught {words} and will show nothing of the kind; use words it knows")
    }));
    for own in subjects.iter().filter(|own| own.weight == 0.0) {
        if texts.iter().any(|text| text.contains(own.token)) {
            notes.push(format!(
                "{} is in a prompt and its adapter {} has weight 0: the word alone is used, without what was learned \
                 with it",
                own.token, own.file
            ));
        }
    }
    notes
}

/// The words of `text` that are written as those of subjects are: `<s>`.
fn placeholders(text: &str) -> Vec<String> {
    let trimmed = |word: &str| {
        let end = word.rfind('>').map_or(word.len(), |at| at + 1);
        word[word.find('<').unwrap_or(0).min(end)..end].to_owned()
    };
    text.split_whitespace().map(trimmed).filter(|word| is_placeholder(word)).collect()
}

fn is_placeholder(word: &str) -> bool {
    word.len() > 2 && word.starts_with('<') && word.ends_with('>')
}

/// `words` in their order, each once.
fn distinct(words: impl Iterator<Item = String>) -> Vec<String> {
    let mut seen = Vec::new();
    for word in words {
        if !seen.contains(&word) {
            seen.push(word);
        }
    }
    seen
}
