//! The tokenizer of Stable Diffusion 1.5, for files that carry none along: CLIP's, whose vocabulary follows
//! from its merges.

use std::io::Read;

use flate2::read::GzDecoder;
use serde_json::{Map, Value};

use crate::clip_vocabulary::to_json;
use crate::error::{Error, Result};
use crate::tokenize::Tokenizer;

/// One merge a line, in their order.
const MERGES: &[u8] = include_bytes!("../../../data/clip-merges.txt.gz");
const NAME: &str = "CLIP's tokenizer";

/// The tokenizer.
///
/// # Errors
/// When the program was built with other merges.
pub(super) fn published() -> Result<Tokenizer> {
    let fault =
        |reason: String| Error::File { file: NAME.to_owned(), reason, advice: "build the program again" };
    let mut merges = String::new();
    GzDecoder::new(MERGES).read_to_string(&mut merges).map_err(|error| fault(error.to_string()))?;
    let vocabulary = Value::Object(vocabulary(&merges)).to_string();
    let json = to_json(vocabulary.as_bytes(), merges.as_bytes()).map_err(fault)?;
    Tokenizer::from_bytes(json.as_bytes(), NAME)
}

/// Letters for all bytes, the same at the end of a word, what merges make, and the two that are around a
/// text.
fn vocabulary(merges: &str) -> Map<String, Value> {
    let letters: Vec<String> = bytes().into_iter().map(String::from).collect();
    let ending = letters.iter().map(|letter| format!("{letter}</w>"));
    let merged = merges.lines().map(|pair| pair.replace(' ', ""));
    let around = ["<|startoftext|>", "<|endoftext|>"].map(str::to_owned);
    let pieces = letters.clone().into_iter().chain(ending).chain(merged).chain(around);
    pieces.enumerate().map(|(id, piece)| (piece, id.into())).collect()
}

/// The letters that stand for bytes: those that can be seen for themselves, then letters from 256 on for the
/// others, in the order of CLIP's vocabulary.
fn bytes() -> Vec<char> {
    let seen = |byte: &u32| matches!(byte, 0x21..=0x7e | 0xa1..=0xac | 0xae..=0xff);
    let hidden = (0..256).filter(|byte| !seen(byte)).count() as u32;
    let letters = (0..256).filter(seen).chain(256..256 + hidden);
    letters.filter_map(char::from_u32).collect()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn texts_have_the_published_ids() {
        let tokenizer = published().unwrap();
        assert_eq!(tokenizer.vocabulary(), 49408);
        let tokens = tokenizer.encode(&["a photo of an astronaut riding a horse on mars"], 77).unwrap();
        // As transformers' CLIPTokenizer has it with the published files.
        let expected = [49406, 320, 1125, 539, 550, 18376, 6765, 320, 4558, 525, 7496, 49407];
        assert_eq!(tokens.ids[0][..12], expected);
        assert!(tokens.ids[0][12..].iter().all(|id| *id == 49407));
    }
}
