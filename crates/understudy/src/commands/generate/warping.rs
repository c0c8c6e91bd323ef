//! V-Warper on the command line: its flags, and pictures of what it found.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Result, bail};
use burn::tensor::Tensor;
use clap::Args;
use understudy_media::{ContactSheet, Image, Range, SheetRow, Video, WriteOptions};
use understudy_models::wan_vae::WanVae;
use understudy_personalize::{Adapter, Descriptor, Matches, Replaced, Warp, WarpConfig, WarpJob};
use understudy_pipeline::{Base, Request, decode_video, latent_shape};

use super::made::add;
use super::outputs::check_tensors;
use super::values;

/// Usual settings.
const START: f32 = 0.15;
const END: f32 = 1.0;
const CYCLE: f32 = 0.4;
const FOREGROUND: f32 = 0.2;
const MIX: f32 = 0.8;

/// Whether and how values of the subject's pictures are warped into the video; for adapters of `fit --method v-warper`.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "V-Warper")]
pub struct Warping {
    /// Use the adapter without warping.
    #[arg(long)]
    no_warp: bool,
    /// The block whose queries and keys are matched [0.6 of the depth].
    #[arg(long, value_name = "N")]
    warp_match: Option<usize>,
    /// The first block whose values are warped [that one].
    #[arg(long, value_name = "N")]
    warp_first: Option<usize>,
    /// The block after the last [the depth].
    #[arg(long, value_name = "N")]
    warp_last: Option<usize>,
    /// Where in denoising warping begins, from 0 to 1.
    #[arg(long, value_name = "X", default_value_t = START)]
    warp_start: f32,
    /// Where it ends.
    #[arg(long, value_name = "X", default_value_t = END)]
    warp_end: f32,
    /// How far a match may lead astray on its way back, as a share of the subject's rows.
    #[arg(long, value_name = "X", default_value_t = CYCLE)]
    warp_cycle: f32,
    /// Attention to the subject's words from which on a place shows it, from 0 to 1.
    #[arg(long, value_name = "X", default_value_t = FOREGROUND)]
    warp_foreground: f32,
    /// How much of a value is replaced, from 0 to 1.
    #[arg(long, value_name = "X", default_value_t = MIX)]
    warp_mix: f32,
    /// What places are compared by: qk, qk-rotated (after the rotary embedding), hidden.
    #[arg(long, value_name = "NAME", default_value = "qk", value_parser = descriptor)]
    warp_by: Descriptor,
    /// What is replaced: values, keys-values.
    #[arg(long, value_name = "NAME", default_value = "values", value_parser = replaced)]
    warp_what: Replaced,
    /// Keep what the references show at every step in this file, for other seeds and prompts.
    ///
    /// That saves their way through the denoiser. On a large base it takes gigabytes.
    #[arg(long, value_name = "FILE.safetensors")]
    warp_cache: Option<PathBuf>,
    /// Write pictures of what was matched.
    ///
    /// They show the references, the frames, the references' parts in their places, and the masks of the subject, of matches
    /// that lead back, and of what was used.
    #[arg(long, value_name = "DIR")]
    show_matches: Option<PathBuf>,
}

impl Warping {
    fn config(&self, depth: usize) -> WarpConfig {
        let usual = WarpConfig::for_depth(depth);
        let match_block = self.warp_match.unwrap_or(usual.match_block);
        let first = self.warp_first.unwrap_or(usual.blocks[0].max(match_block));
        WarpConfig {
            match_block,
            blocks: [first, self.warp_last.unwrap_or(usual.blocks[1].max(first + 1))],
            window: understudy_engine::attach::Window { start: self.warp_start, end: self.warp_end },
            cycle: self.warp_cycle,
            foreground: self.warp_foreground,
            mix: self.warp_mix,
            descriptor: self.warp_by,
            replaced: self.warp_what,
        }
    }

    /// The folder for pictures of what is matched and the file of what references show, found usable.
    ///
    /// # Errors
    /// When the folder is there already and holds something, or the file cannot be written.
    pub fn check(&self) -> Result<()> {
        if let Some(folder) = &self.show_matches {
            understudy_media::check_writable(folder)?;
        }
        if let Some(path) = &self.warp_cache {
            check_tensors("--warp-cache", path)?;
        }
        Ok(())
    }

    /// What is written, with the flags that say where.
    pub fn written(&self) -> impl Iterator<Item = (&'static str, PathBuf)> {
        let named = [("--warp-cache", &self.warp_cache), ("--show-matches", &self.show_matches)];
        named.into_iter().filter_map(|(flag, path)| Some((flag, path.clone()?)))
    }

    /// How many times as long a step takes beside the references, whose frames go through the denoiser as well.
    pub fn slowdown(&self, adapters: &[(Adapter, f32)], frames: usize, passes: usize) -> f32 {
        let references = adapters.iter().flat_map(|(adapter, _)| &adapter.references);
        let references: usize = references.map(|own| own.latents.dims()[2]).sum();
        if self.no_warp { 1.0 } else { 1.0 + references as f32 / (frames * passes).max(1) as f32 }
    }

    /// That each of `prompts` names the subject whose pictures are warped, if there is one.
    ///
    /// # Errors
    /// When one does not, or as [`Warping::attach`].
    pub fn check_prompts(&self, base: &Base, adapters: &[(Adapter, f32)], request: &Request) -> Result<()> {
        self.with_job(base, adapters, request, |job| Ok(job.check_prompts()?)).map(drop)
    }

    /// Attaches the warp of the adapter that has pictures to `request`, if there is one.
    ///
    /// # Errors
    /// When a setting is out of its range, two adapters have pictures, the size is not that of the pictures, or a prompt
    /// does not name the subject.
    pub fn attach(
        &self,
        base: &Base,
        adapters: &[(Adapter, f32)],
        request: &mut Request,
    ) -> Result<Option<Arc<Warp>>> {
        let config = self.config(base.transformer.depth());
        let Some(warp) = self.with_job(base, adapters, request, |job| Ok(Warp::new(job, config)?))? else {
            return Ok(None);
        };
        warp.attach(&mut request.attachments);
        request.companions.push(warp.clone());
        Ok(Some(warp))
    }

    /// What `work` makes of the warp that `request` asks for, if it does.
    fn with_job<T>(
        &self,
        base: &Base,
        adapters: &[(Adapter, f32)],
        request: &Request,
        work: impl FnOnce(&WarpJob) -> Result<T>,
    ) -> Result<Option<T>> {
        let mut own =
            adapters.iter().map(|(adapter, _)| adapter).filter(|adapter| !adapter.references.is_empty());
        let adapter = match (own.next(), own.next()) {
            (Some(adapter), None) if !self.no_warp => adapter,
            (Some(_), Some(_)) if !self.no_warp => {
                bail!(
                    "two adapters have pictures to warp, and one subject can be warped at a time; add --no-warp"
                )
            }
            _ => return Ok(None),
        };
        let Some(subject) = &adapter.metadata.subject else {
            bail!(
                "the adapter has pictures to warp and does not say what prompts call its subject; add --no-warp"
            );
        };
        let phrase = format!("{} {}", subject.token, subject.class);
        let [_, frames, rows, columns] =
            latent_shape(&base.config, [request.frames, request.height, request.width])?;
        let job = WarpJob {
            base,
            references: &adapter.references,
            attachments: &request.attachments,
            embeddings: request.token_embeddings.as_ref(),
            phrase: &phrase,
            prompts: &request.prompts,
            latent_size: [frames, rows, columns],
            cache: self.warp_cache.as_deref(),
        };
        work(&job).map(Some)
    }

    /// The flags that say what is not usual.
    pub fn arguments(&self) -> Vec<String> {
        let mut arguments = Vec::new();
        let usual = |value: f32, usual: f32| (value != usual).then(|| value.to_string());
        let number = |value: Option<usize>| value.map(|value| value.to_string());
        let stated = [
            ("--warp-match", number(self.warp_match)),
            ("--warp-first", number(self.warp_first)),
            ("--warp-last", number(self.warp_last)),
            ("--warp-start", usual(self.warp_start, START)),
            ("--warp-end", usual(self.warp_end, END)),
            ("--warp-cycle", usual(self.warp_cycle, CYCLE)),
            ("--warp-foreground", usual(self.warp_foreground, FOREGROUND)),
            ("--warp-mix", usual(self.warp_mix, MIX)),
            ("--warp-by", (self.warp_by != Descriptor::QueryKey).then(|| named(self.warp_by).to_owned())),
            ("--warp-what", (self.warp_what != Replaced::Values).then(|| "keys-values".to_owned())),
        ];
        arguments.extend(self.no_warp.then(|| "--no-warp".to_owned()));
        for (flag, value) in stated {
            value.into_iter().for_each(|value| add(&mut arguments, flag, &value));
        }
        arguments
    }

    /// Writes a picture of what `warp` found in the last step of the video `(1, 3, frames, height, width)` in [0, 1], which is
    /// the one of this index.
    ///
    /// # Errors
    /// When they cannot be written.
    pub fn show(
        &self,
        warp: &Warp,
        vae: &WanVae,
        adapters: &[(Adapter, f32)],
        (video, index): (&Tensor<5>, usize),
    ) -> Result<()> {
        let Some(folder) = &self.show_matches else { return Ok(()) };
        std::fs::create_dir_all(folder)?;
        let references: Vec<Image> = adapters
            .iter()
            .flat_map(|(adapter, _)| &adapter.references)
            .map(|own| Ok(images(decode_video(vae, own.latents.clone().narrow(2, 0, 1), None))?.remove(0)))
            .collect::<Result<_>>()?;
        match warp.matches().first() {
            None => Ok(()),
            Some(matches) => {
                let path = folder.join(format!("{}.png", index + 1));
                sheet(&images(video.clone())?, &references, matches, &path)
            }
        }
    }
}

fn descriptor(text: &str) -> Result<Descriptor, String> {
    match text {
        "qk" => Ok(Descriptor::QueryKey),
        "qk-rotated" => Ok(Descriptor::RotatedQueryKey),
        "hidden" => Ok(Descriptor::Hidden),
        _ => Err("use qk, qk-rotated or hidden".to_owned()),
    }
}

fn named(descriptor: Descriptor) -> &'static str {
    match descriptor {
        Descriptor::QueryKey => "qk",
        Descriptor::RotatedQueryKey => "qk-rotated",
        Descriptor::Hidden => "hidden",
    }
}

fn replaced(text: &str) -> Result<Replaced, String> {
    match text {
        "values" => Ok(Replaced::Values),
        "keys-values" => Ok(Replaced::KeysAndValues),
        _ => Err("use values or keys-values".to_owned()),
    }
}

/// The frames of one video `(1, 3, frames, height, width)` in [0, 1].
fn images(video: Tensor<5>) -> Result<Vec<Image>> {
    let [_, _, frames, height, width] = video.dims();
    Ok(Video::from_planar(&values(video)?, [frames, height, width], 8.0, Range::Unit)?.frames)
}

/// One picture: the references and what of them shows the subject; and of every latent frame its first frame, the same made
/// of the references' parts, and what of it shows the subject, matches that led back, and where these were used.
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
