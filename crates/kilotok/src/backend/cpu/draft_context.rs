//! Op `draft_context`: keys and values of context rows, written at their positions.

use super::super::Row;
use super::cache::Cache;
use super::draft_qkv::{finish, project};
use super::linear::Packs;
use super::pages::PageTables;
use super::rope::RopeTable;
use super::workers::Compute;
use crate::model::DraftLayerWeights;
use crate::spec::DrafterSpec;

/// Buffers of the op.
pub(super) struct Buffers<'a> {
    pub(super) packs: &'a mut Packs,
    /// `[rows, hidden]`
    pub(super) context: &'a [f32],
    /// Scratch for keys and values, `[rows, 2 * kv_heads * head_dim]`.
    pub(super) kv: &'a mut [f32],
    /// Filled for the rows' positions.
    pub(super) rope: &'a RopeTable,
}

/// One drafter layer; the context goes straight to the projections, without the layer's norm.
pub(super) fn run(
    compute: &Compute,
    (spec, layer): (&DrafterSpec, &DraftLayerWeights),
    buffers: Buffers,
    (rows, identity): (&[Row], &[u32]),
    (cache, pages): (&mut Cache, &PageTables),
) {
    let (dim, half) = (spec.head_dim, spec.kv_heads * spec.head_dim);
    let width = 2 * half;
    let Buffers { packs, context, kv, rope } = buffers;
    let matrices = [&layer.k_proj, &layer.v_proj];
    project(compute, matrices, (0, width), packs, context, identity, kv);
    finish(compute, (spec, layer), (rows.len(), width), 0, half, kv);
    for (i, (row, kv)) in rows.iter().zip(kv.chunks_exact_mut(width)).enumerate() {
        let pages = pages.of(row.slot);
        let (keys, values) = kv.split_at_mut(half);
        let heads = keys.chunks_exact_mut(dim).zip(values.chunks_exact(dim));
        for (head, (key, value)) in heads.enumerate() {
            rope.rotate(i, key);
            cache.write((row.slot, pages), head, row.position as usize, key, value);
        }
    }
}
