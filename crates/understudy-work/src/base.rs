//! Naming a base, and what is usual for it.

use std::ffi::OsString;
use std::fmt;
use std::path::{Path, PathBuf};

use anyhow::{Result, anyhow, bail};
use burn::tensor::Device;
use clap::Args;
use understudy_engine::safetensors::Checkpoint;
use understudy_engine::weights::WeightSource;
use understudy_hub::{Cache, Repository};
use understudy_pipeline::{Animated, Description, Files, Parts, Source};

use crate::outputs::Input;
use crate::usage::WrongUsage;

/// A base as the command line names it: `nano`, a folder, or a file of all networks.
#[derive(Clone, Debug, PartialEq)]
pub enum BaseName {
    /// The one compiled into the program.
    Nano,
    /// A folder or a file.
    Folder(PathBuf),
}

impl From<OsString> for BaseName {
    fn from(text: OsString) -> Self {
        if text == "nano" { Self::Nano } else { Self::Folder(text.into()) }
    }
}

impl fmt::Display for BaseName {
    /// As the command line takes it.
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Self::Nano => f.write_str("nano"),
            Self::Folder(folder) => folder.display().fmt(f),
        }
    }
}

/// The base a command works with: one by name, some of whose files may be replaced.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Base")]
pub struct BaseArguments {
    /// The base: a folder or a file of Wan 2.1's networks or of a Stable Diffusion 1.5, a repository that was
    /// pulled, or nano.
    ///
    /// A folder is in diffusers' layout, of Wan's original release or of files as ComfyUI has them; a file
    /// holds all networks. A Stable Diffusion makes pictures; --motion makes them move.
    #[arg(long, default_value = "nano", value_name = "DIR|FILE|REPOSITORY[@REVISION]|nano")]
    base: BaseName,
    /// A file of the denoiser to use: safetensors as diffusers, Wan or ComfyUI have it, or GGUF.
    #[arg(long, value_name = "FILE")]
    transformer: Option<PathBuf>,
    /// A file of the text encoder to use: safetensors, .pth or GGUF.
    #[arg(long, value_name = "FILE")]
    text_encoder: Option<PathBuf>,
    /// A file of the autoencoder to use: safetensors or .pth.
    #[arg(long, value_name = "FILE")]
    vae: Option<PathBuf>,
    /// The text encoder's tokenizer.json or spiece.model; ComfyUI's and GGUF text encoders carry theirs
    /// along.
    #[arg(long, value_name = "FILE")]
    tokenizer: Option<PathBuf>,
    /// AnimateDiff's motion modules, for a base of pictures: a folder of diffusers', or a file of either
    /// layout.
    #[arg(long, value_name = "DIR|FILE|REPOSITORY")]
    motion: Option<PathBuf>,
    /// For a base of pictures in one file: a folder with the published configurations and the tokenizer
    /// [Stable Diffusion 1.5's].
    #[arg(long, value_name = "DIR")]
    base_config: Option<PathBuf>,
    /// Keep so many of the denoiser's blocks in their file and read each when it is its turn: slower, less
    /// memory.
    #[arg(long, default_value_t = 0, value_name = "N")]
    pub blocks_on_host: usize,
}

impl BaseArguments {
    /// Whether files are named one by one.
    fn has_files(&self) -> bool {
        [&self.transformer, &self.text_encoder, &self.vae, &self.tokenizer].into_iter().any(Option::is_some)
    }

    /// Takes `config` for the folder of its configurations, if one is given.
    pub fn config_is(&mut self, config: Option<PathBuf>) {
        self.base_config = config.or(self.base_config.take());
    }

    /// What to call it.
    pub fn name(&self) -> String {
        match &self.transformer {
            Some(file) => file.file_stem().unwrap_or_default().to_string_lossy().into_owned(),
            None => self.base.name(),
        }
    }

    /// The flags that name it.
    pub fn arguments(&self) -> Vec<String> {
        let files = [
            ("--transformer", &self.transformer),
            ("--text-encoder", &self.text_encoder),
            ("--vae", &self.vae),
            ("--tokenizer", &self.tokenizer),
            ("--motion", &self.motion),
            ("--base-config", &self.base_config),
        ];
        let mut arguments = Vec::new();
        if self.base != BaseName::Nano || !self.has_files() {
            arguments.extend(["--base".to_owned(), self.base.to_string()]);
        }
        for (flag, file) in files {
            arguments.extend(file.iter().flat_map(|file| [flag.to_owned(), file.display().to_string()]));
        }
        arguments
    }

    /// What of it is on the disk.
    pub fn inputs(&self) -> Vec<Input> {
        let folder = self.base.folder().ok();
        let named = [
            ("--base", &folder),
            ("--transformer", &self.transformer),
            ("--text-encoder", &self.text_encoder),
            ("--vae", &self.vae),
            ("--tokenizer", &self.tokenizer),
            ("--motion", &self.motion),
            ("--base-config", &self.base_config),
        ];
        named.into_iter().filter_map(|(flag, path)| Some(Input::new(flag, path.as_ref()?))).collect()
    }

    /// Its files.
    ///
    /// # Errors
    /// As [`BaseName::source`], and when files are named one by one and one is missing.
    pub fn source(&self) -> Result<Source> {
        if let Some(animated) = self.animated()? {
            return Ok(Source::Animated(animated));
        }
        if !self.has_files() {
            return self.base.source();
        }
        let mut parts = self.files_of_base()?;
        for (own, file) in [
            (&mut parts.transformer, &self.transformer),
            (&mut parts.text_encoder, &self.text_encoder),
            (&mut parts.vae, &self.vae),
        ] {
            if let Some(file) = file {
                own.clone_from(file);
            }
        }
        // A text encoder of its own may come with its own tokenizer.
        if self.tokenizer.is_some() || self.text_encoder.is_some() {
            parts.tokenizer_beside = parts.tokenizer.take();
            parts.tokenizer.clone_from(&self.tokenizer);
        }
        Ok(Source::Parts(parts))
    }

    /// The base of pictures that is to move, if it is one.
    fn animated(&self) -> Result<Option<Animated>> {
        let BaseName::Folder(_) = &self.base else {
            let flags = [("--motion", &self.motion), ("--base-config", &self.base_config)];
            return match flags.iter().find(|(_, path)| path.is_some()) {
                None => Ok(None),
                Some((flag, _)) => {
                    let reason = format!("{flag}: it is for a Stable Diffusion 1.5; name one with --base");
                    Err(WrongUsage(reason).into())
                }
            };
        };
        let pictures = self.base.folder()?;
        let asked = self.motion.is_some() || self.base_config.is_some();
        if !asked && !is_of_pictures(&pictures) {
            return Ok(None);
        }
        let others = [("--transformer", &self.transformer), ("--text-encoder", &self.text_encoder)];
        if let Some((flag, _)) = others.iter().find(|(_, path)| path.is_some()) {
            let reason = format!("{flag}: a Stable Diffusion's own is used; leave it out");
            return Err(WrongUsage(reason).into());
        }
        let motion = self.motion.as_deref().map(|path| found("--motion", path)).transpose()?;
        let (vae, config) = (self.vae.clone(), self.base_config.clone());
        Ok(Some(Animated { pictures, motion, vae, config }))
    }

    /// The files of the folder that some are to be replaced of.
    fn files_of_base(&self) -> Result<Parts> {
        let folder = match &self.base {
            BaseName::Folder(_) => self.base.folder()?,
            BaseName::Nano => {
                let flags = [
                    ("--transformer", &self.transformer),
                    ("--text-encoder", &self.text_encoder),
                    ("--vae", &self.vae),
                ];
                if let Some((flag, _)) = flags.iter().find(|(_, file)| file.is_none()) {
                    let reason =
                        format!("{flag}: it is missing; give it too, or a --base folder for the rest");
                    return Err(WrongUsage(reason).into());
                }
                return Ok(Parts::default());
            }
        };
        if Files::folder(&folder).has("model_index.json") {
            return Ok(Parts::published(&folder)?);
        }
        // What is named by a flag need not be there, nor be the only one of its kind.
        let given = [&self.transformer, &self.text_encoder, &self.vae].map(Option::is_some);
        match Parts::find(&folder, given)? {
            Some(parts) => Ok(parts),
            None => bail!("--base {}: there is no network of a base in it", folder.display()),
        }
    }
}

impl BaseName {
    /// What to call it.
    pub fn name(&self) -> String {
        match self {
            Self::Nano => "nano".to_owned(),
            Self::Folder(folder) => match folder.file_name() {
                Some(name) => name.to_string_lossy().into_owned(),
                None => folder.display().to_string(),
            },
        }
    }

    /// Its folder: as it is named, or where `pull` put the repository of that name.
    fn folder(&self) -> Result<PathBuf> {
        let Self::Folder(folder) = self else { bail!("--base nano: it is no folder") };
        found("--base", folder)
    }

    /// Its files.
    ///
    /// # Errors
    /// When there is no such folder or it is incomplete, or the program was built without `nano`.
    pub fn source(&self) -> Result<Source> {
        match self {
            Self::Nano => Ok(Source::Files(nano()?)),
            Self::Folder(_) => {
                let path = self.folder()?;
                if !path.is_file() {
                    return Ok(Source::folder(&path)?);
                }
                match Parts::whole(&path)? {
                    Some(parts) => Ok(Source::Parts(parts)),
                    None => bail!(
                        "--base {}: it does not hold all networks of a base; give a denoiser's file with --transformer",
                        path.display()
                    ),
                }
            }
        }
    }
}

/// What a flag names: a path, or where `pull` put the repository of that name.
fn found(flag: &str, path: &Path) -> Result<PathBuf> {
    if path.exists() {
        return Ok(path.to_owned());
    }
    let name = path.display().to_string();
    let (repository, revision) = name.split_once('@').unwrap_or((&name, "main"));
    let Ok(repository) = repository.parse::<Repository>() else {
        bail!(
            "{flag} {name}: no such folder; give a folder in diffusers' layout, that of Wan's original release, a \
             repository that was pulled, or nano"
        );
    };
    Cache::usual().snapshot(&repository, revision).ok_or_else(|| {
        let asked = if revision == "main" { String::new() } else { format!(" --revision {revision}") };
        anyhow!(
            "{flag} {name}: no such folder, and it was not pulled; run: understudy pull {repository}{asked}"
        )
    })
}

/// Whether a folder or a file is of a Stable Diffusion.
fn is_of_pictures(path: &Path) -> bool {
    if path.is_dir() {
        return Files::folder(path).has("unet/config.json");
    }
    let opened = Checkpoint::open(path, &Device::flex());
    opened.is_ok_and(|file| file.names().iter().any(|name| name.contains("input_blocks.0.0.")))
}

/// Whether a base has the architecture of the embedded one, whose judges then know what it shows.
pub fn is_nano(about: &Description) -> bool {
    let embedded = || Some(Source::Files(nano().ok()?).open(&Device::flex()).ok()?.about().identity.clone());
    about.usual.small && embedded().is_some_and(|identity| identity == about.identity)
}

/// The files of the embedded base and its judges.
///
/// # Errors
/// When the program was built without them.
#[cfg(feature = "nano")]
pub fn nano() -> Result<Files> {
    Ok(Files::Embedded { name: understudy_nano::NAME, files: understudy_nano::FILES })
}

/// The files of the embedded base and its judges.
///
/// # Errors
/// When the program was built without them.
#[cfg(not(feature = "nano"))]
pub fn nano() -> Result<Files> {
    bail!("this program was built without nano; build it with `--features nano`, or give --base a folder")
}
