//! Op `draft_qkv`: queries, keys and values of block rows; queries and keys normed per head.

use super::linear::{Orders, Packs, Store, Unpacked, apply};
use super::rms_norm;
use super::workers::Compute;
use crate::matrix::Matrix;
use crate::model::DraftLayerWeights;
use crate::spec::DrafterSpec;

/// Offsets inside a row `[Q | K | V]` and the row's width.
#[derive(Clone, Copy)]
pub(super) struct Layout {
    pub(super) k: usize,
    pub(super) v: usize,
    pub(super) width: usize,
}

impl Layout {
    pub(super) fn of(spec: &DrafterSpec) -> Self {
        let k = spec.heads * spec.head_dim;
        let v = k + spec.kv_heads * spec.head_dim;
        Self { k, v, width: v + spec.kv_heads * spec.head_dim }
    }
}

/// `normed` is `[rows, hidden]`, `qkv` `[rows, Layout::width]`; values come out scaled.
pub(super) fn run(
    compute: &Compute,
    (spec, layer): (&DrafterSpec, &DraftLayerWeights),
    packs: &mut Packs,
    normed: &[f32],
    rows: &[u32],
    qkv: &mut [f32],
) {
    let layout = Layout::of(spec);
    let matrices = [&layer.q_proj, &layer.k_proj, &layer.v_proj];
    project(compute, matrices, (0, layout.width), packs, normed, rows, qkv);
    let size = (rows.len(), layout.width);
    rms_norm::heads(compute, qkv, size, (0, spec.heads), &layer.q_norm, spec.norm_eps);
    finish(compute, (spec, layer), size, layout.k, layout.v, qkv);
}

/// Multiplies `x` by every matrix; outputs stand one after the other from `col` on.
pub(super) fn project<'a>(
    compute: &Compute,
    matrices: impl IntoIterator<Item = &'a Matrix> + Clone,
    (mut col, width): (usize, usize),
    packs: &mut Packs,
    x: &[f32],
    rows: &[u32],
    out: &mut [f32],
) {
    let cols = matrices.clone().into_iter().map(|m| m.cols).next().unwrap_or(0);
    let orders = Orders::of(matrices.clone());
    let x = packs.input(Unpacked { x, rows, cols, orders, routes: None });
    for matrix in matrices {
        apply(compute, matrix, &x, (out, width, col), rows, Store::Set);
        col += matrix.rows;
    }
}

/// Norms the keys at `k` and scales the values at `v` of every row.
pub(super) fn finish(
    compute: &Compute,
    (spec, layer): (&DrafterSpec, &DraftLayerWeights),
    (rows, width): (usize, usize),
    k: usize,
    v: usize,
    out: &mut [f32],
) {
    rms_norm::heads(compute, out, (rows, width), (k, spec.kv_heads), &layer.k_norm, spec.norm_eps);
    let dim = spec.kv_heads * spec.head_dim;
    super::value_scale::run(spec.value_scale, rows, out, width, &[v], dim);
}
