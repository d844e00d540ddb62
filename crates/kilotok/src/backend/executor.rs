//! What a program interpreter offers to the round loop.

use std::ops::Range;

use super::{Limits, Page, Slot};

/// One row of a target forward.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Row {
    /// The sequence.
    pub slot: Slot,
    /// Absolute position.
    pub position: u32,
    /// Token at that position.
    pub token: u32,
    /// Whether the row's logits will be read.
    pub needs_logits: bool,
}

/// One drafter block: the anchor at `start` and `drafts` masked rows behind it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DraftBlock {
    /// The sequence.
    pub slot: Slot,
    /// Position of the anchor: the number of positions in the target's cache.
    pub start: u32,
    /// Newest committed token, not yet in the cache.
    pub anchor: u32,
    /// Tokens to draft, for positions `start + 1 ..= start + drafts`.
    pub drafts: u32,
}

/// Runs the three parts of a [`crate::Program`] over rows of open slots.
///
/// Rows of one slot are consecutive and ascending; what an executor computes for a row depends
/// on that row's tokens and cache alone (law 1).
pub trait Executor: Send {
    /// What it was built to hold.
    fn limits(&self) -> Limits;

    /// Width of a logits row.
    fn vocab(&self) -> usize;

    /// Drafts per block at most; 0 without a drafter.
    fn max_drafts(&self) -> usize;

    /// Gives a slot its pages and forgets whatever the slot held before.
    fn set_pages(&mut self, slot: Slot, pages: &[Page]);

    /// Target forward: writes keys and values at each row's position.
    fn verify(&mut self, rows: &[Row]);

    /// Logits of row `row` of the last [`Executor::verify`], `[vocab]`; the row needed them.
    fn logits(&self, row: usize) -> &[f32];

    /// Makes rows of the last [`Executor::verify`] drafter context at their positions.
    fn commit(&mut self, rows: Range<usize>);

    /// Drafts blocks; appends the drafted tokens of each, in order, to `out`.
    fn draft(&mut self, blocks: &[DraftBlock], out: &mut Vec<u32>);
}
