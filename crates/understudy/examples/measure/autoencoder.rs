//! What an autoencoder keeps of held-out clips: pixels, whom they show, and how it moves.

use std::path::Path;
use std::time::Instant;

use anyhow::Result;
use burn::tensor::{Device, Tensor, TensorData};
use serde_json::{Value, json};
use understudy_engine::weights::Weights;
use understudy_evaluate::{Embedder, MotionJudge, TrueMotion, bootstrap, mean_cosine};
use understudy_media::Image;
use understudy_models::wan_vae::WanVae;
use understudy_pipeline::Files;
use understudy_puppet::{Identity, Motion, Scenario, Scene, Size, Split, World};

use crate::{Measure, SIZE, clips_of};

/// Portraits that a clip is compared with.
const PORTRAITS: u64 = 8;

/// The autoencoder that a run exported into `folder`.
pub fn open(folder: &Path, device: &Device) -> Result<WanVae> {
    of(&Files::folder(folder), "", device)
}

/// The autoencoder in `folder` of `files`, which ends in a slash if there is one.
pub fn of(files: &Files, folder: &str, device: &Device) -> Result<WanVae> {
    let config = serde_json::from_slice(&files.read(&format!("{folder}config.json"))?)?;
    let name = format!("{folder}diffusion_pytorch_model.safetensors");
    let checkpoint = files.open(&name, device)?;
    let weights = Weights::new(&checkpoint, device);
    let network = WanVae::new(&weights, &config);
    weights.finish()?;
    Ok(network)
}

/// Of `count` held-out clips, the PSNR; of as many clips of one character with a motion of its own, the
/// identity by the judge (with portraits of the character, and with the true frames) and the motion error,
/// each beside that of the true clips. And the time of encoding and decoding a clip.
pub fn autoencoder(measure: &Measure, network: &WanVae, count: u64) -> Result<Value> {
    let motions = MotionJudge::load(&measure.files, "judges/motion", &measure.device)?;
    let [mut ratios, mut seconds] = [Vec::new(), Vec::new()];
    let mut own: [Vec<f64>; 5] = Default::default();
    for index in 0..count {
        let scenario = measure.clips.scenario(Split::HeldOut, index);
        let video = measure.clips.batch(&[scenario], 0, SIZE[0]).video(&measure.device);
        let latents = network.encode(video.clone()).mean;
        let started = Instant::now();
        let decoded = network.decode(latents).clamp(-1.0, 1.0);
        seconds.push(started.elapsed().as_secs_f64());
        let error: f32 = (decoded - video).powi_scalar(2).mean().into_scalar();
        ratios.push(10.0 * f64::from(4.0 / error).log10());

        let case = Case::new(measure, index)?;
        let decoded = network.decode(network.encode(case.video.clone()).mean).clamp(-1.0, 1.0);
        let coded = clips_of((decoded + 1.0) / 2.0)?.remove(0);
        let judge = &measure.judges.identity;
        let [portraits, real, found] =
            [judge.embed(&case.portraits)?, judge.embed(&case.frames)?, judge.embed(&coded)?];
        let frames = real
            .iter()
            .zip(&found)
            .map(|(a, b)| mean_cosine(std::slice::from_ref(a), std::slice::from_ref(b)));
        let figures = [
            Some(mean_cosine(&real, &portraits)),
            Some(mean_cosine(&found, &portraits)),
            Some(frames.sum::<f64>() / real.len() as f64),
            motions.error(&case.motion, &case.frames)?,
            motions.error(&case.motion, &coded)?,
        ];
        own.iter_mut().zip(figures).for_each(|(all, figure)| all.extend(figure));
    }
    let [real, coded, frames, real_motion, coded_motion] = &own;
    let kept: Vec<f64> = coded.iter().zip(real).map(|(coded, real)| coded / real).collect();
    seconds.sort_by(f64::total_cmp);
    Ok(json!({
        "clips": count,
        "psnr": bootstrap(&ratios, 0.95, 0)?,
        "identity": {
            "coded": bootstrap(coded, 0.95, 0)?,
            "true": bootstrap(real, 0.95, 0)?,
            "ratio": bootstrap(&kept, 0.95, 0)?,
            "coded_to_true_frames": bootstrap(frames, 0.95, 0)?,
        },
        "motion_error": {
            "coded": bootstrap(coded_motion, 0.95, 0)?,
            "true": bootstrap(real_motion, 0.95, 0)?,
        },
        "seconds_to_decode": seconds.get(seconds.len() / 2),
    }))
}

/// A held-out character with a motion of its own.
struct Case {
    portraits: Vec<Image>,
    frames: Vec<Image>,
    video: Tensor<5>,
    motion: TrueMotion,
}

impl Case {
    fn new(measure: &Measure, index: u64) -> Result<Self> {
        let identity = Identity::from_index(Split::HeldOut, 100 + index);
        let scene = Scene::ALL[index as usize % Scene::ALL.len()];
        let scenario = Scenario::solo(identity, Motion::idiosyncratic(index), scene, index);
        let [count, height, width] = SIZE;
        let photo = World::new(Size::new(1, height, width))?;
        let portrait = |seed| {
            let rgb = photo.render(&Scenario::portrait(identity, seed)).frames;
            Ok(Image::new(width, height, rgb)?)
        };
        let frames = measure.real(&scenario)?;
        let planes = (0..3).flat_map(|channel| {
            let bytes = frames.iter().flat_map(move |frame| frame.rgb.iter().skip(channel).step_by(3));
            bytes.map(|&byte| f32::from(byte) / 127.5 - 1.0)
        });
        let planes = TensorData::new(planes.collect::<Vec<f32>>(), [1, 3, count, height, width]);
        let posture = |phase: u8, frame: usize| {
            let mut actor = scenario.actors[0].clone();
            actor.motion.phase = phase;
            actor.posture(frame, count).to_vec()
        };
        let phase = |phase| (0..count).map(|frame| posture(phase, frame)).collect();
        Ok(Self {
            portraits: (0..PORTRAITS).map(portrait).collect::<Result<_>>()?,
            video: Tensor::from_data(planes, &measure.device),
            frames,
            motion: TrueMotion {
                phases: (0..Motion::PHASES).map(phase).collect(),
                rest: scenario.actors[0].resting().to_vec(),
            },
        })
    }
}

/// Each clip above what the autoencoder makes of it, every second frame, as pictures in `folder`.
pub fn sheets(measure: &Measure, network: &WanVae, count: u64, folder: &Path) -> Result<()> {
    std::fs::create_dir_all(folder)?;
    for index in 0..count {
        let scenario = measure.clips.scenario(Split::HeldOut, index);
        let video = measure.clips.batch(&[scenario], 0, SIZE[0]).video(&measure.device);
        let decoded = network.decode(network.encode(video.clone()).mean);
        let both = Tensor::cat(vec![video, decoded], 0);
        understudy_train::pretrain::frames_grid(both, 2, 3, &folder.join(format!("{index:02}.png")))?;
    }
    Ok(())
}
