//! The keys of a description of a data set, and which of them have an effect.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde::de::IgnoredAny;

use super::{DEFAULT_RESOLUTION, DatasetItem, MediaKind, config};
use crate::Result;

pub(super) const NO_CONTROL: &str = "control pictures are not trained on";

/// A description.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct File {
    #[serde(default)]
    pub general: Keys,
    #[serde(default)]
    pub datasets: Vec<Keys>,
}

/// A line of a list.
#[derive(Deserialize)]
pub(super) struct Line {
    #[serde(alias = "file_name", alias = "image")]
    pub image_path: Option<PathBuf>,
    #[serde(alias = "video")]
    pub video_path: Option<PathBuf>,
    #[serde(alias = "text", alias = "prompt")]
    pub caption: Option<String>,
    #[serde(flatten)]
    others: BTreeMap<String, IgnoredAny>,
}

/// A side, or width and height.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(untagged)]
enum Resolution {
    Square(usize),
    Sides([usize; 2]),
}

/// The keys of `[general]` and `[[datasets]]`; the latter win.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Keys {
    pub image_directory: Option<PathBuf>,
    pub video_directory: Option<PathBuf>,
    pub image_jsonl_file: Option<PathBuf>,
    pub video_jsonl_file: Option<PathBuf>,
    cache_directory: Option<PathBuf>,
    control_directory: Option<PathBuf>,
    pub caption_extension: Option<String>,
    resolution: Option<Resolution>,
    batch_size: Option<usize>,
    num_repeats: Option<usize>,
    enable_bucket: Option<bool>,
    bucket_no_upscale: Option<bool>,
    target_frames: Option<Vec<usize>>,
    frame_extraction: Option<FrameExtraction>,
    frame_stride: Option<usize>,
    frame_sample: Option<usize>,
    max_frames: Option<usize>,
    source_fps: Option<f64>,
    // Of other models than these and of control pictures.
    control_resolution: Option<IgnoredAny>,
    no_resize_control: Option<IgnoredAny>,
    multiple_target: Option<IgnoredAny>,
    flux_kontext_no_resize_control: Option<IgnoredAny>,
    qwen_image_edit_no_resize_control: Option<IgnoredAny>,
    qwen_image_edit_control_resolution: Option<IgnoredAny>,
    fp_latent_window_size: Option<IgnoredAny>,
    fp_1f_clean_indices: Option<IgnoredAny>,
    fp_1f_target_index: Option<IgnoredAny>,
    fp_1f_no_post: Option<IgnoredAny>,
}

/// Which frames of a clip are taken, in musubi-tuner's words.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum FrameExtraction {
    /// The first frames.
    Head,
    /// Consecutive pieces, nothing overlapping.
    Chunk,
    /// A window moved by `frame_stride`.
    Slide,
    /// `frame_sample` windows spread evenly.
    Uniform,
    /// The whole clip, up to `max_frames`.
    Full,
}

impl Keys {
    /// These keys, and those of `general` where they say nothing.
    pub fn or(self, general: &Self) -> Self {
        let general = general.clone();
        Self {
            image_directory: self.image_directory.or(general.image_directory),
            video_directory: self.video_directory.or(general.video_directory),
            image_jsonl_file: self.image_jsonl_file.or(general.image_jsonl_file),
            video_jsonl_file: self.video_jsonl_file.or(general.video_jsonl_file),
            cache_directory: self.cache_directory.or(general.cache_directory),
            control_directory: self.control_directory.or(general.control_directory),
            caption_extension: self.caption_extension.or(general.caption_extension),
            resolution: self.resolution.or(general.resolution),
            batch_size: self.batch_size.or(general.batch_size),
            num_repeats: self.num_repeats.or(general.num_repeats),
            enable_bucket: self.enable_bucket.or(general.enable_bucket),
            bucket_no_upscale: self.bucket_no_upscale.or(general.bucket_no_upscale),
            target_frames: self.target_frames.or(general.target_frames),
            frame_extraction: self.frame_extraction.or(general.frame_extraction),
            frame_stride: self.frame_stride.or(general.frame_stride),
            frame_sample: self.frame_sample.or(general.frame_sample),
            max_frames: self.max_frames.or(general.max_frames),
            source_fps: self.source_fps.or(general.source_fps),
            ..self
        }
    }

    /// # Errors
    /// Names the first that is out of its range.
    pub fn check(&self, path: &Path, field: &str) -> Result<()> {
        let sides = self.sides();
        let frames = self.target_frames.as_deref().unwrap_or_default();
        let wrong = [
            (
                sides.iter().any(|side| !(16..=16_384).contains(side)),
                "resolution",
                "a side is outside 16..=16384",
            ),
            (self.num_repeats == Some(0), "num_repeats", "must be at least 1"),
            (
                frames.iter().any(|n| n % 4 != 1),
                "target_frames",
                "every length must be 4k + 1, such as 1, 17, 81",
            ),
            (self.frame_stride == Some(0), "frame_stride", "must be at least 1"),
            (self.frame_sample == Some(0), "frame_sample", "must be at least 1"),
            (self.max_frames == Some(0), "max_frames", "must be at least 1"),
            (
                self.source_fps.is_some_and(|fps| !(0.1..=1000.0).contains(&fps)),
                "source_fps",
                "must be within 0.1 and 1000",
            ),
        ];
        match wrong.into_iter().find(|(is_wrong, _, _)| *is_wrong) {
            Some((_, key, reason)) => Err(config(path, format!("{field}.{key}"), reason)),
            None => Ok(()),
        }
    }

    /// Width and height.
    fn sides(&self) -> [usize; 2] {
        match self.resolution {
            None => DEFAULT_RESOLUTION,
            Some(Resolution::Square(side)) => [side, side],
            Some(Resolution::Sides(sides)) => sides,
        }
    }

    /// What of these has no effect here, and why.
    pub fn unused(&self) -> impl Iterator<Item = (&'static str, &'static str)> {
        const LENGTH: &str = "clips are of the length that the training command sets (clip_frames)";
        const ONE_AFTER_ANOTHER: &str = "a video is cut into clips that follow one another";
        const OTHER_MODEL: &str = "it is for another kind of model";
        let chunked = matches!(self.frame_extraction, None | Some(FrameExtraction::Chunk));
        let upscaled = self.bucket_no_upscale == Some(true);
        let unused = [
            (self.cache_directory.is_some(), "cache_directory", "caches are kept by content, not by folder"),
            (self.batch_size.is_some(), "batch_size", "the batch size is set on the training command"),
            (upscaled, "bucket_no_upscale", "small pictures are scaled up to the size that is trained at"),
            (self.target_frames.is_some(), "target_frames", LENGTH),
            (self.max_frames.is_some(), "max_frames", ONE_AFTER_ANOTHER),
            (!chunked, "frame_extraction", ONE_AFTER_ANOTHER),
            (self.frame_stride.is_some(), "frame_stride", ONE_AFTER_ANOTHER),
            (self.frame_sample.is_some(), "frame_sample", ONE_AFTER_ANOTHER),
            (self.source_fps.is_some(), "source_fps", "the times of frames are those in the file"),
            (self.control_directory.is_some(), "control_directory", NO_CONTROL),
            (self.control_resolution.is_some(), "control_resolution", NO_CONTROL),
            (self.no_resize_control.is_some(), "no_resize_control", NO_CONTROL),
            (self.multiple_target.is_some(), "multiple_target", OTHER_MODEL),
            (self.flux_kontext_no_resize_control.is_some(), "flux_kontext_no_resize_control", OTHER_MODEL),
            (
                self.qwen_image_edit_no_resize_control.is_some(),
                "qwen_image_edit_no_resize_control",
                OTHER_MODEL,
            ),
            (
                self.qwen_image_edit_control_resolution.is_some(),
                "qwen_image_edit_control_resolution",
                OTHER_MODEL,
            ),
            (self.fp_latent_window_size.is_some(), "fp_latent_window_size", OTHER_MODEL),
            (self.fp_1f_clean_indices.is_some(), "fp_1f_clean_indices", OTHER_MODEL),
            (self.fp_1f_target_index.is_some(), "fp_1f_target_index", OTHER_MODEL),
            (self.fp_1f_no_post.is_some(), "fp_1f_no_post", OTHER_MODEL),
        ];
        unused.into_iter().filter(|(given, ..)| *given).map(|(_, key, reason)| (key, reason))
    }

    pub fn item(&self, path: PathBuf, kind: MediaKind, caption: Option<String>) -> DatasetItem {
        DatasetItem {
            path,
            kind,
            caption,
            mask: None,
            resolution: self.sides(),
            enable_bucket: self.enable_bucket,
            num_repeats: self.num_repeats.unwrap_or(1),
        }
    }
}

impl Line {
    /// The keys of control pictures among its other ones.
    ///
    /// # Errors
    /// With a key that is not known.
    pub fn control(&self) -> Result<Vec<String>, String> {
        let number = |rest: &str| rest.bytes().all(|byte| byte == b'_' || byte.is_ascii_digit());
        let known = |key: &&String| key.strip_prefix("control_path").is_some_and(number);
        match self.others.keys().find(|key| !known(key)) {
            Some(key) => Err(key.escape_debug().to_string()),
            None => Ok(self.others.keys().cloned().collect()),
        }
    }
}
