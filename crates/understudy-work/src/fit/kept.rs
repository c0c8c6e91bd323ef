//! The settings of a run, kept beside it, so that a run that goes on with others can be told what they are.

use std::collections::BTreeSet;
use std::io::ErrorKind;
use std::path::Path;

use anyhow::{Result, bail};
use toml::{Table, Value};
use understudy_engine::error::WeightError;
use understudy_engine::safetensors::write_atomically;
use understudy_files::{seal, unseal};
use understudy_personalize::{Subject, numbered};

/// The file of the settings.
const SETTINGS: &str = "settings.toml";
/// The settings of the motion stage, and its folder.
const MOTION: &str = "motion";

/// Keeps the settings of the run in `folder`, or finds out that those of the run there were others. `tell`
/// hears of damage.
///
/// # Errors
/// When they were; when the file cannot be written.
pub fn keep(settings: &Table, subjects: &[Subject], folder: &Path, tell: impl FnMut(&str)) -> Result<()> {
    let settings = check(settings, subjects, folder, tell)?;
    std::fs::create_dir_all(folder).map_err(|error| WeightError::Io {
        action: "create",
        path: folder.to_owned(),
        error,
    })?;
    Ok(write_atomically(&folder.join(SETTINGS), seal(&settings.to_string()).as_bytes())?)
}

/// Finds out whether the settings of the run in `folder`, if there is one, were others. Returns those that a
/// run with `settings` keeps; `tell` hears of damage.
///
/// # Errors
/// When they were.
pub fn check(
    settings: &Table,
    subjects: &[Subject],
    folder: &Path,
    mut tell: impl FnMut(&str),
) -> Result<Table> {
    let path = folder.join(SETTINGS);
    let mut own = settings.clone();
    // Samples are looked at and not learned from.
    own.remove("samples");
    for (index, subject) in subjects.iter().enumerate() {
        let words = [("class", &subject.class), ("token", &subject.token)];
        let words = words.map(|(name, word)| (name.to_owned(), Value::String(word.clone())));
        own.insert(numbered("subject", index), Table::from_iter(words).into());
    }
    let found = match std::fs::read(&path) {
        Err(error) if error.kind() == ErrorKind::NotFound => None,
        read => Some(read.map_err(|error| WeightError::Io { action: "read", path: path.clone(), error })?),
    };
    let first = found.as_deref().and_then(unseal).and_then(|text| text.parse::<Table>().ok());
    if found.is_some() && first.is_none() {
        // The states know what they were made with as well, and refuse others.
        tell(&format!("{} is damaged or was edited; it is written again", path.display()));
    }
    if let Some(first) = first {
        // What was learned of the looks does not depend on how the motion will be learned.
        let begun = folder.join(MOTION).exists();
        let [now, then] =
            [&own, &first].map(|table| if begun { table.clone() } else { without_motion(table) });
        unchanged(&now, &then, folder)?;
    }
    Ok(own)
}

/// The same table with nothing said of the motion but that there is one.
fn without_motion(table: &Table) -> Table {
    let mut table = table.clone();
    if let Some(motion) = table.get_mut(MOTION) {
        *motion = Value::Boolean(true);
    }
    table
}

/// That settings are those of the run that is to go on.
fn unchanged(own: &Table, first: &Table, folder: &Path) -> Result<()> {
    let [own, first] = [own, first].map(|table| flattened("", table));
    let now: Vec<String> = own.difference(&first).cloned().collect();
    let then: Vec<String> = first.difference(&own).cloned().collect();
    if now.is_empty() && then.is_empty() {
        return Ok(());
    }
    bail!(
        "--resume: the settings are now {}, and the run in {} has {}; give its settings, or another --out",
        now.join(", "),
        folder.display(),
        then.join(", ")
    )
}

/// The entries of a table, `group.name = value`, however deep.
fn flattened(group: &str, table: &Table) -> BTreeSet<String> {
    let entry = |(name, value): (&String, &Value)| match value {
        Value::Table(inner) => flattened(&format!("{group}{name}."), inner),
        value => BTreeSet::from([format!("{group}{name} = {value}")]),
    };
    table.iter().flat_map(entry).collect()
}
