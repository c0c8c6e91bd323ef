//! What a request is going to cost, before it starts.

use std::collections::BTreeMap;
use std::time::Instant;

use burn::tensor::{Device, Tensor};
use understudy_engine::ops::{self, Weight};
use understudy_engine::safetensors::Checkpoint;

use crate::error::Result;
use crate::family::Description;
use crate::request::Request;

/// Everything takes this much longer than its matrix products alone.
pub const OVERHEAD: f64 = 2.0;
/// Bytes of a number.
const FLOAT: usize = 4;
/// Bytes of freed memory that the allocator keeps for the next to ask, at most; of little it keeps three
/// quarters.
const KEPT: usize = 90 << 20;
/// Bytes of the program itself, with its tables.
const PROGRAM: u64 = 110 << 20;

/// What a base's networks take, in memory and in multiplications.
#[derive(Clone, Debug, PartialEq)]
pub struct Costs {
    /// Whose matrices take half their room.
    pub halved: Halved,
    /// Bytes of the text encoder that stay in memory.
    pub text_encoder: u64,
    /// Bytes of the denoiser.
    pub denoiser: u64,
    /// Those of them that are in blocks, and how many blocks there are.
    pub blocks: (u64, usize),
    /// Bytes of the autoencoder's halves, the encoder and the decoder, each of which is read when it is first
    /// used.
    pub autoencoder: [u64; 2],
    /// Bytes that embedding a prompt takes for a moment: files of PyTorch give their tensors only whole.
    pub embedding: u64,
    /// Multiplications of the text encoder for each word.
    pub word: f64,
    /// Multiplications of the denoiser for each place, and for each pair of places of one sample. The
    /// gradients of its inputs take as many, and so does replaying it.
    pub place: [f64; 2],
    /// Numbers that enter a block, for each place.
    pub hidden: usize,
    /// Numbers a block holds for its gradients, for each place.
    pub block: usize,
    /// Numbers the denoiser holds at one time without gradients, for each place.
    pub denoising: usize,
    /// Numbers the decoder holds for each pixel of a frame.
    pub decoding: usize,
    /// Multiplications of the decoder for each pixel.
    pub pixel: f64,
    /// Outputs and inputs of a matrix like most that the denoiser multiplies by, to find out how fast a
    /// device is.
    pub matrix: [usize; 2],
}

/// Whose matrices are held in two bytes a number (see [`ops::Weight`]): all where products round to bf16, and
/// on the CPU engine those of files in bf16.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Halved {
    /// The text encoder's.
    pub text_encoder: bool,
    /// The denoiser's.
    pub denoiser: bool,
}

/// Whether the matrices of `file`, which `is_matrix` tells by name and shape, are going to take half their
/// room.
pub(crate) fn halves(file: &Checkpoint, is_matrix: impl Fn(&str, &[usize]) -> bool) -> bool {
    let mut matrices = file.infos().into_iter().filter(|info| is_matrix(&info.name, &info.shape));
    let packs = *file.device() == Device::flex();
    ops::bf16_products() || packs && matrices.all(|info| info.dtype == "BF16")
}

/// Bytes of the tensors of these `shapes` whose names begin with `part`; matrices take half if they are
/// `halved`.
pub(crate) fn bytes(
    shapes: &BTreeMap<String, Vec<usize>>,
    part: &str,
    halved: bool,
    is_matrix: impl Fn(&str, &[usize]) -> bool,
) -> u64 {
    let part = shapes.iter().filter(|(name, _)| name.starts_with(part));
    part.map(|(name, shape)| held_bytes(shape, halved && is_matrix(name, shape))).sum()
}

/// Bytes a tensor of this shape takes: a large one gets whole huge pages from the system.
fn held_bytes(shape: &[usize], halved: bool) -> u64 {
    const HUGE: u64 = 2 << 20;
    let number = if halved { FLOAT / 2 } else { FLOAT };
    let bytes = (number * shape.iter().product::<usize>()) as u64;
    if bytes < HUGE { bytes } else { bytes.next_multiple_of(HUGE) }
}

/// What of `bytes` in so many blocks is not in memory where some stay in their file: two are at a time, one
/// that computes and one that is being read.
pub(crate) fn absent(bytes: u64, blocks: usize, on_host: usize) -> u64 {
    bytes * on_host.min(blocks).saturating_sub(2) as u64 / blocks.max(1) as u64
}

impl Costs {
    /// Bytes of the program and of what the text encoder and the denoiser hold in memory, of whose blocks so
    /// many stay on the host.
    pub fn weights(&self, blocks_on_host: usize) -> u64 {
        let (in_blocks, blocks) = self.blocks;
        PROGRAM + self.text_encoder + self.denoiser - absent(in_blocks, blocks, blocks_on_host)
    }

    /// Multiplications of the denoiser on `places` in all, `longest` in a sample.
    pub fn denoiser_work(&self, places: usize, longest: usize) -> f64 {
        places as f64 * (self.place[0] + longest as f64 * self.place[1])
    }

    /// How many multiplications the device does a second, measured on a matrix like the denoiser's.
    pub fn products_per_second(&self, device: &Device) -> f64 {
        const TOKENS: usize = 256;
        const ENOUGH: f64 = 0.05;
        let [outputs, inputs] = self.matrix;
        let x = Tensor::<2>::ones([TOKENS, inputs], device);
        let weight = Tensor::<2>::ones([outputs, inputs], device);
        let weight = if self.halved.denoiser { Weight::new(weight) } else { Weight::Dense(weight) };
        let run = || weight.linear(x.clone(), None).slice([0..1, 0..1]).into_scalar::<f32>();
        run();
        let start = Instant::now();
        let mut runs = 0.0;
        while start.elapsed().as_secs_f64() < ENOUGH {
            run();
            runs += 1.0;
        }
        runs * (TOKENS * inputs * outputs) as f64 / start.elapsed().as_secs_f64()
    }
}

/// Memory and time, roughly.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Estimate {
    /// Bytes of weights in memory.
    pub weights: u64,
    /// Bytes of what is computed, where it is most.
    pub activations: u64,
    /// Seconds of a denoising step with guidance.
    pub step_seconds: f32,
    /// Seconds in all.
    pub seconds: f32,
}

impl Estimate {
    /// Bytes at the peak.
    pub fn peak(&self) -> u64 {
        self.weights + self.activations
    }
}

impl Request {
    /// What this request is going to cost on a base of which so many blocks stay on the host; made for so
    /// many videos one after another, between which the base stays in memory.
    ///
    /// # Errors
    /// When it does not fit the base.
    pub fn estimate(
        &self,
        about: &Description,
        (blocks_on_host, videos): (usize, usize),
        device: &Device,
    ) -> Result<Estimate> {
        let Description { costs, geometry, .. } = about;
        let [prompts, _, frames, rows, columns] = self.check(about)?;
        let longest = geometry.places([frames, rows, columns]).iter().product::<usize>();
        let places = prompts * longest;
        let passes = if self.guidance > 1.0 { 2 } else { 1 };
        let decoded = prompts * self.height * self.width;
        let side = |pixels: usize| self.vae_tile.map_or(pixels, |tile| tile.min(pixels));
        let at_once = prompts * side(self.height) * side(self.width);
        let decoding = at_once * costs.decoding + 3 * decoded * self.frames * 2;
        let denoising = passes * places * costs.denoising;
        let weights = costs.weights(blocks_on_host);
        let decoding = decoding + costs.autoencoder[1] as usize / FLOAT;
        // What encoded and denoised is gone when the autoencoder decodes the last.
        let gone = if videos > 1 { 0 } else { weights.saturating_sub(PROGRAM) as usize };
        let used = (FLOAT * denoising).max((FLOAT * decoding).saturating_sub(gone));
        let steps = self.scheduler(about)?.schedule(self.steps)?.steps();
        let step = passes as f64 * costs.denoiser_work(places, longest);
        let decode = costs.pixel * (decoded * self.frames) as f64;
        let rate = costs.products_per_second(device) / OVERHEAD;
        Ok(Estimate {
            weights,
            activations: ((used + KEPT.min(used / 4 * 3)) as u64).max(costs.embedding),
            step_seconds: (step / rate) as f32,
            seconds: (videos as f64 * (steps as f64 * step + decode) / rate) as f32,
        })
    }
}
