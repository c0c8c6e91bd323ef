//! What a pickle imports, found without running it.

use std::fs::File;
use std::io::{BufReader, Read};
use std::path::Path;

/// Modules a checkpoint has reason to name: tensors, their storages and types, and ordered dictionaries.
const MODULES: [&str; 8] = [
    "torch",
    "torch._utils",
    "torch._tensor",
    "torch.storage",
    "torch.jit._pickle",
    "torch.nn.parameter",
    "torch.serialization",
    "collections",
];
/// What trainings keep beside tensors: settings, paths and single numbers. Each only holds what it is given.
const SETTINGS: [(&str, &str); 14] = [
    ("argparse", "Namespace"),
    ("pathlib", "PosixPath"),
    ("pathlib", "WindowsPath"),
    ("pathlib", "PurePosixPath"),
    ("numpy", "dtype"),
    ("numpy", "ndarray"),
    ("numpy.core.multiarray", "scalar"),
    ("numpy._core.multiarray", "scalar"),
    ("omegaconf.dictconfig", "DictConfig"),
    ("omegaconf.listconfig", "ListConfig"),
    ("omegaconf.base", "ContainerMetadata"),
    ("omegaconf.base", "Metadata"),
    ("omegaconf.nodes", "AnyNode"),
    ("typing", "Any"),
];
/// Names in them that are functions to run things.
const SUSPICIOUS: [&str; 4] = ["load", "hub", "compile", "namedtuple"];
/// Pickles in a file of the old format.
const PICKLES: usize = 5;
/// The most bytes of a pickle that are looked at.
const LIMIT: u64 = 256 << 20;

/// That the pickle of the PyTorch file at `path` imports nothing but what tensors are made of. Nothing in a
/// file is run here, but whoever shares one that would run something elsewhere does not share a checkpoint.
///
/// # Errors
/// Names what it imports.
pub(crate) fn check_imports(path: &Path) -> Result<(), String> {
    let bytes = bytes(path)?;
    for (module, name) in imports(&bytes) {
        let known = MODULES.contains(&module.as_str()) && !SUSPICIOUS.contains(&name.as_str());
        if !known && !SETTINGS.contains(&(module.as_str(), name.as_str())) {
            return Err(format!(
                "its pickle imports {module}.{name}, which no tensor needs and Python would run; use a file of tensors alone, or \
                 have whoever made it save them as safetensors"
            ));
        }
    }
    Ok(())
}

/// The text that a dictionary in the pickle at `path` has under `key`, if it has one.
pub(crate) fn text_of(path: &Path, key: &str) -> Option<String> {
    let bytes = bytes(path).ok()?;
    let mut walk = Walk::new(&bytes);
    while walk.operation().is_some() {}
    // A value comes right after its key.
    let at = walk.strings.iter().position(|own| own == key)?;
    walk.strings.get(at + 1).cloned()
}

/// The pickle of the PyTorch file at `path`.
fn bytes(path: &Path) -> Result<Vec<u8>, String> {
    let file = File::open(path).map_err(|error| error.to_string())?;
    Ok(match zip::ZipArchive::new(BufReader::new(file)) {
        Ok(archive) => member(archive)?,
        // The old format: pickles one after another, and then storages.
        Err(_) => {
            let file = File::open(path).map_err(|error| error.to_string())?;
            let mut bytes = Vec::new();
            file.take(LIMIT).read_to_end(&mut bytes).map_err(|error| error.to_string())?;
            bytes
        }
    })
}

/// The archive's `data.pkl`.
fn member(mut archive: zip::ZipArchive<BufReader<File>>) -> Result<Vec<u8>, String> {
    for index in 0..archive.len() {
        let entry = archive.by_index(index).map_err(|error| error.to_string())?;
        if entry.name().is_ok_and(|name| name.ends_with("data.pkl")) {
            let mut bytes = Vec::new();
            entry.take(LIMIT).read_to_end(&mut bytes).map_err(|error| error.to_string())?;
            return Ok(bytes);
        }
    }
    Err("there is no data.pkl in the archive".to_owned())
}

/// The module all classes of TorchScript's own code are in.
const TORCHSCRIPT: &[u8] = b"c__torch__";
const DICTIONARY: &[u8] = b"ccollections\nOrderedDict\n";

/// The pickle of a TorchScript archive with an ordered dictionary in place of every module, so that its
/// tensors have the names of a state dict. What cannot be understood is left as it is, for the reader to
/// refuse.
pub(crate) fn modules_as_dictionaries(bytes: &[u8]) -> Vec<u8> {
    let mut walk = Walk::new(bytes);
    let mut out = Vec::with_capacity(bytes.len());
    let mut from = 0;
    while walk.operation().is_some() {
        match &bytes[from..walk.at] {
            class if class.starts_with(TORCHSCRIPT) => out.extend_from_slice(DICTIONARY),
            // NEWOBJ of such a class: a call of the dictionary's.
            [0x81] => out.push(b'R'),
            other => out.extend_from_slice(other),
        }
        from = walk.at;
    }
    out.extend_from_slice(&bytes[from..]);
    out
}

/// Every `(module, name)` that the pickles at the beginning of `bytes` import. It ends where they do, or
/// where an operation is not known.
fn imports(bytes: &[u8]) -> Vec<(String, String)> {
    let mut walk = Walk::new(bytes);
    while walk.operation().is_some() {}
    walk.found
}

struct Walk<'a> {
    bytes: &'a [u8],
    at: usize,
    /// Strings in the order they were pushed, which is all `STACK_GLOBAL` needs.
    strings: Vec<String>,
    /// Strings by their place in the memo.
    memo: Vec<(u64, String)>,
    /// Places of the memo that are taken.
    places: u64,
    /// Pickles that ended.
    stops: usize,
    found: Vec<(String, String)>,
}

impl<'a> Walk<'a> {
    fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, at: 0, strings: Vec::new(), memo: Vec::new(), places: 0, stops: 0, found: Vec::new() }
    }

    fn take(&mut self, count: usize) -> Option<&[u8]> {
        let taken = self.bytes.get(self.at..self.at.checked_add(count)?)?;
        self.at += count;
        Some(taken)
    }

    fn number(&mut self, bytes: usize) -> Option<u64> {
        let taken = self.take(bytes)?;
        Some(taken.iter().rev().fold(0, |number, byte| number << 8 | u64::from(*byte)))
    }

    fn line(&mut self) -> Option<String> {
        let length = self.bytes.get(self.at..)?.iter().position(|byte| *byte == b'\n')?;
        let line = String::from_utf8_lossy(self.take(length)?).into_owned();
        self.at += 1;
        Some(line)
    }

    /// A length of so many bytes, and what it is the length of.
    fn counted(&mut self, bytes: usize) -> Option<String> {
        let count = usize::try_from(self.number(bytes)?).ok()?;
        Some(String::from_utf8_lossy(self.take(count)?).into_owned())
    }

    fn push(&mut self, string: Option<String>) -> Option<()> {
        self.strings.push(string?);
        Some(())
    }

    /// Remembers the string on top, if the place is for one.
    fn remember(&mut self, place: u64) -> Option<()> {
        self.places += 1;
        if let Some(last) = self.strings.last() {
            self.memo.push((place, last.clone()));
        }
        Some(())
    }

    fn recall(&mut self, place: u64) -> Option<()> {
        if let Some((_, string)) = self.memo.iter().rev().find(|(own, _)| *own == place) {
            self.strings.push(string.clone());
        }
        Some(())
    }

    /// One operation; `None` at the end.
    fn operation(&mut self) -> Option<()> {
        let operation = self.number(1)? as u8;
        match operation {
            // GLOBAL and INST.
            b'c' | b'i' => {
                let import = (self.line()?, self.line()?);
                self.found.push(import);
                Some(())
            }
            // STACK_GLOBAL.
            0x93 => {
                let name = self.strings.pop().unwrap_or_else(|| "?".into());
                let module = self.strings.pop().unwrap_or_else(|| "?".into());
                self.found.push((module, name));
                Some(())
            }
            // Extension registry: a number stands for an import.
            0x82..=0x84 => {
                let code = self.number(1 << (operation - 0x82))?;
                self.found.push(("copyreg extension".into(), code.to_string()));
                Some(())
            }
            // Strings and bytes with a length.
            b'U' | b'C' | 0x8c => {
                let string = self.counted(1);
                self.push(string)
            }
            b'T' | b'X' | b'B' => {
                let string = self.counted(4);
                self.push(string)
            }
            0x8d | 0x8e | 0x96 => {
                let string = self.counted(8);
                self.push(string)
            }
            // Strings in a line.
            b'S' | b'V' => {
                let line = self.line().map(|line| line.trim_matches(['\'', '"']).to_owned());
                self.push(line)
            }
            // Numbers and persistent ids in a line.
            b'I' | b'L' | b'F' | b'P' => self.line().map(drop),
            // The memo: in a line, a byte, four bytes, and the next place.
            b'p' => {
                let place = self.line()?.parse().ok()?;
                self.remember(place)
            }
            b'q' => {
                let place = self.number(1)?;
                self.remember(place)
            }
            b'r' => {
                let place = self.number(4)?;
                self.remember(place)
            }
            0x94 => self.remember(self.places),
            b'g' => {
                let place = self.line()?.parse().ok()?;
                self.recall(place)
            }
            b'h' => {
                let place = self.number(1)?;
                self.recall(place)
            }
            b'j' => {
                let place = self.number(4)?;
                self.recall(place)
            }
            // Numbers, versions and frames of a fixed size.
            b'K' | 0x80 => self.number(1).map(drop),
            b'M' => self.number(2).map(drop),
            b'J' => self.number(4).map(drop),
            b'G' | 0x95 => self.number(8).map(drop),
            0x8a => self.counted(1).map(drop),
            0x8b => self.counted(4).map(drop),
            // STOP ends a pickle; another may follow. The old format has five of them before its storages.
            b'.' => {
                self.stops += 1;
                (self.stops < PICKLES).then_some(())
            }
            // What works on the stack alone.
            b'('
            | b'0'
            | b'1'
            | b'2'
            | b'N'
            | b'R'
            | b'b'
            | b'Q'
            | b'a'
            | b'd'
            | b'}'
            | b'e'
            | b'l'
            | b']'
            | b'o'
            | b's'
            | b't'
            | b')'
            | b'u'
            | 0x81
            | 0x85..=0x89
            | 0x8f..=0x92
            | 0x97
            | 0x98 => Some(()),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn imports_are_found_in_old_and_new_pickles() {
        let system = ("os".to_owned(), "system".to_owned());
        assert_eq!(
            imports(b"\x80\x02cos\nsystem\nq\x00X\x02\x00\x00\x00lsq\x01\x85q\x02Rq\x03."),
            std::slice::from_ref(&system)
        );
        // Protocol 4: the two names are strings, one of them remembered.
        let four = b"\x80\x04\x95\x10\x00\x00\x00\x00\x00\x00\x00\x8c\x02os\x94\x8c\x06system\x94\x93\x94.";
        assert_eq!(imports(four), [system]);
        assert_eq!(imports(b"\x80\x02}q\x00."), []);
        assert_eq!(imports(b"\xff"), []);
    }
}
