//! Adapters: what a method leaves behind, in memory and as a file.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use burn::tensor::{Device, Tensor, TensorData};
use understudy_engine::attach::{Attached, Attachments, LowRank, Window};
use understudy_engine::host::values;
use understudy_engine::patch::{Addition, Additions, Change};
use understudy_engine::safetensors::{Precision, StoredTensor};
use understudy_pipeline::{Base, Description, ModuleKind, Naming, TokenEmbeddings, network_of};

use crate::change::{self, with_core};
use crate::error::{Error, Result};
use crate::file::{AdapterFile, Unmatched, is_zero};
use crate::metadata::{Metadata, OWN, VERSION};
use crate::methods::v_warper::Reference;
use crate::methods::v_warper::references::{self, REFERENCES};
use crate::names::{self, Dialect, Part};
use crate::stages::settings::Basis;

/// A low-rank residual: adds `alpha / rank * x A^T B^T` to a linear map.
#[derive(Clone, Debug)]
pub struct Residual {
    /// A, `(rank, inputs)`.
    pub down: Tensor<2>,
    /// B, `(outputs, rank)`.
    pub up: Tensor<2>,
    /// Its scale, times the rank.
    pub alpha: f32,
    /// Frames, rows and columns of the kernel, where A is a convolution.
    pub kernel: Option<[usize; 3]>,
}

impl Residual {
    /// Its rank.
    pub fn rank(&self) -> usize {
        self.down.dims()[0]
    }

    /// The shapes of A and B in a file, at a module of this kind.
    fn shapes(&self, kind: Option<ModuleKind>) -> [Vec<usize>; 2] {
        let [[rank, inputs], [outputs, _]] = [self.down.dims(), self.up.dims()];
        match self.kernel {
            kernel if kind == Some(ModuleKind::Convolution) => {
                let [_, rows, columns] = kernel.unwrap_or([1; 3]);
                let channels = inputs / (rows * columns).max(1);
                [vec![rank, channels, rows, columns], vec![outputs, rank, 1, 1]]
            }
            None => [vec![rank, inputs], vec![outputs, rank]],
            Some([frames, rows, columns]) => {
                let channels = inputs / (frames * rows * columns).max(1);
                [vec![rank, channels, frames, rows, columns], vec![outputs, rank, 1, 1, 1]]
            }
        }
    }

    pub(crate) fn read(file: &AdapterFile, site: &str, device: &Device) -> Result<Self, String> {
        let rank = file.rank(site)?;
        let part = |part| file.parts.get(&(site.to_owned(), part));
        let (shape, core) = (part(Part::Down).map(|down| down.shape.as_slice()), part(Part::Mid));
        let kernel = match core.map(|core| core.shape.as_slice()).or(shape) {
            Some(&[_, _, frames, rows, columns]) => Some([frames, rows, columns]),
            Some(&[_, _, rows, columns]) => Some([1, rows, columns]),
            _ => None,
        };
        // A convolution of one pixel is a linear map.
        let kernel = kernel.filter(|kernel| *kernel != [1; 3]);
        let [up, down] = [Part::Up, Part::Down].map(|part| matrix(file, site, part, device));
        let (up, mut down) = (up?, down?);
        if let Some(core) = core {
            let key = file.key_of(&(site.to_owned(), Part::Mid));
            let misfit =
                || format!("tensor {key} has shape {:?}, which does not fit rank {rank}", core.shape);
            down = with_core(down, &numbers(&key, core)?, &core.shape).ok_or_else(misfit)?;
        }
        if up.dims()[1] != down.dims()[0] {
            return Err(format!("{site}: B has {} columns for the rank {rank}", up.dims()[1]));
        }
        let alpha = file.alphas.get(site).map_or(rank as f32, |alpha| alpha.value);
        Ok(Self { down, up, alpha, kernel })
    }

    /// Whether it adds nothing.
    pub(crate) fn is_zero(&self) -> bool {
        let zero = |half: &Tensor<2>| values(half.clone()).iter().all(|&value| value == 0.0);
        zero(&self.up) || zero(&self.down)
    }
}

/// What a method leaves behind.
#[derive(Clone, Debug, Default)]
pub struct Adapter {
    /// What it says of itself.
    pub metadata: Metadata,
    /// Residuals by site.
    pub residuals: BTreeMap<String, Residual>,
    /// What a motion adds to the coefficients of the residuals, by site; see [`Metadata::motion`].
    pub motion: BTreeMap<String, Tensor<2>>,
    /// Pictures of the subject, whose values can be warped into videos of it.
    pub references: Vec<Reference>,
    /// What is made of the weights at sites otherwise than by a residual, and so when they are loaded: LoHa,
    /// LoKr, DoRA.
    pub changes: BTreeMap<String, Change>,
    /// Numbers that are added to the denoiser's own tensors, by their names: what cannot be attached.
    pub differences: BTreeMap<String, Vec<f32>>,
    /// Rows `(tokens, dim)` of the text encoder's embedding, for [`Metadata::tokens`].
    pub token_rows: Option<Tensor<2>>,
    /// What its family calls modules, where that is known.
    pub naming: Option<&'static Naming>,
}

/// An adapter that was read, and what is to be said of its file.
#[derive(Clone, Debug)]
pub struct Opened {
    /// The adapter.
    pub adapter: Adapter,
    /// Keys that were left out.
    pub left_out: Vec<String>,
    /// What the user should know: a scale that is stated and not used, a base with other weights.
    pub notes: Vec<String>,
    /// Where the scales are stated, and for how many sites.
    pub scales: BTreeMap<String, usize>,
}

impl Adapter {
    /// Reads an adapter file of any dialect and checks that it fits `base`.
    ///
    /// # Errors
    /// As [`Adapter::open`] and [`Adapter::check`].
    pub fn load(path: &Path, base: &Base) -> Result<Self> {
        let namings = names::namings_from(base.about.naming);
        let file = AdapterFile::read_among(&namings, path, Unmatched::Refuse)?;
        let adapter = Self::read(file, path, &base.device)?.adapter;
        adapter.check_named(&base.about, &path.display().to_string())?;
        Ok(adapter)
    }

    /// Reads an adapter file of any dialect, not knowing its base.
    ///
    /// # Errors
    /// When the file cannot be read, a key is not understood, a residual lacks a half, shapes do not fit each
    /// other, or values are not finite; all such keys are listed.
    pub fn open(path: &Path, device: &Device) -> Result<Self> {
        Ok(Self::open_with(path, device, Unmatched::Refuse)?.adapter)
    }

    /// The same with a say in what happens to keys that are not understood. `path` may be a folder that peft
    /// or diffusers saved an adapter in.
    ///
    /// # Errors
    /// As [`Adapter::open`].
    pub fn open_with(path: &Path, device: &Device, unmatched: Unmatched) -> Result<Opened> {
        Self::read(AdapterFile::read(path, unmatched)?, path, device)
    }

    fn read(file: AdapterFile, path: &Path, device: &Device) -> Result<Opened> {
        let adapter = Self::from_file(&file, device)
            .map_err(|reason| Error::Adapter { path: path.to_owned(), reason })?;
        Ok(Opened { adapter, left_out: file.unmatched, notes: file.notes, scales: file.sources })
    }

    fn from_file(file: &AdapterFile, device: &Device) -> Result<Self, String> {
        let own = file.metadata.get(OWN).map(|text| read_metadata(text)).transpose()?;
        let changed = file.changed_sites();
        let changes = changed.iter().map(|site| Ok((site.clone(), change::read(file, site, device)?)));
        let changes = changes.collect::<Result<BTreeMap<_, _>, String>>()?;
        let residuals =
            file.residual_sites().into_iter().filter(|site| !changed.contains(site)).map(|site| {
                let residual = Residual::read(file, &site, device)?;
                Ok((site, residual))
            });
        let residuals = residuals.collect::<Result<BTreeMap<_, _>, String>>()?;
        let differences = differences(file)?;
        let token_rows = match &file.rows {
            None => None,
            Some(rows) => match rows.shape[..] {
                [tokens, dim] if tokens > 0 && dim > 0 => {
                    let data = TensorData::new(numbers("of the tokens", rows)?, [tokens, dim]);
                    Some(Tensor::from_data(data, device))
                }
                _ => return Err(format!("the tokens' rows have shape {:?}", rows.shape)),
            },
        };
        let foreign =
            || Metadata { created_with: "another program".to_owned(), ..Metadata::new("lora", &residuals) };
        // Whoever edits a file elsewhere leaves this as it was.
        let sites = residuals.len() + changes.len();
        let metadata = Metadata { sites, ..own.unwrap_or_else(foreign) };
        let [rows, tokens] = [token_rows.as_ref().map_or(0, |rows| rows.dims()[0]), metadata.tokens.len()];
        if rows != tokens {
            return Err(format!("it has {rows} token rows for {tokens} tokens; export it again"));
        }
        let motion = motion(file, &metadata, &residuals, device)?;
        let references = file.metadata.get(REFERENCES).map(|text| references::from_text(text, device));
        let references = references.transpose()?.unwrap_or_default();
        let naming = Some(file.naming());
        Ok(Self { metadata, residuals, motion, references, changes, differences, token_rows, naming })
    }

    /// What its family calls modules; that of the first family where nothing tells.
    pub(crate) fn naming(&self) -> &'static Naming {
        self.naming.unwrap_or_else(names::usual)
    }

    /// Bytes its numbers take in memory.
    pub fn bytes(&self) -> u64 {
        let residual = |residual: &Residual| {
            residual.down.dims().iter().product::<usize>() + residual.up.dims().iter().product::<usize>()
        };
        let residuals: usize = self.residuals.values().map(residual).sum();
        let differences: usize = self.differences.values().map(Vec::len).sum();
        let changes: usize = self.changes.values().map(Change::numbers).sum();
        (size_of::<f32>() * (residuals + changes + differences)) as u64
    }

    /// How many maps it changes in each way: `LoRA`, `DoRA`, `LoHa`, `LoKr`.
    pub fn kinds(&self) -> BTreeMap<&'static str, usize> {
        let mut kinds = BTreeMap::new();
        if !self.residuals.is_empty() {
            kinds.insert("LoRA", self.residuals.len());
        }
        for change in self.changes.values() {
            *kinds.entry(change::name(change)).or_insert(0) += 1;
        }
        kinds
    }

    /// The same with its looks and its motion weighed apart: residuals alone, with `identity` times their
    /// coefficients and `motion` times those of the motion. At 1 and 0 they are those of the looks, bit for
    /// bit.
    pub fn weighed(&self, identity: f32, motion: f32) -> Self {
        let mut weighed = Self { motion: BTreeMap::new(), ..self.clone() };
        let basis = weighed.metadata.motion.take().map_or(Basis::Input, |own| own.basis);
        for (site, residual) in &mut weighed.residuals {
            let coefficients = match basis {
                Basis::Input => &mut residual.up,
                Basis::Output => &mut residual.down,
            };
            if identity != 1.0 {
                *coefficients = coefficients.clone() * identity;
            }
            if let (Some(own), true) = (self.motion.get(site), motion != 0.0) {
                *coefficients = coefficients.clone() + own.clone() * motion;
            }
        }
        weighed
    }

    /// Whether each of its tokens stands for a motion: those of the subjects come first.
    fn tokens_of_motions(&self) -> impl Iterator<Item = (&String, bool)> {
        let subjects = 1 + self.metadata.others.len();
        self.metadata.tokens.iter().enumerate().map(move |(at, token)| (token, at >= subjects))
    }

    /// Its tokens that stand for a part, the looks or the motion, that has a scale of 0.
    pub fn idle_tokens(&self, [identity, motion]: [f32; 2]) -> Vec<String> {
        let idle = |(token, moves): (&String, bool)| {
            (if moves { motion } else { identity } == 0.0).then(|| token.clone())
        };
        self.tokens_of_motions().filter_map(idle).collect()
    }

    /// The same without its rows for `tokens`, which prompts then name something else by, or nothing.
    pub fn without_tokens(&self, tokens: &[String]) -> Self {
        let kept: Vec<i32> = (0_i32..)
            .zip(&self.metadata.tokens)
            .filter_map(|(at, token)| (!tokens.contains(token)).then_some(at))
            .collect();
        let mut left = self.clone();
        left.metadata.tokens.retain(|token| !tokens.contains(token));
        left.token_rows = self.token_rows.clone().filter(|_| !kept.is_empty()).map(|rows| {
            let kept = Tensor::from_data(TensorData::new(kept.clone(), [kept.len()]), &rows.device());
            rows.select(0, kept)
        });
        left
    }

    /// Its residuals, scaled by `weight`; looks and motion together. A residual that would add nothing is
    /// left out, so that a network it is attached to computes exactly what it would without.
    pub fn attachments(&self, weight: f32) -> Attachments {
        if !self.motion.is_empty() {
            return self.weighed(1.0, 1.0).attachments(weight);
        }
        self.of_network(weight, None)
    }

    /// The same of one network, the denoiser where it is none in particular.
    fn of_network(&self, weight: f32, network: Option<&str>) -> Attachments {
        let mut attachments = Attachments::none();
        for (site, residual) in &self.residuals {
            let (own, path) = network_of(site);
            if own != network || weight == 0.0 || residual.alpha == 0.0 || residual.is_zero() {
                continue;
            }
            attachments.add_low_rank(path, self.low_rank(residual, weight));
        }
        attachments
    }

    /// Its residuals by network, scaled by `weight`, for a base whose denoiser is called so.
    pub fn attached(&self, weight: f32, denoiser: &str) -> Attached {
        let mut attached = Attached::one(denoiser, self.attachments(weight));
        let networks: BTreeSet<&str> = self.residuals.keys().filter_map(|site| network_of(site).0).collect();
        for network in networks {
            attached.add(network, self.of_network(weight, Some(network)));
        }
        attached
    }

    fn low_rank(&self, residual: &Residual, weight: f32) -> LowRank {
        LowRank {
            down: residual.down.clone(),
            up: residual.up.clone(),
            scale: weight * residual.alpha / residual.rank() as f32,
            window: self.metadata.window,
        }
    }

    /// What it adds to the denoiser's tensors, scaled by `weight`: its dense differences, what it makes of
    /// weights otherwise than by residuals and, if they are to be `merged` instead of attached, its
    /// residuals.
    ///
    /// # Errors
    /// When it is active in a part of denoising only, and residuals are to be merged or weights are changed.
    pub fn additions(&self, weight: f32, merged: bool) -> Result<Additions> {
        if !self.motion.is_empty() {
            return self.weighed(1.0, 1.0).additions(weight, merged);
        }
        let mut additions = Additions::default();
        for (tensor, values) in &self.differences {
            additions.add(tensor, Addition::Dense { values: values.clone(), scale: weight });
        }
        let Window { start, end } = self.metadata.window;
        if self.metadata.window != Window::ALWAYS && (merged || !self.changes.is_empty()) {
            let part = format!("an adapter that is active from {start} to {end} of denoising cannot");
            return Err(if self.changes.is_empty() {
                Error::config("merge", format!("{part} be merged; attach it"))
            } else {
                Error::config("adapter", format!("{part} change weights (DoRA, LoHa, LoKr); use a LoRA"))
            });
        }
        // A weight of 0 leaves every bit as it is.
        for (site, change) in self.changes.iter().filter(|_| weight != 0.0) {
            let change = Addition::Change { change: Box::new(change.clone()), strength: weight };
            additions.add(names::tensor(self.naming(), site, Part::Weight), change);
        }
        for (site, residual) in self.residuals.iter().filter(|(_, own)| merged && !own.is_zero()) {
            let residual = Box::new(self.low_rank(residual, weight));
            additions.add(names::tensor(self.naming(), site, Part::Weight), Addition::LowRank(residual));
        }
        Ok(additions)
    }

    /// The matrices it changes when they are loaded, with its residuals `merged` or not, and how many numbers
    /// each has.
    pub fn changed_weights(&self, merged: bool) -> BTreeMap<String, usize> {
        let changes = self.changes.iter().map(|(site, own)| (site, own.delta.dims()));
        let residual = |own: &Residual| [own.up.dims()[0], own.down.dims()[1]];
        let residuals = self.residuals.iter().filter(|_| merged).map(|(site, own)| (site, residual(own)));
        let numbers = |(site, dims): (&String, [usize; 2])| {
            (names::tensor(self.naming(), site, Part::Weight), dims.iter().product::<usize>())
        };
        let differences = self.differences.iter().map(|(tensor, values)| (tensor.clone(), values.len()));
        changes.chain(residuals).map(numbers).chain(differences).collect()
    }

    /// Its tokens and their rows, if it has any.
    pub fn token_embeddings(&self) -> Option<TokenEmbeddings> {
        let rows = self.token_rows.clone()?;
        Some(TokenEmbeddings { tokens: self.metadata.tokens.clone(), rows })
    }

    /// Writes it to `path` in the names of `dialect`, whole or not at all.
    ///
    /// # Errors
    /// When the file cannot be written; nothing is left behind then.
    pub fn save(&self, path: &Path, dialect: Dialect, precision: Precision) -> Result<()> {
        let fault = |reason: String| Error::Adapter { path: path.to_owned(), reason };
        let mut file = AdapterFile::new(self.header(dialect).map_err(fault)?);
        file.naming = self.naming;
        for (site, residual) in &self.residuals {
            let [down, up] = residual.shapes(self.naming().kind(site));
            let store = |half: &Tensor<2>, shape| StoredTensor::new(&values(half.clone()), shape, precision);
            file.parts.insert((site.clone(), Part::Down), store(&residual.down, down));
            file.parts.insert((site.clone(), Part::Up), store(&residual.up, up));
            file.alphas.insert(site.clone(), residual.alpha.into());
        }
        for (site, own) in &self.motion {
            let stored = StoredTensor::new(&values(own.clone()), own.dims().to_vec(), precision);
            file.motion.insert(site.clone(), stored);
        }
        if !self.differences.is_empty() || !self.changes.is_empty() {
            return Err(fault("what is not a residual is converted, not written".to_owned()));
        }
        file.rows = self
            .token_rows
            .as_ref()
            .map(|rows| StoredTensor::new(&values(rows.clone()), rows.dims().to_vec(), precision));
        file.write(path, dialect).map(drop)
    }

    fn header(&self, dialect: Dialect) -> Result<BTreeMap<String, String>, String> {
        let own = serde_json::to_string(&self.metadata).map_err(|error| error.to_string())?;
        let mut header = BTreeMap::from([("format".to_owned(), "pt".to_owned()), (OWN.to_owned(), own)]);
        header.extend(references::to_text(&self.references)?.map(|text| (REFERENCES.to_owned(), text)));
        if dialect != Dialect::Diffusers {
            for (name, value) in [
                ("ss_network_module", self.naming().trainer_module.to_owned()),
                ("ss_network_dim", self.metadata.rank.to_string()),
                ("ss_network_alpha", self.metadata.alpha.to_string()),
            ] {
                header.insert(name.to_owned(), value);
            }
        }
        Ok(header)
    }
}

/// What `file` adds to the coefficients of its residuals for a motion.
fn motion(
    file: &AdapterFile,
    metadata: &Metadata,
    residuals: &BTreeMap<String, Residual>,
    device: &Device,
) -> Result<BTreeMap<String, Tensor<2>>, String> {
    if file.motion.is_empty() {
        return Ok(BTreeMap::new());
    }
    let named =
        metadata.motion.as_ref().ok_or("it holds a motion, and its metadata does not say on which basis")?;
    let of = |(site, stored): (&String, &StoredTensor)| {
        let residual = residuals.get(site).ok_or_else(|| format!("{site}: a motion without a residual"))?;
        let needed = match named.basis {
            Basis::Input => residual.up.dims(),
            Basis::Output => residual.down.dims(),
        };
        if stored.shape != needed {
            return Err(format!("{site}: its motion has shape {:?}, not {needed:?}", stored.shape));
        }
        let values = numbers(&format!("of the motion at {site}"), stored)?;
        Ok((site.clone(), Tensor::from_data(TensorData::new(values, needed), device)))
    };
    file.motion.iter().map(of).collect()
}

/// The denoiser's tensors that `file` adds to, and the numbers: dense differences, and biases of B. What is
/// all zero adds nothing, and extracted adapters have such for tensors that only other bases have.
fn differences(file: &AdapterFile) -> Result<BTreeMap<String, Vec<f32>>, String> {
    let mut differences = BTreeMap::new();
    for (place, stored) in &file.parts {
        let (site, part) = place;
        let (tensor, scale) = match part {
            Part::Weight | Part::Bias | Part::Modulation => (names::tensor(file.naming(), site, *part), 1.0),
            Part::UpBias => (names::tensor(file.naming(), site, Part::Bias), file.scale_of(site)?),
            _ => continue,
        };
        if is_zero(stored) {
            continue;
        }
        let key = file.key_of(place);
        let values: Vec<f32> = numbers(&key, stored)?.iter().map(|value| value * scale).collect();
        if differences.insert(tensor, values).is_some() {
            return Err(format!("{key} and another key add to the same tensor"));
        }
    }
    Ok(differences)
}

/// Several adapters with their weights at once: everything they attach, and all their tokens.
///
/// # Errors
/// When one does not fit such a base, or two have the same token.
pub fn combine(
    adapters: &[(Adapter, f32)],
    about: &Description,
) -> Result<(Attached, Option<TokenEmbeddings>)> {
    let mut attached = Attached::none();
    let mut tokens: Vec<String> = Vec::new();
    let mut rows = Vec::new();
    for (adapter, weight) in adapters {
        adapter.check(about)?;
        attached.extend(adapter.attached(*weight, about.denoiser));
        let Some(own) = adapter.token_embeddings() else { continue };
        if let Some(token) = own.tokens.iter().find(|token| tokens.contains(token)) {
            let reason = format!(
                "{token} is the token of two adapters; fit one of them with another --token, or --motion-token"
            );
            return Err(Error::Subject { field: "token", reason });
        }
        tokens.extend(own.tokens);
        rows.push(own.rows);
    }
    let embeddings = (!rows.is_empty()).then(|| TokenEmbeddings { tokens, rows: Tensor::cat(rows, 0) });
    Ok((attached, embeddings))
}

fn read_metadata(text: &str) -> Result<Metadata, String> {
    let metadata: Metadata =
        serde_json::from_str(text).map_err(|error| format!("metadata {OWN}: {error}; export it again"))?;
    if metadata.version > VERSION {
        let version = metadata.version;
        return Err(format!(
            "metadata {OWN}: version {version} is newer than this program; update the program"
        ));
    }
    Ok(metadata)
}

/// The tensor in `file` of a site's part, as a matrix: a convolution's kernel is part of its inputs.
fn matrix(file: &AdapterFile, site: &str, part: Part, device: &Device) -> Result<Tensor<2>, String> {
    let place = (site.to_owned(), part);
    let key = file.key_of(&place);
    let tensor = file.parts.get(&place).ok_or_else(|| format!("{site}: half of its residual is missing"))?;
    let (values, shape) = (numbers(&key, tensor)?, &tensor.shape);
    let columns = shape.iter().skip(1).product::<usize>();
    match shape.len() {
        2 | 4 | 5 if shape[0] > 0 && columns > 0 => {
            Ok(Tensor::from_data(TensorData::new(values, [shape[0], columns]), device))
        }
        _ => Err(format!("tensor {key} has shape {shape:?}, not (rows, columns)")),
    }
}

fn numbers(key: &str, tensor: &StoredTensor) -> Result<Vec<f32>, String> {
    tensor.values().map_err(|reason| format!("tensor {key}: {reason}"))
}
