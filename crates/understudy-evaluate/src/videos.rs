//! A folder of videos to be judged, with prompts beside them and references elsewhere.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use understudy_media::{Image, SubjectFolder, Video};

use crate::error::{Error, Result};

/// Extensions of video files.
const VIDEOS: [&str; 5] = ["mp4", "m4v", "mov", "gif", "webp"];

/// A video to be judged.
#[derive(Clone, Debug, PartialEq)]
pub struct Clip {
    /// Its name: of the file without its extension, or of the folder.
    pub name: String,
    /// Its file, or its folder of frames; `None` if there is only a prompt.
    pub path: Option<PathBuf>,
    /// What `NAME.txt` beside it says, if it is there.
    pub prompt: Option<String>,
    /// The frames a second that frames in a folder are taken to have.
    pub fps: f64,
}

impl Clip {
    /// The videos in `folder`, in order of name: `NAME.mp4` (or another kind), or a folder `NAME` of pictures, with the
    /// prompt in `NAME.txt`. A prompt without a video is a video that is missing. Folders are taken to have `fps` frames a
    /// second.
    ///
    /// # Errors
    /// When the folder cannot be read, two videos have one name, or there is none.
    pub fn list(folder: &Path, fps: f64) -> Result<Vec<Self>> {
        let fault = |reason: String| Error::Videos { path: folder.display().to_string(), reason };
        let entries = fs::read_dir(folder).map_err(|error| fault(error.to_string()))?;
        let mut clips: BTreeMap<String, Self> = BTreeMap::new();
        for entry in entries {
            let path = entry.map_err(|error| fault(error.to_string()))?.path();
            let Some(found) = Found::at(&path) else { continue };
            let name = found.name(&path);
            let clip = clips.entry(name.clone()).or_insert_with(|| Self {
                name: name.clone(),
                path: None,
                prompt: None,
                fps,
            });
            match found {
                Found::Prompt => clip.prompt = Some(read_prompt(&path).map_err(fault)?),
                Found::Video if clip.path.is_none() => clip.path = Some(path),
                Found::Video => {
                    return Err(fault(format!("there are two videos called {name:?}; rename one")));
                }
            }
        }
        match clips.values().any(|clip| clip.path.is_some()) {
            true => Ok(clips.into_values().collect()),
            false => Err(fault("there is no video (NAME.mp4, or a folder NAME of frames) in it".to_owned())),
        }
    }

    /// Its frames and their rate.
    ///
    /// # Errors
    /// When it is missing, cannot be read, or has no frames.
    pub fn video(&self) -> Result<Video> {
        let Some(path) = &self.path else {
            return Err(Error::Videos {
                path: self.name.clone(),
                reason: "there is a prompt and no video".into(),
            });
        };
        let video = match path.is_dir() {
            true => {
                let pictures = SubjectFolder::open(path)?.items;
                let frames = pictures.iter().map(|item| Ok(item.load()?.image)).collect::<Result<_>>()?;
                Video::new(frames, self.fps)?
            }
            false => Video::read(path)?,
        };
        Ok(video)
    }
}

/// What an entry of the folder is.
enum Found {
    Video,
    Prompt,
}

impl Found {
    fn at(path: &Path) -> Option<Self> {
        if path.file_name()?.to_string_lossy().starts_with('.') {
            return None;
        }
        if path.is_dir() {
            return Some(Self::Video);
        }
        let extension = path.extension()?.to_string_lossy().to_lowercase();
        match extension.as_str() {
            "txt" => Some(Self::Prompt),
            other if VIDEOS.contains(&other) => Some(Self::Video),
            _ => None,
        }
    }

    fn name(&self, path: &Path) -> String {
        let name = if path.is_dir() { path.file_name() } else { path.file_stem() };
        name.unwrap_or_default().to_string_lossy().into_owned()
    }
}

fn read_prompt(path: &Path) -> Result<String, String> {
    let bytes = fs::read(path).map_err(|error| format!("{}: {error}", path.display()))?;
    Ok(String::from_utf8_lossy(&bytes).trim_start_matches('\u{feff}').trim().to_owned())
}

/// Pictures of the subjects.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct References {
    folder: PathBuf,
}

impl References {
    /// Those in `folder`: `NAME/` for the video `NAME`, `SUBJECT/` for all `SUBJECT-...`, or pictures for all.
    ///
    /// # Errors
    /// When there is no such folder.
    pub fn open(folder: &Path) -> Result<Self> {
        match folder.is_dir() {
            true => Ok(Self { folder: folder.to_owned() }),
            false => Err(Error::Videos {
                path: folder.display().to_string(),
                reason: "there is no such folder of references".to_owned(),
            }),
        }
    }

    /// Where those of the video `name` are.
    pub fn of(&self, name: &str) -> PathBuf {
        let ends = name.match_indices('-').map(|(at, _)| at).rev();
        let own = [name.len()].into_iter().chain(ends).map(|end| self.folder.join(&name[..end]));
        own.into_iter().find(|own| own.is_dir()).unwrap_or_else(|| self.folder.clone())
    }

    /// The pictures in `folder`.
    ///
    /// # Errors
    /// When there is none, or one cannot be read.
    pub fn read(folder: &Path) -> Result<Vec<Image>> {
        let items = SubjectFolder::open(folder)?.items;
        items.iter().map(|item| Ok(item.load()?.image)).collect()
    }
}
