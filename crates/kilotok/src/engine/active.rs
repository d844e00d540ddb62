//! A request in a slot: its progress, its speculation and its numbers.

use std::time::Instant;

use super::plan::Want;
use super::prefix::{Lease, Origin};
use super::stats::Shared;
use super::worker::Submission;
use super::{FinishReason, Finished, ModelInfo, Receipt, Request, Speculation, Token};
use crate::backend::{Progress, SequenceInit, TokenLogprobs};
use crate::dflash::{Acceptance, CostModel, KINDS, RoundMean, choose_drafts};
use crate::error::Result;

/// Rounds between two whole blocks while the adaptive length is shorter, so that a drafter that
/// got better is noticed.
const EXPLORE_EVERY: usize = 32;

/// Plain rounds, while drafts do not pay, before a sequence tries again; twice as many each time.
const PATIENCE: std::ops::RangeInclusive<u32> = 48..=384;

/// Whether drafter context is kept.
fn is_speculative(speculation: Speculation) -> bool {
    !matches!(speculation, Speculation::Off | Speculation::Block(1))
}

/// Which sequences a request shares pages with.
pub(super) fn origin(request: &Request, speculation: Speculation, info: &ModelInfo) -> Origin {
    Origin {
        salt: request.cache_salt.clone(),
        context: info.max_drafts > 0 && is_speculative(speculation),
        ..Origin::default()
    }
}

pub(super) struct Active {
    submission: Box<Submission>,
    lease: Lease,
    /// Prompt and generated tokens.
    tokens: Vec<u32>,
    speculation: Speculation,
    acceptance: Acceptance,
    prefilled: usize,
    /// Tokens that prefill feeds: the prompt, and after a restart what was emitted, too.
    to_feed: usize,
    /// Of the next round: drafts, and the chance that is worth a row.
    drafts: (usize, f64),
    /// Plain rounds since drafts no longer paid, and how many there are to be.
    idle: (u32, u32),
    admitted: Instant,
    first_token: Option<Instant>,
    last_token: Option<Instant>,
    receipt: Receipt,
    /// Tokens that the decode rate must not count: those of the prefill round.
    tokens_at_first: usize,
    /// Tokens of rounds with drafts.
    speculative_tokens: usize,
    prompt_logprobs: Vec<TokenLogprobs>,
}

impl Active {
    pub(super) fn new(
        submission: Box<Submission>,
        lease: Lease,
        speculation: Speculation,
        info: &ModelInfo,
        yields: &[RoundMean; KINDS],
    ) -> Self {
        let admitted = Instant::now();
        let others = yields[submission.kind()];
        let request = &submission.request;
        let cached = lease.cached().map_or(0, |cached| cached.positions);
        let room = request.prompt.len() + request.params.max_tokens as usize;
        let mut tokens = Vec::with_capacity(room);
        tokens.extend_from_slice(&request.prompt);
        let receipt = Receipt {
            prompt_tokens: request.prompt.len(),
            cached_tokens: cached,
            queue_ms: (admitted - submission.submitted).as_secs_f64() * 1e3,
            accepted_histogram: vec![0; info.max_drafts + 1],
            seed: submission.seed,
            ..Receipt::default()
        };
        Self {
            submission,
            lease,
            tokens,
            speculation,
            acceptance: Acceptance::new(info.max_drafts, others),
            prefilled: cached,
            to_feed: receipt.prompt_tokens,
            drafts: (0, 0.0),
            idle: (0, *PATIENCE.start()),
            admitted,
            first_token: None,
            last_token: None,
            receipt,
            tokens_at_first: 0,
            speculative_tokens: 0,
            prompt_logprobs: Vec::new(),
        }
    }

    /// What the backend needs to know.
    pub(super) fn sequence(&mut self, info: &ModelInfo) -> SequenceInit {
        let constraint = self.submission.constraint.take();
        let request = &self.submission.request;
        let mut stop_tokens = request.params.stop_token_ids.clone();
        if !request.params.ignore_eos || constraint.is_some() {
            stop_tokens.extend(&info.eos_token_ids);
        }
        SequenceInit {
            prompt: request.prompt.clone(),
            params: request.params.clone(),
            seed: self.submission.seed,
            stop_tokens,
            pages: self.lease.pages().to_vec(),
            speculative: is_speculative(self.speculation),
            cached: self.lease.cached(),
            constraint,
        }
    }

    /// Its pages, and the tokens whose keys and values they hold or will hold.
    pub(super) fn lease_and_tokens(&mut self) -> (&mut Lease, &[u32]) {
        (&mut self.lease, &self.tokens)
    }

    pub(super) fn prompt_len(&self) -> usize {
        self.submission.request.prompt.len()
    }

    pub(super) fn is_constrained(&self) -> bool {
        self.submission.is_constrained()
    }

    pub(super) fn is_cancelled(&self) -> bool {
        self.submission.mailbox.is_cancelled()
    }

    pub(super) fn is_stopped(&self) -> bool {
        self.submission.mailbox.is_stopped()
    }

    /// Position to go on prefilling from and positions left; `None` once the prompt is in.
    pub(super) fn prompt_left(&self) -> Option<(usize, usize)> {
        let left = self.to_feed - self.prefilled;
        (left > 0).then_some((self.prefilled, left))
    }

    pub(super) fn prefilled(&mut self, len: usize) {
        self.prefilled += len;
    }

    /// Feeds everything anew, after the backend forgot its caches.
    pub(super) fn restart(&mut self) {
        if self.receipt.tokens == 0 {
            self.prompt_logprobs.clear();
        }
        self.prefilled = 0;
        self.to_feed = self.receipt.prompt_tokens + self.receipt.tokens;
    }

    /// Keeps the log-probabilities of the next prompt token.
    pub(super) fn score_prompt(&mut self, logprobs: TokenLogprobs) {
        self.prompt_logprobs.push(logprobs);
    }

    pub(super) fn decode(&self) -> Want {
        let (drafts, min_chance) = self.drafts;
        Want::Decode { drafts, min_chance }
    }

    /// Decides about the drafts of the next round; `weighs`: the backend knows a chance for each.
    pub(super) fn decide(
        &mut self,
        cost: &CostModel,
        sequences: usize,
        max_drafts: usize,
        weighs: bool,
    ) {
        let plain = sequences == 1 && cost.wants_plain();
        self.drafts = match self.speculation {
            Speculation::Off => (0, 0.0),
            _ if plain => (0, 0.0),
            Speculation::Block(length) => ((length - 1).min(max_drafts), 0.0),
            Speculation::Auto if weighs && max_drafts > 0 => {
                self.weigh(cost, sequences, max_drafts)
            }
            Speculation::Auto if self.explores() => (max_drafts, 0.0),
            Speculation::Auto => {
                (choose_drafts(&self.acceptance, cost, sequences, max_drafts), 0.0)
            }
        };
    }

    /// Whole blocks of which the backend verifies what is worth it, where that pays.
    fn weigh(&mut self, cost: &CostModel, sequences: usize, max_drafts: usize) -> (usize, f64) {
        let min_chance = cost.min_chance(sequences, max_drafts);
        // What others came to must not keep a sequence from trying once: short ones would never draft
        // again, and nothing better would be learned.
        let untried = self.receipt.speculative_rounds == 0;
        if untried || self.acceptance.pays(cost, sequences) {
            self.idle = (0, *PATIENCE.start());
            return (max_drafts, if self.explores() { 0.0 } else { min_chance });
        }
        let (rounds, patience) = self.idle;
        if rounds < patience {
            self.idle.0 += 1;
            return (0, 0.0);
        }
        self.idle = (0, (2 * patience).min(*PATIENCE.end()));
        (max_drafts, min_chance)
    }

    /// Whether the next round is to see a whole block.
    fn explores(&self) -> bool {
        self.receipt.rounds % EXPLORE_EVERY == EXPLORE_EVERY - 1
    }

    /// Kind of its drafts.
    pub(super) fn kind(&self) -> usize {
        self.submission.kind()
    }

    /// Counts one round, which emitted `tokens`.
    pub(super) fn record(&mut self, progress: &Progress, tokens: &[u32]) {
        let now = Instant::now();
        self.tokens.extend_from_slice(tokens);
        self.receipt.tokens += progress.tokens.len();
        self.last_token = Some(now);
        if self.first_token.is_none() {
            self.first_token = Some(now);
            self.tokens_at_first = self.receipt.tokens;
            self.receipt.prefill_ms = (now - self.admitted).as_secs_f64() * 1e3;
            self.receipt.ttft_ms = (now - self.submission.submitted).as_secs_f64() * 1e3;
            return;
        }
        self.receipt.rounds += 1;
        self.acceptance.observe(progress.proposed, progress.accepted);
        if progress.speculative {
            self.acceptance.observe_round(progress.drafted, progress.tokens.len());
            self.receipt.speculative_rounds += 1;
            self.speculative_tokens += progress.tokens.len();
            self.receipt.drafted += progress.drafted;
            self.receipt.accepted_histogram[progress.accepted] += 1;
        }
    }

    /// Sends tokens.
    pub(super) fn deliver(&self, tokens: impl Iterator<Item = Token>) {
        self.submission.mailbox.deliver(tokens, None);
    }

    /// Sends the last tokens and the receipt.
    pub(super) fn finish(
        mut self,
        tokens: impl Iterator<Item = Token>,
        reason: FinishReason,
        plain_seconds: f64,
        shared: &Shared,
    ) {
        self.settle(plain_seconds);
        self.receipt.warning.clone_from(&shared.warning.lock());
        let receipt = std::mem::take(&mut self.receipt);
        let prompt_logprobs = std::mem::take(&mut self.prompt_logprobs);
        self.end(tokens, Ok(Box::new(Finished { reason, receipt, prompt_logprobs })));
    }

    fn settle(&mut self, plain_seconds: f64) {
        let receipt = &mut self.receipt;
        if receipt.speculative_rounds > 0 {
            receipt.tau = self.speculative_tokens as f64 / receipt.speculative_rounds as f64;
        }
        if let (Some(first), Some(last)) = (self.first_token, self.last_token) {
            let seconds = (last - first).as_secs_f64();
            let decoded = receipt.tokens - self.tokens_at_first;
            if seconds > 0.0 && decoded > 0 {
                receipt.tokens_per_s = decoded as f64 / seconds;
            }
        }
        receipt.plain_step_ms = plain_seconds * 1e3;
        receipt.speedup = receipt.tokens_per_s * plain_seconds;
    }

    /// Ends the stream.
    pub(super) fn end(self, tokens: impl Iterator<Item = Token>, end: Result<Box<Finished>>) {
        self.submission.mailbox.deliver(tokens, Some(end));
    }
}
