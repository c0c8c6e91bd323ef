//! A file of where characters are in the training clips, on the grid of their latents.

use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use burn::tensor::{Device, Tensor, TensorData};
use understudy_models::wan_vae::WanVaeConfig;
use understudy_puppet::Split;

use crate::error::TrainError;
use crate::pretrain::clips::{ClipBatch, Clips};
use crate::pretrain::latents::Kind;

/// Which latents of the training clips `0..count`, or of a frame of each, see a character: a byte a place, 0 or 1.
#[derive(Clone, Debug)]
pub struct MaskCache {
    path: PathBuf,
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
        let factor = config.spatial_factor();
        let shown = if kind == Kind::Stills { 1 } else { frames };
        let dims = [1 + (shown - 1) / config.temporal_factor(), height / factor, width / factor];
        let cache = Self { path: path.to_owned(), dims };
        let io = |error| TrainError::Io { action: "write", path: path.to_owned(), error };
        let mut file = OpenOptions::new().create(true).append(true).open(path).map_err(io)?;
        let clips = Clips::new([frames, height, width])?;
        let mut done = file.metadata().map_err(io)?.len() / cache.bytes();
        file.set_len(done * cache.bytes()).map_err(io)?;
        while done < count {
            let next = (done + CHUNK).min(count);
            let scenarios: Vec<_> = (done..next).map(|index| clips.scenario(Split::Train, index)).collect();
            let batch = match kind {
                Kind::Clips => clips.batch(&scenarios, 0, frames),
                Kind::Stills => clips.stills(&scenarios, done),
            };
            file.write_all(&pooled(&batch, config.temporal_factor(), factor)).map_err(io)?;
            done = next;
            if tell(done).is_break() && done < count {
                return Ok(None);
            }
        }
        Ok(Some(cache))
    }

    fn bytes(&self) -> u64 {
        self.dims.iter().product::<usize>() as u64
    }

    /// The masks of `clips`, one after the other.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn read(&self, clips: &[u64]) -> Result<Vec<f32>, TrainError> {
        let io = |error| TrainError::Io { action: "read", path: self.path.clone(), error };
        let mut file = File::open(&self.path).map_err(io)?;
        let mut bytes = vec![0; self.bytes() as usize];
        let mut values = Vec::with_capacity(clips.len() * bytes.len());
        for clip in clips {
            file.seek(SeekFrom::Start(clip * self.bytes())).map_err(io)?;
            file.read_exact(&mut bytes).map_err(io)?;
            values.extend(bytes.iter().map(|&byte| f32::from(byte)));
        }
        Ok(values)
    }

    /// Values read by [`MaskCache::read`] as a tensor `(clips, 1, frames, rows, columns)`.
    pub fn tensor(&self, values: Vec<f32>, device: &Device) -> Tensor<5> {
        let [frames, rows, columns] = self.dims;
        let shape = [values.len() / self.bytes() as usize, 1, frames, rows, columns];
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
