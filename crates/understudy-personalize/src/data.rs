//! What a subject is trained on: latents of its pictures and clips, encoded once, with masks and prompts.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::path::Path;

use burn::tensor::{Tensor, TensorData};
use understudy_engine::host::values;
use understudy_engine::random::Random;
use understudy_engine::safetensors::{self, Checkpoint, LazyValues, Precision, Sealed};
use understudy_media::{Image, Mask, Picture, Range, Video};
use understudy_pipeline::{Base, encode_video};

use crate::config::{Augmentation, LoraConfig, Motion};
use crate::error::{Error, Result};
use crate::job::Job;
use crate::prompts::{Telling, neutral_prompts};
use crate::subject::{Subject, SubjectPicture};
use crate::warp::Reference;

/// Hears how many are done, of how many, and can stop.
pub(crate) type Tell<'a> = &'a mut dyn FnMut(u64, u64) -> ControlFlow<()>;

/// One thing to train on.
#[derive(Clone, Debug)]
pub struct Sample {
    /// Normalized latents `(1, channels, frames, height, width)`.
    pub latents: Tensor<5>,
    /// Weights of the loss `(1, 1, frames, height, width)`.
    pub weights: Option<Tensor<5>>,
    /// The prompts it goes with.
    pub prompts: Vec<String>,
}

/// All there is to train on, by latent frames, rows and columns, which a batch has in common.
#[derive(Clone, Debug, Default)]
pub struct TrainingSet {
    groups: BTreeMap<[usize; 3], Vec<Sample>>,
}

impl TrainingSet {
    /// Adds a sample to those of its shape.
    pub fn push(&mut self, sample: Sample) {
        let [_, _, frames, rows, columns] = sample.latents.dims();
        self.groups.entry([frames, rows, columns]).or_default().push(sample);
    }

    /// Whether there is nothing to train on.
    pub fn is_empty(&self) -> bool {
        self.groups.is_empty()
    }

    fn count(&self) -> usize {
        self.groups.values().map(Vec::len).sum()
    }

    /// The first frame of every sample, which stands for itself: what comes later does not change it.
    pub fn first_frames(&self) -> Self {
        let mut first = Self::default();
        for Sample { latents, weights, prompts } in self.groups.values().flatten() {
            let weights = weights.clone().map(|weights| weights.narrow(2, 0, 1));
            first.push(Sample {
                latents: latents.clone().narrow(2, 0, 1),
                weights,
                prompts: prompts.clone(),
            });
        }
        first
    }

    /// Every prompt once.
    pub fn prompts(&self) -> std::collections::BTreeSet<&str> {
        let samples = self.groups.values().flatten();
        samples.flat_map(|sample| sample.prompts.iter().map(String::as_str)).collect()
    }

    /// `count` samples of one shape, each with one of its prompts.
    pub fn draw(&self, count: usize, random: &mut Random) -> Vec<(&Sample, &str)> {
        let mut at = random.below(self.count().max(1) as u64) as usize;
        let group = self.groups.values().find(|group| {
            let found = at < group.len();
            at = at.saturating_sub(group.len());
            found
        });
        let Some(group) = group else { return Vec::new() };
        let mut order = Vec::new();
        (0..count)
            .map(|_| {
                // Each once before any twice.
                if order.is_empty() {
                    order = random.permutation(group.len());
                }
                let sample = &group[order.pop().unwrap_or(0)];
                (sample, sample.prompts[random.below(sample.prompts.len() as u64) as usize].as_str())
            })
            .collect()
    }

    /// The samples of `inputs` on `base`. Encoded latents are kept at `cache` under `key`, and read from there
    /// when they are those of the same key.
    ///
    /// # Errors
    /// When the training size does not fit the base, the cache cannot be written, or `tell` asked to stop.
    pub(crate) fn encode(
        base: &Base,
        inputs: Vec<Input>,
        config: &LoraConfig,
        (cache, key): (&Path, &str),
        tell: Tell,
    ) -> Result<Self> {
        let total = inputs.len() as u64;
        let mut latents = read_latents(cache, key, base, inputs.len());
        let missing = &inputs[latents.len()..];
        for input in missing {
            latents.push(encode_video(base, input.video(base))?);
            let done = latents.len() as u64;
            let stop = tell(done, total).is_break();
            if stop || done == total {
                write_latents(cache, key, &latents)?;
            }
            if stop {
                return Err(Error::Stopped { stage: "encoding", step: done, total });
            }
        }
        let mut samples = Self::default();
        for (input, latents) in inputs.into_iter().zip(latents) {
            let known = !input.masks.is_empty();
            let weights = known.then(|| loss_weights(&input.masks, &latents, config.background));
            samples.push(Sample { latents, weights, prompts: input.prompts });
        }
        Ok(samples)
    }
}

/// A version of a picture, or a clip, before it is encoded.
pub(crate) struct Input {
    planar: Vec<f32>,
    /// Frames, height, width.
    shape: [usize; 3],
    /// Where the subject is: in all frames, in every frame, or, without any, nobody knows.
    masks: Vec<Mask>,
    prompts: Vec<String>,
}

impl Input {
    /// `(1, 3, frames, height, width)` in [-1, 1].
    fn video(&self, base: &Base) -> Tensor<5> {
        let [frames, height, width] = self.shape;
        Tensor::from_data(TensorData::new(self.planar.clone(), [1, 3, frames, height, width]), &base.device)
    }
}

/// What the token and the residuals learn from: versions of the pictures, and the clips; where the clips' motion is
/// learned apart, their frames, each a picture of its own.
///
/// # Errors
/// When a picture cannot be cut to the training size.
pub(crate) fn inputs(base: &Base, subject: &Subject, config: &LoraConfig) -> Result<Vec<Input>> {
    let frames = match &config.motion {
        Some(_) => subject.frames(),
        None => Vec::new(),
    };
    let telling = if config.motion.is_some() { Telling::Still } else { Telling::Moving };
    let prompts = subject.clip_prompts(&base.tokenizer, telling);
    let mut inputs = pictures(base, subject, &subject.pictures, config)?;
    let mut frames = pictures(base, subject, &frames, config)?;
    frames.iter_mut().for_each(|frame| frame.prompts = prompts.clone());
    inputs.extend(frames);
    if config.motion.is_none() {
        inputs.extend(clips(subject, &prompts)?);
    }
    Ok(inputs)
}

/// The subject's pictures as V-Warper keeps them: each as it is, held still for as many frames as it is trained, with its
/// mask.
///
/// # Errors
/// When there is none, or one cannot be cut to the training size.
pub(crate) fn references(job: &Job, config: &LoraConfig) -> Result<Vec<Reference>> {
    let reference = |picture: &SubjectPicture| -> Result<Reference> {
        let Picture { image, mask } = picture.picture.cover_crop(config.size)?;
        let frames = if config.augmentation.held > 0 { config.augmentation.held_frames } else { 1 };
        let shape = [frames, config.size[0], config.size[1]];
        let planar = held_still(&image.to_planar(Range::Signed), frames);
        let input = Input { planar, shape, masks: Vec::new(), prompts: Vec::new() };
        let latents = encode_video(job.base, input.video(job.base))?;
        let mask = mask.map(|mask| values(loss_weights(&[mask], &latents.clone().narrow(2, 0, 1), 0.0)));
        Ok(Reference { latents, mask })
    };
    job.subject.pictures.iter().map(reference).collect()
}

/// What a motion is learned from: the clips, with prompts that name it and prompts that do not.
///
/// # Errors
/// When a clip cannot be cut to the training size.
pub(crate) fn moving_inputs(job: &Job, motion: &Motion) -> Result<Vec<Input>> {
    let mut inputs = Vec::new();
    for (index, subject) in job.subjects().enumerate() {
        let token = motion.token_of(index);
        let prompts = |telling| subject.clip_prompts(&job.base.tokenizer, telling);
        let mixed = motion.mixed(&prompts(Telling::Still), &prompts(Telling::Named(&token)));
        inputs.extend(clips(subject, &mixed)?);
    }
    Ok(inputs)
}

impl Motion {
    /// Prompts that do not name the motion and prompts that do, as many of each, each so often that a draw among all has
    /// the share that is asked for.
    fn mixed(&self, still: &[String], named: &[String]) -> Vec<String> {
        const PARTS: usize = 20;
        let unnamed = (self.unnamed * PARTS as f32).round() as usize;
        [vec![still; unnamed].concat(), vec![named; PARTS - unnamed].concat()].concat()
    }
}

/// Clips of every two subjects side by side, each cut to half the width around its subject, with prompts that name both and
/// what they do, as far as their captions tell.
///
/// # Errors
/// When a clip cannot be cut.
pub(crate) fn stitched_inputs(job: &Job, config: &LoraConfig, motion: &Motion) -> Result<Vec<Input>> {
    let subjects: Vec<(usize, &Subject)> = job.subjects().enumerate().collect();
    let mut inputs = Vec::new();
    for (at, (one, left)) in subjects.iter().enumerate() {
        for (other, right) in &subjects[at + 1..] {
            let [still, named] = of_both([(*one, left), (*other, right)], motion);
            let prompts = motion.mixed(&[still], &[named]);
            for (index, clips) in left.clips.iter().zip(&right.clips).enumerate() {
                let masks = [left, right].map(|own| own.clip_masks.get(index).map_or(&[][..], Vec::as_slice));
                let video = side_by_side([clips.0, clips.1], masks, config.size)?;
                let shape = [video.frames.len(), config.size[0], config.size[1]];
                inputs.push(Input {
                    planar: video.to_planar(Range::Signed),
                    shape,
                    masks: Vec::new(),
                    prompts: prompts.clone(),
                });
            }
        }
    }
    Ok(inputs)
}

/// The prompts of a clip of two subjects, by their numbers: one that names them, and one that also says what they do.
fn of_both(subjects: [(usize, &Subject); 2], motion: &Motion) -> [String; 2] {
    let still = subjects.map(|(_, own)| format!("a {}", own.phrase()));
    let moving = subjects.map(|(at, own)| {
        let said = format!("a {} {} {}", own.phrase(), motion.token_of(at), own.action());
        said.trim_end().to_owned()
    });
    [still, moving].map(|both| both.join(" and "))
}

/// All prompts of stitched clips.
pub(crate) fn stitched_prompts(job: &Job, motion: &Motion) -> Vec<String> {
    let subjects: Vec<(usize, &Subject)> = job.subjects().enumerate().collect();
    let pairs = subjects
        .iter()
        .enumerate()
        .flat_map(|(at, one)| subjects[at + 1..].iter().map(move |other| [*one, *other]));
    pairs.flat_map(|pair| of_both(pair, motion)).collect()
}

/// Two clips of `[height, width]` in one of that size: of each the half of its columns that its subject is in the middle of.
fn side_by_side(
    [left, right]: [&Video; 2],
    masks: [&[Mask]; 2],
    [height, width]: [usize; 2],
) -> Result<Video> {
    // Each may have a shape of its own.
    let cut = |masks: &[Mask]| {
        masks.iter().map(|mask| mask.cover_crop([height, width])).collect::<Result<Vec<_>, _>>()
    };
    let [left, right] = [left.cover_crop([height, width])?, right.cover_crop([height, width])?];
    let masks = [cut(masks[0])?, cut(masks[1])?];
    let half = width / 2;
    let first = masks
        .each_ref()
        .map(|masks| middle(masks).unwrap_or(half).saturating_sub(half / 2).min(width - half));
    let frame = |(one, other): (&Image, &Image)| {
        Image::from_fn(width, height, |x, y| match x < half {
            true => one.pixel(first[0] + x, y),
            false => other.pixel((first[1] + x - half).min(width - 1), y),
        })
    };
    Ok(Video::new(left.frames.iter().zip(&right.frames).map(frame).collect(), left.fps)?)
}

/// The column in the middle of what all masks together cover; nothing where they cover nothing.
fn middle(masks: &[Mask]) -> Option<usize> {
    let (mut sum, mut weight) = (0, 0);
    for mask in masks {
        for (at, alpha) in mask.alpha.iter().enumerate() {
            sum += at % mask.width * usize::from(*alpha);
            weight += usize::from(*alpha);
        }
    }
    (weight > 0).then(|| sum / weight)
}

fn clips(subject: &Subject, prompts: &[String]) -> Result<Vec<Input>> {
    let input = |(index, clip): (usize, &Video)| -> Result<Input> {
        let shape = [clip.frames.len(), clip.height(), clip.width()];
        let planar = clip.to_planar(Range::Signed);
        let masks = subject.clip_masks.get(index).cloned().unwrap_or_default();
        Ok(Input { planar, shape, masks, prompts: prompts.to_vec() })
    };
    subject.clips.iter().enumerate().map(input).collect()
}

fn pictures(
    base: &Base,
    subject: &Subject,
    pictures: &[SubjectPicture],
    config: &LoraConfig,
) -> Result<Vec<Input>> {
    let phrase = subject.phrase();
    let neutral = neutral_prompts(&base.tokenizer, &phrase);
    let mut inputs = Vec::new();
    for (index, picture) in pictures.iter().enumerate() {
        let prompts = match &picture.caption {
            Some(caption) => vec![subject.naming().named(caption, None).0],
            None => neutral.clone(),
        };
        for version in 0..config.augmentation.versions {
            let mut random = Random::stream(config.seed, "augmentation", (index * 64 + version) as u64);
            let Picture { image, mask } = vary(picture, config, version, &mut random)?;
            let held = (version < config.augmentation.held).then_some(config.augmentation.held_frames);
            for frames in [1].into_iter().chain(held) {
                let planar = held_still(&image.to_planar(Range::Signed), frames);
                let shape = [frames, picture.size[0], picture.size[1]];
                let masks = mask.clone().into_iter().collect();
                inputs.push(Input { planar, shape, masks, prompts: prompts.clone() });
            }
        }
    }
    Ok(inputs)
}

/// A picture `(3, height, width)` as a clip `(3, frames, height, width)` in which nothing moves.
fn held_still(planar: &[f32], frames: usize) -> Vec<f32> {
    planar.chunks_exact(planar.len() / 3).flat_map(|channel| channel.repeat(frames)).collect()
}

/// Version `version` of a picture at the size it is trained at: the picture itself, or a part of it.
fn vary(own: &SubjectPicture, config: &LoraConfig, version: usize, random: &mut Random) -> Result<Picture> {
    let Augmentation { crop, mirror, .. } = config.augmentation;
    let picture = &own.picture;
    let mut varied = picture.clone();
    if version > 0 && crop > 0.0 {
        let keep = 1.0 - f64::from(crop) * random.uniform();
        let Image { width, height, .. } = picture.image;
        let side = |whole: usize| ((whole as f64 * keep).round() as usize).clamp(1, whole);
        let size = [side(height), side(width)];
        let offset = [height - size[0], width - size[1]].map(|room| random.below(room as u64 + 1) as usize);
        varied = part(picture, offset, size);
    }
    if mirror && version % 2 == 1 {
        varied = mirrored(&varied);
    }
    Ok(varied.cover_crop(own.size)?)
}

fn part(picture: &Picture, [top, left]: [usize; 2], [height, width]: [usize; 2]) -> Picture {
    let cut = |samples: &[u8], row: usize, channels: usize| -> Vec<u8> {
        let line = |y: usize| &samples[((top + y) * row + left) * channels..][..width * channels];
        (0..height).flat_map(|y| line(y).to_vec()).collect()
    };
    Picture {
        image: Image { width, height, rgb: cut(&picture.image.rgb, picture.image.width, 3) },
        mask: picture.mask.as_ref().map(|mask| Mask {
            width,
            height,
            alpha: cut(&mask.alpha, mask.width, 1),
        }),
    }
}

fn mirrored(picture: &Picture) -> Picture {
    let Image { width, height, .. } = picture.image;
    let image = Image::from_fn(width, height, |x, y| picture.image.pixel(width - 1 - x, y));
    let mask = picture.mask.as_ref().map(|mask| {
        let rows = mask.alpha.chunks_exact(mask.width);
        Mask { alpha: rows.flat_map(|row| row.iter().rev().copied()).collect(), ..mask.clone() }
    });
    Picture { image, mask }
}

/// 1 where the mask is, `background` where it is not, averaged over the pixels of each latent place: those of the frames it
/// stands for, where every frame has a mask.
fn loss_weights(masks: &[Mask], latents: &Tensor<5>, background: f32) -> Tensor<5> {
    let [_, _, frames, rows, columns] = latents.dims();
    let inside = |mask: &Mask, place: usize| {
        let [tall, wide] = [mask.height / rows, mask.width / columns];
        let [top, left] = [place / columns * tall, place % columns * wide];
        let line = |y: usize| &mask.alpha[(top + y) * mask.width + left..][..wide];
        let sum: u64 = (0..tall).flat_map(line).map(|&alpha| u64::from(alpha)).sum();
        sum as f32 / (255 * tall * wide) as f32
    };
    // The first latent frame stands for the first frame, the others for as many each.
    let each = (masks.len() - 1) / (frames - 1).max(1);
    let shown = |frame: usize| match (masks.len(), frame) {
        (1, _) | (_, 0) => &masks[..1],
        _ => &masks[1 + (frame - 1) * each..][..each.max(1)],
    };
    let mut weights = Vec::with_capacity(frames * rows * columns);
    for frame in 0..frames {
        let shown = shown(frame);
        for place in 0..rows * columns {
            let inside = shown.iter().map(|mask| inside(mask, place)).sum::<f32>() / shown.len() as f32;
            weights.push(background + (1.0 - background) * inside);
        }
    }
    Tensor::from_data(TensorData::new(weights, [1, 1, frames, rows, columns]), &latents.device())
}

const KEY: &str = "key";

/// The latents at `path`, at most `count`, if they are those of `key`. What is missing or damaged is made again.
pub(crate) fn read_latents(path: &Path, key: &str, base: &Base, count: usize) -> Vec<Tensor<5>> {
    let Ok(Sealed::Whole(checkpoint)) = Checkpoint::open_sealed(path, &base.device) else {
        return Vec::new();
    };
    if checkpoint.metadata().get(KEY).map(String::as_str) != Some(key) {
        return Vec::new();
    }
    let read = |index: usize| {
        let (values, shape) = checkpoint.values(&index.to_string()).ok()?;
        let shape: [usize; 5] = shape.try_into().ok()?;
        Some(Tensor::from_data(TensorData::new(values, shape), &base.device))
    };
    (0..count).map_while(read).collect()
}

/// Writes latents to `path` under `key`, whole or not at all.
pub(crate) fn write_latents(path: &Path, key: &str, latents: &[Tensor<5>]) -> Result<()> {
    let tensor = |(index, latents): (usize, &Tensor<5>)| {
        let latents = latents.clone();
        LazyValues {
            name: index.to_string(),
            shape: latents.dims().to_vec(),
            values: Box::new(move || Cow::Owned(values(latents.clone()))),
        }
    };
    let tensors: Vec<LazyValues> = latents.iter().enumerate().map(tensor).collect();
    let metadata = BTreeMap::from([(KEY.to_owned(), key.to_owned())]);
    Ok(safetensors::write_sealed(path, &tensors, metadata, Precision::F32)?)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use burn::tensor::Device;

    use super::*;

    #[test]
    fn clips_side_by_side_show_their_subjects() {
        let clip = |shade: u8| {
            let frame = Image::from_fn(8, 2, move |x, _| [x as u8, shade, 0]);
            Video::new(vec![frame; 2], 8.0).unwrap()
        };
        let (left, right) = (clip(1), clip(2));
        // One stands at the right edge, of the other nobody knows.
        let alpha = (0..16).map(|at| if at % 8 == 7 { 255 } else { 0 }).collect();
        let masks = [Mask { width: 8, height: 2, alpha }];
        let both = side_by_side([&left, &right], [&masks[..], &[]], [2, 8]).unwrap();
        let row: Vec<[u8; 3]> = (0..8).map(|x| both.frames[1].pixel(x, 0)).collect();
        assert_eq!(row.iter().map(|own| own[0]).collect::<Vec<_>>(), [4, 5, 6, 7, 2, 3, 4, 5]);
        assert!(row.iter().enumerate().all(|(x, own)| own[1] == if x < 4 { 1 } else { 2 }));
    }

    #[test]
    fn crops_and_mirrors_take_the_mask_along() {
        let image = Image::from_fn(8, 6, |x, y| [x as u8, y as u8, 0]);
        let alpha = (0..48).map(|i| (i % 8) as u8).collect();
        let picture = Picture { image, mask: Some(Mask { width: 8, height: 6, alpha }) };
        let cut = part(&picture, [2, 3], [3, 4]);
        assert_eq!(cut.image.pixel(0, 0), [3, 2, 0]);
        assert_eq!(cut.image.pixel(3, 2), [6, 4, 0]);
        assert_eq!(cut.mask.as_ref().unwrap().alpha[..4], [3, 4, 5, 6]);
        let back = mirrored(&cut);
        assert_eq!(back.image.pixel(0, 0), [6, 2, 0]);
        assert_eq!(back.mask.unwrap().alpha[..4], [6, 5, 4, 3]);
    }

    #[test]
    fn the_loss_counts_where_the_mask_is_in_the_frames_of_its_place() {
        let mask = |left: u8| Mask { width: 2, height: 1, alpha: vec![left, 0] };
        let latents = Tensor::zeros([1, 4, 2, 1, 2], &Device::flex());
        let close = |found: Vec<f32>, expected: [f32; 4]| {
            assert!(found.iter().zip(expected).all(|(a, b)| (a - b).abs() < 1e-6), "{found:?}");
        };
        let moving = [mask(255), mask(0), mask(0), mask(255), mask(255)];
        close(values(loss_weights(&moving, &latents, 0.2)), [1.0, 0.2, 0.6, 0.2]);
        close(values(loss_weights(&[mask(255)], &latents, 0.0)), [1.0, 0.0, 1.0, 0.0]);
    }

    #[test]
    fn two_clips_are_shown_side_by_side() {
        let clip = |color: u8| Video::new(vec![Image::filled(8, 8, [color; 3]); 3], 8.0).unwrap();
        let both = side_by_side([&clip(10), &clip(200)], [&[], &[]], [8, 8]).unwrap();
        assert_eq!((both.frames.len(), both.width(), both.height()), (3, 8, 8));
        assert_eq!([both.frames[2].pixel(3, 5), both.frames[2].pixel(4, 5)], [[10; 3], [200; 3]]);
    }

    #[test]
    fn a_held_picture_is_every_frame_of_its_clip() {
        let channels = [[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]];
        let clip = held_still(&channels.concat(), 3);
        for (channel, frames) in channels.iter().zip(clip.chunks_exact(6)) {
            assert!(frames.chunks_exact(2).all(|frame| frame == channel));
        }
    }

    #[test]
    fn masks_weigh_latent_places_by_their_share() {
        let alpha = [[255, 255, 0, 0], [255, 255, 0, 255]].concat();
        let mask = Mask { width: 4, height: 2, alpha };
        let latents = Tensor::<5>::zeros([1, 3, 2, 1, 2], &Device::flex());
        let weights: Vec<f32> = loss_weights(&[mask], &latents, 0.2).into_data().try_into_vec().unwrap();
        assert_eq!(weights, [1.0, 0.4, 1.0, 0.4]);
    }

    #[test]
    fn a_draw_has_one_length_and_is_a_function_of_the_seed() {
        let sample = |frames: usize| Sample {
            latents: Tensor::zeros([1, 2, frames, 2, 2], &Device::flex()),
            weights: None,
            prompts: vec!["a".into(), "b".into()],
        };
        let mut samples = TrainingSet::default();
        [1, 1, 1, 5].into_iter().for_each(|frames| samples.push(sample(frames)));
        let lengths = |step: u64| -> Vec<usize> {
            let mut random = Random::stream(3, "draw", step);
            samples.draw(4, &mut random).iter().map(|(sample, _)| sample.latents.dims()[2]).collect()
        };
        let drawn: Vec<Vec<usize>> = (0..40).map(lengths).collect();
        assert!(drawn.iter().all(|lengths| lengths.len() == 4 && lengths.iter().all(|l| *l == lengths[0])));
        assert!(drawn.contains(&vec![1; 4]) && drawn.contains(&vec![5; 4]));
        assert_eq!(drawn, (0..40).map(lengths).collect::<Vec<_>>());
        // Those of another shape are no batch either.
        let wide = Sample { latents: Tensor::zeros([1, 2, 1, 2, 3], &Device::flex()), ..sample(1) };
        samples.push(wide);
        for step in 0..40 {
            let mut random = Random::stream(3, "draw", step);
            let drawn = samples.draw(4, &mut random);
            assert!(drawn.iter().all(|(own, _)| own.latents.dims() == drawn[0].0.latents.dims()));
        }
    }
}
