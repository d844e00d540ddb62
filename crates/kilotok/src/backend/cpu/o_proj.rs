//! Op `o_proj` and its drafter twin: residual += `W_o` attention.

use super::linear::{Orders, Packed, Store, apply};
use super::workers::Compute;
use crate::matrix::Matrix;

/// Adds `matrix x` to the residual; `x` is `[rows, matrix.cols]`, `residual` `[rows, hidden]`.
pub(super) fn run(
    compute: &Compute,
    matrix: &Matrix,
    packed: &mut Packed,
    x: &[f32],
    rows: &[u32],
    residual: &mut [f32],
) {
    packed.pack(x, rows, matrix.cols, Orders::of([matrix]));
    apply(compute, matrix, packed, (residual, matrix.rows, 0), rows, Store::Add);
}
