//! What a checkpoint holds: its tensors by module.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::{Path, PathBuf};

use serde::Serialize;
use understudy_engine::safetensors::{Checkpoint, TensorInfo};
use understudy_pipeline::{Recognized, other_model, recognize};
use understudy_train::path_as_text;

use super::{grouped, size};

/// Up to so many tensors are listed one by one.
const LISTED: usize = 8;

/// A checkpoint in numbers.
#[derive(Debug, Serialize)]
pub struct CheckpointSummary {
    #[serde(serialize_with = "path_as_text")]
    path: PathBuf,
    #[serde(flatten)]
    totals: Totals,
    /// By the first word of the tensors' names.
    modules: BTreeMap<String, Totals>,
    /// Names and shapes, where there are few.
    shapes: BTreeMap<String, Vec<usize>>,
    metadata: BTreeMap<String, String>,
    /// The networks of a base in it, if any.
    recognized: Vec<Recognized>,
    /// The network of another model in it, if it is a known one.
    other: Option<&'static str>,
}

/// Several tensors in numbers.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Totals {
    /// How many tensors there are.
    pub tensors: usize,
    /// How many numbers they hold.
    pub parameters: usize,
    /// What they take in the file.
    pub bytes: u64,
    /// Their element types.
    pub dtypes: BTreeSet<String>,
}

impl Totals {
    /// Of the tensors in `infos`.
    pub fn of<'a>(infos: impl IntoIterator<Item = &'a TensorInfo>) -> Self {
        let mut totals = Self::default();
        for info in infos {
            let count: usize = info.shape.iter().product();
            totals.tensors += 1;
            totals.parameters += count;
            totals.bytes += info.bytes;
            totals.dtypes.insert(info.dtype.clone());
        }
        totals
    }

    /// The element types in one word.
    pub fn precision(&self) -> String {
        self.dtypes.iter().map(String::as_str).collect::<Vec<_>>().join("+")
    }
}

impl CheckpointSummary {
    /// Of an open checkpoint.
    pub fn of(path: &Path, checkpoint: &Checkpoint) -> Self {
        let infos = checkpoint.infos();
        let mut modules: BTreeMap<String, Vec<&TensorInfo>> = BTreeMap::new();
        for info in &infos {
            // A state of training keeps its groups apart by a slash.
            let module = info.name.split(['.', '/']).next().unwrap_or_default();
            modules.entry(module.to_owned()).or_default().push(info);
        }
        let recognized = recognize(checkpoint);
        Self {
            path: path.to_owned(),
            other: recognized.is_empty().then(|| other_model(checkpoint)).flatten(),
            totals: Totals::of(&infos),
            shapes: if infos.len() <= LISTED {
                infos.iter().map(|info| (info.name.clone(), info.shape.clone())).collect()
            } else {
                BTreeMap::new()
            },
            modules: modules.into_iter().map(|(name, infos)| (name, Totals::of(infos))).collect(),
            metadata: checkpoint.metadata().clone(),
            recognized,
        }
    }
}

fn write_recognized(f: &mut fmt::Formatter, recognized: &Recognized) -> fmt::Result {
    let Recognized { network, names, model, not_supported, config, .. } = recognized;
    let model = model.as_deref().unwrap_or("of no published size");
    writeln!(f, "  network: {network} ({model}), its tensors named as {names} names them")?;
    if let Some(reason) = not_supported {
        // Where its configuration is not known, a folder may tell it.
        let what = if config.is_null() { "not usable without its folder" } else { "not supported" };
        writeln!(f, "  {what}: {reason}")?;
    }
    if let Some(note) = &recognized.note {
        writeln!(f, "  {note}")?;
    }
    let faults = tensor_faults(recognized);
    if faults.is_empty() && not_supported.is_none() {
        if !recognized.compared {
            return Ok(());
        }
        return writeln!(f, "  whole: every tensor it needs is there");
    }
    faults.iter().try_for_each(|fault| writeln!(f, "  {fault}"))
}

/// What is wrong with a network, a line each.
pub fn faults(recognized: &Recognized) -> Vec<String> {
    let refused = recognized.not_supported.iter().map(|reason| format!("not supported: {reason}"));
    refused.chain(tensor_faults(recognized)).collect()
}

/// What is wrong with the tensors of a network, a line each.
fn tensor_faults(recognized: &Recognized) -> Vec<String> {
    let Recognized { missing, misshapen, unknown, .. } = recognized;
    let kinds = [(missing, "missing"), (misshapen, "of a wrong shape"), (unknown, "not understood")];
    let said = |(names, what): &(&Vec<String>, &str)| {
        let some = names.iter().take(LISTED).cloned().collect::<Vec<_>>().join(", ");
        let more = if names.len() > LISTED { ", ..." } else { "" };
        let tensors = if names.len() == 1 { "tensor" } else { "tensors" };
        format!("{} {tensors} {what}: {some}{more}", names.len())
    };
    kinds.iter().filter(|(names, _)| !names.is_empty()).map(said).collect()
}

impl fmt::Display for CheckpointSummary {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let Totals { tensors, parameters, bytes, .. } = &self.totals;
        let (parameters, precision) = (grouped(*parameters), self.totals.precision());
        writeln!(f, "checkpoint {}", self.path.display())?;
        writeln!(f, "  {tensors} tensors, {parameters} parameters, {}, {precision}", size(*bytes))?;
        self.recognized.iter().try_for_each(|recognized| write_recognized(f, recognized))?;
        if let Some(other) = self.other {
            writeln!(f, "  network: {other}, which is no part of a base here")?;
        }
        let width = self.modules.keys().map(String::len).max().unwrap_or(0);
        for (name, own) in &self.modules {
            writeln!(
                f,
                "  {name:width$}  {:>5} tensors {:>15} parameters {:>9}  {}",
                own.tensors,
                grouped(own.parameters),
                size(own.bytes),
                own.precision()
            )?;
        }
        for (name, shape) in &self.shapes {
            writeln!(f, "  tensor {name} {shape:?}")?;
        }
        for (name, value) in &self.metadata {
            writeln!(f, "  metadata {name}: {value}")?;
        }
        Ok(())
    }
}
