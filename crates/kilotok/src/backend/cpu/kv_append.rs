//! Op `kv_append`: writes keys and values of every row at its position.

use super::super::Row;
use super::cache::Cache;
use super::pages::PageTables;
use crate::spec::HeadMap;

/// Copies keys and values out of `qkv`, `[rows, map.width]`.
pub(super) fn run(cache: &mut Cache, pages: &PageTables, rows: &[Row], map: &HeadMap, qkv: &[f32]) {
    let (qk_dim, v_dim) = (cache.qk_dim, cache.v_dim);
    for (row, qkv) in rows.iter().zip(qkv.chunks_exact(map.width)) {
        for (head, (k, v)) in map.k.iter().zip(&map.v).enumerate() {
            let place = (row.slot, pages.of(row.slot));
            let (key, value) = (&qkv[*k..][..qk_dim], &qkv[*v..][..v_dim]);
            cache.write(place, head, row.position as usize, key, value);
        }
    }
}
