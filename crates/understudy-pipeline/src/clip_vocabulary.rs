//! CLIP's tokenizer from the two files it was first published as: `vocab.json` and `merges.txt`.

use serde_json::{Map, Value, json};
use understudy_engine::text;

const START: &str = "<|startoftext|>";
/// What ends a text, and fills what is left.
pub(crate) const END: &str = "<|endoftext|>";
/// How a text comes apart before its pieces are joined: endings, words, digits, and everything else that is
/// visible.
const PIECES: &str =
    r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+";

/// The `tokenizer.json` of the tokenizer with these files: byte-level BPE of lower-case words that end in
/// `</w>`.
///
/// # Errors
/// Says what of them is malformed.
pub(crate) fn to_json(vocab: &[u8], merges: &[u8]) -> Result<String, String> {
    let vocab = text::decoded(vocab).map_err(|error| format!("vocab.json: {error}"))?;
    let vocab: Map<String, Value> =
        serde_json::from_str(&vocab).map_err(|error| format!("vocab.json: {error}"))?;
    let merges = text::decoded(merges).map_err(|error| format!("merges.txt: {error}"))?;
    // The first line says of which version it is.
    let merges: Vec<&str> =
        merges.lines().filter(|line| !line.starts_with("#version") && !line.trim().is_empty()).collect();
    let special = |content: &str| {
        let id = vocab.get(content).cloned().ok_or_else(|| format!("vocab.json: there is no {content}"))?;
        let token = json!({
            "id": id, "content": content, "single_word": false, "lstrip": false, "rstrip": false,
            "normalized": false, "special": true,
        });
        Ok::<_, String>((id, token))
    };
    let ((start, first), (end, last)) = (special(START)?, special(END)?);
    let json = json!({
        "version": "1.0",
        "added_tokens": [first, last],
        "normalizer": {"type": "Sequence", "normalizers": [
            {"type": "NFC"},
            {"type": "Replace", "pattern": {"Regex": "\\s+"}, "content": " "},
            {"type": "Lowercase"},
        ]},
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [
            {"type": "Split", "pattern": {"Regex": PIECES}, "behavior": "Removed", "invert": true},
            {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true},
        ]},
        "post_processor": {
            "type": "RobertaProcessing", "sep": [END, end], "cls": [START, start],
            "trim_offsets": false, "add_prefix_space": false,
        },
        "decoder": null,
        "model": {
            "type": "BPE", "unk_token": END, "continuing_subword_prefix": "", "end_of_word_suffix": "</w>",
            "fuse_unk": false, "vocab": vocab, "merges": merges,
        },
    });
    Ok(json.to_string())
}
