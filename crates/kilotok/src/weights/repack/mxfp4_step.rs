//! 32 rows x 64 columns of MXFP4 in 1088 bytes: 512 bytes of codes for rows 0 to 15 (lane `l` of a
//! warp has 16 bytes at `16 l`, one word per product), 512 for rows 16 to 31, then 64 bytes of
//! scales. `format/mxfp4.cuh` has the decoder that the bits of a word are spread for.

use super::{NotANumber, StoredRow, TILE_ROWS, gather, position};

pub(super) const BYTES: usize = 1088;

/// Where a word keeps sign, exponent (high, low bit) and mantissa of each of its 8 codes.
pub(super) const BITS: [[u32; 4]; 8] = [
    [15, 8, 7, 14],
    [31, 24, 23, 30],
    [13, 6, 5, 4],
    [29, 22, 21, 20],
    [9, 2, 1, 0],
    [25, 18, 17, 16],
    [19, 12, 11, 10],
    [3, 28, 27, 26],
];

/// The bits of a word for a stored byte (two codes, the even column low) in each register.
static PAIRS: [[u32; 256]; 4] = {
    let mut table = [[0; 256]; 4];
    let mut register = 0;
    while register < 4 {
        let mut byte = 0;
        while byte < 256 {
            table[register][byte] = spread(byte as u32 & 15, &BITS[2 * register])
                | spread(byte as u32 >> 4, &BITS[2 * register + 1]);
            byte += 1;
        }
        register += 1;
    }
    table
};

/// The bits of `code` (sign, exponent, exponent, mantissa) at `places`.
pub(super) const fn spread(code: u32, places: &[u32; 4]) -> u32 {
    ((code >> 3) & 1) << places[0]
        | ((code >> 2) & 1) << places[1]
        | ((code >> 1) & 1) << places[2]
        | (code & 1) << places[3]
}

/// Zero in a block that no row has; any scale but NaN would do.
const EMPTY: u8 = 127;

pub(super) fn pack(
    rows: &[StoredRow; TILE_ROWS],
    step: usize,
    out: &mut [u8],
) -> Result<(), NotANumber> {
    let codes = gather::<32>(rows, 32 * step);
    let (words, scales) = out.split_at_mut(1024);
    for (at, word) in words.chunks_exact_mut(4).enumerate() {
        let (half, lane, product) = (at / 128, at / 4 % 32, at % 4);
        let mut bits = 0;
        for (register, pairs) in PAIRS.iter().enumerate() {
            let (row, col) = position(half, lane, product, 2 * register);
            bits |= pairs[usize::from(codes[row][col / 2])];
        }
        word.copy_from_slice(&bits.to_le_bytes());
    }
    for (at, scale) in scales.iter_mut().enumerate() {
        let (row, block) = (at / 8 + 8 * (at % 4), at / 4 % 2);
        *scale = rows[row].scales.get(2 * step + block).copied().unwrap_or(EMPTY);
        if *scale == 255 {
            return Err(NotANumber { row });
        }
    }
    Ok(())
}
