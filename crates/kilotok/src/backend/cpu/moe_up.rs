//! Op `moe_up`: SwiGLU activations of every selected expert; an expert's weights are read once
//! for all its rows.
#![allow(unsafe_code, reason = "hands disjoint outputs of one buffer to several threads")]

use super::dense_up;
use super::linear::{Orders, Output, Packed, SwigluJob};
use super::router::Routes;
use super::workers::Compute;
use crate::model::ExpertWeights;

/// Outputs of one task.
const TASK_OUTPUTS: usize = 64;

/// `normed` is `[rows, hidden]`, `hidden` `[rows, top_k, inter]`.
pub(super) fn run(
    compute: &Compute,
    experts: &[ExpertWeights],
    routes: &Routes,
    packed: &mut Packed,
    normed: &[f32],
    rows: usize,
    hidden: &mut [f32],
) {
    let (inter, cols) = (experts[0].gate.rows, experts[0].gate.cols);
    let active = routes.active.iter().map(|e| &experts[*e as usize]);
    packed.pack(normed, cols, rows, cols, Orders::of(active.flat_map(|e| [&e.gate, &e.up])));
    let pairs: usize = routes.active.iter().map(|e| routes.of(*e).0.len()).sum();
    let (packed, out) = (&*packed, Output::new(hidden));
    let tiles = inter.div_ceil(TASK_OUTPUTS);
    compute.tasks(routes.active.len() * tiles, 2 * pairs * inter * cols, |task, _| {
        let expert = routes.active[task / tiles];
        let (from, to) = routes.of(expert);
        let start = task % tiles * TASK_OUTPUTS;
        let outputs = (start, (start + TASK_OUTPUTS).min(inter));
        let job = dense_up::job(&experts[expert as usize], packed, from, out, to);
        // SAFETY: `kernels` were handed out after feature detection; `job` checked the extents,
        // the borrows outlive the call, and tasks have disjoint outputs.
        unsafe { (compute.kernels.swiglu)(&SwigluJob { outputs, ..job }) };
    });
}
