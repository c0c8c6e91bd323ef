//! Prompts to the text states the denoiser reads.

use burn::tensor::{Tensor, TensorData};
use understudy_engine::attach::Attached;

use crate::base::{Base, TEXT_ENCODER};
use crate::error::{Error, Result};
use crate::network::Texts;
use crate::tokenize::{Tokenizer, Tokens};

/// Embedding rows for tokens: new ones that stand for a subject, or replacements for known ones.
#[derive(Clone, Debug)]
pub struct TokenEmbeddings {
    /// The tokens as prompts write them, e.g. `<subject>`.
    pub tokens: Vec<String>,
    /// Their rows, `(tokens, channels of the text encoder)`; gradients flow to them.
    pub rows: Tensor<2>,
}

impl TokenEmbeddings {
    /// `prompt` with all tokens of the words that have several: `<s>` is `<s> <s>_1` where there is a token
    /// `<s>_1`, as diffusers has it.
    pub fn spelled(&self, prompt: &str) -> String {
        let mut spelled = prompt.to_owned();
        for token in &self.tokens {
            let further = (1..).map(|index| format!("{token}_{index}"));
            let further: Vec<String> = further.take_while(|own| self.tokens.contains(own)).collect();
            if !further.is_empty() {
                spelled = with_after(&spelled, token, &further.join(" "));
            }
        }
        spelled
    }
}

/// `text` with ` more` behind `word` wherever it stands by itself.
fn with_after(text: &str, word: &str, more: &str) -> String {
    let is_inside = |letter: char| letter.is_alphanumeric() || letter == '_';
    let mut spelled = String::new();
    let mut rest = text;
    while let Some(at) = rest.find(word) {
        let (before, after) = (&rest[..at], &rest[at + word.len()..]);
        let alone = !before.ends_with(is_inside) && !after.starts_with(is_inside);
        spelled.push_str(&rest[..at + word.len()]);
        if alone {
            spelled.push(' ');
            spelled.push_str(more);
        }
        rest = after;
    }
    spelled + rest
}

/// How prompts are encoded.
#[derive(Clone, Copy, Debug, Default)]
pub struct PromptOptions<'a> {
    /// Tokens of a prompt, padding included; the base's own if `None`.
    pub max_sequence_length: Option<usize>,
    /// What is attached to the networks.
    pub attached: Option<&'a Attached>,
    /// Rows that replace those of some tokens.
    pub token_embeddings: Option<&'a TokenEmbeddings>,
    /// Whether `(word:1.2)` in a prompt weighs the word; otherwise it is text like any other.
    pub weighted: bool,
    /// How many of the encoder's last layers are left out.
    pub skip: usize,
}

/// What the denoiser reads of `prompts`.
///
/// # Errors
/// When a prompt is longer than the limit, or token embeddings do not fit the base.
pub fn encode_prompt(base: &Base, prompts: &[&str], options: PromptOptions) -> Result<Texts> {
    let encoder = base.networks.text.as_ref();
    let spelled: Vec<String> = match options.token_embeddings {
        Some(embeddings) => prompts.iter().map(|prompt| embeddings.spelled(prompt)).collect(),
        None => prompts.iter().map(|prompt| (*prompt).to_owned()).collect(),
    };
    let prompts: Vec<&str> = spelled.iter().map(String::as_str).collect();
    let limit = options.max_sequence_length.unwrap_or(base.about.text_limit);
    let [rows, _] = encoder.table();
    let subject = options.token_embeddings.map(|embeddings| Subject::new(base, embeddings)).transpose()?;
    let tokenizer = subject.as_ref().map_or(encoder.tokenizer(), |subject| &subject.tokenizer);
    let (tokens, weights) = if options.weighted {
        tokenizer.encode_weighted(&prompts, limit)?
    } else {
        (tokenizer.encode(&prompts, limit)?, Vec::new())
    };
    let has_row = |id: &u32| (*id as usize) < rows || subject.as_ref().is_some_and(|s| s.ids.contains(id));
    if let Some(id) = tokens.ids.iter().flatten().find(|id| !has_row(id)) {
        let reason = format!("the text encoder has {rows} rows; use the tokenizer it was made with");
        return Err(Error::Token { token: format!("id {id}"), reason });
    }
    let embedded = encoder.embed(&tokens);
    let embedded = match &subject {
        Some(subject) => subject.replace(embedded, &tokens),
        None => embedded,
    };
    let none = Attached::none();
    let attachments = options.attached.unwrap_or(&none).to(TEXT_ENCODER);
    let texts = encoder.encode(embedded, &tokens, options.skip, attachments);
    base.check_read()?;
    if weights.iter().flatten().all(|weight| *weight == 1.0) {
        return Ok(texts);
    }
    weigh(texts, &tokens, &weights, base, options)
}

/// `texts` moved by the weights of their words away from what no text gives, or towards it: as ComfyUI does
/// it, which compares with an empty prompt, its end and then nothing.
fn weigh(
    texts: Texts,
    tokens: &Tokens,
    weights: &[Vec<f32>],
    base: &Base,
    options: PromptOptions,
) -> Result<Texts> {
    let [prompts, limit, channels] = texts.words.dims();
    let length = tokens.longest();
    let states = texts.words.narrow(1, 0, length);
    let device = states.device().without_autodiff();
    let empty =
        encode_prompt(base, &[""], PromptOptions { weighted: false, ..options })?.words.narrow(1, 0, 1);
    let nothing = Tensor::zeros([1, length - 1, channels], &device);
    let empty = if length > 1 { Tensor::cat(vec![empty, nothing], 1) } else { empty };
    let of = |row: &Vec<f32>| (0..length).map(|at| row.get(at).copied().unwrap_or(1.0)).collect::<Vec<_>>();
    let values: Vec<f32> = weights.iter().flat_map(of).collect();
    let weights = Tensor::<3>::from_data(TensorData::new(values, [prompts, length, 1]), &device);
    let rest = weights.ones_like() - weights.clone();
    let weighed = tokens.zeroed_beyond(states * weights + empty * rest);
    debug_assert_eq!(weighed.dims()[1], limit);
    Ok(Texts { words: weighed, ..texts })
}

/// Token embeddings with the ids their tokens have.
struct Subject<'a> {
    tokenizer: Tokenizer,
    ids: Vec<u32>,
    rows: &'a Tensor<2>,
}

impl<'a> Subject<'a> {
    fn new(base: &Base, embeddings: &'a TokenEmbeddings) -> Result<Self> {
        let TokenEmbeddings { tokens, rows } = embeddings;
        let expected = [tokens.len(), base.about.text_table[1]];
        if rows.dims() != expected {
            let reason = format!(
                "have rows of shape {:?}, but this base and {} tokens need {expected:?}; use those made for it",
                rows.dims(),
                tokens.len()
            );
            return Err(Error::Request { field: "token embeddings", reason });
        }
        let tokenizer = base.networks.text.tokenizer().with_added(tokens)?;
        let ids = tokens.iter().filter_map(|token| tokenizer.id(token)).collect();
        Ok(Self { tokenizer, ids, rows })
    }

    /// `embedded (prompts, length, channels)` with this subject's rows at its tokens. It is a product with a
    /// selection, so that gradients reach the rows.
    fn replace(&self, embedded: Tensor<3>, tokens: &Tokens) -> Tensor<3> {
        let [prompts, length, channels] = embedded.dims();
        let count = self.ids.len();
        let mut selected = vec![0.0_f32; prompts * length * count];
        let mut kept = vec![1.0_f32; prompts * length];
        for (row, ids) in tokens.ids.iter().enumerate() {
            for (column, id) in ids.iter().take(length).enumerate() {
                if let Some(which) = self.ids.iter().position(|own| own == id) {
                    let position = row * length + column;
                    selected[position * count + which] = 1.0;
                    kept[position] = 0.0;
                }
            }
        }
        let device = embedded.device().without_autodiff();
        let selected = Tensor::<2>::from_data(TensorData::new(selected, [prompts * length, count]), &device);
        let kept = Tensor::<3>::from_data(TensorData::new(kept, [prompts, length, 1]), &device);
        embedded * kept + selected.matmul(self.rows.clone()).reshape([prompts, length, channels])
    }
}

#[cfg(test)]
mod tests {
    use burn::tensor::Device;

    use super::*;

    #[test]
    fn words_of_several_tokens_are_spelled_out() {
        let tokens = ["toy", "toy_1", "toy_2", "<s>"].map(str::to_owned).to_vec();
        let embeddings = TokenEmbeddings { tokens, rows: Tensor::zeros([4, 2], &Device::flex()) };
        let spelled = embeddings.spelled("a toy, a toys' <s> (toy:1.2)");
        assert_eq!(spelled, "a toy toy_1 toy_2, a toys' <s> (toy toy_1 toy_2:1.2)");
    }
}
