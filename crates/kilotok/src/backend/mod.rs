//! Where a program runs. The engine plans rounds; a backend runs them.

pub mod cpu;
mod executor;
pub mod gpu;
mod rounds;
mod sequence;
pub mod sim;

pub use executor::{
    DecodeRun, DecodedRound, DraftBlock, Executor, MAX_EMITTED, MAX_STOPS, Row, Rules, Table,
};
pub use gpu::trace::Trace;
pub use rounds::Rounds;

use std::sync::Arc;

use cpu::ring_len;

use crate::error::{Error, Result};
use crate::model::Model;
use crate::sample::{Constraint, SamplingParams};

/// Index of a sequence's place on a backend, below [`Limits::slots`].
pub type Slot = u32;

/// Index of a page of the full-attention cache, below [`Limits::pages`].
pub type Page = u32;

/// Index of a saved state, below [`Limits::snapshots`].
pub type Snapshot = u32;

/// What a backend was built to hold; fixed at start-up (law 4).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Rows of one round.
    pub max_rows: usize,
    /// Sequences at once.
    pub slots: usize,
    /// Pages of the full-attention cache.
    pub pages: usize,
    /// Positions of one page.
    pub page_size: usize,
    /// Positions of one sequence, prompt and output together.
    pub max_positions: usize,
    /// Saved states, for prefixes that later sequences share; 0 where none can be saved.
    pub snapshots: usize,
}

/// A prefix that is in the cache already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cached {
    /// Its positions: whole pages, fewer than the prompt has.
    pub positions: usize,
    /// What pages do not hold of it.
    pub snapshot: Snapshot,
}

/// A sequence as it enters a backend.
#[derive(Debug)]
pub struct SequenceInit {
    /// Prompt tokens, not empty.
    pub prompt: Vec<u32>,
    /// Validated parameters.
    pub params: SamplingParams,
    /// Key of the noise, resolved from `params.seed`.
    pub seed: u64,
    /// Tokens that end the sequence (model's and request's), unless ignored.
    pub stop_tokens: Vec<u32>,
    /// Pages for every position the sequence can reach, in order of position.
    pub pages: Vec<Page>,
    /// Whether drafter context is kept; without it the sequence never drafts.
    pub speculative: bool,
    /// Where prefill begins, if not at position 0: the first of `pages` hold this prefix, with
    /// drafter context if `speculative`.
    pub cached: Option<Cached>,
    /// What it may say, from the first generated position on.
    pub constraint: Option<Box<dyn Constraint>>,
}

/// What one sequence does in a run.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Work {
    /// Feeds prompt positions `start .. start + len`; the chunk that reaches the prompt's end
    /// also chooses the first token. A run with a prefill in it makes one round.
    Prefill {
        /// The sequence.
        slot: Slot,
        /// First position.
        start: usize,
        /// Number of positions, at least 1.
        len: usize,
    },
    /// Decodes; each round verifies the anchor and `drafts` drafted tokens.
    Decode {
        /// The sequence.
        slot: Slot,
        /// Drafted tokens per round, below the drafter's block size; 0 is a plain step.
        drafts: usize,
        /// Drafts with less than this chance to be accepted, and what follows them, are not
        /// verified, where the backend knows chances ([`Backend::weighs_drafts`]); from 0 to 1.
        min_chance: f64,
    },
}

/// Why a sequence ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// A stop token was chosen; it is the last token reported.
    StopToken,
    /// `max_tokens` were generated.
    Length,
    /// Its constraint failed; [`Report::failures`] says why.
    Failed,
}

/// Log-probabilities at one generated position, before filters and temperature.
#[derive(Clone, Debug, PartialEq)]
pub struct TokenLogprobs {
    /// Of the chosen token.
    pub chosen: f32,
    /// Most likely tokens, best first.
    pub top: Vec<(u32, f32)>,
}

/// What one sequence did in one round.
#[derive(Clone, Debug, PartialEq)]
pub struct Progress {
    /// The sequence.
    pub slot: Slot,
    /// Emitted tokens: a range of [`Report::tokens`].
    pub tokens: std::ops::Range<usize>,
    /// Tokens that were drafted for the round and thought worth verifying. Those that the
    /// constraint rules out, and what follows them, are not verified.
    pub proposed: usize,
    /// Whether a block was drafted, however much of it was verified.
    pub speculative: bool,
    /// Drafted tokens that were verified.
    pub drafted: usize,
    /// Of them, accepted and emitted.
    pub accepted: usize,
    /// Set where the sequence ended.
    pub end: Option<End>,
}

/// The outcome of a run; reused from run to run so that nothing is allocated.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// Emitted tokens of all sequences and rounds, in order of emission.
    pub tokens: Vec<u32>,
    /// Log-probabilities beside `tokens` for sequences that asked; `(index in tokens, value)`.
    pub logprobs: Vec<(usize, TokenLogprobs)>,
    /// Log-probabilities of prompt tokens, in order of position, for sequences that asked.
    pub prompt_logprobs: Vec<(Slot, TokenLogprobs)>,
    /// One entry per round and sequence that emitted or ended.
    pub progress: Vec<Progress>,
    /// Why sequences [`End::Failed`].
    pub failures: Vec<(Slot, Error)>,
    /// Rounds made.
    pub rounds: u32,
    /// Rows of the target forward of the last round.
    pub rows: usize,
    /// Seconds in verify, choose and accept, all rounds together.
    pub verify_seconds: f64,
    /// Seconds in commit and draft, all rounds together.
    pub draft_seconds: f64,
}

impl Report {
    /// Empties the report, keeping its memory.
    pub fn clear(&mut self) {
        self.tokens.clear();
        self.logprobs.clear();
        self.prompt_logprobs.clear();
        self.progress.clear();
        self.failures.clear();
        self.rounds = 0;
        self.rows = 0;
        self.verify_seconds = 0.0;
        self.draft_seconds = 0.0;
    }
}

/// What a backend answers that cannot change its weights.
pub(crate) fn no_update() -> Error {
    Error::Unsupported {
        what: "update_weights",
        reason: "this backend lays its weights out once, at start-up; make a new engine".into(),
    }
}

/// What a backend answers that keeps no trace.
pub(crate) fn no_trace() -> Error {
    Error::Unsupported {
        what: "trace",
        reason: "this backend keeps none; a GPU in persistent mode does (device=\"cuda\", mode=\"persistent\")"
            .into(),
    }
}

/// Runs rounds of one model.
pub trait Backend: Send {
    /// What it was built to hold.
    fn limits(&self) -> Limits;

    /// Puts a sequence into a free slot.
    ///
    /// # Errors
    /// Where the slot is taken or the pages do not cover the sequence.
    fn open(&mut self, slot: Slot, sequence: SequenceInit) -> Result<()>;

    /// Frees a slot; its pages may be handed out again at once.
    fn close(&mut self, slot: Slot);

    /// Positions of an open sequence that are in its cache for good, drafter context included
    /// where it is kept; 0 for a slot that is not open.
    fn kept(&self, slot: Slot) -> usize {
        let _ = slot;
        0
    }

    /// Saves what pages do not hold of the first `positions` positions of an open sequence: whole
    /// pages, at most [`Backend::kept`], and not more than a page behind what was kept before
    /// the last round.
    fn save_state(&mut self, slot: Slot, positions: usize, snapshot: Snapshot) {
        let _ = (slot, positions, snapshot);
    }

    /// Drafts per block at most, where it says so.
    fn max_drafts(&self) -> usize {
        usize::MAX
    }

    /// Whether it knows how likely each draft is to be accepted, before it is verified.
    fn weighs_drafts(&self) -> bool {
        false
    }

    /// Whether several rounds of one run cost less than as many runs: rounds are made on a device.
    fn has_own_rounds(&self) -> bool {
        false
    }

    /// Puts other weights in place of the model's, between two runs.
    ///
    /// With `keep_caches` the caches stay as the old weights made them. Without, they are
    /// forgotten: all tokens of every open sequence, emitted ones included, are then to be fed
    /// again by [`Work::Prefill`] from position 0 on, and the chunk that reaches their end chooses
    /// the next token.
    ///
    /// # Errors
    /// [`Error::Unsupported`] where the backend cannot do it, or a tensor of the wrong shape; the
    /// old weights and the caches are then still in place.
    fn update(&mut self, model: Arc<Model>, keep_caches: bool) -> Result<()> {
        let _ = (model, keep_caches);
        Err(no_update())
    }

    /// From the next run on, keeps what it did in its newest `ops` ops, at some cost in speed.
    ///
    /// # Errors
    /// [`Error::Unsupported`] where the backend keeps no trace or keeps one already,
    /// [`Error::InvalidRequest`] for too many ops, [`Error::OutOfMemory`], [`Error::EngineDead`].
    fn start_trace(&mut self, ops: u32) -> Result<()> {
        let _ = ops;
        Err(no_trace())
    }

    /// What was kept since [`Backend::start_trace`]; nothing is kept from now on.
    ///
    /// # Errors
    /// [`Error::Unsupported`] where no trace runs, [`Error::EngineDead`].
    fn end_trace(&mut self) -> Result<Trace> {
        Err(no_trace())
    }

    /// What the last run reached of the memory's ceiling: bytes its rounds had to read over what
    /// the memory can deliver in the same time, 0 to 1. `None` where that is not measured.
    fn ceiling_fraction(&self) -> Option<f64> {
        None
    }

    /// Runs up to `max_rounds` rounds of the plan and fills `report` (cleared first). Returns
    /// early when a sequence ends or the host asks. A slot stands in a plan at most once; all
    /// rows of a round together are at most [`Limits::max_rows`].
    ///
    /// # Errors
    /// After an error the backend's state is undefined and the engine closes it.
    fn run(&mut self, plan: &[Work], max_rounds: u32, report: &mut Report) -> Result<()>;
}
