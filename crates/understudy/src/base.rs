//! Naming a base, and what is usual for it.

use std::convert::Infallible;
use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use anyhow::{Result, bail};
use understudy_pipeline::{Files, Source};

/// A base as the command line names it: `nano`, or a folder.
#[derive(Clone, Debug, PartialEq)]
pub enum BaseName {
    /// The one compiled into the program.
    Nano,
    /// A folder.
    Folder(PathBuf),
}

impl FromStr for BaseName {
    type Err = Infallible;

    fn from_str(text: &str) -> Result<Self, Infallible> {
        Ok(match text {
            "nano" => Self::Nano,
            folder => Self::Folder(folder.into()),
        })
    }
}

impl fmt::Display for BaseName {
    /// As the command line takes it.
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Self::Nano => f.write_str("nano"),
            Self::Folder(folder) => folder.display().fmt(f),
        }
    }
}

impl BaseName {
    /// What to call it.
    pub fn name(&self) -> String {
        match self {
            Self::Nano => "nano".to_owned(),
            Self::Folder(folder) => match folder.file_name() {
                Some(name) => name.to_string_lossy().into_owned(),
                None => folder.display().to_string(),
            },
        }
    }

    /// Its files.
    ///
    /// # Errors
    /// When there is no such folder or it is incomplete, or the program was built without `nano`.
    pub fn source(&self) -> Result<Source> {
        match self {
            Self::Nano => Ok(Source::Files(nano()?)),
            Self::Folder(folder) if folder.is_dir() => Ok(Source::folder(folder)?),
            Self::Folder(folder) => bail!(
                "--base {}: no such folder; give a folder in diffusers' layout, that of Wan's original release, or nano",
                folder.display()
            ),
        }
    }

    /// The settings its videos are usually made with.
    pub fn usual(&self) -> Usual {
        match self {
            Self::Nano => Usual { size: [17, 64, 64], steps: 20, guidance: 4.0, fps: 8.0, upscale: 4 },
            Self::Folder(_) => {
                Usual { size: [81, 480, 832], steps: 50, guidance: 5.0, fps: 16.0, upscale: 1 }
            }
        }
    }
}

/// The settings a base's videos are usually made with.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Usual {
    /// Frames, height and width.
    pub size: [usize; 3],
    /// Denoising steps.
    pub steps: usize,
    /// Guidance scale.
    pub guidance: f32,
    /// Frames a second.
    pub fps: f64,
    /// Enlargement of pictures and videos for the eye.
    pub upscale: usize,
}

/// The files of the embedded base and its judges.
///
/// # Errors
/// When the program was built without them.
#[cfg(feature = "nano")]
pub fn nano() -> Result<Files> {
    Ok(Files::Embedded { name: understudy_nano::NAME, files: understudy_nano::FILES })
}

/// The files of the embedded base and its judges.
///
/// # Errors
/// When the program was built without them.
#[cfg(not(feature = "nano"))]
pub fn nano() -> Result<Files> {
    bail!("this program was built without nano; build it with `--features nano`, or give --base a folder")
}
