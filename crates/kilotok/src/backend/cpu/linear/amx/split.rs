//! Splits f32 activations into three bfloat16 parts, laid out as the second operand of a tile.
#![allow(clippy::wildcard_imports, reason = "the names are the architecture's")]
#![allow(unsafe_code, reason = "CPU instructions behind runtime detection")]

use std::arch::x86_64::*;

use super::super::pack::{PARTS, Pairs, SplitJob, TILE_ROWS, TILE_VALUES};

/// See [`super::super::Split`]. Parts are cut off, not rounded: 8 + 8 + 8 mantissa bits are all.
///
/// # Safety
/// AVX-512; the rows are readable, and `out` has room for all pairs.
#[target_feature(enable = "avx512f,avx512bw")]
pub(crate) unsafe fn split_amx(job: &SplitJob) {
    let mut upper = [0u16; 32];
    for (place, word) in upper.iter_mut().enumerate() {
        let column = match job.pairs {
            Pairs::Natural => place,
            Pairs::Mxfp4 => 4 * (place % 8) + place / 8,
        };
        *word = 2 * column as u16 + 1; // the upper half of a float is its second word
    }
    // SAFETY: `upper` is one vector; a block is two vectors of floats and sixteen pairs. A store
    // takes one value more than a row has: the next row's first, written afterwards, or padding.
    unsafe {
        let upper = _mm512_loadu_si512(upper.as_ptr().cast());
        let mask = _mm512_set1_epi32(0xffff_0000_u32 as i32);
        let cut = |x: __m512| _mm512_castsi512_ps(_mm512_and_si512(_mm512_castps_si512(x), mask));
        for block in 0..job.cols / 32 {
            for (row, source) in job.rows.iter().enumerate() {
                let from = job.x.add(*source as usize * job.cols + block * 32);
                let mut low = _mm512_loadu_ps(from);
                let mut high = _mm512_loadu_ps(from.add(16));
                let mut parts = [_mm512_setzero_si512(); PARTS];
                for part in &mut parts {
                    let (a, b) = (_mm512_castps_si512(low), _mm512_castps_si512(high));
                    *part = _mm512_permutex2var_epi16(a, upper, b);
                    low = _mm512_sub_ps(low, cut(low));
                    high = _mm512_sub_ps(high, cut(high));
                }
                let column = row / TILE_ROWS * TILE_VALUES + row % TILE_ROWS * PARTS;
                let to = job.out.add(block * 16 * job.out_stride + column);
                store(&parts, to, job.out_stride);
            }
        }
    }
}

/// Writes pair `i` of every part to `to + i * stride ..`, and zero behind it.
///
/// # Safety
/// AVX-512 F; room for sixteen pairs.
#[inline(always)]
unsafe fn store(parts: &[__m512i; PARTS], to: *mut u32, stride: usize) {
    // SAFETY: register operations; the caller vouches for the memory.
    unsafe {
        let zero = _mm512_setzero_si512();
        let (a, b) =
            (_mm512_unpacklo_epi32(parts[0], parts[1]), _mm512_unpackhi_epi32(parts[0], parts[1]));
        let (c, d) = (_mm512_unpacklo_epi32(parts[2], zero), _mm512_unpackhi_epi32(parts[2], zero));
        let quarters = [
            _mm512_unpacklo_epi64(a, c),
            _mm512_unpackhi_epi64(a, c),
            _mm512_unpacklo_epi64(b, d),
            _mm512_unpackhi_epi64(b, d),
        ];
        for (i, pairs) in quarters.into_iter().enumerate() {
            let at = |lane: usize| to.add((4 * lane + i) * stride);
            _mm_storeu_si128(at(0).cast(), _mm512_castsi512_si128(pairs));
            _mm_storeu_si128(at(1).cast(), _mm512_extracti32x4_epi32::<1>(pairs));
            _mm_storeu_si128(at(2).cast(), _mm512_extracti32x4_epi32::<2>(pairs));
            _mm_storeu_si128(at(3).cast(), _mm512_extracti32x4_epi32::<3>(pairs));
        }
    }
}
