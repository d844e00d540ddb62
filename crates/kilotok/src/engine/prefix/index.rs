//! Pages found by what they hold: a forest whose nodes are page-sized blocks of tokens.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;

use super::lru::Lru;
use crate::backend::{Page, Snapshot};

/// What makes equal tokens different prefixes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(in super::super) struct Origin {
    /// Sequences share with others of the same salt only.
    pub(in super::super) salt: Option<Arc<str>>,
    /// Whether the pages' positions are drafter context too.
    pub(in super::super) context: bool,
    /// Number of the weights that filled them; the cache sets it.
    pub(in super::super) weights: u32,
}

/// A block behind all blocks before it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Key<'a> {
    pub(super) origin: &'a Origin,
    /// The block before it, itself in the index.
    pub(super) parent: Option<Page>,
    /// As many as a page has positions.
    pub(super) tokens: &'a [u32],
}

/// A page with known content; named by its page.
#[derive(Debug)]
struct Node {
    /// Its place in `places`.
    parent: Option<Page>,
    hash: u64,
    /// Of first blocks only; the others have their parents'.
    origin: Option<Origin>,
    /// Running sequences that stand on it.
    pins: u32,
    snapshot: Option<Snapshot>,
}

/// The outcome of a search.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Found {
    Page(Page),
    Nothing,
    /// Another block has its place. Blocks are compared token by token, so that no choice of
    /// tokens can pass for another prefix.
    Taken,
}

/// The index. Pinned nodes have pinned parents, and a parent is unpinned after its children, so
/// the node that has been unpinned longest never has children.
#[derive(Debug)]
pub(super) struct Index {
    nodes: Vec<Option<Node>>,
    /// `[pages, page_size]`
    tokens: Vec<u32>,
    page_size: usize,
    /// By parent and hash of origin and tokens.
    places: HashMap<(Option<Page>, u64), Page>,
    hasher: RandomState,
    unpinned: Lru,
}

impl Index {
    pub(super) fn new(pages: usize, page_size: usize) -> Self {
        Self {
            nodes: (0..pages).map(|_| None).collect(),
            tokens: vec![0; pages * page_size],
            page_size,
            // Twice the entries there can be: removed ones are then reclaimed in place.
            places: HashMap::with_capacity(2 * pages),
            hasher: RandomState::new(),
            unpinned: Lru::new(pages),
        }
    }

    fn hash(&self, key: Key) -> u64 {
        let Origin { salt, context, weights } = key.origin;
        match key.parent {
            None => self.hasher.hash_one((salt, context, weights, key.tokens)),
            Some(_) => self.hasher.hash_one(key.tokens),
        }
    }

    fn node(&self, page: Page) -> Option<&Node> {
        self.nodes.get(page as usize)?.as_ref()
    }

    fn node_mut(&mut self, page: Page) -> Option<&mut Node> {
        self.nodes.get_mut(page as usize)?.as_mut()
    }

    fn tokens(&self, page: Page) -> &[u32] {
        &self.tokens[page as usize * self.page_size..][..self.page_size]
    }

    pub(super) fn find(&self, key: Key) -> Found {
        let place = (key.parent, self.hash(key));
        let Some(&page) = self.places.get(&place) else { return Found::Nothing };
        let same_origin = || match self.node(page).and_then(|node| node.origin.as_ref()) {
            Some(origin) => origin == key.origin,
            None => key.parent.is_some(),
        };
        if self.tokens(page) == key.tokens && same_origin() {
            Found::Page(page)
        } else {
            Found::Taken
        }
    }

    /// Makes `page` the place of a block that was not found; it comes pinned.
    pub(super) fn insert(&mut self, key: Key, page: Page) {
        let hash = self.hash(key);
        let Entry::Vacant(place) = self.places.entry((key.parent, hash)) else { return };
        place.insert(page);
        self.tokens[page as usize * self.page_size..][..self.page_size].copy_from_slice(key.tokens);
        let origin = key.parent.is_none().then(|| key.origin.clone());
        self.nodes[page as usize] =
            Some(Node { parent: key.parent, hash, origin, pins: 1, snapshot: None });
    }

    /// Keeps a page from being evicted. Its parent is pinned.
    pub(super) fn pin(&mut self, page: Page) {
        if let Some(node) = self.node_mut(page) {
            node.pins += 1;
            self.unpinned.remove(page);
        }
    }

    /// Takes one pin away; a sequence unpins its last page first.
    pub(super) fn unpin(&mut self, page: Page) {
        if let Some(node) = self.node_mut(page) {
            node.pins -= 1;
            if node.pins == 0 {
                self.unpinned.touch(page);
            }
        }
    }

    /// Pages that can be evicted.
    pub(super) fn evictable(&self) -> usize {
        self.unpinned.len()
    }

    /// Forgets the page that has been unpinned longest; also returns the snapshot it had.
    pub(super) fn evict(&mut self) -> Option<(Page, Option<Snapshot>)> {
        let page = self.unpinned.oldest()?;
        self.unpinned.remove(page);
        let node = self.nodes[page as usize].take()?;
        self.places.remove(&(node.parent, node.hash));
        Some((page, node.snapshot))
    }

    pub(super) fn snapshot(&self, page: Page) -> Option<Snapshot> {
        self.node(page)?.snapshot
    }

    pub(super) fn set_snapshot(&mut self, page: Page, snapshot: Option<Snapshot>) {
        if let Some(node) = self.node_mut(page) {
            node.snapshot = snapshot;
        }
    }
}
