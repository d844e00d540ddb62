//! 32 rows x 64 columns of bfloat16 in 4096 bytes: per half of the rows and product, 16 bytes per
//! lane, the registers a0 to a3.

use super::{StoredRow, TILE_ROWS, gather, position};

pub(super) const BYTES: usize = 4096;

/// Whatever a bfloat16 holds reaches the sums, as on the CPU: nothing is refused.
pub(super) fn pack(rows: &[StoredRow; TILE_ROWS], step: usize, out: &mut [u8]) {
    let values = gather::<128>(rows, 128 * step);
    for (at, word) in out.chunks_exact_mut(4).enumerate() {
        let (half, product, lane, register) = (at / 512, at / 128 % 4, at / 4 % 32, at % 4);
        let (row, col) = position(half, lane, product, 2 * register);
        word.copy_from_slice(&values[row][2 * col..2 * col + 4]);
    }
}
