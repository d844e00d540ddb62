//! Law 8: acceptance is watched, because a broken drafter looks exactly like a slow one.

/// Rounds without a single accepted draft after which a drafter is suspected to be broken.
const SUSPICIOUS_ROUNDS: u64 = 32;

/// Watches the first speculative rounds of an engine.
#[derive(Debug, Default)]
pub(crate) struct Watch {
    rounds: u64,
    accepted: u64,
    warned: bool,
}

impl Watch {
    /// Counts one round with drafts. Returns the warning once, when it is due.
    pub(crate) fn round(&mut self, accepted: usize) -> Option<String> {
        self.rounds += 1;
        self.accepted += accepted as u64;
        if self.warned || self.accepted > 0 || self.rounds < SUSPICIOUS_ROUNDS {
            return None;
        }
        self.warned = true;
        Some(format!(
            "the drafter had none of its tokens accepted in {SUSPICIOUS_ROUNDS} rounds: output is \
             right but not faster. Likely causes: a drafter of another target or fine-tune, a \
             missing mask_embedding sidecar, taps off by one layer, wrong rope_theta or \
             partial_rotary_factor in dflash/config.json"
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn warns_once_and_only_where_nothing_was_ever_accepted() {
        let mut broken = Watch::default();
        let warnings = (0..200).filter_map(|_| broken.round(0)).count();
        assert_eq!(warnings, 1);
        let mut healthy = Watch::default();
        assert!(healthy.round(3).is_none());
        assert!((0..200).all(|_| healthy.round(0).is_none()));
    }
}
