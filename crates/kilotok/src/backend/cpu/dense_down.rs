//! Op `dense_down` and its drafter twin: residual += `W_down` hidden.

use super::linear::Packs;
use super::o_proj;
use super::workers::Compute;
use crate::matrix::Matrix;

/// Adds `down hidden` to the residual; `hidden` is `[rows, inter]`.
pub(super) fn run(
    compute: &Compute,
    down: &Matrix,
    packs: &mut Packs,
    hidden: &[f32],
    rows: &[u32],
    residual: &mut [f32],
) {
    o_proj::run(compute, (down, None), packs, hidden, rows, residual);
}
