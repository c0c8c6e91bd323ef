//! Finding a base's networks among the files of a folder, by what is in them: Wan's original release,
//! ComfyUI's `models` folder, or a download under any names.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use burn::tensor::Device;
use understudy_engine::error::WeightError;
use understudy_engine::safetensors::{Checkpoint, is_checkpoint, shards};

use crate::error::{Error, Result};
use crate::family::FAMILIES;
use crate::files::Parts;
use crate::recognize::{Network, networks};

/// Folders below the one given that are looked into.
const DEPTH: usize = 3;
/// The most files that are looked at.
const MOST: usize = 4096;

impl Parts {
    /// The networks in `folder` and the folders below it; `None` if there is none. Those that are `given`
    /// (denoiser, text encoder, autoencoder) are not looked for, and left empty.
    ///
    /// # Errors
    /// When one is missing or cannot be read, or several are there and none has the published name; the
    /// message says which.
    pub fn find(folder: &Path, given: [bool; 3]) -> Result<Option<Self>> {
        let mut files = Vec::new();
        list(folder, DEPTH, &mut files);
        let found = Found::among(&files);
        if found.networks.is_empty() {
            return match found.damaged.first() {
                Some(error) if !given.contains(&true) => Err(unreadable(folder, "base", error)),
                _ => Ok(None),
            };
        }
        let file = |network: Network, given: bool| {
            if given { Ok(PathBuf::new()) } else { found.file(network, folder) }
        };
        let transformer = file(Network::Denoiser, given[0])?;
        let text_encoder = file(Network::TextEncoder, given[1])?;
        let vae = file(Network::Autoencoder, given[2])?;
        let config = transformer.with_file_name("config.json");
        Ok(Some(Self {
            tokenizer: tokenizer(&files),
            config: (!given[0] && config.is_file()).then_some(config),
            transformer,
            text_encoder,
            vae,
            ..Self::default()
        }))
    }

    /// A base that is all in one file, as ComfyUI's whole checkpoints are; `None` if `file` is none.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn whole(file: &Path) -> Result<Option<Self>> {
        let own = networks(&Checkpoint::open(file, &Device::flex())?);
        let path = || file.to_owned();
        Ok((own.len() == 3).then(|| Self {
            transformer: path(),
            text_encoder: path(),
            vae: path(),
            ..Self::default()
        }))
    }
}

/// The files in `folder`, and `depth` folders down, in order of name.
fn list(folder: &Path, depth: usize, files: &mut Vec<PathBuf>) {
    let Ok(entries) = std::fs::read_dir(folder) else { return };
    let hidden = |path: &Path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with('.'));
    let mut paths: Vec<PathBuf> = entries.filter_map(|entry| Some(entry.ok()?.path())).collect();
    paths.retain(|path| !hidden(path));
    paths.sort();
    for path in paths {
        if files.len() == MOST {
            return;
        }
        if path.is_file() {
            files.push(path);
        } else if depth > 0 {
            list(&path, depth - 1, files);
        }
    }
}

/// Which file holds what.
struct Found {
    networks: Vec<(Network, PathBuf)>,
    /// Files that look like checkpoints and are not.
    damaged: Vec<WeightError>,
}

impl Found {
    fn among(files: &[PathBuf]) -> Self {
        let is_index = |path: &&PathBuf| path.to_string_lossy().ends_with(".index.json");
        let in_shards: BTreeSet<PathBuf> =
            files.iter().filter(is_index).filter_map(|index| shards(index).ok()).flatten().collect();
        let candidate =
            |path: &&PathBuf| is_index(path) || (!in_shards.contains(*path) && may_hold_weights(path));
        let mut found = Self { networks: Vec::new(), damaged: Vec::new() };
        for path in files.iter().filter(candidate) {
            match Checkpoint::open(path, &Device::flex()) {
                Ok(checkpoint) => {
                    let own = networks(&checkpoint).into_iter();
                    found.networks.extend(own.map(|network| (network, path.clone())));
                }
                Err(error) => found.damaged.push(error),
            }
        }
        found
    }

    /// The file that holds `network`.
    fn file(&self, network: Network, folder: &Path) -> Result<PathBuf> {
        let fault =
            |reason: String, advice| Error::File { file: folder.display().to_string(), reason, advice };
        let own: Vec<&PathBuf> =
            self.networks.iter().filter(|(one, _)| *one == network).map(|(_, path)| path).collect();
        let name = |path: &Path| path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let named = FAMILIES.iter().map(|family| family.published(network));
        let (usual, start) = named.into_iter().next().unwrap_or_default();
        let published: Vec<&PathBuf> =
            own.iter().copied().filter(|path| name(path).starts_with(start)).collect();
        match (&own[..], &published[..]) {
            ([one], _) | (_, [one]) => Ok((*one).clone()),
            ([], _) => match self.damaged.first() {
                Some(error) => Err(unreadable(folder, network.name(), error)),
                None => {
                    let reason = format!(
                        "there is no {} in it ({usual} of Wan's original release), and other networks are",
                        network.name()
                    );
                    Err(fault(reason, "download the whole repository, or name the file by its own flag"))
                }
            },
            _ => {
                let names: Vec<String> = own.iter().map(|path| path.display().to_string()).collect();
                let reason = format!("it holds several: {} as {}", names.join(", "), network.name());
                Err(fault(reason, "name the one to use: --transformer, --text-encoder or --vae"))
            }
        }
    }
}

/// That `folder` holds no `network` that can be read, because of `error`, which says what to do.
fn unreadable(folder: &Path, network: &str, error: &WeightError) -> Error {
    let reason = format!("there is no {network} in it that can be read: {error}");
    Error::File { file: folder.display().to_string(), reason, advice: "then run it again" }
}

/// Whether the file at `path` is a checkpoint by what it begins with, or should be one by its name: what a
/// download leaves of one begins otherwise.
fn may_hold_weights(path: &Path) -> bool {
    const ENDINGS: [&str; 4] = ["safetensors", "gguf", "pth", "ckpt"];
    let named = path.extension().is_some_and(|end| ENDINGS.iter().any(|own| end.eq_ignore_ascii_case(own)));
    named || is_checkpoint(path)
}

/// The text encoder's tokenizer among `files`: one in a folder of T5's before others, JSON before
/// SentencePiece.
fn tokenizer(files: &[PathBuf]) -> Option<PathBuf> {
    let rank = |path: &&PathBuf| {
        let text = path.to_string_lossy().to_lowercase();
        let other = !(text.contains("t5") || text.ends_with("/tokenizer/tokenizer.json"));
        (other, !text.ends_with(".json"))
    };
    let named = |path: &&PathBuf| {
        let name = path.file_name().unwrap_or_default();
        name == "tokenizer.json" || name == "spiece.model"
    };
    files.iter().filter(named).min_by_key(rank).cloned()
}
