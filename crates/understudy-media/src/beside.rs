//! What lies beside a picture or a clip and belongs to it by its name: its caption and its mask.
//!
//! Names match whatever their case and whatever Unicode form the file system keeps them in. Where several
//! would do, a name that has the media file's whole name in it (`a.jpg.txt`) comes before one that has its
//! stem (`a.txt`), `.txt` before `.caption`, and the same spelling before another one.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};

use unicode_normalization::UnicodeNormalization;

use crate::format::is_named_picture;
use crate::masks::{Owner, is_mask_folder, owners};
use crate::{Error, Result, Text};

/// What captions end in.
pub(crate) const CAPTIONS: [&str; 2] = ["txt", "caption"];

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
    /// The caption beside `media`: `NAME.txt`, `NAME.EXT.txt`, or the same with `.caption`, whatever their
    /// case. None where there is no such file or nothing in it.
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
    /// Which of them are masks, by their names, of what is called so, with how likely they are.
    by_owner: HashMap<Vec<u8>, Vec<(usize, usize)>>,
    /// The folders of masks among them.
    pub(crate) mask_folders: Vec<(PathBuf, Names)>,
}

impl Names {
    /// What lies directly in `folder`.
    pub(crate) fn list(folder: &Path) -> Result<Self> {
        let mut names = Self::new(list(folder)?);
        let is_masks = |path: &&PathBuf| path.is_dir() && is_mask_folder(&key(name(path)));
        for path in names.paths.iter().filter(is_masks) {
            names.mask_folders.push((path.clone(), Self::new(list(path)?)));
        }
        Ok(names)
    }

    fn new(paths: Vec<PathBuf>) -> Self {
        let mut names = Self { paths, ..Self::default() };
        for (index, path) in names.paths.iter().enumerate() {
            names.by_name.entry(key(name(path))).or_default().push(index);
            names.by_stem.entry(key(stem(path))).or_default().push(index);
            // A folder's name has no extension: a point in it belongs to it.
            let own = if path.is_dir() { name(path) } else { stem(path) };
            for owner in owners(&key(own)) {
                names.by_owner.entry(owner.name).or_default().push((owner.rank, index));
            }
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
        let usable = |path: &&Path| *path != picture && is_named_picture(path);
        self.masks(picture).into_iter().find(usable).map(Path::to_owned)
    }

    /// Where the masks of a clip's frames are, if there are any: a folder of pictures, or a video.
    pub(crate) fn clip_masks(&self, clip: &Path) -> Option<PathBuf> {
        let of_frames = |path: &&Path| path.is_dir() || !is_named_picture(path) && !is_text(path);
        let usable = |path: &&Path| *path != clip && of_frames(path);
        self.masks(clip).into_iter().find(usable).map(Path::to_owned)
    }

    /// All that is called as a mask of `media`: beside it, then in folders of masks, where it may have the
    /// same name.
    fn masks(&self, media: &Path) -> Vec<&Path> {
        let names = [name(media), stem(media)].map(OsStr::as_encoded_bytes);
        let apart = self.mask_folders.iter().flat_map(|(_, own)| {
            let plain = [names[1], names[0]].into_iter().flat_map(|wanted| {
                [own.called(&own.by_stem, wanted), own.called(&own.by_name, wanted)].concat()
            });
            plain.chain(own.owned(names))
        });
        self.owned(names).into_iter().chain(apart).collect()
    }

    /// Those that are masks of what is called by one of `names`, the likeliest first, and of those that are
    /// as likely the one that has the first name in it, in the same spelling.
    fn owned(&self, names: [&[u8]; 2]) -> Vec<&Path> {
        let spelled = |path: &Path, wanted: &[u8]| {
            name(path).as_encoded_bytes().windows(wanted.len().max(1)).any(|part| part == wanted)
        };
        let of = |(at, wanted): (usize, &[u8])| {
            let found = self.by_owner.get(&fold(wanted)).map_or(&[][..], Vec::as_slice);
            let found = found.iter().map(move |(rank, index)| (*rank, at, self.paths[*index].as_path()));
            found.map(|(rank, at, path)| (rank, at, !spelled(path, wanted), path)).collect::<Vec<_>>()
        };
        let mut found: Vec<_> = names.into_iter().enumerate().flat_map(of).collect();
        found.sort();
        found.into_iter().map(|(.., path)| path).collect()
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

/// What a picture is called whose mask this is by its name, and whether names of ordinary pictures are such,
/// too; the likeliest first, none where it is not called as a mask.
pub(crate) fn mask_of(path: &Path) -> Vec<Owner> {
    if is_named_picture(path) { owners(&key(stem(path))) } else { Vec::new() }
}

/// Where the masks of the frames of `clip` are, if there are any: `NAME.masks/`, `NAME_masks/`, `masks/NAME/`
/// and the like, or a video called so.
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
