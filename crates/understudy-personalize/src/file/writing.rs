//! Adapter files in the names of any dialect.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use serde_json::{Map, Value, json};
use understudy_engine::encoding::Encoding;
use understudy_engine::safetensors::{Precision, StoredTensor, write_stored};

use super::scalars::Scalars;
use super::{AdapterFile, MOTION, ROWS, SCALARS, Unmatched, is_zero, multiplied};
use crate::error::{Error, Result, list};
use crate::metadata::{FOLDED, PEFT, to_peft};
use crate::methods::v_warper::references::REFERENCES;
use crate::names::{self, Dialect, Part, key};

impl AdapterFile {
    /// Writes it to `path` in the names of `dialect`, whole or not at all; gives what is to be said of it.
    ///
    /// # Errors
    /// When `dialect` has no place for something, and when the file cannot be written; nothing is left behind
    /// then.
    pub(crate) fn write(mut self, path: &Path, dialect: Dialect) -> Result<Vec<String>> {
        // What cannot be written is the fault of what was read.
        let own = self.path.clone().unwrap_or_else(|| path.to_owned());
        let fault = |reason: String| Error::NoNames { path: own.clone(), dialect, reason };
        self.metadata.remove(PEFT);
        if matches!(dialect, Dialect::Diffusers | Dialect::DiffSynth)
            && let Some(scalars) = Scalars::of(&self)
        {
            self.metadata.insert(SCALARS.to_owned(), json!(scalars).to_string());
        }
        if !self.motion.is_empty() && dialect != Dialect::ComfyUi {
            return Err(fault(format!(
                "it is an adapter that holds a subject's looks and its motion apart, which only {} has keys for; convert \
                 --part looks writes the looks alone, --part all both as one",
                Dialect::ComfyUi
            )));
        }
        self.drop_zeros(dialect);
        self.move_biases(dialect).map_err(fault)?;
        self.shape_magnitudes(dialect).map_err(fault)?;
        match dialect {
            Dialect::ComfyUi => self.put_scalars(),
            Dialect::Kohya => {
                // Its readers take an alpha for granted.
                for site in self.scaled_sites() {
                    if let Some(rank) = self.rank_of(&site).map_err(fault)? {
                        self.alphas.entry(site).or_insert_with(|| (rank as f32).into());
                    }
                }
                self.put_scalars();
            }
            // In a file with both scalars and metadata some readers would scale twice.
            Dialect::Diffusers => self.put_peft().map_err(fault)?,
            Dialect::DiffSynth => self.fold().map_err(fault)?,
        }
        let mut tensors = self.keyed(dialect).map_err(fault)?;
        tensors.extend(self.motion.into_iter().map(|(site, own)| (format!("{MOTION}{site}"), own)));
        if let Some(rows) = self.rows {
            self.metadata.insert(ROWS.to_owned(), rows_to_text(&rows).map_err(fault)?);
        }
        write_stored(path, &tensors, self.metadata)?;
        Ok(self.notes)
    }

    /// Its tensors by their keys in `dialect`.
    fn keyed(&mut self, dialect: Dialect) -> Result<BTreeMap<String, StoredTensor>, String> {
        let mut tensors = BTreeMap::new();
        let mut homeless: BTreeMap<&str, BTreeSet<String>> = BTreeMap::new();
        for ((site, part), tensor) in std::mem::take(&mut self.parts) {
            match (key(self.naming(), dialect, &site, part), part) {
                (Some(key), _) => drop(tensors.insert(key, tensor)),
                (None, Part::Product(name)) => {
                    let kind = if name.starts_with("hada") { "LoHa" } else { "LoKr" };
                    homeless.entry(kind).or_default().insert(site);
                }
                (None, Part::Magnitude) => drop(homeless.entry("DoRA").or_default().insert(site)),
                (None, Part::Mid) => drop(homeless.entry("a LoRA with a core").or_default().insert(site)),
                (None, _) => {
                    let name = names::tensor(self.naming(), &site, part);
                    homeless.entry("what is added to tensors").or_default().insert(name);
                }
            }
        }
        let said = |(what, names): (&str, BTreeSet<String>)| {
            format!("{what} ({}: {})", names.len(), list(&names.into_iter().collect::<Vec<_>>()))
        };
        if homeless.is_empty() {
            Ok(tensors)
        } else {
            let said: Vec<String> = homeless.into_iter().map(said).collect();
            Err(format!("{dialect} has no keys for {}; use comfyui or kohya", said.join(" and ")))
        }
    }

    /// Leaves out differences of zeros that `dialect` has no keys for: extracted adapters are full of them.
    fn drop_zeros(&mut self, dialect: Dialect) {
        let is_difference =
            |part: Part| matches!(part, Part::Weight | Part::Bias | Part::Modulation | Part::UpBias);
        let (before, naming) = (self.parts.len(), self.naming());
        self.parts.retain(|(site, part), tensor| {
            !is_difference(*part) || key(naming, dialect, site, *part).is_some() || !is_zero(tensor)
        });
        let dropped = before - self.parts.len();
        if dropped > 0 {
            self.notes.push(format!(
                "{dropped} differences of zeros, which {dialect} has no keys for, are left out"
            ));
        }
    }

    /// Gives DoRA's magnitudes the shape that readers of `dialect` expect.
    fn shape_magnitudes(&mut self, dialect: Dialect) -> Result<(), String> {
        let sites = self.residual_sites();
        let decomposed = |site: &String| self.has(site, Part::Magnitude);
        if dialect == Dialect::Diffusers && sites.iter().any(decomposed) && !sites.iter().all(decomposed) {
            return Err("some of its residuals have DoRA's magnitudes and some do not, which has no keys in diffusers; use comfyui or kohya".to_owned());
        }
        for site in self.changed_sites() {
            let Some(magnitude) = self.parts.get(&(site.clone(), Part::Magnitude)) else { continue };
            let (rows, count) = (magnitude.shape.first().copied(), magnitude.shape.iter().product::<usize>());
            let of_outputs = rows == Some(count);
            let around =
                self.parts.iter().filter(|((own, part), _)| *own == site && *part != Part::Magnitude);
            let extents = around.map(|(_, tensor)| tensor.shape.len()).max().unwrap_or(2);
            let kernel = vec![1; extents.saturating_sub(2)];
            let shape = match (dialect, of_outputs, extents > 2) {
                (Dialect::Diffusers, false, _) => {
                    return Err(format!(
                        "{site} has DoRA's magnitudes by inputs, which has no keys in diffusers; use comfyui or kohya"
                    ));
                }
                (Dialect::Diffusers, true, true) => [vec![1, count], kernel].concat(),
                (Dialect::Diffusers, true, false) => vec![count],
                (_, true, true) => [vec![count, 1], kernel].concat(),
                _ => continue,
            };
            if let Some(magnitude) = self.parts.get_mut(&(site, Part::Magnitude)) {
                magnitude.shape = shape;
            }
        }
        Ok(())
    }

    /// Biases of B are what is added to the bias, divided by the scale; diffusers knows only those, ComfyUI
    /// and kohya only these.
    fn move_biases(&mut self, dialect: Dialect) -> Result<(), String> {
        let (from, to) = match dialect {
            Dialect::ComfyUi | Dialect::Kohya => (Part::UpBias, Part::Bias),
            Dialect::Diffusers => (Part::Bias, Part::UpBias),
            Dialect::DiffSynth => return Ok(()),
        };
        let sites = self.residual_sites();
        let moved: Vec<String> =
            sites.into_iter().filter(|site| self.parts.contains_key(&(site.clone(), from))).collect();
        for site in moved {
            let scale = self.scale_of(&site)?;
            let factor = if to == Part::Bias { scale } else { scale.recip() };
            let Some(bias) = self.parts.remove(&(site.clone(), from)) else { continue };
            if self.parts.insert((site.clone(), to), multiplied(&bias, factor)?).is_some() {
                return Err(format!("{site} has both a bias of B and a difference of its bias"));
            }
        }
        Ok(())
    }

    fn put_scalars(&mut self) {
        for (site, alpha) in std::mem::take(&mut self.alphas) {
            let down = self.parts.get(&(site.clone(), Part::Down)).map(|down| down.encoding.clone());
            let stored = alpha.stored.unwrap_or_else(|| scalar_like(alpha.value, down));
            self.parts.insert((site, Part::Alpha), stored);
        }
    }

    fn put_peft(&mut self) -> Result<(), String> {
        if self.alphas.is_empty() {
            return Ok(());
        }
        let mut scales = BTreeMap::new();
        for site in self.residual_sites() {
            let rank = self.rank(&site)?;
            let alpha = self.alphas.get(&site).map_or(rank as f32, |alpha| alpha.value);
            scales.insert(site, (rank, alpha));
        }
        let any = |wanted| self.parts.keys().any(|(_, part)| *part == wanted);
        let peft = to_peft(self.naming(), &scales, any(Part::UpBias), any(Part::Magnitude));
        self.metadata.insert(PEFT.to_owned(), peft.to_string());
        Ok(())
    }

    /// Multiplies every B by its scale, which DiffSynth does not read, and notes what was.
    fn fold(&mut self) -> Result<(), String> {
        let mut folded = Map::new();
        for (site, alpha) in std::mem::take(&mut self.alphas) {
            if self.has_product(&site) {
                continue;
            }
            let rank = self.rank(&site)?;
            if alpha.value == 0.0 {
                return Err(format!("{site}: an alpha of 0 cannot be written for DiffSynth"));
            }
            self.multiply_up(&site, alpha.value / rank as f32)?;
            folded.insert(site, json!(alpha.value));
        }
        if !folded.is_empty() {
            self.metadata.insert(FOLDED.to_owned(), Value::Object(folded).to_string());
        }
        Ok(())
    }
}

/// The tokens' rows as text: one list of numbers a token, which reads back to the last bit.
fn rows_to_text(rows: &StoredTensor) -> Result<String, String> {
    let columns = rows.shape.last().copied().unwrap_or(0).max(1);
    let values = rows.values().map_err(|reason| format!("the tokens' rows: {reason}"))?;
    serde_json::to_string(&values.chunks(columns).collect::<Vec<_>>()).map_err(|error| error.to_string())
}

/// A scalar in the type of the tensors around it, if that holds it exactly.
fn scalar_like(value: f32, around: Option<Encoding>) -> StoredTensor {
    let scalar = |precision| StoredTensor::new(&[value], Vec::new(), precision);
    let wanted = match around {
        Some(Encoding::Bf16) => Precision::Bf16,
        Some(Encoding::F16) => Precision::F16,
        _ => Precision::F32,
    };
    let exact = scalar(wanted).values().is_ok_and(|values| values == [value]);
    scalar(if exact { wanted } else { Precision::F32 })
}

/// What is to be said of an adapter that was rewritten.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Converted {
    /// Keys that were left out.
    pub left_out: Vec<String>,
    /// Whatever else the user should know: a scale that is stated and not used, differences of zeros.
    pub notes: Vec<String>,
    /// Whether the file that was written holds pictures of the subject.
    pub pictures: bool,
}

/// Rewrites the adapter at `from` in the names of `dialect`.
///
/// Numbers are not touched, so going to another dialect and back gives the tensors of the first file, with
/// two exceptions: DiffSynth reads no scale, so B is multiplied by it (and divided again on the way back,
/// which is exact for powers of two); and a bias difference is divided by the scale for diffusers.
///
/// # Errors
/// When `from` is no adapter, `dialect` has no place for something in it, or `to` cannot be written.
pub fn convert(from: &Path, to: &Path, dialect: Dialect, unmatched: Unmatched) -> Result<Converted> {
    converted(AdapterFile::read(from, unmatched)?, to, dialect)
}

/// The same without the subject's pictures, which an adapter of V-Warper has in its header.
///
/// # Errors
/// As [`convert`].
pub fn convert_without_pictures(
    from: &Path,
    to: &Path,
    dialect: Dialect,
    unmatched: Unmatched,
) -> Result<Converted> {
    let mut file = AdapterFile::read(from, unmatched)?;
    file.metadata.remove(REFERENCES);
    converted(file, to, dialect)
}

fn converted(file: AdapterFile, to: &Path, dialect: Dialect) -> Result<Converted> {
    let left_out = file.unmatched.clone();
    let pictures = file.metadata.contains_key(REFERENCES);
    let notes = file.write(to, dialect)?;
    Ok(Converted { left_out, notes, pictures })
}
