//! The embedded judges: a CLIP of the puppet world, and an identity encoder.

use burn::tensor::{Device, Tensor, TensorData};
use serde::de::DeserializeOwned;
use serde_json::Value;
use understudy_engine::host;
use understudy_engine::weights::Weights;
use understudy_media::{Image, Range};
use understudy_models::clip::{Clip, ClipConfig};
use understudy_models::iresnet::{IResNet, IResNetConfig, normalize_rows};
use understudy_pipeline::{Files, Tokenizer};

use crate::error::{Error, Result, at_least};
use crate::retrieval::cosine;

/// Frames of a clip that CLIP looks at.
const LOOKS: usize = 3;
/// Frames or texts a network sees at once.
const BATCH: usize = 64;

/// The judges that stand beside a base.
#[derive(Debug)]
pub struct Judges {
    /// Tells how well a clip fits a text.
    pub clip: ClipJudge,
    /// Tells how much a character looks like another.
    pub identity: IdentityJudge,
}

impl Judges {
    /// Loads `judges/clip` and `judges/identity` of a base's files.
    ///
    /// # Errors
    /// When a file is missing or malformed, or weights do not fit their configuration.
    pub fn load(files: &Files, device: &Device) -> Result<Self> {
        Ok(Self {
            clip: ClipJudge::load(files, "judges/clip", device)?,
            identity: IdentityJudge::load(files, "judges/identity", device)?,
        })
    }

    /// How well a clip fits `prompt`: the cosine of their embeddings, in [-1, 1].
    ///
    /// # Errors
    /// When there is no frame, or the prompt is longer than the text tower reads.
    pub fn clip_text_score(&self, frames: &[Image], prompt: &str) -> Result<f64> {
        let texts = self.clip.embed_texts(&[prompt])?;
        Ok(cosine(&self.clip_video_embedding(frames)?, texts.first().map_or(&[][..], Vec::as_slice)))
    }

    /// The CLIP embedding of a clip, of length one; see [`ClipJudge::embed_video`].
    ///
    /// # Errors
    /// When there is no frame.
    pub fn clip_video_embedding(&self, frames: &[Image]) -> Result<Vec<f32>> {
        self.clip.embed_video(frames)
    }

    /// How much the character of `frames` looks like that of `references`: the mean cosine over all pairs.
    ///
    /// # Errors
    /// When there is no frame or no reference.
    pub fn identity_similarity(&self, frames: &[Image], references: &[Image]) -> Result<f64> {
        let (frames, references) = (self.identity.embed(frames)?, self.identity.embed(references)?);
        let pairs = frames.iter().flat_map(|a| references.iter().map(move |b| cosine(a, b)));
        Ok(pairs.sum::<f64>() / (frames.len() * references.len()) as f64)
    }
}

/// A CLIP with its tokenizer.
#[derive(Debug)]
pub struct ClipJudge {
    network: Clip,
    tokenizer: Tokenizer,
    device: Device,
}

impl ClipJudge {
    /// Loads `folder/config.json`, `folder/model.safetensors` and `folder/tokenizer.json`.
    ///
    /// # Errors
    /// When one of them is missing or malformed, or the weights do not fit.
    pub fn load(files: &Files, folder: &str, device: &Device) -> Result<Self> {
        let tokenizer = format!("{folder}/tokenizer.json");
        Ok(Self {
            network: network(files, folder, device, |weights, config: &ClipConfig| {
                Clip::new(weights, config)
            })?,
            tokenizer: Tokenizer::from_bytes(&files.read(&tokenizer)?, &files.name(&tokenizer))?,
            device: device.clone(),
        })
    }

    /// Embeddings of texts, each of length one.
    ///
    /// # Errors
    /// When a text is longer than the tower reads.
    pub fn embed_texts(&self, texts: &[&str]) -> Result<Vec<Vec<f32>>> {
        let limit = self.network.config().text_config.max_position_embeddings;
        let mut embeddings = Vec::with_capacity(texts.len());
        for texts in texts.chunks(BATCH) {
            let tokens = self.tokenizer.encode(texts, limit)?;
            let ids: Vec<Vec<i64>> =
                tokens.ids.into_iter().map(|row| row.into_iter().map(i64::from).collect()).collect();
            embeddings.extend(rows(normalize_rows(self.network.text(&ids, &self.device)))?);
        }
        Ok(embeddings)
    }

    /// The embedding of a clip, of length one: the mean of the embeddings of three of its frames, each from the
    /// middle of a third of the clip.
    ///
    /// # Errors
    /// When there is no frame.
    pub fn embed_video(&self, frames: &[Image]) -> Result<Vec<f32>> {
        at_least(1, frames.len(), "frames")?;
        let looks = LOOKS.min(frames.len());
        let chosen: Vec<&Image> =
            (0..looks).map(|look| &frames[(2 * look + 1) * frames.len() / (2 * looks)]).collect();
        let side = self.network.config().vision_config.image_size;
        let images = normalize_rows(self.network.image(pixels(&chosen, side, &self.device)?));
        let mean = rows(normalize_rows(images.mean_dim(0)))?;
        Ok(mean.into_iter().next().unwrap_or_default())
    }
}

/// An identity encoder.
#[derive(Debug)]
pub struct IdentityJudge {
    network: IResNet,
    device: Device,
}

impl IdentityJudge {
    /// Loads `folder/config.json` and `folder/model.safetensors`.
    ///
    /// # Errors
    /// When one of them is missing or malformed, or the weights do not fit.
    pub fn load(files: &Files, folder: &str, device: &Device) -> Result<Self> {
        let network =
            network(files, folder, device, |weights, config: &IResNetConfig| IResNet::new(weights, config))?;
        Ok(Self { network, device: device.clone() })
    }

    /// Embeddings of pictures, each of length one.
    ///
    /// # Errors
    /// When there is no picture, or one cannot be resized.
    pub fn embed(&self, pictures: &[Image]) -> Result<Vec<Vec<f32>>> {
        at_least(1, pictures.len(), "pictures")?;
        let mut embeddings = Vec::with_capacity(pictures.len());
        for pictures in pictures.chunks(BATCH) {
            let pictures: Vec<&Image> = pictures.iter().collect();
            let pixels = pixels(&pictures, self.network.config().size, &self.device)?;
            embeddings.extend(rows(normalize_rows(self.network.forward(pixels)))?);
        }
        Ok(embeddings)
    }
}

/// Reads the configuration and the weights below `folder` and builds a network from them.
fn network<C: DeserializeOwned, N>(
    files: &Files,
    folder: &str,
    device: &Device,
    build: impl FnOnce(&Weights, &C) -> N,
) -> Result<N> {
    let path = format!("{folder}/config.json");
    let config: C = serde_json::from_value(Value::Object(files.object(&path)?))
        .map_err(|error| Error::Config { file: files.name(&path), reason: error.to_string() })?;
    let checkpoint = files.checkpoint(&format!("{folder}/model.safetensors"), device)?;
    let weights = Weights::new(&checkpoint, device);
    let network = build(&weights, &config);
    weights.finish()?;
    Ok(network)
}

/// Pictures as `(pictures, 3, side, side)` in [-1, 1], cropped to a square and resized where they are not.
fn pixels(pictures: &[&Image], side: usize, device: &Device) -> Result<Tensor<4>> {
    let mut planar = Vec::with_capacity(pictures.len() * 3 * side * side);
    for picture in pictures {
        match [picture.height, picture.width] == [side, side] {
            true => planar.extend(picture.to_planar(Range::Signed)),
            false => planar.extend(picture.cover_crop([side, side])?.to_planar(Range::Signed)),
        }
    }
    Ok(Tensor::from_data(TensorData::new(planar, [pictures.len(), 3, side, side]), device))
}

/// The rows of a matrix.
fn rows(matrix: Tensor<2>) -> Result<Vec<Vec<f32>>> {
    let [_, columns] = matrix.dims();
    let values = host::values(matrix);
    if !values.iter().all(|value| value.is_finite()) {
        return Err(Error::NotFinite { what: "embedding" });
    }
    Ok(values.chunks(columns.max(1)).map(<[f32]>::to_vec).collect())
}
