//! What a whole clip looks like to a network: the features whose distributions FVD compares.

use std::path::Path;

use burn::tensor::{Device, Tensor, TensorData};
use understudy_engine::host;
use understudy_engine::safetensors::Checkpoint;
use understudy_kernels::resample::Torch;
use understudy_media::Image;
use understudy_models::i3d::{FEWEST, I3d, I3dConfig, SIDE, Windows, published_name};

use crate::error::{Error, Result};
use crate::frechet::Covariance;
use crate::networks::{ClipJudge, built, config_of};

/// What the norms of each port add to a variance, where the file does not say.
const KINETICS_EPS: f32 = 1e-3;
const VIDEOGPT_EPS: f32 = 1e-5;

/// A network that turns a clip into a vector.
pub trait VideoEmbedder: Send + Sync {
    /// The features of a clip of at least [`VideoEmbedder::frames`] frames.
    ///
    /// # Errors
    /// When there are fewer frames, or a value is not finite.
    fn features(&self, frames: &[Image]) -> Result<Vec<f32>>;

    /// How many frames it looks at, which are the clip's first.
    fn frames(&self) -> usize;

    /// What a distance of its features is called, e.g. `fvd-styleganv-16f`.
    fn name(&self) -> String;

    /// How its distances are published.
    fn covariance(&self) -> Covariance;
}

/// What a file is published as, which decides how frames are prepared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Port {
    /// StyleGAN-V's `i3d_torchscript.pt`: every frame stretched to the network's size.
    StyleganV,
    /// VideoGPT's `i3d_pretrained_400.pt`: the shorter side to the network's, and the centre cut out.
    VideoGpt,
}

/// The I3D of FVD, trained on Kinetics-400; the features are its logits.
#[derive(Debug)]
pub struct I3dJudge {
    network: I3d,
    port: Port,
    frames: usize,
    device: Device,
}

impl I3dJudge {
    /// Opens StyleGAN-V's `i3d_torchscript.pt` or VideoGPT's `i3d_pretrained_400.pt`, told apart by the names
    /// of their tensors, to look at the first `frames` frames of a clip.
    ///
    /// # Errors
    /// When the file cannot be read or is no I3D, or it cannot look at so few frames.
    pub fn open(path: &Path, frames: usize, device: &Device) -> Result<Self> {
        let fault = |reason: String| Error::Config { file: path.display().to_string(), reason };
        if frames < FEWEST {
            return Err(fault(format!("it needs at least {FEWEST} frames and is to look at {frames}")));
        }
        let checkpoint = Checkpoint::open(path, device)?;
        let kinetics = checkpoint.infos().iter().any(|info| info.name.starts_with("conv3d_1a_7x7."));
        let (port, eps, windows) = if kinetics {
            let declared = checkpoint.metadata().get("BatchNorm3d.eps");
            let eps = declared.and_then(|eps| eps.parse().ok()).unwrap_or(KINETICS_EPS);
            (Port::StyleganV, eps, Windows::Over)
        } else {
            (Port::VideoGpt, VIDEOGPT_EPS, Windows::Same)
        };
        let checkpoint = checkpoint.renamed(published_name)?;
        let config = config_of(path, &checkpoint, |shape| I3dConfig::of_shapes(shape, eps, windows))?;
        let network = built(&checkpoint, device, |weights| I3d::new(weights, &config))?;
        Ok(Self { network, port, frames, device: device.clone() })
    }

    /// Planes `(3, 224, 224)` of a frame, in [-1, 1].
    fn planes(&self, frame: &Image) -> Vec<f32> {
        let bytes: Vec<f32> =
            (0..3).flat_map(|c| frame.rgb.iter().skip(c).step_by(3).map(|&byte| f32::from(byte))).collect();
        let [rows, columns] = [frame.height, frame.width];
        let long = |long: usize, short: usize| {
            // As the published code rounds: up, whatever floats made of a quotient.
            (long as f64 * (SIDE as f64 / short as f64)).ceil() as usize
        };
        let size = match self.port {
            Port::StyleganV => [SIDE; 2],
            Port::VideoGpt if rows < columns => [SIDE, long(columns, rows)],
            Port::VideoGpt => [long(rows, columns), SIDE],
        };
        let resized = Torch::Bilinear.resize(&bytes, [rows, columns], size);
        let [top, left] = size.map(|side| (side - SIDE) / 2);
        let mut planes = Vec::with_capacity(3 * SIDE * SIDE);
        for plane in resized.chunks_exact(size[0] * size[1]) {
            for row in top..top + SIDE {
                let line = &plane[row * size[1] + left..][..SIDE];
                planes.extend(line.iter().map(|value| value / 127.5 - 1.0));
            }
        }
        planes
    }
}

impl VideoEmbedder for I3dJudge {
    fn features(&self, frames: &[Image]) -> Result<Vec<f32>> {
        let frames = frames.get(..self.frames).ok_or(Error::TooFew {
            what: "frames",
            found: frames.len(),
            needed: self.frames,
        })?;
        let area = SIDE * SIDE;
        let mut clip = vec![0.0; 3 * frames.len() * area];
        for (at, frame) in frames.iter().enumerate() {
            for (channel, plane) in self.planes(frame).chunks_exact(area).enumerate() {
                clip[(channel * frames.len() + at) * area..][..area].copy_from_slice(plane);
            }
        }
        let data = TensorData::new(clip, [1, 3, frames.len(), SIDE, SIDE]);
        finite(host::values(self.network.forward(Tensor::from_data(data, &self.device))))
    }

    fn frames(&self) -> usize {
        self.frames
    }

    fn name(&self) -> String {
        let port = match self.port {
            Port::StyleganV => "styleganv",
            Port::VideoGpt => "videogpt",
        };
        format!("fvd-{port}-{}f", self.frames)
    }

    fn covariance(&self) -> Covariance {
        match self.port {
            Port::StyleganV => Covariance::Biased,
            Port::VideoGpt => Covariance::Unbiased,
        }
    }
}

/// A CLIP's look at three frames of the whole clip: what stands in for I3D in the puppet world.
impl VideoEmbedder for ClipJudge {
    fn features(&self, frames: &[Image]) -> Result<Vec<f32>> {
        self.embed_video(frames)
    }

    fn frames(&self) -> usize {
        1
    }

    fn name(&self) -> String {
        "frechet-clip".to_owned()
    }

    fn covariance(&self) -> Covariance {
        Covariance::Unbiased
    }
}

fn finite(values: Vec<f32>) -> Result<Vec<f32>> {
    if values.iter().all(|value| value.is_finite()) {
        Ok(values)
    } else {
        Err(Error::NotFinite { what: "features of a clip" })
    }
}
