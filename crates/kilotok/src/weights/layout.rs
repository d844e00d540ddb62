//! Tensors that do not lie in their bytes row after row, put in order.

use rayon::prelude::*;

use super::catalog::{Entry, Layout};

/// Rows that one worker copies; a line of the cache holds this many BF16 of a transposed row.
const ROWS: usize = 32;

/// The elements of `entry` row after row; `None` where `stored` does not hold them all.
pub(super) fn gather(stored: &[u8], entry: &Entry) -> Option<Vec<u8>> {
    let size = entry.dtype.size()?;
    let rows = *entry.shape.first()?;
    let cols =
        entry.shape[1..].iter().try_fold(1_usize, |product, &dim| product.checked_mul(dim))?;
    let row_bytes = cols.checked_mul(size)?;
    // Bytes from one element of a row to the next, from row to row, and before the first.
    let (across, down, first) = match entry.layout {
        Layout::Dense => (size, row_bytes, 0),
        Layout::EveryRow { first, step } => {
            (size, row_bytes.checked_mul(step)?, row_bytes.checked_mul(first)?)
        }
        Layout::Transposed { first, step, width } => {
            (width.checked_mul(size)?, step.checked_mul(size)?, first.checked_mul(size)?)
        }
    };
    if rows == 0 || cols == 0 {
        return Some(Vec::new());
    }
    let last = first
        .checked_add((rows - 1).checked_mul(down)?)?
        .checked_add((cols - 1).checked_mul(across)?)?;
    if last.checked_add(size)? > stored.len() {
        return None;
    }
    let mut out = vec![0; rows.checked_mul(row_bytes)?];
    out.par_chunks_mut(ROWS * row_bytes).enumerate().for_each(|(piece, out)| {
        let start = first + piece * ROWS * down;
        if across == size {
            for (row, out) in out.chunks_exact_mut(row_bytes).enumerate() {
                out.copy_from_slice(&stored[start + row * down..][..row_bytes]);
            }
            return;
        }
        for col in 0..cols {
            for (row, out) in out.chunks_exact_mut(row_bytes).enumerate() {
                let from = start + row * down + col * across;
                out[col * size..][..size].copy_from_slice(&stored[from..from + size]);
            }
        }
    });
    Some(out)
}
