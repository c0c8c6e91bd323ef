//! The header of GGUF files, versions 2 and 3.

use std::collections::BTreeMap;
use std::io::Read;
use std::ops::Range;
use std::path::Path;

use crate::encoding::{Encoding, Quantization};
use crate::error::WeightError;
use crate::safetensors::Storage;

/// What files of this format begin with.
pub(crate) const MAGIC: &[u8; 4] = b"GGUF";
/// Where tensors begin, unless the file says otherwise.
const ALIGNMENT: usize = 32;
/// Most dimensions of a tensor. The format's own programs stop at four; converters of video models write the
/// kernel of the patch embedding with five.
const DIMENSIONS: usize = 5;
/// Metadata under this prefix and a tensor's name is the shape it had before it was flattened.
const ORIGINAL_SHAPE: &str = "comfy.gguf.orig_shape.";

/// Everything a header says.
#[derive(Debug, Default)]
pub(crate) struct Header {
    pub(crate) tensors: Vec<TensorHeader>,
    /// Strings and numbers of the metadata.
    pub(crate) metadata: BTreeMap<String, String>,
}

/// What the header says of one tensor.
#[derive(Debug)]
pub(crate) struct TensorHeader {
    pub(crate) name: String,
    pub(crate) encoding: Encoding,
    /// Slowest dimension first.
    pub(crate) shape: Vec<usize>,
    /// Where its bytes lie in the file.
    pub(crate) range: Range<usize>,
}

/// Why a header is of no use.
#[derive(Debug)]
pub(crate) enum Fault {
    /// A field is wrong: which, and how.
    Malformed(String),
    /// The file is whole, and a tensor is of a type that is not read.
    NotRead { tensor: String, kind: u32 },
}

impl From<String> for Fault {
    fn from(reason: String) -> Self {
        Self::Malformed(reason)
    }
}

impl Fault {
    /// The error of the file at `path`.
    pub(crate) fn of(self, path: &Path) -> WeightError {
        const ADVICE: &str = "use one in F32, F16, BF16, Q8_0, Q4_0 to Q5_1, Q2_K to Q6_K, IQ4_NL or IQ4_XS";
        let path = path.to_owned();
        match self {
            Self::Malformed(reason) => WeightError::Malformed { path, reason },
            Self::NotRead { tensor, kind } => {
                let name = NOT_READ.iter().find(|(number, _)| *number == kind);
                let name = name.map_or_else(|| format!("number {kind}"), |(_, name)| (*name).to_owned());
                let what =
                    format!("a GGUF file whose tensor {tensor} is of ggml's type {name}, which is not read");
                WeightError::NotWeights { path, what, advice: ADVICE }
            }
        }
    }
}

/// ggml's types that are not read.
const NOT_READ: [(u32, &str); 20] = [
    (9, "Q8_1"),
    (15, "Q8_K"),
    (16, "IQ2_XXS"),
    (17, "IQ2_XS"),
    (18, "IQ3_XXS"),
    (19, "IQ1_S"),
    (21, "IQ3_S"),
    (22, "IQ2_S"),
    (24, "I8"),
    (25, "I16"),
    (29, "IQ1_M"),
    (31, "Q4_0_4_4"),
    (32, "Q4_0_4_8"),
    (33, "Q4_0_8_8"),
    (34, "TQ1_0"),
    (35, "TQ2_0"),
    (36, "IQ4_NL_4_4"),
    (37, "IQ4_NL_4_8"),
    (38, "IQ4_NL_8_8"),
    (39, "MXFP4"),
];

/// Reads the header from `stream`, a whole file of `length` bytes.
///
/// # Errors
/// Says which field is wrong, and how, or which tensor is of a type that is not read.
pub(crate) fn read(stream: impl Read, length: usize) -> Result<Header, Fault> {
    let mut reader = Reader { stream, at: 0, length, keep: KEPT };
    let (tensor_count, values) = reader.metadata()?;
    let described: Vec<_> = (0..tensor_count).map(|_| reader.tensor()).collect::<Result<_, _>>()?;
    let alignment = match values.get("general.alignment") {
        Some(Value::Number(text)) => {
            text.parse().ok().filter(|&n: &usize| n.is_power_of_two() && n <= 1 << 16)
        }
        Some(_) => None,
        None => Some(ALIGNMENT),
    };
    let alignment =
        alignment.ok_or_else(|| "general.alignment: must be a power of two up to 65536".to_owned())?;
    let start = reader.at.next_multiple_of(alignment);
    let mut tensors = Vec::with_capacity(described.len());
    for (name, shape, kind, offset) in described {
        let Some((encoding, numbers, size)) = block(kind) else {
            return Err(Fault::NotRead { tensor: name, kind });
        };
        let size = bytes(&shape, numbers, size).map_err(|reason| format!("tensor {name}: {reason}"))?;
        let range = usize::try_from(offset)
            .ok()
            .and_then(|offset| start.checked_add(offset))
            .and_then(|from| Some(from..from.checked_add(size)?))
            .filter(|range| range.end <= length)
            .ok_or_else(|| {
                format!("tensor {name}: offset {offset} with {size} bytes lies beyond the file (truncated?)")
            })?;
        let shape = original_shape(&values, &name, shape)?;
        tensors.push(TensorHeader { name, encoding, shape, range });
    }
    apart(&tensors)?;
    let metadata = values.into_iter().filter_map(|(key, value)| Some((key, value.text()?))).collect();
    Ok(Header { tensors, metadata })
}

/// The encoding of ggml's type `kind`, how many numbers a block of it holds and the bytes it takes; `None` if
/// it is not read.
fn block(kind: u32) -> Option<(Encoding, usize, usize)> {
    use Quantization::{Iq4Nl, Iq4Xs, Q2K, Q3K, Q4_0, Q4_1, Q4K, Q5_0, Q5_1, Q5K, Q6K, Q8_0};
    let quantization = match kind {
        0 => return Some((Encoding::F32, 1, 4)),
        1 => return Some((Encoding::F16, 1, 2)),
        26 => return Some((Encoding::I32, 1, 4)),
        27 => return Some((Encoding::I64, 1, 8)),
        28 => return Some((Encoding::F64, 1, 8)),
        30 => return Some((Encoding::Bf16, 1, 2)),
        2 => Q4_0,
        3 => Q4_1,
        6 => Q5_0,
        7 => Q5_1,
        8 => Q8_0,
        10 => Q2K,
        11 => Q3K,
        12 => Q4K,
        13 => Q5K,
        14 => Q6K,
        20 => Iq4Nl,
        23 => Iq4Xs,
        _ => return None,
    };
    let (numbers, size) = quantization.block();
    Some((Encoding::Quantized(quantization), numbers, size))
}

/// The bytes of a tensor of `shape` in blocks of so many `numbers`, each of `size` bytes.
fn bytes(shape: &[usize], numbers: usize, size: usize) -> Result<usize, String> {
    let count = shape.iter().try_fold(1_usize, |count, &extent| count.checked_mul(extent));
    let row = shape.last().copied().unwrap_or(1);
    if !row.is_multiple_of(numbers) {
        return Err(format!("rows of {row} are not whole blocks of {numbers}"));
    }
    let bytes = count.and_then(|count| (count / numbers).checked_mul(size));
    bytes.ok_or_else(|| format!("shape {shape:?} is absurd"))
}

/// The shape a tensor had before it was flattened, if the metadata says.
fn original_shape(
    values: &BTreeMap<String, Value>,
    name: &str,
    shape: Vec<usize>,
) -> Result<Vec<usize>, String> {
    let Some(value) = values.get(&format!("{ORIGINAL_SHAPE}{name}")) else { return Ok(shape) };
    let original = match value {
        Value::Numbers(numbers) => {
            numbers.iter().map(|text| text.parse().ok()).collect::<Option<Vec<usize>>>()
        }
        _ => None,
    };
    let product =
        |shape: &[usize]| shape.iter().try_fold(1_usize, |count, &extent| count.checked_mul(extent));
    match original {
        Some(original) if product(&original) == product(&shape) => Ok(original),
        _ => Err(format!("{ORIGINAL_SHAPE}{name}: does not fit shape {shape:?}")),
    }
}

/// That no two tensors share bytes.
fn apart(tensors: &[TensorHeader]) -> Result<(), String> {
    let mut ranges: Vec<_> = tensors.iter().map(|tensor| (&tensor.range, &tensor.name)).collect();
    ranges.sort_by_key(|(range, _)| (range.start, range.end));
    match ranges.windows(2).find(|pair| pair[0].0.end > pair[1].0.start) {
        Some(pair) => Err(format!("tensors {} and {} overlap", pair[0].1, pair[1].1)),
        None => Ok(()),
    }
}

/// The vocabulary of a text encoder, as llama.cpp's converter writes it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Vocabulary {
    /// The kind of tokenizer: `t5`, `llama`, `gpt2`, ...
    pub kind: String,
    /// Every piece: its text, its score, and its kind as SentencePiece numbers them.
    pub pieces: Vec<(String, f32, u64)>,
    /// SentencePiece's compiled map of characters; empty if there is none.
    pub characters: Vec<u8>,
    /// Which piece stands for what is unknown.
    pub unknown: usize,
}

impl Vocabulary {
    /// That of the GGUF file at `path`; `None` if it has none or is another kind of file.
    ///
    /// # Errors
    /// When the file cannot be read or its header is not consistent.
    pub fn open(path: &Path) -> Result<Option<Self>, WeightError> {
        Self::of(&Storage::open(path)?, path)
    }

    /// The same of one that is open.
    pub(crate) fn of(storage: &Storage, path: &Path) -> Result<Option<Self>, WeightError> {
        let malformed = |reason: String| WeightError::Malformed { path: path.to_owned(), reason };
        let start = storage.bytes(0..storage.length().min(MAGIC.len())).map_err(malformed)?;
        if *start != *MAGIC {
            return Ok(None);
        }
        let (stream, length) = (storage.stream(), storage.length());
        let mut reader = Reader { stream, at: 0, length, keep: usize::MAX };
        let (_, mut values) = reader.metadata().map_err(malformed)?;
        let mut take = |key: &str| values.remove(&format!("tokenizer.ggml.{key}"));
        let Some(Value::Texts(tokens)) = take("tokens") else { return Ok(None) };
        let numbers = |value: Option<Value>| match value {
            Some(Value::Numbers(numbers)) => numbers,
            _ => Vec::new(),
        };
        let (scores, kinds) = (numbers(take("scores")), numbers(take("token_type")));
        let number = |value: Option<Value>| value.and_then(Value::text).and_then(|text| text.parse().ok());
        let piece = |(index, text): (usize, String)| {
            let score = scores.get(index).and_then(|score| score.parse().ok()).unwrap_or(0.0);
            (text, score, kinds.get(index).and_then(|kind| kind.parse().ok()).unwrap_or(1))
        };
        Ok(Some(Self {
            characters: numbers(take("precompiled_charsmap")).iter().filter_map(|text| byte(text)).collect(),
            unknown: number(take("unknown_token_id")).unwrap_or(2),
            kind: take("model").and_then(Value::text).unwrap_or_default(),
            pieces: tokens.into_iter().enumerate().map(piece).collect(),
        }))
    }
}

/// A byte, whether it was written with a sign or without.
fn byte(text: &str) -> Option<u8> {
    text.parse::<i16>().ok().map(|number| number as u8)
}

/// A metadata value, as far as anything here needs it.
#[derive(Debug)]
enum Value {
    Number(String),
    Text(String),
    Numbers(Vec<String>),
    Texts(Vec<String>),
    Other,
}

impl Value {
    fn text(self) -> Option<String> {
        match self {
            Self::Number(text) | Self::Text(text) => Some(text),
            Self::Numbers(_) | Self::Texts(_) | Self::Other => None,
        }
    }
}

/// The most entries of an array that are kept, unless a vocabulary is asked for.
const KEPT: usize = 16;

/// A place in the file. Every read is checked against its end.
struct Reader<R> {
    stream: R,
    at: usize,
    length: usize,
    /// The most entries of an array that are of use.
    keep: usize,
}

impl<R: Read> Reader<R> {
    /// What stands before the tensors: how many there are, and the metadata.
    fn metadata(&mut self) -> Result<(usize, BTreeMap<String, Value>), String> {
        if self.take(4, "magic")? != MAGIC {
            return Err("magic: it is not GGUF".to_owned());
        }
        let version = self.u32("version")?;
        if !(2..=3).contains(&version) {
            return Err(format!("version: {version} is not supported; it must be 2 or 3"));
        }
        let tensor_count = self.count("tensor_count", 24)?;
        let entries = self.count("metadata_kv_count", 12)?;
        let mut values = BTreeMap::new();
        for _ in 0..entries {
            let key = self.string("metadata key")?;
            let kind = self.u32(&key)?;
            let value = self.value(kind, &key, 0)?;
            values.insert(key, value);
        }
        Ok((tensor_count, values))
    }

    fn fill(&mut self, buffer: &mut [u8], field: &str) -> Result<(), String> {
        let end = self.at.checked_add(buffer.len()).filter(|&end| end <= self.length);
        let end = end.ok_or_else(|| format!("{field}: the file ends too early (truncated?)"))?;
        self.stream.read_exact(buffer).map_err(|error| format!("{field}: {error}"))?;
        self.at = end;
        Ok(())
    }

    fn take(&mut self, length: usize, field: &str) -> Result<Vec<u8>, String> {
        if length > self.length - self.at {
            return Err(format!("{field}: the file ends too early (truncated?)"));
        }
        let mut bytes = vec![0; length];
        self.fill(&mut bytes, field)?;
        Ok(bytes)
    }

    fn array<const N: usize>(&mut self, field: &str) -> Result<[u8; N], String> {
        let mut array = [0; N];
        self.fill(&mut array, field)?;
        Ok(array)
    }

    fn u32(&mut self, field: &str) -> Result<u32, String> {
        self.array(field).map(u32::from_le_bytes)
    }

    fn u64(&mut self, field: &str) -> Result<u64, String> {
        self.array(field).map(u64::from_le_bytes)
    }

    /// A number of things that take at least `least` bytes each.
    fn count(&mut self, field: &str, least: usize) -> Result<usize, String> {
        let count = self.u64(field)?;
        let room = (self.length - self.at) / least;
        match usize::try_from(count) {
            Ok(count) if count <= room => Ok(count),
            _ => Err(format!("{field}: {count} do not fit into the file")),
        }
    }

    fn string(&mut self, field: &str) -> Result<String, String> {
        let length = self.count(field, 1)?;
        let bytes = self.take(length, field)?;
        String::from_utf8(bytes).map_err(|_| format!("{field}: it is not text"))
    }

    /// A metadata value of ggml's type `kind`, `depth` arrays deep.
    fn value(&mut self, kind: u32, key: &str, depth: usize) -> Result<Value, String> {
        let number = |text: String| Ok(Value::Number(text));
        match kind {
            0 => number(self.array::<1>(key)?[0].to_string()),
            1 => number(i8::from_le_bytes(self.array(key)?).to_string()),
            2 => number(u16::from_le_bytes(self.array(key)?).to_string()),
            3 => number(i16::from_le_bytes(self.array(key)?).to_string()),
            4 => number(self.u32(key)?.to_string()),
            5 => number(i32::from_le_bytes(self.array(key)?).to_string()),
            6 => number(f32::from_le_bytes(self.array(key)?).to_string()),
            7 => number((self.array::<1>(key)?[0] != 0).to_string()),
            8 => Ok(Value::Text(self.string(key)?)),
            9 => self.values(key, depth),
            10 => number(self.u64(key)?.to_string()),
            11 => number(i64::from_le_bytes(self.array(key)?).to_string()),
            12 => number(f64::from_le_bytes(self.array(key)?).to_string()),
            _ => Err(format!("{key}: type {kind} is not known")),
        }
    }

    /// An array. Long ones are vocabularies, which are of use only to who asks for them.
    fn values(&mut self, key: &str, depth: usize) -> Result<Value, String> {
        const DEEPEST: usize = 4;
        if depth >= DEEPEST {
            return Err(format!("{key}: arrays are nested too deeply"));
        }
        let kind = self.u32(key)?;
        let count = self.count(key, 1)?;
        let (mut numbers, mut texts) = (Vec::new(), Vec::new());
        for _ in 0..count {
            match self.value(kind, key, depth + 1)? {
                Value::Number(text) if numbers.len() < self.keep => numbers.push(text),
                Value::Text(text) if texts.len() < self.keep => texts.push(text),
                _ => {}
            }
        }
        Ok(match (numbers.len() == count, texts.len() == count) {
            (true, _) => Value::Numbers(numbers),
            (_, true) => Value::Texts(texts),
            _ => Value::Other,
        })
    }

    /// Name, shape (slowest dimension first), type and offset.
    fn tensor(&mut self) -> Result<(String, Vec<usize>, u32, u64), String> {
        let name = self.string("tensor name")?;
        let dimensions = self.u32(&name)? as usize;
        if dimensions > DIMENSIONS {
            return Err(format!(
                "tensor {name}: {dimensions} dimensions, and there are at most {DIMENSIONS}"
            ));
        }
        let mut shape = Vec::with_capacity(dimensions);
        for _ in 0..dimensions {
            let extent = self.u64(&name)?;
            shape.push(
                usize::try_from(extent).map_err(|_| format!("tensor {name}: extent {extent} is absurd"))?,
            );
        }
        shape.reverse();
        Ok((name.clone(), shape, self.u32(&name)?, self.u64(&name)?))
    }
}
