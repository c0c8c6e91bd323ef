//! A file of encoded training clips or stills, so that the autoencoder runs once and not every epoch.

use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use burn::tensor::{Device, Tensor, TensorData};
use half::f16;
use understudy_engine::host::values;
use understudy_models::wan_vae::WanVae;
use understudy_puppet::Split;

use crate::error::TrainError;
use crate::pretrain::clips::Clips;

/// What a cache holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Whole clips.
    Clips,
    /// One frame of each clip, somewhere in it.
    Stills,
}

/// Normalized latents of the training clips `0..count`, or of a frame of each, as f16, one after the other in
/// one file. Clip `i` is scenario `i` of the training split, so captions are not stored.
#[derive(Clone, Debug)]
pub struct LatentCache {
    path: PathBuf,
    dims: [usize; 4],
    count: u64,
}

impl Kind {
    /// How many are encoded at once.
    fn chunk(self) -> u64 {
        match self {
            Self::Clips => 8,
            Self::Stills => 64,
        }
    }
}

impl LatentCache {
    /// Opens the cache of `kind` at `path`, encoding what is not in it yet. `[frames, height, width]` is the
    /// size of a clip; `tell` hears how many are done, and can stop, which gives `None`. A cache that was
    /// interrupted goes on.
    ///
    /// # Errors
    /// When the file cannot be written or the clips cannot be rendered.
    pub fn fill(
        path: &Path,
        network: &WanVae,
        [frames, height, width]: [usize; 3],
        (kind, count): (Kind, u64),
        device: &Device,
        tell: &mut dyn FnMut(u64) -> ControlFlow<()>,
    ) -> Result<Option<Self>, TrainError> {
        let config = network.config();
        let latent_frames = match kind {
            Kind::Clips => 1 + (frames - 1) / config.temporal_factor(),
            Kind::Stills => 1,
        };
        let factor = config.spatial_factor();
        let dims = [config.z_dim, latent_frames, height / factor, width / factor];
        let cache = Self { path: path.to_owned(), dims, count };
        let io = |error| TrainError::Io { action: "write", path: path.to_owned(), error };
        let mut file = OpenOptions::new().create(true).append(true).open(path).map_err(io)?;
        let clips = Clips::new([frames, height, width])?;
        let mut done = file.metadata().map_err(io)?.len() / cache.bytes();
        // Half a clip may stand at the end after an interruption.
        file.set_len(done * cache.bytes()).map_err(io)?;
        while done < count {
            let next = (done + kind.chunk()).min(count);
            let scenarios: Vec<_> = (done..next).map(|index| clips.scenario(Split::Train, index)).collect();
            let video = match kind {
                Kind::Clips => clips.batch(&scenarios, 0, frames),
                Kind::Stills => clips.stills(&scenarios, done),
            };
            let video = video.video(device);
            let latents = network.normalize(network.encode(video).mean);
            let bytes: Vec<u8> =
                values(latents).iter().flat_map(|&v| f16::from_f32(v).to_le_bytes()).collect();
            file.write_all(&bytes).map_err(io)?;
            done = next;
            if tell(done).is_break() && done < count {
                return Ok(None);
            }
        }
        Ok(Some(cache))
    }

    /// How many there are.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// `[channels, frames, rows, columns]` of the latents of one.
    pub fn dims(&self) -> [usize; 4] {
        self.dims
    }

    fn bytes(&self) -> u64 {
        2 * self.dims.iter().product::<usize>() as u64
    }

    /// The latents of `clips`, one after the other.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn read(&self, clips: &[u64]) -> Result<Vec<f32>, TrainError> {
        let io = |error| TrainError::Io { action: "read", path: self.path.clone(), error };
        let mut file = File::open(&self.path).map_err(io)?;
        let mut bytes = vec![0; self.bytes() as usize];
        let mut values = Vec::with_capacity(clips.len() * bytes.len() / 2);
        for clip in clips {
            file.seek(SeekFrom::Start(clip * self.bytes())).map_err(io)?;
            file.read_exact(&mut bytes).map_err(io)?;
            values.extend(bytes.as_chunks().0.iter().map(|&pair| f16::from_le_bytes(pair).to_f32()));
        }
        Ok(values)
    }

    /// Values read by [`LatentCache::read`] as a tensor.
    pub fn tensor(&self, values: Vec<f32>, device: &Device) -> Tensor<5> {
        let [channels, frames, rows, columns] = self.dims;
        let each = self.dims.iter().product::<usize>();
        let shape = [values.len() / each, channels, frames, rows, columns];
        Tensor::from_data(TensorData::new(values, shape), device)
    }
}
