//! The speed receipt: what a request cost and what speculation gave, as measured.

/// Numbers of one finished (or cancelled) request.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Receipt {
    /// Tokens of the prompt.
    pub prompt_tokens: usize,
    /// Of them, tokens at the front that were in the prefix cache and were not fed again.
    pub cached_tokens: usize,
    /// Milliseconds from submission to admission.
    pub queue_ms: f64,
    /// Milliseconds from admission to the first token.
    pub prefill_ms: f64,
    /// Milliseconds from submission to the first token.
    pub ttft_ms: f64,
    /// Tokens generated.
    pub tokens: usize,
    /// Decode rounds, plain ones included; the prefill's first token is no round.
    pub rounds: usize,
    /// Rounds that verified drafts.
    pub speculative_rounds: usize,
    /// Mean tokens emitted by a round with drafts, bonus included; 0 without any. A round that
    /// a stop token or the length limit cut short counts what it emitted.
    pub tau: f64,
    /// Speculative rounds by number of accepted drafts, index 0 upwards.
    pub accepted_histogram: Vec<usize>,
    /// Drafts verified.
    pub drafted: usize,
    /// Tokens per second from the first token to the last.
    pub tokens_per_s: f64,
    /// Milliseconds of a plain step on this engine, measured in rounds without drafts.
    pub plain_step_ms: f64,
    /// `tokens_per_s` over the rate of plain steps, in the same rounds' company; 0 if unknown.
    pub speedup: f64,
    /// Key of the noise, to repeat a sampled request.
    pub seed: u64,
    /// Law 8: why speculation looks broken, if it does.
    pub warning: Option<String>,
}
