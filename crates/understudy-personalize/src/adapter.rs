//! Adapters: what a method leaves behind, in memory and as a file.

use std::collections::BTreeMap;
use std::path::Path;

use burn::tensor::{Device, Tensor, TensorData};
use understudy_engine::attach::{Attachments, LowRank};
use understudy_engine::host::values;
use understudy_engine::safetensors::{self, Checkpoint, NamedValues, Precision};
use understudy_pipeline::{Base, TokenEmbeddings};

use crate::error::{Error, Result, list};
use crate::metadata::{Metadata, OWN, PEFT, PeftScale, VERSION, to_peft};
use crate::names::{Dialect, Names, Role, depth_of, key};
use crate::sites::linear_sites;

/// The key of the subject tokens' rows `(tokens, dim)`.
const ROWS: &str = "understudy.token_embeddings";
/// The same in a diffusers file, where every key has to contain `lora`.
const DIFFUSERS_ROWS: &str = "understudy.lora.token_embeddings";

/// A low-rank residual: adds `alpha / rank * x A^T B^T` to a linear map.
#[derive(Clone, Debug)]
pub struct Residual {
    /// A, `(rank, inputs)`.
    pub down: Tensor<2>,
    /// B, `(outputs, rank)`.
    pub up: Tensor<2>,
    /// Its scale, times the rank.
    pub alpha: f32,
}

impl Residual {
    /// Its rank.
    pub fn rank(&self) -> usize {
        self.down.dims()[0]
    }

    fn is_zero(&self) -> bool {
        values(self.up.clone()).iter().all(|&value| value == 0.0)
    }
}

/// What a method leaves behind.
#[derive(Clone, Debug)]
pub struct Adapter {
    /// What it says of itself.
    pub metadata: Metadata,
    /// Residuals by site.
    pub residuals: BTreeMap<String, Residual>,
    /// Rows `(tokens, dim)` of the text encoder's embedding, for [`Metadata::tokens`].
    pub token_rows: Option<Tensor<2>>,
}

impl Adapter {
    /// Reads an adapter file of any dialect and checks that it fits `base`.
    ///
    /// # Errors
    /// As [`Adapter::open`] and [`Adapter::check`].
    pub fn load(path: &Path, base: &Base) -> Result<Self> {
        let adapter = Self::open(path, &base.device)?;
        adapter.check_named(base, &path.display().to_string())?;
        Ok(adapter)
    }

    /// Reads an adapter file of any dialect, not knowing its base.
    ///
    /// # Errors
    /// When the file cannot be read, a key is not understood, a residual lacks a half, shapes do not fit each
    /// other, or values are not finite; all such keys are listed.
    pub fn open(path: &Path, device: &Device) -> Result<Self> {
        let checkpoint = Checkpoint::open(path, device)?;
        let fault = |reason: String| Error::Adapter { path: path.to_owned(), reason };
        let own =
            checkpoint.metadata().get(OWN).map(|text| read_metadata(text)).transpose().map_err(fault)?;
        let scale =
            checkpoint.metadata().get(PEFT).map(|text| PeftScale::read(text)).transpose().map_err(fault)?;
        let sorted = Sorted::new(&checkpoint).map_err(fault)?;
        let mut residuals = BTreeMap::new();
        for (site, parts) in sorted.sites {
            let residual = parts.read(&checkpoint, &site, scale.as_ref()).map_err(fault)?;
            residuals.insert(site, residual);
        }
        let token_rows = sorted.rows.map(|key| matrix(&checkpoint, &key)).transpose().map_err(fault)?;
        if residuals.is_empty() && token_rows.is_none() {
            return Err(fault("it holds no residual and no token".to_owned()));
        }
        let metadata = own.unwrap_or_else(|| Metadata::new("lora", &residuals));
        let [rows, tokens] = [token_rows.as_ref().map_or(0, |rows| rows.dims()[0]), metadata.tokens.len()];
        if rows != tokens {
            return Err(fault(format!("it has {rows} token rows for {tokens} tokens; export it again")));
        }
        if metadata.sites != residuals.len() {
            let reason =
                format!("it says {} sites and has {}; export it again", metadata.sites, residuals.len());
            return Err(fault(reason));
        }
        Ok(Self { metadata, residuals, token_rows })
    }

    /// That this adapter fits `base`.
    ///
    /// # Errors
    /// [`Error::OtherBase`] when it was made for another architecture, or has a site `base` does not have or has
    /// in another shape.
    pub fn check(&self, base: &Base) -> Result<()> {
        self.check_named(base, "the adapter")
    }

    fn check_named(&self, base: &Base, name: &str) -> Result<()> {
        let made_for = match &self.metadata.base {
            Some(made_for) => format!("the base {:?} ({})", made_for.name, made_for.identity),
            None => "another base".to_owned(),
        };
        let fault = |reason: String| Error::OtherBase {
            adapter: name.to_owned(),
            made_for: made_for.clone(),
            base: format!("this one ({})", base.identity),
            reason,
        };
        if self.metadata.base.as_ref().is_some_and(|made_for| made_for.identity != base.identity) {
            return Err(fault("use it with its own base, or fit the subject again".to_owned()));
        }
        let sites = linear_sites(&base.config.transformer);
        let misfit = |(site, residual): (&String, &Residual)| {
            let found = [residual.up.dims()[0], residual.down.dims()[1]];
            match sites.get(site) {
                None => Some(format!("{site} (no such site)")),
                Some(shape) if *shape != found => {
                    Some(format!("{site} (for {found:?}, the base has {shape:?})"))
                }
                Some(_) => None,
            }
        };
        let misfits: Vec<String> = self.residuals.iter().filter_map(misfit).collect();
        if !misfits.is_empty() {
            return Err(fault(format!("{} sites do not fit: {}", misfits.len(), list(&misfits))));
        }
        let dim = base.config.text_encoder.d_model;
        match self.token_rows.as_ref().map(|rows| rows.dims()[1]) {
            Some(found) if found != dim => {
                Err(fault(format!("its token has {found} channels, the text encoder {dim}")))
            }
            _ => Ok(()),
        }
    }

    /// Its residuals, scaled by `weight`. A residual that would add nothing is left out, so that a network it
    /// is attached to computes exactly what it would without.
    pub fn attachments(&self, weight: f32) -> Attachments {
        let mut attachments = Attachments::none();
        for (site, residual) in &self.residuals {
            if weight == 0.0 || residual.alpha == 0.0 || residual.is_zero() {
                continue;
            }
            let low_rank = LowRank {
                down: residual.down.clone(),
                up: residual.up.clone(),
                scale: weight * residual.alpha / residual.rank() as f32,
                window: self.metadata.window,
            };
            attachments.add_low_rank(site, low_rank);
        }
        attachments
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
        let mut tensors = Vec::new();
        let mut put =
            |name: String, shape: Vec<usize>, values| tensors.push(NamedValues { name, shape, values });
        for (site, residual) in &self.residuals {
            put(key(dialect, site, Role::Down), residual.down.dims().to_vec(), values(residual.down.clone()));
            put(key(dialect, site, Role::Up), residual.up.dims().to_vec(), values(residual.up.clone()));
            // In a file with both scalars and metadata some readers would scale twice.
            if dialect != Dialect::Diffusers {
                put(key(dialect, site, Role::Alpha), Vec::new(), vec![residual.alpha]);
            }
        }
        if let Some(rows) = &self.token_rows {
            let name = if dialect == Dialect::Diffusers { DIFFUSERS_ROWS } else { ROWS };
            put(name.to_owned(), rows.dims().to_vec(), values(rows.clone()));
        }
        let metadata =
            self.header(dialect).map_err(|reason| Error::Adapter { path: path.to_owned(), reason })?;
        Ok(safetensors::write(path, &tensors, metadata, precision)?)
    }

    fn header(&self, dialect: Dialect) -> Result<BTreeMap<String, String>, String> {
        let own = serde_json::to_string(&self.metadata).map_err(|error| error.to_string())?;
        let mut header = BTreeMap::from([("format".to_owned(), "pt".to_owned()), (OWN.to_owned(), own)]);
        if dialect == Dialect::Diffusers {
            header.insert(PEFT.to_owned(), to_peft(&self.residuals).to_string());
        } else {
            for (name, value) in [
                ("ss_network_module", "networks.lora_wan".to_owned()),
                ("ss_network_dim", self.metadata.rank.to_string()),
                ("ss_network_alpha", self.metadata.alpha.to_string()),
            ] {
                header.insert(name.to_owned(), value);
            }
        }
        Ok(header)
    }
}

/// Several adapters with their weights at once: everything they attach, and all their tokens.
///
/// # Errors
/// When one does not fit `base`, or two have the same token.
pub fn combine(adapters: &[(Adapter, f32)], base: &Base) -> Result<(Attachments, Option<TokenEmbeddings>)> {
    let mut attachments = Attachments::none();
    let mut tokens: Vec<String> = Vec::new();
    let mut rows = Vec::new();
    for (adapter, weight) in adapters {
        adapter.check(base)?;
        attachments.extend(adapter.attachments(*weight));
        let Some(own) = adapter.token_embeddings() else { continue };
        if let Some(token) = own.tokens.iter().find(|token| tokens.contains(token)) {
            let reason =
                format!("{token} is the token of two adapters; fit one of them with another --token");
            return Err(Error::Subject { field: "token", reason });
        }
        tokens.extend(own.tokens);
        rows.push(own.rows);
    }
    let embeddings = (!rows.is_empty()).then(|| TokenEmbeddings { tokens, rows: Tensor::cat(rows, 0) });
    Ok((attachments, embeddings))
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

/// The keys of a file by site.
#[derive(Default)]
struct Sorted {
    sites: BTreeMap<String, Parts>,
    rows: Option<String>,
}

/// The keys of one site's residual.
#[derive(Default)]
struct Parts {
    down: Option<String>,
    up: Option<String>,
    alpha: Option<String>,
}

impl Sorted {
    fn new(checkpoint: &Checkpoint) -> Result<Self, String> {
        let infos = checkpoint.infos();
        let names = Names::new(depth_of(infos.iter().map(|info| info.name.as_str())));
        let (mut sorted, mut unknown, mut twice) = (Self::default(), Vec::new(), Vec::new());
        for info in infos {
            if info.name == ROWS || info.name == DIFFUSERS_ROWS {
                sorted.rows = Some(info.name);
                continue;
            }
            let Some((_, site, role)) = names.parse(&info.name) else {
                unknown.push(info.name);
                continue;
            };
            let parts = sorted.sites.entry(site.to_owned()).or_default();
            let slot = match role {
                Role::Down => &mut parts.down,
                Role::Up => &mut parts.up,
                Role::Alpha => &mut parts.alpha,
            };
            if let Some(other) = slot.replace(info.name.clone()) {
                twice.push(format!("{other} and {}", info.name));
            }
        }
        let halves = sorted.sites.iter().filter(|(_, parts)| parts.down.is_none() || parts.up.is_none());
        let halves: Vec<String> = halves.flat_map(|(_, parts)| parts.keys()).collect();
        let faults = [
            (unknown, "keys are not understood"),
            (halves, "keys lack the other half of their residual"),
            (twice, "residuals stand twice in the file"),
        ];
        let said = |(names, what): &(Vec<String>, &str)| format!("{} {what}: {}", names.len(), list(names));
        let faults: Vec<String> = faults.iter().filter(|(names, _)| !names.is_empty()).map(said).collect();
        if faults.is_empty() { Ok(sorted) } else { Err(faults.join("; ")) }
    }
}

impl Parts {
    fn keys(&self) -> impl Iterator<Item = String> {
        [&self.down, &self.up, &self.alpha].into_iter().flatten().cloned().collect::<Vec<_>>().into_iter()
    }

    fn read(
        &self,
        checkpoint: &Checkpoint,
        site: &str,
        scale: Option<&PeftScale>,
    ) -> Result<Residual, String> {
        let [down, up] =
            [&self.down, &self.up].map(|key| matrix(checkpoint, key.as_deref().unwrap_or_default()));
        let (down, up) = (down?, up?);
        let rank = down.dims()[0];
        if rank == 0 || up.dims()[1] != rank {
            return Err(format!("{site}: A has rank {rank} and B {}; export it again", up.dims()[1]));
        }
        let alpha = match &self.alpha {
            Some(key) => Some(scalar(checkpoint, key)?),
            None => scale.and_then(|scale| scale.alpha(site, rank)),
        };
        Ok(Residual { down, up, alpha: alpha.unwrap_or(rank as f32) })
    }
}

fn matrix(checkpoint: &Checkpoint, key: &str) -> Result<Tensor<2>, String> {
    let (values, shape) = checkpoint.values(key).map_err(|error| error.to_string())?;
    match shape[..] {
        [rows, columns] if rows > 0 && columns > 0 => {
            Ok(Tensor::from_data(TensorData::new(values, [rows, columns]), checkpoint.device()))
        }
        _ => Err(format!("tensor {key} has shape {shape:?}, not (rows, columns)")),
    }
}

fn scalar(checkpoint: &Checkpoint, key: &str) -> Result<f32, String> {
    let (values, shape) = checkpoint.values(key).map_err(|error| error.to_string())?;
    match values[..] {
        [value] => Ok(value),
        _ => Err(format!("tensor {key} has shape {shape:?}, not a scalar")),
    }
}
