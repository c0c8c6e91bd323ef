//! Held-out characters of the puppet world that move in ways of their own, as subjects of a suite.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use anyhow::Result;
use serde_json::json;
use understudy_media::{Image, Video, WriteOptions};
use understudy_puppet::{Action, Identity, Motion, Scenario, Scene, Size, Split, World, markings};

/// Pictures to learn from, and others to compare with.
const PICTURES: u64 = 6;
const REFERENCES: u64 = 8;
/// Frames and side of a clip.
const FRAMES: usize = 17;
const SIDE: usize = 64;

/// Writes characters `first..first + count`: `folder/N/` has `clip.mp4`, `pictures/`, `class.txt` and `words.toml`, and
/// `references/N/` beside `folder` other pictures, the true motion and markings, and the clip as it was drawn. What is there is kept.
///
/// # Errors
/// When a folder cannot be written.
pub fn write(folder: &Path, first: u64, count: u64) -> Result<()> {
    for index in 0..count {
        let own = folder.join(format!("{:02}", index + 1));
        let references = folder.with_file_name("references").join(format!("{:02}", index + 1));
        if !own.join("words.toml").exists() {
            write_one(&own, &references, first + index, index)?;
        }
    }
    Ok(())
}

fn write_one(own: &Path, references: &Path, identity: u64, index: u64) -> Result<()> {
    let identity = Identity::from_index(Split::HeldOut, identity);
    let motion = Motion::idiosyncratic(index);
    let scene = Scene::ALL[index as usize % Scene::ALL.len()];
    let scenario = Scenario::solo(identity, motion, scene, index);
    for folder in [own.join("pictures"), references.to_owned()] {
        fs::create_dir_all(folder)?;
    }
    let drawn = World::new(Size::new(FRAMES, SIDE, SIDE))?.render(&scenario);
    let clip = images(&drawn.frames)?;
    let large = WriteOptions { upscale: 4, ..WriteOptions::default() };
    let masks = drawn.masks.first().map_or(&[][..], Vec::as_slice).chunks_exact(SIDE * SIDE);
    let grey = |mask: &[u8]| Ok(Image::new(SIDE, SIDE, mask.iter().flat_map(|value| [*value; 3]).collect())?);
    let masks = masks.map(grey).collect::<Result<Vec<_>>>()?;
    Video::new(masks, 8.0)?.write(own.join("clip.masks/"), &large)?;
    Video::new(clip.clone(), 8.0)?.write(own.join("clip.mp4"), &large)?;
    Video::new(clip, 8.0)?.write(
        references.with_extension("webp"),
        &WriteOptions { webp_quality: 100.0, ..WriteOptions::default() },
    )?;
    let photo = World::new(Size::new(1, SIDE, SIDE))?;
    for seed in 0..PICTURES + REFERENCES {
        let picture = images(&photo.render(&Scenario::portrait(identity, seed)).frames)?;
        let path = match seed < PICTURES {
            true => own.join("pictures").join(format!("{seed}.png")),
            false => references.join(format!("{seed}.png")),
        };
        Video::new(picture, 1.0)?.write(path, &WriteOptions::default())?;
    }
    fs::write(references.join("motion.json"), truth(&scenario).to_string())?;
    fs::write(references.join("markings.json"), marked(&identity).to_string())?;
    fs::write(
        own.join("clip.txt"),
        format!("a {} [{}] {}", identity.noun(), verb(motion.action), scene.phrase()),
    )?;
    fs::write(own.join("class.txt"), identity.noun())?;
    let words = [("action", verb(motion.action)), ("motion", ""), ("place", scene.phrase())];
    let words: BTreeMap<&str, &str> = words.into_iter().collect();
    Ok(fs::write(own.join("words.toml"), toml::to_string(&words)?)?)
}

/// The postures of a scenario's character in every frame, for every phase its motion may start in.
fn truth(scenario: &Scenario) -> serde_json::Value {
    let Some(actor) = scenario.actors.first() else { return json!({"phases": [], "rest": []}) };
    let phase = |phase: u8| {
        let mut actor = actor.clone();
        actor.motion.phase = phase;
        (0..FRAMES).map(|frame| actor.posture(frame, FRAMES).to_vec()).collect::<Vec<_>>()
    };
    let phases: Vec<_> = (0..Motion::PHASES).map(phase).collect();
    json!({"phases": phases, "rest": actor.resting().to_vec()})
}

/// What is painted on a character, by name.
fn marked(identity: &Identity) -> serde_json::Value {
    let known = markings();
    let own = identity.markings().into_iter().zip(&known);
    own.filter_map(|(value, marking)| Some((marking.name, marking.values[value?]))).collect()
}

fn images(frames: &[u8]) -> Result<Vec<Image>> {
    frames.chunks_exact(SIDE * SIDE * 3).map(|rgb| Ok(Image::new(SIDE, SIDE, rgb.to_vec())?)).collect()
}

/// A verb phrase of the world's captions.
fn verb(action: Action) -> &'static str {
    match action {
        Action::WalkLeft => "walks to the left",
        Action::WalkRight => "walks to the right",
        Action::RunLeft => "runs to the left",
        Action::RunRight => "runs to the right",
        Action::Jump => "jumps up and down",
        Action::Wave => "waves hello",
        Action::Spin => "spins around",
        Action::Nod => "nods",
        Action::Sit => "sits down",
        _ => "dances",
    }
}
