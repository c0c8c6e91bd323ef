//! Wan's files, open.

use std::path::Path;
use std::sync::Arc;

use burn::tensor::Device;
use serde_json::Value;
use understudy_engine::error::WeightError;
use understudy_engine::patch::Patched;
use understudy_engine::safetensors::Checkpoint;
use understudy_engine::text;
use understudy_engine::weights::{SharedSource, WeightSource, Weights};
use understudy_models::umt5::Umt5Encoder;
use understudy_models::wan_transformer::WanTransformer;
use understudy_models::wan_vae::WanVae;

use super::about::{describe, is_matrix, text_stays};
use super::config::{MAX_SEQUENCE_LENGTH, WanConfig};
use super::files::{INDEX, PIPELINE, Part, TEXT_ENCODER, TRANSFORMER, VAE};
use super::kinds::Kind;
use super::networks::WanNetworks;
use super::original;
use super::recognize::{held, own_name};
use super::shapes::Shapes;
use crate::base::{Base, LoadOptions};
use crate::cost::{Halved, halves};
use crate::error::{Error, Result};
use crate::family::{Description, OpenBase};
use crate::files::{Files, Parts, Source};
use crate::recognize::Network;
use crate::sampling::Sampler;
use crate::scheduler::Scheduler;
use crate::tokenize::Tokenizer;

/// What diffusers publishes for Wan 2.1.
const USUAL: Scheduler = Scheduler::flow(Sampler::UniPc, 3.0);
/// The tensor of bytes that ComfyUI's text encoders carry their tokenizer along in.
const CARRIED: &str = "spiece_model";
/// Where ComfyUI's checkpoints of a whole base have their networks, and the tokenizer.
pub(super) const WHOLE: [&str; 3] = ["model.diffusion_model.", "text_encoders.umt5xxl.transformer.", "vae."];
const WHOLE_TOKENIZERS: [&str; 2] = ["text_encoders.spiece_model", "text_encoders.umt5xxl.spiece_model"];
const AGAIN: &str = "download the file again";
const TEXT_TO_VIDEO: &str = "give a text-to-video denoiser: Wan 2.1 T2V 1.3B or 14B";

/// The networks' files, their tensors under diffusers' names.
struct Checkpoints {
    transformer: Checkpoint,
    text_encoder: Checkpoint,
    vae: Checkpoint,
}

/// A base whose files are open.
struct WanOpened {
    config: WanConfig,
    about: Arc<Description>,
    tokenizer: Tokenizer,
    checkpoints: Checkpoints,
    notes: Vec<String>,
    /// What each file calls its tensors, where it is one of a network: for errors.
    names: Vec<(Network, String, Vec<String>)>,
    device: Device,
}

impl OpenBase for WanOpened {
    fn about(&self) -> &Arc<Description> {
        &self.about
    }

    fn tokenizer(&self) -> &Tokenizer {
        &self.tokenizer
    }

    fn notes(&self) -> &[String] {
        &self.notes
    }

    fn load(self: Box<Self>, options: LoadOptions) -> Result<Base> {
        let Self { config, tokenizer, checkpoints, names, device, about, .. } = *self;
        let blocks_on_host = options.blocks_on_host;
        let weights = BaseWeights::of(&config, checkpoints, options, &device)?;
        let networks = build(&config, tokenizer, &weights, &device).map_err(|error| named(error, &names))?;
        Ok(Base { about, networks: networks.shared(), device, blocks_on_host })
    }
}

/// Opens the files of `source`; `None` where they are of another family.
///
/// # Errors
/// When a file is missing, malformed or not supported.
pub(super) fn open(source: &Source, device: &Device) -> Result<Option<Box<dyn OpenBase>>> {
    match source {
        Source::Files(files) if is_other(files)? => Ok(None),
        Source::Files(files) => Ok(Some(Box::new(open_files(files, device)?))),
        Source::Parts(parts) => Ok(Some(Box::new(open_parts(parts, device)?))),
        Source::Animated(_) => Ok(None),
    }
}

/// The configuration of `source`; `None` where it is of another family.
///
/// # Errors
/// As [`open`].
pub(super) fn config(source: &Source) -> Result<Option<WanConfig>> {
    match source {
        Source::Files(files) if is_other(files)? => Ok(None),
        Source::Files(files) => Ok(Some(WanConfig::read(files)?)),
        Source::Parts(parts) => Ok(Some(open_parts(parts, &Device::flex())?.config)),
        Source::Animated(_) => Ok(None),
    }
}

/// Whether a folder says that it is of another pipeline.
fn is_other(files: &Files) -> Result<bool> {
    if !files.has(INDEX) {
        return Ok(false);
    }
    let index = files.object(INDEX)?;
    Ok(index.get("_class_name").and_then(Value::as_str).is_some_and(|class| class != PIPELINE))
}

fn open_files(files: &Files, device: &Device) -> Result<WanOpened> {
    let config = WanConfig::read(files)?;
    let tokenizer = Tokenizer::load(files)?;
    let checkpoint = |part: Part| files.checkpoint(&part.weights(), device);
    let checkpoints = Checkpoints {
        text_encoder: checkpoint(TEXT_ENCODER)?,
        transformer: checkpoint(TRANSFORMER)?,
        vae: checkpoint(VAE)?,
    };
    let about = Arc::new(describe(&config, checkpoints.halved(), 0));
    let (notes, names) = (Vec::new(), Vec::new());
    Ok(WanOpened { config, about, tokenizer, checkpoints, notes, names, device: device.clone() })
}

fn open_parts(parts: &Parts, device: &Device) -> Result<WanOpened> {
    let paths = [&parts.transformer, &parts.text_encoder, &parts.vae];
    let first = Checkpoint::open(paths[0], device)?;
    // A file of all networks is opened once.
    let again =
        |path: &Path| if path == paths[0] { Ok(first.clone()) } else { Checkpoint::open(path, device) };
    let (text, autoencoder) = (again(paths[1])?, again(paths[2])?);
    let tokenizer = tokenizer(parts, &text)?;
    let embedding = text.largest_whole();
    let files = [
        (Network::Denoiser, first.clone(), paths[0]),
        (Network::TextEncoder, text, paths[1]),
        (Network::Autoencoder, autoencoder, paths[2]),
    ];
    let (mut notes, mut names, mut found) = (Vec::new(), Vec::new(), Vec::new());
    for ((network, file, path), part) in files.into_iter().zip(WHOLE) {
        // In a file of all networks which one it is does not show by its name, and its names are ComfyUI's.
        if paths.iter().filter(|other| **other == path).count() == 1 {
            names.push((network, path.display().to_string(), file.names()));
        }
        let (own, note) = held(network, file.part(part))?;
        notes.extend(note.map(|note| format!("{}: {note}", path.display())));
        found.push(own);
    }
    let [Some(vae), Some(text), Some(transformer)] = [found.pop(), found.pop(), found.pop()] else {
        unreachable!("there are three");
    };
    let blocks = decoder_blocks(&vae.names());
    let checkpoints = Checkpoints {
        transformer: transformer.renamed(original::denoiser)?,
        text_encoder: text
            .renamed(original::text_encoder)?
            .without(&[CARRIED])
            .without(&original::TEXT_DECODER),
        vae: vae.renamed(|name| original::autoencoder(name, blocks))?,
    };
    let config = checkpoints.config(parts)?;
    let about = Arc::new(describe(&config, checkpoints.halved(), embedding));
    Ok(WanOpened { config, about, tokenizer, checkpoints, notes, names, device: device.clone() })
}

/// The tokenizer that is named, or that the text encoder's file carries, or that lies beside.
fn tokenizer(parts: &Parts, text_encoder: &Checkpoint) -> Result<Tokenizer> {
    if let Some(path) = &parts.tokenizer {
        return read_tokenizer(path);
    }
    let file = text_encoder.describe();
    let mut places = [CARRIED].into_iter().chain(WHOLE_TOKENIZERS);
    if let Some(stored) = places.find_map(|name| text_encoder.stored(name).ok()) {
        return Tokenizer::from_spiece(&stored.bytes, &format!("{file}: {CARRIED}"));
    }
    match (text_encoder.vocabulary()?, &parts.tokenizer_beside) {
        (Some(vocabulary), _) => Tokenizer::from_vocabulary(vocabulary, &file),
        (None, Some(path)) => read_tokenizer(path),
        (None, None) => Err(Error::File {
            file,
            reason: "it carries no tokenizer".to_owned(),
            advice: "give --tokenizer, the text encoder's tokenizer.json or spiece.model",
        }),
    }
}

fn read_tokenizer(path: &Path) -> Result<Tokenizer> {
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

/// `error` with the tensors named as the files name them.
fn named(error: Error, names: &[(Network, String, Vec<String>)]) -> Error {
    let Error::Weights(WeightError::Incomplete { source_name, missing, wrong, unused }) = error else {
        return error;
    };
    let [mut missing, mut unused] = [missing, unused];
    if let Some((network, _, names)) = names.iter().find(|(_, file, _)| *file == source_name) {
        // After the name may stand a shape.
        let named = |entry: &mut String| {
            let (name, rest) = entry.split_at(entry.find(' ').unwrap_or(entry.len()));
            *entry = format!("{}{rest}", own_name(*network, name, names));
        };
        missing.iter_mut().chain(&mut unused).for_each(named);
    }
    WeightError::Incomplete { source_name, missing, wrong, unused }.into()
}

/// The number of heads a configuration of the original release names.
fn heads(parts: &Parts) -> Result<Option<usize>> {
    let Some(path) = &parts.config else { return Ok(None) };
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

impl Checkpoints {
    /// Whose matrices take half their room.
    fn halved(&self) -> Halved {
        Halved {
            text_encoder: halves(&self.text_encoder, is_matrix),
            denoiser: halves(&self.transformer, is_matrix),
        }
    }

    fn config(&self, parts: &Parts) -> Result<WanConfig> {
        let fault = |path: &Path| {
            let file = path.display().to_string();
            move |reason: String| Error::File { file, reason, advice: "give a file of Wan 2.1 text-to-video" }
        };
        check_kind(&self.transformer)?;
        let published = match &parts.published {
            Some(folder) => Some((folder, WanConfig::read(&Files::folder(folder))?)),
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
                        None => heads(parts)?,
                    };
                    shapes[1].transformer(heads).map_err(fault(&parts.transformer))?
                }
            };
        let vae = match known(&parts.vae).or(like.filter(|own| shapes[2].fit_autoencoder(own))) {
            Some(config) => config.vae.clone(),
            None => shapes[2].autoencoder().map_err(fault(&parts.vae))?,
        };
        let config = WanConfig {
            text_encoder,
            transformer,
            vae,
            scheduler: published.as_ref().map_or(USUAL, |(_, config)| config.scheduler.clone()),
            max_sequence_length: published
                .as_ref()
                .map_or(MAX_SEQUENCE_LENGTH, |(_, config)| config.max_sequence_length),
            usual: published.as_ref().and_then(|(_, config)| config.usual),
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

/// That the denoiser in `checkpoint`, whose tensors have diffusers' names, is one that takes a text and
/// nothing else.
///
/// # Errors
/// Says what it is otherwise.
fn check_kind(checkpoint: &Checkpoint) -> Result<()> {
    match Kind::of(&Shapes::of(checkpoint)).refusal() {
        None => Ok(()),
        Some(reason) => Err(Error::File { file: checkpoint.describe(), reason, advice: TEXT_TO_VIDEO }),
    }
}

/// Residual blocks of a level of the encoder, which the original's decoder has one more of: those before the
/// first change of size.
pub(super) fn decoder_blocks(names: &[String]) -> usize {
    let has = |block: &usize| {
        let prefix = format!("encoder.downsamples.{block}.residual.");
        names.iter().any(|name| name.starts_with(&prefix))
    };
    (0..).take_while(has).count()
}

/// Where the weights of the three networks come from: a checkpoint, or parameters under training.
pub struct BaseWeights<'a> {
    /// Of the text encoder.
    pub text_encoder: Weights<'a>,
    /// Of the denoiser.
    pub transformer: Weights<'a>,
    /// Of the autoencoder.
    pub vae: Weights<'a>,
}

impl BaseWeights<'static> {
    /// From checkpoints, as `options` say.
    fn of(
        config: &WanConfig,
        checkpoints: Checkpoints,
        options: LoadOptions,
        device: &Device,
    ) -> Result<Self> {
        let Checkpoints { text_encoder, transformer, vae } = checkpoints;
        let layers = if text_stays(&config.text_encoder) { config.text_encoder.num_layers } else { 0 };
        check_kind(&transformer)?;
        let transformer = Patched::new(transformer, options.additions)?;
        let streamed = |source: SharedSource, blocks| Weights::streamed(source, device, blocks);
        Ok(Self {
            text_encoder: streamed(Arc::new(text_encoder), layers),
            transformer: streamed(Arc::new(transformer), options.blocks_on_host),
            vae: streamed(Arc::new(vae), 0),
        })
    }
}

/// Builds the networks from a configuration and any source of weights.
///
/// # Errors
/// When weights do not fit: every missing, mis-shaped and unknown tensor is listed.
pub fn build(
    config: &WanConfig,
    tokenizer: Tokenizer,
    weights: &BaseWeights,
    device: &Device,
) -> Result<WanNetworks> {
    Ok(WanNetworks {
        text_encoder: network(&weights.text_encoder, |w| Umt5Encoder::new(w, &config.text_encoder))?,
        transformer: network(&weights.transformer, |w| WanTransformer::new(w, &config.transformer))?,
        vae: network(&weights.vae, |w| WanVae::new(w, &config.vae))?,
        tokenizer,
        device: device.clone(),
        lost: [&weights.text_encoder, &weights.transformer].map(|own| own.lost().clone()),
    })
}

fn network<N>(weights: &Weights, build: impl FnOnce(&Weights) -> N) -> Result<N> {
    let network = build(weights);
    weights.finish()?;
    Ok(network)
}
