//! A file of where characters are in the training clips, on the grid of their latents.

use std::ops::ControlFlow;
use std::path::Path;

use burn::tensor::{Device, Tensor, TensorData};
use understudy_models::wan_vae::WanVaeConfig;

use crate::error::TrainError;
use crate::pretrain::clips::{ClipBatch, Clips};
use crate::pretrain::latents::Kind;
use crate::pretrain::records::Records;

/// Which latents of the training clips `0..count`, or of a frame of each, see a character: a byte a place, 0 or 1.
#[derive(Clone, Debug)]
pub struct MaskCache {
    records: Records,
    dims: [usize; 3],
}

/// Clips rendered at once.
const CHUNK: u64 = 64;

impl MaskCache {
    /// Opens the cache of `kind` at `path`, rendering what is not in it yet, as [`LatentCache::fill`] does.
    ///
    /// # Errors
    /// When the file cannot be written or the clips cannot be rendered.
    ///
    /// [`LatentCache::fill`]: crate::pretrain::latents::LatentCache::fill
    pub fn fill(
        path: &Path,
        config: &WanVaeConfig,
        [frames, height, width]: [usize; 3],
        (kind, count): (Kind, u64),
        tell: &mut dyn FnMut(u64) -> ControlFlow<()>,
    ) -> Result<Option<Self>, TrainError> {
        let [temporal, spatial] = [config.temporal_factor(), config.spatial_factor()];
        let dims = [kind.latent_frames(frames, temporal), height / spatial, width / spatial];
        let clips = Clips::new([frames, height, width])?;
        let draw = |first, next| Ok(pooled(&kind.render(&clips, frames, first, next), temporal, spatial));
        let records = Records::fill(path, dims.iter().product(), (count, CHUNK), draw, tell)?;
        Ok(records.map(|records| Self { records, dims }))
    }

    /// The masks of `clips`, one after the other.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn read(&self, clips: &[u64]) -> Result<Vec<f32>, TrainError> {
        Ok(self.records.read(clips)?.into_iter().map(f32::from).collect())
    }

    /// Values read by [`MaskCache::read`] as a tensor `(clips, 1, frames, rows, columns)`.
    pub fn tensor(&self, values: Vec<f32>, device: &Device) -> Tensor<5> {
        let [frames, rows, columns] = self.dims;
        let shape = [values.len() / (frames * rows * columns), 1, frames, rows, columns];
        Tensor::from_data(TensorData::new(values, shape), device)
    }
}

/// The masks of a batch on the grid of latents: 1 where any pixel of any of its frames is a character's. The first
/// latent has one frame, every other `temporal`.
fn pooled(batch: &ClipBatch, temporal: usize, spatial: usize) -> Vec<u8> {
    let [clips, frames, rows, columns] = batch.dims;
    let [latents, down, across] = [1 + (frames - 1) / temporal, rows / spatial, columns / spatial];
    let mut pooled = vec![0; clips * latents * down * across];
    for (at, _) in batch.masks.iter().enumerate().filter(|(_, mask)| **mask > 0.0) {
        let (column, row) = (at % columns, at / columns % rows);
        let (frame, clip) = (at / columns / rows % frames, at / columns / rows / frames);
        let latent = frame.div_ceil(temporal);
        pooled[((clip * latents + latent) * down + row / spatial) * across + column / spatial] = 1;
    }
    pooled
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_latent_sees_what_any_of_its_pixels_shows() {
        let mut masks = vec![0.0; 2 * 5 * 4 * 4];
        // Clip 0: frame 0, top left; clip 1: frame 4, bottom right.
        masks[1] = 1.0;
        masks[(5 + 4) * 16 + 15] = 1.0;
        let batch = ClipBatch { dims: [2, 5, 4, 4], pixels: Vec::new(), masks, captions: Vec::new() };
        let expected = [1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];
        assert_eq!(pooled(&batch, 4, 2), expected);
    }
}
