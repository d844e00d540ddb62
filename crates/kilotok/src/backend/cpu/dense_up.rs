//! Op `dense_up` and its drafter twin: hidden = silu(gate x) * (up x).
#![allow(unsafe_code, reason = "hands disjoint outputs of one buffer to several threads")]

use super::linear::{Orders, Output, Packed, Shared, SwigluJob, source, weights};
use super::workers::Compute;
use crate::model::ExpertWeights;

/// Outputs of one task.
const TASK_OUTPUTS: usize = 32;

/// `normed` is `[rows, hidden]`, `hidden` `[rows, inter]`.
pub(super) fn run(
    compute: &Compute,
    mlp: &ExpertWeights,
    packed: &mut Packed,
    normed: &[f32],
    rows: &[u32],
    hidden: &mut [f32],
) {
    let (inter, cols) = (mlp.gate.rows, mlp.gate.cols);
    packed.pack(normed, cols, rows.len(), cols, Orders::of([&mlp.gate, &mlp.up]));
    let job = Shared(job(mlp, packed, rows, Output::new(hidden), rows));
    compute.over(inter, TASK_OUTPUTS, 2 * rows.len() * inter * cols, |outputs| {
        let job = &job;
        // SAFETY: `kernels` were handed out after feature detection; `job` checked the extents,
        // the borrows outlive the call, and tasks have disjoint outputs.
        unsafe {
            let outputs = (outputs.start, outputs.end);
            (compute.kernels.swiglu)(&SwigluJob { outputs, ..job.0 });
        }
    });
}

/// The whole job of one SwiGLU: rows `from` of `x` to rows `to` of `out`, `[_, inter]`.
pub(super) fn job<'a>(
    mlp: &ExpertWeights,
    x: &'a Packed,
    from: &'a [u32],
    out: Output,
    to: &'a [u32],
) -> SwigluJob<'a> {
    let inter = mlp.gate.rows;
    assert_eq!(mlp.up.rows, inter, "gate and up differ in rows");
    assert_eq!(from.len(), to.len());
    SwigluJob {
        gate: (weights(&mlp.gate), source(&mlp.gate, x, from)),
        up: (weights(&mlp.up), source(&mlp.up, x, from)),
        target: out.target(inter, (0, inter), to),
        outputs: (0, inter),
    }
}
