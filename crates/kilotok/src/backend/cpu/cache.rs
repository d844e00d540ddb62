//! Where keys and values live: pages for full attention, a ring per slot for windows.

use super::super::{Page, Slot};

/// Heads are padded with zeros to a multiple of this many floats: whole vectors on every path.
const PAD: usize = 16;

/// Keys and values of one layer, f32.
#[derive(Debug)]
pub(super) struct Cache {
    keys: Vec<f32>,
    values: Vec<f32>,
    /// Key/value heads.
    pub(super) kv_heads: usize,
    /// Dimension of a key.
    pub(super) qk_dim: usize,
    /// Dimension of a value.
    pub(super) v_dim: usize,
    kind: Kind,
}

#[derive(Clone, Copy, Debug)]
enum Kind {
    /// `[pages, kv_heads, page_size, dim]`
    Paged { page_size: usize },
    /// `[slots, kv_heads, len, dim]`, position `p` at `p % len`
    Ring { len: usize },
}

/// Floats of a padded head.
pub(super) fn padded(dim: usize) -> usize {
    dim.next_multiple_of(PAD)
}

/// Shape of a cache to be made.
#[derive(Clone, Copy, Debug)]
pub(super) struct CacheShape {
    pub(super) kv_heads: usize,
    pub(super) qk_dim: usize,
    pub(super) v_dim: usize,
    /// Pages or slots.
    pub(super) blocks: usize,
    /// Positions of a page or of a ring.
    pub(super) positions: usize,
    /// Positions that a row sees, its own included, where the cache is a ring; `None`: pages.
    pub(super) window: Option<usize>,
}

impl CacheShape {
    /// Positions that pages do not hold and that a row sees before its own.
    pub(super) fn history(&self) -> usize {
        self.window.map_or(0, |window| window.saturating_sub(1))
    }

    /// Bytes of keys and values, or `None` where the number overflows.
    pub(super) fn num_bytes(&self) -> Option<usize> {
        self.blocks
            .checked_mul(self.positions)?
            .checked_mul(self.kv_heads)?
            .checked_mul((padded(self.qk_dim) + padded(self.v_dim)) * 4)
    }
}

impl Cache {
    pub(super) fn new(shape: CacheShape) -> Self {
        let rows = shape.blocks * shape.positions * shape.kv_heads;
        Self {
            keys: vec![0.0; rows * padded(shape.qk_dim)],
            values: vec![0.0; rows * padded(shape.v_dim)],
            kv_heads: shape.kv_heads,
            qk_dim: shape.qk_dim,
            v_dim: shape.v_dim,
            kind: match shape.window {
                Some(_) => Kind::Ring { len: shape.positions },
                None => Kind::Paged { page_size: shape.positions },
            },
        }
    }

    /// Index of the first of the rows that hold `position` and those after it without a gap, and
    /// how many there are; a row is one position of one head.
    pub(super) fn rows_at(
        &self,
        slot: Slot,
        pages: &[Page],
        head: usize,
        position: usize,
    ) -> (usize, usize) {
        let (block, offset, len) = match self.kind {
            Kind::Paged { page_size } => {
                (pages[position / page_size] as usize, position % page_size, page_size)
            }
            Kind::Ring { len } => (slot as usize, position % len, len),
        };
        ((block * self.kv_heads + head) * len + offset, len - offset)
    }

    /// Writes key and value of one head at a position.
    pub(super) fn write(
        &mut self,
        (slot, pages): (Slot, &[Page]),
        head: usize,
        position: usize,
        key: &[f32],
        value: &[f32],
    ) {
        let (row, _) = self.rows_at(slot, pages, head, position);
        self.keys[row * padded(self.qk_dim)..][..self.qk_dim].copy_from_slice(key);
        self.values[row * padded(self.v_dim)..][..self.v_dim].copy_from_slice(value);
    }

    /// Overwrites whole rows from row `row` on, padding included.
    pub(super) fn write_rows(&mut self, row: usize, keys: &[f32], values: &[f32]) {
        self.keys[row * padded(self.qk_dim)..][..keys.len()].copy_from_slice(keys);
        self.values[row * padded(self.v_dim)..][..values.len()].copy_from_slice(values);
    }

    /// The keys from row `row` on.
    pub(super) fn keys(&self, row: usize) -> &[f32] {
        &self.keys[row * padded(self.qk_dim)..]
    }

    /// The values from row `row` on.
    pub(super) fn values(&self, row: usize) -> &[f32] {
        &self.values[row * padded(self.v_dim)..]
    }

    /// Zeroes what a ring holds for `slot`; pages are left alone, they may belong to another.
    pub(super) fn clear(&mut self, slot: Slot) {
        if let Kind::Ring { len } = self.kind {
            let rows = self.kv_heads * len;
            let (k, v) = (padded(self.qk_dim), padded(self.v_dim));
            let at = slot as usize * rows;
            self.keys[at * k..(at + rows) * k].fill(0.0);
            self.values[at * v..(at + rows) * v].fill(0.0);
        }
    }

    /// Bytes held.
    pub(super) fn num_bytes(&self) -> usize {
        (self.keys.len() + self.values.len()) * 4
    }
}
