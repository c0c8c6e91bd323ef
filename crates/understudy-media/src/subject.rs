//! A subject: a folder of pictures with captions and masks beside them, or one picture.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use rayon::prelude::*;

use crate::picture::sniff;
use crate::video::{is_mp4, read_head};
use crate::{Error, Mask, Picture, Result};

/// One usable picture of a subject.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SubjectItem {
    /// The picture file.
    pub path: PathBuf,
    /// What `NAME.txt` says, without surrounding space. `None` without that file, or when it is blank.
    pub caption: Option<String>,
    /// `NAME.mask.png` or `NAME_mask.png`, where there is one.
    pub mask: Option<PathBuf>,
    /// Pixels a row, upright.
    pub width: usize,
    /// Rows, upright.
    pub height: usize,
}

/// A name of the folder that is not used, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeftOut {
    /// The file or folder.
    pub path: PathBuf,
    /// Why it is not used.
    pub reason: String,
}

/// How strict to be with a folder.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FolderOptions {
    /// An unreadable picture is an error; otherwise it is left out with the reason.
    pub strict: bool,
}

impl Default for FolderOptions {
    fn default() -> Self {
        Self { strict: true }
    }
}

/// What a subject offers: pictures sorted by name, and everything else with the reason it is left out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SubjectFolder {
    /// The folder, or the one picture.
    pub path: PathBuf,
    /// The usable pictures; at least one.
    pub items: Vec<SubjectItem>,
    /// Everything else that lies there, except the captions and masks in use.
    pub left_out: Vec<LeftOut>,
}

impl SubjectFolder {
    /// Lists a folder, or takes one picture file as the subject. Strict: see [`SubjectFolder::open_with`].
    ///
    /// # Errors
    /// As [`SubjectFolder::open_with`].
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        Self::open_with(path, FolderOptions::default())
    }

    /// Lists the pictures directly in a folder (subfolders are not entered): PNG, JPEG and WebP by content, with
    /// `NAME.txt` as caption and `NAME.mask.png` or `NAME_mask.png` as mask. Every picture is decoded once, so that a
    /// damaged one shows now and not after an hour.
    ///
    /// # Errors
    /// [`Error::UnreadablePictures`] naming every unreadable one, when strict; [`Error::NoPictures`] when none is
    /// usable; for a single file, as [`Picture::open`].
    pub fn open_with(path: impl AsRef<Path>, options: FolderOptions) -> Result<Self> {
        let path = path.as_ref();
        let metadata = fs::metadata(path).map_err(|e| Error::read(path, e))?;
        if metadata.is_file() {
            let siblings = list(&crate::atomic::parent(path)).unwrap_or_default();
            let item = read_item(path, find_mask(path, &siblings))?;
            return Ok(Self { path: path.into(), items: vec![item], left_out: Vec::new() });
        }
        if !metadata.is_dir() {
            let advice = "give a folder of pictures, a picture or a video";
            return Err(Error::unreadable(path, "neither a file nor a folder", advice));
        }
        let names = list(path)?;
        let Sorted { pictures, mut left_out, unreadable } = sort(&names);
        let read: Vec<Result<SubjectItem>> =
            pictures.par_iter().map(|picture| read_item(picture, find_mask(picture, &names))).collect();
        let (mut items, mut problems) = (Vec::new(), unreadable);
        for (picture, outcome) in pictures.into_iter().zip(read) {
            match outcome {
                Ok(item) => items.push(item),
                Err(error) => problems.push(LeftOut { reason: reason_only(&picture, &error), path: picture }),
            }
        }
        if options.strict && !problems.is_empty() {
            return Err(Error::UnreadablePictures {
                path: path.into(),
                count: problems.len(),
                problems: summary(&problems),
            });
        }
        left_out.extend(problems);
        left_out.sort_by(|a, b| a.path.cmp(&b.path));
        if items.is_empty() {
            let left_out =
                if left_out.is_empty() { "nothing, it is empty".into() } else { summary(&left_out) };
            return Err(Error::NoPictures { path: path.into(), left_out });
        }
        Ok(Self { path: path.into(), items, left_out })
    }
}

impl SubjectItem {
    /// Decodes the picture. Its mask is the mask file where there is one, else its transparency.
    ///
    /// # Errors
    /// As [`Picture::open`]; [`Error::Unreadable`] when the mask has another size than the picture.
    pub fn load(&self) -> Result<Picture> {
        load(&self.path, self.mask.as_deref())
    }
}

fn load(path: &Path, mask: Option<&Path>) -> Result<Picture> {
    let mut picture = Picture::open(path)?;
    if let Some(mask_path) = mask {
        let mask = Mask::open(mask_path)?;
        if (mask.width, mask.height) != (picture.image.width, picture.image.height) {
            let reason = format!(
                "the mask is {}x{} but its picture {}x{}",
                mask.width, mask.height, picture.image.width, picture.image.height
            );
            return Err(Error::unreadable(mask_path, reason, "make them the same size"));
        }
        picture.mask = Some(mask);
    }
    Ok(picture)
}

fn read_item(path: &Path, mask: Option<PathBuf>) -> Result<SubjectItem> {
    let picture = load(path, mask.as_deref())?;
    Ok(SubjectItem {
        path: path.into(),
        caption: read_caption(path, "txt")?,
        mask,
        width: picture.image.width,
        height: picture.image.height,
    })
}

/// The text beside `media`, if there is any.
pub(crate) fn read_caption(media: &Path, extension: &str) -> Result<Option<String>> {
    let path = media.with_extension(extension);
    if !path.is_file() {
        return Ok(None);
    }
    let bytes = fs::read(&path).map_err(|e| Error::read(&path, e))?;
    let text = String::from_utf8(bytes)
        .map_err(|_| Error::unreadable(&path, "the caption is not UTF-8 text", "save it as UTF-8"))?;
    let text = text.trim_start_matches('\u{feff}').trim();
    Ok((!text.is_empty()).then(|| text.into()))
}

/// What lies directly in a folder, sorted by name.
pub(crate) fn list(folder: &Path) -> Result<Vec<PathBuf>> {
    let entries = fs::read_dir(folder).map_err(|e| Error::read(folder, e))?;
    let mut paths = Vec::new();
    for entry in entries {
        paths.push(entry.map_err(|e| Error::read(folder, e))?.path());
    }
    paths.sort();
    Ok(paths)
}

/// A folder's names by what they are.
struct Sorted {
    pictures: Vec<PathBuf>,
    left_out: Vec<LeftOut>,
    unreadable: Vec<LeftOut>,
}

fn sort(paths: &[PathBuf]) -> Sorted {
    let stems: BTreeSet<String> =
        paths.iter().filter(|path| mask_of(path).is_none()).filter_map(|p| stem(p)).collect();
    let used: BTreeSet<PathBuf> = paths.iter().filter_map(|path| find_mask(path, paths)).collect();
    let mut sorted = Sorted { pictures: Vec::new(), left_out: Vec::new(), unreadable: Vec::new() };
    let mut captions = Vec::new();
    for path in paths {
        let out = |reason: &str| LeftOut { path: path.clone(), reason: reason.into() };
        if used.contains(path) {
            continue;
        }
        match Kind::of(path, &stems) {
            Kind::Picture => sorted.pictures.push(path.clone()),
            Kind::Caption => captions.push(path),
            Kind::Other(reason) => sorted.left_out.push(out(reason)),
            Kind::Unreadable(reason) => sorted.unreadable.push(out(&reason)),
        }
    }
    let has_picture = |caption: &Path| sorted.pictures.iter().any(|p| p.with_extension("txt") == caption);
    let orphans: Vec<_> = captions.into_iter().filter(|caption| !has_picture(caption)).cloned().collect();
    sorted.left_out.extend(
        orphans
            .into_iter()
            .map(|path| LeftOut { path, reason: "a caption without a picture of its name".into() }),
    );
    sorted
}

enum Kind {
    Picture,
    Caption,
    Other(&'static str),
    Unreadable(String),
}

impl Kind {
    fn of(path: &Path, stems: &BTreeSet<String>) -> Self {
        if path.is_dir() {
            return Self::Other("a folder; subfolders are not read");
        }
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if name.starts_with('.') {
            return Self::Other("a hidden file");
        }
        if let Some(picture) = mask_of(path) {
            return Self::Other(if stems.contains(&picture) {
                "a second mask of the same picture"
            } else {
                "named as a mask, but no picture of that name is beside it"
            });
        }
        let extension = path.extension().unwrap_or_default().to_string_lossy().to_ascii_lowercase();
        if extension == "txt" {
            return Self::Caption;
        }
        if !path.is_file() {
            return Self::Other("not a regular file");
        }
        let named_picture = matches!(extension.as_str(), "png" | "jpg" | "jpeg" | "webp");
        match read_head(path) {
            Ok(head) if sniff(&head).is_some() => Self::Picture,
            Ok(head) if is_mp4(&head) => {
                Self::Other("a video; name it alone as the subject to learn from its frames")
            }
            Ok(head) if head.starts_with(b"GIF8") => Self::Other("a GIF; convert it to PNG"),
            Ok(head) if named_picture && head.is_empty() => Self::Unreadable("the file is empty".into()),
            Ok(_) if named_picture => Self::Unreadable("not a PNG, JPEG or WebP picture inside".into()),
            Err(error) if named_picture => Self::Unreadable(reason_only(path, &error)),
            _ => Self::Other("not a PNG, JPEG or WebP picture"),
        }
    }
}

/// The name of the picture a mask file is named after.
fn mask_of(path: &Path) -> Option<String> {
    let name = path.file_name()?.to_string_lossy();
    let name = name.strip_suffix(".mask.png").or_else(|| name.strip_suffix("_mask.png"))?;
    (!name.is_empty()).then(|| name.into())
}

/// The mask beside a picture, among the names of its folder.
fn find_mask(picture: &Path, names: &[PathBuf]) -> Option<PathBuf> {
    if mask_of(picture).is_some() {
        return None;
    }
    let stem = stem(picture)?;
    [".mask.png", "_mask.png"]
        .iter()
        .map(|suffix| picture.with_file_name(format!("{stem}{suffix}")))
        .find(|mask| names.contains(mask))
}

fn stem(path: &Path) -> Option<String> {
    path.file_stem().map(|stem| stem.to_string_lossy().into_owned())
}

fn summary(left_out: &[LeftOut]) -> String {
    let name = |path: &Path| path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let entries = left_out.iter().map(|entry| format!("{} ({})", name(&entry.path), entry.reason));
    entries.collect::<Vec<_>>().join(", ")
}

/// An error's text without the path it begins with, for lists that name the file anyway.
fn reason_only(path: &Path, error: &Error) -> String {
    let text = error.to_string();
    let prefix = format!("{}: ", path.display());
    text.strip_prefix(&prefix).unwrap_or(&text).into()
}
