//! The pool over a card that counts what it is asked for.

use std::cell::Cell;

use proptest::prelude::*;

use super::{Card, Component, DEFAULT_FRACTION, MemoryPlan, MemoryPool, RegionId, budget};
use crate::error::GpuError;

/// Reserves at `base`, and knows how often it was asked.
#[derive(Debug, Default)]
struct FakeCard {
    free: u64,
    base: u64,
    reserved: Cell<Option<u64>>,
    num_reserved: Cell<u32>,
    num_released: Cell<u32>,
}

impl Card for &FakeCard {
    fn memory(&self) -> Result<(u64, u64), GpuError> {
        Ok((self.free, self.free.saturating_add(1000)))
    }

    fn reserve(&self, bytes: u64) -> Result<u64, GpuError> {
        assert!(bytes <= self.free, "{bytes} of {} free", self.free);
        self.reserved.set(Some(bytes));
        self.num_reserved.set(self.num_reserved.get() + 1);
        Ok(self.base)
    }

    fn release(&self, address: u64) {
        assert_eq!(address, self.base);
        self.num_released.set(self.num_released.get() + 1);
    }
}

type Asked = Vec<(usize, u64, u32)>;
type AskedPages = Option<(u64, u64, u64, u32)>;

fn plan(asked: &Asked, pages: AskedPages) -> (MemoryPlan, Vec<RegionId>) {
    let mut plan = MemoryPlan::default();
    let ids = asked
        .iter()
        .map(|(component, bytes, align)| {
            plan.region(Component::ALL[*component], *bytes, 1 << align).unwrap()
        })
        .collect();
    if let Some((bytes, fewest, more, align)) = pages {
        plan.pages(bytes, (fewest, fewest + more), 1 << align).unwrap();
    }
    (plan, ids)
}

fn asked() -> impl Strategy<Value = Asked> {
    proptest::collection::vec((0..5usize, 0..5000u64, 0..13u32), 0..12)
}

fn asked_pages() -> impl Strategy<Value = AskedPages> {
    proptest::option::of((1..3000u64, 0..6u64, 0..10u64, 0..13u32))
}

proptest! {
    #[test]
    fn regions_are_as_asked_apart_and_inside_what_was_reserved_once(
        asked in asked(), pages in asked_pages(), free in 0..200_000u64,
        base in 1..1_000_000u64, percent in 1..=100u32,
    ) {
        let card = FakeCard { free, base: base * 256, ..FakeCard::default() };
        let fraction = f64::from(percent) / 100.0;
        let (plan, ids) = plan(&asked, pages);
        let Ok(pool) = MemoryPool::new(&card, &plan, fraction) else {
            prop_assert_eq!(card.num_reserved.get(), 0);
            return Ok(());
        };
        let end = card.base + card.reserved.get().unwrap();
        prop_assert!(pool.bytes() <= budget(free, fraction).unwrap());
        let mut spans = Vec::new();
        for (id, (component, bytes, align)) in ids.iter().zip(&asked) {
            let region = pool.region(*id).unwrap();
            prop_assert_eq!(region.component, Component::ALL[*component]);
            prop_assert_eq!(region.bytes, *bytes);
            prop_assert_eq!(region.address % (1 << align), 0);
            spans.push((region.address, region.bytes));
        }
        let (region, num_pages) = pool.pages();
        if let Some((bytes, fewest, more, align)) = pages {
            prop_assert_eq!(region.bytes, num_pages * bytes);
            prop_assert_eq!(region.address % (1 << align), 0);
            prop_assert!((fewest..=fewest + more).contains(&num_pages));
            // One page more would not have fitted.
            let is_most = num_pages == fewest + more;
            prop_assert!(is_most || pool.bytes() + bytes > budget(free, fraction).unwrap());
            spans.push((region.address, region.bytes));
        } else {
            prop_assert_eq!((region.bytes, num_pages), (0, 0));
        }
        spans.retain(|(_, bytes)| *bytes > 0);
        spans.sort_unstable();
        for pair in spans.windows(2) {
            prop_assert!(pair[0].0 + pair[0].1 <= pair[1].0);
        }
        for (address, bytes) in spans {
            prop_assert!(address >= card.base && address + bytes <= end);
        }
        let held: u64 = pool.usage().iter().map(|(_, bytes)| bytes).sum();
        prop_assert_eq!(held, pool.bytes());
        drop(pool);
        prop_assert_eq!((card.num_reserved.get(), card.num_released.get()), (1, 1));
    }

    #[test]
    fn a_plan_fits_exactly_where_its_bytes_do(
        asked in asked(), pages in asked_pages(), short in 1..100u64,
    ) {
        let (plan, _) = plan(&asked, pages);
        let roomy = FakeCard { free: 1 << 40, base: 256, ..FakeCard::default() };
        let fewest = plan_with_fewest(&plan);
        let need = MemoryPool::new(&roomy, &fewest, 1.0).unwrap().bytes();
        let exact = FakeCard { free: need, base: 256, ..FakeCard::default() };
        prop_assert_eq!(MemoryPool::new(&exact, &plan, 1.0).unwrap().bytes(), need);
        if need >= short {
            let tight = FakeCard { free: need - short, base: 256, ..FakeCard::default() };
            let error = MemoryPool::new(&tight, &plan, 1.0).unwrap_err();
            let GpuError::DoesNotFit { shortage, .. } = error else { panic!("{error:?}") };
            prop_assert_eq!((shortage.total(), shortage.available), (need, need - short));
            for (component, needed) in shortage.needed {
                let available = shortage.available_to(component);
                prop_assert_eq!(available, needed.saturating_sub(short));
            }
        }
    }
}

/// The same plan without any page more than it must have.
fn plan_with_fewest(plan: &MemoryPlan) -> MemoryPlan {
    let mut plan = plan.clone();
    if let Some(pages) = &mut plan.pages {
        pages.most = pages.fewest;
    }
    plan
}

#[test]
fn a_model_that_does_not_fit_is_told_by_component() {
    let mut plan = MemoryPlan::default();
    plan.region(Component::Weights, 71_000_000_000, 1).unwrap();
    plan.region(Component::Rings, 500, 1).unwrap();
    plan.pages(1000, (10, 20), 1).unwrap();
    let card = FakeCard { free: 70_000_000_000, ..FakeCard::default() };
    let error = MemoryPool::new(&card, &plan, 0.5).unwrap_err().to_string();
    assert_eq!(
        error,
        "the model does not fit into 0.5 of the GPU's 70000000000 free bytes: needed 71000010500 bytes, available \
         35000000000: weights 71000000000 of 34999989500, kv pages 10000 of 0, rings 500 of 0, exchange 0 of 0, \
         mailboxes 0 of 0"
    );
    assert_eq!(card.num_reserved.get(), 0);
}

#[test]
fn sizes_that_cannot_be_counted_do_not_fit() {
    for bytes in [u64::MAX, u64::MAX - 10] {
        let mut plan = MemoryPlan::default();
        plan.region(Component::Weights, 1, 1 << 20).unwrap();
        plan.region(Component::Weights, bytes, 4096).unwrap();
        plan.region(Component::Exchange, bytes, 4096).unwrap();
        plan.pages(u64::MAX / 2, (3, 4), 1).unwrap();
        let card = FakeCard { free: u64::MAX, ..FakeCard::default() };
        let error = MemoryPool::new(&card, &plan, 1.0).unwrap_err();
        assert!(matches!(error, GpuError::DoesNotFit { .. }), "{error}");
    }
}

#[test]
fn senseless_plans_are_refused() {
    let mut plan = MemoryPlan::default();
    assert!(plan.region(Component::Kv, 1, 3).is_err());
    assert!(plan.region(Component::Kv, 1, 0).is_err());
    assert!(plan.pages(0, (0, 1), 1).is_err());
    assert!(plan.pages(8, (2, 1), 1).is_err());
    for fraction in [0.0, -1.0, 1.01, f64::NAN, f64::INFINITY] {
        assert!(budget(1000, fraction).is_err());
    }
    assert_eq!(budget(u64::MAX, 1.0).unwrap(), u64::MAX);
    assert_eq!(budget(1000, DEFAULT_FRACTION).unwrap(), 920);
}

#[test]
fn a_region_of_another_plan_is_refused() {
    let mut larger = MemoryPlan::default();
    larger.region(Component::Rings, 1, 1).unwrap();
    let foreign = larger.region(Component::Rings, 1, 1).unwrap();
    let mut plan = MemoryPlan::default();
    plan.region(Component::Rings, 1, 1).unwrap();
    let card = FakeCard { free: 100, base: 256, ..FakeCard::default() };
    let pool = MemoryPool::new(&card, &plan, 1.0).unwrap();
    assert!(pool.region(foreign).is_err());
}
