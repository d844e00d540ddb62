//! Op `draft_choose`: the drafted token of a masked row.

use super::choose::argmax;

/// Index of the largest logit, the lowest on ties.
pub(super) fn run(logits: &[f32]) -> u32 {
    argmax(logits)
}
