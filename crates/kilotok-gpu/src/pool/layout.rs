//! Where everything lies: arithmetic only, no card.

use std::fmt;

use super::{Component, MemoryPlan, Pages, Region, Request};

/// A plan that was placed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layout {
    /// Offset of every request, in the order of the plan.
    offsets: Vec<u64>,
    requests: Vec<Request>,
    pages_offset: u64,
    num_pages: u64,
    page_bytes: u64,
    usage: [(Component, u64); 5],
    bytes: u64,
    align: u64,
}

/// By how much a plan does not fit, and who asked for what.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shortage {
    /// Bytes needed by each component.
    pub needed: [(Component, u64); 5],
    /// Bytes that a pool may take in all.
    pub available: u64,
}

impl Shortage {
    /// Bytes needed in all; `u64::MAX` when a plan asks for more than can be counted.
    pub fn total(&self) -> u64 {
        self.needed.iter().fold(0, |sum, (_, bytes)| sum.saturating_add(*bytes))
    }

    /// Bytes that would be left for `component` if all others got what they need.
    pub fn available_to(&self, component: Component) -> u64 {
        let others = self.needed.iter().filter(|(other, _)| *other != component);
        self.available.saturating_sub(others.fold(0, |sum, (_, bytes)| sum.saturating_add(*bytes)))
    }
}

impl fmt::Display for Shortage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "needed {} bytes, available {}:", self.total(), self.available)?;
        for (i, (component, bytes)) in self.needed.iter().enumerate() {
            let comma = if i == 0 { "" } else { "," };
            let available = self.available_to(*component);
            write!(f, "{comma} {component} {bytes} of {available}")?;
        }
        Ok(())
    }
}

impl Layout {
    /// Places the components one after the other and gives what is left to the pages.
    pub(super) fn new(plan: &MemoryPlan, budget: u64) -> Result<Self, Shortage> {
        let requests = plan.requests.clone();
        let none = Pages { bytes_each: 0, fewest: 0, most: 0, align: 1 };
        let pages = plan.pages.unwrap_or(none);
        let align = requests.iter().map(|r| r.align).chain([pages.align]).max().unwrap_or(1);
        let mut offsets = vec![0; requests.len()];
        let mut usage = Component::ALL.map(|component| (component, 0u64));
        // The reservation's own address may be off by less than the largest alignment. The first component bears it.
        let slack = align - 1;
        usage[0].1 = slack;
        let mut end = slack;
        for (component, used) in &mut usage {
            for (request, offset) in requests.iter().zip(&mut offsets) {
                if request.component == *component {
                    *offset = next_multiple(end - slack, request.align);
                    let next = offset.saturating_add(request.bytes).saturating_add(slack);
                    *used = used.saturating_add(next - end);
                    end = next;
                }
            }
        }
        let pages_offset = next_multiple(end - slack, pages.align);
        let start = pages_offset.saturating_add(slack);
        let room = budget.saturating_sub(start);
        let fitting = room.checked_div(pages.bytes_each).unwrap_or(0).min(pages.most);
        let num_pages = fitting.max(pages.fewest);
        let bytes = if plan.pages.is_some() {
            start.saturating_add(num_pages.saturating_mul(pages.bytes_each))
        } else {
            end
        };
        usage[1].1 = usage[1].1.saturating_add(bytes - end);
        // What saturated is not a place.
        if bytes > budget || bytes == u64::MAX {
            return Err(Shortage { needed: usage, available: budget });
        }
        let page_bytes = pages.bytes_each;
        Ok(Self { offsets, requests, pages_offset, num_pages, page_bytes, usage, bytes, align })
    }

    /// Bytes to reserve.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// The largest alignment asked for.
    pub fn align(&self) -> u64 {
        self.align
    }

    pub(super) fn region(&self, index: usize, base: u64) -> Option<Region> {
        let Request { component, bytes, .. } = *self.requests.get(index)?;
        Some(Region { component, address: base + self.offsets[index], bytes })
    }

    pub(super) fn pages(&self, base: u64) -> (Region, u64) {
        let bytes = self.num_pages * self.page_bytes;
        let address = base + self.pages_offset;
        (Region { component: Component::Kv, address, bytes }, self.num_pages)
    }

    pub(super) fn usage(&self) -> [(Component, u64); 5] {
        self.usage
    }
}

fn next_multiple(value: u64, align: u64) -> u64 {
    value.checked_next_multiple_of(align).unwrap_or(u64::MAX)
}
