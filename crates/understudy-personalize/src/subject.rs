//! A subject: who or what is to be learned, from pictures or one clip, with its class noun and its token.

use std::path::{Path, PathBuf};

use understudy_media::{FolderOptions, Image, LeftOut, Mask, Picture, SubjectFolder, Video};
use understudy_pipeline::Tokenizer;

use crate::error::{Error, Result};
use crate::metadata::SubjectName;
use crate::prompts::{Telling, neutral_prompts};

/// The token that stands for a subject unless another is given.
pub const DEFAULT_TOKEN: &str = "<s>";

/// How a subject is read.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SubjectOptions {
    /// Height and width it is trained at, pixels.
    pub size: [usize; 2],
    /// Frames of the clips a video is cut into.
    pub clip_frames: usize,
    /// Frames a second of the base's videos: of a video that has more the frames between are left out, so that it is as fast.
    pub fps: f64,
    /// Whether an unreadable picture is an error; otherwise it is left out.
    pub strict: bool,
}

/// A picture of a subject.
#[derive(Clone, Debug, PartialEq)]
pub struct SubjectPicture {
    /// Covers the training size, at once or, where the file has so many pixels, twice as large; the mask
    /// likewise.
    pub picture: Picture,
    /// What the file beside it says.
    pub caption: Option<String>,
    /// The picture's file, if it has one.
    pub path: Option<PathBuf>,
}

impl From<&Image> for SubjectPicture {
    /// A picture without a mask and a caption.
    fn from(image: &Image) -> Self {
        Self { picture: Picture { image: image.clone(), mask: None }, caption: None, path: None }
    }
}

/// Who or what is to be learned.
#[derive(Clone, Debug, PartialEq)]
pub struct Subject {
    /// The class noun: `cat`, `teddy bear`.
    pub class: String,
    /// The token that will stand for it: `<s>`.
    pub token: String,
    /// Height and width it is trained at, pixels.
    pub size: [usize; 2],
    /// Its pictures.
    pub pictures: Vec<SubjectPicture>,
    /// Clips of it, all of one length, at the training size.
    pub clips: Vec<Video>,
    /// Where it is in every frame of every clip; nothing where that is not known.
    pub clip_masks: Vec<Vec<Mask>>,
    /// What the file beside a video says: captions of what it shows, one a line, with what it does in square
    /// brackets: "a bear [walks to the left] in a room".
    pub clip_captions: Vec<String>,
    /// What was found and is not used, with the reason.
    pub left_out: Vec<LeftOut>,
}

impl Subject {
    /// Reads a folder of pictures, one picture, or one video. `NAME.txt` beside the video `NAME` has its captions, one a line,
    /// and the pictures in `NAME.masks/`, one a frame in the order of their names, say where the subject is: white.
    ///
    /// # Errors
    /// When the class or the token cannot be used, or no picture or video can be read.
    pub fn open(path: &Path, class: &str, token: &str, options: SubjectOptions) -> Result<Self> {
        let mut subject = Self {
            class: check_class(class)?,
            token: check_token(token, class)?,
            size: options.size,
            pictures: Vec::new(),
            clips: Vec::new(),
            clip_masks: Vec::new(),
            clip_captions: Vec::new(),
            left_out: Vec::new(),
        };
        if path.is_file() && Picture::probe(path).is_err() {
            subject.add_video(path, options)?;
            return Ok(subject);
        }
        let folder = SubjectFolder::open_with(path, FolderOptions { strict: options.strict })?;
        for item in &folder.items {
            let picture = item.load()?;
            subject.pictures.push(SubjectPicture {
                picture: picture.cover_crop(stored_size(&picture.image, options.size))?,
                caption: item.caption.clone(),
                path: Some(item.path.clone()),
            });
        }
        subject.left_out = folder.left_out;
        Ok(subject)
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
                picture: picture.cover_crop(stored_size(&picture.image, size))?,
                caption: None,
                path: None,
            })
        };
        Ok(Self {
            class: check_class(class)?,
            token: check_token(token, class)?,
            size,
            pictures: pictures.iter().map(crop).collect::<Result<_>>()?,
            clips: Vec::new(),
            clip_masks: Vec::new(),
            clip_captions: Vec::new(),
            left_out: Vec::new(),
        })
    }

    /// Cuts a video into clips of the wanted length; where it is shorter, its frames are used as pictures.
    fn add_video(&mut self, path: &Path, options: SubjectOptions) -> Result<()> {
        let looks_like_picture = |extension: &std::ffi::OsStr| {
            ["png", "jpg", "jpeg", "webp"].iter().any(|known| extension.eq_ignore_ascii_case(known))
        };
        if path.extension().is_some_and(looks_like_picture) {
            // Its own error says more than that it is no video either.
            Picture::open(path)?;
        }
        let video = Video::read(path)?;
        let masks = clip_masks(path, &video, options.size)?;
        let kept = frames_at(options.fps, video.frames.len(), video.fps);
        if kept.len() < video.frames.len() {
            let reason = format!(
                "{} of its {} frames: it has {} a second, and the base's videos {} (fps)",
                video.frames.len() - kept.len(),
                video.frames.len(),
                (video.fps * 100.0).round() / 100.0,
                options.fps
            );
            self.left_out.push(LeftOut { path: path.to_owned(), reason });
        }
        let (masks, frames) = (only(masks, &kept), only(video.frames, &kept));
        let video = Video::new(frames, video.fps.min(options.fps))?.cover_crop(options.size)?;
        let said = std::fs::read_to_string(path.with_extension("txt")).unwrap_or_default();
        let lines = said.trim_start_matches('\u{feff}').lines().map(str::trim);
        self.clip_captions = lines.filter(|line| !line.is_empty()).map(str::to_owned).collect();
        let whole = video.frames.chunks_exact(options.clip_frames.max(1));
        let rest = whole.remainder();
        for frames in whole.clone() {
            self.clips.push(Video::new(frames.to_vec(), video.fps)?);
        }
        if self.clips.is_empty() {
            self.pictures = rest.iter().map(SubjectPicture::from).collect();
            for (picture, mask) in self.pictures.iter_mut().zip(masks) {
                picture.picture.mask = Some(mask);
            }
            if rest.len() > 1 {
                let reason = format!(
                    "how it moves: {} frames make no clip of {} (clip_frames), so each is a picture",
                    rest.len(),
                    options.clip_frames
                );
                self.left_out.push(LeftOut { path: path.to_owned(), reason });
            }
            return Ok(());
        }
        let whole = masks.chunks_exact(options.clip_frames.max(1));
        self.clip_masks = whole.map(<[Mask]>::to_vec).collect();
        if !rest.is_empty() {
            let reason = format!(
                "its last {} frames, which make no whole clip of {}",
                rest.len(),
                options.clip_frames
            );
            self.left_out.push(LeftOut { path: path.to_owned(), reason });
        }
        Ok(())
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
        let phrase = self.phrase();
        match self.clip_captions.as_slice() {
            [] => neutral_prompts(tokenizer, &telling.after(&phrase)),
            own => own.iter().map(|caption| telling.of(caption, &self.class, &phrase)).collect(),
        }
    }

    /// What it does in its clip, as the caption tells it in brackets: `walks to the left`; nothing where it does not.
    pub(crate) fn action<'a>(&'a self) -> &'a str {
        let inside = |caption: &'a str| Some(caption.split_once('[')?.1.split_once(']')?.0.trim());
        self.clip_captions.iter().find_map(|caption| inside(caption)).unwrap_or_default()
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

/// The frames that a video of `count` frames at `from` a second shows at `to` a second: the nearest to each moment. Where it
/// hardly has more, all of them.
fn frames_at(to: f64, count: usize, from: f64) -> Vec<usize> {
    const ALIKE: f64 = 1.1;
    let step = if from > ALIKE * to { from / to } else { 1.0 };
    (0..count).map(|at| (at as f64 * step).round() as usize).take_while(|at| *at < count).collect()
}

/// Those of `items` whose indices, in order, are `wanted`.
fn only<T>(items: Vec<T>, wanted: &[usize]) -> Vec<T> {
    let mut wanted = wanted.iter().peekable();
    let items = items.into_iter().enumerate();
    items.filter_map(|(at, item)| wanted.next_if(|next| **next == at).map(|_| item)).collect()
}

/// Twice the training size where the picture has so many pixels, so that crops of it stay sharp.
fn stored_size(image: &Image, [height, width]: [usize; 2]) -> [usize; 2] {
    let factor = if image.height >= 2 * height && image.width >= 2 * width { 2 } else { 1 };
    [factor * height, factor * width]
}

/// The masks of a video's frames, cut as the frames are; none where there is no folder of them.
fn clip_masks(path: &Path, video: &Video, size: [usize; 2]) -> Result<Vec<Mask>> {
    let folder = path.with_extension("masks");
    if !folder.exists() {
        return Ok(Vec::new());
    }
    let fault = |reason: String| Error::Subject {
        field: "subject",
        reason: format!("{}: {reason}", folder.display()),
    };
    let entries = std::fs::read_dir(&folder).map_err(|error| {
        fault(format!("cannot be read as a folder of masks: {error}; remove it to do without"))
    })?;
    let mut paths: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
    // `2.png` comes before `10.png`.
    let number = |path: &PathBuf| -> Option<u64> { path.file_stem()?.to_str()?.parse().ok() };
    paths.sort_by(|a, b| number(a).cmp(&number(b)).then_with(|| a.cmp(b)));
    if paths.len() != video.frames.len() {
        return Err(fault(format!(
            "it has {} masks and the video {} frames; give one for each frame, or remove the folder",
            paths.len(),
            video.frames.len()
        )));
    }
    let one = |(path, frame): (&PathBuf, &Image)| -> Result<Mask> {
        let mask = Mask::open(path)?;
        if [mask.width, mask.height] != [frame.width, frame.height] {
            return Err(fault(format!(
                "{} is {}x{} and the video {}x{}; give masks of the video's size",
                path.file_name().unwrap_or_default().display(),
                mask.width,
                mask.height,
                frame.width,
                frame.height
            )));
        }
        Ok(mask.cover_crop(size)?)
    };
    paths.iter().zip(&video.frames).map(one).collect()
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
mod tests {
    use super::*;

    const OPTIONS: SubjectOptions = SubjectOptions { size: [16, 24], clip_frames: 5, fps: 8.0, strict: true };

    fn write(path: &Path, width: usize, height: usize) {
        Video::new(vec![Image::filled(width, height, [200, 30, 40])], 8.0)
            .unwrap()
            .write(path, &understudy_media::WriteOptions::default())
            .unwrap();
    }

    #[test]
    fn a_folder_is_cropped_and_what_is_left_out_is_said() {
        let folder = tempfile::tempdir().unwrap();
        write(&folder.path().join("a.png"), 40, 20);
        write(&folder.path().join("b.png"), 200, 100);
        std::fs::write(folder.path().join("a.txt"), "a red cat").unwrap();
        std::fs::write(folder.path().join("notes.md"), "hello").unwrap();
        let subject = Subject::open(folder.path(), " teddy  bear ", "<s>", OPTIONS).unwrap();
        let size = |index: usize| {
            let image = &subject.pictures[index].picture.image;
            [image.height, image.width]
        };
        assert_eq!([size(0), size(1)], [[16, 24], [32, 48]]);
        assert_eq!(subject.pictures[0].caption.as_deref(), Some("a red cat"));
        assert_eq!(subject.left_out.len(), 1);
        assert_eq!(subject.phrase(), "<s> teddy bear");
    }

    fn write_video(path: &Path, frames: u8, frame: impl Fn(u8) -> Image) {
        let video = Video::new((0..frames).map(frame).collect(), 8.0).unwrap();
        video.write(path, &understudy_media::WriteOptions::default()).unwrap();
    }

    #[test]
    fn a_video_becomes_clips() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.gif");
        write_video(&path, 12, |at| Image::filled(48, 32, [at * 20, 0, 0]));
        std::fs::write(folder.path().join("a.txt"), "a cat in a room\n\n the cat indoors\n").unwrap();
        let subject = Subject::open(&path, "cat", "<s>", OPTIONS).unwrap();
        assert_eq!((subject.clips.len(), subject.pictures.len()), (2, 0));
        assert_eq!(subject.clip_captions, ["a cat in a room", "the cat indoors"]);
        assert!(subject.left_out[0].reason.contains("last 2 frames"));
        let long = SubjectOptions { clip_frames: 17, ..OPTIONS };
        let subject = Subject::open(&path, "cat", "<s>", long).unwrap();
        assert_eq!(subject.pictures.len(), 12);
        assert!(subject.left_out[0].reason.contains("12 frames make no clip of 17"));
    }

    #[test]
    fn a_faster_video_is_learned_at_the_speed_of_the_base() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.gif");
        write_video(&path, 12, |at| Image::filled(48, 32, [at * 20, 0, 0]));
        let masks = folder.path().join("a.masks/");
        write_video(&masks, 12, |at| Image::filled(48, 32, [at * 20; 3]));
        let subject = Subject::open(&path, "cat", "<s>", SubjectOptions { fps: 4.0, ..OPTIONS }).unwrap();
        assert_eq!((subject.clips.len(), subject.clip_masks.len(), subject.clips[0].fps), (1, 1, 4.0));
        assert!(subject.left_out[0].reason.contains("6 of its 12 frames"), "{:?}", subject.left_out);
        let reds: Vec<u8> = subject.clips[0].frames.iter().map(|frame| frame.pixel(0, 0)[0]).collect();
        for (at, red) in reds.into_iter().enumerate() {
            assert!(red.abs_diff(40 * at as u8) < 8 && subject.clip_masks[0][at].alpha[0].abs_diff(red) < 8);
        }
        assert_eq!(frames_at(16.0, 10, 24.0), [0, 2, 3, 5, 6, 8, 9]);
        assert_eq!(frames_at(16.0, 3, 16.5), [0, 1, 2]);
        assert_eq!(frames_at(16.0, 3, 8.0), [0, 1, 2]);
    }

    #[test]
    fn masks_beside_a_video_go_with_its_frames() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.gif");
        write_video(&path, 7, |at| Image::filled(48, 32, [at * 20, 0, 0]));
        let masks = folder.path().join("a.masks/");
        let mask =
            |at: u8| Image::from_fn(48, 32, move |x, _| [if x < 8 + usize::from(at) { 255 } else { 0 }; 3]);
        write_video(&masks, 6, mask);
        let message = Subject::open(&path, "cat", "<s>", OPTIONS).unwrap_err().to_string();
        assert!(message.contains("6 masks") && message.contains("7 frames"), "{message}");
        std::fs::remove_dir_all(&masks).unwrap();
        write_video(&masks, 7, mask);
        let subject = Subject::open(&path, "cat", "<s>", OPTIONS).unwrap();
        assert_eq!((subject.clips.len(), subject.clip_masks.len(), subject.clip_masks[0].len()), (1, 1, 5));
        // Cut as the frames are, to the middle and to half the height.
        let [first, fifth] = [0, 4].map(|at: usize| {
            let mask = &subject.clip_masks[0][at];
            mask.alpha[..mask.width].iter().filter(|value| **value > 127).count()
        });
        assert!(fifth > first, "{first} {fifth}");
        let seen = subject.frames();
        assert_eq!(seen[4].picture.mask.as_ref(), Some(&subject.clip_masks[0][4]));
        // Too short for a clip, its frames are pictures, with their masks.
        let long = SubjectOptions { clip_frames: 17, ..OPTIONS };
        let pictures = Subject::open(&path, "cat", "<s>", long).unwrap().pictures;
        assert!(pictures.len() == 7 && pictures.iter().all(|own| own.picture.mask.is_some()));
    }

    #[test]
    fn what_cannot_be_used_is_one_clear_line() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.png");
        write(&path, 32, 32);
        let refused = |path: &Path, class: &str, token: &str| {
            let message = Subject::open(path, class, token, OPTIONS).unwrap_err().to_string();
            assert!(!message.contains('\n'), "{message}");
            message
        };
        assert!(refused(&path, " ", "<s>").contains("class is empty"));
        assert!(refused(&path, "c{a}t", "<s>").contains("class has characters"));
        assert!(refused(&path, "cat", "").contains("token"));
        assert!(refused(&path, "cat", "two words").contains("one word"));
        assert!(refused(&path, "cat", "&lt;").contains("without &"));
        assert!(refused(&path, "big Cat", "cat").contains("class itself"));
        assert!(refused(&folder.path().join("none"), "cat", "<s>").contains("none"));
        std::fs::write(folder.path().join("b.png"), b"\x89PNG\r\n\x1a\n truncated").unwrap();
        assert!(refused(folder.path(), "cat", "<s>").contains("b.png"));
        assert!(refused(&folder.path().join("b.png"), "cat", "<s>").contains("b.png"));
        assert!(Subject::from_pictures(&[], "cat", "<s>", [16, 16]).is_err());
    }
}
