//! The networks that judge, from the folders and files the ecosystem ships.

use std::path::Path;

use burn::tensor::{Device, Tensor};
use serde::de::DeserializeOwned;
use serde_json::Value;
use understudy_engine::safetensors::Checkpoint;
use understudy_engine::weights::{WeightSource, Weights};
use understudy_kernels::resample::Torch;
use understudy_media::Image;
use understudy_models::clip::{Clip, ClipConfig};
use understudy_models::iresnet::{IResNet, IResNetConfig};
use understudy_models::vit::{Vit, VitConfig};
use understudy_pipeline::{Files, Tokenizer, below};

use crate::error::{Error, Result, at_least};
use crate::input::{BATCH, Input, VBench, unit_rows};
use crate::preprocess::{CLIP_MEAN, CLIP_STD, IMAGENET_MEAN, IMAGENET_STD, Preprocess};

/// Frames of a clip that stand for it.
const LOOKS: usize = 3;
const CONFIG: &str = "config.json";
const PREPROCESSOR: &str = "preprocessor_config.json";

/// A network that turns pictures into vectors.
pub trait Embedder: Send + Sync {
    /// The embeddings of `pictures`, each of length one.
    ///
    /// # Errors
    /// When there is no picture, or one cannot be prepared.
    fn embed(&self, pictures: &[Image]) -> Result<Vec<Vec<f32>>>;

    /// The same of pictures prepared as VBench does, which has its own way for published networks.
    ///
    /// # Errors
    /// As [`Embedder::embed`].
    fn embed_for_vbench(&self, pictures: &[Image]) -> Result<Vec<Vec<f32>>> {
        self.embed(pictures)
    }

    /// The same of square pictures, which are only resized and normalized, as MSRVTT-Personalization does it
    /// for published networks.
    ///
    /// # Errors
    /// As [`Embedder::embed`].
    fn embed_squares(&self, pictures: &[Image]) -> Result<Vec<Vec<f32>>> {
        self.embed(pictures)
    }
}

/// A CLIP with its tokenizer.
#[derive(Debug)]
pub struct ClipJudge {
    network: Clip,
    tokenizer: Tokenizer,
    input: Input,
    device: Device,
}

impl ClipJudge {
    /// Loads the `CLIPModel` in `folder` of `files`: its configuration, weights, tokenizer and image
    /// processor. Without a `preprocessor_config.json` pictures are cropped to squares in [-1, 1], as
    /// `nano`'s are.
    ///
    /// # Errors
    /// When one of them is missing or malformed, or the weights do not fit.
    pub fn load(files: &Files, folder: &str, device: &Device) -> Result<Self> {
        let config: ClipConfig = config(files, folder)?;
        if let Some(reason) = config.unsupported() {
            return Err(Error::Config { file: files.name(&below(folder, CONFIG)), reason });
        }
        let side = config.vision_config.image_size;
        Ok(Self {
            network: network(files, folder, device, |weights| Clip::new(weights, &config))?,
            tokenizer: Tokenizer::of_clip(files, folder)?,
            input: processor(files, folder)?.unwrap_or(Input::Square(side)),
            device: device.clone(),
        })
    }

    /// Embeddings of texts, each of length one. Published CLIPs read the beginning of a long text.
    ///
    /// # Errors
    /// When a text is longer than `nano`'s text tower reads.
    pub fn embed_texts(&self, texts: &[&str]) -> Result<Vec<Vec<f32>>> {
        let limit = self.network.config().text_config.max_position_embeddings;
        let mut embeddings = Vec::with_capacity(texts.len());
        for texts in texts.chunks(BATCH) {
            let tokens = match self.input {
                Input::Published(_) => self.tokenizer.encode_cut(texts, limit)?,
                _ => self.tokenizer.encode(texts, limit)?,
            };
            let ids: Vec<Vec<i64>> =
                tokens.ids.into_iter().map(|row| row.into_iter().map(i64::from).collect()).collect();
            embeddings.extend(unit_rows(self.network.text(&ids, &self.device))?);
        }
        Ok(embeddings)
    }

    /// The embedding of a clip, of length one: the mean of the embeddings of three of its frames, each from
    /// the middle of a third of the clip.
    ///
    /// # Errors
    /// When there is no frame.
    pub fn embed_video(&self, frames: &[Image]) -> Result<Vec<f32>> {
        at_least(1, frames.len(), "frames")?;
        let looks = LOOKS.min(frames.len());
        let chosen: Vec<Image> =
            (0..looks).map(|look| frames[(2 * look + 1) * frames.len() / (2 * looks)].clone()).collect();
        let images = self.embed(&chosen)?;
        let length = images[0].len();
        let mean: Vec<f32> = (0..length)
            .map(|at| images.iter().map(|image| image[at]).sum::<f32>() / images.len() as f32)
            .collect();
        let norm = mean.iter().map(|value| value * value).sum::<f32>().sqrt().max(1e-12);
        Ok(mean.into_iter().map(|value| value / norm).collect())
    }
}

impl Embedder for ClipJudge {
    fn embed(&self, pictures: &[Image]) -> Result<Vec<Vec<f32>>> {
        self.embed_from(&self.input, pictures)
    }

    fn embed_for_vbench(&self, pictures: &[Image]) -> Result<Vec<Vec<f32>>> {
        let Input::Published(_) = self.input else { return self.embed(pictures) };
        let vbench = VBench {
            side: self.network.config().vision_config.image_size,
            mode: Torch::Bicubic,
            crop: true,
            normalize: [CLIP_MEAN, CLIP_STD],
        };
        self.embed_from(&Input::VBench(vbench), pictures)
    }

    fn embed_squares(&self, pictures: &[Image]) -> Result<Vec<Vec<f32>>> {
        let Input::Published(_) = self.input else { return self.embed(pictures) };
        let side = self.network.config().vision_config.image_size;
        self.embed_from(&Input::Published(Preprocess::squares(side, [CLIP_MEAN, CLIP_STD])), pictures)
    }
}

impl ClipJudge {
    fn embed_from(&self, input: &Input, pictures: &[Image]) -> Result<Vec<Vec<f32>>> {
        let side = self.network.config().vision_config.image_size;
        input.embed(pictures, &self.device, |pixels| {
            let [_, _, height, width] = pixels.dims();
            if [height, width] == [side; 2] {
                Ok(self.network.image(pixels))
            } else {
                Err(Error::Config {
                    file: PREPROCESSOR.to_owned(),
                    reason: format!(
                        "it makes pictures of {width}x{height}, and the network takes {side}x{side}"
                    ),
                })
            }
        })
    }
}

/// A DINO or DINOv2: the normalized class token.
#[derive(Debug)]
pub struct DinoJudge {
    network: Vit,
    input: Input,
    device: Device,
}

impl DinoJudge {
    /// Loads the `ViTModel` or `Dinov2Model` in `folder` of `files`.
    ///
    /// # Errors
    /// When its configuration, weights or `preprocessor_config.json` is missing or malformed, or they do not
    /// fit.
    pub fn load(files: &Files, folder: &str, device: &Device) -> Result<Self> {
        let config: VitConfig = config(files, folder)?;
        if let Some(reason) = config.unsupported() {
            return Err(Error::Config { file: files.name(&below(folder, CONFIG)), reason });
        }
        let input = processor(files, folder)?.ok_or_else(|| Error::Config {
            file: files.name(&below(folder, PREPROCESSOR)),
            reason: "it is not there".to_owned(),
        })?;
        let network = network(files, folder, device, |weights| Vit::new(weights, &config))?;
        Ok(Self { network, input, device: device.clone() })
    }
}

impl Embedder for DinoJudge {
    fn embed(&self, pictures: &[Image]) -> Result<Vec<Vec<f32>>> {
        self.embed_from(&self.input, 0.0, pictures)
    }

    fn embed_for_vbench(&self, pictures: &[Image]) -> Result<Vec<Vec<f32>>> {
        // What DINO's own code adds to a grid before it resizes the positions.
        const EXCESS: f64 = 0.1;
        let vbench = VBench {
            // Those of DINOv2 were trained at 518.
            side: self.network.config().image_size.min(224),
            mode: Torch::Bilinear,
            crop: false,
            normalize: [IMAGENET_MEAN, IMAGENET_STD],
        };
        self.embed_from(&Input::VBench(vbench), EXCESS, pictures)
    }

    fn embed_squares(&self, pictures: &[Image]) -> Result<Vec<Vec<f32>>> {
        let side = self.network.config().image_size.min(224);
        let squares = Preprocess::squares(side, [IMAGENET_MEAN, IMAGENET_STD]);
        self.embed_from(&Input::Published(squares), 0.0, pictures)
    }
}

impl DinoJudge {
    fn embed_from(&self, input: &Input, excess: f64, pictures: &[Image]) -> Result<Vec<Vec<f32>>> {
        let patch = self.network.config().patch_size;
        input.embed(pictures, &self.device, |pixels: Tensor<4>| {
            let [_, _, height, width] = pixels.dims();
            if height.min(width) >= patch {
                Ok(self.network.states_with(pixels, excess).narrow(1, 0, 1).squeeze_dim(1))
            } else {
                Err(Error::Config {
                    file: PREPROCESSOR.to_owned(),
                    reason: format!("it makes pictures of {width}x{height}, smaller than a patch of {patch}"),
                })
            }
        })
    }
}

/// An identity encoder.
#[derive(Debug)]
pub struct IdentityJudge {
    network: IResNet,
    input: Input,
    device: Device,
}

impl IdentityJudge {
    /// Loads `folder/config.json` and its weights, as `pretrain` writes them.
    ///
    /// # Errors
    /// When one of them is missing or malformed, or the weights do not fit.
    pub fn load(files: &Files, folder: &str, device: &Device) -> Result<Self> {
        let config: IResNetConfig = config(files, folder)?;
        let network = network(files, folder, device, |weights| IResNet::new(weights, &config))?;
        Ok(Self { input: Input::Square(config.size), network, device: device.clone() })
    }

    /// Opens an identity encoder: a folder as `pretrain` writes it, or an ArcFace IResNet in a file
    /// (insightface's `backbone.pth`, or the same in safetensors), whose crops are stretched to its size.
    ///
    /// # Errors
    /// When it cannot be read or is no IResNet.
    pub fn open(path: &Path, device: &Device) -> Result<Self> {
        if path.is_dir() {
            return Self::load(&Files::folder(path), "", device);
        }
        let checkpoint = Checkpoint::open(path, device)?;
        let config = config_of(path, &checkpoint, |shape| IResNetConfig::of_shapes(shape))?;
        let network = built(&checkpoint, device, |weights| IResNet::new(weights, &config))?;
        Ok(Self { input: Input::Stretched(config.size), network, device: device.clone() })
    }
}

impl Embedder for IdentityJudge {
    fn embed(&self, pictures: &[Image]) -> Result<Vec<Vec<f32>>> {
        self.input.embed(pictures, &self.device, |pixels| Ok(self.network.forward(pixels)))
    }
}

pub(crate) fn config<C: DeserializeOwned>(files: &Files, folder: &str) -> Result<C> {
    let path = below(folder, CONFIG);
    serde_json::from_value(Value::Object(files.object(&path)?))
        .map_err(|error| Error::Config { file: files.name(&path), reason: error.to_string() })
}

/// The configuration of the network in `checkpoint`, which was read from `path`, where the shapes of its
/// tensors alone say what it is: `of_shapes` gets the extents of a tensor, if there is one.
pub(crate) fn config_of<C>(
    path: &Path,
    checkpoint: &Checkpoint,
    of_shapes: impl FnOnce(&dyn Fn(&str) -> Option<Vec<usize>>) -> Result<C, String>,
) -> Result<C> {
    let infos = checkpoint.infos();
    let shape = |name: &str| infos.iter().find(|info| info.name == name).map(|info| info.shape.clone());
    of_shapes(&shape).map_err(|reason| Error::Config { file: path.display().to_string(), reason })
}

fn processor(files: &Files, folder: &str) -> Result<Option<Input>> {
    let path = below(folder, PREPROCESSOR);
    if !files.has(&path) {
        return Ok(None);
    }
    Ok(Some(Input::Published(Preprocess::parse(&files.read(&path)?, &files.name(&path))?)))
}

/// Builds a network from the weights in `folder`.
pub(crate) fn network<N>(
    files: &Files,
    folder: &str,
    device: &Device,
    build: impl FnOnce(&Weights) -> N,
) -> Result<N> {
    let file = files.weights_of(folder).unwrap_or_else(|| below(folder, "model.safetensors"));
    built(&files.checkpoint(&file, device)?, device, build)
}

/// Builds a network from `source`, all of which it must take.
pub(crate) fn built<N>(
    source: &impl WeightSource,
    device: &Device,
    build: impl FnOnce(&Weights) -> N,
) -> Result<N> {
    let weights = Weights::new(source, device);
    let network = build(&weights);
    weights.finish()?;
    Ok(network)
}
