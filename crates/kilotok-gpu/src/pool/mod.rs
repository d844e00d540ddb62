//! One allocation owns the card: named regions for everything that an engine keeps there, laid out before loading.
//!
//! A [`MemoryPlan`] says what is needed. [`MemoryPool::new`] asks the card once for all of it, and nothing is allocated
//! after that: there is no call that could. A plan that does not fit fails before anything is reserved, with the bytes
//! needed and available per component.

mod card;
mod layout;
#[cfg(test)]
mod tests;
mod transfer;

use std::fmt;

pub use card::Card;
pub use layout::{Layout, Shortage};
pub use transfer::Uploader;

use crate::error::GpuError;

/// The share of free memory that a pool may take unless told otherwise; the rest is left to the driver (module images,
/// launch buffers) and to others on the card.
pub const DEFAULT_FRACTION: f64 = 0.92;

/// What memory is held for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Component {
    /// Tapes and tables that are written once, at load.
    Weights,
    /// Key-value pages of full attention.
    Kv,
    /// Key-value rings of sliding-window and drafter layers.
    Rings,
    /// Activations that blocks pass to each other.
    Exchange,
    /// Words between host and device.
    Mailboxes,
}

impl Component {
    /// All, in the order in which they lie.
    pub const ALL: [Self; 5] =
        [Self::Weights, Self::Kv, Self::Rings, Self::Exchange, Self::Mailboxes];
}

impl fmt::Display for Component {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Weights => "weights",
            Self::Kv => "kv pages",
            Self::Rings => "rings",
            Self::Exchange => "exchange",
            Self::Mailboxes => "mailboxes",
        })
    }
}

/// A region of a plan, and of the pool made from it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct RegionId(usize);

/// Where a region lies on the device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Region {
    /// What it is for.
    pub component: Component,
    /// Device address; a multiple of the alignment asked for.
    pub address: u64,
    /// Bytes.
    pub bytes: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Request {
    component: Component,
    bytes: u64,
    align: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Pages {
    bytes_each: u64,
    fewest: u64,
    most: u64,
    align: u64,
}

/// What an engine needs on the card.
#[derive(Debug, Clone, Default)]
pub struct MemoryPlan {
    requests: Vec<Request>,
    pages: Option<Pages>,
}

impl MemoryPlan {
    /// Asks for a region of a known size.
    ///
    /// # Errors
    /// [`GpuError::Shape`] when `align` is no power of two.
    pub fn region(
        &mut self,
        component: Component,
        bytes: u64,
        align: u64,
    ) -> Result<RegionId, GpuError> {
        check_align(component, align)?;
        self.requests.push(Request { component, bytes, align });
        Ok(RegionId(self.requests.len() - 1))
    }

    /// Asks for key-value pages: as many as fit beside everything else, within `fewest..=most`.
    ///
    /// # Errors
    /// [`GpuError::Shape`] when `align` is no power of two, a page is empty, or `most` is below `fewest`.
    pub fn pages(
        &mut self,
        bytes_each: u64,
        (fewest, most): (u64, u64),
        align: u64,
    ) -> Result<(), GpuError> {
        check_align(Component::Kv, align)?;
        if bytes_each == 0 || most < fewest {
            return Err(GpuError::Shape {
                op: "memory plan",
                detail: format!("{fewest} to {most} pages of {bytes_each} bytes"),
            });
        }
        self.pages = Some(Pages { bytes_each, fewest, most, align });
        Ok(())
    }
}

fn check_align(component: Component, align: u64) -> Result<(), GpuError> {
    if align.is_power_of_two() {
        return Ok(());
    }
    let detail = format!("{component}: alignment {align} is no power of two");
    Err(GpuError::Shape { op: "memory plan", detail })
}

/// The memory of one card, reserved in one piece and given back on drop.
#[derive(Debug)]
pub struct MemoryPool<C: Card> {
    card: C,
    reserved: u64,
    base: u64,
    layout: Layout,
}

impl<C: Card> MemoryPool<C> {
    /// Lays `plan` out in at most `fraction` of the memory that is free now, and reserves it.
    ///
    /// # Errors
    /// [`GpuError::DoesNotFit`] with the bytes per component; [`GpuError::Shape`] for a fraction outside (0, 1];
    /// [`GpuError::OutOfMemory`] when the card refuses what it said was free; [`GpuError::Driver`].
    pub fn new(card: C, plan: &MemoryPlan, fraction: f64) -> Result<Self, GpuError> {
        let (free, _) = card.memory()?;
        let layout = Layout::new(plan, budget(free, fraction)?)
            .map_err(|shortage| GpuError::DoesNotFit { free, fraction, shortage })?;
        let reserved = card.reserve(layout.bytes())?;
        let base = reserved.next_multiple_of(layout.align());
        Ok(Self { card, reserved, base, layout })
    }

    /// Where a region of the plan lies.
    ///
    /// # Errors
    /// [`GpuError::Shape`] when the region belongs to another plan.
    pub fn region(&self, id: RegionId) -> Result<Region, GpuError> {
        self.layout.region(id.0, self.base).ok_or_else(|| GpuError::Shape {
            op: "memory pool",
            detail: format!("region {} is not of this pool's plan", id.0),
        })
    }

    /// All pages as one region, and how many there are.
    pub fn pages(&self) -> (Region, u64) {
        self.layout.pages(self.base)
    }

    /// Bytes that each component holds; what alignment costs is counted to the component that asked for it.
    pub fn usage(&self) -> [(Component, u64); 5] {
        self.layout.usage()
    }

    /// Never gives the memory back: a kernel that does not end may still write to it.
    pub(crate) fn abandon(&mut self) {
        self.reserved = 0;
    }

    /// Bytes reserved on the card.
    pub fn bytes(&self) -> u64 {
        self.layout.bytes()
    }
}

impl<C: Card> Drop for MemoryPool<C> {
    fn drop(&mut self) {
        self.card.release(self.reserved);
    }
}

/// Bytes that a pool may take of `free`.
///
/// # Errors
/// [`GpuError::Shape`] for a fraction outside (0, 1].
pub fn budget(free: u64, fraction: f64) -> Result<u64, GpuError> {
    if fraction > 0.0 && fraction <= 1.0 {
        // A float cannot hold every byte count: never above what is free.
        return Ok(((free as f64 * fraction) as u64).min(free));
    }
    let detail =
        format!("the fraction of free memory is {fraction}, expected more than 0, at most 1");
    Err(GpuError::Shape { op: "memory plan", detail })
}
