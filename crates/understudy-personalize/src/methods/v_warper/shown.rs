//! Pictures of what was matched.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use burn::tensor::Tensor;
use understudy_engine::host::values;
use understudy_media::{ContactSheet, Image, Range, SheetRow, Video, WriteOptions};
use understudy_pipeline::{Autoencoder, Base, Companion, Moment};

use super::warp::{Matches, Reference, Warp};
use crate::error::{Error, Result};
use crate::method::Applied;

/// A warp beside a generation, and where what it matched is to be shown.
#[derive(Debug)]
pub(super) struct AppliedWarp {
    pub(super) warp: Arc<Warp>,
    pub(super) references: Vec<Reference>,
    pub(super) folder: Option<PathBuf>,
}

impl Companion for AppliedWarp {
    fn step(self: Arc<Self>, base: &Base, moment: Moment) -> Result<(), understudy_pipeline::Error> {
        self.warp.clone().step(base, moment)
    }
}

impl Applied for AppliedWarp {
    /// Keeps what the references showed, and draws what was found in the last step of the video
    /// `(1, 3, frames, height, width)` in [0, 1], if that is to be.
    fn finish(&self, vae: &dyn Autoencoder, frames: &Tensor<5>, index: usize) -> Result<()> {
        self.warp.save()?;
        let Some(folder) = &self.folder else { return Ok(()) };
        let fault = |error| Error::Io { action: "create", path: folder.clone(), error };
        std::fs::create_dir_all(folder).map_err(fault)?;
        let Some(matches) = self.warp.matches().first().cloned() else { return Ok(()) };
        let picture = |own: &Reference| -> Result<Image> {
            let first = vae.decode(own.latents.clone().narrow(2, 0, 1), None);
            Ok(images(first)?.remove(0))
        };
        let references = self.references.iter().map(picture).collect::<Result<Vec<_>>>()?;
        let path = folder.join(format!("{}.png", index + 1));
        sheet(&images(frames.clone())?, &references, &matches, &path)
    }
}

/// The frames of one video `(1, 3, frames, height, width)` in [0, 1].
fn images(video: Tensor<5>) -> Result<Vec<Image>> {
    let [_, _, frames, height, width] = video.dims();
    Ok(Video::from_planar(&values(video), [frames, height, width], 8.0, Range::Unit)?.frames)
}

/// One picture: the references and what of them shows the subject; and of every latent frame its first frame,
/// the same made of the references' parts, and what of it shows the subject, matches that led back, and where
/// these were used.
fn sheet(frames: &[Image], references: &[Image], matches: &Matches, path: &Path) -> Result<()> {
    let [count, rows, columns] = matches.grid;
    let places = rows * columns;
    let each = frames.len().saturating_sub(1) / count.saturating_sub(1).max(1);
    let shown: Vec<(usize, &Image)> = (0..count).filter_map(|i| Some((i, frames.get(i * each)?))).collect();
    let place = |image: &Image, x: usize, y: usize| {
        let [tall, wide] = [image.height / rows, image.width / columns];
        (y / tall).min(rows - 1) * columns + (x / wide).min(columns - 1)
    };
    // What a mask leaves out is dark.
    let masked = |image: &Image, mask: &[bool]| {
        Image::from_fn(image.width, image.height, |x, y| match mask.get(place(image, x, y)) {
            Some(true) => image.pixel(x, y),
            _ => image.pixel(x, y).map(|sample| sample / 4),
        })
    };
    let matched = |(index, frame): &(usize, &Image)| {
        let [tall, wide] = [frame.height / rows, frame.width / columns];
        Image::from_fn(frame.width, frame.height, |x, y| {
            let target = matches.places[index * places + place(frame, x, y)];
            let (reference, at) = (target / places, target % places);
            let (column, row) = (at % columns * wide + x % wide, at / columns * tall + y % tall);
            references[reference].pixel(column.min(frame.width - 1), row.min(frame.height - 1))
        })
    };
    let row = |name: &str, cells: Vec<Image>| {
        cells.into_iter().fold(SheetRow::new(name), |row, cell| row.cell(cell))
    };
    let by = |mask: &[bool]| {
        let own = |(index, frame): &(usize, &Image)| masked(frame, mask.get(index * places..).unwrap_or(&[]));
        shown.iter().map(own).collect::<Vec<_>>()
    };
    let subject =
        |(index, own): (usize, &Image)| masked(own, matches.references.get(index * places..).unwrap_or(&[]));
    let rows = vec![
        row("references", references.to_vec()),
        row("subject there", references.iter().enumerate().map(subject).collect()),
        row("video", shown.iter().map(|(_, frame)| (*frame).clone()).collect()),
        row("matched", shown.iter().map(matched).collect()),
        row("subject here", by(&matches.shown)),
        row("leads back", by(&matches.back)),
        row("used", by(&matches.used)),
    ];
    let scale = (192 / frames.first().map_or(192, |frame| frame.width).max(1)).max(1);
    let sheet = ContactSheet { rows, scale, ..ContactSheet::default() };
    Ok(Video::new(vec![sheet.render()?], 1.0)?.write(path, &WriteOptions::default())?)
}
