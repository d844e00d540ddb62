//! Op `attention_full`: causal attention over all positions of the sequence.

use std::ops::Range;

/// Positions that the row at `position` sees.
pub(super) fn visible(position: usize) -> Range<usize> {
    0..position + 1
}
