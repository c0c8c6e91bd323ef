//! A file of encoded training clips or stills, so that the autoencoder runs once and not every epoch.

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use burn::tensor::{Device, Tensor, TensorData};
use half::f16;
use understudy_engine::host::values;
use understudy_models::wan_vae::WanVae;

use crate::error::TrainError;
use crate::pretrain::clips::{ClipBatch, Clips};
use crate::pretrain::records::Records;

/// What a cache holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Whole clips.
    Clips,
    /// One frame of each clip, somewhere in it.
    Stills,
}

/// Normalized latents of the training clips `0..count`, or of a frame of each, as f16, one after the other in
/// one file. Clip `i` is training scenario `i`, so captions are not stored.
#[derive(Clone, Debug)]
pub struct LatentCache {
    path: PathBuf,
    dims: [usize; 4],
    source: Source,
}

/// What latents are made from.
#[derive(Clone, Copy, Debug)]
struct Source {
    kind: Kind,
    clips: Clips,
    frames: usize,
}

impl Source {
    /// The bytes of the latents from `first` up to `next`.
    fn encoded(self, network: &WanVae, device: &Device, first: u64, next: u64) -> Vec<u8> {
        let video = self.kind.render(&self.clips, self.frames, first, next).video(device);
        let latents = values(network.normalize(network.encode(video).mean));
        latents.iter().flat_map(|&v| f16::from_f32(v).to_le_bytes()).collect()
    }
}

impl Kind {
    /// Latent frames of what is made from clips of `frames`.
    pub(crate) fn latent_frames(self, frames: usize, temporal: usize) -> usize {
        match self {
            Self::Clips => 1 + (frames - 1) / temporal,
            Self::Stills => 1,
        }
    }

    /// The training clips from `first` up to `next`, or a frame of each.
    pub(crate) fn render(self, clips: &Clips, frames: usize, first: u64, next: u64) -> ClipBatch {
        let scenarios: Vec<_> = (first..next).map(Clips::training).collect();
        match self {
            Self::Clips => clips.batch(&scenarios, 0, frames),
            Self::Stills => clips.stills(&scenarios, first),
        }
    }

    /// How many are encoded at once, at most.
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
        let factor = config.spatial_factor();
        let latent_frames = kind.latent_frames(frames, config.temporal_factor());
        let dims = [config.z_dim, latent_frames, height / factor, width / factor];
        let clips = Clips::new([frames, height, width])?;
        let own = Self { path: path.to_owned(), dims, source: Source { kind, clips, frames } };
        let filled = own.records(network, count, device, tell)?;
        Ok(filled.map(|_| own))
    }

    /// The first `count` latents, those that are not in the file yet encoded now.
    fn records(
        &self,
        network: &WanVae,
        count: u64,
        device: &Device,
        tell: &mut dyn FnMut(u64) -> ControlFlow<()>,
    ) -> Result<Option<Records>, TrainError> {
        let encode = |first, next| Ok(self.source.encoded(network, device, first, next));
        let size = 2 * self.dims.iter().product::<usize>();
        Records::fill(&self.path, size, (count, self.source.kind.chunk()), encode, tell)
    }

    /// The latents of `clips`, one after the other. All below `count` are encoded first that are not in the
    /// file yet.
    ///
    /// # Errors
    /// When the file cannot be written or read.
    pub fn read(
        &self,
        network: &WanVae,
        count: u64,
        clips: &[u64],
        device: &Device,
    ) -> Result<Vec<f32>, TrainError> {
        let mut go_on = |_| ControlFlow::Continue(());
        let Some(records) = self.records(network, count, device, &mut go_on)? else { return Ok(Vec::new()) };
        let bytes = records.read(clips)?;
        Ok(bytes.as_chunks().0.iter().map(|&pair| f16::from_le_bytes(pair).to_f32()).collect())
    }

    /// `[channels, frames, rows, columns]` of the latents of one.
    pub fn dims(&self) -> [usize; 4] {
        self.dims
    }

    /// Values read by [`LatentCache::read`] as a tensor.
    pub fn tensor(&self, values: Vec<f32>, device: &Device) -> Tensor<5> {
        let [channels, frames, rows, columns] = self.dims;
        let each = self.dims.iter().product::<usize>();
        let shape = [values.len() / each, channels, frames, rows, columns];
        Tensor::from_data(TensorData::new(values, shape), device)
    }
}
