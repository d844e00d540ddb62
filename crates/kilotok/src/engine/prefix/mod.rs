//! Prefixes that sequences share: pages of the full-attention cache, and snapshots of what pages
//! do not hold.
//!
//! A page whose positions are all in the cache for good is immutable and may stand in many
//! sequences' tables. A sequence can start behind a prefix only where a snapshot was saved (rings
//! hold the newest positions alone): at the end of a prompt, where two prompts part, at every
//! `interval`, and where a sequence ended.

mod index;
mod lru;
mod snapshots;

use index::{Found, Index, Key};
use snapshots::Snapshots;

pub(super) use index::Origin;

use super::pages::PagePool;
use crate::backend::{Cached, Limits, Page, Snapshot};

/// The pages of one running sequence.
#[derive(Debug, Default)]
pub(super) struct Lease {
    origin: Origin,
    /// In order of position.
    pages: Vec<Page>,
    /// Pages of the index that hold the same as the first of `pages`; pinned. Where they differ
    /// another sequence was there first, and this one's are its own.
    chain: Vec<Page>,
    cached: Option<Cached>,
    /// Positions that this prompt has in common with an earlier one; 0 where nothing is to be
    /// gained by a snapshot there.
    branch: usize,
}

impl Lease {
    pub(super) fn pages(&self) -> &[Page] {
        &self.pages
    }

    /// What was found.
    pub(super) fn cached(&self) -> Option<Cached> {
        self.cached
    }
}

/// All pages, free, in use or kept for later.
#[derive(Debug)]
pub(super) struct PrefixCache {
    pool: PagePool,
    index: Index,
    snapshots: Snapshots,
    enabled: bool,
    /// Number of the weights in use.
    weights: u32,
    page_size: usize,
    /// Positions between two snapshots of a long prompt.
    interval: usize,
    /// Pages of a prefix that was found.
    path: Vec<Page>,
}

impl PrefixCache {
    pub(super) fn new(limits: Limits) -> Self {
        let Limits { pages, page_size, max_positions, snapshots, .. } = limits;
        let enabled = snapshots > 0;
        // One prompt may take half of all snapshots.
        let interval = (2 * max_positions).div_ceil(snapshots.max(1));
        Self {
            pool: PagePool::new(pages),
            index: Index::new(if enabled { pages } else { 0 }, page_size),
            snapshots: Snapshots::new(snapshots),
            enabled,
            weights: 0,
            page_size,
            interval: interval.next_multiple_of(page_size),
            path: Vec::with_capacity(max_positions.div_ceil(page_size)),
        }
    }

    /// Pages for `positions`, the first of them those of the longest prefix of `prompt` that can
    /// be had, unless it may not `share`. `None` where too few pages are free or can be evicted.
    pub(super) fn admit(
        &mut self,
        prompt: &[u32],
        positions: usize,
        origin: Origin,
        share: bool,
    ) -> Option<Lease> {
        let origin = Origin { weights: self.weights, ..origin };
        let mut lease = Lease { origin, ..Lease::default() };
        self.path.clear();
        if self.enabled && share {
            self.search(prompt, &mut lease);
        }
        let count = positions.div_ceil(self.page_size);
        for page in &lease.chain {
            self.index.pin(*page);
        }
        let missing = count - lease.chain.len();
        if self.pool.free() + self.index.evictable() < missing {
            self.unpin(&lease.chain);
            return None;
        }
        while self.pool.free() < missing
            && let Some((page, snapshot)) = self.index.evict()
        {
            self.pool.give(page);
            if let Some(snapshot) = snapshot {
                self.snapshots.give(snapshot);
            }
        }
        lease.pages.reserve_exact(count);
        lease.pages.extend_from_slice(&lease.chain);
        self.pool.take(missing, &mut lease.pages);
        lease.chain.reserve_exact(count - lease.chain.len());
        if let Some(cached) = lease.cached {
            self.snapshots.touch(cached.snapshot);
        }
        Some(lease)
    }

    /// Finds the longest prefix with a snapshot, and how far others go on without one.
    fn search(&mut self, prompt: &[u32], lease: &mut Lease) {
        // The last token is fed in any case: its logits choose the first token.
        let blocks = (prompt.len() - 1) / self.page_size;
        for tokens in prompt.chunks_exact(self.page_size).take(blocks) {
            let parent = self.path.last().copied();
            let key = Key { origin: &lease.origin, parent, tokens };
            let Found::Page(page) = self.index.find(key) else { break };
            self.path.push(page);
            if let Some(snapshot) = self.index.snapshot(page) {
                let positions = self.path.len() * self.page_size;
                lease.cached = Some(Cached { positions, snapshot });
            }
        }
        let start = lease.cached.map_or(0, |cached| cached.positions);
        lease.chain.extend_from_slice(&self.path[..start / self.page_size]);
        let met = self.path.len() * self.page_size;
        lease.branch = if met > start { met } else { 0 };
    }

    fn unpin(&mut self, chain: &[Page]) {
        for page in chain.iter().rev() {
            self.index.unpin(*page);
        }
    }

    /// Points in `after + 1 ..= kept` at which a prompt of `len` tokens is worth a snapshot.
    pub(super) fn points(
        &self,
        lease: &Lease,
        len: usize,
        after: usize,
        kept: usize,
    ) -> impl Iterator<Item = usize> + use<> {
        let (size, interval, branch) = (self.page_size, self.interval, lease.branch);
        let last = (len - 1) / size * size;
        (after / size + 1..=kept / size)
            .map(move |block| block * size)
            .filter(move |p| *p == last || *p == branch || (*p < last && p % interval == 0))
    }

    /// The last point of a sequence that has `kept` positions in its cache.
    pub(super) fn last_point(&self, kept: usize) -> usize {
        if self.enabled { kept / self.page_size * self.page_size } else { 0 }
    }

    /// Enters the whole pages of the first `positions` tokens of a sequence. Returns a snapshot to
    /// save its state there into, unless there is one.
    pub(super) fn publish(
        &mut self,
        lease: &mut Lease,
        tokens: &[u32],
        positions: usize,
    ) -> Option<Snapshot> {
        if !self.enabled || lease.origin.weights != self.weights {
            return None;
        }
        let blocks = positions / self.page_size;
        for block in lease.chain.len()..blocks {
            let parent = lease.chain.last().copied();
            let tokens = &tokens[block * self.page_size..][..self.page_size];
            let key = Key { origin: &lease.origin, parent, tokens };
            let page = match self.index.find(key) {
                Found::Taken => return None,
                Found::Page(page) => {
                    self.index.pin(page);
                    page
                }
                Found::Nothing => {
                    self.index.insert(key, lease.pages[block]);
                    lease.pages[block]
                }
            };
            lease.chain.push(page);
        }
        let page = *lease.chain.get(blocks.checked_sub(1)?)?;
        if let Some(snapshot) = self.index.snapshot(page) {
            self.snapshots.touch(snapshot);
            return None;
        }
        let (snapshot, loser) = self.snapshots.take(page)?;
        if let Some(loser) = loser {
            self.index.set_snapshot(loser, None);
        }
        self.index.set_snapshot(page, Some(snapshot));
        Some(snapshot)
    }

    /// Finds nothing that was there before: the weights are other ones. Sequences that share pages
    /// go on sharing them, and if they are fed again they fill them alike.
    pub(super) fn forget(&mut self) {
        self.weights += 1;
    }

    /// Takes a sequence's pages back; those in the index stay there.
    pub(super) fn release(&mut self, lease: &Lease) {
        self.unpin(&lease.chain);
        for (block, page) in lease.pages.iter().enumerate() {
            if lease.chain.get(block) != Some(page) {
                self.pool.give(*page);
            }
        }
    }

    /// Pages of running sequences.
    pub(super) fn used(&self) -> usize {
        self.pool.total() - self.pool.free() - self.index.evictable()
    }

    /// Pages that are kept for later and can be evicted.
    pub(super) fn cached(&self) -> usize {
        self.index.evictable()
    }
}

#[cfg(test)]
mod tests;
