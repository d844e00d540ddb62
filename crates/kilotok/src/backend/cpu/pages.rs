//! Page tables of all slots, allocated once.

use super::super::{Limits, Page, Slot};

/// Which pages hold each slot's positions.
#[derive(Debug)]
pub(super) struct PageTables {
    /// `[slots, per_slot]`
    pages: Vec<Page>,
    lens: Vec<usize>,
    per_slot: usize,
}

impl PageTables {
    pub(super) fn new(limits: Limits) -> Self {
        let per_slot = limits.max_positions.div_ceil(limits.page_size);
        Self { pages: vec![0; limits.slots * per_slot], lens: vec![0; limits.slots], per_slot }
    }

    /// Bytes the tables will take, or `None` where the number overflows.
    pub(super) fn bytes_for(limits: Limits) -> Option<usize> {
        limits.max_positions.div_ceil(limits.page_size).checked_mul(limits.slots)?.checked_mul(4)
    }

    /// Replaces a slot's table; pages beyond the largest sequence are left out.
    pub(super) fn set(&mut self, slot: Slot, pages: &[Page]) {
        let len = pages.len().min(self.per_slot);
        let at = slot as usize * self.per_slot;
        self.pages[at..at + len].copy_from_slice(&pages[..len]);
        self.lens[slot as usize] = len;
    }

    /// The pages of a slot, in order of position.
    pub(super) fn of(&self, slot: Slot) -> &[Page] {
        let at = slot as usize * self.per_slot;
        &self.pages[at..at + self.lens[slot as usize]]
    }

    /// Bytes held.
    pub(super) fn num_bytes(&self) -> usize {
        self.pages.len() * 4 + self.lens.len() * 8
    }
}
