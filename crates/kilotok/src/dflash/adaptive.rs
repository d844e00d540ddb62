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
    round: RoundMean,
}

/// What a round with drafts comes to, on average.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RoundMean {
    tokens: f64,
    rows: f64,
    /// Rounds that it stands for.
    weight: f64,
}

impl RoundMean {
    /// Rounds that the mean of all sequences of a kind remembers.
    pub(crate) const LONG: f64 = 64.0;

    /// Rounds of other sequences that a new one is judged by.
    const START: f64 = 2.0;

    /// Rounds that the mean of one sequence remembers.
    const SHORT: f64 = 12.0;

    /// Of a drafter of whom nothing is known.
    pub(crate) fn guess(max_drafts: usize) -> Self {
        let tokens = (0..=max_drafts as i32).map(|j| PRIOR.powi(j)).sum();
        Self { tokens, rows: 1.0 + max_drafts as f64, weight: 1.0 }
    }

    /// Learns from one round; `most`: rounds to remember.
    pub(crate) fn observe(&mut self, drafted: usize, tokens: usize, most: f64) {
        self.weight = (self.weight + 1.0).min(most);
        self.tokens += (tokens as f64 - self.tokens) / self.weight;
        self.rows += (1.0 + drafted as f64 - self.rows) / self.weight;
    }
}

impl Acceptance {
    /// Knows nothing of its sequence, but what rounds of others came to.
    pub(crate) fn new(max_drafts: usize, others: RoundMean) -> Self {
        let round = RoundMean { weight: RoundMean::START, ..others };
        Self { counts: vec![(PRIOR * PRIOR_WEIGHT, PRIOR_WEIGHT); max_drafts], round }
    }

    /// Learns what one round with drafts came to.
    pub(crate) fn observe_round(&mut self, drafted: usize, tokens: usize) {
        self.round.observe(drafted, tokens, RoundMean::SHORT);
    }

    /// Whether rounds with drafts give more tokens per second than plain steps, for one of
    /// `sequences` alike.
    pub(crate) fn pays(&self, cost: &CostModel, sequences: usize) -> bool {
        let RoundMean { tokens, rows, .. } = self.round;
        let seconds = cost.verify((sequences as f64 * rows).round() as usize) + cost.draft();
        // The first rounds of an engine are cold, and whole blocks: they say little of what follows.
        let unknown = cost.samples(1) == 0 || cost.draft.count < WARM;
        unknown || tokens * cost.verify(sequences) > seconds
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

/// Rounds from one plain one to the next, which keep the cost of a plain step measured: to the first,
/// to the second and third, and from then on.
const PLAIN_SPACING: [usize; 4] = [4, 16, 16, 64];

/// Samples of whole blocks before the length may be chosen by them.
const ENOUGH: usize = 5;

/// Rounds with drafts before their price may speak against drafting.
const WARM: usize = 16;

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

    /// The shortest, if there is a sample.
    fn shortest(&self) -> Option<f64> {
        self.seconds[..self.count.min(KEPT)].iter().copied().min_by(f64::total_cmp)
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
    /// Tokens and seconds of recent rounds with drafts, all sequences together.
    yielded: (f64, f64),
}

impl CostModel {
    pub(crate) fn new(max_rows: usize) -> Self {
        let verify = vec![Recent::default(); max_rows + 1];
        Self { verify, draft: Recent::default(), since_plain: 0, yielded: (0.0, 0.0) }
    }

    /// Whether a plain step is to be measured ([`PLAIN_SPACING`]), because without them a receipt
    /// could only assume what speculation won.
    pub(crate) fn wants_plain(&self) -> bool {
        let known = self.samples(1).min(PLAIN_SPACING.len() - 1);
        self.since_plain + 1 >= PLAIN_SPACING[known]
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

    /// Learns what one round with drafts gave, at the price of such a round: a stall of the machine
    /// is not counted.
    pub(crate) fn observe_yield(&mut self, rows: usize, tokens: usize) {
        let seconds = self.verify(rows) + self.draft();
        let (all_tokens, all_seconds) = &mut self.yielded;
        *all_tokens = *all_tokens * MEMORY + tokens as f64;
        *all_seconds = *all_seconds * MEMORY + seconds;
    }

    /// The chance of a token that one more row of the target pass has to offer, so as not to take
    /// more time than rounds take for a token; 0 while too little is known.
    pub(crate) fn min_chance(&self, sequences: usize, max_drafts: usize) -> f64 {
        /// Above it, drafting would be a waste altogether.
        const MOST: f64 = 0.9;
        let most_rows = self.verify.len() - 1;
        let (low, high) = (sequences, (sequences * (1 + max_drafts)).min(most_rows));
        let (tokens, seconds) = self.yielded;
        if self.samples(1) == 0 || self.samples(high) < ENOUGH || low >= high || seconds <= 0.0 {
            return 0.0;
        }
        let per_row = (self.verify(high) - self.verify(low)) / (high - low) as f64;
        (per_row * tokens / seconds).clamp(0.0, MOST)
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

    /// Seconds of a plain step of one sequence, if it was ever measured; else 0. The shortest of
    /// the newest: a stall of the machine must not make speculation look better than it is.
    pub(crate) fn plain(&self) -> f64 {
        self.verify[1].shortest().unwrap_or(0.0)
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
        let mut useless = Acceptance::new(7, RoundMean::guess(7));
        let mut perfect = Acceptance::new(7, RoundMean::guess(7));
        for _ in 0..200 {
            useless.observe(7, 0);
            perfect.observe(7, 7);
        }
        assert_eq!(choose_drafts(&useless, &cost, 1, 7), 0);
        assert_eq!(choose_drafts(&perfect, &cost, 1, 7), 7);
    }

    #[test]
    fn dearer_rows_shorten_the_block() {
        let mut acceptance = Acceptance::new(7, RoundMean::guess(7));
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
        let acceptance = Acceptance::new(7, RoundMean::guess(7));
        assert_eq!(choose_drafts(&acceptance, &cost(1.0, 1e-6, 1e-6), 16, 7), 3);
        assert_eq!(choose_drafts(&acceptance, &CostModel::new(64), 64, 7), 0);
    }

    #[test]
    fn a_row_is_worth_a_chance_that_grows_with_its_price_and_with_the_rate() {
        let with = |per_row: f64, tokens: usize| {
            let mut cost = cost(1.0, per_row, 0.1);
            (0..100).for_each(|_| cost.observe_yield(8, tokens));
            cost.min_chance(1, 7)
        };
        // 4 tokens in 1 + 8 * 0.1 + 0.1 seconds, 0.1 seconds a row.
        assert!((with(0.1, 4) - 0.1 * 4.0 / 1.9).abs() < 1e-9);
        assert!(with(0.1, 6) > with(0.1, 4));
        assert!(with(0.3, 4) > with(0.1, 4));
        assert_eq!(CostModel::new(64).min_chance(1, 7), 0.0);
    }

    #[test]
    fn drafting_pays_where_a_round_gives_more_than_plain_steps() {
        let cost = cost(1.0, 0.1, 0.3);
        let mut acceptance = Acceptance::new(7, RoundMean::guess(7));
        assert!(acceptance.pays(&cost, 1));
        (0..200).for_each(|_| acceptance.observe_round(7, 1));
        assert!(!acceptance.pays(&cost, 1));
        // Cut to one draft, a round is cheap: 1.2 + 0.3 against 1.1 seconds for 1.5 tokens.
        (0..400).for_each(|i| acceptance.observe_round(1, 1 + i % 2));
        assert!(acceptance.pays(&cost, 1));
    }

    #[test]
    fn a_stall_makes_no_speculation_look_good() {
        let mut cost = CostModel::new(8);
        assert_eq!(cost.plain(), 0.0);
        cost.observe(1, 500.0, None);
        cost.observe(1, 2.0, None);
        cost.observe(1, 900.0, None);
        assert_eq!(cost.plain(), 2.0);
    }

    #[test]
    fn plain_steps_are_measured_early_and_then_now_and_then() {
        let mut cost = CostModel::new(8);
        let rounds = (0..164).filter(|_| {
            let plain = cost.wants_plain();
            cost.observe(if plain { 1 } else { 8 }, 1.0, None);
            plain
        });
        assert_eq!(rounds.collect::<Vec<_>>(), [3, 19, 35, 99, 163]);
    }

    #[test]
    fn a_stall_changes_no_decision() {
        let mut cost = cost(1.0, 0.01, 0.1);
        let acceptance = Acceptance::new(7, RoundMean::guess(7));
        let before = choose_drafts(&acceptance, &cost, 1, 7);
        cost.observe(8, 500.0, Some(500.0));
        cost.observe(1, 500.0, None);
        assert_eq!(choose_drafts(&acceptance, &cost, 1, 7), before);
    }

    #[test]
    fn expected_tokens_count_the_bonus() {
        let acceptance = Acceptance { counts: vec![(0.5, 1.0); 7], round: RoundMean::guess(7) };
        assert!((acceptance.expected(2) - 1.75).abs() < 1e-12);
        assert!((acceptance.expected(0) - 1.0).abs() < 1e-12);
    }
}
