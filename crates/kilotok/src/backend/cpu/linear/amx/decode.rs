//! Sixteen weight rows, 128 columns at a time, as bfloat16 tiles.
#![allow(clippy::wildcard_imports, reason = "the names are the architecture's")]
#![allow(unsafe_code, reason = "CPU instructions behind runtime detection")]

use std::arch::x86_64::*;

use super::super::decode::{Bf16, Fp8, Mxfp4};
use super::split::PAIRS;
use crate::numeric::{fp8, mxfp4};

/// Columns of a step: four blocks of 32.
pub(super) const STEP: usize = 128;

/// The tiles of a step: pair `p` of block `b` of weight row `n` at `[b][p][n]`.
#[repr(C, align(64))]
pub(super) struct Tiles(pub(super) [[[u32; 16]; 16]; 4]);

/// Room for the last, incomplete step of sixteen rows.
pub(super) type Spare = [[u8; 2 * STEP]; 16];

/// Weight rows as tiles.
///
/// # Safety
/// As for [`super::super::decode::Decoder`]; AVX-512 F and BW.
pub(super) trait Tiled: Copy {
    /// Whether products of a step are multiplied by [`Tiled::scale`] afterwards.
    const SCALED: bool;
    /// Number of columns.
    fn cols(&self) -> usize;
    /// Decodes step `step` of weight rows `rows`; columns beyond the last are zero.
    unsafe fn step(&self, rows: &[usize; 16], step: usize, spare: &mut Spare, tiles: &mut Tiles);
    /// Factors of step `step` of the rows.
    unsafe fn scale(&self, rows: &[usize; 16], step: usize) -> __m512;
}

/// Asks for a part of the sixteen rows of `bytes` bytes that follow those at `first`: all parts
/// together, one a step, are all of them. Lines are taken in order of address.
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

/// Copies up to 128 columns of sixteen rows, `bytes` of each at most, to zeroed rows of
/// `2 * STEP` bytes where the step is not whole; returns where the rows' steps start.
///
/// # Safety
/// Rows are readable for what is left of them.
#[inline(always)]
unsafe fn starts(
    mut rows: [*const u8; 16],
    left: usize,
    step: usize,
    spare: &mut Spare,
) -> [*const u8; 16] {
    if left < step {
        for (row, spare) in rows.iter_mut().zip(spare) {
            *spare = [0; 2 * STEP];
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

/// One vector from each row at byte `at`.
///
/// # Safety
/// AVX-512 F; readable memory.
#[inline(always)]
unsafe fn gather(rows: &[*const u8; 16], at: usize) -> [__m512i; 16] {
    // SAFETY: the caller vouches for the memory.
    unsafe {
        let mut r = [_mm512_setzero_si512(); 16];
        for n in 0..16 {
            r[n] = _mm512_loadu_si512(rows[n].add(at).cast());
        }
        r
    }
}

impl Tiled for Bf16 {
    const SCALED: bool = false;

    fn cols(&self) -> usize {
        self.cols
    }

    #[inline(always)]
    unsafe fn step(&self, rows: &[usize; 16], step: usize, spare: &mut Spare, tiles: &mut Tiles) {
        // SAFETY: rows are below the matrix' and a step or the rest of a row is readable.
        unsafe {
            prefetch(self.data.add(rows[0] * self.cols * 2), self.cols * 2, step, 64);
            let at = |row: usize| self.data.add((row * self.cols + step * STEP) * 2);
            let left = (self.cols - step * STEP) * 2;
            let rows = starts(rows.map(at), left, 2 * STEP, spare);
            let order = _mm512_cvtepu8_epi16(_mm256_loadu_si256(PAIRS.as_ptr().cast()));
            for (b, tile) in tiles.0.iter_mut().enumerate() {
                let mut r = gather(&rows, 64 * b);
                for r in &mut r {
                    *r = _mm512_permutexvar_epi16(order, *r);
                }
                for (pair, t) in tile.iter_mut().zip(transpose(&r)) {
                    _mm512_store_si512(pair.as_mut_ptr().cast(), t);
                }
            }
        }
    }

    #[inline(always)]
    unsafe fn scale(&self, _: &[usize; 16], _: usize) -> __m512 {
        // SAFETY: a register operation.
        unsafe { _mm512_set1_ps(1.0) }
    }
}

impl Tiled for Fp8 {
    const SCALED: bool = true;

    fn cols(&self) -> usize {
        self.cols
    }

    #[inline(always)]
    unsafe fn step(&self, rows: &[usize; 16], step: usize, spare: &mut Spare, tiles: &mut Tiles) {
        // SAFETY: rows are below the matrix' and a step or the rest of a row is readable.
        unsafe {
            prefetch(self.data.add(rows[0] * self.cols), self.cols, step, 32);
            let at = |row: usize| self.data.add(row * self.cols + step * STEP);
            let rows = starts(rows.map(at), self.cols - step * STEP, STEP, spare);
            // Of eight columns: 0 1 4 5 2 3 6 7, so that even and odd bytes are pairs.
            let order = _mm512_set1_epi64(0x0706_0302_0504_0100);
            let lanes = _mm512_broadcast_i32x4(_mm_set_epi64x(0x0808_0808_0808_0808, 0));
            let order = _mm512_add_epi8(order, lanes);
            let bytes = _mm512_set1_epi16(0xff);
            for half in 0..2 {
                let mut r = gather(&rows, 64 * half);
                for r in &mut r {
                    *r = _mm512_shuffle_epi8(*r, order);
                }
                for (q, t) in transpose(&r).into_iter().enumerate() {
                    let tile = &mut tiles.0[2 * half + q / 8];
                    let pair = 2 * (q % 8);
                    let even = e4m3(_mm512_and_si512(t, bytes));
                    let odd = e4m3(_mm512_srli_epi16::<8>(t));
                    _mm512_store_si512(tile[pair].as_mut_ptr().cast(), even);
                    _mm512_store_si512(tile[pair + 1].as_mut_ptr().cast(), odd);
                }
            }
        }
    }

    #[inline(always)]
    unsafe fn scale(&self, rows: &[usize; 16], step: usize) -> __m512 {
        let mut factors = [0f32; 16];
        for (factor, row) in factors.iter_mut().zip(rows) {
            let at = fp8::scale_index(*row, step * STEP, self.cols, self.rows_per_chunk);
            // SAFETY: the grid has a factor for every block.
            *factor = unsafe { self.scales.add(at).read_unaligned() };
        }
        // SAFETY: sixteen floats.
        unsafe { _mm512_loadu_ps(factors.as_ptr()) }
    }
}

/// Bfloat16 of the e4m3 code in every 16-bit word.
///
/// # Safety
/// AVX-512 F and BW.
#[inline(always)]
unsafe fn e4m3(word: __m512i) -> __m512i {
    const SUBNORMAL: [u16; 32] = {
        let mut table = [0; 32];
        let mut code = 0;
        while code < 8 {
            table[code] = (fp8::decode(code as u8).to_bits() >> 16) as u16;
            code += 1;
        }
        table
    };
    // SAFETY: register operations, and a load of one vector.
    unsafe {
        let magnitude = _mm512_and_si512(word, _mm512_set1_epi16(0x7f));
        // The exponent moves from bias 7 to bias 127.
        let shifted = _mm512_slli_epi16::<4>(magnitude);
        let normal = _mm512_add_epi16(shifted, _mm512_set1_epi16(120 << 7));
        let table = _mm512_loadu_si512(SUBNORMAL.as_ptr().cast());
        let subnormal = _mm512_cmplt_epu16_mask(magnitude, _mm512_set1_epi16(8));
        let value = _mm512_mask_permutexvar_epi16(normal, subnormal, magnitude, table);
        let nan = _mm512_cmpeq_epi16_mask(magnitude, _mm512_set1_epi16(0x7f));
        let value = _mm512_mask_mov_epi16(value, nan, _mm512_set1_epi16(0x7fc0));
        let sign = _mm512_slli_epi16::<8>(_mm512_xor_si512(word, magnitude));
        _mm512_or_si512(value, sign)
    }
}

impl Tiled for Mxfp4 {
    const SCALED: bool = false;

    fn cols(&self) -> usize {
        self.cols
    }

    #[inline(always)]
    unsafe fn step(&self, rows: &[usize; 16], step: usize, spare: &mut Spare, tiles: &mut Tiles) {
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
            prefetch(self.data.add(rows[0] * (self.cols / 2)), self.cols / 2, step, 16);
            let blocks = self.cols / mxfp4::BLOCK;
            prefetch(self.scales.add(rows[0] * blocks), blocks, step, 1);
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
            let at = |row: usize| self.data.add(row * (self.cols / 2) + step * (STEP / 2));
            let rows = starts(rows.map(at), left / 2, STEP / 2, spare);
            let table = _mm512_loadu_si512(TABLE.as_ptr().cast());
            let t = transpose(&gather(&rows, 0));
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

    #[inline(always)]
    unsafe fn scale(&self, _: &[usize; 16], _: usize) -> __m512 {
        // SAFETY: a register operation.
        unsafe { _mm512_set1_ps(1.0) }
    }
}
