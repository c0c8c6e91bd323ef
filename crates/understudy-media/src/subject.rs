//! A subject: a folder of pictures with captions and masks beside them, or one picture.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use rayon::prelude::*;

use self::sorting::{Sorted, sort};
use crate::beside::{CAPTIONS, Names, Note, name};
use crate::error::shown;
use crate::picture;
use crate::{Error, Picture, Result};

mod sorting;

/// One usable picture of a subject.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SubjectItem {
    /// The picture file.
    pub path: PathBuf,
    /// What its caption says, without surrounding space; see [`Caption::beside`](crate::Caption::beside).
    /// `None` without such a file, or when it is blank.
    pub caption: Option<String>,
    /// Its mask, where there is one: `NAME.mask.png`, `NAME_mask.png`, `NAME-masklabel.png`, `masks/NAME.png`
    /// and the like.
    pub mask: Option<PathBuf>,
    /// Pixels a row, upright.
    pub width: usize,
    /// Rows, upright.
    pub height: usize,
    /// What is to be said of it and of its caption.
    pub notes: Vec<Note>,
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

    /// Lists the pictures directly in a folder (subfolders are not entered, but for masks): PNG, JPEG, WebP,
    /// BMP and TIFF by content, with the captions and masks beside them. Every picture is decoded once, so
    /// that a damaged one shows now and not after an hour.
    ///
    /// # Errors
    /// [`Error::UnreadablePictures`] naming every unreadable one, when strict; [`Error::NoPictures`] when
    /// none is usable; for a single file, as [`Picture::open`].
    pub fn open_with(path: impl AsRef<Path>, options: FolderOptions) -> Result<Self> {
        let path = path.as_ref();
        let metadata = fs::metadata(path).map_err(|e| Error::read(path, e))?;
        if metadata.is_file() {
            let item = SubjectItem::open(path)?;
            return Ok(Self { path: path.into(), items: vec![item], left_out: Vec::new() });
        }
        if !metadata.is_dir() {
            let advice = "give a folder of pictures, a picture or a video";
            return Err(Error::unreadable(path, "neither a file nor a folder", advice));
        }
        let names = Names::list(path)?;
        let Sorted { pictures, mut left_out, unreadable, .. } = sort(&names);
        let read: Vec<Result<SubjectItem>> =
            pictures.par_iter().map(|(picture, note)| read_item(picture, &names, *note)).collect();
        let (mut items, mut problems) = (Vec::new(), unreadable);
        for ((picture, _), outcome) in pictures.into_iter().zip(read) {
            match outcome {
                Ok(item) => items.push(item),
                Err(error) => problems.push(fault(picture, &error, options.strict)),
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

    /// The clip of a folder that has one and no picture, and what else lies there that is not its caption or
    /// its masks.
    ///
    /// # Errors
    /// When the folder cannot be listed.
    pub fn lone_clip(folder: impl AsRef<Path>) -> Result<Option<(PathBuf, Vec<LeftOut>)>> {
        let names = Names::list(folder.as_ref())?;
        let Sorted { pictures, left_out, unreadable, clips } = sort(&names);
        let masks: BTreeSet<PathBuf> = clips.iter().filter_map(|clip| names.clip_masks(clip)).collect();
        let shown: Vec<&PathBuf> = clips.iter().filter(|clip| !masks.contains(*clip)).collect();
        let ([clip], true) = (&shown[..], pictures.is_empty() && unreadable.is_empty()) else {
            return Ok(None);
        };
        let caption = names.captions(clip, &CAPTIONS).into_iter().next();
        let used = |path: &Path| path == *clip || Some(path) == caption || masks.contains(path);
        let left_out = left_out.into_iter().filter(|own| !used(&own.path)).collect();
        Ok(Some(((*clip).clone(), left_out)))
    }
}

impl SubjectItem {
    /// One picture, with the caption and the mask beside it.
    ///
    /// # Errors
    /// As [`Picture::open`] of it and its mask; when its caption is no text.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let names = Names::list(&crate::atomic::parent(path)).unwrap_or_default();
        // What is named as a mask is a picture if it is asked for.
        read_item(path, &names, None)
    }

    /// Decodes the picture. Its mask is the mask file where there is one, else its transparency.
    ///
    /// # Errors
    /// As [`Picture::open`]; [`Error::Unreadable`] when the mask has another size than the picture.
    pub fn load(&self) -> Result<Picture> {
        Ok(load(&self.path, self.mask.as_deref())?.0)
    }
}

/// What is said of a picture that is transparent in part.
const CUT_OUT: &str =
    "what is transparent in it is laid over white, and the rest is its mask: where the subject is";
/// The same of one with a mask in a file.
const CUT_OUT_AND_MASKED: &str =
    "what is transparent in it is laid over white; its mask is the file of that name";

/// A picture with its mask, and what is to be said of them.
pub(crate) fn load(path: &Path, mask: Option<&Path>) -> Result<(Picture, Vec<Note>)> {
    let (mut picture, colors) = picture::read(path, [255; 3])?;
    let transparent = if mask.is_some() { CUT_OUT_AND_MASKED } else { CUT_OUT };
    let transparent = picture.mask.as_ref().map(|_| transparent.to_owned());
    let said = colors.into_iter().chain(transparent);
    let mut notes: Vec<Note> = said.map(|text| Note { path: path.into(), text }).collect();
    if let Some(mask_path) = mask {
        let (mask, note) = picture::read_mask(mask_path)?;
        if (mask.width, mask.height) != (picture.image.width, picture.image.height) {
            let reason = format!(
                "the mask is {}x{} but its picture {}x{}",
                mask.width, mask.height, picture.image.width, picture.image.height
            );
            return Err(Error::unreadable(mask_path, reason, "make them the same size"));
        }
        picture.mask = Some(mask);
        notes.extend(note.map(|text| Note { path: mask_path.into(), text: text.into() }));
    }
    Ok((picture, notes))
}

fn read_item(path: &Path, names: &Names, note: Option<&str>) -> Result<SubjectItem> {
    let mask = names.mask(path);
    let (picture, mut notes) = load(path, mask.as_deref())?;
    let caption = names.caption(path, &CAPTIONS)?;
    notes.extend(note.map(|text| Note { path: path.into(), text: text.into() }));
    if let Some((path, text)) = caption.as_ref().and_then(|own| Some((&own.path, own.note?))) {
        notes.push(Note { path: path.clone(), text: text.into() });
    }
    Ok(SubjectItem {
        path: path.into(),
        caption: caption.map(|own| own.text).filter(|text| !text.is_empty()),
        mask,
        width: picture.image.width,
        height: picture.image.height,
        notes,
    })
}

/// What is wrong with a picture, by the file that is at fault: it, its caption or its mask. Where that is no
/// error but a reason to leave the picture out, by the picture.
fn fault(picture: PathBuf, error: &Error, strict: bool) -> LeftOut {
    match error.path().filter(|path| *path != picture) {
        None => LeftOut { reason: reason_only(&picture, error), path: picture },
        Some(_) if !strict => LeftOut { reason: error.to_string(), path: picture },
        Some(own) => {
            let owner = shown(Path::new(name(&picture)));
            LeftOut {
                reason: format!("{}; it belongs to {owner}", reason_only(own, error)),
                path: own.into(),
            }
        }
    }
}

fn summary(left_out: &[LeftOut]) -> String {
    let entries =
        left_out.iter().map(|entry| format!("{} ({})", shown(Path::new(name(&entry.path))), entry.reason));
    entries.collect::<Vec<_>>().join(", ")
}

/// An error's text without the path it begins with, for lists that name the file anyway.
fn reason_only(path: &Path, error: &Error) -> String {
    let text = error.to_string();
    let prefix = format!("{}: ", shown(path));
    text.strip_prefix(&prefix).unwrap_or(&text).into()
}
