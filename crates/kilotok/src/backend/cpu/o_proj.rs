//! Op `o_proj` and its drafter twin: residual += `W_o` attention.

use super::linear::{Orders, Packs, Store, Unpacked, add_bias_rows, apply};
use super::workers::Compute;
use crate::matrix::Matrix;

/// Adds `matrix x + bias` to the residual; `x` is `[rows, matrix.cols]`, `residual` `[rows, hidden]`.
pub(super) fn run(
    compute: &Compute,
    (matrix, bias): (&Matrix, Option<&[f32]>),
    packs: &mut Packs,
    x: &[f32],
    rows: &[u32],
    residual: &mut [f32],
) {
    let (cols, orders) = (matrix.cols, Orders::of([matrix]));
    let x = packs.input(Unpacked { x, rows, cols, orders, routes: None });
    apply(compute, matrix, &x, (residual, matrix.rows, 0), rows, Store::Add);
    add_bias_rows(residual, rows.len(), bias);
}
