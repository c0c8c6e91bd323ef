//! A folder of videos to be judged, with prompts beside them and references elsewhere.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use understudy_media::{Image, SubjectFolder, Video};

use crate::error::{Error, Result};

/// Extensions of video files.
const VIDEOS: [&str; 5] = ["mp4", "m4v", "mov", "gif", "webp"];

/// What a folder of masks of a video is called after its name.
pub(crate) const MASKS: &str = ".masks";

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
        let name = path.file_name()?.to_string_lossy();
        if name.starts_with('.') {
            return None;
        }
        if path.is_dir() && name.ends_with(MASKS) {
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

/// Pictures or videos of the subjects.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct References {
    path: PathBuf,
}

impl References {
    /// Those at `path`: in a folder `NAME/` or `NAME.mp4` (or another kind) for the video `NAME`, `SUBJECT/` or
    /// `SUBJECT.mp4` for all `SUBJECT-...`, or pictures for all; or one video or picture for all.
    ///
    /// # Errors
    /// When there is nothing there.
    pub fn open(path: &Path) -> Result<Self> {
        match path.exists() {
            true => Ok(Self { path: path.to_owned() }),
            false => Err(Error::Videos {
                path: path.display().to_string(),
                reason: "there is no such folder or file of references".to_owned(),
            }),
        }
    }

    /// Where those of the video `name` are.
    pub fn of(&self, name: &str) -> PathBuf {
        let ends = name.match_indices('-').map(|(at, _)| at).rev().filter(|at| *at > 0);
        let own = [name.len()].into_iter().chain(ends).find_map(|end| self.named(&name[..end]));
        own.unwrap_or_else(|| self.path.clone())
    }

    /// Where the video is that the video `name` is compared with frame by frame: where a subject has pictures and a video,
    /// the video.
    pub fn video_of(&self, name: &str) -> PathBuf {
        let found = self.of(name);
        let beside = found.file_name().and_then(|name| self.video(&name.to_string_lossy()));
        beside.filter(|_| found != self.path).unwrap_or(found)
    }

    /// The folder or the video called `name`.
    fn named(&self, name: &str) -> Option<PathBuf> {
        let folder = self.path.join(name);
        if folder.is_dir() { Some(folder) } else { self.video(name) }
    }

    fn video(&self, name: &str) -> Option<PathBuf> {
        let named = |extension: &&str| self.path.join(format!("{name}.{extension}"));
        VIDEOS.iter().map(named).find(|file| file.is_file())
    }

    /// The pictures in a folder in order of name, or the frames of a video.
    ///
    /// # Errors
    /// When there is none, or one cannot be read.
    pub fn read(path: &Path) -> Result<Vec<Image>> {
        if is_video(path) {
            return Ok(Video::read(path)?.frames);
        }
        let items = SubjectFolder::open(path)?.items;
        items.iter().map(|item| Ok(item.load()?.image)).collect()
    }

    /// The files of the pictures that [`References::read`] finds; `None` for a video.
    ///
    /// # Errors
    /// When there is none, or one cannot be read.
    pub fn files(path: &Path) -> Result<Option<Vec<PathBuf>>> {
        match is_video(path) {
            true => Ok(None),
            false => Ok(Some(SubjectFolder::open(path)?.items.into_iter().map(|item| item.path).collect())),
        }
    }
}

/// Whether `path` is called like a file of a video.
fn is_video(path: &Path) -> bool {
    let extension = path.extension().map(|extension| extension.to_string_lossy().to_lowercase());
    path.is_file() && extension.is_some_and(|extension| VIDEOS.contains(&extension.as_str()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use understudy_media::WriteOptions;

    #[test]
    fn references_are_a_folder_or_a_video_of_ones_own_or_for_all() {
        let folder = tempfile::tempdir().unwrap();
        let frames: Vec<Image> = (1..4).map(|at| Image::filled(32, 16, [60 * at, 0, 0])).collect();
        let clip = folder.path().join("b.webp");
        Video::new(frames, 8.0).unwrap().write(&clip, &WriteOptions::default()).unwrap();
        fs::create_dir(folder.path().join("a")).unwrap();
        let references = References::open(folder.path()).unwrap();
        assert_eq!(references.of("a"), folder.path().join("a"));
        assert_eq!(references.of("b"), clip);
        assert_eq!(references.of("c"), folder.path());
        assert_eq!(References::read(&clip).unwrap().len(), 3);
        assert_eq!(References::open(&clip).unwrap().of("c"), clip);
        assert!(References::open(&folder.path().join("x")).is_err());
    }
}
