//! The engine thread: admits requests, plans rounds, runs them, delivers tokens.

use std::collections::VecDeque;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use crossbeam_channel::Receiver;

use super::active::{Active, origin};
use super::plan::{Want, plan_round};
use super::prefix::PrefixCache;
use super::stats::Shared;
use super::stream::Mailbox;
use super::trace::Tracing;
use super::update::Update;
use super::{EngineConfig, FinishReason, ModelInfo, Request, Token};
use crate::backend::{Backend, End, Limits, Progress, Report, Slot, Work};
use crate::dflash::{CostModel, KINDS, RoundMean, Watch, kind};
use crate::error::{Error, Result};
use crate::model::Model;
use crate::sample::Constraint;

/// What callers send.
pub(super) enum Command {
    /// A checked request.
    Submit(Box<Submission>),
    /// Other weights.
    Update(Box<Update>),
    /// A trace begins or ends.
    Trace(Tracing),
    /// Look around: the engine was closed.
    Wake,
}

/// A request on its way to a slot.
pub(super) struct Submission {
    pub(super) request: Request,
    /// Taken when the request gets a slot.
    pub(super) constraint: Option<Box<dyn Constraint>>,
    pub(super) mailbox: Arc<Mailbox>,
    pub(super) submitted: std::time::Instant,
    pub(super) seed: u64,
}

impl Submission {
    pub(super) fn new(
        request: Request,
        constraint: Option<Box<dyn Constraint>>,
        mailbox: Arc<Mailbox>,
        seed: u64,
    ) -> Self {
        Self { request, constraint, mailbox, submitted: std::time::Instant::now(), seed }
    }

    pub(super) fn is_constrained(&self) -> bool {
        self.request.grammar.is_some()
    }

    /// Kind of its drafts.
    pub(super) fn kind(&self) -> usize {
        kind(&self.request.params, self.is_constrained())
    }
}

impl Drop for Submission {
    /// Nothing is lost: a request dropped on any path ends with an error, not with silence.
    fn drop(&mut self) {
        let error = Error::EngineDead { reason: "it stopped before the request finished".into() };
        self.mailbox.deliver(std::iter::empty(), Some(Err(error)));
    }
}

pub(super) struct Worker {
    backend: Box<dyn Backend>,
    info: ModelInfo,
    config: EngineConfig,
    shared: Arc<Shared>,
    limits: Limits,
    prefixes: PrefixCache,
    waiting: VecDeque<Box<Submission>>,
    slots: Vec<Option<Active>>,
    /// Slots in order of arrival.
    order: Vec<Slot>,
    cost: CostModel,
    /// By kind of sequence.
    yields: [RoundMean; KINDS],
    watch: Watch,
    plan: Vec<Work>,
    report: Report,
    /// Of the newest run, for each of its rounds.
    round_seconds: f64,
}

impl Worker {
    pub(super) fn new(
        backend: Box<dyn Backend>,
        info: ModelInfo,
        config: EngineConfig,
        shared: Arc<Shared>,
    ) -> Self {
        let limits = backend.limits();
        Self {
            prefixes: PrefixCache::new(limits),
            slots: (0..limits.slots).map(|_| None).collect(),
            order: Vec::with_capacity(limits.slots),
            cost: CostModel::new(limits.max_rows),
            yields: [RoundMean::guess(info.max_drafts); KINDS],
            watch: Watch::default(),
            plan: Vec::with_capacity(limits.slots),
            report: Report::default(),
            round_seconds: 0.0,
            waiting: VecDeque::new(),
            backend,
            info,
            config,
            shared,
            limits,
        }
    }

    /// Runs until closed or broken; whatever happens, every stream ends.
    pub(super) fn run(mut self, commands: &Receiver<Command>) {
        let outcome = std::panic::catch_unwind(AssertUnwindSafe(|| self.serve(commands)));
        match outcome {
            Ok(Ok(())) => {}
            Ok(Err(error)) => self.shared.kill(&error.to_string()),
            Err(panic) => {
                let text = panic
                    .downcast_ref::<String>()
                    .map(String::as_str)
                    .or_else(|| panic.downcast_ref::<&str>().copied())
                    .unwrap_or("panic");
                self.shared.kill(&format!("the engine thread failed: {text}"));
            }
        }
        let dead = self.shared.dead();
        for active in self.slots.drain(..).flatten() {
            active.fail(dead.clone());
        }
        for submission in self.waiting.drain(..) {
            submission.mailbox.deliver(std::iter::empty(), Some(Err(dead.clone())));
        }
        while let Ok(Command::Submit(submission)) = commands.try_recv() {
            submission.mailbox.deliver(std::iter::empty(), Some(Err(dead.clone())));
        }
        self.shared.running.store(0, Ordering::Relaxed);
        self.shared.waiting.store(0, Ordering::Relaxed);
        self.shared.pages_used.store(0, Ordering::Relaxed);
        self.shared.pages_cached.store(0, Ordering::Relaxed);
    }

    fn serve(&mut self, commands: &Receiver<Command>) -> Result<()> {
        loop {
            if self.order.is_empty() && self.waiting.is_empty() {
                match commands.recv() {
                    Ok(command) => self.take(command),
                    Err(_) => return Ok(()),
                }
            }
            while let Ok(command) = commands.try_recv() {
                self.take(command);
            }
            if self.shared.is_dead() {
                return Ok(());
            }
            self.drop_cancelled();
            self.finish_stopped();
            self.admit();
            if !self.order.is_empty() {
                self.round()?;
            }
        }
    }

    fn take(&mut self, command: Command) {
        match command {
            Command::Submit(submission) => {
                let priority = submission.request.priority;
                let mut before = self.waiting.iter();
                let behind = before.rposition(|other| other.request.priority <= priority);
                self.waiting.insert(behind.map_or(0, |at| at + 1), submission);
            }
            Command::Update(update) => {
                let outcome = self.update(update.model, update.keep_kv);
                // An error means that the caller no longer waits.
                let _ = update.outcome.send(outcome);
            }
            // An error means that the caller no longer waits.
            Command::Trace(Tracing::Start(ops, outcome)) => {
                let _ = outcome.send(self.backend.start_trace(ops));
            }
            Command::Trace(Tracing::End(outcome)) => {
                let _ = outcome.send(self.backend.end_trace());
            }
            Command::Wake => {}
        }
    }

    /// Puts other weights in place, between two rounds.
    fn update(&mut self, model: Arc<Model>, keep_kv: bool) -> Result<()> {
        self.backend.update(model, keep_kv)?;
        self.prefixes.forget();
        if !keep_kv {
            self.slots.iter_mut().flatten().for_each(Active::restart);
        }
        Ok(())
    }

    fn drop_cancelled(&mut self) {
        for i in (0..self.order.len()).rev() {
            let slot = self.order[i];
            let cancelled = self.slots[slot as usize].as_ref().is_some_and(Active::is_cancelled);
            if cancelled {
                self.shared.cancelled.fetch_add(1, Ordering::Relaxed);
                if let Some(active) = self.release(slot) {
                    active.fail(Error::Cancelled);
                }
            }
        }
        let shared = &self.shared;
        self.waiting.retain(|submission| {
            let cancelled = submission.mailbox.is_cancelled();
            if cancelled {
                shared.waiting.fetch_sub(1, Ordering::Relaxed);
                shared.cancelled.fetch_add(1, Ordering::Relaxed);
                submission.mailbox.deliver(std::iter::empty(), Some(Err(Error::Cancelled)));
            }
            !cancelled
        });
    }

    /// Ends requests whose owner has seen enough, with their receipts.
    fn finish_stopped(&mut self) {
        for i in (0..self.order.len()).rev() {
            let slot = self.order[i];
            let stopped = self.slots[slot as usize].as_ref().is_some_and(Active::is_stopped);
            if stopped && let Some(active) = self.release(slot) {
                self.shared.finished.fetch_add(1, Ordering::Relaxed);
                let plain = self.cost.plain();
                active.finish(std::iter::empty(), FinishReason::Stop, plain, &self.shared);
            }
        }
    }

    /// Takes requests in, in order, as long as a slot and enough pages are free.
    fn admit(&mut self) {
        while let Some(next) = self.waiting.front() {
            let Some(slot) = self.slots.iter().position(Option::is_none) else { break };
            let request = &next.request;
            let positions = request.prompt.len() + request.params.max_tokens as usize - 1;
            let speculation = request.speculation.unwrap_or(self.config.speculation);
            let origin = origin(request, speculation, &self.info);
            // Scores of prompt tokens come from feeding all of them.
            let share = request.params.prompt_logprobs.is_none();
            let lease = self.prefixes.admit(&request.prompt, positions, origin, share);
            let Some(lease) = lease else { break };
            let Some(submission) = self.waiting.pop_front() else { break };
            if share {
                let hits = lease.cached().map_or(0, |cached| cached.positions) as u64;
                let queries = submission.request.prompt.len() as u64;
                self.shared.prefix_queries.fetch_add(queries, Ordering::Relaxed);
                self.shared.prefix_hits.fetch_add(hits, Ordering::Relaxed);
            }
            let mut active = Active::new(submission, lease, speculation, &self.info, &self.yields);
            let slot = slot as Slot;
            let opened = self.backend.open(slot, active.sequence(&self.info));
            self.shared.waiting.fetch_sub(1, Ordering::Relaxed);
            self.shared.running.fetch_add(1, Ordering::Relaxed);
            self.slots[slot as usize] = Some(active);
            self.order.push(slot);
            if let Err(error) = opened {
                // The request was checked at the door, so this is the request's own trouble only
                // where the backend says so; it never takes the engine down.
                if let Some(active) = self.release(slot) {
                    active.fail(error);
                }
            }
        }
        self.count_pages();
    }

    /// Frees a slot and its pages; what they hold stays for others to begin with.
    fn release(&mut self, slot: Slot) -> Option<Active> {
        let mut active = self.slots[slot as usize].take()?;
        let point = self.prefixes.last_point(self.backend.kept(slot));
        if point > 0 {
            self.publish(slot, &mut active, point);
        }
        self.backend.close(slot);
        self.order.retain(|s| *s != slot);
        self.prefixes.release(active.lease_and_tokens().0);
        self.shared.running.fetch_sub(1, Ordering::Relaxed);
        self.count_pages();
        Some(active)
    }

    /// Lets others begin behind the first `positions` tokens of a sequence.
    fn publish(&mut self, slot: Slot, active: &mut Active, positions: usize) {
        let (lease, tokens) = active.lease_and_tokens();
        if let Some(snapshot) = self.prefixes.publish(lease, tokens, positions) {
            self.backend.save_state(slot, positions, snapshot);
        }
    }

    /// Publishes what a prompt that was fed from `start` on has reached.
    fn publish_prompt(&mut self, slot: Slot, start: usize) {
        let Some(mut active) = self.slots[slot as usize].take() else { return };
        let (kept, len) = (self.backend.kept(slot), active.prompt_len());
        let points = self.prefixes.points(active.lease_and_tokens().0, len, start, kept);
        for point in points {
            self.publish(slot, &mut active, point);
        }
        self.slots[slot as usize] = Some(active);
    }

    fn count_pages(&self) {
        self.shared.pages_used.store(self.prefixes.used(), Ordering::Relaxed);
        self.shared.pages_cached.store(self.prefixes.cached(), Ordering::Relaxed);
    }

    fn round(&mut self) -> Result<()> {
        let started = Instant::now();
        let sequences = self.order.len();
        let (cost, max_drafts) = (&self.cost, self.info.max_drafts);
        let weighs = self.backend.weighs_drafts();
        for slot in &self.order {
            if let Some(active) = &mut self.slots[*slot as usize] {
                active.decide(cost, sequences, max_drafts, weighs);
            }
        }
        let slots = &self.slots;
        let wants = self
            .order
            .iter()
            .filter_map(|slot| slots[*slot as usize].as_ref().map(|active| (*slot, active.want())));
        plan_round(wants, self.limits.max_rows, self.config.prefill_chunk, &mut self.plan);
        let rounds = self.rounds_of_a_run();
        self.backend.run(&self.plan, rounds, &mut self.report)?;
        self.count();
        self.deliver();
        for i in 0..self.plan.len() {
            if let Work::Prefill { slot, start, .. } = self.plan[i] {
                self.publish_prompt(slot, start);
            }
        }
        self.learn(started.elapsed().as_secs_f64());
        Ok(())
    }

    /// Usually one: the host plans anew each time, and tokens reach callers at once. Where rounds
    /// are short and made on a device, as many as a caller does not notice.
    fn rounds_of_a_run(&self) -> u32 {
        const UNNOTICED_SECONDS: f64 = 1.5e-3;
        const MOST: f64 = 32.0;
        if !self.backend.has_own_rounds() || !self.waiting.is_empty() || self.round_seconds <= 0.0 {
            return 1;
        }
        (UNNOTICED_SECONDS / self.round_seconds).clamp(1.0, MOST) as u32
    }

    /// Feeds the cost model with a run that took `seconds` in all: what a round costs includes
    /// planning and delivery, which short rounds pay more often.
    fn learn(&mut self, seconds: f64) {
        let report = &self.report;
        let seconds = seconds / f64::from(report.rounds.max(1));
        self.round_seconds = seconds;
        if self.plan.iter().all(|w| matches!(w, Work::Decode { .. })) {
            let drafted = report.progress.iter().any(|p| p.speculative);
            let each = report.draft_seconds / f64::from(report.rounds.max(1));
            let draft = drafted.then_some(each);
            self.cost.observe(report.rows, seconds - draft.unwrap_or(0.0), draft);
            if drafted {
                self.cost.observe_yield(
                    report.rows,
                    report.tokens.len() / report.rounds.max(1) as usize,
                );
            }
        }
    }

    /// Feeds the counters.
    fn count(&mut self) {
        let report = &self.report;
        let drafted: usize = report.progress.iter().map(|p| p.drafted).sum();
        let shared = &self.shared;
        shared.rounds.fetch_add(u64::from(report.rounds), Ordering::Relaxed);
        shared.tokens.fetch_add(report.tokens.len() as u64, Ordering::Relaxed);
        shared.drafted.fetch_add(drafted as u64, Ordering::Relaxed);
        let plain = self.cost.plain();
        shared.plain_step_us.store((plain * 1e6) as u64, Ordering::Relaxed);
        shared.measured_ceiling(self.backend.ceiling_fraction());
        for progress in report.progress.iter().filter(|p| p.speculative) {
            shared.accepted.fetch_add(progress.accepted as u64, Ordering::Relaxed);
            shared.speculative_rounds.fetch_add(1, Ordering::Relaxed);
            let Some(active) = &self.slots[progress.slot as usize] else { continue };
            let tokens = progress.tokens.len();
            self.yields[active.kind()].observe(progress.drafted, tokens, RoundMean::LONG);
            // A drafter knows nothing of constraints, and need not guess well under one.
            if active.is_constrained() {
                continue;
            }
            if let Some(warning) = self.watch.round(progress.accepted) {
                tracing::warn!("{warning}");
                *shared.warning.lock() = Some(warning);
            }
        }
    }

    /// Advances prompts and sends tokens.
    fn deliver(&mut self) {
        for work in &self.plan {
            if let Work::Prefill { slot, len, .. } = *work
                && let Some(active) = &mut self.slots[slot as usize]
            {
                active.prefilled(len);
            }
        }
        for (slot, logprobs) in self.report.prompt_logprobs.drain(..) {
            if let Some(active) = &mut self.slots[slot as usize] {
                active.score_prompt(logprobs);
            }
        }
        let plain = self.cost.plain();
        for i in 0..self.report.progress.len() {
            let progress: Progress = self.report.progress[i].clone();
            let slot = progress.slot;
            if let Some(active) = &mut self.slots[slot as usize] {
                active.record(&progress, &self.report.tokens[progress.tokens.clone()]);
            }
            if progress.end == Some(End::Failed) {
                let failures = &mut self.report.failures;
                let at = failures.iter().position(|(failed, _)| *failed == slot);
                let error = at.map_or(Error::Cancelled, |at| failures.swap_remove(at).1);
                let Some(active) = self.release(slot) else { continue };
                active.end(self.tokens(&progress), Err(error));
            } else if let Some(end) = progress.end {
                let reason = match end {
                    End::StopToken => FinishReason::Stop,
                    End::Length | End::Failed => FinishReason::Length,
                };
                self.shared.finished.fetch_add(1, Ordering::Relaxed);
                let Some(active) = self.release(slot) else { continue };
                active.finish(self.tokens(&progress), reason, plain, &self.shared);
            } else if let Some(active) = &self.slots[slot as usize] {
                active.deliver(self.tokens(&progress));
            }
        }
    }

    /// The tokens of one progress entry, with their log-probabilities.
    fn tokens(&self, progress: &Progress) -> impl Iterator<Item = Token> {
        let report = &self.report;
        progress.tokens.clone().map(|at| Token {
            id: report.tokens[at],
            logprobs: report
                .logprobs
                .iter()
                .find(|(index, _)| *index == at)
                .map(|(_, value)| Box::new(value.clone())),
        })
    }
}

impl Active {
    /// Ends the stream with an error.
    pub(super) fn fail(self, error: Error) {
        self.end(std::iter::empty(), Err(error));
    }

    /// What the sequence asks of the next round.
    pub(super) fn want(&self) -> Want {
        match self.prompt_left() {
            Some((start, left)) => Want::Prefill { start, left },
            None => self.decode(),
        }
    }
}
