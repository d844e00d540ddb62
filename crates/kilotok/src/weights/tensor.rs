//! Stored tensors: element types, and tensors handed over in memory.

use std::fmt;

use crate::matrix::Bytes;

/// Element type of a stored tensor.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Dtype {
    /// 32-bit float.
    F32,
    /// bfloat16.
    Bf16,
    /// 8-bit float e4m3 without infinities.
    F8E4M3,
    /// Bytes: pairs of e2m1, or e8m0 exponents.
    U8,
    /// Any other type, by its safetensors name; no weight may use it.
    Other(String),
}

impl Dtype {
    /// From a safetensors type name.
    pub fn from_name(name: &str) -> Self {
        match name {
            "F32" => Self::F32,
            "BF16" => Self::Bf16,
            "F8_E4M3" => Self::F8E4M3,
            // An exponent byte under its newer name.
            "U8" | "F8_E8M0" => Self::U8,
            other => Self::Other(other.chars().take(32).collect()),
        }
    }

    /// The safetensors type name.
    pub fn name(&self) -> &str {
        match self {
            Self::F32 => "F32",
            Self::Bf16 => "BF16",
            Self::F8E4M3 => "F8_E4M3",
            Self::U8 => "U8",
            Self::Other(name) => name,
        }
    }

    /// Bytes of one element; `None` for types of unknown or fractional size.
    pub fn size(&self) -> Option<usize> {
        match self {
            Self::F32 => Some(4),
            Self::Bf16 => Some(2),
            Self::F8E4M3 | Self::U8 => Some(1),
            Self::Other(name) => match name.as_str() {
                "BOOL" | "I8" | "F8_E5M2" => Some(1),
                "F16" | "I16" | "U16" => Some(2),
                "I32" | "U32" => Some(4),
                "F64" | "I64" | "U64" => Some(8),
                _ => None,
            },
        }
    }
}

impl fmt::Display for Dtype {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// One tensor handed over in memory, row-major and little endian.
#[derive(Clone, Debug)]
pub struct TensorData {
    /// Element type.
    pub dtype: Dtype,
    /// Dimensions, outermost first.
    pub shape: Vec<usize>,
    /// Elements; as many bytes as type and shape say.
    pub bytes: Bytes,
}

/// Bytes of a tensor, or `None` where the product overflows or the size is unknown.
pub(super) fn num_bytes(dtype: &Dtype, shape: &[usize]) -> Option<usize> {
    shape.iter().try_fold(dtype.size()?, |product, &dim| product.checked_mul(dim))
}
