//! Op `lm_head` and its drafter twin `draft_head`: logits of the rows that need them.

use super::linear::{Packed, Store, apply};
use super::workers::Compute;
use crate::matrix::Matrix;

/// `logits[i] = head normed[rows[i]]`, `[rows, vocab]`; `packed` holds the normed rows.
pub(super) fn run(
    compute: &Compute,
    head: &Matrix,
    packed: &Packed,
    rows: &[u32],
    identity: &[u32],
    logits: &mut [f32],
) {
    apply(compute, head, packed, rows, (logits, head.rows, 0), identity, Store::Set);
}
