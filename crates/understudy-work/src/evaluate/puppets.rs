//! Held-out characters of the puppet world that move in ways of their own, as subjects of a suite.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use anyhow::Result;
use serde_json::json;
use understudy_media::{Video, WriteOptions, write_file};
use understudy_puppet::{Identity, Motion, Scenario, Scene, Size, Split, World, markings};

use super::made;
use crate::context::Context;
use crate::puppet::{FRAMES, SIDE, images, render, verb, write_clip, write_masks};

/// The file of a character that is written last.
const LAST: &str = "words.toml";
/// Pictures to learn from, and others to compare with.
const PICTURES: u64 = 6;
const REFERENCES: u64 = 8;

/// Writes characters `first..first + count`: `folder/N/` has `clip.mp4`, `pictures/`, `class.txt` and
/// `words.toml`, and `references/N/` beside `folder` other pictures, the true motion and markings, and the
/// clip as it was drawn. What is there is kept.
///
/// # Errors
/// When a folder cannot be written.
pub fn write(folder: &Path, first: u64, count: u64, context: &Context) -> Result<()> {
    for index in 0..count {
        let own = folder.join(format!("{:02}", index + 1));
        let references = folder.with_file_name("references").join(format!("{:02}", index + 1));
        let clip = references.with_extension("webp");
        let mut whole = own.join(LAST).exists();
        for path in [&own, &references, &clip] {
            whole &= made::is_whole(path, context)?;
        }
        if !whole {
            // What a process that was killed made of it.
            for folder in [&own, &references] {
                if folder.exists() {
                    fs::remove_dir_all(folder)?;
                }
            }
            write_one(&own, &references, first + index, index)?;
            [&own, &references, &clip].into_iter().try_for_each(|path| made::keep(path))?;
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
    let clip = render(&scenario)?;
    write_clip(own, &scenario, &clip)?;
    write_masks(own, &clip)?;
    Video::new(images(&clip.frames)?, 8.0)?.write(
        references.with_extension("webp"),
        &WriteOptions { webp_quality: 100.0, ..WriteOptions::default() },
    )?;
    let photo = World::new(Size::new(1, SIDE, SIDE))?;
    for seed in 0..PICTURES + REFERENCES {
        let picture = images(&photo.render(&Scenario::portrait(identity, seed)).frames)?;
        let path = if seed < PICTURES {
            own.join("pictures").join(format!("{seed}.png"))
        } else {
            references.join(format!("{seed}.png"))
        };
        Video::new(picture, 1.0)?.write(path, &WriteOptions::default())?;
    }
    write_text(&references.join("motion.json"), &truth(&scenario).to_string())?;
    write_text(&references.join("markings.json"), &marked(&identity).to_string())?;
    write_text(&own.join("class.txt"), identity.noun())?;
    let words = [("action", verb(motion.action)), ("motion", ""), ("place", scene.phrase())];
    let words: BTreeMap<&str, &str> = words.into_iter().collect();
    write_text(&own.join(LAST), &toml::to_string(&words)?)
}

fn write_text(path: &Path, text: &str) -> Result<()> {
    Ok(write_file(path, |file| file.write_all(text.as_bytes()))?)
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
