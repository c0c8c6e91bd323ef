//! The prompts a subject is trained with.

use std::ops::Range;

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

/// Prompts of samples that keep a class what it was: each says what it does and where, so that this is kept,
/// too.
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

/// Prompts for samples of the class alone, in which `phrase` does one thing and another in one place and
/// another. Those with a word the tokenizer has to spell are left out. There is always one.
pub(crate) fn varied_prompts(tokenizer: &Tokenizer, phrase: &str) -> Vec<String> {
    filled(&VARIED, tokenizer, phrase)
}

/// The templates with `phrase` in place of `{}`, but for those with a word the tokenizer has to spell: a base
/// that does not know a word takes it for noise. There is always one.
pub fn neutral_prompts(tokenizer: &Tokenizer, phrase: &str) -> Vec<String> {
    filled(&TEMPLATES, tokenizer, phrase)
}

/// Whether `tokenizer` has a word rather than spells it.
pub(crate) fn knows(tokenizer: &Tokenizer, word: &str) -> bool {
    // The word and the end of the text; one piece more is a common ending.
    tokenizer.encode(&[word], 512).is_ok_and(|tokens| tokens.lengths[0] <= 3)
}

fn filled(templates: &[&str], tokenizer: &Tokenizer, phrase: &str) -> Vec<String> {
    let known = |word: &str| word == "{}" || knows(tokenizer, word);
    let usable = templates.iter().filter(|template| template.split(' ').all(known));
    let prompts: Vec<String> = usable.map(|template| template.replace("{}", phrase)).collect();
    if prompts.is_empty() { vec![phrase.to_owned()] } else { prompts }
}

/// How much of what a clip's subject does its caption tells. What it does is in square brackets: "a bear
/// [walks to the left] in a room".
#[derive(Clone, Copy, Debug)]
pub(crate) enum Telling<'a> {
    /// Nothing: "a bear in a room".
    Still,
    /// In the caption's words: "a bear walks to the left in a room".
    Moving,
    /// The same after the token of this very motion: "a bear <m> walks to the left in a room". Where nothing
    /// is in brackets, the token follows the subject's phrase.
    Named(&'a str),
}

impl Telling<'_> {
    /// `caption` where it names the subject as `naming` does.
    pub(crate) fn of(self, caption: &str, naming: Naming) -> String {
        let Some((before, action, after)) = naming.action(caption) else {
            let motion = if let Self::Named(token) = self { Some(token) } else { None };
            return naming.named(caption, motion).0;
        };
        let told = match self {
            Self::Still => format!("{before} {after}"),
            Self::Moving => format!("{before} {action} {after}"),
            Self::Named(token) if find_word(&before, token).is_some() => format!("{before} {action} {after}"),
            Self::Named(token) => format!("{before} {token} {action} {after}"),
        };
        let tidy = told.split_whitespace().collect::<Vec<_>>().join(" ");
        naming.named(&tidy.replace(" ,", ",").replace(" .", "."), None).0
    }

    /// `phrase`, and after it the motion's token if it is told.
    pub(crate) fn after(self, phrase: &str) -> String {
        match self {
            Self::Still | Self::Moving => phrase.to_owned(),
            Self::Named(token) => format!("{phrase} {token}"),
        }
    }
}

/// What stands for a subject's name in captions written for any trainer, in square brackets or braces.
const PLACEHOLDERS: [&str; 7] =
    ["trigger", "trigger_word", "trigger word", "triggerword", "name", "token", "subject"];

/// How a subject is named in prompts: `<s> cat`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Naming<'a> {
    pub(crate) class: &'a str,
    pub(crate) token: &'a str,
}

/// What a caption called its subject by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum CalledBy {
    /// The token: it stays as it is.
    Token,
    /// A placeholder, like `[trigger]`.
    Placeholder,
    /// The class noun, or its plural.
    Class,
    /// Nothing.
    Nothing,
}

impl Naming<'_> {
    fn phrase(self) -> String {
        format!("{} {}", self.token, self.class)
    }

    /// `caption` naming the subject, with the token of its motion, if it is given, after that; and what it
    /// was called by.
    ///
    /// A placeholder becomes the phrase. What has the token stays as it is. Else the first mention of the
    /// class becomes the phrase; where there is none, the phrase leads.
    pub(crate) fn named(self, caption: &str, motion: Option<&str>) -> (String, CalledBy) {
        let filled = self.filled(caption);
        let text = filled.as_deref().unwrap_or(caption);
        let (mut named, end, by) = match self.mention(text) {
            Some((found, name, by)) => {
                let named = [&text[..found.start], name.as_str(), &text[found.end..]].concat();
                (named, found.start + name.len(), by)
            }
            None => {
                let lead = format!("a {}", self.phrase());
                (format!("{lead}, {text}"), lead.len(), CalledBy::Nothing)
            }
        };
        if let Some(motion) = motion.filter(|motion| find_word(text, motion).is_none()) {
            named.insert_str(end, &format!(" {motion}"));
        }
        (named, if filled.is_some() { CalledBy::Placeholder } else { by })
    }

    /// Where `text` mentions the subject, the name it is to have there, and what it is called by.
    fn mention(self, text: &str) -> Option<(Range<usize>, String, CalledBy)> {
        if let Some(found) = find_word(text, self.token) {
            let rest = &text[found.end..];
            let class = find_word(rest, self.class).filter(|class| rest[..class.start].trim().is_empty());
            let class = class.map_or("", |class| &rest[..class.end]);
            let end = found.end + class.len();
            return Some((found.start..end, format!("{}{class}", self.token), CalledBy::Token));
        }
        if let Some(found) = find_word(text, self.class) {
            return Some((found, self.phrase(), CalledBy::Class));
        }
        let found = plurals(self.class).iter().find_map(|word| find_word(text, word))?;
        let name = format!("{} {}", self.token, &text[found.clone()]);
        Some((found, name, CalledBy::Class))
    }

    /// `caption` with the subject's name in place of placeholders; nothing where it has none. One that the
    /// class follows stands for the token alone.
    fn filled(self, caption: &str) -> Option<String> {
        let mut filled = String::with_capacity(caption.len());
        let (mut rest, mut any) = (caption, false);
        while let Some((before, after)) = placeholder(rest, self.token) {
            filled.push_str(before);
            let class = find_word(after, self.class).filter(|class| after[..class.start].trim().is_empty());
            let name = if class.is_some() { self.token.to_owned() } else { self.phrase() };
            // A caption may have both, as trainers put a word in front of all of them.
            let doubled = filled.trim_end().ends_with(self.token) && class.is_none();
            filled.push_str(if doubled { self.class } else { &name });
            rest = after;
            any = true;
        }
        filled.push_str(rest);
        any.then_some(filled)
    }

    /// What stands before, in and after the first square brackets of a caption that tell what the subject
    /// does: neither a placeholder nor the token. Placeholders before it are filled.
    pub(crate) fn action(self, caption: &str) -> Option<(String, String, String)> {
        let filled = self.filled(caption);
        let text = filled.as_deref().unwrap_or(caption);
        let starts = text.match_indices('[').map(|(at, _)| at);
        let own = |at: &usize| !text[*at..].starts_with(self.token);
        let start = starts.into_iter().find(own)?;
        let (action, after) = text[start + 1..].split_once(']')?;
        Some((text[..start].to_owned(), action.trim().to_owned(), after.to_owned()))
    }
}

/// `caption` with a mention of the subject as `token` and `class`: what has the token stays as it is,
/// placeholders like `[trigger]` and else the first mention of the class become both, and where there is
/// none, both lead.
pub fn personal_caption(caption: &str, class: &str, token: &str) -> String {
    Naming { class, token }.named(caption, None).0
}

/// What stands before and after the first placeholder; the token itself is none.
fn placeholder<'a>(text: &'a str, token: &str) -> Option<(&'a str, &'a str)> {
    let opened = text.match_indices(['[', '{']).find_map(|(at, open)| {
        let close = if open == "[" { ']' } else { '}' };
        let (inside, after) = text[at + 1..].split_once(close)?;
        let known = PLACEHOLDERS.iter().any(|known| inside.trim().eq_ignore_ascii_case(known));
        (known && !text[at..].starts_with(token)).then_some((at, after))
    });
    opened.map(|(at, after)| (&text[..at], after))
}

/// What several of a class may be called.
fn plurals(class: &str) -> Vec<String> {
    let regular = [format!("{class}s"), format!("{class}es")];
    let stems = [("man", "men"), ("person", "people"), ("child", "children"), ("y", "ies"), ("f", "ves")];
    let other = stems.iter().filter_map(|(one, many)| Some(format!("{}{many}", class.strip_suffix(one)?)));
    regular.into_iter().chain(other).collect()
}

/// Where `word` stands in `text` as a word of its own, whatever its case.
fn find_word(text: &str, word: &str) -> Option<Range<usize>> {
    let letter = |c: Option<char>| c.is_some_and(char::is_alphanumeric);
    let alike = |a: char, b: char| a == b || a.to_lowercase().eq(b.to_lowercase());
    let count = word.chars().count();
    let at = |start: usize| {
        let rest = &text[start..];
        let found = rest.chars().zip(word.chars()).filter(|(a, b)| alike(*a, *b)).count() == count;
        let length: usize = rest.chars().take(count).map(char::len_utf8).sum();
        let before = letter(text[..start].chars().next_back()) && letter(word.chars().next());
        let after = letter(rest[length..].chars().next()) && letter(word.chars().next_back());
        (found && !before && !after).then_some(start..start + length)
    };
    text.char_indices().find_map(|(start, _)| at(start))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn captions_name_the_subject() {
        let personal = |caption: &str| personal_caption(caption, "cat", "<s>");
        assert_eq!(personal("a red Cat on a cat tree"), "a red <s> cat on a cat tree");
        assert_eq!(personal("two cats, one cat."), "two cats, one <s> cat.");
        assert_eq!(personal("two Cats asleep"), "two <s> Cats asleep");
        assert_eq!(personal("on the sofa"), "a <s> cat, on the sofa");
        assert_eq!(personal("ééé cat"), "ééé <s> cat");
        assert_eq!(personal_caption("three women", "woman", "<s>"), "three <s> women");
        assert_eq!(personal_caption("ein KÄTZCHEN", "kätzchen", "<s>"), "ein <s> kätzchen");
    }

    #[test]
    fn captions_that_name_it_already_stay_as_they_are() {
        for caption in
            ["a <s> cat on the beach", "photo of <s>", "<s>, a cat", "a <s>  cat", "a <s>cat with a cat"]
        {
            assert_eq!(personal_caption(caption, "cat", "<s>"), caption);
        }
        let ohwx = |caption: &str| personal_caption(caption, "man", "ohwx");
        assert_eq!(ohwx("photo of ohwx on the beach"), "photo of ohwx on the beach");
        assert_eq!(ohwx("ohwx man, a man beside him"), "ohwx man, a man beside him");
        // Spelled as the token is, which is one word to the base.
        assert_eq!(ohwx("Photo of OHWX man"), "Photo of ohwx man");
        assert_eq!(ohwx("ohwxy man"), "ohwxy ohwx man");
        // A foreign one is a word like any other.
        assert_eq!(personal_caption("photo of ohwx", "cat", "<s>"), "a <s> cat, photo of ohwx");
    }

    #[test]
    fn placeholders_become_the_name() {
        let personal = |caption: &str| personal_caption(caption, "cat", "<s>");
        assert_eq!(personal("a photo of [trigger] on a sofa"), "a photo of <s> cat on a sofa");
        assert_eq!(personal("[Trigger] cat, [name] asleep"), "<s> cat, <s> cat asleep");
        assert_eq!(personal("{trigger_word}, a cat"), "<s> cat, a cat");
        assert_eq!(personal("<s> [trigger] on a sofa"), "<s> cat on a sofa");
        assert_eq!(personal("a cat [jumps]"), "a <s> cat [jumps]");
    }

    #[test]
    fn captions_tell_what_a_subject_does_or_leave_it_out() {
        let naming = Naming { class: "bear", token: "<s>" };
        let told = |telling: Telling, caption: &str| telling.of(caption, naming);
        let bracketed = "A bear [walks to the left], in a room";
        assert_eq!(told(Telling::Still, bracketed), "A <s> bear, in a room");
        assert_eq!(told(Telling::Moving, bracketed), "A <s> bear walks to the left, in a room");
        assert_eq!(told(Telling::Named("<m>"), bracketed), "A <s> bear <m> walks to the left, in a room");
        assert_eq!(told(Telling::Still, "a bear in a room"), "a <s> bear in a room");
        assert_eq!(told(Telling::Named("<m>"), "a bear in a room"), "a <s> bear <m> in a room");
        assert_eq!(told(Telling::Moving, "[dances"), "a <s> bear, [dances");
        // Named already, by either; a placeholder is no action.
        let written = "a <s> bear [walks] in a room";
        assert_eq!(told(Telling::Named("<m>"), written), "a <s> bear <m> walks in a room");
        assert_eq!(told(Telling::Named("<m>"), "a <s> bear in a room"), "a <s> bear <m> in a room");
        assert_eq!(told(Telling::Named("<m>"), "a <s> bear <m> in a room"), "a <s> bear <m> in a room");
        assert_eq!(told(Telling::Still, "[trigger] [walks] in a room"), "<s> bear in a room");
        assert_eq!(told(Telling::Moving, "[name] in a room"), "<s> bear in a room");
        assert_eq!(naming.action("[trigger] [walks] in").unwrap().1, "walks");
        let bracketed = Naming { class: "bear", token: "[V]" };
        assert_eq!(Telling::Still.of("a [V] bear [walks]", bracketed), "a [V] bear");
        assert_eq!(bracketed.action("a [V] bear"), None);
    }
}
