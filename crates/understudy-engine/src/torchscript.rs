//! TorchScript archives, as `torch.jit.save` writes them: the tensors of their modules, and the numbers their
//! code was compiled with. None of that code is run.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufReader, Read, Seek, Write};
use std::path::Path;

use tempfile::NamedTempFile;
use zip::write::SimpleFileOptions;
use zip::{CompressionMethod, ZipArchive, ZipWriter};

use crate::pickle;

/// The most bytes of a pickle or a file of code that are looked at.
const LIMIT: u64 = 64 << 20;
/// How a number that never changes is declared in a class.
const FINAL: &str = " : Final[float] = ";

/// A TorchScript archive as one that `torch.save` could have written of its state.
pub(crate) struct Rewritten {
    /// The archive.
    pub(crate) file: NamedTempFile,
    /// `CLASS.NAME` of every number that a class of its code declares final, e.g. `BatchNorm3d.eps`.
    pub(crate) constants: BTreeMap<String, String>,
}

/// The archive at `path` with its modules as dictionaries; `None` if it is none of TorchScript's.
///
/// # Errors
/// When it cannot be read, or copied to a temporary file.
pub(crate) fn rewritten(path: &Path) -> Result<Option<Rewritten>, String> {
    let fault = |error: &dyn std::fmt::Display| error.to_string();
    let file = File::open(path).map_err(|error| fault(&error))?;
    let Ok(mut archive) = ZipArchive::new(BufReader::new(file)) else { return Ok(None) };
    let names = names(&mut archive).map_err(|error| fault(&error))?;
    if !names.iter().any(|name| name.contains("/code/")) {
        return Ok(None);
    }
    let Some(own) = names.iter().find(|name| name.ends_with("/data.pkl")) else { return Ok(None) };
    let bytes = read(&mut archive, own).map_err(|error| fault(&error))?;
    let pickle = pickle::modules_as_dictionaries(&bytes);
    let copy = copied(&mut archive, &names, own, &pickle).map_err(|error| fault(&error))?;
    let mut constants = BTreeMap::new();
    let mut read_of_code = 0;
    for name in names.iter().filter(|name| name.contains("/code/") && name.ends_with(".py")) {
        let code = read(&mut archive, name).map_err(|error| fault(&error))?;
        constants.extend(finals(&String::from_utf8_lossy(&code)));
        read_of_code += code.len() as u64;
        if read_of_code > LIMIT {
            return Err(format!("its code is larger than {LIMIT} bytes, which no network's is"));
        }
    }
    Ok(Some(Rewritten { file: copy, constants }))
}

fn names<R: Read + Seek>(archive: &mut ZipArchive<R>) -> zip::result::ZipResult<Vec<String>> {
    let count = archive.len();
    (0..count).map(|index| Ok(archive.by_index_raw(index)?.name()?.to_string())).collect()
}

fn read<R: Read + Seek>(archive: &mut ZipArchive<R>, name: &str) -> zip::result::ZipResult<Vec<u8>> {
    let mut bytes = Vec::new();
    archive.by_name(name)?.take(LIMIT).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// A copy of the archive's state, in which `own` holds `pickle`.
fn copied<R: Read + Seek>(
    archive: &mut ZipArchive<R>,
    names: &[String],
    own: &str,
    pickle: &[u8],
) -> zip::result::ZipResult<NamedTempFile> {
    let mut file = NamedTempFile::new()?;
    let mut writer = ZipWriter::new(file.as_file_mut());
    for (index, name) in names.iter().enumerate() {
        let root = own.trim_end_matches("data.pkl");
        let state =
            name.strip_prefix(root).is_some_and(|name| name.starts_with("data/") || name == "byteorder");
        if state {
            writer.raw_copy_file(archive.by_index_raw(index)?)?;
        }
    }
    writer.start_file(own, SimpleFileOptions::default().compression_method(CompressionMethod::Stored))?;
    writer.write_all(pickle)?;
    writer.finish()?;
    Ok(file)
}

/// The final numbers of the classes in `code`, as `CLASS.NAME`.
fn finals(code: &str) -> BTreeMap<String, String> {
    let mut class = "";
    let mut found = BTreeMap::new();
    for line in code.lines() {
        if let Some(rest) = line.strip_prefix("class ") {
            class = rest.split('(').next().unwrap_or_default();
        }
        if let Some((name, value)) = line.split_once(FINAL) {
            found.insert(format!("{class}.{}", name.trim()), value.trim().to_owned());
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn final_numbers_belong_to_their_class() {
        let code = "class A(Module):\n  training : bool\n  eps : Final[float] = 0.001\nclass B(Module):\n  eps : Final[float] = 1.0000000000000001e-05\n  def forward(self):\n    return 1\n";
        let expected = [("A.eps", "0.001"), ("B.eps", "1.0000000000000001e-05")];
        let expected = expected.map(|(name, value)| (name.to_owned(), value.to_owned()));
        assert_eq!(finals(code), BTreeMap::from(expected));
    }
}
