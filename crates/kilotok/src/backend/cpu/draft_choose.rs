//! Op `draft_choose`: the drafted token of a masked row.

/// Index of the largest logit, the lowest on ties.
pub(super) fn run(logits: &[f32]) -> u32 {
    let mut best = 0;
    for (i, value) in logits.iter().enumerate() {
        if *value > logits[best] {
            best = i;
        }
    }
    best as u32
}
