//! The tokenizer of `nano`: a unigram model over the words of the puppet world's captions.
//!
//! Other words are spelled letter by letter, so any prompt can be read; only words of the world mean
//! something to the base.

use serde_json::{Value, json};

/// Ids of the special tokens, as in T5.
pub const PAD: u32 = 0;
/// The end of a text.
pub const END: u32 = 1;
const UNKNOWN: u32 = 2;

/// Log-probability of a whole word; far above its spelling.
const WORD: f64 = -6.0;
const LETTER: f64 = -12.0;

/// Rows the embedding table needs for [`tokenizer`].
pub fn vocabulary_size() -> usize {
    pieces().len()
}

/// The pieces in order of id, with their log-probabilities.
fn pieces() -> Vec<(String, f64)> {
    let special = ["<pad>", "</s>", "<unk>"].map(|token| (token.to_owned(), 0.0));
    let words = understudy_puppet::vocabulary().into_iter().map(|word| (format!("\u{2581}{word}"), WORD));
    let letters = ('a'..='z').chain('0'..='9').chain(['\u{2581}', '\'']).map(|c| (c.to_string(), LETTER));
    special.into_iter().chain(words).chain(letters).collect()
}

/// The `tokenizer.json`.
pub fn tokenizer() -> Value {
    let added = |id: u32, content: &str| {
        json!({"id": id, "content": content, "single_word": false, "lstrip": false, "rstrip": false,
               "normalized": false, "special": true})
    };
    let metaspace =
        json!({"type": "Metaspace", "replacement": "\u{2581}", "prepend_scheme": "always", "split": true});
    json!({
        "version": "1.0",
        "truncation": null,
        "padding": null,
        "added_tokens": [added(PAD, "<pad>"), added(END, "</s>"), added(UNKNOWN, "<unk>")],
        "normalizer": {"type": "Sequence", "normalizers": [
            {"type": "Lowercase"},
            {"type": "Replace", "pattern": {"Regex": "[^a-z0-9']+"}, "content": " "},
            {"type": "Strip", "strip_left": true, "strip_right": true},
        ]},
        "pre_tokenizer": metaspace,
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [{"Sequence": {"id": "A", "type_id": 0}}, {"SpecialToken": {"id": "</s>", "type_id": 0}}],
            "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"SpecialToken": {"id": "</s>", "type_id": 0}},
                     {"Sequence": {"id": "B", "type_id": 0}}, {"SpecialToken": {"id": "</s>", "type_id": 0}}],
            "special_tokens": {"</s>": {"id": "</s>", "ids": [END], "tokens": ["</s>"]}},
        },
        "decoder": metaspace,
        "model": {"type": "Unigram", "unk_id": UNKNOWN, "byte_fallback": false, "vocab": pieces()},
    })
}
