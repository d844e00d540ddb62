//! Indices in order of use: a doubly linked list in arrays, allocated once.

const NONE: u32 = u32::MAX;

#[derive(Clone, Copy, Debug)]
struct Links {
    older: u32,
    newer: u32,
}

/// Some of the indices below a number fixed at construction, the least recently used first.
#[derive(Debug)]
pub(super) struct Lru {
    links: Vec<Option<Links>>,
    oldest: u32,
    newest: u32,
    len: usize,
}

impl Lru {
    pub(super) fn new(indices: usize) -> Self {
        Self { links: vec![None; indices], oldest: NONE, newest: NONE, len: 0 }
    }

    pub(super) fn len(&self) -> usize {
        self.len
    }

    pub(super) fn oldest(&self) -> Option<u32> {
        (self.oldest != NONE).then_some(self.oldest)
    }

    /// Makes an index the most recently used one, whether it was in or not.
    pub(super) fn touch(&mut self, index: u32) {
        self.remove(index);
        let links = Links { older: self.newest, newer: NONE };
        match self.get(self.newest) {
            Some(newest) => newest.newer = index,
            None => self.oldest = index,
        }
        self.newest = index;
        self.links[index as usize] = Some(links);
        self.len += 1;
    }

    /// Takes an index out; nothing happens where it is not in.
    pub(super) fn remove(&mut self, index: u32) {
        let Some(Links { older, newer }) = self.links[index as usize].take() else { return };
        match self.get(older) {
            Some(links) => links.newer = newer,
            None => self.oldest = newer,
        }
        match self.get(newer) {
            Some(links) => links.older = older,
            None => self.newest = older,
        }
        self.len -= 1;
    }

    fn get(&mut self, index: u32) -> Option<&mut Links> {
        self.links.get_mut(index as usize)?.as_mut()
    }
}

#[cfg(test)]
mod tests {
    use super::Lru;
    use proptest::prelude::*;

    proptest! {
        /// As a vector from which indices are taken and to whose end they are put.
        #[test]
        fn the_order_is_that_of_use(steps in prop::collection::vec((0u32..12, 0u8..4), 0..200)) {
            let (mut lru, mut expected) = (Lru::new(12), Vec::new());
            for (index, what) in steps {
                let index = if what == 3 { lru.oldest().unwrap_or(index) } else { index };
                expected.retain(|i| *i != index);
                if what == 0 || what == 3 {
                    lru.remove(index);
                } else {
                    lru.touch(index);
                    expected.push(index);
                }
                prop_assert_eq!(lru.len(), expected.len());
                prop_assert_eq!(lru.oldest(), expected.first().copied());
            }
            while let Some(index) = lru.oldest() {
                prop_assert_eq!(index, expected.remove(0));
                lru.remove(index);
            }
            prop_assert!(expected.is_empty());
        }
    }
}
