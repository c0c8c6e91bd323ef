//! Writes held-out characters of the puppet world that move in ways of their own: what methods that learn a motion are
//! tried on.
//!
//! ```text
//! cargo run --release --example concepts -- FOLDER [COUNT]
//! ```
//! Each gets `FOLDER/N/clip.mp4`, `FOLDER/N/pictures/` and `FOLDER/N/class.txt`.

use std::path::PathBuf;

use anyhow::{Context, Result};
use understudy_media::{Image, Video, WriteOptions};
use understudy_puppet::{Identity, Motion, Scenario, Scene, Size, Split, World};

/// Where the numbers of these identities begin; others are used elsewhere.
const FIRST: u64 = 300;
/// Pictures of each.
const PICTURES: u64 = 6;

fn main() -> Result<()> {
    let mut arguments = std::env::args().skip(1);
    let folder = PathBuf::from(arguments.next().context("name a folder")?);
    let count: u64 = arguments.next().map_or(Ok(8), |text| text.parse())?;
    let world = World::new(Size::new(17, 64, 64))?;
    let photo = World::new(Size::new(1, 64, 64))?;
    for index in 0..count {
        let identity = Identity::from_index(Split::HeldOut, FIRST + index);
        let at = index as usize;
        let motion = Motion::idiosyncratic(index);
        let scenario = Scenario::solo(identity, motion, Scene::ALL[at % Scene::ALL.len()], index);
        let own = folder.join(index.to_string());
        std::fs::create_dir_all(own.join("pictures"))?;
        let frames = images(&world.render(&scenario).frames)?;
        Video::new(frames, 8.0)?
            .write(own.join("clip.mp4"), &WriteOptions { upscale: 4, ..WriteOptions::default() })?;
        for seed in 0..PICTURES {
            let picture = images(&photo.render(&Scenario::portrait(identity, seed)).frames)?;
            let path = own.join("pictures").join(format!("{seed}.png"));
            Video::new(picture, 1.0)?.write(path, &WriteOptions::default())?;
        }
        std::fs::write(own.join("class.txt"), identity.noun())?;
        println!("{index}: a {}, {:?} at {:?}", identity.noun(), motion.quirk, scenario.scene);
    }
    Ok(())
}

fn images(frames: &[u8]) -> Result<Vec<Image>> {
    frames.chunks_exact(64 * 64 * 3).map(|rgb| Ok(Image::new(64, 64, rgb.to_vec())?)).collect()
}
