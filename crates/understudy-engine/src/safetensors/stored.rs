//! Tensors as files have them.

use super::Precision;
use crate::encoding::Encoding;

/// A tensor as a file has it, its numbers untouched.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredTensor {
    /// How its numbers are stored.
    pub encoding: Encoding,
    /// Dimensions.
    pub shape: Vec<usize>,
    /// The numbers, row by row.
    pub bytes: Vec<u8>,
}

impl StoredTensor {
    /// `values` of `shape`, rounded to `precision`.
    pub fn new(values: &[f32], shape: Vec<usize>, precision: Precision) -> Self {
        Self { encoding: precision.into(), shape, bytes: precision.encode(values) }
    }

    /// Its values as f32.
    ///
    /// # Errors
    /// Says why when they are no floats, or one is not finite.
    pub fn values(&self) -> Result<Vec<f32>, String> {
        let unsupported = || self.encoding.not_read();
        let values = self.encoding.to_f32(&self.bytes).ok_or_else(unsupported)?;
        match values.iter().find(|value| !value.is_finite()) {
            Some(value) => Err(format!("it holds {value}; the file is damaged or its training diverged")),
            None => Ok(values),
        }
    }

    /// Its values as f32, even if they are integers.
    ///
    /// # Errors
    /// As [`StoredTensor::values`].
    pub fn numbers(&self) -> Result<Vec<f32>, String> {
        match self.encoding.to_integers(&self.bytes) {
            Some(integers) => Ok(integers.into_iter().map(|integer| integer as f32).collect()),
            None => self.values(),
        }
    }
}
