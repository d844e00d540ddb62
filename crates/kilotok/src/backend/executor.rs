//! What a program interpreter offers to the round loop.

use std::ops::Range;
use std::sync::Arc;

use super::{End, Limits, Page, Slot, Snapshot, Trace, no_trace, no_update};
use crate::error::Result;
use crate::model::Model;

/// One row of a target forward.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Row {
    /// The sequence.
    pub slot: Slot,
    /// Absolute position.
    pub position: u32,
    /// Token at that position.
    pub token: u32,
    /// Whether the row's logits will be read.
    pub needs_logits: bool,
}

/// One drafter block: the anchor at `start` and `drafts` masked rows behind it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DraftBlock {
    /// The sequence.
    pub slot: Slot,
    /// Position of the anchor: the number of positions in the target's cache.
    pub start: u32,
    /// Newest committed token, not yet in the cache.
    pub anchor: u32,
    /// Tokens to draft, for positions `start + 1 ..= start + drafts`.
    pub drafts: u32,
}

/// A sequence that decodes on a device, round after round, without the host.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct DecodeRun {
    /// The sequence.
    pub slot: Slot,
    /// Position of the anchor.
    pub position: u32,
    /// Newest token, not yet in the cache.
    pub anchor: u32,
    /// Drafts verified per round at most.
    pub drafts: u32,
    /// Tokens that may still be emitted, at least 1.
    pub remaining: u32,
    /// Key of the noise.
    pub seed: u64,
    /// 0 is greedy.
    pub temperature: f32,
    /// What else decides.
    pub rules: Rules,
    /// Tokens that end the sequence: the first `num_stops` of `stops`.
    pub stops: [u32; MAX_STOPS],
    /// How many there are.
    pub num_stops: u32,
    /// Whether committed rows become drafter context.
    pub keeps_context: bool,
}

/// What a [`DecodeRun`] does to logits beyond dividing them by its temperature, as
/// [`Chooser::choose`](crate::sample::Chooser::choose) does it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rules {
    /// Whether the slot's [`Table::Biases`] are added.
    pub biases: bool,
    /// Whether tokens are penalised by the slot's [`Table::Counts`].
    pub penalties: bool,
    /// 0 keeps all; so it is for a greedy run.
    pub top_k: u32,
    /// 1 keeps all; so it is for a greedy run.
    pub top_p: f32,
    /// 0 keeps all; so it is for a greedy run.
    pub min_p: f32,
    /// Of what was seen; 1: none.
    pub repetition: f32,
    /// Of what was generated; 0: none.
    pub presence: f32,
    /// Of what was generated, each time; 0: none.
    pub frequency: f32,
}

impl Rules {
    /// No rules.
    pub const NONE: Self = Self {
        biases: false,
        penalties: false,
        top_k: 0,
        top_p: 1.0,
        min_p: 0.0,
        repetition: 1.0,
        presence: 0.0,
        frequency: 0.0,
    };

    /// Whether some tokens are left out.
    pub fn filters(&self) -> bool {
        self.top_k > 0 || self.top_p < 1.0 || self.min_p > 0.0
    }
}

/// What rules look up by token, a word for each token of the vocabulary.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Table {
    /// [`History::word`](crate::sample::History::word); a device counts by itself what it emits.
    Counts,
    /// Bits of 32-bit floats.
    Biases,
}

/// Stop tokens of a [`DecodeRun`] at most.
pub const MAX_STOPS: usize = 14;

/// Tokens that one run emits in one round at most.
pub const MAX_EMITTED: usize = 8;

/// What one run did in one round.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DecodedRound {
    /// Index of the run.
    pub run: usize,
    /// Drafts that were verified.
    pub drafted: usize,
    /// Of them, accepted and emitted.
    pub accepted: usize,
    /// Tokens emitted, the first ones of `tokens`.
    pub emitted: usize,
    /// The tokens.
    pub tokens: [u32; MAX_EMITTED],
    /// Set where the run ended.
    pub end: Option<End>,
}

/// Runs the three parts of a [`crate::Program`] over rows of open slots.
///
/// Rows of one slot are consecutive and ascending; what an executor computes for a row depends
/// on that row's tokens and cache alone (law 1).
pub trait Executor: Send {
    /// What it was built to hold.
    fn limits(&self) -> Limits;

    /// Width of a logits row.
    fn vocab(&self) -> usize;

    /// Drafts per block at most; 0 without a drafter.
    fn max_drafts(&self) -> usize;

    /// As [`Backend::ceiling_fraction`](super::Backend::ceiling_fraction), of the last `verify`.
    fn ceiling_fraction(&self) -> Option<f64> {
        None
    }

    /// Gives a slot its pages and forgets whatever the slot held before.
    fn set_pages(&mut self, slot: Slot, pages: &[Page]);

    /// Computes with other weights of the same specification from the next call on. Caches stay.
    ///
    /// # Errors
    /// [`crate::Error::Unsupported`] where the executor cannot, or a tensor of the wrong shape;
    /// the old weights are then still in place.
    fn set_model(&mut self, model: Arc<Model>) -> Result<()> {
        drop(model);
        Err(no_update())
    }

    /// Saves what pages do not hold of a slot (rings of windowed layers, of target and drafter)
    /// as a sequence of `positions` positions needs it. They are in the cache for good, and at
    /// most [`Limits::max_rows`] and a page of positions behind the newest row.
    fn save_state(&mut self, slot: Slot, positions: usize, snapshot: Snapshot) {
        let _ = (slot, positions, snapshot);
    }

    /// Makes a slot, after [`Executor::set_pages`], hold what was saved at `positions`.
    fn restore_state(&mut self, slot: Slot, positions: usize, snapshot: Snapshot) {
        let _ = (slot, positions, snapshot);
    }

    /// Target forward: writes keys and values at each row's position.
    fn verify(&mut self, rows: &[Row]);

    /// Logits of row `row` of the last [`Executor::verify`], `[vocab]`; the row needed them.
    fn logits(&self, row: usize) -> &[f32];

    /// Makes rows of the last [`Executor::verify`] drafter context at their positions.
    fn commit(&mut self, rows: Range<usize>);

    /// Like [`Executor::commit`], but maybe only when something reads that context.
    fn commit_later(&mut self, rows: Range<usize>) {
        self.commit(rows);
    }

    /// Completes what was put off of a slot, whose pages others may come to share.
    fn settle(&mut self, slot: Slot) {
        let _ = slot;
    }

    /// Drafts blocks; appends the drafted tokens of each, in order, to `out`.
    fn draft(&mut self, blocks: &[DraftBlock], out: &mut Vec<u32>);

    /// From the next command on, keeps what it did in its newest `ops` ops.
    ///
    /// # Errors
    /// As of [`Backend::start_trace`](super::Backend::start_trace).
    fn start_trace(&mut self, ops: u32) -> Result<()> {
        let _ = ops;
        Err(no_trace())
    }

    /// What was kept since [`Executor::start_trace`].
    ///
    /// # Errors
    /// As of [`Backend::end_trace`](super::Backend::end_trace).
    fn end_trace(&mut self) -> Result<Trace> {
        Err(no_trace())
    }

    /// Whether [`Executor::draft_margins`] says anything.
    fn weighs_drafts(&self) -> bool {
        false
    }

    /// How far each token of the last [`Executor::draft`] was above the second choice, in logits;
    /// empty where the executor does not say.
    fn draft_margins(&self) -> &[f32] {
        &[]
    }

    /// Whether everything so far was computed; asked before results are used.
    ///
    /// # Errors
    /// What failed. From then on the executor computes nothing.
    fn check(&self) -> Result<()> {
        Ok(())
    }

    /// Runs of one [`Executor::decode`] at most; 0 where the executor makes no rounds by itself.
    fn max_runs(&self, with_drafts: bool) -> usize {
        let _ = with_drafts;
        0
    }

    /// Share of the time of a round by itself that drafting and committing take.
    fn draft_share(&self) -> f64 {
        0.0
    }

    /// Whether [`Executor::decode`] takes runs with [`Rules`].
    fn applies_rules(&self) -> bool {
        false
    }

    /// Writes words of a slot's table, from that of token `first` on.
    fn set_table(&mut self, slot: Slot, table: Table, first: u32, words: &[u32]) {
        let _ = (slot, table, first, words);
    }

    /// Makes up to `max_rounds` whole rounds, fewer where a run ends, and appends what each run did
    /// in each of them to `out`, in order. The tokens are those that the round loop would choose.
    fn decode(&mut self, runs: &[DecodeRun], max_rounds: u32, out: &mut Vec<DecodedRound>) {
        let _ = (runs, max_rounds, out);
    }
}
