//! A subject: who or what is to be learned, from pictures or one clip, with its class noun and its token.

use std::path::PathBuf;

use understudy_media::{Image, LeftOut, Mask, Note, Picture, Video};
use understudy_pipeline::Tokenizer;

use crate::error::{Error, Result};
use crate::metadata::SubjectName;
use crate::prompts::{Naming, Telling, neutral_prompts};

mod captions;
mod clip_masks;
mod reading;

pub use reading::SubjectOptions;

/// The token that stands for a subject unless another is given.
pub const DEFAULT_TOKEN: &str = "<s>";

/// A picture of a subject.
#[derive(Clone, Debug, PartialEq)]
pub struct SubjectPicture {
    /// Covers the size it is trained at, at once or, where the file has so many pixels, twice as large; the
    /// mask likewise.
    pub picture: Picture,
    /// Height and width it is trained at, pixels.
    pub size: [usize; 2],
    /// What the file beside it says.
    pub caption: Option<String>,
    /// The picture's file, if it has one.
    pub path: Option<PathBuf>,
}

impl From<&Image> for SubjectPicture {
    /// A picture without a mask and a caption, at its own size.
    fn from(image: &Image) -> Self {
        let picture = Picture { image: image.clone(), mask: None };
        Self { picture, size: [image.height, image.width], caption: None, path: None }
    }
}

/// Who or what is to be learned.
#[derive(Clone, Debug, PartialEq)]
pub struct Subject {
    /// The class noun: `cat`, `teddy bear`.
    pub class: String,
    /// The token that will stand for it: `<s>`.
    pub token: String,
    /// Height and width it is trained at, pixels; of pictures and clips of another aspect, the area.
    pub size: [usize; 2],
    /// Its pictures.
    pub pictures: Vec<SubjectPicture>,
    /// Clips of it, all of one length, at the size they are trained at.
    pub clips: Vec<Video>,
    /// Where it is in every frame of every clip; nothing where that is not known.
    pub clip_masks: Vec<Vec<Mask>>,
    /// What the file beside a video says: captions of what it shows, one a line, with what it does in square
    /// brackets: "a bear [walks to the left] in a room".
    pub clip_captions: Vec<String>,
    /// What was found and is not used, with the reason.
    pub left_out: Vec<LeftOut>,
    /// What is to be said of files that are used.
    pub notes: Vec<Note>,
}

impl Subject {
    /// One without anything to learn from yet.
    fn new(class: &str, token: &str, size: [usize; 2]) -> Result<Self> {
        Ok(Self {
            class: check_class(class)?,
            token: check_token(token, class)?,
            size,
            pictures: Vec::new(),
            clips: Vec::new(),
            clip_masks: Vec::new(),
            clip_captions: Vec::new(),
            left_out: Vec::new(),
            notes: Vec::new(),
        })
    }

    /// A subject from pictures at hand.
    ///
    /// # Errors
    /// When there is none, or the class or the token cannot be used.
    pub fn from_pictures(pictures: &[Picture], class: &str, token: &str, size: [usize; 2]) -> Result<Self> {
        if pictures.is_empty() {
            return Err(Error::Subject {
                field: "subject",
                reason: "has no picture; give at least one".into(),
            });
        }
        let crop = |picture: &Picture| -> Result<SubjectPicture> {
            Ok(SubjectPicture {
                picture: picture.cover_crop(reading::stored_size(&picture.image, size))?,
                size,
                caption: None,
                path: None,
            })
        };
        let pictures = pictures.iter().map(crop).collect::<Result<_>>()?;
        Ok(Self { pictures, ..Self::new(class, token, size)? })
    }

    /// The frames of its clips, each a picture with its mask.
    pub(crate) fn frames(&self) -> Vec<SubjectPicture> {
        let mut frames: Vec<SubjectPicture> =
            self.clips.iter().flat_map(|clip| &clip.frames).map(SubjectPicture::from).collect();
        for (frame, mask) in frames.iter_mut().zip(self.clip_masks.iter().flatten()) {
            frame.picture.mask = Some(mask.clone());
        }
        frames
    }

    /// The prompts of its clips: their captions, or neutral ones that `tokenizer` knows.
    pub(crate) fn clip_prompts(&self, tokenizer: &Tokenizer, telling: Telling) -> Vec<String> {
        match self.clip_captions.as_slice() {
            [] => neutral_prompts(tokenizer, &telling.after(&self.phrase())),
            own => own.iter().map(|caption| telling.of(caption, self.naming())).collect(),
        }
    }

    /// What it does in its clip, as the caption tells it in brackets: `walks to the left`; nothing where it
    /// does not.
    pub(crate) fn action(&self) -> String {
        let told = self.clip_captions.iter().find_map(|caption| self.naming().action(caption));
        told.map(|(_, action, _)| action).unwrap_or_default()
    }

    /// How captions name it.
    pub(crate) fn naming(&self) -> Naming<'_> {
        Naming { class: &self.class, token: &self.token }
    }

    /// How an adapter names it.
    pub(crate) fn name(&self) -> SubjectName {
        SubjectName { class: self.class.clone(), token: self.token.clone() }
    }

    /// What prompts call it: `<s> cat`.
    pub fn phrase(&self) -> String {
        format!("{} {}", self.token, self.class)
    }
}

fn check_class(class: &str) -> Result<String> {
    const LONGEST: usize = 64;
    let fault = |reason: &str| Err(Error::Subject { field: "class", reason: reason.to_owned() });
    let words = class.split_whitespace().collect::<Vec<_>>().join(" ");
    if words.is_empty() {
        return fault("is empty; name what the subject is, e.g. --class cat");
    }
    if words.chars().count() > LONGEST {
        return fault("is longer than 64 characters; a class is a noun like \"cat\" or \"teddy bear\"");
    }
    if !words.chars().all(|c| c.is_alphanumeric() || " -'".contains(c)) {
        return fault(
            "has characters that are not letters; a class is a noun like \"cat\" or \"teddy bear\"",
        );
    }
    Ok(words)
}

fn check_token(token: &str, class: &str) -> Result<String> {
    const LONGEST: usize = 32;
    let fault = |reason: String| Err(Error::Subject { field: "token", reason });
    let plain = !token.is_empty() && token.chars().all(|c| c.is_ascii_graphic() && c != '&');
    if !plain || token.len() > LONGEST {
        return fault(format!(
            "{token:?} is not one word of 1 to 32 ASCII characters without &; choose one like <s>"
        ));
    }
    if class.split_whitespace().any(|word| word.eq_ignore_ascii_case(token)) {
        return fault(format!(
            "{token:?} is the class itself, which would be unlearned; choose one like <s>"
        ));
    }
    Ok(token.to_owned())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;
