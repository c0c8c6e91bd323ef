//! Files of textual inversion (Gal et al., "An Image is Worth One Word", 2023): rows of the text encoder's
//! table for a word of their own, as diffusers and AUTOMATIC1111's web UI write them.

use std::path::Path;

use burn::tensor::{Device, Tensor, TensorData};
use understudy_engine::safetensors::Checkpoint;
use understudy_engine::weights::WeightSource;
use understudy_pipeline::TokenEmbeddings;

use crate::error::{Error, Result};

/// What the web UI calls the rows, and the field that names the word.
const WEB_UI: &str = "string_to_param.*";
const NAME: &str = "name";
/// Keys that stand for no word.
const NAMELESS: [&str; 4] = ["emb_params", "clip_l", "string_to_param", "*"];

/// A word and the rows that stand for it.
#[derive(Clone, Debug)]
pub struct TextualInversion {
    /// The word, as prompts have it.
    pub word: String,
    /// Its rows `(tokens, channels)`.
    pub rows: Tensor<2>,
}

impl TextualInversion {
    /// Reads the file at `path`: safetensors or PyTorch's. The word is what the file calls it, or else the
    /// file's own name without its ending.
    ///
    /// # Errors
    /// When it cannot be read, holds anything but the rows of one word, or they are not finite.
    pub fn open(path: &Path, device: &Device) -> Result<Self> {
        let fault = |reason: String| Error::Embedding { path: path.to_owned(), reason };
        let file = Checkpoint::open(path, device)?;
        let names = file.names();
        let key = match names.as_slice() {
            [one] => one.clone(),
            all => match all.iter().find(|name| name.as_str() == WEB_UI) {
                Some(own) => own.clone(),
                None => {
                    let reason = format!("it holds {} tensors, not the rows of one word", all.len());
                    return Err(fault(reason));
                }
            },
        };
        let (values, shape) = file.values(&key)?;
        let shape = match shape.as_slice() {
            &[channels] if channels > 0 => [1, channels],
            &[tokens, channels] if tokens > 0 && channels > 0 => [tokens, channels],
            other => return Err(fault(format!("tensor {key} has shape {other:?}, not (tokens, channels)"))),
        };
        if !values.iter().all(|value| value.is_finite()) {
            return Err(fault(format!("tensor {key} holds values that are not finite")));
        }
        let stem = || path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        let named = if key == WEB_UI { file.metadata().get(NAME).cloned() } else { Some(key.clone()) };
        let word = named.filter(|word| !NAMELESS.contains(&word.as_str())).unwrap_or_else(stem);
        if word.is_empty() || word.contains(char::is_whitespace) {
            let reason = format!("its word {word:?} is not one word; rename the file or the tensor in it");
            return Err(fault(reason));
        }
        Ok(Self { word, rows: Tensor::from_data(TensorData::new(values, shape), device) })
    }

    /// The tokens that stand for its rows: the word, and the word with a number for each further one.
    pub fn tokens(&self) -> Vec<String> {
        let further = (1..self.rows.dims()[0]).map(|index| format!("{}_{index}", self.word));
        std::iter::once(self.word.clone()).chain(further).collect()
    }
}

/// `embeddings` with those of `inversions` after them; in prompts each word stands for all its tokens (see
/// [`TokenEmbeddings::spelled`]).
///
/// # Errors
/// When two have the same word, or rows of different lengths.
pub fn with_inversions(
    embeddings: Option<TokenEmbeddings>,
    inversions: &[TextualInversion],
) -> Result<Option<TokenEmbeddings>> {
    let mut all = embeddings;
    for own in inversions {
        let tokens = own.tokens();
        let Some(before) = all.take() else {
            all = Some(TokenEmbeddings { rows: own.rows.clone(), tokens });
            continue;
        };
        if let Some(token) = tokens.iter().find(|token| before.tokens.contains(token)) {
            let reason = format!("{token} is the word of two files or adapters; leave one out, or rename it");
            return Err(Error::Subject { field: "token", reason });
        }
        let [lengths, own_length] = [before.rows.dims()[1], own.rows.dims()[1]];
        if lengths != own_length {
            let reason = format!("{} has rows of {own_length} channels, and others {lengths}", own.word);
            return Err(Error::Subject { field: "token", reason });
        }
        all = Some(TokenEmbeddings {
            tokens: [before.tokens, tokens].concat(),
            rows: Tensor::cat(vec![before.rows, own.rows.clone()], 0),
        });
    }
    Ok(all)
}
