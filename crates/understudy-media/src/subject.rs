//! A subject: a folder of pictures with captions and masks beside them, or one picture.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use rayon::prelude::*;

use crate::beside::{CAPTIONS, Names, Note, keys, mask_of, name};
use crate::error::shown;
use crate::format::{PICTURES, foreign, is_description, is_named_picture, sniff};
use crate::kind::is_animation;
use crate::picture;
use crate::video::{is_mp4, read_head};
use crate::{Error, Mask, Picture, Result};

/// One usable picture of a subject.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SubjectItem {
    /// The picture file.
    pub path: PathBuf,
    /// What its caption says, without surrounding space; see [`Caption::beside`](crate::Caption::beside). `None` without
    /// such a file, or when it is blank.
    pub caption: Option<String>,
    /// Its mask, where there is one: `NAME.mask.png`, `NAME_mask.png`, `NAME-masklabel.png`, `masks/NAME.png` and the like.
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

    /// Lists the pictures directly in a folder (subfolders are not entered, but for masks): PNG, JPEG, WebP, BMP and TIFF by
    /// content, with the captions and masks beside them. Every picture is decoded once, so that a damaged one shows now and
    /// not after an hour.
    ///
    /// # Errors
    /// [`Error::UnreadablePictures`] naming every unreadable one, when strict; [`Error::NoPictures`] when none is
    /// usable; for a single file, as [`Picture::open`].
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
        let Sorted { pictures, mut left_out, unreadable } = sort(&names);
        let read: Vec<Result<SubjectItem>> =
            pictures.par_iter().map(|(picture, note)| read_item(picture, &names, *note)).collect();
        let (mut items, mut problems) = (Vec::new(), unreadable);
        for ((picture, _), outcome) in pictures.into_iter().zip(read) {
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

/// A picture with its mask, and what is to be said of it.
pub(crate) fn load(path: &Path, mask: Option<&Path>) -> Result<(Picture, Option<String>)> {
    let (mut picture, note) = picture::read(path, [255; 3])?;
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
    Ok((picture, note))
}

fn read_item(path: &Path, names: &Names, note: Option<&str>) -> Result<SubjectItem> {
    let mask = names.mask(path);
    let (picture, colors) = load(path, mask.as_deref())?;
    let caption = names.caption(path, &CAPTIONS)?;
    let said = colors.into_iter().chain(note.map(str::to_owned));
    let mut notes: Vec<Note> = said.map(|text| Note { path: path.into(), text }).collect();
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

/// A folder's names by what they are.
struct Sorted {
    /// Each with what is to be said of it.
    pictures: Vec<(PathBuf, Option<&'static str>)>,
    left_out: Vec<LeftOut>,
    unreadable: Vec<LeftOut>,
}

fn sort(names: &Names) -> Sorted {
    let kinds: Vec<(&PathBuf, Kind)> = names.paths.iter().map(|path| (path, Kind::of(path))).collect();
    let shown = kinds.iter().filter(|(_, kind)| matches!(kind, Kind::Picture | Kind::Unreadable(_)));
    // Whose masks may be here.
    let owners: BTreeSet<Vec<u8>> = shown.clone().flat_map(|(path, _)| keys(path)).collect();
    let used: BTreeSet<PathBuf> = shown
        .filter(|(path, _)| mask_kind(path, &owners) != MaskKind::Mask)
        .filter_map(|(path, _)| names.mask(path))
        .collect();
    let mut sorted = Sorted { pictures: Vec::new(), left_out: Vec::new(), unreadable: Vec::new() };
    let mut captions = Vec::new();
    for (path, kind) in kinds {
        if used.contains(path) {
            continue;
        }
        let masks = names.mask_folders.iter().find(|(folder, _)| folder == path);
        let out = |reason: &str| LeftOut { path: path.clone(), reason: reason.into() };
        match (kind, mask_kind(path, &owners)) {
            (Kind::Other(_), _) if masks.is_some() => sorted.left_out.extend(unused(masks, &used)),
            (Kind::Picture | Kind::Unreadable(_), MaskKind::Mask) => {
                sorted.left_out.push(out("a second mask of the same picture"));
            }
            (Kind::Picture | Kind::Unreadable(_), MaskKind::Orphan) => {
                sorted.left_out.push(out("named as a mask, but no picture of that name is beside it"));
            }
            (Kind::Picture, MaskKind::Named) => sorted.pictures.push((path.clone(), Some(NO_MASK))),
            (Kind::Picture, MaskKind::No) => sorted.pictures.push((path.clone(), None)),
            (Kind::Caption, _) => captions.push(path),
            (Kind::Other(reason), _) => sorted.left_out.push(out(&reason)),
            (Kind::Unreadable(reason), _) => sorted.unreadable.push(out(&reason)),
        }
    }
    sort_captions(captions, names, &mut sorted);
    sorted
}

/// Leaves out the captions that are not read.
fn sort_captions(captions: Vec<&PathBuf>, names: &Names, sorted: &mut Sorted) {
    let all: Vec<Vec<&Path>> =
        sorted.pictures.iter().map(|(path, _)| names.captions(path, &CAPTIONS)).collect();
    let used: BTreeSet<&Path> = all.iter().filter_map(|own| own.first().copied()).collect();
    let second: BTreeSet<&Path> = all.iter().flatten().copied().collect();
    for path in captions {
        let reason = match (used.contains(path.as_path()), second.contains(path.as_path())) {
            (true, _) => continue,
            (_, true) => "a second caption of the same picture",
            _ => "a caption without a picture of its name",
        };
        sorted.left_out.push(LeftOut { path: path.clone(), reason: reason.into() });
    }
}

/// What is said of a picture that is called like a mask.
const NO_MASK: &str =
    "its name ends as that of a mask, and no picture has the name without that: it is taken as a picture";

/// The files of a folder of masks that are not used.
fn unused<'a>(
    masks: Option<&'a (PathBuf, Names)>,
    used: &'a BTreeSet<PathBuf>,
) -> impl Iterator<Item = LeftOut> + 'a {
    let paths = masks.into_iter().flat_map(|(_, names)| &names.paths);
    paths.filter(|path| !used.contains(*path)).map(|path| LeftOut {
        path: path.clone(),
        reason: "in a folder of masks, but no picture of that name needs it".into(),
    })
}

/// What a picture's name says of masks.
#[derive(Debug, PartialEq, Eq)]
enum MaskKind {
    /// It is not called like one.
    No,
    /// It is one by its name, and its picture is there.
    Mask,
    /// It is called like one, as ordinary pictures are, too, and there is no picture it could belong to.
    Named,
    /// It is one by its name, without its picture.
    Orphan,
}

fn mask_kind(path: &Path, owners: &BTreeSet<Vec<u8>>) -> MaskKind {
    match mask_of(path) {
        None => MaskKind::No,
        Some((owner, _)) if owners.contains(&owner) => MaskKind::Mask,
        Some((_, true)) => MaskKind::Named,
        Some((_, false)) => MaskKind::Orphan,
    }
}

enum Kind {
    Picture,
    Caption,
    Other(String),
    Unreadable(String),
}

impl Kind {
    fn of(path: &Path) -> Self {
        let other = |reason: &str| Self::Other(reason.to_owned());
        if path.is_dir() {
            return other("a folder; subfolders are not read");
        }
        if name(path).as_encoded_bytes().starts_with(b".") {
            return other("a hidden file");
        }
        if path.extension().is_some_and(|own| CAPTIONS.iter().any(|known| own.eq_ignore_ascii_case(known))) {
            return Self::Caption;
        }
        if !path.is_file() {
            return other("not a regular file");
        }
        if is_description(path) {
            return other("a description of a data set; give it alone as the subject to use it");
        }
        let named_picture = is_named_picture(path);
        let head = match read_head(path) {
            Ok(head) => head,
            Err(error) if named_picture => return Self::Unreadable(reason_only(path, &error)),
            Err(_) => return Self::Other(format!("not a {PICTURES} picture")),
        };
        if let Some(found) = foreign(path, &head) {
            let reason = format!("{}; {}", found.name, found.advice);
            return if named_picture { Self::Unreadable(reason) } else { Self::Other(reason) };
        }
        match sniff(&head) {
            Some(_) if is_animation(path) => {
                other("an animation; name it alone as the subject to learn from its frames")
            }
            Some(_) => Self::Picture,
            None if is_mp4(&head) => other("a video; name it alone as the subject to learn from its frames"),
            None if head.starts_with(b"GIF8") => {
                other("a GIF; convert it to PNG, or name it alone as the subject to learn from its frames")
            }
            None if named_picture && head.is_empty() => Self::Unreadable("the file is empty".into()),
            None if named_picture => Self::Unreadable(format!("not a {PICTURES} picture inside")),
            None => Self::Other(format!("not a {PICTURES} picture")),
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
