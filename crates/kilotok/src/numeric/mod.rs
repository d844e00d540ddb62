//! Codecs of the stored number formats: exact decoding, and encoding with the rounding that
//! training uses (`docs/numerics.md`).

pub mod bf16;
pub mod fp8;
pub mod mxfp4;
pub mod mxfp4_encoder;
