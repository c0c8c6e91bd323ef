//! Subjects in frames: who finds them, and how they are cut out.

use std::fs;
use std::path::{Path, PathBuf};

use understudy_media::{Image, Mask};

use crate::annotations::{cut, file_name, on_white_square};
use crate::error::{Error, Result};
use crate::videos::MASKS;

/// A mask at least this white shows the subject.
const SHOWN: u8 = 128;

/// Where a subject is in a picture.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Segment {
    /// Left, top, and one beyond right and bottom, pixels.
    pub bounds: [usize; 4],
    /// The subject, of the size of the whole picture.
    pub mask: Mask,
}

impl Segment {
    /// The subject that `mask` shows; `None` if it shows none.
    pub fn of_mask(mask: Mask) -> Option<Self> {
        let shown = |at: &usize| mask.alpha[*at] >= SHOWN;
        let all: Vec<usize> = (0..mask.alpha.len()).filter(shown).collect();
        let columns = || all.iter().map(|at| at % mask.width);
        let rows = || all.iter().map(|at| at / mask.width);
        let bounds = [columns().min()?, rows().min()?, columns().max()? + 1, rows().max()? + 1];
        Some(Self { bounds, mask })
    }

    /// The subject on a white square.
    pub fn cut_out(&self, picture: &Image) -> Image {
        let shown = |x: usize, y: usize| self.mask.alpha[y * self.mask.width + x] >= SHOWN;
        on_white_square(&cut(picture, self.bounds, shown))
    }
}

/// A network, or several, that find what a word names.
pub trait Segmenter: Send + Sync {
    /// Where each of `words` is in `picture`; nothing where it is not found.
    ///
    /// # Errors
    /// When a network fails.
    fn segments(&self, picture: &Image, words: &[String]) -> Result<Vec<Option<Segment>>>;
}

/// Who says where subjects are.
pub enum SubjectFinder {
    /// Masks `WORD.FRAME.png` (white is subject, frames from 0000 on) in `NAME.masks/` beside a video.
    Files,
    /// A network.
    Network(Box<dyn Segmenter>),
}

impl SubjectFinder {
    /// Where each of `words` is in each of `frames` of the video at `path`.
    ///
    /// # Errors
    /// When there is no folder of masks, one is damaged or of another size than its frame, or a network
    /// fails.
    pub fn segments(
        &self,
        path: &Path,
        frames: &[Image],
        words: &[String],
    ) -> Result<Vec<Vec<Option<Segment>>>> {
        match self {
            Self::Network(network) => frames.iter().map(|frame| network.segments(frame, words)).collect(),
            Self::Files => {
                let folder = masks_of(path)?;
                let frame = |(at, frame): (usize, &Image)| {
                    words.iter().map(|word| read(&folder, word, at, frame)).collect()
                };
                frames.iter().enumerate().map(frame).collect()
            }
        }
    }
}

fn masks_of(path: &Path) -> Result<PathBuf> {
    let stem = if path.is_dir() { path.file_name() } else { path.file_stem() };
    let name = stem.unwrap_or_default().to_string_lossy();
    let folder = path.with_file_name(format!("{name}{MASKS}"));
    if fs::metadata(&folder).is_ok_and(|about| about.is_dir()) {
        Ok(folder)
    } else {
        Err(Error::Videos {
            path: path.display().to_string(),
            reason: format!("there is no folder {name}{MASKS} beside it; find its subjects"),
        })
    }
}

fn read(folder: &Path, word: &str, at: usize, frame: &Image) -> Result<Option<Segment>> {
    let file = folder.join(format!("{}.{at:04}.png", file_name(word)));
    if !file.is_file() {
        return Ok(None);
    }
    let mask = Mask::open(&file)?;
    if [mask.width, mask.height] == [frame.width, frame.height] {
        Ok(Segment::of_mask(mask))
    } else {
        Err(Error::Videos {
            path: file.display().to_string(),
            reason: format!(
                "it is {}x{} and its frame {}x{}; make them the same size",
                mask.width, mask.height, frame.width, frame.height
            ),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_subject_is_cut_out_on_white() {
        let mut alpha = vec![0; 5 * 4];
        for at in [6, 7, 8, 11] {
            alpha[at] = 255;
        }
        let segment = Segment::of_mask(Mask { width: 5, height: 4, alpha }).unwrap();
        assert_eq!(segment.bounds, [1, 1, 4, 3]);
        let picture = Image::filled(5, 4, [7; 3]);
        let [own, white] = [[7; 3], [255; 3]];
        let found = segment.cut_out(&picture);
        let pixels: Vec<[u8; 3]> = (0..9).map(|at| found.pixel(at % 3, at / 3)).collect();
        assert_eq!(pixels, [own, own, own, own, white, white, white, white, white]);
        assert_eq!(Segment::of_mask(Mask { width: 2, height: 1, alpha: vec![127; 2] }), None);
    }
}
