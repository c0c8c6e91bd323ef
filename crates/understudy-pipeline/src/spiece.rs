//! Tokenizers from SentencePiece models (`spiece.model`), as T5 uses them.

use tokenizers::models::unigram::Unigram;
use tokenizers::normalizers::{Precompiled, Replace, Sequence};
use tokenizers::pre_tokenizers::metaspace::{Metaspace, PrependScheme};
use tokenizers::processors::template::TemplateProcessing;
use tokenizers::{AddedToken, NormalizerWrapper, Tokenizer};
use understudy_engine::gguf::Vocabulary;

/// Kinds of pieces, as the format numbers them.
const CONTROL: u64 = 3;
const USER_DEFINED: u64 = 4;
const UNUSED: u64 = 5;
const BYTE: u64 = 6;
/// The only kind of model there is here.
const UNIGRAM: u64 = 1;
const END: &str = "</s>";

/// What a model file says.
struct Model {
    pieces: Vec<(String, f64, u64)>,
    unknown: usize,
    byte_fallback: bool,
    characters: Vec<u8>,
}

/// The tokenizer of a model, which ends every text with `</s>`.
///
/// # Errors
/// Says what is wrong with the model.
pub(crate) fn tokenizer(bytes: &[u8]) -> Result<Tokenizer, String> {
    built(read(bytes)?)
}

/// The same of the vocabulary in a GGUF file, which is a model's in other words.
///
/// # Errors
/// As [`tokenizer`].
pub(crate) fn of_vocabulary(vocabulary: Vocabulary) -> Result<Tokenizer, String> {
    let Vocabulary { kind, mut pieces, characters, unknown } = vocabulary;
    if kind != "t5" {
        return Err(format!("tokenizer.ggml.model is {kind:?} and must be \"t5\""));
    }
    // Converters fill the vocabulary up to the rows of the embedding.
    while pieces.last().is_some_and(|(piece, _, kind)| *kind == UNUSED && piece.starts_with("[PAD")) {
        pieces.pop();
    }
    if unknown >= pieces.len() {
        return Err(format!("unknown_token_id {unknown} is not among its {} pieces", pieces.len()));
    }
    let byte_fallback = pieces.iter().any(|(.., kind)| *kind == BYTE);
    let scored = |(piece, score, kind): (String, f32, u64)| (piece, f64::from(score), kind);
    built(Model { pieces: pieces.into_iter().map(scored).collect(), unknown, byte_fallback, characters })
}

fn built(model: Model) -> Result<Tokenizer, String> {
    let Model { pieces, unknown, byte_fallback, characters } = model;
    let end = pieces.iter().position(|(piece, ..)| piece == END);
    let end = end.ok_or_else(|| format!("it has no piece {END}"))?;
    let vocabulary = pieces.iter().map(|(piece, score, _)| (piece.clone(), *score)).collect();
    let model = Unigram::from(vocabulary, Some(unknown), byte_fallback).map_err(|error| error.to_string())?;
    let mut tokenizer = Tokenizer::new(model);

    let mut normalizers: Vec<NormalizerWrapper> = Vec::new();
    if !characters.is_empty() {
        let map =
            Precompiled::from(&characters).map_err(|error| format!("precompiled_charsmap: {error:?}"))?;
        normalizers.push(map.into());
    }
    let spaces = Replace::new(tokenizers::normalizers::replace::ReplacePattern::Regex(" {2,}".into()), " ");
    normalizers.push(spaces.map_err(|error| error.to_string())?.into());
    tokenizer.with_normalizer(Some(Sequence::new(normalizers)));
    let metaspace = Metaspace::new('\u{2581}', PrependScheme::Always, true);
    tokenizer.with_pre_tokenizer(Some(metaspace.clone()));
    tokenizer.with_decoder(Some(metaspace));
    let template = TemplateProcessing::builder()
        .try_single(format!("$A {END}"))
        .map(|builder| builder.special_tokens(vec![(END, end as u32)]))
        .map_err(|error| error.to_string())?
        .build()
        .map_err(|error| error.to_string())?;
    tokenizer.with_post_processor(Some(template));

    let added = |kind: u64, special: bool| {
        let own = pieces.iter().filter(move |(_, _, own)| *own == kind);
        own.map(move |(piece, ..)| AddedToken::from(piece.as_str(), special).normalized(false))
            .collect::<Vec<_>>()
    };
    tokenizer.add_special_tokens(&added(CONTROL, true));
    tokenizer.add_tokens(&added(USER_DEFINED, false));
    Ok(tokenizer)
}

fn read(bytes: &[u8]) -> Result<Model, String> {
    let mut model = Model { pieces: Vec::new(), unknown: 0, byte_fallback: false, characters: Vec::new() };
    let mut kind = UNIGRAM;
    for field in Fields(bytes) {
        match field? {
            (1, Value::Bytes(piece)) => model.pieces.push(read_piece(piece)?),
            (2, Value::Bytes(trainer)) => {
                for field in Fields(trainer) {
                    match field? {
                        (3, Value::Integer(found)) => kind = found,
                        (35, Value::Integer(flag)) => model.byte_fallback = flag != 0,
                        (40, Value::Integer(id)) => model.unknown = usize::try_from(id).unwrap_or(usize::MAX),
                        _ => {}
                    }
                }
            }
            (3, Value::Bytes(normalizer)) => {
                for field in Fields(normalizer) {
                    if let (2, Value::Bytes(map)) = field? {
                        model.characters = map.to_vec();
                    }
                }
            }
            _ => {}
        }
    }
    if kind != UNIGRAM {
        return Err("it is not a unigram model".to_owned());
    }
    if model.unknown >= model.pieces.len() {
        return Err(format!("unk_id {} is not among its {} pieces", model.unknown, model.pieces.len()));
    }
    Ok(model)
}

fn read_piece(bytes: &[u8]) -> Result<(String, f64, u64), String> {
    let (mut piece, mut score, mut kind) = (String::new(), 0.0, 1);
    for field in Fields(bytes) {
        match field? {
            (1, Value::Bytes(text)) => {
                piece = String::from_utf8(text.to_vec()).map_err(|_| "a piece is not text".to_owned())?;
            }
            (2, Value::Float(value)) => score = f64::from(value),
            (3, Value::Integer(value)) => kind = value,
            _ => {}
        }
    }
    if score.is_finite() {
        Ok((piece, score, kind))
    } else {
        Err(format!("the score of piece {piece:?} is not a number"))
    }
}

/// A field's value in a protocol buffer.
enum Value<'a> {
    Integer(u64),
    Float(f32),
    Bytes(&'a [u8]),
}

/// The fields of a message in a protocol buffer, by number.
struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    fn take(&mut self, length: usize) -> Result<&'a [u8], String> {
        match self.0.split_at_checked(length) {
            Some((part, rest)) => {
                self.0 = rest;
                Ok(part)
            }
            None => Err("it ends too early (truncated?)".to_owned()),
        }
    }

    fn varint(&mut self) -> Result<u64, String> {
        let mut value = 0_u64;
        for shift in (0..64).step_by(7) {
            let byte = self.take(1)?[0];
            value |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Ok(value);
            }
        }
        Err("a number is too long; it is not a SentencePiece model".to_owned())
    }

    fn field(&mut self) -> Result<(u64, Value<'a>), String> {
        let tag = self.varint()?;
        let value = match tag & 7 {
            0 => Value::Integer(self.varint()?),
            1 => Value::Bytes(self.take(8)?),
            2 => {
                let length = usize::try_from(self.varint()?).unwrap_or(usize::MAX);
                Value::Bytes(self.take(length)?)
            }
            5 => {
                let mut bytes = [0; 4];
                bytes.copy_from_slice(self.take(4)?);
                Value::Float(f32::from_le_bytes(bytes))
            }
            _ => return Err("it is not a SentencePiece model".to_owned()),
        };
        Ok((tag >> 3, value))
    }
}

impl<'a> Iterator for Fields<'a> {
    type Item = Result<(u64, Value<'a>), String>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_empty() {
            return None;
        }
        let field = self.field();
        if field.is_err() {
            self.0 = &[];
        }
        Some(field)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn golden(file: &str) -> Vec<u8> {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../../oracle/golden/spiece");
        std::fs::read(format!("{folder}/{file}")).unwrap()
    }

    #[test]
    fn ids_are_those_of_the_library() {
        let case: serde_json::Value = serde_json::from_slice(&golden("case.json")).unwrap();
        for name in ["a", "b"] {
            let tokenizer = tokenizer(&golden(&format!("{name}.model"))).unwrap();
            let prompts = case["prompts"].as_array().unwrap();
            for (prompt, ids) in prompts.iter().zip(case["ids"][name].as_array().unwrap()) {
                let prompt = prompt.as_str().unwrap();
                let ids: Vec<u32> =
                    ids.as_array().unwrap().iter().map(|id| id.as_u64().unwrap() as u32).collect();
                assert_eq!(tokenizer.encode(prompt, true).unwrap().get_ids(), ids, "{name}: {prompt:?}");
            }
        }
    }

    #[test]
    fn damaged_models_are_errors() {
        let whole = golden("b.model");
        for length in 0..whole.len() {
            // Some prefixes are whole messages; none may crash.
            let _ = tokenizer(&whole[..length]);
        }
        for at in 0..whole.len() {
            let mut spoiled = whole.clone();
            spoiled[at] ^= 0x55;
            let _ = tokenizer(&spoiled);
        }
        for bytes in [&b""[..], b"not a model", &[0xff; 40]] {
            assert!(tokenizer(bytes).is_err());
        }
    }
}
