//! Descriptions of data sets that are other trainers' than musubi-tuner.

use toml::{Table, Value};

use crate::shown;

/// What a description is that is another trainer's: the field that tells, and what it is and what to give
/// instead.
pub(super) fn table(text: &str) -> Option<(&'static str, String)> {
    let table: Table = text.parse().ok()?;
    let of = |table: &Table, key: &str| -> Vec<Table> {
        let own = table.get(key).and_then(Value::as_array).into_iter().flatten();
        own.filter_map(Value::as_table).cloned().collect()
    };
    let subsets: Vec<Table> = of(&table, "datasets").iter().flat_map(|own| of(own, "subsets")).collect();
    let directories = of(&table, "directory");
    let told = |trainer: &str, folders: &[Table], key: &str| {
        let named = |folder: &Table| folder.get(key).and_then(Value::as_str).map(|own| shown(own.as_ref()));
        let folders: Vec<String> = folders.iter().filter_map(named).collect();
        let folders = match folders.as_slice() {
            [] => String::new(),
            own => format!(" ({})", own.join(", ")),
        };
        format!(
            "a data set of {trainer}, which is not read; give the folder of its pictures{folders} as --subject"
        )
    };
    if !subsets.is_empty() {
        let classes = subsets.iter().filter_map(|own| own.get("class_tokens").and_then(Value::as_str));
        let class =
            classes.map(|own| format!(", and of its class_tokens {own:?} the noun as --class")).next();
        let told = told("kohya's sd-scripts", &subsets, "image_dir");
        return Some(("datasets.subsets", told + &class.unwrap_or_default()));
    }
    (!directories.is_empty()).then(|| ("directory", told("diffusion-pipe", &directories, "path")))
}
