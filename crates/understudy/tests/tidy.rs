//! Rules of the source that a reader relies on. Where one is broken for a reason, the reason stands here.
#![allow(clippy::unwrap_used)]

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// Columns of a comment.
const WIDTH: usize = 110;
/// Lines of a file, and of a function.
const FILE: usize = 600;
const FUNCTION: usize = 80;

/// Files that are longer.
const LONG_FILES: [(&str, &str); 3] = [
    ("understudy-personalize/src/methods/v_warper/warp.rs", "to be cut into the hook and its pictures"),
    ("understudy-personalize/src/scale.rs", "a third are its tests: every place a scale is stated in"),
    ("understudy-engine/src/safetensors.rs", "reading is in `checkpoint`; what is left is one format"),
];

/// Functions that are longer.
const LONG_FUNCTIONS: [(&str, &str); 8] = [
    ("backward_head", "one pass over tiles of a head; its steps share a dozen buffers"),
    ("forward", "the same (attention in bf16)"),
    ("operation", "a table of the pickle machine's operations, one line each"),
    ("gathered", "the loop nest of a convolution over AMX tiles"),
    ("matmul_tiles", "the loop nest of a product over panels"),
    ("run", "the loop nest of a convolution's weight gradient"),
    ("score", "the list of metrics"),
    ("shapes", "a list of shapes that tests go through"),
];

/// Rooms in which the family may be named: its own, another's, whose modules are called alike, the networks,
/// what trains `nano`, and the world it was trained on.
const WAN_ROOMS: [&str; 5] = [
    "understudy-pipeline/src/families/wan",
    "understudy-pipeline/src/families/animatediff",
    "understudy-models/",
    "understudy-train/src/pretrain",
    "understudy-nano/",
];

/// What only the family has: types, modules.
const WAN: [&str; 11] = [
    "WanTransformer",
    "WanVae",
    "WanConfig",
    "WanNetworks",
    "Umt5",
    "wan_transformer",
    "attn1",
    "attn2",
    "condition_embedder",
    "patch_embedding",
    "ffn.",
];

/// Lines outside the rooms that may: the registry, and help that shows a user what a name looks like.
const WAN_LINES: [(&str, &str); 3] = [
    ("understudy-pipeline/src/family.rs", "the registry's line"),
    ("understudy-personalize/src/targets.rs", "an error that shows what sites look like"),
    ("understudy-work/src/fit/settings.rs", "help that shows what sites look like"),
];

/// Statics that can change.
const STATICS: [(&str, &str); 1] =
    [("understudy-kernels/src/floats.rs", "freed memory is kept for whoever asks next")];

/// A source file: its path below `crates/`, its lines, and the lines before its tests.
struct Source {
    path: String,
    lines: Vec<String>,
    tested_from: usize,
}

impl Source {
    /// Its lines of code outside tests, with their numbers from 1.
    fn code(&self) -> impl Iterator<Item = (usize, &str)> {
        let lines = self.lines[..self.tested_from].iter().map(String::as_str);
        (1..).zip(lines).filter(|(_, line)| !is_comment(line))
    }

    fn is_in(&self, rooms: &[&str]) -> bool {
        rooms.iter().any(|room| self.path.starts_with(room))
    }
}

fn is_comment(line: &str) -> bool {
    line.trim_start().starts_with("//")
}

fn crates() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

fn files(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).unwrap().map(Result::unwrap) {
        let path = entry.path();
        if path.is_dir() {
            files(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

/// Every file below a `src` of the workspace.
fn sources() -> Vec<Source> {
    let crates = crates();
    let mut paths = Vec::new();
    for entry in std::fs::read_dir(&crates).unwrap().map(Result::unwrap) {
        let folder = entry.path().join("src");
        if folder.is_dir() {
            files(&folder, &mut paths);
        }
    }
    assert!(paths.len() > 100, "{}", paths.len());
    paths.into_iter().map(|path| source(&path, &crates)).collect()
}

fn source(path: &Path, crates: &Path) -> Source {
    let text = std::fs::read_to_string(path).unwrap();
    let lines: Vec<String> = text.lines().map(str::to_owned).collect();
    let is_test = path.file_stem().is_some_and(|stem| stem == "tests");
    let tests = lines.windows(2).position(|pair| pair[0] == "#[cfg(test)]" && !pair[1].ends_with(';'));
    let tested_from = if is_test { 0 } else { tests.unwrap_or(lines.len()) };
    Source { path: path.strip_prefix(crates).unwrap().to_str().unwrap().to_owned(), lines, tested_from }
}

fn assert_none(what: &str, faults: &[String]) {
    assert!(faults.is_empty(), "{} {what}:\n{}", faults.len(), faults.join("\n"));
}

fn excepted(exceptions: &[(&str, &str)], name: &str) -> bool {
    exceptions.iter().any(|(excepted, _)| *excepted == name)
}

#[test]
fn comments_fit_the_page() {
    let mut faults = Vec::new();
    for source in sources() {
        for (number, line) in (1..).zip(&source.lines) {
            // An address cannot be broken.
            if is_comment(line) && line.chars().count() > WIDTH && !line.contains("http") {
                faults.push(format!("{}:{number}", source.path));
            }
        }
    }
    assert_none("comments are wider", &faults);
}

#[test]
fn files_and_functions_can_be_taken_in() {
    let mut faults = Vec::new();
    for source in sources() {
        if source.lines.len() > FILE && !excepted(&LONG_FILES, &source.path) {
            faults.push(format!("{}: {} lines", source.path, source.lines.len()));
        }
        for (name, number, length) in functions(&source.lines[..source.tested_from]) {
            if length > FUNCTION && !excepted(&LONG_FUNCTIONS, &name) {
                faults.push(format!("{}:{number}: {name} has {length} lines", source.path));
            }
        }
    }
    assert_none("are longer than a reader holds in mind", &faults);
}

/// The functions of formatted `lines`: name, number of the first line, and how many there are.
fn functions(lines: &[String]) -> Vec<(String, usize, usize)> {
    let mut found = Vec::new();
    for (index, line) in lines.iter().enumerate() {
        let indent = &line[..line.len() - line.trim_start().len()];
        let before = |word: &str| matches!(word, "pub" | "pub(crate)" | "pub(super)" | "const" | "unsafe");
        let mut words = line.split_whitespace().skip_while(|word| before(word));
        let (Some("fn"), Some(name)) = (words.next(), words.next()) else { continue };
        let name: String = name.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
        let end = format!("{indent}}}");
        let length = lines[index..].iter().position(|line| *line == end).map_or(1, |at| at + 1);
        if !line.ends_with(';') && !line.ends_with('}') {
            found.push((name, index + 1, length));
        }
    }
    found
}

#[test]
fn the_core_never_prints() {
    let prints = ["println!", "print!(", "eprint", "io::stdout", "io::stderr", "dbg!("];
    let mut faults = Vec::new();
    // Without memory there is no error to return.
    let allowed = ["understudy-engine/src/allocator.rs"];
    let core = |source: &&Source| !source.is_in(&["understudy/"]) && !source.is_in(&allowed);
    for source in sources().iter().filter(core) {
        for (number, line) in source.code() {
            if prints.iter().any(|word| line.contains(word)) {
                faults.push(format!("{}:{number}", source.path));
            }
        }
    }
    assert_none("lines print", &faults);
}

#[test]
fn the_command_line_computes_nothing() {
    let sources = sources();
    let own = sources.iter().filter(|source| source.path.starts_with("understudy/"));
    let computes = ["burn::", "understudy_pipeline", "understudy_evaluate", "understudy_models"];
    let mut faults = Vec::new();
    for source in own {
        for (number, line) in source.code() {
            if computes.iter().any(|word| line.contains(word)) {
                faults.push(format!("{}:{number}", source.path));
            }
        }
    }
    assert_none("lines compute", &faults);
}

#[test]
fn a_choice_of_two_is_an_if() {
    let mut faults = Vec::new();
    for source in sources() {
        for (number, line) in (1..).zip(&source.lines) {
            if ["true =>", "false =>"].iter().any(|arm| line.trim_start().starts_with(arm)) {
                faults.push(format!("{}:{number}", source.path));
            }
        }
    }
    assert_none("matches on a bool", &faults);
}

#[test]
fn nobody_else_names_a_family() {
    let mut faults = Vec::new();
    for source in sources() {
        if source.is_in(&WAN_ROOMS) || excepted(&WAN_LINES, &source.path) {
            continue;
        }
        for (number, line) in source.code() {
            if let Some(name) = WAN.iter().find(|name| line.contains(**name)) {
                faults.push(format!("{}:{number}: {name}", source.path));
            }
        }
    }
    assert_none("lines name what is one family's", &faults);
}

#[test]
fn nothing_is_set_for_the_whole_process() {
    let mut faults = Vec::new();
    for source in sources() {
        for (number, line) in source.code() {
            let is_static = line.trim_start().trim_start_matches("pub ").starts_with("static ");
            let changes = ["Atomic", "Mutex", "RwLock", "RefCell", "static mut"];
            if is_static
                && changes.iter().any(|kind| line.contains(kind))
                && !excepted(&STATICS, &source.path)
            {
                faults.push(format!("{}:{number}: {}", source.path, line.trim()));
            }
        }
    }
    assert_none("statics change", &faults);
}

/// Circles of modules: a crate, one module of the circle, how many are in it at most, and why.
const CIRCLES: [(&str, &str, usize, &str); 8] = [
    ("understudy-engine", "gguf", 2, "an open file is a checkpoint, whatever its format"),
    ("understudy-evaluate", "evaluation", 3, "rows are made of networks, and some networks make rows"),
    ("understudy-media", "animation", 5, "what a file is decides how it is read, which finds out what it is"),
    ("understudy-personalize", "method", 11, "the registry: methods are known where they are asked for"),
    ("understudy-personalize", "error", 2, "an error names dialects"),
    ("understudy-pipeline", "family", 9, "the registry: families are known where they are asked for"),
    ("understudy-puppet", "world", 3, "a place is drawn in the world that it is a part of"),
    ("understudy-puppet", "character", 5, "a character is its parts, and each part draws for it"),
];

#[test]
fn modules_go_one_way() {
    let mut uses: BTreeMap<String, BTreeMap<String, BTreeSet<String>>> = BTreeMap::new();
    for source in sources() {
        let mut parts = source.path.split('/');
        let (name, _, module) = (parts.next().unwrap(), parts.next(), parts.next().unwrap());
        let module = module.trim_end_matches(".rs").to_owned();
        let of_crate = uses.entry(name.to_owned()).or_default();
        let own = of_crate.entry(module.clone()).or_default();
        for (_, line) in source.code() {
            if let Some(rest) = line.trim_start().trim_start_matches("pub ").strip_prefix("use crate::") {
                let used: String = rest.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
                if used != module {
                    own.insert(used);
                }
            }
        }
    }
    let mut faults = Vec::new();
    for (name, modules) in &uses {
        for circle in circles(modules) {
            let is_known = CIRCLES.iter().any(|(of, module, most, _)| {
                of == name && circle.iter().any(|own| own == module) && circle.len() <= *most
            });
            if !is_known {
                faults.push(format!("{name}: {}", circle.join(", ")));
            }
        }
    }
    assert_none("circles of modules", &faults);
}

/// Modules that each lead to all others of their circle.
fn circles(modules: &BTreeMap<String, BTreeSet<String>>) -> Vec<Vec<String>> {
    let reached: BTreeMap<&String, BTreeSet<&String>> =
        modules.keys().map(|module| (module, reachable(modules, module))).collect();
    let mut circles = BTreeSet::new();
    for module in modules.keys().filter(|module| reached[module].contains(module)) {
        let of_circle = |other: &&String| reached[module].contains(*other) && reached[other].contains(module);
        let circle: Vec<String> = modules.keys().filter(of_circle).cloned().collect();
        circles.insert(circle);
    }
    circles.into_iter().collect()
}

fn reachable<'a>(modules: &'a BTreeMap<String, BTreeSet<String>>, from: &str) -> BTreeSet<&'a String> {
    let mut found = BTreeSet::new();
    let mut open = vec![from.to_owned()];
    while let Some(module) = open.pop() {
        let Some(used) = modules.get(&module) else { continue };
        for (own, _) in used.iter().filter_map(|own| modules.get_key_value(own)) {
            if found.insert(own) {
                open.push(own.clone());
            }
        }
    }
    found
}
