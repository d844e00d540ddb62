//! Sixteen MXFP4 weight rows, 128 columns at a time, as bfloat16 tiles.
#![allow(clippy::wildcard_imports, reason = "the names are the architecture's")]
#![allow(unsafe_code, reason = "CPU instructions behind runtime detection")]

use std::arch::x86_64::*;

use super::super::decode::Mxfp4;
use crate::numeric::mxfp4;

/// Columns of a step: four blocks of 32.
pub(super) const STEP: usize = 128;

/// The tiles of a step: pair `p` of block `b` of weight row `n` at `[b][p][n]`.
#[repr(C, align(64))]
pub(super) struct Tiles(pub(super) [[[u32; 16]; 16]; 4]);

/// Room for the last, incomplete step of sixteen rows.
pub(super) type Spare = [[u8; STEP / 2]; 16];

/// Asks for a part of the sixteen rows of `bytes` bytes that follow those at `first`: all parts
/// together, one a step, are all of them. Lines are taken in order of address; where rows of
/// another matrix lie in between, it is the next to be multiplied.
///
/// # Safety
/// None: a prefetch reads nothing.
#[inline(always)]
unsafe fn prefetch(first: *const u8, bytes: usize, step: usize, lines: usize) {
    let next = first.wrapping_add(16 * bytes + step * lines * 64);
    for line in 0..lines {
        // SAFETY: a prefetch reads nothing.
        unsafe { _mm_prefetch::<_MM_HINT_T1>(next.wrapping_add(line * 64).cast()) };
    }
}

/// Where the steps of sixteen rows start; a step that is not whole is copied to zeroed rows.
///
/// # Safety
/// `left` bytes of every row are readable.
#[inline(always)]
unsafe fn starts(mut rows: [*const u8; 16], left: usize, spare: &mut Spare) -> [*const u8; 16] {
    if left < STEP / 2 {
        for (row, spare) in rows.iter_mut().zip(spare) {
            *spare = [0; STEP / 2];
            // SAFETY: `left` bytes of the row are left, fewer than the spare row has.
            unsafe { std::ptr::copy_nonoverlapping(*row, spare.as_mut_ptr(), left) };
            *row = spare.as_ptr();
        }
    }
    rows
}

/// Sixteen vectors, each from one row, as sixteen vectors, each of one 32-bit column.
///
/// # Safety
/// AVX-512 F.
#[inline(always)]
unsafe fn transpose(r: &[__m512i; 16]) -> [__m512i; 16] {
    // SAFETY: register operations only.
    unsafe {
        let mut t = *r;
        for i in 0..8 {
            t[2 * i] = _mm512_unpacklo_epi32(r[2 * i], r[2 * i + 1]);
            t[2 * i + 1] = _mm512_unpackhi_epi32(r[2 * i], r[2 * i + 1]);
        }
        let mut u = t;
        for i in 0..4 {
            u[4 * i] = _mm512_unpacklo_epi64(t[4 * i], t[4 * i + 2]);
            u[4 * i + 1] = _mm512_unpackhi_epi64(t[4 * i], t[4 * i + 2]);
            u[4 * i + 2] = _mm512_unpacklo_epi64(t[4 * i + 1], t[4 * i + 3]);
            u[4 * i + 3] = _mm512_unpackhi_epi64(t[4 * i + 1], t[4 * i + 3]);
        }
        let mut out = u;
        for c in 0..4 {
            let a = _mm512_shuffle_i32x4::<0x88>(u[c], u[4 + c]);
            let b = _mm512_shuffle_i32x4::<0xdd>(u[c], u[4 + c]);
            let a2 = _mm512_shuffle_i32x4::<0x88>(u[8 + c], u[12 + c]);
            let b2 = _mm512_shuffle_i32x4::<0xdd>(u[8 + c], u[12 + c]);
            out[c] = _mm512_shuffle_i32x4::<0x88>(a, a2);
            out[4 + c] = _mm512_shuffle_i32x4::<0x88>(b, b2);
            out[8 + c] = _mm512_shuffle_i32x4::<0xdd>(a, a2);
            out[12 + c] = _mm512_shuffle_i32x4::<0xdd>(b, b2);
        }
        out
    }
}

impl Mxfp4 {
    /// Decodes step `step` of weight rows `rows`; columns beyond the last are zero.
    ///
    /// # Safety
    /// AVX-512 F and BW; rows are below the matrix', the step starts inside a row.
    #[inline(always)]
    pub(super) unsafe fn tiles(
        &self,
        rows: &[usize; 16],
        step: usize,
        spare: &mut Spare,
        tiles: &mut Tiles,
    ) {
        /// Bfloat16 of the codes times 2^125, twice (bit 4 of a lookup is another code's). Zero
        /// is 0 for both signs: a scale is subtracted from the exponent and saturates there.
        const TABLE: [u16; 32] = {
            let mut table = [0; 32];
            let mut code = 0;
            while code < 32 {
                let bits = (mxfp4::E2M1[code % 16].to_bits() >> 16) as u16;
                table[code] = if code % 8 == 0 { 0 } else { bits + (125 << 7) };
                code += 1;
            }
            table
        };
        let left = self.cols - step * STEP;
        // SAFETY: rows are below the matrix' and a step or the rest of a row is readable.
        unsafe {
            let (pitch, blocks) = self.pitch;
            let every = pitch / (self.cols / 2).max(1);
            prefetch(self.data.add(rows[0] * pitch), pitch, step, 16 * every);
            prefetch(self.scales.add(rows[0] * blocks), blocks, step, every);
            let mut scales = [0u32; 16];
            for (scale, row) in scales.iter_mut().zip(rows) {
                let at = self.scales.add(row * blocks + step * 4);
                if left >= STEP {
                    *scale = at.cast::<u32>().read_unaligned();
                } else {
                    for b in 0..left / mxfp4::BLOCK {
                        *scale |= u32::from(*at.add(b)) << (8 * b);
                    }
                }
            }
            let scales = _mm512_loadu_si512(scales.as_ptr().cast());
            let at = |row: usize| self.data.add(row * pitch + step * (STEP / 2));
            let rows = starts(rows.map(at), left / 2, spare);
            let table = _mm512_loadu_si512(TABLE.as_ptr().cast());
            let mut words = [_mm512_setzero_si512(); 16];
            for (words, row) in words.iter_mut().zip(rows) {
                *words = _mm512_loadu_si512(row.cast());
            }
            let t = transpose(&words);
            for (b, tile) in tiles.0.iter_mut().enumerate() {
                let code = _mm512_srlv_epi32(scales, _mm512_set1_epi32(8 * b as i32));
                let code = _mm512_and_si512(code, _mm512_set1_epi32(0xff));
                // Codes outside 1..=252 leave bfloat16's normal range with some element.
                let code = _mm512_max_epu32(code, _mm512_set1_epi32(1));
                let code = _mm512_min_epu32(code, _mm512_set1_epi32(252));
                let down = _mm512_sub_epi32(_mm512_set1_epi32(252), code);
                let down = _mm512_slli_epi32::<7>(down);
                let down = _mm512_or_si512(down, _mm512_slli_epi32::<16>(down));
                for g in 0..4 {
                    let mut word = t[4 * b + g];
                    for j in 0..4 {
                        let value = _mm512_permutexvar_epi16(word, table);
                        let value = _mm512_subs_epu16(value, down);
                        _mm512_store_si512(tile[4 * g + j].as_mut_ptr().cast(), value);
                        word = _mm512_srli_epi16::<4>(word);
                    }
                }
            }
        }
    }
}
