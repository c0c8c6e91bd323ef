//! Where videos and latents go.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::Result;
use burn::tensor::Tensor;
use understudy_engine::safetensors::{self, NamedValues, Precision};
use understudy_media::{COMMENT, OutputFormat, Provenance, WriteOptions, check_writable};

use super::{LATENTS, values};
use crate::usage::WrongUsage;

/// The files of all videos, in one format.
pub struct Outputs {
    /// Each prompt's.
    pub paths: Vec<PathBuf>,
    /// Their format.
    pub format: OutputFormat,
    /// How they are written.
    pub options: WriteOptions,
    /// Frames a second.
    pub fps: f64,
}

impl Outputs {
    /// That frames of `[height, width]` can be written so.
    ///
    /// # Errors
    /// When the format holds no frames so large.
    pub fn check_size(&self, [height, width]: [usize; 2]) -> Result<()> {
        let (upscale, path) = (self.options.upscale, &self.paths[0]);
        let checked = self.format.check_size(path, width * upscale, height * upscale);
        checked.map_err(|error| WrongUsage(error.to_string()).into())
    }
}

/// Where each of `count` videos goes.
pub fn paths(out: &Path, count: usize) -> Vec<PathBuf> {
    match count {
        1 => vec![out.to_owned()],
        _ => (1..=count).map(|number| numbered(out, number)).collect(),
    }
}

/// That every one of `paths` can be written; what was made before may be kept with `resume`.
///
/// # Errors
/// When one cannot.
pub fn check(paths: &[PathBuf], resume: bool) -> Result<()> {
    let there = |path: &&PathBuf| !resume || Provenance::read(path).is_none();
    for path in paths.iter().filter(there) {
        check_writable(path)?;
    }
    Ok(())
}

/// That the file of a flag can be written and is named as one of tensors.
///
/// # Errors
/// When it is not, or cannot.
pub fn check_tensors(flag: &str, path: &Path) -> Result<()> {
    if OutputFormat::from_path(path).ok() != Some(OutputFormat::Safetensors) {
        let reason = format!("{flag} {}: the name must end in .safetensors", path.display());
        return Err(WrongUsage(reason).into());
    }
    check_writable(path)?;
    Ok(())
}

/// `NAME-3.mp4` of `NAME.mp4`; a name that ends in a slash is a folder's.
fn numbered(path: &Path, number: usize) -> PathBuf {
    let folder = path.to_string_lossy().ends_with(std::path::MAIN_SEPARATOR);
    let own = if folder { path.file_name() } else { path.file_stem() };
    let mut name = own.unwrap_or_default().to_owned();
    name.push(format!("-{number}"));
    match path.extension().filter(|_| !folder) {
        Some(extension) => {
            name.push(".");
            name.push(extension);
        }
        None if folder => name.push("/"),
        None => {}
    }
    path.with_file_name(name)
}

/// The latents of all videos so far, in one file that is whole after each.
pub struct Latents<'a> {
    path: Option<&'a Path>,
    rows: Vec<f32>,
    made: Vec<Provenance>,
}

impl<'a> Latents<'a> {
    /// Those to be kept at `path`, if they are.
    pub fn new(path: Option<&'a Path>) -> Self {
        Self { path, rows: Vec::new(), made: Vec::new() }
    }

    /// Adds those of a video `(1, channels, frames, height, width)`.
    ///
    /// # Errors
    /// When they are not finite or the file cannot be written; what it held before is still there.
    pub fn add(&mut self, latents: &Tensor<5>, made: Provenance) -> Result<()> {
        let Some(path) = self.path else { return Ok(()) };
        let mut shape = latents.dims().to_vec();
        self.rows.extend(values(latents.clone())?);
        self.made.push(made);
        shape[0] = self.made.len();
        let said = match self.made.as_slice() {
            [one] => one.to_text(),
            several => format!("[{}]", several.iter().map(Provenance::to_text).collect::<Vec<_>>().join(",")),
        };
        let latents = NamedValues { name: LATENTS.to_owned(), shape, values: self.rows.clone() };
        let header = BTreeMap::from([(COMMENT.to_owned(), said)]);
        Ok(safetensors::write(path, &[latents], header, Precision::F32)?)
    }
}
