//! The free pages of the full-attention cache.

use crate::backend::Page;

/// Hands out pages and takes them back; allocates only at construction.
#[derive(Debug)]
pub(super) struct PagePool {
    free: Vec<Page>,
    total: usize,
}

impl PagePool {
    pub(super) fn new(pages: usize) -> Self {
        Self { free: (0..pages as Page).rev().collect(), total: pages }
    }

    /// Appends `count` pages to `pages`; as many as there are, where too few are free.
    pub(super) fn take(&mut self, count: usize, pages: &mut Vec<Page>) {
        let rest = self.free.len().saturating_sub(count);
        pages.extend(self.free.drain(rest..));
    }

    /// Takes a page back.
    pub(super) fn give(&mut self, page: Page) {
        debug_assert!(!self.free.contains(&page), "page given back twice");
        self.free.push(page);
    }

    pub(super) fn free(&self) -> usize {
        self.free.len()
    }

    pub(super) fn total(&self) -> usize {
        self.total
    }
}

#[cfg(test)]
mod tests {
    use super::PagePool;
    use proptest::prelude::*;

    proptest! {
        /// Whatever is taken and given back: no page is out twice, none is lost.
        #[test]
        fn pages_are_conserved(counts in prop::collection::vec((0usize..12, any::<bool>()), 1..60)) {
            let mut pool = PagePool::new(32);
            let mut out: Vec<Vec<u32>> = Vec::new();
            for (count, give) in counts {
                if give && !out.is_empty() {
                    for page in out.swap_remove(count % out.len()) {
                        pool.give(page);
                    }
                } else if count <= pool.free() {
                    let mut pages = Vec::new();
                    pool.take(count, &mut pages);
                    prop_assert_eq!(pages.len(), count);
                    out.push(pages);
                }
                let mut all: Vec<u32> = out.iter().flatten().copied().collect();
                prop_assert_eq!(all.len(), pool.total() - pool.free());
                all.sort_unstable();
                all.dedup();
                prop_assert_eq!(all.len(), pool.total() - pool.free());
            }
        }
    }
}
