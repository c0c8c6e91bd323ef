//! Prompts to token ids, by the published `tokenizer.json`.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use burn::tensor::{Device, Int, Tensor, TensorData};
use tokenizers::{AddedToken, Encoding};
use understudy_engine::gguf::Vocabulary;
use understudy_engine::{foreign, text};

use crate::clip_vocabulary;
use crate::emphasis;
use crate::error::{Error, Result};
use crate::folder::{Files, below};
use crate::spiece;

/// Where a base keeps its tokenizer.
pub(crate) const TOKENIZER: &str = "tokenizer/tokenizer.json";
/// The same as SentencePiece writes it.
const SPIECE: &str = "tokenizer/spiece.model";

/// What SentencePiece writes for the space before a word.
const SPACE: char = '\u{2581}';
/// What stands for anything that no piece does.
const UNKNOWN: &str = "<unk>";

/// A tokenizer that never truncates. The end-of-text token is added as `tokenizer.json` says.
#[derive(Clone, Debug)]
pub struct Tokenizer {
    inner: tokenizers::Tokenizer,
    padding: u32,
}

/// The ids of a batch of prompts, padded to one length.
#[derive(Clone, Debug, PartialEq)]
pub struct Tokens {
    /// One row of `limit` ids a prompt.
    pub ids: Vec<Vec<u32>>,
    /// How many ids of each row are real, the end-of-text token included.
    pub lengths: Vec<usize>,
}

/// A prompt as Wan cleans it: HTML entities decoded twice, runs of white space made one space, none at the
/// ends. Wan also repairs wrongly decoded text with the Python package ftfy where it is installed; here text
/// is valid UTF-8 and taken as it is.
pub fn clean(prompt: &str) -> String {
    let text = htmlize::unescape(prompt);
    let text = htmlize::unescape(text.as_ref());
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// `prompt` without the weights of its words, as [`Tokenizer::encode_weighted`] reads it.
pub fn without_weights(prompt: &str) -> String {
    emphasis::joined(emphasis::parse(&clean(prompt))).0
}

/// The library panics on some files nobody publishes; that is an error like another.
fn caught<T>(work: impl FnOnce() -> tokenizers::Result<T>) -> Result<T, String> {
    match catch_unwind(AssertUnwindSafe(work)) {
        Ok(done) => done.map_err(|error| error.to_string()),
        Err(_) => Err("the tokenizer's parts do not fit together".to_owned()),
    }
}

/// That `bytes` of `file` are no pointer or page in place of a tokenizer.
fn check(bytes: &[u8], file: &str) -> Result<()> {
    match foreign::not_configuration(Path::new(file), bytes) {
        None => Ok(()),
        Some(error) => Err(error.into()),
    }
}

/// Reads a `tokenizer.json`, but for what it says of decoding.
fn read(bytes: &[u8]) -> Result<tokenizers::Tokenizer, String> {
    let text = text::decoded(bytes)?;
    let mut parts: serde_json::Value = serde_json::from_str(&text).map_err(|error| error.to_string())?;
    if let Some(decoder) = parts.get_mut("decoder") {
        *decoder = serde_json::Value::Null;
    }
    let text = parts.to_string();
    caught(|| tokenizers::Tokenizer::from_bytes(&text))
}

impl Tokenizer {
    /// Reads the tokenizer of a base: its `tokenizer.json` or, where there is none, its `spiece.model`.
    ///
    /// # Errors
    /// When there is neither, or it is malformed or has no `<pad>`.
    pub fn load(files: &Files) -> Result<Self> {
        match Self::file(files) {
            SPIECE => Self::from_spiece(&files.read(SPIECE)?, &files.name(SPIECE)),
            other => Self::from_bytes(&files.read(other)?, &files.name(other)),
        }
    }

    /// The file of a base that its tokenizer is read from.
    pub(crate) fn file(files: &Files) -> &'static str {
        if !files.has(TOKENIZER) && files.has(SPIECE) { SPIECE } else { TOKENIZER }
    }

    /// Reads a SentencePiece model; `file` names it in errors.
    ///
    /// # Errors
    /// When it is malformed, of another kind than T5's, or has no `<pad>`.
    pub fn from_spiece(bytes: &[u8], file: &str) -> Result<Self> {
        check(bytes, file)?;
        Self::of(spiece::tokenizer(bytes), file)
    }

    /// Reads the vocabulary that llama.cpp's converter writes into a file; `file` names it in errors.
    ///
    /// # Errors
    /// When it is of another kind than T5's, or has no `<pad>`.
    pub fn from_vocabulary(vocabulary: Vocabulary, file: &str) -> Result<Self> {
        Self::of(spiece::of_vocabulary(vocabulary), file)
    }

    /// Reads the text of a `tokenizer.json`; `file` names it in errors.
    ///
    /// # Errors
    /// When it is malformed or has no `<pad>`.
    pub fn from_bytes(bytes: &[u8], file: &str) -> Result<Self> {
        check(bytes, file)?;
        Self::of(read(bytes), file)
    }

    /// Reads the tokenizer of a CLIP in `folder`: its `tokenizer.json`, or its `vocab.json` and `merges.txt`.
    ///
    /// # Errors
    /// When none of them is there, or they are malformed.
    pub fn of_clip(files: &Files, folder: &str) -> Result<Self> {
        let at = |name: &str| below(folder, name);
        let [whole, vocab, merges] = ["tokenizer.json", "vocab.json", "merges.txt"].map(at);
        if files.has(&whole) || !files.has(&vocab) {
            return Self::from_bytes(&files.read(&whole)?, &files.name(&whole));
        }
        let json = clip_vocabulary::to_json(&files.read(&vocab)?, &files.read(&merges)?);
        Self::of(json.and_then(|json| read(json.as_bytes())), &files.name(&vocab))
    }

    fn of(read: Result<tokenizers::Tokenizer, String>, file: &str) -> Result<Self> {
        let fault = |reason: String| Error::File {
            file: file.to_owned(),
            reason,
            advice: "download or export the tokenizer again",
        };
        let mut inner = read.map_err(fault)?;
        inner.with_padding(None);
        inner.with_truncation(None).map_err(|error| fault(error.to_string()))?;
        // T5's, CLIP's and BERT's.
        let padding =
            ["<pad>", clip_vocabulary::END, "[PAD]"].iter().find_map(|token| inner.token_to_id(token));
        let padding = padding.ok_or_else(|| fault("it has no token <pad>".to_owned()))?;
        Ok(Self { inner, padding })
    }

    /// The same with new tokens after the vocabulary, each standing for itself wherever it is a word of its
    /// own. Tokens that are there already keep their ids.
    ///
    /// # Errors
    /// When a token is empty or holds white space.
    pub fn with_added(&self, tokens: &[String]) -> Result<Self> {
        let mut extended = self.clone();
        for token in tokens {
            if token.is_empty() || token.contains(char::is_whitespace) {
                let reason = "a token is one word; choose one like <subject>".to_owned();
                return Err(Error::Token { token: token.clone(), reason });
            }
            // White space before it belongs to it: what is learned is the word, not a space and a word.
            let added =
                AddedToken::from(token.as_str(), false).normalized(false).single_word(true).lstrip(true);
            extended.inner.add_tokens(&[added]);
        }
        Ok(extended)
    }

    /// The id of `token`, if the vocabulary has it.
    pub fn id(&self, token: &str) -> Option<u32> {
        self.inner.token_to_id(token)
    }

    /// How many ids there are, added tokens included.
    pub fn vocabulary(&self) -> usize {
        self.inner.get_vocab_size(true)
    }

    /// Whether the text encoder can have been taught `word`. A vocabulary of few pieces holds whole words,
    /// and spells what it does not know; one of many is made to write anything, and fails at what it has no
    /// letters for.
    pub fn knows(&self, word: &str) -> bool {
        const FEW: usize = 4096;
        let Ok(encoding) = self.raw(&clean(word)) else { return false };
        let added = self.inner.get_added_vocabulary().get_vocab();
        let pieces = encoding.get_tokens().iter().zip(encoding.get_special_tokens_mask());
        let pieces: Vec<&String> = pieces.filter(|(_, mask)| **mask == 0).map(|(piece, _)| piece).collect();
        let is_word = |piece: &str| {
            let begins = piece.strip_prefix(SPACE).is_some_and(|rest| !rest.is_empty());
            begins || added.contains_key(piece)
        };
        let missing = self.inner.token_to_id(UNKNOWN).is_some_and(|id| encoding.get_ids().contains(&id));
        let spelled = self.vocabulary() < FEW && !pieces.iter().all(|piece| is_word(piece));
        !pieces.is_empty() && !missing && !spelled
    }

    /// The words of `texts` that it does not [know](Self::knows), each once; words like `<s>`, which stand
    /// for a subject, are none.
    pub fn unknown_words(&self, texts: &[&str]) -> Vec<String> {
        let mut unknown: Vec<String> = Vec::new();
        for word in texts.iter().flat_map(|text| text.split_whitespace()) {
            let bare = word.trim_matches(|letter: char| !letter.is_alphanumeric());
            let seen = bare.is_empty() || unknown.iter().any(|own| own == bare);
            let token = word.contains('<') && word.contains('>');
            if !(seen || token || self.knows(bare)) {
                unknown.push(bare.to_owned());
            }
        }
        unknown
    }

    /// The ids of `prompts`, each cleaned with [`clean`] and padded to `limit`.
    ///
    /// # Errors
    /// When a prompt has more than `limit` tokens: nothing is cut off silently.
    pub fn encode(&self, prompts: &[&str], limit: usize) -> Result<Tokens> {
        let mut tokens = Tokens { ids: Vec::new(), lengths: Vec::new() };
        for prompt in prompts {
            self.add(&clean(prompt), limit, &mut tokens)?;
        }
        Ok(tokens)
    }

    /// The same for prompts with weights in them, such as `a (red:1.3) ball`, and the weight of each real id.
    ///
    /// # Errors
    /// As [`Tokenizer::encode`].
    pub fn encode_weighted(&self, prompts: &[&str], limit: usize) -> Result<(Tokens, Vec<Vec<f32>>)> {
        let mut tokens = Tokens { ids: Vec::new(), lengths: Vec::new() };
        let mut weights = Vec::new();
        for prompt in prompts {
            let (text, ends) = emphasis::joined(emphasis::parse(&clean(prompt)));
            let encoding = self.add(&text, limit, &mut tokens)?;
            // A token has the weight of its last character; one that stands for no text counts once.
            let weight = |&(start, end): &(usize, usize)| {
                if end > start {
                    ends.iter().find(|(own, _)| end <= *own).map_or(1.0, |(_, weight)| *weight)
                } else {
                    1.0
                }
            };
            weights.push(encoding.get_offsets().iter().map(weight).collect());
        }
        Ok((tokens, weights))
    }

    /// The ids of `texts` as they are, cut to `limit` with the last token kept, as CLIP wants them.
    ///
    /// # Errors
    /// When a text cannot be tokenized.
    pub fn encode_cut(&self, texts: &[&str], limit: usize) -> Result<Tokens> {
        let mut tokens = Tokens { ids: Vec::new(), lengths: Vec::new() };
        for text in texts {
            let mut ids = self.raw(text)?.get_ids().to_vec();
            if ids.len() > limit {
                ids.drain(limit.saturating_sub(1)..ids.len() - 1);
            }
            tokens.push(ids, limit, self.padding);
        }
        Ok(tokens)
    }

    fn raw(&self, text: &str) -> Result<Encoding> {
        caught(|| self.inner.encode(text, true))
            .map_err(|reason| Error::Tokenize { start: start_of(text), reason })
    }

    /// Adds a row for `prompt`, which is clean.
    fn add(&self, prompt: &str, limit: usize, tokens: &mut Tokens) -> Result<Encoding> {
        let encoding = self.raw(prompt)?;
        let ids = encoding.get_ids().to_vec();
        if ids.len() > limit {
            return Err(Error::PromptTooLong { start: start_of(prompt), tokens: ids.len(), limit });
        }
        tokens.push(ids, limit, self.padding);
        Ok(encoding)
    }

    /// The text of a `tokenizer.json` that holds this tokenizer.
    ///
    /// # Errors
    /// When it cannot be put into words, which no published kind of tokenizer does.
    pub fn to_json(&self) -> Result<String> {
        self.inner.to_string(true).map_err(|error| Error::File {
            file: TOKENIZER.to_owned(),
            reason: error.to_string(),
            advice: "use another kind of tokenizer",
        })
    }
}

/// `words` in quotes, ten at most, for a message; nothing where there is none.
pub fn listed(words: &[String]) -> Option<String> {
    const SHOWN: usize = 10;
    let quoted: Vec<String> = words.iter().take(SHOWN).map(|word| format!("{word:?}")).collect();
    let more = words.len().saturating_sub(SHOWN);
    match quoted.as_slice() {
        [] => None,
        [one] => Some(one.clone()),
        [first @ .., last] if more == 0 => Some(format!("{} and {last}", first.join(", "))),
        all => Some(format!("{} and {more} more", all.join(", "))),
    }
}

/// What errors show of a text.
fn start_of(text: &str) -> String {
    text.chars().take(40).collect()
}

impl Tokens {
    fn push(&mut self, mut ids: Vec<u32>, limit: usize, padding: u32) {
        self.lengths.push(ids.len());
        ids.resize(limit, padding);
        self.ids.push(ids);
    }

    /// Positions of a row, padding included.
    pub fn limit(&self) -> usize {
        self.ids.first().map_or(0, Vec::len)
    }

    /// Positions that hold every real id; one at least.
    pub(crate) fn longest(&self) -> usize {
        self.lengths.iter().copied().max().unwrap_or(0).max(1).min(self.limit())
    }

    /// `states (texts, length, channels)` with zeros beyond each text's last id, up to the limit.
    pub(crate) fn zeroed_beyond(&self, states: Tensor<3>) -> Tensor<3> {
        let [texts, length, channels] = states.dims();
        let device = states.device().without_autodiff();
        let row = |&real: &usize| (0..length).map(move |at| if at < real { 1.0_f32 } else { 0.0 });
        let real: Vec<f32> = self.lengths.iter().flat_map(row).collect();
        let states = states * Tensor::<3>::from_data(TensorData::new(real, [texts, length, 1]), &device);
        match self.limit() - length {
            0 => states,
            rest => Tensor::cat(vec![states, Tensor::zeros([texts, rest, channels], &device)], 1),
        }
    }

    /// The first `count` ids of every row, `(prompts, count)`. Ids of `rows` or more, which an embedding of
    /// so many rows does not have, become 0.
    pub(crate) fn tensor(&self, count: usize, rows: usize, device: &Device) -> Tensor<2, Int> {
        let known = |&id: &u32| if (id as usize) < rows { id as i32 } else { 0 };
        let ids: Vec<i32> = self.ids.iter().flat_map(|row| row[..count].iter().map(known)).collect();
        Tensor::from_data(TensorData::new(ids, [self.ids.len(), count]), device)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    /// A tokenizer of whole words and letters, and of so many pieces nobody writes.
    fn tokenizer(more: usize) -> Tokenizer {
        let known = ["<pad>", "</s>", "<unk>", "\u{2581}", "\u{2581}a", "\u{2581}cat", "\u{2581}on"];
        let letters = ('a'..='z').map(String::from);
        let more = (0..more).map(|at| format!("\u{2581}{at}"));
        let pieces = known.map(str::to_owned).into_iter().chain(letters).chain(more);
        let vocab: Vec<serde_json::Value> = pieces.map(|piece| serde_json::json!([piece, -1.0])).collect();
        let space = serde_json::json!({"type": "Metaspace", "replacement": "\u{2581}", "prepend_scheme": "always", "split": true});
        let json = serde_json::json!({
            "version": "1.0", "truncation": null, "padding": null, "added_tokens": [], "normalizer": null,
            "pre_tokenizer": space, "post_processor": null, "decoder": space,
            "model": {"type": "Unigram", "unk_id": 2, "vocab": vocab, "byte_fallback": false},
        });
        Tokenizer::from_bytes(json.to_string().as_bytes(), "tokenizer.json").unwrap()
    }

    #[test]
    fn words_are_unknown_to_those_who_learned_few() {
        let text = ["a cat, on <s> platypus", "the (platypus) ohwx cat"];
        let few = tokenizer(0).with_added(&["ohwx".to_owned()]).unwrap();
        assert_eq!(few.unknown_words(&text), ["platypus", "the"]);
        // Who can write anything knows what it can write.
        let many = tokenizer(5000);
        assert!(many.unknown_words(&text).is_empty());
        assert_eq!(many.unknown_words(&["a \u{732b}, cat"]), ["\u{732b}"]);
    }

    #[test]
    fn words_are_listed() {
        let words = |count: usize| listed(&(0..count).map(|at| at.to_string()).collect::<Vec<_>>());
        assert_eq!([words(0), words(1)], [None, Some("\"0\"".to_owned())]);
        assert_eq!(words(3).as_deref(), Some("\"0\", \"1\" and \"2\""));
        assert!(words(12).is_some_and(|list| list.ends_with("\"9\" and 2 more")));
    }

    #[test]
    fn prompts_are_cleaned_as_wan_does() {
        assert_eq!(clean("  two \n\t cubes &amp;amp; a\u{a0}ball "), "two cubes & a ball");
        assert_eq!(clean("&lt;s&gt; &#39;x&#x27; &eacute; a&b AT&T"), "<s> 'x' é a&b AT&T");
        assert_eq!(clean(""), "");
    }
}
