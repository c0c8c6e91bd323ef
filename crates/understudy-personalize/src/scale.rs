//! Where files state the scale of their residuals, beside the scalars of their tensors: peft's configuration, in the
//! header or beside the file, and the fields of trainers.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use regex::Regex;
use serde_json::{Map, Value};

use crate::metadata::PEFT;

/// peft's configuration of an adapter, beside its tensors.
pub(crate) const PEFT_CONFIG: &str = "adapter_config.json";
/// Fields that state an alpha, first the most explicit. The last is one only beside a rank.
const ALPHAS: [&str; 6] =
    ["lora_alpha", "ss_network_alpha", "network_alpha", "linear_alpha", "lora_network_alpha", "alpha"];
/// Fields that state the rank that an alpha is for.
const RANKS: [&str; 9] =
    ["r", "rank", "lora_rank", "lora_r", "ss_network_dim", "network_dim", "linear", "lora_dim", "dim"];
/// What peft takes for an alpha that is not stated.
const PEFT_ALPHA: f64 = 8.0;
/// What a pattern has in it that is no plain name.
const REGEX: [char; 13] = ['^', '$', '*', '+', '?', '(', ')', '[', ']', '{', '}', '|', '\\'];
/// Ways to start a LoRA that change the base's weights as well, which only a converted file leaves as they are.
const CHANGED_BASES: [&str; 4] = ["pissa", "olora", "corda", "loftq"];

/// One place that states the scale of residuals.
#[derive(Clone, Debug)]
pub(crate) struct Statement {
    /// What to call the place: `lora_adapter_metadata`, `adapter_config.json`, `the header's lora_alpha`.
    pub(crate) place: String,
    fields: Map<String, Value>,
    /// The field of the alpha.
    alpha: &'static str,
}

/// All statements of a file, first those that count most, and what is to be said of those that cannot be used.
#[derive(Debug, Default)]
pub(crate) struct Statements {
    pub(crate) all: Vec<Statement>,
    pub(crate) notes: Vec<String>,
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
        if let Some(text) = path.map(beside).transpose()?.flatten() {
            found.add_peft(PEFT_CONFIG, &text, &format!("{PEFT_CONFIG} beside it"))?;
        }
        found.all.extend(flat(header));
        for (name, text) in header.iter().filter(|(name, _)| !is_own(name)) {
            nested(name, &parsed(text), is_adapter(name), 0, &mut found.all);
        }
        Ok(found)
    }

    fn add_peft(&mut self, place: &str, text: &str, name: &str) -> Result<(), String> {
        let text = text.trim_start_matches('\u{feff}');
        let all: Map<String, Value> =
            serde_json::from_str(text).map_err(|error| format!("{name}: {error}"))?;
        let mut fields: Map<String, Value> =
            all.into_iter().map(|(name, value)| (bare(&name).to_owned(), value)).collect();
        let other = fields.get("peft_type").and_then(Value::as_str).is_some_and(|kind| kind != "LORA");
        let alpha = if other { "alpha" } else { "lora_alpha" };
        if fields.contains_key("peft_type") && !fields.contains_key(alpha) {
            fields.insert(alpha.to_owned(), PEFT_ALPHA.into());
        }
        let start =
            fields.get("init_lora_weights").and_then(Value::as_str).unwrap_or_default().to_lowercase();
        if let Some(start) = CHANGED_BASES.iter().find(|own| start.starts_with(**own)) {
            self.notes.push(format!(
                "{name} says init_lora_weights {start}: unless it was converted when it was saved, it belongs to a base with \
                 other weights, and on this one it is wrong"
            ));
        }
        for field in ["lora_alpha", "alpha", "r"] {
            if let Some(value) = fields.get(field).filter(|value| !value.is_null() && number(value).is_none())
            {
                return Err(format!("{name}: {field} is {value}, not a number"));
            }
        }
        self.all.push(Statement { place: place.to_owned(), fields, alpha });
        Ok(())
    }

    /// Leaves out what does not hold for residuals of these ranks, and says so.
    pub(crate) fn settle(&mut self, ranks: &BTreeSet<usize>) {
        let all = std::mem::take(&mut self.all);
        for own in all {
            let Some(stated) = own.fields.get(own.alpha).filter(|value| !is_absent(value)) else {
                self.all.extend(own.is_peft().then_some(own));
                continue;
            };
            let reason = match number(stated) {
                None => format!("{stated} is not a number"),
                Some(_) => match own.stated_rank() {
                    Some(rank) if !own.fits(rank, ranks) => {
                        format!(
                            "{} {stated} is for rank {rank}, and its residuals have {}",
                            own.alpha,
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
    }

    /// Says where two statements differ, of which the first counts.
    fn name_conflict(&mut self, ranks: &BTreeSet<usize>) {
        let Some(rank) = ranks.first() else { return };
        let alpha = |own: &Statement| own.alpha(&[], *rank);
        let Some((first, used)) = self.all.iter().find_map(|own| Some((own, alpha(own)?))) else { return };
        let differs = |own: &&Statement| {
            !own.has_patterns() && !first.has_patterns() && alpha(own).is_some_and(|other| other != used)
        };
        if let Some((other, stated)) = self.all.iter().find(differs).and_then(|own| Some((own, alpha(own)?)))
        {
            self.notes.push(format!(
                "{} states an alpha of {used} and {} one of {stated}: the first is used",
                first.place, other.place
            ));
        }
    }

    /// The alpha of a residual of this rank that is known by these names, and where it is stated.
    pub(crate) fn alpha(&self, names: &[&str], rank: usize) -> Option<(f32, &str)> {
        self.all.iter().find_map(|own| Some((own.alpha(names, rank)?, own.place.as_str())))
    }

    /// Whether peft's configuration says that weights are decomposed.
    pub(crate) fn decomposes(&self) -> bool {
        self.all.iter().any(|own| own.is_peft() && own.flag("use_dora"))
    }

    /// What peft multiplies products of full matrices by, which other programs do not scale.
    pub(crate) fn factor_of_full(&self, names: &[&str]) -> Option<f32> {
        let own = self.all.iter().find(|own| own.is_peft() && own.alpha == "alpha")?;
        let rank = own.pattern("rank_pattern", names).or_else(|| own.fields.get("r")).and_then(number)?;
        Some(own.alpha(names, rank as usize)? / rank as f32)
    }
}

impl Statement {
    fn is_peft(&self) -> bool {
        [PEFT, PEFT_CONFIG].contains(&self.place.as_str())
    }

    fn flag(&self, name: &str) -> bool {
        match self.fields.get(name) {
            Some(Value::Bool(set)) => *set,
            Some(Value::String(text)) => text.eq_ignore_ascii_case("true"),
            _ => false,
        }
    }

    fn stated_rank(&self) -> Option<usize> {
        RANKS.iter().find_map(|name| number(self.fields.get(*name)?)).map(|rank| rank as usize)
    }

    fn has_patterns(&self) -> bool {
        ["alpha_pattern", "rank_pattern"].iter().any(|name| {
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
        let patterns = self.fields.get(table).and_then(Value::as_object)?;
        patterns.iter().find(|(pattern, _)| matches(bare(pattern))).map(|(_, value)| value)
    }

    /// The alpha of a residual of this rank; with rank-stabilized scaling, the alpha that scales alike.
    fn alpha(&self, names: &[&str], rank: usize) -> Option<f32> {
        let own = self.pattern("alpha_pattern", names);
        let alpha = own.or_else(|| self.fields.get(self.alpha)).and_then(number)? as f32;
        Some(if self.flag("use_rslora") { alpha * (rank as f32).sqrt() } else { alpha })
    }
}

/// peft's configuration beside an adapter that has peft's name, or that lies alone with it.
fn beside(path: &Path) -> Result<Option<String>, String> {
    let folder = path.parent().unwrap_or(Path::new("."));
    let config = folder.join(PEFT_CONFIG);
    let named = path.file_stem().is_some_and(|stem| stem == "adapter_model");
    if !config.is_file() || !(named || super::file::adapters_in(folder).len() == 1) {
        return Ok(None);
    }
    let bytes =
        std::fs::read(&config).map_err(|error| format!("{PEFT_CONFIG} beside it cannot be read: {error}"))?;
    let text = String::from_utf8(bytes)
        .map_err(|_| format!("{PEFT_CONFIG} beside it is not UTF-8; save it as UTF-8"))?;
    Ok(Some(text))
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

/// The last part of a field's name: `lora_alpha` of `transformer.lora_alpha`.
fn last(name: &str) -> &str {
    name.rsplit(['.', '/', ':']).next().unwrap_or(name)
}

/// A field's or a pattern's name without the component that diffusers puts before it.
fn bare(name: &str) -> &str {
    name.strip_prefix("transformer.").unwrap_or(name)
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

/// What fields of the header state, each alpha with the fields that have the same prefix.
fn flat(header: &BTreeMap<String, String>) -> Vec<Statement> {
    let mut found = Vec::new();
    for alpha in ALPHAS {
        for name in header.keys().filter(|name| !is_own(name) && last(name) == alpha) {
            let prefix = name.strip_suffix(alpha).unwrap_or_default();
            let own = header.iter().filter_map(|(name, value)| Some((name.strip_prefix(prefix)?, value)));
            let fields = own.map(|(name, value)| (name.to_owned(), parsed(value))).collect();
            found.push(Statement { place: format!("the header's {name}"), fields, alpha });
        }
    }
    found
}

/// A text as the JSON it is, if it is an object or a list, and as a text otherwise.
fn parsed(text: &str) -> Value {
    let json = text.trim_start().starts_with(['{', '[']).then(|| serde_json::from_str(text).ok()).flatten();
    json.unwrap_or_else(|| Value::String(text.to_owned()))
}

/// What JSON in a field of the header states, at any depth; an `alpha` alone only below a name that is an adapter's.
fn nested(place: &str, value: &Value, adapter: bool, depth: usize, found: &mut Vec<Statement>) {
    const DEEPEST: usize = 6;
    if depth > DEEPEST {
        return;
    }
    if let Value::Array(items) = value {
        items
            .iter()
            .enumerate()
            .for_each(|(at, item)| nested(&format!("{place}.{at}"), item, adapter, depth + 1, found));
    }
    // JSON in JSON is found, too.
    if let Value::String(text) = value
        && depth > 0
        && let inner @ (Value::Object(_) | Value::Array(_)) = parsed(text)
    {
        nested(place, &inner, adapter, depth + 1, found);
    }
    let Value::Object(fields) = value else { return };
    let ranked = RANKS.iter().any(|name| fields.contains_key(*name));
    let states = |name: &&&str| fields.contains_key(**name) && (**name != "alpha" || ranked || adapter);
    if let Some(&alpha) = ALPHAS.iter().find(states) {
        found.push(Statement {
            place: format!("the header's {place}.{alpha}"),
            fields: fields.clone(),
            alpha,
        });
    }
    for (name, inner) in fields {
        nested(&format!("{place}.{name}"), inner, adapter || is_adapter(name), depth + 1, found);
    }
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
        let header = BTreeMap::from([(PEFT.to_owned(), r#"{"lora_alpha": "x"}"#.to_owned())]);
        assert!(Statements::of(None, &header).unwrap_err().contains("lora_alpha"));
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
