//! The embedded judges: what holds whatever their weights are.
#![allow(clippy::unwrap_used)]

use understudy_engine::device::DeviceName;
use understudy_evaluate::{Embedder, Error, IdentityJudge, Judges, cosine};
use understudy_media::Image;
use understudy_pipeline::Files;

fn files() -> Files {
    Files::Embedded { name: understudy_nano::NAME, files: understudy_nano::FILES }
}

fn judges() -> Judges {
    Judges::load(&files(), &DeviceName::Cpu.open().unwrap()).unwrap()
}

/// A square of another place and colour for every `seed`.
fn picture(side: usize, seed: usize) -> Image {
    let at = |x: usize| (side / 8 * (seed % 4 + 1)..side / 2 + side / 8 * (seed % 4)).contains(&x);
    let color = [(seed * 90 % 256) as u8, (200 - seed * 40 % 200) as u8, 60];
    Image::from_fn(side, side, |x, y| if at(x) && at(y) { color } else { [120, 170, 220] })
}

fn length(vector: &[f32]) -> f64 {
    vector.iter().map(|&x| f64::from(x).powi(2)).sum::<f64>().sqrt()
}

#[test]
fn embeddings_have_length_one_and_scores_are_cosines() {
    let judges = judges();
    let frames: Vec<Image> = (0..5).map(|seed| picture(64, seed)).collect();
    let video = judges.clip_video_embedding(&frames).unwrap();
    let texts = judges.clip.embed_texts(&["a cat jumps on the beach", "a robot"]).unwrap();
    let identities = judges.identity.embed(&frames).unwrap();
    assert_eq!((texts.len(), identities.len()), (2, 5));
    for vector in [&video].into_iter().chain(&texts).chain(&identities) {
        assert!((length(vector) - 1.0).abs() < 1e-5);
    }
    let score = judges.clip_text_score(&frames, "a robot").unwrap();
    assert!((score - cosine(&video, &texts[1])).abs() < 1e-6 && score.abs() <= 1.0);
}

#[test]
fn a_picture_looks_like_itself_and_pairs_are_averaged() {
    let judges = judges();
    let [a, b] = [picture(64, 1), picture(64, 2)];
    let similarity =
        |frames: &[Image], references: &[Image]| judges.identity_similarity(frames, references).unwrap();
    assert!((similarity(&[a.clone(), a.clone()], std::slice::from_ref(&a)) - 1.0).abs() < 1e-5);
    let pair = similarity(std::slice::from_ref(&a), std::slice::from_ref(&b));
    let mean = similarity(&[a.clone(), b.clone()], &[a, b]);
    assert!((mean - (2.0 + 2.0 * pair) / 4.0).abs() < 1e-5);
}

#[test]
fn three_frames_are_looked_at() {
    let judges = judges();
    let frames: Vec<Image> = (0..17).map(|seed| picture(64, seed)).collect();
    let chosen: Vec<Image> = [2, 8, 14].map(|index| frames[index].clone()).to_vec();
    let whole = judges.clip_video_embedding(&frames).unwrap();
    assert_eq!(whole, judges.clip_video_embedding(&chosen).unwrap());
}

#[test]
fn other_sizes_are_resized() {
    let judges = judges();
    let large = picture(64, 3).upscale_nearest(3);
    let [a, b] =
        [&large, &picture(64, 3)].map(|image| judges.identity.embed(std::slice::from_ref(image)).unwrap());
    assert!(cosine(&a[0], &b[0]) > 0.95);
    judges.clip_video_embedding(&[Image::filled(40, 90, [9, 9, 9])]).unwrap();
}

#[test]
fn what_cannot_be_judged_is_an_error() {
    let judges = judges();
    assert!(matches!(judges.clip_video_embedding(&[]), Err(Error::TooFew { .. })));
    assert!(matches!(judges.identity_similarity(&[picture(64, 0)], &[]), Err(Error::TooFew { .. })));
    let message = judges.clip.embed_texts(&[&"a cat ".repeat(60)]).unwrap_err().to_string();
    assert!(message.contains("limit"), "{message}");
    let device = DeviceName::Cpu.open().unwrap();
    let message = IdentityJudge::load(&files(), "judges/nobody", &device).unwrap_err().to_string();
    assert!(message.contains("judges/nobody"), "{message}");
}

#[test]
fn the_judge_and_the_reward_are_two_encoders() {
    let device = DeviceName::Cpu.open().unwrap();
    let reward = IdentityJudge::load(&files(), "judges/identity-reward", &device).unwrap();
    let picture = picture(64, 1);
    let embed = |judge: &IdentityJudge| judge.embed(std::slice::from_ref(&picture)).unwrap();
    assert_ne!(embed(&reward), embed(&judges().identity));
}
