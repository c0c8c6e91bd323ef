//! How well V-Warper's matches agree with the world: of the places of a real clip that show a part of the
//! character, the share that is matched with a place of the references which shows the same part.

use std::collections::BTreeMap;
use std::sync::Arc;

use anyhow::Result;
use burn::tensor::{Tensor, TensorData};
use serde_json::{Value, json};
use understudy_engine::attach::{Attached, Window};
use understudy_engine::random::Random;
use understudy_evaluate::bootstrap;
use understudy_personalize::{Descriptor, Reference, Warp, WarpConfig, WarpJob};
use understudy_pipeline::{Base, Companion, Moment, PromptOptions, Step, encode_prompt, mixed};
use understudy_puppet::{Action, Identity, Motion, Scenario, Scene, Size, Split, World};

use crate::SIZE;

/// Noise levels that are matched at.
const SIGMAS: [f32; 4] = [0.2, 0.5, 0.8, 0.95];
/// Reference pictures of each character.
const PICTURES: u64 = 4;
/// Which characters.
const FIRST: u64 = 500;

/// A character's pictures and one of its clips, with the part of it that every place shows; 0 where it is not
/// shown.
struct Case {
    class: &'static str,
    references: Vec<Reference>,
    reference_parts: Vec<u8>,
    video: Tensor<5>,
    video_parts: Vec<u8>,
}

/// What is compared.
const DESCRIPTORS: [(&str, Descriptor); 3] = [
    ("queries and keys", Descriptor::QueryKey),
    ("the same, rotated", Descriptor::RotatedQueryKey),
    ("hidden states", Descriptor::Hidden),
];

/// Shares of right matches by descriptor, block and noise level; and by how much queries and keys at their
/// best block are better than each of the others at its own, over characters.
pub fn matches(base: &Base, count: u64) -> Result<Value> {
    let cases = (0..count).map(|index| Case::new(base, index)).collect::<Result<Vec<_>>>()?;
    let mut found = Vec::new();
    let mut best: Vec<Vec<f64>> = Vec::new();
    for (name, descriptor) in DESCRIPTORS {
        let mut highest = Vec::new();
        for block in 1..base.networks.denoiser.depth() {
            let mut means = vec![0.0; cases.len()];
            for sigma in SIGMAS {
                let config = WarpConfig {
                    match_block: block,
                    blocks: [block, block + 1],
                    window: Window::ALWAYS,
                    descriptor,
                    ..WarpConfig::for_depth(base.networks.denoiser.depth())
                };
                let shares = cases.iter().map(|case| case.share(base, config, sigma));
                let shares = shares.collect::<Result<Vec<f64>>>()?;
                means.iter_mut().zip(&shares).for_each(|(mean, share)| *mean += share / SIGMAS.len() as f64);
                let share = bootstrap(&shares, 0.95, 0)?;
                eprintln!("{name}, block {block}, noise {sigma}: {:.3}", share.mean);
                found.push(json!({"by": name, "block": block, "noise": sigma, "right": share}));
            }
            if means.iter().sum::<f64>() > highest.iter().sum::<f64>() {
                highest = means;
            }
        }
        best.push(highest);
    }
    let gain = |other: &Vec<f64>| {
        let gains: Vec<f64> = best[0].iter().zip(other).map(|(own, other)| own - other).collect();
        bootstrap(&gains, 0.95, 0)
    };
    let gains = best[1..].iter().map(gain).collect::<Result<Vec<_>, _>>()?;
    let chance = cases.iter().map(Case::chance).collect::<Vec<_>>();
    Ok(json!({"matches": found, "chance": bootstrap(&chance, 0.95, 0)?, "characters": count,
        "gain_over_rotated": gains[0], "gain_over_hidden_states": gains[1]}))
}

impl Case {
    fn new(base: &Base, index: u64) -> Result<Self> {
        let identity = Identity::from_index(Split::HeldOut, FIRST + index);
        let [frames, height, width] = SIZE;
        // What is seen from behind has no face to be matched.
        let actions: Vec<Action> = Action::ALL.into_iter().filter(|own| *own != Action::Spin).collect();
        let action = actions[index as usize % actions.len()];
        let motion = Motion::of_action(action, Split::HeldOut, index);
        let scenario = Scenario::solo(identity, motion, Scene::ALL[index as usize % Scene::ALL.len()], index);
        let world = World::new(Size::new(frames, height, width))?;
        let video = base.encode(planar(base, &world.render(&scenario).frames, frames))?;
        let [_, _, latent_frames, rows, columns] = video.dims();
        let grid = base.about.geometry.places([latent_frames, rows, columns]);
        // A later latent stands for four frames; what most of them show is what it shows.
        let of_latent = |latent: usize| -> Vec<Vec<u8>> {
            let frames = if latent == 0 { 0..1 } else { 4 * latent - 3..4 * latent + 1 };
            frames.map(|frame| world.parts(&scenario, frame)).collect()
        };
        let video_parts = (0..grid[0]).flat_map(|latent| places(&of_latent(latent), grid)).collect();
        let photo = World::new(Size::new(1, height, width))?;
        let (mut references, mut reference_parts) = (Vec::new(), Vec::new());
        for seed in 0..PICTURES {
            let mut scenario = Scenario::portrait(identity, seed);
            // Not where the clip shows it, so that nothing is right because it lies alike.
            if let Some(actor) = scenario.actors.first_mut() {
                (actor.x, actor.height) =
                    ([260, 740, 380, 620][seed as usize % 4], [520, 600, 680, 560][seed as usize % 4]);
            }
            const HELD: usize = 5;
            let picture = photo.render(&scenario).frames.repeat(HELD);
            references.push(Reference { latents: base.encode(planar(base, &picture, HELD))?, mask: None });
            reference_parts.extend(places(&[photo.parts(&scenario, 0)], grid));
        }
        Ok(Self { class: identity.noun(), references, reference_parts, video, video_parts })
    }

    /// The share of right matches at a noise level.
    fn share(&self, base: &Base, config: WarpConfig, sigma: f32) -> Result<f64> {
        let prompt = format!("a {}", self.class);
        let [_, _, frames, rows, columns] = self.video.dims();
        let mut attached = Attached::none();
        let job = WarpJob {
            base,
            references: &self.references,
            attached: &attached,
            embeddings: None,
            phrase: self.class,
            prompts: std::slice::from_ref(&prompt),
            latent_size: [frames, rows, columns],
            cache: None,
        };
        let warp = Warp::new(&job, config)?;
        let denoiser = base.networks.denoiser.as_ref();
        let moment = Moment { level: denoiser.noise().level(sigma), progress: 0.5 };
        warp.clone().step(base, moment)?;
        warp.attach(attached.to_mut(denoiser.name()));
        let noise: Tensor<5> = Random::new(7, 0).normal_tensor(self.video.dims(), &base.device);
        let texts = encode_prompt(base, &[&prompt], PromptOptions::default())?;
        let step = Step {
            latents: mixed(&self.video, &noise, &[moment.level]),
            timesteps: &[moment.level.timestep],
            progress: moment.progress,
            attached: None,
        };
        denoiser.with_texts(texts, &attached, None).predict(step);
        Ok(self.right(&Arc::clone(&warp).matches()[0].places))
    }

    fn right(&self, found: &[usize]) -> f64 {
        let shown = self.video_parts.iter().zip(found).filter(|(part, _)| **part > 0);
        let right = shown.clone().filter(|(part, place)| self.reference_parts[**place] == **part).count();
        right as f64 / shown.count().max(1) as f64
    }

    /// What places of the references drawn by chance would give.
    fn chance(&self) -> f64 {
        let mut shares: BTreeMap<u8, f64> = BTreeMap::new();
        for part in &self.reference_parts {
            *shares.entry(*part).or_default() += 1.0 / self.reference_parts.len() as f64;
        }
        let shown: Vec<u8> = self.video_parts.iter().copied().filter(|part| *part > 0).collect();
        shown.iter().map(|part| shares.get(part).copied().unwrap_or(0.0)).sum::<f64>()
            / shown.len().max(1) as f64
    }
}

/// RGB bytes `(frames, height, width, 3)` as a video `(1, 3, frames, height, width)` in [-1, 1].
fn planar(base: &Base, rgb: &[u8], frames: usize) -> Tensor<5> {
    let [_, height, width] = SIZE;
    let values: Vec<f32> = (0..3)
        .flat_map(|c| rgb.iter().skip(c).step_by(3).map(|&byte| f32::from(byte) / 127.5 - 1.0))
        .collect();
    Tensor::from_data(TensorData::new(values, [1, 3, frames, height, width]), &base.device)
}

/// The part that most pixels of every place show over some frames; 0 unless at least half of them show the
/// character.
fn places(frames: &[Vec<u8>], [_, rows, columns]: [usize; 3]) -> Vec<u8> {
    let [_, height, width] = SIZE;
    let [tall, wide] = [height / rows, width / columns];
    let place = |at: usize| {
        let mut counts = [0; 5];
        for frame in frames {
            for y in at / columns * tall..(at / columns + 1) * tall {
                let line = &frame[y * width + at % columns * wide..][..wide];
                line.iter().for_each(|part| counts[usize::from(*part).min(4)] += 1);
            }
        }
        let all: usize = counts.iter().sum();
        let most = (1..5).max_by_key(|part| counts[*part]).unwrap_or(0);
        if 2 * counts[0] <= all { most as u8 } else { 0 }
    };
    (0..rows * columns).map(place).collect()
}
