//! Op `draft_attention`: rows of a block attend to the context before it and to the block.

use std::ops::Range;

use super::super::DraftBlock;
use super::attend::AttendScratch;
use super::attention::{self, BlockKeys, Heads, Keys, QueryRow};
use super::cache::{Cache, LANES, key_floats, padded, write_key};
use super::draft_qkv::Layout;
use super::pages::PageTables;
use super::workers::Compute;
use crate::spec::DrafterSpec;

/// Keys and values of the blocks in flight, by block and head.
#[derive(Debug)]
pub(super) struct BlockCache {
    keys: Vec<f32>,
    values: Vec<f32>,
}

impl BlockCache {
    /// Room for `rows` rows.
    pub(super) fn new(spec: &DrafterSpec, rows: usize) -> Self {
        let (heads, dim) = (rows * spec.kv_heads, spec.head_dim);
        // A block of a single row takes the keys of a whole vector.
        Self { keys: vec![0.0; heads * LANES * dim], values: vec![0.0; heads * padded(dim)] }
    }

    /// Bytes held.
    pub(super) fn num_bytes(&self) -> usize {
        (self.keys.len() + self.values.len()) * 4
    }

    /// Sorts keys and values of `qkv`, `[rows, Layout::width]`, by block, head and row.
    fn fill(&mut self, spec: &DrafterSpec, blocks: &[DraftBlock], qkv: &[f32]) {
        let (layout, dim, len) = (Layout::of(spec), spec.head_dim, padded(spec.head_dim));
        let mut first = 0;
        for block in blocks {
            let rows = block.drafts as usize + 1;
            for row in 0..rows {
                let from = &qkv[(first + row) * layout.width..][..layout.width];
                for head in 0..spec.kv_heads {
                    let to = key_place_of(first, head, rows, spec);
                    let key = &from[layout.k + head * dim..][..dim];
                    write_key(&mut self.keys[to..to + key_floats(rows, dim)], row, key);
                    let to = (first * spec.kv_heads + head * rows + row) * len;
                    let value = &from[layout.v + head * dim..][..dim];
                    self.values[to..to + dim].copy_from_slice(value);
                }
            }
            first += rows;
        }
    }
}

/// Where the keys of a head of the block of `rows` rows from row `first` on start: blocks before
/// it took [`LANES`] positions a row at most.
fn key_place_of(first: usize, head: usize, rows: usize, spec: &DrafterSpec) -> usize {
    first * LANES * spec.kv_heads * spec.head_dim + head * key_floats(rows, spec.head_dim)
}

/// Positions that row `row` of a block sees: context strictly before the anchor and block rows,
/// at a distance below the window on either side.
pub(super) fn visible(
    block: &DraftBlock,
    row: usize,
    window: Option<usize>,
    causal: bool,
) -> Range<usize> {
    let start = block.start as usize;
    let position = start + row;
    let end = if causal { position + 1 } else { start + block.drafts as usize + 1 };
    match window {
        None => 0..end,
        Some(w) => (position + 1).saturating_sub(w)..end.min(position + w),
    }
}

/// Buffers of the op.
pub(super) struct Buffers<'a> {
    /// `[rows, Layout::width]`, rotated.
    pub(super) qkv: &'a [f32],
    pub(super) block: &'a mut BlockCache,
    pub(super) scratch: &'a mut [AttendScratch],
    /// Block and row inside it of every row.
    pub(super) places: &'a [(u32, u32)],
    /// Offsets of query heads.
    pub(super) offsets: &'a [usize],
    /// `[rows, heads * head_dim]`
    pub(super) out: &'a mut [f32],
}

/// One drafter layer.
pub(super) fn run(
    compute: &Compute,
    (spec, layer): (&DrafterSpec, usize),
    sinks: Option<&[f32]>,
    blocks: &[DraftBlock],
    (cache, pages): (&Cache, &PageTables),
    buffers: Buffers,
) {
    let Buffers { qkv, block, scratch, places, offsets, out } = buffers;
    block.fill(spec, blocks, qkv);
    let block = &*block;
    let len = spec.kv_heads * padded(spec.head_dim);
    let heads =
        Heads { count: spec.heads, offsets, qkv, qkv_stride: Layout::of(spec).width, sinks };
    let query = |i: usize| {
        let (number, row) = (places[i].0 as usize, places[i].1 as usize);
        let this = &blocks[number];
        let rows = this.drafts as usize + 1;
        let first = i - row;
        let keys = BlockKeys {
            start: this.start as usize,
            keys: &block.keys[key_place_of(first, 0, rows, spec)..],
            values: &block.values[first * len..(first + rows) * len],
            rows,
        };
        QueryRow {
            keys: Keys { cache, slot: this.slot, pages: pages.of(this.slot), block: Some(keys) },
            visible: visible(this, row, spec.windows[layer], spec.causal[layer]),
        }
    };
    attention::run(compute, scratch, places.len(), &heads, cache, query, out);
}
