//! What the resident kernel did, op by op and block by block.
//!
//! [`Trace::write_json`] gives a timeline that Perfetto and `chrome://tracing` show, [`Trace::summary`] a page of text:
//! how near to the memory's ceiling the ops came, and what the rest of the time went to.

mod chrome;
mod clock;
mod losses;
mod summary;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use kilotok_kernels::abi::program as abi;

pub use losses::Losses;

use super::lower::Lowered;
use super::outline::{OpWork, PassShape, of_line};

/// Ops that a trace keeps of every block unless told otherwise, the newest ones.
pub const DEFAULT_OPS: u32 = 1024;

/// The newest ops of the resident kernel.
#[derive(Clone, Debug, PartialEq)]
pub struct Trace {
    /// The GPU.
    pub device: String,
    /// Bytes per second that the memory delivers, where that was measured.
    pub rate: Option<f64>,
    /// In the order in which they ran.
    pub ops: Vec<TracedOp>,
}

/// One op.
#[derive(Clone, Debug, PartialEq)]
pub struct TracedOp {
    /// Its kind.
    pub kind: &'static str,
    /// What it reads: `layers.3.mlp.experts.down`; empty where it reads no weights and no cache.
    pub label: String,
    /// Counts all ops since the trace was started, from 1 on.
    pub number: u32,
    /// Index of its record.
    pub op: u32,
    /// Of the command that ran it.
    pub command: u32,
    /// Of the pass.
    pub rows: u32,
    /// Distinct experts that the rows were routed to, where it reads experts.
    pub experts: Option<u32>,
    /// Bytes that all blocks together had to read, as [`OpWork::bytes`] counts them.
    pub bytes: f64,
    /// Of each block.
    pub blocks: Vec<BlockSpan>,
}

/// When a block did what, in microseconds since the trace's first op was entered.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct BlockSpan {
    /// The SM that it ran on.
    pub sm: u32,
    /// The op began.
    pub entered: f64,
    /// It knew which experts come.
    pub routed: Option<f64>,
    /// Its first weights were there.
    pub weights: Option<f64>,
    /// It was through, and began to wait for the other blocks.
    pub arrived: f64,
    /// All were through.
    pub passed: f64,
}

/// What a trace needs to know of the ops of a program.
#[derive(Clone, Debug)]
pub(super) struct OpList {
    works: Vec<OpWork>,
    labels: Vec<String>,
}

impl OpList {
    pub(super) fn new(lowered: &Lowered<'_>) -> Self {
        let name = |op: &abi::Op| {
            // Weights stand first in every payload that has some, keys behind two addresses.
            let address = match op.kind {
                abi::OP_EMBED
                | abi::OP_LINEAR
                | abi::OP_ROUTER
                | abi::OP_MOE_UP
                | abi::OP_MOE_DOWN => op.payload[0],
                abi::OP_ATTENTION | abi::OP_DRAFT_ATTENTION => op.payload[2],
                _ => return String::new(),
            };
            let behind = lowered.regions.partition_point(|region| region.address <= address);
            let region = behind.checked_sub(1).map(|at| &lowered.regions[at]);
            region.map_or(String::new(), |region| region.name.clone())
        };
        Self { works: of_line(&lowered.ops), labels: lowered.ops.iter().map(name).collect() }
    }

    /// What the records of all blocks say. Ops that some block has no record of any more are left out.
    pub(super) fn assemble(
        &self,
        records: &[Vec<abi::TraceRecord>],
        device: String,
        rate: Option<f64>,
    ) -> Trace {
        let mut by_number: BTreeMap<u32, Vec<BlockSpan>> = BTreeMap::new();
        for records in records {
            let clock = clock::Clock::of(records);
            for record in records {
                by_number.entry(record.number).or_default().push(clock.span(record));
            }
        }
        by_number.retain(|_, spans| spans.len() == records.len());
        let all = by_number.values().flatten();
        let origin = all.map(|span| span.entered).fold(f64::INFINITY, f64::min);
        let first = records.first().map_or(&[][..], Vec::as_slice);
        let ops = first.iter().filter_map(|record| {
            let mut blocks = by_number.remove(&record.number)?;
            for span in &mut blocks {
                span.shift(origin);
            }
            Some(self.op(record, blocks))
        });
        Trace { device, rate, ops: ops.collect() }
    }

    fn op(&self, record: &abi::TraceRecord, blocks: Vec<BlockSpan>) -> TracedOp {
        let work = self.works.get(record.op as usize).copied().unwrap_or(OpWork::Other("unknown"));
        let sequences = u64::from(record.sequences.max(1));
        let pass = PassShape {
            sequences,
            rows_each: u64::from(record.rows).div_ceil(sequences),
            context: u64::from(record.context) / sequences,
        };
        let has_experts = matches!(work, OpWork::MoeUp(_) | OpWork::MoeDown(_));
        TracedOp {
            kind: work.name(),
            label: self.labels.get(record.op as usize).cloned().unwrap_or_default(),
            number: record.number,
            op: record.op,
            command: record.command,
            rows: record.rows,
            experts: has_experts.then_some(record.experts),
            bytes: work.bytes(pass, |_| f64::from(record.experts)),
            blocks,
        }
    }
}

impl BlockSpan {
    fn shift(&mut self, origin: f64) {
        for time in [&mut self.entered, &mut self.arrived, &mut self.passed]
            .into_iter()
            .chain(&mut self.routed)
            .chain(&mut self.weights)
        {
            *time -= origin;
        }
    }
}

impl TracedOp {
    /// When the last block was through.
    pub fn last_arrival(&self) -> f64 {
        self.blocks.iter().map(|span| span.arrived).fold(f64::NEG_INFINITY, f64::max)
    }

    /// When the first block began.
    pub fn first_entry(&self) -> f64 {
        self.blocks.iter().map(|span| span.entered).fold(f64::INFINITY, f64::min)
    }

    /// Whether it streams weights through the ring.
    fn is_streamed(&self) -> bool {
        matches!(self.kind, "linear" | "moe_up" | "moe_down")
    }
}
