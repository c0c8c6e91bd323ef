//! A program's own files, which are used whole or not at all.

use std::io::ErrorKind;
use std::path::Path;

use burn::tensor::Device;

use super::{CHECKSUM, Checkpoint};
use crate::error::WeightError;

/// What is where a file of [`write_sealed`](super::write_sealed) should be.
pub enum Sealed {
    /// Nothing.
    Missing,
    /// A file that is not as it was written.
    Damaged,
    /// A file without a checksum, which an earlier version wrote.
    Unsealed(Checkpoint),
    /// The file, every byte of it as it was written.
    Whole(Checkpoint),
}

impl Sealed {
    /// The file, if every byte of it is known to be right.
    pub fn whole(self) -> Option<Checkpoint> {
        match self {
            Self::Whole(checkpoint) => Some(checkpoint),
            Self::Missing | Self::Damaged | Self::Unsealed(_) => None,
        }
    }
}

impl Checkpoint {
    /// Opens a file that [`write_sealed`](super::write_sealed) wrote.
    ///
    /// # Errors
    /// When the disk refuses.
    pub fn open_sealed(path: &Path, device: &Device) -> Result<Sealed, WeightError> {
        let whole = match understudy_files::is_sealed(path) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Sealed::Missing),
            whole => {
                whole.map_err(|error| WeightError::Io { action: "read", path: path.to_owned(), error })?
            }
        };
        match Self::open(path, device) {
            Err(error @ WeightError::Io { .. }) => Err(error),
            Err(_) => Ok(Sealed::Damaged),
            Ok(checkpoint) if whole => Ok(Sealed::Whole(checkpoint)),
            Ok(checkpoint) if checkpoint.entries.contains_key(CHECKSUM) => Ok(Sealed::Damaged),
            Ok(checkpoint) => Ok(Sealed::Unsealed(checkpoint)),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::borrow::Cow;
    use std::collections::BTreeMap;

    use super::*;
    use crate::safetensors::{LazyValues, Precision, write_sealed};

    #[test]
    fn every_byte_counts() {
        let folder = tempfile::tempdir().unwrap();
        let (path, device) = (folder.path().join("a.safetensors"), Device::flex());
        assert!(matches!(Checkpoint::open_sealed(&path, &device).unwrap(), Sealed::Missing));
        let tensor = LazyValues {
            name: "x".to_owned(),
            shape: vec![2],
            values: Box::new(|| Cow::Owned(vec![1.0, 2.0])),
        };
        write_sealed(&path, &[tensor], BTreeMap::new(), Precision::F32).unwrap();
        let checkpoint = Checkpoint::open_sealed(&path, &device).unwrap().whole().unwrap();
        assert_eq!(checkpoint.values("x").unwrap().0, [1.0, 2.0]);
        drop(checkpoint);
        let bytes = std::fs::read(&path).unwrap();
        for at in 0..bytes.len() {
            let mut flipped = bytes.clone();
            flipped[at] ^= 16;
            std::fs::write(&path, &flipped).unwrap();
            assert!(Checkpoint::open_sealed(&path, &device).unwrap().whole().is_none(), "byte {at}");
        }
    }
}
