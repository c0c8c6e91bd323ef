//! Reading a subject: what lies in a folder, a file, or what a description of a data set names.

use std::path::Path;

use understudy_media::{
    Caption, DEFAULT_RESOLUTION, Dataset, FileKind, FolderOptions, Footage, Image, LeftOut, Mask, MediaKind,
    Note, Picture, SubjectFolder, Video, shown,
};

use super::captions::{gathered, tidy};
use super::{Subject, SubjectPicture, clip_masks};
use crate::error::{Error, Result};
use crate::shapes::{lost, shape_of};

/// How a subject is read.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SubjectOptions {
    /// Height and width it is trained at, pixels; with buckets, the area.
    pub size: [usize; 2],
    /// What the base needs heights and widths to be whole multiples of.
    pub multiple: [usize; 2],
    /// The largest ratio of sides that pictures and clips are trained at, each at the shape nearest to its
    /// own; all are cut to the one size without it.
    pub buckets: Option<f32>,
    /// Frames of the clips a video is cut into.
    pub clip_frames: usize,
    /// Frames a second of the base's videos: of a video that has more the frames between are left out, so
    /// that it is as fast.
    pub fps: f64,
    /// Whether an unreadable picture is an error; otherwise it is left out.
    pub strict: bool,
}

impl Subject {
    /// Reads a folder of pictures, one picture, one video, or a description of a data set (TOML or JSONL); of
    /// a folder without pictures its one video. Beside a video `NAME` its captions may lie, one a line, in
    /// `NAME.txt`, and in `NAME.masks/` (or `masks/NAME/`, ...) pictures, one a frame in the order of their
    /// names, that say where the subject is: white.
    ///
    /// # Errors
    /// When the class or the token cannot be used, or no picture or video can be read.
    pub fn open(path: &Path, class: &str, token: &str, options: SubjectOptions) -> Result<Self> {
        let mut subject = Self::new(class, token, options.size)?;
        let lone = if path.is_dir() { SubjectFolder::lone_clip(path)? } else { None };
        let clip = lone.as_ref().map_or(path, |(clip, _)| clip);
        let kind = if clip.is_file() { FileKind::of(clip)? } else { FileKind::Picture };
        match kind {
            FileKind::Picture => subject.add_pictures(path, options)?,
            FileKind::Description => subject.add_dataset(path, options)?,
            FileKind::Clip | FileKind::Unknown => subject.add_clip(clip, options)?,
        }
        if let Some((clip, left_out)) = &lone {
            let text = "it is learned from, as the only video of a folder without pictures".to_owned();
            subject.notes.push(Note { path: clip.clone(), text });
            subject.left_out.extend_from_slice(left_out);
        }
        subject.notes = gathered(subject.notes);
        subject.note_captions(clip);
        Ok(subject)
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
        self.leave_out(cut);
        Ok(())
    }

    /// Adds a picture; what is lost of it, where that is much.
    fn add_picture(
        &mut self,
        picture: Picture,
        caption: Option<String>,
        path: &Path,
        options: &SubjectOptions,
    ) -> Result<Option<Note>> {
        let own = [picture.image.height, picture.image.width];
        let size = shape_of(own, options);
        self.pictures.push(SubjectPicture {
            picture: picture.cover_crop(stored_size(&picture.image, size))?,
            size,
            caption: caption.as_deref().map(tidy),
            path: Some(path.to_owned()),
        });
        Ok(lost(own, size, options).map(|text| Note { path: path.to_owned(), text }))
    }

    /// Says what is lost of pictures.
    fn leave_out(&mut self, cut: Vec<Note>) {
        let cut = gathered(cut).into_iter();
        self.left_out.extend(cut.map(|Note { path, text }| LeftOut { path, reason: text }));
    }

    /// Adds what a description of a data set names: its pictures, or its video where that is all there is.
    fn add_dataset(&mut self, path: &Path, options: SubjectOptions) -> Result<()> {
        let dataset = Dataset::open(path)?;
        let unused = unused(&dataset, &options).into_iter();
        self.notes.extend(unused.map(|text| Note { path: path.to_owned(), text }));
        self.left_out.extend(dataset.left_out);
        self.notes.extend(dataset.notes);
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
            let (picture, notes) = item.load_picture()?;
            cut.extend(self.add_picture(picture, item.caption, &item.path, &options)?);
            self.notes.extend(notes);
        }
        self.leave_out(cut);
        if self.pictures.is_empty() {
            Err(Error::Subject {
                field: "subject",
                reason: format!(
                    "{}: has several videos and no picture; a subject is learned from one video: name it alone",
                    shown(path)
                ),
            })
        } else {
            Ok(())
        }
    }

    /// Adds a video with the captions and the masks beside it.
    fn add_clip(&mut self, path: &Path, options: SubjectOptions) -> Result<()> {
        let caption = Caption::beside(path)?;
        let said = caption.as_ref().and_then(|own| Some((&own.path, own.note?)));
        self.notes.extend(said.map(|(path, text)| Note { path: path.clone(), text: text.into() }));
        self.add_video(path, caption.as_ref().map(|own| own.text.as_str()), options)
    }

    /// Cuts a video into clips of the wanted length; where it is shorter, its frames are used as pictures.
    fn add_video(&mut self, path: &Path, caption: Option<&str>, options: SubjectOptions) -> Result<()> {
        let (video, masks) = self.read_video(path, &options)?;
        let lines = caption.unwrap_or_default().lines().map(tidy);
        self.clip_captions = lines.filter(|line| !line.is_empty()).collect();
        let whole = video.frames.chunks_exact(options.clip_frames.max(1));
        let rest = whole.remainder();
        for frames in whole {
            self.clips.push(Video::new(frames.to_vec(), video.fps)?);
        }
        let reason = match (self.clips.is_empty(), rest.len()) {
            (_, 0) | (true, 1) => None,
            (true, count) => Some(format!(
                "how it moves: {count} frames make no clip of {} (clip_frames), so each is a picture",
                options.clip_frames
            )),
            (false, count) => {
                Some(format!("its last {count} frames, which make no whole clip of {}", options.clip_frames))
            }
        };
        self.left_out.extend(reason.map(|reason| LeftOut { path: path.to_owned(), reason }));
        if self.clips.is_empty() {
            self.pictures = rest.iter().map(SubjectPicture::from).collect();
            for (picture, mask) in self.pictures.iter_mut().zip(masks) {
                picture.picture.mask = Some(mask);
            }
        } else {
            let whole = masks.chunks_exact(options.clip_frames.max(1));
            self.clip_masks = whole.map(<[Mask]>::to_vec).collect();
        }
        Ok(())
    }

    /// A video at the rate of the base's and the size that it is trained at, and the masks of its frames;
    /// none where there are none beside it. Says what is left out of it.
    fn read_video(&mut self, path: &Path, options: &SubjectOptions) -> Result<(Video, Vec<Mask>)> {
        let footage = Footage::read(path)?;
        let said = footage.notes.iter().map(|text| Note { path: path.to_owned(), text: (*text).to_owned() });
        self.notes.extend(said);
        let own = footage.frames.first().map_or([1, 1], |frame| [frame.height, frame.width]);
        let size = shape_of(own, options);
        let mut left_out: Vec<String> = lost(own, size, options).into_iter().collect();
        let masks = clip_masks::read(path, &footage.frames, size)?;
        let even = footage.timing.at_rate(options.fps);
        let (count, rate) = (footage.frames.len(), footage.timing.mean_rate());
        let shown = even.frames.chunk_by(|a, b| a == b).count();
        if shown < count {
            left_out.push(format!(
                "{} of its {count} frames: it has {} a second, and the base's videos {} (fps)",
                count - shown,
                (rate * 100.0).round() / 100.0,
                options.fps
            ));
        }
        let left_out = left_out.into_iter().map(|reason| LeftOut { path: path.to_owned(), reason });
        self.left_out.extend(left_out);
        let masks = even.pick(masks);
        let video = footage.into_even(path, &even)?;
        let video = Video::new(video.frames, video.fps.min(options.fps))?.cover_crop(size)?;
        Ok((video, masks))
    }
}

/// What a description of a data set says that is not done.
fn unused(dataset: &Dataset, options: &SubjectOptions) -> Vec<String> {
    let ignored = dataset.ignored.iter().map(|own| format!("{} is not used: {}", own.key, own.reason));
    let mut unused: Vec<String> = ignored.collect();
    let [height, width] = options.size;
    let other = |own: &[usize; 2]| *own != DEFAULT_RESOLUTION && *own != [width, height];
    if let Some([w, h]) = dataset.items.iter().map(|own| own.resolution).find(other) {
        unused.push(format!("its resolution {w}x{h} is not used: {width}x{height} is (--width, --height)"));
    }
    let buckets = options.buckets.is_some();
    if dataset.items.iter().any(|own| own.enable_bucket.is_some_and(|wanted| wanted != buckets)) {
        let instead = if buckets {
            "each is trained at a shape near its own (--set buckets=1 cuts all to one)"
        } else {
            "all are cut to one size (buckets)"
        };
        unused.push(format!("its enable_bucket is not used: {instead}"));
    }
    unused
}

/// Twice the training size where the picture has so many pixels, so that crops of it stay sharp.
pub(super) fn stored_size(image: &Image, [height, width]: [usize; 2]) -> [usize; 2] {
    let factor = if image.height >= 2 * height && image.width >= 2 * width { 2 } else { 1 };
    [factor * height, factor * width]
}
