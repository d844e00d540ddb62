//! Op `moe_up`: activations of every selected expert; an expert's weights are read once
//! for all its rows.
#![allow(unsafe_code, reason = "hands disjoint outputs of one buffer to several threads")]

use super::linear::{Orders, Output, Packs, Unpacked};
use super::router::Routes;
use super::swiglu::{self, TASK_OUTPUTS, UpScratch};
use super::workers::Compute;
use crate::model::ExpertWeights;
use crate::spec::Activation;

/// `normed` is `[rows, hidden]`, `hidden` `[rows, top_k, inter]`; `identity` is `0, 1, 2, ...`,
/// one for every row.
pub(super) fn run(
    compute: &Compute,
    (experts, activation): (&[ExpertWeights], Activation),
    (routes, top_k): (&Routes, usize),
    (packs, up): (&mut Packs, &mut UpScratch),
    normed: &[f32],
    identity: &[u32],
    hidden: &mut [f32],
) {
    let (inter, cols, rows) = (experts[0].gate.rows, experts[0].gate.cols, identity.len());
    let active = routes.active.iter().map(|e| &experts[*e as usize]);
    let orders = Orders::of(active.flat_map(|e| [&e.gate, &e.up]));
    // Rows are packed once per selected expert, so that an expert's rows are adjacent.
    let (from, to) = routes.sorted(rows * top_k);
    let x = packs.input(Unpacked { x: normed, rows: from, cols, orders, routes: Some(routes) });
    let (x, out, up) = (&x, Output::new(hidden), up.parts());
    let tiles = inter.div_ceil(TASK_OUTPUTS);
    compute.tasks(routes.active.len() * tiles, 2 * to.len() * inter * cols, |task, thread| {
        let expert = routes.active[task / tiles];
        let from = routes.of(expert);
        let (mlp, to) = (&experts[expert as usize], &to[from.clone()]);
        let start = task % tiles * TASK_OUTPUTS;
        let job = swiglu::Job { mlp, activation, x, from, out, to, up, identity };
        // SAFETY: tasks have disjoint outputs, threads parts of their own.
        unsafe {
            swiglu::task(compute, &job, start..(start + TASK_OUTPUTS).min(inter), thread);
        }
    });
}
