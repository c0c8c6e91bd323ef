//! Where files state the scale of their residuals, beside the scalars of their tensors: peft's configuration,
//! in the header or beside the file, the fields of trainers, however they spell them, and diffusion-pipe's
//! settings beside the file.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use regex::Regex;
use serde_json::{Map, Value};
use understudy_engine::text;
use understudy_pipeline::wrapped::bare;
use understudy_pipeline::{TEXT_ENCODER, network_of};

use crate::metadata::PEFT;

/// peft's configuration of an adapter, beside its tensors.
pub(crate) const PEFT_CONFIG: &str = "adapter_config.json";
/// Fields that state an alpha, first the most explicit, as [`plain`] has their names. The last is one only
/// beside a rank.
const ALPHAS: [&str; 8] = [
    "loraalpha",
    "ssnetworkalpha",
    "networkalpha",
    "linearalpha",
    "loranetworkalpha",
    "adapteralpha",
    "lycorisalpha",
    ALPHA,
];
const ALPHA: &str = "alpha";
/// Fields that state alpha / rank itself, which peft calls the scaling.
const FACTORS: [&str; 3] = ["lorascaling", "adapterscaling", "networkscaling"];
/// Fields that may state it, or how strong somebody advises the adapter to be used.
const UNCLEAR: [&str; 6] = ["scale", "scaling", "lorascale", "adapterscale", "networkscale", "alphascale"];
/// Fields that state the rank that an alpha is for.
const RANKS: [&str; 10] = [
    "r",
    "rank",
    "lorarank",
    "lorar",
    "ssnetworkdim",
    "networkdim",
    "networkrank",
    "linear",
    "loradim",
    "dim",
];
/// Flags of rank-stabilized scaling, alpha / sqrt(rank).
const STABILIZED: [&str; 4] = ["userslora", "rslora", "rankstabilized", "rankstabilizedlora"];
/// Fields with arguments of a trainer's network, which count as fields beside them.
const ARGUMENTS: [&str; 2] = ["ssnetworkargs", "networkargs"];
/// What peft takes for an alpha that is not stated.
const PEFT_ALPHA: f64 = 8.0;
/// What a pattern has in it that is no plain name.
const REGEX: [char; 13] = ['^', '$', '*', '+', '?', '(', ')', '[', ']', '{', '}', '|', '\\'];
/// Ways to start a LoRA that change the base's weights as well, which only a converted file leaves as they
/// are.
const CHANGED_BASES: [&str; 4] = ["pissa", "olora", "corda", "loftq"];

/// Fields by their plain names.
type Fields = Map<String, Value>;

/// What a field states.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stated {
    Alpha(&'static str),
    /// alpha / rank.
    Factor(&'static str),
}

impl Stated {
    fn field(self) -> &'static str {
        match self {
            Self::Alpha(field) | Self::Factor(field) => field,
        }
    }
}

/// One place that states the scale of residuals.
#[derive(Clone, Debug)]
pub(crate) struct Statement {
    /// What to call the place: `lora_adapter_metadata`, `adapter_config.json`, `the header's lora_alpha`.
    pub(crate) place: String,
    /// The field as it is spelt there.
    name: String,
    fields: Fields,
    stated: Stated,
    /// The network that it is about alone, if that is not the denoiser.
    network: Option<&'static str>,
}

/// All statements of a file, first those that count most, and what is to be said of those that cannot be
/// used.
#[derive(Debug, Default)]
pub(crate) struct Statements {
    pub(crate) all: Vec<Statement>,
    pub(crate) notes: Vec<String>,
    /// Fields that may state a scale: where, and which.
    unclear: BTreeMap<String, f64>,
    /// Where rank-stabilized scaling is stated.
    stabilized: Option<String>,
}

impl Statements {
    /// Those of the file at `path` with this header.
    ///
    /// # Errors
    /// When peft's configuration, which says what the tensors are, is malformed.
    pub(crate) fn of(path: Option<&Path>, header: &BTreeMap<String, String>) -> Result<Self, String> {
        let mut found = Self::default();
        if let Some(text) = header.get(PEFT) {
            found.add_peft(PEFT, text, &format!("metadata {PEFT}"))?;
        }
        if let Some(text) = path.map(peft_beside).transpose()?.flatten() {
            found.add_peft(PEFT_CONFIG, &text, &format!("{PEFT_CONFIG} beside it"))?;
        }
        found.add_flat(header);
        for (name, text) in header.iter().filter(|(name, _)| !is_own(name)) {
            found.add_nested(&format!("the header's {name}"), &parsed(text), is_adapter(name), 0);
        }
        for file in path.map(settings_beside).unwrap_or_default() {
            found.add_settings(&file);
        }
        Ok(found)
    }

    fn add_peft(&mut self, place: &str, text: &str, name: &str) -> Result<(), String> {
        let text = text.trim_start_matches('\u{feff}');
        let all: Map<String, Value> =
            serde_json::from_str(text).map_err(|error| format!("{name}: {error}"))?;
        // diffusers has the configurations of all networks in one.
        let of_text = |(field, value): (&String, &Value)| {
            Some((field.strip_prefix(TEXT_ENCODER)?.strip_prefix('.')?.to_owned(), value.clone()))
        };
        let own: Map<String, Value> = all.iter().filter_map(of_text).collect();
        let others: Map<String, Value> =
            all.into_iter().filter(|own| of_text((&own.0, &own.1)).is_none()).collect();
        if !own.is_empty() {
            self.add_peft_of(place, &own, name, Some(TEXT_ENCODER))?;
        }
        if own.is_empty() || !others.is_empty() {
            self.add_peft_of(place, &others, name, None)?;
        }
        Ok(())
    }

    fn add_peft_of(
        &mut self,
        place: &str,
        all: &Map<String, Value>,
        name: &str,
        network: Option<&'static str>,
    ) -> Result<(), String> {
        let mut fields = plain_fields(all);
        let other = fields.get("pefttype").and_then(Value::as_str).is_some_and(|kind| kind != "LORA");
        let alpha = if other { ALPHA } else { ALPHAS[0] };
        if fields.contains_key("pefttype") && !fields.contains_key(alpha) {
            fields.insert(alpha.to_owned(), PEFT_ALPHA.into());
        }
        let start = fields.get("initloraweights").and_then(Value::as_str).unwrap_or_default().to_lowercase();
        if let Some(start) = CHANGED_BASES.iter().find(|own| start.starts_with(**own)) {
            self.notes.push(format!(
                "{name} says init_lora_weights {start}: unless it was converted when it was saved, it belongs to a base with \
                 other weights, and on this one it is wrong"
            ));
        }
        for (field, own) in [("lora_alpha", ALPHAS[0]), (ALPHA, ALPHA), ("r", "r")] {
            if let Some(value) = fields.get(own).filter(|value| !value.is_null() && number(value).is_none()) {
                return Err(format!("{name}: {field} is {value}, not a number"));
            }
        }
        let name = if other { ALPHA } else { "lora_alpha" }.to_owned();
        let stated = Stated::Alpha(alpha);
        self.all.push(Statement { place: place.to_owned(), name, fields, stated, network });
        Ok(())
    }

    /// What fields of the header state, each with the fields that have the same prefix.
    fn add_flat(&mut self, header: &BTreeMap<String, String>) {
        let named = header.keys().filter(|name| !is_own(name) && !name.to_lowercase().contains("text_enc"));
        let names: Vec<(&String, String)> = named.map(|name| (name, plain(last(name)))).collect();
        let alphas = ALPHAS.into_iter().map(Stated::Alpha);
        for stated in alphas.chain(FACTORS.into_iter().map(Stated::Factor)) {
            for (name, _) in names.iter().filter(|(_, own)| own == stated.field()) {
                let prefix = &name[..name.len() - last(name).len()];
                let beside = header.iter().filter(|(other, _)| {
                    other.starts_with(prefix) && last(other).len() == other.len() - prefix.len()
                });
                let own = beside.map(|(other, value)| (last(other).to_owned(), parsed(value))).collect();
                let place = format!("the header's {name}");
                let name = last(name).to_owned();
                self.all.push(Statement { place, name, fields: plain_fields(&own), stated, network: None });
            }
        }
        for (name, own) in names {
            let value = parsed(&header[name]);
            if let Some(value) = number(&value).filter(|_| is_unclear(&own)) {
                self.unclear.insert(format!("the header's {name}"), value);
            }
            if self.stabilized.is_none() && is_stabilized(&plain_fields(&Map::from_iter([(own, value)]))) {
                self.stabilized = Some(format!("the header's {name}"));
            }
        }
    }

    /// What JSON states, at any depth; an `alpha` alone only below a name that is an adapter's.
    fn add_nested(&mut self, place: &str, value: &Value, adapter: bool, depth: usize) {
        const DEEPEST: usize = 6;
        if depth > DEEPEST {
            return;
        }
        if let Value::Array(items) = value {
            for (at, item) in items.iter().enumerate() {
                self.add_nested(&format!("{place}.{at}"), item, adapter, depth + 1);
            }
        }
        // JSON in JSON is found, too.
        if let Value::String(text) = value
            && depth > 0
            && let inner @ (Value::Object(_) | Value::Array(_)) = parsed(text)
        {
            self.add_nested(place, &inner, adapter, depth + 1);
        }
        let Value::Object(own) = value else { return };
        let fields = plain_fields(own);
        let ranked = RANKS.iter().any(|name| fields.contains_key(*name));
        let called = |plain_name: &str| own.keys().find(|name| plain(last(name)) == plain_name);
        let states = |name: &&str| fields.contains_key(*name) && (*name != ALPHA || ranked || adapter);
        let alpha = ALPHAS.into_iter().find(states).map(Stated::Alpha);
        // MLX states the factor itself so.
        let scale = place.ends_with("lora_parameters").then_some("scale");
        let factor = FACTORS.into_iter().chain(scale).find(|name| fields.contains_key(*name));
        if let Some(stated) = alpha.or(factor.map(Stated::Factor)) {
            let name = called(stated.field()).map_or(stated.field(), String::as_str).to_owned();
            self.all.push(Statement {
                place: format!("{place}.{name}"),
                name,
                fields: fields.clone(),
                stated,
                network: None,
            });
        }
        for (name, value) in own {
            let field = plain(last(name));
            let known = factor == Some(field.as_str());
            if let Some(value) = number(value).filter(|_| (adapter || ranked) && is_unclear(&field) && !known)
            {
                self.unclear.insert(format!("{place}.{name}"), value);
            }
            self.add_nested(&format!("{place}.{name}"), value, adapter || is_adapter(name), depth + 1);
        }
    }

    /// What a trainer's settings state: diffusion-pipe copies them beside what it saves, and its alpha is the
    /// rank.
    fn add_settings(&mut self, file: &Path) {
        let place = file.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let read = std::fs::read(file).map_err(|error| error.to_string());
        let table = read.and_then(|bytes| {
            let text = text::decoded(&bytes)?.into_owned();
            text.parse::<toml::Table>().map_err(|error| error.message().to_owned())
        });
        let settings = match table.map(serde_json::to_value) {
            Ok(Ok(Value::Object(settings))) => settings,
            Err(reason) => {
                let note = format!("{place} beside it cannot be read, and may state a scale: {reason}");
                return self.notes.push(note);
            }
            Ok(_) => return,
        };
        if let Some(Value::Object(adapter)) = settings.get("adapter") {
            let mut fields = plain_fields(adapter);
            if let (Some(rank), false) = (fields.get("rank").cloned(), fields.contains_key(ALPHA)) {
                fields.insert(ALPHA.to_owned(), rank);
                let (name, stated) = (ALPHA.to_owned(), Stated::Alpha(ALPHA));
                self.all.push(Statement { place, name, fields, stated, network: None });
                return;
            }
        }
        self.add_nested(&place, &Value::Object(settings), false, 0);
    }

    /// Leaves out what does not hold for residuals of these ranks, and says so.
    pub(crate) fn settle(&mut self, ranks: &BTreeSet<usize>) {
        let all = std::mem::take(&mut self.all);
        for own in all {
            let Some(stated) = own.fields.get(own.stated.field()).filter(|value| !is_absent(value)) else {
                self.all.extend(own.is_peft().then_some(own));
                continue;
            };
            let reason = match number(stated) {
                None => format!("{stated} is not a number"),
                Some(_) => match own.stated_rank() {
                    Some(rank) if !own.fits(rank, ranks) => {
                        format!(
                            "{} {stated} is for rank {rank}, and its residuals have {}",
                            own.name,
                            ranks_of(ranks)
                        )
                    }
                    _ => {
                        self.all.push(own);
                        continue;
                    }
                },
            };
            self.notes.push(format!(
                "the scale that {} states is not used: {reason}; --adapter FILE:WEIGHT weighs it",
                own.place
            ));
        }
        self.name_conflict(ranks);
        self.name_unclear(ranks);
    }

    /// Says where two statements differ, of which the first counts.
    fn name_conflict(&mut self, ranks: &BTreeSet<usize>) {
        let Some(rank) = ranks.first() else { return };
        let alpha = |own: &Statement| own.alpha(&[], *rank);
        let Some((first, used)) = self.all.iter().find_map(|own| Some((own, alpha(own)?))) else { return };
        let differs = |own: &&Statement| {
            let plain = !own.has_patterns() && !first.has_patterns();
            plain && alpha(own).is_some_and(|other| (other - used).abs() > 1e-5 * used.abs())
        };
        if let Some((other, stated)) = self.all.iter().find(differs).and_then(|own| Some((own, alpha(own)?)))
        {
            self.notes.push(format!(
                "{} states an alpha of {used} and {} one of {stated}: the first is used",
                first.place, other.place
            ));
        }
    }

    /// Says what may be a scale and is not used.
    fn name_unclear(&mut self, ranks: &BTreeSet<usize>) {
        let Some(&rank) = ranks.first() else { return };
        let alpha = self.alpha(&[], rank).map(|(alpha, _)| f64::from(alpha));
        let used = alpha.unwrap_or(rank as f64) / rank as f64;
        for (place, value) in &self.unclear {
            if (value - used).abs() > 1e-5 * used.abs() {
                self.notes.push(format!(
                    "{place} is {value}, which may be alpha / rank or a strength to use it with: it is not used, and the \
                     residuals are scaled by {used}; --adapter FILE:WEIGHT weighs them"
                ));
            }
        }
        if let (Some(place), None) = (&self.stabilized, alpha) {
            self.notes.push(format!(
                "{place} says rank-stabilized scaling, alpha / sqrt(rank), and no alpha is stated: the residuals are scaled by 1; \
                 --adapter FILE:WEIGHT weighs them"
            ));
        }
    }

    /// The alpha of a residual of this rank that is known by these names, and where it is stated.
    pub(crate) fn alpha(&self, names: &[&str], rank: usize) -> Option<(f32, &str)> {
        let network = names.first().and_then(|site| network_of(site).0);
        let about = |own: &&Statement| own.network.is_none_or(|own| Some(own) == network);
        self.all.iter().filter(about).find_map(|own| Some((own.alpha(names, rank)?, own.place.as_str())))
    }

    /// Whether peft's configuration says that weights are decomposed.
    pub(crate) fn decomposes(&self) -> bool {
        self.all.iter().any(|own| own.is_peft() && is_set(&own.fields, "usedora"))
    }

    /// What peft multiplies products of full matrices by, which other programs do not scale.
    pub(crate) fn factor_of_full(&self, names: &[&str]) -> Option<f32> {
        let own = self.all.iter().find(|own| own.is_peft() && own.stated == Stated::Alpha(ALPHA))?;
        let rank = own.pattern("rankpattern", names).or_else(|| own.fields.get("r")).and_then(number)?;
        Some(own.alpha(names, rank as usize)? / rank as f32)
    }
}

impl Statement {
    fn is_peft(&self) -> bool {
        [PEFT, PEFT_CONFIG].contains(&self.place.as_str())
    }

    fn stated_rank(&self) -> Option<usize> {
        RANKS.iter().find_map(|name| number(self.fields.get(*name)?)).map(|rank| rank as usize)
    }

    fn has_patterns(&self) -> bool {
        ["alphapattern", "rankpattern"].iter().any(|name| {
            self.fields.get(*name).and_then(Value::as_object).is_some_and(|patterns| !patterns.is_empty())
        })
    }

    /// Whether a residual of the stated rank is there, or one of a rank that is stated for some.
    fn fits(&self, rank: usize, ranks: &BTreeSet<usize>) -> bool {
        ranks.is_empty() || ranks.contains(&rank) || self.has_patterns()
    }

    /// What a table of patterns says of a module of these names; as peft, which matches the end of a name.
    fn pattern(&self, table: &str, names: &[&str]) -> Option<&Value> {
        let matches = |pattern: &str| {
            let ends = |name: &&str| *name == pattern || name.ends_with(&format!(".{pattern}"));
            if names.iter().any(ends) || !pattern.contains(REGEX) {
                return names.iter().any(ends);
            }
            let regex = Regex::new(&format!(r"^(.*\.)?({pattern})$"));
            regex.is_ok_and(|regex| names.iter().any(|name| regex.is_match(name)))
        };
        let own = |pattern: &str| matches(pattern.strip_prefix("transformer.").unwrap_or(pattern));
        let patterns = self.fields.get(table).and_then(Value::as_object)?;
        patterns.iter().find(|(pattern, _)| own(pattern)).map(|(_, value)| value)
    }

    /// The alpha of a residual of this rank; with rank-stabilized scaling, the alpha that scales alike.
    fn alpha(&self, names: &[&str], rank: usize) -> Option<f32> {
        let own = self.pattern("alphapattern", names);
        let stated = own.or_else(|| self.fields.get(self.stated.field())).and_then(number)? as f32;
        Some(match self.stated {
            Stated::Factor(_) => stated * rank as f32,
            Stated::Alpha(_) if is_stabilized(&self.fields) => stated * (rank as f32).sqrt(),
            Stated::Alpha(_) => stated,
        })
    }
}

/// What lies beside an adapter that has the name that trainers give each of their adapters, or that lies
/// alone in its folder.
fn folder_of(path: &Path) -> Option<&Path> {
    let folder = path.parent().unwrap_or(Path::new("."));
    let folder = if folder.as_os_str().is_empty() { Path::new(".") } else { folder };
    let named = path.file_stem().is_some_and(|stem| stem == "adapter_model");
    (named || super::file::adapters_in(folder).len() == 1).then_some(folder)
}

/// peft's configuration beside an adapter.
fn peft_beside(path: &Path) -> Result<Option<String>, String> {
    let Some(config) = folder_of(path).map(|folder| folder.join(PEFT_CONFIG)).filter(|own| own.is_file())
    else {
        return Ok(None);
    };
    let bytes =
        std::fs::read(&config).map_err(|error| format!("{PEFT_CONFIG} beside it cannot be read: {error}"))?;
    match text::decoded(&bytes) {
        Ok(text) if !text.contains('\0') => Ok(Some(text.into_owned())),
        // A NUL is half a letter of UTF-16 without a mark.
        _ => Err(format!(
            "{PEFT_CONFIG} beside it is neither UTF-8 nor UTF-16 with a byte order mark; save it as UTF-8"
        )),
    }
}

/// The settings of a trainer beside an adapter.
fn settings_beside(path: &Path) -> Vec<PathBuf> {
    let Some(entries) = folder_of(path).and_then(|folder| std::fs::read_dir(folder).ok()) else {
        return Vec::new();
    };
    let mut found: Vec<PathBuf> = entries.filter_map(|entry| Some(entry.ok()?.path())).collect();
    found.retain(|path| path.is_file() && path.extension().is_some_and(|end| end == "toml"));
    found.sort();
    found
}

/// Whether a field of the header is this program's own, or read elsewhere.
fn is_own(name: &str) -> bool {
    name == PEFT || name == "understudy" || name.starts_with("understudy.")
}

/// Whether what is below a field of this name is about an adapter.
fn is_adapter(name: &str) -> bool {
    let name = name.to_lowercase();
    ["lora", "network", "adapter", "peft", "lokr", "loha", "lycoris"].iter().any(|word| name.contains(word))
}

/// Whether a field of this plain name may state a scale, and is none that is read.
fn is_unclear(name: &str) -> bool {
    let read = ALPHAS.contains(&name) || FACTORS.contains(&name);
    let scale = name.contains("alpha") || name.contains("scal");
    UNCLEAR.contains(&name) || (!read && scale && is_adapter(name) && !name.contains("pattern"))
}

/// The last part of a field's name: `lora_alpha` of `transformer.lora_alpha`.
fn last(name: &str) -> &str {
    name.rsplit(['.', '/', ':']).next().unwrap_or(name)
}

/// A field's name however it is spelt: `loraalpha` of `LoRA_Alpha`, `lora-alpha` and `loraAlpha`.
fn plain(name: &str) -> String {
    name.to_lowercase().replace(['_', '-', ' '], "")
}

/// Fields by their plain names, without the component that diffusers puts before each, and the arguments of a
/// network among them.
fn plain_fields(fields: &Map<String, Value>) -> Fields {
    let mut all: Fields = fields.iter().map(|(name, value)| (plain(&bare(name)), value.clone())).collect();
    for arguments in ARGUMENTS.iter().filter_map(|name| all.get(*name).cloned()).collect::<Vec<_>>() {
        for (name, value) in pairs(&arguments) {
            all.entry(plain(&name)).or_insert(value);
        }
    }
    all
}

/// Arguments as an object has them, or as a list or line of `name=value`.
fn pairs(arguments: &Value) -> Vec<(String, Value)> {
    let split = |text: &str| {
        let (name, value) = text.trim_matches(['"', '\'']).split_once('=')?;
        Some((name.to_owned(), Value::String(value.trim_matches(['"', '\'']).to_owned())))
    };
    match arguments {
        Value::Object(all) => all.iter().map(|(name, value)| (name.clone(), value.clone())).collect(),
        Value::Array(all) => all.iter().filter_map(Value::as_str).filter_map(split).collect(),
        Value::String(text) => text.split_whitespace().filter_map(split).collect(),
        _ => Vec::new(),
    }
}

fn is_set(fields: &Fields, name: &str) -> bool {
    match fields.get(name) {
        Some(Value::Bool(set)) => *set,
        Some(Value::String(text)) => ["true", "1", "yes"].contains(&text.trim().to_lowercase().as_str()),
        Some(Value::Number(number)) => number.as_f64() == Some(1.0),
        _ => false,
    }
}

fn is_stabilized(fields: &Fields) -> bool {
    STABILIZED.iter().any(|name| is_set(fields, name))
}

fn number(value: &Value) -> Option<f64> {
    let number = match value {
        Value::Number(number) => number.as_f64(),
        Value::String(text) => text.trim().parse().ok(),
        _ => None,
    };
    number.filter(|number| number.is_finite())
}

/// Whether a field is there and says nothing.
fn is_absent(value: &Value) -> bool {
    let empty = |text: &str| ["", "none", "null"].contains(&text.trim().to_lowercase().as_str());
    value.is_null() || value.as_str().is_some_and(empty)
}

fn ranks_of(ranks: &BTreeSet<usize>) -> String {
    ranks.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

/// A text as the JSON it is, if it is an object or a list, and as a text otherwise.
fn parsed(text: &str) -> Value {
    let json = text.trim_start().starts_with(['{', '[']).then(|| serde_json::from_str(text).ok()).flatten();
    json.unwrap_or_else(|| Value::String(text.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settled(fields: &[(&str, &str)], ranks: &[usize]) -> Statements {
        let header = fields.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        let mut found = Statements::of(None, &header).unwrap();
        found.settle(&ranks.iter().copied().collect());
        found
    }

    #[test]
    fn a_scale_is_found_wherever_a_header_states_it() {
        for (fields, alpha, place) in [
            (&[("lora_alpha", "8"), ("r", "4")][..], 8.0, "lora_alpha"),
            (&[("transformer.lora_alpha", "8"), ("transformer.r", "4")], 8.0, "transformer.lora_alpha"),
            (&[("ss_network_alpha", "2.0"), ("ss_network_dim", "4")], 2.0, "ss_network_alpha"),
            (&[("rank", "4"), ("alpha", "6")], 6.0, "alpha"),
            (&[("lora_alpha", "8"), ("r", "4"), ("use_rslora", "True")], 16.0, "lora_alpha"),
            (
                &[(
                    "training_info",
                    r#"{"step": 9, "network": {"type": "lora", "linear": 4, "linear_alpha": 8}}"#,
                )],
                8.0,
                "training_info.network.linear_alpha",
            ),
            (&[("config", r#"{"adapter": {"type": "lora", "alpha": 2}}"#)], 2.0, "config.adapter.alpha"),
            (&[("networks", r#"[{"rank": 4, "alpha": 12}]"#)], 12.0, "networks.0.alpha"),
            (
                &[("meta", r#"{"peft_config": "{\"r\": 4, \"lora_alpha\": 8}"}"#)],
                8.0,
                "meta.peft_config.lora_alpha",
            ),
            (&[("LoRA_Alpha", "8"), ("LoRA_Rank", "4")], 8.0, "LoRA_Alpha"),
            (&[("loraAlpha", "8"), ("lora-rank", "4")], 8.0, "loraAlpha"),
            (&[("network_alpha", "2"), ("network_dim", "4")], 2.0, "network_alpha"),
            (&[("lora_scaling", "2.0")], 8.0, "lora_scaling"),
            (&[("lora_scaling", "2.0"), ("lora_alpha", "8"), ("lora_r", "4")], 8.0, "lora_alpha"),
            (&[("rank", "4"), ("alpha", "8"), ("scale", "2.0")], 8.0, "alpha"),
            (&[("mlx", r#"{"lora_parameters": {"rank": 4, "scale": 20}}"#)], 80.0, "lora_parameters.scale"),
            (
                &[
                    ("ss_network_alpha", "8"),
                    ("ss_network_dim", "4"),
                    ("ss_network_args", r#"{"algo": "lora", "rs_lora": "True"}"#),
                ],
                16.0,
                "ss_network_alpha",
            ),
            (&[("network_alpha", "8"), ("network_args", r#"["rs_lora=True"]"#)], 16.0, "network_alpha"),
            (&[("lora_alpha", "8"), ("alpha_pattern", r#"{"attn1.to_q": 2}"#)], 2.0, "lora_alpha"),
            (&[("lora_adapter_metadata", r#"{"transformer.lora_alpha": 3, "transformer.r": 4}"#)], 3.0, PEFT),
        ] {
            let found = settled(fields, &[4]);
            let (value, said) = found.alpha(&["blocks.0.attn1.to_q"], 4).unwrap();
            assert!(value == alpha && said.ends_with(place), "{value} {said}");
            assert!(found.notes.is_empty(), "{:?}", found.notes);
        }
        for fields in [
            &[("r", "4")][..],
            &[("lora_alpha", "None")],
            &[("understudy", r#"{"rank": 4, "alpha": 2}"#)],
            &[("training", r#"{"ema": {"alpha": 0.9}}"#)],
            &[("note", "{ not json")],
            &[("scale", "1"), ("ss_scale_weight_norms", "5.0"), ("guidance_scale", "4")],
            &[("text_encoder.lora_alpha", "64"), ("text_encoder.r", "4")],
        ] {
            let found = settled(fields, &[4]);
            assert!(found.alpha(&["x"], 4).is_none() && found.notes.is_empty(), "{found:?}");
        }
    }

    #[test]
    fn a_scale_that_cannot_be_used_is_named() {
        let found = settled(&[("lora_alpha", "8"), ("r", "8")], &[4]);
        assert!(found.alpha(&[], 4).is_none());
        assert!(
            found.notes[0].contains("lora_alpha") && found.notes[0].contains("for rank 8"),
            "{:?}",
            found.notes
        );
        let found = settled(&[("lora_alpha", "eight")], &[4]);
        assert!(found.alpha(&[], 4).is_none() && found.notes[0].contains("eight"), "{:?}", found.notes);
        let found = settled(&[("lora_alpha", "8"), ("ss_network_alpha", "2")], &[4]);
        assert_eq!(found.alpha(&[], 4).unwrap().0, 8.0);
        assert!(found.notes[0].contains("ss_network_alpha one of 2"), "{:?}", found.notes);
        for (fields, parts) in [
            (&[("scale", "2")][..], ["the header's scale is 2", "scaled by 1;"]),
            (&[("rank", "4"), ("alpha", "8"), ("lora_scale", "0.7")], ["lora_scale is 0.7", "scaled by 2;"]),
            (&[("network", r#"{"dim": 4, "scaling": 3}"#)], ["network.scaling is 3", "scaled by 1;"]),
            (&[("custom_lora_alpha_value", "3")], ["custom_lora_alpha_value is 3", "scaled by 1;"]),
            (&[("ss_network_args", r#"{"rs_lora": true}"#)], ["ss_network_args says rank-stab", "no alpha"]),
        ] {
            let found = settled(fields, &[4]);
            assert!(
                found.notes.len() == 1 && parts.iter().all(|part| found.notes[0].contains(part)),
                "{:?}",
                found.notes
            );
        }
        let header = BTreeMap::from([(PEFT.to_owned(), r#"{"lora_alpha": "x"}"#.to_owned())]);
        assert!(Statements::of(None, &header).unwrap_err().contains("lora_alpha"));
    }

    #[test]
    fn configurations_beside_a_file_are_read() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("adapter_model.safetensors");
        let found = |name: &str, bytes: &[u8]| {
            std::fs::write(folder.path().join(name), bytes).unwrap();
            let found = Statements::of(Some(&path), &BTreeMap::new()).map(|mut found| {
                found.settle(&BTreeSet::from([4]));
                found
            });
            std::fs::remove_file(folder.path().join(name)).unwrap();
            found
        };
        let alpha = |name: &str, bytes: &[u8]| {
            let found = found(name, bytes).unwrap();
            assert!(found.notes.is_empty(), "{:?}", found.notes);
            found.alpha(&[], 4).map(|(alpha, place)| (alpha, place.to_owned()))
        };
        let wide = |text: &str| -> Vec<u8> { text.encode_utf16().flat_map(u16::to_le_bytes).collect() };
        let text = r#"{"peft_type": "LORA", "r": 4, "lora_alpha": 2}"#;
        for bytes in [
            text.as_bytes().to_vec(),
            format!("\u{feff}{text}").into_bytes(),
            wide(&format!("\u{feff}{text}")),
        ] {
            assert_eq!(alpha(PEFT_CONFIG, &bytes), Some((2.0, PEFT_CONFIG.to_owned())));
        }
        let refused = found(PEFT_CONFIG, &wide(text)).unwrap_err();
        assert!(refused.contains("adapter_config.json") && refused.contains("save it as UTF-8"), "{refused}");

        let place = |name: &str| name.to_owned();
        // diffusion-pipe's alpha is its rank.
        let own = "[model]\ntype = 'wan'\n[adapter]\ntype = 'lora'\nrank = 4\n";
        assert_eq!(alpha("wan.toml", own.as_bytes()), Some((4.0, place("wan.toml"))));
        let own = "[adapter]\nrank = 4\nalpha = 8\n";
        assert_eq!(alpha("a.toml", own.as_bytes()), Some((8.0, place("a.toml.adapter.alpha"))));
        let own = "network_dim = 4\nnetwork_alpha = 2\nnetwork_args = ['rs_lora=True']\n";
        assert_eq!(alpha("a.toml", own.as_bytes()), Some((4.0, place("a.toml.network_alpha"))));
        let said = found("a.toml", b"[adapter").unwrap().notes.join("; ");
        assert!(said.contains("a.toml beside it cannot be read"), "{said}");
        let said = found("a.toml", b"[adapter]\nrank = 16\n").unwrap().notes.join("; ");
        assert!(said.contains("a.toml") && said.contains("for rank 16"), "{said}");
    }

    #[test]
    fn patterns_match_as_pefts() {
        let text = r#"{"peft_type": "LORA", "r": 4, "lora_alpha": 8, "alpha_pattern":
            {"attn1.to_q": 1, "^blocks\\.1\\..*to_v": 2, "transformer.blocks.0.ffn.net.2": 3}}"#;
        let found = settled(&[(PEFT, text)], &[4]);
        let alpha = |name: &str| found.alpha(&[name], 4).unwrap().0;
        let names =
            ["blocks.0.attn1.to_q", "blocks.1.attn2.to_v", "blocks.0.ffn.net.2", "blocks.0.attn2.to_v"];
        assert_eq!(names.map(alpha), [1.0, 2.0, 3.0, 8.0]);
        // What peft takes where nothing is stated.
        assert_eq!(
            settled(&[(PEFT, r#"{"peft_type": "LORA", "r": 4}"#)], &[4]).alpha(&[], 4).unwrap().0,
            8.0
        );
    }
}
