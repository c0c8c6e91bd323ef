//! Where a network's weights come from.
//!
//! A network is built by asking a [`Weights`] for tensors by their published path and shape. Behind it stands
//! a [`WeightSource`]: a memory-mapped checkpoint, a set of trainable parameters, or random initialization.
//! Missing and mis-shaped tensors are collected, not thrown one by one: [`Weights::finish`] reports them all,
//! together with tensors nobody asked for.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::rc::Rc;

use burn::tensor::{Device, Tensor};

use crate::error::WeightError;

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

    /// Every name the store holds.
    fn names(&self) -> Vec<String>;

    /// What to call the store in an error.
    fn describe(&self) -> String;
}

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

#[derive(Default)]
struct Ledger {
    used: BTreeSet<String>,
    missing: Vec<String>,
    wrong: Vec<String>,
}

/// A view of a [`WeightSource`] below a path.
#[derive(Clone)]
pub struct Weights<'a> {
    source: &'a dyn WeightSource,
    ledger: Rc<RefCell<Ledger>>,
    prefix: String,
    device: Device,
}

impl<'a> Weights<'a> {
    /// The whole of `source`; placeholders for missing tensors are made on `device`.
    pub fn new(source: &'a dyn WeightSource, device: &Device) -> Self {
        Self { source, ledger: Rc::default(), prefix: String::new(), device: device.clone() }
    }

    /// The view one module deeper.
    pub fn at(&self, name: impl std::fmt::Display) -> Self {
        Self { prefix: self.path(&name.to_string()), ..self.clone() }
    }

    /// The full published path of `name` below this view.
    pub fn path(&self, name: &str) -> String {
        match (self.prefix.is_empty(), name.is_empty()) {
            (true, _) => name.to_owned(),
            (_, true) => self.prefix.clone(),
            _ => format!("{}.{name}", self.prefix),
        }
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
            None => Tensor::<D>::zeros([1; D], &self.device).expand(shape),
        }
    }

    fn find(&self, name: &str, shape: &[usize], init: Init) -> Option<Tensor<1>> {
        let path = self.path(name);
        let mut ledger = self.ledger.borrow_mut();
        match self.source.get(&path, shape, init) {
            Ok(Some(tensor)) => {
                ledger.used.insert(path);
                return Some(tensor);
            }
            Ok(None) => ledger.missing.push(format!("{path} {shape:?}")),
            Err(error) => {
                ledger.used.insert(path);
                ledger.wrong.push(error.to_string());
            }
        }
        None
    }

    /// The scalar `name`, as one element.
    pub fn scalar(&self, name: &str, init: Init) -> Tensor<1> {
        self.find(name, &[], init).unwrap_or_else(|| Tensor::zeros([1], &self.device)).reshape([1])
    }

    /// Whether the source has a tensor `name` below this view.
    pub fn has(&self, name: &str) -> bool {
        let path = self.path(name);
        self.source.names().contains(&path)
    }

    /// Lets the source have a tensor `name` that the network does not use.
    pub fn ignore(&self, name: &str) {
        self.ledger.borrow_mut().used.insert(self.path(name));
    }

    /// Ends the loading of a network.
    ///
    /// # Errors
    /// Lists what is missing, what has a wrong shape or type, and what was never asked for.
    pub fn finish(&self) -> Result<(), WeightError> {
        let ledger = self.ledger.borrow();
        let unused: Vec<String> =
            self.source.names().into_iter().filter(|name| !ledger.used.contains(name)).collect();
        if ledger.missing.is_empty() && ledger.wrong.is_empty() && unused.is_empty() {
            return Ok(());
        }
        Err(WeightError::Incomplete {
            source_name: self.source.describe(),
            missing: ledger.missing.clone(),
            wrong: ledger.wrong.clone(),
            unused,
        })
    }
}
