//! How likely a draft is to be accepted, from how far the drafter put it above its second choice.
//!
//! A drafter's own probability says too much or too little, depending on how it was trained; what
//! counts is how often drafts that were as sure as this one came to be accepted here.

use crate::sample::SamplingParams;

/// Width of a class of margins, in logits.
const STEP: f32 = 0.5;

/// Classes; the last one holds every larger margin.
const CLASSES: usize = 24;

/// What an older observation keeps of its weight with each new one of its class.
const MEMORY: f64 = 0.99;

/// Observations that the first guess counts for.
const PRIOR_WEIGHT: f64 = 4.0;

/// Kinds of sequences, see [`kind`].
pub(crate) const KINDS: usize = 4;

/// Whose drafts are accepted alike: noise makes a sure draft less sure, and a constraint lets no
/// draft pass that could not be accepted.
pub(crate) fn kind(params: &SamplingParams, is_constrained: bool) -> usize {
    2 * usize::from(is_constrained) + usize::from(params.temperature > 0.0)
}

/// Acceptance per class of margin, given that every draft before was accepted.
#[derive(Clone, Debug)]
pub(crate) struct Confidence {
    /// Weighted hits and tries.
    counts: [(f64, f64); CLASSES],
}

fn class(margin: f32) -> usize {
    // NaN, which a broken drafter may say, is class 0.
    ((margin / STEP) as usize).min(CLASSES - 1)
}

impl Default for Confidence {
    /// The chance of the better of two choices, had there been only these.
    fn default() -> Self {
        let guess = |class: usize| 1.0 / (1.0 + (-f64::from(STEP) * class as f64).exp());
        let counts = std::array::from_fn(|i| (guess(i) * PRIOR_WEIGHT, PRIOR_WEIGHT));
        Self { counts }
    }
}

impl Confidence {
    /// Learns from one verified block: `margins` of its drafts, of which `accepted` were. An
    /// infinite margin says nothing about the drafter.
    pub(crate) fn observe(&mut self, margins: &[f32], accepted: usize) {
        let seen = margins.iter().enumerate().take(accepted + 1);
        for (j, &margin) in seen.filter(|(_, margin)| **margin < f32::INFINITY) {
            let (hits, tries) = &mut self.counts[class(margin)];
            *hits = *hits * MEMORY + f64::from(u8::from(j < accepted));
            *tries = *tries * MEMORY + 1.0;
        }
    }

    /// Of a block's drafts, how many have at least this chance to be accepted with all before them.
    pub(crate) fn worth_verifying(&self, margins: &[f32], min_chance: f64) -> usize {
        let mut chance = 1.0;
        let is_worth = |margin: &&f32| {
            if **margin != f32::INFINITY {
                let (hits, tries) = self.counts[class(**margin)];
                chance *= hits / tries;
            }
            chance >= min_chance
        };
        margins.iter().take_while(is_worth).count()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sure_drafts_are_verified_and_those_behind_a_guess_are_not() {
        let confidence = Confidence::default();
        assert_eq!(confidence.worth_verifying(&[9.0, 9.0, 0.1, 9.0], 0.6), 2);
        assert_eq!(confidence.worth_verifying(&[9.0, 9.0, 0.1, 9.0], 0.0), 4);
        assert_eq!(confidence.worth_verifying(&[f32::NAN, 9.0], 0.6), 0);
        assert_eq!(confidence.worth_verifying(&[f32::INFINITY; 3], 0.9), 3);
        assert_eq!(confidence.worth_verifying(&[], 0.5), 0);
    }

    #[test]
    fn what_was_seen_outweighs_what_the_drafter_says() {
        let mut boasting = Confidence::default();
        let mut modest = Confidence::default();
        for i in 0..100 {
            boasting.observe(&[9.0, 9.0], usize::from(i % 5 == 0));
            modest.observe(&[0.1, 0.1], 2);
        }
        assert_eq!(boasting.worth_verifying(&[9.0], 0.5), 0);
        assert_eq!(modest.worth_verifying(&[0.1, 0.1], 0.5), 2);
        // Other margins were never seen.
        assert_eq!(modest.worth_verifying(&[9.0], 0.9), 1);
    }

    #[test]
    fn nothing_is_learned_from_drafts_behind_a_rejected_one() {
        let mut confidence = Confidence::default();
        for _ in 0..100 {
            confidence.observe(&[1.0, 9.0], 0);
        }
        assert_eq!(confidence.counts[class(9.0)], Confidence::default().counts[class(9.0)]);
    }
}
