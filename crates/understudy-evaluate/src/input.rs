//! Pictures as networks take them, in batches.

use burn::tensor::{Device, Tensor, TensorData};
use rayon::prelude::*;
use understudy_engine::host;
use understudy_kernels::resample::Torch;
use understudy_media::resample::OpenCv;
use understudy_media::{Image, Range};

use crate::error::{Error, Result, at_least};
use crate::preprocess::Preprocess;

/// Pictures or texts a network sees at once.
pub(crate) const BATCH: usize = 64;

/// How a picture becomes what a network reads.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Input {
    /// Cropped and resized to a square of this side, in [-1, 1]: `nano`'s judges.
    Square(usize),
    /// As ArcFace's networks take their crops: OpenCV's bilinear resize whatever the aspect, in [-1, 1].
    Stretched(usize),
    /// As a `preprocessor_config.json` says.
    Published(Preprocess),
    /// As VBench prepares frames.
    VBench(VBench),
}

/// VBench's preparation: the shorter side resized in floats without antialiasing, and the centre cut out or
/// not.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct VBench {
    pub(crate) side: usize,
    pub(crate) mode: Torch,
    pub(crate) crop: bool,
    /// Mean and deviation of each channel.
    pub(crate) normalize: [[f64; 3]; 2],
}

impl VBench {
    fn planes(&self, picture: &Image) -> Planes {
        let [rows, columns] = [picture.height, picture.width];
        let long = |long: usize, short: usize| self.side * long / short;
        let size =
            if rows <= columns { [self.side, long(columns, rows)] } else { [long(rows, columns), self.side] };
        let bytes: Vec<f32> =
            (0..3).flat_map(|c| picture.rgb.iter().skip(c).step_by(3).map(|&byte| f32::from(byte))).collect();
        let resized = self.mode.resize(&bytes, [rows, columns], size);
        let kept = if self.crop { [self.side; 2] } else { size };
        let first = |axis: usize| ((size[axis] - kept[axis]) as f64 / 2.0).round_ties_even() as usize;
        let mut planes = Vec::with_capacity(3 * kept[0] * kept[1]);
        for (channel, plane) in resized.chunks_exact(size[0] * size[1]).enumerate() {
            let [mean, deviation] = self.normalize.map(|values| values[channel] as f32);
            for row in first(0)..first(0) + kept[0] {
                let line = &plane[row * size[1] + first(1)..][..kept[1]];
                planes.extend(line.iter().map(|value| (value / 255.0 - mean) / deviation));
            }
        }
        (planes, kept)
    }
}

/// Planes `(3, height, width)`, and their height and width.
type Planes = (Vec<f32>, [usize; 2]);

impl Input {
    fn planes(&self, picture: &Image) -> Result<Planes> {
        let squared = |image: Image, side: usize| (image.to_planar(Range::Signed), [side; 2]);
        let is = |side: usize| [picture.height, picture.width] == [side; 2];
        Ok(match self {
            Self::Square(side) | Self::Stretched(side) if is(*side) => squared(picture.clone(), *side),
            Self::Square(side) => squared(picture.cover_crop([*side; 2])?, *side),
            Self::Stretched(side) => squared(OpenCv::Linear.resize(picture, [*side; 2])?, *side),
            Self::Published(preprocess) => preprocess.planes(picture)?,
            Self::VBench(vbench) => vbench.planes(picture),
        })
    }

    /// What `network` makes of `pictures`: rows of length one. `network` takes `(batch, 3, height, width)`
    /// and gives `(batch, dim)`.
    ///
    /// # Errors
    /// When there is no picture, one cannot be resized, or a value is not finite.
    pub(crate) fn embed(
        &self,
        pictures: &[Image],
        device: &Device,
        network: impl Fn(Tensor<4>) -> Result<Tensor<2>>,
    ) -> Result<Vec<Vec<f32>>> {
        self.rows(pictures, device, |pixels| unit_rows(network(pixels)?))
    }

    /// The rows `network` makes of `pictures`, which it takes as `(batch, 3, height, width)`.
    ///
    /// # Errors
    /// When there is no picture, one cannot be resized, or `network` fails.
    pub(crate) fn rows(
        &self,
        pictures: &[Image],
        device: &Device,
        network: impl Fn(Tensor<4>) -> Result<Vec<Vec<f32>>>,
    ) -> Result<Vec<Vec<f32>>> {
        at_least(1, pictures.len(), "pictures")?;
        let mut embeddings = Vec::with_capacity(pictures.len());
        for pictures in pictures.chunks(BATCH) {
            let planes: Vec<Planes> =
                pictures.par_iter().map(|picture| self.planes(picture)).collect::<Result<_>>()?;
            // Pictures of other sizes may come out in other sizes.
            for alike in planes.chunk_by(|a, b| a.1 == b.1) {
                let [height, width] = alike[0].1;
                let values = alike.iter().flat_map(|(planes, _)| planes.iter().copied()).collect();
                let data = TensorData::new::<f32, _>(values, [alike.len(), 3, height, width]);
                embeddings.extend(network(Tensor::from_data(data, device))?);
            }
        }
        Ok(embeddings)
    }
}

/// The rows of a matrix, each scaled to length one.
pub(crate) fn unit_rows(matrix: Tensor<2>) -> Result<Vec<Vec<f32>>> {
    let [_, columns] = matrix.dims();
    let values = host::values(understudy_models::iresnet::normalize_rows(matrix));
    if !values.iter().all(|value| value.is_finite()) {
        return Err(Error::NotFinite { what: "embedding" });
    }
    Ok(values.chunks(columns.max(1)).map(<[f32]>::to_vec).collect())
}
