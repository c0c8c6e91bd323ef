//! Dataset descriptions: the `[general]` / `[[datasets]]` TOML of musubi-tuner, and JSONL with the same keys.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use self::keys::{File, Keys, Line, NO_CONTROL};
use crate::beside::{Names, Note, mask_of};
use crate::format::sniff;
use crate::kind::{is_animation, is_video};
use crate::subject::{LeftOut, load};
use crate::text::unwritten;
use crate::video::read_head;
use crate::{Error, Picture, Result, Text, beside, format, shown};

mod foreign;
mod keys;

/// Width and height of a description that states none, as musubi-tuner has them.
pub const DEFAULT_RESOLUTION: [usize; 2] = [960, 544];

/// Whether an item is a picture or a clip.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MediaKind {
    /// PNG, JPEG, WebP, BMP or TIFF.
    Image,
    /// MP4, GIF, animated WebP, or what the system's `ffmpeg` reads.
    Video,
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
    /// Whether sizes of other aspect but like area are to be used, where that is said.
    pub enable_bucket: Option<bool>,
    /// How often it is seen in one epoch.
    pub num_repeats: usize,
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
    /// [`Error::Config`] naming the unknown, missing or wrong field; [`Error::Io`] or [`Error::Unreadable`]
    /// for files that are missing or not media; [`Error::NoPictures`] when nothing is left.
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
            if let Some((field, reason)) = foreign::table(&text) {
                return config(path, field, reason);
            }
            let line = error.span().map_or(1, |span| 1 + text[..span.start].matches('\n').count());
            let advice = match text.lines().nth(line - 1) {
                Some(own) if own.contains('\\') => BACKSLASH,
                _ => "correct or remove it",
            };
            config(path, format!("line {line}"), format!("{}; {advice}", error.message()))
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
        let source = located(path, source).map_err(|reason| config(path, field, reason))?;
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
            match (media_kinds(path, &head), format::foreign(path, &head)) {
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
            let advice = if line.contains('\\') { BACKSLASH } else { "correct this line" };
            let entry: Line =
                serde_json::from_str(line).map_err(|error| wrong(format!("{error}; {advice}")))?;
            let control = entry.control().map_err(|key| wrong(format!("unknown field `{key}`; {advice}")))?;
            let ignored = |key: String| Ignored { key: format!("{field}: {key}"), reason: NO_CONTROL };
            self.ignored.extend(control.into_iter().map(ignored));
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
            let media = located(path, &media).map_err(&wrong)?;
            let head = read_head(&media)?;
            if let Some(found) = format::foreign(&media, &head) {
                return Err(wrong(format!("{} is {}; {}", shown(&media), found.name, found.advice)));
            }
            if !media_kinds(&media, &head).contains(&kind) {
                let reason = format!("{} is not a {}", shown(&media), format!("{kind:?}").to_lowercase());
                return Err(wrong(reason));
            }
            let caption = entry.caption.map(|text| text.trim().to_string()).filter(|text| !text.is_empty());
            if let Some(reason) = caption.as_deref().and_then(unwritten) {
                return Err(wrong(format!("its caption: {reason}; remove it")));
            }
            self.items.push(keys.item(media, kind, caption));
        }
        Ok(())
    }

    fn note_ignored(&mut self, keys: &Keys, field: &str) {
        self.ignored
            .extend(keys.unused().map(|(key, reason)| Ignored { key: format!("{field}.{key}"), reason }));
    }
}

impl DatasetItem {
    /// Decodes a picture item, and gives what is to be said of it. Its mask is the mask file where there is
    /// one, else its transparency.
    ///
    /// # Errors
    /// As [`Picture::open`]; [`Error::Unreadable`] when the mask has another size than the picture.
    pub fn load_picture(&self) -> Result<(Picture, Vec<Note>)> {
        load(&self.path, self.mask.as_deref())
    }
}

/// What to do with a path of Windows.
const BACKSLASH: &str = "a backslash begins an escape within double quotes: write paths with / instead";

/// Where the path `given` in the description at `path` is: relative to its folder.
///
/// # Errors
/// Says why it cannot be one of this machine.
fn located(path: &Path, given: &Path) -> Result<PathBuf, String> {
    let text = given.to_string_lossy();
    let shown = shown(given);
    if text.contains(char::is_control) {
        return Err(format!("{shown}: has characters that no path has; {BACKSLASH}"));
    }
    let found = crate::atomic::parent(path).join(given);
    let drive = matches!(text.as_bytes(), [letter, b':', b'\\' | b'/', ..] if letter.is_ascii_alphabetic());
    if cfg!(windows) || found.exists() || !(drive || text.contains('\\')) {
        return Ok(found);
    }
    Err(if drive {
        format!(
            "{shown}: a path on a Windows machine, and this is none; give the place of these files here (WSL has drive C: at \
             /mnt/c)"
        )
    } else {
        format!("{shown}: there is no such file, and folders are parted by / here; write / for \\")
    })
}

/// What a file that begins like this can serve as; of an animation the first frame is a picture.
fn media_kinds(path: &Path, head: &[u8]) -> &'static [MediaKind] {
    match sniff(head) {
        Some(_) if is_animation(path) => &[MediaKind::Image, MediaKind::Video],
        Some(_) => &[MediaKind::Image],
        None if head.starts_with(b"GIF8") || format::foreign(path, head).is_none() && is_video(path) => {
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
            owners.extend(beside::keys(path));
        }
    }
    let owned = |path: &&PathBuf| mask_of(path).iter().any(|own| owners.contains(&own.name));
    Ok(names.paths.iter().filter(owned).cloned().collect())
}

fn config(path: &Path, field: impl Into<String>, reason: impl Into<String>) -> Error {
    Error::Config { path: path.into(), field: field.into(), reason: reason.into() }
}
