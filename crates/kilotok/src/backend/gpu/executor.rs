//! Passes and rounds on a device.

mod ceiling;
mod decode;
mod fault;
mod update;

use std::ops::Range;
use std::sync::Arc;
use std::time::Instant;

use kilotok_gpu::GpuError;
use kilotok_gpu::machine::{Machine, Mode};
use kilotok_kernels::abi::program as abi;

use self::ceiling::Ceiling;
use self::fault::Fault;
use super::device::{Device, Transfer};
use super::errors::{loading, running, tracing};
use super::load;
use super::lower::{Buffers, Lowered, Rows, SavedRing, Stretch, Stretches};
use super::trace::{OpList, Trace};
use crate::backend::cpu::check;
use crate::backend::{
    DecodeRun, DecodedRound, DraftBlock, Executor, Limits, Page, Row, Slot, Snapshot, Table,
};
use crate::error::{Error, Result};
use crate::model::Model;
use crate::numeric::bf16;
use crate::weights::Progress;

/// How a [`GpuExecutor`] is built.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct GpuConfig {
    /// The driver's index of the GPU, from 0.
    pub device: usize,
    /// How ops are run.
    pub mode: Mode,
    /// What to hold.
    pub limits: Limits,
    /// Share of the GPU's free memory that may be taken, more than 0, at most 1.
    pub memory_fraction: f64,
}

/// Runs a program's ops on a GPU. Knows rows, slots and pages, not requests.
#[derive(Debug)]
pub struct GpuExecutor<D: Device = Machine> {
    machine: D,
    /// What is on the device.
    model: Arc<Model>,
    /// Blocks of the grid, and where components start.
    place: (u32, [u64; 5]),
    limits: Limits,
    stretches: Stretches,
    buffers: Buffers,
    pass_rows: usize,
    block_rows: usize,
    vocab: usize,
    /// Elements of all taps of a row.
    taps_width: usize,
    /// Share of a round's time that drafting and committing take, estimated by bytes.
    draft_share: f64,
    ceiling: Ceiling,
    /// What a trace needs to know of the ops.
    op_list: OpList,
    /// The GPU's name.
    device: String,
    memory: Vec<(&'static str, usize)>,
    /// Rows of the last `verify`.
    rows: Vec<Row>,
    /// Whether those rows are drafter context.
    is_committed: bool,
    /// `[max_rows][stride]`, page-locked.
    logits: D::Rows,
    /// Best choices of every block in the last draft.
    choices: Vec<abi::Choice>,
    /// Taps of the last `verify`, where they are kept.
    taps: Option<Vec<f32>>,
    failure: Option<Error>,
    fault: Option<Fault>,
}

impl GpuExecutor {
    /// Checks the model, reserves all memory, and brings the weights to the device.
    ///
    /// # Errors
    /// [`Error::NoGpu`] without a GPU that this build has kernels for; [`Error::OutOfMemory`] with the
    /// bytes per purpose where the model does not fit; [`Error::ModelFormat`] naming the tensor that
    /// the device cannot run.
    pub fn new(
        model: &Arc<Model>,
        config: &GpuConfig,
        progress: Option<&mut dyn FnMut(Progress)>,
    ) -> Result<Self> {
        let limits = config.limits;
        check::limits(limits)?;
        check::model(model)?;
        // While the memory is still empty.
        let rate = ceiling::measured(config.device);
        let (lowered, machine) = load::load(model, config, progress)?;
        let usage = machine.pool().usage();
        let memory = load::PURPOSES.into_iter().zip(usage.map(|(_, bytes)| bytes as usize));
        let device = machine.pool().context().device().name.clone();
        let fault = Fault::from_environment(&lowered)?;
        let made = Self::with_device(model, limits, lowered, machine, memory.collect(), rate);
        Ok(Self { device, fault, ..made.map_err(loading)? })
    }

    /// How ops are run.
    pub fn mode(&self) -> Mode {
        self.machine.mode()
    }

    /// The GPU's name.
    pub fn device_name(&self) -> &str {
        &self.device
    }

    /// Takes the resident kernel off the device until the next command.
    ///
    /// # Errors
    /// [`Error::EngineDead`] where the device failed.
    pub fn park(&mut self) -> Result<()> {
        self.machine.park().map_err(|error| running(&error))
    }
}

impl<D: Device> GpuExecutor<D> {
    /// An executor over a device that has everything of `lowered` in its memory, which delivers
    /// `rate` bytes per second.
    pub(super) fn with_device(
        model: &Arc<Model>,
        limits: Limits,
        lowered: Lowered<'_>,
        machine: D,
        memory: Vec<(&'static str, usize)>,
        rate: Option<f64>,
    ) -> Result<Self, GpuError> {
        let spec = &model.spec;
        let stride = lowered.buffers.logits.stride as usize;
        let choices = lowered.blocks as usize * abi::ROWS;
        Ok(Self {
            draft_share: lowered.draft_share(),
            ceiling: Ceiling::new(&lowered, rate),
            op_list: OpList::new(&lowered),
            device: String::new(),
            memory,
            limits,
            model: Arc::clone(model),
            place: (lowered.blocks, lowered.bases),
            stretches: lowered.stretches,
            buffers: lowered.buffers,
            pass_rows: lowered.pass_rows,
            block_rows: lowered.block_rows,
            vocab: spec.vocab,
            taps_width: spec.tap_width(),
            rows: Vec::with_capacity(limits.max_rows),
            is_committed: true,
            logits: machine.rows(limits.max_rows * stride)?,
            machine,
            choices: vec![abi::Choice::default(); choices],
            taps: None,
            failure: None,
            fault: None,
        })
    }

    /// Bytes held on the GPU, by purpose.
    pub fn memory(&self) -> Vec<(&'static str, usize)> {
        self.memory.clone()
    }

    /// Whether to keep the taps of verified rows for [`GpuExecutor::taps`].
    pub fn keep_taps(&mut self, keep: bool) {
        self.taps = keep.then(Vec::new);
    }

    /// Taps of row `row` of the last `verify`, `[taps, hidden]`; empty where they are not kept.
    pub fn taps(&self, row: usize) -> &[f32] {
        let taps = self.taps.as_deref().unwrap_or_default();
        taps.get(row * self.taps_width..(row + 1) * self.taps_width).unwrap_or_default()
    }

    /// Logits of the `index`-th drafted token of the last drafted block, `[vocab]`.
    ///
    /// # Errors
    /// [`Error::EngineDead`] where the device failed.
    pub fn draft_logits(&self, index: usize) -> Result<Vec<f32>> {
        let mut logits = vec![0.0; self.vocab];
        let Rows { address, stride } = self.buffers.logits;
        let at = address + (index as u64 + 1) * u64::from(stride) * 4;
        self.machine.read(at, &mut logits).map_err(|error| running(&error))?;
        Ok(logits)
    }

    /// Remembers the first failure; everything after it does nothing.
    fn attempt(&mut self, work: impl FnOnce(&mut Self) -> Result<(), GpuError>) {
        if self.failure.is_none()
            && let Err(error) = work(self)
        {
            self.failure = Some(running(&error));
        }
    }

    fn command(stretch: Stretch, skip: u32) -> abi::Command {
        let (first_op, num_ops) = (stretch.start, stretch.end - stretch.start);
        abi::Command { first_op, num_ops, rounds: 1, skip, ..abi::Command::default() }
    }

    fn pass(rows: &[Row]) -> abi::Pass {
        let mut pass = abi::Pass { rows: rows.len() as u32, ..abi::Pass::default() };
        for (to, row) in pass.row.iter_mut().zip(rows) {
            *to = abi::Row { slot: row.slot, position: row.position, token: row.token, run: 0 };
        }
        pass
    }

    /// Copies every ring of a slot from one address to another.
    fn copy_rings(&mut self, places: impl Fn(&SavedRing) -> (u64, u64)) {
        let rings = std::mem::take(&mut self.buffers.saved);
        if !rings.is_empty() {
            let mut copies = rings.iter().map(|ring| {
                let (from, to) = places(ring);
                Transfer { from, to, bytes: ring.bytes }
            });
            self.attempt(|this| this.machine.copy(&mut copies));
        }
        self.buffers.saved = rings;
    }

    /// Runs a command.
    fn run(&mut self, command: &abi::Command) -> Result<(), GpuError> {
        if let Some(fault) = &mut self.fault {
            fault.before_command(&mut self.machine)?;
        }
        self.machine.run(command)
    }

    /// One pass of the target; the rows start at `first` of the verified ones.
    fn verify_pass(&mut self, first: usize, count: usize, commits: bool) -> Result<(), GpuError> {
        let rows = &self.rows[first..first + count];
        let wants_logits = rows.iter().any(|row| row.needs_logits);
        let mut stretch = self.stretches.target.clone();
        if commits {
            stretch.end = self.stretches.context.end;
        }
        let skip = if wants_logits { 0 } else { abi::FLAG_LOGITS };
        let command = abi::Command { pass: Self::pass(rows), ..Self::command(stretch, skip) };
        let started = Instant::now();
        self.run(&command)?;
        self.ceiling.observe(self.ceiling.pass, started.elapsed());
        let rows = &self.rows[first..first + count];
        let Rows { address, stride } = self.buffers.logits;
        let stride = stride as usize;
        let mut row = 0;
        while row < count {
            let wanted = rows[row..].iter().take_while(|row| row.needs_logits).count();
            if wanted > 0 {
                let to = (first + row) * stride..(first + row + wanted) * stride;
                let from = address + (row * stride * 4) as u64;
                self.machine.read(from, &mut self.logits.as_mut()[to])?;
            }
            row += wanted + 1;
        }
        if let Some(taps) = &mut self.taps {
            let Rows { address, stride } = self.buffers.taps;
            let mut bits = vec![0u16; count * stride as usize];
            self.machine.read_bf16(address, &mut bits)?;
            for row in bits.chunks_exact(stride.max(1) as usize) {
                taps.extend(row[..self.taps_width].iter().map(|bits| bf16::decode(*bits)));
            }
        }
        Ok(())
    }

    /// Makes the rows of the newest pass drafter context.
    fn commit_pass(&mut self) -> Result<(), GpuError> {
        let command = Self::command(self.stretches.context.clone(), 0);
        self.run(&abi::Command { pass: Self::pass(&self.rows), ..command })
    }

    fn draft_block(&mut self, block: &DraftBlock, out: &mut Vec<u32>) -> Result<(), GpuError> {
        let row = |i: u32| Row {
            slot: block.slot,
            position: block.start + i,
            token: if i == 0 { block.anchor } else { abi::MASK_TOKEN },
            needs_logits: false,
        };
        let mut rows = [row(0); abi::ROWS];
        let count = (block.drafts as usize + 1).min(self.block_rows);
        for (i, place) in rows.iter_mut().enumerate() {
            *place = row(i as u32);
        }
        let command = Self::command(self.stretches.draft.clone(), 0);
        self.run(&abi::Command { pass: Self::pass(&rows[..count]), ..command })?;
        self.machine.read_choices(self.buffers.draft_best, &mut self.choices)?;
        out.extend((1..count).map(|row| best(self.choices.iter().skip(row).step_by(abi::ROWS))));
        Ok(())
    }
}

/// The largest score, the lower token on ties.
fn best<'a>(choices: impl Iterator<Item = &'a abi::Choice>) -> u32 {
    let none = abi::Choice { score: f32::NEG_INFINITY, token: u32::MAX };
    let best = choices.fold(none, |best, choice| {
        let is_better =
            choice.score > best.score || (choice.score == best.score && choice.token < best.token);
        if is_better { *choice } else { best }
    });
    if best.token == u32::MAX { 0 } else { best.token }
}

impl<D: Device> Executor for GpuExecutor<D> {
    fn limits(&self) -> Limits {
        self.limits
    }

    fn vocab(&self) -> usize {
        self.vocab
    }

    /// A block is one pass: longer ones are cut.
    fn max_drafts(&self) -> usize {
        self.block_rows.saturating_sub(1)
    }

    fn ceiling_fraction(&self) -> Option<f64> {
        self.ceiling.reached()
    }

    /// Rings are not cleared: a position is visible only after this sequence has written it.
    fn set_pages(&mut self, slot: Slot, pages: &[Page]) {
        let most = self.buffers.max_pages as usize;
        let pages = &pages[..pages.len().min(most)];
        let at = self.buffers.page_table + u64::from(slot) * most as u64 * 4;
        self.attempt(|this| this.machine.write(at, pages));
    }

    fn set_model(&mut self, model: Arc<Model>) -> Result<()> {
        self.replace(model)
    }

    /// Whole rings: what in them lies outside of the window of `positions` is not visible before it
    /// is written again.
    fn save_state(&mut self, slot: Slot, _positions: usize, snapshot: Snapshot) {
        self.copy_rings(|ring| {
            let (from, to) = (u64::from(slot) * ring.bytes, u64::from(snapshot) * ring.bytes);
            (ring.ring + from, ring.saved + to)
        });
    }

    fn restore_state(&mut self, slot: Slot, _positions: usize, snapshot: Snapshot) {
        self.copy_rings(|ring| {
            let (from, to) = (u64::from(snapshot) * ring.bytes, u64::from(slot) * ring.bytes);
            (ring.saved + from, ring.ring + to)
        });
    }

    fn verify(&mut self, rows: &[Row]) {
        assert!(rows.len() <= self.limits.max_rows, "more rows than the limit");
        self.rows.clear();
        self.rows.extend_from_slice(rows);
        if let Some(taps) = &mut self.taps {
            taps.clear();
        }
        let (count, most) = (rows.len(), self.pass_rows);
        // Taps stand on the device until the next pass, so rows of several passes become context at
        // once. Rejected ones do no harm: what they wrote is written again before it is visible.
        let commits = count > most && self.block_rows > 0;
        self.is_committed = commits || self.block_rows == 0;
        self.attempt(|this| {
            (0..count)
                .step_by(most)
                .try_for_each(|first| this.verify_pass(first, most.min(count - first), commits))
        });
    }

    fn logits(&self, row: usize) -> &[f32] {
        let stride = self.buffers.logits.stride as usize;
        &self.logits.as_ref()[row * stride..][..self.vocab]
    }

    fn commit(&mut self, rows: Range<usize>) {
        if !self.is_committed && !rows.is_empty() {
            self.is_committed = true;
            self.attempt(Self::commit_pass);
        }
    }

    fn draft(&mut self, blocks: &[DraftBlock], out: &mut Vec<u32>) {
        let start = out.len();
        self.attempt(|this| blocks.iter().try_for_each(|block| this.draft_block(block, out)));
        // After a failure the caller counts on as many tokens as it asked for, and then looks.
        let wanted: usize = blocks.iter().map(|block| block.drafts as usize).sum();
        out.resize(start + wanted, 0);
    }

    fn check(&self) -> Result<()> {
        self.failure.clone().map_or(Ok(()), Err)
    }

    fn max_runs(&self, with_drafts: bool) -> usize {
        if with_drafts { 1 } else { self.pass_rows }
    }

    fn draft_share(&self) -> f64 {
        self.draft_share
    }

    fn applies_rules(&self) -> bool {
        true
    }

    fn set_table(&mut self, slot: Slot, table: Table, first: u32, words: &[u32]) {
        let base = match table {
            Table::Counts => self.buffers.counts,
            Table::Biases => self.buffers.biases,
        };
        let row = u64::from(slot) * u64::from(self.buffers.logits.stride);
        let at = base + (row + u64::from(first)) * 4;
        self.attempt(|this| this.machine.write(at, words));
    }

    fn start_trace(&mut self, ops: u32) -> Result<()> {
        self.machine.start_trace(ops).map_err(|error| tracing(&error))
    }

    fn end_trace(&mut self) -> Result<Trace> {
        let records = self.machine.end_trace().map_err(|error| tracing(&error))?;
        Ok(self.op_list.assemble(&records, self.device.clone(), self.ceiling.rate()))
    }

    fn decode(&mut self, runs: &[DecodeRun], max_rounds: u32, out: &mut Vec<DecodedRound>) {
        self.attempt(|this| this.decode_rounds(runs, max_rounds, out));
    }
}
