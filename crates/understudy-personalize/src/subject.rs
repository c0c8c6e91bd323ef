//! A subject: who or what is to be learned, from pictures or one clip, with its class noun and its token.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use understudy_media::{
    Caption, DEFAULT_RESOLUTION, Dataset, FileKind, FolderOptions, Footage, Image, LeftOut, Mask, MediaKind,
    Note, Picture, SubjectFolder, Video, clip_masks, shown,
};
use understudy_pipeline::Tokenizer;

use crate::error::{Error, Result};
use crate::metadata::SubjectName;
use crate::prompts::{CalledBy, Naming, Telling, neutral_prompts};
use crate::shapes::{lost, shape_of};

/// The token that stands for a subject unless another is given.
pub const DEFAULT_TOKEN: &str = "<s>";

/// How a subject is read.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SubjectOptions {
    /// Height and width it is trained at, pixels; with buckets, the area.
    pub size: [usize; 2],
    /// What the base needs heights and widths to be whole multiples of.
    pub multiple: [usize; 2],
    /// The largest ratio of sides that pictures and clips are trained at, each at the shape nearest to its own; all are cut to
    /// the one size without it.
    pub buckets: Option<f32>,
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
    /// Covers the size it is trained at, at once or, where the file has so many pixels, twice as large; the mask
    /// likewise.
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
    /// Reads a folder of pictures, one picture, one video, or a description of a data set (TOML or JSONL). Beside a video `NAME`
    /// its captions may lie, one a line, in `NAME.txt`, and in `NAME.masks/` (or `masks/NAME/`, ...) pictures, one a frame in
    /// the order of their names, that say where the subject is: white.
    ///
    /// # Errors
    /// When the class or the token cannot be used, or no picture or video can be read.
    pub fn open(path: &Path, class: &str, token: &str, options: SubjectOptions) -> Result<Self> {
        let mut subject = Self::new(class, token, options.size)?;
        let kind = if path.is_file() { FileKind::of(path)? } else { FileKind::Picture };
        match kind {
            FileKind::Picture => subject.add_pictures(path, options)?,
            FileKind::Description => subject.add_dataset(path, options)?,
            FileKind::Clip | FileKind::Unknown => {
                let caption = Caption::beside(path)?;
                let said = caption.as_ref().and_then(|own| Some((&own.path, own.note?)));
                subject.notes.extend(said.map(|(path, text)| Note { path: path.clone(), text: text.into() }));
                subject.add_video(path, caption.as_ref().map(|own| own.text.as_str()), options)?;
            }
        }
        subject.note_captions(path);
        Ok(subject)
    }

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

    /// Adds the pictures of a folder, or one picture.
    fn add_pictures(&mut self, path: &Path, options: SubjectOptions) -> Result<()> {
        let folder = SubjectFolder::open_with(path, FolderOptions { strict: options.strict })?;
        self.left_out.extend(folder.left_out);
        let mut cut = Vec::new();
        for item in folder.items {
            cut.extend(self.add_picture(item.load()?, item.caption, &item.path, &options)?);
            self.notes.extend(item.notes);
        }
        self.left_out.extend(gathered(cut).map(|(path, reason)| LeftOut { path, reason }));
        Ok(())
    }

    /// Adds a picture; what is lost of it, where that is much.
    fn add_picture(
        &mut self,
        picture: Picture,
        caption: Option<String>,
        path: &Path,
        options: &SubjectOptions,
    ) -> Result<Option<(PathBuf, String)>> {
        let own = [picture.image.height, picture.image.width];
        let size = shape_of(own, options);
        self.pictures.push(SubjectPicture {
            picture: picture.cover_crop(stored_size(&picture.image, size))?,
            size,
            caption,
            path: Some(path.to_owned()),
        });
        Ok(lost(own, size, options).map(|reason| (path.to_owned(), reason)))
    }

    /// Adds what a description of a data set names: its pictures, or its video where that is all there is.
    fn add_dataset(&mut self, path: &Path, options: SubjectOptions) -> Result<()> {
        let dataset = Dataset::open(path)?;
        self.left_out.extend(dataset.left_out);
        self.notes.extend(dataset.notes);
        let unused = dataset.ignored.iter().map(|own| format!("{} is not used: {}", own.key, own.reason));
        self.notes.extend(unused.map(|text| Note { path: path.to_owned(), text }));
        let [height, width] = options.size;
        let other = |own: &[usize; 2]| *own != DEFAULT_RESOLUTION && *own != [width, height];
        if let Some([w, h]) = dataset.items.iter().map(|own| own.resolution).find(other) {
            let text = format!("its resolution {w}x{h} is not used: {width}x{height} is (--width, --height)");
            self.notes.push(Note { path: path.to_owned(), text });
        }
        if let [item] = dataset.items.as_slice()
            && item.kind == MediaKind::Video
        {
            return self.add_video(&item.path, item.caption.as_deref(), options);
        }
        let mut cut = Vec::new();
        for item in dataset.items {
            if item.kind == MediaKind::Video {
                let reason = "a video among others; name it alone as the subject to learn from it".to_owned();
                self.left_out.push(LeftOut { path: item.path, reason });
                continue;
            }
            if item.num_repeats > 1 {
                let text =
                    format!("its {} repeats are not used: every picture counts as much", item.num_repeats);
                self.notes.push(Note { path: item.path.clone(), text });
            }
            cut.extend(self.add_picture(item.load_picture()?, item.caption, &item.path, &options)?);
        }
        self.left_out.extend(gathered(cut).map(|(path, reason)| LeftOut { path, reason }));
        match self.pictures.is_empty() {
            true => Err(Error::Subject {
                field: "subject",
                reason: format!(
                    "{}: has several videos and no picture; a subject is learned from one video: name it alone",
                    shown(path)
                ),
            }),
            false => Ok(()),
        }
    }

    /// Says how captions are read that do not just name the class.
    fn note_captions(&mut self, path: &Path) {
        let naming = Naming { class: &self.class, token: &self.token };
        let own =
            self.pictures.iter().filter_map(|own| Some((own.path.as_deref()?, own.caption.as_deref()?)));
        let clips = self.clip_captions.iter().map(|caption| (path, caption.as_str()));
        let said = own.chain(clips).filter_map(|(path, caption)| {
            let (named, by) = naming.named(caption, None);
            let text = match by {
                CalledBy::Class => return None,
                CalledBy::Token => format!("its caption has {} in it and stays as it is", self.token),
                CalledBy::Placeholder => {
                    format!("its caption is read with {:?} in place of what stands for it", self.phrase())
                }
                CalledBy::Nothing => {
                    let start: String = named.chars().take(60).collect();
                    let more = if start.len() < named.len() { " ..." } else { "" };
                    let text = format!(
                        "its caption does not name the {}; it is read as \"{start}{more}\"",
                        self.class
                    );
                    return Some((by, (path.to_owned(), text)));
                }
            };
            Some((by, (path.to_owned(), text)))
        });
        // One line for all captions of a kind.
        let mut kinds: BTreeMap<CalledBy, Vec<(PathBuf, String)>> = BTreeMap::new();
        said.for_each(|(by, said)| kinds.entry(by).or_default().push(said));
        let first = |said: Vec<(PathBuf, String)>| {
            let more = said.len() - 1;
            let (path, text) = said.into_iter().next()?;
            Some(Note { path, text: with_more(text, more) })
        };
        self.notes.extend(kinds.into_values().filter_map(first).collect::<Vec<_>>());
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
                size,
                caption: None,
                path: None,
            })
        };
        let pictures = pictures.iter().map(crop).collect::<Result<_>>()?;
        Ok(Self { pictures, ..Self::new(class, token, size)? })
    }

    /// Cuts a video into clips of the wanted length; where it is shorter, its frames are used as pictures.
    fn add_video(&mut self, path: &Path, caption: Option<&str>, options: SubjectOptions) -> Result<()> {
        let footage = Footage::read(path)?;
        let own = footage.frames.first().map_or([1, 1], |frame| [frame.height, frame.width]);
        let size = shape_of(own, &options);
        let cut = lost(own, size, &options).map(|reason| LeftOut { path: path.to_owned(), reason });
        self.left_out.extend(cut);
        let masks = masks_of(path, &footage.frames, size)?;
        let even = footage.timing.at_rate(options.fps);
        let (count, rate) = (footage.frames.len(), footage.timing.mean_rate());
        let shown = even.frames.chunk_by(|a, b| a == b).count();
        if shown < count {
            let reason = format!(
                "{} of its {count} frames: it has {} a second, and the base's videos {} (fps)",
                count - shown,
                (rate * 100.0).round() / 100.0,
                options.fps
            );
            self.left_out.push(LeftOut { path: path.to_owned(), reason });
        }
        let masks = even.pick(masks);
        let video = footage.into_even(path, &even)?;
        let video = Video::new(video.frames, video.fps.min(options.fps))?.cover_crop(size)?;
        let lines = caption.unwrap_or_default().lines().map(str::trim);
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
        match self.clip_captions.as_slice() {
            [] => neutral_prompts(tokenizer, &telling.after(&self.phrase())),
            own => own.iter().map(|caption| telling.of(caption, self.naming())).collect(),
        }
    }

    /// What it does in its clip, as the caption tells it in brackets: `walks to the left`; nothing where it does not.
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

/// Twice the training size where the picture has so many pixels, so that crops of it stay sharp.
fn stored_size(image: &Image, [height, width]: [usize; 2]) -> [usize; 2] {
    let factor = if image.height >= 2 * height && image.width >= 2 * width { 2 } else { 1 };
    [factor * height, factor * width]
}

/// Each text with the first path it is said of, and how many more there are.
fn gathered(said: Vec<(PathBuf, String)>) -> impl Iterator<Item = (PathBuf, String)> {
    let mut texts: Vec<(PathBuf, String, usize)> = Vec::new();
    for (path, text) in said {
        match texts.iter_mut().find(|(_, own, _)| *own == text) {
            Some((.., more)) => *more += 1,
            None => texts.push((path, text, 0)),
        }
    }
    texts.into_iter().map(|(path, text, more)| (path, with_more(text, more)))
}

fn with_more(text: String, more: usize) -> String {
    if more > 0 { format!("{text} (and {more} more like it)") } else { text }
}

/// The masks of a video's frames, cut as the frames are; none where there are none beside it.
fn masks_of(path: &Path, frames: &[Image], size: [usize; 2]) -> Result<Vec<Mask>> {
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

    const OPTIONS: SubjectOptions = SubjectOptions {
        size: [16, 24],
        multiple: [8, 8],
        buckets: None,
        clip_frames: 5,
        fps: 8.0,
        strict: true,
    };

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
    fn an_animation_is_a_clip_and_a_still_picture_none() {
        let folder = tempfile::tempdir().unwrap();
        let (clip, still) = (folder.path().join("a.webp"), folder.path().join("b.png"));
        write_video(&clip, 12, |at| Image::filled(48, 32, [at * 20, 0, 0]));
        write(&still, 48, 32);
        let counts = |path: &Path| {
            let subject = Subject::open(path, "cat", "<s>", OPTIONS).unwrap();
            (subject.clips.len(), subject.pictures.len())
        };
        assert_eq!((counts(&clip), counts(&still)), ((2, 0), (0, 1)));
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
    fn pictures_and_clips_keep_their_aspect() {
        let folder = tempfile::tempdir().unwrap();
        let options = SubjectOptions { size: [64, 64], buckets: Some(2.0), ..OPTIONS };
        // A person, and the same without a head.
        let person = |head: [u8; 3]| {
            Image::from_fn(120, 320, move |_, y| if y < 64 { head } else { [200, (y / 2) as u8, 0] })
        };
        let saved = |name: &str, image: Image| {
            let path = folder.path().join(name);
            let video = Video::new(vec![image], 8.0).unwrap();
            video.write(&path, &understudy_media::WriteOptions::default()).unwrap();
            path
        };
        let (a, b) = (saved("a.png", person([0; 3])), saved("b.png", person([255; 3])));
        let read = |path: &Path, options| Subject::open(path, "man", "<s>", options).unwrap();
        let (one, other) = (read(&a, options), read(&b, options));
        assert_eq!(one.pictures[0].size, [80, 40]);
        assert_ne!(one.pictures[0].picture, other.pictures[0].picture);
        // A quarter of the height goes, which is still without a word; what loses more is named.
        assert!(one.left_out.is_empty(), "{:?}", one.left_out);
        let cut = read(&a, SubjectOptions { buckets: None, ..options });
        assert_eq!(
            cut.pictures[0].picture,
            read(&b, SubjectOptions { buckets: None, ..options }).pictures[0].picture
        );
        let said = &cut.left_out[0].reason;
        assert!(said.contains("63 % of its height") && said.contains("--height"), "{said}");
        // A clip, with its masks.
        let clip = folder.path().join("c.gif");
        write_video(&clip, 5, |at| Image::filled(60, 40, [at * 40, 0, 0]));
        write_video(&folder.path().join("c.masks/"), 5, |_| Image::filled(60, 40, [255; 3]));
        let subject = read(&clip, options);
        assert_eq!((subject.clips[0].height(), subject.clips[0].width()), (48, 80));
        assert_eq!((subject.clip_masks[0][0].height, subject.clip_masks[0][0].width), (48, 80));
        assert_eq!(subject.frames()[0].size, [48, 80]);
        // What is square stays what it was.
        let square = saved("d.png", Image::from_fn(70, 70, |x, y| [(x * 3) as u8, (y * 3) as u8, 0]));
        let one_size = SubjectOptions { buckets: None, ..options };
        assert_eq!(read(&square, options).pictures, read(&square, one_size).pictures);
    }

    #[test]
    fn captions_of_clips_are_never_swallowed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.gif");
        write_video(&path, 5, |at| Image::filled(48, 32, [at * 40, 0, 0]));
        let caption = folder.path().join("a.TXT");
        let open = || Subject::open(&path, "cat", "<s>", OPTIONS);
        std::fs::write(&caption, b"a cat [walks] in a caf\xe9").unwrap();
        let subject = open().unwrap();
        assert_eq!(subject.clip_captions, ["a cat [walks] in a café"]);
        assert_eq!(subject.notes[0].path, caption);
        assert!(subject.notes[0].text.contains("Windows-1252"), "{:?}", subject.notes);
        let wide: Vec<u8> = "\u{feff}a cat".encode_utf16().flat_map(u16::to_le_bytes).collect();
        std::fs::write(&caption, wide).unwrap();
        assert_eq!(open().unwrap().clip_captions, ["a cat"]);
        std::fs::write(&caption, b"\xea\xee\xf8\xea\xe0").unwrap();
        let message = open().unwrap_err().to_string();
        assert!(message.contains("a.TXT") && message.contains("UTF-8"), "{message}");
    }

    #[test]
    fn how_captions_are_read_is_said_once_for_each_kind() {
        let folder = tempfile::tempdir().unwrap();
        for (name, caption) in [
            ("a", "a <s> cat"),
            ("b", "<s>"),
            ("c", "a cat"),
            ("d", "[trigger] asleep"),
            ("e", "photo of ohwx"),
        ] {
            write(&folder.path().join(format!("{name}.png")), 32, 32);
            std::fs::write(folder.path().join(format!("{name}.txt")), caption).unwrap();
        }
        let subject = Subject::open(folder.path(), "cat", "<s>", OPTIONS).unwrap();
        let said: Vec<&str> = subject.notes.iter().map(|note| note.text.as_str()).collect();
        assert_eq!(
            said,
            [
                "its caption has <s> in it and stays as it is (and 1 more like it)",
                "its caption is read with \"<s> cat\" in place of what stands for it",
                "its caption does not name the cat; it is read as \"a <s> cat, photo of ohwx\"",
            ]
        );
    }

    #[test]
    fn a_description_of_a_data_set_is_read() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("img")).unwrap();
        write(&folder.path().join("img/a.png"), 48, 32);
        std::fs::write(folder.path().join("img/a.txt"), "a <s> cat").unwrap();
        let toml = folder.path().join("dataset.toml");
        std::fs::write(&toml, "[general]\nresolution = [64, 64]\n[[datasets]]\nimage_directory = \"img\"\n")
            .unwrap();
        let subject = Subject::open(&toml, "cat", "<s>", OPTIONS).unwrap();
        assert_eq!(subject.pictures[0].caption.as_deref(), Some("a <s> cat"));
        assert!(subject.notes[0].text.contains("resolution 64x64"), "{:?}", subject.notes);
        let list = folder.path().join("data.jsonl");
        std::fs::write(&list, "{\"image_path\": \"img/a.png\", \"caption\": \"a cat\"}").unwrap();
        assert_eq!(Subject::open(&list, "cat", "<s>", OPTIONS).unwrap().pictures.len(), 1);
        // In a folder of its own it is named.
        let message = Subject::open(folder.path(), "cat", "<s>", OPTIONS).unwrap_err().to_string();
        assert!(message.contains("dataset.toml (a description of a data set"), "{message}");
        write_video(&folder.path().join("b.gif"), 5, |at| Image::filled(48, 32, [at * 40, 0, 0]));
        let video = "{\"video_path\": \"b.gif\", \"caption\": \"a cat\"}\n";
        std::fs::write(&list, video).unwrap();
        let subject = Subject::open(&list, "cat", "<s>", OPTIONS).unwrap();
        assert_eq!((subject.clips.len(), subject.clip_captions.len()), (1, 1));
        std::fs::write(&list, video.repeat(2)).unwrap();
        let message = Subject::open(&list, "cat", "<s>", OPTIONS).unwrap_err().to_string();
        assert!(message.contains("several videos"), "{message}");
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
        let heic = folder.path().join("IMG_1.HEIC");
        std::fs::write(&heic, b"\0\0\0\x18ftypheic\0\0\0\0mif1heic").unwrap();
        assert!(refused(&heic, "cat", "<s>").contains("convert it to JPEG or PNG"));
        assert!(Subject::from_pictures(&[], "cat", "<s>", [16, 16]).is_err());
    }
}
