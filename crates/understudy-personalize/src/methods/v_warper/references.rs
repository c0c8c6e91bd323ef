//! A subject's pictures in an adapter's metadata, where programs that do not know them leave them alone.

use burn::tensor::{Device, Tensor, TensorData};
use serde::{Deserialize, Serialize};
use understudy_engine::host::values;
use understudy_engine::safetensors::{Precision, StoredTensor};

use super::warp::Reference;

/// The key of the metadata.
pub(crate) const REFERENCES: &str = "understudy.references";

/// Latents of one shape `(channels, frames, rows, columns)`, in bf16, and masks in 255 parts.
#[derive(Serialize, Deserialize)]
struct Stored {
    /// Channels, rows and columns.
    shape: [usize; 3],
    /// Latent frames; one where it is left out.
    #[serde(default = "one")]
    frames: usize,
    latents: Vec<Vec<u16>>,
    masks: Vec<Option<Vec<u8>>>,
}

fn one() -> usize {
    1
}

pub(crate) fn to_text(references: &[Reference]) -> Result<Option<String>, String> {
    let Some(first) = references.first() else { return Ok(None) };
    let [_, channels, frames, rows, columns] = first.latents.dims();
    let halves = |own: &Reference| {
        let stored = StoredTensor::new(&values(own.latents.clone()), Vec::new(), Precision::Bf16);
        stored.bytes.as_chunks::<2>().0.iter().map(|half| u16::from_le_bytes(*half)).collect()
    };
    let bytes = |mask: &Vec<f32>| mask.iter().map(|share| (share * 255.0).round() as u8).collect();
    let stored = Stored {
        shape: [channels, rows, columns],
        frames,
        latents: references.iter().map(halves).collect(),
        masks: references.iter().map(|own| own.mask.as_ref().map(bytes)).collect(),
    };
    serde_json::to_string(&stored).map(Some).map_err(|error| error.to_string())
}

pub(crate) fn from_text(text: &str, device: &Device) -> Result<Vec<Reference>, String> {
    let Stored { shape: [channels, rows, columns], frames, latents, masks } =
        serde_json::from_str(text).map_err(|error| format!("metadata {REFERENCES}: {error}"))?;
    let count = [channels, frames, rows, columns];
    let count = count.into_iter().try_fold(1_usize, usize::checked_mul).unwrap_or(0);
    let places = rows.saturating_mul(columns);
    let whole = latents.iter().all(|own| own.len() == count)
        && masks.iter().flatten().all(|own| own.len() == places)
        && masks.len() == latents.len();
    if !whole || count == 0 {
        return Err(format!("metadata {REFERENCES}: its numbers are not of the shape it states"));
    }
    let reference = |(halves, mask): (Vec<u16>, Option<Vec<u8>>)| {
        let numbers: Vec<f32> =
            halves.into_iter().map(|half| f32::from_bits(u32::from(half) << 16)).collect();
        if !numbers.iter().all(|number| number.is_finite()) {
            return Err(format!("metadata {REFERENCES}: a latent is not finite"));
        }
        let latents =
            Tensor::from_data(TensorData::new(numbers, [1, channels, frames, rows, columns]), device);
        let mask = mask.map(|mask| mask.into_iter().map(|byte| f32::from(byte) / 255.0).collect());
        Ok(Reference { latents, mask })
    };
    latents.into_iter().zip(masks).map(reference).collect()
}
