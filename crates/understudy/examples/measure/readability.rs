//! Whether characters can be read: in how many frames a judge of parts finds a head, a torso and both eyes.

use std::path::Path;

use anyhow::Result;
use burn::tensor::{Device, Tensor, TensorData};
use serde_json::{Value, json};
use understudy_engine::host;
use understudy_engine::safetensors::Checkpoint;
use understudy_engine::weights::Weights;
use understudy_evaluate::bootstrap;
use understudy_media::{Image, Range};
use understudy_models::segmenter::{Segmenter, SegmenterConfig};
use understudy_puppet::{Feature, Part, Scenario, Split};

use crate::{Measure, SIZE, clips_of};

/// Pixels that a head and a torso have at least.
const HEAD: usize = 24;
const TORSO: usize = 12;
/// Pixels that both eyes together have at least, and columns between the means of their halves.
const EYES: usize = 4;
const APART: f32 = 3.0;

/// The share of readable frames of `count` held-out clips: true ones, what the autoencoder makes of them, and
/// generated ones.
pub fn readability(measure: &Measure, judge: &Path, count: u64) -> Result<Value> {
    let judge = open(judge, &measure.device)?;
    let scenarios: Vec<Scenario> = (0..count).map(|i| measure.clips.scenario(Split::HeldOut, i)).collect();
    let captions: Vec<String> = scenarios.iter().map(Scenario::caption).collect();
    let [mut real, mut coded] = [Vec::new(), Vec::new()];
    for scenario in &scenarios {
        real.push(share(measure, &judge, &measure.real(scenario)?)?);
        let video = measure.clips.batch(std::slice::from_ref(scenario), 0, SIZE[0]).video(&measure.device);
        let decoded = measure.base.networks.vae.decode(measure.base.encode(video)?, None);
        coded.push(share(measure, &judge, &clips_of(decoded)?.remove(0))?);
    }
    let generated = measure.generated(&captions, 0, &[])?;
    let generated = generated.iter().map(|clip| share(measure, &judge, clip)).collect::<Result<Vec<_>>>()?;
    let [real, coded, generated] = [&real, &coded, &generated].map(|shares| bootstrap(shares, 0.95, 0));
    let [real, coded, generated] = [real?, coded?, generated?];
    let ratio = generated.mean / real.mean;
    Ok(json!({"real": real, "autoencoded": coded, "generated": generated, "ratio": ratio, "clips": count}))
}

/// The judge of parts that a run exported into `folder`.
fn open(folder: &Path, device: &Device) -> Result<Segmenter> {
    let config: SegmenterConfig = serde_json::from_slice(&std::fs::read(folder.join("config.json"))?)?;
    let checkpoint = Checkpoint::open(&folder.join("model.safetensors"), device)?;
    let weights = Weights::new(&checkpoint, device);
    let network = Segmenter::new(&weights, &config);
    weights.finish()?;
    Ok(network)
}

/// The share of `frames` that can be read.
fn share(measure: &Measure, judge: &Segmenter, frames: &[Image]) -> Result<f64> {
    let [_, height, width] = SIZE;
    let pixels: Vec<f32> = frames.iter().flat_map(|frame| frame.to_planar(Range::Signed)).collect();
    let data = TensorData::new(pixels, [frames.len(), 3, height, width]);
    let read = judge.forward(Tensor::from_data(data, &measure.device)).argmax(1);
    let labels = host::values(read.float());
    let readable = labels.chunks_exact(height * width).filter(|frame| is_readable(frame, width)).count();
    Ok(readable as f64 / frames.len() as f64)
}

fn is_readable(labels: &[f32], width: usize) -> bool {
    let count = |part: Part| labels.iter().filter(|label| **label as usize == part as usize).count();
    let eye = Part::ALL.len() + Feature::Eye as usize;
    let shown = labels.iter().enumerate().filter(|(_, label)| **label as usize == eye);
    let columns: Vec<f32> = shown.map(|(at, _)| (at % width) as f32).collect();
    let mean = |columns: &[f32]| columns.iter().sum::<f32>() / columns.len().max(1) as f32;
    let middle = mean(&columns);
    let (left, right): (Vec<f32>, Vec<f32>) = columns.iter().copied().partition(|column| *column < middle);
    let eyes = columns.len() >= EYES && !left.is_empty() && mean(&right) - mean(&left) >= APART;
    eyes && count(Part::Head) >= HEAD && count(Part::Torso) >= TORSO
}
