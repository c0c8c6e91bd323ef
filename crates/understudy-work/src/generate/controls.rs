//! Pictures that say what is shown where: ControlNets.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use anyhow::{Context as _, Result, bail};
use burn::tensor::{Device, Tensor, TensorData};
use clap::Args;
use understudy_engine::attach::Window;
use understudy_media::resample::Pillow;
use understudy_media::{Image, Picture, Range, Video, is_video};
use understudy_pipeline::{Control, Description, Request};

use super::made::add;
use crate::outputs::Input;
use crate::usage::WrongUsage;

/// The weights that make sense.
const MOST: f32 = 100.0;

/// What controls a generation, for bases with ControlNets.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Control")]
pub struct Controls {
    /// A ControlNet and the pictures it looks at, one a frame or one for all: a folder, a clip or a picture;
    /// with a weight (1 if it has none). Several are added up.
    #[arg(long = "control", value_name = "DIR|FILE=FRAMES[:WEIGHT]")]
    controls: Vec<Named>,
    /// Where in denoising control begins, from 0 to 1: for all, or one for each.
    #[arg(long, value_name = "X", requires = "controls")]
    control_start: Vec<f32>,
    /// Where it ends.
    #[arg(long, value_name = "X", requires = "controls")]
    control_end: Vec<f32>,
    /// Let the pictures say what is shown, whatever the prompt says (guess mode).
    #[arg(long, requires = "controls")]
    control_guess: bool,
}

/// A control as it is named.
#[derive(Clone, Debug, PartialEq)]
struct Named {
    network: PathBuf,
    frames: PathBuf,
    weight: f32,
}

impl FromStr for Named {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("{text:?} is no control; use CONTROLNET=FRAMES or CONTROLNET=FRAMES:0.8");
        let (network, rest) = text.split_once('=').ok_or_else(wrong)?;
        let (frames, weight) = match rest.rsplit_once(':').filter(|_| !Path::new(rest).exists()) {
            Some((frames, weight)) => match weight.parse::<f32>() {
                Ok(weight) if weight.abs() <= MOST => (frames, weight),
                Ok(_) => return Err("a weight must be between -100 and 100".to_owned()),
                Err(_) => (rest, 1.0),
            },
            None => (rest, 1.0),
        };
        if network.is_empty() || frames.is_empty() {
            return Err(wrong());
        }
        Ok(Self { network: network.into(), frames: frames.into(), weight })
    }
}

impl fmt::Display for Named {
    /// As the command line takes it.
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "{}={}:{}", self.network.display(), self.frames.display(), self.weight)
    }
}

impl Controls {
    /// What is read.
    pub fn inputs(&self) -> impl Iterator<Item = Input> {
        let both =
            |own: &Named| [Input::new("--control", &own.network), Input::new("--control", &own.frames)];
        self.controls.iter().flat_map(both)
    }

    /// The flags that name them.
    pub fn arguments(&self) -> Vec<String> {
        let mut arguments = Vec::new();
        self.controls.iter().for_each(|own| add(&mut arguments, "--control", &own.to_string()));
        for (flag, values) in [("--control-start", &self.control_start), ("--control-end", &self.control_end)]
        {
            values.iter().for_each(|value| add(&mut arguments, flag, &value.to_string()));
        }
        arguments.extend(self.control_guess.then(|| "--control-guess".to_owned()));
        arguments
    }

    /// What controls videos of `request` on such a base.
    ///
    /// # Errors
    /// When a network cannot be read or does not fit the base, or the pictures are too few.
    pub fn open(&self, about: &Description, request: &Request, device: &Device) -> Result<Vec<Control>> {
        let mut controls = Vec::new();
        for (index, own) in self.controls.iter().enumerate() {
            let size = [request.frames, request.height, request.width];
            controls.push(Control {
                network: about
                    .control(&own.network, device)
                    .with_context(|| format!("--control {}", own.network.display()))?,
                pictures: pictures(&own.frames, size, device)
                    .with_context(|| format!("--control {}", own.frames.display()))?,
                weight: own.weight,
                window: self.window(index)?,
                guess: self.control_guess,
            });
        }
        Ok(controls)
    }

    /// When the control of this index counts.
    fn window(&self, index: usize) -> Result<Window> {
        let of = |flag: &str, values: &[f32], usual: f32| match values {
            [] => Ok(usual),
            [all] => Ok(*all),
            each => each.get(index).copied().ok_or_else(|| {
                let reason = format!("{flag}: {} given for {} controls", each.len(), self.controls.len());
                WrongUsage(format!("{reason}; give one, or one for each"))
            }),
        };
        let start = of("--control-start", &self.control_start, 0.0)?;
        let end = of("--control-end", &self.control_end, 1.0)?;
        if !(0.0..=1.0).contains(&start) || !(start..=1.0).contains(&end) {
            let reason = "--control-start and --control-end: must be a part of 0 to 1";
            return Err(WrongUsage(reason.to_owned()).into());
        }
        Ok(Window { start, end })
    }
}

/// The pictures of a folder, the frames of a clip, or one picture, as `(1, 3, frames, height, width)` in
/// [0, 1].
fn pictures(path: &Path, [frames, height, width]: [usize; 3], device: &Device) -> Result<Tensor<5>> {
    let images = if path.is_dir() {
        Video::read_frames(path, 1.0)?.frames
    } else if is_video(path) {
        Video::read(path)?.frames
    } else {
        vec![Picture::open(path)?.image]
    };
    if images.len() != 1 && images.len() < frames {
        bail!("{} pictures for {frames} frames; give one for each, or one for all", images.len());
    }
    let sized = |image: &Image| -> Result<Image> {
        if [image.height, image.width] == [height, width] {
            return Ok(image.clone());
        }
        Ok(Pillow::Lanczos.resize(image, [height, width])?)
    };
    let images = images.iter().take(frames).map(sized).collect::<Result<Vec<_>>>()?;
    let images: Vec<Image> = images.iter().cycle().take(frames).cloned().collect();
    let planar = Video::new(images, 1.0)?.to_planar(Range::Unit);
    Ok(Tensor::from_data(TensorData::new(planar, [1, 3, frames, height, width]), device))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn controls_have_a_network_frames_and_maybe_a_weight() {
        let read = |text: &str| text.parse::<Named>();
        let named = |network: &str, frames: &str, weight| {
            Ok(Named { network: network.into(), frames: frames.into(), weight })
        };
        assert_eq!(read("pose=frames"), named("pose", "frames", 1.0));
        assert_eq!(read("pose=frames:0.5"), named("pose", "frames", 0.5));
        assert_eq!(read("d/pose.safetensors=C:/x"), named("d/pose.safetensors", "C:/x", 1.0));
        assert_eq!(read("pose=a.mp4:0.5").unwrap().to_string(), "pose=a.mp4:0.5");
        for wrong in ["pose", "=frames", "pose=", "pose=frames:1e9"] {
            assert!(read(wrong).is_err(), "{wrong}");
        }
    }
}
