//! Op `lm_head` and its drafter twin `draft_head`: logits of the rows that need them.

use super::linear::{Orders, Packs, Store, Unpacked, apply};
use super::workers::Compute;
use crate::matrix::Matrix;

/// `logits[i] = head normed[rows[i]]`, `[rows, vocab]`; `identity` is `0, 1, 2, ...`.
pub(super) fn run(
    compute: &Compute,
    head: &Matrix,
    packs: &mut Packs,
    normed: &[f32],
    rows: &[u32],
    identity: &[u32],
    logits: &mut [f32],
) {
    let (cols, orders) = (head.cols, Orders::of([head]));
    let x = packs.input(Unpacked { x: normed, rows, cols, orders, routes: None });
    let identity = &identity[..rows.len()];
    apply(compute, head, &x, (logits, head.rows, 0), identity, Store::Set);
}
