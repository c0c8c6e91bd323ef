//! The header of safetensors files.

use std::cmp::Ordering;
use std::ops::Range;
use std::path::Path;

use ::safetensors::tensor::Metadata;

use super::storage::Storage;
use crate::encoding::Encoding;
use crate::error::WeightError;
use crate::foreign;

/// Bytes before the header, which are its length.
const LENGTH: usize = 8;

/// What the header says of one tensor.
pub(super) struct TensorHeader {
    pub(super) name: String,
    pub(super) encoding: Encoding,
    pub(super) shape: Vec<usize>,
    /// Where its bytes lie in the file.
    pub(super) range: Range<usize>,
}

/// The tensors of the file at `path`, and its own metadata.
///
/// # Errors
/// When it is cut off or not consistent; says which field is wrong, and how.
pub(super) fn read(storage: &Storage, path: &Path) -> Result<(Vec<TensorHeader>, Metadata), WeightError> {
    let malformed = |reason: String| WeightError::Malformed { path: path.to_owned(), reason };
    let size = storage.length();
    let mut length = [0; LENGTH];
    if size < LENGTH {
        return Err(foreign::shortened(path, size, LENGTH));
    }
    storage.read(0, &mut length).map_err(malformed)?;
    let length = usize::try_from(u64::from_le_bytes(length)).ok();
    let start = length.and_then(|length| length.checked_add(LENGTH));
    let start = start.filter(|&start| start <= size && start <= foreign::LARGEST_HEADER + LENGTH);
    let start = start.ok_or_else(|| malformed("header: it begins as no checkpoint does".to_owned()))?;
    let text = storage.bytes(LENGTH..start).map_err(malformed)?;
    let metadata: Metadata =
        serde_json::from_slice(&text).map_err(|error| malformed(format!("header: {error}")))?;
    let (tensors, end) = placed(&metadata, start).map_err(malformed)?;
    match size.cmp(&end) {
        Ordering::Less => Err(foreign::shortened(path, size, end)),
        Ordering::Equal => Ok((tensors, metadata)),
        Ordering::Greater => Err(malformed(format!("{} bytes follow its last tensor", size - end))),
    }
}

/// The tensors, whose bytes must follow each other from `start` on, and where they end.
fn placed(metadata: &Metadata, start: usize) -> Result<(Vec<TensorHeader>, usize), String> {
    let mut tensors = Vec::new();
    let mut end = 0;
    for name in metadata.offset_keys() {
        let info = metadata.info(&name).ok_or_else(|| format!("tensor {name}: it is not described"))?;
        let (from, to) = info.data_offsets;
        let bits = info.shape.iter().try_fold(info.dtype.bitsize(), |bits, &extent| bits.checked_mul(extent));
        let bytes = bits.filter(|bits| bits.is_multiple_of(8)).map(|bits| bits / 8);
        if from != end || to < from || bytes != Some(to - from) {
            return Err(format!(
                "tensor {name}: data_offsets [{from}, {to}] are not those of shape {:?} in {:?} after byte {end}",
                info.shape, info.dtype
            ));
        }
        end = to;
        let range = from.checked_add(start).zip(to.checked_add(start)).map(|(from, to)| from..to);
        let range = range.ok_or_else(|| format!("tensor {name}: data_offsets are absurd"))?;
        let (encoding, shape) = (info.dtype.into(), info.shape.clone());
        tensors.push(TensorHeader { name, encoding, shape, range });
    }
    Ok((tensors, start + end))
}
