//! The prompts a subject is trained with.

use understudy_pipeline::Tokenizer;

/// Neutral prompts for pictures without captions; `{}` is the subject. They say nothing of what else a
/// picture shows, so that this is not bound to the subject's token.
const TEMPLATES: [&str; 8] = [
    "a {}",
    "the {}",
    "one {}",
    "a photo of a {}",
    "a picture of a {}",
    "a close view of a {}",
    "a {} in front of a background",
    "a {} with static camera",
];

/// Prompts of samples that keep a class what it was: each says what it does and where, so that this is kept, too.
const VARIED: [&str; 16] = [
    "a {} walks to the left on the beach",
    "a {} dances in a room",
    "a {} in the snow",
    "a {} jumps in the city",
    "a {} walks to the right in the forest",
    "a {} waves on a stage",
    "a {}",
    "a {} runs to the right in the desert",
    "a {} nods in a meadow",
    "a {} at night",
    "a {} sits down in front of mountains",
    "a {} in space",
    "a {} runs to the left in the street",
    "a {} spins around at sea",
    "a {} holding a red balloon",
    "a {} in front of houses",
];

/// Prompts for samples of the class alone, in which `phrase` does one thing and another in one place and another. Those
/// with a word the tokenizer has to spell are left out. There is always one.
pub(crate) fn varied_prompts(tokenizer: &Tokenizer, phrase: &str) -> Vec<String> {
    filled(&VARIED, tokenizer, phrase)
}

/// The templates with `phrase` in place of `{}`, but for those with a word the tokenizer has to spell: a base
/// that does not know a word takes it for noise. There is always one.
pub fn neutral_prompts(tokenizer: &Tokenizer, phrase: &str) -> Vec<String> {
    filled(&TEMPLATES, tokenizer, phrase)
}

fn filled(templates: &[&str], tokenizer: &Tokenizer, phrase: &str) -> Vec<String> {
    let known = |word: &str| {
        // The word and the end of the text; one piece more is a common ending.
        word == "{}" || tokenizer.encode(&[word], 512).is_ok_and(|tokens| tokens.lengths[0] <= 3)
    };
    let usable = templates.iter().filter(|template| template.split(' ').all(known));
    let prompts: Vec<String> = usable.map(|template| template.replace("{}", phrase)).collect();
    if prompts.is_empty() { vec![phrase.to_owned()] } else { prompts }
}

/// How much of what a clip's subject does its caption tells. What it does is in square brackets: "a bear [walks to the left]
/// in a room".
#[derive(Clone, Copy, Debug)]
pub(crate) enum Telling<'a> {
    /// Nothing: "a bear in a room".
    Still,
    /// In the caption's words: "a bear walks to the left in a room".
    Moving,
    /// The same after the token of this very motion: "a bear <m> walks to the left in a room". Where nothing is in brackets,
    /// the token follows the subject's phrase.
    Named(&'a str),
}

impl Telling<'_> {
    /// `caption` where it calls the `class` `phrase`.
    pub(crate) fn of(self, caption: &str, class: &str, phrase: &str) -> String {
        let parts = caption.split_once('[').and_then(|(before, rest)| {
            let (action, after) = rest.split_once(']')?;
            Some((before, action, after))
        });
        let Some((before, action, after)) = parts else {
            return personal_caption(caption, class, &self.after(phrase));
        };
        let told = match self {
            Self::Still => format!("{before} {after}"),
            Self::Moving => format!("{before} {action} {after}"),
            Self::Named(token) => format!("{before} {token} {action} {after}"),
        };
        let tidy = told.split_whitespace().collect::<Vec<_>>().join(" ");
        personal_caption(&tidy.replace(" ,", ",").replace(" .", "."), class, phrase)
    }

    /// `phrase`, and after it the motion's token if it is told.
    pub(crate) fn after(self, phrase: &str) -> String {
        match self {
            Self::Still | Self::Moving => phrase.to_owned(),
            Self::Named(token) => format!("{phrase} {token}"),
        }
    }
}

/// `caption` with the first mention of `class` replaced by `phrase`; where there is none, the phrase leads.
pub fn personal_caption(caption: &str, class: &str, phrase: &str) -> String {
    match find_word(caption, class) {
        Some(at) => format!("{}{phrase}{}", &caption[..at], &caption[at + class.len()..]),
        None => format!("a {phrase}, {caption}"),
    }
}

/// Where `word` stands in `text` as a word of its own, whatever its case.
fn find_word(text: &str, word: &str) -> Option<usize> {
    let bounded = |at: usize| {
        let alphanumeric = |c: Option<char>| c.is_some_and(char::is_alphanumeric);
        !alphanumeric(text[..at].chars().next_back()) && !alphanumeric(text[at + word.len()..].chars().next())
    };
    text.char_indices().map(|(at, _)| at).find(|&at| {
        text.get(at..at + word.len()).is_some_and(|found| found.eq_ignore_ascii_case(word)) && bounded(at)
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn captions_name_the_subject() {
        let personal = |caption: &str| personal_caption(caption, "cat", "<s> cat");
        assert_eq!(personal("a red Cat on a cat tree"), "a red <s> cat on a cat tree");
        assert_eq!(personal("two cats, one cat."), "two cats, one <s> cat.");
        assert_eq!(personal("on the sofa"), "a <s> cat, on the sofa");
        assert_eq!(personal("ééé cat"), "ééé <s> cat");
    }

    #[test]
    fn captions_tell_what_a_subject_does_or_leave_it_out() {
        let told = |telling: Telling, caption: &str| telling.of(caption, "bear", "<s> bear");
        let bracketed = "A bear [walks to the left], in a room";
        assert_eq!(told(Telling::Still, bracketed), "A <s> bear, in a room");
        assert_eq!(told(Telling::Moving, bracketed), "A <s> bear walks to the left, in a room");
        assert_eq!(told(Telling::Named("<m>"), bracketed), "A <s> bear <m> walks to the left, in a room");
        assert_eq!(told(Telling::Still, "a bear in a room"), "a <s> bear in a room");
        assert_eq!(told(Telling::Named("<m>"), "a bear in a room"), "a <s> bear <m> in a room");
        assert_eq!(told(Telling::Moving, "[dances"), "a <s> bear, [dances");
    }
}
