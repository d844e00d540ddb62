//! Rows that will be drafter context once something reads it.
//!
//! A sequence for which drafts do not pay decodes row by row, and would read all weights of the
//! context line for each of them; many rows at once cost little more than one (law 1 says that their
//! bits are the same).

use crate::backend::{Row, Slot};

/// Rows of a slot at most.
const MOST_ROWS: usize = 32;

/// Rows and their taps by slot, allocated once.
#[derive(Debug)]
pub(super) struct Deferred {
    /// `[slots, rows, width]`.
    taps: Vec<f32>,
    rows: Vec<Vec<Row>>,
    /// Floats of a row.
    width: usize,
    /// Rows of a slot at most.
    most: usize,
}

impl Deferred {
    /// For `slots` slots and `width` taps a row.
    pub(super) fn new(slots: usize, most: usize, width: usize) -> Self {
        let most = most.min(MOST_ROWS);
        let rows = (0..slots).map(|_| Vec::with_capacity(most)).collect();
        Self { taps: vec![0.0; slots * most * width], rows, width, most }
    }

    /// Bytes that [`Deferred::new`] takes, nearly (`None` where the number overflows).
    pub(super) fn bytes_for(slots: usize, most: usize, width: usize) -> Option<usize> {
        slots.checked_mul(most.min(MOST_ROWS))?.checked_mul(width)?.checked_mul(4)
    }

    /// Bytes held.
    pub(super) fn num_bytes(&self) -> usize {
        self.taps.len() * 4
    }

    /// Whether no more rows of a slot fit.
    pub(super) fn is_full(&self, slot: Slot) -> bool {
        self.rows[slot as usize].len() == self.most
    }

    /// Keeps a row; there is room.
    pub(super) fn push(&mut self, row: Row, taps: &[f32]) {
        let of_slot = &mut self.rows[row.slot as usize];
        let place = row.slot as usize * self.most + of_slot.len();
        self.taps[place * self.width..][..self.width].copy_from_slice(taps);
        of_slot.push(row);
    }

    /// What is kept of a slot, and its taps `[rows, width]`.
    pub(super) fn of(&self, slot: Slot) -> (&[Row], &[f32]) {
        let rows = &self.rows[slot as usize];
        let first = slot as usize * self.most * self.width;
        (rows, &self.taps[first..first + rows.len() * self.width])
    }

    /// Forgets what is kept of a slot.
    pub(super) fn clear(&mut self, slot: Slot) {
        self.rows[slot as usize].clear();
    }
}
