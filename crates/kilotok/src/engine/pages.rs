//! The page budget of the full-attention cache.

use crate::backend::Page;

/// Hands out pages and takes them back; allocates only at construction.
#[derive(Debug)]
pub(super) struct PagePool {
    free: Vec<Page>,
    page_size: usize,
    total: usize,
}

impl PagePool {
    pub(super) fn new(pages: usize, page_size: usize) -> Self {
        Self { free: (0..pages as Page).rev().collect(), page_size, total: pages }
    }

    /// Pages for `positions`, or `None` where too few are free.
    pub(super) fn take(&mut self, positions: usize) -> Option<Vec<Page>> {
        let count = positions.div_ceil(self.page_size);
        let rest = self.free.len().checked_sub(count)?;
        Some(self.free.split_off(rest))
    }

    /// Takes pages back.
    pub(super) fn give(&mut self, pages: &[Page]) {
        debug_assert!(pages.iter().all(|p| !self.free.contains(p)), "page given back twice");
        self.free.extend_from_slice(pages);
    }

    pub(super) fn used(&self) -> usize {
        self.total - self.free.len()
    }
}

#[cfg(test)]
mod tests {
    use super::PagePool;
    use proptest::prelude::*;

    proptest! {
        /// Whatever is taken and given back: no page is out twice, none is lost.
        #[test]
        fn pages_are_conserved(sizes in prop::collection::vec((1usize..200, any::<bool>()), 1..60)) {
            let mut pool = PagePool::new(32, 16);
            let mut out: Vec<Vec<u32>> = Vec::new();
            for (positions, give) in sizes {
                if give && !out.is_empty() {
                    let pages = out.swap_remove(positions % out.len());
                    pool.give(&pages);
                } else if let Some(pages) = pool.take(positions) {
                    prop_assert_eq!(pages.len(), positions.div_ceil(16));
                    out.push(pages);
                }
                let mut all: Vec<u32> = out.iter().flatten().copied().collect();
                prop_assert_eq!(all.len(), pool.used());
                all.sort_unstable();
                all.dedup();
                prop_assert_eq!(all.len(), pool.used());
            }
        }
    }
}
