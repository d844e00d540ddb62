//! Op `draft_embed`: residual = embedding of the anchor, then of the mask.

use super::super::DraftBlock;
use super::embed::decode_row;
use crate::matrix::Matrix;

/// `residual` is `[rows, hidden]`, `1 + drafts` rows per block.
pub(super) fn run(table: &Matrix, mask: &[f32], blocks: &[DraftBlock], residual: &mut [f32]) {
    let mut rows = residual.chunks_exact_mut(mask.len());
    for block in blocks {
        if let Some(row) = rows.next() {
            decode_row(table, block.anchor as usize, row);
        }
        for row in rows.by_ref().take(block.drafts as usize) {
            row.copy_from_slice(mask);
        }
    }
}
