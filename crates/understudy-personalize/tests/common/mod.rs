//! The oracle's tiny networks, and small subjects.
#![allow(dead_code, clippy::unwrap_used)]

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use burn::tensor::{Device, Tensor, TensorData};
use understudy_engine::attach::Attached;
use understudy_engine::safetensors::Checkpoint;
use understudy_media::{Image, Mask, Picture};
use understudy_personalize::{Adapter, FitEvent, Learning, Subject};
use understudy_pipeline::{Base, Files, Request};

pub fn device() -> Device {
    Device::flex()
}

pub fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../oracle/golden").join(name)
}

pub fn base(name: &str) -> Base {
    let mut base = Base::load(&Files::folder(golden(name)), &device()).unwrap();
    Arc::make_mut(&mut base.about).text_limit = 24;
    base
}

pub fn open(path: &Path) -> Checkpoint {
    Checkpoint::open(path, &device()).unwrap()
}

pub fn tensor<const D: usize>(checkpoint: &Checkpoint, name: &str) -> Tensor<D> {
    let (values, shape) = checkpoint.values(name).unwrap();
    Tensor::from_data(TensorData::new(values, shape), &device())
}

pub fn values<const D: usize>(tensor: Tensor<D>) -> Vec<f32> {
    tensor.into_data().try_into_vec().unwrap()
}

/// Length of the difference over length of the expected.
pub fn error(found: &[f32], expected: &[f32]) -> f64 {
    assert_eq!(found.len(), expected.len());
    let square = |x: f64| x * x;
    let difference: f64 = found.iter().zip(expected).map(|(a, b)| square(f64::from(a - b))).sum();
    let length: f64 = expected.iter().map(|b| square(f64::from(*b))).sum();
    (difference / length.max(f64::MIN_POSITIVE)).sqrt()
}

pub fn go(_: &FitEvent) -> ControlFlow<()> {
    ControlFlow::Continue(())
}

/// Two pictures, the second with a mask.
pub fn subject(size: [usize; 2]) -> Subject {
    let image = |red: u8| Image::from_fn(48, 40, |x, y| [red, (x * 5) as u8, (y * 6) as u8]);
    let mask = Mask {
        width: 48,
        height: 40,
        alpha: (0..48 * 40).map(|i| if i % 48 < 24 { 255 } else { 0 }).collect(),
    };
    let pictures =
        [Picture { image: image(200), mask: None }, Picture { image: image(20), mask: Some(mask) }];
    Subject::from_pictures(&pictures, "ball", "<s>", size).unwrap()
}

/// A few steps of everything at 16x16.
pub fn config() -> Learning {
    let mut config = Learning::small();
    config.size = [16, 16];
    config.rank = 3;
    config.alpha = 6.0;
    config.token.steps = 4;
    config.lora.steps = 6;
    for stage in [&mut config.token, &mut config.lora] {
        stage.batch = 2;
        stage.warmup = 2;
        stage.checkpoint_every = 2;
    }
    config.augmentation.versions = 2;
    config.prior.frames = 5;
    config.prior.samples = 2;
    config.prior.steps = 2;
    config.samples.every = 0;
    config.samples.frames = 5;
    config.samples.steps = 2;
    config
}

/// The residuals of an adapter, attached with a weight.
pub fn attached(adapter: &Adapter, weight: f32) -> Attached {
    Attached::one("transformer", adapter.attachments(weight))
}

pub fn small_request(prompt: &str) -> Request {
    Request { frames: 5, height: 16, width: 16, steps: 3, ..Request::new(prompt) }
}
