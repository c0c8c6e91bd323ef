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
use understudy_pipeline::Base;

use super::settings::{Augmentation, Learning};
use crate::error::{Error, Result};
use crate::prompts::{Telling, neutral_prompts};
use crate::subject::{Subject, SubjectPicture};

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

    /// The samples of `inputs` on `base`. Encoded latents are kept at `cache` under `key`, and read from
    /// there when they are those of the same key.
    ///
    /// # Errors
    /// When the training size does not fit the base, the cache cannot be written, or `tell` asked to stop.
    pub(crate) fn encode(
        base: &Base,
        inputs: Vec<Input>,
        background: f32,
        (cache, key): (&Path, &str),
        tell: Tell,
    ) -> Result<Self> {
        let total = inputs.len() as u64;
        let mut latents = read_latents(cache, key, base, inputs.len());
        let missing = &inputs[latents.len()..];
        for input in missing {
            latents.push(base.encode(input.video(base))?);
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
            let weights = known.then(|| loss_weights(&input.masks, &latents, background));
            samples.push(Sample { latents, weights, prompts: input.prompts });
        }
        Ok(samples)
    }
}

/// A version of a picture, or a clip, before it is encoded.
pub(crate) struct Input {
    /// Channels, frames, rows and columns, in [-1, 1].
    pub(crate) planar: Vec<f32>,
    /// Frames, height, width.
    pub(crate) shape: [usize; 3],
    /// Where the subject is: in all frames, in every frame, or, without any, nobody knows.
    pub(crate) masks: Vec<Mask>,
    /// The prompts it goes with.
    pub(crate) prompts: Vec<String>,
}

impl Input {
    /// `(1, 3, frames, height, width)` in [-1, 1].
    pub(crate) fn video(&self, base: &Base) -> Tensor<5> {
        let [frames, height, width] = self.shape;
        Tensor::from_data(TensorData::new(self.planar.clone(), [1, 3, frames, height, width]), &base.device)
    }
}

/// What looks and motion are learned from together: versions of the pictures, and the clips.
///
/// # Errors
/// When a picture cannot be cut to the training size.
pub(crate) fn whole_inputs(base: &Base, subject: &Subject, learning: &Learning) -> Result<Vec<Input>> {
    let prompts = subject.clip_prompts(base.networks.text.tokenizer(), Telling::Moving);
    let mut inputs = picture_inputs(base, subject, &subject.pictures, learning)?;
    inputs.extend(clip_inputs(subject, &prompts)?);
    Ok(inputs)
}

/// What looks alone are learned from: versions of the pictures, and of the clips' frames, each a picture of
/// its own.
///
/// # Errors
/// When a picture cannot be cut to the training size.
pub(crate) fn still_inputs(base: &Base, subject: &Subject, learning: &Learning) -> Result<Vec<Input>> {
    let prompts = subject.clip_prompts(base.networks.text.tokenizer(), Telling::Still);
    let mut inputs = picture_inputs(base, subject, &subject.pictures, learning)?;
    let mut frames = picture_inputs(base, subject, &subject.frames(), learning)?;
    frames.iter_mut().for_each(|frame| frame.prompts = prompts.clone());
    inputs.extend(frames);
    Ok(inputs)
}

/// The clips as they are.
///
/// # Errors
/// When one cannot be read.
pub(crate) fn clip_inputs(subject: &Subject, prompts: &[String]) -> Result<Vec<Input>> {
    let input = |(index, clip): (usize, &Video)| -> Result<Input> {
        let shape = [clip.frames.len(), clip.height(), clip.width()];
        let planar = clip.to_planar(Range::Signed);
        let masks = subject.clip_masks.get(index).cloned().unwrap_or_default();
        Ok(Input { planar, shape, masks, prompts: prompts.to_vec() })
    };
    subject.clips.iter().enumerate().map(input).collect()
}

/// Versions of `pictures`.
fn picture_inputs(
    base: &Base,
    subject: &Subject,
    pictures: &[SubjectPicture],
    learning: &Learning,
) -> Result<Vec<Input>> {
    let phrase = subject.phrase();
    let neutral = neutral_prompts(base.networks.text.tokenizer(), &phrase);
    let mut inputs = Vec::new();
    for (index, picture) in pictures.iter().enumerate() {
        let prompts = match &picture.caption {
            Some(caption) => vec![subject.naming().named(caption, None).0],
            None => neutral.clone(),
        };
        let Augmentation { versions, held, held_frames, .. } = learning.augmentation;
        for version in 0..versions {
            let mut random = Random::stream(learning.seed, "augmentation", (index * 64 + version) as u64);
            let Picture { image, mask } = vary(picture, learning.augmentation, version, &mut random)?;
            let held = (version < held).then_some(held_frames);
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
pub(crate) fn held_still(planar: &[f32], frames: usize) -> Vec<f32> {
    planar.chunks_exact(planar.len() / 3).flat_map(|channel| channel.repeat(frames)).collect()
}

/// Version `version` of a picture at the size it is trained at: the picture itself, or a part of it.
fn vary(
    own: &SubjectPicture,
    Augmentation { crop, mirror, .. }: Augmentation,
    version: usize,
    random: &mut Random,
) -> Result<Picture> {
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

/// 1 where the mask is, `background` where it is not, averaged over the pixels of each latent place: those of
/// the frames it stands for, where every frame has a mask.
pub(crate) fn loss_weights(masks: &[Mask], latents: &Tensor<5>, background: f32) -> Tensor<5> {
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

/// The latents at `path`, at most `count`, if they are those of `key`. What is missing or damaged is made
/// again.
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
