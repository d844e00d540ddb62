//! The AVX2 path: eight lanes, FMA, F16C.
#![allow(clippy::wildcard_imports, reason = "the names are the architecture's")]
#![allow(unsafe_code, reason = "CPU instructions behind runtime detection")]

use std::arch::x86_64::*;

use super::vector::Vector;

/// Eight lanes.
#[derive(Clone, Copy)]
pub(crate) struct Avx2(__m256);

// SAFETY of every block below: the trait's contract (features present, pointers readable).
impl Vector for Avx2 {
    const LANES: usize = 8;
    const WIDE: bool = false;
    const E4M3_FACTOR: f32 = 256.0;
    type Word = __m256i;

    #[inline(always)]
    unsafe fn splat(x: f32) -> Self {
        // SAFETY: see above.
        Self(unsafe { _mm256_set1_ps(x) })
    }

    #[inline(always)]
    unsafe fn load(p: *const f32) -> Self {
        // SAFETY: see above.
        Self(unsafe { _mm256_loadu_ps(p) })
    }

    #[inline(always)]
    unsafe fn store(self, p: *mut f32) {
        // SAFETY: see above.
        unsafe { _mm256_storeu_ps(p, self.0) }
    }

    #[inline(always)]
    unsafe fn add(self, other: Self) -> Self {
        // SAFETY: see above.
        Self(unsafe { _mm256_add_ps(self.0, other.0) })
    }

    #[inline(always)]
    unsafe fn sub(self, other: Self) -> Self {
        // SAFETY: see above.
        Self(unsafe { _mm256_sub_ps(self.0, other.0) })
    }

    #[inline(always)]
    unsafe fn mul(self, other: Self) -> Self {
        // SAFETY: see above.
        Self(unsafe { _mm256_mul_ps(self.0, other.0) })
    }

    #[inline(always)]
    unsafe fn div(self, other: Self) -> Self {
        // SAFETY: see above.
        Self(unsafe { _mm256_div_ps(self.0, other.0) })
    }

    #[inline(always)]
    unsafe fn min(self, other: Self) -> Self {
        // SAFETY: see above.
        Self(unsafe { _mm256_min_ps(self.0, other.0) })
    }

    #[inline(always)]
    unsafe fn max(self, other: Self) -> Self {
        // SAFETY: see above.
        Self(unsafe { _mm256_max_ps(self.0, other.0) })
    }

    #[inline(always)]
    unsafe fn fma(self, b: Self, c: Self) -> Self {
        // SAFETY: see above.
        Self(unsafe { _mm256_fmadd_ps(self.0, b.0, c.0) })
    }

    #[inline(always)]
    unsafe fn round(self) -> Self {
        // SAFETY: see above.
        Self(unsafe {
            _mm256_round_ps::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(self.0)
        })
    }

    #[inline(always)]
    unsafe fn pow2(self) -> Self {
        // SAFETY: see above.
        Self(unsafe {
            let n = _mm256_add_epi32(_mm256_cvtps_epi32(self.0), _mm256_set1_epi32(127));
            _mm256_castsi256_ps(_mm256_slli_epi32::<23>(n))
        })
    }

    #[inline(always)]
    unsafe fn prefetch(p: *const u8) {
        // SAFETY: a prefetch reads nothing.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(p.cast()) }
    }

    #[inline(always)]
    unsafe fn sum(self) -> f32 {
        // SAFETY: see above.
        unsafe {
            let q = _mm_add_ps(_mm256_castps256_ps128(self.0), _mm256_extractf128_ps::<1>(self.0));
            let d = _mm_add_ps(q, _mm_movehl_ps(q, q));
            _mm_cvtss_f32(_mm_add_ss(d, _mm_shuffle_ps::<1>(d, d)))
        }
    }

    #[inline(always)]
    unsafe fn bf16(p: *const u8) -> Self {
        // SAFETY: see above.
        Self(unsafe {
            let words = _mm256_cvtepu16_epi32(_mm_loadu_si128(p.cast()));
            _mm256_castsi256_ps(_mm256_slli_epi32::<16>(words))
        })
    }

    #[inline(always)]
    unsafe fn e4m3(p: *const u8) -> Self {
        // SAFETY: see above.
        Self(unsafe {
            // As f16 bits the code is right but for 2^-8, subnormals included.
            let w = _mm_cvtepu8_epi16(_mm_loadl_epi64(p.cast()));
            let magnitude = _mm_and_si128(w, _mm_set1_epi16(0x7f));
            let nan = _mm_cmpeq_epi16(magnitude, _mm_set1_epi16(0x7f));
            let sign = _mm_slli_epi16::<8>(_mm_xor_si128(w, magnitude));
            let half = _mm_or_si128(_mm_or_si128(_mm_slli_epi16::<7>(magnitude), sign), nan);
            _mm256_cvtph_ps(half)
        })
    }

    #[inline(always)]
    unsafe fn codes(p: *const u8) -> Self::Word {
        // SAFETY: see above.
        unsafe { _mm256_loadu_si256(p.cast()) }
    }

    #[inline(always)]
    unsafe fn e2m1(word: Self::Word) -> Self {
        // SAFETY: see above.
        Self(unsafe {
            let table = _mm256_setr_ps(0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0);
            // The permutation looks at the low three bits only; bit 3 becomes the sign.
            let magnitude = _mm256_permutevar8x32_ps(table, word);
            let sign = _mm256_slli_epi32::<28>(word);
            let sign = _mm256_and_ps(_mm256_castsi256_ps(sign), _mm256_set1_ps(-0.0));
            _mm256_xor_ps(magnitude, sign)
        })
    }

    #[inline(always)]
    unsafe fn next(word: Self::Word) -> Self::Word {
        // SAFETY: see above.
        unsafe { _mm256_srli_epi32::<4>(word) }
    }

    #[inline(always)]
    unsafe fn e8m0(p: *const u8) -> Self {
        // SAFETY: see above.
        Self(unsafe {
            let pair = i32::from(p.cast::<u16>().read_unaligned() as i16);
            let spread = _mm256_setr_epi64x(
                0xffff_ff00_ffff_ff00_u64 as i64,
                0xffff_ff00_ffff_ff00_u64 as i64,
                0xffff_ff01_ffff_ff01_u64 as i64,
                0xffff_ff01_ffff_ff01_u64 as i64,
            );
            let code = _mm256_shuffle_epi8(_mm256_set1_epi32(pair), spread);
            // Code 0 is the subnormal 2^-127, whose bits are larger than those of zero.
            let bits = _mm256_slli_epi32::<23>(code);
            _mm256_castsi256_ps(_mm256_max_epu32(bits, _mm256_set1_epi32(0x0040_0000)))
        })
    }
}
