//! Adapter files by what their keys mean, with their numbers untouched: what reading, writing and converting share.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use burn::tensor::Device;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use understudy_engine::encoding::Encoding;
use understudy_engine::safetensors::{Checkpoint, Precision, StoredTensor, write_stored};

use crate::error::{Error, Result, list};
use crate::metadata::{FOLDED, PEFT, PeftScale, to_peft};
use crate::names::{Dialect, Names, Part, key};

/// The metadata that holds the subject tokens' rows `(tokens, dim)`: other programs refuse tensors they do not know,
/// and leave metadata alone.
const ROWS: &str = "understudy.token_embeddings";
/// Where we note how alphas were stored, in dialects that have no scalars.
const SCALARS: &str = "understudy.alphas";
/// Tensors that held them in files of version 0.1.
const ROW_TENSORS: [&str; 2] = ["understudy.token_embeddings", "understudy.lora.token_embeddings"];

/// What the keys of a motion begin with; the site follows.
const MOTION: &str = "understudy.motion.";

/// What to do about keys that are not understood.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unmatched {
    /// They are an error that lists them.
    Refuse,
    /// They are left out, and listed.
    Allow,
}

/// An adapter's tensors by site and part. Alphas are kept apart.
#[derive(Clone, Debug, Default)]
pub(crate) struct AdapterFile {
    pub(crate) parts: BTreeMap<(String, Part), StoredTensor>,
    /// The alphas that the file states, in scalars or in its metadata.
    pub(crate) alphas: BTreeMap<String, Alpha>,
    pub(crate) rows: Option<StoredTensor>,
    /// What a motion adds to the coefficients of the residuals, by site.
    pub(crate) motion: BTreeMap<String, StoredTensor>,
    pub(crate) metadata: BTreeMap<String, String>,
    /// Keys that were left out.
    pub(crate) unmatched: Vec<String>,
    /// The keys of the parts in the file, for errors.
    keys: BTreeMap<(String, Part), String>,
    /// Where it was read from.
    path: Option<PathBuf>,
}

/// An alpha, and how a scalar of it is stored if the file had one.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Alpha {
    pub(crate) value: f32,
    stored: Option<StoredTensor>,
}

impl From<f32> for Alpha {
    fn from(value: f32) -> Self {
        Self { value, stored: None }
    }
}

impl AdapterFile {
    /// One that holds nothing yet but its `metadata`.
    pub(crate) fn new(metadata: BTreeMap<String, String>) -> Self {
        Self { metadata, ..Self::default() }
    }

    /// Reads the file at `path`, of any dialect.
    ///
    /// # Errors
    /// When it cannot be read or holds nothing, a key is not understood (unless that is allowed), a residual lacks a
    /// half, or shapes do not fit each other; all such keys are listed.
    pub(crate) fn read(path: &Path, unmatched: Unmatched) -> Result<Self> {
        let checkpoint = Checkpoint::open(path, &Device::flex())?;
        let fault = |reason: String| Error::Adapter { path: path.to_owned(), reason };
        let mut file = Self { path: Some(path.to_owned()), ..Self::new(checkpoint.metadata().clone()) };
        if let Some(text) = file.metadata.remove(ROWS) {
            file.rows =
                Some(rows_from_text(&text).map_err(|reason| fault(format!("metadata {ROWS}: {reason}")))?);
        }
        let twice = file.sort(&checkpoint)?;
        let halves = file.halves();
        let refused = if unmatched == Unmatched::Refuse { file.unmatched.clone() } else { Vec::new() };
        let faults = [
            (refused, "keys are not understood (--allow-unmatched leaves them out)"),
            (halves, "keys lack the other half of their residual"),
            (twice, "residuals stand twice in the file"),
        ];
        let said = |(names, what): &(Vec<String>, &str)| format!("{} {what}: {}", names.len(), list(names));
        let faults: Vec<String> = faults.iter().filter(|(names, _)| !names.is_empty()).map(said).collect();
        if !faults.is_empty() {
            return Err(fault(faults.join("; ")));
        }
        file.scale().map_err(fault)?;
        if file.parts.is_empty() && file.rows.is_none() {
            return Err(fault("it holds no residual and no token".to_owned()));
        }
        Ok(file)
    }

    /// Puts every tensor in its place; gives the names of those whose place was taken.
    fn sort(&mut self, checkpoint: &Checkpoint) -> Result<Vec<String>> {
        let infos = checkpoint.infos();
        let names = Names::of(infos.iter().map(|info| info.name.as_str()));
        let mut twice = Vec::new();
        for info in infos {
            if ROW_TENSORS.contains(&info.name.as_str()) {
                self.rows = Some(checkpoint.stored(&info.name)?);
                continue;
            }
            if let Some(site) = info.name.strip_prefix(MOTION) {
                self.motion.insert(site.to_owned(), checkpoint.stored(&info.name)?);
                continue;
            }
            let Some((_, site, part)) = names.parse(&info.name) else {
                self.unmatched.push(info.name);
                continue;
            };
            let place = (site.to_owned(), part);
            let tensor = checkpoint.stored(&info.name)?;
            if self.parts.insert(place.clone(), tensor).is_some() {
                twice.push(format!("{} and {}", self.key_of(&place), info.name));
            }
            self.keys.insert(place, info.name);
        }
        Ok(twice)
    }

    /// The key of a part in the file it was read from.
    pub(crate) fn key_of(&self, place: &(String, Part)) -> String {
        self.keys.get(place).cloned().unwrap_or_else(|| format!("of {}", place.0))
    }

    /// Keys of residuals that have only one half.
    fn halves(&self) -> Vec<String> {
        let has = |site: &str, part| self.parts.contains_key(&(site.to_owned(), part));
        let low_rank = |part| matches!(part, Part::Down | Part::Up | Part::UpBias | Part::Alpha);
        let alone = |(site, part): &&(String, Part)| {
            // An alpha beside a dense difference says nothing, and some programs write it.
            let dense = *part == Part::Alpha && has(site, Part::Weight);
            low_rank(*part) && !dense && !(has(site, Part::Down) && has(site, Part::Up))
        };
        self.parts.keys().filter(alone).map(|place| self.key_of(place)).collect()
    }

    /// Takes the alphas from where the file has them: scalars, or the metadata of peft, or our own note of what was
    /// folded into B.
    fn scale(&mut self) -> Result<(), String> {
        let peft = self.metadata.get(PEFT).map(|text| PeftScale::read(text)).transpose()?;
        let folded: BTreeMap<String, f32> = match self.metadata.remove(FOLDED) {
            Some(text) => {
                serde_json::from_str(&text).map_err(|error| format!("metadata {FOLDED}: {error}"))?
            }
            None => BTreeMap::new(),
        };
        let scalars: Option<Scalars> = match self.metadata.remove(SCALARS) {
            Some(text) => {
                serde_json::from_str(&text).map_err(|error| format!("metadata {SCALARS}: {error}"))?
            }
            None => None,
        };
        for site in self.residual_sites() {
            let rank = self.rank(&site)?;
            let alpha = match self.parts.remove(&(site.clone(), Part::Alpha)) {
                Some(stored) => Some(Alpha { value: self.scalar(&site, &stored)?, stored: Some(stored) }),
                None => match folded.get(&site) {
                    Some(&alpha) => {
                        self.multiply_up(&site, rank as f32 / alpha)?;
                        Some(alpha.into())
                    }
                    None => peft.as_ref().and_then(|scale| scale.alpha(&site, rank)).map(Alpha::from),
                },
            };
            let alpha = match &scalars {
                Some(scalars) => scalars.restored(&site, alpha),
                None => alpha,
            };
            if let Some(alpha) = alpha {
                self.alphas.insert(site, alpha);
            }
        }
        self.parts.retain(|(_, part), _| *part != Part::Alpha);
        Ok(())
    }

    /// The sites that have a residual.
    pub(crate) fn residual_sites(&self) -> BTreeSet<String> {
        self.parts.keys().filter(|(_, part)| *part == Part::Down).map(|(site, _)| site.clone()).collect()
    }

    /// The rank of the residual at `site`.
    pub(crate) fn rank(&self, site: &str) -> Result<usize, String> {
        let shape = |part| {
            let tensor = self.parts.get(&(site.to_owned(), part));
            tensor.map(|tensor| tensor.shape.as_slice()).unwrap_or_default()
        };
        let [down, up] = [shape(Part::Down), shape(Part::Up)];
        match (down.first(), up.get(1)) {
            (Some(&a), Some(&b)) if a == b && a > 0 => Ok(a),
            (Some(a), Some(b)) if a != b => Err(format!("{site}: A has rank {a} and B {b}; export it again")),
            _ => Err(format!(
                "{site}: A has shape {down:?} and B {up:?}, not (rank, inputs) and (outputs, rank)"
            )),
        }
    }

    fn scalar(&self, site: &str, stored: &StoredTensor) -> Result<f32, String> {
        let key = self.key_of(&(site.to_owned(), Part::Alpha));
        let values = stored.numbers().map_err(|reason| format!("tensor {key}: {reason}"))?;
        match values[..] {
            [value] => Ok(value),
            _ => Err(format!("tensor {key} has shape {:?}, not a scalar", stored.shape)),
        }
    }

    /// `alpha / rank` of a site; 1 if the file does not say.
    fn scale_of(&self, site: &str) -> Result<f32, String> {
        Ok(match self.alphas.get(site) {
            Some(alpha) => alpha.value / self.rank(site)? as f32,
            None => 1.0,
        })
    }

    fn multiply_up(&mut self, site: &str, factor: f32) -> Result<(), String> {
        if let Some(up) = self.parts.get_mut(&(site.to_owned(), Part::Up)) {
            *up = multiplied(up, factor)?;
        }
        Ok(())
    }

    /// Writes it to `path` in the names of `dialect`, whole or not at all.
    ///
    /// # Errors
    /// When `dialect` has no place for something, and when the file cannot be written; nothing is left behind then.
    pub(crate) fn write(mut self, path: &Path, dialect: Dialect) -> Result<()> {
        // What cannot be written is the fault of what was read.
        let own = self.path.clone().unwrap_or_else(|| path.to_owned());
        let fault = |reason: String| Error::Adapter { path: own.clone(), reason };
        self.metadata.remove(PEFT);
        if matches!(dialect, Dialect::Diffusers | Dialect::DiffSynth)
            && let Some(scalars) = Scalars::of(&self)
        {
            self.metadata.insert(SCALARS.to_owned(), json!(scalars).to_string());
        }
        if !self.motion.is_empty() && dialect != Dialect::ComfyUi {
            return Err(fault(format!(
                "it holds looks and motion apart, which has no keys in {dialect}; convert --part looks or --part all"
            )));
        }
        self.move_biases(dialect).map_err(fault)?;
        match dialect {
            Dialect::ComfyUi => self.put_scalars(),
            Dialect::Kohya => {
                // Its readers take an alpha for granted.
                for site in self.residual_sites() {
                    let rank = self.rank(&site).map_err(fault)?;
                    self.alphas.entry(site).or_insert_with(|| (rank as f32).into());
                }
                self.put_scalars();
            }
            // In a file with both scalars and metadata some readers would scale twice.
            Dialect::Diffusers => self.put_peft().map_err(fault)?,
            Dialect::DiffSynth => self.fold().map_err(fault)?,
        }
        let mut tensors = BTreeMap::new();
        let mut homeless = Vec::new();
        for ((site, part), tensor) in self.parts {
            match key(dialect, &site, part) {
                Some(key) => drop(tensors.insert(key, tensor)),
                None => homeless.push(crate::names::tensor(&site, part)),
            }
        }
        if !homeless.is_empty() {
            return Err(fault(format!(
                "{dialect} has no keys for what is added to {} tensors: {}; use comfyui or kohya",
                homeless.len(),
                list(&homeless)
            )));
        }
        tensors.extend(self.motion.into_iter().map(|(site, own)| (format!("{MOTION}{site}"), own)));
        if let Some(rows) = self.rows {
            self.metadata.insert(ROWS.to_owned(), rows_to_text(&rows).map_err(fault)?);
        }
        Ok(write_stored(path, &tensors, self.metadata)?)
    }

    /// Biases of B are what is added to the bias, divided by the scale; diffusers knows only those, ComfyUI and kohya
    /// only these.
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
        let biases = self.parts.keys().any(|(_, part)| *part == Part::UpBias);
        self.metadata.insert(PEFT.to_owned(), to_peft(&scales, biases).to_string());
        Ok(())
    }

    /// Multiplies every B by its scale, which DiffSynth does not read, and notes what was.
    fn fold(&mut self) -> Result<(), String> {
        let mut folded = Map::new();
        for (site, alpha) in std::mem::take(&mut self.alphas) {
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

/// How the alphas of a file were stored, all alike.
#[derive(Debug, Serialize, Deserialize)]
struct Scalars {
    encoding: String,
    shape: Vec<usize>,
    /// Sites with a residual and without an alpha.
    without: BTreeSet<String>,
}

impl Scalars {
    /// Those of `file`, if it has some and they are alike.
    fn of(file: &AdapterFile) -> Option<Self> {
        let mut stored = file.alphas.values().map(|alpha| alpha.stored.as_ref());
        let StoredTensor { encoding, shape, .. } = stored.next()??;
        let alike = |own: Option<&StoredTensor>| {
            own.is_some_and(|own| own.encoding == *encoding && own.shape == *shape)
        };
        let sites = file.residual_sites();
        let without = sites.into_iter().filter(|site| !file.alphas.contains_key(site)).collect();
        let said = Self { encoding: encoding.name(), shape: shape.clone(), without };
        (stored.all(alike) && said.precision().is_some()).then_some(said)
    }

    fn precision(&self) -> Option<Precision> {
        let all = [Precision::F32, Precision::Bf16, Precision::F16];
        all.into_iter().find(|precision| Encoding::from(*precision).name() == self.encoding)
    }

    /// An alpha as it was.
    fn restored(&self, site: &str, alpha: Option<Alpha>) -> Option<Alpha> {
        let alpha = alpha.filter(|_| !self.without.contains(site))?;
        let one = self.shape.iter().all(|extent| *extent == 1);
        let stored = self.precision().filter(|_| one);
        let stored = stored.map(|precision| StoredTensor::new(&[alpha.value], self.shape.clone(), precision));
        Some(Alpha { value: alpha.value, stored: alpha.stored.or(stored) })
    }
}

/// The tokens' rows as text: one list of numbers a token, which reads back to the last bit.
fn rows_to_text(rows: &StoredTensor) -> Result<String, String> {
    let columns = rows.shape.last().copied().unwrap_or(0).max(1);
    let values = rows.values().map_err(|reason| format!("the tokens' rows: {reason}"))?;
    serde_json::to_string(&values.chunks(columns).collect::<Vec<_>>()).map_err(|error| error.to_string())
}

fn rows_from_text(text: &str) -> Result<StoredTensor, String> {
    let rows: Vec<Vec<f32>> = serde_json::from_str(text).map_err(|error| error.to_string())?;
    let columns = rows.first().map_or(0, Vec::len);
    if columns == 0 || rows.iter().any(|row| row.len() != columns) {
        return Err("the rows are not of one length".to_owned());
    }
    Ok(StoredTensor::new(&rows.concat(), vec![rows.len(), columns], Precision::F32))
}

/// A tensor times a number, as it was stored.
fn multiplied(tensor: &StoredTensor, factor: f32) -> Result<StoredTensor, String> {
    if factor == 1.0 {
        return Ok(tensor.clone());
    }
    let precision = match tensor.encoding {
        Encoding::F32 => Precision::F32,
        Encoding::Bf16 => Precision::Bf16,
        Encoding::F16 => Precision::F16,
        ref other => return Err(format!("type {} cannot be scaled; store it as BF16", other.name())),
    };
    let values: Vec<f32> = tensor.values()?.iter().map(|value| value * factor).collect();
    Ok(StoredTensor::new(&values, tensor.shape.clone(), precision))
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

/// Rewrites the adapter at `from` in the names of `dialect`; gives the keys that were left out.
///
/// Numbers are not touched, so going to another dialect and back gives the tensors of the first file, with two
/// exceptions: DiffSynth reads no scale, so B is multiplied by it (and divided again on the way back, which is exact
/// for powers of two); and a bias difference is divided by the scale for diffusers.
///
/// # Errors
/// When `from` is no adapter, `dialect` has no place for something in it, or `to` cannot be written.
pub fn convert(from: &Path, to: &Path, dialect: Dialect, unmatched: Unmatched) -> Result<Vec<String>> {
    let file = AdapterFile::read(from, unmatched)?;
    let left_out = file.unmatched.clone();
    file.write(to, dialect)?;
    Ok(left_out)
}
