//! Checkpoints: safetensors files, whole or in shards, and GGUF files, of which only what is asked for is
//! read, and PyTorch's `.pth`; and writing safetensors.

mod header;
mod scales;
mod sealed;
mod storage;
mod stored;
mod write;

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io::Read;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use burn::tensor::{Device, Tensor, TensorData};
use pytorch_reader::PytorchReader;

use scales::Scales;
pub use sealed::Sealed;
pub(crate) use storage::Storage;
pub use stored::StoredTensor;
pub use write::{
    CHECKSUM, LazyValues, NamedValues, Precision, write, write_atomically, write_lazily, write_sealed,
    write_stored,
};

use crate::encoding::Encoding;
use crate::error::WeightError;
use crate::foreign;
use crate::gguf;
use crate::pickle;
use crate::text;
use crate::torchscript;
use crate::weights::{Init, WeightSource};

/// Where a tensor's bytes are.
#[derive(Clone)]
enum Place {
    /// A part of a file.
    Part { file: usize, range: Range<usize> },
    /// In a file of PyTorch's, read when asked for.
    Pytorch(pytorch_reader::Tensor),
}

#[derive(Clone)]
struct Entry {
    place: Place,
    encoding: Encoding,
    shape: Vec<usize>,
    /// What the stored numbers are multiplied by.
    scales: Option<Scales>,
}

impl Entry {
    fn new(place: Place, encoding: Encoding, shape: Vec<usize>) -> Self {
        Self { place, encoding, shape, scales: None }
    }

    /// Appends the floats that `bytes` of it hold, without the scales; whether they stand for any.
    fn decode(&self, bytes: &[u8], values: &mut Vec<f32>) -> bool {
        match &self.scales {
            None => self.encoding.decode(bytes, values),
            Some(_) => self.encoding.decode_scaled(bytes, values),
        }
    }

    /// How many numbers it has.
    fn count(&self) -> usize {
        self.shape.iter().product()
    }
}

/// The field in which files of PyTorch name what they hold.
const NAMED: &str = "name";
/// More tensors are those of a network.
const FEW: usize = 8;
/// What PyTorch's files begin with: an archive, or a pickle.
const PYTORCH: [&[u8]; 2] = [b"PK\x03\x04", b"\x80\x02"];

/// One or more files seen as one store of named tensors. Copies share the open files.
#[derive(Clone)]
pub struct Checkpoint {
    files: Vec<Arc<Storage>>,
    entries: BTreeMap<String, Entry>,
    metadata: BTreeMap<String, String>,
    name: String,
    device: Device,
    /// Whether numbers of 8 bits are in it, which have scales beside them.
    has_eight_bits: bool,
}

/// What a checkpoint says of one tensor.
#[derive(Clone, Debug, PartialEq)]
pub struct TensorInfo {
    /// The tensor's path.
    pub name: String,
    /// Element type as the file names it, e.g. `BF16`; with scales beside it, e.g. `F8_E4M3 scaled`.
    pub dtype: String,
    /// Dimensions.
    pub shape: Vec<usize>,
    /// Bytes it takes in the file.
    pub bytes: u64,
}

impl Checkpoint {
    /// Opens `path`: a safetensors, GGUF or PyTorch file (told apart by what they begin with), or an index
    /// (`*.index.json`) whose shards lie beside it.
    ///
    /// 8-bit floats and integers with scales beside them (`NAME.scale_weight`, `NAME.weight_scale`,
    /// `NAME.weight_scale_inv` or `NAME.weight._scale`) are read as what they stand for; the scales and other
    /// notes of that kind are no tensors of their own.
    ///
    /// # Errors
    /// When a file cannot be read, is truncated, or its header is not consistent.
    pub fn open(path: &Path, device: &Device) -> Result<Self, WeightError> {
        let mut checkpoint = Self::empty(path.display().to_string(), device);
        if path.extension().is_some_and(|extension| extension == "json") {
            let shards = shards(path)?;
            let missing: Vec<String> = shards
                .iter()
                .filter(|shard| !shard.exists())
                .map(|shard| shard.file_name().unwrap_or_default().to_string_lossy().into_owned())
                .collect();
            if !missing.is_empty() {
                return Err(WeightError::MissingShards { index: path.to_owned(), names: missing });
            }
            for shard in shards {
                checkpoint.add(Storage::open(&shard)?, &shard)?;
            }
        } else {
            checkpoint.add(Storage::open(path)?, path)?;
        }
        checkpoint.attach_scales()?;
        Ok(checkpoint)
    }

    /// Reads a checkpoint compiled into the program.
    ///
    /// # Errors
    /// When its header is not consistent.
    pub fn embedded(name: &str, bytes: &'static [u8], device: &Device) -> Result<Self, WeightError> {
        let mut checkpoint = Self::empty(name.to_owned(), device);
        checkpoint.add(Storage::Static(bytes), Path::new(name))?;
        Ok(checkpoint)
    }

    fn empty(name: String, device: &Device) -> Self {
        Self {
            files: Vec::new(),
            entries: BTreeMap::new(),
            metadata: BTreeMap::new(),
            name,
            device: device.clone(),
            has_eight_bits: false,
        }
    }

    fn add(&mut self, storage: Storage, path: &Path) -> Result<(), WeightError> {
        let malformed = |reason: String| WeightError::Malformed { path: path.to_owned(), reason };
        let start = storage.bytes(0..storage.length().min(foreign::BEGIN)).map_err(malformed)?.into_owned();
        if start.starts_with(gguf::MAGIC) {
            let header = gguf::read(storage.stream(), storage.length()).map_err(|fault| fault.of(path))?;
            for gguf::TensorHeader { name, encoding, shape, range } in header.tensors {
                let place = Place::Part { file: self.files.len(), range };
                self.insert(name, Entry::new(place, encoding, shape)).map_err(malformed)?;
            }
            self.metadata.extend(header.metadata);
            self.files.push(Arc::new(storage));
            return Ok(());
        }
        if let Some(error) = foreign::in_file(path, &start, storage.length()) {
            return Err(error);
        }
        if !foreign::is_safetensors(&start) && PYTORCH.iter().any(|magic| start.starts_with(magic)) {
            return self.add_pytorch(path);
        }
        let (tensors, metadata) = header::read(&storage, path)?;
        for header::TensorHeader { name, encoding, shape, range } in tensors {
            let place = Place::Part { file: self.files.len(), range };
            self.insert(name, Entry::new(place, encoding, shape)).map_err(malformed)?;
        }
        self.metadata.extend(metadata.metadata().clone().unwrap_or_default());
        self.files.push(Arc::new(storage));
        Ok(())
    }

    /// Adds the tensors of a file that `torch.save` or `torch.jit.save` wrote. Only tensors are read of it,
    /// and of TorchScript the numbers its classes declare final, as metadata: nothing in it is run.
    fn add_pytorch(&mut self, path: &Path) -> Result<(), WeightError> {
        let malformed = |reason: String| WeightError::Malformed { path: path.to_owned(), reason };
        let torchscript = torchscript::rewritten(path).map_err(malformed)?;
        let readable = torchscript.as_ref().map_or(path, |rewritten| rewritten.file.path());
        pickle::check_imports(readable).map_err(malformed)?;
        let reader = PytorchReader::new(readable)
            .map_err(|error| malformed(error.to_string().split_whitespace().collect::<Vec<_>>().join(" ")))?;
        for (name, tensor) in reader.into_tensors() {
            let (encoding, shape) = (tensor.dtype().into(), tensor.shape().to_vec());
            self.insert(name, Entry::new(Place::Pytorch(tensor), encoding, shape)).map_err(malformed)?;
        }
        self.metadata.extend(torchscript.map(|rewritten| rewritten.constants).unwrap_or_default());
        // Of a network nobody asks.
        if self.entries.len() < FEW {
            self.metadata.extend(pickle::text_of(path, NAMED).map(|name| (NAMED.to_owned(), name)));
        }
        Ok(())
    }

    fn insert(&mut self, name: String, entry: Entry) -> Result<(), String> {
        match self.entries.insert(name.clone(), entry) {
            Some(_) => Err(format!("tensor {name} stands twice, or in more than one shard")),
            None => Ok(()),
        }
    }

    /// The same tensors under their published names: `rename` gives the one for a file's name, or `None`
    /// where the file's name stands.
    ///
    /// # Errors
    /// When two tensors get one name.
    pub fn renamed(mut self, rename: impl Fn(&str) -> Option<String>) -> Result<Self, WeightError> {
        let mut entries = BTreeMap::new();
        for (own, entry) in std::mem::take(&mut self.entries) {
            let name = rename(&own).unwrap_or_else(|| own.clone());
            if entries.insert(name.clone(), entry).is_some() {
                let reason = format!("{own} and another tensor of {} both stand for it", self.name);
                return Err(WeightError::Tensor { name, reason });
            }
        }
        Ok(Self { entries, ..self })
    }

    /// The same with other dimensions for the tensors that `shape` gives some for: as many numbers, in their
    /// order.
    pub fn shaped(mut self, shape: impl Fn(&str, &[usize]) -> Option<Vec<usize>>) -> Self {
        for (name, entry) in &mut self.entries {
            let new = shape(name, &entry.shape);
            if let Some(new) = new.filter(|new| new.iter().product::<usize>() == entry.count()) {
                entry.shape = new;
            }
        }
        self
    }

    /// What is under `prefix`, without it, of a file that holds several networks; all of it where nothing is.
    pub fn part(mut self, prefix: &str) -> Self {
        if self.entries.keys().any(|name| name.starts_with(prefix)) {
            let entries = std::mem::take(&mut self.entries).into_iter();
            let own = |(name, entry): (String, Entry)| Some((name.strip_prefix(prefix)?.to_owned(), entry));
            self.entries = entries.filter_map(own).collect();
        }
        self
    }

    /// The same without the tensors whose names begin with one of `starts`.
    pub fn without(self, starts: &[&str]) -> Self {
        self.only(|name| !starts.iter().any(|start| name.starts_with(start)))
    }

    /// The same with the tensors alone whose names are `kept`.
    pub fn only(mut self, kept: impl Fn(&str) -> bool) -> Self {
        self.entries.retain(|name, _| kept(name));
        self
    }

    /// The device tensors are placed on.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// The file's own metadata strings.
    pub fn metadata(&self) -> &BTreeMap<String, String> {
        &self.metadata
    }

    /// Every tensor's name, type and shape, in order of name.
    pub fn infos(&self) -> Vec<TensorInfo> {
        let info = |(name, entry): (&String, &Entry)| TensorInfo {
            name: name.clone(),
            dtype: match entry.scales {
                None => entry.encoding.name(),
                Some(_) => format!("{} scaled", entry.encoding.name()),
            },
            shape: entry.shape.clone(),
            bytes: match &entry.place {
                Place::Part { range, .. } => range.len() as u64,
                Place::Pytorch(tensor) => tensor.byte_len() as u64,
            },
        };
        self.entries.iter().map(info).collect()
    }

    /// The vocabulary of a GGUF file; `None` if it has none or is another kind of file.
    ///
    /// # Errors
    /// When the file cannot be read or its header is not consistent.
    pub fn vocabulary(&self) -> Result<Option<gguf::Vocabulary>, WeightError> {
        self.files.first().map_or(Ok(None), |file| gguf::Vocabulary::of(file, Path::new(&self.name)))
    }

    /// Bytes of the largest tensor that can only be read whole, even for some rows of it: PyTorch's.
    pub fn largest_whole(&self) -> u64 {
        let whole = |entry: &Entry| match &entry.place {
            Place::Part { .. } => 0,
            Place::Pytorch(tensor) => tensor.byte_len() as u64,
        };
        self.entries.values().map(whole).max().unwrap_or(0)
    }

    /// The values of tensor `name` as f32, and its shape.
    ///
    /// # Errors
    /// When there is no such tensor, its type is not a float, or a value is not finite.
    pub fn values(&self, name: &str) -> Result<(Vec<f32>, Vec<usize>), WeightError> {
        let fault = |reason: String| WeightError::Tensor { name: name.to_owned(), reason };
        let entry = self.entries.get(name).ok_or_else(|| fault(format!("not in {}", self.name)))?;
        let mut values = self.floats(name, entry)?;
        if let Some(scales) = &entry.scales {
            scales.apply_all(entry.shape.first().copied().unwrap_or(1), &mut values);
        }
        if let Some(at) = values.iter().position(|value| !value.is_finite()) {
            return Err(fault(format!(
                "value {at} in {} is {}; the file is damaged or its training diverged",
                self.name, values[at]
            )));
        }
        Ok((values, entry.shape.clone()))
    }

    /// The floats of `entry`, without its scales.
    fn floats(&self, name: &str, entry: &Entry) -> Result<Vec<f32>, WeightError> {
        let fault = |reason: String| WeightError::Tensor { name: name.to_owned(), reason };
        let mut values = Vec::new();
        if !entry.decode(&[], &mut values) {
            return Err(fault(entry.encoding.not_read()));
        }
        values.reserve_exact(entry.count());
        let each = |bytes: &[u8]| {
            entry.decode(bytes, &mut values);
        };
        match &entry.place {
            Place::Part { file, range } => {
                self.files[*file].pieces(range.clone(), entry.encoding.unit(), each).map_err(fault)?;
            }
            Place::Pytorch(tensor) => {
                let bytes = tensor.read().map_err(|error| fault(format!("{}: {error}", self.name)))?;
                entry.decode(&bytes, &mut values);
            }
        }
        Ok(values)
    }

    /// Tensor `name` as the file has it; one with scales beside it as the f32 it stands for.
    ///
    /// # Errors
    /// When there is no such tensor or it cannot be read.
    pub fn stored(&self, name: &str) -> Result<StoredTensor, WeightError> {
        let fault = |reason: String| WeightError::Tensor { name: name.to_owned(), reason };
        let entry = self.entries.get(name).ok_or_else(|| fault(format!("not in {}", self.name)))?;
        if entry.scales.is_some() {
            let (values, shape) = self.values(name)?;
            return Ok(StoredTensor::new(&values, shape, Precision::F32));
        }
        let bytes = self.bytes(entry).map_err(fault)?.into_owned();
        Ok(StoredTensor { encoding: entry.encoding.clone(), shape: entry.shape.clone(), bytes })
    }

    fn bytes(&self, entry: &Entry) -> Result<Cow<'_, [u8]>, String> {
        match &entry.place {
            Place::Part { file, range } => self.files[*file].bytes(range.clone()),
            Place::Pytorch(tensor) => {
                tensor.read().map(Cow::Owned).map_err(|error| format!("{}: {error}", self.name))
            }
        }
    }

    /// The bytes of each of `rows` of `entry`, a matrix of `count` rows.
    fn row_bytes(&self, entry: &Entry, count: usize, rows: &[usize]) -> Result<Vec<Cow<'_, [u8]>>, String> {
        let within = |each: usize, row: usize| {
            let outside = || format!("there is no row {row} of {count}");
            (row < count).then_some(row * each..(row + 1) * each).ok_or_else(outside)
        };
        match &entry.place {
            Place::Part { file, range } => {
                let each = range.len() / count.max(1);
                let read = |&row: &usize| {
                    let own = within(each, row)?;
                    self.files[*file].bytes(range.start + own.start..range.start + own.end)
                };
                rows.iter().map(read).collect()
            }
            // Its tensors are read whole.
            Place::Pytorch(_) => {
                let bytes = self.bytes(entry)?;
                let each = bytes.len() / count.max(1);
                rows.iter().map(|&row| Ok(Cow::Owned(bytes[within(each, row)?].to_vec()))).collect()
            }
        }
    }

    /// The integers of tensor `name` (I64 or I32).
    ///
    /// # Errors
    /// When there is no such tensor or its type differs.
    pub fn integers(&self, name: &str) -> Result<(Vec<i64>, Vec<usize>), WeightError> {
        let fault = |reason: &str| WeightError::Tensor { name: name.to_owned(), reason: reason.to_owned() };
        let entry = self.entries.get(name).ok_or_else(|| fault("not in the file"))?;
        let bytes = self.bytes(entry).map_err(|reason| fault(&reason))?;
        let values = entry.encoding.to_integers(&bytes).ok_or_else(|| fault("is not an integer tensor"))?;
        Ok((values, entry.shape.clone()))
    }
}

impl WeightSource for Checkpoint {
    fn get(&self, name: &str, shape: &[usize], _: Init) -> Result<Option<Tensor<1>>, WeightError> {
        // Before anything is read: what a file says of a shape may be absurd.
        if !self.holds(name, shape)? {
            return Ok(None);
        }
        let (values, _) = self.values(name)?;
        let count = values.len();
        Ok(Some(Tensor::from_data(TensorData::new(values, [count]), &self.device)))
    }

    fn holds(&self, name: &str, shape: &[usize]) -> Result<bool, WeightError> {
        let fault = |reason: String| WeightError::Tensor { name: name.to_owned(), reason };
        match self.entries.get(name) {
            None => Ok(false),
            Some(entry) if entry.shape != shape => {
                Err(fault(format!("has shape {:?}, the network needs {shape:?}", entry.shape)))
            }
            Some(entry) if !entry.decode(&[], &mut Vec::new()) => Err(fault(entry.encoding.not_read())),
            Some(_) => Ok(true),
        }
    }

    fn rows(&self, name: &str, shape: [usize; 2], rows: &[usize]) -> Result<Option<Tensor<1>>, WeightError> {
        if !self.holds(name, &shape)? {
            return Ok(None);
        }
        let fault = |reason: String| WeightError::Tensor { name: name.to_owned(), reason };
        let entry = &self.entries[name];
        let mut values = Vec::with_capacity(rows.len() * shape[1]);
        for (index, bytes) in self.row_bytes(entry, shape[0], rows).map_err(fault)?.into_iter().enumerate() {
            entry.decode(&bytes, &mut values);
            if values.len() != (index + 1) * shape[1] {
                return Err(fault(format!("row {} cannot be read on its own", rows[index])));
            }
            if let Some(scales) = &entry.scales {
                scales.apply(rows[index], &mut values[index * shape[1]..]);
            }
        }
        let count = values.len();
        Ok(Some(Tensor::from_data(TensorData::new(values, [count]), &self.device)))
    }

    fn names(&self) -> Vec<String> {
        self.entries.keys().cloned().collect()
    }

    fn describe(&self) -> String {
        self.name.clone()
    }
}

#[derive(serde::Deserialize)]
struct Index {
    weight_map: HashMap<String, String>,
}

/// Whether the file at `path` begins as a checkpoint does.
pub fn is_checkpoint(path: &Path) -> bool {
    let mut start = Vec::new();
    let read = File::open(path).and_then(|file| file.take(9).read_to_end(&mut start));
    let known = PYTORCH.iter().any(|magic| start.starts_with(magic)) || start.starts_with(gguf::MAGIC);
    read.is_ok() && (known || start.get(8) == Some(&b'{'))
}

/// The shard files an index names, each once; they must lie in the index's own folder.
///
/// # Errors
/// When it cannot be read or names no plain files.
pub fn shards(index: &Path) -> Result<Vec<PathBuf>, WeightError> {
    let malformed = |reason: String| WeightError::Malformed { path: index.to_owned(), reason };
    let bytes = std::fs::read(index).map_err(|error| WeightError::Io {
        action: "read",
        path: index.to_owned(),
        error,
    })?;
    let parsed: Index = text::decoded(&bytes)
        .and_then(|text| serde_json::from_str(&text).map_err(|error| error.to_string()))
        .map_err(|reason| malformed(format!("weight_map: {reason}")))?;
    let mut names: Vec<String> = parsed.weight_map.into_values().collect();
    names.sort();
    names.dedup();
    let folder = index.parent().unwrap_or(Path::new("."));
    names
        .into_iter()
        .map(|name| match Path::new(&name).components().count() {
            1 if !name.starts_with("..") => Ok(folder.join(name)),
            _ => Err(malformed(format!("weight_map: {name:?} is not a plain file name"))),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Vec<NamedValues> {
        vec![
            NamedValues { name: "a.weight".into(), shape: vec![2, 3], values: vec![1., -2., 3., 4., 5., 6.] },
            NamedValues { name: "b".into(), shape: vec![1], values: vec![0.5] },
        ]
    }

    #[test]
    fn what_is_written_is_read_back_in_every_precision() {
        let folder = tempfile::tempdir().unwrap();
        for precision in [Precision::F32, Precision::Bf16, Precision::F16] {
            let path = folder.path().join("x.safetensors");
            let metadata = BTreeMap::from([("base".to_owned(), "nano".to_owned())]);
            write(&path, &sample(), metadata.clone(), precision).unwrap();
            let read = Checkpoint::open(&path, &Device::flex()).unwrap();
            assert_eq!(read.values("a.weight").unwrap(), (sample()[0].values.clone(), vec![2, 3]));
            assert_eq!(read.metadata(), &metadata);
        }
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_header_may_be_as_long_as_a_pickle_begins() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.safetensors");
        // 0x280 bytes: the file begins like a pickle of protocol 2.
        let found = (0..700).find(|&length| {
            let metadata = BTreeMap::from([("note".to_owned(), "x".repeat(length))]);
            write(&path, &sample(), metadata, Precision::F32).unwrap();
            std::fs::read(&path).unwrap().starts_with(b"\x80\x02")
        });
        assert!(found.is_some());
        assert!(Checkpoint::open(&path, &Device::flex()).is_ok());
    }

    #[test]
    fn a_name_map_is_complete_or_an_error() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.safetensors");
        write(&path, &sample(), BTreeMap::new(), Precision::F32).unwrap();
        let open = || Checkpoint::open(&path, &Device::flex()).unwrap();
        let renamed = open().renamed(|name| name.strip_prefix("a.").map(str::to_owned)).unwrap();
        assert_eq!(renamed.names(), ["b", "weight"]);
        let found = renamed.get("weight", &[2, 3], Init::Zeros).unwrap().unwrap();
        assert_eq!(found.dims(), [6]);
        assert!(open().renamed(|_| Some("same".into())).is_err());
    }

    #[test]
    fn a_pickle_that_would_run_something_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.pth");
        std::fs::write(&path, b"\x80\x02cos\nsystem\nX\x02\x00\x00\x00ls\x85R.").unwrap();
        let error = Checkpoint::open(&path, &Device::flex()).err().unwrap().to_string();
        assert!(error.contains("x.pth") && error.contains("os.system"), "{error}");
    }

    #[test]
    fn a_gguf_may_have_five_dimensions() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.gguf");
        let mut bytes = b"GGUF\x03\0\0\0".to_vec();
        [1_u64, 0, 1].iter().for_each(|number| bytes.extend(number.to_le_bytes()));
        bytes.push(b'w');
        bytes.extend(5_u32.to_le_bytes());
        [2_u64, 1, 1, 2, 1].iter().for_each(|extent| bytes.extend(extent.to_le_bytes()));
        bytes.extend([0; 4 + 8]);
        bytes.resize(bytes.len().next_multiple_of(32), 0);
        [1.0_f32, 2.0, 3.0, 4.0].iter().for_each(|value| bytes.extend(value.to_le_bytes()));
        std::fs::write(&path, bytes).unwrap();
        let read = Checkpoint::open(&path, &Device::flex()).unwrap();
        assert_eq!(read.values("w").unwrap(), (vec![1.0, 2.0, 3.0, 4.0], vec![1, 2, 1, 1, 2]));
    }

    #[test]
    fn integers_of_eight_bits_stand_for_floats_where_they_have_a_scale() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.safetensors");
        let byte = |bytes: &[u8], shape: &[usize]| StoredTensor {
            encoding: Encoding::I8,
            shape: shape.to_vec(),
            bytes: bytes.to_vec(),
        };
        let scales = StoredTensor::new(&[0.5, 2.0], vec![2, 1], Precision::F32);
        let tensors = BTreeMap::from([
            ("a.weight".to_owned(), byte(&[1, 255, 127, 128], &[2, 2])),
            ("a.weight_scale".to_owned(), scales),
            ("b.weight".to_owned(), byte(&[1], &[1])),
        ]);
        write_stored(&path, &tensors, BTreeMap::new()).unwrap();
        let read = Checkpoint::open(&path, &Device::flex()).unwrap();
        assert_eq!(read.values("a.weight").unwrap(), (vec![0.5, -0.5, 254.0, -256.0], vec![2, 2]));
        assert!(read.holds("a.weight", &[2, 2]).unwrap());
        assert!(read.holds("b.weight", &[1]).is_err());
        assert_eq!(read.integers("b.weight").unwrap().0, [1]);
    }

    #[test]
    fn every_truncation_is_an_error() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.safetensors");
        write(&path, &sample(), BTreeMap::new(), Precision::F32).unwrap();
        let whole = std::fs::read(&path).unwrap();
        for length in 0..whole.len() {
            std::fs::write(&path, &whole[..length]).unwrap();
            assert!(Checkpoint::open(&path, &Device::flex()).is_err(), "{length} bytes");
        }
    }

    #[test]
    fn shards_that_are_not_there_are_named_with_their_index() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        write(&path("a.safetensors"), &sample(), BTreeMap::new(), Precision::F32).unwrap();
        let index =
            r#"{"weight_map": {"a.weight": "a.safetensors", "c": "b.safetensors", "d": "c.safetensors"}}"#;
        std::fs::write(path("m.safetensors.index.json"), index).unwrap();
        let open = || Checkpoint::open(&path("m.safetensors.index.json"), &Device::flex()).err().unwrap();
        let said = open().to_string();
        assert!(
            said.contains("m.safetensors.index.json names files that are not beside it: b.safetensors, c.safetensors; download them"),
            "{said}"
        );
        std::fs::copy(path("a.safetensors"), path("b.safetensors")).unwrap();
        let said = open().to_string();
        assert!(said.contains("a file that is not beside it: c.safetensors; download it too"), "{said}");
    }

    #[test]
    fn types_of_ggml_that_are_not_read_are_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.gguf");
        let mut bytes = b"GGUF\x03\0\0\0".to_vec();
        [1_u64, 0, 1].iter().for_each(|number| bytes.extend(number.to_le_bytes()));
        bytes.push(b'w');
        bytes.extend(1_u32.to_le_bytes());
        bytes.extend(256_u64.to_le_bytes());
        let at = bytes.len();
        bytes.extend([0; 4 + 8]);
        bytes.resize(bytes.len().next_multiple_of(32) + 256, 0);
        for (kind, name) in [(16_u32, "IQ2_XXS"), (39, "MXFP4"), (77, "number 77")] {
            bytes[at..at + 4].copy_from_slice(&kind.to_le_bytes());
            std::fs::write(&path, &bytes).unwrap();
            let said = Checkpoint::open(&path, &Device::flex()).err().unwrap().to_string();
            assert!(
                said.contains("tensor w") && said.contains(name) && said.contains("Q2_K to Q6_K"),
                "{said}"
            );
            assert!(!said.contains("again"), "{said}");
        }
    }

    #[test]
    fn nan_is_reported_with_the_tensor() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.safetensors");
        let tensors = [NamedValues { name: "w".into(), shape: vec![2], values: vec![0.0, f32::NAN] }];
        write(&path, &tensors, BTreeMap::new(), Precision::F32).unwrap();
        let error = Checkpoint::open(&path, &Device::flex()).unwrap().values("w").unwrap_err();
        assert!(error.to_string().contains("tensor w"), "{error}");
    }

    #[test]
    fn an_unwritable_path_leaves_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("no/such/x.safetensors");
        assert!(write(&path, &sample(), BTreeMap::new(), Precision::F32).is_err());
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
    }
}
