//! What a base folder holds: its networks, their configurations and sizes.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

use anyhow::{Result, bail};
use burn::tensor::Device;
use serde::Serialize;
use serde_json::{Map, Value};
use understudy_engine::safetensors::Checkpoint;
use understudy_pipeline::{FAMILIES, Files, Source, compare, recognize};
use understudy_train::path_as_text;

use super::checkpoint::Totals;
use super::{grouped, size};

/// A folder in diffusers' layout.
#[derive(Debug, Serialize)]
pub struct FolderSummary {
    #[serde(serialize_with = "path_as_text")]
    path: PathBuf,
    class: String,
    /// The architecture's short name, if this program can run the base.
    identity: Option<String>,
    /// Why it cannot.
    not_supported: Option<String>,
    parts: BTreeMap<String, PartSummary>,
}

/// One entry of `model_index.json`.
#[derive(Debug, Serialize)]
struct PartSummary {
    class: String,
    config: Map<String, Value>,
    /// The weights, if it has any.
    weights: Option<Totals>,
    /// What is missing or wrong with them.
    faults: Vec<String>,
}

/// Whether parts of this class have weights.
fn is_network(class: &str) -> bool {
    FAMILIES.iter().any(|family| family.classes().contains(&class))
}

/// What is judged by networks that lie beside a base.
const JUDGES: [&str; 5] = ["clip", "identity", "identity-reward", "markings", "motion"];

/// What configurations are called.
const CONFIGS: [&str; 3] = ["config.json", "scheduler_config.json", "tokenizer_config.json"];

impl FolderSummary {
    /// Reads the `files` of the folder at `path`; of weights only the headers.
    ///
    /// # Errors
    /// When it has no `model_index.json`, or a file of it is malformed.
    pub fn read(path: &Path, files: &Files) -> Result<Self> {
        if !files.has("model_index.json") {
            bail!(
                "{}: there is no model_index.json; give a folder in diffusers' layout, or one of its files",
                path.display()
            );
        }
        let index = files.object("model_index.json")?;
        let source = Source::Files(files.clone());
        let opened = source.open(&Device::flex());
        let base = opened.is_ok().then_some(&source);
        let mut parts = BTreeMap::new();
        for (name, entry) in &index {
            if let Some(class) = entry.get(1).and_then(Value::as_str) {
                let part = PartSummary::read(files, name, class, base)?;
                parts.insert(name.clone(), part);
            }
        }
        for name in JUDGES.iter().map(|name| format!("judges/{name}")) {
            let config = format!("{name}/config.json");
            if files.has(&config) {
                let class = files.object(&config)?.get("architectures").and_then(|list| list.get(0)).cloned();
                let class = class.as_ref().and_then(Value::as_str).unwrap_or("unknown");
                parts.insert(name.clone(), PartSummary::read(files, &name, class, None)?);
            }
        }
        Ok(Self {
            path: path.to_owned(),
            class: index.get("_class_name").and_then(Value::as_str).unwrap_or("unknown").to_owned(),
            not_supported: opened.as_ref().err().map(ToString::to_string),
            identity: opened.ok().map(|opened| opened.about().identity.clone()),
            parts,
        })
    }
}

impl PartSummary {
    fn read(files: &Files, name: &str, class: &str, base: Option<&Source>) -> Result<Self> {
        let config = CONFIGS.iter().map(|file| format!("{name}/{file}")).find(|file| files.has(file));
        let weights = files.weights_of(name);
        let config = config.map(|file| files.object(&file)).transpose()?.unwrap_or_default();
        let mut part = Self { class: class.to_owned(), config, weights: None, faults: Vec::new() };
        match weights.map(|file| files.open(&file, &Device::flex())) {
            None if is_network(class) => part.faults.push("its weights are not there".to_owned()),
            None => {}
            Some(Err(error)) => part.faults.push(error.to_string()),
            Some(Ok(checkpoint)) => {
                part.weights = Some(Totals::of(&checkpoint.infos()));
                part.faults = part.faults_of(&checkpoint, base);
            }
        }
        Ok(part)
    }

    /// What of the network's tensors is missing, or is not what its configuration says.
    fn faults_of(&self, checkpoint: &Checkpoint, base: Option<&Source>) -> Vec<String> {
        const LAYERS: &str = "num_layers";
        if let (Some(base), true) = (base, is_network(&self.class)) {
            return match compare(checkpoint, base) {
                Some(recognized) if self.class == recognized.class => super::checkpoint::faults(&recognized),
                Some(recognized) => vec![format!(
                    "its tensors are those of a network of another kind: {}",
                    recognized.network
                )],
                None => vec!["its tensors are not those of such a network".to_owned()],
            };
        }
        let recognized = recognize(checkpoint);
        let [recognized] = &recognized[..] else { return Vec::new() };
        let mut faults = super::checkpoint::faults(recognized);
        let (said, found) = (self.config.get(LAYERS), recognized.config.get(LAYERS));
        if let (Some(said), Some(found)) = (said, found)
            && said != found
        {
            faults.push(format!("the configuration has {said} layers, the weights {found}"));
        }
        faults
    }
}

impl fmt::Display for FolderSummary {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        writeln!(f, "base {} ({})", self.path.display(), self.class)?;
        match (&self.identity, &self.not_supported) {
            (Some(identity), _) => {
                let whole = self.parts.values().all(|part| part.faults.is_empty());
                let fit =
                    if whole { "adapters made for it fit" } else { "it is not whole; download it again" };
                writeln!(f, "  architecture {identity}: {fit}")?;
            }
            (_, Some(reason)) => writeln!(f, "  not supported: {reason}")?,
            _ => {}
        }
        for (name, part) in &self.parts {
            let weights = part.weights.as_ref().map(|own| {
                let (count, bytes) = (grouped(own.parameters), size(own.bytes));
                format!(", {} tensors, {count} parameters, {bytes}, {}", own.tensors, own.precision())
            });
            writeln!(f, "  {name}: {}{}", part.class, weights.unwrap_or_default())?;
            part.faults.iter().try_for_each(|fault| writeln!(f, "    {fault}"))?;
            let fields =
                part.config.iter().filter(|(field, value)| !field.starts_with('_') && !value.is_null());
            let fields: Vec<(&str, &Value)> = fields.map(|(field, value)| (field.as_str(), value)).collect();
            write_fields(f, 4, &fields)?;
        }
        Ok(())
    }
}

/// The fields of a configuration: those of one value together, those of several a line each, further in by
/// level.
fn write_fields(f: &mut fmt::Formatter, indent: usize, fields: &[(&str, &Value)]) -> fmt::Result {
    let said: Vec<String> =
        fields.iter().filter_map(|(field, value)| Some(format!("{field} {}", short(value)?))).collect();
    if !said.is_empty() {
        writeln!(f, "{:indent$}{}", "", said.join(", "))?;
    }
    for (field, value) in fields {
        let inner: Vec<(String, &Value)> = match value {
            Value::Object(own) => own.iter().map(|(field, value)| (field.clone(), value)).collect(),
            Value::Array(own) if short(value).is_none() => {
                own.iter().enumerate().map(|(at, value)| ((at + 1).to_string(), value)).collect()
            }
            _ => continue,
        };
        writeln!(f, "{:indent$}{field}", "")?;
        let inner: Vec<(&str, &Value)> =
            inner.iter().map(|(field, value)| (field.as_str(), *value)).collect();
        write_fields(f, indent + 2, &inner)?;
    }
    Ok(())
}

/// A value in a few words; `None` of one that holds others with names. Of a long list only its length is
/// said.
fn short(value: &Value) -> Option<String> {
    const SHOWN: usize = 8;
    Some(match value {
        Value::Null | Value::Object(_) => return None,
        Value::Bool(set) => if *set { "yes" } else { "no" }.to_owned(),
        Value::Number(number) => match number.as_f64() {
            Some(own) if number.is_f64() => significant(own),
            _ => number.to_string(),
        },
        Value::String(text) => text.clone(),
        Value::Array(values) if values.is_empty() => "none".to_owned(),
        Value::Array(values) if values.len() > SHOWN && values.iter().all(|own| short(own).is_some()) => {
            let what = if values.iter().all(Value::is_number) { "numbers" } else { "values" };
            format!("of {} {what}", values.len())
        }
        Value::Array(values) => values.iter().map(short).collect::<Option<Vec<_>>>()?.join(" "),
    })
}

/// A number with four digits that count.
fn significant(number: f64) -> String {
    const SMALL: f64 = 1e-3;
    let rounded = format!("{number:.3e}").parse::<f64>().unwrap_or(number);
    if rounded != 0.0 && rounded.abs() < SMALL { format!("{rounded:e}") } else { rounded.to_string() }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn values_of_configurations_are_words() {
        let long = vec![0.25; 16];
        for (value, said) in [
            (json!(4), Some("4")),
            (json!(9.999_999_747_378_752e-6), Some("1e-5")),
            (json!(2.659_199_952_9), Some("2.659")),
            (json!("gelu"), Some("gelu")),
            (json!(false), Some("no")),
            (json!([1, 2, 2]), Some("1 2 2")),
            (json!(["CLIPModel"]), Some("CLIPModel")),
            (json!([]), Some("none")),
            (json!(long), Some("of 16 numbers")),
            (json!({"a": 1}), None),
            (json!([{"a": 1}]), None),
        ] {
            assert_eq!(short(&value).as_deref(), said, "{value}");
        }
    }
}
