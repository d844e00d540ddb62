//! The round loop over an executor: draft, verify, choose, accept, commit.

mod device;

use std::sync::Arc;
use std::time::Instant;

use super::executor::{DraftBlock, Executor, Row};
use super::sequence::Sequence;
use device::DeviceRounds;

use super::{Backend, Limits, Progress, Report, SequenceInit, Slot, Snapshot, Trace, Work};
use crate::dflash::{Confidence, KINDS, accept};
use crate::error::{Error, Result};
use crate::model::Model;
use crate::sample::{Chooser, TokenMask};

/// A [`Backend`] made of any [`Executor`].
///
/// Drafting comes first in a round here (the architecture names it last): a block is then
/// drafted only when its length is known and its sequence still lives.
pub struct Rounds<E> {
    executor: E,
    sequences: Vec<Option<Sequence>>,
    chooser: Chooser,
    mask: TokenMask,
    rows: Vec<Row>,
    /// Blocks of this round, and how many of each block's drafts are verified.
    blocks: Vec<DraftBlock>,
    wanted: Vec<usize>,
    proposed: Vec<usize>,
    drafted: Vec<u32>,
    /// How sure each of `drafted` is; infinite where a constraint leaves no choice.
    margins: Vec<f32>,
    min_chances: Vec<f64>,
    /// By [`Sequence::kind`].
    confidence: [Confidence; KINDS],
    /// Per work item of the current round: first row, number of drafts, offset into `drafted`.
    spans: Vec<Span>,
    device: DeviceRounds,
}

#[derive(Clone, Copy, Debug)]
struct Span {
    first_row: usize,
    rows: usize,
    drafts: (usize, usize),
    /// Drafts before the constraint cut them.
    proposed: usize,
    /// Whether there was a block.
    speculative: bool,
}

impl<E: Executor> Rounds<E> {
    /// Wraps an executor; allocates everything rounds need.
    pub fn new(executor: E) -> Self {
        let limits = executor.limits();
        Self {
            sequences: (0..limits.slots).map(|_| None).collect(),
            chooser: Chooser::new(executor.vocab()),
            mask: TokenMask::new(executor.vocab()),
            rows: Vec::with_capacity(limits.max_rows),
            blocks: Vec::with_capacity(limits.slots),
            wanted: Vec::with_capacity(limits.slots),
            proposed: Vec::with_capacity(limits.slots),
            drafted: Vec::with_capacity(limits.slots * executor.max_drafts()),
            margins: Vec::with_capacity(limits.slots * executor.max_drafts()),
            min_chances: Vec::with_capacity(limits.slots),
            confidence: Default::default(),
            spans: Vec::with_capacity(limits.slots),
            device: DeviceRounds::new(
                limits.slots,
                if executor.applies_rules() { executor.vocab() } else { 0 },
            ),
            executor,
        }
    }

    /// The executor, for inspection.
    pub fn executor(&self) -> &E {
        &self.executor
    }

    fn sequence(&mut self, slot: Slot) -> Result<&mut Sequence> {
        self.sequences
            .get_mut(slot as usize)
            .and_then(Option::as_mut)
            .ok_or_else(|| Error::invalid("plan", format!("slot {slot} is not open")))
    }

    /// Drafts for every decoding sequence that wants drafts in this round.
    ///
    /// A shorter block verifies the first drafts of a whole one: rows of a block see each other,
    /// and a drafter that was trained on whole blocks guesses far worse from fewer masked rows.
    fn draft(&mut self, plan: &[Work]) -> Result<()> {
        self.blocks.clear();
        self.wanted.clear();
        self.proposed.clear();
        self.drafted.clear();
        self.min_chances.clear();
        let most = self.executor.max_drafts();
        for work in plan {
            if let Work::Decode { slot, drafts, min_chance } = *work {
                let sequence = self.sequence(slot)?;
                let drafts = drafts.min(most).min(sequence.remaining().saturating_sub(1));
                if drafts > 0 && sequence.keeps_context() {
                    let block = sequence.block(slot, most);
                    self.blocks.push(block);
                    self.wanted.push(drafts);
                    self.min_chances.push(min_chance);
                }
            }
        }
        if !self.blocks.is_empty() {
            self.executor.draft(&self.blocks, &mut self.drafted);
            self.executor.check()?;
        }
        self.margins.clear();
        self.margins.extend_from_slice(self.executor.draft_margins());
        // An executor that says nothing is believed everything.
        self.margins.resize(self.drafted.len(), f32::INFINITY);
        self.proposed.clone_from(&self.wanted);
        self.cut();
        Ok(())
    }

    /// Cuts off what constraints rule out, since it could not be accepted, and then what is not
    /// worth a row.
    fn cut(&mut self) {
        let mut first = 0;
        for (i, block) in self.blocks.iter().enumerate() {
            if let Some(Some(sequence)) = self.sequences.get_mut(block.slot as usize) {
                let drafts = first..first + self.wanted[i];
                let margins = &mut self.margins[drafts.clone()];
                let possible = sequence.fit(&mut self.drafted[drafts], margins);
                let confidence = &self.confidence[sequence.kind()];
                self.wanted[i] =
                    confidence.worth_verifying(&margins[..possible], self.min_chances[i]);
                // What was not worth a row was not rejected either.
                if self.wanted[i] < possible {
                    self.proposed[i] = self.wanted[i];
                }
            }
            first += block.drafts as usize;
        }
    }

    /// Lays out the rows of this round.
    fn lay_out(&mut self, plan: &[Work]) -> Result<()> {
        self.rows.clear();
        self.spans.clear();
        let (mut block, mut taken) = (0, 0);
        for work in plan {
            let first_row = self.rows.len();
            let mut drafts = (taken, taken);
            let (mut proposed, mut speculative) = (0, false);
            match *work {
                Work::Prefill { slot, start, len } => {
                    let sequence =
                        self.sequences.get(slot as usize).and_then(Option::as_ref).ok_or_else(
                            || Error::invalid("plan", format!("slot {slot} is closed")),
                        )?;
                    sequence.prefill_rows(slot, start, len, &mut self.rows)?;
                }
                Work::Decode { slot, .. } => {
                    if self.blocks.get(block).is_some_and(|b| b.slot == slot) {
                        drafts.1 = taken + self.wanted[block];
                        (proposed, speculative) = (self.proposed[block], true);
                        taken += self.blocks[block].drafts as usize;
                        block += 1;
                    }
                    let anchor = self.sequence(slot)?.anchor_row(slot);
                    self.rows.push(anchor);
                    for (i, &token) in self.drafted[drafts.0..drafts.1].iter().enumerate() {
                        let position = anchor.position + 1 + i as u32;
                        self.rows.push(Row { position, token, ..anchor });
                    }
                }
            }
            let rows = self.rows.len() - first_row;
            self.spans.push(Span { first_row, rows, drafts, proposed, speculative });
        }
        let most = self.executor.limits().max_rows;
        if self.rows.len() > most {
            let reason = format!("{} rows where a round has at most {most}", self.rows.len());
            return Err(Error::invalid("plan", reason));
        }
        Ok(())
    }

    /// Log-probabilities of the prompt tokens behind each row of a chunk, where asked for.
    fn score_prompt(&mut self, slot: Slot, start: usize, span: Span, report: &mut Report) {
        let Self { executor, sequences, chooser, .. } = self;
        let Some(Some(sequence)) = sequences.get(slot as usize) else { return };
        for row in 0..span.rows {
            let Some((token, top)) = sequence.scored_prompt_token(start + row + 1) else { return };
            let value = chooser.logprobs(executor.logits(span.first_row + row), token, top);
            report.prompt_logprobs.push((slot, value));
        }
    }

    /// Chooses and accepts for one work item; returns the rows to commit.
    fn settle(&mut self, work: Work, span: Span, report: &mut Report) -> Result<usize> {
        let (slot, chooses) = match work {
            Work::Decode { slot, .. } => (slot, true),
            Work::Prefill { slot, start, len } => {
                self.score_prompt(slot, start, span, report);
                (slot, self.sequence(slot)?.prefilled(start + len))
            }
        };
        if !chooses {
            return Ok(span.rows);
        }
        // A prefill chunk chooses from its last row only; a block from its anchor on.
        let base = match work {
            Work::Prefill { .. } => span.first_row + span.rows - 1,
            Work::Decode { .. } => span.first_row,
        };
        let Self { executor, sequences, chooser, mask, rows, drafted, .. } = self;
        let (margins, confidence) = (&self.margins, &mut self.confidence);
        let Some(sequence) = sequences[slot as usize].as_mut() else {
            return Err(Error::invalid("plan", format!("slot {slot} is not open")));
        };
        let drafts = &drafted[span.drafts.0..span.drafts.1];
        let first_token = report.tokens.len();
        let sequence_cell = std::cell::RefCell::new(sequence);
        let walk = accept(
            drafts,
            |j| {
                let position = u64::from(rows[base + j].position) + 1;
                let mut sequence = sequence_cell.borrow_mut();
                sequence.choose(chooser, mask, executor.logits(base + j), position)
            },
            |token| sequence_cell.borrow_mut().emit(token),
        );
        let sequence = sequence_cell.into_inner();
        report.failures.extend(sequence.take_failure().map(|error| (slot, error)));
        report.tokens.extend_from_slice(sequence.newest(walk.emitted));
        if let Some(top) = sequence.logprobs() {
            for j in 0..walk.emitted {
                let at = first_token + j;
                let value = chooser.logprobs(executor.logits(base + j), report.tokens[at], top);
                report.logprobs.push((at, value));
            }
        }
        let margins = &margins[span.drafts.0..span.drafts.1];
        confidence[sequence.kind()].observe(margins, walk.accepted);
        report.progress.push(Progress {
            slot,
            tokens: first_token..first_token + walk.emitted,
            proposed: span.proposed,
            speculative: span.speculative,
            drafted: drafts.len(),
            accepted: walk.accepted,
            end: sequence.end(),
        });
        match work {
            Work::Prefill { .. } => Ok(span.rows),
            Work::Decode { .. } => {
                sequence.advance(walk.emitted);
                Ok(walk.emitted)
            }
        }
    }

    fn round(&mut self, plan: &[Work], report: &mut Report) -> Result<bool> {
        let started = Instant::now();
        self.draft(plan)?;
        self.lay_out(plan)?;
        let drafted = Instant::now();
        self.executor.verify(&self.rows);
        self.executor.check()?;
        report.rows = self.rows.len();
        let mut ended = false;
        let mut commit_seconds = 0.0;
        for (i, &work) in plan.iter().enumerate() {
            let span = self.spans[i];
            let keep = self.settle(work, span, report)?;
            let (Work::Prefill { slot, .. } | Work::Decode { slot, .. }) = work;
            let sequence = self.sequence(slot)?;
            let over = sequence.end().is_some();
            ended |= over;
            if !over && sequence.keeps_context() {
                let committing = Instant::now();
                let rows = span.first_row..span.first_row + keep;
                // A sequence that decodes without drafts may go on like that for long.
                if matches!(work, Work::Decode { drafts: 0, .. }) {
                    self.executor.commit_later(rows);
                } else {
                    self.executor.commit(rows);
                }
                self.sequence(slot)?.context_kept();
                commit_seconds += committing.elapsed().as_secs_f64();
            }
        }
        self.executor.check()?;
        report.rounds += 1;
        report.verify_seconds += drafted.elapsed().as_secs_f64() - commit_seconds;
        report.draft_seconds += (drafted - started).as_secs_f64() + commit_seconds;
        Ok(ended)
    }
}

impl<E: Executor> Backend for Rounds<E> {
    fn limits(&self) -> Limits {
        self.executor.limits()
    }

    fn max_drafts(&self) -> usize {
        self.executor.max_drafts()
    }

    fn weighs_drafts(&self) -> bool {
        self.executor.weighs_drafts()
    }

    fn ceiling_fraction(&self) -> Option<f64> {
        self.executor.ceiling_fraction()
    }

    fn has_own_rounds(&self) -> bool {
        self.executor.max_runs(false) > 0
    }

    fn open(&mut self, slot: Slot, init: SequenceInit) -> Result<()> {
        let limits = self.executor.limits();
        let place = self.sequences.get_mut(slot as usize).ok_or_else(|| {
            Error::invalid("slot", format!("{slot} is not below {}", limits.slots))
        })?;
        if place.is_some() {
            return Err(Error::invalid("slot", format!("{slot} is taken")));
        }
        let sequence = Sequence::new(init, self.executor.vocab(), self.executor.max_drafts())?;
        let covered = sequence.pages().len() * limits.page_size;
        if sequence.last_position() > covered.min(limits.max_positions) {
            return Err(Error::OutOfMemory {
                what: format!("the cache of the sequence in slot {slot}"),
                needed: sequence.last_position() as u64,
                available: covered.min(limits.max_positions) as u64,
                unit: "positions",
            });
        }
        let cached = sequence.cached();
        if cached.is_some_and(|c| c.snapshot as usize >= limits.snapshots) {
            let reason = format!("{cached:?} where there are {} snapshots", limits.snapshots);
            return Err(Error::invalid("cached", reason));
        }
        self.executor.set_pages(slot, sequence.pages());
        if let Some(cached) = cached {
            self.executor.restore_state(slot, cached.positions, cached.snapshot);
        }
        *place = Some(sequence);
        Ok(())
    }

    fn close(&mut self, slot: Slot) {
        if let Some(place) = self.sequences.get_mut(slot as usize)
            && place.take().is_some()
        {
            self.executor.settle(slot);
        }
    }

    fn update(&mut self, model: Arc<Model>, keep_caches: bool) -> Result<()> {
        self.executor.set_model(model)?;
        if !keep_caches {
            for (slot, sequence) in self.sequences.iter_mut().enumerate() {
                if let Some(sequence) = sequence {
                    sequence.restart();
                    self.executor.set_pages(slot as Slot, sequence.pages());
                }
            }
        }
        Ok(())
    }

    fn start_trace(&mut self, ops: u32) -> Result<()> {
        self.executor.start_trace(ops)
    }

    fn end_trace(&mut self) -> Result<Trace> {
        self.executor.end_trace()
    }

    fn kept(&self, slot: Slot) -> usize {
        self.sequences.get(slot as usize).and_then(Option::as_ref).map_or(0, Sequence::kept)
    }

    fn save_state(&mut self, slot: Slot, positions: usize, snapshot: Snapshot) {
        debug_assert!(positions <= self.kept(slot), "a point that is not in the cache for good");
        self.executor.save_state(slot, positions, snapshot);
    }

    fn run(&mut self, plan: &[Work], max_rounds: u32, report: &mut Report) -> Result<()> {
        report.clear();
        if self.decode(plan, max_rounds, report)? {
            return Ok(());
        }
        let prefill = plan.iter().any(|w| matches!(w, Work::Prefill { .. }));
        let rounds = if prefill { max_rounds.min(1) } else { max_rounds };
        for _ in 0..rounds {
            if self.round(plan, report)? {
                break;
            }
        }
        Ok(())
    }
}
