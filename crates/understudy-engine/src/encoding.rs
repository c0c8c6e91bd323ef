//! How files store numbers, and reading them as f32.

mod quantized;

use ::safetensors::tensor::Dtype;
use half::{bf16, f16};
use pytorch_reader::DType;

pub use quantized::Quantization;

/// How a tensor's numbers are stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Encoding {
    /// 64-bit float.
    F64,
    /// 32-bit float.
    F32,
    /// IEEE half.
    F16,
    /// bfloat16.
    Bf16,
    /// 8-bit float with 4 bits of exponent, finite and NaN only.
    F8E4M3,
    /// 8-bit float with 5 bits of exponent.
    F8E5M2,
    /// 8-bit integer, which stands for a float where it has a scale.
    I8,
    /// 64-bit integer.
    I64,
    /// 32-bit integer.
    I32,
    /// A byte.
    U8,
    /// A truth value in a byte.
    Bool,
    /// Blocks of integers with scales, as GGUF has them.
    Quantized(Quantization),
    /// Something else, by its name.
    Other(String),
}

impl Encoding {
    /// As the format names it: `BF16`, `F8_E4M3`, `Q4_K`.
    pub fn name(&self) -> String {
        match self {
            Self::F64 => "F64".to_owned(),
            Self::F32 => "F32".to_owned(),
            Self::F16 => "F16".to_owned(),
            Self::Bf16 => "BF16".to_owned(),
            Self::F8E4M3 => "F8_E4M3".to_owned(),
            Self::F8E5M2 => "F8_E5M2".to_owned(),
            Self::I8 => "I8".to_owned(),
            Self::I64 => "I64".to_owned(),
            Self::I32 => "I32".to_owned(),
            Self::U8 => "U8".to_owned(),
            Self::Bool => "BOOL".to_owned(),
            Self::Quantized(quantization) => quantization.name().to_owned(),
            Self::Other(name) => name.clone(),
        }
    }

    /// Says that numbers of this type are not read, and which are.
    pub(crate) fn not_read(&self) -> String {
        format!(
            "is of type {}, which is not read; F64, F32, F16, BF16, F8, I8 with scales, and those of GGUF are",
            self.name()
        )
    }

    /// Whether values are of 8 bits, which go with a scale of their own.
    pub(crate) fn is_eight_bits(&self) -> bool {
        matches!(self, Self::F8E4M3 | Self::F8E5M2 | Self::I8)
    }

    /// Whether scales beside it give its numbers their meaning: those of floats and of 8-bit integers.
    pub(crate) fn takes_scales(&self) -> bool {
        self.decode_scaled(&[], &mut Vec::new())
    }

    /// Appends the numbers of `bytes`, which have scales beside them; whether there can be any.
    pub(crate) fn decode_scaled(&self, bytes: &[u8], values: &mut Vec<f32>) -> bool {
        match self {
            Self::I8 => values.extend(bytes.iter().map(|&byte| f32::from(byte.cast_signed()))),
            other => return other.decode(bytes, values),
        }
        true
    }

    /// The numbers of `bytes`, which must be whole elements or blocks; `None` if they are no floats.
    pub(crate) fn to_f32(&self, bytes: &[u8]) -> Option<Vec<f32>> {
        let mut values = Vec::new();
        self.decode(bytes, &mut values).then_some(values)
    }

    /// Appends the numbers of `bytes`, which must be whole elements or blocks; whether they are floats.
    pub(crate) fn decode(&self, bytes: &[u8], values: &mut Vec<f32>) -> bool {
        match self {
            Self::F64 => values.extend(elements(bytes).map(|b| f64::from_le_bytes(b) as f32)),
            Self::F32 => values.extend(elements(bytes).map(f32::from_le_bytes)),
            Self::F16 => values.extend(elements(bytes).map(|b| f16::from_le_bytes(b).to_f32())),
            Self::Bf16 => values.extend(elements(bytes).map(|b| bf16::from_le_bytes(b).to_f32())),
            Self::F8E4M3 => values.extend(bytes.iter().map(|&byte| e4m3(byte))),
            // The upper half of an IEEE half.
            Self::F8E5M2 => {
                values.extend(bytes.iter().map(|&byte| f16::from_bits(u16::from(byte) << 8).to_f32()));
            }
            Self::Quantized(quantization) => quantization.decode(bytes, values),
            _ => return false,
        }
        true
    }

    /// Bytes that can only be read together: an element, or a block.
    pub(crate) fn unit(&self) -> usize {
        match self {
            Self::F64 | Self::I64 => 8,
            Self::F32 | Self::I32 => 4,
            Self::F16 | Self::Bf16 => 2,
            Self::Quantized(quantization) => quantization.block().1,
            _ => 1,
        }
    }

    /// The integers of `bytes`; `None` if they are none.
    pub(crate) fn to_integers(&self, bytes: &[u8]) -> Option<Vec<i64>> {
        Some(match self {
            Self::I64 => elements(bytes).map(i64::from_le_bytes).collect(),
            Self::I32 => elements(bytes).map(|b| i64::from(i32::from_le_bytes(b))).collect(),
            Self::I8 => bytes.iter().map(|&byte| i64::from(byte.cast_signed())).collect(),
            Self::U8 | Self::Bool => bytes.iter().map(|&byte| i64::from(byte)).collect(),
            _ => return None,
        })
    }
}

impl From<Dtype> for Encoding {
    fn from(dtype: Dtype) -> Self {
        match dtype {
            Dtype::F64 => Self::F64,
            Dtype::F32 => Self::F32,
            Dtype::F16 => Self::F16,
            Dtype::BF16 => Self::Bf16,
            Dtype::F8_E4M3 => Self::F8E4M3,
            Dtype::F8_E5M2 => Self::F8E5M2,
            Dtype::I8 => Self::I8,
            Dtype::I64 => Self::I64,
            Dtype::I32 => Self::I32,
            Dtype::U8 => Self::U8,
            Dtype::BOOL => Self::Bool,
            other => Self::Other(format!("{other:?}")),
        }
    }
}

impl From<DType> for Encoding {
    fn from(dtype: DType) -> Self {
        match dtype {
            DType::F64 => Self::F64,
            DType::F32 => Self::F32,
            DType::F16 => Self::F16,
            DType::BF16 => Self::Bf16,
            DType::I8 => Self::I8,
            DType::I64 => Self::I64,
            DType::I32 => Self::I32,
            DType::U8 => Self::U8,
            DType::Bool => Self::Bool,
            other => Self::Other(format!("{other:?}")),
        }
    }
}

fn elements<const N: usize>(bytes: &[u8]) -> impl Iterator<Item = [u8; N]> + '_ {
    bytes.as_chunks::<N>().0.iter().copied()
}

/// An 8-bit float of 1 sign, 4 exponent (bias 7) and 3 mantissa bits, without infinities.
fn e4m3(byte: u8) -> f32 {
    let (exponent, mantissa) = (i32::from(byte >> 3 & 15), f32::from(byte & 7));
    let magnitude = match (exponent, byte & 7) {
        (15, 7) => f32::NAN,
        (0, _) => mantissa / 8.0 * 2_f32.powi(-6),
        _ => (1.0 + mantissa / 8.0) * 2_f32.powi(exponent - 7),
    };
    if byte & 0x80 == 0 { magnitude } else { -magnitude }
}
