//! Numbers from devices to the host.

use burn::tensor::{Int, Tensor};

/// The numbers of `tensor`, row by row, as f32 whatever it holds.
///
/// # Panics
/// When the device does not give them back; burn's own reads do the same.
pub fn values<const D: usize>(tensor: Tensor<D>) -> Vec<f32> {
    match tensor.into_data().convert::<f32>().try_into_vec() {
        Ok(values) => values,
        Err(error) => panic!("the device did not give back a tensor: {error:?}"),
    }
}

/// The same of integers.
///
/// # Panics
/// As [`values`].
pub fn integers<const D: usize>(tensor: Tensor<D, Int>) -> Vec<i64> {
    match tensor.into_data().convert::<i64>().try_into_vec() {
        Ok(values) => values,
        Err(error) => panic!("the device did not give back a tensor: {error:?}"),
    }
}
