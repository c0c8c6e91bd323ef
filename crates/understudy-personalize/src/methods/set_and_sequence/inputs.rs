//! What a motion is learned from: clips, and clips of two subjects side by side.

use understudy_media::{Image, Mask, Range, Video};

use super::settings::Motion;
use crate::error::Result;
use crate::job::Job;
use crate::prompts::Telling;
use crate::stages::data::{Input, clip_inputs};
use crate::subject::Subject;

/// What a motion is learned from: the clips, with prompts that name it and prompts that do not.
///
/// # Errors
/// When a clip cannot be cut to the training size.
pub(super) fn moving_inputs(job: &Job, motion: &Motion) -> Result<Vec<Input>> {
    let mut inputs = Vec::new();
    for (index, subject) in job.subjects().enumerate() {
        let token = motion.token_of(index);
        let prompts = |telling| subject.clip_prompts(job.base.networks.text.tokenizer(), telling);
        let mixed = motion.mixed(&prompts(Telling::Still), &prompts(Telling::Named(&token)));
        inputs.extend(clip_inputs(subject, &mixed)?);
    }
    Ok(inputs)
}

impl Motion {
    /// Prompts that do not name the motion and prompts that do, as many of each, each so often that a draw
    /// among all has the share that is asked for.
    fn mixed(&self, still: &[String], named: &[String]) -> Vec<String> {
        const PARTS: usize = 20;
        let unnamed = (self.unnamed * PARTS as f32).round() as usize;
        [vec![still; unnamed].concat(), vec![named; PARTS - unnamed].concat()].concat()
    }
}

/// Clips of every two subjects side by side, each cut to half the width around its subject, with prompts that
/// name both and what they do, as far as their captions tell.
///
/// # Errors
/// When a clip cannot be cut.
pub(super) fn stitched_inputs(job: &Job, size: [usize; 2], motion: &Motion) -> Result<Vec<Input>> {
    let subjects: Vec<(usize, &Subject)> = job.subjects().enumerate().collect();
    let mut inputs = Vec::new();
    for (at, (one, left)) in subjects.iter().enumerate() {
        for (other, right) in &subjects[at + 1..] {
            let [still, named] = of_both([(*one, left), (*other, right)], motion);
            let prompts = motion.mixed(&[still], &[named]);
            for (index, clips) in left.clips.iter().zip(&right.clips).enumerate() {
                let masks = [left, right].map(|own| own.clip_masks.get(index).map_or(&[][..], Vec::as_slice));
                let video = side_by_side([clips.0, clips.1], masks, size)?;
                let shape = [video.frames.len(), size[0], size[1]];
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

/// The prompts of a clip of two subjects, by their numbers: one that names them, and one that also says what
/// they do.
fn of_both(subjects: [(usize, &Subject); 2], motion: &Motion) -> [String; 2] {
    let still = subjects.map(|(_, own)| format!("a {}", own.phrase()));
    let moving = subjects.map(|(at, own)| {
        let said = format!("a {} {} {}", own.phrase(), motion.token_of(at), own.action());
        said.trim_end().to_owned()
    });
    [still, moving].map(|both| both.join(" and "))
}

/// All prompts of stitched clips.
pub(super) fn stitched_prompts(job: &Job, motion: &Motion) -> Vec<String> {
    let subjects: Vec<(usize, &Subject)> = job.subjects().enumerate().collect();
    let pairs = subjects
        .iter()
        .enumerate()
        .flat_map(|(at, one)| subjects[at + 1..].iter().map(move |other| [*one, *other]));
    pairs.flat_map(|pair| of_both(pair, motion)).collect()
}

/// Two clips of `[height, width]` in one of that size: of each the half of its columns that its subject is in
/// the middle of.
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
        Image::from_fn(width, height, |x, y| {
            if x < half {
                one.pixel(first[0] + x, y)
            } else {
                other.pixel((first[1] + x - half).min(width - 1), y)
            }
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

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
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
    fn two_clips_are_shown_side_by_side() {
        let clip = |color: u8| Video::new(vec![Image::filled(8, 8, [color; 3]); 3], 8.0).unwrap();
        let both = side_by_side([&clip(10), &clip(200)], [&[], &[]], [8, 8]).unwrap();
        assert_eq!((both.frames.len(), both.width(), both.height()), (3, 8, 8));
        assert_eq!([both.frames[2].pixel(3, 5), both.frames[2].pixel(4, 5)], [[10; 3], [200; 3]]);
    }
}
