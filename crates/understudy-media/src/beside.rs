//! What lies beside a picture or a clip and belongs to it by its name: its caption and its mask.
//!
//! Names match whatever their case and whatever Unicode form the file system keeps them in. Where several would do, a name
//! that has the media file's whole name in it (`a.jpg.txt`) comes before one that has its stem (`a.txt`), `.txt` before
//! `.caption`, and the same spelling before another one.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};

use unicode_normalization::UnicodeNormalization;

use crate::format::is_named_picture;
use crate::{Error, Result, Text};

/// What captions end in.
pub(crate) const CAPTIONS: [&str; 2] = ["txt", "caption"];

/// What the names of masks end in, before their extension, in the order in which they are taken (`masklabel` is
/// OneTrainer's), and whether names of ordinary pictures end so, too: those are masks only where their picture is there.
const MASKS: [(&str, bool); 8] = [
    (".mask", false),
    ("_mask", true),
    ("-mask", true),
    ("-masklabel", false),
    ("_masklabel", false),
    (".masklabel", false),
    (".masks", false),
    (" mask", true),
];

/// Folders of masks that are called as their pictures are, as other trainers have them.
const MASK_FOLDERS: [&str; 6] =
    ["masks", "mask", "masklabels", "conditioning", "conditioning_data", "conditioning_data_dir"];

/// Something to tell about a file that is used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Note {
    /// The file.
    pub path: PathBuf,
    /// What there is to say.
    pub text: String,
}

/// A caption beside a picture or a clip.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Caption {
    /// What it says, without surrounding space. [`Captions::of`] alone gives an empty one.
    pub text: String,
    /// Its file.
    pub path: PathBuf,
    /// What it was written in, where that was not UTF-8.
    pub note: Option<&'static str>,
}

impl Caption {
    /// The caption beside `media`: `NAME.txt`, `NAME.EXT.txt`, or the same with `.caption`, whatever their case. None where
    /// there is no such file or nothing in it.
    ///
    /// # Errors
    /// When it cannot be read, or is no text; the message names it.
    pub fn beside(media: impl AsRef<Path>) -> Result<Option<Self>> {
        let media = media.as_ref();
        // A folder that cannot be listed may still have files that can be read.
        let names = Names::list(&crate::atomic::parent(media))
            .unwrap_or_else(|_| Names::new(vec![media.with_extension(CAPTIONS[0])]));
        Ok(names.caption(media, &CAPTIONS)?.filter(|own| !own.text.is_empty()))
    }
}

/// The captions that lie in a folder.
pub struct Captions(Names);

impl Captions {
    /// Those in `folder`.
    ///
    /// # Errors
    /// When it cannot be listed.
    pub fn list(folder: impl AsRef<Path>) -> Result<Self> {
        Names::list(folder.as_ref()).map(Self)
    }

    /// That of `media`, as [`Caption::beside`] finds it, also one that says nothing.
    ///
    /// # Errors
    /// When it cannot be read, or is no text; the message names it.
    pub fn of(&self, media: impl AsRef<Path>) -> Result<Option<Caption>> {
        self.0.caption(media.as_ref(), &CAPTIONS)
    }
}

/// The names in a folder, and those in its folders of masks.
#[derive(Default)]
pub(crate) struct Names {
    /// The paths, sorted.
    pub(crate) paths: Vec<PathBuf>,
    /// Which of them have a name, whatever its spelling.
    by_name: HashMap<Vec<u8>, Vec<usize>>,
    /// Which of them have a name without its extension.
    by_stem: HashMap<Vec<u8>, Vec<usize>>,
    /// The folders of masks among them.
    pub(crate) mask_folders: Vec<(PathBuf, Names)>,
}

impl Names {
    /// What lies directly in `folder`.
    pub(crate) fn list(folder: &Path) -> Result<Self> {
        let mut names = Self::new(list(folder)?);
        let is_masks = |path: &&PathBuf| {
            path.is_dir() && MASK_FOLDERS.iter().any(|known| key(name(path)) == known.as_bytes())
        };
        for path in names.paths.iter().filter(is_masks) {
            names.mask_folders.push((path.clone(), Self::new(list(path)?)));
        }
        Ok(names)
    }

    fn new(paths: Vec<PathBuf>) -> Self {
        let mut names =
            Self { paths, by_name: HashMap::new(), by_stem: HashMap::new(), mask_folders: Vec::new() };
        for (index, path) in names.paths.iter().enumerate() {
            names.by_name.entry(key(name(path))).or_default().push(index);
            names.by_stem.entry(key(stem(path))).or_default().push(index);
        }
        names
    }

    /// The caption of `media`, of those that end in one of `extensions`.
    ///
    /// # Errors
    /// When it cannot be read, or is no text.
    pub(crate) fn caption(&self, media: &Path, extensions: &[&str]) -> Result<Option<Caption>> {
        let Some(path) = self.captions(media, extensions).into_iter().next() else { return Ok(None) };
        let read = Text::read(path)?;
        let text = read.content.trim().to_owned();
        Ok(Some(Caption { text, path: path.to_owned(), note: read.note() }))
    }

    /// All that could be its caption; the first is.
    pub(crate) fn captions(&self, media: &Path, extensions: &[&str]) -> Vec<&Path> {
        let names = [name(media), stem(media)].into_iter().flat_map(|start| {
            extensions
                .iter()
                .map(move |extension| [start.as_encoded_bytes(), b".", extension.as_bytes()].concat())
        });
        let found = names.flat_map(|wanted| self.called(&self.by_name, &wanted));
        found.filter(|path| path.is_file() && *path != media).collect()
    }

    /// The mask of a picture, if there is one.
    pub(crate) fn mask(&self, picture: &Path) -> Option<PathBuf> {
        let starts = [name(picture), stem(picture)].map(OsStr::as_encoded_bytes);
        let ended = || {
            let ending =
                move |(ending, _): &(&str, bool)| starts.map(|start| [start, ending.as_bytes()].concat());
            MASKS.iter().flat_map(ending)
        };
        let own = ended().flat_map(|wanted| self.called(&self.by_stem, &wanted));
        let apart = self.mask_folders.iter().flat_map(|(_, names)| {
            let plain = [starts[1], starts[0]].map(<[u8]>::to_vec).into_iter();
            plain.chain(ended()).flat_map(|wanted| names.called(&names.by_stem, &wanted))
        });
        own.chain(apart).find(|path| *path != picture && is_named_picture(path)).map(Path::to_owned)
    }

    /// Where the masks of a clip's frames are, if there are any: a folder of pictures, or a video.
    fn clip_masks(&self, clip: &Path) -> Option<PathBuf> {
        let starts = [stem(clip), name(clip)].map(OsStr::as_encoded_bytes);
        let ended = || {
            let of = |ending: &'static str| [ending.to_owned() + "s", ending.to_owned()];
            let endings = MASKS.iter().flat_map(move |(ending, _)| of(ending));
            endings.flat_map(move |ending| starts.map(|start| [start, ending.as_bytes()].concat()))
        };
        let both = |names: &'_ Self, wanted: &[u8]| -> Vec<PathBuf> {
            let found = [names.called(&names.by_name, wanted), names.called(&names.by_stem, wanted)].concat();
            found.into_iter().map(Path::to_owned).collect()
        };
        let own = ended().flat_map(|wanted| both(self, &wanted));
        let apart = self.mask_folders.iter().flat_map(|(_, names)| {
            let plain = starts.map(<[u8]>::to_vec).into_iter();
            plain.chain(ended()).flat_map(|wanted| both(names, &wanted))
        });
        let of_frames = |path: &PathBuf| path.is_dir() || !is_named_picture(path) && !is_text(path);
        own.chain(apart).find(|path| path != clip && of_frames(path))
    }

    /// Those of `index` that are called `wanted`, the same spelling first.
    fn called<'a>(&'a self, index: &'a HashMap<Vec<u8>, Vec<usize>>, wanted: &[u8]) -> Vec<&'a Path> {
        let mut found: Vec<&Path> = match index.get(&fold(wanted)) {
            Some(found) => found.iter().map(|index| self.paths[*index].as_path()).collect(),
            None => Vec::new(),
        };
        found.sort_by_key(|path| !name(path).as_encoded_bytes().starts_with(wanted));
        found
    }
}

/// What a picture is called that is a mask by its name, and whether names of ordinary pictures end so, too.
pub(crate) fn mask_of(path: &Path) -> Option<(Vec<u8>, bool)> {
    let stem = key(stem(path));
    let found = MASKS.iter().find_map(|(ending, common)| {
        let name = stem.strip_suffix(ending.as_bytes()).filter(|name| !name.is_empty())?;
        Some((name.to_vec(), *common))
    });
    found.filter(|_| is_named_picture(path))
}

/// Where the masks of the frames of `clip` are, if there are any: `NAME.masks/`, `NAME_masks/`, `masks/NAME/` and the like,
/// or a video called so.
pub fn clip_masks(clip: impl AsRef<Path>) -> Option<PathBuf> {
    let clip = clip.as_ref();
    Names::list(&crate::atomic::parent(clip)).ok()?.clip_masks(clip)
}

/// Whether a file is called like a caption.
fn is_text(path: &Path) -> bool {
    path.extension().is_some_and(|own| CAPTIONS.iter().any(|known| own.eq_ignore_ascii_case(known)))
}

/// The name of a path.
pub(crate) fn name(path: &Path) -> &OsStr {
    path.file_name().unwrap_or_default()
}

fn stem(path: &Path) -> &OsStr {
    path.file_stem().unwrap_or_default()
}

/// The names by which `path` can be meant: its whole name, and that without its extension.
pub(crate) fn keys(path: &Path) -> [Vec<u8>; 2] {
    [name(path), stem(path)].map(key)
}

/// A name in one spelling.
fn key(name: &OsStr) -> Vec<u8> {
    fold(name.as_encoded_bytes())
}

fn fold(name: &[u8]) -> Vec<u8> {
    match std::str::from_utf8(name) {
        Ok(name) => name.nfc().collect::<String>().to_lowercase().into_bytes(),
        Err(_) => name.to_ascii_lowercase(),
    }
}

/// What lies directly in a folder, sorted by name.
pub(crate) fn list(folder: &Path) -> Result<Vec<PathBuf>> {
    let entries = fs::read_dir(folder).map_err(|error| Error::read(folder, error))?;
    let mut paths = Vec::new();
    for entry in entries {
        paths.push(entry.map_err(|error| Error::read(folder, error))?.path());
    }
    paths.sort();
    Ok(paths)
}
