//! Writing safetensors, whole or not at all.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::io::{self, Write};
use std::path::Path;

use half::{bf16, f16};
use serde_json::{Map, Value, json};
use understudy_files::Sealing;

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

    /// Bytes of a number.
    fn bytes(self) -> usize {
        if self == Self::F32 { 4 } else { 2 }
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

/// The tensor that ends a sealed file.
pub const CHECKSUM: &str = "checksum";

/// A tensor to be written: its name, shape and f32 values.
pub struct NamedValues {
    /// Path of the tensor.
    pub name: String,
    /// Dimensions.
    pub shape: Vec<usize>,
    /// Row-major values.
    pub values: Vec<f32>,
}

/// A tensor whose values are taken when they are written, so that a file needs the memory of one of its
/// tensors.
pub struct LazyValues<'a> {
    /// Path of the tensor.
    pub name: String,
    /// Dimensions.
    pub shape: Vec<usize>,
    /// Gives row-major values, as many as the shape says.
    pub values: Box<dyn Fn() -> Cow<'a, [f32]> + 'a>,
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
    let lazy = tensors.iter().map(|tensor| LazyValues {
        name: tensor.name.clone(),
        shape: tensor.shape.clone(),
        values: Box::new(|| Cow::Borrowed(&tensor.values)),
    });
    write_lazily(path, &lazy.collect::<Vec<_>>(), metadata, precision)
}

/// The same for tensors whose values are taken one after the other.
///
/// # Errors
/// As [`write`].
pub fn write_lazily(
    path: &Path,
    tensors: &[LazyValues],
    metadata: BTreeMap<String, String>,
    precision: Precision,
) -> Result<(), WeightError> {
    write_pieces(path, &pieces(tensors, precision), metadata)
}

/// The same for a program's own files: a last tensor, [`CHECKSUM`], is the checksum of all bytes before it,
/// so that [`Checkpoint::open_sealed`](super::Checkpoint::open_sealed) notices damage.
///
/// # Errors
/// As [`write`].
pub fn write_sealed(
    path: &Path,
    tensors: &[LazyValues],
    metadata: BTreeMap<String, String>,
    precision: Precision,
) -> Result<(), WeightError> {
    let mut pieces = pieces(tensors, precision);
    pieces.push(Piece {
        name: CHECKSUM,
        dtype: "U8".to_owned(),
        shape: &[4],
        length: 4,
        content: Content::Checksum,
    });
    replace(path, |file| {
        let mut sealing = Sealing::new(file);
        assemble(&pieces, metadata, &mut sealing)?;
        sealing.finish()
    })
}

fn pieces<'a, 'v>(tensors: &'a [LazyValues<'v>], precision: Precision) -> Vec<Piece<'a, 'v>> {
    let mut sorted: Vec<&LazyValues> = tensors.iter().collect();
    sorted.sort_by(|a, b| a.name.cmp(&b.name));
    let piece = |tensor: &'a LazyValues<'v>| Piece {
        name: &tensor.name,
        dtype: Encoding::from(precision).name(),
        shape: &tensor.shape,
        length: precision.bytes() * tensor.shape.iter().product::<usize>(),
        content: Content::Values(&*tensor.values, precision),
    };
    sorted.into_iter().map(piece).collect()
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
        length: tensor.bytes.len(),
        content: Content::Bytes(&tensor.bytes),
    });
    write_pieces(path, &pieces.collect::<Vec<_>>(), metadata)
}

/// One tensor of a file.
struct Piece<'a, 'v> {
    name: &'a str,
    dtype: String,
    shape: &'a [usize],
    /// Bytes of its content.
    length: usize,
    content: Content<'a, 'v>,
}

enum Content<'a, 'v> {
    Bytes(&'a [u8]),
    Values(&'a (dyn Fn() -> Cow<'v, [f32]> + 'v), Precision),
    /// What whoever asked for it writes at the end.
    Checksum,
}

fn write_pieces(
    path: &Path,
    pieces: &[Piece],
    metadata: BTreeMap<String, String>,
) -> Result<(), WeightError> {
    replace(path, |mut file| assemble(pieces, metadata, &mut file))
}

/// Writes a safetensors file. The header is padded to eight bytes and in a fixed order, so equal content
/// gives equal files; the format's own crate orders metadata at random.
fn assemble(pieces: &[Piece], metadata: BTreeMap<String, String>, out: &mut impl Write) -> io::Result<()> {
    const AT_ONCE: usize = 1 << 16;
    let mut header = Map::new();
    if !metadata.is_empty() {
        header.insert("__metadata__".into(), json!(metadata));
    }
    let mut start = 0;
    for Piece { name, dtype, shape, length, .. } in pieces {
        let entry = json!({"dtype": dtype, "shape": shape, "data_offsets": [start, start + length]});
        header.insert((*name).to_owned(), entry);
        start += length;
    }
    let mut text = Value::Object(header).to_string();
    text.extend(std::iter::repeat_n(' ', text.len().next_multiple_of(8) - text.len()));
    out.write_all(&(text.len() as u64).to_le_bytes())?;
    out.write_all(text.as_bytes())?;
    for Piece { name, length, content, .. } in pieces {
        match content {
            Content::Bytes(bytes) => out.write_all(bytes)?,
            Content::Checksum => {}
            Content::Values(values, precision) => {
                let values = values();
                if values.len() * precision.bytes() != *length {
                    return Err(io::Error::other(format!("{name} has {} values", values.len())));
                }
                values.chunks(AT_ONCE).try_for_each(|part| out.write_all(&precision.encode(part)))?;
            }
        }
    }
    Ok(())
}

/// Replaces `path` by `bytes` in one step: temporary file beside it, flush to the disk, rename.
///
/// # Errors
/// When any of these fails; nothing is left behind then.
pub fn write_atomically(path: &Path, bytes: &[u8]) -> Result<(), WeightError> {
    replace(path, |file| file.write_all(bytes))
}

/// Replaces `path` by what `write` writes.
fn replace(path: &Path, write: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> Result<(), WeightError> {
    let fault = |error| WeightError::Io { action: "write", path: path.to_owned(), error };
    understudy_files::write_file(path, write).map_err(fault)
}

#[cfg(test)]
mod tests {
    use ::safetensors::tensor::SafeTensors;

    use super::*;

    #[test]
    fn equal_content_gives_equal_files() {
        let folder = tempfile::tempdir().unwrap();
        let tensor = |name: &str| NamedValues { name: name.into(), shape: vec![2], values: vec![1.0, -2.0] };
        let metadata = || (0..20).map(|i| (format!("key{i}"), i.to_string())).collect::<BTreeMap<_, _>>();
        let file = |tensors: &[NamedValues]| {
            let path = folder.path().join("a.safetensors");
            write(&path, tensors, metadata(), Precision::F32).unwrap();
            std::fs::read(path).unwrap()
        };
        let one = file(&[tensor("a"), tensor("b")]);
        assert_eq!(one, file(&[tensor("b"), tensor("a")]));
        assert!(SafeTensors::deserialize(&one).is_ok());
    }

    #[test]
    fn values_that_do_not_make_their_shape_leave_no_file() {
        let folder = tempfile::tempdir().unwrap();
        let lazy = LazyValues {
            name: "a".to_owned(),
            shape: vec![3],
            values: Box::new(|| Cow::Owned(vec![1.0, 2.0])),
        };
        let path = folder.path().join("a.safetensors");
        let error = write_lazily(&path, &[lazy], BTreeMap::new(), Precision::F32).unwrap_err();
        assert!(error.to_string().contains("a has 2 values"), "{error}");
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
    }
}
