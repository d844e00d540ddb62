//! The kernels of each path: generic code compiled once per set of CPU features.
#![allow(unsafe_code, reason = "the entries carry target features")]

use super::super::attend::{AttendJob, attend};
use super::super::linear::{LinearJob, Split, linear};
use super::super::rms_norm::{NormJob, norm};
use super::{clamped_swiglu, sigmoid, silu_mul};

/// Entry points of one path.
///
/// # Safety
/// Every entry requires the path's CPU features ([`super::Simd::kernels`] hands out none
/// without) and what the generic function behind it requires.
pub(crate) struct Kernels {
    /// f32 lanes of a vector.
    pub(crate) lanes: usize,
    pub(crate) linear: unsafe fn(&LinearJob),
    pub(crate) silu_mul: unsafe fn(&mut [f32], &[f32]),
    pub(crate) clamped_swiglu: unsafe fn(&mut [f32], &[f32], f32, f32),
    pub(crate) attend: unsafe fn(&mut AttendJob),
    pub(crate) norm: unsafe fn(&mut NormJob),
    pub(crate) sigmoid: unsafe fn(&mut [f32]),
    /// Splits activations where the path multiplies bfloat16 tiles.
    pub(crate) split: Option<Split>,
}

macro_rules! kernels {
    ($name:ident, $constant:ident, $module:ident, $vector:ty $(, $features:literal)?) => {
        mod $module {
            use super::*;

            $(#[target_feature(enable = $features)])?
            pub(super) unsafe fn linear_entry(job: &LinearJob) {
                // SAFETY: the contract of `Kernels`.
                unsafe { linear::<$vector>(job) }
            }

            $(#[target_feature(enable = $features)])?
            pub(super) unsafe fn silu_mul_entry(gate: &mut [f32], up: &[f32]) {
                // SAFETY: the contract of `Kernels`.
                unsafe { silu_mul::<$vector>(gate, up) }
            }

            $(#[target_feature(enable = $features)])?
            pub(super) unsafe fn clamped_swiglu_entry(
                gate: &mut [f32],
                up: &[f32],
                alpha: f32,
                limit: f32,
            ) {
                // SAFETY: the contract of `Kernels`.
                unsafe { clamped_swiglu::<$vector>(gate, up, alpha, limit) }
            }

            $(#[target_feature(enable = $features)])?
            pub(super) unsafe fn attend_entry(job: &mut AttendJob) {
                // SAFETY: the contract of `Kernels`.
                unsafe { attend::<$vector>(job) }
            }

            $(#[target_feature(enable = $features)])?
            pub(super) unsafe fn norm_entry(job: &mut NormJob) {
                // SAFETY: the contract of `Kernels`.
                unsafe { norm::<$vector>(job) }
            }

            $(#[target_feature(enable = $features)])?
            pub(super) unsafe fn sigmoid_entry(values: &mut [f32]) {
                // SAFETY: the contract of `Kernels`.
                unsafe { sigmoid::<$vector>(values) }
            }
        }

        /// Kernels of this path.
        const $constant: Kernels = Kernels {
            lanes: <$vector as super::Vector>::LANES,
            linear: $module::linear_entry,
            silu_mul: $module::silu_mul_entry,
            clamped_swiglu: $module::clamped_swiglu_entry,
            attend: $module::attend_entry,
            norm: $module::norm_entry,
            sigmoid: $module::sigmoid_entry,
            split: None,
        };
        /// Kernels of this path.
        pub(super) static $name: Kernels = $constant;
    };
}

kernels!(SCALAR, SCALAR_KERNELS, scalar_entries, crate::backend::cpu::simd::scalar::Scalar);
#[cfg(target_arch = "x86_64")]
kernels!(AVX2, AVX2_KERNELS, avx2_entries, crate::backend::cpu::simd::avx2::Avx2, "avx2,fma,f16c");
#[cfg(target_arch = "x86_64")]
kernels!(
    AVX512,
    AVX512_KERNELS,
    avx512_entries,
    crate::backend::cpu::simd::avx512::Avx512,
    "avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl"
);
#[cfg(target_arch = "aarch64")]
kernels!(NEON, NEON_KERNELS, neon_entries, crate::backend::cpu::simd::neon::Neon, "neon");

/// AVX-512 but for matrices in narrow formats, which go through tiles.
#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
pub(super) static AMX: Kernels = Kernels {
    linear: super::super::linear::linear_amx,
    split: Some(super::super::linear::split_amx),
    ..AVX512_KERNELS
};
