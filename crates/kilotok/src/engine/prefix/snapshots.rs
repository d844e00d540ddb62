//! Which page's prefix each saved state belongs to.

use super::lru::Lru;
use crate::backend::{Page, Snapshot};

/// Owners of a fixed number of snapshots.
#[derive(Debug)]
pub(super) struct Snapshots {
    free: Vec<Snapshot>,
    owners: Vec<Page>,
    used: Lru,
}

impl Snapshots {
    pub(super) fn new(count: usize) -> Self {
        Self {
            free: (0..count as Snapshot).rev().collect(),
            owners: vec![0; count],
            used: Lru::new(count),
        }
    }

    /// A snapshot for `owner`, and the page that loses it: that of the one used longest ago.
    pub(super) fn take(&mut self, owner: Page) -> Option<(Snapshot, Option<Page>)> {
        let free = self.free.pop();
        let snapshot = free.or_else(|| self.used.oldest())?;
        let loser = free.is_none().then(|| self.owners[snapshot as usize]);
        self.owners[snapshot as usize] = owner;
        self.used.touch(snapshot);
        Some((snapshot, loser))
    }

    /// Counts a use.
    pub(super) fn touch(&mut self, snapshot: Snapshot) {
        self.used.touch(snapshot);
    }

    /// Takes a snapshot back.
    pub(super) fn give(&mut self, snapshot: Snapshot) {
        self.used.remove(snapshot);
        self.free.push(snapshot);
    }
}
