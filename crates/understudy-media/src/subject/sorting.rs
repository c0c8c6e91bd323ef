//! What the names of a folder are: pictures, their captions and masks, and what is left out.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use super::{LeftOut, reason_only};
use crate::beside::{CAPTIONS, Names, keys, mask_of, name};
use crate::format::{PICTURES, foreign, is_description, is_named_picture, sniff};
use crate::kind::{is_animation, is_video};
use crate::video::read_head;

/// A folder's names by what they are.
pub(super) struct Sorted {
    /// Each with what is to be said of it.
    pub pictures: Vec<(PathBuf, Option<&'static str>)>,
    pub left_out: Vec<LeftOut>,
    pub unreadable: Vec<LeftOut>,
    /// Videos and animations, which are left out, too.
    pub clips: Vec<PathBuf>,
}

pub(super) fn sort(names: &Names) -> Sorted {
    let kinds: Vec<(&PathBuf, Kind)> = names.paths.iter().map(|path| (path, Kind::of(path))).collect();
    let shown = kinds.iter().filter(|(_, kind)| matches!(kind, Kind::Picture | Kind::Unreadable(_)));
    // Whose masks may be here.
    let owners: BTreeSet<Vec<u8>> = shown.clone().flat_map(|(path, _)| keys(path)).collect();
    let used: BTreeSet<PathBuf> = shown
        .filter(|(path, _)| mask_kind(path, &owners) != MaskKind::Mask)
        .filter_map(|(path, _)| names.mask(path))
        .collect();
    let mut sorted =
        Sorted { pictures: Vec::new(), left_out: Vec::new(), unreadable: Vec::new(), clips: Vec::new() };
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
            (Kind::Clip(reason), _) => {
                sorted.clips.push(path.clone());
                sorted.left_out.push(out(reason));
            }
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
    "its name is like that of a mask, and no picture has the name without that: it is taken as a picture";

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
    let named = mask_of(path);
    match named.first() {
        None => MaskKind::No,
        Some(_) if named.iter().any(|own| owners.contains(&own.name)) => MaskKind::Mask,
        Some(own) if own.common => MaskKind::Named,
        Some(_) => MaskKind::Orphan,
    }
}

enum Kind {
    Picture,
    Caption,
    /// Something that moves, and what to do with it.
    Clip(&'static str),
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
                Self::Clip("an animation; name it alone as the subject to learn from its frames")
            }
            Some(_) => Self::Picture,
            None if head.starts_with(b"GIF8") => Self::Clip(
                "a GIF; convert it to PNG, or name it alone as the subject to learn from its frames",
            ),
            None if is_video(path) => {
                Self::Clip("a video; name it alone as the subject to learn from its frames")
            }
            None if named_picture && head.is_empty() => Self::Unreadable("the file is empty".into()),
            None if named_picture => Self::Unreadable(format!("not a {PICTURES} picture inside")),
            None => Self::Other(format!("not a {PICTURES} picture")),
        }
    }
}
