//! 32 rows x 128 columns of e4m3 in 4224 bytes: per half of the rows and pair of products, 16 bytes
//! per lane (two words of each product), then one f32 factor per row.

use super::{NotANumber, StoredRow, TILE_ROWS, gather, position};

pub(super) const BYTES: usize = 4224;

/// Half a word: `low` is an element of register a(j), `high` the same of a(j + 2). The bits of
/// `low` lie where a shift makes them a number, those of `high` between them.
const fn join(low: u8, high: u8) -> u32 {
    let (low, high) = (low as u32, high as u32);
    (low >> 7) << 15 | (low & 0x7f) << 4 | (high >> 7) << 11 | ((high >> 4) & 7) << 12 | (high & 15)
}

/// Both elements of half a word.
pub(super) const fn split(half: u16) -> (u8, u8) {
    let low = (half >> 15) << 7 | (half >> 4) & 0x7f;
    let high = (half >> 11 & 1) << 7 | (half >> 12 & 7) << 4 | half & 15;
    (low as u8, high as u8)
}

pub(super) fn pack(
    rows: &[StoredRow; TILE_ROWS],
    step: usize,
    out: &mut [u8],
) -> Result<(), NotANumber> {
    let codes = gather::<128>(rows, 128 * step);
    if let Some(row) = codes.iter().position(|row| row.iter().any(|code| code & 0x7f == 0x7f)) {
        return Err(NotANumber { row });
    }
    let (words, factors) = out.split_at_mut(4096);
    for (at, word) in words.chunks_exact_mut(4).enumerate() {
        let (half, pair, lane) = (at / 512, at / 128 % 4, at / 4 % 32);
        let (product, j) = (2 * pair + at % 4 / 2, at % 2);
        // Elements 2 r and 2 r + 1 are those of register r, in consecutive columns.
        let (row, low) = position(half, lane, product, 2 * j);
        let (_, high) = position(half, lane, product, 2 * (j + 2));
        let codes = &codes[row];
        let bits = join(codes[low], codes[high]) | join(codes[low + 1], codes[high + 1]) << 16;
        word.copy_from_slice(&bits.to_le_bytes());
    }
    for (row, (factor, stored)) in factors.chunks_exact_mut(4).zip(rows).enumerate() {
        let value = stored.factors.get(step).copied().unwrap_or(0.0);
        if value.is_nan() {
            return Err(NotANumber { row });
        }
        factor.copy_from_slice(&value.to_le_bytes());
    }
    Ok(())
}
