//! Block length from measured acceptance and measured cost.
//!
//! Any choice here is lossless: it changes how many drafts are verified, never which tokens
//! come out (law 2), so the decision may depend on clocks.

/// What an older observation keeps of its weight with each new one: a memory of about 12 rounds,
/// since text changes its nature quickly.
const MEMORY: f64 = 0.92;

/// Acceptance that a new sequence is credited with, so that it drafts until it knows better.
const PRIOR: f64 = 0.8;

/// Observations that the credit counts for.
const PRIOR_WEIGHT: f64 = 2.0;

/// Conditional acceptance per draft position: P(draft j accepted | drafts before j accepted).
#[derive(Clone, Debug)]
pub(crate) struct Acceptance {
    /// Weighted hits and tries of each position.
    counts: Vec<(f64, f64)>,
}

impl Acceptance {
    /// Knows nothing yet.
    pub(crate) fn new(max_drafts: usize) -> Self {
        Self { counts: vec![(PRIOR * PRIOR_WEIGHT, PRIOR_WEIGHT); max_drafts] }
    }

    /// Learns from one round.
    pub(crate) fn observe(&mut self, drafted: usize, accepted: usize) {
        for (j, (hits, tries)) in self.counts.iter_mut().enumerate().take(drafted) {
            if j > accepted {
                break;
            }
            *hits = *hits * MEMORY + f64::from(u8::from(j < accepted));
            *tries = *tries * MEMORY + 1.0;
        }
    }

    /// Expected tokens of a round with `drafts` drafts, the bonus included.
    pub(crate) fn expected(&self, drafts: usize) -> f64 {
        let mut reach = 1.0;
        let mut tokens = 1.0;
        for (hits, tries) in self.counts.iter().take(drafts) {
            reach *= hits / tries;
            tokens += reach;
        }
        tokens
    }
}

/// Samples kept of one quantity; their median is the estimate, so that a stall of the machine
/// (which is no property of the model) moves nothing.
const KEPT: usize = 9;

/// Rounds between plain ones that keep the cost of a plain step measured.
const PLAIN_EVERY: usize = 64;

/// Rounds before the first of them.
const PLAIN_EARLY: usize = 4;

/// Samples of whole blocks before the length may be chosen by them.
const ENOUGH: usize = 5;

/// The newest samples of a duration.
#[derive(Clone, Copy, Debug, Default)]
struct Recent {
    seconds: [f64; KEPT],
    count: usize,
}

impl Recent {
    fn push(&mut self, seconds: f64) {
        self.seconds[self.count % KEPT] = seconds;
        self.count += 1;
    }

    /// The median, if there is a sample.
    fn median(&self) -> Option<f64> {
        let len = self.count.min(KEPT);
        let mut sorted = self.seconds;
        sorted[..len].sort_unstable_by(f64::total_cmp);
        (len > 0).then(|| sorted[len / 2])
    }
}

/// Seconds of a round by its number of rows, as measured.
#[derive(Clone, Debug)]
pub(crate) struct CostModel {
    /// The target pass, by rows.
    verify: Vec<Recent>,
    /// Commit and draft of one round with drafts.
    draft: Recent,
    /// Rounds since a plain step of one sequence was measured.
    since_plain: usize,
}

impl CostModel {
    pub(crate) fn new(max_rows: usize) -> Self {
        let verify = vec![Recent::default(); max_rows + 1];
        Self { verify, draft: Recent::default(), since_plain: 0 }
    }

    /// Whether a plain step is to be measured: one early on, then one of [`PLAIN_EVERY`] rounds,
    /// because without them a receipt could only assume what speculation won.
    pub(crate) fn wants_plain(&self) -> bool {
        let spacing = if self.samples(1) == 0 { PLAIN_EARLY } else { PLAIN_EVERY };
        self.since_plain + 1 >= spacing
    }

    /// Learns from one round of `rows` rows.
    pub(crate) fn observe(&mut self, rows: usize, verify: f64, draft: Option<f64>) {
        self.since_plain = if rows == 1 { 0 } else { self.since_plain + 1 };
        if let Some(recent) = self.verify.get_mut(rows) {
            recent.push(verify);
        }
        if let Some(seconds) = draft {
            self.draft.push(seconds);
        }
    }

    fn samples(&self, rows: usize) -> usize {
        self.verify.get(rows).map_or(0, |recent| recent.count)
    }

    /// Seconds of the target pass over `rows` rows: measured, or interpolated between neighbours.
    pub(crate) fn verify(&self, rows: usize) -> f64 {
        let at = |r: usize| self.verify.get(r).and_then(Recent::median).map(|s| (r, s));
        let below = (0..=rows.min(self.verify.len() - 1)).rev().find_map(at);
        let above = (rows..self.verify.len()).find_map(at);
        match (below, above) {
            (Some((a, low)), Some((b, high))) if a < b => {
                let t = (rows - a) as f64 / (b - a) as f64;
                low * (1.0 - t) + high * t
            }
            (Some((_, seconds)), _) | (None, Some((_, seconds))) => seconds,
            (None, None) => 0.0,
        }
    }

    /// Seconds of a plain step of one sequence, if it was ever measured; else 0.
    pub(crate) fn plain(&self) -> f64 {
        self.verify[1].median().unwrap_or(0.0)
    }

    /// Seconds of commit and draft together, if ever measured; else 0.
    pub(crate) fn draft(&self) -> f64 {
        self.draft.median().unwrap_or(0.0)
    }
}

/// The number of drafts with the most expected tokens per second, for one of `sequences` alike.
pub(crate) fn choose_drafts(
    acceptance: &Acceptance,
    cost: &CostModel,
    sequences: usize,
    max_drafts: usize,
) -> usize {
    let most_rows = cost.verify.len() - 1;
    let max_drafts = max_drafts.min((most_rows / sequences.max(1)).saturating_sub(1));
    // Too little is known to weigh anything: draft whole blocks and learn.
    if cost.samples(sequences * (1 + max_drafts)) < ENOUGH || cost.draft() == 0.0 {
        return max_drafts;
    }
    let rate = |drafts: usize| {
        let draft = if drafts == 0 { 0.0 } else { cost.draft() };
        acceptance.expected(drafts) / (cost.verify(sequences * (1 + drafts)) + draft)
    };
    (0..=max_drafts).max_by(|a, b| rate(*a).total_cmp(&rate(*b))).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cost(plain: f64, per_row: f64, draft: f64) -> CostModel {
        let mut cost = CostModel::new(64);
        for rows in 1..=64 {
            for _ in 0..ENOUGH {
                cost.observe(rows, plain + per_row * rows as f64, Some(draft));
            }
        }
        cost
    }

    #[test]
    fn a_useless_drafter_is_switched_off_and_a_perfect_one_is_used_in_full() {
        let cost = cost(1.0, 0.1, 0.3);
        let mut useless = Acceptance::new(7);
        let mut perfect = Acceptance::new(7);
        for _ in 0..200 {
            useless.observe(7, 0);
            perfect.observe(7, 7);
        }
        assert_eq!(choose_drafts(&useless, &cost, 1, 7), 0);
        assert_eq!(choose_drafts(&perfect, &cost, 1, 7), 7);
    }

    #[test]
    fn dearer_rows_shorten_the_block() {
        let mut acceptance = Acceptance::new(7);
        for i in 0..400 {
            acceptance.observe(7, [0, 1, 2, 3][i % 4]);
        }
        let cheap = choose_drafts(&acceptance, &cost(1.0, 0.01, 0.1), 1, 7);
        let dear = choose_drafts(&acceptance, &cost(1.0, 0.4, 0.1), 1, 7);
        assert!(dear < cheap, "{dear} {cheap}");
    }

    #[test]
    fn cost_is_interpolated_between_measured_rows() {
        let mut cost = CostModel::new(16);
        cost.observe(1, 1.0, None);
        cost.observe(9, 3.0, Some(0.5));
        assert!((cost.verify(5) - 2.0).abs() < 1e-12);
        assert!((cost.verify(16) - 3.0).abs() < 1e-12);
    }

    #[test]
    fn blocks_are_planned_within_the_rows_of_a_round() {
        let acceptance = Acceptance::new(7);
        assert_eq!(choose_drafts(&acceptance, &cost(1.0, 1e-6, 1e-6), 16, 7), 3);
        assert_eq!(choose_drafts(&acceptance, &CostModel::new(64), 64, 7), 0);
    }

    #[test]
    fn a_stall_changes_no_decision() {
        let mut cost = cost(1.0, 0.01, 0.1);
        let acceptance = Acceptance::new(7);
        let before = choose_drafts(&acceptance, &cost, 1, 7);
        cost.observe(8, 500.0, Some(500.0));
        cost.observe(1, 500.0, None);
        assert_eq!(choose_drafts(&acceptance, &cost, 1, 7), before);
    }

    #[test]
    fn expected_tokens_count_the_bonus() {
        let acceptance = Acceptance { counts: vec![(0.5, 1.0); 7] };
        assert!((acceptance.expected(2) - 1.75).abs() < 1e-12);
        assert!((acceptance.expected(0) - 1.0).abs() < 1e-12);
    }
}
