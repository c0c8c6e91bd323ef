//! Dataset descriptions: the `[general]` / `[[datasets]]` TOML of musubi-tuner, and JSONL with the same keys.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::beside::{Names, Note, keys, mask_of};
use crate::format::{foreign, sniff};
use crate::kind::is_animation;
use crate::subject::{LeftOut, load};
use crate::video::{is_mp4, read_head};
use crate::{Error, Picture, Result, Text, shown};

/// Width and height of a description that states none, as musubi-tuner has them.
pub const DEFAULT_RESOLUTION: [usize; 2] = [960, 544];

/// Whether an item is a picture or a clip.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MediaKind {
    /// PNG, JPEG, WebP, BMP or TIFF.
    Image,
    /// MP4, GIF or animated WebP.
    Video,
}

/// Which frames of a clip are taken, in musubi-tuner's words.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum FrameExtraction {
    /// The first frames.
    #[default]
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

/// One picture or clip to train on.
#[derive(Debug, Clone, PartialEq)]
pub struct DatasetItem {
    /// The media file.
    pub path: PathBuf,
    /// Picture or clip.
    pub kind: MediaKind,
    /// Its caption; `None` where there is none.
    pub caption: Option<String>,
    /// The mask beside a picture, where there is one.
    pub mask: Option<PathBuf>,
    /// Target size `[width, height]`, as in the file.
    pub resolution: [usize; 2],
    /// Whether sizes of other aspect but like area are used.
    pub enable_bucket: bool,
    /// Whether small media keep their size in buckets.
    pub bucket_no_upscale: bool,
    /// How often it is seen in one epoch.
    pub num_repeats: usize,
    /// Lengths of the clips cut from a video, each `4k + 1`.
    pub target_frames: Vec<usize>,
    /// Which frames of a video are taken.
    pub frame_extraction: FrameExtraction,
    /// Step of [`FrameExtraction::Slide`].
    pub frame_stride: usize,
    /// Number of windows of [`FrameExtraction::Uniform`].
    pub frame_sample: usize,
    /// Limit of [`FrameExtraction::Full`].
    pub max_frames: usize,
    /// The frame rate to assume, where the file's is wrong.
    pub source_fps: Option<f64>,
}

/// A key that is understood but has no effect here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ignored {
    /// The key as written, e.g. `datasets[0].cache_directory`.
    pub key: String,
    /// Why it has no effect.
    pub reason: &'static str,
}

/// All items of a dataset description, and what of it is not used.
#[derive(Debug, Clone, PartialEq)]
pub struct Dataset {
    /// What to train on, in the order of the file and by name within a folder.
    pub items: Vec<DatasetItem>,
    /// Files that lie in the folders but are not used.
    pub left_out: Vec<LeftOut>,
    /// Keys without effect.
    pub ignored: Vec<Ignored>,
    /// What is to be said of files that are used.
    pub notes: Vec<Note>,
}

impl Dataset {
    /// Reads a `.toml` description with `[general]` and `[[datasets]]`, or a `.jsonl` file whose lines have
    /// `image_path` or `video_path`, and `caption`. Relative paths are relative to the description's folder.
    ///
    /// Media are found and told apart by content but not decoded.
    ///
    /// # Errors
    /// [`Error::Config`] naming the unknown, missing or wrong field; [`Error::Io`] or [`Error::Unreadable`] for files
    /// that are missing or not media; [`Error::NoPictures`] when nothing is left.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let mut dataset =
            Self { items: Vec::new(), left_out: Vec::new(), ignored: Vec::new(), notes: Vec::new() };
        let extension = path.extension().map(|own| own.to_string_lossy().to_lowercase());
        match extension.as_deref() {
            Some("toml") => dataset.read_toml(path)?,
            Some("jsonl") => dataset.read_jsonl(path, None, &Keys::default())?,
            _ => {
                return Err(config(path, "file name", "a dataset description ends in .toml or .jsonl"));
            }
        }
        if dataset.items.is_empty() {
            return Err(Error::NoPictures {
                path: path.into(),
                left_out: format!("{} files", dataset.left_out.len()),
            });
        }
        Ok(dataset)
    }

    fn read_toml(&mut self, path: &Path) -> Result<()> {
        let text = self.read_text(path)?;
        let file: File = toml::from_str(&text).map_err(|error| {
            let line = error.span().map_or(1, |span| 1 + text[..span.start].matches('\n').count());
            config(path, format!("line {line}"), format!("{}; correct or remove it", error.message()))
        })?;
        self.note_ignored(&file.general, "general");
        if file.datasets.is_empty() {
            return Err(config(path, "datasets", "is missing; add at least one [[datasets]] table"));
        }
        for (index, own) in file.datasets.iter().enumerate() {
            let field = format!("datasets[{index}]");
            self.note_ignored(own, &field);
            let keys = own.clone().or(&file.general);
            keys.check(path, &field)?;
            self.read_source(path, &keys, &field)?;
        }
        Ok(())
    }

    fn read_source(&mut self, path: &Path, keys: &Keys, field: &str) -> Result<()> {
        let sources = [
            (&keys.image_directory, MediaKind::Image, false),
            (&keys.video_directory, MediaKind::Video, false),
            (&keys.image_jsonl_file, MediaKind::Image, true),
            (&keys.video_jsonl_file, MediaKind::Video, true),
        ];
        let mut given =
            sources.into_iter().filter_map(|(source, kind, list)| Some((source.as_ref()?, kind, list)));
        let (Some((source, kind, is_list)), None) = (given.next(), given.next()) else {
            let one =
                "needs exactly one of image_directory, video_directory, image_jsonl_file, video_jsonl_file";
            return Err(config(path, field, one));
        };
        let source = crate::atomic::parent(path).join(source);
        if is_list {
            self.read_jsonl(&source, Some(kind), keys)
        } else {
            self.read_folder(&source, kind, keys)
        }
    }

    fn read_text(&mut self, path: &Path) -> Result<String> {
        let text = Text::read(path)?;
        self.notes.extend(text.note().map(|said| Note { path: path.into(), text: said.into() }));
        Ok(text.content)
    }

    fn read_folder(&mut self, folder: &Path, kind: MediaKind, keys: &Keys) -> Result<()> {
        let extension = keys.caption_extension.as_deref().unwrap_or(".txt").trim_start_matches('.');
        let names = Names::list(folder)?;
        let masks = masks(&names)?;
        for path in &names.paths {
            let out = |reason: &str| LeftOut { path: path.clone(), reason: reason.into() };
            if names.mask_folders.iter().any(|(folder, _)| folder == path) || masks.contains(path) {
                continue;
            }
            if !path.is_file() {
                self.left_out.push(out("a folder; subfolders are not read"));
                continue;
            }
            if path.extension().is_some_and(|own| own.eq_ignore_ascii_case(extension)) {
                continue; // a caption
            }
            let head = read_head(path)?;
            match (media_kinds(path, &head), foreign(path, &head)) {
                (kinds, _) if kinds.contains(&kind) => {
                    self.read_item(path, kind, keys, (&names, extension))?
                }
                (_, Some(found)) => self.left_out.push(out(&format!("{}; {}", found.name, found.advice))),
                ([], _) => self.left_out.push(out("neither a picture nor a video")),
                _ if kind == MediaKind::Image => self.left_out.push(out("a video in an image_directory")),
                _ => self.left_out.push(out("a picture in a video_directory")),
            }
        }
        Ok(())
    }

    /// A picture or a clip of a folder, with its caption and its mask.
    fn read_item(&mut self, path: &Path, kind: MediaKind, keys: &Keys, beside: (&Names, &str)) -> Result<()> {
        let (names, extension) = beside;
        let caption = names.caption(path, &[extension])?;
        if let Some((path, said)) = caption.as_ref().and_then(|own| Some((&own.path, own.note?))) {
            self.notes.push(Note { path: path.clone(), text: said.into() });
        }
        let mask = if kind == MediaKind::Image { names.mask(path) } else { None };
        let item = keys.item(path.into(), kind, caption.map(|own| own.text).filter(|text| !text.is_empty()));
        self.items.push(DatasetItem { mask, ..item });
        Ok(())
    }

    fn read_jsonl(&mut self, path: &Path, expected: Option<MediaKind>, keys: &Keys) -> Result<()> {
        let text = self.read_text(path)?;
        for (number, line) in (1..).zip(text.lines()).filter(|(_, line)| !line.trim().is_empty()) {
            let field = format!("line {number}");
            let wrong = |reason: String| config(path, &field, reason);
            let entry: Line =
                serde_json::from_str(line).map_err(|e| wrong(format!("{e}; correct this line")))?;
            if entry.control_path.is_some() {
                self.ignored.push(Ignored { key: format!("{field}: control_path"), reason: NO_CONTROL });
            }
            let (media, kind) = match (entry.image_path, entry.video_path) {
                (Some(media), None) => (media, MediaKind::Image),
                (None, Some(media)) => (media, MediaKind::Video),
                _ => {
                    return Err(wrong("needs exactly one of image_path and video_path".into()));
                }
            };
            if expected.is_some_and(|expected| expected != kind) {
                return Err(wrong(format!("a {kind:?} path in a list of the other kind").to_lowercase()));
            }
            let media = crate::atomic::parent(path).join(media);
            let head = read_head(&media)?;
            if let Some(found) = foreign(&media, &head) {
                return Err(wrong(format!("{} is {}; {}", shown(&media), found.name, found.advice)));
            }
            if !media_kinds(&media, &head).contains(&kind) {
                let reason = format!("{} is not a {}", shown(&media), format!("{kind:?}").to_lowercase());
                return Err(wrong(reason));
            }
            let caption = entry.caption.map(|text| text.trim().to_string()).filter(|text| !text.is_empty());
            self.items.push(keys.item(media, kind, caption));
        }
        Ok(())
    }

    fn note_ignored(&mut self, keys: &Keys, field: &str) {
        let unused = [
            (keys.cache_directory.is_some(), "cache_directory", "caches are kept by content, not by folder"),
            (keys.control_directory.is_some(), "control_directory", NO_CONTROL),
            (keys.batch_size.is_some(), "batch_size", "the batch size is set on the training command"),
        ];
        let unused = unused.into_iter().filter(|(given, _, _)| *given);
        self.ignored.extend(unused.map(|(_, key, reason)| Ignored { key: format!("{field}.{key}"), reason }));
    }
}

impl DatasetItem {
    /// Decodes a picture item. Its mask is the mask file where there is one, else its transparency.
    ///
    /// # Errors
    /// As [`Picture::open`]; [`Error::Unreadable`] when the mask has another size than the picture.
    pub fn load_picture(&self) -> Result<Picture> {
        Ok(load(&self.path, self.mask.as_deref())?.0)
    }
}

const NO_CONTROL: &str = "control pictures are not trained on";

/// What a file that begins like this can serve as; of an animation the first frame is a picture.
fn media_kinds(path: &Path, head: &[u8]) -> &'static [MediaKind] {
    match sniff(head) {
        Some(_) if is_animation(path) => &[MediaKind::Image, MediaKind::Video],
        Some(_) => &[MediaKind::Image],
        None if foreign(path, head).is_none() && is_mp4(head) || head.starts_with(b"GIF8") => {
            &[MediaKind::Video]
        }
        None => &[],
    }
}

/// The pictures of a folder that are masks of others.
fn masks(names: &Names) -> Result<BTreeSet<PathBuf>> {
    let mut owners = BTreeSet::new();
    for path in names.paths.iter().filter(|path| path.is_file()) {
        if sniff(&read_head(path)?).is_some() {
            owners.extend(keys(path));
        }
    }
    let owned = |path: &&PathBuf| mask_of(path).is_some_and(|(owner, _)| owners.contains(&owner));
    Ok(names.paths.iter().filter(owned).cloned().collect())
}

fn config(path: &Path, field: impl Into<String>, reason: impl Into<String>) -> Error {
    Error::Config { path: path.into(), field: field.into(), reason: reason.into() }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(default)]
    general: Keys,
    #[serde(default)]
    datasets: Vec<Keys>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Line {
    #[serde(alias = "file_name", alias = "image")]
    image_path: Option<PathBuf>,
    #[serde(alias = "video")]
    video_path: Option<PathBuf>,
    #[serde(alias = "text", alias = "prompt")]
    caption: Option<String>,
    control_path: Option<PathBuf>,
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
struct Keys {
    image_directory: Option<PathBuf>,
    video_directory: Option<PathBuf>,
    image_jsonl_file: Option<PathBuf>,
    video_jsonl_file: Option<PathBuf>,
    cache_directory: Option<PathBuf>,
    control_directory: Option<PathBuf>,
    caption_extension: Option<String>,
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
}

impl Keys {
    /// These keys, and those of `general` where they say nothing.
    fn or(self, general: &Self) -> Self {
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
        }
    }

    fn check(&self, path: &Path, field: &str) -> Result<()> {
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

    fn item(&self, path: PathBuf, kind: MediaKind, caption: Option<String>) -> DatasetItem {
        DatasetItem {
            path,
            kind,
            caption,
            mask: None,
            resolution: self.sides(),
            enable_bucket: self.enable_bucket.unwrap_or(false),
            bucket_no_upscale: self.bucket_no_upscale.unwrap_or(false),
            num_repeats: self.num_repeats.unwrap_or(1),
            target_frames: self.target_frames.clone().unwrap_or_else(|| vec![1]),
            frame_extraction: self.frame_extraction.unwrap_or_default(),
            frame_stride: self.frame_stride.unwrap_or(1),
            frame_sample: self.frame_sample.unwrap_or(1),
            max_frames: self.max_frames.unwrap_or(129),
            source_fps: self.source_fps,
        }
    }
}
