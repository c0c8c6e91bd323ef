//! How smoothly a video moves: whether the frames between others are where an interpolator expects them.

use std::path::Path;

use burn::tensor::{Device, Tensor, TensorData};
use understudy_engine::host;
use understudy_engine::safetensors::Checkpoint;
use understudy_media::{Image, Range};
use understudy_models::amt::{Amt, AmtConfig, MULTIPLE, SMALLEST};

use crate::error::{Error, Result};
use crate::flow::repeated_edges;
use crate::networks::{built, config_of};

/// An AMT.
#[derive(Debug)]
pub struct SmoothnessJudge {
    network: Amt,
    device: Device,
}

impl SmoothnessJudge {
    /// Opens the original release's file, `amt-s.pth`.
    ///
    /// # Errors
    /// When it cannot be read or is none.
    pub fn open(path: &Path, device: &Device) -> Result<Self> {
        let checkpoint = Checkpoint::open(path, device)?.part("state_dict.");
        let config = config_of(path, &checkpoint, |shape| AmtConfig::of_shapes(shape))?;
        let network = built(&checkpoint, device, |weights| Amt::new(weights, &config))?;
        Ok(Self { network, device: device.clone() })
    }

    /// What is expected halfway between two frames of the same size: planes in [0, 1].
    ///
    /// # Errors
    /// When the frames differ in size or are smaller than the network takes.
    pub fn expected(&self, from: &Image, to: &Image) -> Result<Vec<f32>> {
        let size @ [height, width] = [from.height, from.width];
        let padded = size.map(|side| side.next_multiple_of(MULTIPLE));
        if [to.height, to.width] != size || padded.into_iter().any(|side| side < SMALLEST) {
            return Err(Error::Frames {
                reason: format!(
                    "frames of {width}x{height} and {}x{}; smoothness needs frames of one size, at least {SMALLEST} on \
                     each side",
                    to.width, to.height
                ),
            });
        }
        let pixels = |frame: &Image| {
            let planes = repeated_edges(&frame.to_planar(Range::Unit), size, padded);
            Tensor::from_data(TensorData::new(planes, [1, 3, padded[0], padded[1]]), &self.device)
        };
        let [top, left] = [0, 1].map(|axis| (padded[axis] - size[axis]) / 2);
        let middle = self.network.middle(pixels(from), pixels(to));
        Ok(host::values(middle.narrow(2, top, height).narrow(3, left, width)))
    }

    /// The same as a picture: 8-bit values cut off and not rounded, as VBench has them.
    ///
    /// # Errors
    /// As [`SmoothnessJudge::expected`].
    pub fn middle(&self, from: &Image, to: &Image) -> Result<Image> {
        let planes = self.expected(from, to)?;
        let [height, width] = [from.height, from.width];
        let byte = |at: usize, plane: usize| (planes[plane * height * width + at] * 255.0) as u8;
        let rgb = (0..height * width).flat_map(|at| [byte(at, 0), byte(at, 1), byte(at, 2)]).collect();
        Ok(Image { height, width, rgb })
    }

    /// VBench's motion smoothness: `(255 - d) / 255` for the mean absolute difference `d` of every second
    /// frame and what is expected between its neighbours, 8-bit; `None` for fewer than three frames.
    ///
    /// # Errors
    /// As [`SmoothnessJudge::expected`].
    pub fn smoothness(&self, frames: &[Image]) -> Result<Option<f64>> {
        let mut differences = Vec::new();
        for three in frames.windows(3).step_by(2) {
            differences.push(three[1].difference(&self.middle(&three[0], &three[2])?));
        }
        let count = differences.len();
        Ok((count > 0).then(|| (255.0 - differences.iter().sum::<f64>() / count as f64) / 255.0))
    }
}
