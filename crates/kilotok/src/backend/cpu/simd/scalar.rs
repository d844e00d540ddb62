//! The scalar path: eight lanes of plain Rust, products and sums rounded separately.
#![allow(clippy::needless_range_loop, reason = "constant index loops unroll into registers")]
#![allow(unsafe_code, reason = "reads unaligned bytes through pointers like the other paths")]

use super::vector::Vector;
use crate::numeric::{fp8, mxfp4};

/// Eight lanes.
#[derive(Clone, Copy)]
pub(crate) struct Scalar([f32; 8]);

#[inline(always)]
fn zip(a: Scalar, b: Scalar, f: impl Fn(f32, f32) -> f32) -> Scalar {
    let mut out = a;
    for i in 0..8 {
        out.0[i] = f(a.0[i], b.0[i]);
    }
    out
}

impl Vector for Scalar {
    const LANES: usize = 8;
    const WIDE: bool = false;
    const E4M3_FACTOR: f32 = 1.0;
    type Word = [u32; 8];

    #[inline(always)]
    unsafe fn splat(x: f32) -> Self {
        Self([x; 8])
    }

    #[inline(always)]
    unsafe fn load(p: *const f32) -> Self {
        // SAFETY: the caller vouches for eight readable floats.
        Self(unsafe { p.cast::<[f32; 8]>().read_unaligned() })
    }

    #[inline(always)]
    unsafe fn store(self, p: *mut f32) {
        // SAFETY: the caller vouches for eight writable floats.
        unsafe { p.cast::<[f32; 8]>().write_unaligned(self.0) }
    }

    #[inline(always)]
    unsafe fn add(self, other: Self) -> Self {
        zip(self, other, |a, b| a + b)
    }

    #[inline(always)]
    unsafe fn sub(self, other: Self) -> Self {
        zip(self, other, |a, b| a - b)
    }

    #[inline(always)]
    unsafe fn mul(self, other: Self) -> Self {
        zip(self, other, |a, b| a * b)
    }

    #[inline(always)]
    unsafe fn div(self, other: Self) -> Self {
        zip(self, other, |a, b| a / b)
    }

    #[inline(always)]
    unsafe fn min(self, other: Self) -> Self {
        zip(self, other, |a, b| if a < b { a } else { b })
    }

    #[inline(always)]
    unsafe fn max(self, other: Self) -> Self {
        zip(self, other, |a, b| if a > b { a } else { b })
    }

    #[inline(always)]
    unsafe fn fma(self, b: Self, c: Self) -> Self {
        let mut out = c;
        for i in 0..8 {
            out.0[i] = self.0[i] * b.0[i] + c.0[i];
        }
        out
    }

    #[inline(always)]
    unsafe fn round(self) -> Self {
        // Adding 1.5 * 2^23 leaves the integer in the low mantissa bits, rounded to even.
        zip(self, Self([12_582_912.0; 8]), |a, magic| (a + magic) - magic)
    }

    #[inline(always)]
    unsafe fn pow2(self) -> Self {
        zip(self, self, |a, _| f32::from_bits(((a as i32 + 127) as u32) << 23))
    }

    #[inline(always)]
    unsafe fn prefetch(_: *const u8) {}

    #[inline(always)]
    unsafe fn sum(self) -> f32 {
        let s = self.0;
        let q = [s[0] + s[4], s[1] + s[5], s[2] + s[6], s[3] + s[7]];
        (q[0] + q[2]) + (q[1] + q[3])
    }

    #[inline(always)]
    unsafe fn bf16(p: *const u8) -> Self {
        // SAFETY: the caller vouches for 16 readable bytes.
        let words = unsafe { p.cast::<[u16; 8]>().read_unaligned() };
        let mut out = [0.0; 8];
        for i in 0..8 {
            out[i] = f32::from_bits(u32::from(u16::from_le(words[i])) << 16);
        }
        Self(out)
    }

    #[inline(always)]
    unsafe fn e4m3(p: *const u8) -> Self {
        // SAFETY: the caller vouches for eight readable bytes.
        let bytes = unsafe { p.cast::<[u8; 8]>().read_unaligned() };
        let mut out = [0.0; 8];
        for i in 0..8 {
            out[i] = fp8::DECODE[usize::from(bytes[i])];
        }
        Self(out)
    }

    #[inline(always)]
    unsafe fn codes(p: *const u8) -> Self::Word {
        // SAFETY: the caller vouches for 32 readable bytes.
        unsafe { p.cast::<[u32; 8]>().read_unaligned() }.map(u32::from_le)
    }

    #[inline(always)]
    unsafe fn e2m1(word: Self::Word) -> Self {
        let mut out = [0.0; 8];
        for i in 0..8 {
            out[i] = mxfp4::E2M1[(word[i] & 15) as usize];
        }
        Self(out)
    }

    #[inline(always)]
    unsafe fn next(word: Self::Word) -> Self::Word {
        let mut out = word;
        for w in &mut out {
            *w >>= 4;
        }
        out
    }

    #[inline(always)]
    unsafe fn e8m0(p: *const u8) -> Self {
        // SAFETY: the caller vouches for two readable bytes.
        let [a, b] = unsafe { p.cast::<[u8; 2]>().read_unaligned() }.map(mxfp4::e8m0);
        Self([a, a, a, a, b, b, b, b])
    }
}
