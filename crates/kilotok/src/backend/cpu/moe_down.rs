//! Op `moe_down`: residual += weighted sum of the selected experts' outputs.
#![allow(unsafe_code, reason = "hands disjoint outputs of one buffer to several threads")]

use super::linear::{
    LinearJob, Orders, Output, Packs, Shared, Store, Unpacked, add_bias, source, weights,
};
use super::router::Routes;
use super::workers::Compute;
use crate::model::ExpertWeights;

/// Outputs of one task.
const TASK_OUTPUTS: usize = 128;

/// Buffers of the op.
pub(super) struct Buffers<'a> {
    /// `[rows, top_k, inter]`
    pub(super) hidden: &'a [f32],
    /// Scratch, `[rows, top_k, hidden]`.
    pub(super) outputs: &'a mut [f32],
    /// `[rows, hidden]`
    pub(super) residual: &'a mut [f32],
}

/// Outputs of a row's experts are summed in order of rank, then added to the residual.
pub(super) fn run(
    compute: &Compute,
    experts: &[ExpertWeights],
    routes: &Routes,
    packs: &mut Packs,
    Buffers { hidden, outputs, residual }: Buffers,
    (rows, top_k): (usize, usize),
) {
    let (width, inter) = (experts[0].down.rows, experts[0].down.cols);
    let pairs = rows * top_k;
    let active = routes.active.iter().map(|e| &experts[*e as usize].down);
    let (_, sorted) = routes.sorted(pairs);
    let (cols, orders) = (inter, Orders::of(active));
    let x = packs.input(Unpacked { x: hidden, rows: sorted, cols, orders, routes: Some(routes) });
    let out = Output::new(outputs);
    let tiles = width.div_ceil(TASK_OUTPUTS);
    compute.tasks(routes.active.len() * tiles, pairs * inter * width, |task, thread| {
        let expert = routes.active[task / tiles];
        let from = routes.of(expert);
        let to = &sorted[from.clone()];
        let ExpertWeights { down, bias, .. } = &experts[expert as usize];
        let start = task % tiles * TASK_OUTPUTS;
        let outputs = start..(start + TASK_OUTPUTS).min(width);
        // SAFETY: `kernels` were handed out after feature detection; extents were checked above,
        // the borrows outlive the call, and tasks have disjoint outputs.
        unsafe {
            let job = LinearJob {
                weights: weights(down),
                source: source(down, x.on(thread), from),
                target: out.target(width, (0, width), 0, to),
                outputs: outputs.clone(),
                store: Store::Set,
            };
            (compute.kernels.linear)(&job);
            if let Some(bias) = bias {
                for pair in to {
                    let to = out.slice(*pair as usize * width + start, outputs.len());
                    add_bias(to, &bias.down[outputs.clone()]);
                }
            }
        }
    });
    let outputs = &*outputs;
    let residual = Shared(residual[..rows * width].as_mut_ptr());
    compute.over(rows, 1, pairs * width, |range, _| {
        let residual = &residual;
        for row in range {
            // SAFETY: row `row` is inside the buffer, which stays borrowed, and is this task's.
            let residual =
                unsafe { std::slice::from_raw_parts_mut(residual.0.add(row * width), width) };
            combine(
                &outputs[row * top_k * width..],
                &routes.weights[row * top_k..][..top_k],
                residual,
            );
        }
    });
}

/// `residual += sum over ranks of weight * output`, products and sums rounded one by one.
fn combine(outputs: &[f32], weights: &[f32], residual: &mut [f32]) {
    const COLS: usize = 64;
    let width = residual.len();
    for (piece, residual) in residual.chunks_mut(COLS).enumerate() {
        let mut sum = [0f32; COLS];
        for (rank, weight) in weights.iter().enumerate() {
            let outputs = &outputs[rank * width + piece * COLS..][..residual.len()];
            for (sum, output) in sum.iter_mut().zip(outputs) {
                *sum += weight * output;
            }
        }
        for (value, sum) in residual.iter_mut().zip(sum) {
            *value += sum;
        }
    }
}
