//! The NEON path: four lanes, FMA.
#![allow(clippy::wildcard_imports, reason = "the names are the architecture's")]
#![allow(unsafe_code, reason = "CPU instructions behind runtime detection")]

use std::arch::aarch64::*;

use super::vector::Vector;
use crate::numeric::{fp8, mxfp4};

/// Four lanes.
#[derive(Clone, Copy)]
pub(crate) struct Neon(float32x4_t);

/// Top and second bytes of the sixteen e2m1 values as f32; the lower two bytes are zero.
const BYTES: ([u8; 16], [u8; 16]) = {
    let mut bytes = ([0; 16], [0; 16]);
    let mut code = 0;
    while code < 16 {
        let bits = mxfp4::E2M1[code].to_bits();
        bytes.0[code] = (bits >> 24) as u8;
        bytes.1[code] = (bits >> 16) as u8;
        code += 1;
    }
    bytes
};

// SAFETY of every block below: the trait's contract (features present, pointers readable).
impl Vector for Neon {
    const LANES: usize = 4;
    const WIDE: bool = true;
    const E4M3_FACTOR: f32 = 1.0;
    type Word = uint32x4_t;

    #[inline(always)]
    unsafe fn splat(x: f32) -> Self {
        // SAFETY: see above.
        Self(unsafe { vdupq_n_f32(x) })
    }

    #[inline(always)]
    unsafe fn load(p: *const f32) -> Self {
        // SAFETY: see above.
        Self(unsafe { vld1q_f32(p) })
    }

    #[inline(always)]
    unsafe fn store(self, p: *mut f32) {
        // SAFETY: see above.
        unsafe { vst1q_f32(p, self.0) }
    }

    #[inline(always)]
    unsafe fn add(self, other: Self) -> Self {
        // SAFETY: see above.
        Self(unsafe { vaddq_f32(self.0, other.0) })
    }

    #[inline(always)]
    unsafe fn sub(self, other: Self) -> Self {
        // SAFETY: see above.
        Self(unsafe { vsubq_f32(self.0, other.0) })
    }

    #[inline(always)]
    unsafe fn mul(self, other: Self) -> Self {
        // SAFETY: see above.
        Self(unsafe { vmulq_f32(self.0, other.0) })
    }

    #[inline(always)]
    unsafe fn div(self, other: Self) -> Self {
        // SAFETY: see above.
        Self(unsafe { vdivq_f32(self.0, other.0) })
    }

    #[inline(always)]
    unsafe fn min(self, other: Self) -> Self {
        // SAFETY: see above.
        Self(unsafe { vminnmq_f32(self.0, other.0) })
    }

    #[inline(always)]
    unsafe fn max(self, other: Self) -> Self {
        // SAFETY: see above.
        Self(unsafe { vmaxnmq_f32(self.0, other.0) })
    }

    #[inline(always)]
    unsafe fn fma(self, b: Self, c: Self) -> Self {
        // SAFETY: see above.
        Self(unsafe { vfmaq_f32(c.0, self.0, b.0) })
    }

    #[inline(always)]
    unsafe fn round(self) -> Self {
        // SAFETY: see above.
        Self(unsafe { vrndnq_f32(self.0) })
    }

    #[inline(always)]
    unsafe fn pow2(self) -> Self {
        // SAFETY: see above.
        Self(unsafe {
            let n = vaddq_s32(vcvtq_s32_f32(self.0), vdupq_n_s32(127));
            vreinterpretq_f32_s32(vshlq_n_s32::<23>(n))
        })
    }

    #[inline(always)]
    unsafe fn prefetch(_: *const u8) {}

    #[inline(always)]
    unsafe fn sum(self) -> f32 {
        // SAFETY: see above.
        unsafe {
            let d = vadd_f32(vget_low_f32(self.0), vget_high_f32(self.0));
            vget_lane_f32::<0>(d) + vget_lane_f32::<1>(d)
        }
    }

    #[inline(always)]
    unsafe fn bf16(p: *const u8) -> Self {
        // SAFETY: see above.
        Self(unsafe {
            let words = vmovl_u16(vreinterpret_u16_u8(vld1_u8(p)));
            vreinterpretq_f32_u32(vshlq_n_u32::<16>(words))
        })
    }

    #[inline(always)]
    unsafe fn e4m3(p: *const u8) -> Self {
        // SAFETY: see above; `values` holds four floats.
        Self(unsafe {
            let bytes = p.cast::<[u8; 4]>().read_unaligned();
            let values = bytes.map(|b| fp8::DECODE[usize::from(b)]);
            vld1q_f32(values.as_ptr())
        })
    }

    #[inline(always)]
    unsafe fn codes(p: *const u8) -> Self::Word {
        // SAFETY: see above.
        unsafe { vreinterpretq_u32_u8(vld1q_u8(p)) }
    }

    #[inline(always)]
    unsafe fn e2m1(word: Self::Word) -> Self {
        // SAFETY: see above; both tables hold 16 bytes.
        Self(unsafe {
            // Index bytes beyond 15 look up zero: only byte 0 of every word is in range.
            let code = vandq_u32(word, vdupq_n_u32(15));
            let index = vreinterpretq_u8_u32(vorrq_u32(code, vdupq_n_u32(0xffff_ff00)));
            let top = vreinterpretq_u32_u8(vqtbl1q_u8(vld1q_u8(BYTES.0.as_ptr()), index));
            let next = vreinterpretq_u32_u8(vqtbl1q_u8(vld1q_u8(BYTES.1.as_ptr()), index));
            let bits = vorrq_u32(vshlq_n_u32::<24>(top), vshlq_n_u32::<16>(next));
            vreinterpretq_f32_u32(bits)
        })
    }

    #[inline(always)]
    unsafe fn next(word: Self::Word) -> Self::Word {
        // SAFETY: see above.
        unsafe { vshrq_n_u32::<4>(word) }
    }

    #[inline(always)]
    unsafe fn e8m0(p: *const u8) -> Self {
        // SAFETY: see above.
        Self(unsafe { vdupq_n_f32(mxfp4::e8m0(p.read())) })
    }
}
