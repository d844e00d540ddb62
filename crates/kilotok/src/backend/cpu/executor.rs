//! Interprets the three lines of a program over preallocated buffers.

mod context;
mod draft;
mod target;

use std::ops::Range;
use std::sync::Arc;

use super::super::{DraftBlock, Executor, Limits, Page, Row, Slot, Snapshot};
use super::cache::{Cache, CacheShape};
use super::deferred::Deferred;
use super::pages::PageTables;
use super::saved::{self, Saved};
use super::scratch::{Extents, Scratch};
use super::simd::Simd;
use super::workers::{Compute, Workers};
use super::{attention_swa, check};
use crate::error::{Error, Result};
use crate::model::Model;
use crate::program::Program;
use crate::spec::{HeadMap, ModelSpec};
use context::ContextRows;

/// How a [`CpuExecutor`] is built.
#[derive(Clone, Copy, Debug)]
pub struct CpuConfig {
    /// Threads; `None`: one per core this process may use.
    pub threads: Option<usize>,
    /// SIMD path; `None`: the fastest this machine has.
    pub simd: Option<Simd>,
    /// What to hold.
    pub limits: Limits,
}

/// Runs a program's ops on the CPU. Knows rows, slots and pages, not requests.
pub struct CpuExecutor {
    model: Arc<Model>,
    program: Program,
    limits: Limits,
    simd: Simd,
    compute: Compute,
    scratch: Scratch,
    head_maps: Vec<HeadMap>,
    caches: Vec<Cache>,
    draft_caches: Vec<Cache>,
    draft_offsets: Vec<usize>,
    /// Snapshots of `caches`, then of `draft_caches`.
    saved: Vec<Saved>,
    pages: PageTables,
    deferred: Deferred,
    /// Rows of the last `verify`.
    rows: Vec<Row>,
}

impl std::fmt::Debug for CpuExecutor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CpuExecutor")
            .field("simd", &self.simd)
            .field("threads", &self.threads())
            .field("limits", &self.limits)
            .finish_non_exhaustive()
    }
}

/// Caches of the target's layers and of the drafter's.
fn cache_shapes(spec: &ModelSpec, limits: Limits) -> (Vec<CacheShape>, Vec<CacheShape>) {
    // A point to be saved lies up to a page behind the newest round's first row.
    let rows = limits.max_rows + if limits.snapshots > 0 { limits.page_size } else { 0 };
    let shape = |(kv_heads, qk_dim, v_dim), window: Option<usize>, rows| {
        // No sequence is longer, so no more can be seen.
        let window = window.map(|w| w.min(limits.max_positions));
        let (blocks, positions) = match window {
            None => (limits.pages, limits.page_size),
            Some(w) => (limits.slots, attention_swa::ring_len(w, rows)),
        };
        CacheShape { kv_heads, qk_dim, v_dim, blocks, positions, window }
    };
    let target = spec.layers.iter().map(|layer| {
        let a = &layer.attention;
        shape((a.kv_heads, a.qk_dim, a.v_dim), a.window, rows)
    });
    let draft = spec.drafter.iter().flat_map(|d| {
        let heads = (d.kv_heads, d.head_dim, d.head_dim);
        d.windows.iter().map(move |window| shape(heads, *window, rows + d.block_size))
    });
    (target.collect(), draft.collect())
}

/// Bytes the operating system says can be had, where it says so.
fn available_memory() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find(|line| line.starts_with("MemAvailable:"))?;
    line.split_whitespace().nth(1)?.parse::<u64>().ok().map(|kib| kib * 1024)
}

/// Refuses what cannot fit instead of letting an allocation abort the process.
fn check_memory(needed: Option<usize>) -> Result<()> {
    let available = available_memory().unwrap_or(u64::MAX);
    let needed = needed.map_or(u64::MAX, |bytes| bytes as u64);
    if needed > available {
        let what = "caches and buffers of the CPU backend".to_owned();
        return Err(Error::OutOfMemory { what, needed, available, unit: "bytes" });
    }
    Ok(())
}

impl CpuExecutor {
    /// Checks the model, allocates every buffer and starts the threads.
    ///
    /// # Errors
    /// A tensor that does not have the shape its spec promises, a limit of zero, a SIMD path the
    /// machine lacks, or more memory than there is.
    pub fn new(model: Arc<Model>, config: CpuConfig) -> Result<Self> {
        let CpuConfig { threads, simd, limits } = config;
        check::limits(limits)?;
        check::model(&model)?;
        let simd = simd.unwrap_or_else(Simd::detect);
        let kernels = simd.kernels()?;
        let spec = &model.spec;
        let extents = Extents::of(spec, limits);
        let (target, draft) = cache_shapes(spec, limits);
        let needed = target.iter().chain(&draft).map(CacheShape::num_bytes);
        let snapshots = target.iter().chain(&draft).map(|shape| {
            saved::num_bytes(shape).and_then(|bytes| bytes.checked_mul(limits.snapshots))
        });
        let tap_width = spec.tap_width();
        let deferred = Deferred::bytes_for(limits.slots, limits.max_rows, tap_width);
        let buffers = [extents.num_bytes(), PageTables::bytes_for(limits), deferred];
        let needed = needed.chain(snapshots).chain(buffers);
        check_memory(needed.into_iter().try_fold(0usize, |a, b| a.checked_add(b?)))?;
        let threads = threads
            .unwrap_or_else(|| std::thread::available_parallelism().map_or(1, usize::from))
            .max(1);
        let workers = Workers::new(threads)
            .map_err(|e| Error::invalid("threads", format!("cannot start {threads}: {e}")))?;
        let draft_heads = spec.drafter.as_ref().map_or((0, 0), |d| (d.heads, d.head_dim));
        Ok(Self {
            program: Program::lower(spec),
            limits,
            simd,
            scratch: Scratch::new(spec, extents, threads, kernels),
            compute: Compute { kernels, workers },
            head_maps: spec.layers.iter().map(|l| l.attention.head_map()).collect(),
            saved: target
                .iter()
                .chain(&draft)
                .map(|shape| Saved::new(shape, limits.snapshots))
                .collect(),
            caches: target.into_iter().map(Cache::new).collect(),
            draft_caches: draft.into_iter().map(Cache::new).collect(),
            draft_offsets: (0..draft_heads.0).map(|h| h * draft_heads.1).collect(),
            pages: PageTables::new(limits),
            deferred: Deferred::new(limits.slots, limits.max_rows, tap_width),
            rows: Vec::with_capacity(limits.max_rows),
            model,
        })
    }

    /// Bytes of one snapshot of a sequence of this model ([`Limits::snapshots`]); 0 where pages
    /// hold everything.
    pub fn snapshot_bytes(spec: &ModelSpec, limits: Limits) -> usize {
        let (target, draft) = cache_shapes(spec, limits);
        target
            .iter()
            .chain(&draft)
            .map(|shape| saved::num_bytes(shape).unwrap_or(usize::MAX))
            .fold(0, usize::saturating_add)
    }

    /// The SIMD path in use.
    pub fn simd(&self) -> Simd {
        self.simd
    }

    /// Threads, the caller's included.
    pub fn threads(&self) -> usize {
        self.compute.workers.threads()
    }

    /// Bytes held, by purpose.
    pub fn memory(&self) -> Vec<(&'static str, usize)> {
        vec![
            ("kv cache", self.caches.iter().map(Cache::num_bytes).sum()),
            ("drafter cache", self.draft_caches.iter().map(Cache::num_bytes).sum()),
            ("prefix snapshots", self.saved.iter().map(Saved::num_bytes).sum()),
            ("page tables", self.pages.num_bytes()),
            ("buffers", self.scratch.num_bytes() + self.deferred.num_bytes()),
        ]
    }

    /// Taps of row `row` of the last `verify`, `[taps, hidden]`.
    pub fn taps(&self, row: usize) -> &[f32] {
        let width = self.model.spec.tap_width();
        &self.scratch.taps[row * width..][..width]
    }

    /// Logits of the `index`-th drafted token of the last `draft` (of its last piece, where the
    /// blocks did not fit at once), `[vocab]`.
    pub fn draft_logits(&self, index: usize) -> &[f32] {
        let vocab = self.model.spec.vocab;
        &self.scratch.draft_logits[index * vocab..][..vocab]
    }
}

impl Executor for CpuExecutor {
    /// What it was built to hold.
    fn limits(&self) -> Limits {
        self.limits
    }

    /// Width of a logits row.
    fn vocab(&self) -> usize {
        self.model.spec.vocab
    }

    /// Drafts per block at most; 0 without a drafter.
    fn max_drafts(&self) -> usize {
        self.model.spec.drafter.as_ref().map_or(0, |d| d.block_size - 1)
    }

    /// Gives a slot to a new sequence: replaces its page table, clears its rings.
    fn set_pages(&mut self, slot: Slot, pages: &[Page]) {
        self.deferred.clear(slot);
        self.pages.set(slot, pages);
        self.caches.iter_mut().chain(&mut self.draft_caches).for_each(|c| c.clear(slot));
    }

    /// Weights are read where they lie, so other ones only have to be pointed at.
    fn set_model(&mut self, model: Arc<Model>) -> Result<()> {
        check::model(&model)?;
        if model.spec != self.model.spec {
            return Err(Error::model_format("spec", "the new weights are of another model"));
        }
        // What was seen under the old weights becomes context under them.
        (0..self.limits.slots).for_each(|slot| self.settle(slot as Slot));
        self.model = model;
        Ok(())
    }

    /// Saves the rings of a slot, of the target's layers and of the drafter's.
    fn save_state(&mut self, slot: Slot, positions: usize, snapshot: Snapshot) {
        self.settle(slot);
        let caches = self.caches.iter().chain(&self.draft_caches);
        for (cache, saved) in caches.zip(&mut self.saved) {
            saved.save(cache, slot, positions, snapshot);
        }
    }

    /// Fills the rings of a slot.
    fn restore_state(&mut self, slot: Slot, positions: usize, snapshot: Snapshot) {
        let caches = self.caches.iter_mut().chain(&mut self.draft_caches);
        for (cache, saved) in caches.zip(&self.saved) {
            saved.restore(cache, slot, positions, snapshot);
        }
    }

    /// The target forward up to the logits. Rows of one slot are consecutive and ascend in
    /// position; every position before the first must have been fed before.
    ///
    /// # Panics
    /// Where there are more rows than [`Limits::max_rows`], or a slot, token or position is out
    /// of range: the caller plans within the limits.
    fn verify(&mut self, rows: &[Row]) {
        assert!(rows.len() <= self.limits.max_rows, "more rows than the limit");
        self.rows.clear();
        self.rows.extend_from_slice(rows);
        if rows.is_empty() {
            return;
        }
        for table in &mut self.scratch.ropes {
            table.fill(rows.iter().map(|r| r.position));
        }
        for i in 0..self.program.target.len() {
            self.target_op(self.program.target[i]);
        }
    }

    /// Logits of row `row` of the last `verify`, `[vocab]`.
    ///
    /// # Panics
    /// Where the row did not ask for logits.
    fn logits(&self, row: usize) -> &[f32] {
        let place = self.scratch.logit_rows.binary_search(&(row as u32));
        let place = place.unwrap_or_else(|_| panic!("row {row} did not ask for logits"));
        let vocab = self.model.spec.vocab;
        &self.scratch.logits[place * vocab..][..vocab]
    }

    /// Makes rows of the last `verify` drafter context. Does nothing without a drafter.
    ///
    /// # Panics
    /// Where the range reaches beyond those rows.
    fn commit(&mut self, rows: Range<usize>) {
        if let Some(row) = self.rows[rows.clone()].first() {
            self.settle(row.slot);
        }
        self.context(ContextRows::Fresh(rows));
    }

    fn commit_later(&mut self, rows: Range<usize>) {
        if self.model.drafter.is_none() {
            return;
        }
        let width = self.model.spec.tap_width();
        for i in rows {
            let row = self.rows[i];
            if self.deferred.is_full(row.slot) {
                self.settle(row.slot);
            }
            self.deferred.push(row, &self.scratch.taps[i * width..][..width]);
        }
    }

    fn settle(&mut self, slot: Slot) {
        self.context(ContextRows::Deferred(slot));
        self.deferred.clear(slot);
    }

    /// Drafts `drafts` tokens for every block and appends them to `out`, block after block.
    /// Context is what was committed at positions before `start`.
    ///
    /// # Panics
    /// Where a block is longer than the drafter's block size.
    fn draft(&mut self, blocks: &[DraftBlock], out: &mut Vec<u32>) {
        let Some(spec) = &self.model.spec.drafter else { return };
        let block_size = spec.block_size;
        self.scratch.draft_margins.clear();
        for block in blocks {
            self.settle(block.slot);
        }
        let mut first = 0;
        while first < blocks.len() {
            // As many blocks as the buffers hold; pieces do not change a block's bits (law 1).
            let (mut last, mut rows) = (first, 0);
            while let Some(block) = blocks.get(last) {
                let len = block.drafts as usize + 1;
                assert!(len <= block_size, "a block is longer than the drafter's");
                if rows + len > self.scratch.identity.len() {
                    break;
                }
                rows += len;
                last += 1;
            }
            self.draft_piece(&blocks[first..last], out);
            first = last;
        }
    }

    fn weighs_drafts(&self) -> bool {
        self.model.drafter.is_some()
    }

    fn draft_margins(&self) -> &[f32] {
        &self.scratch.draft_margins
    }
}
