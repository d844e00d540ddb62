//! Sixteen weight rows, 128 columns at a time, as bfloat16 tiles.
#![allow(clippy::wildcard_imports, reason = "the names are the architecture's")]
#![allow(unsafe_code, reason = "CPU instructions behind runtime detection")]

use std::arch::x86_64::*;

use super::super::decode::{Bf16, Fp8, Mxfp4};
use crate::numeric::{fp8, mxfp4};

/// Columns of a step: four blocks.
pub(super) const STEP: usize = 128;
/// Columns of a block, one row of a tile.
pub(super) const BLOCK: usize = 32;

/// Room for a decoded step: bfloat16, `[outputs, columns]`.
#[repr(C, align(64))]
pub(super) struct Decoded(pub(super) [[u16; STEP]; 16]);

/// Where the tiles of a step are: block `b` of output `n` at `base + n * stride + 64 * b`.
#[derive(Clone, Copy)]
pub(super) struct Tiles {
    pub(super) base: *const u8,
    pub(super) stride: usize,
}

impl Tiles {
    fn of(decoded: &Decoded) -> Self {
        Self { base: decoded.0.as_ptr().cast(), stride: 2 * STEP }
    }
}

/// Weight rows as tiles.
///
/// # Safety
/// As for [`super::super::decode::Decoder`]; AVX-512 F, BW and VL.
pub(super) trait Tiled: Copy {
    /// Whether products of a step are multiplied by [`Tiled::scale`] afterwards.
    const SCALED: bool;
    /// Number of columns.
    fn cols(&self) -> usize;
    /// Blocks `4 step ..` of weight rows `rows` (adjacent, but the last may be repeated); columns beyond the last are zero.
    unsafe fn step(&self, rows: &[usize; 16], step: usize, decoded: &mut Decoded) -> Tiles;
    /// Where the rows' factors start.
    fn factors(&self, rows: &[usize; 16]) -> [usize; 16];
    /// Factor of step `step` of a row whose factors start at `factors`.
    unsafe fn factor(&self, factors: usize, step: usize) -> f32;
    /// Asks for a part of the sixteen rows from `row` on, which need not exist: all parts
    /// together, one a block, are all of them. A few lines at a time: more at once would keep
    /// the loads behind them waiting.
    unsafe fn prefetch(&self, row: usize, block: usize);
}

/// Asks for part `block`, `lines` lines, of rows at `first`, in order of address.
///
/// # Safety
/// None: a prefetch reads nothing.
#[inline(always)]
unsafe fn prefetch(first: *const u8, block: usize, lines: usize) {
    let next = first.wrapping_add(block * lines * 64);
    for line in 0..lines {
        // SAFETY: a prefetch reads nothing.
        unsafe { _mm_prefetch::<_MM_HINT_T1>(next.wrapping_add(line * 64).cast()) };
    }
}

/// Lines of a part for rows of `bytes` bytes, `pitch` apart, where adjacent rows have `lines`. Rows
/// of another matrix in between are asked for too: it is the next to be multiplied.
#[inline(always)]
fn lines(lines: usize, pitch: usize, bytes: usize) -> usize {
    if pitch > bytes { lines * (pitch / bytes.max(1)) } else { lines }
}

/// Blocks of the step from column `first` on.
#[inline(always)]
fn blocks(first: usize, cols: usize) -> usize {
    (cols - first).div_ceil(BLOCK).min(STEP / BLOCK)
}

/// Lanes of a vector of [`BLOCK`] columns from column `first` on that the matrix has.
#[inline(always)]
fn lanes(first: usize, cols: usize) -> u32 {
    if cols - first >= BLOCK { u32::MAX } else { (1 << (cols - first)) - 1 }
}

impl Tiled for Bf16 {
    const SCALED: bool = false;

    fn cols(&self) -> usize {
        self.cols
    }

    #[inline(always)]
    unsafe fn step(&self, rows: &[usize; 16], step: usize, decoded: &mut Decoded) -> Tiles {
        let first = step * STEP;
        // SAFETY: rows are below the matrix'; masked lanes are not read.
        unsafe {
            if self.cols - first >= STEP && rows[15] == rows[0] + 15 {
                let base = self.data.add(rows[0] * self.pitch + first * 2);
                return Tiles { base, stride: self.pitch };
            }
            for (row, to) in rows.iter().zip(&mut decoded.0) {
                for b in 0..blocks(first, self.cols) {
                    let column = first + b * BLOCK;
                    let from = self.data.add(row * self.pitch + column * 2);
                    let words = _mm512_maskz_loadu_epi16(lanes(column, self.cols), from.cast());
                    _mm512_store_si512(to.as_mut_ptr().add(b * BLOCK).cast(), words);
                }
            }
        }
        Tiles::of(decoded)
    }

    #[inline(always)]
    fn factors(&self, _: &[usize; 16]) -> [usize; 16] {
        [0; 16]
    }

    #[inline(always)]
    unsafe fn factor(&self, _: usize, _: usize) -> f32 {
        1.0
    }

    #[inline(always)]
    unsafe fn prefetch(&self, row: usize, block: usize) {
        // SAFETY: a prefetch reads nothing.
        unsafe {
            let count = lines(16, self.pitch, self.cols * 2);
            prefetch(self.data.wrapping_add(row * self.pitch), block, count);
        }
    }
}

impl Tiled for Fp8 {
    const SCALED: bool = true;

    fn cols(&self) -> usize {
        self.cols
    }

    #[inline(always)]
    unsafe fn step(&self, rows: &[usize; 16], step: usize, decoded: &mut Decoded) -> Tiles {
        let first = step * STEP;
        // SAFETY: rows are below the matrix'; masked lanes are not read.
        unsafe {
            for (row, to) in rows.iter().zip(&mut decoded.0) {
                for b in 0..blocks(first, self.cols) {
                    let column = first + b * BLOCK;
                    let from = self.data.add(row * self.cols + column);
                    let bytes = _mm256_maskz_loadu_epi8(lanes(column, self.cols), from.cast());
                    let words = e4m3(_mm512_cvtepu8_epi16(bytes));
                    _mm512_store_si512(to.as_mut_ptr().add(b * BLOCK).cast(), words);
                }
            }
        }
        Tiles::of(decoded)
    }

    #[inline(always)]
    fn factors(&self, rows: &[usize; 16]) -> [usize; 16] {
        let of = |row| fp8::scale_index(row, 0, self.cols, self.rows_per_chunk);
        // Indices ascend with rows: one division for the sixteen where they are in one block.
        let (first, last) = (of(rows[0]), of(rows[15]));
        if first == last { [first; 16] } else { rows.map(of) }
    }

    #[inline(always)]
    unsafe fn factor(&self, factors: usize, step: usize) -> f32 {
        // SAFETY: the grid has a factor for every block, which is a step wide.
        unsafe { self.scales.add(factors + step).read_unaligned() }
    }

    #[inline(always)]
    unsafe fn prefetch(&self, row: usize, block: usize) {
        // SAFETY: a prefetch reads nothing.
        unsafe { prefetch(self.data.wrapping_add(row * self.cols), block, 8) };
    }
}

/// Bfloat16 of the e4m3 code in every 16-bit word.
///
/// # Safety
/// AVX-512 F and BW.
#[inline(always)]
unsafe fn e4m3(word: __m512i) -> __m512i {
    /// What the shift of an exponent gets wrong, by the low five bits of the magnitude:
    /// subnormals (0 ..= 7) and NaN (0x7f).
    const SPECIAL: [u16; 32] = {
        let mut table = [0; 32];
        let mut code = 0;
        while code < 8 {
            table[code] = (fp8::decode(code as u8).to_bits() >> 16) as u16;
            code += 1;
        }
        table[31] = 0x7fc0;
        table
    };
    // SAFETY: register operations, and a load of one vector.
    unsafe {
        let magnitude = _mm512_and_si512(word, _mm512_set1_epi16(0x7f));
        // The exponent moves from bias 7 to bias 127.
        let shifted = _mm512_slli_epi16::<4>(magnitude);
        let normal = _mm512_add_epi16(shifted, _mm512_set1_epi16(120 << 7));
        let table = _mm512_loadu_si512(SPECIAL.as_ptr().cast());
        // 8 ..= 0x7e are below 0x77 here.
        let place = _mm512_sub_epi16(magnitude, _mm512_set1_epi16(8));
        let special = _mm512_cmpge_epu16_mask(place, _mm512_set1_epi16(0x77));
        let value = _mm512_mask_permutexvar_epi16(normal, special, magnitude, table);
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
    unsafe fn step(&self, rows: &[usize; 16], step: usize, decoded: &mut Decoded) -> Tiles {
        /// Bfloat16 of the codes times 2^125, twice (bit 4 of a lookup is another code's). Zero
        /// is 0 for both signs.
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
        /// Codes from whose exponents scales are subtracted.
        const NONZERO: u32 = 0xfefe_fefe;
        /// Quarter `q` of a register takes the `q`-th code of every word of the block: the order
        /// of `Pairs::Mxfp4`.
        const SHIFTS: [u16; 32] = {
            let mut shifts = [0; 32];
            let mut word = 0;
            while word < 32 {
                shifts[word] = 4 * (word / 8) as u16;
                word += 1;
            }
            shifts
        };
        let blocks = blocks(step * STEP, self.cols);
        // SAFETY: rows are below the matrix', whose columns are whole blocks.
        unsafe {
            let codes = self.scale_codes(rows, step, blocks);
            // Codes outside 1..=252 leave bfloat16's normal range with some element.
            let codes = _mm512_max_epu8(codes, _mm512_set1_epi8(1));
            let codes = _mm512_min_epu8(codes, _mm512_set1_epi8(252_u8 as i8));
            let codes = _mm512_sub_epi8(_mm512_set1_epi8(252_u8 as i8), codes);
            // Exponents to subtract, block by block, twice in a 32-bit word for every output.
            let mut down = [[0i32; 16]; 4];
            for (b, down) in down.iter_mut().enumerate() {
                let code = _mm512_srlv_epi32(codes, _mm512_set1_epi32(8 * b as i32));
                let code = _mm512_and_si512(code, _mm512_set1_epi32(0xff));
                let code = _mm512_slli_epi32::<7>(code);
                let code = _mm512_or_si512(code, _mm512_slli_epi32::<16>(code));
                _mm512_storeu_si512(down.as_mut_ptr().cast(), code);
            }
            let table = _mm512_loadu_si512(TABLE.as_ptr().cast());
            let shifts = _mm512_loadu_si512(SHIFTS.as_ptr().cast());
            let nonzero = _mm512_movm_epi16(NONZERO);
            // Permutations and shifts share one port, so there are as few as can be: every
            // quarter of the register sees all the block's bytes, and it is the table, not what
            // is looked up, that is scaled.
            let decode = |from: *const u8, to: *mut u16, down: i32| {
                let bytes = _mm512_broadcast_i32x4(_mm_loadu_si128(from.cast()));
                let codes = _mm512_srlv_epi16(bytes, shifts);
                let down = _mm512_set1_epi32(down);
                let scaled = _mm512_sub_epi16(table, _mm512_and_si512(down, nonzero));
                _mm512_store_si512(to.cast(), _mm512_permutexvar_epi16(codes, scaled));
            };
            for (n, (row, to)) in rows.iter().zip(&mut decoded.0).enumerate() {
                let from = self.data.add(row * self.pitch.0 + step * (STEP / 2));
                let to = to.as_mut_ptr();
                if blocks == 4 {
                    decode(from, to, down[0][n]);
                    decode(from.add(BLOCK / 2), to.add(BLOCK), down[1][n]);
                    decode(from.add(BLOCK), to.add(2 * BLOCK), down[2][n]);
                    decode(from.add(3 * BLOCK / 2), to.add(3 * BLOCK), down[3][n]);
                } else {
                    for (b, down) in down.iter().enumerate().take(blocks) {
                        decode(from.add(b * (BLOCK / 2)), to.add(b * BLOCK), down[n]);
                    }
                }
            }
        }
        Tiles::of(decoded)
    }

    #[inline(always)]
    fn factors(&self, _: &[usize; 16]) -> [usize; 16] {
        [0; 16]
    }

    #[inline(always)]
    unsafe fn factor(&self, _: usize, _: usize) -> f32 {
        1.0
    }

    #[inline(always)]
    unsafe fn prefetch(&self, row: usize, block: usize) {
        let (data, scales) = self.pitch;
        // SAFETY: a prefetch reads nothing.
        unsafe {
            let count = lines(4, data, self.cols / 2);
            prefetch(self.data.wrapping_add(row * data), block, count);
            if block % 4 == 0 {
                prefetch(self.scales.wrapping_add(row * scales), block / 4, count / 4);
            }
        }
    }
}

impl Mxfp4 {
    /// The codes of a step's scales, block `b` in byte `b` of each row's word; the bytes beyond
    /// `blocks` are any.
    ///
    /// # Safety
    /// As for [`Tiled::step`].
    #[inline(always)]
    unsafe fn scale_codes(&self, rows: &[usize; 16], step: usize, blocks: usize) -> __m512i {
        let per_row = self.cols / mxfp4::BLOCK;
        // SAFETY: four codes, or as many as there are, of every row are inside the matrix'.
        unsafe {
            if per_row < 4 {
                let mut codes = [0u32; 16];
                for (code, row) in codes.iter_mut().zip(rows) {
                    for b in 0..blocks {
                        *code |= u32::from(*self.scales.add(row * self.pitch.1 + b)) << (8 * b);
                    }
                }
                return _mm512_loadu_si512(codes.as_ptr().cast());
            }
            // Where less than a word is left the word ends with the row. A gather, since a vector
            // load right behind sixteen narrow stores would wait for all of them.
            let first = (4 * step).min(per_row - 4);
            let order = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
            let order = _mm512_min_epi32(order, _mm512_set1_epi32((rows[15] - rows[0]) as i32));
            let offsets = _mm512_mullo_epi32(order, _mm512_set1_epi32(self.pitch.1 as i32));
            let base = self.scales.add(rows[0] * self.pitch.1 + first);
            let codes = _mm512_i32gather_epi32::<1>(offsets, base.cast());
            _mm512_srlv_epi32(codes, _mm512_set1_epi32(8 * (4 * step - first) as i32))
        }
    }
}
