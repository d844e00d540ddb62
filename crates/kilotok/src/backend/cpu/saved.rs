//! Saved rings: what a window still needs of the positions before a point, for many points.

use super::super::{Slot, Snapshot};
use super::cache::{Cache, CacheShape, padded, read_key};

/// Saved keys and values of one layer; holds nothing where the layer's cache is paged.
#[derive(Debug)]
pub(super) struct Saved {
    /// `[snapshots, kv_heads, history, qk_dim]`
    keys: Vec<f32>,
    /// `[snapshots, kv_heads, history, padded(v_dim)]`
    values: Vec<f32>,
    /// Positions that a window sees before the one that comes next.
    history: usize,
}

/// Bytes of one layer in one snapshot, or `None` where the number overflows.
pub(super) fn num_bytes(shape: &CacheShape) -> Option<usize> {
    let width = shape.qk_dim + padded(shape.v_dim);
    shape.history().checked_mul(shape.kv_heads)?.checked_mul(width * 4)
}

impl Saved {
    pub(super) fn new(shape: &CacheShape, snapshots: usize) -> Self {
        let history = shape.history();
        let rows = snapshots * shape.kv_heads * history;
        Self {
            keys: vec![0.0; rows * shape.qk_dim],
            values: vec![0.0; rows * padded(shape.v_dim)],
            history,
        }
    }

    /// Copies the positions before `end` that count out of a slot's ring.
    pub(super) fn save(&mut self, cache: &Cache, slot: Slot, end: usize, snapshot: Snapshot) {
        let (k, v) = (cache.qk_dim, padded(cache.v_dim));
        for head in 0..cache.kv_heads {
            let mut position = end.saturating_sub(self.history);
            while position < end {
                let run = cache.run_at(slot, &[], head, position);
                let count = run.len.min(end - position);
                let at = self.row(cache.kv_heads, (snapshot, head), end - position);
                for (i, key) in self.keys[at * k..][..count * k].chunks_exact_mut(k).enumerate() {
                    read_key(run.keys, run.offset + i, key);
                }
                self.values[at * v..][..count * v].copy_from_slice(&run.values[..count * v]);
                position += count;
            }
        }
    }

    /// Copies them back, into any slot's ring.
    pub(super) fn restore(&self, cache: &mut Cache, slot: Slot, end: usize, snapshot: Snapshot) {
        let (k, v) = (cache.qk_dim, padded(cache.v_dim));
        for head in 0..cache.kv_heads {
            for position in end.saturating_sub(self.history)..end {
                let at = self.row(cache.kv_heads, (snapshot, head), end - position);
                let (key, value) = (&self.keys[at * k..][..k], &self.values[at * v..][..v]);
                cache.write((slot, &[]), head, position, key, &value[..cache.v_dim]);
            }
        }
    }

    /// Index of the row that holds a head's position `back` positions before the end.
    fn row(&self, heads: usize, (snapshot, head): (Snapshot, usize), back: usize) -> usize {
        (snapshot as usize * heads + head) * self.history + self.history - back
    }

    /// Bytes held.
    pub(super) fn num_bytes(&self) -> usize {
        (self.keys.len() + self.values.len()) * 4
    }
}
