//! SwiGLU activations, under `dense_up`, `moe_up` and `draft_up`.
#![allow(unsafe_code, reason = "hands disjoint outputs of one buffer to several threads")]

use std::ops::Range;

use super::linear::{Input, LinearJob, Output, Store, add_bias, source, weights};
use super::workers::Compute;
use crate::model::ExpertWeights;
use crate::spec::Activation;

/// Outputs of one task at most.
pub(super) const TASK_OUTPUTS: usize = 64;

/// Up-projections of a task while the gates stand in the output already.
#[derive(Debug)]
pub(super) struct UpScratch {
    /// `[rows, TASK_OUTPUTS]` for every thread.
    values: Vec<f32>,
    rows: usize,
}

impl UpScratch {
    /// For tasks of at most `rows` rows.
    pub(super) fn new(rows: usize, threads: usize) -> Self {
        Self { values: vec![0.0; threads * rows * TASK_OUTPUTS], rows }
    }

    /// Bytes held.
    pub(super) fn num_bytes(&self) -> usize {
        self.values.len() * 4
    }

    /// The part of each thread, for [`Job::up`].
    pub(super) fn parts(&mut self) -> (Output, usize) {
        (Output::new(&mut self.values), self.rows * TASK_OUTPUTS)
    }
}

/// `out[to[i]] = activation(gate x[from + i], up x[from + i])`, `out` being `[_, inter]`.
#[derive(Clone)]
pub(super) struct Job<'a> {
    pub(super) mlp: &'a ExpertWeights,
    pub(super) activation: Activation,
    pub(super) x: &'a Input<'a>,
    pub(super) from: Range<usize>,
    pub(super) out: Output,
    pub(super) to: &'a [u32],
    /// [`UpScratch::parts`].
    pub(super) up: (Output, usize),
    /// `0, 1, 2, ...`, at least as many as rows.
    pub(super) identity: &'a [u32],
}

/// Computes some outputs, at most [`TASK_OUTPUTS`], of all rows of a job on thread `thread`.
///
/// # Safety
/// No other thread works on the same outputs or on this thread's part of `job.up` meanwhile.
pub(super) unsafe fn task(compute: &Compute, job: &Job, outputs: Range<usize>, thread: usize) {
    let Job { mlp, activation, x, out, to, up: (up, part), identity, .. } = *job;
    let from = &job.from;
    // SAFETY: the caller is thread `thread`.
    let x = unsafe { x.on(thread) };
    let (inter, rows, len) = (mlp.gate.rows, from.len(), outputs.len());
    assert!(len <= TASK_OUTPUTS && rows * TASK_OUTPUTS <= part && rows == to.len());
    let up = up.part(thread * part, part);
    let gate_job = LinearJob {
        weights: weights(&mlp.gate),
        source: source(&mlp.gate, x, from.clone()),
        target: out.target(inter, (0, inter), 0, to),
        outputs: outputs.clone(),
        store: Store::Set,
    };
    let up_job = LinearJob {
        weights: weights(&mlp.up),
        source: source(&mlp.up, x, from.clone()),
        target: up.target(TASK_OUTPUTS, (0, len), outputs.start, &identity[..rows]),
        outputs: outputs.clone(),
        store: Store::Set,
    };
    // SAFETY: `kernels` were handed out after feature detection; extents were checked above, and
    // the caller keeps other threads away from the outputs and from this part of the scratch.
    unsafe {
        (compute.kernels.linear)(&gate_job);
        (compute.kernels.linear)(&up_job);
        for (i, row) in to.iter().enumerate() {
            let gate = out.slice(*row as usize * inter + outputs.start, len);
            let up = up.slice(i * TASK_OUTPUTS, len);
            if let Some(bias) = &mlp.bias {
                add_bias(gate, &bias.gate[outputs.clone()]);
                add_bias(up, &bias.up[outputs.clone()]);
            }
            match activation {
                Activation::Silu => (compute.kernels.silu_mul)(gate, up),
                Activation::ClampedSwiGlu { alpha, limit } => {
                    (compute.kernels.clamped_swiglu)(gate, up, alpha, limit);
                }
            }
        }
    }
}
