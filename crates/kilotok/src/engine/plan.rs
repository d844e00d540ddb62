//! Which rows the next round gives to which sequence.

use crate::backend::{Slot, Work};

/// What one running sequence wants.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Want {
    /// Prompt positions that are still to be fed.
    Prefill {
        /// Position to go on from.
        start: usize,
        /// Positions left.
        left: usize,
    },
    /// A decode round with this many drafts.
    Decode {
        /// Drafts, 0 for a plain step.
        drafts: usize,
        /// As in [`Work::Decode`].
        min_chance: f64,
    },
}

/// Rows that prefill gets at least while something waits to be prefilled, so that a full house
/// of long blocks cannot starve a new request.
const PREFILL_FLOOR: usize = 16;

/// Fills `plan`: every decoding sequence first (blocks shortened alike until they fit), then
/// prompts in order of arrival with the rows that are left, at most `chunk` (0: no limit).
///
/// Shortening a block or splitting a prompt changes no token (laws 1 and 2).
pub(super) fn plan_round(
    wants: impl Iterator<Item = (Slot, Want)> + Clone,
    max_rows: usize,
    chunk: usize,
    plan: &mut Vec<Work>,
) {
    plan.clear();
    let decoding = wants.clone().filter(|(_, w)| matches!(w, Want::Decode { .. })).count();
    let prefilling = wants.clone().any(|(_, w)| matches!(w, Want::Prefill { .. }));
    let floor = if prefilling { PREFILL_FLOOR.min(max_rows - decoding.min(max_rows)) } else { 0 };
    let most_drafts =
        (max_rows - floor).checked_div(decoding).map_or(0, |rows| rows.saturating_sub(1));
    let mut rows = max_rows;
    for (slot, want) in wants.clone() {
        if let Want::Decode { drafts, min_chance } = want
            && rows > 0
        {
            let drafts = drafts.min(most_drafts).min(rows - 1);
            rows -= 1 + drafts;
            plan.push(Work::Decode { slot, drafts, min_chance });
        }
    }
    if chunk > 0 {
        rows = rows.min(chunk);
    }
    for (slot, want) in wants {
        if let Want::Prefill { start, left } = want
            && rows > 0
        {
            let len = left.min(rows);
            rows -= len;
            plan.push(Work::Prefill { slot, start, len });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn rows(work: &Work) -> usize {
        match work {
            Work::Prefill { len, .. } => *len,
            Work::Decode { drafts, .. } => 1 + drafts,
        }
    }

    proptest! {
        /// Rows never exceed the limit, every decoding sequence runs, prefill always advances
        /// where decoding leaves a row, and chunks go on where the prompt stands.
        #[test]
        fn plans_fit_and_nobody_starves(
            wants in prop::collection::vec((any::<bool>(), 0usize..300, 1usize..5000, 0usize..8), 1..64),
            chunk in 0usize..80,
        ) {
            let wants: Vec<(Slot, Want)> = wants.into_iter().enumerate().map(|(i, (p, start, left, drafts))| {
                (i as Slot, if p { Want::Prefill { start, left } } else { Want::Decode { drafts, min_chance: 0.0 } })
            }).collect();
            let mut plan = Vec::new();
            plan_round(wants.iter().copied(), 64, chunk, &mut plan);
            prop_assert!(plan.iter().map(rows).sum::<usize>() <= 64);
            let decoding = wants.iter().filter(|w| matches!(w.1, Want::Decode { .. })).count();
            let planned = plan.iter().filter(|w| matches!(w, Work::Decode { .. })).count();
            prop_assert_eq!(decoding, planned);
            if decoding < 64 && decoding < wants.len() {
                let advances = plan.iter().any(|w| matches!(w, Work::Prefill { .. }));
                prop_assert!(advances);
            }
        }
    }
}
