//! Where keys and values live: pages for full attention, a ring per slot for windows.

use super::super::{Page, Slot};

/// Heads are padded with zeros to a multiple of this many floats: whole vectors on every path.
const PAD: usize = 16;

/// Positions whose keys stand side by side, dimension by dimension, so that a vector of any path
/// takes one dimension of several keys.
pub(super) const LANES: usize = 16;

/// Floats of the keys of `positions` positions.
pub(super) fn key_floats(positions: usize, dim: usize) -> usize {
    positions.next_multiple_of(LANES) * dim
}

/// Where dimension 0 of key `offset` is; the next dimensions are [`LANES`] floats apart.
pub(super) fn key_place(offset: usize, dim: usize) -> usize {
    offset / LANES * LANES * dim + offset % LANES
}

/// Writes key `offset` among others of its dimension.
pub(super) fn write_key(keys: &mut [f32], offset: usize, key: &[f32]) {
    let place = key_place(offset, key.len());
    for (to, from) in keys[place..].iter_mut().step_by(LANES).zip(key) {
        *to = *from;
    }
}

/// Reads key `offset` from among others.
pub(super) fn read_key(keys: &[f32], offset: usize, key: &mut [f32]) {
    let place = key_place(offset, key.len());
    for (to, from) in key.iter_mut().zip(keys[place..].iter().step_by(LANES)) {
        *to = *from;
    }
}

/// Positions of one head that follow each other without a gap.
pub(super) struct Run<'a> {
    /// The keys of a page, a ring or a block; see [`key_place`].
    pub(super) keys: &'a [f32],
    /// The first position's place in `keys`.
    pub(super) offset: usize,
    /// Values, `[len, padded(v_dim)]`, and what stands behind them.
    pub(super) values: &'a [f32],
    /// Number of positions.
    pub(super) len: usize,
}

/// Keys and values of one layer, f32.
#[derive(Debug)]
pub(super) struct Cache {
    /// `[blocks, kv_heads, key_floats(positions, qk_dim)]`
    keys: Vec<f32>,
    /// `[blocks, kv_heads, positions, padded(v_dim)]`
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
    /// A block is a page.
    Paged { page_size: usize },
    /// A block is a slot's ring: position `p` at `p % len`.
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
        let positions = self.positions.checked_next_multiple_of(LANES)?;
        let head = positions.checked_mul((self.qk_dim + padded(self.v_dim)) * 4)?;
        self.blocks.checked_mul(self.kv_heads)?.checked_mul(head)
    }
}

impl Cache {
    pub(super) fn new(shape: CacheShape) -> Self {
        let heads = shape.blocks * shape.kv_heads;
        Self {
            keys: vec![0.0; heads * key_floats(shape.positions, shape.qk_dim)],
            values: vec![0.0; heads * shape.positions * padded(shape.v_dim)],
            kv_heads: shape.kv_heads,
            qk_dim: shape.qk_dim,
            v_dim: shape.v_dim,
            kind: match shape.window {
                Some(_) => Kind::Ring { len: shape.positions },
                None => Kind::Paged { page_size: shape.positions },
            },
        }
    }

    /// Positions of a block.
    fn positions(&self) -> usize {
        match self.kind {
            Kind::Paged { page_size } => page_size,
            Kind::Ring { len } => len,
        }
    }

    /// Number of the head among all blocks' heads that holds `position`, and its place there.
    fn place(&self, slot: Slot, pages: &[Page], head: usize, position: usize) -> (usize, usize) {
        let len = self.positions();
        let block = match self.kind {
            Kind::Paged { .. } => pages[position / len],
            Kind::Ring { .. } => slot,
        };
        (block as usize * self.kv_heads + head, position % len)
    }

    /// `position` and those after it that follow without a gap.
    pub(super) fn run_at(
        &self,
        slot: Slot,
        pages: &[Page],
        head: usize,
        position: usize,
    ) -> Run<'_> {
        let (head, offset) = self.place(slot, pages, head, position);
        let len = self.positions();
        let keys = key_floats(len, self.qk_dim);
        Run {
            keys: &self.keys[head * keys..][..keys],
            offset,
            values: &self.values[(head * len + offset) * padded(self.v_dim)..],
            len: len - offset,
        }
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
        let (head, offset) = self.place(slot, pages, head, position);
        let len = self.positions();
        let keys = key_floats(len, self.qk_dim);
        write_key(&mut self.keys[head * keys..][..keys], offset, &key[..self.qk_dim]);
        let row = (head * len + offset) * padded(self.v_dim);
        self.values[row..][..self.v_dim].copy_from_slice(value);
    }

    /// Zeroes what a ring holds for `slot`; pages are left alone, they may belong to another.
    pub(super) fn clear(&mut self, slot: Slot) {
        if let Kind::Ring { len } = self.kind {
            let keys = self.kv_heads * key_floats(len, self.qk_dim);
            let values = self.kv_heads * len * padded(self.v_dim);
            let slot = slot as usize;
            self.keys[slot * keys..(slot + 1) * keys].fill(0.0);
            self.values[slot * values..(slot + 1) * values].fill(0.0);
        }
    }

    /// Bytes held.
    pub(super) fn num_bytes(&self) -> usize {
        (self.keys.len() + self.values.len()) * 4
    }
}
