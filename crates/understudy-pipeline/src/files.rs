//! Where a base comes from: a folder in diffusers' layout, the folder of an original release, or one file a
//! network as people share them.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use burn::tensor::Device;
use serde_json::Value;

use crate::base::{Base, LoadOptions};
use crate::error::{Error, Result};
use crate::family::{Description, FAMILIES, Family, OpenBase};
use crate::tokenize::Tokenizer;

pub use crate::folder::{Files, below};

/// What a folder in diffusers' layout says of itself.
pub const INDEX: &str = "model_index.json";
/// Folders of denoisers in that layout.
const DENOISERS: [&str; 2] = ["transformer", "unet"];

/// A base's files, in any of the layouts they come in.
#[derive(Clone, Debug)]
pub enum Source {
    /// diffusers' layout, in a folder or compiled into the program.
    Files(Files),
    /// One file a network.
    Parts(Parts),
    /// A base of pictures, and what makes them move.
    Animated(Animated),
}

/// A base of pictures in a folder or in one file, and what makes them move.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Animated {
    /// A folder in diffusers' layout, or a file of all networks of pictures.
    pub pictures: PathBuf,
    /// Motion modules: a folder or a file; those that come with the pictures if there are none.
    pub motion: Option<PathBuf>,
    /// An autoencoder in place of the pictures'.
    pub vae: Option<PathBuf>,
    /// For a file: a folder of the published configurations and the tokenizer.
    pub config: Option<PathBuf>,
}

/// One file a network, in any naming and precision that can be read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Parts {
    /// The denoiser: safetensors (whole, or the index of shards), GGUF or PyTorch's.
    pub transformer: PathBuf,
    /// The text encoder.
    pub text_encoder: PathBuf,
    /// The autoencoder.
    pub vae: PathBuf,
    /// `tokenizer.json` or `spiece.model`; if there is none, the text encoder's file carries it, as ComfyUI's
    /// and llama.cpp's do.
    pub tokenizer: Option<PathBuf>,
    /// A tokenizer that was meant for another text encoder, for one that carries none.
    pub tokenizer_beside: Option<PathBuf>,
    /// A configuration of the denoiser as the original release has it, if there is one.
    pub config: Option<PathBuf>,
    /// A folder in diffusers' layout, whose configurations hold for those of the files that lie in it.
    pub published: Option<PathBuf>,
}

/// A base whose files are open: each once, whatever is asked of it.
pub struct OpenedBase {
    open: Box<dyn OpenBase>,
}

impl fmt::Debug for OpenedBase {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.debug_struct("OpenedBase").field("about", self.about()).finish()
    }
}

impl OpenedBase {
    /// What is known without values.
    pub fn about(&self) -> &Arc<Description> {
        self.open.about()
    }

    /// Texts to ids.
    pub fn tokenizer(&self) -> &Tokenizer {
        self.open.tokenizer()
    }

    /// What is to be said of its files.
    pub fn notes(&self) -> &[String] {
        self.open.notes()
    }

    /// Loads the networks.
    ///
    /// # Errors
    /// When weights do not fit: every missing, mis-shaped and unknown tensor is listed.
    pub fn load(self, options: LoadOptions) -> Result<Base> {
        self.open.load(options)
    }
}

impl Source {
    /// What lies in `folder`: diffusers' layout if it has a `model_index.json`, otherwise what its files
    /// hold.
    ///
    /// # Errors
    /// When it is neither; the message says what is missing.
    pub fn folder(folder: &Path) -> Result<Self> {
        let files = Files::folder(folder);
        // Without its index the layout does not say which sampler the base was made for.
        let laid_out = DENOISERS.iter().any(|part| files.has(&format!("{part}/config.json")));
        if files.has(INDEX) || laid_out {
            return Ok(Self::Files(files));
        }
        match Parts::find(folder, [false; 3])? {
            Some(parts) => Ok(Self::Parts(parts)),
            None => Ok(Self::Files(files)),
        }
    }

    /// Opens the base.
    ///
    /// # Errors
    /// When a file is missing, malformed or of a model that no family has.
    pub fn open(&self, device: &Device) -> Result<OpenedBase> {
        self.open_among(FAMILIES, device)
    }

    /// The same with these `families`.
    ///
    /// # Errors
    /// As [`Source::open`].
    pub fn open_among(&self, families: &[&'static dyn Family], device: &Device) -> Result<OpenedBase> {
        for family in families {
            if let Some(open) = family.open(self, device)? {
                return Ok(OpenedBase { open });
            }
        }
        Err(self.unknown(families)?)
    }

    /// The error of a base that none of `families` has.
    ///
    /// # Errors
    /// When what it says of itself cannot be read.
    fn unknown(&self, families: &[&'static dyn Family]) -> Result<Error> {
        let advice =
            "use a text-to-video checkpoint of the Wan 2.1 family, or a Stable Diffusion 1.5 with --motion";
        match self {
            Self::Parts(Parts { transformer: file, .. })
            | Self::Animated(Animated { pictures: file, .. }) => Ok(Error::File {
                file: file.display().to_string(),
                reason: "it is no denoiser of a known family".to_owned(),
                advice,
            }),
            Self::Files(files) => {
                let index = files.object(INDEX)?;
                let class = index.get("_class_name").and_then(Value::as_str).unwrap_or_default();
                let known: Vec<String> =
                    families.iter().map(|family| format!("{:?}", family.pipeline())).collect();
                let reason = format!("_class_name is {class:?}, not {}", known.join(" or "));
                Ok(Error::File { file: files.name(INDEX), reason, advice })
            }
        }
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
        self.open(device)?.load(options)
    }
}

impl Parts {
    /// The files of `folder`, which is in diffusers' layout: what of it is replaced by other files is up to
    /// the caller.
    ///
    /// # Errors
    /// When a network's weights are missing.
    pub fn published(folder: &Path) -> Result<Self> {
        const WEIGHTS: &str = "diffusion_pytorch_model.safetensors";
        let files = Files::folder(folder);
        let weights = |part: &str, name: &str| -> Result<PathBuf> {
            Ok(folder.join(files.weights(&format!("{part}/{name}"))?))
        };
        let has = |part: &&&str| files.has(&format!("{part}/config.json"));
        let denoiser = DENOISERS.iter().find(has).copied().unwrap_or(DENOISERS[0]);
        Ok(Self {
            transformer: weights(denoiser, WEIGHTS)?,
            text_encoder: weights("text_encoder", "model.safetensors")?,
            vae: weights("vae", WEIGHTS)?,
            tokenizer: Some(folder.join(Tokenizer::file(&files))),
            published: Some(folder.to_owned()),
            ..Self::default()
        })
    }
}
