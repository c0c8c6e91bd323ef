//! The networks that judge, as `--clip`, `--dino` and `--identity` name them; `nano`'s where nothing is
//! named.

use std::path::Path;

use anyhow::{Context as _, Result, bail};
use burn::tensor::Device;
use understudy_evaluate::{
    ClipJudge, DinoJudge, Embedder, I3dJudge, IdentityJudge, MarkingsJudge, MotionJudge, VideoEmbedder,
};
use understudy_pipeline::Files;

use crate::base::nano;

/// The CLIP of `--clip`.
///
/// # Errors
/// When it cannot be read.
pub fn clip(path: Option<&Path>, device: &Device) -> Result<ClipJudge> {
    match path {
        Some(path) => ClipJudge::load(&folder("clip", path)?, "", device).context("--clip"),
        None => Ok(ClipJudge::load(&nano()?, "judges/clip", device)?),
    }
}

/// The DINO of `--dino`; in the puppet world the identity encoder stands for it.
///
/// # Errors
/// When it cannot be read.
pub fn dino(path: Option<&Path>, device: &Device) -> Result<Box<dyn Embedder>> {
    match path {
        Some(path) => Ok(Box::new(DinoJudge::load(&folder("dino", path)?, "", device).context("--dino")?)),
        None => identity(None, device),
    }
}

/// The identity encoder of `--identity`.
///
/// # Errors
/// When it cannot be read.
pub fn identity(path: Option<&Path>, device: &Device) -> Result<Box<dyn Embedder>> {
    Ok(Box::new(match path {
        Some(path) => IdentityJudge::open(path, device).context("--identity")?,
        None => IdentityJudge::load(&nano()?, "judges/identity", device)?,
    }))
}

/// `nano`'s judge of motion.
///
/// # Errors
/// When it cannot be read.
pub fn motion(device: &Device) -> Result<MotionJudge> {
    Ok(MotionJudge::load(&nano()?, "judges/motion", device)?)
}

/// `nano`'s judge of markings.
///
/// # Errors
/// When it cannot be read.
pub fn markings(device: &Device) -> Result<MarkingsJudge> {
    Ok(MarkingsJudge::load(&nano()?, "judges/markings", device)?)
}

/// The I3D of `--i3d`, which looks at the first `frames` frames; in the puppet world a CLIP stands for it.
///
/// # Errors
/// When it cannot be read.
pub fn video(path: Option<&Path>, frames: usize, device: &Device) -> Result<Box<dyn VideoEmbedder>> {
    match path {
        Some(path) => Ok(Box::new(I3dJudge::open(path, frames, device).context("--i3d")?)),
        None => Ok(Box::new(clip(None, device)?)),
    }
}

fn folder(flag: &str, path: &Path) -> Result<Files> {
    if path.is_dir() {
        Ok(Files::folder(path))
    } else {
        bail!("--{flag} {}: there is no such folder", path.display())
    }
}
