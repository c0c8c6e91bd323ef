//! A folder of videos to be judged, with prompts beside them and references elsewhere.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use understudy_media::{
    Caption, Captions, FileKind, Footage, Image, Provenance, SubjectFolder, Text, Video, is_video, shown,
};

use crate::error::{Error, Result};

/// What a folder of masks of a video is called after its name.
pub(crate) const MASKS: &str = ".masks";

/// A video to be judged.
#[derive(Clone, Debug, PartialEq)]
pub struct Clip {
    /// Its name: of the file without its extension, or of the folder.
    pub name: String,
    /// Its file, or its folder of frames; `None` if there is only a prompt.
    pub path: Option<PathBuf>,
    /// What `NAME.txt` beside it says or, where there is none, the video's file itself.
    pub prompt: Option<String>,
    /// What is to be said of that file.
    pub note: Option<String>,
    /// The frames a second that frames in a folder are taken to have.
    pub fps: f64,
}

impl Clip {
    /// The videos in `folder`, in order of name: `NAME.mp4` (or any kind that is read, told by content), or a
    /// folder `NAME` of pictures, with the prompt in `NAME.txt` (or as [`Caption::beside`] finds it); videos
    /// that this program made say theirs themselves. A prompt without a video is a video that is missing.
    /// Folders are taken to have `fps` frames a second.
    ///
    /// # Errors
    /// When the folder or a prompt cannot be read, two videos have one name, or there is none.
    pub fn list(folder: &Path, fps: f64) -> Result<Vec<Self>> {
        let fault = |reason: String| Error::Videos { path: folder.display().to_string(), reason };
        let entries = fs::read_dir(folder).map_err(|error| fault(error.to_string()))?;
        let captions = Captions::list(folder)?;
        let mut clips: BTreeMap<String, Self> = BTreeMap::new();
        let (mut prompts, mut used) = (Vec::new(), BTreeSet::new());
        for entry in entries {
            let path = entry.map_err(|error| fault(error.to_string()))?.path();
            let Some(found) = Found::at(&path) else { continue };
            let name = found.name(&path);
            match found {
                Found::Prompt => prompts.push((name, path)),
                Found::Video if clips.contains_key(&name) => {
                    return Err(fault(format!("there are two videos called {name:?}; rename one")));
                }
                Found::Video => {
                    let caption = captions.of(&path)?;
                    used.extend(caption.as_ref().map(|own| own.path.clone()));
                    let clip = Self { name: name.clone(), path: Some(path), prompt: None, note: None, fps };
                    clips.insert(name, clip.prompted(caption));
                }
            }
        }
        for clip in clips.values_mut().filter(|clip| clip.prompt.is_none()) {
            let made = clip.path.as_deref().and_then(Provenance::read);
            clip.prompt = made.map(|made| made.caption().to_owned());
        }
        if clips.is_empty() {
            return Err(fault("there is no video (NAME.mp4, or a folder NAME of frames) in it".to_owned()));
        }
        for (name, path) in prompts.into_iter().filter(|(_, path)| !used.contains(path)) {
            if clips.contains_key(&name) {
                continue;
            }
            let prompt = Some(Text::read(&path)?.content.trim().to_owned());
            clips.insert(name.clone(), Self { name, path: None, prompt, note: None, fps });
        }
        Ok(clips.into_values().collect())
    }

    /// The same with what is said beside it.
    fn prompted(self, caption: Option<Caption>) -> Self {
        let Some(Caption { text, path, note }) = caption else { return self };
        let note = note.map(|note| format!("{}: {note}", shown(&path)));
        Self { prompt: Some(text), note, ..self }
    }

    /// Its frames and their rate.
    ///
    /// # Errors
    /// When it is missing, cannot be read, or has no frames.
    pub fn video(&self) -> Result<Video> {
        Ok(self.read()?.0)
    }

    /// Its frames and their rate, and what is to be said of how they were read.
    ///
    /// # Errors
    /// When it is missing, cannot be read, or has no frames.
    pub fn read(&self) -> Result<(Video, Vec<String>)> {
        let Some(path) = &self.path else {
            return Err(Error::Videos {
                path: self.name.clone(),
                reason: "there is a prompt and no video".into(),
            });
        };
        if !path.is_dir() {
            let mut footage = Footage::read(path)?;
            let notes = std::mem::take(&mut footage.notes);
            let even = footage.timing.even();
            return Ok((footage.into_even(path, &even)?, notes.into_iter().map(str::to_owned).collect()));
        }
        let pictures = SubjectFolder::open(path)?.items;
        let frames = pictures.iter().map(|item| Ok(item.load()?.image)).collect::<Result<_>>()?;
        let said: BTreeSet<String> =
            pictures.into_iter().flat_map(|item| item.notes).map(|note| note.text).collect();
        Ok((Video::new(frames, self.fps)?, said.into_iter().map(|text| format!("frames: {text}")).collect()))
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
        let extension = path.extension().unwrap_or_default().to_string_lossy().to_lowercase();
        match extension.as_str() {
            "txt" => Some(Self::Prompt),
            // What should be an animation and is something else is to be said, as of videos.
            "webp" | "apng" => (is_video(path) || FileKind::of(path).is_err()).then_some(Self::Video),
            _ => is_video(path).then_some(Self::Video),
        }
    }

    fn name(&self, path: &Path) -> String {
        let name = if path.is_dir() { path.file_name() } else { path.file_stem() };
        name.unwrap_or_default().to_string_lossy().into_owned()
    }
}

/// Pictures or videos of the subjects.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct References {
    path: PathBuf,
}

impl References {
    /// Those at `path`: in a folder `NAME/` or `NAME.mp4` (or another kind) for the video `NAME`, `SUBJECT/`
    /// or `SUBJECT.mp4` for all `SUBJECT-...`, or pictures for all; or one video or picture for all.
    ///
    /// # Errors
    /// When there is nothing there.
    pub fn open(path: &Path) -> Result<Self> {
        if path.exists() {
            Ok(Self { path: path.to_owned() })
        } else {
            Err(Error::Videos {
                path: path.display().to_string(),
                reason: "there is no such folder or file of references".to_owned(),
            })
        }
    }

    /// Where those of the video `name` are.
    pub fn of(&self, name: &str) -> PathBuf {
        let ends = name.match_indices('-').map(|(at, _)| at).rev().filter(|at| *at > 0);
        let own = [name.len()].into_iter().chain(ends).find_map(|end| self.named(&name[..end]));
        own.unwrap_or_else(|| self.path.clone())
    }

    /// Where the video is that the video `name` is compared with frame by frame: where a subject has pictures
    /// and a video, the video.
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

    /// The first video called `name` whatever its extension.
    fn video(&self, name: &str) -> Option<PathBuf> {
        let entries = fs::read_dir(&self.path).ok()?.flatten().map(|entry| entry.path());
        let named = |file: &PathBuf| file.file_stem().is_some_and(|stem| stem == name);
        entries.filter(named).filter(|file| is_video(file)).min()
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
        if is_video(path) {
            Ok(None)
        } else {
            Ok(Some(SubjectFolder::open(path)?.items.into_iter().map(|item| item.path).collect()))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use understudy_media::WriteOptions;

    #[test]
    fn prompts_are_read_in_any_encoding_and_under_any_spelling() {
        let folder = tempfile::tempdir().unwrap();
        let put = |name: &str, bytes: &[u8]| fs::write(folder.path().join(name), bytes).unwrap();
        for name in ["a", "B", "c", "d"] {
            let frames = vec![Image::filled(32, 16, [60, 0, 0]); 2];
            let path = folder.path().join(format!("{name}.gif"));
            Video::new(frames, 8.0).unwrap().write(path, &WriteOptions::default()).unwrap();
        }
        let wide: Vec<u8> = "\u{feff}a cat".encode_utf16().flat_map(u16::to_le_bytes).collect();
        put("a.txt", &wide);
        put("b.TXT", b"a caf\xe9");
        put("c.gif.txt", b"a dog");
        put("e.txt", b"a bird");
        let clips = Clip::list(folder.path(), 8.0).unwrap();
        let found: Vec<_> = clips.iter().map(|clip| (clip.name.as_str(), clip.prompt.as_deref())).collect();
        assert_eq!(
            found,
            [
                ("B", Some("a café")),
                ("a", Some("a cat")),
                ("c", Some("a dog")),
                ("d", None),
                ("e", Some("a bird"))
            ]
        );
        assert!(clips[1].note.as_ref().unwrap().contains("UTF-16") && clips[4].path.is_none());
        put("a.txt", b"\xea\xee\xf8\xea\xe0");
        let error = Clip::list(folder.path(), 8.0).unwrap_err().to_string();
        assert!(error.contains("a.txt") && error.contains("UTF-8"), "{error}");
    }

    #[test]
    fn what_is_no_video_is_said_for_what_it_is() {
        let folder = tempfile::tempdir().unwrap();
        let put = |name: &str, bytes: &[u8]| fs::write(folder.path().join(name), bytes).unwrap();
        put("a.mp4", b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n");
        put("b.mp4", b"<!DOCTYPE html><html><title>Log in</title>");
        put("c.mp4", b"");
        put("d.webp", b"version https://git-lfs.github.com/spec/v1\n");
        put("e.webm", b"{\"error\": \"not found\"}");
        for name in ["a", "b", "c", "d", "e"] {
            put(&format!("{name}.txt"), b"a cat");
        }
        let clips = Clip::list(folder.path(), 8.0).unwrap();
        let said: Vec<String> = clips.iter().map(|clip| clip.video().unwrap_err().to_string()).collect();
        for (said, wanted) in
            said.iter().zip(["git lfs pull", "a web page", "is empty", "git lfs pull", "a text"])
        {
            assert!(said.contains(wanted) && !said.contains("re-encode"), "{wanted}: {said}");
        }
    }

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

    #[test]
    fn videos_are_found_by_what_is_in_them() {
        let folder = tempfile::tempdir().unwrap();
        let clip = folder.path().join("a.gif");
        let frames: Vec<Image> = (1..4).map(|at| Image::filled(32, 16, [60 * at, 0, 0])).collect();
        Video::new(frames, 8.0).unwrap().write(&clip, &WriteOptions::default()).unwrap();
        fs::rename(&clip, folder.path().join("a.clip")).unwrap();
        // What these hold is told by their first bytes, and one by its name alone.
        fs::write(folder.path().join("b.webm"), b"\x1a\x45\xdf\xa3").unwrap();
        fs::write(folder.path().join("c.avi"), b"RIFF\0\0\0\0AVI LIST").unwrap();
        fs::write(folder.path().join("d.mkv"), b"").unwrap();
        for name in ["a.txt", "b.txt", "c.txt", "d.txt", "notes.csv"] {
            fs::write(folder.path().join(name), "a cat").unwrap();
        }
        let clips = Clip::list(folder.path(), 8.0).unwrap();
        assert_eq!(clips.iter().map(|clip| clip.name.as_str()).collect::<Vec<_>>(), ["a", "b", "c", "d"]);
        assert!(clips.iter().all(|clip| clip.path.is_some() && clip.prompt.as_deref() == Some("a cat")));
        assert_eq!(clips[0].video().unwrap().frames.len(), 3);
    }
}
