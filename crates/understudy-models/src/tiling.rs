//! Coding a picture or a video in overlapping tiles, for the memory of one of them.
//!
//! Tiles are blended linearly where they overlap. The result is not that of the whole picture: each tile
//! knows only itself. The further tiles overlap, the closer it is.

use burn::tensor::{Tensor, TensorData};

use crate::sd_vae::{self, SdVae};
use crate::wan_vae::{Posterior, WanVae};

/// Tiles of a picture, in pixels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tiles {
    /// Rows and columns of a tile.
    pub size: [usize; 2],
    /// Rows and columns from one tile to the next; what is left of the size is overlap.
    pub stride: [usize; 2],
}

impl Tiles {
    /// Square tiles that overlap by a quarter. `side` is a multiple of four latents.
    pub fn square(side: usize) -> Self {
        Self { size: [side; 2], stride: [side / 4 * 3; 2] }
    }

    /// Whether a picture of `[rows, columns]` is more than one tile.
    pub fn divide(&self, [rows, columns]: [usize; 2]) -> bool {
        rows > self.size[0] || columns > self.size[1]
    }

    /// The same in units of `factor` pixels.
    fn shrunk(&self, factor: usize) -> Self {
        Self { size: self.size.map(|side| side / factor), stride: self.stride.map(|side| side / factor) }
    }
}

impl WanVae {
    /// [`WanVae::decode_streamed`] tile by tile.
    pub fn decode_tiled(&self, latents: Tensor<5>, tiles: Tiles) -> Tensor<5> {
        let factor = self.config().spatial_factor();
        tiled(&latents, tiles.shrunk(factor), tiles, |tile| self.decode_streamed(tile))
    }

    /// [`WanVae::encode_streamed`] tile by tile.
    pub fn encode_tiled(&self, video: Tensor<5>, tiles: Tiles) -> Posterior {
        let factor = self.config().spatial_factor();
        self.posterior(tiled(&video, tiles, tiles.shrunk(factor), |tile| self.moments_streamed(tile)))
    }
}

impl SdVae {
    /// [`SdVae::decode_streamed`] tile by tile.
    pub fn decode_tiled(&self, latents: Tensor<4>, tiles: Tiles) -> Tensor<4> {
        let from = tiles.shrunk(self.config().spatial_factor());
        pictures_tiled(latents, from, tiles, |tile| self.decode_streamed(tile))
    }

    /// [`SdVae::encode_streamed`] tile by tile.
    pub fn encode_tiled(&self, pictures: Tensor<4>, tiles: Tiles) -> sd_vae::Posterior {
        let to = tiles.shrunk(self.config().spatial_factor());
        self.posterior(pictures_tiled(pictures, tiles, to, |tile| self.moments_streamed(tile)))
    }
}

/// [`tiled`] for pictures `(batch, channels, rows, columns)`: videos of one frame.
fn pictures_tiled(x: Tensor<4>, from: Tiles, to: Tiles, run: impl Fn(Tensor<4>) -> Tensor<4>) -> Tensor<4> {
    let run = |tile: Tensor<5>| run(tile.squeeze_dim(FRAMES)).unsqueeze_dim(FRAMES);
    tiled(&x.unsqueeze_dim(FRAMES), from, to, run).squeeze_dim(FRAMES)
}

const FRAMES: usize = 2;
const ROWS: usize = 3;
const COLUMNS: usize = 4;

/// Runs the tiles of `x (batch, channels, frames, rows, columns)`, laid out as `from` says, and puts the
/// results together as `to` says.
fn tiled(x: &Tensor<5>, from: Tiles, to: Tiles, mut run: impl FnMut(Tensor<5>) -> Tensor<5>) -> Tensor<5> {
    let [_, _, _, rows, columns] = x.dims();
    let overlap = [to.size[0] - to.stride[0], to.size[1] - to.stride[1]];
    let mut strips = Vec::new();
    let mut above: Vec<Tensor<5>> = Vec::new();
    for top in (0..rows).step_by(from.stride[0]) {
        let strip = x.clone().narrow(ROWS, top, from.size[0].min(rows - top));
        let mut row: Vec<Tensor<5>> = Vec::new();
        for (index, left) in (0..columns).step_by(from.stride[1]).enumerate() {
            let mut tile = run(strip.clone().narrow(COLUMNS, left, from.size[1].min(columns - left)));
            if let Some(over) = above.get(index) {
                tile = blended(over, tile, overlap[0], ROWS);
            }
            if let Some(before) = row.last() {
                tile = blended(before, tile, overlap[1], COLUMNS);
            }
            row.push(tile);
        }
        let kept = |tile: &Tensor<5>| first(first(tile.clone(), to.stride[0], ROWS), to.stride[1], COLUMNS);
        strips.push(Tensor::cat(row.iter().map(kept).collect(), COLUMNS));
        above = row;
    }
    Tensor::cat(strips, ROWS)
}

/// Up to `count` of the first along `dim`.
fn first(x: Tensor<5>, count: usize, dim: usize) -> Tensor<5> {
    let count = count.min(x.dims()[dim]);
    x.narrow(dim, 0, count)
}

/// `tile`, its first part faded in from the last part of the one `before` it.
fn blended(before: &Tensor<5>, tile: Tensor<5>, overlap: usize, dim: usize) -> Tensor<5> {
    let [own, other] = [tile.dims()[dim], before.dims()[dim]];
    let overlap = overlap.min(own).min(other);
    if overlap == 0 {
        return tile;
    }
    let ramp: Vec<f32> = (0..overlap).map(|at| at as f32 / overlap as f32).collect();
    let mut shape = [1; 5];
    shape[dim] = overlap;
    let ramp = Tensor::<5>::from_data(TensorData::new(ramp, shape), &tile.device().without_autodiff());
    let faded = before.clone().narrow(dim, other - overlap, overlap) * (-ramp.clone() + 1.0)
        + tile.clone().narrow(dim, 0, overlap) * ramp;
    if overlap == own {
        return faded;
    }
    Tensor::cat(vec![faded, tile.narrow(dim, overlap, own - overlap)], dim)
}
