//! A simulated model with known logits and a drafter of known quality, for tests of everything
//! above the backend: schedulers, servers, acceptance accounting.

mod device;

use std::ops::Range;
use std::time::{Duration, Instant};

use super::executor::{DecodeRun, DecodedRound, DraftBlock, Executor, Row};
use super::{Limits, Page, Slot, Snapshot};
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

/// The simulated executor: logits are a hash of all tokens so far, so every path through the
/// engine must produce the same text.
///
/// It keeps a cache as a model would. Every position holds a digest of the tokens up to it, in
/// pages and, of a window, in a ring per slot. Where the two disagree logits become wrong, and the
/// drafter never hits where its context does not hold what the window does.
#[derive(Debug)]
pub struct SimExecutor {
    config: SimConfig,
    logits: Vec<f32>,
    draft_logits: Vec<f32>,
    has_own_rounds: bool,
    rows: Vec<Row>,
    tables: Vec<Vec<Page>>,
    /// `[pages, page_size]`, what each position holds.
    paged: Vec<u64>,
    window: Rings,
    context: Rings,
}

/// Positions that a row sees before its own.
const HISTORY: usize = 20;

/// The newest positions of every slot, and saved ones.
#[derive(Debug)]
struct Rings {
    /// `[slots, len]`, position `p` at `p % len`.
    held: Vec<u64>,
    len: usize,
    /// `[snapshots, HISTORY]`
    saved: Vec<u64>,
}

impl Rings {
    fn new(limits: Limits) -> Self {
        let len = HISTORY + limits.max_rows + limits.page_size;
        let saved = vec![0; limits.snapshots * HISTORY];
        Self { held: vec![0; limits.slots * len], len, saved }
    }

    fn at(&mut self, slot: Slot, position: usize) -> &mut u64 {
        &mut self.held[slot as usize * self.len + position % self.len]
    }

    fn clear(&mut self, slot: Slot) {
        self.held[slot as usize * self.len..][..self.len].fill(0);
    }

    fn save(&mut self, slot: Slot, end: usize, snapshot: Snapshot) {
        for back in 1..=HISTORY.min(end) {
            self.saved[snapshot as usize * HISTORY + back - 1] = *self.at(slot, end - back);
        }
    }

    fn restore(&mut self, slot: Slot, end: usize, snapshot: Snapshot) {
        for back in 1..=HISTORY.min(end) {
            *self.at(slot, end - back) = self.saved[snapshot as usize * HISTORY + back - 1];
        }
    }
}

fn hash(a: u64, b: u64, c: u64) -> u64 {
    let mut x = a.wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ b.rotate_left(21) ^ c.rotate_left(42);
    for _ in 0..2 {
        x ^= x >> 32;
        x = x.wrapping_mul(0xD6E8_FEB8_6659_FD93);
    }
    x ^ (x >> 32)
}

/// The digest of a token and those before it; never 0, which stands for nothing.
fn digest(before: u64, token: u32) -> u64 {
    hash(before, u64::from(token), 7) | 1
}

fn fill(logits: &mut [f32], digest: u64) {
    for (v, logit) in logits.iter_mut().enumerate() {
        *logit = (hash(digest, 0, v as u64) >> 40) as f32 / 2e6;
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
        let limits = config.limits;
        let per_slot = limits.max_positions.div_ceil(limits.page_size);
        Self {
            logits: vec![0.0; limits.max_rows * config.vocab],
            draft_logits: vec![0.0; config.vocab],
            has_own_rounds: false,
            rows: Vec::with_capacity(limits.max_rows),
            tables: (0..limits.slots).map(|_| Vec::with_capacity(per_slot)).collect(),
            paged: vec![0; limits.pages * limits.page_size],
            window: Rings::new(limits),
            context: Rings::new(limits),
            config,
        }
    }

    /// The same model on a device that makes rounds by itself.
    #[must_use]
    pub fn with_own_rounds(mut self) -> Self {
        self.has_own_rounds = true;
        self
    }

    /// The digest of all tokens before a position.
    fn before(&mut self, slot: Slot, position: usize) -> u64 {
        if position == 0 { 0 } else { *self.paged(slot, position - 1) }
    }

    /// Where the pages hold a position.
    fn paged(&mut self, slot: Slot, position: usize) -> &mut u64 {
        let size = self.config.limits.page_size;
        let page = self.tables[slot as usize][position / size];
        &mut self.paged[page as usize * size + position % size]
    }

    /// Writes a position; what its row sees, on which the logits depend.
    fn write(&mut self, slot: Slot, position: usize, token: u32) -> u64 {
        let is_whole = self.is_whole(slot, position);
        let digest = digest(self.before(slot, position), token);
        *self.paged(slot, position) = digest;
        *self.window.at(slot, position) = digest;
        if is_whole { digest } else { !digest }
    }

    fn keep_context(&mut self, slot: Slot, position: usize) {
        *self.context.at(slot, position) = *self.window.at(slot, position);
    }

    /// Whether pages and window hold the same of the positions before `end`, all of them written.
    fn is_whole(&mut self, slot: Slot, end: usize) -> bool {
        (end.saturating_sub(HISTORY)..end).all(|position| {
            let held = *self.paged(slot, position);
            held != 0 && *self.window.at(slot, position) == held
        })
    }

    /// Whether the drafter's context holds what the window does.
    fn has_context(&mut self, slot: Slot, end: usize) -> bool {
        (end.saturating_sub(HISTORY)..end)
            .all(|position| *self.context.at(slot, position) == *self.window.at(slot, position))
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

    fn set_pages(&mut self, slot: Slot, pages: &[Page]) {
        let table = &mut self.tables[slot as usize];
        table.clear();
        table.extend_from_slice(pages);
        self.window.clear(slot);
        self.context.clear(slot);
    }

    fn save_state(&mut self, slot: Slot, positions: usize, snapshot: Snapshot) {
        self.window.save(slot, positions, snapshot);
        self.context.save(slot, positions, snapshot);
    }

    fn restore_state(&mut self, slot: Slot, positions: usize, snapshot: Snapshot) {
        self.window.restore(slot, positions, snapshot);
        self.context.restore(slot, positions, snapshot);
    }

    fn verify(&mut self, rows: &[Row]) {
        self.rows.clear();
        self.rows.extend_from_slice(rows);
        let vocab = self.config.vocab;
        for (i, row) in rows.iter().enumerate() {
            let seen = self.write(row.slot, row.position as usize, row.token);
            if row.needs_logits {
                fill(&mut self.logits[i * vocab..][..vocab], seen);
            }
        }
        wait(self.config.verify_time);
    }

    fn logits(&self, row: usize) -> &[f32] {
        &self.logits[row * self.config.vocab..][..self.config.vocab]
    }

    fn commit(&mut self, rows: Range<usize>) {
        assert!(rows.end <= self.rows.len(), "only verified rows can be committed");
        for i in rows {
            let Row { slot, position, .. } = self.rows[i];
            self.keep_context(slot, position as usize);
        }
    }

    fn draft(&mut self, blocks: &[DraftBlock], out: &mut Vec<u32>) {
        for block in blocks {
            let has_context = self.has_context(block.slot, block.start as usize);
            let hit_percent = if has_context { self.config.hit_percent } else { 0 };
            let mut digest = digest(self.before(block.slot, block.start as usize), block.anchor);
            for position in block.start..block.start + block.drafts {
                fill(&mut self.draft_logits, digest);
                let token = argmax(&self.draft_logits);
                digest = self::digest(digest, token);
                let hit = hash(u64::from(token), u64::from(position), 99) % 100;
                let miss = u32::from(hit >= hit_percent);
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
