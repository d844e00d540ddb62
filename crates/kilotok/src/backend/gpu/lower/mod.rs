//! From a model to op records.
//!
//! Lowering touches no weight: it lays memory out, writes records, and lists what has to be copied
//! where. It runs twice, first at imagined addresses to learn how much memory is needed, then at the
//! real ones; the result depends on the model's shapes, the limits and the addresses alone.

mod buffers;
mod draft;
mod place;
mod round;
mod target;

use std::ops::Range;

use kilotok_gpu::pool::Component;
use kilotok_kernels::abi::program as abi;

use super::arena::{Arena, Region};
use crate::backend::Limits;
use crate::error::{Error, Result};
use crate::model::Model;
use crate::spec::MlpSpec;
pub(super) use buffers::{Buffers, Rows, SavedRing};
use place::Placer;
pub(super) use place::{Content, Upload};

/// Ops of one straight line: indices of the first and past the last.
pub(super) type Stretch = Range<u32>;

/// The lines that commands run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Stretches {
    /// Rows to logits.
    pub(super) target: Stretch,
    /// Taps of the last pass to drafter context; follows `target` without a gap.
    pub(super) context: Stretch,
    /// A drafter block to drafted tokens.
    pub(super) draft: Stretch,
    /// Draft, verify, choose, accept and commit.
    pub(super) round: Stretch,
    /// The same without drafting: the tail of `round`.
    pub(super) plain_round: Stretch,
}

/// A model lowered: what to run, and what has to lie where before that.
#[derive(Debug)]
pub(super) struct Lowered<'m> {
    pub(super) model: &'m Model,
    pub(super) limits: Limits,
    pub(super) ops: Vec<abi::Op>,
    pub(super) stretches: Stretches,
    pub(super) uploads: Vec<Upload<'m>>,
    /// Bytes of each component.
    pub(super) sizes: [u64; 5],
    pub(super) regions: Vec<Region>,
    pub(super) buffers: Buffers,
    /// Rows of a pass at most.
    pub(super) pass_rows: usize,
    /// Rows of a whole drafter block; 0 without a drafter.
    pub(super) block_rows: usize,
    /// Blocks of the grid.
    pub(super) blocks: u32,
    /// Where components start.
    pub(super) bases: [u64; 5],
}

impl Lowered<'_> {
    /// Share of a round's weights that drafting and committing read.
    pub(super) fn draft_share(&self) -> f64 {
        let Stretches { target, context, draft, .. } = &self.stretches;
        let drafting = self.weight_bytes(context) + self.weight_bytes(draft);
        let all = drafting + self.weight_bytes(target);
        if all > 0.0 { drafting / all } else { 0.0 }
    }

    /// Bytes of weights that a line of ops reads for one row.
    pub(super) fn weight_bytes(&self, line: &Stretch) -> f64 {
        line.clone().filter_map(|op| self.ops.get(op as usize)).map(streamed_bytes).sum()
    }
}

/// Bytes of weights that an op reads for one row.
fn streamed_bytes(op: &abi::Op) -> f64 {
    let (matrix, times) = match op.kind {
        abi::OP_LINEAR => (op.payload::<abi::Linear>().weights, 1),
        abi::OP_MOE_UP => {
            let up: abi::MoeUp = op.payload();
            (up.weights, up.top_k)
        }
        abi::OP_MOE_DOWN => {
            let down: abi::MoeDown = op.payload();
            (down.weights, down.top_k)
        }
        _ => return 0.0,
    };
    matrix.expert_bytes as f64 * f64::from(times)
}

/// Rows that may have been written behind a point that is saved: those of a host's round and of the
/// page that the point ends, and the rejected ones of a pass.
pub(super) fn rows_behind(limits: Limits) -> usize {
    if limits.snapshots == 0 { 0 } else { limits.max_rows + limits.page_size }
}

/// What lowering builds up.
struct Lowering<'m> {
    model: &'m Model,
    limits: Limits,
    place: Placer<'m>,
    buffers: Buffers,
    ops: Vec<abi::Op>,
    block_rows: usize,
    /// Blocks of the grid.
    blocks: u32,
}

/// Rows that one pass of this model may have: pairs of rows and experts are limited too.
pub(super) fn pass_rows(model: &Model) -> usize {
    let top_k = model.spec.layers.iter().filter_map(|layer| match &layer.mlp {
        MlpSpec::Dense { .. } => None,
        MlpSpec::Moe(moe) => Some(moe.top_k),
    });
    top_k.map(|k| abi::PAIRS / k.max(1)).chain([abi::ROWS]).min().unwrap_or(abi::ROWS)
}

/// Lowers `model` for a grid of `blocks` blocks, with components at `bases`.
///
/// # Errors
/// [`Error::ModelFormat`] where a tensor has a format that the device cannot multiply, or the model
/// has a shape that no op takes.
pub(super) fn lower(
    model: &Model,
    limits: Limits,
    blocks: u32,
    bases: [u64; 5],
) -> Result<Lowered<'_>> {
    let rows = pass_rows(model);
    if rows == 0 {
        let reason = format!("a token has more experts than the {} of a pass", abi::PAIRS);
        return Err(Error::model_format("spec", reason));
    }
    let block_rows = model.spec.drafter.as_ref().map_or(0, |d| d.block_size.min(rows));
    let mut place = Placer::new(Arena::new(bases));
    let buffers = Buffers::new(&mut place, model, limits, blocks)?;
    let mut this = Lowering { model, limits, place, buffers, ops: Vec::new(), block_rows, blocks };

    let stretch = |from: &[abi::Op], this: &mut Lowering| {
        let start = this.ops.len() as u32;
        this.ops.extend_from_slice(from);
        start..this.ops.len() as u32
    };
    let target_ops = this.target()?;
    let context_ops = this.context()?;
    let draft_ops = this.draft()?;
    let target = stretch(&target_ops, &mut this);
    let context = stretch(&context_ops, &mut this);
    let draft = stretch(&draft_ops, &mut this);
    let drafting = this.drafting(&draft_ops);
    let verifying = this.verifying(&target_ops, &context_ops);
    let drafting = stretch(&drafting, &mut this);
    let plain_round = stretch(&verifying, &mut this);
    let round = drafting.start..plain_round.end;

    let Lowering { mut place, mut buffers, ops, .. } = this;
    let bytes = (ops.len() * abi::OP_BYTES) as u64;
    buffers.ops = place.arena.take(Component::Mailboxes, "ops", bytes, true);
    buffers.save_rings(&mut place.arena, limits);
    let (uploads, arena) = place.finish();
    let (sizes, regions) = arena.finish();
    let stretches = Stretches { target, context, draft, round, plain_round };
    Ok(Lowered {
        model,
        limits,
        ops,
        stretches,
        uploads,
        sizes,
        regions,
        buffers,
        pass_rows: rows,
        block_rows,
        blocks,
        bases,
    })
}
