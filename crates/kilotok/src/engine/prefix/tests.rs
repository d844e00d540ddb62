//! The accounting of pages and snapshots against a shadow that knows what each holds.

use std::collections::{HashMap, HashSet};

use proptest::prelude::*;

use super::{Lease, Origin, PrefixCache};
use crate::backend::{Limits, Page, Snapshot};

const PAGE: usize = 4;

/// A prefix: its origin and its tokens.
type Prefix = (Option<u8>, bool, Vec<u32>);

struct Running {
    lease: Lease,
    origin: Origin,
    tokens: Vec<u32>,
    prompt: usize,
    kept: usize,
}

struct World {
    cache: PrefixCache,
    pages: usize,
    running: Vec<Running>,
    /// What a backend would have in each page and snapshot.
    held: HashMap<Page, Prefix>,
    saved: HashMap<Snapshot, Prefix>,
    hits: usize,
}

fn prefix(origin: &Origin, tokens: &[u32]) -> Prefix {
    let salt = origin.salt.as_ref().map(|salt| salt.as_bytes()[0]);
    (salt, origin.context, tokens.to_vec())
}

impl World {
    fn new(pages: usize, snapshots: usize) -> Self {
        let (max_rows, slots, max_positions) = (8, 4, 40);
        let limits = Limits { max_rows, slots, pages, page_size: PAGE, max_positions, snapshots };
        Self {
            cache: PrefixCache::new(limits),
            pages,
            running: Vec::new(),
            held: HashMap::new(),
            saved: HashMap::new(),
            hits: 0,
        }
    }

    fn admit(&mut self, origin: Origin, prompt: Vec<u32>, more: usize, share: bool) {
        let positions = prompt.len() + more;
        let Some(lease) = self.cache.admit(&prompt, positions, origin.clone(), share) else {
            assert!(!self.running.is_empty(), "an empty house has room for anyone");
            return;
        };
        assert_eq!(lease.pages().len(), positions.div_ceil(PAGE));
        let mut kept = 0;
        if let Some(cached) = lease.cached() {
            assert!(share && cached.positions < prompt.len());
            kept = cached.positions;
            self.hits += 1;
            let expected = prefix(&origin, &prompt[..kept]);
            assert_eq!(self.saved.get(&cached.snapshot), Some(&expected), "another state");
            for (block, page) in lease.pages()[..kept / PAGE].iter().enumerate() {
                let expected = prefix(&origin, &prompt[..(block + 1) * PAGE]);
                assert_eq!(self.held.get(page), Some(&expected), "another page");
            }
        }
        for page in &lease.pages()[kept / PAGE..] {
            let owners = self.running.iter().filter(|r| r.lease.pages().contains(page));
            assert_eq!(owners.count(), 0, "a page to write into is somebody's");
            self.held.remove(page);
        }
        let prompt_len = prompt.len();
        self.running.push(Running { lease, origin, tokens: prompt, prompt: prompt_len, kept });
    }

    /// Positions enter the cache of a sequence; a prompt is published as the engine does.
    fn advance(&mut self, which: usize, count: usize) {
        let running = &mut self.running[which];
        let room = running.lease.pages().len() * PAGE;
        let after = running.kept;
        running.kept = (after + count).min(room);
        while running.tokens.len() < running.kept + 1 {
            running.tokens.push((running.tokens.len() % 3) as u32);
        }
        for block in after / PAGE..running.kept / PAGE {
            let content = prefix(&running.origin, &running.tokens[..(block + 1) * PAGE]);
            self.held.insert(running.lease.pages()[block], content);
        }
        let kept = running.kept.min(running.prompt);
        let points: Vec<usize> =
            self.cache.points(&running.lease, running.prompt, after, kept).collect();
        for point in points {
            self.publish(which, point);
        }
    }

    fn publish(&mut self, which: usize, point: usize) {
        let running = &mut self.running[which];
        let snapshot = self.cache.publish(&mut running.lease, &running.tokens, point);
        if let Some(snapshot) = snapshot {
            let content = prefix(&running.origin, &running.tokens[..point]);
            self.saved.insert(snapshot, content);
        }
    }

    fn release(&mut self, which: usize) {
        let point = self.cache.last_point(self.running[which].kept);
        if point > 0 {
            self.publish(which, point);
        }
        let running = self.running.swap_remove(which);
        self.cache.release(&running.lease);
    }

    fn check(&self) {
        let used: HashSet<Page> =
            self.running.iter().flat_map(|r| r.lease.pages()).copied().collect();
        assert!(self.cache.used() >= used.len());
        assert!(self.cache.used() + self.cache.cached() <= self.pages);
        if self.running.is_empty() {
            assert_eq!(self.cache.used(), 0, "pages leaked");
        }
    }
}

fn any_origin() -> impl Strategy<Value = Origin> {
    let salt = prop_oneof![3 => Just(None), 1 => Just(Some("a")), 1 => Just(Some("b"))];
    (salt, any::<bool>()).prop_map(|(salt, context)| Origin {
        salt: salt.map(Into::into),
        context,
        weights: 0,
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    /// Whatever is admitted, published, released and evicted: hits hold exactly the prompt's
    /// tokens of the same origin, nobody writes into a page of another, nothing is lost.
    #[test]
    fn pages_and_snapshots_are_conserved(
        pages in 10usize..40,
        snapshots in 1usize..12,
        steps in prop::collection::vec(
            (0u8..8, any_origin(), prop::collection::vec(0u32..2, 1..30), 0usize..10, any::<u16>()),
            1..120),
    ) {
        let mut world = World::new(pages, snapshots);
        for (what, origin, prompt, amount, which) in steps {
            let which = which as usize % world.running.len().max(1);
            match what {
                0..=2 if world.running.len() < 6 => {
                    // Mostly prompts of few beginnings, so that prefixes are met again.
                    let mut prompt = prompt;
                    let regular = prompt.len() * 3 / 4;
                    prompt[..regular].fill(1);
                    world.admit(origin, prompt, amount, what > 0 || amount > 2);
                }
                3..=5 if !world.running.is_empty() => world.advance(which, 1 + amount),
                6 | 7 if !world.running.is_empty() => world.release(which),
                _ => {}
            }
            world.check();
        }
        while !world.running.is_empty() {
            world.release(0);
        }
        world.check();
    }
}

fn plain(tokens: &[u32]) -> (Vec<u32>, Origin) {
    (tokens.to_vec(), Origin::default())
}

/// The deepest page with a snapshot is where a sequence begins; where it parts from an earlier one
/// the next snapshot is made.
#[test]
fn the_point_where_two_prompts_part_is_found_by_the_third() {
    let mut world = World::new(64, 8);
    let common = vec![1; 17];
    let prompts =
        [[common.clone(), vec![2; 9]], [common.clone(), vec![3; 9]], [common, vec![0; 9]]];
    let mut starts = Vec::new();
    for prompt in prompts {
        let (prompt, origin) = plain(&prompt.concat());
        let len = prompt.len();
        world.admit(origin, prompt, 2, true);
        starts.push(world.running[0].kept);
        world.advance(0, len - world.running[0].kept);
        world.release(0);
    }
    // An interval is 12 positions here; 16 is the last whole page of the common part.
    assert_eq!(starts, [0, 12, 16]);
}

#[test]
fn a_page_is_evicted_before_the_pages_it_stands_on() {
    let mut world = World::new(10, 8);
    let (prompt, origin) = plain(&[5; 32]);
    world.admit(origin.clone(), prompt.clone(), 1, true);
    world.advance(0, 33);
    world.release(0);
    assert_eq!(world.cache.cached(), 8);
    // Five of ten pages are needed and two are free: the last three of the chain go.
    world.admit(origin.clone(), vec![6; 20], 0, true);
    world.release(0);
    world.admit(origin, prompt, 0, true);
    assert_eq!(world.running[0].kept, 12, "the snapshot in front of what was evicted");
}

#[test]
fn without_snapshots_nothing_is_kept() {
    let mut world = World::new(20, 0);
    for _ in 0..3 {
        let (prompt, origin) = plain(&[1; 20]);
        world.admit(origin, prompt, 4, true);
        world.advance(0, 24);
        world.release(0);
        assert_eq!((world.hits, world.cache.cached(), world.cache.used()), (0, 0, 0));
    }
}
