//! Splits f32 activations into three bfloat16 parts.
#![allow(clippy::wildcard_imports, reason = "the names are the architecture's")]
#![allow(unsafe_code, reason = "CPU instructions behind runtime detection")]

use std::arch::x86_64::*;

/// Order of a block's columns inside a tile row: pair `4 g + j` is columns `8 g + j` and
/// `8 g + 4 + j`, which is how nibbles come out of 16-bit words.
pub(super) const PAIRS: [u8; 32] = {
    let mut order = [0; 32];
    let mut pair = 0;
    while pair < 16 {
        order[2 * pair] = (8 * (pair / 4) + pair % 4) as u8;
        order[2 * pair + 1] = order[2 * pair] + 4;
        pair += 1;
    }
    order
};

/// See [`super::super::Split`]. Parts are cut off, not rounded: 8 + 8 + 8 mantissa bits are all.
///
/// # Safety
/// AVX-512; room at `out` for all parts.
#[target_feature(enable = "avx512f,avx512bw")]
pub(crate) unsafe fn split_amx(x: &[f32], out: *mut u16, stride: usize) {
    let mut upper = [0u16; 32];
    for (place, column) in upper.iter_mut().zip(PAIRS) {
        *place = 2 * u16::from(column) + 1; // the upper half of a float is its second word
    }
    // SAFETY: `upper` is one vector; a block is two vectors of floats, one vector in each
    // part.
    unsafe {
        let upper = _mm512_loadu_si512(upper.as_ptr().cast());
        let mask = _mm512_set1_epi32(0xffff_0000_u32 as i32);
        let cut = |x: __m512| _mm512_castsi512_ps(_mm512_and_si512(_mm512_castps_si512(x), mask));
        for (block, values) in x.chunks_exact(32).enumerate() {
            let mut low = _mm512_loadu_ps(values.as_ptr());
            let mut high = _mm512_loadu_ps(values.as_ptr().add(16));
            for part in 0..3 {
                let (a, b) = (_mm512_castps_si512(low), _mm512_castps_si512(high));
                let words = _mm512_permutex2var_epi16(a, upper, b);
                _mm512_storeu_si512(out.add(part * stride + block * 32).cast(), words);
                low = _mm512_sub_ps(low, cut(low));
                high = _mm512_sub_ps(high, cut(high));
            }
        }
    }
}
