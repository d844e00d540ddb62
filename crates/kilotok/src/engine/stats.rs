//! Counters and gauges shared between the engine thread and its callers.

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};

use parking_lot::Mutex;

use crate::backend::Limits;
use crate::error::{Error, Result};

/// Counters since start and gauges of the moment.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Stats {
    /// Requests in a slot.
    pub running: usize,
    /// Requests waiting for a slot or for pages.
    pub waiting: usize,
    /// Slots in use, of [`Limits::slots`].
    pub slots_used: usize,
    /// Pages of running requests.
    pub pages_used: usize,
    /// Pages that only the prefix cache holds, free for whoever needs them.
    pub pages_cached: usize,
    /// Pages in all.
    pub pages_total: usize,
    /// Requests that finished.
    pub finished: u64,
    /// Requests that were cancelled.
    pub cancelled: u64,
    /// Tokens generated.
    pub tokens: u64,
    /// Prompt tokens that were looked up in the prefix cache.
    pub prefix_queries: u64,
    /// Of them, tokens that were found.
    pub prefix_hits: u64,
    /// Rounds made.
    pub rounds: u64,
    /// Drafts verified.
    pub drafted: u64,
    /// Drafts accepted.
    pub accepted: u64,
    /// Rounds of single sequences that verified drafts: `tau = 1 + accepted / this`, pooled.
    pub speculative_rounds: u64,
    /// Milliseconds of a plain step of one sequence, as last measured; 0 if never.
    pub plain_step_ms: f64,
    /// Share of the memory's ceiling that the last run reached, 0 to 1; `None` where the backend
    /// does not measure it.
    pub ceiling_fraction: Option<f64>,
    /// Law 8's warning, if it was raised.
    pub warning: Option<String>,
}

/// The shared side.
#[derive(Debug)]
pub(super) struct Shared {
    dead: AtomicBool,
    reason: Mutex<String>,
    pub(super) running: AtomicUsize,
    pub(super) waiting: AtomicUsize,
    pub(super) pages_used: AtomicUsize,
    pub(super) pages_cached: AtomicUsize,
    pages_total: usize,
    pub(super) finished: AtomicU64,
    pub(super) cancelled: AtomicU64,
    pub(super) tokens: AtomicU64,
    pub(super) prefix_queries: AtomicU64,
    pub(super) prefix_hits: AtomicU64,
    pub(super) rounds: AtomicU64,
    pub(super) drafted: AtomicU64,
    pub(super) accepted: AtomicU64,
    pub(super) speculative_rounds: AtomicU64,
    pub(super) plain_step_us: AtomicU64,
    /// Bits of an `f64`, not a number while nothing was measured.
    ceiling_fraction: AtomicU64,
    pub(super) warning: Mutex<Option<String>>,
}

impl Shared {
    pub(super) fn new(limits: Limits) -> Self {
        Self {
            dead: AtomicBool::new(false),
            reason: Mutex::new(String::new()),
            running: AtomicUsize::new(0),
            waiting: AtomicUsize::new(0),
            pages_used: AtomicUsize::new(0),
            pages_cached: AtomicUsize::new(0),
            pages_total: limits.pages,
            finished: AtomicU64::new(0),
            cancelled: AtomicU64::new(0),
            tokens: AtomicU64::new(0),
            prefix_queries: AtomicU64::new(0),
            prefix_hits: AtomicU64::new(0),
            rounds: AtomicU64::new(0),
            drafted: AtomicU64::new(0),
            accepted: AtomicU64::new(0),
            speculative_rounds: AtomicU64::new(0),
            plain_step_us: AtomicU64::new(0),
            ceiling_fraction: AtomicU64::new(f64::NAN.to_bits()),
            warning: Mutex::new(None),
        }
    }

    pub(super) fn measured_ceiling(&self, fraction: Option<f64>) {
        self.ceiling_fraction.store(fraction.unwrap_or(f64::NAN).to_bits(), Ordering::Relaxed);
    }

    /// Marks the engine dead; the first reason stays.
    pub(super) fn kill(&self, reason: &str) {
        let mut held = self.reason.lock();
        if held.is_empty() {
            reason.clone_into(&mut held);
        }
        drop(held);
        self.dead.store(true, Ordering::Release);
    }

    pub(super) fn is_dead(&self) -> bool {
        self.dead.load(Ordering::Acquire)
    }

    pub(super) fn dead(&self) -> Error {
        let reason = self.reason.lock().clone();
        Error::EngineDead { reason: if reason.is_empty() { "closed".into() } else { reason } }
    }

    pub(super) fn alive(&self) -> Result<()> {
        if self.is_dead() { Err(self.dead()) } else { Ok(()) }
    }

    pub(super) fn stats(&self) -> Stats {
        let count = |a: &AtomicU64| a.load(Ordering::Relaxed);
        let gauge = |a: &AtomicUsize| a.load(Ordering::Relaxed);
        Stats {
            running: gauge(&self.running),
            waiting: gauge(&self.waiting),
            slots_used: gauge(&self.running),
            pages_used: gauge(&self.pages_used),
            pages_cached: gauge(&self.pages_cached),
            pages_total: self.pages_total,
            finished: count(&self.finished),
            cancelled: count(&self.cancelled),
            tokens: count(&self.tokens),
            prefix_queries: count(&self.prefix_queries),
            prefix_hits: count(&self.prefix_hits),
            rounds: count(&self.rounds),
            drafted: count(&self.drafted),
            accepted: count(&self.accepted),
            speculative_rounds: count(&self.speculative_rounds),
            plain_step_ms: count(&self.plain_step_us) as f64 / 1e3,
            ceiling_fraction: Some(f64::from_bits(count(&self.ceiling_fraction)))
                .filter(|fraction| fraction.is_finite()),
            warning: self.warning.lock().clone(),
        }
    }
}
