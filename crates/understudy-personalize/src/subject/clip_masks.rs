//! Where the subject is in the frames of a video: the masks beside it.

use std::path::{Path, PathBuf};

use understudy_media::{Image, Mask, Video, clip_masks, shown};

use crate::error::{Error, Result};

/// The masks of a video's frames, cut as the frames are; none where there are none beside it.
pub(super) fn read(path: &Path, frames: &[Image], size: [usize; 2]) -> Result<Vec<Mask>> {
    let Some(found) = clip_masks(path) else { return Ok(Vec::new()) };
    let fault =
        |reason: String| Error::Subject { field: "subject", reason: format!("{}: {reason}", shown(&found)) };
    let masks = if found.is_dir() { folder_masks(&found)? } else { video_masks(&found)? };
    if masks.len() != frames.len() {
        return Err(fault(format!(
            "it has {} masks and the video {} frames; give one for each frame, or remove them",
            masks.len(),
            frames.len()
        )));
    }
    let one = |((mask, name), frame): (&(Mask, String), &Image)| -> Result<Mask> {
        if [mask.width, mask.height] != [frame.width, frame.height] {
            return Err(fault(format!(
                "{name} is {}x{} and the video {}x{}; give masks of the video's size",
                mask.width, mask.height, frame.width, frame.height
            )));
        }
        Ok(mask.cover_crop(size)?)
    };
    masks.iter().zip(frames).map(one).collect()
}

/// The masks in a folder in the order of their names, with these; `2.png` comes before `10.png`.
fn folder_masks(folder: &Path) -> Result<Vec<(Mask, String)>> {
    let entries = std::fs::read_dir(folder).map_err(|error| Error::Subject {
        field: "subject",
        reason: format!(
            "{}: cannot be read as a folder of masks: {error}; remove it to do without",
            shown(folder)
        ),
    })?;
    let hidden =
        |path: &PathBuf| path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"."));
    let mut paths: Vec<PathBuf> =
        entries.flatten().map(|entry| entry.path()).filter(|path| !hidden(path)).collect();
    let number = |path: &PathBuf| -> Option<u64> { path.file_stem()?.to_str()?.parse().ok() };
    paths.sort_by(|a, b| number(a).cmp(&number(b)).then_with(|| a.cmp(b)));
    let name = |path: &PathBuf| shown(Path::new(path.file_name().unwrap_or_default()));
    paths.iter().map(|path| Ok((Mask::open(path)?, name(path)))).collect()
}

/// The frames of a video as masks.
fn video_masks(path: &Path) -> Result<Vec<(Mask, String)>> {
    let frames = Video::read(path)?.frames;
    Ok(frames.iter().enumerate().map(|(at, frame)| (Mask::of(frame), format!("frame {at}"))).collect())
}
