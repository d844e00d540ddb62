//! SIMD paths: which there are, and the vector operations the kernels are written in.
//!
//! Kernels are generic over [`Vector`] and compiled once per path (`kernels.rs`), so every path
//! has the same order of sums up to the number of lanes. Results differ between paths by
//! rounding; within one path they are bit-reproducible.

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
mod exp;
mod kernels;
#[cfg(target_arch = "aarch64")]
mod neon;
mod scalar;
mod vector;

use std::fmt;
use std::str::FromStr;

#[cfg(target_arch = "x86_64")]
pub(super) use avx512::Avx512;
pub(super) use exp::{clamped_swiglu, exp, sigmoid, silu_mul};
pub(super) use kernels::Kernels;
pub(super) use vector::Vector;

use crate::error::{Error, Result};

/// A SIMD path of the CPU backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Simd {
    /// Plain Rust, eight lanes; the reference for the others.
    Scalar,
    /// x86-64 with AVX2, FMA and F16C.
    Avx2,
    /// x86-64 with AVX-512 F, BW, DQ and VL.
    Avx512,
    /// As `Avx512`, with AMX bfloat16 tiles for matrices in BF16, FP8 and MXFP4 (Linux).
    Amx,
    /// 64-bit Arm with NEON.
    Neon,
}

impl Simd {
    /// The paths this machine can run, slowest first.
    pub fn available() -> Vec<Self> {
        [Self::Scalar, Self::Neon, Self::Avx2, Self::Avx512, Self::Amx]
            .into_iter()
            .filter(|s| s.is_available())
            .collect()
    }

    /// The fastest path this machine can run.
    pub fn detect() -> Self {
        [Self::Amx, Self::Avx512, Self::Avx2, Self::Neon]
            .into_iter()
            .find(|s| s.is_available())
            .unwrap_or(Self::Scalar)
    }

    /// Whether this machine can run the path.
    pub fn is_available(self) -> bool {
        match self {
            Self::Scalar => true,
            #[cfg(target_arch = "x86_64")]
            Self::Avx2 => avx2_is_available(),
            #[cfg(target_arch = "x86_64")]
            Self::Avx512 => avx512_is_available(),
            #[cfg(all(target_arch = "x86_64", target_os = "linux"))]
            Self::Amx => avx512_is_available() && super::linear::permission(),
            #[cfg(target_arch = "aarch64")]
            Self::Neon => std::arch::is_aarch64_feature_detected!("neon"),
            #[allow(unreachable_patterns, reason = "which arms exist depends on the target")]
            _ => false,
        }
    }

    /// The kernels of this path.
    ///
    /// # Errors
    /// Where the machine lacks the instructions.
    pub(super) fn kernels(self) -> Result<&'static Kernels> {
        if !self.is_available() {
            let available: Vec<String> = Self::available().iter().map(Self::to_string).collect();
            return Err(Error::invalid(
                "simd",
                format!("this machine cannot run `{self}`; it can run {}", available.join(", ")),
            ));
        }
        Ok(match self {
            #[cfg(target_arch = "x86_64")]
            Self::Avx2 => &kernels::AVX2,
            #[cfg(target_arch = "x86_64")]
            Self::Avx512 => &kernels::AVX512,
            #[cfg(all(target_arch = "x86_64", target_os = "linux"))]
            Self::Amx => &kernels::AMX,
            #[cfg(target_arch = "aarch64")]
            Self::Neon => &kernels::NEON,
            _ => &kernels::SCALAR,
        })
    }
}

#[cfg(target_arch = "x86_64")]
fn avx2_is_available() -> bool {
    is_x86_feature_detected!("avx2")
        && is_x86_feature_detected!("fma")
        && is_x86_feature_detected!("f16c")
}

#[cfg(target_arch = "x86_64")]
fn avx512_is_available() -> bool {
    avx2_is_available()
        && is_x86_feature_detected!("avx512f")
        && is_x86_feature_detected!("avx512bw")
        && is_x86_feature_detected!("avx512dq")
        && is_x86_feature_detected!("avx512vl")
}

impl fmt::Display for Simd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Scalar => "scalar",
            Self::Avx2 => "avx2",
            Self::Avx512 => "avx512",
            Self::Amx => "amx",
            Self::Neon => "neon",
        })
    }
}

impl FromStr for Simd {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        [Self::Scalar, Self::Avx2, Self::Avx512, Self::Amx, Self::Neon]
            .into_iter()
            .find(|s| s.to_string() == name)
            .ok_or_else(|| {
                Error::invalid(
                    "simd",
                    format!("`{name}`: expected scalar, avx2, avx512, amx or neon"),
                )
            })
    }
}
