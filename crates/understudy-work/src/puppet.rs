//! Clips of the puppet world as subjects: what a person would have on disk, with what the world knows of
//! them.

use std::path::Path;

use anyhow::Result;
use understudy_media::{Image, Video, WriteOptions, write_file};
use understudy_puppet::{Action, Clip, Scenario, Size, World};

/// Frames of a clip, and the side of a picture.
pub const FRAMES: usize = 17;
/// Height and width of a picture.
pub const SIDE: usize = 64;
/// Frames a second.
const FPS: f64 = 8.0;
/// How many times a pixel is enlarged: enough for a player, and for the codec to keep what is small.
const UPSCALE: usize = 4;

/// The clip of a scenario.
///
/// # Errors
/// When the world cannot render it.
pub fn render(scenario: &Scenario) -> Result<Clip> {
    Ok(World::new(Size::new(FRAMES, SIDE, SIDE))?.render(scenario))
}

/// Writes a clip of one character as `folder/clip.mp4`, and its caption, what it does in brackets, as
/// `clip.txt`.
///
/// # Errors
/// When a file cannot be written.
pub fn write_clip(folder: &Path, scenario: &Scenario, clip: &Clip) -> Result<()> {
    Video::new(images(&clip.frames)?, FPS)?.write(folder.join("clip.mp4"), &large())?;
    let Some(actor) = scenario.actors.first() else { return Ok(()) };
    let (noun, verb) = (actor.identity.noun(), verb(actor.motion.action));
    let path = folder.join("clip.txt");
    let caption = format!("a {noun} [{verb}] {}", scenario.scene.phrase());
    Ok(write_file(&path, |file| file.write_all(caption.as_bytes()))?)
}

/// Writes where its character is in every frame, as pictures in `folder/clip.masks/`.
///
/// # Errors
/// When a file cannot be written.
pub fn write_masks(folder: &Path, clip: &Clip) -> Result<()> {
    let masks = clip.masks.first().map_or(&[][..], Vec::as_slice).chunks_exact(SIDE * SIDE);
    let grey = |mask: &[u8]| Ok(Image::new(SIDE, SIDE, mask.iter().flat_map(|value| [*value; 3]).collect())?);
    let masks = masks.map(grey).collect::<Result<Vec<_>>>()?;
    Ok(Video::new(masks, FPS)?.write(folder.join("clip.masks/"), &large())?)
}

fn large() -> WriteOptions {
    WriteOptions { upscale: UPSCALE, ..WriteOptions::default() }
}

/// Rendered bytes as pictures.
///
/// # Errors
/// When they are no whole pictures.
pub fn images(frames: &[u8]) -> Result<Vec<Image>> {
    frames.chunks_exact(SIDE * SIDE * 3).map(|rgb| Ok(Image::new(SIDE, SIDE, rgb.to_vec())?)).collect()
}

/// A verb phrase of the world's captions.
pub fn verb(action: Action) -> &'static str {
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
