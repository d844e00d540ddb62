//! A simulated model with known logits and a drafter of known quality, for tests of everything
//! above the backend: schedulers, servers, acceptance accounting.

mod device;

use std::ops::Range;
use std::time::{Duration, Instant};

use super::executor::{DecodeRun, DecodedRound, DraftBlock, Executor, Row};
use super::{Limits, Page, Slot};
use crate::sample::argmax;

/// What is simulated.
#[derive(Clone, Debug)]
pub struct SimConfig {
    /// Limits to report.
    pub limits: Limits,
    /// Width of a logits row.
    pub vocab: usize,
    /// Drafts per block at most; 0 for no drafter.
    pub max_drafts: usize,
    /// Drafts in 100 that equal the greedy choice.
    pub hit_percent: u64,
    /// Time of a target pass.
    pub verify_time: Duration,
    /// Time of a drafting pass.
    pub draft_time: Duration,
}

/// The simulated executor: logits are a hash of (token, position), so every path through the
/// engine must produce the same text.
#[derive(Debug)]
pub struct SimExecutor {
    config: SimConfig,
    logits: Vec<f32>,
    draft_logits: Vec<f32>,
    rows: usize,
    has_own_rounds: bool,
}

fn hash(a: u64, b: u64, c: u64) -> u64 {
    let mut x = a.wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ b.rotate_left(21) ^ c.rotate_left(42);
    for _ in 0..2 {
        x ^= x >> 32;
        x = x.wrapping_mul(0xD6E8_FEB8_6659_FD93);
    }
    x ^ (x >> 32)
}

fn fill(logits: &mut [f32], token: u32, position: u32) {
    for (v, logit) in logits.iter_mut().enumerate() {
        *logit = (hash(u64::from(token), u64::from(position), v as u64) >> 40) as f32 / 2e6;
    }
}

fn wait(duration: Duration) {
    let until = Instant::now() + duration;
    while Instant::now() < until {
        std::hint::spin_loop();
    }
}

impl SimExecutor {
    /// A simulated model.
    pub fn new(config: SimConfig) -> Self {
        Self {
            logits: vec![0.0; config.limits.max_rows * config.vocab],
            draft_logits: vec![0.0; config.vocab],
            rows: 0,
            has_own_rounds: false,
            config,
        }
    }

    /// The same model on a device that makes rounds by itself.
    #[must_use]
    pub fn with_own_rounds(mut self) -> Self {
        self.has_own_rounds = true;
        self
    }
}

impl Executor for SimExecutor {
    fn limits(&self) -> Limits {
        self.config.limits
    }

    fn vocab(&self) -> usize {
        self.config.vocab
    }

    fn max_drafts(&self) -> usize {
        self.config.max_drafts
    }

    fn set_pages(&mut self, _slot: Slot, _pages: &[Page]) {}

    fn verify(&mut self, rows: &[Row]) {
        for (row, logits) in rows.iter().zip(self.logits.chunks_exact_mut(self.config.vocab)) {
            if row.needs_logits {
                fill(logits, row.token, row.position);
            }
        }
        self.rows = rows.len();
        wait(self.config.verify_time);
    }

    fn logits(&self, row: usize) -> &[f32] {
        &self.logits[row * self.config.vocab..][..self.config.vocab]
    }

    fn commit(&mut self, rows: Range<usize>) {
        assert!(rows.end <= self.rows, "only verified rows can be committed");
    }

    fn draft(&mut self, blocks: &[DraftBlock], out: &mut Vec<u32>) {
        for block in blocks {
            let mut token = block.anchor;
            for position in block.start..block.start + block.drafts {
                fill(&mut self.draft_logits, token, position);
                token = argmax(&self.draft_logits);
                let hit = hash(u64::from(token), u64::from(position), 99) % 100;
                let miss = u32::from(hit >= self.config.hit_percent);
                out.push((token + miss) % self.config.vocab as u32);
            }
        }
        wait(self.config.draft_time);
    }

    fn max_runs(&self, with_drafts: bool) -> usize {
        match (self.has_own_rounds, with_drafts) {
            (false, _) => 0,
            (true, true) => 1,
            (true, false) => device::MOST_RUNS,
        }
    }

    fn draft_share(&self) -> f64 {
        0.2
    }

    fn decode(&mut self, runs: &[DecodeRun], max_rounds: u32, out: &mut Vec<DecodedRound>) {
        self.decode_rounds(runs, max_rounds, out);
    }
}
