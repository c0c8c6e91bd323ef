//! Adapter files by what their keys mean, with their numbers untouched: what reading, writing and converting
//! share.

mod scalars;
mod writing;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use burn::tensor::Device;
use understudy_engine::encoding::Encoding;
use understudy_engine::safetensors::{Checkpoint, Precision, StoredTensor};

use understudy_pipeline::{ModuleKind, Naming};
pub use writing::{Converted, convert, convert_without_pictures};

use crate::error::{Error, Result, list};
use crate::kinds;
use crate::metadata::FOLDED;
use crate::names::{self, MAGNITUDES, Names, PRODUCTS, Part, namings, native, split};
use crate::scale::{PEFT_CONFIG, Statements};
use scalars::Scalars;

/// The metadata that holds the subject tokens' rows `(tokens, dim)`: other programs refuse tensors they do
/// not know, and leave metadata alone.
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
    /// Where the scales are stated, and for how many sites.
    pub(crate) sources: BTreeMap<String, usize>,
    /// What is to be said of it.
    pub(crate) notes: Vec<String>,
    /// The keys of the parts in the file, for errors.
    keys: BTreeMap<(String, Part), String>,
    /// Where it was read from.
    path: Option<PathBuf>,
    /// What its family calls modules.
    pub(crate) naming: Option<&'static Naming>,
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
    /// What its family calls modules; that of the first family where nothing tells.
    pub(crate) fn naming(&self) -> &'static Naming {
        self.naming.unwrap_or_else(names::usual)
    }

    /// One that holds nothing yet but its `metadata`.
    pub(crate) fn new(metadata: BTreeMap<String, String>) -> Self {
        Self { metadata, ..Self::default() }
    }

    /// Reads the file at `path`, of any dialect of whatever family.
    ///
    /// # Errors
    /// As [`AdapterFile::read_among`].
    pub(crate) fn read(path: &Path, unmatched: Unmatched) -> Result<Self> {
        Self::read_among(&namings(), path, unmatched)
    }

    /// Reads the file at `path`, of any dialect of a family that calls modules in one of these ways.
    ///
    /// # Errors
    /// When it cannot be read or holds nothing, a key is not understood (unless that is allowed), a residual
    /// lacks a half, or shapes do not fit each other; all such keys are listed.
    pub(crate) fn read_among(namings: &[&'static Naming], path: &Path, unmatched: Unmatched) -> Result<Self> {
        let path = &file_of(path)?;
        let checkpoint = Checkpoint::open(path, &Device::flex())?;
        let fault = |reason: String| Error::Adapter { path: path.to_owned(), reason };
        let mut file = Self { path: Some(path.to_owned()), ..Self::new(checkpoint.metadata().clone()) };
        if let Some(text) = file.metadata.remove(ROWS) {
            file.rows =
                Some(rows_from_text(&text).map_err(|reason| fault(format!("metadata {ROWS}: {reason}")))?);
        }
        if let Some(whole) = kinds::whole(&checkpoint) {
            return Err(fault(whole));
        }
        let infos = checkpoint.infos();
        let names = Names::among(namings, infos.iter().map(|info| info.name.as_str()));
        file.naming = Some(names.naming());
        let twice = file.sort(&checkpoint, &names)?;
        let halves = [
            (file.halves(), "keys lack the other half of their residual"),
            (twice, "residuals stand twice in the file"),
        ];
        let said = |(names, what): &(Vec<String>, &str)| format!("{} {what}: {}", names.len(), list(names));
        let others = !file.parts.is_empty() || file.rows.is_some();
        let mut faults: Vec<String> = match unmatched {
            Unmatched::Refuse => kinds::explain(&names, &file.unmatched, others),
            Unmatched::Allow => Vec::new(),
        };
        faults.extend(halves.iter().filter(|(names, _)| !names.is_empty()).map(said));
        if !faults.is_empty() {
            return Err(fault(faults.join("; ")));
        }
        file.scale().map_err(fault)?;
        file.notes.extend(kinds::made_for(names.naming(), path, &file.metadata));
        if file.parts.is_empty() && file.rows.is_none() {
            let strange = kinds::explain(&names, &file.unmatched, false).join("; ");
            let strange = if strange.is_empty() { strange } else { format!(": {strange}") };
            return Err(fault(format!("it holds no residual and no token{strange}")));
        }
        Ok(file)
    }

    /// Puts every tensor in its place; gives the names of those whose place was taken.
    fn sort(&mut self, checkpoint: &Checkpoint, names: &Names) -> Result<Vec<String>> {
        let mut twice = Vec::new();
        for info in checkpoint.infos() {
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
            let mut tensor = checkpoint.stored(&info.name)?;
            if part == Part::Magnitude && info.name.contains(MAGNITUDES) {
                // peft's are of outputs, whatever dimensions they have.
                tensor.shape = vec![tensor.shape.iter().product(), 1];
            }
            if matches!(part, Part::Down | Part::Up | Part::Product(_)) {
                tensor.shape = as_map(names.naming().kind(site), tensor.shape);
            }
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

    /// Whether there is such a part of a site.
    pub(crate) fn has(&self, site: &str, part: Part) -> bool {
        self.parts.contains_key(&(site.to_owned(), part))
    }

    fn has_product(&self, site: &str) -> bool {
        PRODUCTS.iter().any(|&name| self.has(site, Part::Product(name)))
    }

    /// Whether a site has all tensors of one kind, and none of another.
    fn is_whole(&self, site: &str) -> bool {
        let products = |names: &[&'static str]| names.iter().all(|&name| self.has(site, Part::Product(name)));
        let any = |begin: &str| {
            PRODUCTS.iter().any(|&name| name.starts_with(begin) && self.has(site, Part::Product(name)))
        };
        let residual = [Part::Down, Part::Up].map(|part| self.has(site, part));
        match (any("hada"), any("lokr"), residual[0] || residual[1]) {
            (false, false, true) => residual[0] && residual[1],
            (true, false, false) => {
                products(&["hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b"]) && self.is_paired(site)
            }
            (false, true, false) => {
                products(&["lokr_w1"]) != products(&["lokr_w1_a", "lokr_w1_b"])
                    && products(&["lokr_w2"]) != products(&["lokr_w2_a", "lokr_w2_b"])
            }
            _ => false,
        }
    }

    /// Whether both products of a LoHa have a core, or neither has.
    fn is_paired(&self, site: &str) -> bool {
        self.has(site, Part::Product("hada_t1")) == self.has(site, Part::Product("hada_t2"))
    }

    /// Keys of what acts on a site together with others, which are not all there.
    fn halves(&self) -> Vec<String> {
        let alone = |(site, part): &&(String, Part)| {
            // An alpha beside a dense difference says nothing, and some programs write it.
            let dense = *part == Part::Alpha && self.has(site, Part::Weight);
            let whole = matches!(part, Part::Weight | Part::Bias | Part::Modulation);
            let kernel = *part == Part::Mid && !self.has(site, Part::Down);
            kernel || !whole && !dense && !self.is_whole(site)
        };
        self.parts.keys().filter(alone).map(|place| self.key_of(place)).collect()
    }

    /// Takes the alphas from where the file has them: scalars, our own note of what was folded into B, or
    /// what the header and peft's configuration state (see [`Statements`]).
    fn scale(&mut self) -> Result<(), String> {
        let folded: BTreeMap<String, f32> = self.take_note(FOLDED)?.unwrap_or_default();
        let scalars: Option<Scalars> = self.take_note(SCALARS)?;
        let sites = self.scaled_sites();
        let mut stated = Statements::of(self.path.as_deref(), &self.metadata)?;
        if stated.decomposes() && !sites.iter().any(|site| self.has(site, Part::Magnitude)) {
            return Err(
                "its configuration says use_dora, and it has no lora_magnitude_vector: export it again"
                    .to_owned(),
            );
        }
        let open = |site: &&String| !self.has(site, Part::Alpha) && !folded.contains_key(*site);
        if sites.iter().any(|site| open(&site)) {
            let ranks: Result<Vec<_>, String> = sites.iter().map(|site| self.rank_of(site)).collect();
            stated.settle(&ranks?.into_iter().flatten().collect());
        } else {
            stated.all.clear();
        }
        self.notes.append(&mut stated.notes);
        for site in sites {
            let alpha = match self.parts.remove(&(site.clone(), Part::Alpha)) {
                Some(stored) => {
                    self.count_source("its alpha tensors");
                    Some(Alpha { value: self.scalar(&site, &stored)?, stored: Some(stored) })
                }
                None => self.stated_alpha(&site, &folded, &stated)?,
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

    /// The alpha of a site without a scalar.
    fn stated_alpha(
        &mut self,
        site: &str,
        folded: &BTreeMap<String, f32>,
        stated: &Statements,
    ) -> Result<Option<Alpha>, String> {
        let rank = self.rank_of(site)?;
        if let (Some(&alpha), Some(rank)) = (folded.get(site), rank) {
            self.multiply_up(site, rank as f32 / alpha)?;
            self.count_source("the note of what was folded into B");
            return Ok(Some(alpha.into()));
        }
        let key = self
            .keys
            .iter()
            .find(|((own, _), _)| own == site)
            .map(|(_, key)| key.clone())
            .unwrap_or_default();
        let module = split(&key).map_or("", |(module, _)| module);
        let native = native(self.naming(), site);
        let names = [site, native.as_str(), module];
        let Some(rank) = rank else {
            if let Some(factor) = stated.factor_of_full(&names) {
                self.multiply((site.to_owned(), Part::Product("lokr_w1")), factor)?;
                self.count_source(PEFT_CONFIG);
            }
            return Ok(None);
        };
        let found = stated.alpha(&names, rank);
        self.count_source(found.map_or("nothing: it counts as 1", |(_, place)| place));
        Ok(found.map(|(alpha, _)| alpha.into()))
    }

    fn count_source(&mut self, place: &str) {
        *self.sources.entry(place.to_owned()).or_insert(0) += 1;
    }

    fn take_note<T: serde::de::DeserializeOwned>(&mut self, name: &str) -> Result<Option<T>, String> {
        let read =
            |text: String| serde_json::from_str(&text).map_err(|error| format!("metadata {name}: {error}"));
        self.metadata.remove(name).map(read).transpose()
    }

    /// The sites that something with a scale acts on.
    pub(crate) fn scaled_sites(&self) -> BTreeSet<String> {
        let scaled = |(_, part): &&(String, Part)| matches!(part, Part::Down | Part::Product(_));
        self.parts.keys().filter(scaled).map(|(site, _)| site.clone()).collect()
    }

    /// The sites whose weight is changed otherwise than by a residual.
    pub(crate) fn changed_sites(&self) -> BTreeSet<String> {
        let changed = |(_, part): &&(String, Part)| matches!(part, Part::Magnitude | Part::Product(_));
        self.parts.keys().filter(changed).map(|(site, _)| site.clone()).collect()
    }

    /// What the alpha of a site is divided by; `None` for the product of two full matrices, which has no
    /// scale.
    pub(crate) fn rank_of(&self, site: &str) -> Result<Option<usize>, String> {
        if !self.has_product(site) {
            return self.rank(site).map(Some);
        }
        let rank = ["hada_w1_b", "lokr_w2_b", "lokr_w1_b"].into_iter().find_map(|name| {
            let place = (site.to_owned(), Part::Product(name));
            Some((self.parts.get(&place)?.shape.first().copied(), place))
        });
        match rank {
            None => Ok(None),
            Some((Some(rank), _)) if rank > 0 => Ok(Some(rank)),
            Some((_, place)) => Err(format!("tensor {} has no rows", self.key_of(&place))),
        }
    }

    /// The sites that have a low-rank residual, with a magnitude or without.
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
    pub(crate) fn scale_of(&self, site: &str) -> Result<f32, String> {
        Ok(match (self.alphas.get(site), self.rank_of(site)?) {
            (Some(alpha), Some(rank)) => alpha.value / rank as f32,
            _ => 1.0,
        })
    }

    fn multiply_up(&mut self, site: &str, factor: f32) -> Result<(), String> {
        self.multiply((site.to_owned(), Part::Up), factor)
    }

    fn multiply(&mut self, place: (String, Part), factor: f32) -> Result<(), String> {
        if let Some(tensor) = self.parts.get_mut(&place) {
            *tensor = multiplied(tensor, factor)?;
        }
        Ok(())
    }
}

/// The shape of a factor as that of the map it belongs to: some programs have linear maps as convolutions
/// whose kernels are one number, and the patches of pictures without a dimension for frames.
fn as_map(kind: Option<ModuleKind>, mut shape: Vec<usize>) -> Vec<usize> {
    if kind == Some(ModuleKind::Patches) {
        if shape.len() == 4 {
            shape.insert(2, 1);
        }
    } else if kind == Some(ModuleKind::Convolution) {
        // A linear map in place of one of one pixel.
        if shape.len() == 2 {
            shape.extend([1, 1]);
        }
    } else if shape.len() > 2 && shape[2..].iter().all(|extent| *extent == 1) {
        shape.truncate(2);
    }
    shape
}

/// The tokens' rows of text; see [`writing`].
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

/// Whether a tensor holds nothing but zeros.
pub(crate) fn is_zero(tensor: &StoredTensor) -> bool {
    tensor.numbers().is_ok_and(|values| values.iter().all(|&value| value == 0.0))
}

/// The files in `folder` that may hold an adapter.
pub(crate) fn adapters_in(folder: &Path) -> Vec<PathBuf> {
    let Ok(entries) = std::fs::read_dir(folder) else { return Vec::new() };
    let paths = entries.filter_map(|entry| Some(entry.ok()?.path()));
    let weights = |path: &PathBuf| {
        path.is_file()
            && path
                .extension()
                .is_some_and(|end| ["safetensors", "bin", "pt", "pth"].iter().any(|own| end == *own))
    };
    let mut found: Vec<PathBuf> = paths.filter(weights).collect();
    found.sort();
    found
}

/// The file of the adapter that `path` names: itself, or the one in a folder as peft and diffusers save them,
/// which may be named by its configuration.
///
/// # Errors
/// When there is none, or one cannot tell which.
pub fn file_of(path: &Path) -> Result<PathBuf> {
    let named = path.file_name().is_some_and(|name| name == PEFT_CONFIG);
    let folder = if named { path.parent().unwrap_or(Path::new(".")) } else { path };
    if !named && !path.is_dir() {
        return Ok(path.to_owned());
    }
    let found = adapters_in(folder);
    let usual = ["adapter_model.safetensors", "pytorch_lora_weights.safetensors", "adapter_model.bin"];
    let usual = usual.iter().find_map(|name| found.iter().find(|path| path.ends_with(name)));
    let reason = match (usual, &found[..]) {
        (Some(own), _) => return Ok(own.clone()),
        (None, _) if folder.join("model_index.json").is_file() => {
            "it is the folder of a base: give it to --base".to_owned()
        }
        (None, [own]) => return Ok(own.clone()),
        (None, []) => "there is no adapter in this folder; give the file".to_owned(),
        (None, several) => {
            let names =
                several.iter().filter_map(|path| Some(path.file_name()?.to_string_lossy().into_owned()));
            format!(
                "there are several files in this folder: {}; give one of them",
                list(&names.collect::<Vec<_>>())
            )
        }
    };
    Err(Error::Adapter { path: path.to_owned(), reason })
}
