//! Where a network's weights come from.
//!
//! A network is built by asking a [`Weights`] for tensors by their published path and shape. Behind it stands
//! a [`WeightSource`]: an open checkpoint, a set of trainable parameters, or random initialization.
//! Missing and mis-shaped tensors are collected, not thrown one by one: [`Weights::finish`] reports them all,
//! together with tensors nobody asked for.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use burn::tensor::{Device, Tensor};

use crate::error::WeightError;
use crate::ops::Products;
use crate::sites::{Role, Site, Sites, StateSite};

/// How a tensor starts when a network is trained from scratch.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Init {
    /// All zeros.
    Zeros,
    /// All ones.
    Ones,
    /// Normal with this standard deviation.
    Normal(f32),
    /// Uniform in plus or minus this bound.
    Uniform(f32),
    /// This value everywhere.
    Constant(f32),
}

/// A store of named tensors.
pub trait WeightSource {
    /// The tensor `name`, flattened, or `None` if there is none. `shape` is what the network expects and
    /// `init` how it would start from scratch.
    fn get(&self, name: &str, shape: &[usize], init: Init) -> Result<Option<Tensor<1>>, WeightError>;

    /// Whether there is a tensor `name`, which must be of `shape`. Where that can be told without reading it,
    /// it is not read.
    fn holds(&self, name: &str, shape: &[usize]) -> Result<bool, WeightError> {
        Ok(self.get(name, shape, Init::Zeros)?.is_some())
    }

    /// Those `rows` of the matrix `name` of `shape`, one after the other, or `None` if there is no such
    /// matrix.
    fn rows(&self, name: &str, shape: [usize; 2], rows: &[usize]) -> Result<Option<Tensor<1>>, WeightError> {
        let Some(all) = self.get(name, &shape, Init::Zeros)? else { return Ok(None) };
        let all = all.reshape(shape);
        let rows = rows.iter().map(|&row| all.clone().narrow(0, row, 1)).collect();
        Ok(Some(Tensor::cat(rows, 0).reshape([-1])))
    }

    /// Every name the store holds.
    fn names(&self) -> Vec<String>;

    /// What to call the store in an error.
    fn describe(&self) -> String;
}

/// A store that outlives the building of a network, so that parts of it can be read again and again.
pub type SharedSource = Arc<dyn WeightSource + Send + Sync>;

/// The part of a source whose names start with a prefix, without it.
pub struct Below<'a> {
    source: &'a dyn WeightSource,
    prefix: String,
}

impl<'a> Below<'a> {
    /// The part of `source` below `prefix`, which ends with its separator.
    pub fn new(source: &'a dyn WeightSource, prefix: impl Into<String>) -> Self {
        Self { source, prefix: prefix.into() }
    }
}

impl WeightSource for Below<'_> {
    fn get(&self, name: &str, shape: &[usize], init: Init) -> Result<Option<Tensor<1>>, WeightError> {
        self.source.get(&format!("{}{name}", self.prefix), shape, init)
    }

    fn names(&self) -> Vec<String> {
        let own = |name: String| name.strip_prefix(&self.prefix).map(str::to_owned);
        self.source.names().into_iter().filter_map(own).collect()
    }

    fn describe(&self) -> String {
        format!("{} of {}", self.prefix.trim_end_matches('.'), self.source.describe())
    }
}

/// A source that has nothing and notes what it is asked for: what a network needs.
#[derive(Default)]
pub struct Probe {
    asked: RefCell<BTreeMap<String, Vec<usize>>>,
}

impl Probe {
    /// The shapes of all tensors that `build` asks for, by name.
    pub fn shapes<N>(device: &Device, build: impl FnOnce(&Weights) -> N) -> BTreeMap<String, Vec<usize>> {
        Self::look(device, build).0
    }

    /// The sites of what `build` builds.
    pub fn sites<N>(device: &Device, build: impl FnOnce(&Weights) -> N) -> Sites {
        Self::look(device, build).1
    }

    /// The shapes of all tensors that `build` asks for, by name, and the sites of what it builds.
    pub fn look<N>(
        device: &Device,
        build: impl FnOnce(&Weights) -> N,
    ) -> (BTreeMap<String, Vec<usize>>, Sites) {
        let probe = Self::default();
        let weights = Weights::new(&probe, device);
        build(&weights);
        let sites = weights.ledger().sites.clone();
        drop(weights);
        (probe.asked.into_inner(), sites)
    }
}

impl WeightSource for Probe {
    fn get(&self, name: &str, shape: &[usize], _: Init) -> Result<Option<Tensor<1>>, WeightError> {
        self.asked.borrow_mut().insert(name.to_owned(), shape.to_vec());
        Ok(None)
    }

    fn names(&self) -> Vec<String> {
        Vec::new()
    }

    fn describe(&self) -> String {
        "nothing".to_owned()
    }
}

#[derive(Default)]
struct Ledger {
    used: BTreeSet<String>,
    missing: Vec<String>,
    wrong: Vec<String>,
    sites: Sites,
}

/// Why a part of a network that was there when it was built could not be read again, if that happened: nobody
/// can be told in the middle of a network. Copies share it.
#[derive(Clone, Debug, Default)]
pub struct Lost(Arc<OnceLock<String>>);

impl Lost {
    /// The first reason there was.
    pub fn reason(&self) -> Option<&str> {
        self.0.get().map(String::as_str)
    }

    fn note(&self, reason: impl FnOnce() -> String) {
        self.0.get_or_init(reason);
    }
}

/// The store behind a view.
#[derive(Clone)]
enum Store<'a> {
    Borrowed(&'a dyn WeightSource),
    Shared(SharedSource),
}

/// What is done about tensors.
#[derive(Clone, Copy, PartialEq)]
enum Reading {
    /// They are read.
    Values,
    /// They are looked for, and not read.
    Headers,
    /// They were found before and are read again.
    Again,
}

/// A view of a [`WeightSource`] below a path.
#[derive(Clone)]
pub struct Weights<'a> {
    store: Store<'a>,
    ledger: Arc<Mutex<Ledger>>,
    prefix: String,
    device: Device,
    on_host: usize,
    reading: Reading,
    lost: Lost,
    role: Role,
}

/// Where a part of a network is read from whenever it is needed.
#[derive(Clone)]
pub struct Origin {
    source: SharedSource,
    prefix: String,
    device: Device,
    lost: Lost,
    /// How matrices are held.
    products: Products,
}

impl Origin {
    /// The part, its matrices held as they would have been when the network was built. What cannot be read
    /// any more becomes NaN, which no result survives, and the reason is kept for [`Origin::lost`].
    pub fn build<P>(&self, build: impl FnOnce(&Weights) -> P) -> P {
        let _products = self.products.scope();
        build(&self.weights())
    }

    fn weights(&self) -> Weights<'static> {
        Weights {
            store: Store::Shared(self.source.clone()),
            ledger: Arc::default(),
            prefix: self.prefix.clone(),
            device: self.device.clone(),
            on_host: 0,
            reading: Reading::Again,
            lost: self.lost.clone(),
            role: Role::default(),
        }
    }

    /// What could not be read any more.
    pub fn lost(&self) -> &Lost {
        &self.lost
    }

    /// The device tensors are placed on.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// The `rows` of the matrix `name` of `shape`.
    pub fn rows(&self, name: &str, shape: [usize; 2], rows: &[usize]) -> Tensor<2> {
        let path = join(&self.prefix, name);
        let found = match self.source.rows(&path, shape, rows) {
            Ok(Some(found)) => found,
            other => {
                self.lost.note(|| other.err().map_or_else(|| gone(&path), |error| error.to_string()));
                Tensor::full([rows.len() * shape[1]], f32::NAN, &self.device)
            }
        };
        found.reshape([rows.len(), shape[1]])
    }
}

impl<'a> Weights<'a> {
    /// The whole of `source`; placeholders for missing tensors are made on `device`.
    pub fn new(source: &'a dyn WeightSource, device: &Device) -> Self {
        Self::of(Store::Borrowed(source), device, 0)
    }

    fn of(store: Store<'a>, device: &Device, on_host: usize) -> Self {
        let (ledger, prefix, lost) = (Arc::default(), String::new(), Lost::default());
        let (reading, role) = (Reading::Values, Role::default());
        Self { store, ledger, prefix, device: device.clone(), on_host, reading, lost, role }
    }

    fn source(&self) -> &dyn WeightSource {
        match &self.store {
            Store::Borrowed(source) => *source,
            Store::Shared(source) => source.as_ref(),
        }
    }

    fn ledger(&self) -> MutexGuard<'_, Ledger> {
        self.ledger.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many blocks of a stack are to stay in the store.
    pub fn on_host(&self) -> usize {
        self.on_host
    }

    /// This view as something that can be read again, if the store outlives it.
    pub fn origin(&self) -> Option<Origin> {
        let Store::Shared(source) = &self.store else { return None };
        let (source, prefix) = (source.clone(), self.prefix.clone());
        let (device, lost) = (self.device.clone(), self.lost.clone());
        Some(Origin { source, prefix, device, lost, products: Products::current() })
    }

    /// What cannot be read any more of the parts that are read when they are needed.
    pub fn lost(&self) -> &Lost {
        &self.lost
    }

    /// This view without its values: what is built from it only finds out whether everything is there.
    pub fn headers(&self) -> Self {
        Self { reading: Reading::Headers, ..self.clone() }
    }

    /// The view one module deeper.
    pub fn at(&self, name: impl std::fmt::Display) -> Self {
        Self { prefix: self.path(&name.to_string()), ..self.clone() }
    }

    /// This view for what serves as `role`: so are the sites below it noted.
    pub fn serving(&self, role: Role) -> Self {
        Self { role, ..self.clone() }
    }

    /// Notes that this path is a site: a linear map of `shape`, `[outputs, inputs]`, or a convolution where
    /// it has a `kernel` of frames, rows and columns.
    pub fn site(&self, shape: [usize; 2], kernel: Option<[usize; 3]>) {
        let site = Site { shape, role: self.role, kernel };
        self.ledger().sites.maps.insert(self.prefix.clone(), site);
    }

    /// Notes that this path is an attention that can be hooked.
    pub fn attention_site(&self) {
        let site = (self.prefix.clone(), self.role);
        self.ledger().sites.attentions.push(site);
    }

    /// Notes that a hidden state of so many channels can be hooked behind this path.
    pub fn state_site(&self, channels: usize) {
        let site = StateSite { path: self.prefix.clone(), role: self.role, channels };
        self.ledger().sites.states.push(site);
    }

    /// The full published path of `name` below this view.
    pub fn path(&self, name: &str) -> String {
        join(&self.prefix, name)
    }

    /// The device tensors are placed on.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// The tensor `name` of `shape`. A missing or mis-shaped tensor is noted for [`Weights::finish`] and
    /// replaced by zeros, so that one pass over the network finds every fault.
    pub fn tensor<const D: usize>(&self, name: &str, shape: [usize; D], init: Init) -> Tensor<D> {
        match self.find(name, &shape, init) {
            Some(tensor) => tensor.reshape(shape),
            // One number seen everywhere, so that a configuration out of this world takes no memory.
            None => Tensor::<D>::full([1; D], self.placeholder(), &self.device).expand(shape),
        }
    }

    fn placeholder(&self) -> f32 {
        if self.reading == Reading::Again { f32::NAN } else { 0.0 }
    }

    fn find(&self, name: &str, shape: &[usize], init: Init) -> Option<Tensor<1>> {
        let path = self.path(name);
        let found = match self.reading {
            Reading::Headers => self.source().holds(&path, shape).map(|there| (there, None)),
            Reading::Values | Reading::Again => {
                self.source().get(&path, shape, init).map(|found| (found.is_some(), found))
            }
        };
        if self.reading == Reading::Again {
            match &found {
                Ok((true, _)) => {}
                Ok((false, _)) => self.lost.note(|| gone(&path)),
                Err(error) => self.lost.note(|| error.to_string()),
            }
        }
        let mut ledger = self.ledger();
        match found {
            Ok((true, tensor)) => {
                ledger.used.insert(path);
                return tensor;
            }
            Ok((false, _)) => ledger.missing.push(format!("{path} {shape:?}")),
            Err(error) => {
                ledger.used.insert(path);
                ledger.wrong.push(error.to_string());
            }
        }
        None
    }

    /// The scalar `name`, as one element.
    pub fn scalar(&self, name: &str, init: Init) -> Tensor<1> {
        let placeholder = || Tensor::full([1], self.placeholder(), &self.device);
        self.find(name, &[], init).unwrap_or_else(placeholder).reshape([1])
    }

    /// Whether the source has a tensor `name` below this view.
    pub fn has(&self, name: &str) -> bool {
        let path = self.path(name);
        self.source().names().contains(&path)
    }

    /// Lets the source have a tensor `name` that the network does not use.
    pub fn ignore(&self, name: &str) {
        let path = self.path(name);
        self.ledger().used.insert(path);
    }

    /// Ends the loading of a network.
    ///
    /// # Errors
    /// Lists what is missing, what has a wrong shape or type, and what was never asked for.
    pub fn finish(&self) -> Result<(), WeightError> {
        let ledger = self.ledger();
        let unused: Vec<String> =
            self.source().names().into_iter().filter(|name| !ledger.used.contains(name)).collect();
        if ledger.missing.is_empty() && ledger.wrong.is_empty() && unused.is_empty() {
            return Ok(());
        }
        Err(WeightError::Incomplete {
            source_name: self.source().describe(),
            missing: ledger.missing.clone(),
            wrong: ledger.wrong.clone(),
            unused,
        })
    }
}

impl Weights<'static> {
    /// The whole of `source`, which stays open: of a stack of blocks, so many stay `on_host`, in the store,
    /// and are read whenever they are needed.
    pub fn streamed(source: SharedSource, device: &Device, on_host: usize) -> Self {
        Self::of(Store::Shared(source), device, on_host)
    }
}

fn gone(path: &str) -> String {
    format!("tensor {path} is not there any more")
}

fn join(prefix: &str, name: &str) -> String {
    match (prefix.is_empty(), name.is_empty()) {
        (true, _) => name.to_owned(),
        (_, true) => prefix.to_owned(),
        _ => format!("{prefix}.{name}"),
    }
}
