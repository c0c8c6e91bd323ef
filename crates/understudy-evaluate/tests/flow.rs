//! RAFT against torchvision's (`oracle/raft.py`), and VBench's reading of it.
#![allow(clippy::unwrap_used)]

use std::path::{Path, PathBuf};

use burn::tensor::Device;
use understudy_engine::safetensors::Checkpoint;
use understudy_evaluate::FlowJudge;
use understudy_media::{Image, Picture};

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../oracle/golden/raft").join(name)
}

fn pair(index: usize) -> [Image; 2] {
    [0, 1].map(|which| Picture::open(golden(&format!("{index}-{which}.png"))).unwrap().image)
}

#[test]
fn the_flow_is_that_of_torchvision() {
    let judge = FlowJudge::open(&golden("raft-things.pth"), &Device::flex()).unwrap();
    let expected = Checkpoint::open(&golden("io.safetensors"), &Device::flex()).unwrap();
    for index in 0..2 {
        let [from, to] = pair(index);
        let (flow, [height, width]) = judge.flow(&from, &to, 5).unwrap();
        assert_eq!([height, width], [from.height, from.width]);
        let (some, shape) = expected.values(&format!("{index}.flow")).unwrap();
        let rows: Vec<usize> = (3..height).step_by(7).collect();
        let columns: Vec<usize> = (2..width).step_by(5).collect();
        assert_eq!(shape[2..], [rows.len(), columns.len()]);
        let places = (0..2).flat_map(|axis| {
            let columns = &columns;
            rows.iter()
                .flat_map(move |row| columns.iter().map(move |column| (axis * height + row) * width + column))
        });
        let largest = some.iter().fold(0.0_f32, |most, value| most.max(value.abs()));
        for (place, expected) in places.zip(&some) {
            assert!((flow[place] - expected).abs() < 1e-4 * largest, "{index}: {} {expected}", flow[place]);
        }
        let (speed, own) =
            (expected.values(&format!("{index}.speed")).unwrap().0, judge.speed(&from, &to).unwrap());
        assert!((own / f64::from(speed[0]) - 1.0).abs() < 1e-4, "{index}: {own} {speed:?}");
    }
}

#[test]
fn a_video_is_dynamic_or_not() {
    let judge = FlowJudge::open(&golden("raft-things.pth"), &Device::flex()).unwrap();
    let [one, two] = pair(0);
    assert!(judge.is_dynamic(&[one.clone(), two.clone()], 8.0).unwrap());
    assert!(!judge.is_dynamic(std::slice::from_ref(&one), 8.0).unwrap());
    // At 16 frames a second every other frame is skipped.
    assert!(!judge.is_dynamic(&[one.clone(), two], 16.0).unwrap());
    let small = Image::filled(64, 64, [9; 3]);
    assert!(judge.speed(&small, &small).unwrap_err().to_string().contains("128"));
    assert!(judge.speed(&one, &small).is_err());
    // Sides that are no multiples of eight.
    let odd = Image::filled(131, 130, [40; 3]);
    assert_eq!(judge.flow(&odd, &odd, 1).unwrap().1, [136, 136]);
}
