//! Writing safetensors, whole or not at all.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write;
use std::path::Path;

use half::{bf16, f16};
use serde_json::{Map, Value, json};

use crate::encoding::Encoding;
use crate::error::WeightError;
use crate::safetensors::StoredTensor;

/// Element types a checkpoint can be written in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Precision {
    /// 32-bit float.
    F32,
    /// bfloat16.
    Bf16,
    /// IEEE half.
    F16,
}

impl Precision {
    /// `values` rounded to it, as a file has them.
    pub(super) fn encode(self, values: &[f32]) -> Vec<u8> {
        match self {
            Self::F32 => values.iter().flat_map(|v| v.to_le_bytes()).collect(),
            Self::Bf16 => values.iter().flat_map(|&v| bf16::from_f32(v).to_le_bytes()).collect(),
            Self::F16 => values.iter().flat_map(|&v| f16::from_f32(v).to_le_bytes()).collect(),
        }
    }
}

impl From<Precision> for Encoding {
    fn from(precision: Precision) -> Self {
        match precision {
            Precision::F32 => Self::F32,
            Precision::Bf16 => Self::Bf16,
            Precision::F16 => Self::F16,
        }
    }
}

/// A tensor to be written: its name, shape and f32 values.
pub struct NamedValues {
    /// Path of the tensor.
    pub name: String,
    /// Dimensions.
    pub shape: Vec<usize>,
    /// Row-major values.
    pub values: Vec<f32>,
}

/// Writes a safetensors file under a temporary name, flushes it to the disk, and renames it to `path`, so
/// that `path` never holds half a file.
///
/// # Errors
/// When the folder cannot be written or the disk is full (the temporary file is then removed), and when a
/// tensor's values do not make its shape.
pub fn write(
    path: &Path,
    tensors: &[NamedValues],
    metadata: BTreeMap<String, String>,
    precision: Precision,
) -> Result<(), WeightError> {
    for tensor in tensors {
        let NamedValues { name, shape, values } = tensor;
        if shape.iter().product::<usize>() != values.len() {
            let reason = format!("has {} values, which do not make shape {shape:?}", values.len());
            return Err(WeightError::Tensor { name: name.clone(), reason });
        }
    }
    write_atomically(path, &serialize(tensors, metadata, precision))
}

/// The same for tensors whose numbers are already as the file is to have them.
///
/// # Errors
/// As [`write`]; safetensors has no place for GGUF's blocks.
pub fn write_stored(
    path: &Path,
    tensors: &BTreeMap<String, StoredTensor>,
    metadata: BTreeMap<String, String>,
) -> Result<(), WeightError> {
    if let Some((name, tensor)) =
        tensors.iter().find(|(_, tensor)| matches!(tensor.encoding, Encoding::Quantized(_)))
    {
        let reason = format!("safetensors has no type {}", tensor.encoding.name());
        return Err(WeightError::Tensor { name: name.clone(), reason });
    }
    let pieces = tensors.iter().map(|(name, tensor)| Piece {
        name,
        dtype: tensor.encoding.name(),
        shape: &tensor.shape,
        bytes: Cow::Borrowed(&tensor.bytes),
    });
    write_atomically(path, &assemble(pieces, metadata))
}

/// One tensor of a file.
struct Piece<'a> {
    name: &'a str,
    dtype: String,
    shape: &'a [usize],
    bytes: Cow<'a, [u8]>,
}

/// The bytes of a safetensors file of `tensors`, in order of name.
fn serialize(tensors: &[NamedValues], metadata: BTreeMap<String, String>, precision: Precision) -> Vec<u8> {
    let mut sorted: Vec<&NamedValues> = tensors.iter().collect();
    sorted.sort_by(|a, b| a.name.cmp(&b.name));
    let pieces = sorted.into_iter().map(|tensor| Piece {
        name: &tensor.name,
        dtype: Encoding::from(precision).name(),
        shape: &tensor.shape,
        bytes: Cow::Owned(precision.encode(&tensor.values)),
    });
    assemble(pieces, metadata)
}

/// The bytes of a safetensors file. The header is padded to eight bytes and in a fixed order, so equal content
/// gives equal files; the format's own crate orders metadata at random.
fn assemble<'a>(pieces: impl Iterator<Item = Piece<'a>>, metadata: BTreeMap<String, String>) -> Vec<u8> {
    let mut header = Map::new();
    if !metadata.is_empty() {
        header.insert("__metadata__".into(), json!(metadata));
    }
    let mut data = Vec::new();
    for Piece { name, dtype, shape, bytes } in pieces {
        let start = data.len();
        data.extend_from_slice(&bytes);
        let entry = json!({"dtype": dtype, "shape": shape, "data_offsets": [start, data.len()]});
        header.insert(name.to_owned(), entry);
    }
    let mut text = Value::Object(header).to_string();
    text.extend(std::iter::repeat_n(' ', text.len().next_multiple_of(8) - text.len()));
    let mut bytes = (text.len() as u64).to_le_bytes().to_vec();
    bytes.extend(text.as_bytes());
    bytes.extend(data);
    bytes
}

/// Replaces `path` by `bytes` in one step: temporary file beside it, flush to the disk, rename.
///
/// # Errors
/// When any of these fails; nothing is left behind then.
pub fn write_atomically(path: &Path, bytes: &[u8]) -> Result<(), WeightError> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let partial = path.with_file_name(format!(".{name}.{}.part", std::process::id()));
    let written = File::create(&partial)
        .and_then(|mut file| file.write_all(bytes).and_then(|()| file.sync_all()))
        .and_then(|()| std::fs::rename(&partial, path));
    written.map_err(|error| {
        // The first error is the one to report; a leftover that cannot be removed is hidden by its dot.
        let _ = std::fs::remove_file(&partial);
        WeightError::Io { action: "write", path: path.to_owned(), error }
    })
}

#[cfg(test)]
mod tests {
    use ::safetensors::tensor::SafeTensors;

    use super::*;

    #[test]
    fn equal_content_gives_equal_files() {
        let tensor = |name: &str| NamedValues { name: name.into(), shape: vec![2], values: vec![1.0, -2.0] };
        let metadata = || (0..20).map(|i| (format!("key{i}"), i.to_string())).collect::<BTreeMap<_, _>>();
        let one = serialize(&[tensor("a"), tensor("b")], metadata(), Precision::F32);
        assert_eq!(one, serialize(&[tensor("b"), tensor("a")], metadata(), Precision::F32));
        assert!(SafeTensors::deserialize(&one).is_ok());
    }
}
