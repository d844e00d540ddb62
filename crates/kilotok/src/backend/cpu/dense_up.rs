//! Op `dense_up` and its drafter twin: hidden = silu(gate x) * (up x).
#![allow(unsafe_code, reason = "hands disjoint outputs of one buffer to several threads")]

use super::linear::{Orders, Output, Packs, Unpacked};
use super::swiglu::{self, TASK_OUTPUTS, UpScratch};
use super::workers::Compute;
use crate::model::ExpertWeights;
use crate::spec::Activation;

/// `normed` is `[rows, hidden]`, `hidden` `[rows, inter]`; `rows` is `0, 1, 2, ...`.
pub(super) fn run(
    compute: &Compute,
    mlp: &ExpertWeights,
    (packs, up): (&mut Packs, &mut UpScratch),
    normed: &[f32],
    rows: &[u32],
    hidden: &mut [f32],
) {
    let (inter, cols) = (mlp.gate.rows, mlp.gate.cols);
    let orders = Orders::of([&mlp.gate, &mlp.up]);
    let x = packs.input(Unpacked { x: normed, rows, cols, orders, routes: None });
    let (out, up) = (Output::new(hidden), up.parts());
    let job = swiglu::Job {
        mlp,
        activation: Activation::Silu,
        x: &x,
        from: 0..rows.len(),
        out,
        to: rows,
        up,
        identity: rows,
    };
    let work = 2 * rows.len() * inter * cols;
    compute.tasks(inter.div_ceil(TASK_OUTPUTS), work, |task, thread| {
        let start = task * TASK_OUTPUTS;
        // SAFETY: tasks have disjoint outputs, threads parts of their own.
        unsafe {
            swiglu::task(compute, &job, start..(start + TASK_OUTPUTS).min(inter), thread);
        }
    });
}
