//! The AVX-512 path: sixteen lanes, thirty-two registers.
#![allow(clippy::wildcard_imports, reason = "the names are the architecture's")]
#![allow(unsafe_code, reason = "CPU instructions behind runtime detection")]

use std::arch::x86_64::*;

use super::vector::Vector;

/// Sixteen lanes.
#[derive(Clone, Copy)]
pub(crate) struct Avx512(__m512);

// SAFETY of every block below: the trait's contract (features present, pointers readable).
impl Vector for Avx512 {
    const LANES: usize = 16;
    const WIDE: bool = true;
    const E4M3_FACTOR: f32 = 256.0;
    type Word = __m512i;

    #[inline(always)]
    unsafe fn splat(x: f32) -> Self {
        // SAFETY: see above.
        Self(unsafe { _mm512_set1_ps(x) })
    }

    #[inline(always)]
    unsafe fn load(p: *const f32) -> Self {
        // SAFETY: see above.
        Self(unsafe { _mm512_loadu_ps(p) })
    }

    #[inline(always)]
    unsafe fn store(self, p: *mut f32) {
        // SAFETY: see above.
        unsafe { _mm512_storeu_ps(p, self.0) }
    }

    #[inline(always)]
    unsafe fn add(self, other: Self) -> Self {
        // SAFETY: see above.
        Self(unsafe { _mm512_add_ps(self.0, other.0) })
    }

    #[inline(always)]
    unsafe fn sub(self, other: Self) -> Self {
        // SAFETY: see above.
        Self(unsafe { _mm512_sub_ps(self.0, other.0) })
    }

    #[inline(always)]
    unsafe fn mul(self, other: Self) -> Self {
        // SAFETY: see above.
        Self(unsafe { _mm512_mul_ps(self.0, other.0) })
    }

    #[inline(always)]
    unsafe fn div(self, other: Self) -> Self {
        // SAFETY: see above.
        Self(unsafe { _mm512_div_ps(self.0, other.0) })
    }

    #[inline(always)]
    unsafe fn min(self, other: Self) -> Self {
        // SAFETY: see above.
        Self(unsafe { _mm512_min_ps(self.0, other.0) })
    }

    #[inline(always)]
    unsafe fn max(self, other: Self) -> Self {
        // SAFETY: see above.
        Self(unsafe { _mm512_max_ps(self.0, other.0) })
    }

    #[inline(always)]
    unsafe fn fma(self, b: Self, c: Self) -> Self {
        // SAFETY: see above.
        Self(unsafe { _mm512_fmadd_ps(self.0, b.0, c.0) })
    }

    #[inline(always)]
    unsafe fn round(self) -> Self {
        // SAFETY: see above.
        Self(unsafe {
            _mm512_roundscale_ps::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(self.0)
        })
    }

    #[inline(always)]
    unsafe fn pow2(self) -> Self {
        // SAFETY: see above.
        Self(unsafe {
            let n = _mm512_add_epi32(_mm512_cvtps_epi32(self.0), _mm512_set1_epi32(127));
            _mm512_castsi512_ps(_mm512_slli_epi32::<23>(n))
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
            let low = _mm512_castps512_ps256(self.0);
            let o = _mm256_add_ps(low, _mm512_extractf32x8_ps::<1>(self.0));
            let q = _mm_add_ps(_mm256_castps256_ps128(o), _mm256_extractf128_ps::<1>(o));
            let d = _mm_add_ps(q, _mm_movehl_ps(q, q));
            _mm_cvtss_f32(_mm_add_ss(d, _mm_shuffle_ps::<1>(d, d)))
        }
    }

    #[inline(always)]
    unsafe fn sum4([a, b, c, d]: [Self; 4]) -> [f32; 4] {
        let mut sums = [0.0; 4];
        // SAFETY: see above.
        unsafe {
            // The additions of `sum`, of two vectors at once and then of all four.
            let halves = |x: Self, y: Self| {
                let low = _mm512_shuffle_f32x4::<0x44>(x.0, y.0);
                _mm512_add_ps(low, _mm512_shuffle_f32x4::<0xee>(x.0, y.0))
            };
            let (x, y) = (halves(a, b), halves(c, d));
            let low = _mm512_shuffle_f32x4::<0x88>(x, y);
            let q = _mm512_add_ps(low, _mm512_shuffle_f32x4::<0xdd>(x, y));
            let d = _mm512_add_ps(q, _mm512_permute_ps::<0x0e>(q));
            let s = _mm512_add_ps(d, _mm512_permute_ps::<0x01>(d));
            let first = _mm512_setr_epi32(0, 4, 8, 12, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0);
            let s = _mm512_castps512_ps128(_mm512_permutexvar_ps(first, s));
            _mm_storeu_ps(sums.as_mut_ptr(), s);
        }
        sums
    }

    #[inline(always)]
    unsafe fn bf16(p: *const u8) -> Self {
        // SAFETY: see above.
        Self(unsafe {
            let words = _mm512_cvtepu16_epi32(_mm256_loadu_si256(p.cast()));
            _mm512_castsi512_ps(_mm512_slli_epi32::<16>(words))
        })
    }

    #[inline(always)]
    unsafe fn e4m3(p: *const u8) -> Self {
        // SAFETY: see above.
        Self(unsafe {
            // As f16 bits the code is right but for 2^-8, subnormals included.
            let w = _mm256_cvtepu8_epi16(_mm_loadu_si128(p.cast()));
            let magnitude = _mm256_and_si256(w, _mm256_set1_epi16(0x7f));
            let nan = _mm256_cmpeq_epi16(magnitude, _mm256_set1_epi16(0x7f));
            let sign = _mm256_slli_epi16::<8>(_mm256_xor_si256(w, magnitude));
            let shifted = _mm256_slli_epi16::<7>(magnitude);
            _mm512_cvtph_ps(_mm256_or_si256(_mm256_or_si256(shifted, sign), nan))
        })
    }

    #[inline(always)]
    unsafe fn codes(p: *const u8) -> Self::Word {
        // SAFETY: see above.
        unsafe { _mm512_loadu_si512(p.cast()) }
    }

    #[inline(always)]
    unsafe fn e2m1(word: Self::Word) -> Self {
        // SAFETY: see above.
        Self(unsafe {
            let table = _mm512_setr_ps(
                0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, //
                -0.0, -0.5, -1.0, -1.5, -2.0, -3.0, -4.0, -6.0,
            );
            // The permutation looks at the low four bits of every word only.
            _mm512_permutexvar_ps(word, table)
        })
    }

    #[inline(always)]
    unsafe fn next(word: Self::Word) -> Self::Word {
        // SAFETY: see above.
        unsafe { _mm512_srli_epi32::<4>(word) }
    }

    #[inline(always)]
    unsafe fn e8m0(p: *const u8) -> Self {
        // SAFETY: see above.
        Self(unsafe {
            let quad = p.cast::<i32>().read_unaligned();
            // Byte 0 of every word picks its scale; bytes 1 to 3 have the top bit set: zero.
            let spread = _mm512_setr_epi32(
                -256, -256, -256, -256, -255, -255, -255, -255, //
                -254, -254, -254, -254, -253, -253, -253, -253,
            );
            let code = _mm512_shuffle_epi8(_mm512_set1_epi32(quad), spread);
            // Code 0 is the subnormal 2^-127, whose bits are larger than those of zero.
            let bits = _mm512_slli_epi32::<23>(code);
            _mm512_castsi512_ps(_mm512_max_epu32(bits, _mm512_set1_epi32(0x0040_0000)))
        })
    }
}
