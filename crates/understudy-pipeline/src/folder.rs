//! The files of a base: a diffusers folder on disk, or the same files compiled into the program.

use std::borrow::Cow;
use std::path::{Path, PathBuf};

use burn::tensor::Device;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};
use understudy_engine::safetensors::Checkpoint;
use understudy_engine::{foreign, text};

use crate::error::{Error, Result};

const AGAIN: &str = "download or export the folder again";

/// Where the files of a base are read from, by their path in a diffusers folder.
#[derive(Clone, Debug)]
pub enum Files {
    /// A folder on disk.
    Folder(PathBuf),
    /// Files compiled into the program: path and content.
    Embedded {
        /// What errors call it, e.g. `nano`.
        name: &'static str,
        /// The files. Weights must not be sharded.
        files: &'static [(&'static str, &'static [u8])],
    },
}

impl Files {
    /// The folder at `path`.
    pub fn folder(path: impl Into<PathBuf>) -> Self {
        Self::Folder(path.into())
    }

    /// What errors call the file `path`.
    pub fn name(&self, path: &str) -> String {
        match self {
            Self::Folder(folder) => folder.join(path).display().to_string(),
            Self::Embedded { name, .. } => format!("{name}/{path}"),
        }
    }

    /// Whether there is a file `path`.
    pub fn has(&self, path: &str) -> bool {
        match self {
            Self::Folder(folder) => folder.join(path).is_file(),
            Self::Embedded { .. } => self.embedded(path).is_some(),
        }
    }

    fn embedded(&self, path: &str) -> Option<&'static [u8]> {
        let Self::Embedded { files, .. } = self else { return None };
        files.iter().find(|(name, _)| *name == path).map(|(_, bytes)| *bytes)
    }

    fn fault(&self, path: &str, reason: impl Into<String>, advice: &'static str) -> Error {
        Error::File { file: self.name(path), reason: reason.into(), advice }
    }

    /// The content of `path`.
    ///
    /// # Errors
    /// When there is no such file or it cannot be read.
    pub fn read(&self, path: &str) -> Result<Cow<'static, [u8]>> {
        match self {
            Self::Folder(folder) => match std::fs::read(folder.join(path)) {
                Ok(bytes) => Ok(Cow::Owned(bytes)),
                Err(source) => {
                    let advice = "a base is a folder in diffusers' layout, with model_index.json";
                    Err(Error::Io { action: "read", file: self.name(path), source, advice })
                }
            },
            Self::Embedded { .. } => self
                .embedded(path)
                .map(Cow::Borrowed)
                .ok_or_else(|| self.fault(path, "it is not among the files", AGAIN)),
        }
    }

    /// The JSON object `path`. Infinities and NaN, which Python writes and JSON does not have, become null.
    ///
    /// # Errors
    /// When it cannot be read or is not a JSON object.
    pub fn object(&self, path: &str) -> Result<Map<String, Value>> {
        let bytes = self.read(path)?;
        let fault = |reason: String| self.fault(path, reason, AGAIN);
        if let Some(error) = foreign::not_configuration(Path::new(&self.name(path)), &bytes) {
            return Err(error.into());
        }
        let text = text::decoded(&bytes).map_err(fault)?;
        serde_json::from_str(&without_python_numbers(&text)).map_err(|error| fault(error.to_string()))
    }

    /// The configuration `path` of a network whose `_class_name` (or, as transformers write it, one of
    /// `architectures`) must be `class`. `unsupported` is asked what in it is not implemented.
    ///
    /// # Errors
    /// When it cannot be read, is of another class, lacks a field, or is not supported.
    pub(crate) fn config<C: DeserializeOwned>(
        &self,
        path: &str,
        class: &str,
        unsupported: impl Fn(&C) -> Option<String>,
    ) -> Result<C> {
        const OTHER: &str = "use a text-to-video checkpoint of the Wan 2.1 family";
        let object = self.object(path)?;
        let architecture = object.get("architectures").and_then(|list| list.get(0));
        let (field, found) = match (object.get("_class_name"), architecture) {
            (Some(name), _) => ("_class_name", name),
            (None, Some(name)) => ("architectures", name),
            (None, None) => return Err(self.fault(path, "_class_name (or architectures) is missing", AGAIN)),
        };
        if found != class {
            return Err(self.fault(path, format!("{field} is {found}, not {class:?}"), OTHER));
        }
        let config = serde_json::from_value(Value::Object(object))
            .map_err(|error| self.fault(path, error.to_string(), AGAIN))?;
        match unsupported(&config) {
            Some(reason) => Err(self.fault(path, format!("not supported: {reason}"), OTHER)),
            None => Ok(config),
        }
    }

    /// Where the weights of the part in `folder` are: in the index of their shards or in one file, whole
    /// names before those of a variant (`NAME.fp16.safetensors`), safetensors before PyTorch's.
    pub fn weights_of(&self, folder: &str) -> Option<String> {
        const STEMS: [&str; 3] = ["diffusion_pytorch_model", "model", "pytorch_model"];
        let rank = |name: &str| {
            let rest = STEMS.iter().find_map(|stem| name.strip_prefix(stem))?;
            let variant = |start: &str, end: &str| {
                let middle = rest.strip_prefix(start)?.strip_suffix(end)?;
                let plain = !middle.is_empty() && !middle.contains(['.', '-']);
                plain.then_some(())
            };
            let ranked = [
                (rest == ".safetensors.index.json").then_some(()),
                (rest == ".safetensors").then_some(()),
                variant(".safetensors.index.", ".json"),
                variant(".", ".safetensors"),
                (rest == ".bin.index.json").then_some(()),
                (rest == ".bin").then_some(()),
            ];
            ranked.iter().position(Option::is_some)
        };
        let names = self.names_in(folder);
        let best = names.iter().filter_map(|name| Some((rank(name)?, name))).min()?;
        Some(below(folder, best.1))
    }

    /// The names of the files in `folder`.
    fn names_in(&self, folder: &str) -> Vec<String> {
        match self {
            Self::Folder(own) => {
                let entries = std::fs::read_dir(own.join(folder)).into_iter().flatten().flatten();
                entries
                    .filter(|entry| entry.path().is_file())
                    .filter_map(|entry| entry.file_name().into_string().ok())
                    .collect()
            }
            Self::Embedded { files, .. } => {
                let own = |(path, _): &(&str, &[u8])| {
                    Some(path.strip_prefix(folder)?.strip_prefix('/')?.to_owned())
                };
                files.iter().filter_map(own).collect()
            }
        }
    }

    /// Where the weights `file` (`FOLDER/NAME.safetensors`) are, or what stands for them.
    ///
    /// # Errors
    /// When there are none.
    pub(crate) fn weights(&self, file: &str) -> Result<String> {
        let folder = file.rsplit_once('/').map_or("", |(folder, _)| folder);
        self.weights_of(folder).ok_or_else(|| {
            let advice = "download the folder again, with its safetensors weights";
            self.fault(file, "neither this file nor its .index.json is there", advice)
        })
    }

    /// The file of weights, or the index of shards, at `path`.
    ///
    /// # Errors
    /// When it is not there or malformed.
    pub fn open(&self, path: &str, device: &Device) -> Result<Checkpoint> {
        match self {
            Self::Folder(folder) => Ok(Checkpoint::open(&folder.join(path), device)?),
            Self::Embedded { .. } => match self.embedded(path) {
                Some(bytes) => Ok(Checkpoint::embedded(&self.name(path), bytes, device)?),
                None => Err(self.fault(path, "it is not among the files", AGAIN)),
            },
        }
    }

    /// The weights `file` (`FOLDER/NAME.safetensors`), or the shards its index names.
    ///
    /// # Errors
    /// When there are none, or they are malformed.
    pub fn checkpoint(&self, file: &str, device: &Device) -> Result<Checkpoint> {
        match self {
            Self::Folder(_) => self.open(&self.weights(file)?, device),
            Self::Embedded { .. } => self.open(file, device),
        }
    }
}

/// The path of `name` in `folder`, which may be the root.
pub fn below(folder: &str, name: &str) -> String {
    if folder.is_empty() { name.to_owned() } else { format!("{folder}/{name}") }
}

/// JSON text with `null` for the bare words `-Infinity`, `Infinity` and `NaN`. A published
/// `DPMSolverMultistepScheduler` has one: `"lambda_min_clipped": -Infinity`.
fn without_python_numbers(text: &str) -> Cow<'_, str> {
    const WORDS: [&str; 3] = ["-Infinity", "Infinity", "NaN"];
    if !WORDS.iter().any(|word| text.contains(word)) {
        return Cow::Borrowed(text);
    }
    // Strings stand between quotes that no backslash precedes; a pair of backslashes is a character.
    let marked = text.replace("\\\\", "\u{1}").replace("\\\"", "\u{2}");
    let bare = |part: &str| WORDS.iter().fold(part.to_owned(), |part, word| part.replace(word, "null"));
    let parts = marked.split('"').enumerate().map(|(index, part)| match index % 2 {
        0 => bare(part),
        _ => part.to_owned(),
    });
    let text = parts.collect::<Vec<_>>().join("\"");
    Cow::Owned(text.replace('\u{1}', "\\\\").replace('\u{2}', "\\\""))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_mark_before_json_is_no_part_of_it() {
        let folder = tempfile::tempdir().unwrap();
        let files = Files::folder(folder.path());
        let wide: Vec<u8> = "\u{feff}{\"a\": 1}".encode_utf16().flat_map(u16::to_le_bytes).collect();
        for bytes in [b"\xef\xbb\xbf{\"a\": 1}".as_slice(), &wide] {
            std::fs::write(folder.path().join("a.json"), bytes).unwrap();
            assert_eq!(files.object("a.json").unwrap()["a"], 1);
        }
    }

    #[test]
    fn pythons_numbers_are_read_as_null_outside_of_strings() {
        let text = r#"{"a": -Infinity, "b\\": [NaN, 1], "Infinity": "\"NaN", "c": Infinity}"#;
        let read: Value = serde_json::from_str(&without_python_numbers(text)).unwrap();
        let expected = serde_json::json!({"a": null, "b\\": [null, 1], "Infinity": "\"NaN", "c": null});
        assert_eq!(read, expected);
        assert_eq!(without_python_numbers("{}"), "{}");
    }
}
