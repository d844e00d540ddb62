//! Bytes that a line of ops has to read, from its records.

use kilotok_kernels::abi::program as abi;

use super::super::outline::{OpWork, PassShape, of_line};

/// What a pass is, as far as its bytes depend on it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Load<'a> {
    pub(super) rows: u64,
    /// Positions in the cache before the first row.
    pub(super) context: u64,
    /// Distinct experts of every routed layer, in order.
    pub(super) experts: &'a [u64],
}

/// Bytes that `ops` have to read at least once, as [`OpWork::bytes`] counts them.
pub(super) fn bytes_needed(ops: &[abi::Op], load: Load<'_>) -> u64 {
    let pass = PassShape::of_one(load.rows, load.context);
    let (mut ups, mut downs) = (load.experts.iter(), load.experts.iter());
    let of = |op: OpWork| {
        let counts = if matches!(op, OpWork::MoeUp(_)) { &mut ups } else { &mut downs };
        op.bytes(pass, |_| counts.next().copied().unwrap_or(0) as f64) as u64
    };
    of_line(ops).into_iter().map(of).sum()
}
