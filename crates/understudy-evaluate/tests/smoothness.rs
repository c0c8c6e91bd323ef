//! AMT and VBench's motion smoothness against PyTorch (`oracle/amt.py`).
#![allow(clippy::unwrap_used)]

use std::path::{Path, PathBuf};

use burn::tensor::Device;
use understudy_engine::safetensors::Checkpoint;
use understudy_evaluate::SmoothnessJudge;
use understudy_media::{Image, Picture};

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../oracle/golden/amt").join(name)
}

fn frames(index: usize, count: usize) -> Vec<Image> {
    let frame = |which| Picture::open(golden(&format!("{index}-{which}.png"))).unwrap().image;
    (0..count).map(frame).collect()
}

#[test]
fn what_is_expected_between_two_frames_is_that_of_pytorch() {
    let judge = SmoothnessJudge::open(&golden("amt-s.pth"), &Device::flex()).unwrap();
    let expected = Checkpoint::open(&golden("io.safetensors"), &Device::flex()).unwrap();
    for (index, count) in [(0, 5), (1, 4)] {
        let frames = frames(index, count);
        for at in (0..count - 2).step_by(2) {
            let [height, width] = [frames[at].height, frames[at].width];
            let planes = judge.expected(&frames[at], &frames[at + 2]).unwrap();
            let (some, _) = expected.values(&format!("{index}.{at}")).unwrap();
            let places = (0..3).flat_map(|plane| {
                (1..height).step_by(5).flat_map(move |row| {
                    (2..width).step_by(7).map(move |column| (plane * height + row) * width + column)
                })
            });
            assert_eq!(places.clone().count(), some.len());
            for (place, expected) in places.zip(&some) {
                assert!(
                    (planes[place] - expected).abs() < 1e-4,
                    "{index} {at}: {} {expected}",
                    planes[place]
                );
            }
        }
        let (score, _) = expected.values(&format!("{index}.smoothness")).unwrap();
        let own = judge.smoothness(&frames).unwrap().unwrap();
        assert!((own - f64::from(score[0])).abs() < 1e-5, "{index}: {own} {score:?}");
    }
}

#[test]
fn few_and_small_frames_have_no_smoothness() {
    let judge = SmoothnessJudge::open(&golden("amt-s.pth"), &Device::flex()).unwrap();
    let [one, small] = [Image::filled(128, 128, [9; 3]), Image::filled(64, 64, [9; 3])];
    assert_eq!(judge.smoothness(&[one.clone(), one.clone()]).unwrap(), None);
    assert!(judge.smoothness(&vec![small.clone(); 3]).unwrap_err().to_string().contains("128"));
    assert!(judge.middle(&one, &small).is_err());
}
