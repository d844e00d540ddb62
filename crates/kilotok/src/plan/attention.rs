//! Time of an attention op alone, from how it cuts its work (`cuda/include/kilotok/attention`).

use super::constants::{ITEM, PAIRS_KB, TILE, TILE_KB};
use crate::backend::gpu::outline::{AttentionShape, PassShape};

/// Positions of a tile.
const TILE_POSITIONS: u64 = 64;
/// Pairs of row and query head that a *place* of warps multiplies.
const PLACE_PAIRS: u64 = 16;
/// Shared memory for tiles and queries.
const SCRATCH_BYTES: u64 = 55_296;
const SMALL_COLUMNS: u64 = 64;

/// Limits that follow from the dimensions of heads.
struct Cut {
    /// Query heads of a key/value head.
    group: u64,
    /// Value columns of an item at most.
    columns: u64,
    tile_bytes: u64,
    /// Places of an item at most.
    places: u64,
}

impl Cut {
    fn new(shape: &AttentionShape) -> Self {
        let key_bytes = shape.qk_dim.div_ceil(64) * 128;
        let query_bytes = PLACE_PAIRS * key_bytes;
        let tile = |columns: u64| TILE_POSITIONS * (key_bytes + 2 * columns);
        let wide =
            shape.v_dim > SMALL_COLUMNS && query_bytes + tile(2 * SMALL_COLUMNS) <= SCRATCH_BYTES;
        let (columns, most) = if wide { (2 * SMALL_COLUMNS, 3) } else { (SMALL_COLUMNS, 6) };
        let tile_bytes = tile(columns);
        let fitting = SCRATCH_BYTES.saturating_sub(tile_bytes) / query_bytes;
        let group = shape.heads / shape.kv_heads.max(1);
        Self { group, columns, tile_bytes, places: fitting.clamp(1, most) }
    }
}

/// Tiles of a chunk for a row that sees positions up to `last`.
fn chunk_tiles(shape: &AttentionShape, last: u64) -> u64 {
    if shape.max_chunks <= 1 {
        return u64::MAX;
    }
    let mut tiles = last / TILE_POSITIONS + 1;
    if shape.window != 0 {
        tiles = tiles.min((shape.window + 8 + TILE_POSITIONS - 2) / TILE_POSITIONS + 1);
    }
    tiles.div_ceil(shape.max_chunks)
}

/// Microseconds on `blocks` multiprocessors: what the block with the most items does, one item
/// after the other. `is_draft`: all rows see all rows, so that they are cut alike.
pub(super) fn alone(shape: &AttentionShape, pass: PassShape, blocks: u64, is_draft: bool) -> f64 {
    let cut = Cut::new(shape);
    let (start, end) = (pass.context, pass.context + pass.rows_each);
    // Runs of rows that are cut alike: (tiles of a chunk, first row, past the last).
    let mut runs: Vec<(u64, u64, u64)> = Vec::new();
    for row in start..end {
        let tiles = chunk_tiles(shape, if is_draft { end - 1 } else { row });
        match runs.last_mut() {
            Some((same, _, past)) if *same == tiles => *past = row + 1,
            _ => runs.push((tiles, row, row + 1)),
        }
    }
    let (mut before, mut us) = (0, 0.0);
    for _ in 0..pass.sequences {
        for &(tiles, first, past) in &runs {
            let begin = match shape.window {
                0 => 0,
                window => (first + 1).saturating_sub(window),
            };
            let (low, high) = (begin / TILE_POSITIONS, (past - 1) / TILE_POSITIONS);
            let chunks = high / tiles - low / tiles + 1;
            let each = tiles.min(high - low + 1);
            let places = ((past - first) * cut.group).div_ceil(PLACE_PAIRS);
            let places_each = places.div_ceil(places.div_ceil(cut.places));
            let parts = places.div_ceil(places_each);
            let columns = shape.v_dim.div_ceil(cut.columns);
            let items = shape.kv_heads * chunks * parts * columns;
            // Items go to the blocks in turn; the first block has the most.
            let upto = |count: u64| count.div_ceil(blocks);
            let mine = (upto(before + items) - upto(before)) as f64;
            before += items;
            let kb = cut.tile_bytes as f64 / 1e3;
            let per_kb = TILE_KB.value + PAIRS_KB.value * (places_each - 1) as f64;
            us += mine * (ITEM.value + each as f64 * (TILE.value + kb * per_kb));
        }
    }
    us
}
