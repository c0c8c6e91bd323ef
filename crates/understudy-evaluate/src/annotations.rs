//! The annotations of MSRVTT-Personalization (Chen et al., "Multi-subject Open-set Personalization in Video
//! Generation", 2025), as its scripts lay them out in files.

use std::path::{Path, PathBuf};

use serde::Deserialize;
use understudy_media::{Image, Picture, Text};

use crate::error::{Error, Result};

/// What the benchmark calls the frames of a clip that it keeps.
const FRAMES: [usize; 3] = [1, 2, 3];
const WHITE: [u8; 3] = [255; 3];

/// Which samples count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Those with exactly one subject.
    Subject,
    /// Those with exactly one subject that has a face.
    Face,
}

/// A folder of annotations: `NAME.vid_info.json`, and in `NAME/` the pictures `frame1.jpg` to `frame3.jpg`,
/// `WORD.frameK.png` (a subject or object cut out, what is not of it transparent) and `WORD.face.frameK.png`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Annotations {
    folder: PathBuf,
    mode: Mode,
}

/// What is annotated of one clip.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sample {
    folder: PathBuf,
    /// What is to be seen.
    pub caption: String,
    /// The words for its subjects and objects.
    pub words: Vec<String>,
    /// The words for its subjects with a face.
    pub faces: Vec<String>,
}

/// The file, of which a part is looked at.
#[derive(Deserialize)]
struct Info {
    caption: String,
    word_tags: Tags,
}

#[derive(Deserialize)]
struct Tags {
    #[serde(default)]
    subject: Vec<String>,
    #[serde(default)]
    object: Vec<String>,
    #[serde(default)]
    subject_with_face: Vec<String>,
}

impl Annotations {
    /// Those in `folder`, of which the samples of `mode` count.
    ///
    /// # Errors
    /// When there is no such folder.
    pub fn open(folder: &Path, mode: Mode) -> Result<Self> {
        if folder.is_dir() {
            Ok(Self { folder: folder.to_owned(), mode })
        } else {
            Err(Error::Videos {
                path: folder.display().to_string(),
                reason: "there is no such folder of annotations".to_owned(),
            })
        }
    }

    /// The sample `name`; `None` if it is not of the mode.
    ///
    /// # Errors
    /// When it is not there or malformed.
    pub fn sample(&self, name: &str) -> Result<Option<Sample>> {
        let path = self.info(name);
        let fault = |reason: String| Error::Videos { path: path.display().to_string(), reason };
        let text = Text::read(&path)?.content;
        let Info { caption, word_tags } =
            serde_json::from_str(&text).map_err(|error| fault(error.to_string()))?;
        let counted = match self.mode {
            Mode::Subject => &word_tags.subject,
            Mode::Face => &word_tags.subject_with_face,
        };
        if counted.len() != 1 {
            return Ok(None);
        }
        Ok(Some(Sample {
            folder: self.folder.join(name),
            caption,
            words: [word_tags.subject, word_tags.object].concat(),
            faces: word_tags.subject_with_face,
        }))
    }

    /// The file that describes the sample `name`.
    pub fn info(&self, name: &str) -> PathBuf {
        self.folder.join(format!("{name}.vid_info.json"))
    }
}

impl Sample {
    /// The three frames of the real clip.
    ///
    /// # Errors
    /// When one is not there or cannot be read.
    pub fn frames(&self) -> Result<Vec<Image>> {
        FRAMES
            .into_iter()
            .map(|at| Ok(Picture::open(self.folder.join(format!("frame{at}.jpg")))?.image))
            .collect()
    }

    /// What the subject or object `word` looks like: one to three pictures, on white squares.
    ///
    /// # Errors
    /// When there is none, or one cannot be read.
    pub fn subjects(&self, word: &str) -> Result<Vec<Image>> {
        Ok(self.pictures(&file_name(word))?.iter().map(on_white_square).collect())
    }

    /// The faces of the only subject with one.
    ///
    /// # Errors
    /// When there is not one such subject, there is no picture, or one cannot be read.
    pub fn face(&self) -> Result<Vec<Image>> {
        match self.faces.as_slice() {
            [word] => self.pictures(&format!("{}.face", file_name(word))),
            words => Err(self.fault(format!("{} subjects have a face, and one is needed", words.len()))),
        }
    }

    fn pictures(&self, name: &str) -> Result<Vec<Image>> {
        let files = FRAMES.map(|at| self.folder.join(format!("{name}.frame{at}.png")));
        let there = files.iter().filter(|file| file.is_file());
        let pictures: Vec<Image> = there.map(|file| Ok(Picture::open(file)?.image)).collect::<Result<_>>()?;
        if pictures.is_empty() {
            Err(self.fault(format!("there is no {name}.frame1.png, nor of frame 2 or 3")))
        } else {
            Ok(pictures)
        }
    }

    fn fault(&self, reason: String) -> Error {
        Error::Videos { path: self.folder.display().to_string(), reason }
    }
}

/// A word as files are called after it.
pub fn file_name(word: &str) -> String {
    word.replace([' ', '/'], "_")
}

/// The picture in the middle of a white square; the odd pixel is added behind.
pub fn on_white_square(picture: &Image) -> Image {
    let side = picture.width.max(picture.height);
    let mut square = Image::filled(side, side, WHITE);
    square.paste(picture, (side - picture.width) / 2, (side - picture.height) / 2);
    square
}

/// The square in the middle of a picture.
pub fn middle_square(picture: &Image) -> Image {
    let side = picture.width.min(picture.height);
    let [left, top] = [picture.width, picture.height].map(|whole| (whole - side) / 2);
    cut(picture, [left, top, left + side, top + side], |_, _| true)
}

/// The part of a picture within `[left, top, right, bottom]`, white where it is not `shown`.
pub fn cut(
    picture: &Image,
    [left, top, right, bottom]: [usize; 4],
    shown: impl Fn(usize, usize) -> bool,
) -> Image {
    Image::from_fn(right - left, bottom - top, |x, y| {
        if shown(left + x, top + y) { picture.pixel(left + x, top + y) } else { WHITE }
    })
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn samples_of_the_mode_are_told_from_others() {
        let folder = tempfile::tempdir().unwrap();
        let text = r#"{"video": "v.mp4", "caption": "a man and a dog", "word_tags": {"subject": ["man", "dog"],
            "object": ["red ball"], "background": [], "subject_with_face": ["man"]}}"#;
        fs::write(folder.path().join("a.vid_info.json"), text).unwrap();
        let sample = |mode| Annotations::open(folder.path(), mode).unwrap().sample("a").unwrap();
        assert_eq!(sample(Mode::Subject), None);
        let face = sample(Mode::Face).unwrap();
        assert_eq!(face.words, ["man", "dog", "red ball"]);
        assert!(face.face().unwrap_err().to_string().contains("man.face.frame1.png"));
        assert!(face.subjects("red ball").unwrap_err().to_string().contains("red_ball.frame1.png"));
        let missing = Annotations::open(folder.path(), Mode::Face).unwrap().sample("b").unwrap_err();
        assert!(missing.to_string().contains("b.vid_info.json"));
    }

    #[test]
    fn squares_have_the_odd_pixel_behind() {
        let tall = Image::filled(2, 5, [9; 3]);
        let square = on_white_square(&tall);
        let columns: Vec<bool> = (0..5).map(|x| square.pixel(x, 0) == [9; 3]).collect();
        assert_eq!(columns, [false, true, true, false, false]);
        assert_eq!(middle_square(&tall), Image::filled(2, 2, [9; 3]));
    }
}
