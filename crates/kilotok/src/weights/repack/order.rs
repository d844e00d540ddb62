//! Which stored row stands where in the tiles.

use std::sync::Arc;

use super::TILE_ROWS;

/// The order of rows in the tiles of a packed matrix.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RowOrder {
    /// As stored, one matrix after the other.
    Stored,
    /// Two matrices of equal shape, tiles of 16 rows of the first (gate) above the same 16 rows of
    /// the second (up).
    GateUp,
    /// Row `i` is row `map[i]` of all matrices together.
    Map(Arc<[u32]>),
}

impl RowOrder {
    /// Tiles for matrices of these rows, or why there are none.
    pub(super) fn tiles(&self, rows: &[usize]) -> Result<usize, String> {
        let total = rows.iter().sum::<usize>();
        match self {
            _ if total == 0 => Err("there are no rows".to_owned()),
            Self::Stored => Ok(total.div_ceil(TILE_ROWS)),
            Self::GateUp => match rows {
                [gate, up] if gate == up => Ok(gate.div_ceil(TILE_ROWS / 2)),
                _ => Err(format!("rows {rows:?}, expected equally many of gate and up")),
            },
            Self::Map(map) => match map.iter().find(|row| **row as usize >= total) {
                Some(row) => Err(format!("row {row} is asked for, of {total}")),
                None => Ok(map.len().div_ceil(TILE_ROWS)),
            },
        }
    }

    /// Matrix and row behind packed row `row`; `None` where zeros stand.
    pub(super) fn source(
        &self,
        row: usize,
        rows: impl Iterator<Item = usize>,
    ) -> Option<(usize, usize)> {
        let mut at = match self {
            Self::Stored => row,
            Self::Map(map) => *map.get(row)? as usize,
            Self::GateUp => {
                const HALF: usize = TILE_ROWS / 2;
                let (tile, in_tile) = (row / TILE_ROWS, row % TILE_ROWS);
                let (part, at) = (in_tile / HALF, tile * HALF + in_tile % HALF);
                return rows.skip(part).find(|rows| at < *rows).map(|_| (part, at));
            }
        };
        for (part, rows) in rows.enumerate() {
            if at < rows {
                return Some((part, at));
            }
            at -= rows;
        }
        None
    }
}
