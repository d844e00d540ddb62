//! What a model asks of a device, from its shapes alone: the ops of a round and the memory.

mod work;

use kilotok_gpu::pool::Component;
use kilotok_kernels::abi::program as abi;
pub(super) use work::of_line;
pub use work::{AttentionShape, Experts, OpWork, PassShape};

use super::{arena, lower, synthetic};
use crate::backend::Limits;
use crate::error::{Error, Result};
use crate::model::Model;
use crate::spec::ModelSpec;

/// The ops of a round, line by line, and what lies where: from the code that lowers a loaded model.
#[derive(Clone, Debug, PartialEq)]
pub struct Outline {
    /// Rows to logits; a verify pass as the bench times it.
    pub target: Vec<OpWork>,
    /// A plain round: lay out, `target`, choose, accept.
    pub plain: Vec<OpWork>,
    /// What a round with drafts does before it verifies as `plain` does; empty without a drafter.
    pub draft: Vec<OpWork>,
    /// What it does afterwards: taps to drafter context; empty without a drafter.
    pub commit: Vec<OpWork>,
    /// Every piece of memory.
    pub regions: Vec<RegionBytes>,
    /// Rows of a pass at most.
    pub pass_rows: usize,
    /// Rows of a drafter block; 0 without a drafter.
    pub block_rows: usize,
}

/// A named piece of device memory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RegionBytes {
    /// As in errors: `layers.3.mlp.experts.down`, `drafter.fc`, `residual`.
    pub name: String,
    /// What it is for.
    pub purpose: Purpose,
    /// Bytes, alignment included.
    pub bytes: u64,
}

/// What memory is for; components of the pool.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// Written once.
    Weights,
    /// Pages of full attention.
    Kv,
    /// Rings of sliding windows and of the drafter.
    Rings,
    /// Activations.
    Exchange,
    /// Records, commands, tables.
    Program,
}

impl Purpose {
    fn of(component: Component) -> Self {
        match component {
            Component::Weights => Self::Weights,
            Component::Kv => Self::Kv,
            Component::Rings => Self::Rings,
            Component::Exchange => Self::Exchange,
            Component::Mailboxes => Self::Program,
        }
    }
}

/// One of `ranks` equal shares of a model, as the bench of presets measures it.
///
/// # Errors
/// [`Error::InvalidRequest`] for `tp` naming what `ranks` does not divide.
pub fn share(spec: ModelSpec, ranks: usize) -> Result<ModelSpec> {
    synthetic::share(spec, ranks).map_err(|error| match error {
        Error::InvalidRequest { reason, .. } => Error::invalid("tp", reason),
        other => other,
    })
}

/// Lowers `model` for a grid of `blocks` blocks without a device; matrices may have no bytes.
///
/// # Errors
/// [`Error::ModelFormat`] where the device cannot run the model.
pub fn outline(model: &Model, limits: Limits, blocks: u32) -> Result<Outline> {
    let lowered = lower::lower(model, limits, blocks, arena::IMAGINED)?;
    let line = |stretch: &lower::Stretch| {
        let ops = &lowered.ops[stretch.start as usize..stretch.end as usize];
        // Runs without rules pass those ops over.
        let ops: Vec<_> =
            ops.iter().filter(|op| op.flags & abi::FLAG_RULES == 0).copied().collect();
        work::of_line(&ops)
    };
    let stretches = &lowered.stretches;
    let (round, plain_round) = (&stretches.round, &stretches.plain_round);
    // Context is kept only where drafts may follow: it is the tail of both rounds.
    let commits = stretches.context.end - stretches.context.start;
    let regions = lowered.regions.iter().map(|region| RegionBytes {
        name: region.name.clone(),
        purpose: Purpose::of(region.component),
        bytes: region.bytes.max(1).next_multiple_of(arena::ALIGN),
    });
    Ok(Outline {
        target: line(&stretches.target),
        plain: line(&(plain_round.start..plain_round.end - commits)),
        draft: line(&(round.start..plain_round.start)),
        commit: line(&stretches.context),
        regions: regions.collect(),
        pass_rows: lowered.pass_rows,
        block_rows: lowered.block_rows,
    })
}
