//! Where a base comes from: a folder in diffusers' layout, the folder of Wan's original release, or one file a
//! network as people share them.

use std::path::{Path, PathBuf};

use burn::tensor::Device;
use serde_json::Value;
use understudy_engine::error::WeightError;
use understudy_engine::gguf::Vocabulary;
use understudy_engine::safetensors::Checkpoint;
use understudy_engine::text;
use understudy_engine::weights::WeightSource;

use crate::base::{
    Base, BaseConfig, BaseWeights, INDEX, LoadOptions, MAX_SEQUENCE_LENGTH, Part, TEXT_ENCODER, TRANSFORMER,
    VAE,
};
use crate::cost::Halved;
use crate::error::{Error, Result};
use crate::folder::Files;
use crate::kinds::Kind;
use crate::original;
use crate::recognize::{Network, own_name};
use crate::sampler::Sampler;
use crate::scheduler::Scheduler;
use crate::shapes::Shapes;
use crate::tokenize::Tokenizer;
use crate::wrapped;

/// What diffusers publishes for Wan 2.1.
const USUAL: Scheduler = Scheduler { sampler: Sampler::UniPc, shift: 3.0 };
/// The tensor of bytes that ComfyUI's text encoders carry their tokenizer along in.
const CARRIED: &str = "spiece_model";
/// Where ComfyUI's checkpoints of a whole base have their networks, and the tokenizer.
pub(crate) const WHOLE: [&str; 3] = ["model.diffusion_model.", "text_encoders.umt5xxl.transformer.", "vae."];
const WHOLE_TOKENIZERS: [&str; 2] = ["text_encoders.spiece_model", "text_encoders.umt5xxl.spiece_model"];
const AGAIN: &str = "download the file again";
const TEXT_TO_VIDEO: &str = "give a text-to-video denoiser: Wan 2.1 T2V 1.3B or 14B";

/// A base's files, in any of the layouts they come in.
#[derive(Clone, Debug)]
pub enum Source {
    /// diffusers' layout, in a folder or compiled into the program.
    Files(Files),
    /// One file a network.
    Parts(Parts),
}

/// One file a network, in any naming and precision that [`Checkpoint`] reads.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Parts {
    /// The denoiser: safetensors (whole, or the index of shards), GGUF or PyTorch's.
    pub transformer: PathBuf,
    /// The text encoder.
    pub text_encoder: PathBuf,
    /// The autoencoder.
    pub vae: PathBuf,
    /// `tokenizer.json` or `spiece.model`; if there is none, the text encoder's file carries it, as ComfyUI's and
    /// llama.cpp's do.
    pub tokenizer: Option<PathBuf>,
    /// A configuration of the denoiser as the original release has it, if there is one.
    pub config: Option<PathBuf>,
    /// A folder in diffusers' layout, whose configurations hold for those of the files that lie in it.
    pub published: Option<PathBuf>,
}

impl Source {
    /// What lies in `folder`: diffusers' layout if it has a `model_index.json`, otherwise what its files hold.
    ///
    /// # Errors
    /// When it is neither; the message says what is missing.
    pub fn folder(folder: &Path) -> Result<Self> {
        let files = Files::folder(folder);
        // Without its index the layout does not say which sampler the base was made for.
        if files.has(INDEX) || files.has(&TRANSFORMER.config()) {
            return Ok(Self::Files(files));
        }
        match Parts::find(folder, [false; 3])? {
            Some(parts) => Ok(Self::Parts(parts)),
            None => Ok(Self::Files(files)),
        }
    }

    /// The base's configuration, read without its weights.
    ///
    /// # Errors
    /// When a file is missing, malformed or of another model.
    pub fn config(&self) -> Result<BaseConfig> {
        match self {
            Self::Files(files) => BaseConfig::read(files),
            Self::Parts(parts) => parts.open(&Device::flex())?.config(parts),
        }
    }

    /// What is to be said of its files: which of several copies of a network in one is used.
    ///
    /// # Errors
    /// When a file cannot be opened.
    pub fn notes(&self) -> Result<Vec<String>> {
        match self {
            Self::Files(_) => Ok(Vec::new()),
            Self::Parts(parts) => Ok(parts.open(&Device::flex())?.notes),
        }
    }

    /// The base's tokenizer.
    ///
    /// # Errors
    /// When there is none, or it is malformed.
    pub fn tokenizer(&self) -> Result<Tokenizer> {
        match self {
            Self::Files(files) => Tokenizer::load(files),
            Self::Parts(parts) => parts.tokenizer(),
        }
    }

    /// Whose matrices are going to take half their room.
    ///
    /// # Errors
    /// When a file cannot be opened.
    pub fn halved(&self) -> Result<Halved> {
        let device = Device::flex();
        match self {
            Self::Files(files) => {
                let open = |part: Part| files.checkpoint(&part.weights(), &device);
                Ok(Halved::of(&open(TEXT_ENCODER)?, &open(TRANSFORMER)?))
            }
            Self::Parts(parts) => {
                let opened = parts.open(&device)?;
                Ok(Halved::of(&opened.text_encoder, &opened.transformer))
            }
        }
    }

    /// Bytes that embedding a prompt takes for a moment: files of PyTorch give their tensors only whole.
    pub fn embedding_bytes(&self) -> u64 {
        let Self::Parts(parts) = self else { return 0 };
        let file = Checkpoint::open(&parts.text_encoder, &Device::flex());
        file.map_or(0, |file| file.largest_whole())
    }

    /// Loads the base.
    ///
    /// # Errors
    /// As [`Base::load`].
    pub fn load(&self, device: &Device) -> Result<Base> {
        self.load_with(LoadOptions::default(), device)
    }

    /// Loads the base as `options` say.
    ///
    /// # Errors
    /// As [`Base::load_with`].
    pub fn load_with(&self, options: LoadOptions, device: &Device) -> Result<Base> {
        let parts = match self {
            Self::Files(files) => return Base::load_with(files, options, device),
            Self::Parts(parts) => parts,
        };
        let opened = parts.open(device)?;
        let config = opened.config(parts)?;
        let checkpoints = [opened.text_encoder, opened.transformer, opened.vae];
        let weights = BaseWeights::of(&config, checkpoints, options, device)?;
        Base::build(config, parts.tokenizer()?, weights, device).map_err(|error| parts.named(error))
    }
}

/// The files of [`Parts`], their tensors under diffusers' names.
struct Opened {
    transformer: Checkpoint,
    text_encoder: Checkpoint,
    vae: Checkpoint,
    /// What is to be said of them.
    notes: Vec<String>,
}

impl Parts {
    /// The files of `folder`, which is in diffusers' layout: what of it is replaced by other files is up to the caller.
    ///
    /// # Errors
    /// When a network's weights are missing.
    pub fn published(folder: &Path) -> Result<Self> {
        let files = Files::folder(folder);
        let weights = |part: Part| Ok::<_, Error>(folder.join(files.weights(&part.weights())?));
        Ok(Self {
            transformer: weights(TRANSFORMER)?,
            text_encoder: weights(TEXT_ENCODER)?,
            vae: weights(VAE)?,
            tokenizer: Some(folder.join(Tokenizer::file(&files))),
            config: None,
            published: Some(folder.to_owned()),
        })
    }

    fn open(&self, device: &Device) -> Result<Opened> {
        let [denoiser, text_encoder, autoencoder] = WHOLE;
        let mut notes = Vec::new();
        let mut open = |path: &Path, part: &str, network: Network| -> Result<Checkpoint> {
            let (own, note) = wrapped::held(network, Checkpoint::open(path, device)?.part(part))?;
            notes.extend(note.map(|note| format!("{}: {note}", path.display())));
            Ok(own)
        };
        let transformer = open(&self.transformer, denoiser, Network::Denoiser)?;
        let encoder = open(&self.text_encoder, text_encoder, Network::TextEncoder)?;
        let vae = open(&self.vae, autoencoder, Network::Autoencoder)?;
        let blocks = decoder_blocks(&vae.names());
        Ok(Opened {
            transformer: transformer.renamed(original::denoiser)?,
            text_encoder: encoder
                .renamed(original::text_encoder)?
                .without(&[CARRIED])
                .without(&original::TEXT_DECODER),
            vae: vae.renamed(|name| original::autoencoder(name, blocks))?,
            notes,
        })
    }

    fn tokenizer(&self) -> Result<Tokenizer> {
        let Some(path) = &self.tokenizer else { return self.carried_tokenizer() };
        let file = path.display().to_string();
        let bytes = std::fs::read(path).map_err(|source| Error::Io {
            action: "read",
            file: file.clone(),
            source,
            advice: "give the text encoder's tokenizer.json or spiece.model",
        })?;
        match text::decoded(&bytes) {
            Ok(text) if text.trim_start().starts_with('{') => Tokenizer::from_bytes(&bytes, &file),
            _ => Tokenizer::from_spiece(&bytes, &file),
        }
    }

    /// Whether the text encoder's file carries its tokenizer.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn carries_tokenizer(&self) -> Result<bool> {
        let file = Checkpoint::open(&self.text_encoder, &Device::flex())?;
        let vocabulary = file.metadata().contains_key("tokenizer.ggml.model");
        let names = file.names();
        let carried =
            [CARRIED].into_iter().chain(WHOLE_TOKENIZERS).any(|own| names.iter().any(|name| name == own));
        Ok(vocabulary || carried)
    }

    /// The tokenizer in the text encoder's file.
    fn carried_tokenizer(&self) -> Result<Tokenizer> {
        let file = self.text_encoder.display().to_string();
        let checkpoint = Checkpoint::open(&self.text_encoder, &Device::flex())?;
        let places = || [CARRIED].into_iter().chain(WHOLE_TOKENIZERS);
        if let Some(stored) = places().find_map(|name| checkpoint.stored(name).ok()) {
            return Tokenizer::from_spiece(&stored.bytes, &format!("{file}: {CARRIED}"));
        }
        match Vocabulary::open(&self.text_encoder)? {
            Some(vocabulary) => Tokenizer::from_vocabulary(vocabulary, &file),
            None => Err(Error::File {
                file,
                reason: "it carries no tokenizer".to_owned(),
                advice: "give --tokenizer, the text encoder's tokenizer.json or spiece.model",
            }),
        }
    }

    /// `error` with the tensors named as the files name them.
    fn named(&self, error: Error) -> Error {
        let Error::Weights(WeightError::Incomplete { source_name, missing, wrong, unused }) = error else {
            return error;
        };
        let files = [
            (Network::Denoiser, &self.transformer),
            (Network::TextEncoder, &self.text_encoder),
            (Network::Autoencoder, &self.vae),
        ];
        let [mut missing, mut unused] = [missing, unused];
        // In a file of all networks which one it is does not show by its name, and its names are ComfyUI's.
        let own = files.iter().filter(|(_, path)| path.display().to_string() == source_name);
        if let [(network, path)] = own.collect::<Vec<_>>()[..]
            && let Ok(checkpoint) = Checkpoint::open(path, &Device::flex())
        {
            let names = checkpoint.names();
            // After the name may stand a shape.
            let named = |entry: &mut String| {
                let (name, rest) = entry.split_at(entry.find(' ').unwrap_or(entry.len()));
                *entry = format!("{}{rest}", own_name(*network, name, &names));
            };
            missing.iter_mut().chain(&mut unused).for_each(named);
        }
        WeightError::Incomplete { source_name, missing, wrong, unused }.into()
    }

    /// The number of heads a configuration of the original release names.
    fn heads(&self) -> Result<Option<usize>> {
        let Some(path) = &self.config else { return Ok(None) };
        let fault = |reason: String| Error::File { file: path.display().to_string(), reason, advice: AGAIN };
        let bytes = std::fs::read(path).map_err(|error| fault(error.to_string()))?;
        let text = text::decoded(&bytes).map_err(fault)?;
        let config: Value = serde_json::from_str(&text).map_err(|error| fault(error.to_string()))?;
        match config.get("model_type").and_then(Value::as_str) {
            None | Some("t2v") => {}
            Some(other) => {
                let reason = format!("model_type {other:?} is not supported; only t2v is");
                return Err(Error::File { file: path.display().to_string(), reason, advice: TEXT_TO_VIDEO });
            }
        }
        // The original release's field, and diffusers'.
        let heads =
            ["num_heads", "num_attention_heads"].iter().find_map(|field| Some((field, config.get(field)?)));
        match heads.map(|(field, heads)| (field, heads.as_u64())) {
            None => Ok(None),
            Some((_, Some(heads @ 1..=1024))) => Ok(Some(heads as usize)),
            Some((field, _)) => Err(fault(format!("{field}: must be between 1 and 1024"))),
        }
    }
}

impl Opened {
    fn config(&self, parts: &Parts) -> Result<BaseConfig> {
        let fault = |path: &Path| {
            let file = path.display().to_string();
            move |reason: String| Error::File { file, reason, advice: "give a file of Wan 2.1 text-to-video" }
        };
        check_kind(&self.transformer)?;
        let published = match &parts.published {
            Some(folder) => Some((folder, BaseConfig::read(&Files::folder(folder))?)),
            None => None,
        };
        // The published configuration of a file that lies in the published folder.
        let known = |path: &Path| {
            published.as_ref().filter(|(folder, _)| path.starts_with(folder)).map(|(_, config)| config)
        };
        // It also holds for other files with the same tensors: not everything shows in shapes.
        let like = published.as_ref().map(|(_, config)| config);
        let shapes = [&self.text_encoder, &self.transformer, &self.vae].map(Shapes::of);
        let text_encoder =
            match known(&parts.text_encoder).or(like.filter(|own| shapes[0].fit_text_encoder(own))) {
                Some(config) => config.text_encoder.clone(),
                None => shapes[0].text_encoder().map_err(fault(&parts.text_encoder))?,
            };
        let transformer =
            match known(&parts.transformer).or(like.filter(|own| shapes[1].fit_transformer(own))) {
                Some(config) => config.transformer.clone(),
                None => {
                    let heads = match like {
                        Some(config) => Some(config.transformer.num_attention_heads),
                        None => parts.heads()?,
                    };
                    shapes[1].transformer(heads).map_err(fault(&parts.transformer))?
                }
            };
        let vae = match known(&parts.vae).or(like.filter(|own| shapes[2].fit_autoencoder(own))) {
            Some(config) => config.vae.clone(),
            None => shapes[2].autoencoder().map_err(fault(&parts.vae))?,
        };
        let config = BaseConfig {
            text_encoder,
            transformer,
            vae,
            scheduler: published.as_ref().map_or(USUAL, |(_, config)| config.scheduler),
            max_sequence_length: published
                .as_ref()
                .map_or(MAX_SEQUENCE_LENGTH, |(_, config)| config.max_sequence_length),
        };
        // Shapes can tell of nothing else that is not supported.
        if let Some(reason) = config.transformer.unsupported() {
            return Err(fault(&parts.transformer)(format!("not supported: {reason}")));
        }
        let files = [&parts.text_encoder, &parts.transformer, &parts.vae];
        config.check(files.map(|path| path.display().to_string()))?;
        Ok(config)
    }
}

/// That the denoiser in `checkpoint`, whose tensors have diffusers' names, is one that takes a text and nothing else.
///
/// # Errors
/// Says what it is otherwise.
pub(crate) fn check_kind(checkpoint: &Checkpoint) -> Result<()> {
    match Kind::of(&Shapes::of(checkpoint)).refusal() {
        None => Ok(()),
        Some(reason) => Err(Error::File { file: checkpoint.describe(), reason, advice: TEXT_TO_VIDEO }),
    }
}

/// Residual blocks of a level of the encoder, which the original's decoder has one more of: those before the first
/// change of size.
pub(crate) fn decoder_blocks(names: &[String]) -> usize {
    let has = |block: &usize| {
        let prefix = format!("encoder.downsamples.{block}.residual.");
        names.iter().any(|name| name.starts_with(&prefix))
    };
    (0..).take_while(has).count()
}
