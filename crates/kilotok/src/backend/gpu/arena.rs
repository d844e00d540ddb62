//! Where everything lies on the device: named regions in five pieces of memory.

use kilotok_gpu::pool::Component;

/// Every region starts at a multiple of this many bytes.
pub(super) const ALIGN: u64 = 256;

/// A named piece of device memory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Region {
    pub(super) name: String,
    pub(super) component: Component,
    pub(super) address: u64,
    pub(super) bytes: u64,
    /// Whether it holds something before any op has run: weights, caches, tables.
    pub(super) is_persistent: bool,
}

impl Region {
    /// The first address behind it.
    pub(super) fn end(&self) -> u64 {
        self.address + self.bytes
    }
}

/// Hands out regions, one after the other in each component.
#[derive(Debug)]
pub(super) struct Arena {
    bases: [u64; 5],
    used: [u64; 5],
    regions: Vec<Region>,
}

/// Addresses to lay a model out at before its memory exists: far apart, none is 0.
pub(super) const IMAGINED: [u64; 5] = [1 << 44, 2 << 44, 3 << 44, 4 << 44, 5 << 44];

impl Arena {
    /// Components that start at `bases`, in the order of [`Component::ALL`].
    pub(super) fn new(bases: [u64; 5]) -> Self {
        Self { bases, used: [0; 5], regions: Vec::new() }
    }

    /// A new region's address.
    pub(super) fn take(
        &mut self,
        component: Component,
        name: impl Into<String>,
        bytes: u64,
        is_persistent: bool,
    ) -> u64 {
        let place = Component::ALL.iter().position(|c| *c == component).unwrap_or(0);
        let address = self.bases[place] + self.used[place];
        self.used[place] += bytes.max(1).next_multiple_of(ALIGN);
        let name = name.into();
        self.regions.push(Region { name, component, address, bytes, is_persistent });
        address
    }

    /// Rings so far: address and bytes, with their names.
    pub(super) fn rings(&self) -> Vec<Region> {
        let is_ring = |region: &&Region| region.component == Component::Rings;
        self.regions.iter().filter(is_ring).cloned().collect()
    }

    /// Bytes that each component needs, and all regions in order of address.
    pub(super) fn finish(mut self) -> ([u64; 5], Vec<Region>) {
        self.regions.sort_by_key(|region| region.address);
        (self.used, self.regions)
    }
}
