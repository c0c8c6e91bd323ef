//! Pictures as a published network wants them: its `preprocessor_config.json`, with Pillow's resampling.

use serde::Deserialize;
use understudy_media::Image;
use understudy_media::resample::Pillow;

use crate::error::{Error, Result};

/// What an image processor of transformers does: resize, crop, scale, normalize.
#[derive(Clone, Debug, PartialEq)]
pub struct Preprocess {
    resize: Option<(Resize, Pillow)>,
    /// Height and width of the centre that is kept.
    crop: Option<[usize; 2]>,
    scale: Option<f64>,
    /// Mean and deviation of each channel.
    normalize: Option<[[f64; 3]; 2]>,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Resize {
    /// The shorter side to this, the longer one along.
    Shortest(usize),
    /// To this height and width.
    To([usize; 2]),
}

/// The file, as its versions have it.
#[derive(Debug, Deserialize)]
struct Published {
    #[serde(alias = "feature_extractor_type", default)]
    image_processor_type: Option<String>,
    #[serde(default = "yes")]
    do_resize: bool,
    #[serde(default)]
    size: Option<Size>,
    #[serde(default)]
    resample: Option<u8>,
    #[serde(default)]
    do_center_crop: Option<bool>,
    #[serde(default)]
    crop_size: Option<Size>,
    #[serde(default = "yes")]
    do_rescale: bool,
    #[serde(default = "default_factor")]
    rescale_factor: f64,
    #[serde(default = "yes")]
    do_normalize: bool,
    #[serde(default)]
    image_mean: Option<[f64; 3]>,
    #[serde(default)]
    image_std: Option<[f64; 3]>,
}

#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(untagged)]
enum Size {
    Side(usize),
    Shortest { shortest_edge: usize },
    Both { height: usize, width: usize },
}

fn yes() -> bool {
    true
}

fn default_factor() -> f64 {
    1.0 / 255.0
}

/// OpenAI's.
pub(crate) const CLIP_MEAN: [f64; 3] = [0.48145466, 0.4578275, 0.40821073];
pub(crate) const CLIP_STD: [f64; 3] = [0.26862954, 0.26130258, 0.27577711];
/// Those of ImageNet.
pub(crate) const IMAGENET_MEAN: [f64; 3] = [0.485, 0.456, 0.406];
pub(crate) const IMAGENET_STD: [f64; 3] = [0.229, 0.224, 0.225];

impl Preprocess {
    /// Reads the text of a `preprocessor_config.json`; `file` names it in errors.
    ///
    /// # Errors
    /// When it is malformed, or asks for something that is not implemented.
    pub fn parse(text: &[u8], file: &str) -> Result<Self> {
        let fault = |reason: String| Error::Config { file: file.to_owned(), reason };
        let text = understudy_engine::text::decoded(text).map_err(fault)?;
        let published: Published = serde_json::from_str(&text).map_err(|error| fault(error.to_string()))?;
        // ViT's processor makes squares of its own mean; CLIP's and BiT's keep the aspect and crop.
        let squares = published.image_processor_type.as_deref().is_some_and(|kind| kind.starts_with("ViT"));
        let square = |size: Size| match size {
            Size::Side(side) => [side, side],
            Size::Shortest { shortest_edge } => [shortest_edge, shortest_edge],
            Size::Both { height, width } => [height, width],
        };
        let resize = match published.size.unwrap_or(Size::Side(224)) {
            Size::Side(side) if !squares => Resize::Shortest(side),
            Size::Shortest { shortest_edge } => Resize::Shortest(shortest_edge),
            size => Resize::To(square(size)),
        };
        let filter = match published.resample.unwrap_or(if squares { 2 } else { 3 }) {
            2 => Pillow::Bilinear,
            3 => Pillow::Bicubic,
            other => {
                return Err(fault(format!(
                    "resample {other} is not known; 2 (bilinear) and 3 (bicubic) are"
                )));
            }
        };
        let crops = published.do_center_crop.unwrap_or(!squares);
        let crop = crops.then(|| square(published.crop_size.unwrap_or(Size::Side(224))));
        let usual = if squares { [[0.5; 3]; 2] } else { [CLIP_MEAN, CLIP_STD] };
        let normalize = [published.image_mean.unwrap_or(usual[0]), published.image_std.unwrap_or(usual[1])];
        let sides = match resize {
            Resize::Shortest(side) => [side, side],
            Resize::To(size) => size,
        };
        let allowed = |side: usize| (1..=4096).contains(&side);
        if !sides.into_iter().chain(crop.into_iter().flatten()).all(allowed) {
            return Err(fault("size and crop_size must be 1 to 4096 pixels".to_owned()));
        }
        if normalize[1].contains(&0.0) {
            return Err(fault("image_std must not be 0".to_owned()));
        }
        Ok(Self {
            resize: published.do_resize.then_some((resize, filter)),
            crop,
            scale: published.do_rescale.then_some(published.rescale_factor),
            normalize: published.do_normalize.then_some(normalize),
        })
    }

    /// Pictures resized to squares of `side` whatever their aspect, bicubic, and normalized by mean and
    /// deviation.
    pub(crate) fn squares(side: usize, normalize: [[f64; 3]; 2]) -> Self {
        Self {
            resize: Some((Resize::To([side; 2]), Pillow::Bicubic)),
            crop: None,
            scale: Some(default_factor()),
            normalize: Some(normalize),
        }
    }

    /// A picture as planes `(3, height, width)`, and their height and width.
    ///
    /// # Errors
    /// When the picture is inconsistent.
    pub fn planes(&self, picture: &Image) -> Result<(Vec<f32>, [usize; 2])> {
        let resized = match self.resize {
            Some((resize, filter)) => filter.resize(picture, resize.of([picture.height, picture.width]))?,
            None => picture.clone(),
        };
        let [height, width] = self.crop.unwrap_or([resized.height, resized.width]);
        let mut planes = Vec::with_capacity(3 * height * width);
        for channel in 0..3 {
            let [mean, deviation] =
                self.normalize.map_or([0.0, 1.0], |both| both.map(|values| values[channel]));
            let value = |sample: u8| {
                let scaled = (f64::from(sample) * self.scale.unwrap_or(1.0)) as f32;
                (scaled - mean as f32) / deviation as f32
            };
            for row in 0..height {
                let pixel = |column: usize| {
                    centered(&resized, [height, width], [row, column]).map(|at| resized.rgb[at + channel])
                };
                planes.extend((0..width).map(|column| value(pixel(column).unwrap_or(0))));
            }
        }
        Ok((planes, [height, width]))
    }
}

impl Resize {
    /// The size a picture of `[height, width]` gets.
    fn of(self, [height, width]: [usize; 2]) -> [usize; 2] {
        match self {
            Self::To(size) => size,
            Self::Shortest(side) if height <= width => [side, (side * width / height).max(1)],
            Self::Shortest(side) => [(side * height / width).max(1), side],
        }
    }
}

/// Where in `picture` the pixel of its centre `[height, width]` is; none beyond its edges.
fn centered(picture: &Image, [height, width]: [usize; 2], [row, column]: [usize; 2]) -> Option<usize> {
    let inside = |at: usize, whole: usize, kept: usize| {
        if whole >= kept {
            return Some(at + (whole - kept) / 2);
        }
        // What is missing is zeros, the odd one at the front.
        at.checked_sub((kept - whole).div_ceil(2)).filter(|at| *at < whole)
    };
    let row = inside(row, picture.height, height)?;
    let column = inside(column, picture.width, width)?;
    Some((row * picture.width + column) * 3)
}
