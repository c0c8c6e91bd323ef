//! Two concepts in one video: whether both are recognised, by Set-and-Sequence learned jointly and by a joint
//! LoRA.

use std::ops::{ControlFlow, Range};
use std::path::Path;

use anyhow::{Context, Result};
use serde_json::{Value, json};
use toml::Table;
use understudy_evaluate::{Embedder, bootstrap, mean_cosine};
use understudy_media::{Image, Video, WriteOptions};
use understudy_personalize::{
    Job, Learning, Lora, Method, Motion, Preset, Recipe, SequenceSettings, SetAndSequence, Subject,
};
use understudy_puppet::{Action, Identity, Motion as Moves, Scenario, Scene, Size, Split, World};

use crate::{Measure, SIZE};

/// The first character; every second one is another's partner.
const FIRST: u64 = 300;
/// Pictures that a character is recognised by.
const REFERENCES: u64 = 8;
/// Where both are to be.
const PLACES: [&str; 8] = [
    "on the beach",
    "in the snow",
    "on a stage",
    "in a meadow",
    "in the city",
    "in front of mountains",
    "in the desert",
    "in front of houses",
];
/// Seeds that each is shown with.
const SEEDS: [u64; 2] = [0, 100];
/// Frames of a video that are looked at.
const SEEN: usize = 5;

/// A character with the clip it is learned from.
struct Concept {
    subject: Subject,
    action: &'static str,
    references: Vec<Vec<f32>>,
}

/// Shares of videos in which both characters of a pair are recognised, and either, over `pairs`, with
/// intervals over them; `save` is a folder for videos.
pub fn composition(measure: &Measure, pairs: Range<u64>, save: Option<&Path>) -> Result<Value> {
    let threshold = threshold(measure)?;
    let methods = methods()?;
    let mut shares = methods.each_ref().map(|_| (Vec::new(), Vec::new()));
    for pair in pairs {
        for (fitted, (both, each)) in methods.iter().zip(&mut shares) {
            let name = fitted.name;
            let videos = save.map(|folder| folder.join(format!("{name}-{pair}").replace(' ', "-")));
            let seen = of_pair(measure, fitted, pair, threshold, videos.as_deref())?;
            let share =
                |count: usize, all: usize| f64::from(u32::try_from(count).unwrap_or(0)) / all.max(1) as f64;
            both.push(share(seen.iter().filter(|seen| seen[0] && seen[1]).count(), seen.len()));
            each.push(share(seen.as_flattened().iter().filter(|seen| **seen).count(), 2 * seen.len()));
            eprintln!(
                "{name}: pair {pair}: both {:.2}, each {:.2}",
                both[both.len() - 1],
                each[each.len() - 1]
            );
        }
    }
    let figures = methods.iter().zip(&shares).map(|(fitted, (both, each))| {
        let of = |own: &[f64]| anyhow::Ok(json!({"pairs": own, "mean": bootstrap(own, 0.95, 0)?}));
        Ok((fitted.name.to_owned(), json!({"both": of(both)?, "each": of(each)?})))
    });
    let figures = figures.collect::<Result<serde_json::Map<_, _>>>()?;
    Ok(json!({"threshold": threshold, "videos_of_a_pair": PLACES.len() * SEEDS.len(), "methods": figures}))
}

/// The joint fits that are compared: as many samples a step and in all.
fn methods() -> Result<[Fitted; 2]> {
    let SequenceSettings { learning: mut joint, mut motion } = SetAndSequence.preset(Preset::Small);
    joint.bf16_products = true;
    (joint.dropout, joint.text_masking, joint.prior.weight, joint.background) = (0.2, 0.0, 0.0, 0.05);
    (joint.token.steps, joint.lora.steps) = (50, 300);
    (motion.dropout, motion.stitched) = (0.2, 0.5);
    (motion.stage.steps, motion.stage.batch) = (500, 2);
    let mut baseline = Lora.preset(Preset::Small);
    (baseline.rank, baseline.alpha, baseline.bf16_products) = (joint.rank, joint.alpha, true);
    (baseline.background, baseline.token.steps) = (0.05, 50);
    (baseline.lora.steps, baseline.lora.batch) = (800, 2);
    let of_baseline = Fitted {
        name: "joint LoRA",
        method: &Lora,
        table: Table::try_from(&baseline)?,
        learning: baseline,
        motion: None,
    };
    let settings = SequenceSettings { learning: joint.clone(), motion: motion.clone() };
    let of_joint = Fitted {
        name: "set-and-sequence",
        method: &SetAndSequence,
        table: Table::try_from(settings)?,
        learning: joint,
        motion: Some(motion),
    };
    Ok([of_joint, of_baseline])
}

/// A way of fitting both.
struct Fitted {
    name: &'static str,
    method: &'static dyn Method,
    table: Table,
    learning: Learning,
    motion: Option<Motion>,
}

/// Of every video of a pair, which of its characters are recognised.
fn of_pair(
    measure: &Measure,
    fitted: &Fitted,
    pair: u64,
    threshold: f64,
    save: Option<&Path>,
) -> Result<Vec<[bool; 2]>> {
    let folder = tempfile::tempdir()?;
    let mut concepts = Vec::new();
    for place in 0..2 {
        let token = if place == 0 { "<s>" } else { "<s2>" };
        concepts.push(concept(measure, 2 * pair + place, token, folder.path(), &fitted.learning)?);
    }
    let [one, other] = &concepts[..] else { return Ok(Vec::new()) };
    let run = folder.path().join("run");
    let job = Job {
        base: &measure.base,
        base_name: "nano",
        subject: &one.subject,
        others: std::slice::from_ref(&other.subject),
        folder: &run,
    };
    let adapter = fitted.method.fit(&job, &fitted.table, None, &mut |_| ControlFlow::Continue(()))?;
    let (prompts, adapters) = (prompts(&concepts, fitted), [(adapter, 1.0)]);
    let videos = SEEDS.map(|seed| measure.generated(&prompts, seed, &adapters));
    let videos = videos.into_iter().collect::<Result<Vec<_>>>()?.concat();
    if let Some(folder) = save {
        for (index, frames) in videos.iter().enumerate() {
            Video::new(frames.clone(), 8.0)?
                .write(folder.with_extension(format!("{index}.webp")), &WriteOptions::default())?;
        }
    }
    videos.iter().map(|frames| recognised(measure, frames, [one, other], threshold)).collect()
}

/// Both characters doing what they do, in every place.
fn prompts(concepts: &[Concept], fitted: &Fitted) -> Vec<String> {
    let called = |(index, own): (usize, &Concept)| {
        let motion = fitted.motion.as_ref().map_or_else(String::new, |own| own.token_of(index) + " ");
        format!("a {} {motion}{}", own.subject.phrase(), own.action)
    };
    let both: Vec<String> = concepts.iter().enumerate().map(called).collect();
    PLACES.iter().map(|place| format!("{} {place}", both.join(" and "))).collect()
}

fn concept(
    measure: &Measure,
    index: u64,
    token: &str,
    folder: &Path,
    learning: &Learning,
) -> Result<Concept> {
    let identity = Identity::from_index(Split::HeldOut, FIRST + index);
    // Two who stay where they are: what walks out of its half is no question of who it is.
    const ACTIONS: [Action; 4] = [Action::Jump, Action::Wave, Action::Dance, Action::Nod];
    let action = ACTIONS[index as usize % ACTIONS.len()];
    let scene = Scene::ALL[index as usize % Scene::ALL.len()];
    let scenario = Scenario::solo(identity, Moves::of_action(action, Split::HeldOut, index), scene, index);
    let [frames, height, width] = SIZE;
    let drawn = World::new(Size::new(frames, height, width))?.render(&scenario);
    let path = folder.join(format!("{index}.mp4"));
    let large = WriteOptions { upscale: 4, ..WriteOptions::default() };
    let images = |rgb: &[u8]| -> Result<Vec<Image>> {
        rgb.chunks_exact(3 * height * width).map(|own| Ok(Image::new(width, height, own.to_vec())?)).collect()
    };
    Video::new(images(&drawn.frames)?, 8.0)?.write(&path, &large)?;
    let masks = drawn.masks.first().map_or(&[][..], Vec::as_slice);
    let grey: Vec<u8> = masks.iter().flat_map(|value| [*value; 3]).collect();
    Video::new(images(&grey)?, 8.0)?.write(folder.join(format!("{index}.masks/")), &large)?;
    let verb = crate::verb(action);
    let said = format!("a {} [{verb}] {}", identity.noun(), scene.phrase());
    std::fs::write(path.with_extension("txt"), said)?;
    let options = learning.subject_options(&measure.base.about);
    let subject = Subject::open(&path, identity.noun(), token, options).context("a character's clip")?;
    let photo = World::new(Size::new(1, height, width))?;
    let portraits = (0..REFERENCES).map(|seed| photo.render(&Scenario::portrait(identity, seed)).frames);
    let portraits = images(&portraits.collect::<Vec<_>>().concat())?;
    Ok(Concept { subject, action: verb, references: measure.judges.identity.embed(&portraits)? })
}

/// Which of two characters a video shows: one is recognised where some part of the picture looks like it as
/// much as pictures of one character do, and more than like the other.
fn recognised(
    measure: &Measure,
    frames: &[Image],
    concepts: [&Concept; 2],
    threshold: f64,
) -> Result<[bool; 2]> {
    let step = (frames.len() / SEEN).max(1);
    let mut seen = [false; 2];
    for part in PARTS {
        let cut: Vec<Image> = frames.iter().step_by(step).map(|frame| part_of(frame, part)).collect();
        let shown = measure.judges.identity.embed(&cut)?;
        let alike = concepts.map(|own| mean_cosine(&shown, &own.references));
        for own in 0..2 {
            seen[own] |= alike[own] > threshold && alike[own] > alike[1 - own];
        }
    }
    Ok(seen)
}

/// Parts of a picture's width, in quarters.
const PARTS: [[usize; 2]; 4] = [[0, 2], [1, 3], [2, 4], [0, 4]];

/// The columns of `frame` from one quarter to another in the middle of a picture of its size, their edges
/// repeated.
fn part_of(frame: &Image, [from, to]: [usize; 2]) -> Image {
    let [first, end] = [from, to].map(|quarter| quarter * frame.width / 4);
    let beside = (frame.width - (end - first)) / 2;
    Image::from_fn(frame.width, frame.height, |x, y| {
        frame.pixel((first + x).saturating_sub(beside).clamp(first, end - 1), y)
    })
}

/// The likeness that best tells clips of a character from those of others.
fn threshold(measure: &Measure) -> Result<f64> {
    const CHARACTERS: u64 = 48;
    let [_, height, width] = SIZE;
    let photo = World::new(Size::new(1, height, width))?;
    let pictures = |identity: Identity, seeds: std::ops::Range<u64>| -> Result<Vec<Vec<f32>>> {
        let images = seeds.map(|seed| {
            Ok(Image::new(width, height, photo.render(&Scenario::portrait(identity, seed)).frames)?)
        });
        Ok(measure.judges.identity.embed(&images.collect::<Result<Vec<_>>>()?)?)
    };
    let mut scored = Vec::new();
    for index in 0..CHARACTERS {
        let own = Identity::from_index(Split::HeldOut, 10_000 + index);
        let other = Identity::of_class(own.class(), Split::HeldOut, 20_000 + index);
        let references = pictures(own, 0..REFERENCES)?;
        let seen = REFERENCES..REFERENCES + SEEN as u64;
        scored.push((mean_cosine(&pictures(own, seen.clone())?, &references), true));
        scored.push((mean_cosine(&pictures(other, seen)?, &references), false));
    }
    let right = |threshold: f64| scored.iter().filter(|(score, same)| (*score > threshold) == *same).count();
    let best = scored.iter().map(|(score, _)| *score).max_by_key(|score| right(*score));
    best.context("there is nobody to tell apart")
}
