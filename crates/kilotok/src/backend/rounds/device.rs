//! Rounds that an executor makes by itself, kept in step with the sequences on the host.

use std::ops::Range;
use std::time::Instant;

use super::Rounds;
use crate::backend::executor::{DecodeRun, DecodedRound, Executor, Table};
use crate::backend::sequence::Untold;
use crate::backend::{Progress, Report, Work};
use crate::error::{Error, Result};

/// What such rounds need, allocated once.
#[derive(Debug)]
pub(super) struct DeviceRounds {
    /// Runs of the plan, those with drafts first.
    runs: Vec<DecodeRun>,
    /// Runs that share a pass.
    groups: Vec<Range<usize>>,
    rounds: Vec<DecodedRound>,
    /// `[vocab]`, where the device applies rules.
    words: Vec<u32>,
}

/// Entries that one call appends at most, as far as memory goes: more only costs an allocation.
const ENTRIES: usize = 1024;

impl DeviceRounds {
    /// `words`: the vocabulary's size, or 0 where rules are the host's.
    pub(super) fn new(slots: usize, words: usize) -> Self {
        Self {
            runs: Vec::with_capacity(slots),
            groups: Vec::with_capacity(slots),
            rounds: Vec::with_capacity(ENTRIES),
            words: Vec::with_capacity(words),
        }
    }
}

impl<E: Executor> Rounds<E> {
    /// Makes the plan's rounds on the device, if it can; whether it did.
    pub(super) fn decode(
        &mut self,
        plan: &[Work],
        max_rounds: u32,
        report: &mut Report,
    ) -> Result<bool> {
        let plain_runs = self.executor.max_runs(false);
        if plain_runs == 0 || plan.is_empty() || !self.gather(plan)? {
            return Ok(false);
        }
        let DeviceRounds { runs, groups, .. } = &mut self.device;
        runs.sort_unstable_by_key(|run| run.drafts == 0);
        let drafting = runs.iter().take_while(|run| run.drafts > 0).count();
        let each = self.executor.max_runs(true).max(1);
        groups.clear();
        groups.extend((0..drafting).step_by(each).map(|at| at..(at + each).min(drafting)));
        let plain = (drafting..runs.len()).step_by(plain_runs);
        groups.extend(plain.map(|at| at..(at + plain_runs).min(runs.len())));
        let started = Instant::now();
        // Groups take turns, so that no sequence gets ahead of another one by more than a round.
        let (turns, rounds_each) =
            if groups.len() == 1 { (1, max_rounds) } else { (max_rounds, 1) };
        for _ in 0..turns {
            if self.turn(rounds_each, report)? {
                break;
            }
        }
        let seconds = started.elapsed().as_secs_f64();
        let share = if drafting > 0 { self.executor.draft_share() } else { 0.0 };
        report.draft_seconds = seconds * share;
        report.verify_seconds = seconds - report.draft_seconds;
        Ok(true)
    }

    /// Whether every piece of work is a sequence that the device can decode alone.
    fn gather(&mut self, plan: &[Work]) -> Result<bool> {
        self.device.runs.clear();
        let most = self.executor.max_drafts();
        let with_rules = self.executor.applies_rules();
        for work in plan {
            let Work::Decode { slot, drafts, .. } = *work else { return Ok(false) };
            let sequence = self.sequence(slot)?;
            let Some(run) = sequence.decode_run(slot, drafts.min(most), with_rules) else {
                return Ok(false);
            };
            self.device.runs.push(run);
        }
        for i in 0..self.device.runs.len() {
            self.tell(self.device.runs[i])?;
        }
        Ok(true)
    }

    /// Brings to the device what a run's rules look up, as far as it is not there: all of it before
    /// the first round, then what the host has chosen in between.
    fn tell(&mut self, DecodeRun { slot, rules, .. }: DecodeRun) -> Result<()> {
        if !rules.biases && !rules.penalties {
            return Ok(());
        }
        let Self { executor, sequences, device, .. } = self;
        let vocab = executor.vocab();
        let Some(Some(sequence)) = sequences.get_mut(slot as usize) else { return Ok(()) };
        let words = &mut device.words;
        if let Some(biases) = sequence.untold_biases() {
            words.clear();
            words.resize(vocab, 0f32.to_bits());
            for (token, bias) in biases {
                words[*token as usize] = bias.to_bits();
            }
            executor.set_table(slot, Table::Biases, 0, words);
        }
        match sequence.untold_counts() {
            Untold::Nothing => {}
            Untold::Counts(history) => {
                words.clear();
                words.extend((0..vocab as u32).map(|token| history.word(token)));
                executor.set_table(slot, Table::Counts, 0, words);
            }
            Untold::CountsOf(history, tokens) => {
                for token in tokens {
                    executor.set_table(slot, Table::Counts, *token, &[history.word(*token)]);
                }
            }
        }
        sequence.is_told();
        executor.check()
    }

    /// Some rounds of every group; whether a sequence ended.
    fn turn(&mut self, rounds_each: u32, report: &mut Report) -> Result<bool> {
        let mut ended = false;
        let mut most_rounds = 0;
        report.rows = 0;
        for group in 0..self.device.groups.len() {
            let group = self.device.groups[group].clone();
            self.device.rounds.clear();
            let Self { executor, device, .. } = self;
            executor.decode(&device.runs[group.clone()], rounds_each, &mut device.rounds);
            executor.check()?;
            let mut rounds_of_first = 0;
            let mut rows = 0;
            for i in 0..self.device.rounds.len() {
                let round = self.device.rounds[i];
                if round.run == 0 {
                    (rounds_of_first, rows) = (rounds_of_first + 1, 0);
                }
                rows += 1 + round.drafted;
                ended |= self.apply(group.start + round.run, round, report)?;
            }
            if rounds_of_first == 0 {
                let reason = "the device made no round".to_owned();
                return Err(Error::EngineDead { reason });
            }
            most_rounds = most_rounds.max(rounds_of_first);
            report.rows += rows;
        }
        report.rounds += most_rounds;
        Ok(ended)
    }

    /// Brings one sequence to where the device has it; whether it ended.
    fn apply(&mut self, run: usize, round: DecodedRound, report: &mut Report) -> Result<bool> {
        let disagree = |what: String| Error::EngineDead {
            reason: format!("host and device do not agree on a sequence: {what}"),
        };
        let Some(&DecodeRun { slot, .. }) = self.device.runs.get(run) else {
            return Err(disagree(format!("there is no run {run}")));
        };
        let vocab = self.executor.vocab();
        let sequence = self.sequence(slot)?;
        let tokens = &round.tokens[..round.emitted.min(round.tokens.len())];
        let first_token = report.tokens.len();
        for (i, &token) in tokens.iter().enumerate() {
            if token as usize >= vocab || sequence.end().is_some() {
                return Err(disagree(format!("token {i} of the round is {token}")));
            }
            sequence.emit(token);
        }
        if sequence.end() != round.end || tokens.is_empty() {
            let (host, device) = (sequence.end(), round.end);
            return Err(disagree(format!("it ended {host:?} here and {device:?} there")));
        }
        sequence.advance(tokens.len());
        sequence.is_told();
        // As on the host, the context of a sequence that ended is not counted on.
        if round.end.is_none() {
            sequence.context_kept();
        }
        report.tokens.extend_from_slice(tokens);
        report.progress.push(Progress {
            slot,
            tokens: first_token..first_token + tokens.len(),
            proposed: round.drafted,
            speculative: round.drafted > 0,
            drafted: round.drafted,
            accepted: round.accepted,
            end: round.end,
        });
        // The next turn goes on from here.
        let position = sequence.decode_run(slot, 0, true).map(|run| (run.position, run.anchor));
        let remaining = sequence.remaining() as u32;
        let run = &mut self.device.runs[run];
        if let Some((position, anchor)) = position {
            (run.position, run.anchor) = (position, anchor);
        }
        run.remaining = remaining;
        run.drafts = run.drafts.min(remaining.saturating_sub(1));
        Ok(round.end.is_some())
    }
}
