//! Op `qkv`: queries, keys and values of every row, in the stored order of the projection.

use super::linear::{Orders, Packs, Store, Unpacked, add_bias_rows, apply};
use super::workers::Compute;
use crate::model::QkvWeights;

/// `qkv = W normed + bias`, `[rows, width]` with the layout of `AttentionSpec::head_map`.
pub(super) fn run(
    compute: &Compute,
    (weights, bias): (&QkvWeights, Option<&[f32]>),
    packs: &mut Packs,
    normed: &[f32],
    rows: &[u32],
    qkv: &mut [f32],
    width: usize,
) {
    let matrices = match weights {
        QkvWeights::Fused(matrix) => std::slice::from_ref(matrix),
        QkvWeights::Split(matrices) => matrices.as_slice(),
    };
    let cols = matrices[0].cols;
    let orders = Orders::of(matrices);
    let x = packs.input(Unpacked { x: normed, rows, cols, orders, routes: None });
    let mut col = 0;
    for matrix in matrices {
        apply(compute, matrix, &x, (qkv, width, col), rows, Store::Set);
        col += matrix.rows;
    }
    add_bias_rows(qkv, rows.len(), bias);
}
